//! What happened in the runs of a test, counted by name.

use std::collections::BTreeMap;

use super::{check, seeds};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// What happened less often than it should have.
    fn too_few<'a>(&self, least: &'a [(&'a str, u64)]) -> Vec<&'a str> {
        let too_few = least
            .iter()
            .filter(|(what, least)| self.times(what) < *least);
        too_few.map(|(what, _)| *what).collect()
    }
}

/// Runs `run` with the first `count` seeds, and asserts that over all of them everything in `least` happened at least that
/// often: a storm in which nothing happens finds nothing. When the environment asks for fewer seeds, nothing is
/// asserted of the counts.
pub fn storms(count: u64, least: &[(&str, u64)], run: impl Fn(u64) -> Tally) {
    let (mut runs, mut total) = (0, Tally::default());
    for seed in seeds(count) {
        for (what, times) in check(seed, || run(seed)).0 {
            total.add(what, times);
        }
        runs += 1;
    }
    println!("{runs} runs: {:?}", total.0);
    let too_few = total.too_few(least);
    let is_enough = too_few.is_empty() || runs < count;
    assert!(
        is_enough,
        "too few {too_few:?}: {total:?} and not {least:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_happen_is_named() {
        let mut tally = Tally::default();
        tally.add("kills", 3);
        tally.count("joins");
        let least = [("joins", 2), ("kills", 3), ("leaves", 1)];
        assert_eq!(tally.too_few(&least), ["joins", "leaves"]);
    }
}

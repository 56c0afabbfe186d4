//! Plans with holders that lie, leave or are slow, against a model of the disk.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// The behaviour of a holder.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Nature {
    Honest,
    /// Sends wrong bytes, its own, in this share of the ranges.
    Liar(f64),
    /// The same wrong bytes as others of this kind.
    Gang,
}

struct Lab {
    plan: Plan,
    rng: StdRng,
    natures: Vec<Nature>,
    /// The bytes of each range: 0 is right.
    disk: Vec<Option<u8>>,
    asked: Vec<Vec<(usize, Tick)>>,
    now: Tick,
    transfers: usize,
}

impl Lab {
    fn new(seed: u64, ranges: usize, natures: &[Nature]) -> Lab {
        let mut rng = StdRng::seed_from_u64(seed);
        // An earlier run may have left something, some of it wrong.
        let leaves = rng.random_bool(0.3);
        let mut left = || {
            let wrong = u8::from(rng.random_bool(0.1)) * 99;
            (leaves && rng.random_bool(0.4)).then_some(wrong)
        };
        let disk: Vec<Option<u8>> = (0..ranges).map(|_| left()).collect();
        let have: Vec<bool> = disk.iter().map(Option::is_some).collect();
        let mut plan = Plan::new(&have, natures.len());
        (0..natures.len()).for_each(|holder| plan.set_ready(holder, true));
        Lab {
            plan,
            rng,
            natures: natures.to_vec(),
            disk,
            asked: vec![Vec::new(); natures.len()],
            now: Tick(0),
            transfers: 0,
        }
    }

    fn sends(&mut self, holder: usize) -> u8 {
        match self.natures[holder] {
            Nature::Honest => 0,
            Nature::Liar(share) => u8::from(self.rng.random_bool(share)) * (1 + holder as u8),
            Nature::Gang => 77,
        }
    }

    /// A random holder is asked for a range, or sends one.
    fn step(&mut self) {
        self.now = Tick(self.now.0 + self.rng.random_range(0..20));
        let holder = self.rng.random_range(0..self.natures.len());
        if self.rng.random_bool(0.6) {
            let asked = self.asked.clone();
            let under_way = asked.iter().flatten().copied();
            if let Some(range) = self.plan.next(holder, self.now, under_way) {
                assert!(
                    !self.asked[holder].iter().any(|(r, _)| *r == range),
                    "asked twice"
                );
                self.asked[holder].push((range, self.now));
            }
        } else if !self.asked[holder].is_empty() {
            let (range, at) = self.asked[holder].remove(0);
            self.transfers += 1;
            if self.plan.received(holder, range, self.now.since(at)) {
                let bytes = self.sends(holder);
                let stored = match self.disk[range] {
                    // Bytes on the disk are compared also if no holder vouches for them.
                    Some(before) if before == bytes => Stored::Same,
                    Some(_) => Stored::Differs,
                    None => Stored::New,
                };
                self.disk[range] = Some(bytes);
                self.plan.stored(holder, range, stored);
            }
        }
    }

    fn drop_asked(&mut self, holder: usize) {
        for (range, _) in std::mem::take(&mut self.asked[holder]) {
            self.plan.give_back(holder, range);
        }
    }

    /// Runs until the file is right or no holder is left; returns the holders found to lie.
    fn run(&mut self) -> Option<Vec<usize>> {
        let mut liars = Vec::new();
        for _ in 0..1_000_000 {
            if self.plan.is_whole() {
                if self.disk.iter().all(|bytes| *bytes == Some(0)) {
                    liars.extend(self.plan.liars());
                    return Some(liars);
                }
                if let Verdict::Liars(found) = self.plan.is_wrong() {
                    for liar in found {
                        self.drop_asked(liar);
                        liars.push(liar);
                    }
                }
            }
            if (0..self.natures.len()).all(|holder| self.plan.is_dropped(holder)) {
                return None;
            }
            self.step();
        }
        panic!("it ends some day");
    }
}

#[test]
fn with_one_honest_holder_the_file_gets_right() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed ^ 0xbad);
        let count = rng.random_range(1..7);
        let mut natures = vec![Nature::Honest];
        for _ in 1..count {
            natures.push(match rng.random_range(0..4) {
                0 => Nature::Honest,
                1 => Nature::Gang,
                _ => Nature::Liar([0.05, 0.5, 1.0][rng.random_range(0..3)]),
            });
        }
        let at = rng.random_range(0..natures.len());
        natures.swap(0, at);
        let ranges = rng.random_range(1..40);
        let mut lab = Lab::new(seed, ranges, &natures);
        let liars = lab
            .run()
            .unwrap_or_else(|| panic!("seed {seed}: nobody left"));
        for liar in &liars {
            assert_ne!(natures[*liar], Nature::Honest, "seed {seed} {natures:?}");
        }
        // Each liar costs at most two transfers of the file, besides the first one and ranges asked twice.
        let most = (2 + 2 * liars.len()) * ranges + count * ranges;
        assert!(
            lab.transfers <= most,
            "seed {seed}: {} of {most}",
            lab.transfers
        );
    }
}

#[test]
fn a_liar_among_four_is_named_and_costs_one_more_transfer() {
    for seed in 0..100 {
        let liar = seed as usize % 4;
        let mut natures = [Nature::Honest; 4];
        natures[liar] = Nature::Liar(1.0);
        let mut lab = Lab::new(seed, 40, &natures);
        lab.disk.fill(None);
        lab.plan = Plan::new(&[false; 40], 4);
        (0..4).for_each(|holder| lab.plan.set_ready(holder, true));
        assert_eq!(lab.run(), Some(vec![liar]), "seed {seed}");
        // Where the liar was the first reference, all is fetched once more.
        assert!(lab.transfers < 4 * 40, "{}", lab.transfers);
    }
}

#[test]
fn when_all_lie_all_are_dropped() {
    for natures in [
        vec![Nature::Gang; 3],
        vec![Nature::Liar(1.0); 3],
        vec![Nature::Gang],
    ] {
        let mut lab = Lab::new(5, 10, &natures);
        assert_eq!(lab.run(), None);
    }
}

#[test]
fn a_file_without_ranges_is_whole() {
    let mut plan = Plan::new(&[], 2);
    assert!(plan.is_whole());
    assert_eq!(plan.is_wrong(), Verdict::Liars(vec![0, 1]));
}

fn nobody() -> impl Iterator<Item = (usize, Tick)> {
    std::iter::empty()
}

#[test]
fn who_is_slow_loses_the_last_range() {
    let mut plan = Plan::new(&[false; 3], 2);
    (0..2).for_each(|holder| plan.set_ready(holder, true));
    assert_eq!(plan.next(0, Tick(0), nobody()), Some(0));
    assert_eq!(plan.next(1, Tick(0), nobody()), Some(1));
    assert!(plan.received(1, 1, Ticks(10)));
    plan.stored(1, 1, Stored::New);
    assert_eq!(plan.next(1, Tick(10), nobody()), Some(2));
    assert!(plan.received(1, 2, Ticks(10)));
    plan.stored(1, 2, Stored::New);
    let since = || std::iter::once((0, Tick(0)));
    assert_eq!(plan.next(1, Tick(39), since()), None, "not yet");
    assert_eq!(plan.next(1, Tick(40), since()), Some(0));
    assert_eq!(plan.next(1, Tick(50), since()), None, "once");
    assert!(plan.received(1, 0, Ticks(10)));
    assert_eq!(plan.others_asked(0).collect::<Vec<_>>(), [0]);
    plan.stored(1, 0, Stored::New);
    assert!(plan.is_whole());
    assert!(!plan.received(0, 0, Ticks(100)), "too late");
    assert!(plan.is_whole() && plan.have() == 3);
}

#[test]
fn a_range_that_is_given_back_is_asked_again() {
    let mut plan = Plan::new(&[true, false, false], 2);
    (0..2).for_each(|holder| plan.set_ready(holder, true));
    assert_eq!(plan.next(0, Tick(0), nobody()), Some(1));
    assert_eq!(plan.next(0, Tick(0), nobody()), Some(2));
    assert_eq!(plan.next(1, Tick(0), nobody()), None);
    plan.set_ready(0, false);
    plan.give_back(0, 1);
    plan.give_back(0, 2);
    assert_eq!(plan.next(0, Tick(0), nobody()), None, "not connected");
    assert_eq!(plan.next(1, Tick(0), nobody()), Some(1));
}

#[test]
fn who_is_dropped_while_its_bytes_are_written_has_sent_them() {
    let mut plan = Plan::new(&[false; 2], 2);
    plan.set_ready(0, true);
    let ask = |plan: &mut Plan| plan.next(0, Tick(0), nobody()).unwrap();
    let (first, second) = (ask(&mut plan), ask(&mut plan));
    assert!(plan.received(0, first, Ticks(1)));
    plan.stored(0, first, Stored::New);
    assert!(plan.received(0, second, Ticks(1)));
    // Its file may have changed: earlier ranges are still right.
    plan.drop(0);
    plan.stored(0, second, Stored::New);
    assert!(plan.is_whole());
    // When it is wrong after all, that one is found.
    assert_eq!(plan.is_wrong(), Verdict::Liars(vec![0]));
    assert_eq!(plan.have(), 0);
}

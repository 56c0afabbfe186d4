use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::scan::{HITS_MAX, STEPS_PER_NAME};
use super::*;

const SHA1: Sha1 = Sha1([7; 20]);

fn line(name: &str) -> FileLine<'_> {
    FileLine {
        name,
        size_bytes: 1,
        sha1: SHA1,
    }
}

impl Catalog {
    /// Asserts the invariants of the module docs.
    fn validate(&self) {
        let mut refs: BTreeMap<u32, u8> = BTreeMap::new();
        let words = self
            .words
            .iter()
            .map(|(word, list)| (word.to_string(), list));
        let contents = self
            .contents
            .iter()
            .map(|(key, list)| (key.to_string(), list));
        for (word, postings) in words.chain(contents) {
            let entries = postings.as_slice();
            assert!(!entries.is_empty(), "{word} has no file");
            let ordered = |pair: &[Posting]| rank(&self.files, pair[0], pair[1]) == Ordering::Less;
            assert!(entries.windows(2).all(ordered), "{word} is out of order");
            for posting in entries {
                *refs.entry(posting.file()).or_default() += 1;
            }
        }
        for (number, holder) in &self.holders {
            let files = self
                .files
                .iter()
                .filter(|(_, file)| file.holder == number as u32);
            assert_eq!(files.count(), holder.held as usize);
            for &file in &holder.files {
                *refs.entry(file).or_default() += 1;
            }
        }
        assert_eq!(refs.len(), self.files.len());
        for (file, refs) in refs {
            assert_eq!(self.files[file as usize].refs, refs);
        }
    }

    fn names(&mut self, words: &str, matching: Match, offset: usize, step: usize) -> Vec<String> {
        let mut scan = self.search(words, matching, offset).expect("words");
        while !self.advance(&mut scan, &mut step.max(STEPS_PER_NAME)) {}
        scan.hits()
            .map(|file| self.found(file).expect("online").0.name.to_owned())
            .collect()
    }
}

/// What a search must find, the slow way.
fn expected(visible: &[String], words: &str, matching: Match) -> Vec<String> {
    let split = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_alphanumeric());
        words
            .filter(|word| !word.is_empty())
            .map(Into::into)
            .collect()
    };
    let wanted = split(words);
    let mut hits: Vec<(Reverse<usize>, &String)> = Vec::new();
    for name in visible {
        let has = split(name);
        let count = has.iter().filter(|word| wanted.contains(word)).count();
        let fits = match matching {
            Match::All => wanted.iter().all(|word| has.contains(word)),
            Match::Any => count > 0,
        };
        if fits {
            hits.push((Reverse(count), name));
        }
    }
    hits.sort();
    hits.into_iter().map(|(_, name)| name.clone()).collect()
}

fn random_name(rng: &mut StdRng) -> String {
    const WORDS: [&str; 9] = [
        "a", "b", "Song", "song", "of", "x1", "\u{c4}", "live", "mp3",
    ];
    let words = (0..rng.random_range(1..6)).map(|_| WORDS[rng.random_range(0..WORDS.len())]);
    words
        .collect::<Vec<_>>()
        .join([" ", ".", "-"][rng.random_range(0..3)])
}

/// Holders come, go, hide and change under random searches: what is found is what a scan of all names finds.
#[test]
fn searches_find_what_a_scan_finds() {
    for seed in 0..30 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut catalog = Catalog::default();
        let mut model: Vec<(HolderNo, bool, Vec<String>)> = Vec::new();
        let mut dying: Vec<HolderNo> = Vec::new();
        for _ in 0..80 {
            let some = (!model.is_empty()).then(|| rng.random_range(0..model.len().max(1)));
            match (rng.random_range(0..10), some) {
                (0..2, _) | (_, None) => {
                    model.push((catalog.add_holder(0), false, Vec::new()));
                }
                (2..5, Some(n)) => {
                    let new: Vec<String> = (0..rng.random_range(0..20))
                        .map(|_| random_name(rng))
                        .collect();
                    catalog.insert(model[n].0, new.iter().map(|name| line(name)));
                    model[n].2.extend(new);
                }
                (5..8, Some(n)) => {
                    model[n].1 = rng.random_bool(0.7);
                    catalog.set_online(model[n].0, model[n].1);
                }
                (8, Some(n)) => {
                    let (holder, ..) = model.swap_remove(n);
                    catalog.kill_holder(holder);
                    dying.push(holder);
                }
                (_, Some(_)) => {
                    dying.retain(|&holder| !catalog.purge(holder, 5));
                }
            }
            catalog.validate();
            let visible: Vec<String> = model
                .iter()
                .filter(|(_, online, _)| *online)
                .flat_map(|(.., files)| files.clone())
                .collect();
            let words = random_name(rng);
            for matching in [Match::All, Match::Any] {
                let want = expected(&visible, &words, matching);
                let offset = rng.random_range(0..3);
                let got = catalog.names(&words, matching, offset, rng.random_range(1..50));
                let want: Vec<String> = want.into_iter().skip(offset).take(HITS_MAX).collect();
                assert_eq!(got, want, "seed {seed}: {words:?} {matching:?}");
            }
        }
        for (holder, ..) in model.drain(..) {
            catalog.kill_holder(holder);
            dying.push(holder);
        }
        for holder in dying {
            while !catalog.purge(holder, 3) {}
        }
        assert!(
            catalog.is_empty()
                && catalog.words.iter().next().is_none()
                && catalog.contents.iter().next().is_none()
                && catalog.holders.is_empty()
        );
    }
}

#[test]
fn a_loaded_catalogue_is_the_one_that_grew() {
    let rng = &mut StdRng::seed_from_u64(1);
    let (mut grown, mut loader) = (Catalog::default(), Loader::default());
    for _ in 0..20 {
        let (a, b) = (grown.add_holder(3), loader.add_holder(3));
        grown.set_online(a, true);
        for _ in 0..50 {
            let name = random_name(rng);
            grown.insert(a, [line(&name)]);
            loader.insert(b, line(&name));
        }
    }
    let mut loaded = loader.finish();
    for holder in 0..20 {
        loaded.set_online(HolderNo(holder), true);
        assert_eq!(loaded.count(HolderNo(holder)), 50);
    }
    loaded.validate();
    for words in ["song", "a b", "of", "nothing", "live mp3 x1"] {
        for matching in [Match::All, Match::Any] {
            let want = grown.names(words, matching, 0, 100);
            assert_eq!(loaded.names(words, matching, 0, 100), want, "{words}");
        }
    }
}

#[test]
fn a_common_word_is_read_only_as_far_as_an_answer_goes() {
    let mut catalog = Catalog::default();
    let holder = catalog.add_holder(0);
    let names: Vec<String> = (0..20_000).map(|n| format!("common {n:05}")).collect();
    for some in names.chunks(500) {
        catalog.insert(holder, some.iter().map(|name| line(name)));
    }
    catalog.set_online(holder, true);
    let mut scan = catalog.search("COMMON", Match::All, 10).expect("a word");
    let mut steps = HITS_MAX + 10;
    assert!(catalog.advance(&mut scan, &mut steps));
    assert_eq!((scan.best.len(), steps), (HITS_MAX, 0));
    let first = scan.hits().next().expect("a hit");
    assert_eq!(catalog.found(first).expect("online").0.name, "common 00010");
    catalog.set_online(holder, false);
    assert!(catalog.found(first).is_none(), "offline since the scan");
}

#[test]
fn a_content_is_found_under_any_name() {
    let mut catalog = Catalog::default();
    let holder = catalog.add_holder(0);
    let same_front = Sha1(std::array::from_fn(|n| if n < 8 { 7 } else { 8 }));
    let other = FileLine {
        sha1: same_front,
        ..line("other")
    };
    catalog.insert(holder, [line("b"), line("a"), other]);
    catalog.set_online(holder, true);
    let sha1 = SHA1.to_string();
    assert_eq!(catalog.names(&sha1, Match::All, 0, 10), ["a", "b"]);
    assert_eq!(
        catalog.names(&sha1.to_uppercase(), Match::Any, 1, 10),
        ["b"]
    );
    assert_eq!(
        catalog.names(&same_front.to_string(), Match::All, 0, 10),
        ["other"]
    );
    let named = "09".repeat(20);
    catalog.insert(holder, [line(&format!("about {named}"))]);
    let about = format!("about {named}");
    assert_eq!(
        catalog.names(&named, Match::All, 0, 10),
        [about],
        "a word like any other"
    );
}

#[test]
fn a_search_without_a_word_is_none() {
    assert!(Catalog::default().search("- .", Match::All, 0).is_none());
}

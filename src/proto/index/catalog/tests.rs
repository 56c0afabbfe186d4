use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bulk_load::Loader;
use super::postings::PIECE_MAX;
use super::ranking::rank;
use super::search::STEPS_PER_NAME;
use super::*;
use crate::proto::index::fields::Sha1;

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
        let holders = self.holders.iter();
        let mut owners: BTreeMap<u32, u32> = holders
            .flat_map(|(number, holder)| {
                holder.files.iter().map(move |&file| (file, number as u32))
            })
            .collect();
        let mut words = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for (number, file) in &self.files {
            let number = number as u32;
            for_each_word(&mut Splitter::default(), &file.name, |word, occurrences| {
                let files: &mut Vec<Posting> = words.entry(word.to_owned()).or_default();
                files.push(Posting::new(number, occurrences));
                assert_ne!(file.signature & signature(word), 0);
            });
            let files: &mut Vec<Posting> = contents.entry(content_key(file.sha1)).or_default();
            files.push(Posting::new(number, 1));
            assert_eq!(owners.remove(&number), Some(file.holder));
        }
        assert!(owners.is_empty());
        let is = |list: &Postings, mut want: Vec<Posting>| {
            list.validate();
            want.sort_by(|a, b| rank(&self.files, *a, *b));
            let pieces = (0..).map_while(|number| list.piece(number));
            assert_eq!(pieces.collect::<Vec<_>>().concat(), want);
            assert_eq!(list.len(), want.len());
        };
        assert_eq!(self.lists.words.iter().count(), words.len());
        assert_eq!(self.lists.contents.iter().count(), contents.len());
        for (word, list) in self.lists.words.iter() {
            is(list, words.remove(&**word).expect("some file has it"));
        }
        for (content, list) in self.lists.contents.iter() {
            is(list, contents.remove(content).expect("some file has it"));
        }
    }

    fn show(&mut self, holder: HolderNo, online: bool) {
        self.show_holder(holder, online.then(|| "label".into()));
    }

    fn names(&mut self, words: &str, matching: Match, offset: usize, step: usize) -> Vec<String> {
        let mut scan = self.search(words, matching, offset).expect("words");
        while !self.advance(&mut scan, &mut step.max(STEPS_PER_NAME)) {}
        scan.hits()
            .map(|file| self.found(file).expect("online").0.name.to_owned())
            .collect()
    }
}

/// The names that a search must find, computed by reading all of them.
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

/// Holders are added, changed, hidden and killed under random searches: results equal those of reading all names.
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
                    model.push((catalog.add_holder(), false, Vec::new()));
                }
                (2..5, Some(n)) => {
                    let new: Vec<String> = (0..rng.random_range(0..20))
                        .map(|_| random_name(rng))
                        .collect();
                    for name in &new {
                        catalog.insert(model[n].0, line(name));
                    }
                    model[n].2.extend(new);
                }
                (5..8, Some(n)) => {
                    model[n].1 = rng.random_bool(0.7);
                    catalog.show(model[n].0, model[n].1);
                }
                (8, Some(n)) => {
                    let (holder, ..) = model.swap_remove(n);
                    catalog.kill_holder(holder);
                    dying.push(holder);
                }
                (_, Some(_)) => {
                    dying.retain(|&holder| !catalog.purge(holder, &mut 100));
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
            while !catalog.purge(holder, &mut 1) {}
        }
        assert!(
            catalog.is_empty()
                && catalog.lists.words.iter().next().is_none()
                && catalog.lists.contents.iter().next().is_none()
                && catalog.holders.is_empty()
        );
    }
}

#[test]
fn a_loaded_catalogue_is_the_one_that_grew() {
    let rng = &mut StdRng::seed_from_u64(1);
    let (mut grown, mut loader) = (Catalog::default(), Loader::default());
    for _ in 0..20 {
        let (a, b) = (grown.add_holder(), loader.add_holder());
        grown.show(a, true);
        for _ in 0..50 {
            let name = random_name(rng);
            grown.insert(a, line(&name));
            loader.insert(b, line(&name));
        }
    }
    let mut loaded = loader.finish();
    for holder in 0..20 {
        loaded.show(HolderNo(holder), true);
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
    let holder = catalog.add_holder();
    let names: Vec<String> = (0..20_000).map(|n| format!("common {n:05}")).collect();
    for name in &names {
        catalog.insert(holder, line(name));
    }
    catalog.show(holder, true);
    let mut scan = catalog.search("COMMON", Match::All, 10).expect("a word");
    let mut steps = HITS_MAX + 10;
    assert!(catalog.advance(&mut scan, &mut steps));
    assert_eq!((scan.best.len(), steps), (HITS_MAX, 0));
    let first = scan.hits().next().expect("a hit");
    assert_eq!(catalog.found(first).expect("online").0.name, "common 00010");
    catalog.show(holder, false);
    assert!(catalog.found(first).is_none(), "offline since the scan");
}

#[test]
fn a_content_is_found_under_any_name() {
    let mut catalog = Catalog::default();
    let holder = catalog.add_holder();
    let same_front = Sha1(std::array::from_fn(|n| if n < 8 { 7 } else { 8 }));
    let other = FileLine {
        sha1: same_front,
        ..line("other")
    };
    for file in [line("b"), line("a"), other] {
        catalog.insert(holder, file);
    }
    catalog.show(holder, true);
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
    catalog.insert(holder, line(&format!("about {named}")));
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

/// Long lists, of several pieces, with words that some names have more often than others.
#[test]
fn long_lists_are_searched_only_as_far_as_an_answer_goes() {
    let rng = &mut StdRng::seed_from_u64(3);
    let mut catalog = Catalog::default();
    let holders = [catalog.add_holder(), catalog.add_holder()];
    for holder in holders {
        catalog.show(holder, true);
    }
    let mut names = Vec::new();
    for number in 0..6 * PIECE_MAX {
        let again = ["", " song", " of of"][rng.random_range(0..300_usize).saturating_sub(297)];
        let name = format!("song of{again} {} {number}", rng.random_range(0..9));
        catalog.insert(holders[number % 2], line(&name));
        names.push(name);
    }
    catalog.validate();
    let all = STEPS_PER_NAME * names.len();
    for (words, steps_max) in [
        ("song of", all / 6),
        ("of song 3", all / 2),
        ("of", HITS_MAX + 11),
    ] {
        for matching in [Match::All, Match::Any] {
            let mut want = expected(&names, words, matching).into_iter();
            let want: Vec<String> = want.by_ref().skip(10).take(HITS_MAX).collect();
            assert_eq!(want.len(), HITS_MAX);
            assert_eq!(catalog.names(words, matching, 10, 20), want, "{words}");
            let mut scan = catalog.search(words, matching, 10).expect("words");
            let mut steps = all * 3;
            assert!(catalog.advance(&mut scan, &mut steps));
            let used = all * 3 - steps;
            assert!(used <= steps_max, "{words} {matching:?}: {used} steps");
        }
    }
    // No name has both: most are known for it by their signature.
    let mut scan = catalog.search("3 4", Match::All, 0).expect("words");
    let mut steps = all;
    assert!(catalog.advance(&mut scan, &mut steps) && scan.best.is_empty());
    assert!(all - steps < names.len(), "{} steps", all - steps);
}

/// Adding or removing a file costs its words, not the length of their lists.
#[test]
fn a_file_more_or_less_is_little_work() {
    let mut catalog = Catalog::default();
    let (stays, goes) = (catalog.add_holder(), catalog.add_holder());
    let (mut most, mut files) = (0, 0);
    for number in 0..10 * PIECE_MAX {
        // Neither in the order of the names nor against it.
        let name = format!("a song of {:05}", number * 7919 % 100_000);
        let (holder, more) = match number % 10 {
            0 => (stays, 0),
            _ => (goes, 1),
        };
        most = most.max(catalog.insert(holder, line(&name)));
        files += more;
    }
    // Four words and a content, each found by halving: 17 names.
    let steps_max = 16 + 5 * (8 + 17 * 3);
    assert!((200..=steps_max).contains(&most), "{most}");
    catalog.kill_holder(goes);
    let mut turns = 0;
    while !catalog.purge(goes, &mut 1000) {
        turns += 1;
        if turns % 1000 == 0 {
            catalog.validate();
        }
    }
    assert!(turns <= files * steps_max / 1000, "{turns}");
    catalog.validate();
    assert_eq!(catalog.len(), PIECE_MAX);
}

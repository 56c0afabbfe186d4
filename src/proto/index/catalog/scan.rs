//! Searches: read in pieces, best first.

use std::cmp::{Ordering, Reverse};
use std::hint::black_box;
use std::ops::Range;

use slab::Slab;

use super::postings::{OCCURRENCES_MAX, Posting, Postings, by_name, rank};
use super::{Catalog, Entry, FileNo, Holder, State, front, signature};
use crate::proto::index::fields::Sha1;
use crate::proto::index::wire::PAYLOAD_BYTES_MAX;
use crate::proto::index::words::Splitter;

impl Catalog {
    /// Starts a search for `words`, at the visible match number `offset`; `None` when there is no word in them. One
    /// word that is a SHA-1 finds the files with this content, whatever their names.
    pub fn search(&mut self, words: &str, matching: Match, offset: usize) -> Option<Scan> {
        let mut scan = self.spare.take().unwrap_or_default();
        scan.begin(self.splitter.words(words), matching, offset);
        if let [word] = &scan.wanted[..] {
            // Nobody has the content: then it is a word like any other.
            let content = scan.text[word.text.clone()].parse().ok();
            scan.content = content.filter(|sha1| self.contents.get(&front(*sha1)).is_some());
        } else if matching == Match::All {
            // The rarest word first: its list is the one that is read to the end.
            let Scan { wanted, text, .. } = &mut scan;
            let files = |word: &str| self.words.get(word).map_or(0, Postings::len);
            wanted.sort_by_cached_key(|word| files(&text[word.text.clone()]));
        }
        if scan.wanted.is_empty() {
            self.recycle(scan);
            return None;
        }
        Some(scan)
    }

    /// Goes on with a search for about `steps` of work, which it takes from `steps`; true when it is through. When the
    /// catalogue was changed in between, but for what is online, it must begin again ([`Scan::restart`]).
    pub fn advance(&mut self, scan: &mut Scan, steps: &mut usize) -> bool {
        let Catalog {
            files,
            holders,
            words,
            contents,
            splitter,
            ..
        } = self;
        if let [word] = &scan.wanted[..] {
            let list = match scan.content {
                Some(sha1) => contents.get(&front(sha1)),
                None => words.get(&scan.text[word.text.clone()]),
            };
            let done = list.is_none_or(|list| scan.read_ranked(list, files, holders, steps));
            if done {
                scan.fetch(files, holders);
            }
            return done;
        }
        let mut lists = [None; WORDS_MAX];
        for (list, word) in lists.iter_mut().zip(&scan.wanted) {
            *list = words.get(&scan.text[word.text.clone()]);
        }
        let done = scan.read_merged(&lists, files, holders, splitter, steps);
        if done {
            scan.best.drain(..scan.offset.min(scan.best.len()));
        }
        done
    }

    /// Takes back a search that is over, so that the next one need not allocate.
    pub fn recycle(&mut self, scan: Scan) {
        if scan.best.capacity() <= HITS_MAX.next_power_of_two() {
            self.spare = Some(scan);
        }
    }
}

/// Which names a search for several words finds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Those with every word.
    #[default]
    All,
    /// Those with at least one, as the original has it.
    Any,
}

/// Matches that one answer can hold: no hit takes less than 65 bytes of a frame.
pub const HITS_MAX: usize = PAYLOAD_BYTES_MAX / 65;

/// How deep a search for several words can be read: it keeps that many candidates.
pub const DEPTH_MAX: usize = 10_000;

/// Words that a search for several may have; of more only the first are looked for.
pub const WORDS_MAX: usize = 32;

/// To look at a name costs about as much as this many list entries.
pub(super) const STEPS_PER_NAME: usize = 6;

/// Candidates that move for a better one, in one step.
const MOVES_PER_STEP: usize = 256;

/// A search under way.
///
/// Several words: their lists are read side by side, and each file that is met for the first time is looked at for the
/// other words. What was met in no list yet has at most the occurrences of the next file in each, taken together, and no
/// earlier name than any of those: once everything that is kept is better, the search is through (Fagin's threshold
/// algorithm). All words to match: it is also through with the shortest list, and the others are read only as far as
/// more occurrences than one can be met there.
#[derive(Debug, Default)]
pub struct Scan {
    /// Different words.
    wanted: Vec<Wanted>,
    /// Their bytes, in lower case.
    text: String,
    /// The one word is a SHA-1 that somebody has.
    content: Option<Sha1>,
    matching: Match,
    /// Whose list is read next.
    turn: usize,
    /// Matches still to be skipped.
    offset: usize,
    /// What was found, best first, with its occurrences.
    pub(super) best: Vec<(u32, FileNo)>,
}

#[derive(Debug)]
struct Wanted {
    /// In [`Scan::text`].
    text: Range<usize>,
    /// Where its list is to be read on: the piece, and the place there.
    piece: usize,
    at: usize,
}

/// How often a name has each wanted word, as far as that ranks.
type Counts = [u32; WORDS_MAX];

impl Scan {
    fn begin<'a>(&mut self, words: impl Iterator<Item = &'a str>, matching: Match, offset: usize) {
        let Scan { wanted, text, .. } = self;
        text.clear();
        wanted.clear();
        wanted.extend(words.map(|word| {
            let start = text.len();
            text.push_str(word);
            Wanted {
                text: start..text.len(),
                piece: 0,
                at: 0,
            }
        }));
        wanted.sort_unstable_by(|a, b| text[a.text.clone()].cmp(&text[b.text.clone()]));
        wanted.dedup_by(|a, b| text[a.text.clone()] == text[b.text.clone()]);
        (self.content, self.matching) = (None, matching);
        self.restart(offset);
    }

    /// Begins again: what was read does not count.
    pub fn restart(&mut self, offset: usize) {
        for word in &mut self.wanted {
            (word.piece, word.at) = (0, 0);
        }
        self.best.clear();
        (self.turn, self.offset) = (0, offset);
    }

    /// Different words that are searched for.
    pub fn words(&self) -> usize {
        self.wanted.len()
    }

    /// What it found, best first, once it is through.
    pub fn hits(&self) -> impl Iterator<Item = FileNo> {
        self.best.iter().map(|(_, file)| *file)
    }

    /// Reads a list that is in the order wanted, up to the last match that can be of use.
    fn read_ranked(
        &mut self,
        list: &Postings,
        files: &Slab<Entry>,
        holders: &Slab<Holder>,
        steps: &mut usize,
    ) -> bool {
        let cursor = &mut self.wanted[0];
        while let Some(piece) = list.piece(cursor.piece) {
            for posting in piece.get(cursor.at..).unwrap_or_default() {
                if self.best.len() == HITS_MAX {
                    return true;
                }
                let Some(left) = steps.checked_sub(1) else {
                    return false;
                };
                *steps = left;
                cursor.at += 1;
                let file = &files[posting.file() as usize];
                let other = self.content.is_some_and(|sha1| sha1 != file.sha1);
                if other || !is_online(holders, file) {
                    continue;
                }
                if self.offset > 0 {
                    self.offset -= 1;
                } else {
                    let hit = (posting.occurrences(), FileNo(posting.file()));
                    self.best.push(hit);
                }
            }
            (cursor.piece, cursor.at) = (cursor.piece + 1, 0);
        }
        true
    }

    /// Reads a byte of all that the answer will be made of. The files are anywhere in memory: read like this they are
    /// waited for all at once, and not one after the other while each is written.
    fn fetch(&self, files: &Slab<Entry>, holders: &Slab<Holder>) {
        let byte = |text: &str| text.as_bytes().first().copied().unwrap_or(0);
        let sum = self.best.iter().fold(0_u8, |sum, (_, FileNo(file))| {
            let file = &files[*file as usize];
            let label = match &holders[file.holder as usize].state {
                State::Online { label } => byte(label),
                State::Hidden | State::Dead => 0,
            };
            sum ^ byte(&file.name) ^ label
        });
        black_box(sum);
    }

    /// Reads the lists of several words, see [`Scan`].
    fn read_merged(
        &mut self,
        lists: &[Option<&Postings>; WORDS_MAX],
        files: &Slab<Entry>,
        holders: &Slab<Holder>,
        splitter: &mut Splitter,
        steps: &mut usize,
    ) -> bool {
        let words = self.wanted.len().min(WORDS_MAX);
        let lists = &lists[..words];
        let mut heads = [None; WORDS_MAX];
        for ((head, list), cursor) in heads.iter_mut().zip(lists).zip(&self.wanted) {
            *head = cursor.next(*list);
        }
        let wanted = self.wanted.iter().take(WORDS_MAX);
        let wanted = wanted.fold(0, |bits, word| {
            bits | signature(&self.text[word.text.clone()])
        });
        let heads = &mut heads[..words];
        while !self.is_through(heads, files) {
            let Some(left) = steps.checked_sub(STEPS_PER_NAME) else {
                return false;
            };
            let number = self.turn;
            self.turn = self.turn_after(number, heads);
            let Some(posting) = heads[number] else {
                continue;
            };
            *steps = left + STEPS_PER_NAME - 1;
            self.wanted[number].step(lists[number]);
            heads[number] = self.wanted[number].next(lists[number]);
            let file = &files[posting.file() as usize];
            let lacks = self.matching == Match::All && file.signature & wanted != wanted;
            if lacks || !is_online(holders, file) {
                continue;
            }
            *steps = left;
            if let Some(occurrences) = self.occurrences(splitter, number, posting, heads, files) {
                let moved = self.keep(files, occurrences, posting.file());
                *steps = steps.saturating_sub(moved / MOVES_PER_STEP);
            }
        }
        true
    }

    /// Whose list is read after that of word `number`: all by turns that may still bring something.
    fn turn_after(&self, number: usize, heads: &[Option<Posting>]) -> usize {
        let worth = |&other: &usize| {
            let head = heads[other].map_or(0, Posting::occurrences);
            match self.matching {
                Match::All => other == 0 || head > 1,
                Match::Any => head > 0,
            }
        };
        let others = (number + 1..heads.len()).chain(0..number);
        others.into_iter().find(worth).unwrap_or(number)
    }

    /// Nothing that was not met yet can be better than what is kept.
    fn is_through(&self, heads: &[Option<Posting>], files: &Slab<Entry>) -> bool {
        let over = match self.matching {
            Match::All => heads.contains(&None),
            Match::Any => heads.iter().all(Option::is_none),
        };
        if over || self.best.len() < self.kept_max() {
            return over;
        }
        let most = heads.iter().flatten().map(|head| head.occurrences()).sum();
        let Some(&(occurrences, FileNo(worst))) = self.best.last() else {
            return false;
        };
        match occurrences.cmp(&most) {
            Ordering::Less => false,
            Ordering::Greater => true,
            // In turn each of them is asked, so that no step costs more with more words.
            Ordering::Equal => heads[self.turn]
                .is_some_and(|head| by_name(files, worst, head.file()) == Ordering::Less),
        }
    }

    /// How often a file that was met in the list of word `number` has the words; `None` when it does not match, or
    /// was met before.
    fn occurrences(
        &self,
        splitter: &mut Splitter,
        number: usize,
        posting: Posting,
        heads: &[Option<Posting>],
        files: &Slab<Entry>,
    ) -> Option<u32> {
        let mut counts: Counts = [0; WORDS_MAX];
        let words = || self.wanted.iter().take(WORDS_MAX);
        for word in splitter.words(&files[posting.file() as usize].name) {
            if let Some(at) = words().position(|wanted| self.text[wanted.text.clone()] == *word) {
                counts[at] = (counts[at] + 1).min(OCCURRENCES_MAX);
            }
        }
        let counts = &counts[..heads.len()];
        let lacks = self.matching == Match::All && counts.contains(&0);
        let was_met = |(other, &count): (usize, &u32)| {
            let there = Posting::new(posting.file(), count as usize);
            let before = |head: Posting| rank(files, there, head) == Ordering::Less;
            other != number && count > 0 && heads[other].is_none_or(before)
        };
        let new = !lacks && !counts.iter().enumerate().any(was_met);
        new.then(|| counts.iter().sum())
    }

    fn kept_max(&self) -> usize {
        self.offset.min(DEPTH_MAX) + HITS_MAX
    }

    /// Keeps a match if it is among the best; how many others had to move.
    fn keep(&mut self, files: &Slab<Entry>, occurrences: u32, file: u32) -> usize {
        let key = |&(occurrences, FileNo(file)): &(u32, FileNo)| (Reverse(occurrences), file);
        let before = |other: &(u32, FileNo)| {
            let (count, number) = key(other);
            let by_count = count.cmp(&Reverse(occurrences));
            by_count.then_with(|| by_name(files, number, file)) == Ordering::Less
        };
        let full = self.best.len() >= self.kept_max();
        if self.best.last().is_none_or(before) {
            if !full {
                self.best.push((occurrences, FileNo(file)));
            }
            return 0;
        }
        let at = self.best.partition_point(before);
        if full {
            self.best.pop();
        }
        self.best.insert(at, (occurrences, FileNo(file)));
        self.best.len() - at
    }
}

impl Wanted {
    /// The next file of its list.
    fn next(&self, list: Option<&Postings>) -> Option<Posting> {
        list?.piece(self.piece)?.get(self.at).copied()
    }

    /// Goes to the one after it.
    fn step(&mut self, list: Option<&Postings>) {
        self.at += 1;
        let piece = list.and_then(|list| list.piece(self.piece));
        if piece.is_some_and(|piece| self.at == piece.len()) {
            (self.piece, self.at) = (self.piece + 1, 0);
        }
    }
}

fn is_online(holders: &Slab<Holder>, file: &Entry) -> bool {
    matches!(holders[file.holder as usize].state, State::Online { .. })
}

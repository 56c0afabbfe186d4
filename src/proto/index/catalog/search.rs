//! Searches: the lists of the wanted words, read best first and some steps at a time.
//!
//! ```text
//!   one word      its list is in the order of the ranking: read from the front until an answer is full
//!   one SHA-1     the same, of the list of its content
//!   several       their lists by turns, candidates kept in order ([`Search`])
//! ```
//! Not here: which searches are allowed, and how an answer is written (the server's business).

use std::cmp::{Ordering, Reverse};
use std::hint::black_box;
use std::ops::Range;

use slab::Slab;

use crate::proto::index::fields::Sha1;
use crate::proto::index::wire::PAYLOAD_BYTES_MAX;

use super::entry::{Entry, FileNo, Holder, State, content_key, signature};
use super::postings::Postings;
use super::ranking::{OCCURRENCES_MAX, Posting, by_name, rank};
use super::sharded_map::ShardedMap;
use super::words::Splitter;

/// Which names a search for several words finds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Those with every word.
    #[default]
    All,
    /// Those with at least one word, as the original has it.
    Any,
}

/// Matches that one answer can hold: a hit takes at least 65 bytes of a frame.
pub const HITS_MAX: usize = PAYLOAD_BYTES_MAX / 65;

/// Largest offset of a search for several words, which keeps that many candidates.
pub const DEPTH_MAX: usize = 10_000;

/// Words that are looked for; those after them are ignored.
pub const WORDS_MAX: usize = 32;

/// Reading a name costs about as much as reading this many list entries.
pub(super) const STEPS_PER_NAME: usize = 6;

/// Candidates that are moved for a better one in one step.
const MOVES_PER_STEP: usize = 256;

/// A search under way.
///
/// Several words are found by Fagin's threshold algorithm. The lists are read by turns; a file that is met for the first
/// time is searched for the other words. A file that was not met in any list yet has at most the occurrences of the next
/// files of all lists taken together, and no earlier name than any of them. The search is complete when all candidates
/// are better than that. If all words must match, it is also complete at the end of the shortest list, and the other
/// lists are read only as far as a name has its word more than once.
#[derive(Debug, Default)]
pub struct Search {
    /// Different words.
    wanted: Vec<Wanted>,
    /// Their bytes, in lower case.
    text: String,
    /// The one word is the SHA-1 of a file that a holder has.
    content: Option<Sha1>,
    matching: Match,
    /// The word whose list is read next.
    turn: usize,
    /// Matches still to be skipped.
    offset: usize,
    /// The files found and their occurrences, best first.
    pub(super) best: Vec<(u32, FileNo)>,
}

#[derive(Debug)]
struct Wanted {
    /// In [`Search::text`].
    text: Range<usize>,
    /// Where its list is read next: the piece, and the place in it.
    piece: usize,
    at: usize,
}

/// How often a name has each wanted word, at most [`OCCURRENCES_MAX`].
type Counts = [u32; WORDS_MAX];

/// Every postings list: those of the words, and those of the contents by their [`content_key`].
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) words: ShardedMap<Box<str>, Postings>,
    pub(super) contents: ShardedMap<u64, Postings>,
}

impl Lists {
    fn of_content(&self, sha1: Sha1) -> Option<&Postings> {
        self.contents.get(&content_key(sha1))
    }
}

impl Search {
    /// Starts a search in the buffers of an earlier one.
    pub(super) fn begin<'a>(
        &mut self,
        words: impl Iterator<Item = &'a str>,
        matching: Match,
        offset: usize,
        lists: &Lists,
    ) {
        let Search { wanted, text, .. } = self;
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
        self.content = None;
        if let [word] = &wanted[..] {
            // A SHA-1 that nobody has is a word like any other.
            let sha1 = text[word.text.clone()].parse().ok();
            self.content = sha1.filter(|sha1| lists.of_content(*sha1).is_some());
        } else if matching == Match::All {
            // The rarest word first: its list is the one that is read to the end.
            let files = |word: &str| lists.words.get(word).map_or(0, Postings::len);
            wanted.sort_by_cached_key(|word| files(&text[word.text.clone()]));
        }
        self.matching = matching;
        self.restart(offset);
    }

    /// Continues for about `steps` of work, which it subtracts; true when the search is complete.
    pub(super) fn advance(
        &mut self,
        files: &Slab<Entry>,
        holders: &Slab<Holder>,
        lists: &Lists,
        splitter: &mut Splitter,
        steps: &mut usize,
    ) -> bool {
        if let [word] = &self.wanted[..] {
            let list = match self.content {
                Some(sha1) => lists.of_content(sha1),
                None => lists.words.get(&self.text[word.text.clone()]),
            };
            let done = list.is_none_or(|list| self.read_ranked(list, files, holders, steps));
            if done {
                self.prefetch(files, holders);
            }
            return done;
        }
        let mut of_words = [None; WORDS_MAX];
        for (list, word) in of_words.iter_mut().zip(&self.wanted) {
            *list = lists.words.get(&self.text[word.text.clone()]);
        }
        let done = self.read_merged(&of_words, files, holders, splitter, steps);
        if done {
            self.best.drain(..self.offset.min(self.best.len()));
        }
        done
    }

    /// Starts again from the front of all lists.
    pub fn restart(&mut self, offset: usize) {
        for word in &mut self.wanted {
            (word.piece, word.at) = (0, 0);
        }
        self.best.clear();
        (self.turn, self.offset) = (0, offset);
    }

    /// Number of different words.
    pub fn words(&self) -> usize {
        self.wanted.len()
    }

    /// The files found, best first. Whole once the search is complete.
    pub fn hits(&self) -> impl Iterator<Item = FileNo> {
        self.best.iter().map(|(_, file)| *file)
    }

    /// Reads a list that is in the order of the answer, until the answer is full.
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
                if other || !holders[file.holder as usize].is_online() {
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

    /// Reads one byte of everything that the answer is made of. Files are scattered over memory: here their cache misses
    /// overlap, where writing the answer would wait for one after the other.
    fn prefetch(&self, files: &Slab<Entry>, holders: &Slab<Holder>) {
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

    /// Reads the lists of several words, see [`Search`].
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
            if lacks || !holders[file.holder as usize].is_online() {
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

    /// The list that is read after that of word `number`: the next one that can still bring a match.
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

    /// Whether no file that was not met yet can be better than those kept.
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
            // Only the list whose turn it is: a step must not cost more with more words.
            Ordering::Equal => heads[self.turn]
                .is_some_and(|head| by_name(files, worst, head.file()) == Ordering::Less),
        }
    }

    /// The occurrences of all words in a file that was met in the list of word `number`; `None` when it does not match or
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

    /// Keeps a match if it is among the best; returns how many others were moved.
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

    /// Steps over that file.
    fn step(&mut self, list: Option<&Postings>) {
        self.at += 1;
        let piece = list.and_then(|list| list.piece(self.piece));
        if piece.is_some_and(|piece| self.at == piece.len()) {
            (self.piece, self.at) = (self.piece + 1, 0);
        }
    }
}

//! Searches: read in pieces, best first.

use std::cmp::{Ordering, Reverse};

use slab::Slab;

use super::{Catalog, Entry, FileNo, Holder, Posting, Postings, State, by_name, front};
use crate::proto::index::fields::Sha1;
use crate::proto::index::wire::PAYLOAD_BYTES_MAX;
use crate::proto::index::words::Splitter;

impl Catalog {
    /// Starts a search for `words`, at the visible match number `offset`; `None` when there is no word in them. One
    /// word that is a SHA-1 finds the files with this content, whatever their names.
    pub fn search(&mut self, words: &str, matching: Match, offset: usize) -> Option<Scan> {
        let mut wanted: Vec<Box<str>> = self.splitter.words(words).map(Box::from).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return None;
        }
        if wanted.len() > 1 && matching == Match::All {
            // The rarest word first: its list is the one that is read.
            wanted.sort_by_key(|word| self.postings(word).len());
        }
        let content = match &wanted[..] {
            [word] => word.parse().ok(),
            _ => None,
        };
        // Nobody has the content: then it is a word like any other.
        let content = content.filter(|sha1| self.contents.get(&front(*sha1)).is_some());
        let lists = match matching {
            Match::All => 1,
            Match::Any => wanted.len(),
        };
        Some(Scan {
            wanted,
            content,
            lists,
            list: 0,
            position: 0,
            offset,
            best: Vec::new(),
        })
    }

    /// Goes on with a search for about `steps` of work, which it takes from `steps`; true when it is through. The
    /// catalogue may not be changed in between, but for what is online.
    pub fn advance(&mut self, scan: &mut Scan, steps: &mut usize) -> bool {
        if let Some(sha1) = scan.content {
            let entries = self.contents.get(&front(sha1));
            let entries = entries.map_or(&[][..], Postings::as_slice);
            return scan.read_ranked(entries, &self.files, &self.holders, steps);
        }
        if let [word] = &scan.wanted[..] {
            let entries = self.words.get(word).map_or(&[][..], Postings::as_slice);
            return scan.read_ranked(entries, &self.files, &self.holders, steps);
        }
        while scan.list < scan.lists {
            let word = &scan.wanted[scan.list];
            let entries = self.words.get(word).map_or(&[][..], Postings::as_slice);
            let done = scan.read_unranked(
                entries,
                &self.files,
                &self.holders,
                &mut self.splitter,
                steps,
            );
            if !done {
                return false;
            }
            (scan.list, scan.position) = (scan.list + 1, 0);
        }
        scan.best.drain(..scan.offset.min(scan.best.len()));
        true
    }

    fn postings(&self, word: &str) -> &[Posting] {
        self.words.get(word).map_or(&[], Postings::as_slice)
    }
}

/// Which names a search for several words finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Those with every word.
    All,
    /// Those with at least one, as the original has it.
    Any,
}

/// Matches that one answer can hold: no hit takes less than 65 bytes of a frame.
pub(super) const HITS_MAX: usize = PAYLOAD_BYTES_MAX / 65;

/// How deep a search for several words can be read: it keeps that many candidates.
pub const DEPTH_MAX: usize = 10_000;

/// To look at a name costs about as much as this many list entries.
pub(super) const STEPS_PER_NAME: usize = 6;

/// A search under way.
#[derive(Debug)]
pub struct Scan {
    /// Different words, in lower case.
    wanted: Vec<Box<str>>,
    /// The one word is a SHA-1 that somebody has.
    content: Option<Sha1>,
    /// How many of their lists are to be read, and where that is.
    lists: usize,
    list: usize,
    position: usize,
    /// Matches still to be skipped.
    offset: usize,
    /// What was found, best first, with its occurrences.
    pub(super) best: Vec<(u32, FileNo)>,
}

impl Scan {
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
        entries: &[Posting],
        files: &Slab<Entry>,
        holders: &Slab<Holder>,
        steps: &mut usize,
    ) -> bool {
        while self.best.len() < HITS_MAX {
            let Some(posting) = entries.get(self.position) else {
                return true;
            };
            let Some(left) = steps.checked_sub(1) else {
                return false;
            };
            *steps = left;
            self.position += 1;
            let file = &files[posting.file() as usize];
            let other = self.content.is_some_and(|sha1| sha1 != file.sha1);
            if other || holders[file.holder as usize].state != State::Online {
                continue;
            }
            if self.offset > 0 {
                self.offset -= 1;
            } else {
                self.best
                    .push((posting.occurrences(), FileNo(posting.file())));
            }
        }
        true
    }

    /// Looks at the names of a list for the other words, and keeps the best.
    fn read_unranked(
        &mut self,
        entries: &[Posting],
        files: &Slab<Entry>,
        holders: &Slab<Holder>,
        splitter: &mut Splitter,
        steps: &mut usize,
    ) -> bool {
        while let Some(posting) = entries.get(self.position) {
            let Some(left) = steps.checked_sub(STEPS_PER_NAME) else {
                return false;
            };
            *steps = left;
            self.position += 1;
            let file = &files[posting.file() as usize];
            if holders[file.holder as usize].state != State::Online {
                continue;
            }
            if let Some(occurrences) = self.occurrences(splitter, &file.name) {
                self.keep(files, occurrences, posting.file());
            }
        }
        true
    }

    /// How often a name has the words; `None` when it does not match, or did already in an earlier list.
    fn occurrences(&self, splitter: &mut Splitter, name: &str) -> Option<u32> {
        let (mut total, mut seen) = (0, 0_u32);
        for word in splitter.words(name) {
            if let Some(number) = self.wanted.iter().position(|wanted| **wanted == *word) {
                total += 1;
                seen |= 1 << number.min(31);
            }
        }
        let matches = if self.lists == 1 {
            seen.count_ones() as usize == self.wanted.len()
        } else {
            seen.trailing_zeros() as usize == self.list
        };
        matches.then_some(total)
    }

    fn keep(&mut self, files: &Slab<Entry>, occurrences: u32, file: u32) {
        let key = |&(occurrences, FileNo(file)): &(u32, FileNo)| (Reverse(occurrences), file);
        let before = |other: &(u32, FileNo)| {
            let (count, number) = key(other);
            let by_count = count.cmp(&Reverse(occurrences));
            by_count.then_with(|| by_name(files, number, file)) == Ordering::Less
        };
        let full = self.best.len() >= self.offset.min(DEPTH_MAX) + HITS_MAX;
        if self.best.last().is_none_or(before) {
            if !full {
                self.best.push((occurrences, FileNo(file)));
            }
            return;
        }
        let at = self.best.partition_point(before);
        if full {
            self.best.pop();
        }
        self.best.insert(at, (occurrences, FileNo(file)));
    }
}

/// Words of one search: `occurrences` has a bit for each.
pub const WORDS_MAX: usize = 32;

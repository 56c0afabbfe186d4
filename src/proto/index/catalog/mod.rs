//! The catalogue: an inverted index of who shares what, searched by the words of names and by SHA-1. In memory only.
//!
//! ```text
//!   words: "song" ─▶ [posting, ...]   best first: more occurrences, then the name, then the number of the file
//!                        │
//!   files: [ name, size, sha1, holder ]
//!                        │
//!   holders: [ state, files ]  online: found; hidden: not found; dead: being purged
//! ```
//! - `ranking`: the order of search results; `search`: reading lists until an answer is full.
//! - `postings`: the list of a word; `words`: how names are split; [`bulk_load`]: the catalogue of a server that starts.
//!
//! A search for one word reads its list from the front and stops when the answer is full, however many files match. A
//! search for several words reads their lists until no better match can come ([`Search`]).
//!
//! Removal is immediate for searches and deferred for memory: a dead holder is in no result any more, and
//! [`Catalog::purge`] then removes its files from the lists, some at a time. Adding or removing a file costs one binary
//! search for each of its words; no operation costs the size of the catalogue.
//!
//! Invariants: a file is in the list of each of its words, in that of its content and in that of its holder, and in no
//! other; every list is in the order of the ranking.
//!
//! Not here: ids, users, addresses, time. A result shows its holder as a label that only the server can read.

pub mod bulk_load;
mod entry;
mod postings;
mod ranking;
mod search;
mod sharded_map;
#[cfg(test)]
mod tests;
mod words;

use std::hint::black_box;

use slab::Slab;

use super::fields::FileLine;

use entry::{Entry, Holder, State, content_key, for_each_word, signature};
use postings::Postings;
use ranking::Posting;
use search::Lists;
use words::Splitter;

pub use entry::{FileNo, HolderNo};
pub use ranking::FILES_MAX;
pub use search::{DEPTH_MAX, HITS_MAX, Match, Search, WORDS_MAX};

/// The costs of adding or removing a file, in steps of about 60 ns: the file itself, finding the list of a word, and
/// comparing a name in a binary search.
const STEPS_PER_FILE: usize = 16;
const STEPS_PER_LIST: usize = 8;
const STEPS_PER_LEVEL: usize = 3;

/// A request that glibc does not serve from its lists of small blocks, which end at 1 KiB.
const JOINING_BYTES: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Catalog {
    files: Slab<Entry>,
    holders: Slab<Holder>,
    lists: Lists,
    splitter: Splitter,
    /// The last search that was complete, for its buffers.
    spare: Option<Search>,
}

impl Catalog {
    /// Number of files, those of dead holders included.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a holder without files, hidden.
    pub fn add_holder(&mut self) -> HolderNo {
        HolderNo(self.holders.insert(Holder {
            state: State::Hidden,
            files: Vec::new(),
        }) as u32)
    }

    /// Sets the label of a holder. Searches find the files of holders that have one.
    pub fn show_holder(&mut self, holder: HolderNo, label: Option<Box<str>>) {
        if let Some(holder) = self.holders.get_mut(holder.0 as usize)
            && holder.state != State::Dead
        {
            holder.state = label.map_or(State::Hidden, |label| State::Online { label });
        }
    }

    /// Removes the holder's files from all results. [`Catalog::purge`] must follow until it returns true.
    pub fn kill_holder(&mut self, holder: HolderNo) {
        if let Some(holder) = self.holders.get_mut(holder.0 as usize) {
            holder.state = State::Dead;
        }
    }

    /// Number of files of a holder.
    pub fn count(&self, holder: HolderNo) -> usize {
        self.holders
            .get(holder.0 as usize)
            .map_or(0, |holder| holder.files.len())
    }

    /// The files of a holder from number `offset` on.
    pub fn browse(&self, holder: HolderNo, offset: usize) -> impl Iterator<Item = FileLine<'_>> {
        let files = self.holders.get(holder.0 as usize);
        let files = files.and_then(|holder| holder.files.get(offset..));
        let files = files.unwrap_or_default();
        files.iter().map(|&file| self.files[file as usize].line())
    }

    /// A file that a search found, and the label of its holder; `None` when the holder is not online any more.
    pub fn found(&self, FileNo(file): FileNo) -> Option<(FileLine<'_>, &str)> {
        let file = self.files.get(file as usize)?;
        match &self.holders[file.holder as usize].state {
            State::Online { label } => Some((file.line(), label)),
            State::Hidden | State::Dead => None,
        }
    }

    /// Starts a search for `words` at visible match number `offset`; `None` when there is no word in them. A single word
    /// that is a SHA-1 finds the files with this content, whatever their names.
    pub fn search(&mut self, words: &str, matching: Match, offset: usize) -> Option<Search> {
        let mut search = self.spare.take().unwrap_or_default();
        let words = self.splitter.words(words);
        search.begin(words, matching, offset, &self.lists);
        if search.words() == 0 {
            self.recycle(search);
            return None;
        }
        Some(search)
    }

    /// Continues a search for about `steps` of work, which it subtracts; true when it is complete. If the catalogue was
    /// changed in between, other than by [`Catalog::show_holder`], the search must start again ([`Search::restart`]).
    pub fn advance(&mut self, search: &mut Search, steps: &mut usize) -> bool {
        let Catalog {
            files,
            holders,
            lists,
            splitter,
            ..
        } = self;
        search.advance(files, holders, lists, splitter, steps)
    }

    /// Takes back a search that is complete, for its buffers.
    pub fn recycle(&mut self, search: Search) {
        if search.best.capacity() <= HITS_MAX.next_power_of_two() {
            self.spare = Some(search);
        }
    }

    /// Adds a file to a holder; returns the steps that took.
    pub fn insert(&mut self, holder: HolderNo, line: FileLine<'_>) -> usize {
        let Some(owner) = self.holders.get_mut(holder.0 as usize) else {
            return STEPS_PER_FILE;
        };
        let file = self.files.insert(Entry::new(holder, line)) as u32;
        owner.files.push(file);
        let mut steps = STEPS_PER_FILE;
        let (words, files) = (&mut self.lists.words, &mut self.files);
        for_each_word(&mut self.splitter, line.name, |word, occurrences| {
            files[file as usize].signature |= signature(word);
            let posting = Posting::new(file, occurrences);
            steps += STEPS_PER_LIST;
            match words.get_mut(word) {
                Some(list) => {
                    steps += list.levels() * STEPS_PER_LEVEL;
                    list.insert(posting, files);
                }
                None => words.insert(word.into(), Postings::One(posting)),
            }
        });
        let (content, posting) = (content_key(line.sha1), Posting::new(file, 1));
        match self.lists.contents.get_mut(&content) {
            Some(list) => {
                steps += list.levels() * STEPS_PER_LEVEL;
                list.insert(posting, files);
            }
            None => self.lists.contents.insert(content, Postings::One(posting)),
        }
        steps
    }

    /// Removes files of a dead holder for about `steps` of work, which it subtracts; true when all are removed, and the
    /// holder with them.
    pub fn purge(&mut self, holder: HolderNo, steps: &mut usize) -> bool {
        while *steps > 0 {
            let Some(dead) = self.holders.get_mut(holder.0 as usize) else {
                return true;
            };
            let Some(file) = dead.files.pop() else {
                self.holders.remove(holder.0 as usize);
                return true;
            };
            *steps = steps.saturating_sub(self.remove(file));
        }
        // glibc coalesces freed small blocks at the next larger request: 24 ms after 100,000 files. A request after each
        // piece spreads that over the pieces.
        drop(black_box(Vec::<u8>::with_capacity(JOINING_BYTES)));
        false
    }

    /// Removes a file from all lists; returns the steps that took.
    fn remove(&mut self, file: u32) -> usize {
        let mut steps = STEPS_PER_FILE;
        let (words, files) = (&mut self.lists.words, &self.files);
        let entry = &files[file as usize];
        for_each_word(&mut self.splitter, &entry.name, |word, occurrences| {
            steps += STEPS_PER_LIST;
            let Some(list) = words.get_mut(word) else {
                return;
            };
            steps += list.levels() * STEPS_PER_LEVEL;
            if !list.remove(Posting::new(file, occurrences), files) {
                words.remove(word);
            }
        });
        let content = content_key(entry.sha1);
        if let Some(list) = self.lists.contents.get_mut(&content) {
            steps += list.levels() * STEPS_PER_LEVEL;
            if !list.remove(Posting::new(file, 1), files) {
                self.lists.contents.remove(&content);
            }
        }
        self.files.remove(file as usize);
        steps
    }
}

//! Who shares what, and which names have which words. In memory; the store has what it is loaded from.
//!
//! ```text
//!   words: "song" ─▶ [posting, ...]   best first: more occurrences, then the name, then the file's number
//!                        │
//!   files: [ name, size, sha1, holder ]
//!                        │
//!   holders: [ state, files ]  online: found; hidden: not yet or not now; dead: to be purged
//! ```
//! A search for one word reads its list from the front and stops when it has enough, however many match. One for
//! several words reads their lists until nothing better can come ([`Scan`]).
//!
//! Going is cheap and cleaning up is put off: a holder that dies is out of every search at once, and
//! [`Catalog::purge`] then takes its files out of the lists, some at a time. A file more or less costs its words, each a
//! search in its list: nothing costs the size of the catalogue, whatever comes or leaves.
//!
//! Invariants: a file is in the list of each of its words and of its content, and in its holder's, and in no other; a
//! list is in its order.
//!
//! What it does not do: ids, users, addresses, time. What is shown of a holder beside its files is a label that means
//! something to the server alone.

mod loader;
mod postings;
mod scan;
mod shards;
#[cfg(test)]
mod tests;

use std::hint::black_box;

use slab::Slab;

use super::fields::{FileLine, Sha1};
use super::words::Splitter;

use postings::{Posting, Postings};
use shards::Shards;

pub use loader::Loader;
pub use postings::FILES_MAX;
pub use scan::{DEPTH_MAX, HITS_MAX, Match, Scan, WORDS_MAX};

/// A list of files under one state: those of one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderNo(u32);

/// A file, as long as the catalogue is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNo(u32);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Hidden,
    Online {
        label: Box<str>,
    },
    /// Being purged: its number is not free before [`Catalog::purge`] has said that it is done.
    Dead,
}

#[derive(Debug)]
struct Holder {
    state: State,
    files: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    size_bytes: u64,
    sha1: Sha1,
    holder: u32,
    /// The [`signature`] of its words.
    signature: u64,
}

/// One bit for a word: a name that lacks a word is mostly known for it without a look at the name.
fn signature(word: &str) -> u64 {
    // FNV-1a. Who chooses words of the same bit only makes searches look at more names.
    let mix = |sum: u32, byte: u8| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    1 << (word.bytes().fold(0x811c_9dc5, mix) >> 26)
}

/// What a content is found by: the first 8 bytes of its SHA-1.
fn front(Sha1(digest): Sha1) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// In steps, the unit of work (about 60 ns): to make or drop a file, to find a word's list, and to look at a name in it
/// on the way to a place.
const STEPS_PER_FILE: usize = 16;
const STEPS_PER_LIST: usize = 8;
const STEPS_PER_LEVEL: usize = 3;

/// More than glibc takes from its lists of small blocks, 1 KiB.
const JOINING_BYTES: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Catalog {
    files: Slab<Entry>,
    holders: Slab<Holder>,
    words: Shards<Box<str>, Postings>,
    /// The same for contents, by the front of their SHA-1: whoever reads a list compares the rest.
    contents: Shards<u64, Postings>,
    splitter: Splitter,
    /// The last search that was over, for its buffers.
    spare: Option<Scan>,
}

impl Catalog {
    /// Files, those that wait to be purged included.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A new, hidden holder without files.
    pub fn add_holder(&mut self) -> HolderNo {
        HolderNo(self.holders.insert(Holder {
            state: State::Hidden,
            files: Vec::new(),
        }) as u32)
    }

    /// Searches find the files of a holder that has a label, each with that.
    pub fn show_holder(&mut self, holder: HolderNo, label: Option<Box<str>>) {
        if let Some(holder) = self.holders.get_mut(holder.0 as usize)
            && holder.state != State::Dead
        {
            holder.state = label.map_or(State::Hidden, |label| State::Online { label });
        }
    }

    /// The holder's files are out of every search. [`Catalog::purge`] it until that says that it is done.
    pub fn kill_holder(&mut self, holder: HolderNo) {
        if let Some(holder) = self.holders.get_mut(holder.0 as usize) {
            holder.state = State::Dead;
        }
    }

    /// Files that a holder has.
    pub fn count(&self, holder: HolderNo) -> usize {
        self.holders
            .get(holder.0 as usize)
            .map_or(0, |holder| holder.files.len())
    }

    /// The files of a holder, from number `offset` on.
    pub fn browse(&self, holder: HolderNo, offset: usize) -> impl Iterator<Item = FileLine<'_>> {
        let files = self.holders.get(holder.0 as usize);
        let files = files.and_then(|holder| holder.files.get(offset..));
        let files = files.unwrap_or_default();
        files.iter().map(|&file| self.files[file as usize].line())
    }

    /// A file that a search found, and its holder's label; `None` when it is not online any more.
    pub fn found(&self, FileNo(file): FileNo) -> Option<(FileLine<'_>, &str)> {
        let file = self.files.get(file as usize)?;
        match &self.holders[file.holder as usize].state {
            State::Online { label } => Some((file.line(), label)),
            State::Hidden | State::Dead => None,
        }
    }

    /// Adds a file to a holder, and returns how many steps that took.
    pub fn insert(&mut self, holder: HolderNo, line: FileLine<'_>) -> usize {
        let Some(owner) = self.holders.get_mut(holder.0 as usize) else {
            return STEPS_PER_FILE;
        };
        let file = self.files.insert(Entry::new(holder, line)) as u32;
        owner.files.push(file);
        let mut steps = STEPS_PER_FILE;
        let (words, files) = (&mut self.words, &mut self.files);
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
        let (content, posting) = (front(line.sha1), Posting::new(file, 1));
        match self.contents.get_mut(&content) {
            Some(list) => {
                steps += list.levels() * STEPS_PER_LEVEL;
                list.insert(posting, files);
            }
            None => self.contents.insert(content, Postings::One(posting)),
        }
        steps
    }

    /// Takes files of a dead holder out of the lists for about `steps` of work, which it takes from `steps`; true when
    /// all are, and the holder is gone.
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
        // glibc joins the small blocks that were freed when somebody asks for a larger one: 24 ms after 100,000 files. Who
        // asks after each piece pays for that piece.
        drop(black_box(Vec::<u8>::with_capacity(JOINING_BYTES)));
        false
    }

    /// Takes a file out of the lists, and returns how many steps that took.
    fn remove(&mut self, file: u32) -> usize {
        let mut steps = STEPS_PER_FILE;
        let (words, files) = (&mut self.words, &self.files);
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
        let content = front(entry.sha1);
        if let Some(list) = self.contents.get_mut(&content) {
            steps += list.levels() * STEPS_PER_LEVEL;
            if !list.remove(Posting::new(file, 1), files) {
                self.contents.remove(&content);
            }
        }
        self.files.remove(file as usize);
        steps
    }
}

impl Entry {
    fn new(holder: HolderNo, line: FileLine<'_>) -> Entry {
        Entry {
            name: line.name.into(),
            size_bytes: line.size_bytes,
            sha1: line.sha1,
            holder: holder.0,
            signature: 0,
        }
    }

    fn line(&self) -> FileLine<'_> {
        FileLine {
            name: &self.name,
            size_bytes: self.size_bytes,
            sha1: self.sha1,
        }
    }
}

/// Each different word of a name, and how often the name has it.
fn for_each_word(splitter: &mut Splitter, name: &str, mut each: impl FnMut(&str, usize)) {
    let mut words: Vec<&str> = splitter.words(name).collect();
    words.sort_unstable();
    for same in words.chunk_by(|a, b| a == b) {
        each(same[0], same.len());
    }
}

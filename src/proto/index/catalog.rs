//! Who shares what, and which names have which words. In memory; the store has what it is loaded from.
//!
//! ```text
//!   words: "song" ─▶ [posting, ...]   best first: more occurrences, then the name, then the file's number
//!                        │
//!   files: [ name, size, sha1, holder ]
//!                        │
//!   holders: [ state, files, owner ]  online: found; hidden: not yet or not now; dead: to be purged
//! ```
//! A search for one word reads its list from the front and stops when it has enough, however many match. One for
//! several words looks at the shortest list (all of them to match) or at every list (any), in pieces.
//!
//! Going is cheap and cleaning up is put off: a holder that dies is out of every search at once, and
//! [`Catalog::purge`] then counts its files out of the lists in pieces; a list is swept once half of it is dead. So
//! nothing costs the size of the catalogue, whatever leaves.
//!
//! Invariants: a posting's file exists; a list is in its order; a file goes with its last posting.
//!
//! What it does not do: ids, users, addresses, time. A holder has an `owner`, a number that means something to the
//! server alone.

mod loader;
mod scan;
mod shards;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use slab::Slab;

use super::fields::{FileLine, Sha1};
use super::words::Splitter;

use shards::Shards;

pub use loader::Loader;
pub use scan::{DEPTH_MAX, Match, Scan, WORDS_MAX};

/// Files that the index can number: a posting keeps 4 of its 32 bits for the occurrences.
pub const FILES_MAX: usize = 1 << FILE_BITS;
const FILE_BITS: u32 = 28;

/// Occurrences that rank above each other; a word that a name has more often counts as this often.
const OCCURRENCES_MAX: u32 = u32::MAX >> FILE_BITS;

/// A list of files under one state: those of one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderNo(u32);

/// A file, as long as the catalogue is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNo(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Hidden,
    Online,
    /// Being purged: its number is not free before [`Catalog::purge`] has said that it is done.
    Dead,
    /// Some list still has a file of it; the last one frees it.
    Purged,
}

#[derive(Debug)]
struct Holder {
    state: State,
    owner: u32,
    files: Vec<u32>,
    /// Files that are not freed yet.
    held: u32,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    size_bytes: u64,
    sha1: Sha1,
    holder: u32,
    /// Postings, one for each different word and one for the content, and one more until the holder lets go. At most
    /// 130: a name of 255 bytes has no more than 128 words.
    refs: u8,
}

/// A file in a word's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Posting(u32);

impl Posting {
    fn new(file: u32, occurrences: usize) -> Posting {
        let occurrences = (occurrences as u32).min(OCCURRENCES_MAX);
        Posting(occurrences << FILE_BITS | file)
    }

    fn file(self) -> u32 {
        self.0 & (FILES_MAX as u32 - 1)
    }

    fn occurrences(self) -> u32 {
        self.0 >> FILE_BITS
    }
}

/// Half of all words are in one name only, and get by without a list.
#[derive(Debug)]
enum Postings {
    One(Posting),
    Many(Box<List>),
}

#[derive(Debug)]
struct List {
    entries: Vec<Posting>,
    /// At least as many entries as are dead and counted.
    dead: u32,
}

impl Postings {
    fn as_slice(&self) -> &[Posting] {
        match self {
            Postings::One(posting) => std::slice::from_ref(posting),
            Postings::Many(list) => &list.entries,
        }
    }

    fn add(&mut self, new: &[Posting], files: &Slab<Entry>) {
        if let Postings::One(posting) = *self {
            *self = Postings::Many(Box::new(List {
                entries: vec![posting],
                dead: 0,
            }));
        }
        if let Postings::Many(list) = self {
            merge(&mut list.entries, new, files);
        }
    }
}

impl Postings {
    /// One of its files is dead. Sweeps the list once half of it may be; false when nothing is left of it.
    fn count_dead(&mut self, files: &mut Slab<Entry>, holders: &mut Slab<Holder>) -> bool {
        match self {
            Postings::One(posting) => {
                let dead = is_dead(files, holders, posting.file());
                if dead {
                    release(files, holders, posting.file());
                }
                !dead
            }
            Postings::Many(list) => {
                list.dead += 1;
                if (list.dead as usize) * 2 < list.entries.len() {
                    return true;
                }
                list.dead = 0;
                list.entries.retain(|posting| {
                    let dead = is_dead(files, holders, posting.file());
                    if dead {
                        release(files, holders, posting.file());
                    }
                    !dead
                });
                list.entries.shrink_to_fit();
                !list.entries.is_empty()
            }
        }
    }
}

/// Adds `new`, itself in order, to entries that are: a search for each place and one move of what is behind.
fn merge(entries: &mut Vec<Posting>, new: &[Posting], files: &Slab<Entry>) {
    // Of the old entries, those up to `end` are not moved yet; everything from `place` on is done.
    let mut end = entries.len();
    entries.extend_from_slice(new);
    let mut place = entries.len();
    for &posting in new.iter().rev() {
        let at = entries[..end].partition_point(|old| rank(files, *old, posting) == Ordering::Less);
        entries.copy_within(at..end, place - (end - at));
        place -= end - at;
        end = at;
        place -= 1;
        entries[place] = posting;
    }
}

/// What a content is found by: the first 8 bytes of its SHA-1.
fn front(Sha1(digest): Sha1) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Best first.
fn rank(files: &Slab<Entry>, a: Posting, b: Posting) -> Ordering {
    let by_count = b.occurrences().cmp(&a.occurrences());
    by_count.then_with(|| by_name(files, a.file(), b.file()))
}

fn by_name(files: &Slab<Entry>, a: u32, b: u32) -> Ordering {
    let name = |file: u32| &files[file as usize].name;
    name(a).cmp(name(b)).then(a.cmp(&b))
}

/// See the module.
#[derive(Debug, Default)]
pub struct Catalog {
    files: Slab<Entry>,
    holders: Slab<Holder>,
    words: Shards<Box<str>, Postings>,
    /// The same for contents, by the front of their SHA-1: whoever reads a list compares the rest.
    contents: Shards<u64, Postings>,
    splitter: Splitter,
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
    pub fn add_holder(&mut self, owner: u32) -> HolderNo {
        HolderNo(self.holders.insert(Holder {
            state: State::Hidden,
            owner,
            files: Vec::new(),
            held: 0,
        }) as u32)
    }

    /// Searches find the files of a holder that is online.
    pub fn set_online(&mut self, holder: HolderNo, online: bool) {
        if let Some(holder) = self.holders.get_mut(holder.0 as usize)
            && matches!(holder.state, State::Online | State::Hidden)
        {
            holder.state = if online { State::Online } else { State::Hidden };
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

    /// A file that a search found, and its holder's owner; `None` when it is not online any more.
    pub fn found(&self, FileNo(file): FileNo) -> Option<(FileLine<'_>, u32)> {
        let file = self.files.get(file as usize)?;
        let holder = &self.holders[file.holder as usize];
        (holder.state == State::Online).then(|| (file.line(), holder.owner))
    }

    /// Adds files to a holder. The cost is that of the files and, for each different word of theirs, one move in
    /// the word's list: a caller with many adds some at a time.
    pub fn insert<'a>(&mut self, holder: HolderNo, files: impl IntoIterator<Item = FileLine<'a>>) {
        let mut words = String::new();
        let (mut places, mut contents) = (Vec::new(), Vec::new());
        for line in files {
            let Some(file) = self.append(holder, line) else {
                return;
            };
            contents.push((front(line.sha1), Posting::new(file, 1)));
            for_each_word(&mut self.splitter, line.name, |word, occurrences| {
                let start = words.len();
                words.push_str(word);
                places.push((start..words.len(), Posting::new(file, occurrences)));
                self.files[file as usize].refs += 1;
            });
        }
        let files = &self.files;
        contents.sort_unstable_by(|(a, p), (b, q)| a.cmp(b).then_with(|| rank(files, *p, *q)));
        for same in contents.chunk_by(|(a, _), (b, _)| a == b) {
            let new: Vec<Posting> = same.iter().map(|(_, posting)| *posting).collect();
            match self.contents.get_mut(&same[0].0) {
                Some(postings) => postings.add(&new, files),
                None => self.contents.insert(same[0].0, fresh(new)),
            }
        }
        places.sort_unstable_by(|(a, p), (b, q)| {
            let by_word = words[a.clone()].cmp(&words[b.clone()]);
            by_word.then_with(|| rank(files, *p, *q))
        });
        for same in places.chunk_by(|(a, _), (b, _)| words[a.clone()] == words[b.clone()]) {
            let word = &words[same[0].0.clone()];
            let new: Vec<Posting> = same.iter().map(|(_, posting)| *posting).collect();
            match self.words.get_mut(word) {
                Some(postings) => postings.add(&new, files),
                None => self.words.insert(word.into(), fresh(new)),
            }
        }
    }

    /// Adds a file that is in no list yet.
    fn append(&mut self, holder: HolderNo, line: FileLine<'_>) -> Option<u32> {
        let owner = self.holders.get_mut(holder.0 as usize)?;
        let file = self.files.insert(Entry {
            name: line.name.into(),
            size_bytes: line.size_bytes,
            sha1: line.sha1,
            holder: holder.0,
            refs: 2,
        }) as u32;
        owner.files.push(file);
        owner.held += 1;
        Some(file)
    }

    /// Counts files of a dead holder out of the lists, about `words_max` words of them; true when all are.
    pub fn purge(&mut self, holder: HolderNo, words_max: usize) -> bool {
        let mut done = 0;
        while done < words_max {
            let Some(dead) = self.holders.get_mut(holder.0 as usize) else {
                return true;
            };
            let Some(file) = dead.files.pop() else {
                dead.state = State::Purged;
                if dead.held == 0 {
                    self.holders.remove(holder.0 as usize);
                }
                return true;
            };
            let entry = &self.files[file as usize];
            let (name, content) = (entry.name.clone(), front(entry.sha1));
            let (words, files) = (&mut self.words, &mut self.files);
            let holders = &mut self.holders;
            for_each_word(&mut self.splitter, &name, |word, _| {
                done += 1;
                let left = words
                    .get_mut(word)
                    .is_none_or(|list| list.count_dead(files, holders));
                if !left {
                    words.remove(word);
                }
            });
            done += 1;
            let left = self
                .contents
                .get_mut(&content)
                .is_none_or(|list| list.count_dead(files, holders));
            if !left {
                self.contents.remove(&content);
            }
            release(files, holders, file);
        }
        false
    }
}

impl Entry {
    fn line(&self) -> FileLine<'_> {
        FileLine {
            name: &self.name,
            size_bytes: self.size_bytes,
            sha1: self.sha1,
        }
    }
}

fn fresh(mut new: Vec<Posting>) -> Postings {
    if let [posting] = new[..] {
        return Postings::One(posting);
    }
    new.shrink_to_fit();
    Postings::Many(Box::new(List {
        entries: new,
        dead: 0,
    }))
}

/// Each different word of a name, and how often the name has it.
fn for_each_word(splitter: &mut Splitter, name: &str, mut each: impl FnMut(&str, usize)) {
    let mut words: Vec<&str> = splitter.words(name).collect();
    words.sort_unstable();
    for same in words.chunk_by(|a, b| a == b) {
        each(same[0], same.len());
    }
}

fn is_dead(files: &Slab<Entry>, holders: &Slab<Holder>, file: u32) -> bool {
    let state = holders[files[file as usize].holder as usize].state;
    matches!(state, State::Dead | State::Purged)
}

/// One reference less; the last one frees the file, and the last file of a purged holder frees that.
fn release(files: &mut Slab<Entry>, holders: &mut Slab<Holder>, file: u32) {
    let entry = &mut files[file as usize];
    entry.refs -= 1;
    if entry.refs > 0 {
        return;
    }
    let number = entry.holder as usize;
    files.remove(file as usize);
    let holder = &mut holders[number];
    holder.held -= 1;
    if holder.held == 0 && holder.state == State::Purged {
        holders.remove(number);
    }
}

//! The search ranking: names with more occurrences of a word first, then by name, then by the number of the file.

use std::cmp::Ordering;

use slab::Slab;

use super::entry::Entry;

/// Files that can be numbered: 28 of the 32 bits of a posting.
pub const FILES_MAX: usize = 1 << FILE_BITS;
const FILE_BITS: u32 = 28;

/// Occurrences that rank above each other, in the other 4 bits. More count as this many.
pub(super) const OCCURRENCES_MAX: u32 = u32::MAX >> FILE_BITS;

/// A file in the list of a word, and how often its name has the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting(u32);

impl Posting {
    pub(super) fn new(file: u32, occurrences: usize) -> Posting {
        let occurrences = occurrences.min(OCCURRENCES_MAX as usize) as u32;
        Posting(occurrences << FILE_BITS | file)
    }

    pub(super) fn file(self) -> u32 {
        self.0 & (FILES_MAX as u32 - 1)
    }

    pub(super) fn occurrences(self) -> u32 {
        self.0 >> FILE_BITS
    }
}

/// `Less`: `a` is the better match.
pub(super) fn rank(files: &Slab<Entry>, a: Posting, b: Posting) -> Ordering {
    let by_count = b.occurrences().cmp(&a.occurrences());
    by_count.then_with(|| by_name(files, a.file(), b.file()))
}

/// The order of files with as many occurrences.
pub(super) fn by_name(files: &Slab<Entry>, a: u32, b: u32) -> Ordering {
    let name = |file: u32| &files[file as usize].name;
    name(a).cmp(name(b)).then(a.cmp(&b))
}

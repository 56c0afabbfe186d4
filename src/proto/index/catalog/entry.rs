//! The records of files and holders in the catalogue.

use crate::proto::index::fields::{FileLine, Sha1};

use super::words::Splitter;

/// The number of a holder: a list of files that is shown and hidden as one, that of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderNo(pub(super) u32);

/// The number of a file. Valid until the catalogue changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNo(pub(super) u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Hidden,
    Online {
        label: Box<str>,
    },
    /// Being purged. Its number is reused only after [`super::Catalog::purge`] has returned true.
    Dead,
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) state: State,
    pub(super) files: Vec<u32>,
}

impl Holder {
    pub(super) fn is_online(&self) -> bool {
        matches!(self.state, State::Online { .. })
    }
}

/// A file of a holder.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<str>,
    pub(super) size_bytes: u64,
    pub(super) sha1: Sha1,
    pub(super) holder: u32,
    /// The [`signature`]s of its words.
    pub(super) signature: u64,
}

impl Entry {
    pub(super) fn new(holder: HolderNo, line: FileLine<'_>) -> Entry {
        Entry {
            name: line.name.into(),
            size_bytes: line.size_bytes,
            sha1: line.sha1,
            holder: holder.0,
            signature: 0,
        }
    }

    pub(super) fn line(&self) -> FileLine<'_> {
        FileLine {
            name: &self.name,
            size_bytes: self.size_bytes,
            sha1: self.sha1,
        }
    }
}

/// A Bloom filter of one bit a word: most names that lack a word are ruled out without reading them.
pub(super) fn signature(word: &str) -> u64 {
    // FNV-1a, not keyed: words chosen to share a bit only make searches read more names.
    let mix = |sum: u32, byte: u8| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    1 << (word.bytes().fold(0x811c_9dc5, mix) >> 26)
}

/// The key of a content in its map: the first 8 bytes of its SHA-1. Readers of a list compare the rest.
pub(super) fn content_key(Sha1(digest): Sha1) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Calls `each` with every different word of a name and how often the name has it.
pub(super) fn for_each_word(
    splitter: &mut Splitter,
    name: &str,
    mut each: impl FnMut(&str, usize),
) {
    let mut words: Vec<&str> = splitter.words(name).collect();
    words.sort_unstable();
    for same in words.chunk_by(|a, b| a == b) {
        each(same[0], same.len());
    }
}

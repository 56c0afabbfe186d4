//! Versions: which of two states of an entry is the newer one.
//!
//! A version is a Lamport clock's counter with 20 bits of the writer's id below it. Two writers that do not know of each
//! other may use the same counter; their ids decide then, the same way at every node. The clock of a node is the highest
//! version that it has seen, so what it writes next is newer than everything it knows.
//!
//! A peer can send any number, and there is no proof of who wrote it. One near the end of the 44 bits stops the clock: all
//! later writes have the same version, and the first of each key wins. Such a peer could as well overwrite every entry.

use std::fmt;

use crate::proto::dht::id::Id;

/// Bits of the writer's id.
const WRITER_BITS: u32 = 20;

/// When an entry was written, in the order of the writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// Of an entry from a peer or a data directory without versions: older than every other.
    pub const ZERO: Version = Version(0);

    /// Older than what is written after this time, in milliseconds since 1970.
    pub fn of_millis(millis: u64) -> Version {
        Version(millis.min(u64::MAX >> WRITER_BITS) << WRITER_BITS)
    }

    /// The next version of this writer, whose clock stands at `self`.
    #[must_use]
    pub fn next(self, writer: Writer) -> Version {
        let counter = (self.0 >> WRITER_BITS).saturating_add(1);
        Version(counter.min(u64::MAX >> WRITER_BITS) << WRITER_BITS | u64::from(writer.0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a node's id that its versions have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer(u32);

impl From<Id> for Writer {
    fn from(id: Id) -> Writer {
        let [.., a, b, c] = id.to_be_bytes();
        Writer(u32::from_be_bytes([0, a, b, c]) & ((1 << WRITER_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_newer_whoever_writes_it() {
        let (low, high) = (Writer::from(Id::ZERO), Writer::from(Id::MAX));
        assert!(Version::ZERO < Version::ZERO.next(low));
        assert!(Version::ZERO.next(low) < Version::ZERO.next(high));
        assert!(Version::ZERO.next(high) < Version::ZERO.next(high).next(low));
        let end = Version(u64::MAX);
        assert_eq!(end.next(high), end, "the clock stops");
    }
}

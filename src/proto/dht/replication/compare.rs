//! What a node tells of a range in short: how many entries, and a digest of their keys and versions.
//!
//! A digest is the sum, modulo 2^64, of [`mix`] of each entry, tombstones included. A sum has no order, so the entries can
//! be walked piece by piece while others change, and an entry is looked at once for all parts of its range. Versions stand
//! for values: an owner never gives two values of a key the same version.
//!
//! It finds what went wrong, not who cheats: a peer that chooses its keys can make two digests the same.

use crate::proto::dht::id::Id;
use crate::proto::dht::storage::entries::Entries;
use crate::proto::dht::wire::extension::{DIGEST_PARTS, Part};

/// Entries looked at in one turn: about 30 us.
pub(super) const COMPARED_PER_TURN: usize = 1024;

/// The parts of a range, counted and summed piece by piece.
#[derive(Debug)]
pub(super) struct Digesting {
    start: Id,
    end: Id,
    /// The next key to look from.
    at: Id,
    bounds: [Id; DIGEST_PARTS + 1],
    /// The part that `at` is in, or an earlier one.
    part: usize,
    parts: [Part; DIGEST_PARTS],
    is_done: bool,
}

impl Digesting {
    pub(super) fn new(start: Id, end: Id) -> Digesting {
        Digesting {
            start,
            end,
            at: start,
            bounds: start.sixteenths(end),
            part: 0,
            parts: Default::default(),
            is_done: false,
        }
    }

    /// Looks at up to `most` entries; the parts, once it has seen all, and then again and again.
    pub(super) fn step(&mut self, entries: &Entries, most: usize) -> Option<&[Part; DIGEST_PARTS]> {
        if self.is_done {
            return Some(&self.parts);
        }
        for (seen, (key, entry)) in entries.arc_with_tombstones(self.at, self.end).enumerate() {
            if seen == most {
                self.at = key;
                return None;
            }
            let distance = self.start.distance_to(key);
            while self.part + 1 < DIGEST_PARTS
                && distance >= self.start.distance_to(self.bounds[self.part + 1])
            {
                self.part += 1;
            }
            let part = &mut self.parts[self.part];
            part.count += 1;
            part.digest = part.digest.wrapping_add(mix(key, entry.version.0));
        }
        self.is_done = true;
        Some(&self.parts)
    }
}

/// The parts of `[start, end)` that are not empty ranges, with their places.
pub(super) fn ranges(start: Id, end: Id) -> impl Iterator<Item = (usize, (Id, Id))> {
    let bounds = start.sixteenths(end);
    (0..DIGEST_PARTS)
        .map(move |i| (i, (bounds[i], bounds[i + 1])))
        .filter(|(_, (start, end))| start != end)
}

/// 64 bits of a key and a version. All nodes have to compute the same.
fn mix(key: Id, version: u64) -> u64 {
    let bytes = key.to_be_bytes();
    let (words, last) = bytes.as_chunks::<8>();
    let last = last
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte));
    let words = words.iter().map(|word| u64::from_be_bytes(*word));
    words
        .chain([last])
        .fold(version ^ 0x9E37_79B9_7F4A_7C15, |hash, word| {
            let hash = (hash ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
            hash ^ (hash >> 32)
        })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::dht::storage::version::Version;

    fn id(n: u8) -> Id {
        let mut bytes = [0; 20];
        bytes[0] = n;
        Id::from_be_bytes(bytes)
    }

    fn digest(entries: &Entries, start: Id, end: Id, most: usize) -> [Part; DIGEST_PARTS] {
        let mut digesting = Digesting::new(start, end);
        loop {
            if let Some(parts) = digesting.step(entries, most) {
                let parts = *parts;
                assert_eq!(digesting.step(entries, most), Some(&parts), "nothing twice");
                return parts;
            }
        }
    }

    proptest! {
        #[test]
        fn each_part_is_that_of_its_range(
            keys in prop::collection::vec((any::<u8>(), 0..3u64, any::<bool>()), 0..60),
            start: u8,
            end: u8,
            most in 1..9usize,
        ) {
            let mut entries = Entries::default();
            entries.keep_tombstones(true);
            for (key, version, tombstone) in keys {
                let value = (!tombstone).then(Bytes::new);
                entries.merge(id(key), Version(version), value);
            }
            let (start, end) = (id(start), id(end));
            let parts = digest(&entries, start, end, most);
            let mut whole = 0;
            for (i, (from, to)) in ranges(start, end) {
                let in_part = entries.arc_with_tombstones(from, to);
                let want = in_part.fold(Part::default(), |part, (key, entry)| Part {
                    count: part.count + 1,
                    digest: part.digest.wrapping_add(mix(key, entry.version.0)),
                });
                prop_assert_eq!(parts[i], want);
                whole += want.count;
            }
            prop_assert_eq!(whole, entries.arc_with_tombstones(start, end).count() as u64);
        }
    }

    #[test]
    fn a_digest_tells_keys_and_versions_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            for version in 0..100 {
                assert!(seen.insert(mix(id(n), version)));
            }
        }
        // What other nodes compute.
        assert_eq!(mix(id(1), 2), MIX_OF_1_AND_2);
    }

    const MIX_OF_1_AND_2: u64 = 11_913_523_602_648_297_487;
}

//! The entries of a node, as reads see them.
//!
//! Kept in key order, so that the part of the ring which moves with a join or a leave can be walked piece
//! by piece while the node serves, and cut off whole; a hash map would be a little faster to read and could do
//! neither. Durability is not decided here: what is in this map has been committed, or need not be. Neither is
//! ownership: while a range is handed over, entries are here that the node does not serve.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;

use super::id::Id;

/// What an entry costs beyond the bytes of its value: key, handle, its share of the tree's nodes, and the
/// allocator's header.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Keys and values in memory.
#[derive(Debug, Default)]
pub struct Entries {
    map: BTreeMap<Id, Bytes>,
    value_bytes: u64,
}

impl Entries {
    pub fn get(&self, key: Id) -> Option<&Bytes> {
        self.map.get(&key)
    }

    pub fn contains(&self, key: Id) -> bool {
        self.map.contains_key(&key)
    }

    /// Sets the value of `key`.
    pub fn insert(&mut self, key: Id, value: Bytes) {
        self.value_bytes += value.len() as u64;
        if let Some(old) = self.map.insert(key, value) {
            self.value_bytes -= old.len() as u64;
        }
    }

    /// True when there was an entry.
    pub fn remove(&mut self, key: Id) -> bool {
        let old = self.map.remove(&key);
        self.value_bytes -= old.as_ref().map_or(0, |value| value.len() as u64);
        old.is_some()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    /// Roughly what the entries take in memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.value_bytes + self.map.len() as u64 * ENTRY_OVERHEAD_BYTES
    }

    /// The same once `key` has `value`, in place of what it has now.
    pub fn memory_bytes_with(&self, key: Id, value: &Bytes) -> u64 {
        self.memory_bytes() - self.get(key).map_or(0, entry_bytes) + entry_bytes(value)
    }

    /// The entries of `[start, end)` clockwise, in that order; all of them when the two are the same.
    pub fn arc(&self, start: Id, end: Id) -> impl Iterator<Item = (Id, &Bytes)> {
        let wraps = start >= end;
        let first = if wraps {
            (Included(start), Unbounded)
        } else {
            (Included(start), Excluded(end))
        };
        let second = wraps.then(|| self.map.range((Unbounded, Excluded(end))));
        let entries = self.map.range(first).chain(second.into_iter().flatten());
        entries.map(|(key, value)| (*key, value))
    }

    /// Removes up to `count` entries of `[start, end)` and adds their keys to `removed`; false when none is left.
    pub fn remove_some(&mut self, start: Id, end: Id, count: usize, removed: &mut Vec<Id>) -> bool {
        let first = removed.len();
        removed.extend(self.arc(start, end).map(|(key, _)| key).take(count));
        for key in &removed[first..] {
            self.remove(*key);
        }
        removed.len() - first == count
    }
}

/// Roughly what an entry with this value takes in memory.
pub fn entry_bytes(value: &Bytes) -> u64 {
    value.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Id {
        let mut bytes = [0; 20];
        bytes[19] = n;
        Id::from_be_bytes(bytes)
    }

    #[test]
    fn an_arc_wraps_and_is_cut_out_whole() {
        for start in 0..12_u8 {
            for end in 0..12_u8 {
                let mut entries = Entries::default();
                for n in (0..12).step_by(2) {
                    entries.insert(id(n), Bytes::from(vec![0; usize::from(n)]));
                }
                let all = entries.value_bytes;
                let in_arc = |n: &u8| id(*n).in_arc(id(start), id(end));
                let walked: Vec<Id> = entries
                    .arc(id(start), id(end))
                    .map(|(key, _)| key)
                    .collect();
                let mut want: Vec<u8> = (0..12).step_by(2).filter(in_arc).collect();
                want.sort_by_key(|n| (n + 12 - start) % 12);
                assert_eq!(walked, want.iter().map(|n| id(*n)).collect::<Vec<_>>());
                let mut removed = Vec::new();
                while entries.remove_some(id(start), id(end), 2, &mut removed) {}
                assert_eq!(removed, walked);
                assert_eq!(entries.len(), 6 - want.len());
                let gone: u64 = want.iter().map(|n| u64::from(*n)).sum();
                assert_eq!(entries.value_bytes, all - gone);
            }
        }
    }
}

//! The entries of a node, as reads see them.
//!
//! Kept in key order: the part of the ring that moves with a join or a leave is walked piece by piece while the node
//! serves, and is cut off whole. A hash map would be a little faster to read and could do neither.
//!
//! A value that leaves the map may live on in the output of a peer that reads slowly. Its handle is then kept among the
//! pinned ones, whose bytes count as memory until the last other handle is gone. A few pinned handles are looked at with
//! each change, so keeping them costs O(1) amortised.
//!
//! Durability is not decided here: what is in this map has been committed, or need not be. Neither is ownership: while a
//! range is handed over, entries are here that the node does not serve.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;

use crate::proto::dht::id::Id;

/// What an entry costs beyond the bytes of its value: key, handle, its share of the tree's nodes, and the
/// allocator's header.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Pinned handles looked at with each change: more than one, so that they become fewer.
const PINNED_PER_CHANGE: usize = 2;

/// Values up to this length count as free once they are replaced, whoever else has a handle. The store's log keeps one of
/// each value up to this length, and drops it with the commit of the next. If it is a slow reader's instead, the value is
/// pinned, and counts from then on. `workers::dht` asserts that it is the store's bound.
pub const LOGGED_BYTES_MAX: usize = 32 << 10;

/// Keys and values in memory.
#[derive(Debug, Default)]
pub struct Entries {
    map: BTreeMap<Id, Bytes>,
    value_bytes: u64,
    /// Values that left the map while an output queue had a handle of them.
    pinned: VecDeque<Bytes>,
    pinned_bytes: u64,
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
            self.pin(old);
        }
        self.release_pinned(PINNED_PER_CHANGE);
    }

    /// True when there was an entry.
    pub fn remove(&mut self, key: Id) -> bool {
        let old = self.map.remove(&key);
        let was_there = old.is_some();
        if let Some(old) = old {
            self.pin(old);
        }
        self.release_pinned(PINNED_PER_CHANGE);
        was_there
    }

    /// Takes an entry out to put it elsewhere: its value is not pinned.
    pub fn take(&mut self, key: Id) -> Option<Bytes> {
        let value = self.map.remove(&key)?;
        self.value_bytes -= value.len() as u64;
        Some(value)
    }

    /// A value left the map.
    fn pin(&mut self, value: Bytes) {
        self.value_bytes -= value.len() as u64;
        if !value.is_empty() && !value.is_unique() {
            self.pinned_bytes += entry_bytes(&value);
            self.pinned.push_back(value);
        }
    }

    /// Looks at up to `count` pinned values and drops those without another handle.
    #[inline]
    pub fn release_pinned(&mut self, count: usize) {
        if !self.pinned.is_empty() {
            self.release_some(count);
        }
    }

    fn release_some(&mut self, count: usize) {
        for _ in 0..count.min(self.pinned.len()) {
            let Some(value) = self.pinned.pop_front() else {
                return;
            };
            if value.is_unique() {
                self.pinned_bytes -= entry_bytes(&value);
            } else {
                self.pinned.push_back(value);
            }
        }
    }

    /// Bytes of values that left the map and are still being sent, or written, somewhere.
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
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

    /// Roughly what the entries take in memory, in bytes, pinned values included.
    pub fn memory_bytes(&self) -> u64 {
        self.value_bytes + self.map.len() as u64 * ENTRY_OVERHEAD_BYTES + self.pinned_bytes
    }

    /// Bytes that become free when the value of `key` is replaced.
    pub fn freed_bytes(&self, key: Id) -> u64 {
        let value = self
            .get(key)
            .filter(|value| value.len() <= LOGGED_BYTES_MAX || value.is_unique());
        value.map_or(0, entry_bytes)
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
    fn a_value_that_is_still_read_counts_until_it_is_not() {
        let mut entries = Entries::default();
        let value = |n: u8| Bytes::from(vec![n; 2 * LOGGED_BYTES_MAX]);
        let mut readers = Vec::new();
        for n in 0..10 {
            entries.insert(id(1), value(n));
            readers.push(entries.get(id(1)).cloned());
        }
        let one = entry_bytes(&value(0));
        assert_eq!(
            (entries.memory_bytes(), entries.freed_bytes(id(1))),
            (10 * one, 0)
        );
        assert!(entries.remove(id(1)));
        assert_eq!(
            (entries.memory_bytes(), entries.value_bytes()),
            (10 * one, 0)
        );
        readers.truncate(4);
        entries.release_pinned(10);
        assert_eq!(entries.pinned_bytes(), 4 * one);
        readers.clear();
        entries.remove(id(1));
        entries.remove(id(1));
        assert_eq!(entries.memory_bytes(), 0);
        entries.insert(id(1), value(1));
        entries.insert(id(1), value(2));
        assert_eq!(
            (entries.memory_bytes(), entries.freed_bytes(id(1))),
            (one, one)
        );
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

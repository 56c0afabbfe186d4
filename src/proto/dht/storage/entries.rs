//! The entries of a node, as reads see them.
//!
//! Kept in key order: the part of the ring that moves with a join or a leave is walked piece by piece while the node
//! serves, and is cut off whole. A hash map would be a little faster to read and could do neither.
//!
//! An entry has a version, and [`Entries::merge`] keeps the newer one of two, so the same entries may come in any order
//! and more than once. A key that was removed may leave a *tombstone*: an entry without a value, so that an older copy of
//! the value is known to be old. Reads do not see tombstones.
//!
//! A value that leaves the map may live on in the output of a peer that reads slowly. Its handle is then kept among the
//! pinned ones, whose bytes count as memory until the last other handle is gone. A few pinned handles are looked at with
//! each change, so keeping them costs O(1) amortised.
//!
//! Durability is not decided here: what is in this map has been committed, or need not be. Neither is ownership: copies
//! that the node holds for other members are here, and entries of a range that is being handed over; it serves neither.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;

use super::version::{Version, Writer};
use crate::proto::dht::id::Id;

/// What an entry costs beyond the bytes of its value: key, version, handle, its share of the tree's nodes, and the
/// allocator's header. A tombstone costs the same.
const ENTRY_OVERHEAD_BYTES: u64 = 110;

/// Pinned handles looked at with each change: more than one, so that they become fewer.
const PINNED_PER_CHANGE: usize = 2;

/// Values up to this length count as free once they are replaced, whoever else has a handle. The store's log keeps one of
/// each value up to this length, and drops it with the commit of the next. If it is a slow reader's instead, the value is
/// pinned, and counts from then on. `workers::dht` asserts that it is the store's bound.
pub const LOGGED_BYTES_MAX: usize = 32 << 10;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub version: Version,
    /// `None`: the key was removed.
    pub value: Option<Bytes>,
}

/// Keys, versions and values in memory.
#[derive(Debug, Default)]
pub struct Entries {
    map: BTreeMap<Id, Entry>,
    tombstones: usize,
    value_bytes: u64,
    /// Values that left the map while an output queue had a handle of them.
    pinned: VecDeque<Bytes>,
    pinned_bytes: u64,
    /// The highest version seen.
    clock: Version,
    writer: Writer,
    keeps_tombstones: bool,
    /// Tombstones up to this version are old.
    old: Version,
}

impl Entries {
    /// No entries, with the clock and the settings of these.
    #[must_use]
    pub fn emptied(&self) -> Entries {
        Entries {
            clock: self.clock,
            writer: self.writer,
            keeps_tombstones: self.keeps_tombstones,
            old: self.old,
            ..Entries::default()
        }
    }

    /// Who writes here, for [`Entries::next_version`].
    pub fn set_writer(&mut self, me: Id) {
        self.writer = Writer::from(me);
    }

    /// Whether removed keys leave tombstones from now on. Those that are here stay.
    pub fn keep_tombstones(&mut self, keeps: bool) {
        self.keeps_tombstones = keeps;
    }

    pub fn keeps_tombstones(&self) -> bool {
        self.keeps_tombstones
    }

    /// Tombstones up to this version are old: they are not taken any more.
    pub fn forget_tombstones_to(&mut self, version: Version) {
        self.old = self.old.max(version);
    }

    /// This one may be dropped.
    pub fn is_old_tombstone(&self, entry: &Entry) -> bool {
        entry.value.is_none() && (entry.version <= self.old || !self.keeps_tombstones)
    }

    /// The highest version that this node has seen.
    pub fn clock(&self) -> Version {
        self.clock
    }

    /// There is such a version somewhere.
    pub fn observe(&mut self, version: Version) {
        self.clock = self.clock.max(version);
    }

    /// A version that is newer than all that this node has seen.
    pub fn next_version(&mut self) -> Version {
        self.clock = self.clock.next(self.writer);
        self.clock
    }

    pub fn get(&self, key: Id) -> Option<&Bytes> {
        self.map.get(&key)?.value.as_ref()
    }

    /// With tombstones.
    pub fn entry(&self, key: Id) -> Option<&Entry> {
        self.map.get(&key)
    }

    pub fn contains(&self, key: Id) -> bool {
        self.get(key).is_some()
    }

    /// Stores a value, or a tombstone, when it is newer than what is here; false when it is not. Without tombstones, and
    /// when it is long ago, a removal just removes.
    pub fn merge(&mut self, key: Id, version: Version, value: Option<Bytes>) -> bool {
        self.observe(version);
        let is_kept = value.is_some() || self.keeps_tombstones && version > self.old;
        let before = match self.map.entry(key) {
            Slot::Vacant(slot) if is_kept => {
                self.tombstones += usize::from(value.is_none());
                self.value_bytes += value.as_ref().map_or(0, |value| value.len() as u64);
                slot.insert(Entry { version, value });
                None
            }
            Slot::Occupied(mut slot) if version > slot.get().version => {
                self.tombstones += usize::from(is_kept && value.is_none());
                self.value_bytes += value.as_ref().map_or(0, |value| value.len() as u64);
                Some(if is_kept {
                    slot.insert(Entry { version, value })
                } else {
                    slot.remove()
                })
            }
            _ => return false,
        };
        if let Some(before) = before {
            self.left(before);
        }
        self.release_pinned(PINNED_PER_CHANGE);
        true
    }

    /// Sets the value of `key`, as the newest.
    pub fn insert(&mut self, key: Id, value: Bytes) {
        let version = self.next_version();
        self.merge(key, version, Some(value));
    }

    /// Drops what is known of `key`, a tombstone too. True when there was something.
    pub fn forget(&mut self, key: Id) -> bool {
        let before = self.map.remove(&key);
        let was_there = before.is_some();
        if let Some(before) = before {
            self.left(before);
        }
        self.release_pinned(PINNED_PER_CHANGE);
        was_there
    }

    /// Takes an entry out to put it elsewhere: its value is not pinned.
    pub fn take(&mut self, key: Id) -> Option<Entry> {
        let entry = self.map.remove(&key)?;
        match &entry.value {
            Some(value) => self.value_bytes -= value.len() as u64,
            None => self.tombstones -= 1,
        }
        Some(entry)
    }

    /// An entry left the map.
    fn left(&mut self, entry: Entry) {
        match entry.value {
            Some(value) => self.pin(value),
            None => self.tombstones -= 1,
        }
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

    /// Entries with a value.
    pub fn len(&self) -> usize {
        self.map.len() - self.tombstones
    }

    /// Nothing is here, not even a tombstone.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    /// Roughly what the entries take in memory, in bytes, tombstones and pinned values included.
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
        self.arc_with_tombstones(start, end)
            .filter_map(|(key, entry)| Some((key, entry.value.as_ref()?)))
    }

    /// As [`Entries::arc`], with tombstones.
    pub fn arc_with_tombstones(&self, start: Id, end: Id) -> impl Iterator<Item = (Id, &Entry)> {
        let wraps = start >= end;
        let first = if wraps {
            (Included(start), Unbounded)
        } else {
            (Included(start), Excluded(end))
        };
        let second = wraps.then(|| self.map.range((Unbounded, Excluded(end))));
        let entries = self.map.range(first).chain(second.into_iter().flatten());
        entries.map(|(key, entry)| (*key, entry))
    }

    /// Forgets up to `count` entries of `[start, end)` and adds their keys to `gone`; false when none is left.
    pub fn forget_some(&mut self, start: Id, end: Id, count: usize, gone: &mut Vec<Id>) -> bool {
        let first = gone.len();
        let entries = self.arc_with_tombstones(start, end);
        gone.extend(entries.map(|(key, _)| key).take(count));
        for key in &gone[first..] {
            self.forget(*key);
        }
        gone.len() - first == count
    }
}

/// Roughly what an entry with this value takes in memory.
pub fn entry_bytes(value: &Bytes) -> u64 {
    value.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert!(entries.forget(id(1)));
        assert_eq!(
            (entries.memory_bytes(), entries.value_bytes()),
            (10 * one, 0)
        );
        readers.truncate(4);
        entries.release_pinned(10);
        assert_eq!(entries.pinned_bytes(), 4 * one);
        readers.clear();
        entries.forget(id(1));
        entries.forget(id(1));
        assert_eq!(entries.memory_bytes(), 0);
        entries.insert(id(1), value(1));
        entries.insert(id(1), value(2));
        assert_eq!(
            (entries.memory_bytes(), entries.freed_bytes(id(1))),
            (one, one)
        );
    }

    /// A state of one of four keys. There is one write of each version, so the version decides what it wrote.
    fn state() -> impl Strategy<Value = (Id, Version, Option<Bytes>)> {
        (0..4_u8, 0..12_u8).prop_map(|(key, n)| {
            let value = (n % 3 > 0).then(|| Bytes::from(vec![n; usize::from(n)]));
            (id(key), Version(u64::from(n)), value)
        })
    }

    fn merged<'a>(
        keeps: bool,
        states: impl IntoIterator<Item = &'a (Id, Version, Option<Bytes>)>,
    ) -> Entries {
        let mut entries = Entries::default();
        entries.keep_tombstones(keeps);
        for (key, version, value) in states {
            let before = entries.entry(*key).cloned();
            let is_newer = entries.merge(*key, *version, value.clone());
            assert_eq!(is_newer, entries.entry(*key) != before.as_ref());
        }
        entries
    }

    fn all(entries: &Entries) -> Vec<(Id, Entry)> {
        let all = entries.arc_with_tombstones(Id::ZERO, Id::ZERO);
        all.map(|(key, entry)| (key, entry.clone())).collect()
    }

    proptest! {
        /// In any order, any of them more than once, in any groups.
        #[test]
        fn merges_of_the_same_states_agree(
            states in prop::collection::vec(state(), 0..24),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
            cut in any::<prop::sample::Index>(),
        ) {
            let once = merged(true, &states);
            let repeats = again.iter().filter(|_| !states.is_empty()).map(|i| i.get(&states));
            prop_assert_eq!(all(&once), all(&merged(true, states.iter().rev().chain(repeats))));
            let (one, two) = states.split_at(cut.index(states.len() + 1));
            let (one, two) = (all(&merged(true, one)), all(&merged(true, two)));
            let groups = two.into_iter().chain(one).map(|(key, e)| (key, e.version, e.value));
            prop_assert_eq!(all(&once), all(&merged(true, &groups.collect::<Vec<_>>())));
            let newest = states.iter().map(|(_, version, _)| *version).max();
            prop_assert_eq!(once.clock(), newest.unwrap_or_default());
        }

        #[test]
        fn the_account_is_that_of_what_is_there(
            states in prop::collection::vec(state(), 0..24),
            forgotten in prop::collection::vec(0..4_u8, 0..4),
            keeps in any::<bool>(),
        ) {
            let mut entries = merged(keeps, &states);
            for (n, key) in forgotten.iter().enumerate() {
                if n % 2 == 0 {
                    entries.forget(id(*key));
                } else {
                    entries.take(id(*key));
                }
            }
            let all = all(&entries);
            let values: Vec<&Bytes> = all.iter().filter_map(|(_, e)| e.value.as_ref()).collect();
            let value_bytes: u64 = values.iter().map(|value| value.len() as u64).sum();
            prop_assert_eq!(entries.len(), values.len());
            prop_assert_eq!(entries.len(), entries.arc(Id::ZERO, Id::ZERO).count());
            prop_assert_eq!(entries.tombstones(), all.len() - values.len());
            prop_assert!(keeps || entries.tombstones() == 0);
            prop_assert_eq!(entries.value_bytes(), value_bytes);
            let overhead_bytes = all.len() as u64 * ENTRY_OVERHEAD_BYTES;
            let held_bytes = entries.memory_bytes() - entries.pinned_bytes();
            prop_assert_eq!(held_bytes, value_bytes + overhead_bytes);
        }
    }

    #[test]
    fn reads_do_not_see_a_tombstone() {
        let mut entries = Entries::default();
        entries.keep_tombstones(true);
        entries.set_writer(Id::of(b"me"));
        entries.insert(id(1), Bytes::from_static(b"old"));
        let removal = entries.next_version();
        assert!(entries.merge(id(1), removal, None));
        assert!(!entries.contains(id(1)) && entries.get(id(1)).is_none());
        assert_eq!((entries.len(), entries.is_empty()), (0, false));
        assert!(
            !entries.merge(id(1), removal, Some(Bytes::new())),
            "not newer"
        );
        entries.insert(id(1), Bytes::from_static(b"new"));
        assert_eq!((entries.len(), entries.tombstones()), (1, 0));
        assert!(entries.emptied().clock() > removal);
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
                while entries.forget_some(id(start), id(end), 2, &mut removed) {}
                assert_eq!(removed, walked);
                assert_eq!(entries.len(), 6 - want.len());
                let gone: u64 = want.iter().map(|n| u64::from(*n)).sum();
                assert_eq!(entries.value_bytes, all - gone);
            }
        }
    }
}

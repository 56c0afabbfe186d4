//! The entries of a node, as reads see them.
//!
//! Kept in key order, so that the part of the ring which moves with a join or a leave can be walked piece
//! by piece while the node serves; a hash map would be a little faster to read and could not be.
//! Durability is not decided here: what is in this map has been committed, or need not be.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::id::Id;

/// What an entry costs beyond the bytes of its value: key, handle, its share of the tree's nodes, and the
/// allocator's header. Measured with 1,000,000 entries of 100 bytes.
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

    /// Roughly what the entries take in memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.value_bytes + self.map.len() as u64 * ENTRY_OVERHEAD_BYTES
    }

    /// The same once `key` has `value`, in place of what it has now.
    pub fn memory_bytes_with(&self, key: Id, value: &Bytes) -> u64 {
        self.memory_bytes() - self.get(key).map_or(0, entry_bytes) + entry_bytes(value)
    }
}

/// Roughly what an entry with this value takes in memory.
pub fn entry_bytes(value: &Bytes) -> u64 {
    value.len() as u64 + ENTRY_OVERHEAD_BYTES
}

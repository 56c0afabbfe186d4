//! A hash map that grows a little at a time.
//!
//! A map of a million words that doubles moves all of them at once, which would stop the loop for tens of
//! milliseconds. Here each of many small maps does it for itself.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// With a million keys a map that doubles moves 4,000 of them: a quarter of a millisecond.
const SHARDS: usize = 256;

#[derive(Debug)]
pub(super) struct Shards<K, V> {
    /// Keyed, as that of the maps: nobody can choose keys that meet in one place.
    state: RandomState,
    maps: Vec<HashMap<K, V>>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Shards<K, V> {
        Shards {
            state: RandomState::new(),
            maps: std::iter::repeat_with(HashMap::new).take(SHARDS).collect(),
        }
    }
}

impl<K: Hash + Eq, V> Shards<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.state.hash_one(key) as usize % SHARDS
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.maps[self.shard(key)].get(key)
    }

    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        self.maps[shard].get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        self.maps[shard].insert(key, value);
    }

    pub(super) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        self.maps[shard].remove(key);
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.maps.iter_mut().flat_map(HashMap::values_mut)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.maps.iter().flatten()
    }
}

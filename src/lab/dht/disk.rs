//! Simulated disks: what a durable node's worker has committed, in a map that outlives the node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Write, Written};
use crate::proto::dht::storage::entries::{Entries, Entry};

/// A disk.
pub type Disk = Arc<Mutex<BTreeMap<Id, Entry>>>;

pub(super) fn lock(disk: &Disk) -> MutexGuard<'_, BTreeMap<Id, Entry>> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node finds at its start.
pub(super) fn load(disk: &Disk, keeps_tombstones: bool) -> Entries {
    let mut entries = Entries::default();
    entries.keep_tombstones(keeps_tombstones);
    for (key, entry) in lock(disk).iter() {
        entries.merge(*key, entry.version, entry.value.clone());
    }
    entries
}

/// A key of which the disk has another entry than the node has in memory.
pub(super) fn differs(disk: &Disk, entries: &Entries) -> Option<String> {
    let disk = lock(disk);
    let memory = entries.arc_with_tombstones(Id::ZERO, Id::ZERO);
    let memory: BTreeMap<Id, &Entry> = memory.collect();
    let mut keys = memory.keys().chain(disk.keys());
    let key = keys.find(|key| memory.get(key).copied() != disk.get(key))?;
    let version = |entry: &Entry| entry.version;
    let memory = memory.get(key).map(|entry| version(entry));
    let disk = disk.get(key).map(version);
    Some(format!(
        "{key} version {memory:?} in memory, {disk:?} on the disk"
    ))
}

/// This is what the disk has of a key.
pub(super) fn has(disk: &Disk, key: Id, state: Option<&Bytes>) -> bool {
    let disk = lock(disk);
    disk.get(&key)
        .is_some_and(|entry| entry.value.as_ref() == state)
}

/// The worker that commits to a disk.
#[derive(Debug)]
pub struct Commits(pub Disk);

impl Work for Commits {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        let mut disk = lock(&self.0);
        for write in jobs.drain(..) {
            write.changes.each(|key, entry| match entry {
                Some(entry) if entry.value.is_some() || write.keeps_tombstones => {
                    disk.insert(key, entry.clone());
                }
                _ => _ = disk.remove(&key),
            });
            done.push(Written {
                write,
                committed: true,
            });
        }
    }
}

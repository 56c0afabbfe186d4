//! Simulated disks: what a durable node's worker has committed, in a map that outlives the node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::proto::dht::storage::entries::Entries;

/// A disk.
pub type Disk = Arc<Mutex<BTreeMap<Id, Bytes>>>;

pub(super) fn lock(disk: &Disk) -> MutexGuard<'_, BTreeMap<Id, Bytes>> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node finds at its start.
pub(super) fn load(disk: &Disk) -> Entries {
    let mut entries = Entries::default();
    for (key, value) in lock(disk).iter() {
        entries.insert(*key, value.clone());
    }
    entries
}

/// The disk has exactly what the node has in memory.
pub(super) fn is_same(disk: &Disk, entries: &Entries) -> bool {
    let disk = lock(disk);
    let memory = entries.arc(Id::ZERO, Id::ZERO);
    memory.eq(disk.iter().map(|(key, value)| (*key, value)))
}

/// This is what the disk has of a key.
pub(super) fn has(disk: &Disk, key: Id, state: Option<&Bytes>) -> bool {
    lock(disk).get(&key) == state
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
            let mut change = |key: Id, value: &Option<Bytes>| match value {
                Some(value) => _ = disk.insert(key, value.clone()),
                None => _ = disk.remove(&key),
            };
            match &write.changes {
                Changes::One(key, value) => change(*key, value),
                Changes::Many(many) => many.iter().for_each(|(key, value)| change(*key, value)),
            }
            done.push(Written {
                write,
                committed: true,
            });
        }
    }
}

//! What the worker of a durable node commits, and what follows.
//!
//! Changes are committed in the order in which they are given. At the worker's limit they are given back; nothing is
//! queued here.

use crate::engine::{ConnId, Hub};

use super::entries::{self, Entry};
use super::version::Version;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::DhtNode;
use crate::proto::dht::replication::copies::Client;
use crate::proto::dht::replication::drive::answer;
use crate::proto::dht::replication::syncs::SyncId;

/// Changes for the worker to commit.
#[derive(Debug)]
pub struct Write {
    pub changes: Changes,
    /// False: a removed key leaves no tombstone on the disk.
    pub keeps_tombstones: bool,
    pub(crate) then: Then,
}

/// What to store.
#[derive(Debug)]
pub enum Changes {
    One(Id, Entry),
    Many(Vec<(Id, Entry)>),
    /// Nothing is to be known of these keys.
    Forget(Vec<Id>),
    /// Nothing: there was something newer of this key than this version. It is on the disk once this comes back.
    Superseded(Id, Version),
}

impl Changes {
    /// The state that each key is to have; `None`: nothing is to be known of it.
    pub fn each(&self, mut each: impl FnMut(Id, Option<&Entry>)) {
        match self {
            Changes::One(key, entry) => each(*key, Some(entry)),
            Changes::Many(many) => many.iter().for_each(|(key, entry)| each(*key, Some(entry))),
            Changes::Forget(keys) => keys.iter().for_each(|key| each(*key, None)),
            Changes::Superseded(..) => {}
        }
    }
}

/// What follows a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Memory changes too, and the peer is acknowledged.
    Acknowledge {
        conn: ConnId,
        /// The `1` that says whose key it is was sent already.
        owns_said: bool,
    },
    /// Received entries of a transfer on this connection are on disk.
    Staged(ConnId),
    /// Entries that a synchronisation brought are on disk.
    Synced(SyncId),
    /// Entries of a sweep are gone from the disk.
    Swept,
    /// The write of ours with this number is on our disk; copies of it are on their way.
    Copied(u64),
    /// A copy for the owner on this link is on the disk.
    HeldFor { conn: ConnId },
    /// An entry of a repeated DISCONNECT on this connection counts when it is committed.
    Repeated(ConnId),
    /// No connection waits.
    Nothing,
}

/// Changes that are committed, or could not be.
#[derive(Debug)]
pub struct Written {
    pub write: Write,
    pub committed: bool,
}

/// Received entries on their way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    batch: Vec<(Id, Entry)>,
    under_way: usize,
    failed: bool,
}

impl Staging {
    pub(crate) fn is_settled(&self) -> bool {
        self.under_way == 0 && self.batch.is_empty()
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn came_back(&mut self, committed: bool) {
        self.under_way -= 1;
        self.failed |= !committed;
    }

    /// True when the batch has `most` entries, so that it is to be submitted.
    #[must_use]
    pub(crate) fn push(&mut self, key: Id, entry: Entry, most: usize) -> bool {
        self.batch.push((key, entry));
        self.batch.len() >= most
    }

    /// What to submit now.
    pub(crate) fn take(&mut self) -> Option<Vec<(Id, Entry)>> {
        if self.batch.is_empty() {
            return None;
        }
        self.under_way += 1;
        Some(std::mem::take(&mut self.batch))
    }
}

/// The writes that were begun before some moment: a range is not moved until they are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WritesBefore {
    submitted: u64,
    copied: u64,
}

impl DhtNode {
    pub(crate) fn writes_before(&self) -> WritesBefore {
        WritesBefore {
            submitted: self.submitted,
            copied: self.copies.last(),
        }
    }

    pub(crate) fn are_over(&self, before: WritesBefore) -> bool {
        self.written >= before.submitted && self.copies.is_done(before.copied)
    }

    /// Gives changes to the worker. A single write that is older than what is here is not written, as it would be the last
    /// on the disk; it takes its turn.
    ///
    /// # Errors
    /// The changes, at the worker's limit.
    pub(crate) fn submit(
        &mut self,
        hub: &mut Hub<Self>,
        changes: Changes,
        then: Then,
    ) -> Result<(), Changes> {
        let changes = match changes {
            // What this node writes has the time of its clock, and is looked up no further.
            Changes::One(key, entry)
                if entry.version < self.entries.clock() && self.is_older(key, entry.version) =>
            {
                Changes::Superseded(key, entry.version)
            }
            // Since these were gathered, copies of the same keys may have come on another link.
            Changes::Many(mut many) if self.copies.is_on() => {
                many.retain(|(key, entry)| !self.is_older(*key, entry.version));
                Changes::Many(many)
            }
            changes => changes,
        };
        let adds_bytes = adds_bytes(&changes);
        let keeps_tombstones = self.entries.keeps_tombstones();
        // Without copies nobody sends versions, so all writes are newer than those before.
        let writing = match &changes {
            Changes::One(key, entry) if keeps_tombstones || self.is_repeating() => {
                Some((*key, entry.version))
            }
            _ => None,
        };
        let write = Write {
            changes,
            keeps_tombstones,
            then,
        };
        hub.submit(write).map_err(|write| write.changes)?;
        self.submitted += 1;
        self.writing_bytes += adds_bytes;
        self.writing.extend(writing);
        Ok(())
    }

    /// A write came back from the worker.
    pub(crate) fn came_back(&mut self, hub: &mut Hub<Self>, done: Written) {
        self.written += 1;
        let Written {
            write: Write { changes, then, .. },
            mut committed,
        } = done;
        self.writing_bytes -= adds_bytes(&changes);
        if let Changes::One(key, entry) = &changes
            && self.writing.get(key) == Some(&entry.version)
        {
            self.writing.remove(key);
        }
        if let Changes::Superseded(key, version) = &changes {
            // The newer one may have failed.
            committed &= self.is_older(*key, *version);
        }
        match (then, changes) {
            (Then::Acknowledge { conn, owns_said }, changes) => {
                if committed && let Changes::One(key, entry) = changes {
                    self.apply(key, entry);
                }
                answer(hub, Client { conn, owns_said }, committed);
            }
            (Then::Staged(conn), _) => self.staged(hub, conn, committed),
            (Then::Synced(sync), _) => self.sync_committed(hub, sync, committed),
            (Then::Swept, removals) => self.swept_from_disk(hub, removals, committed),
            (Then::Copied(number), changes) => {
                self.copy_committed(hub, number, changes, committed);
            }
            (Then::HeldFor { conn }, changes) => self.copy_held(hub, conn, changes, committed),
            (Then::Repeated(conn), changes) => {
                if committed && let Changes::One(key, entry) = changes {
                    self.apply(key, entry);
                }
                self.repeated_written(hub, conn, committed);
            }
            (Then::Nothing, _) => {}
        }
        self.hand_off_settled(hub);
        self.leave_settled(hub);
        self.repeated_settled(hub);
    }
}

/// What a write of a peer will add to the entries at most. A transfer's are in memory already.
fn adds_bytes(changes: &Changes) -> u64 {
    match changes {
        Changes::One(_, entry) => entry.value.as_ref().map_or(0, entries::entry_bytes),
        _ => 0,
    }
}

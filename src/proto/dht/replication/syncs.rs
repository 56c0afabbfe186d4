//! The synchronisations of a node ([`super::sync`]): several run side by side, one of them has a step in a turn.
//!
//! Entries that come in are in memory at once, and go to the disk in batches; a synchronisation is over once they are
//! committed. Each ends exactly once by `DhtNode::sync_done`, never from inside of `DhtNode::start_sync`.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;

use bytes::Bytes;

use super::LinkTag;
use super::sync::{Asked, Mode, Owner, Progress, Sync, SyncError, SyncStats};
use crate::engine::Hub;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Then, Timer};
use crate::proto::dht::rpc::links::{self, Lane, LinkError};
use crate::proto::dht::storage::commit::Staging;
use crate::proto::dht::storage::entries::Entry;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire::extension::Reply;

/// Synchronisations at once; one more fails.
pub const SYNCS_MAX: usize = 16;

/// Names a synchronisation for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncId(u32);

/// How a synchronisation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncOver {
    pub id: SyncId,
    pub peer: SocketAddrV4,
    pub start: Id,
    pub end: Id,
    pub result: Result<SyncStats, SyncError>,
}

#[derive(Debug, Default)]
pub(crate) struct Syncs {
    running: BTreeMap<SyncId, Running>,
    /// Those that have work to do, in the order of their next steps.
    ready: VecDeque<SyncId>,
    /// Ended and not told.
    over: VecDeque<SyncOver>,
    next: u32,
    #[cfg(test)]
    pub(super) told: Vec<SyncOver>,
}

#[derive(Debug)]
struct Running {
    peer: SocketAddrV4,
    start: Id,
    end: Id,
    sync: Sync,
    /// It is in `ready`.
    is_ready: bool,
    /// Entries on their way to the disk.
    staging: Staging,
}

impl Syncs {
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.over.is_empty()
    }

    fn wake(&mut self, hub: &mut Hub<DhtNode>, id: SyncId) {
        if let Some(running) = self.running.get_mut(&id)
            && !running.is_ready
        {
            running.is_ready = true;
            self.ready.push_back(id);
            hub.soon(Timer::Sync);
        }
    }

    /// Those with this peer share a link, and one may have waited for its room.
    fn wake_all(&mut self, hub: &mut Hub<DhtNode>, peer: SocketAddrV4) {
        let ids: Vec<SyncId> = self
            .running
            .iter()
            .filter(|(_, running)| running.peer == peer)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.wake(hub, id);
        }
    }

    fn finish(
        &mut self,
        hub: &mut Hub<DhtNode>,
        id: SyncId,
        result: impl FnOnce(SyncStats) -> Result<SyncStats, SyncError>,
    ) {
        if let Some(running) = self.running.remove(&id) {
            self.over.push_back(SyncOver {
                id,
                peer: running.peer,
                start: running.start,
                end: running.end,
                result: result(running.sync.stats),
            });
            hub.soon(Timer::Sync);
        }
    }
}

impl DhtNode {
    /// Synchronises `[start, end)` with `peer`. Entries go there as `owner`'s, of this epoch.
    pub fn start_sync(
        &mut self,
        hub: &mut Hub<Self>,
        peer: SocketAddrV4,
        (start, end): (Id, Id),
        (owner, epoch): (SocketAddrV4, u64),
        mode: Mode,
    ) -> SyncId {
        let keys_per_part = self.config.quanta.keys_per_part;
        let syncs = &mut self.syncs;
        let id = SyncId(syncs.next);
        syncs.next = syncs.next.wrapping_add(1);
        let owner = Owner { addr: owner, epoch };
        let is_full = syncs.running.len() == SYNCS_MAX;
        let running = Running {
            peer,
            start,
            end,
            sync: Sync::new(start, end, owner, mode, keys_per_part),
            is_ready: false,
            staging: Staging::default(),
        };
        syncs.running.insert(id, running);
        if is_full {
            syncs.finish(hub, id, |_| Err(SyncError::Limit));
        } else {
            syncs.wake(hub, id);
        }
        id
    }

    /// Tells what is over, and then does the next step of one synchronisation.
    pub(crate) fn sync_some(&mut self, hub: &mut Hub<Self>) {
        while let Some(over) = self.syncs.over.pop_front() {
            #[cfg(test)]
            self.syncs.told.push(over);
            self.sync_done(hub, over);
        }
        if let Some(id) = self.syncs.ready.pop_front() {
            self.sync_step(hub, id);
        }
        if !self.syncs.ready.is_empty() || !self.syncs.over.is_empty() {
            hub.soon(Timer::Sync);
        }
    }

    fn sync_step(&mut self, hub: &mut Hub<Self>, id: SyncId) {
        let Some(running) = self.syncs.running.get_mut(&id) else {
            return;
        };
        running.is_ready = false;
        let peer = running.peer;
        let room = self.links.room(hub, peer, Lane::Bulk);
        let quantum = self.config.quanta.sent_per_turn;
        let mut calls = Vec::new();
        let step = running.sync.step(&self.entries, quantum, room, &mut calls);
        for (request, value, asked) in calls {
            let tag = LinkTag::Sync { id, asked };
            links::call_in(self, hub, peer, Lane::Bulk, request, value, tag);
        }
        match step {
            Ok(Progress::Again) => self.syncs.wake(hub, id),
            Ok(Progress::Waits) => {}
            Ok(Progress::Done) => self.sync_commits(hub, id, true),
            Err(error) => self.break_sync(hub, id, error),
        }
    }

    /// A call of a synchronisation is over.
    pub(super) fn sync_replied(
        &mut self,
        hub: &mut Hub<Self>,
        peer: SocketAddrV4,
        id: SyncId,
        asked: Asked,
        result: Result<Reply, LinkError>,
    ) {
        self.syncs.wake_all(hub, peer);
        let Some(running) = self.syncs.running.get_mut(&id) else {
            return;
        };
        let result = result.map_err(|error| match error {
            LinkError::Plain => SyncError::Plain,
            LinkError::Limit => SyncError::Limit,
            LinkError::Refused | LinkError::Unreachable | LinkError::Lost | LinkError::TimedOut => {
                SyncError::Lost
            }
        });
        match result.and_then(|reply| running.sync.replied(asked, reply)) {
            Ok(None) => {}
            Ok(Some((key, version, value))) => self.pulled(hub, id, key, version, value),
            Err(error) => self.break_sync(hub, id, error),
        }
    }

    /// A synchronisation ends with an error. What it brought is in memory, and goes to the disk all the same.
    fn break_sync(&mut self, hub: &mut Hub<Self>, id: SyncId, error: SyncError) {
        let batch = self
            .syncs
            .running
            .get_mut(&id)
            .and_then(|running| running.staging.take());
        if let Some(batch) = batch {
            self.keep_on_disk(hub, batch);
        }
        self.syncs.finish(hub, id, |_| Err(error));
    }

    /// Entries that are in memory already, whatever became of what brought them.
    pub(crate) fn keep_on_disk(&mut self, hub: &mut Hub<Self>, batch: Vec<(Id, Entry)>) {
        if self
            .submit(hub, Changes::Many(batch), Then::Nothing)
            .is_err()
        {
            log::warn!("the disk is too slow for all copies; some are in memory only");
        }
    }

    /// An entry that the peer has newer.
    fn pulled(
        &mut self,
        hub: &mut Hub<Self>,
        id: SyncId,
        key: Id,
        version: u64,
        value: Option<Bytes>,
    ) {
        if let Some(value) = &value
            && !self.has_memory_for(hub, key, value)
        {
            return self.break_sync(hub, id, SyncError::Limit);
        }
        if self.adopt(hub, key, Version(version), value.clone()) {
            if let Some(running) = self.syncs.running.get_mut(&id) {
                running.sync.stats.pulled += 1;
            }
            return;
        }
        let Some(entry) = self.take_moved(key, Some(Version(version)), value) else {
            return;
        };
        let (durable, most) = (self.config.durable, self.config.quanta.entries_per_job);
        let Some(running) = self.syncs.running.get_mut(&id) else {
            return;
        };
        running.sync.stats.pulled += 1;
        if durable && running.staging.push(key, entry, most) {
            self.sync_commits(hub, id, false);
        }
    }

    /// Gives what came to the worker. `is_last`: the synchronisation is over once everything is committed.
    fn sync_commits(&mut self, hub: &mut Hub<Self>, id: SyncId, is_last: bool) {
        let Some(running) = self.syncs.running.get_mut(&id) else {
            return;
        };
        if let Some(batch) = running.staging.take()
            && self
                .submit(hub, Changes::Many(batch), Then::Synced(id))
                .is_err()
        {
            return self.break_sync(hub, id, SyncError::Limit);
        }
        if is_last
            && let Some(running) = self.syncs.running.get(&id)
            && running.staging.is_settled()
        {
            self.syncs.finish(hub, id, Ok);
        }
    }

    /// A batch came back from the worker.
    pub(crate) fn sync_committed(&mut self, hub: &mut Hub<Self>, id: SyncId, committed: bool) {
        let Some(running) = self.syncs.running.get_mut(&id) else {
            return;
        };
        running.staging.came_back(committed);
        if running.staging.is_failed() {
            self.break_sync(hub, id, SyncError::NotCommitted);
        } else {
            // Perhaps nothing is left to do.
            self.syncs.wake(hub, id);
        }
    }
}

//! What a node holds in memory, and its limit.
//!
//! One account for everything whose size peers decide:
//!
//! ```text
//!   entries  + values that left them and are still being sent
//!   recovered entries, not in the ring yet
//!   values under way: staged (not complete), at the worker, fenced, passed on to another owner, in a transfer,
//!   on their way to those that hold copies
//! ```
//! Copies in the engine's buffers are not part of it: the engine bounds them for each connection.
//!
//! Invariant: [`DhtNode::held_bytes`] is over [`crate::proto::dht::node::Config::memory_bytes_max`] by one read of a connection, or
//! by one value that a peer reads while its successor is committed, at most. Entries that a node finds on its own
//! disk at its start are not refused.

use bytes::Bytes;

use crate::engine::{Hub, Tick, Ticks};

use super::entries;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, LockHolder, Role};

/// Refusals are logged at most this often, with their number.
const LOGGED_EVERY: Ticks = Ticks::from_secs(10);

/// Pinned values looked at before something is refused.
const PINNED_PER_REFUSAL: usize = 64;

/// What was refused for want of memory.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    count: u64,
    logged: Option<Tick>,
}

impl DhtNode {
    /// Bytes of memory that entries and values take, wherever they are.
    pub fn held_bytes(&self) -> u64 {
        let receiving = match (&self.lock_holder, &self.role) {
            (LockHolder::Disconnect(disconnect), _) => disconnect.receiving.staged_bytes(),
            (_, Role::Joining(join)) => join.receiving.staged_bytes(),
            _ => 0,
        };
        [
            self.recovered.memory_bytes(),
            self.staged_bytes,
            self.writing_bytes,
            self.forwarding_bytes,
            self.copies.pending_bytes(),
            self.fenced_writes.bytes(),
            receiving,
        ]
        .into_iter()
        .fold(self.entries.memory_bytes(), u64::saturating_add)
    }

    /// Looks at up to `count` values that left the entries, and drops those that are not read any more.
    pub(crate) fn release_pinned(&mut self, count: usize) {
        self.entries.release_pinned(count);
        self.recovered.release_pinned(count);
    }

    /// Writes, joins and leaves that were refused for want of memory.
    pub fn memory_refusals(&self) -> u64 {
        self.refusals.count
    }

    /// There is memory for the new value of `key`, in place of its old one.
    pub(crate) fn has_memory_for(&mut self, hub: &Hub<Self>, key: Id, value: &Bytes) -> bool {
        let more_bytes = entries::entry_bytes(value);
        // What it replaces is looked up only where it matters.
        self.has_memory(hub, more_bytes, |node| node.entries.freed_bytes(key))
    }

    /// There is memory for `more_bytes`.
    pub(crate) fn has_memory_of(&mut self, hub: &Hub<Self>, more_bytes: u64) -> bool {
        self.has_memory(hub, more_bytes, |_| 0)
    }

    /// The entries of a transfer went over the limit. Counted; the caller logs it, as it ends the transfer.
    pub(crate) fn is_over_memory(&mut self) -> bool {
        let is_over = self.held_bytes() > self.config.memory_bytes_max;
        self.refusals.count = self.refusals.count.saturating_add(u64::from(is_over));
        is_over
    }

    fn has_memory(
        &mut self,
        hub: &Hub<Self>,
        more_bytes: u64,
        freed_bytes: impl Fn(&DhtNode) -> u64,
    ) -> bool {
        let max_bytes = self.config.memory_bytes_max;
        let fits = |node: &DhtNode, freed| {
            node.held_bytes()
                .saturating_add(more_bytes)
                .saturating_sub(freed)
                <= max_bytes
        };
        if fits(self, 0) || fits(self, freed_bytes(self)) {
            return true;
        }
        self.release_pinned(PINNED_PER_REFUSAL);
        if fits(self, freed_bytes(self)) {
            return true;
        }
        let refusals = &mut self.refusals;
        refusals.count = refusals.count.saturating_add(1);
        if refusals
            .logged
            .is_none_or(|last| hub.now() >= last + LOGGED_EVERY)
        {
            refusals.logged = Some(hub.now());
            log::warn!(
                "{} refusals so far: the node holds {} of {max_bytes} bytes (memory_bytes_max)",
                self.refusals.count,
                self.held_bytes(),
            );
        }
        false
    }
}

//! Removes the entries of a range that is not ours, a few in each turn.

use crate::engine::Hub;

use super::id::Id;
use super::node::{Changes, DhtNode, LockHolder, Then, Timer};

/// Entries removed in one turn: about 30 us, which is what others then wait. Few in tests, where a sweep is to take
/// several turns.
const SWEPT_PER_TURN: usize = if cfg!(test) { 2 } else { 128 };

/// A range of which the entries are removed.
#[derive(Debug)]
pub(super) struct Sweep {
    start: Id,
    end: Id,
}

impl DhtNode {
    /// Removes the entries of `[start, end)`, which are not ours; the next transfer waits for it.
    pub(super) fn sweep(&mut self, hub: &mut Hub<Self>, start: Id, end: Id) {
        self.lock_holder = LockHolder::Sweep(Sweep { start, end });
        self.sweep_some(hub);
    }

    pub(super) fn sweep_some(&mut self, hub: &mut Hub<Self>) {
        let LockHolder::Sweep(Sweep { start, end }) = self.lock_holder else {
            return;
        };
        let mut removed = Vec::new();
        let more = self
            .entries
            .remove_some(start, end, SWEPT_PER_TURN, &mut removed);
        if self.config.durable && !removed.is_empty() {
            let removals = removed.into_iter().map(|key| (key, None)).collect();
            // Behind everything that wrote these keys, and before whatever will.
            self.submit(hub, Changes::Many(removals), Then::Nothing);
        }
        if more {
            hub.soon(Timer::Sweep);
        } else {
            self.release_lock(hub);
            self.join_swept(hub);
            self.swept(hub);
        }
    }
}

//! Writes into a range that is being handed over.
//!
//! The protocol has no way to send a change after the entries are counted, so such a write waits, unseen by its
//! sender: when the range stays it is stored, when it goes it is passed on to the new owner as an ordinary
//! INSERT or REMOVE and that owner's answer is relayed. Waiting is bounded by [`FENCED_BYTES_MAX`] and
//! [`FENCED_FOR`]; beyond either the answer is `0`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Tick, Ticks};

use super::id::Id;
use super::node::{DhtNode, LockHolder, Role, Timer, acknowledge};

/// Invariant 3 of the specification.
const FENCED_BYTES_MAX: u64 = 64 << 20;
const FENCED_FOR: Ticks = Ticks::from_secs(30);

/// What a held write costs beside its value.
const FENCED_OVERHEAD_BYTES: u64 = 96;

#[derive(Debug, Default)]
pub(super) struct FencedWrites {
    queue: VecDeque<FencedWrite>,
    bytes: u64,
}

#[derive(Debug)]
struct FencedWrite {
    conn: ConnId,
    key: Id,
    value: Option<Bytes>,
    until: Tick,
}

impl FencedWrites {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As if so much were held that nothing more is.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        self.bytes = FENCED_BYTES_MAX;
    }
}

impl FencedWrite {
    fn cost_bytes(&self) -> u64 {
        FENCED_OVERHEAD_BYTES + self.value.as_ref().map_or(0, |value| value.len() as u64)
    }
}

impl DhtNode {
    /// A write to `key` has to wait.
    pub(super) fn is_moving(&self, key: Id) -> bool {
        if let Role::Leaving(leave) = &self.role
            && leave.moves()
        {
            return self.routing.owns(key);
        }
        match &self.lock_holder {
            LockHolder::HandOff(hand_off) => hand_off.moves(key),
            _ => false,
        }
    }

    /// Puts a write aside; false when there are too many.
    pub(super) fn fence_write(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        value: Option<Bytes>,
    ) -> bool {
        let write = FencedWrite {
            conn,
            key,
            value,
            until: hub.now() + FENCED_FOR,
        };
        let cost_bytes = write.cost_bytes();
        if self.fenced_writes.bytes + cost_bytes > FENCED_BYTES_MAX
            || (self.fenced_writes.queue.is_empty()
                && hub.arm(FENCED_FOR, Timer::FencedWrites).is_none())
        {
            return false;
        }
        self.fenced_writes.bytes += cost_bytes;
        self.fenced_writes.queue.push_back(write);
        true
    }

    /// Something stopped moving: a held write whose key stands still goes where it belongs now. The others stay: a
    /// leave that comes to nothing does not end the hand-over that it met.
    pub(super) fn release_fenced_writes(&mut self, hub: &mut Hub<Self>) {
        self.fenced_writes.bytes = 0;
        for write in std::mem::take(&mut self.fenced_writes.queue) {
            if self.is_moving(write.key) {
                self.fenced_writes.bytes += write.cost_bytes();
                self.fenced_writes.queue.push_back(write);
                continue;
            }
            let FencedWrite {
                conn, key, value, ..
            } = write;
            if !self.write_or_forward(hub, conn, key, value) {
                acknowledge(hub, conn, false);
            }
        }
    }

    pub(super) fn refuse_late_fenced_writes(&mut self, hub: &mut Hub<Self>) {
        while let Some(write) = self.fenced_writes.queue.front() {
            if write.until > hub.now() {
                hub.arm(write.until - hub.now(), Timer::FencedWrites);
                return;
            }
            self.fenced_writes.bytes -= write.cost_bytes();
            acknowledge(hub, write.conn, false);
            self.fenced_writes.queue.pop_front();
        }
    }
}

//! Fenced writes: writes into a range that is being handed over.
//!
//! The protocol cannot send a change after the entries are counted. So such a write waits, unseen by its sender. If the
//! range stays, it is stored. If the range goes, it is passed on to the new owner as an ordinary INSERT or REMOVE, and
//! that owner's answer is relayed. Waiting is bounded by [`FENCED_BYTES_MAX`] and [`FENCED_FOR`]; beyond either the answer
//! is `0`.
//!
//! Invariants: `bytes` is the sum of what the queue costs; the queue is in the order of its deadlines; while it is not
//! empty one timer is armed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Tick, Ticks};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, LockHolder, Role, Timer, acknowledge};

/// A transfer that stalls must not fill the memory with fenced writes, nor keep their clients waiting.
const FENCED_BYTES_MAX: u64 = 64 << 20;
const FENCED_FOR: Ticks = Ticks::from_secs(30);

/// What a fenced write costs beside its value.
const FENCED_OVERHEAD_BYTES: u64 = 96;

#[derive(Debug, Default)]
pub(crate) struct FencedWrites {
    queue: VecDeque<FencedWrite>,
    bytes: u64,
    /// The timer of the queue runs.
    armed: bool,
}

#[derive(Debug)]
struct FencedWrite {
    conn: ConnId,
    key: Id,
    value: Option<Bytes>,
    until: Tick,
}

impl FencedWrites {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As if so much were fenced that nothing more is.
    #[cfg(test)]
    pub(crate) fn fill(&mut self) {
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
    pub(crate) fn is_moving(&self, key: Id) -> bool {
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
    #[must_use]
    pub(crate) fn fence_write(
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
        let fits = self.fenced_writes.bytes.saturating_add(cost_bytes) <= FENCED_BYTES_MAX;
        if !fits || !self.arm_fenced_writes(hub, FENCED_FOR) {
            return false;
        }
        self.fenced_writes.bytes += cost_bytes;
        self.fenced_writes.queue.push_back(write);
        true
    }

    #[must_use]
    fn arm_fenced_writes(&mut self, hub: &mut Hub<Self>, after: Ticks) -> bool {
        let armed = &mut self.fenced_writes.armed;
        *armed = *armed || hub.arm(after, Timer::FencedWrites).is_some();
        *armed
    }

    /// A range stopped moving: each fenced write whose key no longer moves goes where it belongs now. The others stay: a
    /// leave that fails does not end the hand-off that it met.
    pub(crate) fn release_fenced_writes(&mut self, hub: &mut Hub<Self>) {
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
            if !self.write_or_forward(hub, conn, key, None, value) {
                acknowledge(hub, conn, false);
            }
        }
    }

    pub(crate) fn refuse_late_fenced_writes(&mut self, hub: &mut Hub<Self>) {
        self.fenced_writes.armed = false;
        while let Some(FencedWrite { until, .. }) = self.fenced_writes.queue.front() {
            let until = *until;
            if until > hub.now() && self.arm_fenced_writes(hub, until - hub.now()) {
                return;
            }
            // Late, or without a timer to end its wait.
            if let Some(write) = self.fenced_writes.queue.pop_front() {
                self.fenced_writes.bytes -= write.cost_bytes();
                acknowledge(hub, write.conn, false);
            }
        }
    }
}

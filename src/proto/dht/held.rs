//! Writes into a range that is being handed over.
//!
//! The protocol has no way to send a change after the entries are counted, so such a write waits, unseen by its
//! sender: when the range stays it is stored, when it goes it is passed on to the new owner as an ordinary
//! INSERT or REMOVE and that owner's answer is relayed. Waiting is bounded by [`HELD_BYTES_MAX`] and
//! [`HELD_FOR`]; beyond either the answer is `0`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Tick, Ticks};

use super::id::Id;
use super::node::{DhtNode, Role, Timer, Transfer, acknowledge};

/// Invariant 3 of the specification.
const HELD_BYTES_MAX: u64 = 64 << 20;
const HELD_FOR: Ticks = Ticks::from_secs(30);

/// What a held write costs beside its value.
const HELD_OVERHEAD_BYTES: u64 = 96;

#[derive(Debug, Default)]
pub(super) struct Held {
    queue: VecDeque<HeldWrite>,
    bytes: u64,
}

#[derive(Debug)]
struct HeldWrite {
    conn: ConnId,
    key: Id,
    value: Option<Bytes>,
    until: Tick,
}

impl Held {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As if so much were held that nothing more is.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        self.bytes = HELD_BYTES_MAX;
    }
}

impl HeldWrite {
    fn cost_bytes(&self) -> u64 {
        HELD_OVERHEAD_BYTES + self.value.as_ref().map_or(0, |value| value.len() as u64)
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
        match &self.transfer {
            Transfer::HandOver(hand_over) => hand_over.moves(key),
            _ => false,
        }
    }

    /// Puts a write aside; false when there are too many.
    pub(super) fn hold(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        value: Option<Bytes>,
    ) -> bool {
        let write = HeldWrite {
            conn,
            key,
            value,
            until: hub.now() + HELD_FOR,
        };
        let cost_bytes = write.cost_bytes();
        if self.held.bytes + cost_bytes > HELD_BYTES_MAX
            || (self.held.queue.is_empty() && hub.arm(HELD_FOR, Timer::Held).is_none())
        {
            return false;
        }
        self.held.bytes += cost_bytes;
        self.held.queue.push_back(write);
        true
    }

    /// Something stopped moving: a held write whose key stands still goes where it belongs now. The others stay: a
    /// leave that comes to nothing does not end the hand-over that it met.
    pub(super) fn release_held(&mut self, hub: &mut Hub<Self>) {
        self.held.bytes = 0;
        for write in std::mem::take(&mut self.held.queue) {
            if self.is_moving(write.key) {
                self.held.bytes += write.cost_bytes();
                self.held.queue.push_back(write);
                continue;
            }
            let HeldWrite {
                conn, key, value, ..
            } = write;
            if !self.write_or_forward(hub, conn, key, value) {
                acknowledge(hub, conn, false);
            }
        }
    }

    pub(super) fn refuse_late_writes(&mut self, hub: &mut Hub<Self>) {
        while let Some(write) = self.held.queue.front() {
            if write.until > hub.now() {
                hub.arm(write.until - hub.now(), Timer::Held);
                return;
            }
            self.held.bytes -= write.cost_bytes();
            acknowledge(hub, write.conn, false);
            self.held.queue.pop_front();
        }
    }
}

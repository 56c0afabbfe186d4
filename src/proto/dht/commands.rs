//! GET, INSERT and REMOVE: what a peer does with one entry.
//!
//! A value is received whole before anything changes. Whether it is still ours to store is asked then and not
//! when we said `1` to its key: the range may have gone meanwhile.

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub, Step, Violation};

use super::client;
use super::entries;
use super::id::Id;
use super::node::{Changes, DhtNode, Expect, Tag, Then, acknowledge, say};
use super::operation::{Bounds, Operation, Verb};
use super::range_stream::Incoming;
use super::wire;

impl DhtNode {
    pub(super) fn get(&self, cx: &mut Cx<'_, Self>, key: Id) {
        if !self.owns(key) {
            wire::put_ack(cx.out(), false);
            return;
        }
        let out = cx.out();
        wire::put_ack(out, true);
        match self.value_of(key) {
            None => wire::put_number(out, 0),
            Some(value) => {
                wire::put_number(out, value.len() as u64);
                cx.send(value);
            }
        }
    }

    pub(super) fn length(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        key: Id,
        length_bytes: u64,
        used: usize,
    ) -> Result<Step, Violation> {
        if length_bytes > self.config.value_bytes_max {
            return Err(refuse(cx, "value over value_bytes_max"));
        }
        if length_bytes == 0 {
            *expect = Expect::Request;
            return Ok(self.write(cx, key, Some(Bytes::new()), used));
        }
        *expect = Expect::Value(Box::new(Incoming::new(key, length_bytes)));
        Ok(Step::Took(used))
    }

    pub(super) fn value(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        bytes: &[u8],
    ) -> Result<Step, Violation> {
        let Expect::Value(incoming) = expect else {
            unreachable!("called in this state only")
        };
        if let Some(more_bytes) = incoming.stages(bytes.len()) {
            if self.staged_bytes + more_bytes > self.config.staged_bytes_max {
                return Err(refuse(cx, "staged_bytes_max reached"));
            }
            self.staged_bytes += more_bytes;
        }
        let staged_bytes = incoming.staged_bytes();
        let (used, value) = incoming.take(bytes);
        let Some(value) = value else {
            return Ok(Step::Took(used));
        };
        self.staged_bytes -= staged_bytes;
        let key = incoming.key;
        *expect = Expect::Request;
        Ok(self.write(cx, key, Some(value), used))
    }

    /// Stores or removes what a peer was told `1` for: now, by way of the worker, when the range stands still again,
    /// or at the node that owns the key by now.
    pub(super) fn write(
        &mut self,
        cx: &mut Cx<'_, Self>,
        key: Id,
        value: Option<Bytes>,
        used: usize,
    ) -> Step {
        if let Some(value) = &value
            && self.is_full_for(key, value)
        {
            log::warn!(
                "{} refused a value: the entries are at entries_bytes_max",
                cx.id()
            );
            wire::put_ack(cx.out(), false);
            return Step::Done(used);
        }
        let at_once = self.owns(key) && !self.is_moving(key) && !self.config.durable;
        if at_once {
            self.apply(key, value);
            wire::put_ack(cx.out(), true);
            return Step::Done(used);
        }
        let conn = cx.id();
        let waits = if self.is_moving(key) {
            self.fence_write(cx, conn, key, value)
        } else {
            self.write_or_forward(cx, conn, key, value)
        };
        if waits {
            return Step::Wait(used);
        }
        wire::put_ack(cx.out(), false);
        Step::Done(used)
    }

    /// Commits a write of `conn`, or passes it on when the key is another's by now. Where this returns true the
    /// peer is acknowledged later; false: it could not be taken.
    pub(super) fn write_or_forward(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        value: Option<Bytes>,
    ) -> bool {
        if !self.owns(key) {
            let contact = self.closest(key).addr;
            let verb = value.map_or(Verb::Remove, Verb::Insert);
            let bounds = Bounds {
                unknown_is_final: true,
                ..self.bounds()
            };
            let operation = Operation::new(verb, key, vec![contact], bounds);
            client::start(self, hub, operation, Tag::Forward(conn));
            return true;
        }
        if self.config.durable {
            // The `1` to the key goes with the `1` to the write when it has not left yet: one send and one packet
            // less, for a peer that did not wait for it.
            let owns_said = !hub.take_back(conn, wire::ACK_BYTES);
            let then = Then::Acknowledge { conn, owns_said };
            let submitted = self.submit(hub, Changes::One(key, value), then);
            if !submitted && !owns_said {
                say(hub, conn, true);
            }
            return submitted;
        }
        self.apply(key, value);
        acknowledge(hub, conn, true);
        true
    }

    /// Storing `value` would pass entries_bytes_max.
    fn is_full_for(&self, key: Id, value: &Bytes) -> bool {
        let room_bytes = self
            .config
            .entries_bytes_max
            .saturating_sub(self.writing_bytes + self.recovered.memory_bytes());
        // What it replaces is looked up only where it can matter.
        self.entries.memory_bytes() + entries::entry_bytes(value) > room_bytes
            && self.entries.memory_bytes_with(key, value) > room_bytes
    }

    pub(super) fn apply(&mut self, key: Id, value: Option<Bytes>) {
        match value {
            Some(value) => self.store_entry(key, value),
            None => self.remove_entry(key),
        }
    }

    /// The ring's value of a key that it moves to us: newer than what we brought.
    pub(super) fn store_entry(&mut self, key: Id, value: Bytes) {
        self.entries.insert(key, value);
        self.recovered.remove(key);
    }

    /// A key of ours is removed.
    pub(super) fn remove_entry(&mut self, key: Id) {
        self.entries.remove(key);
        self.recovered.remove(key);
    }

    /// The value of a key that is ours.
    pub(super) fn value_of(&self, key: Id) -> Option<&Bytes> {
        self.entries.get(key).or_else(|| self.recovered.get(key))
    }
}

/// Writes the `0` of a refusal after which the connection closes.
fn refuse(cx: &mut Cx<'_, DhtNode>, what: &'static str) -> Violation {
    log::debug!("{} {}: {what}", cx.id(), cx.peer());
    wire::put_ack(cx.out(), false);
    Violation::limit(what)
}

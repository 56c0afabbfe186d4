//! GET, INSERT and REMOVE: what a peer does with one entry. Every entry is read and written here.
//!
//! ```text
//! INSERT ─▶ length ─▶ value, staged ─▶ write ──ours, in memory───▶ apply ─▶ 1
//! REMOVE ────────────────────────────▶  │ ├────ours, durable─────▶ worker ─▶ apply ─▶ 1
//!                                       │ ├────ours, with copies─▶ worker and holders ─▶ apply ─▶ 1
//!                                       │ ├────its range moves───▶ fenced ─▶ write_or_forward
//!                                       │ └────another's by now──▶ INSERT or REMOVE there ─▶ its ack
//!                                       └──no memory─▶ 0
//! ```
//! A value is received whole before anything changes. Ownership is checked again then, as the range may have gone since
//! the `1` to the key. XMERGE is an INSERT or a REMOVE with a version of its own; it is neither fenced nor passed on.

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub, Step, Violation};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Expect, Tag, Then, acknowledge, say};
use crate::proto::dht::rpc::client;
use crate::proto::dht::rpc::operation::{Bounds, Operation, Verb};
use crate::proto::dht::storage::entries::{self, Entry};
use crate::proto::dht::storage::range_stream::Incoming;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire;

impl DhtNode {
    pub(crate) fn get(&self, cx: &mut Cx<'_, Self>, key: Id) {
        if !self.serves(key, cx.now()) {
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

    /// `length_bytes`: `None` for a tombstone.
    pub(crate) fn length(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        key: Id,
        version: Option<Version>,
        length_bytes: Option<u64>,
        used: usize,
    ) -> Result<Step, Violation> {
        match length_bytes {
            Some(bytes) if bytes > self.config.value_bytes_max => {
                Err(refuse(cx, "value over value_bytes_max"))
            }
            Some(bytes) if bytes > 0 => {
                *expect = Expect::Value(Box::new(Incoming::new(key, bytes)), version);
                Ok(Step::Took(used))
            }
            _ => {
                *expect = Expect::Request;
                let value = length_bytes.map(|_| Bytes::new());
                Ok(self.write(cx, key, version, value, used))
            }
        }
    }

    pub(crate) fn value(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        bytes: &[u8],
    ) -> Result<Step, Violation> {
        let Expect::Value(incoming, version) = expect else {
            unreachable!("called in this state only")
        };
        let (used, value) = self.take_value(cx, incoming, bytes)?;
        let Some(value) = value else {
            return Ok(Step::Took(used));
        };
        let (key, version) = (incoming.key, *version);
        *expect = Expect::Request;
        Ok(self.write(cx, key, version, Some(value), used))
    }

    /// Takes what is the value's from the front of `bytes`; says how many bytes, and the value once it is whole.
    ///
    /// # Errors
    /// There is no memory for them. The peer is told.
    pub(crate) fn take_value(
        &mut self,
        cx: &mut Cx<'_, Self>,
        incoming: &mut Incoming,
        bytes: &[u8],
    ) -> Result<(usize, Option<Bytes>), Violation> {
        if let Some(more_bytes) = incoming.stages(bytes.len()) {
            if self.staged_bytes.saturating_add(more_bytes) > self.config.staged_bytes_max {
                return Err(refuse(cx, "staged_bytes_max reached"));
            }
            if !self.has_memory_of(cx, more_bytes) {
                return Err(refuse(cx, "memory_bytes_max reached"));
            }
            self.staged_bytes += more_bytes;
        }
        let staged_bytes = incoming.staged_bytes();
        let (used, value) = incoming.take(bytes);
        if value.is_some() {
            self.staged_bytes -= staged_bytes;
        }
        Ok((used, value))
    }

    /// Stores or removes the entry whose key a peer was told `1` for: as the newest, or by the version of an XMERGE.
    pub(crate) fn write(
        &mut self,
        cx: &mut Cx<'_, Self>,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
        used: usize,
    ) -> Step {
        self.tell_time(cx.now());
        let (owns, moves) = (self.owns(key), self.is_moving(key));
        // Whoever merges tries again, so its entry neither waits nor is passed on.
        let is_late = version.is_some() && (!owns || moves);
        if is_late || !self.has_memory_to_write(cx, key, value.as_ref()) {
            wire::put_ack(cx.out(), false);
            return Step::Done(used);
        }
        let at_once = self.serves(key, cx.now())
            && !moves
            && !self.config.durable
            && !self.copies.has_holders();
        if at_once {
            self.write_in_memory(key, version, value);
            wire::put_ack(cx.out(), true);
            return Step::Done(used);
        }
        let conn = cx.id();
        let waits = if moves {
            self.fence_write(cx, conn, key, value)
        } else {
            self.write_or_forward(cx, conn, key, version, value)
        };
        if waits {
            return Step::Wait(used);
        }
        wire::put_ack(cx.out(), false);
        Step::Done(used)
    }

    /// A tombstone of a key that is not here costs memory as well.
    fn has_memory_to_write(&mut self, hub: &Hub<Self>, key: Id, value: Option<&Bytes>) -> bool {
        let none = Bytes::new();
        let adds = match value {
            Some(value) => value,
            None if self.entries.keeps_tombstones() && self.entries.entry(key).is_none() => &none,
            None => return true,
        };
        self.has_memory_for(hub, key, adds)
    }

    /// Commits a write of `conn`, or passes it on when the key is another's by now. True: the peer is acknowledged later.
    /// False: the write could not be taken.
    #[must_use]
    pub(crate) fn write_or_forward(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
    ) -> bool {
        if !self.owns(key) {
            let contact = self.closest(key).addr;
            let bytes = value.as_ref().map_or(0, entries::entry_bytes);
            let verb = value.map_or(Verb::Remove, Verb::Insert);
            let bounds = Bounds {
                unknown_is_final: true,
                ..self.bounds()
            };
            let operation = Operation::new(verb, key, vec![contact], bounds);
            self.forwarding_bytes += bytes;
            client::start(self, hub, operation, Tag::Forward { conn, bytes });
            return true;
        }
        if self.copies.has_holders() {
            return self.replicate(hub, conn, key, version, value);
        }
        if !self.heartbeat.holds_lease(hub.now()) {
            return false;
        }
        if self.config.durable {
            // If the `1` to the key has not left yet, it goes with the `1` to the write. A peer that did not wait for it
            // saves one packet.
            let owns_said = !hub.take_back(conn, wire::ACK_BYTES);
            let then = Then::Acknowledge { conn, owns_said };
            // Commits come in the order of the versions.
            let version = version.unwrap_or_else(|| self.entries.next_version());
            let entry = Entry { version, value };
            let submitted = self.submit(hub, Changes::One(key, entry), then).is_ok();
            if !submitted && !owns_said {
                say(hub, conn, true);
            }
            return submitted;
        }
        self.write_in_memory(key, version, value);
        acknowledge(hub, conn, true);
        true
    }

    pub(crate) fn write_in_memory(
        &mut self,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
    ) {
        let version = version.unwrap_or_else(|| self.entries.next_version());
        self.apply(key, Entry { version, value });
    }

    /// A write is committed, or need not be. It counts when it is newer than what is here.
    pub(crate) fn apply(&mut self, key: Id, entry: Entry) {
        self.recovered.drop_older(key, entry.version);
        self.entries.merge(key, entry.version, entry.value);
    }

    /// An entry that the ring moves to us, with its version if it has one. `Some`: it is newer than what is here.
    ///
    /// One of a plain peer is newer than a recovered one: the ring had it last.
    pub(crate) fn take_moved(
        &mut self,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
    ) -> Option<Entry> {
        let held = self.held_version(key);
        let version = version.unwrap_or_else(|| match held {
            None => Version::ZERO,
            Some(_) => self.entries.next_version(),
        });
        // What is here may not be on the disk yet, but it is on its way, and it will be there last.
        if held.is_some_and(|held| held >= version) || self.is_older(key, version) {
            self.entries.observe(version);
            return None;
        }
        self.recovered.drop_older(key, version);
        let is_new = self.entries.merge(key, version, value.clone());
        is_new.then_some(Entry { version, value })
    }

    /// The newest version of a key in memory.
    fn held_version(&self, key: Id) -> Option<Version> {
        let held = [self.entries.entry(key), self.recovered.entry(key)];
        held.into_iter().flatten().map(|entry| entry.version).max()
    }

    /// The newest version of a key, here or on its way to the disk.
    pub(crate) fn newest_version(&self, key: Id) -> Option<Version> {
        self.held_version(key).max(self.writing.get(&key).copied())
    }

    /// There is something newer of a key than this version.
    pub(crate) fn is_older(&self, key: Id, version: Version) -> bool {
        self.newest_version(key)
            .is_some_and(|newest| newest > version)
    }

    /// The value of a key that is ours.
    pub(crate) fn value_of(&self, key: Id) -> Option<&Bytes> {
        match self.entries.entry(key) {
            Some(entry) => entry.value.as_ref(),
            None => self.recovered.get(key),
        }
    }
}

/// Writes the `0` of a refusal after which the connection closes.
fn refuse(cx: &mut Cx<'_, DhtNode>, what: &'static str) -> Violation {
    log::debug!("{} {}: {what}", cx.id(), cx.peer());
    wire::put_ack(cx.out(), false);
    Violation::limit(what)
}

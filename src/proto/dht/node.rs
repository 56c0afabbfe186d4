//! A DHT node: serves the commands of the specification to whoever connects.
//!
//! What it does now: a ring of one, with the data commands (LOCATE, CONTAINS, GET, INSERT, REMOVE). It owns every
//! key; joiners and leavers are told `0`, which the specification lets them cope with.
//!
//! Reads are answered from memory at once. A write of a durable node is a job for the worker; memory changes and the
//! peer is acknowledged when it is committed, in the order of the commits, so that nobody reads what a
//! crash could still take back.
//!
//! Invariants: nothing changes before the last byte of a value is there; `staged_bytes` is the sum of what
//! unfinished values hold, `writing_bytes` that of what durable writes under way will add at most; a connection
//! has at most one write under way.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, Service, Step, Violation};

use super::entries::{self, Entries};
use super::id::Id;
use super::routing::{Member, Routing};
use super::wire::{self, Request};

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that others reach this node at; its id is the SHA-1 of it.
    pub advertise: SocketAddrV4,
    /// Writes are acknowledged once the worker has committed them.
    pub durable: bool,
    /// Longest value that is stored. 64 MiB as the specification has it.
    pub value_bytes_max: u64,
    /// Bytes of values that are being received and not complete, over all connections.
    pub staged_bytes_max: u64,
    /// Memory of all entries, writes under way included; a write beyond it is answered `0`.
    pub entries_bytes_max: u64,
}

/// Default of [`Config::value_bytes_max`], from "Bad input" of the specification.
pub const VALUE_BYTES_MAX: u64 = 64 << 20;

impl Config {
    pub fn new(advertise: SocketAddrV4) -> Config {
        Config {
            advertise,
            durable: false,
            value_bytes_max: VALUE_BYTES_MAX,
            // Eight of the largest values at once: what a small machine can spare.
            staged_bytes_max: 512 << 20,
            entries_bytes_max: 8 << 30,
        }
    }

    /// `limits` with room for the largest answer of this node.
    pub fn fit(&self, limits: Limits) -> Limits {
        let answer = usize::try_from(self.value_bytes_max).unwrap_or(usize::MAX / 2);
        let least = limits.output_bytes_high + answer + wire::LINE_BYTES_MAX;
        Limits {
            output_bytes_max: limits.output_bytes_max.max(least),
            ..limits
        }
    }
}

/// A durable write under way.
#[derive(Debug)]
pub struct Write {
    conn: ConnId,
    pub key: Id,
    /// `None` removes.
    pub value: Option<Bytes>,
}

/// A durable write that is over.
#[derive(Debug)]
pub struct Written {
    pub write: Write,
    pub committed: bool,
}

/// What is expected next from a peer that connected to us.
#[derive(Debug)]
pub enum Expect {
    Request,
    /// The length line of an INSERT that we said `1` to.
    Length {
        key: Id,
    },
    Value(Box<Incoming>),
}

/// A value of which bytes are still to come.
#[derive(Debug)]
pub struct Incoming {
    key: Id,
    left_bytes: u64,
    /// Grows with what arrives, never by what was announced.
    bytes: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct DhtNode {
    config: Config,
    routing: Routing,
    entries: Entries,
    staged_bytes: u64,
    writing_bytes: u64,
}

impl DhtNode {
    /// A ring of one that holds `entries`.
    pub fn new(config: Config, entries: Entries) -> DhtNode {
        let routing = Routing::alone(Member::at(config.advertise));
        DhtNode {
            config,
            routing,
            entries,
            staged_bytes: 0,
            writing_bytes: 0,
        }
    }

    pub fn me(&self) -> Member {
        self.routing.me()
    }

    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    fn serve(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Request,
        used: usize,
    ) -> Step {
        match request {
            Request::Locate(key) => wire::put_address(cx.out(), self.routing.closest(key).addr),
            Request::Get(key) => self.get(cx, key),
            Request::Contains(key) => {
                let owned = self.routing.owns(key);
                wire::put_ack(cx.out(), owned);
                if owned {
                    wire::put_ack(cx.out(), self.entries.contains(key));
                }
            }
            Request::Insert(key) => {
                let owned = self.routing.owns(key);
                wire::put_ack(cx.out(), owned);
                if owned {
                    *expect = Expect::Length { key };
                    return Step::Took(used);
                }
            }
            Request::Remove(key) => {
                let owned = self.routing.owns(key);
                wire::put_ack(cx.out(), owned);
                if owned {
                    return self.write(cx, key, None, used);
                }
            }
            // A ring of one has no neighbour that could say these, and takes no joiner.
            Request::Connect(_) | Request::UpdatePrev(_) => wire::put_ack(cx.out(), false),
            Request::Disconnect(_) => {
                wire::put_ack(cx.out(), false);
                // Its entries follow; without them the stream makes no sense any more.
                cx.close();
            }
        }
        Step::Done(used)
    }

    fn get(&self, cx: &mut Cx<'_, Self>, key: Id) {
        if !self.routing.owns(key) {
            wire::put_ack(cx.out(), false);
            return;
        }
        let out = cx.out();
        wire::put_ack(out, true);
        match self.entries.get(key) {
            None => wire::put_number(out, 0),
            Some(value) => {
                wire::put_number(out, value.len() as u64);
                cx.send(value);
            }
        }
    }

    fn length(
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
        *expect = Expect::Value(Box::new(Incoming {
            key,
            left_bytes: length_bytes,
            bytes: Vec::new(),
        }));
        Ok(Step::Took(used))
    }

    fn value(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        bytes: &[u8],
    ) -> Result<Step, Violation> {
        let Expect::Value(incoming) = expect else {
            unreachable!("called in this state only")
        };
        let take = usize::try_from(incoming.left_bytes)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        incoming.left_bytes -= take as u64;
        if incoming.left_bytes > 0 {
            if self.staged_bytes + take as u64 > self.config.staged_bytes_max {
                return Err(refuse(cx, "staged_bytes_max reached"));
            }
            self.staged_bytes += take as u64;
            incoming.bytes.extend_from_slice(&bytes[..take]);
            return Ok(Step::Took(take));
        }
        self.staged_bytes -= incoming.bytes.len() as u64;
        let value = if incoming.bytes.is_empty() {
            Bytes::copy_from_slice(&bytes[..take])
        } else {
            incoming.bytes.extend_from_slice(&bytes[..take]);
            // Boxed, so that the spare capacity of its growth is given back.
            Bytes::from(std::mem::take(&mut incoming.bytes).into_boxed_slice())
        };
        let key = incoming.key;
        *expect = Expect::Request;
        // Ownership is looked at again: the value may have taken long to come.
        if !self.routing.owns(key) {
            wire::put_ack(cx.out(), false);
            return Ok(Step::Done(take));
        }
        Ok(self.write(cx, key, Some(value), take))
    }

    /// Stores or removes, now or by way of the worker, and acknowledges when it is done.
    fn write(&mut self, cx: &mut Cx<'_, Self>, key: Id, value: Option<Bytes>, used: usize) -> Step {
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
        if !self.config.durable {
            self.apply(key, value);
            wire::put_ack(cx.out(), true);
            return Step::Done(used);
        }
        let conn = cx.id();
        let adds_bytes = value.as_ref().map_or(0, entries::entry_bytes);
        match cx.submit(Write { conn, key, value }) {
            Ok(()) => {
                self.writing_bytes += adds_bytes;
                Step::Wait(used)
            }
            Err(_) => {
                wire::put_ack(cx.out(), false);
                Step::Done(used)
            }
        }
    }

    /// Storing `value` would pass entries_bytes_max.
    fn is_full_for(&self, key: Id, value: &Bytes) -> bool {
        let room_bytes = self
            .config
            .entries_bytes_max
            .saturating_sub(self.writing_bytes);
        // What it replaces is looked up only where it can matter.
        self.entries.memory_bytes() + entries::entry_bytes(value) > room_bytes
            && self.entries.memory_bytes_with(key, value) > room_bytes
    }

    fn apply(&mut self, key: Id, value: Option<Bytes>) {
        match value {
            Some(value) => self.entries.insert(key, value),
            None => _ = self.entries.remove(key),
        }
    }
}

/// Writes the `0` of a refusal after which the connection closes.
fn refuse(cx: &mut Cx<'_, DhtNode>, what: &'static str) -> Violation {
    log::debug!("{} {}: {what}", cx.id(), cx.peer());
    wire::put_ack(cx.out(), false);
    Violation::limit(what)
}

impl Service for DhtNode {
    type Conn = Expect;
    type Note = ();
    type Timer = ();
    type Job = Write;
    type Done = Written;

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Expect {
        Expect::Request
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let step = match expect {
            Expect::Request => wire::request(input.bytes, input.seen)
                .map(|read| read.map(|(request, used)| self.serve(cx, expect, request, used))),
            Expect::Length { key } => {
                let key = *key;
                match wire::number(input.bytes, input.seen) {
                    Ok(Some((bytes, used))) => return self.length(cx, expect, key, bytes, used),
                    Ok(None) => Ok(None),
                    Err(malformed) => Err(malformed),
                }
            }
            Expect::Value(_) => return self.value(cx, expect, input.bytes),
        };
        match step {
            Ok(step) => Ok(step.unwrap_or(Step::More)),
            Err(malformed) => {
                if malformed.is_answered_no() {
                    wire::put_ack(cx.out(), false);
                }
                Err(malformed.into())
            }
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: Written) {
        let Write { conn, key, value } = done.write;
        self.writing_bytes -= value.as_ref().map_or(0, entries::entry_bytes);
        if done.committed {
            self.apply(key, value);
        }
        // The connection may be gone; the entry is stored all the same.
        if let Some(out) = hub.output_of(conn) {
            wire::put_ack(out, done.committed);
            hub.resume(conn);
        }
    }

    fn on_end(&mut self, _hub: &mut Hub<Self>, _id: ConnId, expect: Expect, _end: End) {
        if let Expect::Value(incoming) = expect {
            self.staged_bytes -= incoming.bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests;

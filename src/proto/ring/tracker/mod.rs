//! The tracker: registers peers, gives each an item and a neighbour, pings them, and closes the ring over the dead.
//!
//! ```text
//!  REGISTER ──▶ registration ──▶ ring (members in order) ──▶ neighbour_update ──▶ UPDATE_NBR
//!                    │             ▲        │
//!                    ▼             │        ▼ ping_schedule
//!  worker ◀──── persisted          └─────── ping ──▶ PING
//! ```
//! For: answering every request to a tracker, and dispatching the events of its connections. Not for: sockets, the clock, the
//! store, the database's file.
//!
//! - A peer that refuses or breaks a ping is asked again until its time is up: one deadline.
//! - A handle that is wanted by another peer has its member pinged at once.
//! - Members recovered from the disk are pinged at the start, and stand in the ring when they have answered.
//! - Never a scan of all members, but for `(PEERS,)`.

mod config;
mod members;
mod neighbour_update;
mod persisted;
mod ping;
mod ping_schedule;
mod registration;
mod ring;
#[cfg(test)]
mod tests;

use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::engine::{ConnId, End, Input, Step, Violation};
use crate::proto::log_limit::LogLimit;

use super::wire::{Reader, Refusal, Reply, Request, page_len};

pub use config::{Config, Counts, Host, Outbound, Timer};
pub use persisted::{Change, PersistedMember, Write, Written};

use config::Purpose;
use members::Member;
use registration::Registered;
use ring::Ring;

/// A connection that was accepted.
#[derive(Debug, Default)]
pub struct Inbound {
    reader: Reader,
    /// The slot and number of the member that registered here.
    registered: Option<(u32, u64)>,
}

/// A tracker.
pub struct Tracker {
    ring: Ring,
    log_pickles: LogLimit,
}

impl Tracker {
    /// A tracker for the database `items`, at most 2^32-1 of them and at least one, with the members that it recovers.
    pub fn new(config: Config, items: Vec<Box<str>>, recovered: Vec<PersistedMember>) -> Tracker {
        assert!(!items.is_empty(), "a database has items");
        Tracker {
            ring: Ring::new(config, items, recovered),
            log_pickles: LogLimit::default(),
        }
    }

    /// Begins to ping. Once, before anything else.
    pub(super) fn start(&mut self, host: &mut dyn Host) {
        self.ring.watch_schedule(host);
    }

    pub fn counts(&self) -> Counts {
        self.ring.counts
    }

    /// Members, those included that have not answered since the start.
    pub fn members(&self) -> usize {
        self.ring.members.len()
    }

    /// The handles in the ring, in order.
    pub fn ring(&self) -> Vec<Arc<str>> {
        let ring = self.ring.members.ring_from(0);
        ring.map(|member| member.handle.clone()).collect()
    }

    /// Every member in the ring knows its neighbour.
    pub fn is_settled(&self) -> bool {
        let settled = |member: &Member<ring::Contact>| {
            let before = self.ring.before(member.number);
            member.contact.update.is_settled(before)
        };
        self.ring.members.ring_from(0).all(settled)
    }

    /// Serves a request that came from `from` on the connection `id`.
    pub(super) fn serve(
        &mut self,
        host: &mut dyn Host,
        (id, from): (ConnId, SocketAddrV4),
        inbound: &mut Inbound,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let read = inbound.reader.read(input);
        let packet = match read {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(Step::More),
            Err(Refusal::Opcode(what)) => {
                let line = format_args!("{from}: refused a pickle: {what}");
                self.log_pickles.warn(host.now(), line);
                return Err(Refusal::Opcode(what).into());
            }
            Err(refusal) => {
                if let Some(out) = host.output_of(id) {
                    Reply::BAD_REQUEST.put(inbound.reader.encoding(), out);
                }
                return Err(refusal.into());
            }
        };
        let (used, encoding) = (packet.used, packet.encoding);
        let reply = match packet.request() {
            Ok(Request::Register { handle, port }) => {
                let addr = SocketAddrV4::new(*from.ip(), port);
                let registered = self.ring.register(host, id, &handle, addr, encoding);
                return Ok(match registered {
                    Registered::Refused => Step::Done(used),
                    Registered::Member {
                        slot,
                        number,
                        waits,
                    } => {
                        inbound.registered = Some((slot, number));
                        Step::message(used, waits)
                    }
                });
            }
            Ok(Request::Echo { handle }) => {
                let hi = format!("Hi {handle}, Welcome to the network. Register to get started.");
                Ok(Reply::Tracker(hi.into()))
            }
            Ok(Request::Peers { offset }) => Ok(self.page(offset)),
            Ok(Request::UpdateNbr(_) | Request::Ping { .. } | Request::Query { .. }) => {
                Err(Violation::peer("a request that is for peers"))
            }
            Err(bad) => Err(bad.into()),
        };
        if let Some(out) = host.output_of(id) {
            let reply = reply.as_ref().unwrap_or(&Reply::BAD_REQUEST);
            reply.put(encoding, out);
        }
        reply.map(|_| Step::Done(used))
    }

    fn page(&self, offset: u32) -> Reply<'_> {
        let members = &self.ring.members;
        let peers = || members.ring_from(0).skip(offset as usize);
        let len = page_len(peers().map(|member| &*member.handle));
        Reply::Peers {
            total: members.ring_len() as u32,
            page: peers().take(len).map(Member::as_neighbour).collect(),
        }
    }

    pub(super) fn inbound_ended(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        inbound: &Inbound,
        end: End,
    ) {
        if let Some(member) = inbound.registered {
            self.ring.registration_ended(host, member, id, end);
        }
    }

    /// A dial succeeded.
    pub(super) fn reached(&mut self, host: &mut dyn Host, id: ConnId, outbound: &Outbound) {
        self.ring.reached(host, id, outbound);
    }

    /// Something came on a connection to a member.
    pub(super) fn answered(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        outbound: &mut Outbound,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        if outbound.purpose == Purpose::Update {
            // UPDATE_NBR has no answer. What the peer sends all the same is discarded.
            return Ok(Step::Done(input.bytes.len()));
        }
        let Some(packet) = outbound.reader.read(input)? else {
            return Ok(Step::More);
        };
        let used = packet.used;
        let Reply::Ping { handle } = packet.reply()? else {
            return Err(Violation::peer("no answer to a PING"));
        };
        self.ring.ping_answered(host, outbound.slot, id, &handle);
        Ok(Step::Done(used))
    }

    pub(super) fn outbound_ended(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        outbound: &Outbound,
        end: End,
    ) {
        self.ring.outbound_ended(host, id, outbound, end);
    }

    pub(super) fn fired(&mut self, host: &mut dyn Host, timer: Timer) {
        self.ring.fired(host, timer);
    }

    /// The worker reports what became of a change.
    pub(super) fn written(&mut self, host: &mut dyn Host, done: &Written) {
        self.ring.written(host, done);
    }
}

//! The tracker: registers peers, gives each an item and a neighbour, pings them, and closes the ring over the dead.
//!
//! What it must get right is that the neighbours which the peers know are the ring's, although UPDATE_NBR has no answer
//! and each message has a connection of its own, so that an old one may overtake a new one:
//! - a peer has at most one message about its neighbour under way, and the newest is sent when that is settled;
//! - a REG_INIT is settled once the peer has closed its connection, or has had 2 s to;
//! - an UPDATE_NBR is taken once the peer closes the connection after it. When that breaks, or stays open for
//!   5 s, it may be taken or not, now or later: it is sent again until one is taken, and then once more;
//! - who closes may not have read it (a peer at its limit of connections hangs up at once): it is sent once more when
//!   the peer next answers a ping;
//! - it is sent until it is taken or the peer is pruned.
//!
//! Of the reliability catalogue: a peer that refuses or breaks a ping is asked again until its time is up (C4, C5: one
//! deadline, as the specification has it); a handle whose peer may be dead is pinged when somebody else wants it (C3);
//! members known from the disk are pinged at the start, and stand in the ring when they have answered (C10).
//!
//! Registrations are here, pings in `pings.rs`, UPDATE_NBR in `updates.rs`, what is stored in `kept.rs`. Not here: sockets,
//! the clock, the store, the database's file. Never a scan of all members, but for `(PEERS,)`.

mod kept;
mod pings;
mod updates;

use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, Step, Tick, Ticks, TimerId, Violation};

use super::members::{Member, Members};
use super::node::{Conn, RingNode, Timer};
use super::rounds::Rounds;
use super::wire::{
    Encoding, Item, Neighbour, Reader, Refusal, RegInit, RegInitOrder, Reply, Request, page_len,
};

pub use kept::{Change, Known, Write, Written};

use kept::Welcome;

/// How long a peer has to close the connection on which it registered; programs that keep it open have read the answer
/// by then.
const SETTLES_WITHIN: Ticks = Ticks::from_secs(2);

/// How a tracker is to behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// Each peer is pinged once in this time.
    pub ping_interval: Ticks,
    /// A peer that has not answered a ping by then is removed.
    pub ping_timeout: Ticks,
    pub order: RegInitOrder,
    /// The local address of calls to peers, where it matters: they take UPDATE_NBR from the tracker's address only.
    pub dial_from: Option<SocketAddrV4>,
    /// A worker commits registrations; they are answered once they are on disk.
    pub durable: bool,
    /// Members at once; a further registration is answered with a text. A member takes some 300 bytes.
    pub members_max: usize,
    /// The wall clock at tick 0, in seconds since 1970, for the time in a PING.
    pub started_unix_secs: u64,
}

impl Default for Config {
    /// The specification's, in memory.
    fn default() -> Config {
        Config {
            ping_interval: Ticks::from_secs(20),
            ping_timeout: Ticks::from_secs(5),
            order: RegInitOrder::IpFirst,
            dial_from: None,
            durable: false,
            members_max: 100_000,
            started_unix_secs: 0,
        }
    }
}

impl Config {
    /// What a tracker needs of the engine: the deaths of a large ring are many dials at once that nobody answers.
    pub fn fit(&self, limits: Limits) -> Limits {
        Limits {
            dials_max: limits.dials_max.max(limits.conns_max / 2),
            ..limits
        }
    }
}

/// What a tracker did, for whoever measures it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New members; those that registered again are not counted.
    pub registered: u64,
    /// Registrations of a handle that was somebody else's.
    pub refused: u64,
    /// REG_INITs sent, refusals included.
    pub reg_inits: u64,
    /// UPDATE_NBRs sent.
    pub updates: u64,
    /// PINGs sent.
    pub pings: u64,
    /// Members removed because they did not answer.
    pub pruned: u64,
}

/// Somebody who came to the tracker.
#[derive(Debug, Default)]
pub struct Guest {
    reader: Reader,
    /// The slot and number of the member that registered here.
    registered: Option<(u32, u64)>,
}

/// A call to a member.
#[derive(Debug)]
pub struct Call {
    slot: u32,
    what: What,
    reader: Reader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Ping,
    Update,
}

/// What goes on between the tracker and a member.
#[derive(Debug)]
struct Contact {
    ping: Ping,
    ping_timer: Option<TimerId>,
    update: Update,
    update_timer: Option<TimerId>,
    /// The number of the neighbour that it knows of; `None`: that is not certain.
    told: Option<u64>,
    /// An earlier UPDATE_NBR may still reach it.
    unsettled: bool,
    /// UPDATE_NBRs in a row whose connection it kept open.
    unconfirmed: u8,
    /// It is told of its neighbour once more when it next answers a ping.
    confirm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ping {
    Idle,
    Asked {
        conn: ConnId,
        until: Tick,
    },
    /// To be asked again soon.
    Again {
        until: Tick,
    },
}

/// The message about its neighbour that is under way to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    Idle,
    /// A REG_INIT.
    Registering(ConnId),
    /// An UPDATE_NBR; with the neighbour's number, once it is written.
    Sending(ConnId, Option<u64>),
    /// To be sent again soon.
    Again,
}

/// The service.
pub struct Tracker {
    config: Config,
    items: Vec<Box<str>>,
    members: Members<Contact>,
    next_number: u64,
    rounds: Rounds,
    /// When the next turn is armed for.
    round_timer: Option<(TimerId, Tick)>,
    counts: Counts,
}

impl Tracker {
    /// A tracker for the database `items`, at most 2^32-1 of them and at least one, with the members that it is `known` to have.
    pub fn new(config: Config, items: Vec<Box<str>>, known: Vec<Known>) -> Tracker {
        assert!(!items.is_empty(), "a database has items");
        let mut tracker = Tracker {
            members: Members::new(),
            next_number: 0,
            rounds: Rounds::new(config.ping_interval),
            round_timer: None,
            counts: Counts::default(),
            config,
            items,
        };
        for known in known {
            if tracker.members.by_handle(&known.handle).is_none() {
                let number = known.number;
                tracker.next_number = tracker.next_number.max(number + 1);
                let slot = tracker.members.insert(member(known));
                tracker.rounds.push_due(Tick(0), slot, number);
            }
        }
        tracker
    }

    /// Begins to ping.
    pub(super) fn start(&mut self, hub: &mut Hub<RingNode>) {
        self.plan_round(hub);
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Members, those included that have not answered since the start.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The handles in the ring, in order.
    pub fn ring(&self) -> Vec<Arc<str>> {
        let ring = self.members.ring_from(0);
        ring.map(|member| member.handle.clone()).collect()
    }

    /// Nobody has to be told of a neighbour.
    pub fn is_settled(&self) -> bool {
        self.members.ring_from(0).all(|member| {
            let before = self.before(member.number);
            member.contact.update == Update::Idle && member.contact.told == before
        })
    }

    pub(super) fn serve(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        guest: &mut Guest,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let packet = match guest.reader.read(input) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(Step::More),
            Err(refusal) => {
                if let Refusal::Opcode(what) = refusal {
                    log::warn!("{}: refused a pickle that would {what}", cx.peer());
                } else {
                    Reply::BAD_REQUEST.put(guest.reader.encoding(), cx.out());
                }
                return Err(refusal.into());
            }
        };
        let (used, encoding) = (packet.used, packet.encoding);
        let request = packet.request().inspect_err(|_| {
            Reply::BAD_REQUEST.put(encoding, cx.out());
        })?;
        match request {
            Request::Register { handle, port } => {
                let waits = self.register(cx, guest, &handle, port, encoding);
                Ok(if waits {
                    Step::Wait(used)
                } else {
                    Step::Done(used)
                })
            }
            Request::Echo { handle } => {
                let hi = format!("Hi {handle}, Welcome to the network. Register to get started.");
                Reply::Tracker(hi.into()).put(encoding, cx.out());
                Ok(Step::Done(used))
            }
            Request::Peers { offset } => {
                self.page(offset).put(encoding, cx.out());
                Ok(Step::Done(used))
            }
            Request::UpdateNbr(_) | Request::Ping { .. } | Request::Query { .. } => {
                Reply::BAD_REQUEST.put(encoding, cx.out());
                Err(Violation::peer("a request that is for peers"))
            }
        }
    }

    /// Whether the answer has to wait for the disk.
    fn register(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        guest: &mut Guest,
        handle: &str,
        port: u16,
        encoding: Encoding,
    ) -> bool {
        let (conn, addr) = (cx.id(), SocketAddrV4::new(*cx.peer_v4().ip(), port));
        let known = self.members.by_handle(handle);
        let slot = match known {
            Some(slot) if self.members[slot].addr == addr => {
                if self.members[slot].encoding != encoding {
                    self.members[slot].encoding = encoding;
                    self.keep(cx, Change::Add(self.known(slot)), None);
                }
                slot
            }
            Some(slot) => {
                self.counts.refused += 1;
                self.counts.reg_inits += 1;
                self.refusal().put(encoding, cx.out());
                self.ping(cx, slot);
                return false;
            }
            None if self.members.len() >= self.config.members_max => {
                Reply::Tracker("The ring is full".into()).put(encoding, cx.out());
                return false;
            }
            None => self.enrol(cx, handle, addr, encoding),
        };
        let number = self.members[slot].number;
        guest.registered = Some((slot, number));
        self.await_settled(cx, slot, conn);
        self.alive(cx, slot);
        let then = Some(Welcome { slot, number, conn });
        if known.is_none() && self.keep(cx, Change::Add(self.known(slot)), then) {
            return true;
        }
        self.welcome(cx, slot);
        false
    }

    fn enrol(
        &mut self,
        hub: &mut Hub<RingNode>,
        handle: &str,
        addr: SocketAddrV4,
        encoding: Encoding,
    ) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        self.counts.registered += 1;
        log::info!("{} at {addr} registers", handle.escape_debug());
        self.rounds.earn(hub.now(), self.members.len());
        let slot = self.members.insert(member(Known {
            number,
            handle: handle.into(),
            addr,
            encoding,
        }));
        self.rounds.push(hub.now(), slot, number);
        self.plan_round(hub);
        slot
    }

    /// A REG_INIT goes to the member: nothing else about its neighbour does, before that is settled.
    fn await_settled(&mut self, hub: &mut Hub<RingNode>, slot: u32, conn: ConnId) {
        let contact = &mut self.members[slot].contact;
        if let Update::Sending(old, written) = contact.update {
            contact.unsettled |= written.is_some();
            hub.close_conn(old);
        }
        contact.update = Update::Registering(conn);
        if let Some(timer) = contact.update_timer.take() {
            hub.cancel(timer);
        }
    }

    /// Answers the member that waits for its REG_INIT.
    fn welcome(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let member = &self.members[slot];
        let Update::Registering(conn) = member.contact.update else {
            return;
        };
        let reply = Reply::RegInit(RegInit {
            nbr: self.neighbour(member.number),
            dbsize: self.items.len() as u32,
            item: self.item(member.number),
            order: self.config.order,
        });
        if let Some(out) = hub.output_of(conn) {
            reply.put(member.encoding, out);
            self.counts.reg_inits += 1;
        }
        let before = self.before(member.number);
        let contact = &mut self.members[slot].contact;
        contact.told = before.filter(|_| !contact.unsettled);
        self.arm_update(hub, slot, SETTLES_WITHIN);
    }

    fn refusal(&self) -> Reply<'_> {
        Reply::RegInit(RegInit {
            nbr: None,
            dbsize: self.items.len() as u32,
            item: None,
            order: self.config.order,
        })
    }

    pub(super) fn written(&mut self, hub: &mut Hub<RingNode>, done: &Written) {
        let Some(Welcome { slot, number, conn }) = done.then else {
            return;
        };
        hub.resume(conn);
        let member = self.members.get(slot).filter(|m| m.number == number);
        // It may have come again meanwhile, and was answered then.
        if member.is_some_and(|m| m.contact.update == Update::Registering(conn)) {
            self.welcome(hub, slot);
        } else {
            hub.close_conn(conn);
        }
    }

    /// The item that the member with this number hosts.
    fn item(&self, number: u64) -> Option<Item<'_>> {
        let seq = number % self.items.len() as u64;
        let data = self.items.get(seq as usize)?;
        Some(Item {
            seq: seq as u32,
            data: (&**data).into(),
        })
    }

    fn neighbour(&self, number: u64) -> Option<Neighbour<'_>> {
        let before = &self.members[self.members.before(number)?];
        Some(before.as_neighbour())
    }

    fn before(&self, number: u64) -> Option<u64> {
        let slot = self.members.before(number)?;
        Some(self.members[slot].number)
    }

    fn page(&self, offset: u32) -> Reply<'_> {
        let peers = || self.members.ring_from(0).skip(offset as usize);
        let len = page_len(peers().map(|member| &*member.handle));
        Reply::Peers {
            total: self.members.ring_len() as u32,
            page: peers().take(len).map(Member::as_neighbour).collect(),
        }
    }

    pub(super) fn left(&mut self, hub: &mut Hub<RingNode>, id: ConnId, guest: &Guest, end: End) {
        let Some((slot, number)) = guest.registered else {
            return;
        };
        let Some(member) = self.members.get_mut(slot).filter(|m| m.number == number) else {
            return;
        };
        let contact = &mut member.contact;
        if contact.update == Update::Registering(id) {
            contact.update = Update::Idle;
            // Whoever closes has read the answer; otherwise, it may not have come.
            if end != End::Eof {
                contact.told = None;
            }
            self.settle(hub, slot);
        }
    }

    pub(super) fn fired(&mut self, hub: &mut Hub<RingNode>, timer: Timer) {
        match timer {
            Timer::Round => {
                self.round_timer = None;
                self.round(hub);
            }
            Timer::Ping(slot) => self.ping_fired(hub, slot),
            Timer::Update(slot) => self.update_fired(hub, slot),
            Timer::Tracker(_) | Timer::Ask(_) | Timer::Held(_) => {}
        }
    }

    pub(super) fn reached(&mut self, cx: &mut Cx<'_, RingNode>, call: &mut Call) {
        let Some(member) = self.members.get(call.slot) else {
            return cx.close();
        };
        match call.what {
            What::Ping => {
                let time = self.config.started_unix_secs + cx.now().0 / Ticks::from_secs(1).0;
                let time = time.to_string().into();
                Request::Ping { time }.put(member.encoding, cx.out());
                self.counts.pings += 1;
            }
            What::Update => self.update_reached(cx, call.slot),
        }
    }

    pub(super) fn ended(&mut self, hub: &mut Hub<RingNode>, id: ConnId, call: &Call, end: End) {
        match call.what {
            What::Ping => self.ping_ended(hub, call.slot, id, end),
            What::Update => self.update_ended(hub, call.slot, id, end),
        }
    }

    /// The member has shown that it is there.
    fn alive(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        if !self.members.is_in_ring(slot) {
            self.members.admit(slot);
            self.settle(hub, slot);
            self.settle_after(hub, self.members[slot].number);
        }
    }

    fn remove(&mut self, hub: &mut Hub<RingNode>, slot: u32, why: &str) {
        self.rounds.earn(hub.now(), self.members.len());
        let member = self.members.remove(slot);
        log::info!(
            "{} at {} is gone: {why}",
            member.handle.escape_debug(),
            member.addr
        );
        self.counts.pruned += 1;
        let contact = member.contact;
        for timer in [contact.ping_timer, contact.update_timer]
            .into_iter()
            .flatten()
        {
            hub.cancel(timer);
        }
        if let Ping::Asked { conn, .. } = contact.ping {
            hub.close_conn(conn);
        }
        if let Update::Sending(conn, _) = contact.update {
            hub.close_conn(conn);
        }
        self.keep(hub, Change::Remove(member.number), None);
        self.settle_after(hub, member.number);
    }

    /// Whether `then` has to wait for it.
    fn keep(&mut self, hub: &mut Hub<RingNode>, change: Change, then: Option<Welcome>) -> bool {
        // Refused when the disk is far behind; it is then behind by one more, and a restart finds out.
        self.config.durable && hub.submit(Write::new(change, then)).is_ok()
    }

    fn known(&self, slot: u32) -> Known {
        let member = &self.members[slot];
        Known {
            number: member.number,
            handle: member.handle.clone(),
            addr: member.addr,
            encoding: member.encoding,
        }
    }

    fn dial(&self, hub: &mut Hub<RingNode>, slot: u32, what: What) -> ConnId {
        let call = Call {
            slot,
            what,
            reader: Reader::default(),
        };
        hub.dial(
            self.members[slot].addr,
            self.config.dial_from.map(Into::into),
            Conn::Call(call),
        )
    }
}

impl<T> Member<T> {
    fn as_neighbour(&self) -> Neighbour<'_> {
        Neighbour {
            handle: (&*self.handle).into(),
            addr: self.addr,
        }
    }
}

fn member(known: Known) -> Member<Contact> {
    Member {
        handle: known.handle,
        addr: known.addr,
        encoding: known.encoding,
        number: known.number,
        contact: Contact {
            ping: Ping::Idle,
            ping_timer: None,
            update: Update::Idle,
            update_timer: None,
            told: None,
            unsettled: false,
            unconfirmed: 0,
            confirm: false,
        },
    }
}

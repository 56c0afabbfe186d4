//! Peers: each registers, serves its items, and queries its neighbour for the missing ones until it has all.
//!
//! ```text
//!   tracker ◀── registration ──▶ REG_INIT: item to host, neighbour
//!   tracker ──▶ UPDATE_NBR ────▶ neighbour_query ──▶ neighbour (the predecessor)
//!                                     │ query_order: which item, when
//!                                     ▼
//!   successor ──▶ QUERY ──▶ items ─── hit ──▶ answer
//!                             └────── miss ─▶ parked_queries ──▶ answer when the item comes
//! ```
//! A service hosts any number of peers, each at the listener of its number; one is the usual case, thousands a stress run.
//!
//! A QUERY for a missing item may be parked: a peer that repeats a query for an item, on the same connection, is answered when
//! the item comes, at the latest after 2 s; and while it is served that way, so are its queries for other items. So an
//! item goes round a ring of our peers as fast as the network does, instead of at each peer's next try, and no peer is
//! queried more often than every 2 s for what does not come. Answered at once are the first query on a connection,
//! queries for higher items after a miss, and all queries of a peer that opens a connection for each.
//!
//! Not here: files, terminals, the end of the process, the engine ([`super::node`]).
//!
//! Invariants: a peer has at most one query and one registration open; it has one timer, which follows the earliest deadline
//! of its parts; what is parked is at most 64 queries.

mod config;
mod inbound;
mod items;
mod neighbour_query;
mod parked_queries;
mod query_order;
mod registration;

use std::net::SocketAddrV4;

use crate::engine::{ConnId, End, Input, Limits, Step, Tick, Violation};
use crate::proto::host::{Alarm, Unarmed};
use crate::proto::log_limit::LogLimit;

use super::wire::{Encoding, Neighbour, RegInit, Reply, Request};

pub use config::{Config, Host, Outbound, Timer};
pub use inbound::Inbound;
pub use items::{ITEMS_BYTES_MAX, Items};
pub use neighbour_query::Predecessor;

use config::{Own, Target};
use neighbour_query::NeighbourQueries;
use parked_queries::{ParkedQueries, found};
use registration::Registration;

/// The peers of a service.
#[derive(Default)]
pub struct Peers {
    peers: Vec<Peer>,
    /// Connections accepted so far.
    accepted: u64,
    unarmed: Unarmed<Timer>,
    log_foreign_update: LogLimit,
}

/// One peer.
pub struct Peer {
    own: Own,
    alive: bool,
    alarm: Alarm,
    registration: Registration,
    items: Items,
    queries: NeighbourQueries,
    parked: ParkedQueries,
    /// How old the knowledge of the neighbour is: how many connections had been accepted before the UPDATE_NBR's own, or
    /// before the REGISTER was sent whose answer named it. The tracker sends one such message at a time, so an UPDATE_NBR
    /// on an older connection was overtaken.
    neighbour_order: u64,
    /// The same of a REGISTER under way.
    registering_order: u64,
    log_neighbour: LogLimit,
}

impl Peers {
    pub fn new() -> Peers {
        Peers::default()
    }

    /// What peers need of the engine.
    pub fn fit(limits: Limits) -> Limits {
        Limits {
            dials_max: limits.dials_max.max(limits.conns_max / 2),
            ..limits
        }
    }

    /// Adds a peer, which registers at once. Its listener is that of its number, which is returned.
    pub fn add(&mut self, host: &mut dyn Host, config: Config) -> usize {
        let index = self.peers.len();
        let mut peer = Peer::new(config, index as u32);
        peer.registration.begin(host, &peer.own);
        self.peers.push(peer);
        self.watch(host, index as u32);
        index
    }

    pub fn all(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer dies, as far as others can tell: every connection to it is closed.
    pub fn kill(&mut self, host: &mut dyn Host, index: usize) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.die(host);
            self.watch(host, index as u32);
        }
    }

    fn peer(&mut self, index: u32) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(index as usize);
        peer.filter(|peer| peer.alive)
    }

    /// Has the timer of a peer follow its deadlines; whether there is one.
    fn watch(&mut self, host: &mut dyn Host, index: u32) -> bool {
        let Some(peer) = self.peers.get_mut(index as usize) else {
            return false;
        };
        let due = peer.due();
        peer.alarm
            .follow(host, due, Timer(index), &mut self.unarmed);
        due.is_some()
    }

    /// A connection was accepted; `None`: its peer is dead, and it is to be closed.
    pub(super) fn accept(&mut self, listener: usize) -> Option<Inbound> {
        let index = u32::try_from(listener).ok()?;
        self.peer(index)?;
        self.accepted += 1;
        Some(Inbound::new(index, self.accepted))
    }

    /// Serves a request that came from `from` on the connection `id`.
    pub(super) fn serve(
        &mut self,
        host: &mut dyn Host,
        (id, from): (ConnId, SocketAddrV4),
        inbound: &mut Inbound,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let index = inbound.peer;
        let peer = self.peer(index).ok_or(Violation::us("it is dead"))?;
        let Some(packet) = inbound.reader.read(input)? else {
            return Ok(Step::More);
        };
        let (used, encoding) = (packet.used, packet.encoding);
        let from_tracker = from.ip() == peer.own.config.tracker.ip();
        match packet.request()? {
            Request::Echo { .. } => {
                let handle = (&*peer.own.config.handle).into();
                if let Some(out) = host.output_of(id) {
                    Request::Echo { handle }.put(encoding, out);
                }
            }
            Request::Ping { .. } => {
                let handle = (&*peer.own.config.handle).into();
                if let Some(out) = host.output_of(id) {
                    Reply::Ping { handle }.put(encoding, out);
                }
                if from_tracker {
                    peer.registration.pinged(host.now());
                }
            }
            Request::UpdateNbr(_) if !from_tracker => {
                let line = format_args!("{from} is not the tracker: UPDATE_NBR refused");
                self.log_foreign_update.warn(host.now(), line);
                return Err(Violation::peer("UPDATE_NBR from a stranger"));
            }
            Request::UpdateNbr(neighbour) => {
                peer.registration.heard(host.now());
                if inbound.order > peer.neighbour_order {
                    peer.neighbour_order = inbound.order;
                    peer.set_neighbour(host, &neighbour);
                }
                // UPDATE_NBR has no answer: the close tells the tracker that it was read.
                host.close_conn(id);
            }
            Request::Query { seq } => {
                let parked = peer.query(host, inbound, id, seq, encoding)?;
                self.watch(host, index);
                return Ok(Step::message(used, parked));
            }
            Request::Register { .. } | Request::Peers { .. } => {
                return Err(Violation::peer("a request that is for trackers"));
            }
        }
        self.watch(host, index);
        Ok(Step::Done(used))
    }

    /// An accepted connection is over.
    pub(super) fn inbound_ended(&mut self, id: ConnId, inbound: &Inbound) {
        if let Some(peer) = self.peer(inbound.peer) {
            peer.parked.forget(id);
        }
    }

    /// A dial succeeded.
    pub(super) fn reached(&mut self, host: &mut dyn Host, id: ConnId, outbound: &Outbound) {
        let accepted = self.accepted;
        let Some(peer) = self.peer(outbound.peer) else {
            return host.close_conn(id);
        };
        match outbound.to {
            Target::Tracker => {
                peer.registering_order = accepted;
                if let Some(out) = host.output_of(id) {
                    peer.registration.reached(&peer.own, out);
                }
            }
            Target::Neighbour => peer.queries.reached(host, id),
        }
    }

    pub(super) fn answered(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        outbound: &mut Outbound,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let index = outbound.peer;
        let peer = self.peer(index).ok_or(Violation::us("it is dead"))?;
        let Some(packet) = outbound.reader.read(input)? else {
            return Ok(Step::More);
        };
        let used = packet.used;
        let reply = packet.reply()?;
        let Peer {
            own,
            registration,
            items,
            queries,
            ..
        } = peer;
        match outbound.to {
            Target::Tracker => {
                if let Some(init) = registration.answered(host, own, id, reply)? {
                    peer.registered(host, &init);
                }
            }
            Target::Neighbour => {
                if let Some(seq) = queries.answered(host, own, items, id, reply)? {
                    peer.answer_parked(host, seq);
                }
            }
        }
        self.watch(host, index);
        Ok(Step::Done(used))
    }

    /// A connection that a peer opened, or did not get, is over.
    pub(super) fn outbound_ended(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        outbound: &Outbound,
        end: End,
    ) {
        let Some(peer) = self.peer(outbound.peer) else {
            return;
        };
        match outbound.to {
            Target::Tracker => peer.registration.ended(host, &peer.own, id, end),
            Target::Neighbour => peer.queries.ended(host, &peer.own, &peer.items, id),
        }
        self.watch(host, outbound.peer);
    }

    pub(super) fn fired(&mut self, host: &mut dyn Host, timer: Timer) {
        while let Some(unarmed) = self.unarmed.next() {
            if self.watch(host, unarmed.0) {
                break;
            }
        }
        let Timer(index) = timer;
        let Some(peer) = self.peers.get_mut(index as usize) else {
            return;
        };
        peer.alarm.fired();
        if peer.alive {
            peer.registration.fired(host, &peer.own);
            peer.queries.fired(host, &peer.own, &peer.items);
            peer.parked.fired(host);
        }
        self.watch(host, index);
    }
}

impl Peer {
    fn new(config: Config, index: u32) -> Peer {
        Peer {
            own: Own { config, index },
            alive: true,
            alarm: Alarm::default(),
            registration: Registration::default(),
            items: Items::default(),
            queries: NeighbourQueries::default(),
            parked: ParkedQueries::default(),
            neighbour_order: 0,
            registering_order: 0,
            log_neighbour: LogLimit::default(),
        }
    }

    pub fn handle(&self) -> &str {
        &self.own.config.handle
    }

    pub fn addr(&self) -> SocketAddrV4 {
        self.own.config.addr
    }

    pub fn items(&self) -> &Items {
        &self.items
    }

    pub fn is_alive(&self) -> bool {
        self.alive
    }

    pub fn neighbour(&self) -> Option<&Predecessor> {
        self.queries.neighbour()
    }

    /// It was registered when it last heard of the tracker.
    pub fn is_registered(&self) -> bool {
        self.registration.is_registered()
    }

    /// The tracker refused the handle, which is another peer's, for so long that the peer gave up.
    pub fn is_declined(&self) -> bool {
        self.registration.is_declined()
    }

    /// QUERYs sent.
    pub fn queries(&self) -> u64 {
        self.queries.sent()
    }

    fn due(&self) -> Option<Tick> {
        let due = [
            self.registration.due(),
            self.queries.due(),
            self.parked.due(),
        ];
        due.into_iter().flatten().min().filter(|_| self.alive)
    }

    fn die(&mut self, host: &mut dyn Host) {
        self.alive = false;
        let own = [self.registration.conn(), self.queries.conn()];
        for conn in self.parked.drain().chain(own.into_iter().flatten()) {
            host.resume(conn);
            host.close_conn(conn);
        }
    }

    /// The tracker gave the peer a place in the ring.
    fn registered(&mut self, host: &mut dyn Host, init: &RegInit<'_>) {
        self.items.begin(init.dbsize, init.item.as_ref());
        if let Some(item) = &init.item {
            self.answer_parked(host, item.seq);
        }
        if let Some(neighbour) = &init.nbr
            && self.registering_order >= self.neighbour_order
        {
            self.neighbour_order = self.registering_order;
            self.set_neighbour(host, neighbour);
        }
        self.queries.go_on(host, &self.own, &self.items);
    }

    fn set_neighbour(&mut self, host: &mut dyn Host, nbr: &Neighbour<'_>) {
        if self
            .queries
            .set_neighbour(host, &self.own, &self.items, nbr)
        {
            let own = self.own.config.handle.escape_debug();
            let handle = nbr.handle.escape_debug();
            let line = format_args!("{own}: the neighbour is {handle} at {}", nbr.addr);
            self.log_neighbour.info(host.now(), line);
        }
    }

    /// Answers a query, or parks it; returns which.
    fn query(
        &mut self,
        host: &mut dyn Host,
        inbound: &mut Inbound,
        id: ConnId,
        seq: u32,
        encoding: Encoding,
    ) -> Result<bool, Violation> {
        if self.items.is_beyond(seq) {
            return Err(Violation::peer("no item has this number"));
        }
        let now = host.now();
        let may_park = inbound.query(seq, now);
        let data = self.items.get(seq);
        if data.is_none() && may_park {
            if !self.parked.is_full() {
                self.parked.park(id, encoding, seq, now);
                return Ok(true);
            }
            inbound.refuse_parking();
        }
        if let Some(out) = host.output_of(id) {
            let reply = data.map_or(Reply::QueryResult(None), |data| found(seq, data));
            reply.put(encoding, out);
        }
        Ok(false)
    }

    /// An item came: the queries that are parked for it are answered.
    fn answer_parked(&mut self, host: &mut dyn Host, seq: u32) {
        if let Some(data) = self.items.get(seq) {
            self.parked.answer(host, seq, data);
        }
    }
}

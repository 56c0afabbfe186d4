//! Visits every peer of an overlay, breadth-first, for a map of it.
//!
//! The protocol has no question but the join, so a visit is a join that ends as soon as the packet is there: the peer
//! frees the slot at once. Visits are made from a port with a listener, since the peer may name it to others meanwhile;
//! newcomers there get a Redirect without entries.
//!
//! For: a map. It sees what a newcomer sees: 64 random entries of a larger table. Not for: printing.
//!
//! Invariants: at most [`PEERS_MAX`] peers, `VISITS_AT_ONCE` visits at once, one visit a peer; every visit has a deadline.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;

use crate::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Ticks, TimerId, Violation};

use super::packet::{Kind, is_usable, parse, put_packet};

/// Peers of one walk: a peer that makes up addresses must not lead it on for ever.
pub const PEERS_MAX: usize = 50_000;

/// Entries that are kept of one packet: twice what ours send. With all peers that makes some millions of links, which a
/// map has to sort in a few seconds and a few hundred MiB.
const ENTRIES_MAX: usize = 128;

/// Visits at once: enough to walk thousands of peers in a second, few enough to be a guest.
const VISITS_AT_ONCE: usize = 32;

/// What a visit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub name: Vec<u8>,
    /// It had room for one more.
    pub has_room: bool,
    pub peers: Vec<SocketAddrV4>,
}

/// Why a visit found nothing; `None` as an end: the peer accepted and was silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(pub Option<End>);

/// A walk through an overlay.
pub struct Walk {
    /// Where our listener is bound, and so what we dial from.
    listening: SocketAddrV4,
    /// The address that others see.
    own: SocketAddrV4,
    answer: Ticks,
    pub(super) peers_max: usize,
    queue: VecDeque<SocketAddrV4>,
    /// Every peer that was named; `None`: not visited yet.
    pub(super) found: BTreeMap<SocketAddrV4, Option<Result<Visit, Failure>>>,
    under_way: usize,
}

impl Walk {
    /// A walk that begins at `contact`, from the listener at `listening`, which others see as `own`; a peer that accepts has
    /// to answer within `answer`. The node stops when the walk is over.
    pub fn new(
        contact: SocketAddrV4,
        listening: SocketAddrV4,
        own: SocketAddrV4,
        answer: Ticks,
    ) -> Walk {
        Walk {
            listening,
            own,
            answer,
            peers_max: PEERS_MAX,
            queue: VecDeque::from([contact]),
            found: BTreeMap::from([(contact, None)]),
            under_way: 0,
        }
    }

    /// What the walk found, by address.
    pub fn into_found(self) -> BTreeMap<SocketAddrV4, Option<Result<Visit, Failure>>> {
        self.found
    }

    fn note(&mut self, peer: SocketAddrV4) {
        let is_new = self.found.len() < self.peers_max && !self.found.contains_key(&peer);
        if is_new {
            self.found.insert(peer, None);
            self.queue.push_back(peer);
        }
    }

    fn go_on(&mut self, hub: &mut Hub<Self>) {
        while self.under_way < VISITS_AT_ONCE
            && let Some(peer) = self.queue.pop_front()
        {
            self.under_way += 1;
            let conn = Conn {
                peer,
                timer: None,
                visit: None,
            };
            hub.dial(peer, Some(self.listening.into()), conn);
        }
        if self.under_way == 0 {
            hub.stop();
        }
    }
}

/// A visit under way.
#[derive(Debug)]
pub struct Conn {
    peer: SocketAddrV4,
    /// The packet has to come before it.
    timer: Option<TimerId>,
    visit: Option<Visit>,
}

impl Service for Walk {
    const IPV4_ONLY: bool = true;

    type Conn = Conn;
    type Note = ();
    type Timer = ConnId;
    type Job = NoJob;
    type Done = ();

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        self.go_on(hub);
    }

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Conn> {
        put_packet(cx.out(), Kind::Redirect, b"map", []);
        None
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        let id = cx.id();
        conn.timer = cx.arm(self.answer, id);
        // At the engine's limit of timers there is no deadline, and so no visit.
        if conn.timer.is_none() {
            cx.close();
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some((packet, used)) = parse(input.bytes)? else {
            return Ok(Step::More);
        };
        let named = packet.entries.iter();
        let others = named.filter(|peer| *peer != self.own && is_usable(*peer));
        conn.visit = Some(Visit {
            name: packet.sender.to_vec(),
            has_room: packet.kind == Kind::Welcome,
            peers: others.take(ENTRIES_MAX).collect(),
        });
        cx.close();
        Ok(Step::Done(used))
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, _id: ConnId, conn: Conn, end: End) {
        if let Some(timer) = conn.timer {
            hub.cancel(timer);
        }
        self.under_way -= 1;
        // Closed by us without a visit, while it was silent.
        let failure = Failure((end != End::Closed).then_some(end));
        let mut result = conn.visit.ok_or(failure);
        if let Ok(visit) = &mut result {
            visit.peers.iter().for_each(|peer| self.note(*peer));
            // A peer beyond the limit is nowhere on the map; otherwise there would be no end of peers that are only named.
            visit.peers.retain(|peer| self.found.contains_key(peer));
        }
        self.found.insert(conn.peer, Some(result));
        self.go_on(hub);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        hub.close_conn(id);
    }
}

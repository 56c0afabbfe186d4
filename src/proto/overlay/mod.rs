//! The overlay: cPTP peers with bounded tables, which welcome a newcomer or redirect it to others.
//!
//! Where to look:
//! - [`wire`]: the bytes of a packet, both ways; pure.
//! - [`table`]: the peers that a peer has, of which it tells a random sample; and the memory of who declined.
//! - [`peer`]: one peer: what it answers newcomers, its joins, its time.
//! - [`join`]: whom a joiner tries next, and when it ends; pure.
//! - [`walk`]: visits every peer of an overlay, for a map of it.
//! - here: the service, which hosts one peer or thousands, one a listener.
//!
//! Addresses take four bytes in a packet: no peer has one of IPv6.
//!
//! What it does not do: find out whether a peer without a link still lives. To a plain peer every connection is a
//! join, so nobody is dialled for that; its entry ends by time.
//!
//! Invariants: a table never has more entries than its size, no peer twice and never its own address; a join ends by
//! its deadline; an idle peer has no timer but that of the next entry without a link.

pub mod join;
pub mod peer;
pub mod table;
#[cfg(test)]
mod tests;
pub mod walk;
pub mod wire;

use std::net::SocketAddrV4;

use rand::RngExt;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, NoJob, Service, Step, Ticks, Violation};

use join::Report;
use peer::{Config, Peer};
use wire::{PACKET_BYTES_MAX, Packet, parse};

/// Bytes that a newcomer may send although nobody asked it anything: some do, says the specification.
const SPARE_BYTES_MAX: u16 = 1024;

/// A peer that is silent for so long is asked by the kernel whether it is there; its entry must not outlive it by
/// much more than one that has no link.
const KEEPALIVE: Ticks = Ticks::from_secs(60);

/// What happens to a peer, as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A newcomer is in the table.
    ConnectedFrom(SocketAddrV4),
    /// A newcomer found the table full.
    Redirected(SocketAddrV4),
    /// Somebody whom we dialled welcomed or redirected us.
    Answered {
        peer: SocketAddrV4,
        packet: Packet<'a>,
        timestamp: u32,
    },
    /// A dial came to nothing; `end` is `None` when the peer accepted and was silent.
    Failed {
        peer: SocketAddrV4,
        end: Option<End>,
        /// It will be tried again.
        again: bool,
    },
    /// Our own port cannot be used to dial this peer, which will therefore see an address at which nobody listens.
    OtherPort(SocketAddrV4),
    /// A link ended.
    Gone {
        peer: SocketAddrV4,
        /// It stays in the table, since it welcomed us.
        remembered: bool,
    },
    /// Its time without a link is over.
    Forgotten(SocketAddrV4),
}

/// What the end of a join means to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Stop,
}

/// Who wants to know what happens; called on the loop, so it must not block.
pub trait Observer: Sized {
    fn on_event(&mut self, _peer: usize, _event: Event<'_>) {}

    fn on_join_end(&mut self, _peer: usize, _report: &Report) -> Then {
        Then::GoOn
    }
}

/// Nobody wants to know.
impl Observer for () {}

/// The service: peers, each at the listener of its number.
pub struct Overlay<O> {
    peers: Vec<Peer>,
    observer: O,
}

impl<O: Observer> Overlay<O> {
    pub fn new(observer: O) -> Overlay<O> {
        Overlay {
            peers: Vec::new(),
            observer,
        }
    }

    /// Adds a peer, which is the one of the next listener, and returns its number.
    pub fn add(&mut self, hub: &mut Hub<Self>, config: Config) -> usize {
        const FIRST_TIMESTAMPS: std::ops::RangeInclusive<u32> = 1..=999;
        let number = self.peers.len();
        let first = hub.rng().random_range(FIRST_TIMESTAMPS);
        self.peers
            .push(Peer::new(number as u32, config, hub.now(), first));
        number
    }

    /// Has peer number `peer` join `contact`, besides whomever it joins already.
    pub fn join(&mut self, hub: &mut Hub<Self>, peer: usize, contact: SocketAddrV4) {
        if let Some(it) = self.peers.get_mut(peer) {
            it.join(hub, &mut self.observer, contact);
        }
    }

    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub fn observer(&self) -> &O {
        &self.observer
    }

    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    pub fn into_observer(self) -> O {
        self.observer
    }

    fn peer(&mut self, number: u32) -> Option<(&mut Peer, &mut O)> {
        let peer = self.peers.get_mut(number as usize)?;
        Some((peer, &mut self.observer))
    }
}

/// The limits of a node that runs this service: a link between two peers is silent for as long as it lasts.
pub fn fit(limits: Limits) -> Limits {
    Limits {
        idle: Ticks::NEVER,
        keepalive: KEEPALIVE,
        input_bytes_max: limits
            .input_bytes_max
            .max(limits.read_bytes_per_turn)
            .max(PACKET_BYTES_MAX),
        ..limits
    }
}

/// What is expected next on a connection, of the peer of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conn {
    /// A newcomer in our table: nothing; so many bytes more are overlooked.
    Welcomed { peer: u32, spare_bytes: u16 },
    /// We dialled: a packet.
    Asking { peer: u32 },
    /// It welcomed us: nothing, and what comes is padding.
    Joined { peer: u32 },
    /// Nothing; it is about to end.
    TurnedAway,
}

/// An idle link is to cost as little as can be: this stands beside the engine's half of every connection.
const _: () = assert!(size_of::<Option<Conn>>() <= 8);

/// The timers of the peer of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    peer: u32,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Something is due in its join: an answer, a pause, the end.
    Join,
    /// An entry without a link is to be forgotten.
    Expiry,
}

impl<O: Observer> Service for Overlay<O> {
    const IPV4_ONLY: bool = true;

    type Conn = Conn;
    type Note = ();
    type Timer = Timer;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, listener: usize) -> Conn {
        match self.peers.get_mut(listener) {
            Some(peer) => peer.accept(cx, &mut self.observer),
            None => {
                cx.close();
                Conn::TurnedAway
            }
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        if let Conn::Asking { peer } = conn
            && let Some((peer, _)) = self.peer(*peer)
        {
            let id = cx.id();
            peer.dialled(cx, id);
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let all = input.bytes.len();
        match conn {
            Conn::Welcomed { spare_bytes, .. } => {
                let left = usize::from(*spare_bytes).checked_sub(all);
                let left = left.ok_or(Violation::peer("a newcomer that goes on sending"))?;
                // Less than it was, which fits.
                *spare_bytes = left as u16;
                Ok(Step::Done(all))
            }
            Conn::Joined { .. } | Conn::TurnedAway => Ok(Step::Done(all)),
            Conn::Asking { peer } => match (parse(input.bytes)?, self.peer(*peer)) {
                (Some((packet, used)), Some((peer, observer))) => {
                    *conn = peer.answered(cx, observer, packet);
                    Ok(Step::Done(used))
                }
                _ => Ok(Step::More),
            },
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Conn, end: End) {
        let (Conn::Welcomed { peer, .. } | Conn::Asking { peer } | Conn::Joined { peer }) = conn
        else {
            return;
        };
        if let Some((peer, observer)) = self.peer(peer) {
            peer.ended(hub, observer, id, conn, end);
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        if let Some((peer, observer)) = self.peer(timer.peer) {
            peer.on_timer(hub, observer, timer.what);
        }
    }
}

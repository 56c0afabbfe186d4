//! The service: peers, each at the listener of its number. It dispatches events and has no logic of its own.

use std::net::SocketAddrV4;

use rand::RngExt;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, NoJob, Service, Step, Ticks, Violation};
use crate::proto::host::Unarmed;

use super::config::Config;
use super::connection::{Conn, Timer};
use super::event::Observer;
use super::packet::{PACKET_BYTES_MAX, parse};
use super::peer::Peer;

/// A peer that is silent for so long is probed by the kernel: its entry must not outlive it by much more than one
/// without a link does.
const KEEPALIVE: Ticks = Ticks::from_secs(60);

/// The peers of a node.
pub struct Overlay<O> {
    peers: Vec<Peer>,
    unarmed: Unarmed<Timer>,
    observer: O,
}

impl<O: Observer> Overlay<O> {
    pub fn new(observer: O) -> Overlay<O> {
        Overlay {
            peers: Vec::new(),
            unarmed: Unarmed::default(),
            observer,
        }
    }

    /// Adds a peer, which is that of the next listener, and returns its number.
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
        if let Ok(number) = u32::try_from(peer) {
            self.call(hub, number, |peer, hub, observer| {
                peer.join(hub, observer, contact);
            });
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

    /// Calls a peer, and has its timer follow what it is due for then. `None`: there is no such peer.
    fn call<R>(
        &mut self,
        hub: &mut Hub<Self>,
        number: u32,
        call: impl FnOnce(&mut Peer, &mut Hub<Self>, &mut O) -> R,
    ) -> Option<R> {
        let peer = self.peers.get_mut(number as usize)?;
        let result = call(peer, hub, &mut self.observer);
        peer.watch(hub, &mut self.unarmed);
        Some(result)
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

impl<O: Observer> Service for Overlay<O> {
    const IPV4_ONLY: bool = true;

    type Conn = Conn;
    type Note = ();
    type Timer = Timer;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, listener: usize) -> Option<Conn> {
        let (id, from, number) = (cx.id(), cx.peer_v4(), u32::try_from(listener).ok()?);
        self.call(&mut **cx, number, |peer, hub, observer| {
            peer.accept(hub, observer, id, from)
        })?
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        if let Conn::Dialled { peer } = *conn {
            let id = cx.id();
            self.call(&mut **cx, peer, |peer, hub, _| peer.dialled(hub.now(), id));
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
            Conn::Joined { .. } | Conn::Closing => Ok(Step::Done(all)),
            Conn::Dialled { peer } => {
                let Some((packet, used)) = parse(input.bytes)? else {
                    return Ok(Step::More);
                };
                let (id, number) = (cx.id(), *peer);
                let next = self.call(&mut **cx, number, |peer, hub, observer| {
                    peer.answered(hub, observer, id, packet)
                });
                *conn = next.unwrap_or(Conn::Closing);
                Ok(Step::Done(used))
            }
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Conn, end: End) {
        let (Conn::Welcomed { peer, .. } | Conn::Dialled { peer } | Conn::Joined { peer }) = conn
        else {
            return;
        };
        // The engine forgets the address after this call.
        if let Some(addr) = hub.peer_v4_of(id) {
            self.call(hub, peer, |peer, hub, observer| {
                peer.ended(hub, observer, (id, addr), conn, end);
            });
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        while let Some(unarmed) = self.unarmed.next() {
            let peer = self.peers.get_mut(unarmed.0 as usize);
            if peer.is_some_and(|peer| peer.watch(hub, &mut self.unarmed)) {
                break;
            }
        }
        let Timer(number) = timer;
        self.call(hub, number, |peer, hub, observer| peer.fired(hub, observer));
    }
}

//! A node of the protocol on the engine: a tracker, or peers. It dispatches events and has no logic of its own.
//!
//! One service for both, so that both live in one world of the simulator. The machines ([`Tracker`], [`Peers`]) know nothing of
//! it; they act through their `Host`, which is the engine's [`Hub`].

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Violation};

use super::peer::{self, Peers};
use super::tracker::{self, Tracker, Write, Written};

/// The service.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum RingNode {
    Tracker(Tracker),
    Peers(Peers),
}

/// What a connection is for.
#[derive(Debug)]
pub enum Conn {
    ToTracker(tracker::Inbound),
    FromTracker(tracker::Outbound),
    ToPeer(peer::Inbound),
    FromPeer(peer::Outbound),
}

impl From<tracker::Outbound> for Conn {
    fn from(outbound: tracker::Outbound) -> Conn {
        Conn::FromTracker(outbound)
    }
}

impl From<peer::Outbound> for Conn {
    fn from(outbound: peer::Outbound) -> Conn {
        Conn::FromPeer(outbound)
    }
}

/// The timers of both machines, flat so that they fit 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    TrackerSchedule,
    TrackerMember(u32),
    Peer(u32),
}

impl From<tracker::Timer> for Timer {
    fn from(timer: tracker::Timer) -> Timer {
        match timer {
            tracker::Timer::Schedule => Timer::TrackerSchedule,
            tracker::Timer::Member(slot) => Timer::TrackerMember(slot),
        }
    }
}

impl From<peer::Timer> for Timer {
    fn from(peer::Timer(index): peer::Timer) -> Timer {
        Timer::Peer(index)
    }
}

const _: () = assert!(size_of::<Timer>() <= 8);

impl Service for RingNode {
    const IPV4_ONLY: bool = true;

    type Conn = Conn;
    type Note = ();
    type Timer = Timer;
    type Job = Write;
    type Done = Written;

    fn on_start(&mut self, hub: &mut Hub<RingNode>) {
        if let RingNode::Tracker(tracker) = self {
            tracker.start(hub);
        }
    }

    fn on_accept(&mut self, _cx: &mut Cx<'_, RingNode>, listener: usize) -> Option<Conn> {
        match self {
            RingNode::Tracker(_) => Some(Conn::ToTracker(tracker::Inbound::default())),
            RingNode::Peers(peers) => peers.accept(listener).map(Conn::ToPeer),
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, RingNode>, conn: &mut Conn) {
        let id = cx.id();
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::FromTracker(outbound)) => {
                tracker.reached(&mut **cx, id, outbound);
            }
            (RingNode::Peers(peers), Conn::FromPeer(outbound)) => {
                peers.reached(&mut **cx, id, outbound);
            }
            _ => {}
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let (id, from) = (cx.id(), cx.peer_v4());
        let hub = &mut **cx;
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::ToTracker(inbound)) => {
                tracker.serve(hub, (id, from), inbound, input)
            }
            (RingNode::Tracker(tracker), Conn::FromTracker(outbound)) => {
                tracker.answered(hub, id, outbound, input)
            }
            (RingNode::Peers(peers), Conn::ToPeer(inbound)) => {
                peers.serve(hub, (id, from), inbound, input)
            }
            (RingNode::Peers(peers), Conn::FromPeer(outbound)) => {
                peers.answered(hub, id, outbound, input)
            }
            _ => Err(Violation::us("a connection of the other kind of node")),
        }
    }

    fn on_end(&mut self, hub: &mut Hub<RingNode>, id: ConnId, conn: Conn, end: End) {
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::ToTracker(inbound)) => {
                tracker.inbound_ended(hub, id, &inbound, end);
            }
            (RingNode::Tracker(tracker), Conn::FromTracker(outbound)) => {
                tracker.outbound_ended(hub, id, &outbound, end);
            }
            (RingNode::Peers(peers), Conn::ToPeer(inbound)) => peers.inbound_ended(id, &inbound),
            (RingNode::Peers(peers), Conn::FromPeer(outbound)) => {
                peers.outbound_ended(hub, id, &outbound, end);
            }
            _ => {}
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<RingNode>, timer: Timer) {
        match (self, timer) {
            (RingNode::Tracker(tracker), Timer::TrackerSchedule) => {
                tracker.fired(hub, tracker::Timer::Schedule);
            }
            (RingNode::Tracker(tracker), Timer::TrackerMember(slot)) => {
                tracker.fired(hub, tracker::Timer::Member(slot));
            }
            (RingNode::Peers(peers), Timer::Peer(index)) => peers.fired(hub, peer::Timer(index)),
            _ => {}
        }
    }

    fn on_done(&mut self, hub: &mut Hub<RingNode>, done: Written) {
        if let RingNode::Tracker(tracker) = self {
            tracker.written(hub, &done);
        }
    }
}

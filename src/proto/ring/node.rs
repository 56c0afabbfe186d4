//! A process of the ring on the engine: a tracker, or peers. One service, so that both live in one world of the
//! simulator; each half of it only knows its own connections and timers.

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
    /// Somebody came to the tracker.
    Guest(tracker::Guest),
    /// The tracker calls a peer.
    Call(tracker::Call),
    /// Somebody came to a peer.
    Asker(peer::Asker),
    /// A peer calls the tracker or its neighbour.
    Out(peer::Out),
}

/// The timers of both halves; the number is a member's slot or a peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Somebody's turn to be pinged.
    Round,
    /// A ping is due again, or its answer.
    Ping(u32),
    /// An UPDATE_NBR is due again, or its end.
    Update(u32),
    /// A peer's registration is due, or its answer, or a sign of life of the tracker.
    Tracker(u32),
    /// A peer's next question is due, or its answer.
    Ask(u32),
    /// Somebody who waits for an item has waited long enough.
    Held(u32),
}

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

    fn on_accept(&mut self, cx: &mut Cx<'_, RingNode>, listener: usize) -> Conn {
        match self {
            RingNode::Tracker(_) => Conn::Guest(tracker::Guest::default()),
            RingNode::Peers(peers) => Conn::Asker(peers.accept(cx, listener)),
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, RingNode>, conn: &mut Conn) {
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::Call(call)) => tracker.reached(cx, call),
            (RingNode::Peers(peers), Conn::Out(out)) => peers.reached(cx, out),
            _ => {}
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::Guest(guest)) => tracker.serve(cx, guest, input),
            (RingNode::Tracker(tracker), Conn::Call(call)) => tracker.answered(cx, call, input),
            (RingNode::Peers(peers), Conn::Asker(asker)) => peers.serve(cx, asker, input),
            (RingNode::Peers(peers), Conn::Out(out)) => peers.answered(cx, out, input),
            _ => Err(Violation::us("a connection of the other half")),
        }
    }

    fn on_end(&mut self, hub: &mut Hub<RingNode>, id: ConnId, conn: Conn, end: End) {
        match (self, conn) {
            (RingNode::Tracker(tracker), Conn::Guest(guest)) => tracker.left(hub, id, &guest, end),
            (RingNode::Tracker(tracker), Conn::Call(call)) => tracker.ended(hub, id, &call, end),
            (RingNode::Peers(peers), Conn::Asker(asker)) => peers.left(id, &asker),
            (RingNode::Peers(peers), Conn::Out(out)) => peers.ended(hub, id, &out, end),
            _ => {}
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<RingNode>, timer: Timer) {
        match self {
            RingNode::Tracker(tracker) => tracker.fired(hub, timer),
            RingNode::Peers(peers) => peers.fired(hub, timer),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<RingNode>, done: Written) {
        if let RingNode::Tracker(tracker) = self {
            tracker.written(hub, &done);
        }
    }
}

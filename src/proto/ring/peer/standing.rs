//! A peer and its tracker: registering, and again when the tracker seems to have forgotten it.
//!
//! The protocol has no word for "you are registered": a peer knows it by the pings. When none came for three times as long as
//! it usually takes, it registers again, and goes on trying while the tracker is away; with a tracker of ours that
//! still knows it, this changes nothing. It serves and asks all the while.

use rand::RngExt;

use crate::engine::{ConnId, Cx, End, Hub, Ticks, Violation};

use super::super::node::{Conn, RingNode, Timer};
use super::super::wire::{Encoding, Reader, RegInit, Reply, Request};
use super::{Out, Peer, To};

/// What a tracker takes from ping to ping before it is known: the specification's interval.
pub(super) const PING_GAP: Ticks = Ticks::from_secs(20);

/// A tracker that pings more often is taken at its word, up to this; a slow one, down to that.
const PING_GAP_MIN: Ticks = Ticks::from_secs(1);
const PING_GAP_MAX: Ticks = Ticks::from_secs(60);

/// A tracker that has not answered a registration by then is tried again.
const ANSWER_WITHIN: Ticks = Ticks::from_secs(10);

/// Between two tries, doubling from the one to the other, of which a random half is taken off: when a tracker
/// comes back, its whole ring is waiting.
const RETRY_MIN: Ticks = Ticks::from_millis(500);
const RETRY_MAX: Ticks = Ticks::from_secs(8);

/// A handle that is still somebody else's after this is given up: a dead one's is free an interval and a timeout later.
const DECLINED_AFTER: Ticks = Ticks::from_secs(30);

/// Where a peer stands with the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not registered; the timer tries again.
    Out,
    Registering(ConnId),
    /// Registered, as far as one can know.
    In,
    /// The handle is somebody else's.
    Declined,
}

impl Peer {
    pub(super) fn register(&mut self, hub: &mut Hub<RingNode>) {
        let out = Out {
            reader: Reader::default(),
            peer: self.index,
            to: To::Tracker,
        };
        let (to, from) = (self.config.tracker, self.config.dial_from);
        let conn = hub.dial(to, from.map(Into::into), Conn::Out(out));
        self.standing = Standing::Registering(conn);
        self.arm_tracker(hub, ANSWER_WITHIN);
    }

    pub(super) fn tracker_reached(&mut self, cx: &mut Cx<'_, RingNode>, accepted: u64) {
        self.registering_at = accepted;
        let (handle, port) = ((&*self.config.handle).into(), self.config.addr.port());
        Request::Register { handle, port }.put(Encoding::OURS, cx.out());
    }

    pub(super) fn tracker_answered(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        reply: Reply<'_>,
    ) -> Result<(), Violation> {
        if self.standing != Standing::Registering(cx.id()) {
            return Ok(());
        }
        // Our closing tells the tracker that we have its answer.
        cx.close();
        match reply {
            Reply::RegInit(RegInit { nbr: None, .. }) => self.refused(cx),
            Reply::RegInit(init) => self.registered(cx, &init),
            Reply::Tracker(says) => {
                let (tracker, says) = (self.config.tracker, says.escape_debug());
                log::warn!("the tracker at {tracker} says: {says}");
                self.retry(cx);
            }
            _ => return Err(Violation::peer("no answer to a REGISTER")),
        }
        Ok(())
    }

    fn registered(&mut self, hub: &mut Hub<RingNode>, init: &RegInit<'_>) {
        log::info!("{}: registered", self.config.handle.escape_debug());
        self.standing = Standing::In;
        self.has_registered = true;
        self.refused_since = None;
        self.failures = 0;
        self.heard = hub.now();
        self.pinged = None;
        self.arm_tracker(hub, self.silence_max());
        self.items.begin(init.dbsize, init.item.as_ref());
        if let Some(item) = &init.item {
            self.tell_held(hub, item.seq);
        }
        if let Some(neighbour) = &init.nbr
            && self.registering_at >= self.told_at
        {
            self.told_at = self.registering_at;
            self.set_neighbour(hub, neighbour);
        }
        self.go_on(hub);
    }

    fn refused(&mut self, hub: &mut Hub<RingNode>) {
        let since = *self.refused_since.get_or_insert(hub.now());
        let handle = self.config.handle.escape_debug();
        // Who has been in this ring waits for its place: what answers to the name may be its own ghost.
        if !self.has_registered && hub.now().since(since) >= DECLINED_AFTER {
            log::error!("the handle {handle} is somebody else's");
            self.standing = Standing::Declined;
        } else {
            if since == hub.now() {
                log::warn!("the handle {handle} is somebody else's; trying for a while");
            }
            self.retry(hub);
        }
    }

    fn retry(&mut self, hub: &mut Hub<RingNode>) {
        self.standing = Standing::Out;
        let pause = Ticks(RETRY_MIN.0 << self.failures.min(8)).min(RETRY_MAX).0;
        self.failures += 1;
        let after = Ticks(hub.rng().random_range(pause / 2..=pause));
        self.arm_tracker(hub, after);
    }

    pub(super) fn tracker_ended(&mut self, hub: &mut Hub<RingNode>, id: ConnId, end: End) {
        if self.standing == Standing::Registering(id) {
            if self.failures == 0 {
                let tracker = self.config.tracker;
                log::warn!("no answer from the tracker at {tracker} ({end:?}); trying again");
            }
            self.retry(hub);
        }
    }

    pub(super) fn tracker_fired(&mut self, hub: &mut Hub<RingNode>) {
        self.tracker_timer = None;
        match self.standing {
            Standing::Out => self.register(hub),
            Standing::Registering(conn) => {
                self.retry(hub);
                hub.close_conn(conn);
            }
            Standing::In => {
                let silent = hub.now().since(self.heard);
                if silent < self.silence_max() {
                    self.arm_tracker(hub, Ticks(self.silence_max().0 - silent.0));
                } else {
                    log::info!("the tracker is silent; registering again");
                    self.register(hub);
                }
            }
            Standing::Declined => {}
        }
    }

    pub(super) fn heard_ping(&mut self, cx: &mut Cx<'_, RingNode>) {
        if cx.peer_v4().ip() != self.config.tracker.ip() {
            return;
        }
        let now = cx.now();
        if let Some(before) = self.pinged {
            // Down by halves: one ping out of turn is no new interval.
            let gap = now.since(before).max(Ticks(self.ping_gap.0 / 2));
            self.ping_gap = gap.clamp(PING_GAP_MIN, PING_GAP_MAX);
        }
        self.pinged = Some(now);
        self.heard = now;
        if self.standing == Standing::In {
            self.arm_tracker(cx, self.silence_max());
        }
    }

    /// Silence after which the tracker seems to have forgotten us.
    fn silence_max(&self) -> Ticks {
        Ticks(self.ping_gap.0 * 3)
    }

    fn arm_tracker(&mut self, hub: &mut Hub<RingNode>, after: Ticks) {
        if let Some(old) = self.tracker_timer.take() {
            hub.cancel(old);
        }
        self.tracker_timer = hub.arm(after, Timer::Tracker(self.index));
    }
}

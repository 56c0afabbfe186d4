//! The membership lock: one join or leave at a time changes the range of this node; the others wait.
//!
//! ```text
//!  CONNECT, DISCONNECT ──free──▶ the change runs (connect, confirm, rejoin, disconnect, relay) ──▶ sweep ──▶ free
//!          └────────taken──────▶ parked, at most PARKED_FOR ──free──▶ judged again
//! ```
//! A request that comes while the lock is taken is parked. When the lock is free it is offered to the one that waits longest,
//! which is judged against the ring as it is then. A request that arrives in between may be quicker; the parked one then
//! waits on with its old deadline.
//!
//! The node takes it as well, for what it does by itself: it absorbs a dead next, or takes over recovered entries.
//!
//! Whoever holds the lock for a peer has a deadline as a whole and a least pace ([`Deadline`]), so a peer that trickles
//! cannot keep the others out.
//!
//! Invariants: the queue is in the order of its deadlines; while it is not empty one timer is armed.

use std::collections::VecDeque;

use crate::engine::{ConnId, Cx, Hub, Step, Tick, Ticks, TimerId};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::config::TransferLimits;
use crate::proto::dht::node::{DhtNode, Expect, LockHolder, Note, Role, Timer};
use crate::proto::dht::wire::{self, Form, NextNode, Request};

/// A joiner waits this long and is then told `0`, upon which it tries again.
const PARKED_FOR: Ticks = Ticks::from_secs(5);

/// A burst of joiners at one node; more are told `0` at once.
const PARKED_MAX: usize = 64;

/// Connections that wait for the lock, with their deadlines.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    queue: VecDeque<(ConnId, Tick)>,
    /// The timer of the queue runs.
    armed: bool,
}

impl Parked {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.queue.iter().map(|(id, _)| *id)
    }

    pub(crate) fn forget(&mut self, id: ConnId) {
        self.queue.retain(|(parked, _)| *parked != id);
    }
}

/// A CONNECT or DISCONNECT that waits for the lock.
#[derive(Debug, Clone)]
pub struct ParkedRequest {
    pub(crate) request: Request,
    pub(crate) until: Tick,
}

/// When a transfer of entries must be over, and how fast it must go on.
#[derive(Debug)]
pub(crate) struct Deadline {
    until: Tick,
    /// So many when the window of the least pace began; `None`: the peer owed nothing then.
    moved_bytes: Option<u64>,
    timer: TimerId,
}

impl Deadline {
    /// `None` at the limit of timers.
    pub(crate) fn start(
        hub: &mut Hub<DhtNode>,
        limits: &TransferLimits,
        within: Ticks,
        timer: Timer,
    ) -> Option<Deadline> {
        Some(Deadline {
            until: hub.now() + within,
            moved_bytes: None,
            timer: hub.arm(within.min(limits.pace_over), timer)?,
        })
    }

    pub(crate) fn end(self, hub: &mut Hub<DhtNode>) {
        hub.cancel(self.timer);
    }

    /// The timer fired. `moved_bytes`: so many in all, `None` while the peer owes nothing; the pace is judged where the peer
    /// owed bytes for the whole window. False when the transfer is too late, too slow, or no timer is to be had.
    #[must_use]
    pub(crate) fn go_on(
        &mut self,
        hub: &mut Hub<DhtNode>,
        limits: &TransferLimits,
        timer: Timer,
        moved_bytes: Option<u64>,
    ) -> bool {
        let now = hub.now();
        let seconds = limits.pace_over.as_duration().as_secs();
        let owed_bytes = limits.pace_bytes_per_sec.saturating_mul(seconds);
        let window = self.moved_bytes.zip(moved_bytes);
        let is_slow = window.is_some_and(|(before, all)| all.saturating_sub(before) < owed_bytes);
        if now >= self.until || is_slow {
            return false;
        }
        self.moved_bytes = moved_bytes;
        let armed = hub.arm((self.until - now).min(limits.pace_over), timer);
        armed.map(|timer| self.timer = timer).is_some()
    }
}

impl DhtNode {
    /// CONNECT or DISCONNECT arrived.
    pub(crate) fn acquire_lock(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Request,
        used: usize,
    ) -> Step {
        if let Request::Disconnect(NextNode::Addr(addr), _) = request
            && !self.may_announce(cx, addr)
        {
            wire::put_ack(cx.out(), false);
            cx.close();
            return Step::Done(used);
        }
        if let Request::Disconnect(next, _) = request {
            self.supersede_disconnect(cx, next);
            self.yield_to_leaver(cx);
        }
        if matches!(request, Request::Connect(..)) && !self.may_connect(cx) {
            wire::put_ack(cx.out(), false);
            return Step::Done(used);
        }
        if self.is_locked() && self.may_take_part(cx, &request) {
            let (id, until) = (cx.id(), cx.now() + PARKED_FOR);
            if self.park(cx, id, until) {
                *expect = Expect::Lock(Box::new(ParkedRequest { request, until }));
                return Step::Wait(used);
            }
        } else if self.begin_change(cx, expect, &request) {
            return Step::Wait(used);
        }
        wire::put_ack(cx.out(), false);
        if matches!(request, Request::Disconnect(..)) {
            // Its entries follow; without them the stream makes no sense any more.
            cx.close();
        }
        Step::Done(used)
    }

    pub(crate) fn is_locked(&self) -> bool {
        !matches!(self.lock_holder, LockHolder::Nobody)
    }

    /// A CONNECT waits until the lock is free, which something else has now.
    #[must_use]
    pub(crate) fn park_connect(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        form: Form,
    ) -> bool {
        let (request, until) = (Request::Connect(joiner, form), cx.now() + PARKED_FOR);
        *expect = Expect::Lock(Box::new(ParkedRequest { request, until }));
        let id = cx.id();
        self.park(cx, id, until)
    }

    /// False when there is no place, no timer, or no time left.
    #[must_use]
    fn park(&mut self, hub: &mut Hub<Self>, id: ConnId, until: Tick) -> bool {
        let has_place = self.parked.queue.len() < PARKED_MAX && until > hub.now();
        if !has_place || !self.arm_parked(hub, until) {
            return false;
        }
        let queue = &mut self.parked.queue;
        let at = queue.partition_point(|(_, other)| *other <= until);
        queue.insert(at, (id, until));
        true
    }

    #[must_use]
    fn arm_parked(&mut self, hub: &mut Hub<Self>, until: Tick) -> bool {
        let armed = &mut self.parked.armed;
        *armed = *armed || hub.arm(until - hub.now(), Timer::Parked).is_some();
        *armed
    }

    /// The lock was free when this connection was told.
    pub(crate) fn lock_offered(&mut self, cx: &mut Cx<'_, Self>, expect: &mut Expect) {
        let Expect::Lock(parked) = expect else {
            return;
        };
        let ParkedRequest { request, until } = (**parked).clone();
        let id = cx.id();
        let goes_on = match (&request, self.take_after(cx, id)) {
            (Request::Connect(joiner, form), Some(after)) => {
                self.begin_hand_back(cx, expect, *joiner, after, *form)
            }
            _ if self.is_locked() && self.may_take_part(cx, &request) => self.park(cx, id, until),
            _ => self.begin_change(cx, expect, &request),
        };
        if !goes_on {
            cx.notify(id, Note::Refused);
            self.offer_lock(cx);
        }
    }

    fn may_take_part(&self, hub: &Hub<Self>, request: &Request) -> bool {
        // Without a lease the range may be another's by now: it is not ours to give, or to add to.
        if !self.heartbeat.holds_lease(hub.now()) {
            return false;
        }
        match (&self.role, request) {
            (Role::Member, _) => true,
            (Role::Leaving(leave), Request::Disconnect(..)) => leave.pauses(),
            _ => false,
        }
    }

    #[must_use]
    fn begin_change(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: &Request,
    ) -> bool {
        if !self.may_take_part(cx, request) {
            return false;
        }
        match request {
            // One that waited may have struck meanwhile on another connection.
            Request::Connect(..) if self.is_staller(cx) => false,
            Request::Connect(joiner, form) => {
                self.begin_hand_off(cx, expect, *joiner, *form)
                    || self.begin_rejoin(cx, expect, *joiner, *form)
            }
            Request::Disconnect(next, form) => self.begin_disconnect(cx, expect, *next, *form),
            _ => false,
        }
    }

    pub(crate) fn release_lock(&mut self, hub: &mut Hub<Self>) {
        self.end_lock_deadline(hub);
        self.lock_holder = LockHolder::Nobody;
        self.offer_lock(hub);
    }

    /// Offers a free lock to the one that waits longest. Called too when the one that it was offered to is gone or was
    /// refused.
    pub(crate) fn offer_lock(&mut self, hub: &mut Hub<Self>) {
        if !self.is_locked()
            && let Some((id, _)) = self.parked.queue.pop_front()
        {
            hub.notify(id, Note::Go);
        }
    }

    pub(crate) fn refuse_late_parked(&mut self, hub: &mut Hub<Self>) {
        self.parked.armed = false;
        while let Some((id, until)) = self.parked.queue.front().copied() {
            if until > hub.now() && self.arm_parked(hub, until) {
                return;
            }
            // Late, or without a timer to end its wait.
            self.parked.queue.pop_front();
            hub.notify(id, Note::Refused);
        }
    }

    /// What the lock is held for must be over `within` this time, or the connection of its peer is closed. False at the
    /// limit of timers.
    #[must_use]
    pub(crate) fn start_lock_deadline(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        within: Ticks,
    ) -> bool {
        self.end_lock_deadline(hub);
        let limits = &self.config.transfer;
        self.lock_deadline = Deadline::start(hub, limits, within, Timer::Lock(conn));
        self.lock_deadline.is_some()
    }

    pub(crate) fn end_lock_deadline(&mut self, hub: &mut Hub<Self>) {
        if let Some(deadline) = self.lock_deadline.take() {
            deadline.end(hub);
        }
    }

    /// A window of the lock's deadline is over.
    pub(crate) fn lock_window_over(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let moved_bytes = match &self.lock_holder {
            LockHolder::HandOff(hand_off) => hand_off.moved_bytes(|conn| hub.queued_of(conn)),
            LockHolder::Disconnect(disconnect) => disconnect.moved_bytes(),
            LockHolder::Relay(relay) => relay.moved_bytes(),
            _ => None,
        };
        let Some(deadline) = &mut self.lock_deadline else {
            return;
        };
        if !deadline.go_on(hub, &self.config.transfer, Timer::Lock(conn), moved_bytes) {
            self.lock_deadline = None;
            log::info!("a join or leave here takes too long; it is given up");
            // Its end gives the change up.
            hub.close_conn(conn);
        }
    }
}

//! Whose turn it is: one part of the ring moves at a time, the others that want to join or leave here wait.
//!
//! A CONNECT or DISCONNECT that comes while a transfer goes on is parked, for [`PARKED_FOR`] at most, and judged
//! against the ring as it is when its turn comes.

use std::collections::VecDeque;

use crate::engine::{ConnId, Cx, Hub, Step, Tick, Ticks};

use super::node::{DhtNode, Expect, LockHolder, Note, Role, Timer};
use super::wire::{self, NextNode, Request};

/// RELIABILITY.md A1: a joiner waits this long and is then told `0`, upon which it tries again.
const PARKED_FOR: Ticks = Ticks::from_secs(5);

/// A burst of joiners at one node; more are told `0` at once.
const PARKED_MAX: usize = 64;

/// Connections that wait for their turn, longest first.
#[derive(Debug, Default)]
pub(super) struct Parked {
    queue: VecDeque<(ConnId, Tick)>,
}

impl Parked {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn forget(&mut self, id: ConnId) {
        self.queue.retain(|(parked, _)| *parked != id);
    }
}

impl DhtNode {
    /// CONNECT or DISCONNECT arrived.
    pub(super) fn acquire_lock(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Request,
        used: usize,
    ) -> Step {
        if let Request::Disconnect(NextNode::Addr(addr)) = request
            && !self.may_announce(cx, addr)
        {
            wire::put_ack(cx.out(), false);
            cx.close();
            return Step::Done(used);
        }
        if let Request::Disconnect(next) = request {
            self.supersede_disconnect(cx, next);
            self.yield_to_leaver(cx);
        }
        if !matches!(self.lock_holder, LockHolder::Nobody) && self.may_take_part(&request) {
            if self.parked.queue.len() < PARKED_MAX && self.park(cx) {
                *expect = Expect::Lock(Box::new(request));
                return Step::Wait(used);
            }
        } else if self.begin_change(cx, expect, &request) {
            return Step::Wait(used);
        }
        wire::put_ack(cx.out(), false);
        if matches!(request, Request::Disconnect(_)) {
            // Its entries follow; without them the stream makes no sense any more.
            cx.close();
        }
        Step::Done(used)
    }

    fn park(&mut self, cx: &mut Cx<'_, Self>) -> bool {
        let until = cx.now() + PARKED_FOR;
        let armed = !self.parked.queue.is_empty() || cx.arm(PARKED_FOR, Timer::Parked).is_some();
        if armed {
            let id = cx.id();
            self.parked.queue.push_back((id, until));
        }
        armed
    }

    /// The turn of a parked connection came.
    pub(super) fn lock_offered(&mut self, cx: &mut Cx<'_, Self>, expect: &mut Expect) {
        let Expect::Lock(request) = expect else {
            return;
        };
        let request = **request;
        let id = cx.id();
        if let (Request::Connect(joiner), Some(after)) = (request, self.take_after(cx, id)) {
            if !self.begin_hand_back(cx, expect, joiner, after) {
                cx.notify(id, Note::Refused);
                self.offer_lock(cx);
            }
            return;
        }
        if !matches!(self.lock_holder, LockHolder::Nobody) && self.may_take_part(&request) {
            // Somebody was quicker.
            self.park(cx);
        } else if !self.begin_change(cx, expect, &request) {
            cx.notify(id, Note::Refused);
            self.offer_lock(cx);
        }
    }

    fn may_take_part(&self, request: &Request) -> bool {
        match (&self.role, request) {
            (Role::Member, _) => true,
            (Role::Leaving(leave), Request::Disconnect(_)) => leave.pauses(),
            _ => false,
        }
    }

    fn begin_change(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: &Request,
    ) -> bool {
        if !self.may_take_part(request) {
            return false;
        }
        match request {
            Request::Connect(joiner) => {
                self.begin_hand_off(cx, expect, *joiner) || self.begin_rejoin(cx, expect, *joiner)
            }
            Request::Disconnect(next) => self.begin_disconnect(cx, expect, *next),
            _ => false,
        }
    }

    /// The transfer that went on is over: the next in line.
    pub(super) fn release_lock(&mut self, hub: &mut Hub<Self>) {
        self.lock_holder = LockHolder::Nobody;
        self.offer_lock(hub);
    }

    /// Calls the next in line, if nothing goes on: also when the one that was called is gone or was refused.
    pub(super) fn offer_lock(&mut self, hub: &mut Hub<Self>) {
        if matches!(self.lock_holder, LockHolder::Nobody)
            && let Some((id, _)) = self.parked.queue.pop_front()
        {
            hub.notify(id, Note::Go);
        }
    }

    pub(super) fn refuse_late_parked(&mut self, hub: &mut Hub<Self>) {
        while let Some((id, until)) = self.parked.queue.front().copied() {
            if until > hub.now() {
                hub.arm(until - hub.now(), Timer::Parked);
                return;
            }
            self.parked.queue.pop_front();
            hub.notify(id, Note::Refused);
        }
    }
}

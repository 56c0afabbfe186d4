//! Whose turn it is: one part of the ring moves at a time, the others that want to join or leave here wait.
//!
//! A CONNECT or DISCONNECT that comes while a transfer goes on is parked, for [`PARKED_FOR`] at most, and judged
//! against the ring as it is when its turn comes.

use std::collections::VecDeque;

use crate::engine::{ConnId, Cx, Hub, Step, Tick, Ticks};

use super::id::Id;
use super::node::{Changes, DhtNode, Expect, Note, Role, Then, Timer, Transfer};
use super::wire::{self, NextNode, Request};

/// RELIABILITY.md A1: a joiner waits this long and is then told `0`, upon which it tries again.
const PARKED_FOR: Ticks = Ticks::from_secs(5);

/// A burst of joiners at one node; more are told `0` at once.
const PARKED_MAX: usize = 64;

/// Entries removed in one turn: about 30 us, which is what others then wait. Few in tests, where a sweep is to take
/// several turns.
const SWEPT_PER_TURN: usize = if cfg!(test) { 2 } else { 128 };

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

/// A range of which the entries are removed.
#[derive(Debug)]
pub(super) struct Sweep {
    start: Id,
    end: Id,
}

impl DhtNode {
    /// CONNECT or DISCONNECT arrived.
    pub(super) fn take_turn(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Request,
        used: usize,
    ) -> Step {
        if let Request::Disconnect(NextNode::Addr(addr)) = request
            && !self.believes(cx, addr)
        {
            wire::put_ack(cx.out(), false);
            cx.close();
            return Step::Done(used);
        }
        if let Request::Disconnect(next) = request {
            self.supersede_absorb(cx, next);
            self.yield_to_leaver(cx);
        }
        if !matches!(self.transfer, Transfer::None) && self.may_take_part(&request) {
            if self.parked.queue.len() < PARKED_MAX && self.park(cx) {
                *expect = Expect::Turn(Box::new(request));
                return Step::Wait(used);
            }
        } else if self.begin_turn(cx, expect, &request) {
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
    pub(super) fn turn_came(&mut self, cx: &mut Cx<'_, Self>, expect: &mut Expect) {
        let Expect::Turn(request) = expect else {
            return;
        };
        let request = **request;
        let id = cx.id();
        if let (Request::Connect(joiner), Some(after)) = (request, self.take_after(cx, id)) {
            if !self.begin_hand_back(cx, expect, joiner, after) {
                cx.notify(id, Note::Refused);
                self.next_turn(cx);
            }
            return;
        }
        if !matches!(self.transfer, Transfer::None) && self.may_take_part(&request) {
            // Somebody was quicker.
            self.park(cx);
        } else if !self.begin_turn(cx, expect, &request) {
            cx.notify(id, Note::Refused);
            self.next_turn(cx);
        }
    }

    fn may_take_part(&self, request: &Request) -> bool {
        match (&self.role, request) {
            (Role::Member, _) => true,
            (Role::Leaving(leave), Request::Disconnect(_)) => leave.pauses(),
            _ => false,
        }
    }

    fn begin_turn(
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
                self.begin_hand_over(cx, expect, *joiner) || self.begin_revive(cx, expect, *joiner)
            }
            Request::Disconnect(next) => self.begin_absorb(cx, expect, *next),
            _ => false,
        }
    }

    /// The transfer that went on is over: the next in line.
    pub(super) fn transfer_over(&mut self, hub: &mut Hub<Self>) {
        self.transfer = Transfer::None;
        self.next_turn(hub);
    }

    /// Calls the next in line, if nothing goes on: also when the one that was called is gone or was refused.
    pub(super) fn next_turn(&mut self, hub: &mut Hub<Self>) {
        if matches!(self.transfer, Transfer::None)
            && let Some((id, _)) = self.parked.queue.pop_front()
        {
            hub.notify(id, Note::Go);
        }
    }

    pub(super) fn refuse_late_turns(&mut self, hub: &mut Hub<Self>) {
        while let Some((id, until)) = self.parked.queue.front().copied() {
            if until > hub.now() {
                hub.arm(until - hub.now(), Timer::Parked);
                return;
            }
            self.parked.queue.pop_front();
            hub.notify(id, Note::Refused);
        }
    }

    /// Removes the entries of `[start, end)`, which are not ours; the next transfer waits for it.
    pub(super) fn sweep(&mut self, hub: &mut Hub<Self>, start: Id, end: Id) {
        self.transfer = Transfer::Sweep(Sweep { start, end });
        self.sweep_some(hub);
    }

    pub(super) fn sweep_some(&mut self, hub: &mut Hub<Self>) {
        let Transfer::Sweep(Sweep { start, end }) = self.transfer else {
            return;
        };
        let mut removed = Vec::new();
        let more = self
            .entries
            .remove_some(start, end, SWEPT_PER_TURN, &mut removed);
        if self.config.durable && !removed.is_empty() {
            let removals = removed.into_iter().map(|key| (key, None)).collect();
            // Behind everything that wrote these keys, and before whatever will.
            self.submit(hub, Changes::Many(removals), Then::Nothing);
        }
        if more {
            hub.soon(Timer::Sweep);
        } else {
            self.transfer_over(hub);
            self.join_swept(hub);
            self.swept(hub);
        }
    }
}

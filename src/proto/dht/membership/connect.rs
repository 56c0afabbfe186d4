//! Serves CONNECT: the part of our range from the joiner's id on is handed to the joiner.
//!
//! ```text
//! Settling ──writes under way are done──▶ Sending ──all entries, next──▶ Answer ──its address──▶ confirm
//!     └──────────── the joiner is gone, late, slow or lies: the range stays ───────┘
//! ```
//! Ownership moves with the joiner's address and not before. Until then this node answers reads of the range, and writes
//! into it are fenced. If the joiner fails after it was told our next, that next is told that we are its prev again. How long
//! the others wait for a joiner is in [`super::stall`], and what follows its address in [`super::confirm`].

use std::net::Ipv4Addr;

use crate::engine::{ConnId, Cx, Hub, Input, Step, Violation};

use super::stall::{Progress, Stall};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Expect, LockHolder, Note, Role, Tag};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::Operation;
use crate::proto::dht::storage::commit::WritesBefore;
use crate::proto::dht::storage::range_stream::{Sending, Sent};
use crate::proto::dht::wire::{self, Form};

#[derive(Debug)]
pub(crate) struct HandOff {
    /// The joiner's connection.
    conn: ConnId,
    source: Ipv4Addr,
    joiner: Id,
    /// Our next, or the node after it when the joiner is our next; the joiner's next to be.
    next: Member,
    phase: Phase,
    sending: Sending,
    /// A note that goes on with it is queued: one batch of commits, or one turn, is one quantum.
    noted: bool,
    pub(crate) stall: Stall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Writes that the worker had before may still change the range. They are done when as many have come back.
    Settling(WritesBefore),
    Sending,
    Answer,
}

impl HandOff {
    pub(crate) fn moves(&self, key: Id) -> bool {
        key.in_arc(self.joiner, self.next.id)
    }

    pub(crate) fn conn(&self) -> ConnId {
        self.conn
    }

    /// How far the joiner is, given what is queued for it; `None` while it waits for us.
    pub(crate) fn progress(&self, queued_bytes: usize) -> Option<Progress> {
        let progress = Progress {
            taken_bytes: self.sending.taken_bytes(queued_bytes),
            has_all: self.phase == Phase::Answer && queued_bytes == 0,
        };
        (!matches!(self.phase, Phase::Settling { .. })).then_some(progress)
    }

    /// Bytes that the joiner took, given what is queued for it; `None` while nothing is to be sent.
    pub(crate) fn moved_bytes(&self, queued_of: impl FnOnce(ConnId) -> usize) -> Option<u64> {
        (self.phase == Phase::Sending).then(|| self.sending.taken_bytes(queued_of(self.conn)))
    }
}

impl DhtNode {
    #[must_use]
    pub(crate) fn begin_hand_off(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        form: Form,
    ) -> bool {
        let next = self.routing.next();
        let may = self.owns(joiner) && joiner != self.me().id;
        may && self.hand_off(cx, expect, joiner, next, form)
    }

    /// Our next was killed and joins again (see [`super::rejoin`]); `after` will be its next.
    #[must_use]
    pub(crate) fn begin_hand_back(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        after: Member,
        form: Form,
    ) -> bool {
        matches!(self.role, Role::Member) && self.hand_off(cx, expect, joiner, after, form)
    }

    fn hand_off(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        next: Member,
        form: Form,
    ) -> bool {
        let conn = cx.id();
        if !self.watch_joiner(cx)
            || !self.start_lock_deadline(cx, conn, self.config.transfer.within)
        {
            return false;
        }
        wire::put_ack(cx.out(), true);
        *expect = Expect::Joiner;
        let sending = Sending::new(joiner, next.id, form);
        let phase = Phase::Settling(self.writes_before());
        self.lock_holder = LockHolder::HandOff(HandOff {
            conn,
            source: *cx.peer_v4().ip(),
            joiner,
            next,
            phase,
            sending,
            noted: false,
            stall: Stall::default(),
        });
        self.note_hand_off(cx);
        true
    }

    /// Goes on in the next turn. At most one note is queued.
    fn note_hand_off(&mut self, hub: &mut Hub<Self>) {
        if let LockHolder::HandOff(hand_off) = &mut self.lock_holder
            && !std::mem::replace(&mut hand_off.noted, true)
        {
            hub.notify(hand_off.conn, Note::Go);
        }
    }

    /// The note came.
    pub(crate) fn hand_off_noted(&mut self, cx: &mut Cx<'_, Self>) {
        if let LockHolder::HandOff(hand_off) = &mut self.lock_holder
            && hand_off.conn == cx.id()
        {
            hand_off.noted = false;
        }
        self.hand_off_some(cx);
    }

    /// Goes on with the joiner of this connection, as far as there is room.
    pub(crate) fn hand_off_some(&mut self, cx: &mut Cx<'_, Self>) {
        let id = cx.id();
        let LockHolder::HandOff(hand_off) = &mut self.lock_holder else {
            return;
        };
        if hand_off.conn != id || hand_off.noted {
            return;
        }
        if let Phase::Settling(before) = hand_off.phase
            && !self.are_over(before)
        {
            return;
        }
        let LockHolder::HandOff(hand_off) = &mut self.lock_holder else {
            return;
        };
        match hand_off.phase {
            Phase::Settling(_) => hand_off.phase = Phase::Sending,
            Phase::Sending => {}
            Phase::Answer => return,
        }
        hand_off.sending.log_progress(cx.now());
        match hand_off
            .sending
            .step(&self.entries, &self.config.quanta, cx)
        {
            Sent::Again => self.note_hand_off(cx),
            Sent::Full => {}
            Sent::Changed => cx.close(),
            // The time to answer begins when the joiner has nearly everything: when there is room again.
            Sent::All if cx.room() == 0 => {}
            Sent::All => {
                wire::put_address(cx.out(), hand_off.next.addr);
                hand_off.phase = Phase::Answer;
                log::info!("handed {} entries to a joiner", hand_off.sending.count());
                if self.start_lock_deadline(cx, id, self.config.transfer.answer_within) {
                    cx.resume(id);
                } else {
                    cx.close();
                }
            }
        }
    }

    /// A write came back from the worker.
    pub(crate) fn hand_off_settled(&mut self, hub: &mut Hub<Self>) {
        if let LockHolder::HandOff(HandOff {
            phase: Phase::Settling(before),
            ..
        }) = self.lock_holder
            && self.are_over(before)
        {
            self.note_hand_off(hub);
        }
    }

    /// The joiner's address: ownership moves with it.
    pub(crate) fn hand_off_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some((addr, used)) = wire::address(input.bytes, input.seen)? else {
            return Ok(Step::More);
        };
        let LockHolder::HandOff(HandOff {
            joiner,
            next,
            source,
            ..
        }) = self.lock_holder
        else {
            return Err(Violation::us("the hand-off is over"));
        };
        if !self.may_announce(cx, addr) {
            return Err(Violation::peer("an address that the joiner cannot have"));
        }
        if !self.heartbeat.holds_lease(cx.now()) {
            return Err(Violation::us("the range may be another's by now"));
        }
        let member = Member::at(addr);
        if member.id != joiner {
            return Err(Violation::peer(
                "a joiner's id is not the SHA-1 of its address",
            ));
        }
        *expect = Expect::Request;
        self.begin_confirmation(cx, member, next.id, source);
        Ok(Step::Done(used))
    }

    /// Our next wants to leave, and serves no requests while it waits: a joiner that has not been told our next yet gives
    /// way, and can come again.
    pub(crate) fn yield_to_leaver(&mut self, cx: &mut Cx<'_, Self>) {
        if let LockHolder::HandOff(HandOff {
            conn, next, phase, ..
        }) = self.lock_holder
            && phase != Phase::Answer
            && cx.peer_v4().ip() == next.addr.ip()
        {
            cx.close_conn(conn);
        }
    }

    /// The joiner's connection is over before it gave its address.
    pub(crate) fn hand_off_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        let LockHolder::HandOff(HandOff {
            conn,
            next,
            phase,
            source,
            ..
        }) = self.lock_holder
        else {
            return;
        };
        if conn != id {
            return;
        }
        self.strike_if_held(hub.now(), source);
        log::info!("a joiner left before it had joined; the range stays");
        if phase == Phase::Answer && next == self.routing.next() {
            self.take_prev_back(hub, next);
        }
        self.release_lock(hub);
        self.release_fenced_writes(hub);
    }

    /// Our next was told by a joiner that failed that the joiner is its prev.
    pub(crate) fn take_prev_back(&mut self, hub: &mut Hub<Self>, next: Member) {
        if next != self.me() {
            let operation = Operation::update_prev(self.me().addr, next.addr, self.bounds());
            self.start_bounded(hub, operation, Tag::TakeBack);
        }
    }
}

//! We serve CONNECT: a joiner takes the part of our range from its id on.
//!
//! ```text
//! Settling ──writes under way are done──▶ Sending ──all entries, next──▶ Answer ──its address──▶ our next
//!     └───────────────── the joiner is gone, late or lies: the range stays ────────┘
//! ```
//! Ownership moves with the joiner's address and not before; until then reads are ours and writes into the range
//! are held. When it fails after the joiner knew our next, that node is told that we are its prev again.

use crate::engine::{ConnId, Cx, Hub, Input, Step, Ticks, TimerId, Violation};

use super::client;
use super::id::Id;
use super::node::{DhtNode, Expect, LockHolder, Note, Role, Tag, Timer};
use super::operation::Operation;
use super::range_stream::{Sending, Sent};
use super::routing::Member;
use super::wire;

/// From the last byte of a hand-over to the joiner's address: it has its next to dial meanwhile (RELIABILITY.md A8).
const ANSWER_WITHIN: Ticks = Ticks::from_secs(30);

/// A hand-over as a whole. While it goes on nobody else can join or leave here, and writes are held for 30 s
/// at most; a range that takes longer than this is too slow to be moved.
const HAND_OFF_WITHIN: Ticks = Ticks::from_secs(600);

#[derive(Debug)]
pub(super) struct HandOff {
    /// The joiner's connection.
    conn: ConnId,
    joiner: Id,
    /// Our next, or who follows it when the joiner is our next; it will be the joiner's.
    next: Member,
    phase: Phase,
    sending: Sending,
    /// The joiner is late then. A stranger may begin any number of hand-overs, so it does not outlive its own.
    timer: Option<TimerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Writes that the worker had before may still change the range, until as many have come back.
    Settling {
        submitted: u64,
    },
    Sending,
    Answer,
}

impl HandOff {
    pub(super) fn moves(&self, key: Id) -> bool {
        key.in_arc(self.joiner, self.next.id)
    }
}

impl DhtNode {
    pub(super) fn begin_hand_off(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
    ) -> bool {
        let next = self.routing.next();
        self.owns(joiner) && joiner != self.me().id && self.hand_off(cx, expect, joiner, next)
    }

    /// Our next was killed and joins again (see [`super::rejoin`]); `after` will be its next.
    pub(super) fn begin_hand_back(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        after: Member,
    ) -> bool {
        matches!(self.role, Role::Member) && self.hand_off(cx, expect, joiner, after)
    }

    fn hand_off(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        next: Member,
    ) -> bool {
        let conn = cx.id();
        let timer = cx.arm(HAND_OFF_WITHIN, Timer::HandOff(conn));
        if timer.is_none() {
            return false;
        }
        wire::put_ack(cx.out(), true);
        *expect = Expect::Joiner;
        let sending = Sending::new(joiner, next.id);
        let phase = Phase::Settling {
            submitted: self.submitted,
        };
        self.lock_holder = LockHolder::HandOff(HandOff {
            conn,
            joiner,
            next,
            phase,
            sending,
            timer,
        });
        cx.notify(conn, Note::Go);
        true
    }

    /// Goes on with the joiner of this connection, as far as there is room.
    pub(super) fn hand_off_some(&mut self, cx: &mut Cx<'_, Self>) {
        let id = cx.id();
        let LockHolder::HandOff(hand_off) = &mut self.lock_holder else {
            return;
        };
        if hand_off.conn != id {
            return;
        }
        match hand_off.phase {
            Phase::Settling { submitted } if self.written < submitted => return,
            Phase::Settling { .. } => hand_off.phase = Phase::Sending,
            Phase::Sending => {}
            Phase::Answer => return,
        }
        hand_off.sending.log_progress(cx.now());
        match hand_off.sending.step(&self.entries, cx) {
            Sent::Again => cx.notify(id, Note::Go),
            Sent::Full => {}
            Sent::All => {
                wire::put_address(cx.out(), hand_off.next.addr);
                hand_off.phase = Phase::Answer;
                log::info!("handed {} entries to a joiner", hand_off.sending.count());
                if let Some(timer) = hand_off.timer.take() {
                    cx.cancel(timer);
                }
                hand_off.timer = cx.arm(ANSWER_WITHIN, Timer::HandOff(id));
                if hand_off.timer.is_some() {
                    cx.resume(id);
                } else {
                    cx.close();
                }
            }
        }
    }

    /// A write came back from the worker.
    pub(super) fn hand_off_settled(&mut self, hub: &mut Hub<Self>) {
        if let LockHolder::HandOff(HandOff {
            conn,
            phase: Phase::Settling { submitted },
            ..
        }) = self.lock_holder
            && self.written >= submitted
        {
            hub.notify(conn, Note::Go);
        }
    }

    /// The joiner's address: ownership moves with it.
    pub(super) fn hand_off_input(
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
            timer,
            ..
        }) = self.lock_holder
        else {
            return Err(Violation::us("the hand-over is over"));
        };
        if !self.may_announce(cx, addr) {
            return Err(Violation::peer("an address that the joiner cannot have"));
        }
        let member = Member::at(addr);
        if member.id != joiner {
            return Err(Violation::peer(
                "a joiner's id is not the SHA-1 of its address",
            ));
        }
        *expect = Expect::Request;
        log::info!("{addr} joined; it is our next");
        if let Some(timer) = timer {
            cx.cancel(timer);
        }
        self.set_next(cx, member);
        self.sweep(cx, joiner, next.id);
        self.release_fenced_writes(cx);
        Ok(Step::Done(used))
    }

    pub(super) fn hand_off_late(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let LockHolder::HandOff(hand_off) = &mut self.lock_holder else {
            return;
        };
        if hand_off.conn == conn {
            hand_off.timer = None;
            hub.close_conn(conn);
        }
    }

    /// Our next wants to leave (RELIABILITY.md A2): a joiner that does not know it yet can come again afterwards,
    /// and the leaver serves nobody while it waits.
    pub(super) fn yield_to_leaver(&mut self, cx: &mut Cx<'_, Self>) {
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
    pub(super) fn hand_off_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        let LockHolder::HandOff(HandOff {
            conn,
            next,
            phase,
            timer,
            ..
        }) = self.lock_holder
        else {
            return;
        };
        if conn != id {
            return;
        }
        if let Some(timer) = timer {
            hub.cancel(timer);
        }
        log::info!("a joiner left before it had joined; the range stays");
        if phase == Phase::Answer && next != self.me() && next == self.routing.next() {
            let operation = Operation::update_prev(self.me().addr, next.addr, self.bounds());
            client::start(self, hub, operation, Tag::TakeBack);
        }
        self.release_lock(hub);
        self.release_fenced_writes(hub);
    }
}

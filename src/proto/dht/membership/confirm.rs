//! Confirms a joiner: the entries that moved to it stay here, unseen, until it serves as a member.
//!
//! ```text
//!  its address ──▶ our next ──LOCATE of its own id, at its address──▶ it names itself ──▶ swept here
//!                                 │ refused, silent, or another answer, for CONFIRM_WITHIN
//!                                 └──▶ our old next again: the range and its entries are back in service
//! ```
//! The last step of CONNECT is an address that nothing proves. Without the question a stranger could take a range with
//! an address at which nobody listens. Until the answer, this node answers the range's commands with `0` and LOCATE names
//! the joiner, as a joiner may serve at once. A durable node has the entries on its disk until then, also across a restart.
//!
//! A plain joiner may not answer until its join is over, and connections break. So only [`REFUSED_MAX`] refused dials in a
//! row end the confirmation early. Once it is taken back, a joiner that serves all the same is a member that nobody lists.
//!
//! A node that keeps copies does not remove the entries then either: it is the heir of the joiner, and holds them for it.
//!
//! The membership lock is held meanwhile: whoever wants to join or leave here waits, and so does our own leave.

use std::net::Ipv4Addr;

use crate::engine::{Hub, Tick, Ticks, TimerId};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, LockHolder, Tag, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::client::{self, OpId};
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};

/// The time for a joiner to tell its next, and for three tries that are not answered.
const CONFIRM_WITHIN: Ticks = Ticks::from_secs(10);

/// Between two looks; a try that failed is repeated with the next one.
const LOOK_EVERY: Ticks = Ticks::from_millis(300);

/// A try without an answer is given up after this: over the slowest round trips.
const SILENT_AFTER: Ticks = Ticks::from_secs(3);

/// Nobody listens there. With [`LOOK_EVERY`] in between, under two seconds.
const REFUSED_MAX: u32 = 6;

/// Fenced writes are refused when the oldest has waited this long, less a look under two seconds.
const WRITES_WAIT: Ticks = Ticks::from_millis(1700);

#[derive(Debug)]
pub(crate) struct Confirmation {
    joiner: Member,
    /// Our next before.
    old_next: Member,
    /// The end of the range that moved; it begins with the joiner.
    end: Id,
    /// Where the CONNECT came from.
    source: Ipv4Addr,
    until: Tick,
    op: Option<OpId>,
    asked: Tick,
    refused: u32,
    timer: Option<TimerId>,
}

impl Confirmation {
    pub(crate) fn moves(&self, key: Id) -> bool {
        key.in_arc(self.joiner.id, self.end)
    }

    fn look_later(&mut self, hub: &mut Hub<DhtNode>) {
        self.timer = hub.arm(LOOK_EVERY, Timer::Confirmation);
        if self.timer.is_none() {
            hub.soon(Timer::Confirmation);
        }
    }
}

impl DhtNode {
    /// The joiner's address came: ownership of `[joiner, end)` moves. Takes the membership lock over.
    pub(crate) fn begin_confirmation(
        &mut self,
        hub: &mut Hub<Self>,
        joiner: Member,
        end: Id,
        source: Ipv4Addr,
    ) {
        self.end_lock_deadline(hub);
        self.lock_holder = LockHolder::Confirmation(Confirmation {
            joiner,
            old_next: self.routing.next(),
            end,
            source,
            until: hub.now() + CONFIRM_WITHIN,
            op: None,
            asked: hub.now(),
            refused: 0,
            timer: None,
        });
        self.set_next(hub, joiner);
        self.ask_joiner(hub);
    }

    fn confirmation(&mut self) -> Option<&mut Confirmation> {
        match &mut self.lock_holder {
            LockHolder::Confirmation(confirmation) => Some(confirmation),
            _ => None,
        }
    }

    fn ask_joiner(&mut self, hub: &mut Hub<Self>) {
        let once = self.bounds_once();
        let Some(confirmation) = self.confirmation() else {
            return;
        };
        let Member { id, addr } = confirmation.joiner;
        confirmation.asked = hub.now();
        let operation = Operation::new(Verb::Closest, id, vec![addr], once);
        let op = client::start(self, hub, operation, Tag::Confirmation);
        if let Some(confirmation) = self.confirmation() {
            confirmation.op = Some(op);
            confirmation.look_later(hub);
        }
    }

    /// The joiner answered, or could not be asked.
    pub(crate) fn joiner_answered(
        &mut self,
        hub: &mut Hub<Self>,
        result: Result<Outcome, Failure>,
    ) {
        let Some(confirmation) = self.confirmation() else {
            return;
        };
        confirmation.op = None;
        match result {
            Ok(Outcome::Located(addr)) if addr == confirmation.joiner.addr => {
                self.joiner_confirmed(hub);
            }
            Err(failure) if failure.is_refused() => {
                confirmation.refused += 1;
                if confirmation.refused >= REFUSED_MAX {
                    self.take_range_back(hub);
                }
            }
            _ => confirmation.refused = 0,
        }
    }

    pub(crate) fn look_at_joiner(&mut self, hub: &mut Hub<Self>) {
        let now = hub.now();
        if self
            .fenced_writes
            .since()
            .is_some_and(|since| now >= since + WRITES_WAIT)
            && matches!(self.lock_holder, LockHolder::Confirmation(_))
        {
            self.refuse_fenced_writes(hub);
        }
        let Some(confirmation) = self.confirmation() else {
            return;
        };
        confirmation.timer = None;
        if now >= confirmation.until {
            return self.take_range_back(hub);
        }
        if confirmation.op.is_some() && now < confirmation.asked + SILENT_AFTER {
            confirmation.look_later(hub);
            return;
        }
        if let Some(op) = confirmation.op.take() {
            confirmation.refused = 0;
            client::cancel(self, hub, op);
        }
        self.ask_joiner(hub);
    }

    /// A heartbeat of our next was granted: if it is the joiner, it is a member.
    pub(crate) fn joiner_beats(&mut self, hub: &mut Hub<Self>, by: Member) {
        if self.confirmation().is_some_and(|c| c.joiner == by) {
            self.joiner_confirmed(hub);
        }
    }

    /// The joiner is a member. What we keep of its range is decided here.
    fn joiner_confirmed(&mut self, hub: &mut Hub<Self>) {
        let Some(Confirmation { joiner, end, .. }) = self.end_confirmation(hub) else {
            return;
        };
        log::info!("{} joined; it is our next", joiner.addr);
        self.sweep(hub, joiner.id, end);
        self.release_fenced_writes(hub);
    }

    /// The joiner is none: its range, of which nothing was swept, is ours again.
    fn take_range_back(&mut self, hub: &mut Hub<Self>) {
        if self.copies.is_on() {
            // It may have served under our lease, and what it acknowledged is here: it is a next that died.
            self.end_confirmation(hub);
            self.release_lock(hub);
            self.release_fenced_writes(hub);
            return self.suspect_next(hub);
        }
        let Some(confirmation) = self.end_confirmation(hub) else {
            return;
        };
        let Confirmation {
            joiner,
            old_next,
            source,
            ..
        } = confirmation;
        log::info!(
            "{} does not answer as a member; its range is back in service here",
            joiner.addr
        );
        self.strike(hub.now(), source);
        // A next that was killed and joins again had the range before: it is ours in neither case.
        if old_next != joiner {
            self.member_failed(joiner.addr);
            self.set_next(hub, old_next);
            self.take_prev_back(hub, old_next);
        }
        self.release_lock(hub);
        self.release_fenced_writes(hub);
    }

    /// Ends the question; the lock is still to be released.
    fn end_confirmation(&mut self, hub: &mut Hub<Self>) -> Option<Confirmation> {
        self.confirmation()?;
        let holder = std::mem::replace(&mut self.lock_holder, LockHolder::Nobody);
        let LockHolder::Confirmation(mut confirmation) = holder else {
            return None;
        };
        if let Some(timer) = confirmation.timer.take() {
            hub.cancel(timer);
        }
        if let Some(op) = confirmation.op.take() {
            client::cancel(self, hub, op);
        }
        Some(confirmation)
    }
}

//! Fingers: nodes further round the ring, kept fresh by one LOCATE now and then.

use std::net::SocketAddrV4;

use crate::engine::{Hub, Ticks};

use super::client;
use super::id::Id;
use super::node::{DhtNode, Role, Tag, Timer};
use super::operation::{Bounds, Failure, Operation, Outcome, Verb};
use super::routing::Member;

/// One finger is looked up this often; a ring of 1,000 nodes has about ten, so all are fresh within ten seconds.
const FINGER_EVERY: Ticks = Ticks::from_secs(1);

/// The same in the first round after joining: a new member has its fingers within half a second.
const FIRST_FINGERS_EVERY: Ticks = Ticks::from_millis(30);

/// From a claim to be our prev to the question whether it is.
const PREV_AFTER: Ticks = Ticks::from_secs(2);

impl DhtNode {
    /// Sets our next, and keeps fingers from when we are not alone.
    pub(super) fn set_next(&mut self, hub: &mut Hub<Self>, next: Member) {
        let was_alone = self.routing.is_alone();
        self.routing.set_next(next);
        if was_alone && !self.routing.is_alone() && !self.finger_armed {
            self.finger_round = 0;
            self.finger_armed = hub.arm(FIRST_FINGERS_EVERY, Timer::Finger).is_some();
        }
    }

    pub(super) fn look_up_finger(&mut self, hub: &mut Hub<Self>) {
        self.finger_armed = false;
        if self.routing.is_alone() || !matches!(self.role, Role::Member) {
            return;
        }
        // From the farthest down to the first that our next already covers, and again.
        let me = self.me().id;
        self.finger = match self.finger.checked_sub(1) {
            Some(i) if !self.routing.owns(me.plus_power_of_two(i)) => i,
            _ => {
                self.finger_round += 1;
                self.look_up_prev(hub);
                Id::BITS - 1
            }
        };
        let key = me.plus_power_of_two(self.finger);
        if !self.routing.owns(key) {
            let contacts = vec![self.routing.closest(key).addr];
            let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
            client::start(self, hub, operation, Tag::Finger);
        }
        let every = if self.finger_round < 2 {
            FIRST_FINGERS_EVERY
        } else {
            FINGER_EVERY
        };
        self.finger_armed = hub.arm(every, Timer::Finger).is_some();
    }

    /// UPDATE_PREV. A claim that is farther than what we know is right when the closer node left or never came to
    /// join, so the ring is asked once whoever claims has had the time to make it true.
    pub(super) fn claim_prev(&mut self, hub: &mut Hub<Self>, claimant: Member) {
        self.prev_claims += 1;
        if self.routing.claim_prev(claimant) {
            self.prev_tentative = None;
            return;
        }
        // The closest of them: who takes a farther one for the truth misses a living node.
        let me = self.me().id;
        let closer = |one: &Member| one.id.distance_to(me) < claimant.id.distance_to(me);
        self.prev_tentative = self.prev_tentative.filter(closer).or(Some(claimant));
        if !self.prev_armed {
            self.prev_armed = hub.arm(PREV_AFTER, Timer::Prev).is_some();
            self.ask_prev(hub);
        }
    }

    /// A node is gone. Where it was our prev, who is farther is right.
    pub(super) fn forget_node(&mut self, addr: SocketAddrV4) {
        let before = self.routing.prev();
        self.routing.forget(addr);
        if before != self.routing.prev()
            && let Some(claimant) = self
                .prev_tentative
                .take_if(|claimant| claimant.addr != addr)
        {
            self.routing.set_prev(claimant);
        }
    }

    /// A claim had its time.
    pub(super) fn claim_late(&mut self, hub: &mut Hub<Self>) {
        self.prev_armed = false;
        self.look_up_prev(hub);
        if self.prev_tentative.is_some() {
            // It may have been about to go when it was asked first.
            self.ask_prev(hub);
        }
    }

    pub(super) fn look_up_prev(&mut self, hub: &mut Hub<Self>) {
        if self.routing.is_alone() || !matches!(self.role, Role::Member) {
            return;
        }
        let key = self.me().id.pred();
        let contacts = vec![self.routing.closest(key).addr, self.routing.next().addr];
        let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
        client::start(self, hub, operation, Tag::Prev(self.prev_claims));
    }

    /// A farther claim is right when the closer node is gone (invariant 9 of the specification). The ring may take long to
    /// say so, or be unable to while a node on the way is dead.
    fn ask_prev(&mut self, hub: &mut Hub<Self>) {
        let once = Bounds {
            attempts_max: 1,
            ..self.bounds()
        };
        if let Some(prev) = self.routing.prev() {
            let operation = Operation::new(Verb::Closest, prev.id, vec![prev.addr], once);
            client::start(self, hub, operation, Tag::PrevGone(prev));
        }
    }

    pub(super) fn prev_asked(&mut self, asked: Member, result: Result<Outcome, Failure>) {
        let gone = match result {
            Ok(Outcome::Located(addr)) => addr != asked.addr,
            Err(Failure::Unreachable { .. }) => true,
            _ => false,
        };
        if gone
            && self.routing.prev() == Some(asked)
            && let Some(claimant) = self.prev_tentative.take()
        {
            self.routing.set_prev(claimant);
        }
    }

    pub(super) fn prev_found(&mut self, claims: u64, result: Result<Outcome, Failure>) {
        if self.prev_claims != claims {
            // Somebody said that it is before us while the ring was asked; what the ring says may be older.
            return;
        }
        match result {
            Ok(Outcome::Located(addr)) => {
                self.prev_tentative = None;
                self.routing.set_prev(Member::at(addr));
            }
            Err(Failure::Unreachable { addr, .. }) => self.forget_node(addr),
            _ => {}
        }
    }

    pub(super) fn finger_found(&mut self, result: Result<Outcome, Failure>) {
        match result {
            Ok(Outcome::Located(addr)) => self.routing.learn(Member::at(addr)),
            Err(
                Failure::Unreachable { addr, .. }
                | Failure::TimedOut { addr }
                | Failure::Malformed { addr, .. },
            ) => {
                self.forget_node(addr);
            }
            _ => {}
        }
    }
}

//! Fingers: nodes further round the ring, kept fresh by one LOCATE now and then.

use crate::engine::{Hub, Ticks};

use super::client;
use super::id::Id;
use super::node::{DhtNode, Role, Tag, Timer};
use super::operation::{Failure, Operation, Outcome, Verb};
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
        if !self.routing.claim_prev(claimant) && !self.prev_armed {
            self.prev_armed = hub.arm(PREV_AFTER, Timer::Prev).is_some();
        }
    }

    pub(super) fn look_up_prev(&mut self, hub: &mut Hub<Self>) {
        self.prev_armed = false;
        if self.routing.is_alone() || !matches!(self.role, Role::Member) {
            return;
        }
        let key = self.me().id.pred();
        let contacts = vec![self.routing.closest(key).addr, self.routing.next().addr];
        let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
        client::start(self, hub, operation, Tag::Prev(self.prev_claims));
    }

    pub(super) fn prev_found(&mut self, claims: u64, result: Result<Outcome, Failure>) {
        if self.prev_claims != claims {
            // Somebody said that it is before us while the ring was asked; what the ring says may be older.
            return;
        }
        match result {
            Ok(Outcome::Located(addr)) => self.routing.set_prev(Member::at(addr)),
            Err(Failure::Unreachable { addr, .. }) => self.routing.forget(addr),
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
                self.routing.forget(addr);
            }
            _ => {}
        }
    }
}

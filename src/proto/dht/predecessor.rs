//! Who is before us.

use crate::engine::{Hub, Ticks};

use super::client;
use super::node::{DhtNode, Role, Tag, Timer};
use super::operation::{Bounds, Failure, Operation, Outcome, Verb};
use super::routing::Member;

/// From a claim to be our prev to the question whether it is.
const PREV_AFTER: Ticks = Ticks::from_secs(2);

impl DhtNode {
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
            Err(Failure::Unreachable { addr, .. }) => self.member_failed(addr),
            _ => {}
        }
    }
}

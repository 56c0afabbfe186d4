//! Finger look-ups: one LOCATE now and then keeps the nodes further round the ring fresh.

use crate::engine::{Hub, Ticks};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Role, Tag, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};

/// One finger is looked up this often; a ring of 1,000 nodes has about ten, so all are fresh within ten seconds.
pub(crate) const FINGER_EVERY: Ticks = Ticks::from_secs(1);

/// Where nothing is new, each look-up waits longer than the one before, up to this.
const FINGER_EVERY_MAX: Ticks = Ticks::from_secs(120);

/// The same in the first round after joining: a new member has its fingers within half a second.
const FIRST_FINGERS_EVERY: Ticks = Ticks::from_millis(30);

impl DhtNode {
    /// Begins to look up fingers, unless that goes on. Called whenever our next changes, so a timer that was refused is
    /// armed then.
    pub(crate) fn begin_fingers(&mut self, hub: &mut Hub<Self>) {
        if !self.finger_armed {
            self.finger_round = 0;
            self.finger_pause = FINGER_EVERY;
            self.finger_armed = hub.arm(FIRST_FINGERS_EVERY, Timer::Finger).is_some();
        }
    }

    pub(crate) fn look_up_finger(&mut self, hub: &mut Hub<Self>) {
        self.finger_armed = false;
        if self.routing.is_alone() || !matches!(self.role, Role::Member) {
            return;
        }
        // From the farthest down to the first that our next covers, and again.
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
            self.start_bounded(hub, operation, Tag::Finger);
        }
        let every = if self.finger_round < 2 {
            FIRST_FINGERS_EVERY
        } else {
            self.finger_pause
        };
        self.finger_armed = hub.arm(every, Timer::Finger).is_some();
    }

    pub(crate) fn finger_found(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let is_news = match &result {
            Ok(Outcome::Located(addr)) => !self.routing.knows(*addr),
            _ => true,
        };
        self.finger_pause = if is_news {
            FINGER_EVERY
        } else {
            Ticks(self.finger_pause.0 + self.finger_pause.0 / 4).min(FINGER_EVERY_MAX)
        };
        match result {
            Ok(Outcome::Located(addr)) => self.routing.learn(Member::at(addr)),
            Err(
                Failure::Unreachable { addr, .. }
                | Failure::TimedOut { addr }
                | Failure::Malformed { addr, .. },
            ) => {
                self.member_failed(addr);
                if addr == self.routing.next().addr {
                    self.suspect_next(hub);
                }
            }
            _ => {}
        }
    }
}

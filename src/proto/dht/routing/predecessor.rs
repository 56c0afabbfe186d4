//! Our prev: claims by UPDATE_PREV, and what the ring says of them.
//!
//! UPDATE_PREV is acknowledged first and verified afterwards, if at all: a plain joiner serves no requests while it joins, so a
//! node that dialled back before it acknowledged would wait for ever. A closer claimant is believed. A farther one is right
//! only when the closer node is gone or never joined; the closest of these is remembered, and the old prev and the
//! ring are asked.

use crate::engine::{Hub, Ticks};

use crate::proto::dht::node::{DhtNode, Role, Tag, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};

/// From a claim to be our prev to the question whether it is.
const PREV_AFTER: Ticks = Ticks::from_secs(2);

/// What was said of our prev.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    armed: bool,
    /// UPDATE_PREVs ever.
    pub(crate) claims: u64,
    /// The closest of the claimants that are farther than our prev, or the one that the ring named.
    pub(crate) tentative: Option<Member>,
    /// The ring named this one last.
    named: Option<Member>,
    /// This one was named by the ring or answered as a member. The word of the ring does not replace it when it is only silent;
    /// one that did no more than claim is replaced then.
    proved: Option<Member>,
}

impl DhtNode {
    /// UPDATE_PREV. For a farther claim the ring is asked after [`PREV_AFTER`], when the claimant had time to complete its
    /// join.
    pub(crate) fn claim_prev(&mut self, hub: &mut Hub<Self>, claimant: Member) {
        self.claims.claims += 1;
        if self.routing.claim_prev(claimant) {
            self.claims.tentative = None;
            return;
        }
        // The closest of them: a farther one would leave a living node out.
        let me = self.me().id;
        let closer = |one: &Member| one.id.distance_to(me) < claimant.id.distance_to(me);
        self.claims.tentative = self.claims.tentative.filter(closer).or(Some(claimant));
        if !self.claims.armed {
            self.claims.armed = hub.arm(PREV_AFTER, Timer::Prev).is_some();
            self.ask_prev(hub);
        }
    }

    /// [`PREV_AFTER`] has passed since a claim.
    pub(crate) fn claim_late(&mut self, hub: &mut Hub<Self>) {
        self.claims.armed = false;
        self.look_up_prev(hub);
        if self.claims.tentative.is_some() {
            // The old prev may have been about to leave when it was asked first.
            self.ask_prev(hub);
        }
    }

    pub(crate) fn look_up_prev(&mut self, hub: &mut Hub<Self>) {
        if self.routing.is_alone() || !matches!(self.role, Role::Member) {
            return;
        }
        let key = self.me().id.pred();
        let contacts = vec![self.routing.closest(key).addr, self.routing.next().addr];
        let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
        self.start_bounded(hub, operation, Tag::Prev(self.claims.claims));
    }

    /// Asks the prev itself. The ring may take long to notice that it is gone, or cannot while a node on the way is dead.
    fn ask_prev(&mut self, hub: &mut Hub<Self>) {
        let once = self.bounds_once();
        if let Some(prev) = self.routing.prev() {
            let plain = !self.copies.is_on() || self.links.is_plain(prev.addr, hub.now());
            let verb = if plain { Verb::Closest } else { Verb::Stat };
            let operation = Operation::new(verb, prev.id, vec![prev.addr], once);
            self.start_bounded(hub, operation, Tag::PrevGone(prev));
        }
    }

    pub(crate) fn prev_asked(&mut self, asked: Member, result: Result<Outcome, Failure>) {
        let me = self.me().addr;
        let gone = match result {
            Ok(Outcome::Told(stat)) => stat.is_none_or(|stat| stat.next != me),
            Ok(Outcome::Located(addr)) if addr == asked.addr => {
                self.claims.proved = Some(asked);
                false
            }
            Ok(Outcome::Located(_)) | Err(Failure::Unreachable { .. }) => true,
            _ => {
                let is_named =
                    self.claims.tentative.is_some() && self.claims.tentative == self.claims.named;
                is_named && self.claims.proved != Some(asked)
            }
        };
        if gone
            && self.routing.prev() == Some(asked)
            && let Some(claimant) = self.claims.tentative.take()
        {
            self.routing.set_prev(claimant);
        }
    }

    /// The prev was silent for longer than a lease: the closest of the farther claimants takes its place.
    pub(crate) fn replace_silent_prev(&mut self) {
        if let Some(claimant) = self.claims.tentative.take() {
            self.routing.set_prev(claimant);
        }
    }

    /// The ring names a member as the node before us. A member with a wrong next names a farther one while ours lives, so
    /// that one must be proved gone by its own answer, or by none being there to answer.
    fn prev_named(&mut self, hub: &mut Hub<Self>, named: Member) {
        let me = self.me();
        if named == me {
            return;
        }
        self.claims.tentative = None;
        self.claims.named = Some(named);
        if self.routing.claim_prev(named) {
            self.claims.proved = Some(named);
        } else {
            self.claims.tentative = Some(named);
            self.ask_prev(hub);
        }
    }

    pub(crate) fn prev_found(
        &mut self,
        hub: &mut Hub<Self>,
        claims: u64,
        result: Result<Outcome, Failure>,
    ) {
        if self.claims.claims != claims {
            // A claim came while the ring was asked; the answer may be older.
            return;
        }
        match result {
            Ok(Outcome::Located(addr)) => {
                self.prev_named(hub, Member::at(addr));
            }
            Err(Failure::Unreachable { addr, .. }) => self.member_failed(addr),
            _ => {}
        }
    }
}

//! What a node knows of the ring: itself, its neighbours, and some nodes further on (fingers).
//!
//! `next` decides what the node owns. `prev` is the last claim that was believed and decides nothing; the ring knows the true
//! one (LOCATE of our id less one). Fingers only make lookups shorter.

pub(crate) mod fingers;
pub(crate) mod predecessor;

use std::net::SocketAddrV4;

use crate::engine::Hub;

use super::id::Id;
use super::node::DhtNode;

/// A member of the ring: an address, and the id that is its SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub id: Id,
    pub addr: SocketAddrV4,
}

impl Member {
    pub fn at(addr: SocketAddrV4) -> Member {
        Member {
            id: Id::of_addr(addr),
            addr,
        }
    }
}

/// The neighbours of a node. Alone, it is its own next.
#[derive(Debug, Clone)]
pub struct Routing {
    me: Member,
    next: Member,
    prev: Option<Member>,
    /// The last prev, if it did not answer and none took its place since.
    lost_prev: Option<Member>,
    /// Distinct nodes, in clockwise order from us, without us and `next`. At most one for each power of two.
    fingers: Vec<Member>,
}

impl Routing {
    /// A ring of one.
    pub fn alone(me: Member) -> Routing {
        Routing {
            me,
            next: me,
            prev: None,
            lost_prev: None,
            fingers: Vec::new(),
        }
    }

    pub fn me(&self) -> Member {
        self.me
    }

    pub fn next(&self) -> Member {
        self.next
    }

    pub fn prev(&self) -> Option<Member> {
        self.prev
    }

    /// The prev, or the last one if it did not answer: if that is dead, it is still the node before us.
    pub fn last_prev(&self) -> Option<Member> {
        self.prev.or(self.lost_prev)
    }

    pub fn fingers(&self) -> &[Member] {
        &self.fingers
    }

    pub fn is_alone(&self) -> bool {
        self.next == self.me
    }

    pub fn set_next(&mut self, next: Member) {
        self.next = next;
        // A finger before our next is gone, and would be named for keys beyond it.
        let me = self.me;
        self.fingers
            .retain(|finger| *finger != next && !finger.id.in_arc(me.id, next.id));
        if self.is_alone() {
            self.fingers.clear();
            (self.prev, self.lost_prev) = (None, None);
        }
    }

    /// `claimant` is said to be before us: the closer of the two is kept. False when it is the old one.
    pub fn claim_prev(&mut self, claimant: Member) -> bool {
        let closer = self.prev.is_none_or(|prev| {
            prev == self.me
                || claimant.id.distance_to(self.me.id) <= prev.id.distance_to(self.me.id)
        });
        if closer && claimant != self.me {
            (self.prev, self.lost_prev) = (Some(claimant), None);
        }
        closer
    }

    /// What the ring says of our predecessor.
    pub fn set_prev(&mut self, prev: Member) {
        (self.prev, self.lost_prev) = ((prev != self.me).then_some(prev), None);
    }

    /// `owner` is the owner of our id plus 2^`i`.
    pub fn learn(&mut self, owner: Member) {
        if self.owns(owner.id) || owner == self.next || self.fingers.contains(&owner) {
            return;
        }
        let distance = self.me.id.distance_to(owner.id);
        let at = self
            .fingers
            .partition_point(|f| self.me.id.distance_to(f.id) < distance);
        self.fingers.insert(at, owner);
        self.fingers.truncate(Id::BITS);
    }

    /// One of the nodes that this one knows.
    pub fn knows(&self, addr: SocketAddrV4) -> bool {
        let is_it = |member: &Member| member.addr == addr;
        is_it(&self.me) || is_it(&self.next) || self.fingers.iter().any(is_it)
    }

    /// A node did not answer.
    pub fn forget(&mut self, addr: SocketAddrV4) {
        self.fingers.retain(|finger| finger.addr != addr);
        if self.prev.is_some_and(|prev| prev.addr == addr) {
            self.lost_prev = self.prev.take();
        }
    }

    /// A node owns the keys from its own id (included) up to its next node's (excluded).
    pub fn owns(&self, key: Id) -> bool {
        key.in_arc(self.me.id, self.next.id)
    }

    /// Of all nodes that this one knows, the last at or before `key`.
    pub fn closest(&self, key: Id) -> Member {
        if self.owns(key) {
            return self.me;
        }
        let reach = self.me.id.distance_to(key);
        let before = self
            .fingers
            .partition_point(|f| self.me.id.distance_to(f.id) <= reach);
        let finger = before.checked_sub(1).map(|last| self.fingers[last]);
        finger.unwrap_or(self.next)
    }
}

/// How the range of this node changed: from `[me, before)` to `[me, after)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RangeChange {
    pub(crate) before: Member,
    pub(crate) after: Member,
    /// Keys came that were another's.
    pub(crate) grew: bool,
}

impl DhtNode {
    /// Sets our next: the one way in which the range of this node changes. Heartbeats, copies and fingers follow.
    pub(crate) fn set_next(&mut self, hub: &mut Hub<Self>, next: Member) {
        let (me, before) = (self.routing.me(), self.routing.next());
        self.routing.set_next(next);
        if !self.routing.is_alone() {
            self.begin_fingers(hub);
        }
        let is_whole = |member: Member| member == me;
        let change = RangeChange {
            before,
            after: next,
            grew: !is_whole(before) && (is_whole(next) || !next.id.in_arc(me.id, before.id.succ())),
        };
        self.range_changed(hub, change);
    }
}

#[cfg(test)]
mod tests;

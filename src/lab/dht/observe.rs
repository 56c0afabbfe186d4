//! What the observer sees of a node. The only file of the harness that knows how a node is built inside.

use bytes::Bytes;

use crate::engine::Tick;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, LockHolder, Role};
use crate::proto::dht::routing::Member;
use crate::proto::dht::storage::entries::Entries;
use crate::sim::Tally;

/// What a node is to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No process runs.
    Down,
    Joining,
    /// It joins, and the node before it may list it already.
    Listed,
    Member,
    Leaving,
    /// Its range was taken; the process ends.
    Gone,
}

impl Stage {
    fn of(node: &DhtNode) -> Stage {
        match &node.role {
            Role::Member => Stage::Member,
            Role::Joining(join) if join.is_perhaps_member() => Stage::Listed,
            Role::Joining(_) => Stage::Joining,
            Role::Leaving(_) => Stage::Leaving,
            Role::Gone(_) => Stage::Gone,
        }
    }
}

/// What a node says of itself and of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub me: Member,
    pub stage: Stage,
    /// It answers `1` for `[me, next)`, while it has a lease.
    pub serves: bool,
    /// When its lease ends; `None`: it needs none.
    pub lease_until: Option<Tick>,
    pub next: Member,
    /// Who follows it, nearest first.
    pub successors: Vec<Member>,
}

impl View {
    pub(super) fn of(node: &DhtNode) -> View {
        View {
            me: node.me(),
            stage: Stage::of(node),
            serves: node.owns(node.me().id),
            lease_until: node.heartbeat.lease_until(),
            next: node.routing().next(),
            successors: successors(node).collect(),
        }
    }

    /// Nothing of it changed; without an allocation, since it is asked after every turn.
    pub(super) fn is_of(&self, node: &DhtNode) -> bool {
        self.next == node.routing().next()
            && self.stage == Stage::of(node)
            && self.serves == node.owns(node.me().id)
            && self.lease_until == node.heartbeat.lease_until()
            && successors(node).eq(self.successors.iter().copied())
    }

    pub(super) fn down(&self) -> View {
        View {
            stage: Stage::Down,
            serves: false,
            ..self.clone()
        }
    }

    pub fn is_member(&self) -> bool {
        matches!(self.stage, Stage::Member | Stage::Leaving)
    }

    pub fn is_alone(&self) -> bool {
        self.next == self.me
    }

    /// It answers `1` for its range now.
    pub fn serves_at(&self, now: Tick) -> bool {
        self.serves && self.lease_until.is_none_or(|until| now < until)
    }

    /// It answers `1` for this key.
    pub fn owns(&self, key: Id) -> bool {
        self.serves && key.in_arc(self.me.id, self.next.id)
    }
}

fn successors(node: &DhtNode) -> impl Iterator<Item = Member> {
    let after = node.heartbeat.watch.after.iter().copied();
    std::iter::once(node.routing().next()).chain(after)
}

/// What a node has of a key, whether it serves it or not.
pub(super) fn value(node: &DhtNode, key: Id) -> Option<&Bytes> {
    node.value_of(key)
}

/// What a node knows of a key is this state: a value, or a removal, of which it has a tombstone.
pub(super) fn has(node: &DhtNode, key: Id, state: Option<&Bytes>) -> bool {
    let known = node.entries.entry(key);
    known.is_some_and(|entry| entry.value.as_ref() == state)
        || state.is_some() && value(node, key) == state
}

/// Two nodes have the same entries of a range, with the same versions and tombstones.
pub(super) fn is_same_range(a: &Entries, b: &Entries, start: Id, end: Id) -> bool {
    a.arc_with_tombstones(start, end)
        .eq(b.arc_with_tombstones(start, end))
}

/// Nobody waits for it: its writes are on the disk, and no change of membership is under way.
pub(super) fn is_at_rest(node: &DhtNode) -> bool {
    matches!(node.role, Role::Member)
        && matches!(node.lock_holder, LockHolder::Nobody)
        && node.submitted == node.written
        && node.recovered.is_empty()
}

/// No change of membership is under way.
pub(super) fn is_idle(node: &DhtNode) -> bool {
    matches!(node.role, Role::Member) && matches!(node.lock_holder, LockHolder::Nobody)
}

/// A node that is gone has nothing that another node should have taken.
pub(super) fn is_emptied(node: &DhtNode) -> bool {
    match node.role {
        // One that cannot learn any more whether it was taken goes as well; the end of the run reads every key.
        Role::Gone(heir) if heir != node.routing().next() => true,
        Role::Leaving(_) | Role::Gone(_) => node.routing().is_alone() || node.entries().is_empty(),
        Role::Member | Role::Joining(_) => true,
    }
}

/// What is left in a node where nothing should be, with no connection open.
pub(super) fn leftovers(node: &DhtNode) -> Option<&'static str> {
    let waits = !node.fenced_writes.is_empty() || !node.parked.is_empty();
    let entries = node.entries();
    [
        (waits, "somebody waits"),
        (entries.pinned_bytes() != 0, "values that nobody reads"),
        (
            node.held_bytes() != entries.memory_bytes(),
            "values under way",
        ),
    ]
    .into_iter()
    .find_map(|(is_left, what)| is_left.then_some(what))
}

/// For the trace.
pub(super) fn described(node: &DhtNode) -> String {
    format!(
        "next {} prev {:?} role {:.60?} lock {:.60?}",
        node.routing().next().addr,
        node.routing().prev().map(|prev| prev.addr),
        node.role,
        node.lock_holder
    )
}

/// What a node was seen doing, to count when it begins.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Doing {
    joining: bool,
    fences: bool,
    parks: bool,
    lock_holder: Option<&'static str>,
}

impl Doing {
    fn of(node: &DhtNode) -> Doing {
        Doing {
            joining: matches!(node.role, Role::Joining(_)),
            fences: !node.fenced_writes.is_empty(),
            parks: !node.parked.is_empty(),
            lock_holder: match node.lock_holder {
                LockHolder::Nobody => None,
                LockHolder::HandOff(_) => Some("hand-overs"),
                LockHolder::Disconnect(_) => Some("absorbed"),
                LockHolder::Relay(_) => Some("relayed"),
                LockHolder::Rejoin(_) => Some("revived"),
                LockHolder::Recovery => Some("unpacked"),
                LockHolder::Absorb(_) => Some("absorbs"),
                LockHolder::Sweep(_) => Some("swept"),
            },
        }
    }

    /// Counts what began or ended.
    pub(super) fn watch(&mut self, node: &DhtNode, tally: &mut Tally) {
        let now = Doing::of(node);
        if now == *self {
            return;
        }
        let joined = self.joining && matches!(node.role, Role::Member);
        let lock = now.lock_holder.unwrap_or("ended");
        for (began, what) in [
            (joined, "joined"),
            (now.fences && !self.fences, "held"),
            (now.parks && !self.parks, "parked"),
            (now.lock_holder != self.lock_holder, lock),
        ] {
            if began {
                tally.count(what);
            }
        }
        *self = now;
    }
}

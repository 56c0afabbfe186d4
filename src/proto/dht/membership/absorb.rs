//! Takes the range of a dead next.
//!
//! ```text
//! Probe ──it is dead──▶ Follow ──who follows it──▶ Fence ──who has its entries──▶ Fetch ──▶ ours
//!   └── it lives: nothing        └─ more of them are dead ─┘        └─ this node ─────────────┘
//! ```
//! - *Probe*: our next is asked by XSTAT. A refused connection is a dead process, and so is one that says that it is no member. Silence counts
//!   only when no lease that we granted can hold any more (see [`super::heartbeat`]).
//! - *Follow*: the first live member after it, from the list that it gave us; that one is asked for its prev, back to one whose prev is
//!   dead: a member that joined just before the crash must not lose its range. As in [`super::rejoin`].
//! - *Fence*: what this node was told to hold may be old. The members before us are asked by XFENCE what they were told by each dead
//!   owner. That also ends what an owner that is slow and not dead could still get acknowledged.
//! - *Fetch*: the range of each dead owner is synchronised with the one that has it complete in the latest epoch, if
//!   that is not this node.
//!
//! It holds the membership lock. Nothing changes before the end, except that entries are merged.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use crate::engine::{ConnId, Hub, Ticks};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, LockHolder, Role, Tag, Timer};
use crate::proto::dht::replication::LinkTag;
use crate::proto::dht::replication::sync::Mode;
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::client::{self, OpId};
use crate::proto::dht::rpc::links::{self, LinkError};
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};
use crate::proto::dht::wire::extension::{Extension, Reply};

/// A next that is silent is probed this long.
const PROBE_WITHIN: Ticks = Ticks::from_millis(1500);

/// The pause before a next that may be dead, and cannot be taken for it yet, is probed again.
const AGAIN_AFTER: Ticks = Ticks::from_millis(500);

/// Members asked who is before them.
const STEPS_MAX: u32 = 64;

/// Dead members in a row.
const DEAD_MAX: usize = 8;

#[derive(Debug)]
pub struct Absorb {
    /// In ring order, from our next on.
    dead: Vec<Member>,
    /// Who may follow: those after the dead ones, nearest first.
    candidates: VecDeque<Member>,
    phase: Phase,
    steps: u32,
    op: Option<OpId>,
}

#[derive(Debug)]
enum Phase {
    Probe {
        plain: bool,
    },
    /// This one is asked for its prev.
    Follow {
        candidate: Member,
        /// By LOCATE, as it does not know XSTAT.
        plain: bool,
        /// The live one that named it.
        named_by: Option<Member>,
    },
    Fence {
        after: Member,
        /// Answers that are still to come.
        left: usize,
        sources: Vec<Source>,
    },
    Fetch {
        after: Member,
        sources: Vec<Source>,
    },
}

/// Who has the entries of a dead owner.
#[derive(Debug, Clone, Copy)]
struct Source {
    of: Member,
    epoch: u64,
    complete: bool,
    /// `None`: this node.
    at: Option<SocketAddrV4>,
}

impl Source {
    fn is_better(&self, other: &Source) -> bool {
        (self.complete, self.epoch) > (other.complete, other.epoch)
    }
}

impl DhtNode {
    fn absorb(&mut self) -> Option<&mut Absorb> {
        match &mut self.lock_holder {
            LockHolder::Absorb(absorb) => Some(absorb),
            _ => None,
        }
    }

    /// Our next may be dead: it is probed, unless a change goes on here, or none of ours is to be made.
    pub(crate) fn suspect_next(&mut self, hub: &mut Hub<Self>) {
        let may_change = match &self.role {
            Role::Member => true,
            Role::Leaving(leave) => leave.pauses(),
            _ => false,
        };
        // One that was taken for dead itself has nothing to take.
        let is_listed = self.heartbeat.is_listed(hub.now());
        if !self.copies.is_on() || !may_change || !is_listed || self.routing.is_alone() {
            return;
        }
        if self.is_locked() {
            return self.suspect_later(hub);
        }
        self.lock_holder = LockHolder::Absorb(Absorb {
            dead: Vec::new(),
            candidates: VecDeque::new(),
            phase: Phase::Probe { plain: false },
            steps: 0,
            op: None,
        });
        let next = self.routing.next();
        self.ask_absorb(hub, Verb::Stat, next);
    }

    fn suspect_later(&mut self, hub: &mut Hub<Self>) {
        if !self.suspect_armed {
            self.suspect_armed = hub.arm(AGAIN_AFTER, Timer::Suspect).is_some();
        }
    }

    fn ask_absorb(&mut self, hub: &mut Hub<Self>, verb: Verb, at: Member) {
        let bounds = self.bounds_once();
        let key = if verb == Verb::Closest {
            at.id.pred()
        } else {
            at.id
        };
        let operation = Operation::new(verb, key, vec![at.addr], bounds);
        let op = client::start(self, hub, operation, Tag::Absorb);
        if hub.arm(PROBE_WITHIN, Timer::Absorb(op)).is_none() {
            client::cancel(self, hub, op);
            return self.end_absorb(hub, "no timer is to be had");
        }
        if let Some(absorb) = self.absorb() {
            absorb.op = Some(op);
        }
    }

    /// The one that is asked has been silent for too long.
    pub(crate) fn absorb_late(&mut self, hub: &mut Hub<Self>, op: OpId) {
        let Some(absorb) = self.absorb().filter(|absorb| absorb.op == Some(op)) else {
            return;
        };
        absorb.op = None;
        client::cancel(self, hub, op);
        self.absorb_answer(hub, Answer::Silent);
    }

    pub(crate) fn absorb_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let Some(absorb) = self.absorb() else { return };
        absorb.op = None;
        let answer = match result {
            Ok(Outcome::Told(Some(stat))) => Answer::Member(stat.prev.map(Member::at)),
            Ok(Outcome::Located(addr)) => Answer::Member(Some(Member::at(addr))),
            Ok(_) => Answer::NoMember,
            Err(failure) if failure.is_refused() => Answer::Refused,
            Err(Failure::CutOff { .. } | Failure::Malformed { .. }) => Answer::Cut,
            Err(_) => Answer::Silent,
        };
        self.absorb_answer(hub, answer);
    }

    fn absorb_answer(&mut self, hub: &mut Hub<Self>, answer: Answer) {
        let next = self.routing.next();
        let is_suspect = self.heartbeat.watch.is_suspect(hub.now());
        let Some(absorb) = self.absorb() else { return };
        match absorb.phase {
            Phase::Probe { plain: false } if answer == Answer::Cut => {
                absorb.phase = Phase::Probe { plain: true };
                self.ask_absorb(hub, Verb::Closest, next);
            }
            Phase::Probe { .. } => match answer {
                Answer::Refused | Answer::NoMember => self.found_dead(hub, next),
                Answer::Silent | Answer::Cut if is_suspect => self.found_dead(hub, next),
                Answer::Silent | Answer::Cut => {
                    self.end_absorb(hub, "our next is silent, and may only be slow");
                    self.suspect_later(hub);
                }
                Answer::Member(_) => self.end_absorb(hub, "our next is there"),
            },
            Phase::Follow {
                candidate,
                plain,
                named_by,
            } => self.candidate_answered(hub, candidate, plain, named_by, answer),
            Phase::Fence { .. } | Phase::Fetch { .. } => {}
        }
    }

    /// `dead` is, and who follows it is looked for.
    fn found_dead(&mut self, hub: &mut Hub<Self>, dead: Member) {
        log::info!("{} is dead; who follows it takes its place", dead.addr);
        let me = self.me();
        // What our next said is fresh; a finger may be a member that was taken for dead, and stalls.
        let mut known: Vec<Member> = self.heartbeat.watch.after.clone();
        if known.is_empty() {
            known.extend(self.routing.fingers());
            known.extend(self.routing.last_prev());
        }
        known.push(me);
        known.retain(|member| member.id.in_arc(dead.id.succ(), me.id.succ()) || *member == me);
        known.sort_by_key(|member| dead.id.distance_to(member.id));
        known.dedup();
        if let Some(absorb) = self.absorb() {
            absorb.dead.push(dead);
            absorb.candidates = known.into();
        }
        self.ask_next_candidate(hub);
    }

    fn ask_next_candidate(&mut self, hub: &mut Hub<Self>) {
        let me = self.me();
        let Some(absorb) = self.absorb() else { return };
        match absorb.candidates.pop_front() {
            Some(candidate) if candidate == me => self.follows(hub, me),
            Some(candidate) => self.ask_follower(hub, candidate, None),
            None => self.follows(hub, me),
        }
    }

    fn ask_follower(&mut self, hub: &mut Hub<Self>, candidate: Member, named_by: Option<Member>) {
        let Some(absorb) = self.absorb() else { return };
        absorb.steps += 1;
        if absorb.steps > STEPS_MAX {
            return self.end_absorb(hub, "it takes too many steps to find who follows");
        }
        absorb.phase = Phase::Follow {
            candidate,
            plain: false,
            named_by,
        };
        self.ask_absorb(hub, Verb::Stat, candidate);
    }

    fn candidate_answered(
        &mut self,
        hub: &mut Hub<Self>,
        candidate: Member,
        plain: bool,
        named_by: Option<Member>,
        answer: Answer,
    ) {
        let Some(absorb) = self.absorb() else { return };
        match answer {
            Answer::Cut if !plain => {
                absorb.phase = Phase::Follow {
                    candidate,
                    plain: true,
                    named_by,
                };
                self.ask_absorb(hub, Verb::Closest, candidate);
            }
            Answer::Member(prev) => {
                let last_dead = absorb.dead[absorb.dead.len() - 1];
                let between = |prev: &Member| {
                    prev.id.in_arc(last_dead.id.succ(), candidate.id) && !absorb.dead.contains(prev)
                };
                match prev.filter(between) {
                    Some(closer) => self.ask_follower(hub, closer, Some(candidate)),
                    None => self.follows(hub, candidate),
                }
            }
            // It may be slow only, and have a lease of the dead one. As our next it is watched, and taken for dead in its turn.
            Answer::Silent | Answer::Cut => self.follows(hub, candidate),
            Answer::Refused | Answer::NoMember => {
                if answer == Answer::Refused && absorb.dead.len() < DEAD_MAX {
                    let me = self.routing.me().id;
                    if let Some(absorb) = self.absorb() {
                        absorb.dead.push(candidate);
                        absorb.dead.sort_by_key(|dead| me.distance_to(dead.id));
                    }
                }
                match named_by {
                    Some(after) => self.follows(hub, after),
                    None => self.ask_next_candidate(hub),
                }
            }
        }
    }

    /// `after` will be our next. Who has the entries of the dead ones?
    fn follows(&mut self, hub: &mut Hub<Self>, after: Member) {
        let me = self.me();
        let watched_epoch = self.heartbeat.watch.epoch;
        let next = self.routing.next();
        let asked: Vec<Member> = self
            .heartbeat
            .before(me)
            .into_iter()
            .take(usize::from(self.config.replicas))
            .collect();
        let holds = &self.holds;
        let own = |of: &Member| {
            let held = holds.of(of.addr);
            Source {
                of: *of,
                epoch: held.map_or(0, |held| held.epoch),
                complete: held.is_some_and(|held| held.complete),
                at: None,
            }
        };
        let LockHolder::Absorb(absorb) = &mut self.lock_holder else {
            return;
        };
        absorb
            .dead
            .retain(|dead| dead.id.in_arc(me.id.succ(), after.id) || after == me);
        let sources: Vec<Source> = absorb.dead.iter().map(own).collect();
        // What this node has of its own next is the latest when it is of the epoch that the next told it.
        let is_known =
            |source: &Source| source.of == next && source.complete && source.epoch == watched_epoch;
        let asked: Vec<(SocketAddrV4, SocketAddrV4)> = sources
            .iter()
            .filter(|source| !is_known(source))
            .flat_map(|source| asked.iter().map(|member| (member.addr, source.of.addr)))
            .filter(|(member, of)| member != of)
            .collect();
        absorb.phase = Phase::Fence {
            after,
            left: asked.len(),
            sources,
        };
        for (member, owner) in asked {
            let request = Extension::Fence { owner };
            links::call(self, hub, member, request, None, LinkTag::Fence { owner });
        }
        self.fence_more(hub);
    }

    /// A member before us says what it was told by a dead owner.
    pub(crate) fn fence_told(
        &mut self,
        hub: &mut Hub<Self>,
        from: SocketAddrV4,
        owner: SocketAddrV4,
        told: Result<Reply, LinkError>,
    ) {
        let Some(absorb) = self.absorb() else { return };
        let Phase::Fence { left, sources, .. } = &mut absorb.phase else {
            return;
        };
        *left = left.saturating_sub(1);
        if let Ok(Reply::Fenced {
            epoch: Some(epoch),
            complete,
        }) = told
            && let Some(source) = sources.iter_mut().find(|source| source.of.addr == owner)
        {
            let other = Source {
                epoch,
                complete,
                at: Some(from),
                ..*source
            };
            if other.is_better(source) {
                *source = other;
            }
        }
        self.fence_more(hub);
    }

    fn fence_more(&mut self, hub: &mut Hub<Self>) {
        let Some(absorb) = self.absorb() else { return };
        if let Phase::Fence {
            after,
            left: 0,
            sources,
        } = &mut absorb.phase
        {
            let (after, sources) = (*after, std::mem::take(sources));
            // One that never had copies made has no epoch: a plain member, or one that died while it joined.
            let is_loss = |source: &&Source| !source.complete && source.epoch > 0;
            for source in sources.iter().filter(is_loss) {
                log::warn!("nobody has all entries of {}", source.of.addr);
            }
            absorb.phase = Phase::Fetch { after, sources };
            self.fetch_next(hub);
        }
    }

    /// Synchronises with the next source, or takes the range.
    fn fetch_next(&mut self, hub: &mut Hub<Self>) {
        let Some(absorb) = self.absorb() else { return };
        let dead = absorb.dead.clone();
        let Phase::Fetch { after, sources } = &mut absorb.phase else {
            return;
        };
        let after = *after;
        while let Some(source) = sources.pop() {
            let Some(at) = source.at else { continue };
            let place = dead.iter().position(|dead| *dead == source.of);
            let end = place
                .and_then(|place| dead.get(place + 1))
                .unwrap_or(&after);
            let (start, end) = (source.of.id, end.id);
            let me = self.me().addr;
            self.start_sync(hub, at, (start, end), (me, 0), Mode::PullOnly);
            return;
        }
        self.take_dead_range(hub, after);
    }

    /// A synchronisation from here on is for the range of a dead owner.
    pub(crate) fn is_fetching(&self, start: Id) -> bool {
        match &self.lock_holder {
            LockHolder::Absorb(absorb) => {
                let fetches = matches!(absorb.phase, Phase::Fetch { .. });
                fetches && absorb.dead.iter().any(|dead| dead.id == start)
            }
            _ => false,
        }
    }

    /// A synchronisation for this is over.
    pub(crate) fn fetched(&mut self, hub: &mut Hub<Self>, done: bool) {
        if !done {
            return self.end_absorb_again(hub, "the entries cannot be fetched");
        }
        self.fetch_next(hub);
    }

    fn take_dead_range(&mut self, hub: &mut Hub<Self>, after: Member) {
        let me = self.me();
        if !self.heartbeat.is_listed(hub.now()) {
            // This node was stopped meanwhile, and may have been taken for dead itself.
            return self.end_absorb_again(hub, "our own place in the ring is not certain");
        }
        let LockHolder::Absorb(absorb) = &self.lock_holder else {
            return;
        };
        for dead in absorb.dead.clone() {
            log::warn!("took the range of {}, which is dead", dead.addr);
            self.holds.drop_owner(dead.addr);
            self.member_dead(hub, dead.addr);
        }
        self.set_next(hub, after);
        if after != me {
            let operation = Operation::update_prev(me.addr, after.addr, self.bounds());
            self.start_bounded(hub, operation, Tag::TellNext);
        }
        self.release_lock(hub);
        self.begin_beats(hub);
    }

    fn end_absorb_again(&mut self, hub: &mut Hub<Self>, why: &str) {
        self.end_absorb(hub, why);
        self.suspect_later(hub);
    }

    fn end_absorb(&mut self, hub: &mut Hub<Self>, why: &str) {
        let Some(absorb) = self.absorb() else { return };
        log::debug!("no range is taken: {why}");
        if let Some(op) = absorb.op.take() {
            client::cancel(self, hub, op);
        }
        self.release_lock(hub);
    }

    /// A connection of a peer is over: if our next sent its heartbeats on it, it may be dead.
    pub(crate) fn watched_conn_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        if self.heartbeat.watch.lost(id) {
            self.suspect_next(hub);
        }
    }
}

/// What came of asking a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It is one; its prev.
    Member(Option<Member>),
    NoMember,
    /// No process listens there.
    Refused,
    /// It closed the connection without an answer.
    Cut,
    Silent,
}

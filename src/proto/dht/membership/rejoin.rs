//! Serves a CONNECT with the id of our next: our next was killed, and joins again at its address while it is still
//! listed here.
//!
//! ```text
//! Probe ──it is no member──▶ After ──who follows it──▶ a hand-off of its range, without entries
//!   └──────── it is a member, or nobody can tell: 0 ───────┘
//! ```
//! This is for a node without copies (`replicas` of 1). With copies the CONNECT waits until our next is found dead and its range is
//! taken ([`super::absorb`]); then the joiner is one as all others.
//!
//! Without copies the entries of the range were in the killed node alone, and it recovers them from its own
//! disk (see [`crate::proto::dht::storage::recovered_entries`]). If this node took the range meanwhile, readers would hear that
//! acknowledged entries do not exist. So the joiner is treated as if this node owned the range, and for all other nodes
//! the range stays out of reach until the joiner has sent its address.
//!
//! A forged CONNECT takes nothing from a living member, because our next itself is asked (see
//! [`crate::proto::dht::rpc::failure_detector`]). The joiner may listen at that address already: a node of ours says that it is no member
//! while it joins. A plain joiner is silent there, and so is a member that is stuck; silence counts as proof only
//! when the CONNECT comes from our next's own IP.
//!
//! The node that follows a dead one is found backwards. The first node that we know beyond the dead one names the node
//! before itself, that one names its own, and so on up to one that names the dead node. It is asked by XSTAT; a
//! plain peer is asked LOCATE of its id less one, to which it answers its prev. Any other answer ends in `0`: a joiner
//! that is told a wrong next would serve the range of a living node, whose entries could not be found any more. So this does
//! not get over two dead nodes in a row, or over a dead node before a plain peer that does not count its prev among the
//! nodes that it knows.

use crate::engine::{ConnId, Cx, Hub, Ticks, TimerId};

use super::address_policy;
use super::lock::ParkedRequest;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Expect, LockHolder, Note, Tag, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::client::{self, OpId};
use crate::proto::dht::rpc::failure_detector::Verdict;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};
use crate::proto::dht::wire::{Form, Request};

/// The walk to the node behind a dead one takes a few round trips. The joiner waits meanwhile.
const WALK_WITHIN: Ticks = Ticks::from_secs(5);

/// Nodes between the dead one and the first that we know beyond it: fingers double, so a few.
const STEPS_MAX: u32 = 64;

#[derive(Debug)]
pub(crate) struct Rejoin {
    /// The joiner's connection.
    conn: ConnId,
    /// It comes from next's own IP.
    own_ip: bool,
    phase: Phase,
    steps: u32,
    /// So many of the nodes that we know ourselves were not there.
    skipped: usize,
    op: Option<OpId>,
    timer: Option<TimerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Probe,
    /// This one is asked for the node before it.
    After {
        candidate: Member,
        /// Asked by LOCATE, as it does not know XSTAT.
        plain: bool,
    },
    /// The joiner will be before this one.
    Found {
        after: Member,
    },
}

impl DhtNode {
    /// `joiner` is the id of our next.
    #[must_use]
    pub(crate) fn begin_rejoin(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        joiner: Id,
        form: Form,
    ) -> bool {
        let next = self.routing.next();
        if self.routing.is_alone() || next.id != joiner {
            return false;
        }
        let conn = cx.id();
        if self.copies.is_on() {
            // If it is dead its range is taken, and then the joiner is one as all others.
            self.suspect_next(cx);
            return self.park_connect(cx, expect, joiner, form);
        }
        let (request, until) = (Request::Connect(joiner, form), cx.now());
        *expect = Expect::Lock(Box::new(ParkedRequest { request, until }));
        self.lock_holder = LockHolder::Rejoin(Rejoin {
            conn,
            own_ip: cx.peer_v4().ip() == next.addr.ip(),
            phase: Phase::Probe,
            steps: 0,
            skipped: 0,
            op: None,
            timer: None,
        });
        self.probe_next(cx, conn);
        true
    }

    fn rejoin(&mut self) -> Option<&mut Rejoin> {
        match &mut self.lock_holder {
            LockHolder::Rejoin(rejoin) => Some(rejoin),
            _ => None,
        }
    }

    pub(crate) fn rejoin_probed(&mut self, hub: &mut Hub<Self>, verdict: Verdict) {
        let Some(rejoin) = self.rejoin() else { return };
        let dead = match verdict {
            Verdict::Member | Verdict::Unknown => false,
            Verdict::NoMember => true,
            Verdict::Dead { silent } => !silent || rejoin.own_ip,
        };
        if !dead {
            return self.end_rejoin(hub, "it is there");
        }
        rejoin.timer = hub.arm(WALK_WITHIN, Timer::Rejoin);
        if rejoin.timer.is_none() {
            return self.end_rejoin(hub, "no timer is to be had");
        }
        self.ask_first_candidate(hub);
    }

    /// The first node that we know beyond the dead one, less those that were not there.
    fn ask_first_candidate(&mut self, hub: &mut Hub<Self>) {
        let (me, next) = (self.me(), self.routing.next());
        let before = self.routing.last_prev();
        let prev = before.filter(|prev| *prev != next);
        let known: Vec<Member> = self.routing.fingers().iter().copied().chain(prev).collect();
        let Some(rejoin) = self.rejoin() else { return };
        match known.get(rejoin.skipped) {
            Some(candidate) => self.ask_candidate(hub, *candidate),
            // It is before us as well: a ring of two.
            None if known.is_empty() && before == Some(next) => self.found_after(hub, me),
            None => self.end_rejoin(hub, "nobody that we know is there"),
        }
    }

    fn ask_candidate(&mut self, hub: &mut Hub<Self>, candidate: Member) {
        let Some(rejoin) = self.rejoin() else { return };
        rejoin.steps += 1;
        if rejoin.steps > STEPS_MAX {
            return self.end_rejoin(hub, "it takes too many steps to find who follows it");
        }
        rejoin.phase = Phase::After {
            candidate,
            plain: false,
        };
        self.ask_rejoin(hub, Verb::Stat, candidate.id, candidate);
    }

    fn ask_rejoin(&mut self, hub: &mut Hub<Self>, verb: Verb, key: Id, at: Member) {
        // One connection that breaks is no sign of a plain peer; three are.
        let bounds = Bounds {
            attempts_max: if verb == Verb::Stat { 3 } else { 1 },
            ..self.bounds()
        };
        let operation = Operation::new(verb, key, vec![at.addr], bounds);
        let op = client::start(self, hub, operation, Tag::Rejoin);
        if let Some(rejoin) = self.rejoin() {
            rejoin.op = Some(op);
        }
    }

    pub(crate) fn rejoin_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let Some(rejoin) = self.rejoin() else { return };
        rejoin.op = None;
        match (rejoin.phase, result) {
            // A node that joins has no neighbours yet, and does not know its prev.
            (Phase::After { candidate, .. }, Ok(Outcome::Told(Some(stat))))
                if stat.next == candidate.addr =>
            {
                self.end_rejoin(hub, "somebody joins behind it");
            }
            (Phase::After { .. }, Ok(Outcome::Told(Some(stat)))) => {
                self.candidate_named(hub, stat.prev.map(Member::at));
            }
            (Phase::After { plain: true, .. }, Ok(Outcome::Located(addr))) => {
                self.candidate_named(hub, Some(Member::at(addr)));
            }
            (
                Phase::After {
                    candidate,
                    plain: false,
                },
                Err(Failure::CutOff { .. } | Failure::Malformed { .. }),
            ) => {
                rejoin.phase = Phase::After {
                    candidate,
                    plain: true,
                };
                self.ask_rejoin(hub, Verb::Closest, candidate.id.pred(), candidate);
            }
            // A stale finger, or one out of reach now: the next candidate beyond it leads back to it.
            (Phase::After { .. }, Err(Failure::Unreachable { .. }))
                if rejoin.steps as usize == rejoin.skipped + 1 =>
            {
                rejoin.skipped += 1;
                self.ask_first_candidate(hub);
            }
            (_, result) => self.end_rejoin(hub, format_args!("who follows it? {result:?}")),
        }
    }

    /// The candidate's answer: the node before it.
    fn candidate_named(&mut self, hub: &mut Hub<Self>, before: Option<Member>) {
        let dead = self.routing.next();
        let Some(Rejoin {
            phase: Phase::After { candidate, .. },
            ..
        }) = self.rejoin()
        else {
            return;
        };
        let candidate = *candidate;
        let is_plausible = |m: &Member| {
            let Member { addr, .. } = candidate;
            address_policy::is_plausible(*addr.ip(), m.addr, addr.port())
        };
        match before {
            Some(before) if before == dead => self.found_after(hub, candidate),
            Some(closer) if closer.id.in_arc(dead.id, candidate.id) && is_plausible(&closer) => {
                self.ask_candidate(hub, closer);
            }
            _ => self.end_rejoin(
                hub,
                format_args!("{} does not know who is before it", candidate.addr),
            ),
        }
    }

    /// `after` follows the dead node. The joiner itself sends it UPDATE_PREV.
    fn found_after(&mut self, hub: &mut Hub<Self>, after: Member) {
        let Some(rejoin) = self.rejoin() else { return };
        rejoin.phase = Phase::Found { after };
        let conn = rejoin.conn;
        hub.notify(conn, Note::Go);
    }

    /// The next of the joiner on this connection, once it is found; that ends the search.
    pub(crate) fn take_after(&mut self, hub: &mut Hub<Self>, conn: ConnId) -> Option<Member> {
        let rejoin = self.rejoin().filter(|rejoin| rejoin.conn == conn)?;
        let Phase::Found { after } = rejoin.phase else {
            return None;
        };
        self.drop_rejoin(hub);
        self.lock_holder = LockHolder::Nobody;
        Some(after)
    }

    /// The walk takes too long.
    pub(crate) fn rejoin_late(&mut self, hub: &mut Hub<Self>) {
        let Some(rejoin) = self.rejoin() else { return };
        rejoin.timer = None;
        let op = rejoin.op.take();
        let is_found = matches!(rejoin.phase, Phase::Found { .. });
        if let Some(op) = op {
            client::cancel(self, hub, op);
        }
        if !is_found {
            self.end_rejoin(hub, "it takes too long to find who follows it");
        }
    }

    /// The joiner's connection is over.
    pub(crate) fn rejoin_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        if self.rejoin().is_some_and(|rejoin| rejoin.conn == id) {
            self.end_rejoin(hub, "the joiner is gone");
        }
    }

    fn end_rejoin(&mut self, hub: &mut Hub<Self>, why: impl std::fmt::Display) {
        let Some(rejoin) = self.rejoin() else { return };
        let conn = rejoin.conn;
        log::info!("a CONNECT with the id of our next is refused: {why}");
        hub.notify(conn, Note::Refused);
        self.drop_rejoin(hub);
        self.release_lock(hub);
    }

    fn drop_rejoin(&mut self, hub: &mut Hub<Self>) {
        self.end_probe(hub);
        let Some(rejoin) = self.rejoin() else { return };
        let (op, timer) = (rejoin.op.take(), rejoin.timer.take());
        if let Some(op) = op {
            client::cancel(self, hub, op);
        }
        if let Some(timer) = timer {
            hub.cancel(timer);
        }
    }
}

//! Is our next still a member? Asked before its range is taken from it on somebody else's word.
//!
//! Two rounds of the ring's protocol need it: a DISCONNECT that does not come from next's own address (RELIABILITY.md
//! A11) and a CONNECT with next's id (A22). Nothing that a stranger says decides: next is asked at the address that
//! its id is the hash of. First by XSTAT, to which a node of ours says `0` as long as it is no member, or when it
//! gives its range away; a plain peer closes and is asked LOCATE of its own id, which a member answers with
//! itself.
//!
//! At most one probe at a time, as there is one transfer at a time.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, Hub, Ticks, TimerId};

use super::client::{self, OpId};
use super::node::{DhtNode, LockHolder, Role, Tag, Timer};
use super::operation::{Bounds, Failure, Operation, Outcome, Verb};
use super::routing::Member;

/// RELIABILITY.md A14: asked every 2 s, three misses.
const PROBE_EVERY: Ticks = Ticks::from_secs(2);
const MISSES_MAX: u32 = 3;

#[derive(Debug)]
pub(super) struct Probe {
    /// Who waits for what comes of it.
    conn: ConnId,
    of: Member,
    /// XSTAT ended without a word.
    plain: bool,
    op: Option<OpId>,
    /// The end of this round.
    timer: Option<TimerId>,
    misses: u32,
    silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It says that it is a member.
    Member,
    /// It says that it is none, or soon will be none.
    NoMember,
    /// It could not be asked, three times. `silent`: somebody took the connection and did not answer, which a plain
    /// joiner does, and so does a member that is stuck.
    Dead { silent: bool },
}

impl DhtNode {
    /// A node is gone. Where it was our prev, who is farther is right.
    pub(super) fn member_failed(&mut self, addr: SocketAddrV4) {
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

    /// Others may count on this node, and it does not give its range away: the answer to XSTAT, which tells them whether
    /// it is there.
    pub(super) fn stands(&self) -> bool {
        match &self.role {
            Role::Member => true,
            Role::Joining(join) => join.is_perhaps_member(),
            Role::Leaving(leave) => !leave.is_handing_over(),
            Role::Gone(_) => false,
        }
    }

    /// Begins to ask our next for `conn`; [`DhtNode::probed`] tells.
    pub(super) fn probe_next(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        self.end_probe(hub);
        self.probe = Some(Probe {
            conn,
            of: self.routing.next(),
            plain: false,
            op: None,
            timer: None,
            misses: 0,
            silent: false,
        });
        self.ask_probe(hub);
    }

    fn ask_probe(&mut self, hub: &mut Hub<Self>) {
        let bounds = Bounds {
            attempts_max: 1,
            ..self.bounds()
        };
        let Some(probe) = &mut self.probe else { return };
        if let Some(timer) = probe.timer.take() {
            hub.cancel(timer);
        }
        probe.timer = hub.arm(PROBE_EVERY, Timer::Probe);
        let verb = if probe.plain {
            Verb::Closest
        } else {
            Verb::Stat
        };
        let of = probe.of;
        let operation = Operation::new(verb, of.id, vec![of.addr], bounds);
        let op = client::start(self, hub, operation, Tag::Probe);
        if let Some(probe) = &mut self.probe {
            probe.op = Some(op);
        }
    }

    pub(super) fn probe_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let Some(probe) = &mut self.probe else { return };
        probe.op = None;
        let verdict = match result {
            Ok(Outcome::Told(Some(_))) => Verdict::Member,
            Ok(Outcome::Told(None)) => Verdict::NoMember,
            Ok(Outcome::Located(addr)) if addr == probe.of.addr => Verdict::Member,
            Ok(_) => Verdict::NoMember,
            Err(Failure::CutOff { .. } | Failure::Malformed { .. }) if !probe.plain => {
                probe.plain = true;
                return self.ask_probe(hub);
            }
            Err(failure) => {
                probe.silent |= !matches!(failure, Failure::Unreachable { .. });
                probe.misses += 1;
                if probe.misses < MISSES_MAX {
                    // The next round begins with the timer.
                    return;
                }
                let silent = probe.silent;
                Verdict::Dead { silent }
            }
        };
        self.probe_over(hub, verdict);
    }

    /// The time of a round is over.
    pub(super) fn probe_late(&mut self, hub: &mut Hub<Self>) {
        let Some(probe) = &mut self.probe else { return };
        probe.timer = None;
        if let Some(op) = probe.op.take() {
            client::cancel(self, hub, op);
            let Some(probe) = &mut self.probe else { return };
            probe.silent = true;
            probe.misses += 1;
            if probe.misses >= MISSES_MAX {
                return self.probe_over(hub, Verdict::Dead { silent: true });
            }
        }
        self.ask_probe(hub);
    }

    fn probe_over(&mut self, hub: &mut Hub<Self>, verdict: Verdict) {
        let Some(probe) = &self.probe else { return };
        let (conn, of) = (probe.conn, probe.of);
        self.end_probe(hub);
        log::info!("{} is asked whether it is a member: {verdict:?}", of.addr);
        match self.lock_holder {
            LockHolder::Disconnect(_) => self.leaver_probed(hub, conn, verdict),
            LockHolder::Rejoin(_) => self.rejoin_probed(hub, verdict),
            _ => {}
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn end_probe(&mut self, hub: &mut Hub<Self>) {
        if let Some(probe) = self.probe.take() {
            if let Some(op) = probe.op {
                client::cancel(self, hub, op);
            }
            if let Some(timer) = probe.timer {
                hub.cancel(timer);
            }
        }
    }
}

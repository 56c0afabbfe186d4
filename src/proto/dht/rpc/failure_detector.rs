//! Dead members: how one is noticed, and what follows.
//!
//! | dead | noticed by | what follows |
//! |---|---|---|
//! | a finger | a look-up that cannot reach it | it is dropped ([`DhtNode::member_failed`]); look-ups go round it |
//! | our prev | a look-up, or a farther claim (`predecessor`) | it is dropped; the closest other claimant takes its place |
//! | our next, with copies | its heartbeats, which stop, or their connection, which ends | its range is taken (`absorb`) |
//! | our next, without | its CONNECT, when it comes back | until then its range is out of reach (`rejoin`) |
//!
//! Our next is probed before its range is taken from it because of another connection: a DISCONNECT that does not come from
//! our next's own IP, or a CONNECT with our next's id. The probe goes to the address whose hash is the id. XSTAT is sent
//! first, which a node of ours answers with `0` while it is no member or gives its range away. A plain peer closes upon XSTAT;
//! it is then sent LOCATE of its own id, which a member answers with itself.
//!
//! At most one probe runs at a time, as one change of membership does.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, Hub, Ticks, TimerId};

use super::client::{self, OpId};
use super::operation::{Failure, Operation, Outcome, Verb};
use crate::proto::dht::node::{DhtNode, LockHolder, Role, Tag, Timer};
use crate::proto::dht::routing::Member;

/// A dead member is noticed within six seconds; one that is slow has three chances.
const PROBE_EVERY: Ticks = Ticks::from_secs(2);
const MISSES_MAX: u32 = 3;

#[derive(Debug)]
pub(crate) struct Probe {
    /// The connection that waits for the verdict.
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
pub(crate) enum Verdict {
    /// It says that it is a member.
    Member,
    /// It says that it is none, or will soon be none.
    NoMember,
    /// It could not be asked, three times. `silent`: a connection was taken and not answered. So does a plain joiner, and
    /// so does a member that is stuck.
    Dead { silent: bool },
    /// There is no timer to ask it with.
    Unknown,
}

impl DhtNode {
    /// A node is dead. If it was our prev, the closest of the farther claimants takes its place.
    pub(crate) fn member_failed(&mut self, addr: SocketAddrV4) {
        let before = self.routing.prev();
        self.routing.forget(addr);
        if before != self.routing.prev()
            && let Some(claimant) = self
                .claims
                .tentative
                .take_if(|claimant| claimant.addr != addr)
        {
            self.routing.set_prev(claimant);
        }
    }

    /// This node owns a range and does not give it away. XSTAT is answered with `0` otherwise.
    pub(crate) fn is_settled_member(&self) -> bool {
        match &self.role {
            Role::Member => true,
            Role::Joining(join) => join.is_perhaps_member(),
            Role::Leaving(leave) => !leave.is_handing_over(),
            Role::Gone(_) => false,
        }
    }

    /// Begins to probe our next for `conn`, which is told the verdict.
    pub(crate) fn probe_next(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
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
        let bounds = self.bounds_once();
        let Some(probe) = &mut self.probe else { return };
        if let Some(timer) = probe.timer.take() {
            hub.cancel(timer);
        }
        let timer = hub.arm(PROBE_EVERY, Timer::Probe);
        probe.timer = timer;
        if timer.is_none() {
            return self.probe_over(hub, Verdict::Unknown);
        }
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

    pub(crate) fn probe_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
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
    pub(crate) fn probe_late(&mut self, hub: &mut Hub<Self>) {
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

    /// The connection that waited is gone.
    pub(crate) fn end_probe(&mut self, hub: &mut Hub<Self>) {
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

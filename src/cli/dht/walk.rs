//! A walk around a ring, and what it found of every member.
//!
//! The walk goes backwards: the predecessor of a member is the owner of the key just below the member's id. So it needs
//! LOCATE only, which plain peers have. Members with XSTAT also tell their entries and neighbours.

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::client::Task;
use peerloop::proto::dht::rpc::operation::{Bounds, Failure, Outcome, Verb};
use peerloop::proto::dht::rpc::stat::Stat;

use super::run_tasks;
use crate::cli::print;

/// A walk that does not come back to its start ends here. More members cannot be walked in a minute.
const MEMBERS_MAX: usize = 20_000;

/// Tries of the operations that the walk depends on.
const TRIES: u32 = 5;

/// What was found.
#[derive(Serialize)]
pub(super) struct Walk {
    /// Clockwise, beginning with the member that the walk began at.
    pub(super) members: Vec<Found>,
    /// The walk came back to its start.
    closed: bool,
    /// What is wrong with the ring as a whole.
    problems: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Found {
    pub(super) addr: SocketAddrV4,
    id: String,
    /// The first digits of the id in base 16.
    pub(super) id_short: String,
    /// Place on the ring, from 0 to 1.
    pub(super) place: f64,
    /// Of the key space, from its id to the next member's.
    pub(super) share_percent: f64,
    /// By XSTAT.
    pub(super) entries: Option<u64>,
    value_bytes: Option<u64>,
    next_told: Option<SocketAddrV4>,
    prev_told: Option<SocketAddrV4>,
    pub(super) problems: Vec<String>,
}

/// Walks the ring that `contact` is in. A member that is silent for `timeout_secs` is given up.
pub(super) fn walk(contact: SocketAddrV4, timeout_secs: u64) -> Result<Walk> {
    let patience = Ticks::from_secs(timeout_secs);
    Walker { patience }.walk(contact)
}

struct Walker {
    patience: Ticks,
}

type Answers = Vec<Option<Result<Outcome, Failure>>>;

impl Walker {
    fn ask(&self, at: SocketAddrV4, tasks: Vec<Task>, attempts_max: u32) -> Result<Answers> {
        let bounds = Bounds {
            attempts_max,
            ..Bounds::default()
        };
        let limits = Limits {
            idle: self.patience,
            dial: self.patience,
            ..Limits::default()
        };
        let at_once = tasks.len();
        run_tasks(at, tasks, bounds, limits, at_once)
    }

    fn walk(&self, contact: SocketAddrV4) -> Result<Walk> {
        // The contact may advertise another address than the one given; the ring's counts.
        let key = Id::of_addr(contact);
        let verb = Verb::Locate;
        let start = match self.ask(contact, vec![Task { verb, key }], TRIES)?.pop() {
            Some(Some(Ok(Outcome::Located(start)))) => start,
            Some(Some(Err(failure))) => return Err(failure).context("--node"),
            other => bail!("LOCATE came to {other:?}"),
        };
        let (mut members, mut problems, mut at) = (Vec::new(), Vec::new(), start);
        let closed = loop {
            let (member, before) = self.visit(at, contact)?;
            members.push(member);
            match before {
                Ok(before) if before == start => break true,
                Ok(before) if members.iter().any(|member| member.addr == before) => {
                    problems.push(format!(
                        "the walk does not close: before {at} comes {before} again"
                    ));
                    break false;
                }
                Ok(before) => at = before,
                Err(why) => {
                    problems.push(format!("the walk ends at {at}: {why}"));
                    break false;
                }
            }
            if members.len() == MEMBERS_MAX {
                problems.push(format!("the walk is not back after {MEMBERS_MAX} members"));
                break false;
            }
        };
        // Found counter-clockwise, from the start on.
        members[1..].reverse();
        let mut walk = Walk {
            members,
            closed,
            problems,
        };
        walk.compare();
        Ok(walk)
    }

    /// Asks a member about itself and for its predecessor, or why that is not known.
    fn visit(
        &self,
        at: SocketAddrV4,
        contact: SocketAddrV4,
    ) -> Result<(Found, Result<SocketAddrV4, String>)> {
        let id = Id::of_addr(at);
        let task = |verb, key| Task { verb, key };
        let (own, stat) = (task(Verb::Closest, id), task(Verb::Stat, id));
        let before = task(Verb::Locate, id.pred());
        let answers = self.ask(at, vec![own, stat, before.clone()], 1)?;
        let [own, stat, before_it] = <[_; 3]>::try_from(answers).map_err(|_| interrupted())?;
        let mut problems = Vec::new();
        match own.with_context(interrupted)? {
            Ok(Outcome::Located(addr)) if addr == at => {}
            Ok(Outcome::Located(addr)) => {
                problems.push(format!("does not locate itself: it says {addr}"));
            }
            Ok(other) => problems.push(format!("answers LOCATE with {other:?}")),
            Err(failure) => problems.push(format!("does not answer: {failure}")),
        }
        let stat = match stat {
            Some(Ok(Outcome::Told(stat))) => stat,
            // A plain peer closes the connection; or the member is down.
            _ => None,
        };
        let mut before_it = before_it.with_context(interrupted)?;
        if !matches!(before_it, Ok(Outcome::Located(_))) {
            // Another member may know the predecessor.
            let again = self.ask(contact, vec![before], TRIES)?.pop().flatten();
            before_it = again.with_context(interrupted)?;
        }
        let before = match before_it {
            Ok(Outcome::Located(addr)) => Ok(addr),
            Ok(other) => Err(format!("LOCATE came to {other:?}")),
            Err(failure) => {
                problems.push(format!("the member before it cannot be located: {failure}"));
                next_best(stat, &failure, at).ok_or(failure.to_string())
            }
        };
        Ok((Found::new(at, stat, problems), before))
    }
}

/// The predecessor of `at` when the ring cannot locate it: the one that `at` tells, or else the member that did not
/// answer.
fn next_best(stat: Option<Stat>, failure: &Failure, at: SocketAddrV4) -> Option<SocketAddrV4> {
    let silent = match failure {
        Failure::Unreachable { addr, .. } | Failure::TimedOut { addr } => Some(*addr),
        _ => None,
    };
    stat.and_then(|stat| stat.prev)
        .or(silent)
        .filter(|addr| *addr != at)
}

fn interrupted() -> anyhow::Error {
    anyhow::anyhow!("interrupted")
}

impl Found {
    fn new(addr: SocketAddrV4, stat: Option<Stat>, problems: Vec<String>) -> Found {
        let id = Id::of_addr(addr);
        let bytes = id.to_be_bytes();
        Found {
            addr,
            id: id.to_string(),
            id_short: print::hex(&bytes[..4]),
            place: fraction(id),
            share_percent: 100.0,
            entries: stat.map(|stat| stat.entries),
            value_bytes: stat.map(|stat| stat.value_bytes),
            next_told: stat.map(|stat| stat.next),
            prev_told: stat.and_then(|stat| stat.prev),
            problems,
        }
    }
}

/// Position on the ring, from 0 to 1.
fn fraction(id: Id) -> f64 {
    let bytes = id.to_be_bytes();
    let (head, _) = bytes.split_at(8);
    let head = head
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    head as f64 / 2_f64.powi(64)
}

impl Walk {
    pub(super) fn is_consistent(&self) -> bool {
        self.problems.is_empty() && self.members.iter().all(|member| member.problems.is_empty())
    }

    /// Compares each member with its successor.
    fn compare(&mut self) {
        let addrs: Vec<_> = self.members.iter().map(|member| member.addr).collect();
        for (number, member) in self.members.iter_mut().enumerate() {
            let next = addrs[(number + 1) % addrs.len()];
            if next != member.addr {
                let share = Id::of_addr(member.addr).distance_to(Id::of_addr(next));
                member.share_percent = fraction(share) * 100.0;
            }
            if let Some(told) = member.next_told
                && told != next
                && self.closed
            {
                member
                    .problems
                    .push(format!("says that {told} comes next, and not {next}"));
            }
        }
    }
}

impl std::fmt::Display for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<8}  {:<21}  {:>7}  {:>9}",
            "id", "member", "share", "entries"
        )?;
        for member in &self.members {
            let entries = member
                .entries
                .map_or("unknown".into(), |entries| entries.to_string());
            let mut line = String::new();
            for problem in &member.problems {
                write!(line, "  ! {problem}")?;
            }
            writeln!(
                f,
                "{}  {:<21}  {:>6.2}%  {:>9}{line}",
                member.id_short, member.addr, member.share_percent, entries
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "! {problem}")?;
        }
        let entries: u64 = self
            .members
            .iter()
            .filter_map(|member| member.entries)
            .sum();
        let state = if self.is_consistent() {
            "consistent"
        } else {
            "INCONSISTENT"
        };
        writeln!(
            f,
            "{} members, {entries} entries told of, {state}",
            self.members.len()
        )
    }
}

//! One node is asked: about itself, and the ring about it.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::client::Task;
use peerloop::proto::dht::rpc::operation::{Bounds, Failure, Outcome, Verb};
use peerloop::proto::dht::rpc::stat::Stat;

use crate::cli::dht::run_tasks;

/// Tries of an operation that the walk depends on.
const TRIES: u32 = 5;

/// Tries at a node that is visited: one connection that breaks says nothing.
const VISIT_TRIES: u32 = 2;

/// What a node is, as far as it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli::dht) enum Kind {
    /// It answers XSTAT.
    Member,
    /// It answers LOCATE, and does not know XSTAT. Only its address is known.
    Plain,
    /// It answers XSTAT with `0`: it has not joined yet, or gives its range away.
    NoMember,
    /// It does not answer.
    Silent,
}

/// What a node answered to XSTAT.
pub(super) enum Told {
    Stat(Stat),
    Plain,
    NoMember,
    Silent,
}

/// What was learned of a node.
pub(super) struct Visit {
    pub(super) addr: SocketAddrV4,
    pub(super) told: Told,
    /// The owner of the key just below its id: the member before it, as the ring sees it.
    pub(super) before: Option<SocketAddrV4>,
    /// Whom that member names as the owner of the id itself: its next.
    pub(super) after_before: Option<SocketAddrV4>,
    /// Why it is not known who is before it.
    pub(super) no_before: Option<String>,
    pub(super) problems: Vec<String>,
}

impl Visit {
    /// A node that was named and not visited.
    pub(super) fn unvisited(addr: SocketAddrV4) -> Visit {
        Visit {
            addr,
            told: Told::Silent,
            before: None,
            after_before: None,
            no_before: None,
            problems: Vec::new(),
        }
    }

    pub(super) fn stat(&self) -> Option<&Stat> {
        match &self.told {
            Told::Stat(stat) => Some(stat),
            Told::Plain | Told::NoMember | Told::Silent => None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.told {
            Told::Stat(_) => Kind::Member,
            Told::Plain => Kind::Plain,
            Told::NoMember => Kind::NoMember,
            Told::Silent => Kind::Silent,
        }
    }

    /// It owns a range: that which it says.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.told, Told::Stat(_) | Told::Plain)
    }

    /// Its neighbours, as it names them and as the ring does.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        let told = self.stat().into_iter();
        let told = told.flat_map(|stat| [Some(stat.next), stat.prev]);
        told.chain([self.before, self.after_before]).flatten()
    }

    /// Everybody that it names.
    pub(super) fn named(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.neighbours().chain(self.listed())
    }

    /// The successors and holders that it lists.
    pub(super) fn listed(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.stat().into_iter().flat_map(|stat| {
            let holders = stat.holders.iter().map(|holder| holder.addr);
            stat.successors.iter().copied().chain(holders)
        })
    }
}

/// Asks the nodes of a ring.
pub(super) struct Visitor {
    /// Asked when a node cannot tell who is before it.
    pub(super) contact: SocketAddrV4,
    pub(super) patience: Ticks,
}

type Answer = Result<Outcome, Failure>;

impl Visitor {
    /// The node to begin at, and what is wrong with the contact. The contact may advertise another address than the one given;
    /// the ring's counts.
    pub(super) fn start(&self) -> Result<(SocketAddrV4, Vec<String>)> {
        let Visitor { contact, .. } = *self;
        let key = Id::of_addr(contact);
        let [stat] = self.ask(
            contact,
            [Task {
                verb: Verb::Stat,
                key,
            }],
            VISIT_TRIES,
        )?;
        let is_no_member = stat == Ok(Outcome::Told(None));
        let problem = format!(
            "{contact}, which was asked, is no member: it has not joined, or it gives its range away"
        );
        let problems = Vec::from_iter(is_no_member.then_some(problem));
        let verb = Verb::Locate;
        let [start] = self.ask(contact, [Task { verb, key }], TRIES)?;
        match start {
            Ok(Outcome::Located(start)) => Ok((start, problems)),
            _ if is_no_member => Ok((contact, problems)),
            Ok(other) => bail!("LOCATE came to {other:?}"),
            Err(failure) => Err(failure).context("--node"),
        }
    }

    /// Asks a node.
    pub(super) fn visit(&self, addr: SocketAddrV4) -> Result<Visit> {
        let id = Id::of_addr(addr);
        let task = |verb, key| Task { verb, key };
        let around = task(Verb::After, id.pred());
        let tasks = [
            task(Verb::Closest, id),
            task(Verb::Stat, id),
            around.clone(),
        ];
        let [own, stat, mut before] = self.ask(addr, tasks, VISIT_TRIES)?;
        let (told, mut problems) = (judged(&own, stat), Vec::new());
        match own {
            _ if matches!(told, Told::NoMember) => problems
                .push("is no member: it has not joined yet, or it gives its range away".into()),
            Ok(Outcome::Located(to)) if to == addr => {}
            Ok(Outcome::Located(to)) => {
                problems.push(format!("does not locate itself: it says {to}"));
            }
            Ok(other) => problems.push(format!("answers LOCATE with {other:?}")),
            Err(failure) => problems.push(format!("does not answer: {failure}")),
        }
        let is_known = matches!(before, Ok(Outcome::After { .. }));
        let is_in_no_ring = addr == self.contact && matches!(told, Told::NoMember);
        if !is_known && !is_in_no_ring {
            // Another member may know.
            [before] = self.ask(self.contact, [around], TRIES)?;
        }
        let mut visit = Visit {
            told,
            problems,
            ..Visit::unvisited(addr)
        };
        visit.set_before(before);
        Ok(visit)
    }

    /// Runs the tasks at once.
    fn ask<const N: usize>(
        &self,
        at: SocketAddrV4,
        tasks: [Task; N],
        attempts_max: u32,
    ) -> Result<[Answer; N]> {
        let bounds = Bounds {
            attempts_max,
            ..Bounds::default()
        };
        let limits = Limits {
            idle: self.patience,
            dial: self.patience,
            ..Limits::default()
        };
        let answers = run_tasks(at, tasks.into(), bounds, limits, N)?;
        let answers: Option<Vec<_>> = answers.into_iter().collect();
        let answers = answers.and_then(|answers| answers.try_into().ok());
        answers.context("interrupted")
    }
}

/// What a node is, by its answers to LOCATE of its own id and to XSTAT.
fn judged(own: &Answer, stat: Answer) -> Told {
    match (stat, own) {
        (Ok(Outcome::Told(Some(stat))), _) => Told::Stat(stat),
        (Ok(Outcome::Told(None)), _) => Told::NoMember,
        // A plain peer closes the connection, or waits for a word that it knows.
        (_, Ok(_)) => Told::Plain,
        (_, Err(_)) => Told::Silent,
    }
}

impl Visit {
    fn set_before(&mut self, answer: Answer) {
        let failure = match answer {
            Ok(Outcome::After { before, owner }) => {
                self.before = Some(before);
                self.after_before = Some(owner);
                return;
            }
            Ok(other) => return self.no_before = Some(format!("LOCATE came to {other:?}")),
            Err(failure) => failure,
        };
        // Then it is the one that the node names, or else the member that did not answer.
        let silent = match failure {
            Failure::Unreachable { addr, .. } | Failure::TimedOut { addr } => Some(addr),
            _ => None,
        };
        let told = self.stat().and_then(|stat| stat.prev);
        self.before = told.or(silent).filter(|before| *before != self.addr);
        self.no_before = Some(failure.to_string());
        if self.is_member() {
            let problem = format!("is behind a member that cannot be located: {failure}");
            self.problems.push(problem);
        }
    }
}

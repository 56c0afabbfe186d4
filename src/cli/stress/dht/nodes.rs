//! The nodes of a DHT on loopback: in this process, or each in one of its own.
//!
//! In this process a node is a reactor on a thread of its own, the same code and the same sockets as `dht node`.
//! That is the default: it starts in a millisecond and costs a thread, so tens of nodes and many joins a second fit a
//! small machine. Processes also test signals, start and exit.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::rpc::client::Task;
use peerloop::proto::dht::rpc::operation::{Bounds, Outcome, Verb};
use peerloop::proto::dht::storage::entries::Entries;

use crate::cli::background::{Background, LOOPBACK, Program, pause};
use crate::cli::dht;

/// Members that a joiner is told of: some may be leaving.
const CONTACTS_MAX: usize = 3;

/// Longest join or leave: a node that leaves gives up after 30 s.
const SETTLE_WITHIN: Duration = Duration::from_secs(35);

/// How long a node may take to say whether it is a member, when it is next asked.
const SAYS_WITHIN: Ticks = Ticks::from_millis(500);

/// A node that we started. It ends when this value is dropped, without a DISCONNECT.
struct Node {
    addr: SocketAddrV4,
    body: Body,
    /// The members that it was told of.
    contacts: Vec<SocketAddrV4>,
}

enum Body {
    /// `None` once it has ended.
    Thread(Option<Background<DhtNode, ()>>),
    Process(Program),
}

/// How the nodes of a run are started.
pub(in crate::cli) struct Setup {
    pub(in crate::cli) body: BodyKind,
    /// Members that have each entry.
    pub(in crate::cli) replicas: u8,
}

pub(in crate::cli) enum BodyKind {
    Threads,
    Processes,
    /// Processes that keep their entries on disk, each in a folder of its own in this one.
    Durable(TempDir),
}

impl Node {
    /// `number`: of all nodes of the run.
    fn start(setup: &Setup, number: u32, contacts: Vec<SocketAddrV4>) -> Result<Node> {
        let data = match &setup.body {
            BodyKind::Durable(folder) => Some(folder.path().join(number.to_string())),
            BodyKind::Processes | BodyKind::Threads => None,
        };
        let (addr, body) = if matches!(setup.body, BodyKind::Threads) {
            let (addr, thread) = Node::thread(setup.replicas, contacts.clone())?;
            (addr, Body::Thread(Some(thread)))
        } else {
            let program = Node::process(setup.replicas, data.as_deref(), &contacts)?;
            (program.addr, Body::Process(program))
        };
        Ok(Node {
            addr,
            body,
            contacts,
        })
    }

    fn thread(
        replicas: u8,
        contacts: Vec<SocketAddrV4>,
    ) -> Result<(SocketAddrV4, Background<DhtNode, ()>)> {
        let bound = Bound::bind(LOOPBACK)?;
        let addr = bound.addr();
        let make = move || {
            let config = Config {
                replicas,
                ..Config::new(addr)
            };
            let limits = config.fit(Limits::default());
            let mut reactor = Reactor::new(DhtNode::new(config, Entries::default()), limits)?;
            reactor.accept_from(bound)?;
            if !contacts.is_empty() {
                reactor.node().with(|node, hub| node.join(hub, contacts));
            }
            Ok(reactor)
        };
        let end = move |node: DhtNode| {
            ensure!(!node.join_failed(), "the ring did not let {addr} join");
            Ok(())
        };
        let name = format!("node {}", addr.port());
        Ok((addr, Background::start(&name, make, end)?))
    }

    fn process(replicas: u8, data: Option<&Path>, contacts: &[SocketAddrV4]) -> Result<Program> {
        let mut command = Program::command()?;
        command.args(["dht", "node", "--listen", "127.0.0.1:0"]);
        command.args(["--replicas", &replicas.to_string()]);
        if let Some(data) = data {
            command.arg("--data").arg(data);
        }
        for contact in contacts {
            command.arg("--join").arg(contact.to_string());
        }
        // Without the warning that entries are in memory only.
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "error");
        }
        Program::start(&mut command)
    }

    /// Asks it to leave, as SIGTERM does.
    fn leave(&mut self) -> Result<()> {
        match &self.body {
            Body::Thread(thread) => thread.iter().for_each(Background::shutdown),
            Body::Process(program) => kill_process(Pid::from_child(&program.child), Signal::TERM)?,
        }
        Ok(())
    }

    /// It is gone at once, as by a crash: `kill -9` of a process.
    fn kill(&mut self) -> Result<()> {
        match &mut self.body {
            Body::Thread(thread) => thread.iter().for_each(Background::kill),
            Body::Process(program) => program.child.kill()?,
        }
        Ok(())
    }

    /// Whether it has ended; an error when it failed.
    fn has_ended(&mut self) -> Result<bool> {
        match &mut self.body {
            Body::Thread(thread) => match thread.take_if(|thread| thread.has_ended()) {
                Some(thread) => thread.join().map(|()| true),
                None => Ok(thread.is_none()),
            },
            Body::Process(program) => match program.child.try_wait()? {
                Some(status) if !status.success() => bail!("the node's process ended: {status}"),
                status => Ok(status.is_some()),
            },
        }
    }

    /// Whether it answers for its own id: it does so once its join is complete.
    fn is_member(&self) -> bool {
        let task = Task {
            verb: Verb::Closest,
            key: Id::of_addr(self.addr),
        };
        let bounds = Bounds {
            attempts_max: 1,
            ..Bounds::default()
        };
        let limits = Limits {
            idle: SAYS_WITHIN,
            ..Limits::default()
        };
        let results = dht::run_tasks(self.addr, vec![task], bounds, limits, 1);
        results.is_ok_and(|mut results| {
            matches!(results.pop(), Some(Some(Ok(Outcome::Located(addr)))) if addr == self.addr)
        })
    }
}

/// Count and time of joins or leaves.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::cli) struct Tally {
    pub(in crate::cli) done: u32,
    pub(in crate::cli) failed: u32,
    took: Duration,
}

impl Tally {
    fn count(&mut self, since: Instant) {
        self.done += 1;
        self.took += since.elapsed();
    }

    pub(in crate::cli) fn mean_ms(&self) -> f64 {
        self.took.as_secs_f64() * 1000.0 / f64::from(self.done.max(1))
    }
}

/// The nodes of a run. Members first join, are then members, and may leave, or crash.
pub(in crate::cli) struct Nodes {
    setup: Setup,
    started: u32,
    members: Vec<Node>,
    joining: Vec<(Node, Instant)>,
    leaving: Vec<(Node, Instant)>,
    /// Without the nodes that the ring began with.
    pub(in crate::cli) joins: Tally,
    pub(in crate::cli) leaves: Tally,
    /// Members that were killed, and those that ended although nobody told them to.
    pub(super) crashes: usize,
    pub(super) died: usize,
}

impl Drop for Nodes {
    /// All end together. Those that end last may take the others for dead; what they say of it then is of no use.
    fn drop(&mut self) {
        let level = log::max_level();
        log::set_max_level(log::LevelFilter::Off);
        for node in &mut self.members {
            let _ = node.kill();
        }
        self.members.clear();
        log::set_max_level(level);
    }
}

impl Nodes {
    /// A ring of `count`, all of them members.
    pub(in crate::cli) fn start(count: usize, setup: Setup) -> Result<Nodes> {
        let first = Node::start(&setup, 0, Vec::new()).context("cannot start a node")?;
        let mut nodes = Nodes {
            setup,
            started: 1,
            members: vec![first],
            joining: Vec::new(),
            leaving: Vec::new(),
            joins: Tally::default(),
            leaves: Tally::default(),
            crashes: 0,
            died: 0,
        };
        while nodes.members.len() < count {
            nodes.join()?;
            nodes.settle()?;
            ensure!(
                nodes.joins.failed == 0,
                "a node could not join; see the log"
            );
        }
        nodes.joins = Tally::default();
        Ok(nodes)
    }

    pub(in crate::cli) fn members(&self) -> usize {
        self.members.len()
    }

    /// Members and joining nodes.
    pub(in crate::cli) fn len(&self) -> usize {
        self.members.len() + self.joining.len()
    }

    pub(in crate::cli) fn contacts(&self) -> Vec<SocketAddrV4> {
        self.members.iter().map(|node| node.addr).collect()
    }

    /// One more node begins to join, at members drawn at random.
    pub(in crate::cli) fn join(&mut self) -> Result<()> {
        ensure!(!self.members.is_empty(), "no member is left; see the log");
        let contacts: Vec<_> = (0..CONTACTS_MAX.min(self.members.len()))
            .map(|_| self.members[rand::rng().random_range(0..self.members.len())].addr)
            .collect();
        let node = Node::start(&self.setup, self.started, contacts);
        let node = node.context("cannot start a node")?;
        self.started += 1;
        self.joining.push((node, Instant::now()));
        Ok(())
    }

    /// So many members, drawn at random, crash at once; at least one stays.
    pub(super) fn crash(&mut self, count: usize) -> Result<()> {
        let mut dying = Vec::new();
        while dying.len() < count && self.members.len() > 1 {
            let number = rand::rng().random_range(0..self.members.len());
            dying.push(self.members.swap_remove(number));
        }
        self.crashes += dying.len();
        // All of them before the first one is waited for.
        dying.iter_mut().try_for_each(Node::kill)
    }

    /// A member drawn at random begins to leave; false when there is none that could be spared.
    pub(in crate::cli) fn leave(&mut self) -> Result<bool> {
        let spare: Vec<usize> = (0..self.members.len())
            .filter(|number| self.can_spare(*number))
            .collect();
        if spare.is_empty() {
            return Ok(false);
        }
        let number = spare[rand::rng().random_range(0..spare.len())];
        let mut node = self.members.swap_remove(number);
        node.leave()
            .with_context(|| format!("cannot tell {} to leave", node.addr))?;
        self.leaving.push((node, Instant::now()));
        Ok(true)
    }

    /// Whether there is another member, and every joining node knows another one: a node whose contacts have all left
    /// cannot find the ring.
    fn can_spare(&self, number: usize) -> bool {
        let others = || {
            let members = self.members.iter().enumerate();
            members.filter(move |(other, _)| *other != number)
        };
        let knows = |joiner: &Node| others().any(|(_, node)| joiner.contacts.contains(&node.addr));
        others().next().is_some() && self.joining.iter().all(|(joiner, _)| knows(joiner))
    }

    /// Updates who has joined and left; true when that changed.
    pub(in crate::cli) fn look(&mut self) -> bool {
        let before = (self.joining.len(), self.leaving.len(), self.died);
        let (joins, leaves, members) = (&mut self.joins, &mut self.leaves, &mut self.members);
        members.retain_mut(|node| match node.has_ended() {
            Ok(false) => true,
            ended => {
                self.died += 1;
                log::error!("{} is no more: {ended:?}", node.addr);
                false
            }
        });
        for (mut node, since) in std::mem::take(&mut self.joining) {
            match node.has_ended() {
                Err(e) => {
                    joins.failed += 1;
                    log::error!("{}: {e:#}", node.addr);
                }
                Ok(true) => joins.failed += 1,
                Ok(false) if node.is_member() => {
                    joins.count(since);
                    members.push(node);
                }
                Ok(false) => self.joining.push((node, since)),
            }
        }
        self.leaving.retain_mut(|(node, since)| {
            match node.has_ended() {
                Ok(false) => return true,
                Ok(true) => leaves.count(*since),
                Err(e) => {
                    leaves.failed += 1;
                    log::error!("{}: {e:#}", node.addr);
                }
            }
            false
        });
        before != (self.joining.len(), self.leaving.len(), self.died)
    }

    /// Waits until no node is joining or leaving. One that takes too long has failed.
    pub(in crate::cli) fn settle(&mut self) -> Result<()> {
        let until = Instant::now() + SETTLE_WITHIN;
        while !(self.joining.is_empty() && self.leaving.is_empty()) && Instant::now() < until {
            pause()?;
            self.look();
        }
        for (node, _) in self.joining.drain(..) {
            self.joins.failed += 1;
            log::error!("{} does not get into the ring", node.addr);
        }
        for (node, _) in self.leaving.drain(..) {
            self.leaves.failed += 1;
            log::error!("{} does not get out of the ring", node.addr);
        }
        Ok(())
    }
}

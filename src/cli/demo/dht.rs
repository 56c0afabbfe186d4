//! The DHT's part of the demo.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Reactor};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::rpc::client::Task;
use peerloop::proto::dht::rpc::operation::{Bounds, Outcome, Verb};
use peerloop::store::redb::Redb;
use peerloop::workers::commit::Committer;

use super::Table;
use crate::cli::background::{Background, LOOPBACK};
use crate::cli::dht;
use crate::cli::stress::dht::clients::Load;
use crate::cli::stress::dht::nodes::{BodyKind, Nodes, Setup};

/// Operations under way at once: enough for commits to be shared.
const AT_ONCE: usize = 64;

/// The second part: nodes, clients, and operations before, between and after the changes of the ring.
const RING_NODES: usize = 5;
const RING_CLIENTS: usize = 8;
const RING_OPERATIONS: u64 = 500;

/// Stores files, reads them back, also after a restart, and removes them; then a ring that changes under writes.
pub(super) fn run(table: &mut Table, files: &[(String, Bytes)]) -> Result<()> {
    table.protocol = "dht";
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let data = tempfile::tempdir().context("cannot make a temporary folder")?;
    let node = DemoNode::start(data.path())?;
    let (count, kib) = (files.len(), bytes / 1024);

    let task = |verb: Verb, name: &str| Task {
        verb,
        key: Id::of(name.as_bytes()),
    };
    let inserts = files
        .iter()
        .map(|(name, bytes)| task(Verb::Insert(bytes.clone()), name));
    let outcomes = table.time(
        "insert",
        format!("{count} files, {kib} KiB, on disk"),
        || node.ask(inserts.collect()),
    )?;
    ensure!(
        outcomes.iter().all(|o| *o == Outcome::Inserted),
        "an INSERT came to nothing"
    );

    let compare = |outcomes: &[Outcome]| {
        let same = files.iter().zip(outcomes).all(
            |((_, bytes), outcome)| matches!(outcome, Outcome::Got(Some(got)) if got == bytes),
        );
        same.then_some(())
            .context("what came back is not what was stored")
    };
    let gets = || {
        files
            .iter()
            .map(|(name, _)| task(Verb::Get, name))
            .collect()
    };
    let outcomes = table.time("get", format!("{count} files, same bytes"), || {
        node.ask(gets())
    })?;
    compare(&outcomes)?;

    node.thread.stop()?;
    let node = table.time("restart", "the node reads its disk".into(), || {
        DemoNode::start(data.path())
    })?;
    let outcomes = table.time("get", format!("{count} files, same bytes"), || {
        node.ask(gets())
    })?;
    compare(&outcomes)?;

    let removes = files.iter().map(|(name, _)| task(Verb::Remove, name));
    table.time("remove", format!("{count} files"), || {
        node.ask(removes.collect())
    })?;
    let contains = files.iter().map(|(name, _)| task(Verb::Contains, name));
    let outcomes = table.time("contains", "none is left".into(), || {
        node.ask(contains.collect())
    })?;
    ensure!(
        outcomes.iter().all(|o| *o == Outcome::Contains(false)),
        "an entry is left"
    );
    node.thread.stop()?;
    ring(table)
}

/// A durable DHT node on a thread of its own.
struct DemoNode {
    addr: SocketAddrV4,
    thread: Background<DhtNode, ()>,
}

impl DemoNode {
    fn start(data: &Path) -> Result<DemoNode> {
        let (committer, entries) = Committer::load(Redb::open(data)?)?;
        let bound = Bound::bind(LOOPBACK)?;
        let addr = bound.addr();
        let make = move || {
            let config = Config {
                durable: true,
                ..Config::new(addr)
            };
            let limits = config.fit(Limits::default());
            let mut reactor = Reactor::new(DhtNode::new(config, entries), limits)?;
            reactor.start_worker(committer)?;
            reactor.accept_from(bound)?;
            Ok(reactor)
        };
        let thread = Background::start("dht node", make, |_| Ok(()))?;
        Ok(DemoNode { addr, thread })
    }

    fn ask(&self, tasks: Vec<Task>) -> Result<Vec<Outcome>> {
        let bounds = Bounds::default();
        let results = dht::run_tasks(self.addr, tasks, bounds, Limits::default(), AT_ONCE)?;
        results
            .into_iter()
            .map(|result| Ok(result.context("interrupted")??))
            .collect()
    }
}

/// A node joins and another one leaves while clients write; then every acknowledged write is read.
fn ring(table: &mut Table) -> Result<()> {
    let setup = Setup {
        body: BodyKind::Threads,
        replicas: dht::REPLICAS,
    };
    let mut nodes = table.time("ring", format!("{RING_NODES} nodes"), || {
        Nodes::start(RING_NODES, setup)
    })?;
    let load = Load::start(nodes.contacts(), RING_CLIENTS)?;
    load.run_for(RING_OPERATIONS)?;
    table.time("join", "one more node, under writes".into(), || {
        nodes.join()?;
        nodes.settle()
    })?;
    load.set_contacts(nodes.contacts())?;
    load.run_for(RING_OPERATIONS)?;
    table.time("leave", "one node, under writes".into(), || {
        nodes.leave()?;
        load.set_contacts(nodes.contacts())?;
        nodes.settle()
    })?;
    ensure!(
        (nodes.joins.done, nodes.leaves.done) == (1, 1),
        "one node should have joined and one have left; see the log"
    );
    load.run_for(RING_OPERATIONS)?;
    load.drain()?;
    let start = Instant::now();
    let run = load.check()?;
    let (operations, checked) = (run.done(), run.checker.checked);
    let what = format!("{checked} keys after {operations} operations");
    table.push("check", what, start.elapsed());
    let wrong = run.checker.lost.iter().chain(&run.checker.wrong_reads);
    wrong
        .take(1)
        .try_for_each(|lost| Err(anyhow!("an acknowledged write is lost: {lost}")))
}

//! `peerloop demo`: everything there is, on loopback, in one process, with real sockets and real input.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use clap::Args;

use peerloop::app::Committer;
use peerloop::engine::Limits;
use peerloop::net::{Bound, Handle, Reactor};
use peerloop::proto::dht::client::Task;
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::operation::{Bounds, Outcome, Verb};
use peerloop::store::redb::Redb;

use super::stress::load::Load;
use super::stress::ring::Ring;
use super::{Answer, dht, print};

/// Operations under way at once: enough for commits to be shared.
const AT_ONCE: usize = 64;

/// The ring of the second part, its clients, and what they do before, between and after its changes.
const RING_NODES: usize = 5;
const RING_CLIENTS: usize = 8;
const RING_OPERATIONS: u64 = 500;

/// Bounds on what is put through, should the demo be started in a large folder.
const FILES_MAX: usize = 2_000;
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args)]
pub(super) struct Demo {
    /// The folder whose files are stored; the checkout, or else the current folder
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self) -> Result<Answer> {
        let folder = self.files.unwrap_or_else(|| {
            let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
            if checkout.is_dir() {
                checkout.into()
            } else {
                ".".into()
            }
        });
        let files = read_files(&folder)?;
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut table = Table::default();
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

        node.stop()?;
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
        node.stop()?;
        ring(&mut table)?;

        print::stdout(table.to_string().as_bytes())?;
        Ok(Answer::Yes)
    }
}

/// A durable DHT node on a thread of its own.
struct DemoNode {
    addr: SocketAddrV4,
    handle: Handle,
    thread: JoinHandle<std::io::Result<()>>,
}

impl DemoNode {
    fn start(data: &Path) -> Result<DemoNode> {
        let (committer, entries) = Committer::load(Redb::open(data)?)?;
        let bound = Bound::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let addr = bound.addr();
        let config = Config {
            durable: true,
            ..Config::new(addr)
        };
        let limits = config.fit(Limits::default());
        let mut reactor = Reactor::new(DhtNode::new(config, entries), limits)?;
        reactor.start_worker(committer)?;
        reactor.accept_from(bound)?;
        let handle = reactor.handle();
        let thread = std::thread::Builder::new()
            .name("dht node".into())
            .spawn(move || reactor.run())?;
        Ok(DemoNode {
            addr,
            handle,
            thread,
        })
    }

    fn ask(&self, tasks: Vec<Task>) -> Result<Vec<Outcome>> {
        let results = dht::run_tasks(
            self.addr,
            tasks,
            Bounds::default(),
            Limits::default(),
            AT_ONCE,
        )?;
        results
            .into_iter()
            .map(|result| Ok(result.context("interrupted")??))
            .collect()
    }

    fn stop(self) -> Result<()> {
        self.handle.shutdown();
        self.thread
            .join()
            .map_err(|_| anyhow!("the node panicked"))??;
        Ok(())
    }
}

/// A node joins a ring and another one leaves it while clients write; then every acknowledged write is looked up.
fn ring(table: &mut Table) -> Result<()> {
    let mut go_on = || Ok(());
    let mut ring = table.time("ring", format!("{RING_NODES} nodes"), || {
        Ring::start(RING_NODES, false, &mut go_on)
    })?;
    let load = Load::start(ring.contacts(), RING_CLIENTS)?;
    load.run_for(RING_OPERATIONS)?;
    table.time("join", "one more node, under writes".into(), || {
        ring.join()?;
        ring.settle(&mut go_on)
    })?;
    load.set_contacts(ring.contacts())?;
    load.run_for(RING_OPERATIONS)?;
    table.time("leave", "one node, under writes".into(), || {
        ring.leave()?;
        load.set_contacts(ring.contacts())?;
        ring.settle(&mut go_on)
    })?;
    ensure!(
        (ring.joins.done, ring.leaves.done) == (1, 1),
        "one node should have joined and one have left; see the log"
    );
    load.run_for(RING_OPERATIONS)?;
    load.drain(&mut go_on)?;
    let start = Instant::now();
    let workload = load.check(&mut go_on)?;
    let (operations, checked) = (workload.meter().done(), workload.checked());
    table.rows.push((
        "check",
        format!("{checked} keys after {operations} operations"),
        start.elapsed(),
    ));
    let wrong = workload.lost().iter().chain(workload.wrong_reads()).next();
    wrong.map_or(Ok(()), |lost| {
        Err(anyhow!("an acknowledged write is lost: {lost}"))
    })
}

/// What was done and how long it took.
#[derive(Default)]
struct Table {
    rows: Vec<(&'static str, String, Duration)>,
}

impl Table {
    fn time<R>(
        &mut self,
        what: &'static str,
        detail: String,
        act: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let start = Instant::now();
        let result = act()?;
        self.rows.push((what, detail, start.elapsed()));
        Ok(result)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, detail, took) in &self.rows {
            writeln!(
                f,
                "dht  {what:<9} {detail:<36} {:>9.1} ms",
                took.as_secs_f64() * 1000.0
            )?;
        }
        Ok(())
    }
}

/// The files below `folder` that a person would call its own: no hidden ones, no build output, no links.
fn read_files(folder: &Path) -> Result<Vec<(String, Bytes)>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(dir) = folders.pop() {
        let context = || format!("cannot read {}", dir.display());
        for entry in std::fs::read_dir(&dir).with_context(context)? {
            let entry = entry.with_context(context)?;
            let (name, kind) = (entry.file_name(), entry.file_type().with_context(context)?);
            if name.as_encoded_bytes().starts_with(b".") || name == "target" {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && files.len() < FILES_MAX
                && entry.metadata()?.len() <= FILE_BYTES_MAX
            {
                let path = entry.path();
                let bytes = std::fs::read(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                files.push((path.display().to_string(), Bytes::from(bytes)));
            }
        }
    }
    ensure!(
        !files.is_empty(),
        "no files in {} (--files DIR)",
        folder.display()
    );
    Ok(files)
}

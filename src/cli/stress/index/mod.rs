//! `peerloop stress index`: an index server in a process of its own, peers that register and log in, searches whose
//! every result is checked, a kill -9 and all of it again.

mod load;

use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::index::persisted::Cost;
use peerloop::proto::index::server::COST;
use peerloop::proto::index::wire::FRAME_BYTES_MAX;

use load::{Load, Shares, Task};

use super::{Latency, histogram_us};
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct IndexArgs {
    /// Peers that register and log in
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    peers: u32,
    /// Files of each
    #[arg(long, value_name = "F", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: u32,
    /// Searches of each kind: one at a time on each connection, and pipelined
    #[arg(long, value_name = "S", default_value_t = 10_000)]
    searches: u32,
    /// Connections that search
    #[arg(long, value_name = "C", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Searches under way on each, where they are pipelined
    #[arg(long, value_name = "D", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    depth: u32,
    /// Memory of a password's hash; less makes many peers quick to register
    #[arg(long, value_name = "KIB", default_value_t = COST.memory_kib, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    hash_memory: u32,
    /// Passes over it
    #[arg(long, value_name = "N", default_value_t = COST.passes, value_parser = clap::value_parser!(u32).range(1..=100))]
    hash_passes: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Long enough to load any catalogue that fits the memory.
const START_MAX: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Phase {
    what: &'static str,
    connections: usize,
    operations: u64,
    seconds: f64,
    per_second: f64,
    /// CPU time of the server, all its threads, for each operation: what the machine's other work does not change.
    server_cpu_us: f64,
    retries: u64,
    wrong: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_wrong: Option<String>,
    ms: Latency,
}

#[derive(Serialize)]
struct Report {
    peers: u32,
    files: u64,
    phases: Vec<Phase>,
    /// From the start after the kill -9 to the line that it listens.
    restart_seconds: f64,
    /// Memory of the server then, and of one without files.
    rss_bytes: u64,
    empty_rss_bytes: u64,
    bytes_per_file: u64,
    wrong: u64,
}

/// The server process.
struct Server {
    child: Child,
    addr: SocketAddrV4,
    took: Duration,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(data: &Path, listen: SocketAddrV4, cost: Cost) -> Result<Server> {
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["index", "server", "--listen", &listen.to_string(), "--data"])
            .arg(data)
            .args(["--hash-memory", &cost.memory_kib.to_string()])
            .args(["--hash-passes", &cost.passes.to_string()])
            .args(["--files-max", "200000000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let stdout = child.stdout.take().context("the server's stdout")?;
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let mut server = Server {
            child,
            addr: listen,
            took: Duration::ZERO,
        };
        let line = told.recv_timeout(START_MAX).unwrap_or_default();
        let addr = line.trim_end().strip_prefix("listening ").map(str::parse);
        server.addr = addr.context("the server did not start; see above")??;
        server.took = start.elapsed();
        Ok(server)
    }

    /// CPU time of all its threads so far, in seconds.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // utime and stime, the 14th and 15th fields, in the kernel's ticks of 10 ms; the second is a name in parentheses.
        let fields = stat.rsplit_once(") ").context("stat")?.1.split(' ');
        let ticks: Result<Vec<f64>, _> = fields.skip(11).take(2).map(str::parse).collect();
        Ok(ticks?.iter().sum::<f64>() / 100.0)
    }

    fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("VmRSS")?.trim().parse()?;
        Ok(kib * 1024)
    }
}

impl IndexArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let cost = Cost {
            memory_kib: self.hash_memory,
            passes: self.hash_passes,
        };
        let data = tempfile::tempdir()?;
        let mut server = Server::start(
            data.path(),
            SocketAddrV4::new([127, 0, 0, 1].into(), 0),
            cost,
        )?;
        let empty_rss_bytes = server.rss_bytes()?;
        let peers = self.peers as usize;
        let mut shares = Shares {
            peers,
            files: self.files as usize,
            ids: vec![None; peers],
        };
        let mut phases = Vec::new();
        let searching = self.connections as usize;
        let mut phase =
            |what, server: &Server, conns, depth, tasks: &mut dyn Iterator<Item = Task>| {
                let before = server.cpu_seconds()?;
                let (mut phase, after) =
                    run_phase(what, server.addr, shares.clone(), conns, depth, tasks)?;
                let used = server.cpu_seconds()? - before;
                phase.server_cpu_us = used * 1e6 / phase.operations.max(1) as f64;
                shares = after;
                if !self.json {
                    print::stdout(phase.to_string().as_bytes())?;
                }
                phases.push(phase);
                Ok::<(), anyhow::Error>(())
            };
        let at = server.addr;
        let words = (peers * self.files as usize / 10).max(1);
        let wanted = |salt: usize| {
            let searches = self.searches as usize;
            // A stride that is no divisor spreads them over all words.
            (0..searches).map(move |n| Task::Search((n * 7919 + salt) % words))
        };
        let logins = || (0..peers).map(Task::Login);
        phase(
            "register",
            &server,
            searching,
            1,
            &mut (0..peers).map(Task::Register),
        )?;
        phase("login", &server, peers, 1, &mut logins())?;
        phase("search", &server, searching, 1, &mut wanted(0))?;
        phase(
            "search, pipelined",
            &server,
            searching,
            self.depth as usize,
            &mut wanted(1),
        )?;
        phase(
            "keep alive",
            &server,
            searching,
            1,
            &mut (0..peers).map(Task::KeepAlive),
        )?;
        drop(server);
        server = Server::start(data.path(), at, cost)?;
        let (restart_seconds, rss_bytes) = (server.took.as_secs_f64(), server.rss_bytes()?);
        phase("login after kill -9", &server, peers, 1, &mut logins())?;
        phase("search after it", &server, searching, 1, &mut wanted(2))?;
        let wrong = phases.iter().map(|phase| phase.wrong).sum();
        let files = u64::from(self.peers) * u64::from(self.files);
        let report = Report {
            peers: self.peers,
            files,
            phases,
            restart_seconds,
            rss_bytes,
            empty_rss_bytes,
            bytes_per_file: rss_bytes.saturating_sub(empty_rss_bytes) / files,
            wrong,
        };
        report.print(self.json)
    }
}

fn run_phase(
    what: &'static str,
    server: SocketAddrV4,
    shares: Shares,
    conns: usize,
    depth: usize,
    tasks: &mut dyn Iterator<Item = Task>,
) -> Result<(Phase, Shares)> {
    let limits = Limits::default();
    let limits = Limits {
        input_bytes_max: limits.read_bytes_per_turn + FRAME_BYTES_MAX,
        dials_max: usize::MAX,
        dial: Ticks::from_secs(30),
        // A peer that was told to come back is silent until then.
        idle: Ticks::from_secs(3600),
        ..limits
    };
    let load = Load::new(server, shares, tasks, depth, histogram_us()?);
    let mut reactor = Reactor::new(load, limits)?;
    reactor.catch_signals()?;
    let start = Instant::now();
    reactor.node().with(|load, hub| load.begin(hub, conns));
    reactor.run()?;
    let seconds = start.elapsed().as_secs_f64();
    let load = reactor.into_service();
    ensure!(!load.interrupted, "interrupted; the server is stopped");
    let outcome = load.outcome;
    let phase = Phase {
        what,
        connections: conns,
        operations: outcome.done,
        seconds,
        per_second: outcome.done as f64 / seconds,
        server_cpu_us: 0.0,
        retries: outcome.retries,
        wrong: outcome.wrong,
        first_wrong: outcome.first_wrong,
        ms: Latency::of(&outcome.times_us),
    };
    Ok((phase, load.shares))
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Phase {
            what,
            connections,
            operations,
            seconds,
            per_second,
            server_cpu_us,
            ms,
            ..
        } = self;
        writeln!(
            f,
            "{what:<20} {operations:>9} over {connections} connections in {seconds:.2} s: {per_second:.0}/s, {server_cpu_us:.1} us of the server's CPU each, ms {ms}"
        )?;
        if self.retries > 0 {
            writeln!(f, "{:<20} {:>9} told to come back", "", self.retries)?;
        }
        if let Some(first) = &self.first_wrong {
            writeln!(f, "{:<20} {:>9} wrong, first {first}", "", self.wrong)?;
        }
        Ok(())
    }
}

impl Report {
    fn print(&self, json: bool) -> Result<Answer> {
        if json {
            print::json(self)?;
        } else {
            let text = format!(
                "restart after kill -9  {:.2} s for {} files of {} peers\n\
                 memory                 {} bytes, {} of them without a file: {} a file\n\
                 wrong                  {}\n",
                self.restart_seconds,
                self.files,
                self.peers,
                self.rss_bytes,
                self.empty_rss_bytes,
                self.bytes_per_file,
                self.wrong
            );
            print::stdout(text.as_bytes())?;
        }
        Ok(if self.wrong == 0 {
            Answer::Yes
        } else {
            Answer::No
        })
    }
}

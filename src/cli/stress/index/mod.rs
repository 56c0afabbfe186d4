//! `peerloop stress index`: peers register and log in at an index server, and every result of their searches is checked;
//! then the server is killed (kill -9) and started again, and logins and searches are repeated.

mod talker;

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use peerloop::proto::index::server::COST;

use talker::{IndexTalker, Shares, Task};

use super::latency_ms;
use crate::cli::background::{LOOPBACK, Program};
use crate::cli::load::driver::Plan;
use crate::cli::load::run_to_end;
use crate::cli::options::within;
use crate::cli::print::filled;
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct IndexArgs {
    /// Peers that register and log in
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = within::<u32>(1..=19_000))]
    peers: u32,
    /// Files of each
    #[arg(long, value_name = "F", default_value_t = 100, value_parser = within::<u32>(1..=100_000))]
    files: u32,
    /// Searches of each kind: one at a time on each connection, and pipelined
    #[arg(long, value_name = "S", default_value_t = 10_000, value_parser = within::<u32>(0..=1_000_000_000))]
    searches: u32,
    /// Connections that search
    #[arg(long, value_name = "C", default_value_t = 50, value_parser = within::<u32>(1..=10_000))]
    connections: u32,
    /// Searches under way on each, where they are pipelined
    #[arg(long, value_name = "D", default_value_t = 16, value_parser = within::<u32>(1..=1000))]
    depth: u32,
    /// Memory of a password's hash; less makes many peers quick to register
    #[arg(long, value_name = "KIB", default_value_t = COST.memory_kib, value_parser = within::<u32>(8..=1 << 20))]
    hash_memory: u32,
    /// Passes over it
    #[arg(long, value_name = "N", default_value_t = COST.passes, value_parser = within::<u32>(1..=100))]
    hash_passes: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed without `--json`: a line of a phase, behind its name and operations, and the summary.
const PHASE: &str = "over {connections} connections in {seconds:.2} s: {per_second:.0}/s, \
{server_cpu_us:.1} us of the server's CPU each, ms {ms:.2}\n";
const TEXT: &str = "\
restart after kill -9  {restart_seconds:.2} s for {files} files of {peers} peers
memory                 {rss_bytes} bytes, {empty_rss_bytes} of them without a file: {bytes_per_file} a file
wrong                  {wrong}
";

/// CPU time of all threads of a process so far, in seconds.
fn cpu_seconds(server: &Program) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.child.id()))?;
    // utime and stime, the 14th and 15th fields, in the kernel's ticks of 10 ms; the second is a name in parentheses.
    let fields = stat.rsplit_once(") ").context("stat")?.1.split(' ');
    let ticks: Result<Vec<f64>, _> = fields.skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

fn rss_bytes(server: &Program) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("VmRSS")?.trim().parse()?;
    Ok(kib * 1024)
}

/// A run: the server process, what is shared there, and the figures of its phases.
struct Run<'a> {
    args: &'a IndexArgs,
    data: tempfile::TempDir,
    server: Program,
    shares: Shares,
    phases: Vec<Value>,
    wrong: u64,
}

impl IndexArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let data = tempfile::tempdir()?;
        let (connections, peers) = (self.connections as usize, self.peers as usize);
        let mut run = Run {
            server: self.start(data.path(), LOOPBACK)?,
            args: &self,
            data,
            shares: Shares {
                peers,
                files: self.files as usize,
                ids: vec![None; peers],
            },
            phases: Vec::new(),
            wrong: 0,
        };
        let empty_rss_bytes = rss_bytes(&run.server)?;
        let all = || 0..peers;
        run.phase("register", connections, 1, all().map(Task::Register))?;
        run.phase("login", peers, 1, all().map(Task::Login))?;
        run.search("search", 1, 0)?;
        run.search("search, pipelined", self.depth as usize, 1)?;
        run.phase("keep alive", connections, 1, all().map(Task::KeepAlive))?;
        let restart_seconds = run.restart()?.as_secs_f64();
        let rss_bytes = rss_bytes(&run.server)?;
        run.phase("login after kill -9", peers, 1, all().map(Task::Login))?;
        run.search("search after it", 1, 2)?;
        let files = u64::from(self.peers) * u64::from(self.files);
        let report = json!({
            "peers": self.peers,
            "files": files,
            "phases": run.phases,
            // From the start after the kill -9 to the line that it listens.
            "restart_seconds": restart_seconds,
            // Memory of the server then, and of one without files.
            "rss_bytes": rss_bytes,
            "empty_rss_bytes": empty_rss_bytes,
            "bytes_per_file": rss_bytes.saturating_sub(empty_rss_bytes) / files,
            "wrong": run.wrong,
        });
        print::figures(self.json, &report, TEXT)?;
        Ok(Answer::yes_if(run.wrong == 0))
    }

    fn start(&self, data: &Path, listen: SocketAddrV4) -> Result<Program> {
        let command = &mut Program::command()?;
        let command = command.args(["index", "server", "--files-max", "200000000", "--data"]);
        let command = command.arg(data).args(["--listen", &listen.to_string()]);
        let command = command.args(["--hash-memory", &self.hash_memory.to_string()]);
        let command = command.args(["--hash-passes", &self.hash_passes.to_string()]);
        Program::start(command)
    }
}

impl Run<'_> {
    /// Kills the server and starts it again; how long that took.
    fn restart(&mut self) -> Result<Duration> {
        self.server.child.kill()?;
        self.server.child.wait()?;
        let start = Instant::now();
        self.server = self.args.start(self.data.path(), self.server.addr)?;
        Ok(start.elapsed())
    }

    fn search(&mut self, what: &'static str, depth: usize, salt: usize) -> Result<()> {
        let (searches, words) = (self.args.searches as usize, self.shares.words());
        // The stride spreads the searches over all words.
        let tasks = (0..searches).map(|n| Task::Search((n * 7919 + salt) % words));
        self.phase(what, self.args.connections as usize, depth, tasks)
    }

    fn phase(
        &mut self,
        what: &'static str,
        connections: usize,
        depth: usize,
        tasks: impl ExactSizeIterator<Item = Task>,
    ) -> Result<()> {
        let operations = tasks.len() as u64;
        let plan = Plan::of_requests(connections.min(tasks.len()), depth, operations);
        let talker = IndexTalker::new(self.shares.clone(), tasks);
        let (before, start) = (cpu_seconds(&self.server)?, Instant::now());
        let load = run_to_end(self.server.addr, talker, plan)?;
        let (talker, driver) = (load.talker, load.driver);
        ensure!(!driver.interrupted, "interrupted; the server is stopped");
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = cpu_seconds(&self.server)? - before;
        self.shares = talker.shares;
        // Tasks without an answer count as wrong.
        let wrong = operations - talker.right;
        let mut phase = json!({
            "what": what,
            "connections": connections,
            "operations": operations,
            "seconds": seconds,
            "per_second": operations as f64 / seconds,
            // CPU time of the server for each operation; it does not depend on the load of the machine.
            "server_cpu_us": cpu_seconds * 1e6 / operations.max(1) as f64,
            "retries": talker.retries,
            "wrong": wrong,
        });
        let mut notes = String::new();
        if talker.retries > 0 {
            notes += &format!("{:<20} {:>9} told to come back\n", "", talker.retries);
        }
        if let Some(first) = talker.first_wrong {
            notes += &format!("{:<20} {wrong:>9} wrong, first {first}\n", "");
            phase["first_wrong"] = first.into();
        }
        phase["ms"] = latency_ms(&driver.measurement.latency);
        if !self.args.json {
            let row = format!("{what:<20} {operations:>9} {}", filled(PHASE, &phase));
            print::stdout((row + &notes).as_bytes())?;
        }
        self.wrong += wrong;
        self.phases.push(phase);
        Ok(())
    }
}

//! `peerloop stress dht`: nodes join, leave and crash while clients write and read; then every key is checked.

mod checker;
pub(in crate::cli) mod clients;
mod gaps;
pub(in crate::cli) mod nodes;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rand::RngExt;
use serde_json::{Value, json};

use crate::cli::background::{catch_interrupts, pause};
use crate::cli::dht::{REPLICAS, REPLICAS_RANGE};
use crate::cli::options::within;
use crate::cli::{Answer, print};

use super::latency_ms;
use checker::How;
use clients::{Clients, Load};
use gaps::Gaps;
use nodes::{BodyKind, Nodes, Setup};

/// Lost keys that are printed.
const LOST_SHOWN_MAX: usize = 10;

#[derive(Args)]
pub(in crate::cli) struct DhtArgs {
    /// Nodes at the start; with --churn there are between half and twice as many
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u32>(1..=256))]
    nodes: u32,
    /// Clients, each with one operation under way on keys of its own
    #[arg(long, value_name = "C", default_value_t = 32, value_parser = within::<u32>(1..=4096))]
    clients: u32,
    /// Joins and leaves a second, e.g. 2 or 0.5 [default: 1, with --crashes 0]
    #[arg(long, value_name = "R", value_parser = within::<f64>(0.0..=100.0))]
    churn: Option<f64>,
    /// Members that are killed at once, again and again; new ones are started in their place. With --processes, which then keep their entries on disk
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<u32>(0..=256))]
    crashes: u32,
    /// Seconds between two rounds of --crashes
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = within::<f64>(0.1..=86_400.0))]
    crash_every: f64,
    /// Members that have each entry; all but one of them may crash at once
    #[arg(long, value_name = "R", default_value_t = REPLICAS, value_parser = within(REPLICAS_RANGE))]
    replicas: u8,
    /// How long the clients write and read
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = within::<u64>(1..=86_400))]
    seconds: u64,
    /// Run each node as a process of its own; without it each is a thread, which starts faster
    #[arg(long)]
    processes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed without `--json`.
const TEXT: &str = "\
nodes       {nodes} at the start, {nodes_least} to {nodes_most} in the run, {nodes_end} at the end; {KIND}
operations  {operations} in {seconds:.1} s by {clients} clients: {operations_per_second:.0}/s
            {gets} get, {inserts} insert, {removes} remove; {given_up} given up
latency ms  {latency_ms:.2}
  get       {get_latency_ms:.2}
  insert    {insert_latency_ms:.2}
  remove    {remove_latency_ms:.2}
hops        mean {hops_mean:.2}, max {hops_max}
joins       {joins}, mean {join_mean_ms:.0} ms; {joins_failed} given up
leaves      {leaves}, mean {leave_mean_ms:.0} ms; {leaves_failed} failed
checked     {checked} keys; {wrong_reads} wrong reads before
lost        {lost}";

/// What is printed of crashes.
const CRASHES_TEXT: &str = "
back        {resurrected} removed keys were there again
crashes     {crashes} members killed, {died} ended by themselves; {replicas} replicas
gap ms      {gap.ms:.0}; the longest of each of {gap.keys} keys
  read      {gap.read_ms:.0}
  write     {gap.write_ms:.0}";

impl DhtArgs {
    pub(super) fn run(self) -> Result<Answer> {
        catch_interrupts()?;
        let mut nodes = Nodes::start(self.nodes as usize, self.setup()?)?;
        let start = Instant::now();
        let load = Load::start(nodes.contacts(), self.clients as usize)?;
        let watched = (self.crashes > 0).then(|| Gaps::watch(nodes.contacts()));
        let run = Run {
            load,
            gaps: watched.transpose()?,
        };
        let extremes = self.change(&mut nodes, &run)?;
        // Operations still under way may wait for a node that leaves, and would lengthen the run.
        let took = start.elapsed();
        run.load.drain()?;
        nodes.settle()?;
        run.set_contacts(&nodes)?;
        let gaps = run.gaps.map_or(Ok(Value::Null), Gaps::finish)?;
        let clients = run.load.check()?;
        let summary = self.summary(&nodes, &clients, extremes, took, gaps);
        self.print(&summary, &clients)?;
        let (lost, wrong_reads) = (&clients.checker.lost, &clients.checker.wrong_reads);
        let held = lost.is_empty() && wrong_reads.is_empty();
        Ok(Answer::yes_if(
            held && nodes.leaves.failed == 0 && nodes.died == 0,
        ))
    }

    fn setup(&self) -> Result<Setup> {
        let body = match (self.processes, self.crashes) {
            (false, 0) => BodyKind::Threads,
            (false, crashes) => {
                bail!("--crashes {crashes} is for --processes: a thread cannot be killed")
            }
            (true, 0) => BodyKind::Processes,
            (true, _) => BodyKind::Durable(tempfile::tempdir().context("no temporary folder")?),
        };
        Ok(Setup {
            body,
            replicas: self.replicas,
        })
    }

    fn print(&self, summary: &Value, clients: &Clients) -> Result<()> {
        let kind = if self.processes {
            "processes"
        } else {
            "threads"
        };
        let mut text = TEXT.replace("{KIND}", kind);
        if summary["unreadable"] != 0 {
            text += ", of which {unreadable} because nobody answers";
        }
        if self.crashes > 0 {
            text += CRASHES_TEXT;
        }
        print::figures(self.json, summary, &(text + "\n"))?;
        for lost in clients.checker.lost.iter().take(LOST_SHOWN_MAX) {
            eprintln!("lost: {lost}");
        }
        for wrong in clients.checker.wrong_reads.iter().take(LOST_SHOWN_MAX) {
            eprintln!("wrong read: {wrong}");
        }
        Ok(())
    }

    /// Lets nodes join, leave and crash for the time of the run; the least and the most members there were.
    fn change(&self, nodes: &mut Nodes, run: &Run) -> Result<(usize, usize)> {
        let default = if self.crashes > 0 { 0.0 } else { 1.0 };
        let churn = self.churn.unwrap_or(default);
        let (start, length) = (Instant::now(), Duration::from_secs(self.seconds));
        let (mut least, mut most) = (nodes.members(), nodes.members());
        let (mut events, mut rounds) = (0_u64, 1_u64);
        while start.elapsed() < length {
            let mut changed = nodes.look();
            if start.elapsed().as_secs_f64() * churn > events as f64 + 0.5 {
                events += 1;
                changed |= self.event(nodes)?;
            }
            if self.crashes > 0 {
                if start.elapsed().as_secs_f64() > rounds as f64 * self.crash_every {
                    rounds += 1;
                    nodes.crash(self.crashes as usize)?;
                    changed = true;
                }
                while nodes.len() < self.nodes as usize {
                    nodes.join()?;
                }
            }
            if changed {
                run.set_contacts(nodes)?;
            }
            least = least.min(nodes.members());
            most = most.max(nodes.members());
            pause()?;
        }
        Ok((least, most))
    }

    /// One join or leave; true when a member leaves.
    fn event(&self, nodes: &mut Nodes) -> Result<bool> {
        let start = self.nodes as usize;
        let (least, most) = ((start / 2).max(1), start * 2);
        if nodes.members() <= least || (nodes.len() < most && rand::rng().random()) {
            if nodes.len() < most {
                nodes.join()?;
            }
            return Ok(false);
        }
        nodes.leave()
    }

    fn summary(
        &self,
        nodes: &Nodes,
        run: &Clients,
        (least, most): (usize, usize),
        took: Duration,
        gaps: Value,
    ) -> Value {
        let (checker, [gets, inserts, removes]) = (&run.checker, &run.times);
        let seconds = took.as_secs_f64();
        json!({
            "nodes": self.nodes,
            "processes": self.processes,
            "replicas": self.replicas,
            "clients": self.clients,
            "seconds": seconds,
            "nodes_least": least,
            "nodes_most": most,
            "nodes_end": nodes.members(),
            "operations": run.done(),
            "operations_per_second": run.done() as f64 / seconds,
            "gets": gets.len(),
            "inserts": inserts.len(),
            "removes": removes.len(),
            "given_up": run.given_up(),
            "latency_ms": latency_ms(run.latency()),
            "get_latency_ms": latency_ms(gets),
            "insert_latency_ms": latency_ms(inserts),
            "remove_latency_ms": latency_ms(removes),
            "hops_mean": run.hops_mean(),
            "hops_max": run.hops_max,
            "joins": nodes.joins.done,
            "joins_failed": nodes.joins.failed,
            "join_mean_ms": nodes.joins.mean_ms(),
            "leaves": nodes.leaves.done,
            "leaves_failed": nodes.leaves.failed,
            "leave_mean_ms": nodes.leaves.mean_ms(),
            "checked": checker.checked,
            "wrong_reads": checker.wrong_reads.len(),
            "lost": checker.lost.iter().filter(|lost| lost.how != How::CameBack).count(),
            // Lost keys for which no node answered.
            "unreadable": checker.count(How::Unreadable),
            // Reads that found what was removed, in the check and before.
            "resurrected": checker.count(How::CameBack),
            "crashes": nodes.crashes,
            "died": nodes.died,
            "gap": gaps,
        })
    }
}

/// The loads that run.
struct Run {
    load: Load,
    /// Only while members crash.
    gaps: Option<Gaps>,
}

impl Run {
    fn set_contacts(&self, nodes: &Nodes) -> Result<()> {
        let gaps = self.gaps.iter();
        let mut set = gaps.map(|gaps| gaps.set_contacts(nodes.contacts()));
        set.try_for_each(|set| set)?;
        self.load.set_contacts(nodes.contacts())
    }
}

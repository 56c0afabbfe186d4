//! `peerloop stress dht`.

pub(in crate::cli) mod clients;
pub(in crate::cli) mod nodes;
mod promises;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use rand::RngExt;
use serde::Serialize;

use crate::cli::options::within;
use crate::cli::{Answer, print};

use super::{Interrupt, Latency, pause};
use clients::{Clients, Load};
use nodes::Nodes;

/// Lost keys that are named; a run that loses more has one cause for all.
const LOST_SHOWN_MAX: usize = 10;

#[derive(Args)]
pub(in crate::cli) struct DhtArgs {
    /// Nodes at the start; with --churn there are between half and twice as many
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u32>(1..=256))]
    nodes: u32,
    /// Clients, each with one operation under way on keys of its own
    #[arg(long, value_name = "C", default_value_t = 32, value_parser = within::<u32>(1..=4096))]
    clients: u32,
    /// Joins and leaves a second, e.g. 2 or 0.5
    #[arg(long, value_name = "R", default_value = "1", value_parser = within::<f64>(0.0..=100.0))]
    churn: f64,
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

/// What `--json` prints; times in milliseconds.
#[derive(Serialize)]
struct Summary {
    nodes: u32,
    processes: bool,
    clients: u32,
    seconds: f64,
    nodes_least: usize,
    nodes_most: usize,
    nodes_end: usize,
    operations: u64,
    operations_per_second: f64,
    gets: u64,
    inserts: u64,
    removes: u64,
    given_up: u64,
    latency_ms: Latency,
    get_latency_ms: Latency,
    insert_latency_ms: Latency,
    remove_latency_ms: Latency,
    hops_mean: f64,
    hops_max: u32,
    joins: u32,
    joins_failed: u32,
    join_mean_ms: f64,
    leaves: u32,
    leaves_failed: u32,
    leave_mean_ms: f64,
    checked: u64,
    wrong_reads: usize,
    lost: usize,
    /// Of the lost: nobody answered for the key.
    unreadable: usize,
}

/// Least and most members of the run.
struct Extremes {
    least: usize,
    most: usize,
}

impl DhtArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let interrupt = Interrupt::catch()?;
        let mut go_on = || interrupt.check();
        let mut nodes = Nodes::start(self.nodes as usize, self.processes, &mut go_on)?;
        let start = Instant::now();
        let load = Load::start(nodes.contacts(), self.clients as usize)?;
        let extremes = self.churn(&mut nodes, &load, &mut go_on)?;
        // What is still under way is less than a round of operations, and may wait for a node that leaves.
        let took = start.elapsed();
        load.drain(&mut go_on)?;
        nodes.settle(&mut go_on)?;
        load.set_contacts(nodes.contacts())?;
        let clients = load.check(&mut go_on)?;
        print::result(self.json, &self.summary(&nodes, &clients, &extremes, took))?;
        let (lost, wrong_reads) = (&clients.promises.lost, &clients.promises.wrong_reads);
        for lost in lost.iter().take(LOST_SHOWN_MAX) {
            eprintln!("lost: {lost}");
        }
        for wrong in wrong_reads.iter().take(LOST_SHOWN_MAX) {
            eprintln!("wrong read: {wrong}");
        }
        let held = lost.is_empty() && wrong_reads.is_empty() && nodes.leaves.failed == 0;
        Ok(Answer::yes_if(held))
    }

    /// Lets nodes join and leave for the time of the run.
    fn churn(
        &self,
        nodes: &mut Nodes,
        load: &Load,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Extremes> {
        let (start, length) = (Instant::now(), Duration::from_secs(self.seconds));
        let mut extremes = Extremes {
            least: nodes.members(),
            most: nodes.members(),
        };
        let mut events = 0_u64;
        while start.elapsed() < length {
            go_on()?;
            if nodes.look() {
                load.set_contacts(nodes.contacts())?;
            }
            if start.elapsed().as_secs_f64() * self.churn > events as f64 + 0.5 {
                events += 1;
                self.event(nodes, load)?;
            }
            extremes.least = extremes.least.min(nodes.members());
            extremes.most = extremes.most.max(nodes.members());
            pause();
        }
        Ok(extremes)
    }

    /// One join or leave.
    fn event(&self, nodes: &mut Nodes, load: &Load) -> Result<()> {
        let start = self.nodes as usize;
        let (least, most) = ((start / 2).max(1), start * 2);
        if nodes.members() <= least || (nodes.len() < most && rand::rng().random()) {
            return if nodes.len() < most {
                nodes.join()
            } else {
                Ok(())
            };
        }
        if nodes.leave()? {
            load.set_contacts(nodes.contacts())?;
        }
        Ok(())
    }

    fn summary(
        &self,
        nodes: &Nodes,
        run: &Clients,
        extremes: &Extremes,
        took: Duration,
    ) -> Summary {
        let (promises, [gets, inserts, removes]) = (&run.promises, &run.times);
        let unreadable = promises.lost.iter().filter(|lost| lost.unreadable);
        Summary {
            nodes: self.nodes,
            processes: self.processes,
            clients: self.clients,
            seconds: took.as_secs_f64(),
            nodes_least: extremes.least,
            nodes_most: extremes.most,
            nodes_end: nodes.members(),
            operations: run.done(),
            operations_per_second: run.done() as f64 / took.as_secs_f64(),
            gets: gets.len(),
            inserts: inserts.len(),
            removes: removes.len(),
            given_up: run.given_up(),
            latency_ms: Latency::of(run.latency()),
            get_latency_ms: Latency::of(gets),
            insert_latency_ms: Latency::of(inserts),
            remove_latency_ms: Latency::of(removes),
            hops_mean: run.hops_mean(),
            hops_max: run.hops_max,
            joins: nodes.joins.done,
            joins_failed: nodes.joins.failed,
            join_mean_ms: nodes.joins.mean_ms(),
            leaves: nodes.leaves.done,
            leaves_failed: nodes.leaves.failed,
            leave_mean_ms: nodes.leaves.mean_ms(),
            checked: promises.checked,
            wrong_reads: promises.wrong_reads.len(),
            lost: promises.lost.len(),
            unreadable: unreadable.count(),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.processes {
            "processes"
        } else {
            "threads"
        };
        writeln!(
            f,
            "nodes       {} at the start, {} to {} in the run, {} at the end; {kind}",
            self.nodes, self.nodes_least, self.nodes_most, self.nodes_end
        )?;
        writeln!(
            f,
            "operations  {} in {:.1} s by {} clients: {:.0}/s",
            self.operations, self.seconds, self.clients, self.operations_per_second
        )?;
        writeln!(
            f,
            "            {} get, {} insert, {} remove; {} given up",
            self.gets, self.inserts, self.removes, self.given_up
        )?;
        writeln!(f, "latency ms  {}", self.latency_ms)?;
        writeln!(f, "  get       {}", self.get_latency_ms)?;
        writeln!(f, "  insert    {}", self.insert_latency_ms)?;
        writeln!(f, "  remove    {}", self.remove_latency_ms)?;
        writeln!(
            f,
            "hops        mean {:.2}, max {}",
            self.hops_mean, self.hops_max
        )?;
        writeln!(
            f,
            "joins       {}, mean {:.0} ms; {} given up",
            self.joins, self.join_mean_ms, self.joins_failed
        )?;
        writeln!(
            f,
            "leaves      {}, mean {:.0} ms; {} failed",
            self.leaves, self.leave_mean_ms, self.leaves_failed
        )?;
        writeln!(
            f,
            "checked     {} keys; {} wrong reads before",
            self.checked, self.wrong_reads
        )?;
        match self.unreadable {
            0 => writeln!(f, "lost        {}", self.lost),
            n => writeln!(
                f,
                "lost        {}, of which {n} because nobody answers",
                self.lost
            ),
        }
    }
}

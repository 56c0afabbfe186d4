//! `peerloop stress dht`.

pub(in crate::cli) mod load;
pub(in crate::cli) mod ring;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use rand::RngExt;
use serde::Serialize;

use peerloop::proto::dht::workload::Workload;

use crate::cli::options::within;
use crate::cli::{Answer, print};

use super::{Interrupt, Latency, pause};
use load::{Load, Times};
use ring::Ring;

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
        let mut ring = Ring::start(self.nodes as usize, self.processes, &mut go_on)?;
        let start = Instant::now();
        let load = Load::start(ring.contacts(), self.clients as usize)?;
        let extremes = self.churn(&mut ring, &load, &mut go_on)?;
        // What is still under way is less than a round of operations, and may wait for a node that leaves.
        let took = start.elapsed();
        load.drain(&mut go_on)?;
        ring.settle(&mut go_on)?;
        load.set_contacts(ring.contacts())?;
        let workload = load.check(&mut go_on)?;
        let summary = self.summary(&ring, &workload, &extremes, took)?;
        if self.json {
            print::json(&summary)?;
        } else {
            print::stdout(summary.to_string().as_bytes())?;
        }
        for lost in workload.lost().iter().take(LOST_SHOWN_MAX) {
            eprintln!("lost: {lost}");
        }
        for wrong in workload.wrong_reads().iter().take(LOST_SHOWN_MAX) {
            eprintln!("wrong read: {wrong}");
        }
        let held = workload.lost().is_empty()
            && workload.wrong_reads().is_empty()
            && ring.leaves.failed == 0;
        Ok(if held { Answer::Yes } else { Answer::No })
    }

    /// Lets nodes join and leave for the time of the run.
    fn churn(
        &self,
        ring: &mut Ring,
        load: &Load,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Extremes> {
        let (start, length) = (Instant::now(), Duration::from_secs(self.seconds));
        let mut extremes = Extremes {
            least: ring.members(),
            most: ring.members(),
        };
        let mut events = 0_u64;
        while start.elapsed() < length {
            go_on()?;
            if ring.look() {
                load.set_contacts(ring.contacts())?;
            }
            if start.elapsed().as_secs_f64() * self.churn > events as f64 + 0.5 {
                events += 1;
                self.event(ring, load)?;
            }
            extremes.least = extremes.least.min(ring.members());
            extremes.most = extremes.most.max(ring.members());
            pause();
        }
        Ok(extremes)
    }

    /// One join or leave.
    fn event(&self, ring: &mut Ring, load: &Load) -> Result<()> {
        let nodes = self.nodes as usize;
        let (least, most) = ((nodes / 2).max(1), nodes * 2);
        if ring.members() <= least || (ring.len() < most && rand::rng().random()) {
            return if ring.len() < most {
                ring.join()
            } else {
                Ok(())
            };
        }
        if ring.leave()? {
            load.set_contacts(ring.contacts())?;
        }
        Ok(())
    }

    fn summary(
        &self,
        ring: &Ring,
        workload: &Workload<Times>,
        extremes: &Extremes,
        took: Duration,
    ) -> Result<Summary> {
        let times = workload.meter();
        Ok(Summary {
            nodes: self.nodes,
            processes: self.processes,
            clients: self.clients,
            seconds: took.as_secs_f64(),
            nodes_least: extremes.least,
            nodes_most: extremes.most,
            nodes_end: ring.members(),
            operations: times.done(),
            operations_per_second: times.done() as f64 / took.as_secs_f64(),
            gets: times.gets.len(),
            inserts: times.inserts.len(),
            removes: times.removes.len(),
            given_up: times.given_up,
            latency_ms: Latency::of(&times.latency()?),
            get_latency_ms: Latency::of(&times.gets),
            insert_latency_ms: Latency::of(&times.inserts),
            remove_latency_ms: Latency::of(&times.removes),
            hops_mean: times.hops_mean(),
            hops_max: times.hops_max,
            joins: ring.joins.done,
            joins_failed: ring.joins.failed,
            join_mean_ms: ring.joins.mean_ms(),
            leaves: ring.leaves.done,
            leaves_failed: ring.leaves.failed,
            leave_mean_ms: ring.leaves.mean_ms(),
            checked: workload.checked(),
            wrong_reads: workload.wrong_reads().len(),
            lost: workload.lost().len(),
            unreadable: workload
                .lost()
                .iter()
                .filter(|lost| lost.unreadable)
                .count(),
        })
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

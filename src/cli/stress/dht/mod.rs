//! `peerloop stress dht`: nodes join and leave while clients write and read; then every key is checked.

mod checker;
pub(in crate::cli) mod clients;
pub(in crate::cli) mod nodes;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use rand::RngExt;
use serde_json::{Value, json};

use crate::cli::background::{catch_interrupts, pause};
use crate::cli::options::within;
use crate::cli::{Answer, print};

use super::latency_ms;
use clients::{Clients, Load};
use nodes::Nodes;

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

impl DhtArgs {
    pub(super) fn run(self) -> Result<Answer> {
        catch_interrupts()?;
        let mut nodes = Nodes::start(self.nodes as usize, self.processes)?;
        let start = Instant::now();
        let load = Load::start(nodes.contacts(), self.clients as usize)?;
        let extremes = self.churn(&mut nodes, &load)?;
        // Operations still under way may wait for a node that leaves, and would lengthen the run.
        let took = start.elapsed();
        load.drain()?;
        nodes.settle()?;
        load.set_contacts(nodes.contacts())?;
        let clients = load.check()?;
        let (lost, wrong_reads) = (&clients.checker.lost, &clients.checker.wrong_reads);
        let unreadable = lost.iter().filter(|lost| lost.unreadable).count();
        let mut text = TEXT.replace(
            "{KIND}",
            if self.processes {
                "processes"
            } else {
                "threads"
            },
        );
        if unreadable > 0 {
            text += ", of which {unreadable} because nobody answers";
        }
        let summary = self.summary(&nodes, &clients, extremes, took, unreadable);
        print::figures(self.json, &summary, &(text + "\n"))?;
        for lost in lost.iter().take(LOST_SHOWN_MAX) {
            eprintln!("lost: {lost}");
        }
        for wrong in wrong_reads.iter().take(LOST_SHOWN_MAX) {
            eprintln!("wrong read: {wrong}");
        }
        let held = lost.is_empty() && wrong_reads.is_empty() && nodes.leaves.failed == 0;
        Ok(Answer::yes_if(held))
    }

    /// Lets nodes join and leave for the time of the run; the least and the most members there were.
    fn churn(&self, nodes: &mut Nodes, load: &Load) -> Result<(usize, usize)> {
        let (start, length) = (Instant::now(), Duration::from_secs(self.seconds));
        let (mut least, mut most) = (nodes.members(), nodes.members());
        let mut events = 0_u64;
        while start.elapsed() < length {
            if nodes.look() {
                load.set_contacts(nodes.contacts())?;
            }
            if start.elapsed().as_secs_f64() * self.churn > events as f64 + 0.5 {
                events += 1;
                self.event(nodes, load)?;
            }
            least = least.min(nodes.members());
            most = most.max(nodes.members());
            pause()?;
        }
        Ok((least, most))
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
        (least, most): (usize, usize),
        took: Duration,
        unreadable: usize,
    ) -> Value {
        let (checker, [gets, inserts, removes]) = (&run.checker, &run.times);
        let seconds = took.as_secs_f64();
        json!({
            "nodes": self.nodes,
            "processes": self.processes,
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
            "lost": checker.lost.len(),
            // Lost keys for which no node answered.
            "unreadable": unreadable,
        })
    }
}

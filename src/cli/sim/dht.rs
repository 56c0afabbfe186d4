//! `peerloop sim dht`: a ring, a plan of faults, and what came of it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use log::LevelFilter;
use serde_json::{Value, json};

use peerloop::engine::Ticks;
use peerloop::lab::dht::{Experiment, Load, Plan, Quiet, Setup};
use peerloop::sim::Span;

use super::picture;
use crate::cli::background::{catch_interrupts, check_interrupts};
use crate::cli::options::within;
use crate::cli::{Answer, print};

/// Violations that are printed.
const SHOWN_MAX: usize = 10;

/// Virtual time between two looks at the progress.
const STEP: Ticks = Ticks::from_secs(5);

/// Virtual time over which a ring is measured that nobody uses.
const QUIET: Ticks = Ticks::from_secs(300);

#[derive(Args)]
pub(in crate::cli) struct DhtArgs {
    /// Members at the start
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = within::<u32>(1..=1024))]
    nodes: u32,
    /// Members that have each entry; with 1 there are no copies, and members that crash come back at once with their disks
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = within::<u32>(1..=8))]
    replicas: u32,
    /// Virtual time
    #[arg(long, value_name = "M", default_value_t = 60, value_parser = within::<u64>(1..=100_000))]
    minutes: u64,
    /// Members that crash; most come back, new ones take the place of the others. At most R - 1 are dead at once
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = within::<u32>(0..=100_000))]
    crashes: u32,
    /// Nodes that join
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = within::<u32>(0..=100_000))]
    joins: u32,
    /// Members that leave
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = within::<u32>(0..=100_000))]
    leaves: u32,
    /// Members that do nothing for 1 to 60 s, and then go on
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = within::<u32>(0..=100_000))]
    stalls: u32,
    /// Members whose connections are all reset at once
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = within::<u32>(0..=100_000))]
    resets: u32,
    /// Disks that are slow for a while; only with --durable
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = within::<u32>(0..=100_000))]
    slow_disks: u32,
    /// Operations of clients, spread over the time
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = within::<u64>(0..=100_000_000))]
    ops: u64,
    /// Members have disks, and acknowledge what is on them; always with --replicas 1
    #[arg(long)]
    durable: bool,
    /// The same seed and arguments give the same run; one is drawn when it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Draw the ring over time
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed without `--json`.
const TEXT: &str = "\
ring        {nodes} members at the start, {nodes_end} at the end; R = {replicas}, {STORAGE}
time        {minutes:.0} minutes in {real_seconds:.1} s: {times_real:.0} times real time{INTERRUPTED}
faults      {crashes} crashes, {joins} joins, {leaves} leaves, {stalls} stalls, {resets} resets, {slow_disks} slow disks; {given_up} could not be
operations  {operations}: {writes} writes, {reads} reads; {unknown} writes without an answer, {failed_reads} reads
repair s    {repair_seconds:.1}  of {repairs}
gaps s      {gap_seconds:.3}  of {gaps}
messages    {messages_per_node_minute:.0} per node and minute; {quiet_messages_per_node_minute:.1} when it is quiet
violations  {violations}
lost        {lost}
seed        {seed}
";

impl DhtArgs {
    pub(super) fn run(self) -> Result<Answer> {
        catch_interrupts()?;
        // The warnings of simulated nodes are no news to who kills them; with -v they are wanted.
        if log::max_level() <= LevelFilter::Warn {
            log::set_max_level(LevelFilter::Off);
        }
        let seed = self.seed.unwrap_or_else(rand::random);
        let start = Instant::now();
        // The run is measured in virtual minutes, the bar in virtual seconds.
        let bar = print::bar(
            "{wide_bar} {pos}/{len} s  {msg}",
            self.minutes.saturating_mul(60),
        );
        bar.set_message(format!("seed {seed}"));
        let mut experiment = Experiment::new(self.setup(seed), self.plan());
        let mut is_over = false;
        while !is_over && check_interrupts().is_ok() {
            is_over = !experiment.step(STEP);
            show(&bar, seed, &mut experiment);
        }
        let minutes = experiment.progress().0 as f64 / 60.0;
        let messages = experiment.messages_per_node_minute();
        bar.set_message("settles");
        let mut quiet = Quiet::default();
        if is_over {
            experiment.finish();
            quiet = experiment.ring.measure_quiet(QUIET);
        }
        bar.finish_and_clear();
        let took = start.elapsed().as_secs_f64();
        let mut summary = self.summary(seed, &experiment, minutes);
        for (name, value) in [
            ("real_seconds", json!(took)),
            ("times_real", json!(minutes * 60.0 / took)),
            ("interrupted", json!(!is_over)),
            ("messages_per_node_minute", json!(messages)),
            (
                "quiet_messages_per_node_minute",
                json!(quiet.messages_per_node_minute),
            ),
            (
                "quiet_wakeups_per_node_minute",
                json!(quiet.turns_per_node_minute),
            ),
        ] {
            summary[name] = value;
        }
        if let Some(path) = &self.svg {
            let svg = picture::svg(&experiment.ring, &summary);
            print::write_file(path, svg.as_bytes())?;
        }
        print::figures(self.json, &summary, &self.text(is_over))?;
        let violations = experiment.ring.violations();
        if !self.json {
            for violation in violations.iter().take(SHOWN_MAX) {
                eprintln!("violation: {violation}");
            }
        }
        Ok(Answer::yes_if(violations.is_empty()))
    }

    fn text(&self, is_over: bool) -> String {
        let storage = if self.is_durable() {
            "on disks"
        } else {
            "in memory"
        };
        let interrupted = if is_over { "" } else { ", interrupted" };
        TEXT.replace("{STORAGE}", storage)
            .replace("{INTERRUPTED}", interrupted)
    }

    fn is_durable(&self) -> bool {
        self.durable || self.replicas == 1
    }

    fn setup(&self, seed: u64) -> Setup {
        Setup {
            seed,
            replicas: self.replicas as usize,
            durable: self.is_durable(),
            disk: Span::us(100, 3_000),
            quanta: peerloop::proto::dht::node::Quanta::default(),
            load: Load {
                clients: 64,
                keys: 256,
                shared: 0.2,
            },
            panics: false,
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            nodes: self.nodes as usize,
            minutes: self.minutes,
            joins: self.joins as usize,
            leaves: self.leaves as usize,
            crashes: self.crashes as usize,
            stalls: self.stalls as usize,
            resets: self.resets as usize,
            slow_disks: if self.is_durable() {
                self.slow_disks as usize
            } else {
                0
            },
            operations: self.ops,
        }
    }

    fn summary(&self, seed: u64, experiment: &Experiment, minutes: f64) -> Value {
        let ring = &experiment.ring;
        let times = |what| ring.tally().times(what);
        let faults = |what| experiment.faults().times(what);
        let (gaps, gaps_open) = ring.timeline().gaps();
        let violations = ring.violations().iter();
        let violations: Vec<Value> = violations
            .map(|found| {
                json!({"seconds": found.seconds(), "check": found.check.to_string(), "what": found.what})
            })
            .collect();
        let mut summary = json!({
            "seed": seed,
            "nodes": self.nodes,
            "nodes_end": ring.size(),
            "replicas": self.replicas,
            "durable": self.is_durable(),
            "minutes": minutes,
            "crashes": faults("crashes"),
            "joins": faults("joins"),
            "leaves": faults("leaves"),
            "stalls": faults("stalls"),
            "resets": faults("resets"),
            "slow_disks": faults("slow disks"),
            "given_up": experiment.given_up(),
            "operations": experiment.operations(),
            "writes": times("writes"),
            "reads": times("reads"),
            "unknown": times("unknown"),
            "failed_reads": times("failed reads"),
            "repairs": ring.repairs_us().len(),
            "repair_seconds": seconds(ring.repairs_us()),
            "gaps": gaps.len(),
            "gaps_open": gaps_open,
            "gap_seconds": seconds(gaps),
            "violations": ring.violations().len(),
            "lost": ring.lost(),
        });
        if self.json {
            summary["found"] = json!(violations);
        }
        summary
    }
}

fn show(bar: &ProgressBar, seed: u64, experiment: &mut Experiment) {
    bar.set_position(experiment.progress().0);
    let (members, violations) = (experiment.ring.size(), experiment.ring.violations().len());
    bar.set_message(format!(
        "{members} members, {violations} violations, seed {seed}"
    ));
}

/// Percentiles, in seconds.
fn seconds(us: &[u64]) -> Value {
    let mut sorted = us.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        let last = sorted.len().saturating_sub(1);
        let value = sorted.get((last * percent).div_ceil(100));
        value.copied().unwrap_or(0) as f64 / 1e6
    };
    json!({"p50": at(50), "p99": at(99), "max": at(100)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parses;

    #[test]
    fn arguments() {
        assert!(parses("sim dht"));
        assert!(parses(
            "sim dht --nodes 64 --replicas 3 --crashes 40 --minutes 60 --seed 1 --svg x --json --durable"
        ));
        assert!(!parses("sim dht --replicas 0"));
        assert!(!parses("sim dht --nodes 0"));
    }

    #[test]
    fn percentiles_of_few_and_of_none() {
        assert_eq!(seconds(&[]), json!({"p50": 0.0, "p99": 0.0, "max": 0.0}));
        let of_two = seconds(&[3_000_000, 1_000_000]);
        assert_eq!(of_two, json!({"p50": 3.0, "p99": 3.0, "max": 3.0}));
    }

    /// A ring of one minute is drawn, and every coordinate is a number.
    #[test]
    fn the_picture_of_a_run_is_whole() {
        let args = DhtArgs {
            nodes: 4,
            replicas: 1,
            minutes: 1,
            crashes: 1,
            joins: 1,
            leaves: 1,
            stalls: 1,
            resets: 1,
            slow_disks: 1,
            ops: 50,
            durable: true,
            seed: Some(1),
            svg: None,
            json: true,
        };
        let mut experiment = Experiment::new(args.setup(1), args.plan());
        while experiment.step(STEP) {}
        let summary = args.summary(1, &experiment, 1.0);
        let svg = picture::svg(&experiment.ring, &summary);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        for what in ["10.1.0.1<", "class=\"serves\"", "class=\"crash\"", "R = 1"] {
            assert!(svg.contains(what), "no {what}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

//! `peerloop load`: many connections ask one node; how fast does it answer?
//!
//! ```text
//!  Talker         Connections          Driver            Measurement
//!  requests and   dial, send, read  →  when a request →  histograms,
//!  answers of     (a Service)          is due; phases    rate over time
//!  a protocol
//! ```
//!
//! `stress` uses the same driver. Its talkers also check each answer against what was promised.

pub(super) mod connections;
mod dht;
pub(super) mod driver;
pub(super) mod histogram;
mod index;
mod overlay;
mod plot;
mod ring;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;

use super::addr::resolve;
use super::options::within;
use super::{Answer, print};
use connections::{Connections, Talker};
use driver::{Plan, Until};

/// Between two updates of the line on the terminal.
const LIVE_EVERY: Duration = Duration::from_millis(500);

/// A sleep ends this long before a request is due: a sleeping thread is woken up to 60 us late.
const AWAKE_BEFORE_DUE: Duration = Duration::from_micros(100);

/// Idle limit of a connection: an open loop at a low rate leaves connections idle.
const SILENCE_MAX_SECS: u64 = 86_400;

/// Requests under way on all connections: a gigabyte of memory.
const UNDER_WAY_MAX: usize = 16 << 20;

/// Longest answer: over 64 KiB and a header.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What is printed without `--json`.
const TEXT: &str = "\
load        {protocol} {request} at {target}
connections {connections}, {depth} in flight on each; closed loop
answers     {answers} in {seconds:.2} s: {rate:.0}/s; {refused} refused, {unanswered} missing
latency us  min {latency_us.min:.1}  mean {latency_us.mean:.1}  p50 {latency_us.p50:.1}  \
p90 {latency_us.p90:.1}  p99 {latency_us.p99:.1}  p99.9 {latency_us.p99_9:.1}  \
p99.99 {latency_us.p99_99:.1}  max {latency_us.max:.1}
";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Data commands on a DHT node
    Dht(dht::DhtArgs),
    /// Joins at an overlay peer, each on a connection of its own; a redirect counts as refused
    Overlay(overlay::OverlayArgs),
    /// Messages to a tracker, or to a peer of its ring
    Ring(ring::RingArgs),
    /// Keep-alives or searches at an index server
    Index(index::IndexArgs),
}

#[derive(Args)]
struct Common {
    /// The node that is asked
    #[arg(value_name = "IP:PORT", value_parser = resolve)]
    addr: SocketAddrV4,
    /// Connections
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = within::<u32>(1..=1_000_000))]
    connections: u32,
    /// Requests under way on each connection
    #[arg(short, long, value_name = "D", default_value_t = 1, value_parser = within::<u32>(1..=4096))]
    depth: u32,
    /// Requests a second in all, whatever the answers do (open loop); without it each answer makes room for the next request (closed loop)
    #[arg(short, long, value_name = "R", value_parser = within::<f64>(0.001..=1e8))]
    rate: Option<f64>,
    /// How long it is measured
    #[arg(short, long, value_name = "S", default_value_t = 5.0, value_parser = within::<f64>(0.01..=86_400.0))]
    seconds: f64,
    /// Load before it is measured
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = within::<f64>(0.0..=86_400.0))]
    warm_up: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw latency by percentile, and the rate over time, into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Dht(args) => args.run(),
            Command::Overlay(args) => args.run(),
            Command::Ring(args) => args.run(),
            Command::Index(args) => args.run(),
        }
    }
}

/// Runs a load and prints what was measured.
fn load<T: Talker>(
    common: &Common,
    protocol: &'static str,
    request: String,
    talker: T,
) -> Result<Answer> {
    let plan = Plan {
        connections: common.connections as usize,
        // A connection that ends with its answer has one request.
        depth: if talker.is_once() {
            1
        } else {
            common.depth as usize
        },
        rate: common.rate,
        warm_up: Duration::try_from_secs_f64(common.warm_up)?,
        until: Until::Elapsed(Duration::try_from_secs_f64(common.seconds)?),
    };
    ensure!(
        plan.connections.saturating_mul(plan.depth) <= UNDER_WAY_MAX,
        "--connections {} and --depth {} are over {UNDER_WAY_MAX} requests at once; lower one of them",
        plan.connections,
        plan.depth
    );
    let mut summary = json!({
        "protocol": protocol,
        "request": request,
        "target": common.addr.to_string(),
        "connections": plan.connections,
        "depth": plan.depth,
    });
    let mut text = TEXT.to_owned();
    if let Some(rate) = plan.rate {
        summary["rate_asked"] = rate.into();
        text = text.replace("closed loop", "open loop, {rate_asked} a second");
    }
    let driver = run_to_end(common.addr, talker, plan)?.driver;
    let measurement = &driver.measurement;
    measurement.tell(&mut summary, &driver.errors, driver.under_way);
    if let Some(path) = &common.svg {
        print::write_file(path, plot::svg(measurement, &summary)?.as_bytes())?;
    }
    for (error, count) in &driver.errors {
        text += &format!("ended       {count} connections: {error}\n");
    }
    print::figures(common.json, &summary, &text)?;
    ensure!(measurement.answers() > 0, "no answer came");
    Ok(Answer::Yes)
}

/// Runs a load until its plan is done, or Ctrl-C ends it.
pub(super) fn run_to_end<T: Talker>(
    addr: SocketAddrV4,
    talker: T,
    plan: Plan,
) -> Result<Connections<T>> {
    let limits = Limits {
        dials_max: Limits::default().dials_max.max(plan.connections),
        idle: Ticks::from_secs(SILENCE_MAX_SECS),
        // A long value is written whole.
        output_bytes_max: usize::MAX,
        // An answer that is taken whole fits: the longest are those of the index server.
        input_bytes_max: ANSWER_BYTES_MAX,
        ..Limits::default()
    };
    let mut reactor = Reactor::new(Connections::new(addr, talker, plan)?, limits)?;
    let room = reactor.node().limits().conns_max;
    ensure!(
        plan.connections <= room,
        "{} connections are more than the {room} that the file limit leaves room for (ulimit -Hn)",
        plan.connections
    );
    reactor.catch_signals()?;
    let mut live = Live::start();
    reactor.node().with(|load, hub| load.pace(hub));
    while !reactor.node().stopping() {
        let load = reactor.node().service();
        let sleep = load.sleep().min(LIVE_EVERY);
        let awaits_answers = load.driver.under_way > 0;
        reactor.turn(Some(sleep_of_poll(sleep, awaits_answers)))?;
        reactor.node().with(|load, hub| load.pace(hub));
        let load = reactor.node().service();
        if load.cannot_begin() {
            bail!("{addr}: {}", load.driver.first_error());
        }
        live.show(load);
    }
    live.bar.finish_and_clear();
    Ok(reactor.into_service())
}

/// How long the poll may sleep when nothing is due for `sleep`.
///
/// The kernel's poll counts in milliseconds and rounds up, so it gets the whole ones only. The rest is slept here while
/// no answer can come, but for the end, which is waited for awake: requests leave when they are due.
fn sleep_of_poll(sleep: Duration, awaits_answers: bool) -> Duration {
    let whole = Duration::from_millis(sleep.as_millis() as u64);
    if whole.is_zero() {
        match sleep.checked_sub(AWAKE_BEFORE_DUE) {
            Some(rest) if !awaits_answers => thread::sleep(rest),
            // Lets other processes on this core run: another load, a probe.
            _ => thread::yield_now(),
        }
    }
    whole
}

/// The progress line, if stderr is a terminal.
struct Live {
    bar: ProgressBar,
    shown: Instant,
    answers: u64,
}

impl Live {
    fn start() -> Live {
        Live {
            bar: ProgressBar::no_length().with_style(
                ProgressStyle::with_template("{msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            ),
            shown: Instant::now(),
            answers: 0,
        }
    }

    fn show<T: Talker>(&mut self, load: &Connections<T>) {
        let since = self.shown.elapsed();
        if since < LIVE_EVERY {
            return;
        }
        let (answers, last) = load.driver.measurement.last();
        let rate = (answers - self.answers) as f64 / since.as_secs_f64();
        let (p50, p99) = last.map_or((0.0, 0.0), |last| (last.p50_us, last.p99_us));
        let open = load.open;
        self.bar.set_message(format!(
            "{open} open  {rate:.0}/s  p50 {p50:.0} us  p99 {p99:.0} us  {answers} answers"
        ));
        (self.shown, self.answers) = (Instant::now(), answers);
    }
}

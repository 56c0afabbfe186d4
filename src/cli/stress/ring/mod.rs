//! `peerloop stress ring`: a tracker and many peers that gather its items, some of which are killed on the way.
//!
//! Kills come at random peers when a random share of all items has been gathered, or soon after the one before. When an item is lost with them,
//! nobody can complete: then newcomers register, who are given the items in turn, until the living have all of
//! them again; so in the end everybody who lives can complete, and has to.

pub(in crate::cli) mod swarm;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use rand::RngExt;
use serde::Serialize;

use peerloop::engine::Ticks;
use peerloop::proto::ring::tracker::Config;

use super::{Answer, Interrupt};
use crate::cli::options::within;
use crate::cli::print;
use swarm::Swarm;

/// Between two looks at all peers while nothing else happens; a look at 5,000 of them takes about 0.1 ms.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Between two newcomers that bring back what is lost: time to register and to be asked.
const ADD_EVERY: Duration = Duration::from_millis(20);

/// So long after a kill the next one comes whatever was gathered: shares that were taken along are never reached.
const KILL_AFTER: Duration = Duration::from_millis(250);

#[derive(Args)]
pub(in crate::cli) struct RingArgs {
    /// Peers at the start
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = within::<u32>(1..=20_000))]
    peers: u32,
    /// Items in the database
    #[arg(long, value_name = "M", default_value_t = 100, value_parser = within::<u32>(1..=100_000))]
    items: u32,
    /// Peers that are killed on the way [default: a tenth]
    #[arg(long, value_name = "N", value_parser = within::<u32>(0..=19_999))]
    kill: Option<u32>,
    /// Each peer is pinged once in this time
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = within::<u64>(1..=3600))]
    ping_interval: u64,
    /// A peer that does not answer within this is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = within::<u64>(1..=3600))]
    ping_timeout: u64,
    /// Whoever has not completed by then never will
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = within::<u64>(1..=86_400))]
    within: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Summary {
    peers: u32,
    items: u32,
    killed: usize,
    /// Who brought back what was lost with the killed.
    added: u32,
    alive: usize,
    complete: usize,
    seconds_to_completion: f64,
    /// Of those, from when every item was in the ring and nobody was killed any more.
    seconds_with_all_items: f64,
    queries: u64,
    queries_per_second: f64,
    registered: u64,
    reg_inits: u64,
    updates: u64,
    tracker_messages_per_registration: f64,
    pruned: u64,
    pings_per_second: f64,
    /// The neighbours that the living know are one ring, the tracker's.
    one_ring: bool,
    seconds_to_one_ring: f64,
}

impl RingArgs {
    pub(in crate::cli) fn run(self) -> Result<Answer> {
        let interrupt = Interrupt::catch()?;
        let kills = self.kill.unwrap_or(self.peers / 10);
        ensure!(
            kills < self.peers,
            "--kill {kills} leaves none of the {} peers",
            self.peers
        );
        let config = Config {
            ping_interval: Ticks::from_secs(self.ping_interval),
            ping_timeout: Ticks::from_secs(self.ping_timeout),
            ..Config::default()
        };
        let items = (0..self.items).map(|n| format!("item{n}").into());
        let mut swarm = Swarm::start(config, items.collect())?;
        let peers_max = swarm.peers_max();
        ensure!(
            self.peers as usize <= peers_max,
            "the file limit is enough for {peers_max} peers; ulimit -n says how to raise it"
        );
        let start = Instant::now();
        for _ in 0..self.peers {
            swarm.add()?;
        }
        let summary = self.watch(&mut swarm, kills, start, &interrupt)?;
        swarm.stop()?;
        if self.json {
            print::json(&summary)?;
        } else {
            print::stdout(summary.to_string().as_bytes())?;
        }
        let held = summary.complete == summary.alive && summary.one_ring;
        Ok(if held { Answer::Yes } else { Answer::No })
    }

    fn watch(
        &self,
        swarm: &mut Swarm,
        kills: u32,
        start: Instant,
        interrupt: &Interrupt,
    ) -> Result<Summary> {
        let (added, whole_since) = self.complete(swarm, kills, start, interrupt)?;
        let completed = start.elapsed();
        let look = swarm.look()?;
        let one_ring = self.settle(swarm, interrupt)?;
        let settled = start.elapsed();
        let pings_per_second = self.count_pings(swarm, interrupt)?;
        let counts = swarm.counts()?;
        let messages = (counts.reg_inits + counts.updates) as f64;
        Ok(Summary {
            peers: self.peers,
            items: self.items,
            killed: swarm.killed(),
            added,
            alive: look.alive,
            complete: look.complete,
            seconds_to_completion: completed.as_secs_f64(),
            seconds_with_all_items: whole_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            queries: look.queries,
            queries_per_second: look.queries as f64 / completed.as_secs_f64(),
            registered: counts.registered,
            reg_inits: counts.reg_inits,
            updates: counts.updates,
            tracker_messages_per_registration: messages / counts.registered as f64,
            pruned: counts.pruned,
            pings_per_second,
            one_ring,
            seconds_to_one_ring: settled.as_secs_f64(),
        })
    }

    /// Runs until everybody who lives has everything, or the time is up. Returns how many had to be added, and since
    /// when every item is in the ring, if it ever was after the last kill.
    fn complete(
        &self,
        swarm: &mut Swarm,
        kills: u32,
        start: Instant,
        interrupt: &Interrupt,
    ) -> Result<(u32, Option<Instant>)> {
        let within = Duration::from_secs(self.within);
        let all = u64::from(self.peers) * u64::from(self.items);
        let mut shares: Vec<f64> = (0..kills).map(|_| rand::rng().random()).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        let (mut added, mut looked, mut grown) = (0, Instant::now(), Instant::now());
        let mut kill_by = Instant::now() + KILL_AFTER;
        let mut whole_since = None;
        while start.elapsed() < within {
            interrupt.check()?;
            swarm.turn()?;
            // Everything else takes a look at all peers.
            if looked.elapsed() < LOOK_EVERY {
                continue;
            }
            looked = Instant::now();
            let look = swarm.look()?;
            let share = look.gathered as f64 / all as f64;
            let late = look.complete == look.alive || Instant::now() >= kill_by;
            if shares.last().is_some_and(|next| late || *next <= share) {
                shares.pop();
                swarm.kill_one()?;
                kill_by = Instant::now() + KILL_AFTER;
            } else if shares.is_empty() && look.complete == look.alive {
                break;
            } else if shares.is_empty()
                && whole_since.is_none()
                && look.registered == look.alive
                && grown.elapsed() >= ADD_EVERY
            {
                grown = Instant::now();
                if swarm.lost()? == 0 {
                    whole_since = Some(grown);
                } else {
                    swarm.add()?;
                    added += 1;
                }
            }
        }
        Ok((added, whole_since))
    }

    /// Waits until the ring has closed over the killed: an interval, a timeout, and some time for the updates.
    fn settle(&self, swarm: &mut Swarm, interrupt: &Interrupt) -> Result<bool> {
        let within = Duration::from_secs(2 * (self.ping_interval + self.ping_timeout) + 10);
        let start = Instant::now();
        while start.elapsed() < within {
            interrupt.check()?;
            let until = Instant::now() + LOOK_EVERY * 4;
            while Instant::now() < until {
                swarm.turn()?;
            }
            if swarm.is_one_ring()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Pings a second, over one interval.
    fn count_pings(&self, swarm: &mut Swarm, interrupt: &Interrupt) -> Result<f64> {
        let (before, start) = (swarm.counts()?.pings, Instant::now());
        while start.elapsed() < Duration::from_secs(self.ping_interval) {
            interrupt.check()?;
            swarm.turn()?;
        }
        let pings = swarm.counts()?.pings - before;
        Ok(pings as f64 / start.elapsed().as_secs_f64())
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "peers       {} at the start, {} killed, {} added, {} alive at the end",
            self.peers, self.killed, self.added, self.alive
        )?;
        writeln!(
            f,
            "items       {}; {} of {} have all of them after {:.2} s, {:.2} s after the last item came back",
            self.items,
            self.complete,
            self.alive,
            self.seconds_to_completion,
            self.seconds_with_all_items
        )?;
        writeln!(
            f,
            "queries     {}: {:.0}/s",
            self.queries, self.queries_per_second
        )?;
        writeln!(
            f,
            "tracker     {} registered, {} REG_INIT, {} UPDATE_NBR: {:.2} messages a registration",
            self.registered, self.reg_inits, self.updates, self.tracker_messages_per_registration
        )?;
        writeln!(
            f,
            "pings       {:.1}/s; {} pruned",
            self.pings_per_second, self.pruned
        )?;
        let ring = if self.one_ring { "one" } else { "broken" };
        writeln!(
            f,
            "ring        {ring}, {:.2} s after the start",
            self.seconds_to_one_ring
        )
    }
}

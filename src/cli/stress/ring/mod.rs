//! `peerloop stress ring`: a tracker and many peers that gather its items, some of which are killed on the way.
//!
//! A random peer is killed when a random share of all items has been gathered, or a while after the last kill. An item
//! may be lost with it, and then no peer can complete. So newcomers register, which are given the items in turn, until
//! every item is in the ring again. In the end every living peer must have all items.

pub(in crate::cli) mod swarm;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use rand::RngExt;
use serde_json::json;

use peerloop::engine::Ticks;
use peerloop::proto::ring::tracker::Config;

use crate::cli::background::{LOOK_EVERY, catch_interrupts};
use crate::cli::options::within;
use crate::cli::{Answer, print};
use swarm::Swarm;

/// Between two newcomers that bring lost items back: time to register and to be asked.
const ADD_EVERY: Duration = Duration::from_millis(20);

/// The next kill comes this long after the last one at the latest: a kill takes items along, and then a share of all items may never be reached.
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

/// What is printed without `--json`.
const TEXT: &str = "\
peers       {peers} at the start, {killed} killed, {added} added, {alive} alive at the end
items       {items}; {complete} of {alive} have all of them after {seconds_to_completion:.2} s, \
{seconds_with_all_items:.2} s after the last item came back
queries     {queries}: {queries_per_second:.0}/s
tracker     {registered} registered, {reg_inits} REG_INIT, {updates} UPDATE_NBR: \
{tracker_messages_per_registration:.2} messages a registration
pings       {pings_per_second:.1}/s; {pruned} pruned
ring        {RING}, {seconds_to_one_ring:.2} s after the start
";

impl RingArgs {
    pub(in crate::cli) fn run(self) -> Result<Answer> {
        catch_interrupts()?;
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
        let (added, whole_since) = self.complete(&mut swarm, kills, start)?;
        let completed = start.elapsed().as_secs_f64();
        let whole = whole_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let look = swarm.look()?;
        let one_ring = self.settle(&mut swarm)?;
        let settled = start.elapsed().as_secs_f64();
        let pings_per_second = self.count_pings(&mut swarm)?;
        let counts = swarm.counts()?;
        let messages = (counts.reg_inits + counts.updates) as f64;
        let summary = json!({
            "peers": self.peers,
            "items": self.items,
            "killed": swarm.killed(),
            // Newcomers that brought lost items back.
            "added": added,
            "alive": look.alive,
            "complete": look.complete,
            "seconds_to_completion": completed,
            // Of those, from when every item was in the ring and nobody was killed any more.
            "seconds_with_all_items": whole,
            "queries": look.queries,
            "queries_per_second": look.queries as f64 / completed,
            "registered": counts.registered,
            "reg_inits": counts.reg_inits,
            "updates": counts.updates,
            "tracker_messages_per_registration": messages / counts.registered as f64,
            "pruned": counts.pruned,
            "pings_per_second": pings_per_second,
            // The neighbours that the living know are one ring, the tracker's.
            "one_ring": one_ring,
            "seconds_to_one_ring": settled,
        });
        swarm.stop()?;
        let text = TEXT.replace("{RING}", if one_ring { "one" } else { "broken" });
        print::figures(self.json, &summary, &text)?;
        Ok(Answer::yes_if(look.complete == look.alive && one_ring))
    }

    /// Runs until everybody who lives has everything, or the time is up. Returns how many had to be added, and since
    /// when every item is in the ring, if it ever was after the last kill.
    fn complete(
        &self,
        swarm: &mut Swarm,
        kills: u32,
        start: Instant,
    ) -> Result<(u32, Option<Instant>)> {
        let within = Duration::from_secs(self.within);
        let all = u64::from(self.peers) * u64::from(self.items);
        let mut shares: Vec<f64> = (0..kills).map(|_| rand::rng().random()).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        let (mut added, mut looked, mut grown) = (0, Instant::now(), Instant::now());
        let mut kill_by = Instant::now() + KILL_AFTER;
        let mut whole_since = None;
        while start.elapsed() < within {
            swarm.turn()?;
            // Everything else takes a look at all peers: of 5,000 about 0.1 ms.
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
    fn settle(&self, swarm: &mut Swarm) -> Result<bool> {
        let within = 2 * (self.ping_interval + self.ping_timeout) + 10;
        swarm.turn_until(
            Duration::from_secs(within),
            LOOK_EVERY * 4,
            Swarm::is_one_ring,
        )
    }

    /// Pings a second, over one interval.
    fn count_pings(&self, swarm: &mut Swarm) -> Result<f64> {
        let (before, start) = (swarm.counts()?.pings, Instant::now());
        while start.elapsed() < Duration::from_secs(self.ping_interval) {
            swarm.turn()?;
        }
        let pings = swarm.counts()?.pings - before;
        Ok(pings as f64 / start.elapsed().as_secs_f64())
    }
}

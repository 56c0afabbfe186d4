//! `peerloop stress overlay`.

pub(in crate::cli) mod crowd;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use peerloop::net::raise_file_limit;

use crate::cli::background::catch_interrupts;
use crate::cli::options::within;
use crate::cli::overlay::graph::Graph;
use crate::cli::{Answer, print};

use crowd::{Crowd, Told};

/// Links that a joiner looks for, where there are descriptors and room for them: the default of a peer.
const LINKS: u32 = 3;

/// Descriptors that are no peer's: the program's own, and the ends of connections that are just being closed.
const FILES_KEPT_BACK: u64 = 64;

#[derive(Args)]
pub(in crate::cli) struct OverlayArgs {
    /// Peers, each with a listener of its own; all join through the first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = within::<u32>(2..=50_000))]
    peers: u32,
    /// Peers that each has at once
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = within::<u32>(1..=65_536))]
    table_size: u32,
    /// Links that each joiner looks for [default: 3, or what descriptors and tables have room for: with
    /// half a table or more per joiner the tables fill up before everybody is placed]
    #[arg(long, value_name = "L", value_parser = within::<u32>(1..=65_536))]
    links: Option<u32>,
    /// Joins under way at once
    #[arg(long, value_name = "J", default_value_t = 64, value_parser = within::<u32>(1..=1024))]
    at_once: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed without `--json`.
const TEXT: &str = "\
peers       {peers} with tables of {table_size}, looking for {links} links
placed      {placed} in {seconds:.2} s: {joins_per_second:.0} joins/s
not placed  {refused} for want of room, {missed} in spite of room
answers     {welcomes} welcomes, {redirects} redirects; {failures} dials failed
redirects   before the first welcome: mean {chain_mean:.1}, p99 {chain_p99}, max {chain_max}
shape       {components} parts, diameter {diameter}, degree {degree_min} to {degree_max}, \
mean {degree_mean:.1}; {one_sided} entries on one side only
";

impl OverlayArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let links = self.links()?;
        catch_interrupts()?;
        let crowd = Crowd::start(self.peers, self.table_size, links)?;
        let start = Instant::now();
        crowd.join_all(self.at_once)?;
        let took = start.elapsed();
        let (summary, held) = self.summary(links, took, &crowd.stop()?);
        print::figures(self.json, &summary, TEXT)?;
        Ok(Answer::yes_if(held))
    }

    /// Links of each joiner, as the descriptors allow.
    fn links(&self) -> Result<u32> {
        let files = raise_file_limit();
        let free = files.saturating_sub(FILES_KEPT_BACK);
        // A peer has a listener, a link has both ends here, and each join under way has a few connections.
        let fixed = u64::from(self.peers) + 8 * u64::from(self.at_once);
        let fit = free.saturating_sub(fixed) / (2 * u64::from(self.peers));
        ensure!(
            fit > 0,
            "{} peers with a listener and a link each take over {} descriptors, and this process may have {files}; \
             use fewer --peers",
            self.peers,
            fixed + 2 * u64::from(self.peers)
        );
        match self.links {
            Some(links) => {
                ensure!(
                    u64::from(links) <= fit,
                    "--links {links} of {} peers does not fit into {files} descriptors; {fit} does",
                    self.peers
                );
                Ok(links.min(self.table_size))
            }
            // A joiner takes a place in each of these tables, and adds one table.
            None => {
                let room = ((self.table_size - 1) / 2).max(1);
                Ok(LINKS.min(room).min(u32::try_from(fit).unwrap_or(LINKS)))
            }
        }
    }

    /// The figures; and whether all peers were placed that could be, and every entry has its counterpart.
    fn summary(&self, links: u32, took: Duration, told: &Told) -> (Value, bool) {
        let graph = Graph::new(
            told.tables
                .iter()
                .map(|(addr, table)| (*addr, table.clone())),
        );
        let parts = graph.parts();
        let degrees: Vec<usize> = graph.degrees().collect();
        let (not_placed, tally) = (told.unplaced.len(), &told.tally);
        let missed = told.missed(&graph, &parts, self.table_size as usize);
        let one_sided = told.one_sided();
        let summary = json!({
            "peers": self.peers,
            "table_size": self.table_size,
            "links": links,
            // Until the last join was over.
            "seconds": took.as_secs_f64(),
            "joins_per_second": f64::from(self.peers - 1) / took.as_secs_f64(),
            "placed": self.peers as usize - not_placed,
            // Peers without a place: no peer had room (refused), or one had (missed).
            "refused": not_placed - missed,
            "missed": missed,
            "welcomes": tally.welcomes,
            "redirects": tally.redirects,
            "failures": tally.failures,
            "chain_mean": tally.chains.mean(),
            "chain_p99": tally.chains.value_at_quantile(0.99),
            "chain_max": tally.chains.max(),
            "components": parts.len(),
            "diameter": parts.first().map_or(0, |part| graph.diameter(part)),
            "degree_min": degrees.iter().min().unwrap_or(&0),
            "degree_mean": degrees.iter().sum::<usize>() as f64 / degrees.len().max(1) as f64,
            "degree_max": degrees.iter().max().unwrap_or(&0),
            // Entries without a counterpart at the other end.
            "one_sided": one_sided,
        });
        (summary, missed == 0 && one_sided == 0)
    }
}

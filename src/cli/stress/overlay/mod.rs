//! `peerloop stress overlay`.

pub(in crate::cli) mod crowd;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use peerloop::net::raise_file_limit;

use crate::cli::options::within;
use crate::cli::overlay::graph::Graph;
use crate::cli::{Answer, print};

use super::{Interrupt, pause};
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

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    peers: u32,
    table_size: u32,
    links: u32,
    /// Until the last join was over.
    seconds: f64,
    joins_per_second: f64,
    placed: u32,
    /// Found nobody with room, and there was nobody.
    refused: u32,
    /// Found nobody with room, and there was somebody.
    missed: u32,
    welcomes: u64,
    redirects: u64,
    failures: u64,
    chain_mean: f64,
    chain_p99: u64,
    chain_max: u64,
    components: usize,
    diameter: usize,
    degree_min: usize,
    degree_mean: f64,
    degree_max: usize,
    /// Entries that the peer at the other end does not have, or that name nobody.
    one_sided: usize,
}

impl OverlayArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let links = self.links()?;
        let interrupt = Interrupt::catch()?;
        let crowd = Crowd::start(self.peers, self.table_size, links)?;
        let start = Instant::now();
        crowd.join_all(self.at_once, &mut || {
            pause();
            interrupt.check()
        })?;
        let took = start.elapsed();
        let summary = self.summary(links, took, &crowd.stop()?);
        if self.json {
            print::json(&summary)?;
        } else {
            print::stdout(summary.to_string().as_bytes())?;
        }
        let held = summary.missed == 0 && summary.one_sided == 0;
        Ok(if held { Answer::Yes } else { Answer::No })
    }

    /// As many links a joiner as fit.
    fn links(&self) -> Result<u32> {
        let files = raise_file_limit();
        let free = files.saturating_sub(FILES_KEPT_BACK);
        // Besides listeners and links, of which both ends are here, each join has a few on the way.
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
            // A joiner takes a place in as many tables, and brings one of its own.
            None => {
                let room = ((self.table_size - 1) / 2).max(1);
                Ok(LINKS.min(room).min(u32::try_from(fit).unwrap_or(LINKS)))
            }
        }
    }

    fn summary(&self, links: u32, took: Duration, told: &Told) -> Summary {
        let graph = Graph::new(
            told.tables
                .iter()
                .map(|(addr, table)| (*addr, table.clone())),
        );
        let parts = graph.parts();
        let degrees: Vec<usize> = graph.degrees().collect();
        let refused = told.unplaced.len();
        let missed = told.missed(&graph, &parts, self.table_size as usize);
        Summary {
            peers: self.peers,
            table_size: self.table_size,
            links,
            seconds: took.as_secs_f64(),
            joins_per_second: f64::from(self.peers - 1) / took.as_secs_f64(),
            placed: self.peers - refused as u32,
            refused: (refused - missed) as u32,
            missed: missed as u32,
            welcomes: told.tally.welcomes,
            redirects: told.tally.redirects,
            failures: told.tally.failures,
            chain_mean: told.tally.chains.mean(),
            chain_p99: told.tally.chains.value_at_quantile(0.99),
            chain_max: told.tally.chains.max(),
            components: parts.len(),
            diameter: parts.first().map_or(0, |part| graph.diameter(part)),
            degree_min: degrees.iter().copied().min().unwrap_or(0),
            degree_mean: degrees.iter().sum::<usize>() as f64 / degrees.len().max(1) as f64,
            degree_max: degrees.iter().copied().max().unwrap_or(0),
            one_sided: told.one_sided(),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "peers       {} with tables of {}, looking for {} links",
            self.peers, self.table_size, self.links
        )?;
        writeln!(
            f,
            "placed      {} in {:.2} s: {:.0} joins/s",
            self.placed, self.seconds, self.joins_per_second
        )?;
        writeln!(
            f,
            "not placed  {} for want of room, {} in spite of room",
            self.refused, self.missed
        )?;
        writeln!(
            f,
            "answers     {} welcomes, {} redirects; {} dials failed",
            self.welcomes, self.redirects, self.failures
        )?;
        writeln!(
            f,
            "redirects   before the first welcome: mean {:.1}, p99 {}, max {}",
            self.chain_mean, self.chain_p99, self.chain_max
        )?;
        writeln!(
            f,
            "shape       {} parts, diameter {}, degree {} to {}, mean {:.1}; {} entries on one side only",
            self.components,
            self.diameter,
            self.degree_min,
            self.degree_max,
            self.degree_mean,
            self.one_sided
        )
    }
}

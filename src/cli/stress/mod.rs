//! `peerloop stress`: many nodes on loopback under load, and whether everything that was promised held.

pub(super) mod dht;
mod index;
pub(super) mod overlay;
pub(super) mod ring;

use anyhow::Result;
use clap::Subcommand;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Answer;

#[derive(Subcommand)]
pub(super) enum Command {
    /// A DHT ring whose nodes join, leave or crash while clients write and read; exits 1 when an acknowledged write is lost, something that was removed comes back, or a node cannot leave
    Dht(dht::DhtArgs),
    /// cPTP peers that all join through one; exits 1 when a peer that could be placed was not
    Overlay(overlay::OverlayArgs),
    /// A tracker and its ring, of which some are killed; exits 1 when somebody who could complete did not, or the ring does not close
    Ring(ring::RingArgs),
    /// An index server with many peers and searches, and a kill -9; exits 1 when a result is wrong or a registration lost
    Index(index::IndexArgs),
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

/// Percentiles in milliseconds.
fn latency_ms(ns: &Histogram<u64>) -> Value {
    let at = |percent| ns.value_at_percentile(percent) as f64 / 1e6;
    json!({
        "p50": at(50.0), "p90": at(90.0), "p99": at(99.0), "p99_9": at(99.9), "max": at(100.0)
    })
}

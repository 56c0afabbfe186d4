//! `peerloop stress`: many nodes on loopback under load, and whether everything that was promised held.

mod dht;
pub(super) mod load;
pub(super) mod ring;

use anyhow::Result;
use clap::Subcommand;

use super::Answer;

#[derive(Subcommand)]
pub(super) enum Command {
    /// A DHT ring whose nodes join and leave while clients write and read; exits 1 when an acknowledged write is lost, or a node cannot leave
    Dht(dht::DhtArgs),
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Dht(args) => args.run(),
        }
    }
}

//! `peerloop sim`: the protocols in the simulator, for people who study them.

mod dht;
mod picture;

use anyhow::Result;
use clap::Subcommand;

use super::Answer;

#[derive(Subcommand)]
pub(super) enum Command {
    /// A DHT ring whose members crash, stall, join and leave while clients write and read, in virtual time; exits 1 when something does not hold that must
    Dht(dht::DhtArgs),
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Dht(args) => args.run(),
        }
    }
}

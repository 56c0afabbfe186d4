//! `peerloop ring`: a tracker, a peer, and the commands that ask one of them something.

mod ask;
mod database;
mod peer;
mod tracker;
mod values;

use anyhow::Result;
use clap::Subcommand;

use super::Answer;

pub(super) use tracker::tracker;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a tracker. Its first line on stdout is `listening IP:PORT`
    Tracker(tracker::TrackerArgs),
    /// Run a peer, which prints the assembled message when it has all items and goes on serving. Its first line on stdout is
    /// `listening IP:PORT`
    Peer(peer::PeerArgs),
    #[command(flatten)]
    Ask(ask::Ask),
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Tracker(args) => args.run(),
            Command::Peer(args) => args.run(),
            Command::Ask(ask) => ask.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::parses;

    #[test]
    fn numbers_have_their_ranges() {
        for (option, max) in [("--ping-interval", 86_400_u64), ("--ping-timeout", 3600)] {
            let line = |value: u64| format!("ring tracker --db x {option} {value}");
            assert!(parses(&line(1)) && parses(&line(max)), "{option}");
            for value in [0, max + 1, u64::MAX] {
                assert!(!parses(&line(value)), "{option} {value}");
            }
            assert!(!parses(&format!("{}0", line(u64::MAX))), "beyond 64 bits");
        }
        for timeout in [0, 3601, u64::MAX] {
            assert!(!parses(&format!(
                "ring ping 127.0.0.1:9 --timeout {timeout}"
            )));
        }
        assert!(parses("ring query 127.0.0.1:9 4294967295"));
        assert!(!parses("ring query 127.0.0.1:9 4294967296"));
    }
}

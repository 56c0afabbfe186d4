//! `peerloop overlay`: a cPTP peer, and a map of an overlay.

pub(super) mod graph;
mod lines;
pub(super) mod map;
mod report;
mod shell;
mod values;

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::overlay::peer::Config;
use peerloop::proto::overlay::{Overlay, fit};

use super::addr::advertised;
use super::{Answer, print, prompt};

use lines::Sink;
use report::{Outcome, Printer};
use values::{name, peer_addr};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a peer. Its first line on stdout is `listening IP:PORT`; exits 1 when everybody declined it
    Peer(PeerArgs),
    /// Visit every peer of an overlay, by joining and leaving it, and show who is peered with whom
    Map(map::MapArgs),
}

#[derive(Args)]
pub(super) struct PeerArgs {
    /// The peer to join first; without one this peer is an overlay of its own
    #[arg(short, long, value_name = "IP:PORT", value_parser = peer_addr)]
    peer: Option<SocketAddrV4>,
    /// The name that others are told [default: p and the port]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Peers that this one has at once; more are redirected
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    table_size: u32,
    /// Peers to join, never more than the table has room for
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    links: u32,
    /// Where to listen, and to dial from; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
    /// The address that others reach this peer at, when it is not the one it listens on
    #[arg(long, value_name = "IP:PORT", value_parser = peer_addr)]
    advertise: Option<SocketAddrV4>,
    /// Remember a peer that welcomed us and closed for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    linkless_ttl: u64,
    /// Give a peer up that accepts and says nothing for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    answer_timeout: u64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Peer(args) => args.run(),
            Command::Map(args) => args.run(),
        }
    }
}

impl PeerArgs {
    fn run(self) -> Result<Answer> {
        let bound = Bound::bind_to_dial_from(self.listen)
            .with_context(|| format!("cannot listen on {} (--listen)", self.listen))?;
        let listening = bound.addr();
        let addr = advertised(self.advertise, listening)?;
        let name = self.name.unwrap_or_else(|| format!("p{}", addr.port()));
        let config = Config {
            listening,
            table_max: self.table_size as usize,
            links: self.links.min(self.table_size) as usize,
            linkless_ttl: Ticks::from_secs(self.linkless_ttl),
            answer: Ticks::from_secs(self.answer_timeout),
            ..Config::new(name, addr)
        };
        let printer = Printer::new(self.json, self.peer);
        printer.begin(listening, &config);
        let mut reactor = Reactor::new(Overlay::new(printer), fit(Limits::default()))?;
        let conns_max = reactor.node().limits().conns_max;
        ensure!(
            (self.table_size as usize) < conns_max,
            "--table-size {} leaves nothing of the {conns_max} connections that this process may have for a newcomer \
             who is to be redirected; raise `ulimit -n`",
            self.table_size
        );
        reactor.accept_from(bound)?;
        reactor.catch_signals()?;
        let sink: Sink = if prompt::is_interactive() {
            shell::above(addr)
        } else {
            Box::new(print::stdout)
        };
        reactor.node().with(|overlay, hub| {
            overlay.observer_mut().lines().write_to(sink)?;
            overlay.add(hub, config);
            if let Some(contact) = self.peer {
                overlay.join(hub, 0, contact);
            }
            anyhow::Ok(())
        })?;
        let prompt = match prompt::is_interactive() {
            true => Some(shell::inside(addr, reactor.caller(), reactor.handle())?),
            false => None,
        };
        let result = reactor.run();
        drop(prompt);
        let outcome = reactor.into_service().into_observer().finish();
        result?;
        match outcome {
            Outcome::Joined => Ok(Answer::Yes),
            Outcome::Declined { by, failures } => {
                eprintln!(
                    "peerloop: {by} declined, {failures} dials failed, and nobody is left to ask"
                );
                Ok(Answer::No)
            }
            Outcome::Failed { contact, why } => bail!("cannot join at {contact}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::parses;

    #[test]
    fn numbers_have_their_ranges() {
        for (option, max) in [
            ("peer --table-size", 1_000_000_u64),
            ("peer --links", 1_000_000),
            ("peer --linkless-ttl", 31_536_000),
            ("peer --answer-timeout", 3600),
            ("map -p 127.0.0.1:9 --timeout", 3600),
        ] {
            let line = |value: u64| format!("overlay {option} {value}");
            assert!(parses(&line(1)) && parses(&line(max)), "{option}");
            for value in [0, max + 1, u64::MAX] {
                assert!(!parses(&line(value)), "{option} {value}");
            }
        }
        assert!(!parses("overlay peer -p 0.0.0.0:9") && !parses("overlay peer -p 127.0.0.1:0"));
    }
}

//! `peerloop ring tracker`.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::ring::node::RingNode;
use peerloop::proto::ring::tracker::{Config, PersistedMember, Tracker, Write};
use peerloop::proto::ring::wire::RegInitOrder;
use peerloop::store::redb::Redb;
use peerloop::workers::commit::Committer;

use super::database;
use super::values::{dial_from, unix_secs};
use crate::cli::addr::bind;
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct TrackerArgs {
    /// The database: a text file with one item a line, or a JSON array of strings
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
    /// Each peer is pinged once in this time
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ping_interval: u64,
    /// A peer that does not answer within this is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    ping_timeout: u64,
    /// In which order REG_INIT names the neighbour: as the assignment's text, or as the course's own tracker
    #[arg(long, value_enum, default_value_t = Order::IpFirst)]
    reg_init_order: Order,
    /// Keep the members of the ring in this directory, for the next start
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    IpFirst,
    HandleFirst,
}

impl TrackerArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let items = database::read(&self.db)?;
        let (committer, recovered) = match &self.data {
            Some(dir) => {
                let (committer, recovered) = Committer::load_members(Redb::open(dir)?)?;
                (Some(committer), recovered)
            }
            None => (None, Vec::new()),
        };
        let bound = bind(self.listen)?;
        let config = Config {
            ping_interval: Ticks::from_secs(self.ping_interval),
            ping_timeout: Ticks::from_secs(self.ping_timeout),
            order: match self.reg_init_order {
                Order::IpFirst => RegInitOrder::IpFirst,
                Order::HandleFirst => RegInitOrder::HandleFirst,
            },
            dial_from: dial_from(bound.addr()),
            ..Config::default()
        };
        log::info!(
            "{} items; {} members recovered",
            items.len(),
            recovered.len()
        );
        let listening = bound.addr();
        let mut reactor = tracker(bound, config, items, recovered, committer)?;
        reactor.catch_signals()?;
        print::stdout(format!("listening {listening}\n").as_bytes())?;
        reactor.run()?;
        Ok(Answer::Yes)
    }
}

/// A reactor with a tracker.
pub(in crate::cli) fn tracker(
    bound: Bound<SocketAddrV4>,
    config: Config,
    items: Vec<Box<str>>,
    recovered: Vec<PersistedMember>,
    committer: Option<Committer<Redb, Write>>,
) -> Result<Reactor<RingNode>> {
    let config = Config {
        durable: committer.is_some(),
        started_unix_secs: unix_secs(),
        ..config
    };
    let limits = config.fit(Limits::default());
    let service = RingNode::Tracker(Tracker::new(config, items, recovered));
    let mut reactor = Reactor::new(service, limits)?;
    if let Some(committer) = committer {
        reactor.start_worker(committer)?;
    }
    reactor.accept_from(bound)?;
    Ok(reactor)
}

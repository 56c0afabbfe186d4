//! `peerloop index`: the index server, its clients, and file sharing.

mod account;
pub(super) mod credentials;
mod download;
mod query;
mod server;
pub(super) mod share;
mod shell;
pub(super) mod table;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::index::batch::Batch;
use peerloop::proto::index::call::{Answer as Told, Call, Credentials};
use peerloop::proto::index::client::{Failure, Patience};
use peerloop::proto::index::fields::PeerId;
use peerloop::proto::index::reply::Hit;
use peerloop::proto::index::wire::FRAME_BYTES_MAX;

use super::Answer;
use super::addr::resolve_any;
use super::prompt::Interrupted;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run an index server
    Server(server::ServerArgs),
    /// Register a user without files; prints the id
    Register(account::AccountCommand),
    /// Log a registered user in for the time of one keep-alive
    Login(account::LoginCommand),
    /// Log a user out
    Logout(account::AccountCommand),
    /// Find files by the words of their names; exits 1 when there is none
    Search(query::SearchArgs),
    /// List the peers of a server
    Peers(query::PeersArgs),
    /// List what a peer shares
    Browse(query::BrowseArgs),
    /// Share a directory: its first line on stdout is `listening IP:PORT`
    Share(share::ShareArgs),
    /// Download a file from all peers that have it; exits 1 when nobody who is online has it
    Download(download::DownloadArgs),
    /// A prompt for the commands above; without a terminal, one command a line from stdin
    Shell(shell::ShellArgs),
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Server(args) => args.run(),
            Command::Register(args) => args.register(),
            Command::Login(args) => args.run(),
            Command::Logout(args) => args.logout(),
            Command::Search(args) => args.run(),
            Command::Peers(args) => args.run(),
            Command::Browse(args) => args.run(),
            Command::Share(args) => args.run(),
            Command::Download(args) => args.run(),
            Command::Shell(args) => args.run(),
        }
    }
}

/// The index server of a command.
#[derive(Args, Clone, Copy)]
pub(super) struct ServerAt {
    /// The index server
    #[arg(long = "server", value_name = "IP:PORT", value_parser = resolve_any)]
    pub(super) addr: SocketAddr,
    /// Give up when it is silent or busy for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,
}

impl ServerAt {
    pub(super) fn patience(&self) -> Patience {
        Patience {
            answer: Ticks::from_secs(self.timeout.min(30)),
            call: Ticks::from_secs(self.timeout),
        }
    }

    /// Makes one call.
    pub(super) fn ask(&self, call: Call) -> Result<Told> {
        Ok(self.try_ask(call)??)
    }

    /// Files whose names have all of the words.
    pub(super) fn search(&self, words: &str, hits_max: usize) -> Result<Vec<Hit>> {
        let words = words.into();
        match self.ask(Call::Search { words, hits_max })? {
            Told::Hits(hits) => Ok(hits),
            other => bail!("SEARCH came to {other:?}"),
        }
    }

    /// Registers a user without files.
    pub(super) fn register(&self, who: Arc<Credentials>) -> Result<PeerId> {
        let files = [].into();
        match self.ask(Call::Register { who, files })? {
            Told::Registered(id) => Ok(id),
            other => bail!("REGISTER came to {other:?}"),
        }
    }

    /// Makes one call. The inner error is the server's refusal or silence.
    pub(super) fn try_ask(&self, call: Call) -> Result<Result<Told, Failure>> {
        let batch = Batch::new(self.addr, self.patience(), vec![call]);
        let mut reactor = Reactor::new(batch, client_limits())?;
        // Signals stay blocked once a download in the shell has caught them.
        reactor.catch_signals()?;
        reactor.run()?;
        let results = reactor.into_service().into_results();
        let result = results.into_iter().next().flatten();
        result.ok_or_else(|| Interrupted("").into())
    }
}

/// Limits of a service that reads whole frames.
pub(super) fn client_limits() -> Limits {
    let limits = Limits::default();
    Limits {
        input_bytes_max: limits.read_bytes_per_turn + FRAME_BYTES_MAX,
        ..limits
    }
}

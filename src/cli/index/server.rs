//! `peerloop index server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::index::catalog::Match;
use peerloop::proto::index::persisted::{Cost, Job};
use peerloop::proto::index::server::{COST, Config, IndexServer};
use peerloop::store::Store;
use peerloop::store::memory::Memory;
use peerloop::store::redb::Redb;
use peerloop::workers::index::{Jobs, argon2id, load};

use super::credentials::user_dir;
use crate::cli::Answer;
use crate::cli::addr::{bind, serve};
use crate::cli::options::{LONG_SECS, within};

#[derive(Args)]
pub(in crate::cli) struct ServerArgs {
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keep registrations in this directory [default: $XDG_DATA_HOME/peerloop/index]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep them in memory only
    #[arg(long, conflicts_with = "data")]
    memory: bool,
    /// A registration without a login for this long goes; counted while the server runs
    #[arg(long, value_name = "SECONDS", default_value_t = 30 * 24 * 3600, value_parser = within(1..=LONG_SECS))]
    ttl: u64,
    /// Peers keep alive this often
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = within(1..=LONG_SECS))]
    keep_alive: u64,
    /// A keep-alive may be this late
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = within(0..=LONG_SECS))]
    grace: u64,
    /// Wrong passwords for an id, within the time of --lock, after which it is locked
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = within::<usize>(1..=u32::MAX as usize))]
    lock_after: usize,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = within(1..=LONG_SECS))]
    lock: u64,
    /// What a search finds: names with every word, or with any
    #[arg(long = "match", value_name = "WORDS", default_value = "all")]
    matching: Matching,
    /// New ids an address gets in an hour; loopback is exempt
    #[arg(long, value_name = "N", default_value_t = 3)]
    registrations_max: usize,
    /// Registrations in all
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    peers_max: usize,
    /// Files of one registration
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    files_per_peer_max: usize,
    /// Files in all
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    files_max: usize,
    /// List peers under the address that they claim, also when they come from elsewhere
    #[arg(long)]
    trust_claimed_ip: bool,
    /// Memory of a password's hash (Argon2id), for new registrations
    #[arg(long, value_name = "KIB", default_value_t = COST.memory_kib, value_parser = within(Cost::MEMORY_KIB))]
    hash_memory: u32,
    /// Passes over it
    #[arg(long, value_name = "N", default_value_t = COST.passes, value_parser = within(Cost::PASSES))]
    hash_passes: u32,
    /// Threads that hash [default: one less than there are cores]
    #[arg(long, value_name = "N", value_parser = within::<usize>(1..=64))]
    hash_threads: Option<usize>,
    /// Logins and registrations that wait for a hash; more are told when to come back
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = within::<usize>(1..=65_536))]
    hashes_waiting_max: usize,
    /// Most connections at once; the file limit less 32 when that is lower
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = within::<usize>(1..=1_000_000))]
    connections_max: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Matching {
    All,
    Any,
}

impl ServerArgs {
    pub(super) fn run(self) -> Result<Answer> {
        if self.memory {
            log::warn!("registrations are kept in memory only");
            return self.serve(Memory::new());
        }
        let data = match &self.data {
            Some(data) => data.clone(),
            None => user_dir("XDG_DATA_HOME", ".local/share")
                .context("no place for the data: give --data DIR")?
                .join("index"),
        };
        let store = Redb::open(&data)?;
        log::info!("registrations are kept in {}", data.display());
        self.serve(store)
    }

    fn serve(self, mut store: impl Store + 'static) -> Result<Answer> {
        let bound = bind(self.listen)?;
        let stored = load(&mut store)?;
        let config = self.config();
        let lanes = config.hash_lanes;
        let limits = config.fit(Limits {
            conns_max: self.connections_max,
            ..Limits::default()
        });
        let server = IndexServer::new(config, stored);
        log::info!("{} peers, {} files", server.peers(), server.files());
        let mut reactor = Reactor::new(server, limits)?;
        reactor.start_worker_for(Job::is_write, Jobs::new(Some(store), argon2id))?;
        for _ in 0..lanes {
            let hashes = Jobs::<Memory, _>::new(None, argon2id);
            reactor.start_worker_for(Job::is_hash, hashes)?;
        }
        serve(&mut reactor, bound)?;
        reactor.run()?;
        Ok(Answer::Yes)
    }

    fn config(&self) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lock = Ticks::from_secs(self.lock);
        Config {
            time_to_live: Ticks::from_secs(self.ttl),
            keep_alive: Ticks::from_secs(self.keep_alive),
            grace: Ticks::from_secs(self.grace),
            tries_max: self.lock_after,
            tries_window: lock,
            lock,
            registrations_per_hour_max: self.registrations_max,
            peers_max: self.peers_max,
            files_per_peer_max: self.files_per_peer_max,
            files_max: self.files_max,
            matching: match self.matching {
                Matching::All => Match::All,
                Matching::Any => Match::Any,
            },
            trust_claimed_ip: self.trust_claimed_ip,
            cost: Cost {
                memory_kib: self.hash_memory,
                passes: self.hash_passes,
            },
            // One core is for the loop.
            hash_lanes: self.hash_threads.unwrap_or(cores.saturating_sub(1).max(1)),
            hashes_waiting_max: self.hashes_waiting_max,
            ..Config::default()
        }
    }
}

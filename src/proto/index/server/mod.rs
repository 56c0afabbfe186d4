//! The index server.
//!
//! ```text
//!   request ─▶ read-only: answered at once ── a search that takes long ─▶ task, some steps a turn ─▶ answer
//!          └▶ changes a registration: an operation
//!                admission ─▶ hash (a thread) ─▶ change ─▶ commit (another) ─▶ registry, catalogue (task) ─▶ answer
//! ```
//! - `operation`: what an operation is; `execute`: its way to the commit and its answer; `apply`: what follows the commit.
//! - `admission`: limits; `quota`: registrations of an address; `lockout`: wrong passwords; `hash_queue`: the queue before
//!   the hashing threads.
//! - `queries`: SEARCH, SHOW_PEERS, BROWSE_PEER. `presence`: KEEP_ALIVE, and which peers are online.
//! - `background`: tasks that take longer than a turn (`task`).
//! - `registry`: registrations in memory; `expiry`: their time to live; `restore`: what an earlier run has stored.
//!
//! Invariants: nothing is acknowledged before it is on disk; a registration has at most one change under way; a search
//! returns only holders that are online while its answer is written; a user has one id, the newest.
//!
//! Not here: the store and Argon2id (worker threads, [`super::persisted`]), and the files of the peers.

mod admission;
mod apply;
mod background;
mod execute;
mod expiry;
mod hash_queue;
mod lockout;
mod operation;
mod presence;
mod queries;
mod quota;
mod registry;
mod restore;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use rand::RngExt;
use sha1::{Digest as _, Sha1};
use slab::Slab;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, Service, Step, Tick, Ticks, Violation};

use super::catalog::{Catalog, FILES_MAX, Match};
use super::fields::{Account, PeerId};
use super::persisted::{Cost, Done, Job, equal_in_constant_time};
use super::wire::{FRAME_BYTES_MAX, Frame, Kind, Request, unknown_ko, write_ko};

pub use restore::{BadRecord, Stored};

use hash_queue::HashQueue;
use lockout::Lockout;
use operation::{Operation, Pending};
use quota::Quota;
use registry::{Presence, Registry};
use task::{Allowance, Task};

/// The configuration of a server. Tests set short times.
#[derive(Debug, Clone)]
pub struct Config {
    /// A registration without a login for this long is removed. Counted while the server runs.
    pub time_to_live: Ticks,
    /// Online peers keep alive this often.
    pub keep_alive: Ticks,
    /// A keep-alive may be this late.
    pub grace: Ticks,
    /// So many wrong passwords for an id within `tries_window` lock it for `lock`.
    pub tries_max: usize,
    pub tries_window: Ticks,
    pub lock: Ticks,
    /// New ids that an address gets within an hour; loopback is exempt. Three are enough to start over, and too few to fill
    /// the catalogue from one machine.
    pub registrations_per_hour_max: usize,
    /// Files of one registration.
    pub files_per_peer_max: usize,
    /// Registrations in all; one without files takes about 400 bytes.
    pub peers_max: usize,
    /// Files in all, at most [`FILES_MAX`]. Ten million take about 4 GB.
    pub files_max: usize,
    /// Which names a SEARCH for several words finds.
    pub matching: Match,
    /// List peers under the address that their LOGIN names. Otherwise only those that log in from this machine; others are
    /// listed under the address that they come from.
    pub trust_claimed_ip: bool,
    /// Cost of a password's hash.
    pub cost: Cost,
    /// Threads that hash. The driver starts as many.
    pub hash_lanes: usize,
    /// Operations that wait for a hash; further ones are told when to come back. At 20 ms a hash the last one waits five
    /// seconds, less than clients do.
    pub hashes_waiting_max: usize,
    /// Bytes of the lists of all operations under way.
    pub pending_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            time_to_live: Ticks::from_secs(30 * 24 * 3600),
            keep_alive: Ticks::from_secs(300),
            grace: Ticks::from_secs(30),
            tries_max: 5,
            tries_window: Ticks::from_secs(60),
            lock: Ticks::from_secs(60),
            registrations_per_hour_max: 3,
            files_per_peer_max: 100_000,
            peers_max: 1_000_000,
            files_max: 10_000_000,
            matching: Match::All,
            trust_claimed_ip: false,
            cost: COST,
            hash_lanes: 1,
            hashes_waiting_max: 256,
            pending_bytes_max: 256 << 20,
        }
    }
}

/// The first of OWASP's equivalent settings for Argon2id: about 20 ms of a core.
pub const COST: Cost = Cost {
    memory_kib: 19 * 1024,
    passes: 2,
};

/// A message must be complete within this.
const MESSAGE: Ticks = Ticks::from_secs(30);

impl Config {
    /// Raises limits to what the protocol needs: whole frames, silence between two keep-alives, timers for all peers.
    pub fn fit(&self, limits: Limits) -> Limits {
        let alive = Ticks(self.keep_alive.0.saturating_add(self.grace.0));
        Limits {
            // A frame without its last byte, and one more read.
            input_bytes_max: limits
                .input_bytes_max
                .max(FRAME_BYTES_MAX + limits.read_bytes_per_turn),
            idle: limits.idle.max(Ticks(alive.0.saturating_mul(2))),
            message: MESSAGE,
            // Two a peer, for its keep-alive and its time to live; the clock's and the tasks'.
            timers_max: limits
                .timers_max
                .max(self.peers_max.saturating_mul(2).saturating_add(2)),
            ..limits
        }
    }

    /// The time after a keep-alive for which a peer is online.
    fn alive(&self) -> Ticks {
        Ticks(self.keep_alive.0.saturating_add(self.grace.0))
    }
}

/// The server's half of a connection.
#[derive(Debug, Default)]
pub struct Conn {
    /// The last password that was proved on this connection: it is not hashed again for each part of a long list.
    proof: Option<Box<Proof>>,
}

/// A password that was proved on a connection, as a keyed digest. In memory only.
#[derive(Debug)]
pub struct Proof {
    id: PeerId,
    key: [u8; 16],
    digest: [u8; 20],
}

impl Proof {
    fn new(id: PeerId, account: Account<'_>, key: [u8; 16]) -> Proof {
        let digest = Proof::digest(key, account);
        Proof { id, key, digest }
    }

    fn digest(key: [u8; 16], account: Account<'_>) -> [u8; 20] {
        let mut sha1 = Sha1::new();
        sha1.update(key);
        sha1.update(account.user);
        sha1.update([b'\n']);
        sha1.update(account.password);
        sha1.finalize().into()
    }

    fn holds(&self, id: PeerId, account: Account<'_>) -> bool {
        let digest = Proof::digest(self.key, account);
        self.id == id && equal_in_constant_time(&self.digest, &digest)
    }
}

/// The message of an operation to its connection.
#[derive(Debug)]
pub enum Note {
    Proved(Box<Proof>),
}

/// The server's timers, with slots of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Tasks wait. At most one is armed.
    Tasks,
    /// The keep-alive of an online peer may be overdue. One for each.
    Alive(u32),
    /// The time to live of a registration may be over. One for each.
    Expiry(u32),
    /// The clock is to be stored. Always one.
    Clock,
}

/// Events since the start, for the log and for tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub registrations: u64,
    pub logins: u64,
    pub wrong_passwords: u64,
    pub locked_out: u64,
    pub sent_away: u64,
    pub keep_alives_refused: u64,
    pub expired: u64,
    pub searches: u64,
    pub malformed: u64,
}

/// The service. See the module.
#[derive(Debug)]
pub struct IndexServer {
    config: Config,
    catalog: Catalog,
    registry: Registry,
    ops: Slab<Operation>,
    /// What `ops` may add.
    pending: Pending,
    /// Users with a change under way.
    busy: HashSet<Box<str>>,
    hash_queue: HashQueue,
    lockout: Lockout<PeerId>,
    quota: Quota<std::net::IpAddr>,
    /// At most [`background`]'s limit of queries, one change for each operation, and the dead holders.
    tasks: VecDeque<Task>,
    allowance: Allowance,
    /// Queries in `tasks`.
    queries: usize,
    /// [`Timer::Tasks`] is under way.
    is_running: bool,
    /// Slots of registrations whose [`Timer::Expiry`] was refused.
    unwatched: Vec<u32>,
    /// The clock when the server started, and the tick of its start, set when it starts.
    clock_at_start: u64,
    started: Option<Tick>,
    counts: Counts,
}

impl IndexServer {
    pub fn new(mut config: Config, stored: Stored) -> IndexServer {
        config.files_max = config.files_max.min(FILES_MAX);
        let (catalog, registry, clock_at_start) = stored.into_parts();
        IndexServer {
            hash_queue: HashQueue::new(config.hashes_waiting_max, config.hash_lanes),
            lockout: Lockout::new(config.tries_max, config.tries_window, config.lock),
            quota: Quota::new(config.registrations_per_hour_max, Ticks::from_secs(3600)),
            catalog,
            registry,
            ops: Slab::new(),
            pending: Pending::default(),
            busy: HashSet::new(),
            tasks: VecDeque::new(),
            allowance: Allowance::default(),
            queries: 0,
            is_running: false,
            unwatched: Vec::new(),
            clock_at_start,
            started: None,
            counts: Counts::default(),
            config,
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn peers(&self) -> usize {
        self.registry.len()
    }

    /// Number of files, those of offline peers included.
    pub fn files(&self) -> usize {
        self.catalog.len()
    }

    /// Ticks that the server has run, earlier runs included.
    fn clock(&self, now: Tick) -> u64 {
        let started = self.started.unwrap_or(now);
        self.clock_at_start.saturating_add(now.since(started).0)
    }

    /// Serves one request; true if its answer comes later.
    fn serve(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        frame: Frame<'_>,
    ) -> Result<bool, Violation> {
        let Some(kind) = Kind::from_code(frame.kind) else {
            let Some(ko) = unknown_ko(frame.kind) else {
                return Err(Violation::peer("a message of an unknown type"));
            };
            self.counts.malformed += 1;
            write_ko(cx.out(), ko, "there is no message of this type");
            return Ok(false);
        };
        let request = match Request::parse(kind, frame) {
            Ok(request) => request,
            Err(fault) => {
                self.counts.malformed += 1;
                write_ko(cx.out(), kind.ko(), fault);
                return Ok(false);
            }
        };
        Ok(match request {
            Request::KeepAlive { id } => {
                self.keep_alive(cx, id);
                false
            }
            Request::Search { words, offset } => self.search(cx, words, offset),
            Request::ShowPeers { which, offset } => self.show_peers(cx, which, offset),
            Request::BrowsePeer { id, offset } => {
                self.browse(cx, id, offset);
                false
            }
            Request::Download { .. } => {
                let ko = kind.ko();
                write_ko(
                    cx.out(),
                    ko,
                    "this is the index server; files are with the peers",
                );
                false
            }
            Request::Register { .. }
            | Request::Login { .. }
            | Request::Logout { .. }
            | Request::RegisterUpdate { .. }
            | Request::RegisterAdd { .. } => match self.begin_op(cx, conn, request) {
                Ok(later) => later,
                Err(ko) => {
                    self.counts.sent_away += 1;
                    write_ko(cx.out(), kind.ko(), ko);
                    false
                }
            },
        })
    }
}

fn random_bytes<const N: usize>(hub: &mut Hub<IndexServer>) -> [u8; N] {
    let mut bytes = [0; N];
    hub.rng().fill(&mut bytes);
    bytes
}

impl Service for IndexServer {
    type Conn = Conn;
    type Note = Note;
    type Timer = Timer;
    type Job = Job;
    type Done = Done;

    /// Starts the clock and the timers of what was stored.
    fn on_start(&mut self, hub: &mut Hub<Self>) {
        let now = hub.now();
        self.started = Some(now);
        self.arm_clock(hub);
        let until = now + self.config.alive();
        let slots: Vec<u32> = self.registry.slots().collect();
        for slot in slots {
            if self.registry.get(slot).is_some_and(|r| r.place.is_some()) {
                self.registry
                    .set_presence(slot, Presence::Remembered { until });
            }
            self.arm_expiry(hub, slot);
        }
    }

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Conn> {
        Some(Conn::default())
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(frame) = Frame::of(input) else {
            return Ok(Step::More);
        };
        let later = self.serve(cx, conn, frame)?;
        Ok(Step::message(frame.len(), later))
    }

    fn on_note(&mut self, _cx: &mut Cx<'_, Self>, conn: &mut Conn, note: Note) {
        match note {
            Note::Proved(proof) => conn.proof = Some(proof),
        }
    }

    fn on_end(&mut self, _hub: &mut Hub<Self>, _id: ConnId, _conn: Conn, _end: End) {
        // Its operation goes on: the change may be on disk already. A peer stays online without a connection.
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Tasks => self.run_tasks(hub),
            Timer::Alive(slot) => self.check_alive(hub, slot),
            Timer::Expiry(slot) => self.check_expiry(hub, slot),
            Timer::Clock => self.check_clock(hub),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: Done) {
        match done {
            Done::Hashed { op, digest } => self.hashed(hub, op, digest),
            Done::Written { op, committed } => self.written(hub, op, committed),
        }
    }

    /// The driver finishes and answers the operations under way before it ends.
    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        log::info!("{:?}", self.counts);
        self.store_clock(hub);
        hub.stop();
    }
}

//! The index server.
//!
//! ```text
//!   request ─▶ read-only: answered at once ── a search that takes long ─▶ work, in pieces ─▶ answer
//!          └▶ changes something: an operation
//!                password ─▶ hash (a thread) ─▶ change ─▶ commit (another) ─▶ memory, index (work) ─▶ answer
//! ```
//! - `operations`: registrations, logins, logouts, up to the commit and with one answer each; `apply`: what follows it.
//! - `room`: whether there is room for one, and whether its sender may.
//! - `queries`: SEARCH, SHOW_PEERS, BROWSE_PEER, KEEP_ALIVE.
//! - `work`: what takes longer than a turn: indexing, purging, long searches and lists, one after the other.
//!
//! Invariants: nothing is acknowledged before it is on disk; a registration has one change under way at most;
//! a search returns only who is online while its answer is written; a user has one id, the newest.
//!
//! Time: all of it is ticks that the server has run, kept in the store with each change. A registration's time to
//! live counts those, so no clock that is set or jumps can end one, and nobody loses one because the server was
//! down.

mod apply;
mod operations;
mod queries;
mod room;
mod start;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{HashSet, VecDeque};

use rand::RngExt;
use sha1::{Digest as _, Sha1};
use slab::Slab;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, Service, Step, Tick, Ticks, Violation};

use super::catalog::{Catalog, Match};
use super::fields::PeerId;
use super::guard::{Line, Lockout, Quota};
use super::record::{Cost, Done, Job};
use super::registry::{Presence, Registry};
use super::reply::RetryIn;
use super::wire::{Account, FRAME_BYTES_MAX, Frame, Kind, Request, unknown_ko, write_ko};

pub use start::{BadRecord, Stored};

use operations::Op;
use room::Pending;
use work::{Allowance, Work};

/// What a server is told. The times are options so that tests need not wait.
#[derive(Debug, Clone)]
pub struct Config {
    /// A registration without a login for this long goes. Counted while the server runs.
    pub time_to_live: Ticks,
    /// Online peers keep alive this often.
    pub keep_alive: Ticks,
    /// A keep-alive may be this late.
    pub grace: Ticks,
    /// As many wrong passwords for an id within `tries_window` lock it for `lock`.
    pub tries_max: usize,
    pub tries_window: Ticks,
    pub lock: Ticks,
    /// New ids an address gets within an hour; loopback is exempt. Three are enough for one who starts over, and
    /// too few to fill the catalogue from one machine.
    pub registrations_per_hour_max: usize,
    /// Files of one registration.
    pub files_per_peer_max: usize,
    /// Registrations in all; one without files takes about 400 bytes.
    pub peers_max: usize,
    /// Files in all. Ten million take about 4 GB.
    pub files_max: usize,
    /// What SEARCH finds.
    pub matching: Match,
    /// Take the address that a LOGIN names whoever sends it. Otherwise only from this machine, where no other can be
    /// seen; others are listed under the address that they come from.
    pub trust_claimed_ip: bool,
    /// What a password's hash costs.
    pub cost: Cost,
    /// Threads that hash; the driver starts as many.
    pub hash_lanes: usize,
    /// Operations that wait for a hash; who comes then is told when to come back. At 20 ms a hash five seconds, which
    /// every client waits.
    pub hashes_waiting_max: usize,
    /// Bytes of lists in operations under way.
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

/// A message must be complete within this: the specification's deadline.
const MESSAGE: Ticks = Ticks::from_secs(30);

/// The clock is kept this often when nothing else is.
const CLOCK_EVERY: Ticks = Ticks::from_secs(3600);

impl Config {
    /// Limits that the protocol needs: whole frames, connections that are silent between two keep-alives.
    pub fn fit(&self, limits: Limits) -> Limits {
        let alive = Ticks(self.keep_alive.0.saturating_add(self.grace.0));
        Limits {
            // A read on top of a frame that is whole but for its last byte.
            input_bytes_max: limits
                .input_bytes_max
                .max(FRAME_BYTES_MAX + limits.read_bytes_per_turn),
            idle: limits.idle.max(Ticks(alive.0.saturating_mul(2))),
            message: MESSAGE,
            // Each peer has two, for its keep-alive and its end; the server has the clock's. Without one a peer would
            // be online, or registered, for ever.
            timers_max: limits
                .timers_max
                .max(self.peers_max.saturating_mul(2).saturating_add(1)),
            ..limits
        }
    }

    /// How long a keep-alive is good for.
    fn alive(&self) -> Ticks {
        Ticks(self.keep_alive.0.saturating_add(self.grace.0))
    }
}

/// The server's half of a connection.
#[derive(Debug, Default)]
pub struct Conn {
    /// Who has proved a password on this connection, so that it is not hashed for each part of a long list.
    proof: Option<Box<Proof>>,
}

/// A proof of a password that is good for one connection: a keyed digest, in memory only, not the password.
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
        let differ = |sum: u8, (a, b): (&u8, &u8)| sum | (a ^ b);
        let same = self.digest.iter().zip(&digest).fold(0, differ);
        self.id == id && std::hint::black_box(same) == 0
    }
}

/// What an operation tells its connection.
#[derive(Debug)]
pub enum Note {
    Proved(Box<Proof>),
}

/// The server's timers; slots are the registry's.
#[derive(Debug, Clone, Copy)]
pub enum Timer {
    /// More of the work at the front.
    Work,
    /// Has an online peer kept alive?
    Alive(u32),
    /// Has a registration outlived itself?
    Expiry(u32),
    /// The clock is to be kept.
    Clock,
}

/// What happened, for the log and for tests.
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

/// See the module.
#[derive(Debug)]
pub struct IndexServer {
    config: Config,
    catalog: Catalog,
    registry: Registry,
    ops: Slab<Op>,
    /// What `ops` may add, and `work` is adding.
    pending: Pending,
    /// Users with a change under way.
    busy: HashSet<Box<str>>,
    line: Line,
    lockout: Lockout<PeerId>,
    quota: Quota<std::net::IpAddr>,
    work: VecDeque<Work>,
    allowance: Allowance,
    /// Queries in `work`.
    queries: usize,
    /// [`Timer::Work`] is on its way.
    working: bool,
    /// What the clock showed when the server started, and when that was; set with the first turn.
    clock_at_start: u64,
    started: Option<Tick>,
    counts: Counts,
}

impl IndexServer {
    pub fn new(config: Config, stored: Stored) -> IndexServer {
        let (catalog, registry, clock_at_start) = stored.into_parts();
        IndexServer {
            line: Line::new(config.hashes_waiting_max, config.hash_lanes),
            lockout: Lockout::new(config.tries_max, config.tries_window, config.lock),
            quota: Quota::new(config.registrations_per_hour_max, Ticks::from_secs(3600)),
            catalog,
            registry,
            ops: Slab::new(),
            pending: Pending::default(),
            busy: HashSet::new(),
            work: VecDeque::new(),
            allowance: Allowance::default(),
            queries: 0,
            working: false,
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

    /// Files listed, those of peers that are offline included.
    pub fn files(&self) -> usize {
        self.catalog.len()
    }

    /// Ticks that the server has run, in this life and the ones before.
    fn clock(&self, now: Tick) -> u64 {
        let started = self.started.unwrap_or(now);
        self.clock_at_start.saturating_add(now.since(started).0)
    }

    /// Often enough that a crash does not lengthen a life by much.
    fn clock_every(&self) -> Ticks {
        Ticks((self.config.time_to_live.0 / 16).clamp(100, CLOCK_EVERY.0))
    }

    /// Serves one request; true when its answer comes later.
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

/// A KO that says when to come back.
fn retry(why: &'static str, after: Ticks) -> RetryIn {
    let secs = after.as_duration().as_millis().div_ceil(1000) as u64;
    RetryIn {
        why,
        secs: secs.max(1),
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
        let until = now + self.config.alive();
        let slots: Vec<u32> = self.registry.slots().collect();
        for slot in slots {
            if self.registry.get(slot).is_some_and(|r| r.place.is_some()) {
                self.registry
                    .set_presence(slot, Presence::Remembered { until });
            }
            self.arm_expiry(hub, slot);
        }
        hub.arm(self.clock_every(), Timer::Clock);
    }

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Conn {
        Conn::default()
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
        Ok(if later {
            Step::Wait(frame.len())
        } else {
            Step::Done(frame.len())
        })
    }

    fn on_note(&mut self, _cx: &mut Cx<'_, Self>, conn: &mut Conn, note: Note) {
        match note {
            Note::Proved(proof) => conn.proof = Some(proof),
        }
    }

    fn on_end(&mut self, _hub: &mut Hub<Self>, _id: ConnId, _conn: Conn, _end: End) {
        // Its operation goes on: what was asked for may be on disk already. A peer stays online without a connection.
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Work => self.do_work(hub),
            Timer::Alive(slot) => self.check_alive(hub, slot),
            Timer::Expiry(slot) => self.check_expiry(hub, slot),
            Timer::Clock => self.keep_clock(hub),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: Done) {
        match done {
            Done::Hashed { op, digest } => self.hashed(hub, op, digest),
            Done::Written { op, committed } => self.written(hub, op, committed),
        }
    }

    /// What is under way is done and answered while the driver ends.
    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        log::info!("{:?}", self.counts);
        self.store_clock(hub);
        hub.stop();
    }
}

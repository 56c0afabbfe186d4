//! How a tracker behaves, the connections that it opens, and what it acts through.

use crate::engine::{Hub, Limits, Service, Ticks};
use crate::proto::host;
use crate::proto::ring::wire::{Reader, RegInitOrder};

use super::persisted::Write;

/// How a tracker is to behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// Each peer is pinged once in this time.
    pub ping_interval: Ticks,
    /// A peer that has not answered a ping by then is removed.
    pub ping_timeout: Ticks,
    pub order: RegInitOrder,
    /// The local address of calls to peers, where it matters: they take UPDATE_NBR from the tracker's address only.
    pub dial_from: Option<std::net::SocketAddrV4>,
    /// A worker commits registrations; they are answered once they are on disk.
    pub durable: bool,
    /// Members at once; a further registration is answered with a text. A member takes some 300 bytes.
    pub members_max: usize,
    /// The wall clock at tick 0, in seconds since 1970, for the time in a PING.
    pub started_unix_secs: u64,
}

impl Default for Config {
    /// The protocol's, in memory.
    fn default() -> Config {
        Config {
            ping_interval: Ticks::from_secs(20),
            ping_timeout: Ticks::from_secs(5),
            order: RegInitOrder::IpFirst,
            dial_from: None,
            durable: false,
            members_max: 100_000,
            started_unix_secs: 0,
        }
    }
}

impl Config {
    /// What a tracker needs of the engine: when a large ring dies, many dials at once get no answer; and every
    /// member may have a timer, besides that of the schedule.
    pub fn fit(&self, limits: Limits) -> Limits {
        let timers = self.members_max.saturating_add(1);
        Limits {
            dials_max: limits.dials_max.max(limits.conns_max / 2),
            timers_max: limits.timers_max.max(timers),
            ..limits
        }
    }
}

/// What a tracker did, for measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New members; those that registered again are not counted.
    pub registered: u64,
    /// Registrations of a handle that was another member's.
    pub refused: u64,
    /// REG_INITs sent, refusals included.
    pub reg_inits: u64,
    /// UPDATE_NBRs sent.
    pub updates: u64,
    /// PINGs sent.
    pub pings: u64,
    /// Members removed because they did not answer.
    pub pruned: u64,
    /// Changes that are in memory only, although the tracker is durable: the disk or its queue was full.
    pub unpersisted: u64,
}

/// A tracker's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Some member's turn to be pinged.
    Schedule,
    /// A ping or an UPDATE_NBR of the member in this slot.
    Member(u32),
}

/// A connection to a member.
#[derive(Debug)]
pub struct Outbound {
    pub(super) reader: Reader,
    pub(super) slot: u32,
    pub(super) purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Ping,
    Update,
}

/// What a tracker acts through.
pub trait Host: host::Host<Outbound, Timer> {
    fn submit(&mut self, write: Write) -> Result<(), Write>;
}

impl<S: Service<Job = Write>> Host for Hub<S>
where
    Hub<S>: host::Host<Outbound, Timer>,
{
    fn submit(&mut self, write: Write) -> Result<(), Write> {
        Hub::submit(self, write)
    }
}

//! How a peer is to behave.

use std::net::SocketAddrV4;

use crate::engine::Ticks;

/// What a peer is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, at most [`super::packet::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The address that others reach it at: what it skips in packets, and what decides when two dial each other.
    pub addr: SocketAddrV4,
    /// Where its listener is bound, and so what it dials from: others store the address that they see a newcomer come
    /// from.
    pub listening: SocketAddrV4,
    /// Entries of its table, at least one.
    pub table_max: usize,
    /// Links that a join looks for; never more than its table has entries.
    pub links: usize,
    /// How long a peer is remembered that welcomed us and closed: the plain peers that were seen do.
    pub linkless_ttl: Ticks,
    /// A peer that accepts has to have answered within this.
    pub answer: Ticks,
    /// A join is over within this.
    pub join: Ticks,
}

impl Config {
    /// A peer at `addr`, with the protocol's defaults.
    pub fn new(name: String, addr: SocketAddrV4) -> Config {
        Config {
            name,
            addr,
            listening: addr,
            table_max: 8,
            links: 3,
            linkless_ttl: Ticks::from_secs(600),
            answer: Ticks::from_secs(5),
            join: Ticks::from_secs(30),
        }
    }

    /// Whether this is our own address: the one that we advertise, or the one that others see us come from. A peer that is
    /// bound to every interface has several.
    pub(super) fn is_own(&self, addr: SocketAddrV4) -> bool {
        let at_any = self.listening.ip().is_unspecified() && addr.ip().is_loopback();
        let bound = addr.ip() == self.listening.ip() || at_any;
        addr == self.addr || (bound && addr.port() == self.listening.port())
    }
}

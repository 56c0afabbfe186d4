//! Which address a joiner dials next, and how often. Pure: no dialling, and time is an argument.
//!
//! The addresses of the latest packet come first: they are the furthest from the full middle of the overlay, so that a chain
//! of redirects is about as long as the overlay is deep. Among them chance decides; otherwise every joiner would go the
//! same way and the overlay would grow into a line.
//!
//! Invariant: an address is returned once in a join, but for retries of dials that may only have been early.

use std::collections::HashSet;
use std::net::SocketAddrV4;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::engine::{Tick, Ticks};

use super::packet::{Entries, is_usable};

/// Addresses that wait to be tried, and that are taken from one packet; the oldest are forgotten. Four full packets of
/// ours; a plain peer may send 8,191 and we need a few.
const CANDIDATES_MAX: usize = 256;

/// Pauses before a dial that was refused is tried again: a joiner may listen only after its own join is over, a
/// listener may be just about to start, a port may be in TIME_WAIT for a second or a minute.
const PAUSES: [Ticks; 3] = [
    Ticks::from_millis(200),
    Ticks::from_secs(1),
    Ticks::from_secs(3),
];

/// An address to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) addr: SocketAddrV4,
    /// Redirects and welcomes on the way to its address; 0 for one that the user named.
    pub(super) hops: u32,
    pub(super) tries: u8,
    /// It accepted once, and was silent.
    pub(super) silent: bool,
    /// Our own port cannot be used for it: the last resort.
    pub(super) other_port: bool,
}

impl Candidate {
    pub(super) fn named(addr: SocketAddrV4) -> Candidate {
        Candidate {
            addr,
            hops: 0,
            tries: 0,
            silent: false,
            other_port: false,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Try(Candidate),
    /// There is none before this tick.
    WaitUntil(Tick),
    Nobody,
}

/// The addresses to be tried.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Named by the user: before all others, and the last is next. At most [`CANDIDATES_MAX`].
    named: Vec<Candidate>,
    /// The last is next. At most [`CANDIDATES_MAX`].
    fresh: Vec<Candidate>,
    /// Not before a tick, and after all others. At most [`CANDIDATES_MAX`].
    again: Vec<(Tick, Candidate)>,
    /// Returned in this join: at most as many as it has dials, and those that the peer knew already.
    tried: HashSet<SocketAddrV4>,
}

impl Candidates {
    /// An address that the user named: it is next, whatever is known of it.
    pub(super) fn name(&mut self, addr: SocketAddrV4) {
        self.tried.remove(&addr);
        self.named.retain(|known| known.addr != addr);
        if self.named.len() >= CANDIDATES_MAX {
            self.named.remove(0);
        }
        self.named.push(Candidate::named(addr));
    }

    /// The entries of a packet.
    pub(super) fn offer(&mut self, entries: Entries<'_>, hops: u32, rng: &mut StdRng) {
        let mut offered: Vec<Candidate> = entries
            .iter()
            .filter(|addr| is_usable(*addr))
            .take(CANDIDATES_MAX)
            .map(|addr| Candidate {
                hops,
                ..Candidate::named(addr)
            })
            .collect();
        offered.shuffle(rng);
        self.push(offered);
    }

    fn push(&mut self, new: impl IntoIterator<Item = Candidate>) {
        for candidate in new {
            if !self.fresh.iter().any(|known| known.addr == candidate.addr) {
                self.fresh.push(candidate);
            }
        }
        let surplus = self.fresh.len().saturating_sub(CANDIDATES_MAX);
        self.fresh.drain(..surplus);
    }

    pub(super) fn next(&mut self, now: Tick) -> Next {
        while let Some(candidate) = self.named.pop().or_else(|| self.fresh.pop()) {
            if self.tried.insert(candidate.addr) {
                return Next::Try(candidate);
            }
        }
        let soonest = (0..self.again.len()).min_by_key(|place| self.again[*place].0);
        match soonest.map(|place| (place, self.again[place].0)) {
            Some((place, at)) if at <= now => Next::Try(self.again.swap_remove(place).1),
            Some((_, at)) => Next::WaitUntil(at),
            None => Next::Nobody,
        }
    }

    /// A dial that may go better later. False when it was tried often enough.
    pub(super) fn retry(&mut self, candidate: Candidate, now: Tick) -> bool {
        let pause = PAUSES.get(usize::from(candidate.tries));
        let Some(pause) = pause.filter(|_| self.again.len() < CANDIDATES_MAX) else {
            return false;
        };
        let again = Candidate {
            tries: candidate.tries + 1,
            ..candidate
        };
        self.again.push((now + *pause, again));
        true
    }

    /// At once, from any port that is free. False when too many wait already.
    pub(super) fn retry_from_other_port(&mut self, candidate: Candidate, now: Tick) -> bool {
        if self.again.len() > CANDIDATES_MAX {
            return false;
        }
        let again = Candidate {
            other_port: true,
            ..candidate
        };
        self.again.push((now, again));
        true
    }
}

//! Whom a joiner tries, in which order and how often; pure. The dialling is `peer`'s.
//!
//! Those of the latest packet come first: they are the furthest from the full middle of the overlay, so that a chain
//! of redirects is about as long as the overlay is deep. Among them chance decides, or every joiner would go the same
//! way and the overlay would grow into a line.
//!
//! It ends: nobody is dialled twice in a join but to try again what may only be early, there are at most [`DIALS_MAX`]
//! dials, and there is a deadline.

use std::collections::HashSet;
use std::net::SocketAddrV4;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::engine::{ConnId, Tick, Ticks, TimerId};

use super::wire::{Entries, is_usable};

/// Dials of one join. A redirect costs a round trip, so this is seconds at most; an overlay of 5,000 peers with tables
/// of 8 takes about six, and one with tables of 2 is a line that may have to be walked to its end.
pub const DIALS_MAX: u32 = 10_000;

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

/// Somebody to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) addr: SocketAddrV4,
    /// Redirects and welcomes on the way to its address; 0 is who the user named.
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
    /// Nobody before this tick.
    WaitUntil(Tick),
    Nobody,
}

/// Those who are to be tried.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Whom the user named: before everybody else, and the last is next. As many as [`CANDIDATES_MAX`].
    named: Vec<Candidate>,
    /// The last is next.
    fresh: Vec<Candidate>,
    /// Not before a tick, when there is nobody else.
    again: Vec<(Tick, Candidate)>,
    /// Everybody who was tried; at most [`DIALS_MAX`].
    tried: HashSet<SocketAddrV4>,
}

impl Search {
    /// Somebody whom the user named: next, whatever is known of it.
    pub(super) fn name(&mut self, addr: SocketAddrV4) {
        self.tried.remove(&addr);
        self.named.retain(|known| known.addr != addr);
        if self.named.len() >= CANDIDATES_MAX {
            self.named.remove(0);
        }
        self.named.push(Candidate::named(addr));
    }

    /// Those whom a packet names.
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

    /// At once, from any port that is free.
    pub(super) fn retry_from_other_port(&mut self, candidate: Candidate, now: Tick) {
        let again = Candidate {
            other_port: true,
            ..candidate
        };
        self.again.push((now, again));
    }
}

/// Why a join is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinEnd {
    /// There are as many links as were wanted, or no room for one more.
    Satisfied,
    /// Nobody is left to try.
    Exhausted,
    /// Its time is over.
    TimedOut,
}

/// What became of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub end: JoinEnd,
    pub dials: u32,
    /// Peers that welcomed us, or that joined us while we wanted to join them.
    pub welcomes: u32,
    /// Peers that declined.
    pub redirects: u32,
    /// Dials that came to nothing.
    pub failures: u32,
    /// Redirects on the way to the first welcome.
    pub chain: u32,
    pub took: Ticks,
}

/// A join under way.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) search: Search,
    /// The one dial at a time: whoever is told many addresses is not to become a scanner.
    pub(super) attempt: Option<(ConnId, Candidate)>,
    pub(super) timer: Option<TimerId>,
    /// Links at which it is satisfied.
    pub(super) links_wanted: usize,
    pub(super) since: Tick,
    pub(super) until: Tick,
    pub(super) report: Report,
}

impl Join {
    pub(super) fn new(links_wanted: usize, now: Tick, deadline: Ticks) -> Join {
        Join {
            search: Search::default(),
            attempt: None,
            timer: None,
            links_wanted,
            since: now,
            until: now + deadline,
            report: Report {
                end: JoinEnd::Exhausted,
                dials: 0,
                welcomes: 0,
                redirects: 0,
                failures: 0,
                chain: 0,
                took: Ticks(0),
            },
        }
    }

    /// Somebody is a neighbour now whom we wanted, and was found after so many hops.
    pub(super) fn count_welcome(&mut self, hops: u32) {
        if self.report.welcomes == 0 {
            self.report.chain = hops;
        }
        self.report.welcomes += 1;
    }

    pub(super) fn take_attempt(&mut self, id: ConnId) -> Option<Candidate> {
        let (_, candidate) = self.attempt.take_if(|(conn, _)| *conn == id)?;
        Some(candidate)
    }
}

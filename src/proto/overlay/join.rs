//! A join: one dial after the other, until there are as many links as were wanted.
//!
//! ```text
//!  candidates ──▶ dial ──▶ accepted ──▶ packet: Welcome ──▶ in the table
//!      ▲           │          │            └─── Redirect ──▶ in the memory of refusals
//!      │           └─ failed ─┴─ silent                │
//!      └────────────── retry ◀──┘    entries ◀─────────┘
//! ```
//! For: what a joiner does besides serving. Not for: which candidate is next (`candidates.rs`), newcomers (`peer.rs`).
//!
//! It ends: a candidate is dialled once but for a few retries, there are at most [`DIALS_MAX`] dials, and there is a deadline
//! for the whole. Invariants: one dial at a time, since a peer that is told many addresses is not to become a scanner;
//! the dialled peer has an entry in the table, so the table never grows too large; while a join lasts, it is due.

use std::io::ErrorKind;
use std::net::SocketAddrV4;

use crate::engine::{ConnId, Deadline, End, Tick, Ticks};

use super::candidates::{Candidate, Candidates, Next};
use super::connection::{Conn, Host};
use super::event::{Event, Observer};
use super::neighbourhood::Neighbourhood;
use super::packet::{Kind, Packet};
use super::table::Link;

pub use super::event::{JoinEnd, Report};

/// Dials of one join. A redirect costs a round trip, so this is seconds at most; an overlay of 5,000 peers with tables
/// of 8 takes about six, and one with tables of 2 is a line that may have to be walked to its end.
pub const DIALS_MAX: u32 = 10_000;

/// A join under way.
#[derive(Debug)]
pub(super) struct Join {
    candidates: Candidates,
    attempt: Option<(ConnId, Candidate)>,
    /// When [`Join::fired`] is to be called.
    due: Tick,
    /// Links at which it is satisfied.
    links_wanted: usize,
    since: Tick,
    until: Tick,
    report: Report,
}

impl Join {
    pub(super) fn new(links_wanted: usize, now: Tick, deadline: Ticks) -> Join {
        Join {
            candidates: Candidates::default(),
            attempt: None,
            due: now,
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

    pub(super) fn due(&self) -> Tick {
        self.due
    }

    /// The user named a contact: one link more is wanted than there will be. Returns whether no dial is under way.
    pub(super) fn name(&mut self, contact: SocketAddrV4, joined: usize) -> bool {
        // The dial under way may bring the last link that was wanted.
        let at_least = joined + 1 + usize::from(self.attempt.is_some());
        self.links_wanted = self.links_wanted.max(at_least);
        self.candidates.name(contact);
        self.attempt.is_none()
    }

    /// The dialled peer accepted: it has to answer now.
    pub(super) fn accepted(&mut self, id: ConnId, now: Tick, answer: Ticks) {
        if self.attempt.is_some_and(|(conn, _)| conn == id) {
            self.due = self.until.min(now + answer);
        }
    }

    /// The packet of a peer on the connection `id`; what the connection is for from now on. `None`: it was not asked.
    pub(super) fn answered(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        near: &mut Neighbourhood,
        id: ConnId,
        packet: Packet<'_>,
        timestamp: u32,
    ) -> Option<Conn> {
        let candidate = self.take_attempt(id)?;
        let peer = candidate.addr;
        let answered = Event::Answered {
            peer,
            packet,
            timestamp,
        };
        observer.on_event(near.number as usize, answered);
        self.candidates
            .offer(packet.entries, candidate.hops + 1, host.rng());
        Some(match packet.kind {
            Kind::Welcome => {
                near.table.set(peer, Link::Joined(id));
                near.declined.remove(peer);
                self.count_welcome(candidate.hops);
                Conn::Joined { peer: near.number }
            }
            Kind::Redirect => {
                near.table.remove(peer);
                near.declined.add(peer);
                self.report.redirects += 1;
                host.close_conn(id);
                Conn::Closing
            }
        })
    }

    /// The dialled peer dialled us, and its dial counts. Returns whether it was this join's.
    pub(super) fn crossed(&mut self, dial: ConnId) -> bool {
        let candidate = self.take_attempt(dial);
        if let Some(candidate) = candidate {
            self.count_welcome(candidate.hops);
        }
        candidate.is_some()
    }

    /// Dials the next candidate or waits; otherwise how the join ends.
    pub(super) fn advance(
        &mut self,
        host: &mut dyn Host,
        near: &mut Neighbourhood,
    ) -> Option<JoinEnd> {
        let now = host.now();
        loop {
            if near.table.joined() >= self.links_wanted || near.table.is_full() {
                return Some(JoinEnd::Satisfied);
            }
            if now >= self.until {
                return Some(JoinEnd::TimedOut);
            }
            let candidate = match self.candidates.next(now) {
                _ if self.report.dials >= DIALS_MAX => return Some(JoinEnd::Exhausted),
                Next::Nobody => return Some(JoinEnd::Exhausted),
                Next::WaitUntil(at) => {
                    self.due = at.min(self.until);
                    return None;
                }
                Next::Try(candidate) => candidate,
            };
            let named = candidate.hops == 0;
            match near.table.get(candidate.addr) {
                // A link to it is what was asked for, and is there.
                Some(Link::Joined(_) | Link::Welcomed(_)) if named => self.count_welcome(0),
                Some(Link::Linkless(_)) | None if near.is_wanted(candidate.addr, named) => {
                    self.dial(host, near, candidate);
                    return None;
                }
                _ => {}
            }
        }
    }

    fn dial(&mut self, host: &mut dyn Host, near: &mut Neighbourhood, candidate: Candidate) {
        let mut from = near.config.listening;
        if candidate.other_port {
            from.set_port(0);
        }
        self.report.dials += 1;
        let dialled = Conn::Dialled { peer: near.number };
        let id = host.dial(candidate.addr, Some(from), dialled);
        let reserved = near.table.set(candidate.addr, Link::Dialling(id));
        assert!(reserved, "a full table dials nobody");
        self.attempt = Some((id, candidate));
        self.due = self.until;
    }

    /// The connection `id` of a dial ended without a packet; `end` is `None` when the peer was silent for too long. Returns
    /// whether it was this join's.
    pub(super) fn attempt_failed(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        near: &mut Neighbourhood,
        id: ConnId,
        end: Option<End>,
    ) -> bool {
        let Some(candidate) = self.take_attempt(id) else {
            return false;
        };
        let (peer, now) = (candidate.addr, host.now());
        if near.table.get(peer) == Some(Link::Dialling(id)) {
            near.table.remove(peer);
        }
        self.report.failures += 1;
        let again = match Retry::of(end, &candidate) {
            Retry::Later => self.candidates.retry(candidate, now),
            Retry::LaterThenOtherPort => {
                self.candidates.retry(candidate, now) || {
                    observer.on_event(near.number as usize, Event::OtherPort(peer));
                    self.candidates.retry_from_other_port(candidate, now)
                }
            }
            Retry::LaterThanTheOtherSide => {
                let again = Candidate {
                    silent: true,
                    tries: if near.config.addr < peer { 1 } else { 2 },
                    ..candidate
                };
                self.candidates.retry(again, now)
            }
            Retry::Never => false,
        };
        let failed = Event::Failed { peer, end, again };
        observer.on_event(near.number as usize, failed);
        true
    }

    /// The dial whose time is over, by now.
    pub(super) fn silent(&self) -> Option<ConnId> {
        self.attempt.map(|(id, _)| id)
    }

    /// The report of the join, which ends now.
    pub(super) fn finish(&mut self, end: JoinEnd, now: Tick) -> &Report {
        self.report.end = end;
        self.report.took = now - self.since;
        &self.report
    }

    /// A wanted peer is a neighbour now, found after so many hops.
    fn count_welcome(&mut self, hops: u32) {
        if self.report.welcomes == 0 {
            self.report.chain = hops;
        }
        self.report.welcomes += 1;
    }

    fn take_attempt(&mut self, id: ConnId) -> Option<Candidate> {
        let (_, candidate) = self.attempt.take_if(|(conn, _)| *conn == id)?;
        Some(candidate)
    }
}

/// Whether a failed dial is worth another.
enum Retry {
    Later,
    /// Our own port is what cannot be used: at last from any other.
    LaterThenOtherPort,
    /// Once, and not at the moment when the other side does the same.
    LaterThanTheOtherSide,
    Never,
}

impl Retry {
    fn of(end: Option<End>, candidate: &Candidate) -> Retry {
        match end {
            // The four-tuple is in TIME_WAIT, or is a connection that is about to be accepted.
            Some(End::Unreachable(ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
                if !candidate.other_port =>
            {
                // A silent peer keeps its end open for long. Another port would only make it silent once more.
                match candidate.silent {
                    true => Retry::Later,
                    false => Retry::LaterThenOtherPort,
                }
            }
            // Not listening yet; or closed without a packet, as a connection is that crossed theirs.
            Some(
                End::Unreachable(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
                | End::Eof
                | End::Broken(_)
                | End::Limit(_),
            ) => Retry::Later,
            // It may be slow; and two SYNs that cross make one connection, of which each end waits for the other to
            // speak. A peer that the user named gets a second chance; the lower address then dials first.
            None if candidate.hops == 0 && !candidate.silent => Retry::LaterThanTheOtherSide,
            None
            | Some(
                End::Unreachable(_)
                | End::Timeout(Deadline::Dial | Deadline::Idle | Deadline::Message | Deadline::Drain)
                | End::Violation(_)
                | End::Closed,
            ) => Retry::Never,
        }
    }
}

//! One peer: its table, what it answers newcomers, and its joins.
//!
//! A slot of the table is taken when a newcomer is accepted or somebody is dialled, and given back when the connection
//! ends, so that neither a race for the last slot nor a join of our own ever makes the table too large.
//!
//! Between two peers there is one entry and one link. When both dial at the same moment, the dial of the lower
//! address counts: the higher one drops its own and welcomes, the lower one turns the other away without a word,
//! which the other tries again should its own view have been the right one.

use std::io::ErrorKind;
use std::net::SocketAddrV4;

use crate::engine::{ConnId, Cx, Deadline, End, Hub, Tick, Ticks, TimerId};

use super::join::{Candidate, DIALS_MAX, Join, JoinEnd, Next};
use super::table::{Link, Memory, Sample, Table};
use super::wire::{Kind, NAME_BYTES_MAX, Packet, put_packet};
use super::{Conn, Event, Observer, Overlay, Then, Timer, What};

/// What a peer is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The address that others reach it at: what it skips in packets, and who wins when two dial each other.
    pub addr: SocketAddrV4,
    /// Where its listener is bound, and so what it dials from: what others store is where they see us come from.
    pub listening: SocketAddrV4,
    /// Entries of its table.
    pub table_max: usize,
    /// Links that a join looks for; never more than its table has entries.
    pub links: usize,
    /// How long a peer is remembered that welcomed us and closed: the plain peers that were seen do.
    pub linkless_ttl: Ticks,
    /// Somebody who accepts has to have answered within this.
    pub answer: Ticks,
    /// A join is over within this.
    pub join: Ticks,
}

impl Config {
    /// A peer at `addr`, with the defaults of the specification.
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

    /// Whether this is our own address: the one that we tell, or the one that others see us come from. A peer that is
    /// bound to every interface has several.
    fn is_own(&self, addr: SocketAddrV4) -> bool {
        let at_any = self.listening.ip().is_unspecified() && addr.ip().is_loopback();
        let bound = addr.ip() == self.listening.ip() || at_any;
        addr == self.addr || (bound && addr.port() == self.listening.port())
    }
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Newcomers that got a place, and that did not.
    pub welcomed: u64,
    pub redirected: u64,
}

/// One peer of an [`Overlay`].
pub struct Peer {
    /// Its number in the overlay.
    number: u32,
    config: Config,
    table: Table,
    declined: Memory,
    join: Option<Box<Join>>,
    /// Forgets entries without a link.
    expiry: Option<TimerId>,
    started: Tick,
    /// The timestamp at its start.
    first: u32,
    counters: Counters,
}

impl Peer {
    /// `first` is its timestamp now.
    pub(super) fn new(number: u32, config: Config, now: Tick, first: u32) -> Peer {
        assert!(config.table_max > 0, "a table has room for somebody");
        assert!(
            config.name.len() <= NAME_BYTES_MAX,
            "a name has {NAME_BYTES_MAX} bytes at most"
        );
        Peer {
            number,
            table: Table::new(config.table_max),
            declined: Memory::new(2 * config.table_max),
            join: None,
            expiry: None,
            started: now,
            first,
            counters: Counters::default(),
            config,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Who declined us, the latest last.
    pub fn declined(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.declined.iter()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn is_joining(&self) -> bool {
        self.join.is_some()
    }

    /// The specification's time: one more every 10 ms, which is the engine's tick, so that nothing has to count.
    pub fn timestamp(&self, now: Tick) -> u32 {
        self.first.wrapping_add(now.since(self.started).0 as u32)
    }

    /// Somebody connected.
    pub(super) fn accept<O: Observer>(
        &mut self,
        cx: &mut Cx<'_, Overlay<O>>,
        observer: &mut O,
    ) -> Conn {
        let (from, id) = (cx.peer_v4(), cx.id());
        if self.config.is_own(from) {
            cx.close();
            return Conn::TurnedAway;
        }
        self.expire(cx, observer);
        let before = self.table.get(from);
        let ours_counts = self.config.addr < from;
        if ours_counts && matches!(before, Some(Link::Dialling(_) | Link::Joined(_))) {
            cx.close();
            return Conn::TurnedAway;
        }
        let drawn = Sample::draw(self.table.len(), cx.rng());
        let sample = self.table.choose(drawn, from, |conn| cx.is_blocked(conn));
        let has_room = self.table.set(from, Link::Welcomed(id));
        let kind = if has_room {
            Kind::Welcome
        } else {
            Kind::Redirect
        };
        // The new entry stands behind those of the sample, or in the place that the sample leaves out.
        let entries = self.table.peers(&sample);
        put_packet(cx.out(), kind, self.config.name.as_bytes(), entries);
        if !has_room {
            self.counters.redirected += 1;
            cx.close();
            self.tell(observer, Event::Redirected(from));
            return Conn::TurnedAway;
        }
        self.counters.welcomed += 1;
        self.tell(observer, Event::ConnectedFrom(from));
        match before {
            // It came from the same address and port, so the connection before it is over, or one of two that cross.
            Some(Link::Joined(old) | Link::Welcomed(old)) => cx.close_conn(old),
            Some(Link::Dialling(old)) => {
                cx.close_conn(old);
                self.came_by_itself(cx, observer, old);
            }
            Some(Link::Linkless(_)) | None => {}
        }
        Conn::Welcomed {
            peer: self.number,
            spare_bytes: super::SPARE_BYTES_MAX,
        }
    }

    fn tell<O: Observer>(&self, observer: &mut O, event: Event<'_>) {
        observer.on_event(self.number as usize, event);
    }

    /// Begins to join `contact`, or goes on with it in the join that is under way.
    pub(super) fn join<O: Observer>(
        &mut self,
        hub: &mut Hub<Overlay<O>>,
        observer: &mut O,
        contact: SocketAddrV4,
    ) {
        let now = hub.now();
        let Config { links, join, .. } = self.config;
        let join = self
            .join
            .get_or_insert_with(|| Box::new(Join::new(links, now, join)));
        // Also when the dial that is under way brings the last link that was wanted.
        let at_least = self.table.joined() + 1 + usize::from(join.attempt.is_some());
        join.links_wanted = join.links_wanted.max(at_least);
        join.search.name(contact);
        if join.attempt.is_none() {
            self.advance(hub, observer);
        }
    }

    /// Whom we dialled accepted: now it has to answer.
    pub(super) fn dialled<O: Observer>(&mut self, hub: &mut Hub<Overlay<O>>, id: ConnId) {
        let Some(join) = &mut self.join else { return };
        if join.attempt.is_some_and(|(conn, _)| conn == id) {
            let left = join.until - hub.now();
            set_timer(self.number, join, hub, left.min(self.config.answer));
        }
    }

    /// The packet of somebody whom we dialled.
    pub(super) fn answered<O: Observer>(
        &mut self,
        cx: &mut Cx<'_, Overlay<O>>,
        observer: &mut O,
        packet: Packet<'_>,
    ) -> Conn {
        let (addr, id) = (cx.peer_v4(), cx.id());
        let timestamp = self.timestamp(cx.now());
        let Some(join) = &mut self.join else {
            cx.close();
            return Conn::TurnedAway;
        };
        let Some(candidate) = join.take_attempt(id) else {
            cx.close();
            return Conn::TurnedAway;
        };
        let event = Event::Answered {
            peer: addr,
            packet,
            timestamp,
        };
        observer.on_event(self.number as usize, event);
        join.search
            .offer(packet.entries, candidate.hops + 1, cx.rng());
        let conn = match packet.kind {
            Kind::Welcome => {
                self.table.set(addr, Link::Joined(id));
                self.declined.remove(addr);
                join.count_welcome(candidate.hops);
                Conn::Joined { peer: self.number }
            }
            Kind::Redirect => {
                self.table.remove(addr);
                self.declined.add(addr);
                join.report.redirects += 1;
                cx.close();
                Conn::TurnedAway
            }
        };
        self.advance(cx, observer);
        conn
    }

    /// A connection is over.
    pub(super) fn ended<O: Observer>(
        &mut self,
        hub: &mut Hub<Overlay<O>>,
        observer: &mut O,
        id: ConnId,
        conn: Conn,
        end: End,
    ) {
        let Some(addr) = hub.peer_v4_of(id) else {
            return;
        };
        match (conn, self.table.get(addr)) {
            (Conn::Asking { .. }, _) => self.attempt_failed(hub, observer, id, Some(end)),
            (Conn::Welcomed { .. }, Some(Link::Welcomed(link))) if link == id => {
                self.table.remove(addr);
                let gone = Event::Gone {
                    peer: addr,
                    remembered: false,
                };
                self.tell(observer, gone);
            }
            (Conn::Joined { .. }, Some(Link::Joined(link))) if link == id => {
                // An orderly end says nothing of the peer's health; a broken connection does.
                let remembered = end == End::Eof;
                if remembered {
                    let until = hub.now() + self.config.linkless_ttl;
                    self.table.set(addr, Link::Linkless(until));
                    self.watch_expiry(hub);
                } else {
                    self.table.remove(addr);
                }
                let gone = Event::Gone {
                    peer: addr,
                    remembered,
                };
                self.tell(observer, gone);
            }
            _ => {}
        }
    }

    pub(super) fn on_timer<O: Observer>(
        &mut self,
        hub: &mut Hub<Overlay<O>>,
        observer: &mut O,
        what: What,
    ) {
        match what {
            What::Expiry => {
                self.expiry = None;
                self.expire(hub, observer);
                self.watch_expiry(hub);
            }
            What::Join => {
                let Some(join) = &mut self.join else { return };
                join.timer = None;
                match join.attempt {
                    Some((id, _)) => {
                        hub.close_conn(id);
                        self.attempt_failed(hub, observer, id, None);
                    }
                    None => self.advance(hub, observer),
                }
            }
        }
    }

    /// Whom we dial dialled us, and theirs counts.
    fn came_by_itself<O: Observer>(
        &mut self,
        hub: &mut Hub<Overlay<O>>,
        observer: &mut O,
        dial: ConnId,
    ) {
        let Some(join) = &mut self.join else { return };
        if let Some(candidate) = join.take_attempt(dial) {
            join.count_welcome(candidate.hops);
            self.advance(hub, observer);
        }
    }

    /// A dial ended without a packet; `None`: it was silent for too long.
    fn attempt_failed<O: Observer>(
        &mut self,
        hub: &mut Hub<Overlay<O>>,
        observer: &mut O,
        id: ConnId,
        end: Option<End>,
    ) {
        let Some(join) = &mut self.join else { return };
        let Some(candidate) = join.take_attempt(id) else {
            return;
        };
        let addr = candidate.addr;
        if self.table.get(addr) == Some(Link::Dialling(id)) {
            self.table.remove(addr);
        }
        join.report.failures += 1;
        let fate = Fate::of(end, &candidate);
        let again = match fate {
            Fate::Retry => join.search.retry(candidate, hub.now()),
            Fate::RetryPort => {
                let again = join.search.retry(candidate, hub.now());
                if !again {
                    observer.on_event(self.number as usize, Event::OtherPort(addr));
                    join.search.retry_from_other_port(candidate, hub.now());
                }
                true
            }
            Fate::RetryApart => {
                let again = Candidate {
                    silent: true,
                    tries: if self.config.addr < addr { 1 } else { 2 },
                    ..candidate
                };
                join.search.retry(again, hub.now())
            }
            Fate::GiveUp => false,
        };
        let failed = Event::Failed {
            peer: addr,
            end,
            again,
        };
        self.tell(observer, failed);
        self.advance(hub, observer);
    }

    /// Tries the next one, or ends the join.
    fn advance<O: Observer>(&mut self, hub: &mut Hub<Overlay<O>>, observer: &mut O) {
        let Some(mut join) = self.join.take() else {
            return;
        };
        match self.next_step(&mut join, hub) {
            Some(end) => {
                if let Some(timer) = join.timer.take() {
                    hub.cancel(timer);
                }
                join.report.end = end;
                join.report.took = hub.now() - join.since;
                if observer.on_join_end(self.number as usize, &join.report) == Then::Stop {
                    hub.stop();
                }
            }
            None => self.join = Some(join),
        }
    }

    /// Dials, or waits for a time; otherwise how the join ends.
    fn next_step<O: Observer>(
        &mut self,
        join: &mut Join,
        hub: &mut Hub<Overlay<O>>,
    ) -> Option<JoinEnd> {
        let now = hub.now();
        loop {
            if self.table.joined() >= join.links_wanted || self.table.is_full() {
                return Some(JoinEnd::Satisfied);
            }
            if now >= join.until {
                return Some(JoinEnd::TimedOut);
            }
            let candidate = match join.search.next(now) {
                _ if join.report.dials >= DIALS_MAX => return Some(JoinEnd::Exhausted),
                Next::Nobody => return Some(JoinEnd::Exhausted),
                Next::WaitUntil(at) => {
                    set_timer(self.number, join, hub, at.min(join.until) - now);
                    return None;
                }
                Next::Try(candidate) => candidate,
            };
            match self.table.get(candidate.addr) {
                // Joining them is what was asked for, and done.
                Some(Link::Joined(_) | Link::Welcomed(_)) if candidate.hops == 0 => {
                    join.count_welcome(0);
                }
                Some(Link::Linkless(_)) | None if self.is_wanted(&candidate) => {
                    self.dial(join, hub, candidate);
                    return None;
                }
                _ => {}
            }
        }
    }

    /// Neither ourselves nor anybody of whom we know already what they would say.
    fn is_wanted(&self, candidate: &Candidate) -> bool {
        let addr = candidate.addr;
        let known = self.table.get(addr).is_some() || self.declined.contains(addr);
        !self.config.is_own(addr) && (candidate.hops == 0 || !known)
    }

    fn dial<O: Observer>(
        &mut self,
        join: &mut Join,
        hub: &mut Hub<Overlay<O>>,
        candidate: Candidate,
    ) {
        let mut from = self.config.listening;
        if candidate.other_port {
            from.set_port(0);
        }
        join.report.dials += 1;
        let asking = Conn::Asking { peer: self.number };
        let id = hub.dial(candidate.addr, Some(from.into()), asking);
        let reserved = self.table.set(candidate.addr, Link::Dialling(id));
        assert!(reserved, "a full table dials nobody");
        join.attempt = Some((id, candidate));
        let left = join.until - hub.now();
        set_timer(self.number, join, hub, left);
    }

    fn expire<O: Observer>(&mut self, hub: &mut Hub<Overlay<O>>, observer: &mut O) {
        while let Some(peer) = self.table.expire(hub.now()) {
            self.tell(observer, Event::Forgotten(peer));
        }
    }

    fn watch_expiry<O: Observer>(&mut self, hub: &mut Hub<Overlay<O>>) {
        if self.expiry.is_none()
            && let Some(at) = self.table.next_expiry()
        {
            let timer = Timer {
                peer: self.number,
                what: What::Expiry,
            };
            self.expiry = hub.arm(at - hub.now(), timer);
        }
    }
}

/// What to do about a dial that came to nothing.
enum Fate {
    Retry,
    /// Our own port is what cannot be used.
    RetryPort,
    /// Once, and not at the moment when the other side does the same.
    RetryApart,
    GiveUp,
}

impl Fate {
    fn of(end: Option<End>, candidate: &Candidate) -> Fate {
        match end {
            // The four-tuple is in TIME_WAIT, or is a connection that is about to be accepted.
            Some(End::Unreachable(ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
                if !candidate.other_port =>
            {
                // Whoever hangs keeps its end open for long; that is worth no last resort.
                match candidate.silent {
                    true => Fate::Retry,
                    false => Fate::RetryPort,
                }
            }
            // Not listening yet; or gone without a word, as from a connection that crossed theirs.
            Some(
                End::Unreachable(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
                | End::Eof
                | End::Broken(_)
                | End::Limit(_),
            ) => Fate::Retry,
            // It may be slow; and two SYNs that cross make one connection, of which both ends wait for the other to
            // speak. Whom the user named gets a second chance; the lower address is then the first one.
            None if candidate.hops == 0 && !candidate.silent => Fate::RetryApart,
            None
            | Some(
                End::Unreachable(_)
                | End::Timeout(Deadline::Dial | Deadline::Idle | Deadline::Message | Deadline::Drain)
                | End::Violation(_)
                | End::Closed,
            ) => Fate::GiveUp,
        }
    }
}

/// The join's one timer; what it is for is seen when it fires.
fn set_timer<O: Observer>(number: u32, join: &mut Join, hub: &mut Hub<Overlay<O>>, after: Ticks) {
    if let Some(timer) = join.timer.take() {
        hub.cancel(timer);
    }
    let timer = Timer {
        peer: number,
        what: What::Join,
    };
    join.timer = hub.arm(after, timer);
}

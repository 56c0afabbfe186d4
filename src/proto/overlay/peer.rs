//! One peer: its table, what it answers newcomers, the ends of its links, and its joins.
//!
//! A slot of the table is taken when a newcomer is accepted or a candidate is dialled, and given back when the connection ends,
//! so that neither a race for the last slot nor a join of our own ever makes the table too large.
//!
//! Between two peers there is one entry and one link. When both dial at the same moment, the dial of the lower
//! address counts: the higher one drops its own dial and welcomes; the lower one closes the other's connection without a
//! packet, and the other tries again in case its own view was the right one.
//!
//! For: admission (`accept`), and composing the table with a `join::Join`. Not for: how a join goes on (`join.rs`).
//!
//! Invariant: one timer, which follows the earlier of the join's deadline and the table's next expiry.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, End, Tick};
use crate::proto::host::{Alarm, Unarmed};

use super::connection::{Conn, Host, Timer};
use super::event::{Event, Observer, Then};
use super::join::Join;
use super::neighbourhood::Neighbourhood;
use super::packet::{Kind, NAME_BYTES_MAX, Packet, put_packet};
use super::table::{Link, Sample, Table};

pub use super::config::Config;

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Newcomers that got a place, and that did not.
    pub welcomed: u64,
    pub redirected: u64,
}

/// One peer of an [`super::Overlay`].
pub struct Peer {
    near: Neighbourhood,
    join: Option<Box<Join>>,
    alarm: Alarm,
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
            near: Neighbourhood::new(number, config),
            join: None,
            alarm: Alarm::default(),
            started: now,
            first,
            counters: Counters::default(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.near.config
    }

    pub fn table(&self) -> &Table {
        &self.near.table
    }

    /// The peers that declined us, the latest last.
    pub fn declined(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.near.declined.iter()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn is_joining(&self) -> bool {
        self.join.is_some()
    }

    /// The protocol's time: one more every 10 ms, which is the engine's tick, so that nothing has to count.
    pub fn timestamp(&self, now: Tick) -> u32 {
        self.first.wrapping_add(now.since(self.started).0 as u32)
    }

    /// Admission of a newcomer that connected from `from`: Welcome, or a close with a Redirect or without a packet.
    pub(super) fn accept(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        id: ConnId,
        from: SocketAddrV4,
    ) -> Option<Conn> {
        if self.near.config.is_own(from) {
            return None;
        }
        self.expire(host, observer);
        let before = self.near.table.get(from);
        let ours_counts = self.near.config.addr < from;
        if ours_counts && matches!(before, Some(Link::Dialling(_) | Link::Joined(_))) {
            return None;
        }
        let has_room = self.speak_first(host, id, from);
        if !has_room {
            self.counters.redirected += 1;
            self.tell(observer, Event::Redirected(from));
            return None;
        }
        self.counters.welcomed += 1;
        self.tell(observer, Event::ConnectedFrom(from));
        match before {
            // It came from the same address and port, so the connection before it is over, or one of two that cross.
            Some(Link::Joined(old) | Link::Welcomed(old)) => host.close_conn(old),
            Some(Link::Dialling(old)) => {
                host.close_conn(old);
                if self.join.as_mut().is_some_and(|join| join.crossed(old)) {
                    self.advance(host, observer);
                }
            }
            Some(Link::Linkless(_)) | None => {}
        }
        Some(Conn::welcomed(self.near.number))
    }

    /// Tells a newcomer of the table as it is, and gives it a place there if one is free; whether there was.
    fn speak_first(&mut self, host: &mut dyn Host, id: ConnId, from: SocketAddrV4) -> bool {
        let table = &mut self.near.table;
        let drawn = Sample::draw(table.len(), host.rng());
        let sample = table.choose(drawn, from, |conn| host.is_blocked(conn));
        let has_room = table.set(from, Link::Welcomed(id));
        let kind = if has_room {
            Kind::Welcome
        } else {
            Kind::Redirect
        };
        // The new entry stands behind those of the sample, or in the place that the sample leaves out.
        let entries = table.peers(&sample);
        if let Some(out) = host.output_of(id) {
            put_packet(out, kind, self.near.config.name.as_bytes(), entries);
        }
        has_room
    }

    fn tell(&self, observer: &mut dyn Observer, event: Event<'_>) {
        observer.on_event(self.near.number as usize, event);
    }

    /// Begins to join `contact`, or adds it to the join that is under way.
    pub(super) fn join(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        contact: SocketAddrV4,
    ) {
        let now = host.now();
        let Config { links, join, .. } = self.near.config;
        let join = self
            .join
            .get_or_insert_with(|| Box::new(Join::new(links, now, join)));
        if join.name(contact, self.near.table.joined()) {
            self.advance(host, observer);
        }
    }

    /// A dial succeeded.
    pub(super) fn dialled(&mut self, now: Tick, id: ConnId) {
        if let Some(join) = &mut self.join {
            join.accepted(id, now, self.near.config.answer);
        }
    }

    /// The packet of a peer that we dialled; what the connection is for from now on.
    pub(super) fn answered(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        id: ConnId,
        packet: Packet<'_>,
    ) -> Conn {
        let timestamp = self.timestamp(host.now());
        let near = &mut self.near;
        let conn = self
            .join
            .as_mut()
            .and_then(|join| join.answered(host, observer, near, id, packet, timestamp));
        let Some(conn) = conn else {
            host.close_conn(id);
            return Conn::Closing;
        };
        self.advance(host, observer);
        conn
    }

    /// The connection `id` to or from `addr` is over.
    pub(super) fn ended(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        (id, addr): (ConnId, SocketAddrV4),
        conn: Conn,
        end: End,
    ) {
        let remembered = match (conn, self.near.table.get(addr)) {
            (Conn::Dialled { .. }, _) => {
                return self.attempt_failed(host, observer, id, Some(end));
            }
            (Conn::Welcomed { .. }, Some(Link::Welcomed(link))) if link == id => false,
            // An orderly end says nothing of the peer's health; a broken connection does.
            (Conn::Joined { .. }, Some(Link::Joined(link))) if link == id => end == End::Eof,
            _ => return,
        };
        if remembered {
            let until = host.now() + self.near.config.linkless_ttl;
            self.near.table.set(addr, Link::Linkless(until));
        } else {
            self.near.table.remove(addr);
        }
        let gone = Event::Gone {
            peer: addr,
            remembered,
        };
        self.tell(observer, gone);
    }

    /// Does what is due by now.
    pub(super) fn fired(&mut self, host: &mut dyn Host, observer: &mut dyn Observer) {
        self.alarm.fired();
        self.expire(host, observer);
        let Some(join) = &self.join else { return };
        if join.due() > host.now() {
            return;
        }
        match join.silent() {
            Some(id) => {
                host.close_conn(id);
                self.attempt_failed(host, observer, id, None);
            }
            None => self.advance(host, observer),
        }
    }

    /// Has the timer of the peer follow its deadlines; whether there is one.
    pub(super) fn watch(&mut self, host: &mut dyn Host, unarmed: &mut Unarmed<Timer>) -> bool {
        let join = self.join.as_ref().map(|join| join.due());
        let due = [join, self.near.table.next_expiry()];
        let due = due.into_iter().flatten().min();
        let timer = Timer(self.near.number);
        self.alarm.follow(host, due, timer, unarmed);
        due.is_some()
    }

    fn attempt_failed(
        &mut self,
        host: &mut dyn Host,
        observer: &mut dyn Observer,
        id: ConnId,
        end: Option<End>,
    ) {
        if let Some(join) = &mut self.join
            && join.attempt_failed(host, observer, &mut self.near, id, end)
        {
            self.advance(host, observer);
        }
    }

    /// Goes on with the join, or ends it.
    fn advance(&mut self, host: &mut dyn Host, observer: &mut dyn Observer) {
        let Some(join) = &mut self.join else { return };
        let Some(end) = join.advance(host, &mut self.near) else {
            return;
        };
        let report = join.finish(end, host.now());
        if observer.on_join_end(self.near.number as usize, report) == Then::Stop {
            host.stop();
        }
        self.join = None;
    }

    fn expire(&mut self, host: &mut dyn Host, observer: &mut dyn Observer) {
        while let Some(peer) = self.near.table.expire(host.now()) {
            self.tell(observer, Event::Forgotten(peer));
        }
    }
}

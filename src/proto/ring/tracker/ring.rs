//! The ring: its members in order, their pings, and what each knows of its neighbour.
//!
//! ```text
//!  schedule ──▶ ping ──▶ answered: a recovered member takes its place
//!                 └────▶ given up: removed, the ring closes over the gap
//!  place taken or given up ──▶ neighbour_update of the member behind it
//! ```
//! For: membership of the ring, and keeping the neighbours which the peers know equal to the ring's. Not for: requests and their
//! answers (`registration.rs`, `mod.rs`).
//!
//! Invariants: a member has one timer, which follows the earlier of its two deadlines; nothing here looks at all members.

use std::sync::Arc;

use crate::engine::{ConnId, End, Tick, Ticks};
use crate::proto::host::{Alarm, Unarmed};
use crate::proto::log_limit::LogLimit;
use crate::proto::ring::wire::{Encoding, Item, Neighbour, Reader, Request};

use super::config::{Config, Counts, Host, Outbound, Purpose, Timer};
use super::members::{Member, Members};
use super::neighbour_update::{NeighbourUpdate, Next};
use super::persisted::{Change, PendingAnswer, PersistedMember, Write};
use super::ping::{Due, Ping};
use super::ping_schedule::{PINGS_AT_ONCE_MAX, PingSchedule};

/// Members get numbers below this: half of what there is, so that numbers cannot run out.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// What goes on between the tracker and a member.
#[derive(Debug, Default)]
pub(super) struct Contact {
    ping: Ping,
    pub(super) update: NeighbourUpdate,
    alarm: Alarm,
}

pub(super) struct Ring {
    pub(super) config: Config,
    pub(super) items: Vec<Box<str>>,
    pub(super) members: Members<Contact>,
    pub(super) counts: Counts,
    next_number: u64,
    schedule: PingSchedule,
    alarm: Alarm,
    unarmed: Unarmed<Timer>,
    pub(super) log_joins: LogLimit,
    log_removals: LogLimit,
    log_unpersisted: LogLimit,
}

impl Ring {
    pub(super) fn new(
        config: Config,
        items: Vec<Box<str>>,
        persisted: Vec<PersistedMember>,
    ) -> Ring {
        let mut ring = Ring {
            members: Members::new(),
            counts: Counts::default(),
            next_number: 0,
            schedule: PingSchedule::new(config.ping_interval),
            alarm: Alarm::default(),
            unarmed: Unarmed::default(),
            log_joins: LogLimit::default(),
            log_removals: LogLimit::default(),
            log_unpersisted: LogLimit::default(),
            config,
            items,
        };
        for member in persisted {
            let number = member.number;
            if number < NUMBER_MAX && ring.members.by_handle(&member.handle).is_none() {
                ring.next_number = ring.next_number.max(number + 1);
                let slot = ring.members.insert(with_contact(member));
                ring.schedule.push_due(Tick(0), slot, number);
            }
        }
        ring
    }

    /// Adds a member, which is not in the ring before [`Ring::alive`].
    pub(super) fn add(
        &mut self,
        host: &mut dyn Host,
        handle: Arc<str>,
        addr: std::net::SocketAddrV4,
        encoding: Encoding,
    ) -> u32 {
        let (number, now) = (self.next_number, host.now());
        self.next_number += 1;
        self.schedule.earn(now, self.members.len());
        let slot = self.members.insert(with_contact(PersistedMember {
            number,
            handle,
            addr,
            encoding,
        }));
        self.schedule.push(now, slot, number);
        self.watch_schedule(host);
        slot
    }

    /// The member has shown that it is there.
    pub(super) fn alive(&mut self, host: &mut dyn Host, slot: u32) {
        if !self.members.is_in_ring(slot) {
            self.members.admit(slot);
            self.settle(host, slot);
            self.settle_after(host, self.members[slot].number);
        }
    }

    pub(super) fn remove(&mut self, host: &mut dyn Host, slot: u32, why: &str) {
        let now = host.now();
        self.schedule.earn(now, self.members.len());
        let mut member = self.members.remove(slot);
        let (handle, addr) = (member.handle.escape_debug(), member.addr);
        let line = format_args!("{handle} at {addr} is gone: {why}");
        self.log_removals.info(now, line);
        self.counts.pruned += 1;
        let Contact {
            ping,
            update,
            alarm,
        } = &mut member.contact;
        alarm.disarm(host);
        for conn in [ping.conn(), update.conn()].into_iter().flatten() {
            host.close_conn(conn);
        }
        let members = &self.members;
        self.schedule
            .forget(members.len(), |turn| members.has(turn.slot, turn.number));
        self.persist(host, Change::Remove(member.number), None);
        self.settle_after(host, member.number);
        self.arm_refused(host);
    }

    /// Persists a change. Returns whether `answer` waits for it.
    pub(super) fn persist(
        &mut self,
        host: &mut dyn Host,
        change: Change,
        answer: Option<PendingAnswer>,
    ) -> bool {
        if !self.config.durable {
            return false;
        }
        let submitted = host.submit(Write::new(change, answer)).is_ok();
        if !submitted {
            self.not_persisted(host.now());
        }
        submitted
    }

    /// The worker did not commit a change, or did not take it.
    pub(super) fn not_persisted(&mut self, now: Tick) {
        self.counts.unpersisted += 1;
        let line = format_args!(
            "a change of the ring is in memory only: after a restart, peers stand elsewhere in it"
        );
        self.log_unpersisted.warn(now, line);
    }

    pub(super) fn persisted(&self, slot: u32) -> PersistedMember {
        let member = &self.members[slot];
        PersistedMember {
            number: member.number,
            handle: member.handle.clone(),
            addr: member.addr,
            encoding: member.encoding,
        }
    }

    /// The item that the member with this number hosts.
    pub(super) fn item(&self, number: u64) -> Option<Item<'_>> {
        let seq = number % self.items.len() as u64;
        let data = self.items.get(seq as usize)?;
        Some(Item {
            seq: seq as u32,
            data: (&**data).into(),
        })
    }

    pub(super) fn neighbour(&self, number: u64) -> Option<Neighbour<'_>> {
        let before = &self.members[self.members.before(number)?];
        Some(before.as_neighbour())
    }

    /// The number of a member's neighbour.
    pub(super) fn before(&self, number: u64) -> Option<u64> {
        let slot = self.members.before(number)?;
        Some(self.members[slot].number)
    }

    /// Pings the members whose turn it is.
    fn ping_due(&mut self, host: &mut dyn Host) {
        let now = host.now();
        self.schedule.earn(now, self.members.len());
        for _ in 0..PINGS_AT_ONCE_MAX {
            let members = &self.members;
            let turn = self
                .schedule
                .next(now, |turn| members.has(turn.slot, turn.number));
            let Some(turn) = turn else { break };
            self.schedule.push(now, turn.slot, turn.number);
            self.ping(host, turn.slot);
        }
        self.watch_schedule(host);
    }

    /// Pings a member, unless a ping is under way.
    pub(super) fn ping(&mut self, host: &mut dyn Host, slot: u32) {
        if self.members[slot].contact.ping == Ping::Idle {
            let until = host.now() + self.config.ping_timeout;
            self.ping_until(host, slot, until);
        }
    }

    fn ping_until(&mut self, host: &mut dyn Host, slot: u32, until: Tick) {
        let conn = self.dial(host, slot, Purpose::Ping);
        self.members[slot].contact.ping = Ping::Asked { conn, until };
        self.watch(host, slot);
    }

    /// Something answered a ping with `handle`, on the connection `id`.
    pub(super) fn ping_answered(
        &mut self,
        host: &mut dyn Host,
        slot: u32,
        id: ConnId,
        handle: &str,
    ) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        if !member.contact.ping.answered(id) {
            return;
        }
        let is_member = *handle == *member.handle;
        host.close_conn(id);
        if !is_member {
            return self.remove(host, slot, "another peer answers there");
        }
        self.watch(host, slot);
        self.alive(host, slot);
        if self.members[slot].contact.update.take_repeat() {
            self.send_update(host, slot);
        }
    }

    /// The neighbour of the member behind this place may be another one.
    fn settle_after(&mut self, host: &mut dyn Host, number: u64) {
        if let Some(after) = self.members.after(number) {
            self.settle(host, after);
        }
    }

    /// Tells a member its neighbour, if it does not know it and nothing is under way.
    fn settle(&mut self, host: &mut dyn Host, slot: u32) {
        let Member {
            number, contact, ..
        } = &self.members[slot];
        if contact.update.needed(self.before(*number)) && self.members.is_in_ring(slot) {
            self.send_update(host, slot);
        }
    }

    fn send_update(&mut self, host: &mut dyn Host, slot: u32) {
        let conn = self.dial(host, slot, Purpose::Update);
        let update = &mut self.members[slot].contact.update;
        update.dialled(conn, host.now());
        self.watch(host, slot);
    }

    fn dial(&self, host: &mut dyn Host, slot: u32, purpose: Purpose) -> ConnId {
        let outbound = Outbound {
            reader: Reader::default(),
            slot,
            purpose,
        };
        let to = self.members[slot].addr;
        host.dial(to, self.config.dial_from, outbound)
    }

    /// A dial succeeded: the message is written.
    pub(super) fn reached(&mut self, host: &mut dyn Host, id: ConnId, outbound: &Outbound) {
        let slot = outbound.slot;
        let Some(member) = self.members.get(slot) else {
            return host.close_conn(id);
        };
        let (number, encoding) = (member.number, member.encoding);
        match outbound.purpose {
            Purpose::Ping => {
                let secs = host.now().0 / Ticks::from_secs(1).0;
                let time = self.config.started_unix_secs.saturating_add(secs);
                let time = time.to_string().into();
                if let Some(out) = host.output_of(id) {
                    Request::Ping { time }.put(encoding, out);
                    self.counts.pings += 1;
                }
            }
            Purpose::Update => {
                let (true, Some(nbr), Some(before), Some(out)) = (
                    member.contact.update.reached(id),
                    self.neighbour(number),
                    self.before(number),
                    host.output_of(id),
                ) else {
                    return host.close_conn(id);
                };
                Request::UpdateNbr(nbr).put(encoding, out);
                self.counts.updates += 1;
                self.members[slot].contact.update.written(id, before);
            }
        }
    }

    /// A connection to a member is over.
    pub(super) fn outbound_ended(
        &mut self,
        host: &mut dyn Host,
        id: ConnId,
        outbound: &Outbound,
        end: End,
    ) {
        let (slot, now) = (outbound.slot, host.now());
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        match outbound.purpose {
            Purpose::Ping => {
                member.contact.ping.ended(id, end, now);
                self.watch(host, slot);
            }
            Purpose::Update => {
                let pause_max = self.config.ping_interval;
                let next = member.contact.update.ended(id, end, now, pause_max);
                self.follow(host, slot, next);
            }
        }
    }

    /// The connection on which a member registered is over.
    pub(super) fn registration_ended(
        &mut self,
        host: &mut dyn Host,
        (slot, number): (u32, u64),
        id: ConnId,
        end: End,
    ) {
        if self.members.has(slot, number) {
            let update = &mut self.members[slot].contact.update;
            let next = update.registration_ended(id, end);
            self.follow(host, slot, next);
        }
    }

    /// Does what a member's [`NeighbourUpdate`] asks for.
    pub(super) fn follow(&mut self, host: &mut dyn Host, slot: u32, next: Next) {
        match next {
            Next::Nothing => {}
            Next::Settle => self.settle(host, slot),
            Next::Ping => self.ping(host, slot),
            Next::Close(conn) => host.close_conn(conn),
        }
        self.watch(host, slot);
    }

    pub(super) fn fired(&mut self, host: &mut dyn Host, timer: Timer) {
        self.arm_refused(host);
        match timer {
            Timer::Schedule => {
                self.alarm.fired();
                self.ping_due(host);
            }
            Timer::Member(slot) => self.fire_member(host, slot),
        }
    }

    /// There is room for a timer: one that was refused gets it.
    fn arm_refused(&mut self, host: &mut dyn Host) {
        while let Some(timer) = self.unarmed.next() {
            let armed = match timer {
                Timer::Schedule => self.watch_schedule(host),
                Timer::Member(slot) => self.watch(host, slot),
            };
            if armed {
                return;
            }
        }
    }

    fn fire_member(&mut self, host: &mut dyn Host, slot: u32) {
        let now = host.now();
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        member.contact.alarm.fired();
        match member.contact.ping.fired(now) {
            Some(Due::Again { until }) => self.ping_until(host, slot, until),
            Some(Due::GiveUp) => return self.remove(host, slot, "no answer"),
            None => {}
        }
        let pause_max = self.config.ping_interval;
        let update = &mut self.members[slot].contact.update;
        let next = update.fired(now, pause_max);
        self.follow(host, slot, next);
    }

    /// Has the timer of the schedule follow it; whether a ping is to come.
    pub(super) fn watch_schedule(&mut self, host: &mut dyn Host) -> bool {
        let due = self.schedule.next_at(host.now(), self.members.len());
        self.alarm
            .follow(host, due, Timer::Schedule, &mut self.unarmed);
        due.is_some()
    }

    /// Has the timer of a member follow its deadlines; whether there is one.
    pub(super) fn watch(&mut self, host: &mut dyn Host, slot: u32) -> bool {
        let Some(member) = self.members.get_mut(slot) else {
            return false;
        };
        let Contact {
            ping,
            update,
            alarm,
        } = &mut member.contact;
        let due = [ping.due(), update.due()].into_iter().flatten().min();
        alarm.follow(host, due, Timer::Member(slot), &mut self.unarmed);
        due.is_some()
    }
}

fn with_contact(member: PersistedMember) -> Member<Contact> {
    Member {
        handle: member.handle,
        addr: member.addr,
        encoding: member.encoding,
        number: member.number,
        contact: Contact::default(),
    }
}

//! Clients that write and read without end, and remember what must be there: the load of a stress run.
//!
//! A closed loop: each client has one operation under way, through a member drawn at random, on keys that are its
//! alone. So what a key must hold is known at every moment: the last write that was acknowledged. A write that
//! came to nothing leaves its key in doubt (it may still be stored); such a key is written no more, and may then
//! hold either. [`Workload::check`] reads every key once when the load is over.

use std::net::SocketAddrV4;

use bytes::Bytes;
use rand::RngExt;

use crate::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Violation};

use super::client::{self, Host, OpId, Operations};
use super::id::Id;
use super::operation::{Bounds, Failure, Operation, Outcome, Verb};

/// Of a hundred operations, so many write and so many remove; the others read.
const INSERTS_PERCENT: u32 = 45;
const REMOVES_PERCENT: u32 = 5;

/// Values are so long, which is what a table of addresses or names holds.
const VALUE_BYTES: usize = 100;

/// Members that an operation may begin at, should the first have left.
const CONTACTS_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Get,
    Insert,
    Remove,
}

/// An operation of the load that is over.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    pub kind: Kind,
    /// What [`Meter::now`] said when it began.
    pub began: u64,
    pub hops: u32,
    /// It was not given up.
    pub done: bool,
}

/// The caller's clock: services read none.
pub trait Meter {
    fn now(&mut self) -> u64;
    fn finished(&mut self, finished: Finished);
}

/// What a key may hold: the value of a version, or nothing.
type Version = Option<u32>;

#[derive(Debug, Clone, Default)]
struct Slot {
    versions: u32,
    /// By the last write that was acknowledged.
    acknowledged: Version,
    /// By a write whose outcome is unknown.
    in_doubt: Option<Version>,
}

/// A key that does not hold what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key}: version {want:?} was acknowledged, {found}")]
pub struct Lost {
    pub key: Id,
    pub want: Version,
    pub found: String,
    /// Nobody answered for the key; whether its value is still there is not known.
    pub unreadable: bool,
}

/// What an operation is for.
#[derive(Debug, Clone)]
pub struct Tag {
    client: usize,
    /// Place of the key.
    place: usize,
    kind: Kind,
    /// By a write; what a read may find is in its slot.
    writes: Version,
    began: u64,
    hops: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Load,
    /// Nothing new is begun.
    Drain,
    /// Every key is read; next is this one.
    Check(usize),
}

/// The service.
#[derive(Debug)]
pub struct Workload<M> {
    contacts: Vec<SocketAddrV4>,
    bounds: Bounds,
    clients: usize,
    keys_each: usize,
    slots: Vec<Slot>,
    /// Sets the keys of this run apart.
    salt: u64,
    phase: Phase,
    operations: Operations<Tag>,
    /// Reads during the load that found something else.
    wrong_reads: Vec<Lost>,
    lost: Vec<Lost>,
    checked: u64,
    meter: M,
}

impl<M: Meter> Workload<M> {
    /// A load of `clients` with `keys_each`. [`Workload::begin`] starts it.
    ///
    /// # Panics
    /// If there are no contacts, clients or keys.
    pub fn new(
        contacts: Vec<SocketAddrV4>,
        clients: usize,
        keys_each: usize,
        bounds: Bounds,
        meter: M,
    ) -> Workload<M> {
        assert!(
            !contacts.is_empty() && clients > 0 && keys_each > 0,
            "a load has all of them"
        );
        Workload {
            contacts,
            bounds,
            clients,
            keys_each,
            slots: vec![Slot::default(); clients * keys_each],
            salt: 0,
            phase: Phase::Load,
            operations: Operations::default(),
            wrong_reads: Vec::new(),
            lost: Vec::new(),
            checked: 0,
            meter,
        }
    }

    /// Starts every client.
    pub fn begin(&mut self, hub: &mut Hub<Self>) {
        self.salt = hub.rng().random();
        for client in 0..self.clients {
            self.go_on(hub, client);
        }
    }

    /// From now on operations begin at one of these; an empty list changes nothing.
    pub fn set_contacts(&mut self, contacts: Vec<SocketAddrV4>) {
        if !contacts.is_empty() {
            self.contacts = contacts;
        }
    }

    /// Ends the load: what is under way may end, nothing new begins.
    pub fn drain(&mut self) {
        self.phase = Phase::Drain;
    }

    pub fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }

    /// Reads every key that was ever written, then stops the driver.
    pub fn check(&mut self, hub: &mut Hub<Self>) {
        self.phase = Phase::Check(0);
        for client in 0..self.clients {
            self.go_on(hub, client);
        }
    }

    /// Keys that the check read.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// What the check did not find.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// What the load read and should not have.
    pub fn wrong_reads(&self) -> &[Lost] {
        &self.wrong_reads
    }

    pub fn meter(&self) -> &M {
        &self.meter
    }

    /// What a client does next.
    fn go_on(&mut self, hub: &mut Hub<Self>, client: usize) {
        match self.phase {
            Phase::Load => self.load(hub, client),
            Phase::Drain => {}
            Phase::Check(from) => self.check_next(hub, client, from),
        }
    }

    fn load(&mut self, hub: &mut Hub<Self>, client: usize) {
        let place = client * self.keys_each + hub.rng().random_range(0..self.keys_each);
        let dice = hub.rng().random_range(0..100);
        let slot = &mut self.slots[place];
        let kind = match dice {
            _ if slot.in_doubt.is_some() => Kind::Get,
            0..INSERTS_PERCENT => Kind::Insert,
            n if n < INSERTS_PERCENT + REMOVES_PERCENT => Kind::Remove,
            _ => Kind::Get,
        };
        let writes = (kind == Kind::Insert).then(|| {
            slot.versions += 1;
            slot.versions
        });
        let verb = match (kind, writes) {
            (Kind::Get, _) => Verb::Get,
            (_, Some(version)) => Verb::Insert(value(place, version)),
            (_, None) => Verb::Remove,
        };
        let began = self.meter.now();
        self.start(
            hub,
            verb,
            Tag {
                client,
                place,
                kind,
                writes,
                began,
                hops: 0,
            },
        );
    }

    fn check_next(&mut self, hub: &mut Hub<Self>, client: usize, from: usize) {
        let touched = |slot: &Slot| slot.versions > 0 || slot.in_doubt.is_some();
        let place = (from..self.slots.len()).find(|place| touched(&self.slots[*place]));
        self.phase = Phase::Check(place.map_or(self.slots.len(), |place| place + 1));
        match place {
            Some(place) => {
                let tag = Tag {
                    client,
                    place,
                    kind: Kind::Get,
                    writes: None,
                    began: 0,
                    hops: 0,
                };
                self.start(hub, Verb::Get, tag);
            }
            None if self.is_idle() => hub.stop(),
            None => {}
        }
    }

    fn start(&mut self, hub: &mut Hub<Self>, verb: Verb, tag: Tag) {
        let key = self.key(tag.place);
        let count = self.contacts.len().min(CONTACTS_MAX);
        let contacts = (0..count)
            .map(|_| self.contacts[hub.rng().random_range(0..self.contacts.len())])
            .collect();
        let operation = Operation::new(verb, key, contacts, self.bounds);
        client::start(self, hub, operation, tag);
    }

    fn key(&self, place: usize) -> Id {
        Id::of(format!("stress {} {place}", self.salt).as_bytes())
    }

    /// Takes note of a write.
    fn wrote(&mut self, tag: &Tag, done: bool) {
        let slot = &mut self.slots[tag.place];
        if done {
            slot.acknowledged = tag.writes;
        } else {
            slot.in_doubt = Some(tag.writes);
        }
    }

    /// What a read found that should be something else.
    fn judge(&self, place: usize, result: &Result<Outcome, Failure>) -> Option<Lost> {
        let slot = &self.slots[place];
        let is = |version: Version, found: &Option<Bytes>| match (version, found) {
            (Some(version), Some(found)) => *found == value(place, version),
            (version, found) => version.is_none() && found.is_none(),
        };
        let found = match result {
            Ok(Outcome::Got(found)) if is(slot.acknowledged, found) => return None,
            Ok(Outcome::Got(found)) if slot.in_doubt.is_some_and(|v| is(v, found)) => return None,
            Ok(Outcome::Got(None)) => "there is none".into(),
            Ok(Outcome::Got(Some(other))) => {
                let text = String::from_utf8_lossy(&other[..other.len().min(VALUE_BYTES)]);
                format!("there is {:?}", text.trim_end_matches('.'))
            }
            Ok(other) => format!("GET came to {other:?}"),
            Err(failure) => format!("and it cannot be read: {failure}"),
        };
        let (key, want) = (self.key(place), slot.acknowledged);
        Some(Lost {
            key,
            want,
            found,
            unreadable: result.is_err(),
        })
    }
}

/// The value of a version, unlike every other.
fn value(place: usize, version: u32) -> Bytes {
    format!(
        "{:.<VALUE_BYTES$}",
        format!("key {place} version {version} ")
    )
    .into()
}

impl<M: Meter> Host for Workload<M> {
    type Tag = Tag;

    fn operations(&mut self) -> &mut Operations<Tag> {
        &mut self.operations
    }

    fn conn(op: OpId) -> OpId {
        op
    }

    fn timer(op: OpId) -> OpId {
        op
    }

    fn on_hops(tag: &mut Tag, hops: u32) {
        tag.hops = hops;
    }

    fn on_outcome(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Outcome, Failure>) {
        let Tag {
            client,
            place,
            kind,
            began,
            hops,
            ..
        } = tag;
        if matches!(self.phase, Phase::Check(_)) {
            self.checked += 1;
            self.lost.extend(self.judge(place, &result));
        } else {
            let done = result.is_ok();
            self.meter.finished(Finished {
                kind,
                began,
                hops,
                done,
            });
            match kind {
                Kind::Get if done => self.wrong_reads.extend(self.judge(place, &result)),
                Kind::Get => {}
                Kind::Insert | Kind::Remove => self.wrote(&tag, done),
            }
        }
        self.go_on(hub, client);
    }
}

impl<M: Meter> Service for Workload<M> {
    type Conn = OpId;
    type Note = ();
    type Timer = OpId;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> OpId {
        unreachable!("the driver of a load listens nowhere")
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, op: &mut OpId) {
        client::dialled(self, cx, *op);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        op: &mut OpId,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        client::input(self, cx, *op, input)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, op: OpId, end: End) {
        client::ended(self, hub, id, op, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, op: OpId) {
        client::retry(self, hub, op);
    }
}

//! The checker of a run: what every key has to hold.
//!
//! Each client has keys of its own and one operation under way. So a key must hold the last write that was
//! acknowledged. After a write whose outcome is unknown the key is in doubt: it may hold the value of either write, and
//! is not written again.

use bytes::Bytes;
use rand::{Rng, RngExt};

use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::operation::{Failure, Outcome, Verb};

/// Shares of the operations; the others read.
const INSERTS_PERCENT: u32 = 45;
const REMOVES_PERCENT: u32 = 5;

/// Length of the values: that of an address or a name.
const VALUE_BYTES: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Insert,
    Remove,
}

/// What a key may hold: the value of a version, or nothing.
type Version = Option<u32>;

#[derive(Debug, Clone, Default)]
struct Slot {
    versions: u32,
    /// The last write that was acknowledged.
    acknowledged: Version,
    /// A write whose outcome is unknown.
    in_doubt: Option<Version>,
}

/// A key that does not hold what was acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("key {key}: version {want:?} was acknowledged, {found}")]
pub(in crate::cli) struct Lost {
    key: Id,
    want: Version,
    found: String,
    /// No node answered for the key, so its value may still be there.
    pub(super) unreadable: bool,
}

/// An operation on a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// Place of the key.
    place: usize,
    pub(super) kind: Kind,
    writes: Version,
}

pub(in crate::cli) struct Checker {
    slots: Vec<Slot>,
    keys_each: usize,
    /// Makes the keys of this run unique.
    salt: u64,
    /// Reads during the load with a wrong result.
    pub(in crate::cli) wrong_reads: Vec<Lost>,
    /// Keys with a wrong result in the check at the end.
    pub(in crate::cli) lost: Vec<Lost>,
    /// Keys that the check read.
    pub(in crate::cli) checked: u64,
}

impl Checker {
    pub(super) fn new(clients: usize, keys_each: usize) -> Checker {
        Checker {
            slots: vec![Slot::default(); clients * keys_each],
            keys_each,
            salt: rand::random(),
            wrong_reads: Vec::new(),
            lost: Vec::new(),
            checked: 0,
        }
    }

    /// The next operation of a client.
    pub(super) fn draw(&mut self, client: usize, rng: &mut impl Rng) -> Task {
        let place = client * self.keys_each + rng.random_range(0..self.keys_each);
        let dice = rng.random_range(0..100);
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
        Task {
            place,
            kind,
            writes,
        }
    }

    /// A read of the first written key from `from` on, and the place from which to look for the next one.
    pub(super) fn check_from(&self, from: usize) -> Option<(Task, usize)> {
        let touched = |slot: &Slot| slot.versions > 0 || slot.in_doubt.is_some();
        let place = (from..self.slots.len()).find(|place| touched(&self.slots[*place]))?;
        let task = Task {
            place,
            kind: Kind::Get,
            writes: None,
        };
        Some((task, place + 1))
    }

    pub(super) fn operation(&self, task: &Task) -> (Verb, Id) {
        let verb = match (task.kind, task.writes) {
            (Kind::Get, _) => Verb::Get,
            (_, Some(version)) => Verb::Insert(value(task.place, version)),
            (_, None) => Verb::Remove,
        };
        (verb, self.key(task.place))
    }

    fn key(&self, place: usize) -> Id {
        Id::of(format!("stress {} {place}", self.salt).as_bytes())
    }

    /// Records the result of an operation of the load.
    pub(super) fn finished(&mut self, task: &Task, result: &Result<Outcome, Failure>) {
        let slot = &mut self.slots[task.place];
        match (task.kind, result) {
            (Kind::Get, Ok(_)) => {
                let wrong = self.judge(task.place, result);
                self.wrong_reads.extend(wrong);
            }
            (Kind::Get, Err(_)) => {}
            (Kind::Insert | Kind::Remove, Ok(_)) => slot.acknowledged = task.writes,
            (Kind::Insert | Kind::Remove, Err(_)) => slot.in_doubt = Some(task.writes),
        }
    }

    /// Records the result of a read of the check.
    pub(super) fn check(&mut self, task: &Task, result: &Result<Outcome, Failure>) {
        self.checked += 1;
        let lost = self.judge(task.place, result);
        self.lost.extend(lost);
    }

    /// The error, if a read has a wrong result.
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
        Some(Lost {
            key: self.key(place),
            want: slot.acknowledged,
            found,
            unreadable: result.is_err(),
        })
    }
}

/// The unique value of a version.
fn value(place: usize, version: u32) -> Bytes {
    let text = format!("key {place} version {version} ");
    format!("{text:.<VALUE_BYTES$}").into()
}

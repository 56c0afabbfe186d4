//! The checker of a run: what every key has to hold.
//!
//! Each client has keys of its own and one operation under way. So a key must hold the last write that was
//! acknowledged. After a write whose outcome is unknown the key is in doubt: it may hold the value of either write, for good,
//! since the unknown one may still be under way. It is put aside for the check at the end, and the client goes on with a
//! new key in its place; so the writes do not run dry while members crash.

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
    pub(super) how: How,
}

/// In what way a key is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Another value is there than the one that was acknowledged, or none.
    Lost,
    /// It was removed, and is there.
    CameBack,
    /// No node answered for the key, so its value may still be there.
    Unreadable,
}

/// An operation on a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// Place of the key.
    place: usize,
    /// Where the client has it.
    seat: usize,
    pub(super) kind: Kind,
    writes: Version,
}

pub(in crate::cli) struct Checker {
    slots: Vec<Slot>,
    /// The places of the keys that the clients use, those of a client together.
    seats: Vec<usize>,
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
            seats: (0..clients * keys_each).collect(),
            keys_each,
            salt: rand::random(),
            wrong_reads: Vec::new(),
            lost: Vec::new(),
            checked: 0,
        }
    }

    /// The next operation of a client.
    pub(super) fn draw(&mut self, client: usize, rng: &mut impl Rng) -> Task {
        let seat = client * self.keys_each + rng.random_range(0..self.keys_each);
        let place = self.seats[seat];
        let slot = &mut self.slots[place];
        let kind = match rng.random_range(0..100) {
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
            seat,
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
            seat: 0,
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
            (Kind::Insert | Kind::Remove, Err(_)) => {
                slot.in_doubt = Some(task.writes);
                self.seats[task.seat] = self.slots.len();
                self.slots.push(Slot::default());
            }
        }
    }

    /// Records the result of a read of the check.
    pub(super) fn check(&mut self, task: &Task, result: &Result<Outcome, Failure>) {
        self.checked += 1;
        let lost = self.judge(task.place, result);
        self.lost.extend(lost);
    }

    /// Wrong results of this kind, in the check and before.
    pub(super) fn count(&self, how: How) -> usize {
        let all = self.lost.iter().chain(&self.wrong_reads);
        all.filter(|lost| lost.how == how).count()
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
        let how = match (result, slot.acknowledged) {
            (Err(_), _) => How::Unreadable,
            (Ok(Outcome::Got(Some(_))), None) => How::CameBack,
            _ => How::Lost,
        };
        Some(Lost {
            key: self.key(place),
            want: slot.acknowledged,
            found,
            how,
        })
    }
}

/// The unique value of a version.
fn value(place: usize, version: u32) -> Bytes {
    let text = format!("key {place} version {version} ");
    format!("{text:.<VALUE_BYTES$}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(value: Option<Bytes>) -> Result<Outcome, Failure> {
        Ok(Outcome::Got(value))
    }

    fn unknown() -> Result<Outcome, Failure> {
        let addr = std::net::SocketAddrV4::new([127, 0, 0, 1].into(), 1);
        Err(Failure::CutOff { addr })
    }

    /// A checker with one key, and its operations of a kind.
    fn drawn(checker: &mut Checker, kind: Kind) -> Task {
        let mut rng = rand::rng();
        std::iter::repeat_with(|| checker.draw(0, &mut rng))
            .find(|task| task.kind == kind)
            .expect("drawn in time")
    }

    #[test]
    fn what_was_acknowledged_is_wanted() {
        let mut checker = Checker::new(1, 1);
        let insert = drawn(&mut checker, Kind::Insert);
        checker.finished(&insert, &Ok(Outcome::Inserted));
        let version = insert.writes.expect("a version");
        let right = got(Some(value(insert.place, version)));
        for wrong in [got(None), got(Some(value(insert.place, version - 1)))] {
            checker.check(&insert, &right);
            checker.check(&insert, &wrong);
        }
        assert_eq!(checker.count(How::Lost), 2);
        checker.check(&insert, &unknown());
        assert_eq!((checker.count(How::Unreadable), checker.lost.len()), (1, 3));
    }

    #[test]
    fn what_was_removed_does_not_come_back() {
        let mut checker = Checker::new(1, 1);
        let insert = drawn(&mut checker, Kind::Insert);
        checker.finished(&insert, &Ok(Outcome::Inserted));
        let remove = drawn(&mut checker, Kind::Remove);
        checker.finished(&remove, &Ok(Outcome::Removed));
        let back = got(Some(value(insert.place, insert.writes.expect("a version"))));
        let read = drawn(&mut checker, Kind::Get);
        checker.finished(&read, &got(None));
        assert_eq!(checker.count(How::CameBack), 0);
        checker.finished(&read, &back);
        checker.check(&read, &back);
        assert_eq!(checker.count(How::CameBack), 2);
        assert_eq!((checker.lost.len(), checker.wrong_reads.len()), (1, 1));
    }

    #[test]
    fn a_write_without_an_answer_may_or_may_not_be_there() {
        let mut checker = Checker::new(1, 1);
        let first = drawn(&mut checker, Kind::Insert);
        checker.finished(&first, &Ok(Outcome::Inserted));
        let second = drawn(&mut checker, Kind::Insert);
        assert_eq!(first.place, second.place);
        checker.finished(&second, &unknown());
        let of = |task: &Task| value(task.place, task.writes.expect("a version"));
        checker.check(&second, &got(Some(of(&first))));
        checker.check(&second, &got(Some(of(&second))));
        assert_eq!(checker.lost.len(), 0);
        checker.check(&second, &got(None));
        assert_eq!(checker.count(How::Lost), 1);
        // The client goes on with another key.
        let other = drawn(&mut checker, Kind::Insert);
        assert_ne!(other.place, second.place);
        assert_ne!(checker.key(other.place), checker.key(second.place));
        // An unknown removal: the value, or nothing.
        checker.finished(&other, &Ok(Outcome::Inserted));
        let remove = drawn(&mut checker, Kind::Remove);
        checker.finished(&remove, &unknown());
        checker.check(&remove, &got(Some(of(&other))));
        checker.check(&remove, &got(None));
        assert_eq!(checker.lost.len(), 1);
    }
}

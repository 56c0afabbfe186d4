//! The clients of a ring: what they ask, and whether the answers can be true.
//!
//! A key has one client that writes, or up to [`WRITERS_MAX`] at once; all read. An operation with an unknown outcome stays
//! possible for ever (see [`super::history`]); a key with several of them is only read from then on.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::proto::dht::id::Id;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};
use crate::sim::Tally;

use super::checks::Check;
use super::history::{Register, Saw, Value, Wrong};

/// Clients that write one key at once.
const WRITERS_MAX: usize = 8;

/// Unknown outcomes after which a key is not written any more.
const UNKNOWN_MAX: usize = 4;

/// How much the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Operations under way at once.
    pub clients: usize,
    /// Keys that are written; further ones are read only.
    pub keys: usize,
    /// The share of the keys that up to eight clients write at once.
    pub shared: f64,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Id,
    pub(super) register: Register,
    writers_max: usize,
    writing: usize,
    /// Writes ever begun: makes values differ.
    writes: usize,
}

impl Key {
    fn is_retired(&self) -> bool {
        self.register.unknown() >= UNKNOWN_MAX.min(self.writers_max)
    }
}

/// An operation under way.
#[derive(Debug)]
struct Asked {
    key: usize,
    /// In the window of the key's register.
    number: usize,
    write: Option<Pending>,
}

/// A write that nobody else has touched the key beside.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) key: Id,
    pub(super) value: Value,
    pub(super) begun_us: u64,
    /// The least members that there were since.
    pub(super) members: usize,
    /// Members that have left since: one of them may have had a copy.
    pub(super) left: usize,
    /// No other write was under way or unknown.
    is_only: bool,
    /// A removal that had something to remove.
    pub(super) is_felt: bool,
}

#[cfg(test)]
impl Pending {
    pub(super) fn only(key: Id, value: Value, begun_us: u64, members: usize) -> Pending {
        Pending {
            key,
            value,
            begun_us,
            members,
            left: 0,
            is_only: true,
            is_felt: true,
        }
    }
}

/// What came of an operation.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) acknowledged: Option<Pending>,
    /// With the key.
    pub(super) wrong: Option<(Check, Id, String)>,
    pub(super) failed_read: bool,
}

#[derive(Debug)]
pub(super) struct Clients {
    load: Load,
    pub(super) keys: Vec<Key>,
    asked: BTreeMap<usize, Asked>,
    next: usize,
}

impl Clients {
    pub(super) fn new(load: Load) -> Clients {
        Clients {
            load,
            keys: Vec::new(),
            asked: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.asked.len()
    }

    /// There are members now; writes under way need no more copies than that.
    pub(super) fn note_members(&mut self, members: usize) {
        let writes = self.asked.values_mut().filter_map(|a| a.write.as_mut());
        writes.for_each(|write| write.members = write.members.min(members));
    }

    /// A member has left, with what it had.
    pub(super) fn note_leaver(&mut self) {
        let writes = self.asked.values_mut().filter_map(|a| a.write.as_mut());
        writes.for_each(|write| write.left += 1);
    }

    /// A client begins something; `None` when all are busy. `ids` are those of members: keys at the edges of ranges are the
    /// interesting ones.
    pub(super) fn pick(&mut self, rng: &mut StdRng, ids: &[Id]) -> Option<(usize, Verb)> {
        if self.open() >= self.load.clients {
            return None;
        }
        let live = self.keys.iter().filter(|key| !key.is_retired()).count();
        if live < self.load.keys {
            self.new_key(rng, ids);
        }
        if self.keys.is_empty() {
            return None;
        }
        let at = rng.random_range(0..self.keys.len());
        let what = rng.random_range(0..10);
        let key = &self.keys[at];
        if key.register.is_full() {
            return None;
        }
        let may_write = key.writing < key.writers_max && !key.is_retired();
        let verb = match what {
            0..=4 if may_write => Verb::Insert(self.value(rng, at)),
            5 if may_write => Verb::Remove,
            6 => Verb::Contains,
            _ => Verb::Get,
        };
        Some((at, verb))
    }

    fn new_key(&mut self, rng: &mut StdRng, ids: &[Id]) {
        let id = match (rng.random_range(0..8), ids.is_empty()) {
            (0, _) => Id::ZERO,
            (1, _) => Id::MAX,
            (2, false) => ids[rng.random_range(0..ids.len())],
            (3, false) => ids[rng.random_range(0..ids.len())].pred(),
            _ => Id::from_be_bytes(rng.random()),
        };
        let writers_max = if rng.random_bool(self.load.shared) {
            WRITERS_MAX
        } else {
            1
        };
        if self.keys.iter().all(|key| key.id != id) {
            self.keys.push(Key {
                id,
                register: Register::default(),
                writers_max,
                writing: 0,
                writes: 0,
            });
        }
    }

    fn value(&self, rng: &mut StdRng, at: usize) -> Bytes {
        let key = &self.keys[at];
        let long = [0, 0, 20, 3000][rng.random_range(0..4)];
        // A GET of an empty value is several commands, between which other clients must not write.
        if long == 0 && key.writers_max == 1 && rng.random_bool(0.2) {
            return Bytes::new();
        }
        let mut value = format!("{at}.{}.", key.writes).into_bytes();
        value.resize(value.len() + rng.random_range(0..=long), b'x');
        Bytes::from(value)
    }

    /// The operation begins, with its number.
    pub(super) fn begin(
        &mut self,
        at: usize,
        verb: Verb,
        contacts: Vec<SocketAddrV4>,
        now_us: u64,
        members: usize,
    ) -> (usize, Operation) {
        let value = match &verb {
            Verb::Insert(value) => Some(Some(value.clone())),
            Verb::Remove => Some(None),
            _ => None,
        };
        let key = &mut self.keys[at];
        let before = key.register.settled().cloned();
        let write = value.map(|value| Pending {
            key: key.id,
            is_felt: value.is_some() || before.as_ref().is_some_and(Option::is_some),
            value,
            begun_us: now_us,
            members,
            left: 0,
            is_only: key.writing == 0 && key.register.unknown() == 0,
        });
        let number = match &write {
            Some(write) => {
                key.writes += 1;
                key.writing += 1;
                key.register.begin_write(write.value.clone())
            }
            None => key.register.begin_read(),
        };
        if key.writing > 1 {
            self.shares(at);
        }
        let operation = Operation::new(
            verb,
            self.keys[at].id,
            contacts,
            Bounds {
                unknown_is_final: true,
                ..Bounds::default()
            },
        );
        self.next += 1;
        let asked = Asked {
            key: at,
            number,
            write,
        };
        self.asked.insert(self.next, asked);
        (self.next, operation)
    }

    /// Several writes of a key are under way: none of them is the only one.
    fn shares(&mut self, at: usize) {
        let of_key = self.asked.values_mut().filter(|asked| asked.key == at);
        let writes = of_key.filter_map(|asked| asked.write.as_mut());
        writes.for_each(|write| write.is_only = false);
    }

    /// An operation is over.
    pub(super) fn told(
        &mut self,
        number: usize,
        result: Result<Outcome, Failure>,
        tally: &mut Tally,
    ) -> Told {
        let mut told = Told::default();
        let Some(asked) = self.asked.remove(&number) else {
            return told;
        };
        let key = &mut self.keys[asked.key];
        key.writing -= usize::from(asked.write.is_some());
        let in_window = asked.number;
        let is_acknowledged = result.is_ok();
        let mut judge = |saw| key.register.end(in_window, saw);
        let judged = match (result, &asked.write) {
            (Ok(_), Some(_)) => {
                tally.count("writes");
                judge(None)
            }
            (Err(failure), Some(_)) => {
                let is_refusal = |failure: &Failure| matches!(failure, Failure::Refused { .. });
                let refused = match &failure {
                    Failure::Unknown { why } => is_refusal(why),
                    failure => is_refusal(failure),
                };
                tally.add("refused", u64::from(refused));
                tally.count("unknown");
                key.register.end_unknown()
            }
            (Ok(Outcome::Got(value)), None) => {
                tally.count("reads");
                // See `value`: an empty value is never written here.
                let is_torn = key.writers_max > 1 && value.as_ref().is_some_and(Bytes::is_empty);
                judge((!is_torn).then_some(Saw::Value(value)))
            }
            (Ok(Outcome::Contains(there)), None) => {
                tally.count("reads");
                judge(Some(Saw::Presence(there)))
            }
            (Ok(_) | Err(_), None) => {
                tally.count("failed reads");
                told.failed_read = true;
                judge(None)
            }
        };
        told.wrong = judged
            .err()
            .map(|wrong| describe(asked.key, key.id, &wrong));
        if is_acknowledged {
            told.acknowledged = asked.write.filter(|write| write.is_only && write.is_felt);
        }
        told
    }
}

fn describe(at: usize, id: Id, wrong: &Wrong) -> (Check, Id, String) {
    let check = if wrong.is_back() {
        Check::D4
    } else {
        Check::History
    };
    let saw = match &wrong.saw {
        Saw::Value(value) => short(value.as_ref()),
        Saw::Presence(true) => "an entry".into(),
        Saw::Presence(false) => "no entry".into(),
    };
    let may: Vec<String> = wrong.may.iter().map(|v| short(v.as_ref())).collect();
    let may = may.join(" or ");
    let what = format!("key {at} ({id}): found {saw}, and it is {may}");
    (check, id, what)
}

/// The beginning of a value, which names its write.
pub(super) fn short(value: Option<&Bytes>) -> String {
    let text = |value: &Bytes| {
        let text = String::from_utf8_lossy(&value[..value.len().min(12)]).into_owned();
        format!("\"{}\"", text.trim_end_matches('x'))
    };
    value.map_or("nothing".into(), text)
}

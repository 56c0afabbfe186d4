//! The entries of a range on the wire, as CONNECT and DISCONNECT carry them.
//!
//! `count`, then `key`, `length`, `bytes` for each. Both directions go piece by piece. The sender keeps a place in
//! the ring and goes on when there is room. The receiver keeps an enum of what comes next. Neither holds more than one
//! value that is not an entry yet.
//!
//! It relies on one thing: nothing changes in a range while it is sent, since writes into it are fenced. So the count
//! stays right.

use bytes::Bytes;

use crate::engine::{Tick, Ticks};

use super::entries::{self, Entries};
use super::version::Version;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::config::Quanta;
use crate::proto::dht::wire::{self, Malformed};

/// How often the log says how far a long transfer is.
const PROGRESS_EVERY: Ticks = Ticks::from_secs(1);

/// The sending side: entries of `[at, end)`, clockwise.
#[derive(Debug)]
pub struct Sending {
    start: Id,
    end: Id,
    /// The next key to look from.
    at: Id,
    count: u64,
    counted: bool,
    left: u64,
    /// Bytes of the values that were written.
    moved_bytes: u64,
    /// When progress was last logged.
    logged: Option<Tick>,
}

/// How far [`Sending::step`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Call again soon; the turn had its share.
    Again,
    /// Call again when there is room.
    Full,
    /// All entries are written.
    All,
}

/// Where a sender writes: a connection's output.
pub trait Sink {
    fn out(&mut self) -> &mut Vec<u8>;
    fn send(&mut self, value: &Bytes);
    fn room(&self) -> usize;
}

impl Sending {
    pub fn new(start: Id, end: Id) -> Sending {
        Sending {
            start,
            end,
            at: start,
            count: 0,
            counted: false,
            left: 0,
            moved_bytes: 0,
            logged: None,
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of entries written so far.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    /// Those that left the queue of the connection, in which `queued_bytes` wait. A large value is written at once, and
    /// leaves as fast as the peer takes it.
    pub fn taken_bytes(&self, queued_bytes: usize) -> u64 {
        self.moved_bytes.saturating_sub(queued_bytes as u64)
    }

    /// Logs how far it is, once a second.
    pub fn log_progress(&mut self, now: Tick) {
        let logged = *self.logged.get_or_insert(now);
        if now >= logged + PROGRESS_EVERY {
            self.logged = Some(now);
            log::info!("{} of {} entries sent", self.count - self.left, self.count);
        }
    }

    /// Counts, then writes, as far as the quanta and the room allow.
    pub fn step(&mut self, entries: &Entries, quanta: &Quanta, sink: &mut impl Sink) -> Sent {
        if !self.counted {
            return self.count_some(entries, quanta.counted_per_turn, sink);
        }
        if self.left == 0 {
            return Sent::All;
        }
        for (sent, (key, value)) in entries.arc(self.at, self.end).enumerate() {
            if sink.room() == 0 || sent == quanta.sent_per_turn {
                self.at = key;
                return if sink.room() == 0 {
                    Sent::Full
                } else {
                    Sent::Again
                };
            }
            let out = sink.out();
            wire::put_key(out, key);
            wire::put_number(out, value.len() as u64);
            sink.send(value);
            self.moved_bytes = self.moved_bytes.saturating_add(entries::entry_bytes(value));
            self.left -= 1;
            if self.left == 0 {
                return Sent::All;
            }
        }
        unreachable!("the range that moves is held still while it is sent")
    }

    fn count_some(&mut self, entries: &Entries, most: u64, sink: &mut impl Sink) -> Sent {
        let mut fresh = 0;
        for (key, _) in entries.arc(self.at, self.end) {
            if fresh == most {
                self.at = key;
                self.count += fresh;
                return Sent::Again;
            }
            fresh += 1;
        }
        self.count += fresh;
        self.left = self.count;
        self.counted = true;
        self.at = self.start;
        wire::put_number(sink.out(), self.count);
        Sent::Again
    }
}

/// The receiving side.
#[derive(Debug, Default)]
pub struct Receiving {
    expect: Expect,
    /// Entries still to come, after the count.
    left: u64,
    /// Bytes that were read.
    moved_bytes: u64,
}

#[derive(Debug, Default)]
enum Expect {
    #[default]
    Count,
    Key,
    Length {
        key: Id,
    },
    Value(Incoming),
}

/// A value of which bytes are still to come: an entry's, or an INSERT's.
#[derive(Debug)]
pub struct Incoming {
    pub key: Id,
    left_bytes: u64,
    /// False: its bytes are dropped as they come.
    kept: bool,
    /// Grows with what arrives, never by what was announced.
    bytes: Vec<u8>,
}

impl Incoming {
    /// # Panics
    /// If the length is 0: nothing is to come then.
    pub fn new(key: Id, length_bytes: u64) -> Incoming {
        assert!(length_bytes > 0, "an empty value is complete");
        Incoming {
            key,
            left_bytes: length_bytes,
            kept: true,
            bytes: Vec::new(),
        }
    }

    /// Bytes held.
    pub fn staged_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How many of `input_bytes` are the value's, when they are not its last ones.
    pub fn stages(&self, input_bytes: usize) -> Option<u64> {
        let input_bytes = input_bytes as u64;
        (input_bytes < self.left_bytes).then_some(input_bytes)
    }

    /// Takes what is the value's from the front of `input`; says how many bytes, and the value once it is whole.
    pub fn take(&mut self, input: &[u8]) -> (usize, Option<Bytes>) {
        let take = usize::try_from(self.left_bytes)
            .unwrap_or(usize::MAX)
            .min(input.len());
        self.left_bytes -= take as u64;
        if !self.kept {
            return (take, (self.left_bytes == 0).then(Bytes::new));
        }
        if self.left_bytes == 0 && self.bytes.is_empty() {
            return (take, Some(Bytes::copy_from_slice(&input[..take])));
        }
        self.bytes.extend_from_slice(&input[..take]);
        // Boxed, so that the spare capacity of its growth is given back.
        let whole = (self.left_bytes == 0)
            .then(|| Bytes::from(std::mem::take(&mut self.bytes).into_boxed_slice()));
        (take, whole)
    }
}

/// What [`Receiving::read`] made of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// In the middle of an entry, or at the end of one that is not wanted.
    Part,
    /// Without a version: a plain peer's. Without a value: a tombstone.
    Entry(Id, Option<Version>, Option<Bytes>),
    /// There are no entries (the count was 0).
    None,
}

impl Receiving {
    /// Bytes of the value that is under way.
    pub fn staged_bytes(&self) -> u64 {
        match &self.expect {
            Expect::Value(incoming) => incoming.staged_bytes(),
            Expect::Count | Expect::Key | Expect::Length { .. } => 0,
        }
    }

    /// Bytes read so far.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    /// Every announced entry has come.
    pub fn is_complete(&self) -> bool {
        self.left == 0 && matches!(self.expect, Expect::Key)
    }

    /// Reads the next piece and says how many bytes it took; `None` when more are needed. Not called once it
    /// [`Receiving::is_complete`]. `wants` says of which keys the entries are kept; of the others no value is held.
    ///
    /// # Errors
    /// What the lines' readers say, and [`Malformed::Number`] for a value over `value_bytes_max`.
    pub fn read(
        &mut self,
        input: &[u8],
        seen: usize,
        value_bytes_max: u64,
        wants: impl Fn(Id) -> bool,
    ) -> Result<Option<(Received, usize)>, Malformed> {
        let entry = |kept: bool, key: Id, value: Bytes| {
            if kept {
                Received::Entry(key, None, Some(value))
            } else {
                Received::Part
            }
        };
        let (next, received, used) = match &mut self.expect {
            Expect::Count => {
                let Some((count, used)) = wire::number(input, seen)? else {
                    return Ok(None);
                };
                self.left = count;
                let received = if count == 0 {
                    Received::None
                } else {
                    Received::Part
                };
                (Some(Expect::Key), received, used)
            }
            Expect::Key => {
                let Some((key, used)) = wire::key(input, seen)? else {
                    return Ok(None);
                };
                (Some(Expect::Length { key }), Received::Part, used)
            }
            Expect::Length { key } => {
                let Some((length, used)) = wire::number(input, seen)? else {
                    return Ok(None);
                };
                if length > value_bytes_max {
                    return Err(Malformed::Number);
                }
                if length == 0 {
                    self.left -= 1;
                    let received = entry(wants(*key), *key, Bytes::new());
                    (Some(Expect::Key), received, used)
                } else {
                    let mut value = Incoming::new(*key, length);
                    value.kept = wants(*key);
                    (Some(Expect::Value(value)), Received::Part, used)
                }
            }
            Expect::Value(incoming) => {
                let (used, value) = incoming.take(input);
                let whole = value.map(|value| entry(incoming.kept, incoming.key, value));
                self.left -= u64::from(whole.is_some());
                let next = whole.is_some().then_some(Expect::Key);
                (next, whole.unwrap_or(Received::Part), used)
            }
        };
        if let Some(next) = next {
            self.expect = next;
        }
        self.moved_bytes = self.moved_bytes.saturating_add(used as u64);
        Ok(Some((received, used)))
    }
}

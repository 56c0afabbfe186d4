//! Entries on the wire: the part of a range that CONNECT and DISCONNECT hand over.
//!
//! `count`, then `key`, `length`, `bytes` for each. Both directions go piece by piece: the sender keeps a place in
//! the ring and goes on when there is room, the receiver an enum of what comes next. Neither holds more than one
//! value that is not an entry yet.
//!
//! What it relies on: nothing changes in the range that is sent (its writes are held), so the count stays right.

use bytes::Bytes;

use crate::engine::{Tick, Ticks};

use super::entries::Entries;
use super::id::Id;
use super::wire::{self, Malformed};

/// Entries counted in one turn, and written in one: some 30 and 10 us, which is what others then wait. With 64
/// written, the p99 of other commands was 3.5 times the quiet one; with 16 it is the quiet one, and a million entries
/// take 0.9 s and not 0.5. Few in tests, as there are few.
const COUNTED_PER_TURN: u64 = if cfg!(test) { 3 } else { 4096 };
const SENT_PER_TURN: usize = if cfg!(test) { 2 } else { 16 };

/// A transfer that takes long says this often how far it is.
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
    /// When progress was last said.
    said: Option<Tick>,
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
            said: None,
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Logs how far it is, once a second.
    pub fn log_progress(&mut self, now: Tick) {
        let said = *self.said.get_or_insert(now);
        if now >= said + PROGRESS_EVERY {
            self.said = Some(now);
            log::info!("{} of {} entries sent", self.count - self.left, self.count);
        }
    }

    /// Counts, then writes, as far as a turn and the room allow.
    pub fn step(&mut self, entries: &Entries, sink: &mut impl Sink) -> Sent {
        if !self.counted {
            return self.count_some(entries, sink);
        }
        if self.left == 0 {
            return Sent::All;
        }
        for (sent, (key, value)) in entries.arc(self.at, self.end).enumerate() {
            if sink.room() == 0 || sent == SENT_PER_TURN {
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
            self.left -= 1;
            if self.left == 0 {
                return Sent::All;
            }
        }
        unreachable!("the range that moves is held still while it is sent")
    }

    fn count_some(&mut self, entries: &Entries, sink: &mut impl Sink) -> Sent {
        let mut fresh = 0;
        for (key, _) in entries.arc(self.at, self.end) {
            if fresh == COUNTED_PER_TURN {
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
    /// In the middle of an entry.
    Part,
    Entry(Id, Bytes),
    /// There are no entries (the count was 0).
    None,
}

impl Receiving {
    /// Every announced entry has come.
    pub fn is_complete(&self) -> bool {
        self.left == 0 && matches!(self.expect, Expect::Key)
    }

    /// Reads the next piece and says how many bytes it took; `None` when more are needed. Not called once it
    /// [`Receiving::is_complete`].
    ///
    /// # Errors
    /// What the lines' readers say, and [`Malformed::Number`] for a value over `value_bytes_max`.
    pub fn read(
        &mut self,
        input: &[u8],
        seen: usize,
        value_bytes_max: u64,
    ) -> Result<Option<(Received, usize)>, Malformed> {
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
                (Expect::Key, received, used)
            }
            Expect::Key => {
                let Some((key, used)) = wire::key(input, seen)? else {
                    return Ok(None);
                };
                (Expect::Length { key }, Received::Part, used)
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
                    (Expect::Key, Received::Entry(*key, Bytes::new()), used)
                } else {
                    let value = Incoming::new(*key, length);
                    (Expect::Value(value), Received::Part, used)
                }
            }
            Expect::Value(incoming) => {
                let (used, value) = incoming.take(input);
                let Some(value) = value else {
                    return Ok(Some((Received::Part, used)));
                };
                self.left -= 1;
                (Expect::Key, Received::Entry(incoming.key, value), used)
            }
        };
        self.expect = next;
        Ok(Some((received, used)))
    }
}

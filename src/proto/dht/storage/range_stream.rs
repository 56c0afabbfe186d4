//! The entries of a range on the wire, as CONNECT and DISCONNECT carry them.
//!
//! `count`, then `key`, `length`, `bytes` for each. XCONNECT and XDISCONNECT have a version between key and length, and
//! tombstones, whose length is `-`. Both directions go piece by piece. The sender keeps a place in
//! the ring and goes on when there is room. The receiver keeps an enum of what comes next. Neither holds more than one
//! value that is not an entry yet.
//!
//! It relies on one thing: nothing changes in a range while it is sent, since writes into it are fenced. So the count
//! stays right. If something does change, the sender sees it at the end and must break off ([`Sent::Changed`]).

use bytes::Bytes;

use crate::engine::{Tick, Ticks};

use super::entries::{self, Entries, Entry};
use super::version::Version;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::config::Quanta;
use crate::proto::dht::wire::{self, Form, Malformed};

/// How often the log says how far a long transfer is.
const PROGRESS_EVERY: Ticks = Ticks::from_secs(1);

/// The sending side: entries of `[at, end)`, clockwise.
#[derive(Debug)]
pub struct Sending {
    form: Form,
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
    /// Fewer entries are there than were counted: what was sent is worth nothing.
    Changed,
}

/// Where a sender writes: a connection's output.
pub trait Sink {
    fn out(&mut self) -> &mut Vec<u8>;
    fn send(&mut self, value: &Bytes);
    fn room(&self) -> usize;
}

impl Sending {
    pub fn new(start: Id, end: Id, form: Form) -> Sending {
        Sending {
            form,
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

    pub fn form(&self) -> Form {
        self.form
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    fn sends(&self, entry: &Entry) -> bool {
        self.form == Form::Versioned || entry.value.is_some()
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
        let from = entries.arc_with_tombstones(self.at, self.end);
        for (looked_at, (key, entry)) in from.enumerate() {
            if sink.room() == 0 || looked_at == quanta.sent_per_turn {
                self.at = key;
                return if sink.room() == 0 {
                    Sent::Full
                } else {
                    Sent::Again
                };
            }
            if !self.sends(entry) {
                continue;
            }
            self.put(sink, key, entry);
            self.left -= 1;
            if self.left == 0 {
                return Sent::All;
            }
        }
        Sent::Changed
    }

    fn put(&mut self, sink: &mut impl Sink, key: Id, entry: &Entry) {
        let (value, out) = (entry.value.as_ref(), sink.out());
        wire::put_key(out, key);
        if self.form == Form::Versioned {
            wire::put_number(out, entry.version.0);
        }
        wire::put_length(out, value.map(|value| value.len() as u64));
        if let Some(value) = value {
            sink.send(value);
        }
        let bytes = entries::entry_bytes(value.unwrap_or(&Bytes::new()));
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
    }

    fn count_some(&mut self, entries: &Entries, most: u64, sink: &mut impl Sink) -> Sent {
        let from = entries.arc_with_tombstones(self.at, self.end);
        for (looked_at, (key, entry)) in (0..).zip(from) {
            if looked_at == most {
                self.at = key;
                return Sent::Again;
            }
            self.count += u64::from(self.sends(entry));
        }
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
    form: Form,
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
    Version {
        key: Id,
    },
    Length {
        key: Id,
        version: Option<Version>,
    },
    Value(Incoming, Option<Version>),
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
    pub fn new(form: Form) -> Receiving {
        Receiving {
            form,
            ..Receiving::default()
        }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Bytes of the value that is under way.
    pub fn staged_bytes(&self) -> u64 {
        match &self.expect {
            Expect::Value(incoming, _) => incoming.staged_bytes(),
            Expect::Count | Expect::Key | Expect::Version { .. } | Expect::Length { .. } => 0,
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
        let entry = |kept: bool, key, version, value| {
            if kept {
                Received::Entry(key, version, value)
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
                let next = match self.form {
                    Form::Plain => Expect::Length { key, version: None },
                    Form::Versioned => Expect::Version { key },
                };
                (Some(next), Received::Part, used)
            }
            Expect::Version { key } => {
                let Some((version, used)) = wire::number(input, seen)? else {
                    return Ok(None);
                };
                let (key, version) = (*key, Some(Version(version)));
                (Some(Expect::Length { key, version }), Received::Part, used)
            }
            Expect::Length { key, version } => {
                let Some((length, used)) = read_length(input, seen, version.is_some())? else {
                    return Ok(None);
                };
                if length.is_some_and(|length| length > value_bytes_max) {
                    return Err(Malformed::Number);
                }
                let (key, version) = (*key, *version);
                match length {
                    Some(length) if length > 0 => {
                        let mut value = Incoming::new(key, length);
                        value.kept = wants(key);
                        (Some(Expect::Value(value, version)), Received::Part, used)
                    }
                    _ => {
                        self.left -= 1;
                        let value = length.map(|_| Bytes::new());
                        let received = entry(wants(key), key, version, value);
                        (Some(Expect::Key), received, used)
                    }
                }
            }
            Expect::Value(incoming, version) => {
                let (used, value) = incoming.take(input);
                let (kept, key) = (incoming.kept, incoming.key);
                let whole = value.map(|value| entry(kept, key, *version, Some(value)));
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

/// Reads the length of a value; `None` in it, which only `versioned` entries can have, is a tombstone's.
pub(crate) fn read_length(
    input: &[u8],
    seen: usize,
    versioned: bool,
) -> Result<Option<(Option<u64>, usize)>, Malformed> {
    if versioned {
        return wire::length(input, seen);
    }
    let length = wire::number(input, seen)?;
    Ok(length.map(|(length, used)| (Some(length), used)))
}

//! Serves DOWNLOAD: requests for parts of files, one after the other on each connection.
//!
//! ```text
//!   request ─▶ known file? ─▶ requester online? ─▶ a slot? ─▶ read ─▶ send ─▶ read ... ─▶ next request
//!                │ KO 208        │ KO 208            (waits)
//! ```
//! A connection has at most one chunk being read and the output that the engine lets it queue. The number of slots bounds
//! the connections that are served at once, and so the memory; the others wait. A connection that has a slot and reads
//! too slowly is closed if others wait.
//!
//! The OK is written with the first chunk, so that a file that cannot be read is a KO. After that there is no way to say
//! that a file has changed: the connection is closed, and the receiver has too few bytes.
//!
//! Not here: which files there are and who may have them ([`crate::proto::index::sharer`]), and how they are read.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Limits, Service, Tick, Ticks};
use crate::proto::index::wire::Range;

use super::CHUNK_BYTES;

/// Slots by default: with the output that each connection may queue, at most 32 MiB.
pub const SLOTS_MAX: usize = 40;

/// Output queued for a connection at which reading pauses: two chunks keep the socket busy while the worker reads the
/// third.
const OUTPUT_BYTES_HIGH: usize = 2 * CHUNK_BYTES as usize;

/// A slot is passed on after this many bytes if others wait, so that a long request does not keep them out.
const TURN_BYTES: u64 = 16 << 20;

/// Output that does not keep a slot: any connection may have as much queued.
const SMALL_BYTES: usize = 4 << 10;

/// Slots are checked this often while connections wait.
pub const LOOK_EVERY: Ticks = Ticks::from_millis(100);

/// A connection that has taken less than [`CRAWL_BYTES`] of an answer, or not its end, within this is closed if others
/// wait.
const CRAWL_AFTER: Ticks = Ticks::from_secs(30);
const CRAWL_BYTES: u64 = 512 << 10;

/// Adapts limits to a node that serves files.
pub fn limits(base: Limits) -> Limits {
    Limits {
        output_bytes_high: OUTPUT_BYTES_HIGH,
        output_bytes_low: OUTPUT_BYTES_HIGH / 2,
        // A frame of the index server must fit.
        input_bytes_max: base.input_bytes_max.max(128 << 10),
        // The output of a connection that is closed for slow reading is freed within a minute.
        pace_bytes_per_sec: base.pace_bytes_per_sec.max(OUTPUT_BYTES_HIGH as u64 / 60),
        ..base
    }
}

/// A job of the worker: read a part of a file, whole or not at all.
#[derive(Debug)]
pub struct Read<F> {
    pub conn: ConnId,
    pub file: F,
    pub offset: u64,
    pub length: usize,
}

/// The result of a [`Read`].
#[derive(Debug)]
pub struct ReadDone {
    pub conn: ConnId,
    /// Exactly the bytes asked for.
    pub bytes: Result<Bytes, Unreadable>,
}

/// The file is gone, has changed or cannot be read. The worker logs which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// A request that is being answered.
#[derive(Debug)]
pub struct Sending<F> {
    pub(crate) file: F,
    pub(crate) total_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) end: u64,
    /// The next byte to read.
    next: u64,
    /// The OK is written.
    begun: bool,
    /// A [`Read`] is under way.
    reading: bool,
}

/// Whether a chunk was the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    More,
    Whole,
}

impl<F: Clone> Sending<F> {
    /// `None` if the range starts beyond the end of the file. One that ends beyond is cut.
    pub(crate) fn new(file: F, total_bytes: u64, range: Range) -> Option<Sending<F>> {
        let left = total_bytes.checked_sub(range.offset)?;
        let length = match range.length {
            0 => left,
            length => length.min(left),
        };
        Some(Sending {
            file,
            total_bytes,
            offset: range.offset,
            end: range.offset + length,
            next: range.offset,
            begun: false,
            reading: false,
        })
    }

    /// The next chunk to be read, unless one is being read.
    pub(crate) fn read(&mut self, conn: ConnId) -> Option<Read<F>> {
        if self.reading {
            return None;
        }
        self.reading = true;
        Some(Read {
            conn,
            file: self.file.clone(),
            offset: self.next,
            length: (self.end - self.next).min(CHUNK_BYTES) as usize,
        })
    }

    /// Whether the chunk that was read is the first one: the OK goes before it.
    pub(crate) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// A chunk was queued.
    pub(crate) fn sent(&mut self, bytes: usize) -> After {
        self.reading = false;
        self.next += bytes as u64;
        if self.next == self.end {
            After::Whole
        } else {
            After::More
        }
    }
}

/// A connection with a slot.
#[derive(Debug)]
struct Slot {
    conn: ConnId,
    /// When its answer began or, if `idle`, ended.
    since: Tick,
    /// Bytes queued since it got the slot: by `since`, and by now.
    bytes_before: u64,
    bytes: u64,
    /// Its request is answered, and only output is left to drain.
    idle: bool,
}

impl Slot {
    fn set_idle(&mut self, idle: bool, now: Tick) {
        (self.idle, self.since, self.bytes_before) = (idle, now, self.bytes);
    }
}

/// The connections that have a slot, and those that wait for one, in order.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    taken: Vec<Slot>,
    waiting: VecDeque<ConnId>,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Slots {
        Slots {
            max,
            taken: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn someone_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Asks for a slot. False if there is none; the connection waits then.
    pub(crate) fn enter(&mut self, conn: ConnId, now: Tick) -> bool {
        let mine = self.taken.iter().position(|slot| slot.conn == conn);
        if self.waiting.is_empty() && (mine.is_some() || self.taken.len() < self.max) {
            match mine {
                Some(at) => self.taken[at].set_idle(false, now),
                None => self.take(conn, now),
            }
            return true;
        }
        self.waiting.push_back(conn);
        false
    }

    /// Whether a connection has a slot for its request.
    pub(crate) fn serves(&self, conn: ConnId) -> bool {
        let mut taken = self.taken.iter();
        taken.any(|slot| slot.conn == conn && !slot.idle)
    }

    fn take(&mut self, conn: ConnId, since: Tick) {
        self.taken.push(Slot {
            conn,
            since,
            bytes_before: 0,
            bytes: 0,
            idle: false,
        });
    }

    /// Counts bytes queued for a connection. False if its turn is over; it waits for the next one then.
    pub(crate) fn sent(&mut self, conn: ConnId, bytes: usize, now: Tick) -> bool {
        let Some(slot) = self.taken.iter_mut().find(|slot| slot.conn == conn) else {
            return true;
        };
        slot.bytes += bytes as u64;
        if self.waiting.is_empty() || slot.bytes < TURN_BYTES {
            return true;
        }
        slot.set_idle(true, now);
        self.waiting.push_back(conn);
        false
    }

    /// The request is answered. The slot becomes free when the output is drained.
    pub(crate) fn finish(&mut self, conn: ConnId, now: Tick) {
        if let Some(slot) = self.taken.iter_mut().find(|slot| slot.conn == conn) {
            slot.set_idle(true, now);
        }
    }

    /// The connection is gone.
    pub(crate) fn leave(&mut self, conn: ConnId) {
        self.taken.retain(|slot| slot.conn != conn);
        self.waiting.retain(|waiting| *waiting != conn);
    }

    /// Frees slots whose output is drained, closes connections that are too slow, and gives the slots to connections that
    /// wait. Returns those.
    pub(crate) fn admit<S: Service>(&mut self, hub: &mut Hub<S>) -> Vec<ConnId> {
        let mut admitted = Vec::new();
        if self.waiting.is_empty() {
            return admitted;
        }
        let now = hub.now();
        let drained = hub.limits().output_bytes_high - SMALL_BYTES;
        self.taken
            .retain(|slot| !slot.idle || hub.room_of(slot.conn) < drained);
        self.taken.retain(|slot| {
            let crawls = slot.bytes - slot.bytes_before < CRAWL_BYTES || slot.idle;
            let is_late = crawls && now.since(slot.since) >= CRAWL_AFTER;
            if is_late {
                log::debug!("{} takes too long while others wait", slot.conn);
                hub.close_conn(slot.conn);
            }
            !is_late
        });
        while self.taken.len() < self.max
            && let Some(conn) = self.waiting.pop_front()
        {
            // It may still have a slot, not drained since its last turn.
            self.taken.retain(|slot| slot.conn != conn);
            self.take(conn, now);
            admitted.push(conn);
        }
        admitted
    }
}

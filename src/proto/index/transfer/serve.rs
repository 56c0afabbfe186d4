//! Serving: requests for parts of files, one after the other on each connection.
//!
//! ```text
//!   request ─▶ known file? ─▶ requester online? ─▶ a slot? ─▶ read ─▶ send ─▶ read ... ─▶ next request
//!                │ KO 208        │ KO 208            (waits)
//! ```
//! Each connection has one chunk being read and what the engine lets it queue, so memory is bounded by the
//! number of connections that are served at once, the slots; the others wait for their turn. Who takes a
//! slot and then reads at a crawl loses the connection when others wait.
//!
//! The OK is written with the first chunk, so that a file which cannot be read is a KO. Once bytes have followed, there is no
//! way to say that the file has changed: the connection is closed, and the receiver has too few bytes.
//!
//! Not here: which files there are, and how they are read ([`crate::proto::index::sharer`] is told).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Limits, Service, Tick, Ticks};
use crate::proto::index::wire::Range;

use super::CHUNK_BYTES;

/// Connections that are served at once, by default: with what each may queue, 32 MiB at most.
pub const SLOTS_MAX: usize = 40;

/// Output that is queued for a connection before reading pauses, and below which it goes on: two chunks keep the socket
/// busy while the worker reads the third.
const OUTPUT_BYTES_HIGH: usize = 2 * CHUNK_BYTES as usize;

/// A slot is passed on after so many bytes when others wait, so that one long request does not keep them out.
const TURN_BYTES: u64 = 16 << 20;

/// Output that is no reason to keep a slot: what any connection may have waiting.
const SMALL_BYTES: usize = 4 << 10;

/// Who waits for a slot is looked after this often.
pub const LOOK_EVERY: Ticks = Ticks::from_millis(100);

/// Whoever took less than [`CRAWL_BYTES`] of an answer, or did not take its end, within this is dropped when others wait.
const CRAWL_AFTER: Ticks = Ticks::from_secs(30);
const CRAWL_BYTES: u64 = 512 << 10;

/// The limits of a node that serves files, from those of any.
pub fn limits(base: Limits) -> Limits {
    Limits {
        output_bytes_high: OUTPUT_BYTES_HIGH,
        output_bytes_low: OUTPUT_BYTES_HIGH / 2,
        // A frame of the index server must fit.
        input_bytes_max: base.input_bytes_max.max(128 << 10),
        // What is queued for a connection that is closed for its crawling is gone within a minute.
        pace_bytes_per_sec: base.pace_bytes_per_sec.max(OUTPUT_BYTES_HIGH as u64 / 60),
        ..base
    }
}

/// A job of the worker: reads a part of a file, whole or not at all.
#[derive(Debug)]
pub struct Read<F> {
    pub conn: ConnId,
    pub file: F,
    pub offset: u64,
    pub length: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct ReadDone {
    pub conn: ConnId,
    /// Exactly the bytes asked for.
    pub bytes: Result<Bytes, Unreadable>,
}

/// The file is gone, has changed or cannot be read; the worker's log says which.
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
    begun: bool,
    reading: bool,
}

/// What follows a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    More,
    Whole,
}

impl<F: Clone> Sending<F> {
    /// For a range that starts inside the file or at its end; one that goes beyond is cut there.
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

    /// The next chunk to be read, unless one is.
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

    /// A chunk was read; whether it is the first one, before which the OK goes.
    pub(crate) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

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

/// A connection that is served.
#[derive(Debug)]
struct Slot {
    conn: ConnId,
    /// When its answer began or, once that is all queued, ended; and what was queued by then.
    since: Tick,
    bytes_before: u64,
    /// Queued in this turn.
    bytes: u64,
    /// Its request is answered; only the output is not drained.
    idle: bool,
}

impl Slot {
    fn now_is(&mut self, idle: bool, now: Tick) {
        (self.idle, self.since, self.bytes_before) = (idle, now, self.bytes);
    }
}

/// Who is served and who waits.
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

    /// Asks for a slot; without one, the connection is in the queue.
    pub(crate) fn enter(&mut self, conn: ConnId, now: Tick) -> bool {
        let mine = self.taken.iter().position(|slot| slot.conn == conn);
        if self.waiting.is_empty() && (mine.is_some() || self.taken.len() < self.max) {
            match mine {
                Some(at) => self.taken[at].now_is(false, now),
                None => self.take(conn, now),
            }
            return true;
        }
        self.waiting.push_back(conn);
        false
    }

    /// It is this connection's turn.
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

    /// Counts what was queued for a connection; false when its turn is over and it waits for the next.
    pub(crate) fn sent(&mut self, conn: ConnId, bytes: usize, now: Tick) -> bool {
        let Some(slot) = self.taken.iter_mut().find(|slot| slot.conn == conn) else {
            return true;
        };
        slot.bytes += bytes as u64;
        if self.waiting.is_empty() || slot.bytes < TURN_BYTES {
            return true;
        }
        slot.now_is(true, now);
        self.waiting.push_back(conn);
        false
    }

    /// The request is answered. The slot is free once the peer has taken the answer.
    pub(crate) fn finish(&mut self, conn: ConnId, now: Tick) {
        if let Some(slot) = self.taken.iter_mut().find(|slot| slot.conn == conn) {
            slot.now_is(true, now);
        }
    }

    pub(crate) fn leave(&mut self, conn: ConnId) {
        self.taken.retain(|slot| slot.conn != conn);
        self.waiting.retain(|waiting| *waiting != conn);
    }

    /// Frees the slots whose output is drained and gives them to who waits. Returns who is served now, and ends
    /// connections that crawl.
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
            // Its own slot, when that is not drained since its last turn.
            self.taken.retain(|slot| slot.conn != conn);
            self.take(conn, now);
            admitted.push(conn);
        }
        admitted
    }
}

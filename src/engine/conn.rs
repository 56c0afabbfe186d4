//! The engine half of a connection.

use std::fmt;

use super::input::Stash;
use super::output::Output;
use super::peers::Peer;
use super::{Tick, TimerId};

/// Names a connection for ever: the slot it stands in, and the generation that tells it from earlier
/// and later ones in the same slot. An id whose connection is gone is harmless: whatever is done with it
/// is a counted no-op.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl ConnId {
    /// As one word, for the driver's poll.
    pub fn to_token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub fn from_token(token: u64) -> ConnId {
        ConnId {
            slot: token as u32,
            generation: (token >> 32) as u32,
        }
    }

    /// Where the connection stands in tables that run parallel to the engine's.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot, self.generation)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Dialled, not yet accepted.
    Dialling,
    Open,
    /// The service is done with it; what is queued goes out, then it lingers or is closed.
    Closing,
    /// All is sent and our side is shut; what still comes is thrown away until the peer closes.
    Lingering,
    /// Waits for the reap of this turn.
    Closed,
}

/// What the peer owes next, and so which deadline runs. `None` when it is our turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    Dial,
    Idle,
    Message,
    Drain,
    Linger,
    None,
}

/// The engine half of one connection. Kept small: with its timer it is most of what an idle
/// connection costs.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    pub(super) timeout: Timeout,
    /// The socket may have bytes; false after a read found none.
    pub(super) readable: bool,
    /// The socket may take bytes; false after a write was cut short.
    pub(super) writable: bool,
    /// The driver saw that the peer closed its side: a short read is then not the end of it.
    pub(super) hung_up: bool,
    /// A read returned the end of the stream.
    pub(super) eof: bool,
    /// A message was begun.
    pub(super) in_message: bool,
    /// The service owes an answer; input rests.
    pub(super) waiting: bool,
    /// The output passed the high-water mark and is not yet below the low one; input rests.
    pub(super) paused: bool,
    /// Something was sent: a reset could lose it.
    pub(super) wrote: bool,
    /// Close by way of [`Phase::Lingering`] even if no input is known to be unread.
    pub(super) lingers: bool,
    /// The service was told that it is over; only then may the slot go.
    pub(super) end_told: bool,
    pub(super) on_ready_list: bool,
    pub(super) on_dirty_list: bool,
    /// Leftover input; `None` when there is none.
    pub(super) stash: Option<Box<Stash>>,
    pub(super) output: Output,
    /// When the timeout that runs began, moved on by what was done for it.
    pub(super) since: Tick,
    /// Bytes moved for the timeout that runs, which have not moved `since` yet.
    pub(super) moved_bytes: u64,
    /// The one timer of this connection; `timer_at` is no later than the true deadline. A deadline that only moves
    /// later is looked at again when the timer fires, so serving a message does not touch the wheel.
    pub(super) timer: Option<TimerId>,
    pub(super) timer_at: Tick,
}

impl Connection {
    pub(super) fn new(generation: u32, peer: Peer, phase: Phase, now: Tick) -> Connection {
        Connection {
            generation,
            peer,
            phase,
            timeout: Timeout::None,
            readable: false,
            writable: false,
            hung_up: false,
            eof: false,
            in_message: false,
            waiting: false,
            paused: false,
            wrote: false,
            lingers: false,
            end_told: false,
            on_ready_list: false,
            on_dirty_list: false,
            stash: None,
            output: Output::default(),
            since: now,
            moved_bytes: 0,
            timer: None,
            timer_at: Tick(0),
        }
    }

    pub(super) fn id(&self, slot: usize) -> ConnId {
        ConnId {
            slot: slot as u32,
            generation: self.generation,
        }
    }

    /// The service may be called with input now.
    pub(super) fn takes_input(&self) -> bool {
        self.phase == Phase::Open && !self.waiting && !self.paused
    }

    /// Kept input that the service has not been offered yet.
    pub(super) fn has_unserved(&self) -> bool {
        self.stash
            .as_ref()
            .is_some_and(|stash| stash.seen < stash.len())
    }

    /// The socket may have input that is wanted.
    pub(super) fn wants_read(&self) -> bool {
        self.takes_input() && self.readable && !self.eof
    }

    /// Everything is sent and the connection is to go: whether the peer may still be sending, so that a close
    /// would reset the connection before it has read the last answer.
    pub(super) fn must_linger(&self) -> bool {
        let unread = self.readable || self.stash.is_some();
        self.wrote && !self.eof && (self.lingers || unread)
    }
}

/// 15,000 idle connections are to cost at most 192 bytes each: this, the protocol half (40 bytes are
/// fair), a timer of 32 and the driver's socket.
const _: () = assert!(size_of::<Connection>() <= 80);

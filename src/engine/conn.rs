//! The engine half of a connection.

use std::fmt;

use super::input::Stash;
use super::output::Output;
use super::peers::Peer;
use super::service::{Deadline, End};
use super::{Limits, Tick, Ticks, TimerId};

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
    Doomed,
}

/// What the peer owes next, and so which deadline runs. `None` when it is our turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Dial,
    Idle,
    Message,
    Drain,
    Linger,
    None,
}

impl Watch {
    /// What it means when the deadline passes; `None`: nothing worth telling, just close.
    pub(super) fn missed(self) -> Option<Deadline> {
        match self {
            Watch::Dial => Some(Deadline::Dial),
            Watch::Idle => Some(Deadline::Idle),
            Watch::Message => Some(Deadline::Message),
            Watch::Drain => Some(Deadline::Drain),
            Watch::Linger | Watch::None => None,
        }
    }
}

/// The engine half of one connection. Kept small: with its timer it is most of what an idle
/// connection costs.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) generation: u32,
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    pub(super) watch: Watch,
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
    pub(super) told: bool,
    pub(super) on_ready_list: bool,
    pub(super) on_dirty_list: bool,
    /// Leftover input; `None` when there is none.
    pub(super) stash: Option<Box<Stash>>,
    pub(super) output: Output,
    /// When the watch that runs began, moved on by what was done for it.
    pub(super) since: Tick,
    /// Bytes moved for the watch that runs, which have not moved `since` yet.
    pub(super) moved_bytes: u64,
    /// The one timer of this connection; `alarm_at` is no later than the true deadline. A deadline that only moves
    /// later is looked at again when the alarm fires, so serving a message does not touch the wheel.
    pub(super) alarm: Option<TimerId>,
    pub(super) alarm_at: Tick,
}

impl Port {
    pub(super) fn new(generation: u32, peer: Peer, phase: Phase, now: Tick) -> Port {
        Port {
            generation,
            peer,
            phase,
            watch: Watch::None,
            readable: false,
            writable: false,
            hung_up: false,
            eof: false,
            in_message: false,
            waiting: false,
            paused: false,
            wrote: false,
            lingers: false,
            told: false,
            on_ready_list: false,
            on_dirty_list: false,
            stash: None,
            output: Output::default(),
            since: now,
            moved_bytes: 0,
            alarm: None,
            alarm_at: Tick(0),
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

    /// Which deadline should run, seen from the state alone.
    pub(super) fn due_watch(&self) -> Watch {
        match self.phase {
            Phase::Dialling => Watch::Dial,
            Phase::Lingering => Watch::Linger,
            Phase::Doomed => Watch::None,
            Phase::Open | Phase::Closing if !self.output.is_empty() => Watch::Drain,
            Phase::Closing => Watch::None,
            Phase::Open if self.waiting => Watch::None,
            Phase::Open if self.in_message || self.stash.is_some() => Watch::Message,
            Phase::Open => Watch::Idle,
        }
    }

    /// The true deadline of the watch that runs.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Tick> {
        let allowed = match self.watch {
            Watch::Dial => limits.dial,
            Watch::Idle => limits.idle,
            Watch::Message => limits.message,
            Watch::Drain => limits.drain,
            Watch::Linger => limits.linger,
            Watch::None => return None,
        };
        (allowed != Ticks::NEVER).then(|| self.since.deadline(allowed))
    }

    /// Bytes moved in the direction that `watch` looks at. At the least pace they buy time, but never more
    /// than the whole allowance from now on: who moved much and then stops has no credit.
    pub(super) fn moved(&mut self, watch: Watch, bytes: usize, now: Tick, limits: &Limits) {
        if self.watch == watch {
            self.moved_bytes += bytes as u64;
            let (bought, paid_bytes) = limits.pace(self.moved_bytes);
            self.moved_bytes -= paid_bytes;
            self.since = (self.since + bought).min(now);
        }
    }

    /// How the connection ends when that deadline passes.
    pub(super) fn end_at_deadline(&self) -> End {
        self.watch.missed().map_or(End::Closed, End::Timeout)
    }
}

/// 15,000 idle connections are to cost at most 192 bytes each: this, the protocol half (40 bytes are
/// fair), a timer of 32 and the driver's socket.
const _: () = assert!(size_of::<Port>() <= 96);

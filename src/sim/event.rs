//! The simulator's events, as the heap of the network holds them.

use std::io::ErrorKind;

use crate::engine::ConnId;
use crate::engine::time::TICK_MS;

use super::link::EndRef;

/// The simulator counts in microseconds, the engine in ticks.
pub(super) const TICK_US: u64 = TICK_MS * 1000;

/// What happens. Those of a host carry its epoch, the second number: a crash voids what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A dial reaches its listener.
    Syn(EndRef),
    /// The dialler learns that it is connected.
    Up(EndRef),
    Bytes(EndRef, usize),
    Fin(EndRef),
    Reset(EndRef, ErrorKind),
    /// An event of a connection that is closed by now, perhaps with another one in its slot.
    Stale(usize, u32, ConnId),
    /// Room in the window, or the rest after a short read.
    Again(EndRef),
    /// A host serves its events.
    Turn(usize, u32),
    Deadline(usize, u32),
    Work(usize, u32),
    Done(usize, u32),
}

/// One entry of the world's heap, in order of time, then of scheduling.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) at_us: u64,
    pub(super) order: u64,
    pub(super) what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at_us, self.order) == (other.at_us, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

//! Counters of one node: everything that a limit or a peer can cause, so that nothing happens unseen.

use super::end::{Blame, Deadline, End};

/// Counters since the start, and what there is now where it says so. Plain numbers, written by the engine only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    pub turns: u64,
    pub accepted: u64,
    pub dialled: u64,
    pub messages: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub timers_fired: u64,
    /// Events, notes and writes for a connection that was gone: legal, and no-ops.
    pub stale: u64,
    /// Turns in which a connection used up its share and was queued again.
    pub budget_spent: u64,
    /// Times the output of a connection passed the high-water mark.
    pub paused: u64,
    /// Bytes that the output queues own now, see [`super::Limits::queued_bytes_max`].
    pub queued_bytes: u64,
    pub accept_pauses: u64,
    pub notes_refused: u64,
    pub jobs_refused: u64,
    pub timers_refused: u64,
    pub ended_eof: u64,
    pub ended_broken: u64,
    pub ended_unreachable: u64,
    pub ended_closed: u64,
    pub ended_limit: u64,
    pub ended_by_peer_fault: u64,
    pub timed_out_dial: u64,
    pub timed_out_idle: u64,
    pub timed_out_message: u64,
    pub timed_out_drain: u64,
}

impl Stats {
    pub(super) fn count_end(&mut self, end: End) {
        let counter = match end {
            End::Eof => &mut self.ended_eof,
            End::Broken(_) => &mut self.ended_broken,
            End::Unreachable(_) => &mut self.ended_unreachable,
            End::Closed => &mut self.ended_closed,
            End::Limit(_) => &mut self.ended_limit,
            End::Violation(v) => match v.blame {
                Blame::Peer => &mut self.ended_by_peer_fault,
                Blame::Limit | Blame::Us => &mut self.ended_limit,
            },
            End::Timeout(Deadline::Dial) => &mut self.timed_out_dial,
            End::Timeout(Deadline::Idle) => &mut self.timed_out_idle,
            End::Timeout(Deadline::Message) => &mut self.timed_out_message,
            End::Timeout(Deadline::Drain) => &mut self.timed_out_drain,
        };
        *counter += 1;
    }
}

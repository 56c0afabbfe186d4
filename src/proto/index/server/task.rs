//! Tasks that take longer than a turn, as data; `background` runs them.

use bytes::Bytes;

use crate::engine::ConnId;
use crate::proto::index::catalog::{HITS_MAX, HolderNo, Search};
use crate::proto::index::fields::Which;

/// List entries read in one turn, or as much other work: about a millisecond.
pub(super) const STEPS_PER_TURN: usize = 16_384;

/// Steps that every search may take, whatever others have used: enough for a full answer if half of the holders are
/// online.
const STEPS_PER_SEARCH_MIN: usize = 2 * HITS_MAX;

/// The steps that searches may take in a turn before they become tasks: each gets a quarter of what is left, so that many
/// long ones in one turn do not add up.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    turn: u64,
    left: usize,
}

impl Allowance {
    /// The steps of the next search in turn number `turn`.
    pub(super) fn of(&mut self, turn: u64) -> usize {
        if self.turn != turn {
            (self.turn, self.left) = (turn, STEPS_PER_TURN);
        }
        (self.left / 4).max(STEPS_PER_SEARCH_MIN)
    }

    pub(super) fn take(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }
}

#[derive(Debug)]
pub(super) enum Task {
    /// Adds the files of an operation to a holder; then the operation goes on.
    Insert {
        op: u32,
        holder: HolderNo,
        lines: Bytes,
        /// Bytes of `lines` that are done.
        done: usize,
    },
    /// Removes the files of a dead holder.
    Purge(HolderNo),
    Search {
        conn: ConnId,
        search: Search,
    },
    /// Lists peers: reads all registrations, a turn's work when there are many.
    Peers {
        conn: ConnId,
        which: Which,
        offset: u64,
    },
}

impl Task {
    pub(super) fn is_query(&self) -> bool {
        matches!(self, Task::Search { .. } | Task::Peers { .. })
    }
}

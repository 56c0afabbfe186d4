//! What the worker of a durable node commits, and what follows.
//!
//! Changes are committed in the order in which they are given; one at the worker's limit is refused, never queued here.

use bytes::Bytes;

use crate::engine::{ConnId, Hub};

use super::entries;
use super::id::Id;
use super::node::{DhtNode, acknowledge, say};

/// Changes for the worker to commit.
#[derive(Debug)]
pub struct Write {
    pub changes: Changes,
    pub(super) then: Then,
}

/// What to store (`Some`) or remove.
#[derive(Debug)]
pub enum Changes {
    One(Id, Option<Bytes>),
    Many(Vec<(Id, Option<Bytes>)>),
}

/// What follows a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Memory changes too, and the peer is acknowledged.
    Acknowledge {
        conn: ConnId,
        /// The `1` that says whose key it is was sent already.
        owns_said: bool,
    },
    /// Entries of a transfer on this connection are on disk.
    Staged(ConnId),
    /// Nobody waits.
    Nothing,
}

/// Changes that are committed, or could not be.
#[derive(Debug)]
pub struct Written {
    pub write: Write,
    pub committed: bool,
}

impl DhtNode {
    /// Gives changes to the worker; false at its limit.
    pub(super) fn submit(&mut self, hub: &mut Hub<Self>, changes: Changes, then: Then) -> bool {
        let adds_bytes = adds_bytes(&changes);
        let submitted = hub.submit(Write { changes, then }).is_ok();
        if submitted {
            self.submitted += 1;
            self.writing_bytes += adds_bytes;
        }
        submitted
    }

    /// A write came back from the worker.
    pub(super) fn came_back(&mut self, hub: &mut Hub<Self>, done: Written) {
        self.written += 1;
        let Written {
            write: Write { changes, then },
            committed,
        } = done;
        self.writing_bytes -= adds_bytes(&changes);
        match (then, changes) {
            (Then::Acknowledge { conn, owns_said }, Changes::One(key, value)) => {
                if committed {
                    self.apply(key, value);
                }
                if !owns_said {
                    say(hub, conn, true);
                }
                acknowledge(hub, conn, committed);
            }
            (Then::Staged(conn), _) => self.staged(hub, conn, committed),
            (Then::Acknowledge { .. }, Changes::Many(_)) | (Then::Nothing, _) => {}
        }
        self.hand_off_settled(hub);
        self.leave_settled(hub);
    }
}

/// What a write of a peer will add to the entries at most. A transfer's are in memory already.
fn adds_bytes(changes: &Changes) -> u64 {
    match changes {
        Changes::One(_, Some(value)) => entries::entry_bytes(value),
        Changes::One(_, None) | Changes::Many(_) => 0,
    }
}

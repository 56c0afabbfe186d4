//! The members of a ring as they are persisted, for a tracker that restarts.
//!
//! For: what the worker is told to commit, and what it tells of it. Not for: the format on disk, which is the store's.
//!
//! A registration that could not be persisted is valid all the same: the ring in memory is what counts, and a full disk
//! refuses no peer. The cost comes after a restart: the tracker does not know the peer until it registers again, as after a
//! restart without a disk, and it then stands at the end of the ring.

use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::engine::ConnId;
use crate::proto::ring::wire::Encoding;

/// A member as it is persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistedMember {
    pub number: u64,
    pub handle: Arc<str>,
    pub addr: SocketAddrV4,
    pub encoding: Encoding,
}

/// A change of the persisted members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add(PersistedMember),
    /// The member with this number is gone.
    Remove(u64),
}

/// A change for the worker to commit.
#[derive(Debug)]
pub struct Write {
    pub change: Change,
    pub(super) answer: Option<PendingAnswer>,
}

/// A registration that is answered after its change.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingAnswer {
    pub(super) slot: u32,
    pub(super) number: u64,
    pub(super) conn: ConnId,
}

/// What became of a [`Write`].
#[derive(Debug)]
pub struct Written {
    pub(super) answer: Option<PendingAnswer>,
    pub(super) committed: bool,
}

impl Write {
    pub(super) fn new(change: Change, answer: Option<PendingAnswer>) -> Write {
        Write { change, answer }
    }

    /// What the worker reports once it has tried.
    pub fn written(self, committed: bool) -> Written {
        Written {
            answer: self.answer,
            committed,
        }
    }
}

//! What is kept of a ring on disk, for a tracker that restarts.

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::super::wire::Encoding;
use crate::engine::ConnId;

/// A member as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub number: u64,
    pub handle: Arc<str>,
    pub addr: SocketAddrV4,
    pub encoding: Encoding,
}

/// What is to be kept of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add(Known),
    /// The member with this number is gone.
    Remove(u64),
}

/// A change for the worker to commit.
#[derive(Debug)]
pub struct Write {
    pub change: Change,
    pub(super) then: Option<Welcome>,
}

/// Who waits for a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Welcome {
    pub(super) slot: u32,
    pub(super) number: u64,
    pub(super) conn: ConnId,
}

/// What came of a [`Write`]. A registration that is not on disk is valid all the same: the ring in memory is what counts.
/// A full disk does not keep anybody out of it, and is logged as an error; what it costs is that after a restart the peer
/// is missed until it registers again, as all are without a disk, three intervals later and at the end of the ring.
#[derive(Debug)]
pub struct Written {
    pub(super) then: Option<Welcome>,
}

impl Write {
    pub(super) fn new(change: Change, then: Option<Welcome>) -> Write {
        Write { change, then }
    }

    /// What the worker tells of it, whether it was committed or not.
    pub fn written(self) -> Written {
        Written { then: self.then }
    }
}

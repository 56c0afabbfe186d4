//! What a fetcher is told, what it asks of the worker, and what it reports.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use thiserror::Error;

use crate::proto::index::fields::{PeerId, Sha1};
use crate::proto::index::transfer::plan::Stored;

/// Somebody who has the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub addr: SocketAddr,
    pub id: PeerId,
}

/// What is fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub sha1: Sha1,
    pub size_bytes: u64,
    /// Our id, which holders ask the index about.
    pub requester: PeerId,
    /// At most [`plan::HOLDERS_MAX`](crate::proto::index::transfer::plan::HOLDERS_MAX); beyond, the first ones are taken.
    pub sources: Vec<Source>,
}

/// A job of the worker.
#[derive(Debug)]
pub enum Job {
    /// The bytes of a range, from a holder.
    Store {
        holder: usize,
        range: usize,
        bytes: Vec<u8>,
    },
    /// Hash on, if all is there.
    Check,
    /// Give the file its name.
    Finish,
}

#[derive(Debug)]
pub enum Done {
    Stored {
        holder: usize,
        range: usize,
        /// Comes back for the next range.
        bytes: Vec<u8>,
        result: Result<Stored, DiskFault>,
    },
    /// `None`: there is more to hash.
    Checked(Result<Option<bool>, DiskFault>),
    Finished(Result<(), DiskFault>),
}

/// What the disk says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct DiskFault(pub String);

/// Why a holder is not asked any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Why {
    #[error("it sent wrong bytes")]
    WrongBytes,
    #[error("it says that the file has {0} bytes")]
    OtherSize(u64),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it says for too long that it is busy: {0}")]
    Busy(String),
    #[error("it does not speak the protocol: {0}")]
    Malformed(&'static str),
    #[error("it is gone: {0}")]
    Gone(String),
    #[error("it is slow: others sent its ranges")]
    Slow,
}

/// What a holder did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deeds {
    pub source: Source,
    pub ranges: u64,
    pub bytes: u64,
    /// It was dropped.
    pub dropped: Option<Why>,
}

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    #[error("no holder is left that sends the file")]
    NoHolder,
    #[error("{0}")]
    Disk(DiskFault),
    #[error("the index server does not let us in: {0}")]
    Index(String),
    #[error("interrupted")]
    Interrupted,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub result: Result<(), Failure>,
    pub holders: Vec<Deeds>,
    /// Bytes received, those thrown away included.
    pub received_bytes: u64,
    /// Bytes of the file that an earlier run had left.
    pub resumed_bytes: u64,
}

/// How far it is, for who shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub have_bytes: AtomicU64,
}

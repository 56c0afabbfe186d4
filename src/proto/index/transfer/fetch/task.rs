//! The interface of a fetcher: its task, the jobs of its worker, its report.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use thiserror::Error;

use crate::proto::index::fields::{PeerId, Sha1};
use crate::proto::index::transfer::ranges::Stored;

/// A holder of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub addr: SocketAddr,
    pub id: PeerId,
}

/// The task.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub sha1: Sha1,
    pub size_bytes: u64,
    /// Our id. Holders ask the index whether it is online.
    pub requester: PeerId,
    /// At most [`HOLDERS_MAX`](crate::proto::index::transfer::ranges::HOLDERS_MAX); further ones are ignored.
    pub sources: Vec<Source>,
}

/// A job of the worker.
#[derive(Debug)]
pub enum Job {
    /// Write a range that a holder has sent.
    Store {
        holder: usize,
        range: usize,
        bytes: Vec<u8>,
    },
    /// Hash some more of the whole file.
    Check,
    /// Name the file.
    Finish,
}

#[derive(Debug)]
pub enum Done {
    Stored {
        holder: usize,
        range: usize,
        /// The buffer, for the next range.
        bytes: Vec<u8>,
        result: Result<Stored, DiskFault>,
    },
    /// Whether the SHA-1 is right; `None`: there is more to hash.
    Checked(Result<Option<bool>, DiskFault>),
    Finished(Result<(), DiskFault>),
}

/// An error of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct DiskFault(pub String);

/// Why a holder was dropped.
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

/// What a holder has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deeds {
    pub source: Source,
    pub ranges: u64,
    pub bytes: u64,
    /// Why it was dropped, if it was.
    pub dropped: Option<Why>,
}

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    #[error("no holder is left that sends the file")]
    NoHolder,
    #[error("{0}")]
    Disk(DiskFault),
    #[error("the index server does not let us in: {0}")]
    Index(String),
    #[error("limit {0} reached")]
    Limit(&'static str),
    #[error("interrupted")]
    Interrupted,
}

/// The result of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub result: Result<(), Failure>,
    pub holders: Vec<Deeds>,
    /// Bytes received, discarded ones included.
    pub received_bytes: u64,
    /// Bytes of the file that an earlier run had left.
    pub resumed_bytes: u64,
}

/// The progress, for another thread that shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub have_bytes: AtomicU64,
}

//! A watch over every operation of redb on its file.
//!
//! redb reports that something failed, and after the first fault only that something had failed. [`Watched`] stands
//! between redb and the file and keeps the first fault: which operation, which error. It also counts the syncs.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::{BackendError, StorageBackend};

/// ENOSPC, EDQUOT and EFBIG: errors that end when somebody makes room.
pub(super) fn is_out_of_room(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

/// What was asked of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Measure,
    Read,
    Write,
    Resize,
    Sync,
}

impl Operation {
    /// As a verb, for messages.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Measure => "measure",
            Self::Read => "read",
            Self::Write => "write",
            Self::Resize => "resize",
            Self::Sync => "sync",
        }
    }
}

/// A failed operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) operation: Operation,
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Fault {
    fn new(operation: Operation, error: &io::Error) -> Self {
        Self {
            operation,
            kind: error.kind(),
            code: error.raw_os_error(),
        }
    }

    /// The error it was.
    pub(super) fn error(self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(self.kind),
        }
    }

    /// Whether there was no room, and nothing else is wrong. An error of a sync is worse whatever its number: the system
    /// has dropped pages that it had accepted, and does not tell which.
    pub(super) fn is_full(self) -> bool {
        let grows = matches!(self.operation, Operation::Write | Operation::Resize);
        grows && is_out_of_room(self.kind)
    }
}

/// What happened to the file of an open database.
#[derive(Debug, Default)]
pub(super) struct Watch {
    first: Mutex<Option<Fault>>,
    syncs: AtomicU64,
}

impl Watch {
    /// The first fault since the last call.
    #[must_use = "a fault decides what becomes of the store"]
    pub(super) fn take_fault(&self) -> Option<Fault> {
        self.first().take()
    }

    /// Successful syncs so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn note<T>(&self, operation: Operation, result: io::Result<T>) -> io::Result<T> {
        match &result {
            Err(error) => {
                self.first().get_or_insert(Fault::new(operation, error));
            }
            Ok(_) if operation == Operation::Sync => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
        }
        result
    }

    fn first(&self) -> MutexGuard<'_, Option<Fault>> {
        // A Copy value is never half written.
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file under watch.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) backend: Box<dyn StorageBackend>,
    pub(super) watch: Arc<Watch>,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.watch.note(Operation::Measure, self.backend.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch
            .note(Operation::Read, self.backend.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch
            .note(Operation::Resize, self.backend.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch.note(Operation::Sync, self.backend.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.watch
            .note(Operation::Write, self.backend.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}

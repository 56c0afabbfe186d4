//! What the database lies on: the data directory, its lock, and a watch over every operation.
//!
//! redb reports that something failed, and after the first fault only that something had failed.
//! [`Watched`] stands between redb and the file and keeps the first fault as it was: which
//! operation, which error. [`Medium`] is the seam at which tests put a disk that fails on demand.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};

use crate::store::StoreError;

/// The database in the data directory.
const DATABASE_FILE: &str = "peerloop.redb";
/// The database while it is being created; it gets its name when it is complete.
const NEW_FILE: &str = "peerloop.redb.new";
/// Held for as long as a store has the directory open. A file of its own, because redb's lock
/// goes with the database, which is closed and opened again after a full disk.
const LOCK_FILE: &str = "peerloop.lock";
/// Written and removed to find out whether there is room again.
const ROOM_FILE: &str = "peerloop.room";
/// How much of it is written at a time.
const ROOM_STEP_BYTES: usize = 64 * 1024;

/// What a database lies on.
pub(super) trait Medium: Send {
    /// The name used in messages.
    fn path(&self) -> &Path;
    /// The bytes of the existing database, not open anywhere else.
    fn backend(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Whether about so many more bytes would fit.
    fn try_room(&self, bytes: usize) -> io::Result<()>;
}

/// A locked data directory. The lock goes with the value, and with the process.
#[derive(Debug)]
pub(super) struct DataDir {
    dir: PathBuf,
    database: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be and locks it.
    pub(super) fn lock(dir: &Path) -> Result<Self, StoreError> {
        create_dir(dir).map_err(|source| io_error("create", dir, source))?;
        let path = dir.join(LOCK_FILE);
        let lock = private().create(true).truncate(false).open(&path);
        let lock = lock.map_err(|source| io_error("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path, source)),
        }
        // A process that was killed while it tried whether there is room would go on holding that room.
        let room = dir.join(ROOM_FILE);
        remove_if_there(&room).map_err(|source| io_error("remove", &room, source))?;
        Ok(Self {
            dir: dir.to_owned(),
            database: dir.join(DATABASE_FILE),
            _lock: lock,
        })
    }

    /// Creates the database if there is none. `fill` writes it; it appears under its name only
    /// once it is complete and synced, so an empty or short file is always damage.
    pub(super) fn create(
        &self,
        fill: impl FnOnce(Box<dyn StorageBackend>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let exists = self.database.try_exists();
        if exists.map_err(|source| io_error("open", &self.database, source))? {
            return Ok(());
        }
        let new = self.dir.join(NEW_FILE);
        let create = |source| io_error("create", &new, source);
        // A leftover of a start that was interrupted. Nobody else is at it: we hold the lock.
        remove_if_there(&new).map_err(create)?;
        let file = private().create_new(true).open(&new).map_err(create)?;
        let written = file.try_clone().map_err(create)?;
        if let Err(error) = fill(Box::new(file_backend(written).map_err(create)?)) {
            // On a full disk it would keep the room that somebody makes. It matters no further.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        file.sync_all().map_err(create)?;
        fs::rename(&new, &self.database).map_err(create)?;
        sync_dir(&self.dir).map_err(create)
    }
}

impl Medium for DataDir {
    fn path(&self) -> &Path {
        &self.database
    }

    fn backend(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.database)?;
        Ok(Box::new(file_backend(file)?))
    }

    fn try_room(&self, bytes: usize) -> io::Result<()> {
        let path = self.dir.join(ROOM_FILE);
        let written = write_zeros(&path, bytes);
        match fs::remove_file(&path) {
            Err(error) if written.is_ok() => Err(error),
            _ => written,
        }
    }
}

fn write_zeros(path: &Path, bytes: usize) -> io::Result<()> {
    let mut file = private().create(true).truncate(true).open(path)?;
    let zeros = [0; ROOM_STEP_BYTES];
    for _ in 0..bytes.div_ceil(ROOM_STEP_BYTES) {
        file.write_all(&zeros)?;
    }
    // Some file systems find out only now.
    file.sync_data()
}

fn file_backend(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(io::Error::other)
}

/// Files of the data directory are their owner's alone: entries are other people's data.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Creates a directory and what is missing above it, each durable in its parent.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    if parent != dir {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another node may have been faster; a file of that name is the caller's error.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        result => result?,
    }
    sync_dir(parent)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match is_out_of_room(source.kind()) {
        true => StoreError::Full { path, source },
        false => StoreError::Io {
            doing,
            path,
            source,
        },
    }
}

/// ENOSPC, EDQUOT and EFBIG: errors that go away when somebody makes room.
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

    /// The error again.
    pub(super) fn error(self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(self.kind),
        }
    }

    /// Whether this is the end of the room and no more. Where a sync says so it is more: the
    /// system has dropped pages that it had already taken, and which ones nobody knows.
    pub(super) fn is_full(self) -> bool {
        let grows = matches!(self.operation, Operation::Write | Operation::Resize);
        grows && is_out_of_room(self.kind)
    }
}

/// What went on below an open database.
#[derive(Debug, Default)]
pub(super) struct Watch {
    first: Mutex<Option<Fault>>,
    syncs: AtomicU64,
}

impl Watch {
    /// The first fault since the last call.
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

/// A backend under watch.
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

//! The data directory: its lock, and the file of the database in it.
//!
//! ```text
//!   DIR/peerloop.lock       locked from open to drop
//!   DIR/peerloop.redb       the database
//!   DIR/peerloop.redb.new   the database while it is created
//!   DIR/peerloop.room       zeros, written and removed to find out whether there is room
//! ```
//! Invariants: a database has its name only when it is complete; the directory and the name of the database are durable
//! before the first commit.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

use super::watch::is_out_of_room;
use crate::store::StoreError;

/// The database in the data directory.
const DATABASE_FILE: &str = "peerloop.redb";
/// The database while it is created.
const NEW_FILE: &str = "peerloop.redb.new";
/// Locked while a store has the directory open. redb's own lock does not do: it ends when the database is closed, which
/// happens after a full disk, before it is opened again.
const LOCK_FILE: &str = "peerloop.lock";
/// Written and removed to find out whether there is room.
const ROOM_FILE: &str = "peerloop.room";
/// How much of it is written at a time.
const ROOM_STEP_BYTES: usize = 64 * 1024;

/// The file of a database. A trait, so that tests can put a disk that fails on demand in its place.
pub(super) trait DatabaseFile: Send {
    /// The name used in messages.
    fn path(&self) -> &Path;
    /// Opens the existing file, which is not open anywhere else.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Fails if the file cannot grow by about so many bytes.
    fn try_room(&self, bytes: usize) -> io::Result<()>;
}

/// A locked data directory. The lock ends with the value or the process.
#[derive(Debug)]
pub(super) struct DataDir {
    dir: PathBuf,
    database: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Locks the directory, which is created if it is not there.
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
        // A process that was killed while it looked for room left its zeros behind, and they take that room.
        let room = dir.join(ROOM_FILE);
        remove_if_there(&room).map_err(|source| io_error("remove", &room, source))?;
        Ok(Self {
            dir: dir.to_owned(),
            database: dir.join(DATABASE_FILE),
            _lock: lock,
        })
    }

    /// Creates the database if there is none. It gets its name after `fill` has written it and it is synced, so an empty
    /// or short file under that name is always damage.
    pub(super) fn create(
        &self,
        fill: impl FnOnce(Box<dyn StorageBackend>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let exists = self.database.try_exists();
        if exists.map_err(|source| io_error("open", &self.database, source))? {
            // The process that gave it its name may have been killed before it synced the directory.
            return sync_dir(&self.dir).map_err(|source| io_error("sync", &self.dir, source));
        }
        let new = self.dir.join(NEW_FILE);
        let create = |source| io_error("create", &new, source);
        // A leftover of a start that was interrupted; the lock is held, so no other process uses it.
        remove_if_there(&new).map_err(create)?;
        let file = private().create_new(true).open(&new).map_err(create)?;
        let written = file.try_clone().map_err(create)?;
        if let Err(error) = fill(Box::new(file_backend(written).map_err(create)?)) {
            // It would take room on a full disk. If it stays, the next start removes it.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        file.sync_all().map_err(create)?;
        fs::rename(&new, &self.database).map_err(create)?;
        sync_dir(&self.dir).map_err(create)
    }
}

impl DatabaseFile for DataDir {
    fn path(&self) -> &Path {
        &self.database
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
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
    // Some file systems allocate, and fail, only now.
    file.sync_data()
}

fn file_backend(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(io::Error::other)
}

/// Only the user of the node may read the files: entries are other people's data.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Creates a directory and the missing ones above it, each durable in its parent.
fn create_dir(dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    if dir.is_dir() {
        // The process that created it may have been killed before it synced the parent. No process created and synced
        // a directory in a parent that cannot be read or synced.
        return sync_dir(parent).or_else(|error| match error.kind() {
            PermissionDenied | InvalidInput | Unsupported => Ok(()),
            _ => Err(error),
        });
    }
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

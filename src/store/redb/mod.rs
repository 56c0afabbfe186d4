//! The durable store: one redb database in the data directory.
//!
//! ```text
//!   commit -> log (a record for each commit) -> one redb transaction, two syncs -> data_dir (the file)
//!                                                                 watch: every operation, the first fault
//! ```
//! A commit is one redb transaction. It writes its changes as one record of the log; later commits carry them into the
//! tables (see `log` for why).
//!
//! **Two phases.** A transaction writes pages and header slot, syncs, switches to the slot, syncs again. After a crash
//! redb judges a one-phase commit by its checksums, so a flipped bit in the last one looks like a commit that never
//! finished, and acknowledged entries would vanish silently. After two phases a flipped bit is damage, and is refused.
//! The checksums and numbers of the log's records cannot replace the second phase: where redb goes back one commit, the
//! record goes with it. A log outside of redb would have the same problem: its last record is either torn or damaged.
//! Two phases also give peers, who choose the bytes, no influence on what passes for a finished commit.
//!
//! **Errors.** redb refuses all operations after the first fault. What follows depends on the fault:
//! - No room (ENOSPC, EDQUOT, EFBIG on a write): the database is reopened, which recovers it as after a crash. The commit
//!   may have landed nevertheless, if the fault came after the switch. So the number of the last record decides: if it is
//!   this commit's, the commit is there, the recovery has synced it, and it is acknowledged; if it is the one before,
//!   nothing happened. What a commit checkpoints is part of its transaction.
//! - Anything else, and every error of a sync whatever its number: [`StoreError::Failed`], for good. After a failed sync
//!   the system's cache and the disk differ, and a second sync succeeds without writing, so neither a retry nor a
//!   reopening can tell what is safe. The disk must be checked first. The restart shows whether the commit landed.
//!
//! **Damage.** The database is read and checked completely when it is opened, which a node has to read anyway: redb
//! itself checks sums only after a crash, and would serve a flipped bit. Every bit of a sample was tried (see the tests).
//! One is not detected: after a crash, flipping the bit that switches between the two newest commits looks like a crash
//! just before the switch, and the older one is opened. Preferring the newer one would let a commit that was refused on
//! a full disk come back at the restart.
//!
//! What it does not do: compact the file, cache for readers, form groups (the worker does), or protect against a disk
//! that reports a sync that it did not do.
//!
//! Invariants:
//! - the directory stays locked from `open` to drop, also while the database is reopened;
//! - the log in memory agrees with the one in the file whenever a handle is open;
//! - after a fault that is not a full disk, the state is `Failed` and stays so.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use ::redb::{
    Builder, Database, Durability, Error, ReadableDatabase, StorageBackend, TableDefinition,
    TableError,
};
use bytes::Bytes;

use super::{Change, Store, StoreError, Table, check_sizes};
use data_dir::{DataDir, DatabaseFile};
pub use log::LOGGED_BYTES_MAX;
use log::{Bounds, Log};
use watch::{Fault, Operation, Watch, Watched};

mod data_dir;
mod log;
#[cfg(test)]
mod tests;
mod watch;

/// redb's page cache. Reads of the node do not reach the database, so the cache holds only the inner pages that commits
/// touch and the pages that a group writes; more than that is written out early. redb's default is 1 GiB.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The format of the tables in the file. It is raised when a program that knows only the old one would misread the file.
const FORMAT: u64 = 2;

/// redb's own file format, for messages: redb 4 reads only this one.
const REDB_FORMAT: u64 = 3;

/// What a commit may need in addition to its changes: copied inner pages, and the growth of the file. A slice of a
/// checkpoint may need more, but the first commits after a full disk checkpoint nothing.
const ROOM_EXTRA_BYTES: usize = 1024 * 1024;

/// The store's own table; the slash keeps it apart from every [`Table`].
const META: TableDefinition<&str, u64> = TableDefinition::new("peerloop/meta");
const META_FORMAT: &str = "format";

/// What every redb database begins with.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// A durable store. See the module.
pub struct Redb {
    state: State,
    bounds: Bounds,
    /// Declared last: the lock outlives the database.
    file: Box<dyn DatabaseFile>,
}

enum State {
    Open(Handle),
    /// Out of room. The database is open unless it could not even be reopened.
    Full(Option<Handle>),
    /// The first fault, in words.
    Failed(String),
}

struct Handle {
    database: Database,
    watch: Arc<Watch>,
    log: Log,
}

/// A transaction that ended in an error.
struct Attempt {
    error: Error,
    /// False if it is certain that the file does not hold it, whatever the file looks like.
    may_have_landed: bool,
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redb")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

impl Redb {
    /// Opens the database in a directory, or creates both, and checks all of it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let dir = DataDir::lock(dir)?;
        dir.create(|backend| Handle::create(dir.path(), backend))?;
        Self::over(Box::new(dir), Bounds::default())
    }

    fn over(file: Box<dyn DatabaseFile>, bounds: Bounds) -> Result<Self, StoreError> {
        let handle = Handle::open(&*file, bounds, Check::Everything)?;
        Ok(Self {
            state: State::Open(handle),
            bounds,
            file,
        })
    }

    /// Takes the handle out of the state, which the caller sets again in every case.
    fn take(&mut self, room_bytes: usize) -> Result<Handle, StoreError> {
        let taken = State::Failed("a commit was interrupted by a panic".to_owned());
        match std::mem::replace(&mut self.state, taken) {
            State::Open(handle) => Ok(handle),
            State::Full(handle) => self.leave_full(handle, room_bytes),
            State::Failed(cause) => Err(self.fail(cause)),
        }
    }

    /// Finds out whether there is room again. Without this each commit on a full disk would cost a transaction, a fault
    /// and a recovery, which reads the whole file.
    fn leave_full(
        &mut self,
        handle: Option<Handle>,
        room_bytes: usize,
    ) -> Result<Handle, StoreError> {
        if let Err(source) = self.file.try_room(room_bytes) {
            let cause = format!("cannot write to its directory: {source}");
            if !watch::is_out_of_room(source.kind()) {
                return Err(self.fail(cause));
            }
            return Err(self.full(handle, source));
        }
        if let Some(handle) = handle {
            return Ok(handle);
        }
        match Handle::open(&*self.file, self.bounds, Check::AsAfterCrash) {
            Ok(handle) => Ok(handle),
            Err(StoreError::Full { source, .. }) => Err(self.full(None, source)),
            Err(error) => Err(self.fail(format!("cannot be reopened: {error}"))),
        }
    }

    /// After a transaction that failed: finds out whether it landed.
    fn settle(&mut self, handle: Handle, attempt: Attempt) -> Result<(), StoreError> {
        let before = handle.log.commits();
        let fault = handle.watch.take_fault();
        // Closes the file without a write: redb refuses writes after the fault.
        drop(handle);
        let Some(fault) = fault.filter(|fault| fault.is_full()) else {
            return Err(self.fail(cause(fault, &attempt.error)));
        };
        match Handle::open(&*self.file, self.bounds, Check::AsAfterCrash) {
            Ok(handle) if Some(handle.log.commits()) == before.checked_add(1) => {
                self.state = State::Full(Some(handle));
                Ok(())
            }
            Ok(handle) if handle.log.commits() == before => {
                Err(self.full(Some(handle), fault.error()))
            }
            Ok(handle) => {
                let found = handle.log.commits();
                Err(self.fail(format!("holds commit {found} where {before} was the last")))
            }
            Err(StoreError::Full { source, .. }) if !attempt.may_have_landed => {
                Err(self.full(None, source))
            }
            Err(error) => Err(self.fail(format!("cannot be reopened: {error}"))),
        }
    }

    fn full(&mut self, handle: Option<Handle>, source: io::Error) -> StoreError {
        self.state = State::Full(handle);
        StoreError::Full {
            path: self.file.path().to_owned(),
            source,
        }
    }

    fn fail(&mut self, cause: String) -> StoreError {
        self.state = State::Failed(cause.clone());
        StoreError::Failed {
            path: self.file.path().to_owned(),
            cause,
        }
    }
}

impl Store for Redb {
    /// Durable on return: two fsyncs, the last of them after everything.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        check_sizes(changes)?;
        let mut handle = self.take(room_bytes(changes))?;
        match handle.write(changes) {
            Ok(()) => {}
            Err(attempt) => return self.settle(handle, attempt),
        }
        // redb writes some pages early and ignores a failure, because it writes them again. The group is safe, but a
        // disk that returned an error is not used any further.
        self.state = match handle.watch.take_fault() {
            Some(fault) if !fault.is_full() => State::Failed(words(fault)),
            _ => State::Open(handle),
        };
        Ok(())
    }

    fn load(&mut self, table: Table, each: &mut dyn FnMut(&[u8], Bytes)) -> Result<(), StoreError> {
        let handle = self.take(0)?;
        // Not guarded: the file was checked, and a panic of the closure is the caller's.
        match handle.log.load(&handle.database, table, each) {
            Ok(()) => {
                self.state = State::Open(handle);
                Ok(())
            }
            Err(error) => Err(self.fail(cause(handle.watch.take_fault(), &error))),
        }
    }
}

/// How much of a database is checked when it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// All of it: other processes could write to it before.
    Everything,
    /// What redb's recovery checks: this process checked it before and has held the lock since.
    AsAfterCrash,
}

impl Handle {
    /// Writes an empty database into an empty file.
    fn create(path: &Path, backend: Box<dyn StorageBackend>) -> Result<(), StoreError> {
        let watch = Arc::new(Watch::default());
        let watched = Watched {
            backend,
            watch: Arc::clone(&watch),
        };
        let fill = || -> Result<(), Error> {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(watched)?;
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction.open_table(META)?.insert(META_FORMAT, FORMAT)?;
            Ok(transaction.commit()?)
        };
        let filled = fill();
        // Closing writes too, and cannot return what went wrong.
        match (filled, watch.take_fault()) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(fault)) => Err(open_error(path, Some(fault), Error::PreviousIo)),
            (Err(error), fault) => Err(open_error(path, fault, error)),
        }
    }

    /// Opens the database in a file, recovering it if it was not closed.
    fn open(file: &dyn DatabaseFile, bounds: Bounds, check: Check) -> Result<Self, StoreError> {
        let path = file.path();
        let watch = Arc::new(Watch::default());
        let backend = file.open();
        let backend = backend.map_err(|source| StoreError::Io {
            doing: "open",
            path: path.to_owned(),
            source,
        })?;
        let watched = Watched {
            backend,
            watch: Arc::clone(&watch),
        };
        recognise(path, &watched)?;

        let opened = guarded(|| {
            let database = open_checked(path, watched, check)?;
            let format = read_format(&database)?;
            let owed_bytes = match check {
                // At least what was owed when the database was closed.
                Check::Everything => bounds.slice_bytes_min,
                // There may be room for a record, but hardly for a slice.
                Check::AsAfterCrash => 0,
            };
            let log = match format {
                Some(FORMAT) => Some(Log::read(&database, bounds, owed_bytes)?),
                _ => None,
            };
            Ok((database, format, log))
        });
        let (database, format, log) =
            opened.map_err(|error| open_error(path, watch.take_fault(), error))?;
        let path = path.to_owned();
        match (format, log) {
            (_, Some(log)) => Ok(Self {
                database,
                watch,
                log,
            }),
            (Some(found), None) => Err(StoreError::Version {
                path,
                found,
                known: FORMAT,
            }),
            (None, None) => Err(StoreError::Foreign { path }),
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), Attempt> {
        let plan = self.log.plan(changes);
        let syncs = Cell::new(None);
        let result = guarded(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction
                .set_durability(Durability::Immediate)
                .map_err(Error::from)?;
            self.log.write(&transaction, &plan, changes)?;
            syncs.set(Some(self.watch.syncs()));
            Ok(transaction.commit()?)
        });
        match result {
            Ok(()) => {
                self.log.committed(plan, changes);
                Ok(())
            }
            // The switch to the new state comes after the first sync of a two-phase commit.
            Err(error) => Err(Attempt {
                error,
                may_have_landed: syncs.get().is_some_and(|syncs| syncs != self.watch.syncs()),
            }),
        }
    }
}

fn definition(table: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(table)
}

fn open_checked(path: &Path, watched: Watched, check: Check) -> Result<Database, Error> {
    let recovered = Rc::new(Cell::new(false));
    let noted = Rc::clone(&recovered);
    let mut database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_repair_callback(move |_| noted.set(true))
        .create_with_backend(watched)?;
    // A recovery has checked everything already.
    let unchecked = check == Check::Everything && !recovered.get();
    if unchecked && !database.check_integrity()? {
        ::log::warn!(
            "{}: the record of free pages was rebuilt; all entries are whole",
            path.display()
        );
    }
    Ok(database)
}

/// The format; `None` if the database was not written by a peerloop.
fn read_format(database: &Database) -> Result<Option<u64>, Error> {
    let meta = match database.begin_read()?.open_table(META) {
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(None),
        Ok(meta) => meta,
    };
    Ok(meta.get(META_FORMAT)?.map(|value| value.value()))
}

/// Tells an empty file and another program's file from a damaged database. redb would make a new database of an empty
/// file, and ours are never empty.
fn recognise(path: &Path, backend: &Watched) -> Result<(), StoreError> {
    let mut start = [0; MAGIC.len()];
    let len = backend.len();
    let read = len.and_then(|len| match len {
        0 => Ok(false),
        len if len < start.len() as u64 => Ok(true),
        _ => backend.read(0, &mut start).map(|()| true),
    });
    let path = path.to_owned();
    match read {
        Err(source) => Err(StoreError::Io {
            doing: "read",
            path,
            source,
        }),
        Ok(false) => Err(StoreError::Corrupt {
            path,
            detail: "it is empty".to_owned(),
        }),
        Ok(true) if start != MAGIC => Err(StoreError::Foreign { path }),
        Ok(true) => Ok(()),
    }
}

/// Runs redb code, which panics on a file that contradicts itself: it uses its record of free pages before anything can
/// have checked that record for flipped bits. The process's hook prints the panic too; the error tells it in context. The
/// caller drops the database in which it happened.
fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::Corrupted(
            text.unwrap_or("contradicts itself").to_owned(),
        ))
    })
}

fn open_error(path: &Path, fault: Option<Fault>, error: Error) -> StoreError {
    let path = path.to_owned();
    match (fault, error) {
        (Some(fault), _) if fault.is_full() => StoreError::Full {
            path,
            source: fault.error(),
        },
        (Some(fault), _) if fault.error().kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt {
                path,
                detail: "it ends too early".to_owned(),
            }
        }
        (Some(fault), _) => StoreError::Io {
            doing: fault.operation.verb(),
            path,
            source: fault.error(),
        },
        (None, Error::UpgradeRequired(found)) => StoreError::Version {
            path,
            found: found.into(),
            known: REDB_FORMAT,
        },
        (None, Error::DatabaseAlreadyOpen) => StoreError::InUse { path },
        (None, Error::Io(source)) => StoreError::Io {
            doing: "open",
            path,
            source,
        },
        (None, error) => StoreError::Corrupt {
            path,
            detail: error.to_string(),
        },
    }
}

fn cause(fault: Option<Fault>, error: &Error) -> String {
    fault.map_or_else(|| error.to_string(), words)
}

fn words(fault: Fault) -> String {
    let why = match fault.operation {
        Operation::Sync => " (what was written before may be lost)",
        _ => "",
    };
    format!("cannot {}: {}{why}", fault.operation.verb(), fault.error())
}

/// About how much a group makes the file grow. Twice its size, because the sizes of redb's pages are powers of two.
fn room_bytes(changes: &[Change]) -> usize {
    let bytes = changes.iter().map(|change| {
        let value = change.value.as_ref().map_or(0, Bytes::len);
        change.key.as_slice().len() + value
    });
    bytes.fold(ROOM_EXTRA_BYTES, |sum, bytes| {
        sum.saturating_add(bytes.saturating_mul(2))
    })
}

//! A store in memory: for the simulator, for tests and for a node without `--data`.
//!
//! A simulator keeps it when it crashes a node, as a machine keeps its disk, and restarts the node over it. Tests inject
//! faults: the n-th commit from now fails ([`Memory::fail_commit`]); a group waits between being handed over and being
//! durable, as on the worker thread ([`Memory::stage`], [`Memory::settle`]); a crash drops the groups that wait
//! ([`Memory::crash`]).
//!
//! What it does not do: keep anything beyond the process, or limit its size (the protocol above it has limits).
//!
//! Invariants: staged groups settle in the order they were staged; a group that failed left no
//! change, except under [`Fault::FailedLate`], which stands for a fault after the change landed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::{Change, Key, Store, StoreError, Table, check_sizes};

/// A store in memory. See the module.
#[derive(Debug, Default)]
pub struct Memory {
    tables: BTreeMap<Table, BTreeMap<Key, Bytes>>,
    staged: VecDeque<Vec<Change>>,
    /// Faults to come, by the number of the commit they hit.
    faults: BTreeMap<u64, Fault>,
    /// Commits tried so far, successful or not.
    tried: u64,
    failed: bool,
}

/// A fault to inject into one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`]: nothing happens, the next commit works.
    Full,
    /// [`StoreError::Failed`] before the group landed; stays until [`Memory::crash`].
    Failed,
    /// [`StoreError::Failed`] after the group landed: the restart finds it although it was not
    /// acknowledged. Stays until [`Memory::crash`].
    FailedLate,
}

impl Memory {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `nth` commit from now fail; 1 is the next one. A second call for the same commit replaces the first.
    ///
    /// # Panics
    /// If `nth` is 0.
    pub fn fail_commit(&mut self, nth: u64, fault: Fault) {
        assert!(nth > 0, "commits are counted from 1");
        self.faults.insert(self.tried + nth, fault);
    }

    /// Takes a group that is on its way to the disk. Nothing of it can be read before it settles.
    pub fn stage(&mut self, changes: Vec<Change>) {
        self.staged.push_back(changes);
    }

    /// Commits the oldest staged group; `None` if none waits. For a group that is durable but was never acknowledged,
    /// settle it and then crash.
    #[must_use = "the commit may have failed"]
    pub fn settle(&mut self) -> Option<Result<(), StoreError>> {
        let changes = self.staged.pop_front()?;
        Some(self.commit(&changes))
    }

    /// A crash and restart of the process: committed groups stay, staged ones are gone, a failed store works again. Faults
    /// that were not reached yet stay.
    pub fn crash(&mut self) {
        self.staged.clear();
        self.failed = false;
    }

    /// The value of a key, for assertions.
    pub fn get(&self, table: Table, key: &Key) -> Option<&Bytes> {
        self.tables.get(&table)?.get(key)
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let entries = self.tables.entry(change.table).or_default();
            match &change.value {
                Some(value) => entries.insert(change.key.clone(), value.clone()),
                None => entries.remove(&change.key),
            };
        }
    }
}

impl Store for Memory {
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        check_sizes(changes)?;
        self.tried += 1;
        let fault = self.faults.remove(&self.tried);
        if self.failed {
            return Err(failed());
        }
        match fault {
            None => {
                self.apply(changes);
                Ok(())
            }
            Some(Fault::Full) => {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                Err(StoreError::Full {
                    path: path(),
                    source,
                })
            }
            Some(fault) => {
                if fault == Fault::FailedLate {
                    self.apply(changes);
                }
                self.failed = true;
                Err(failed())
            }
        }
    }

    fn load(&mut self, table: Table, each: &mut dyn FnMut(&[u8], Bytes)) -> Result<(), StoreError> {
        for (key, value) in self.tables.get(&table).into_iter().flatten() {
            each(key.as_slice(), value.clone());
        }
        Ok(())
    }
}

fn failed() -> StoreError {
    StoreError::Failed {
        path: path(),
        cause: "injected fault".into(),
    }
}

fn path() -> PathBuf {
    PathBuf::from("(memory)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outcome;

    const TABLE: Table = Table::new("entries");

    fn put(key: u8, value: &'static [u8]) -> Change {
        Change::put(TABLE, [key; 20], value)
    }

    fn keys(store: &mut Memory) -> Vec<u8> {
        let mut keys = Vec::new();
        store.load(TABLE, &mut |key, _| keys.push(key[0])).unwrap();
        keys
    }

    #[test]
    fn changes_apply_in_order() {
        let mut store = Memory::new();
        let gone = Change::remove(TABLE, [1; 20]);
        store
            .commit(&[put(2, b"a"), put(1, b"b"), gone.clone()])
            .unwrap();
        assert_eq!(keys(&mut store), [2]);
        store
            .commit(&[gone, put(1, b""), put(2, b"x"), put(2, b"y")])
            .unwrap();
        assert_eq!(keys(&mut store), [1, 2]);
        assert_eq!(store.get(TABLE, &Key::from([1; 20])).unwrap(), &b""[..]);
        assert_eq!(store.get(TABLE, &Key::from([2; 20])).unwrap(), &b"y"[..]);
        assert_eq!(store.get(Table::new("other"), &Key::from([2; 20])), None);
    }

    #[test]
    fn the_nth_commit_fails_and_full_recovers() {
        let mut store = Memory::new();
        store.fail_commit(2, Fault::Full);
        store.commit(&[put(1, b"")]).unwrap();
        let error = store.commit(&[put(2, b"")]).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }));
        assert_eq!(error.outcome(), Outcome::Nothing);
        store.commit(&[put(3, b"")]).unwrap();
        assert_eq!(keys(&mut store), [1, 3]);
        let key = vec![9; crate::store::KEY_BYTES_MAX + 1];
        let long = Change::put(TABLE, &key[..], "");
        let error = store.commit(&[put(4, b""), long]).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { what: "key", .. }));
        assert_eq!(keys(&mut store), [1, 3]);
    }

    #[test]
    fn failed_stays_failed_until_the_restart() {
        for (fault, after) in [(Fault::Failed, &[3][..]), (Fault::FailedLate, &[1, 3])] {
            let mut store = Memory::new();
            store.fail_commit(1, fault);
            for key in [1, 2] {
                let error = store.commit(&[put(key, b"")]).unwrap_err();
                assert!(matches!(error, StoreError::Failed { .. }));
                assert_eq!(error.outcome(), Outcome::Unknown);
            }
            store.crash();
            store.commit(&[put(3, b"")]).unwrap();
            assert_eq!(keys(&mut store), after);
        }
    }

    #[test]
    fn a_crash_forgets_what_was_on_its_way() {
        let mut store = Memory::new();
        store.stage(vec![put(1, b"")]);
        store.stage(vec![put(2, b"")]);
        assert!(keys(&mut store).is_empty());
        store.settle().unwrap().unwrap();
        store.crash();
        assert_eq!(keys(&mut store), [1]);
        assert!(store.settle().is_none());
    }
}

//! Durable writes: every write that waits when a commit begins is part of that commit.
//!
//! A commit costs two fsyncs however many changes it has, so the rate of writes grows with the number of clients that
//! wait. No commit is delayed for a larger group: the next one takes the writes that came in during the last.

use std::marker::PhantomData;

use crate::engine::Work;
use crate::store::{Change, Outcome, Store, StoreError};

/// A write of a protocol that is acknowledged once it is on disk.
pub trait Durable: Send + 'static {
    /// The result, for the protocol.
    type Written: Send + 'static;

    /// For the log: the effect of a failing disk on clients.
    const WHILE_FAILING: &'static str = "writes are refused";

    /// Appends what it changes in the store. Its values may become handles of what the store gets.
    fn changes(&mut self, changes: &mut Vec<Change>);

    /// The result. `committed`: it is on disk. If not, the store is as it was before, unless the disk failed
    /// ([`crate::store::Outcome::Unknown`]): then the restart shows which, and nothing is committed until then.
    fn written(self, committed: bool) -> Self::Written;
}

/// Commits the writes of a node in groups.
pub struct Committer<S, W> {
    store: S,
    /// Empty between two groups; kept for its allocation.
    changes: Vec<Change>,
    /// How the last commit failed, if it did.
    failing: Option<Outcome>,
    writes: PhantomData<fn(W)>,
}

impl<S: Store, W> Committer<S, W> {
    pub fn new(store: S) -> Committer<S, W> {
        Committer {
            store,
            changes: Vec::new(),
            failing: None,
            writes: PhantomData,
        }
    }
}

#[cfg(test)]
impl<S, W> Committer<S, W> {
    /// What a crash leaves behind.
    pub fn into_store(self) -> S {
        self.store
    }
}

impl<S: Store + 'static, W: Durable> Work for Committer<S, W> {
    type Job = W;
    type Done = W::Written;

    fn run(&mut self, jobs: &mut Vec<W>, done: &mut Vec<W::Written>) {
        if jobs.is_empty() {
            return;
        }
        for write in jobs.iter_mut() {
            write.changes(&mut self.changes);
        }
        let result = self.store.commit(&self.changes);
        // These are handles of the values; the loop has its own, and counts the bytes by them.
        self.changes.clear();
        if let Some((level, text)) = self.report(&result) {
            log::log!(level, "{text}");
        }
        let committed = result.is_ok();
        done.extend(jobs.drain(..).map(|write| write.written(committed)));
    }
}

impl<S, W: Durable> Committer<S, W> {
    /// What to log of a commit: changes between working, failing with the store as before (a full disk, which may last
    /// for hours of commits) and failing for good.
    fn report(&mut self, result: &Result<(), StoreError>) -> Option<(log::Level, String)> {
        let failing = result.as_ref().err().map(StoreError::outcome);
        let before = std::mem::replace(&mut self.failing, failing);
        match result {
            Err(e) if before != failing => {
                Some((log::Level::Error, format!("{}: {e}", W::WHILE_FAILING)))
            }
            Ok(()) if before.is_some() => {
                Some((log::Level::Warn, "the disk takes writes again".to_owned()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Table;
    use crate::store::memory::{Fault, Memory};

    struct Put(u8);

    impl Durable for Put {
        type Written = (u8, bool);

        fn changes(&mut self, changes: &mut Vec<Change>) {
            changes.push(Change::put(Table::new("test"), [self.0], "value"));
        }

        fn written(self, committed: bool) -> (u8, bool) {
            (self.0, committed)
        }
    }

    #[test]
    fn a_group_is_one_commit_and_has_one_result() {
        let mut store = Memory::new();
        store.fail_commit(2, Fault::Full);
        let mut committer = Committer::new(store);
        let mut done = Vec::new();
        committer.run(&mut vec![Put(1), Put(2)], &mut done);
        // No commit: the fault is that of the second one.
        committer.run(&mut Vec::new(), &mut done);
        committer.run(&mut vec![Put(3), Put(4)], &mut done);
        committer.run(&mut vec![Put(5)], &mut done);
        let expected = [(1, true), (2, true), (3, false), (4, false), (5, true)];
        assert_eq!(done, expected);
    }

    #[test]
    fn a_failure_is_logged_once_and_a_worse_one_again() {
        let mut committer = Committer::<_, Put>::new(Memory::new());
        let full = || {
            let mut store = Memory::new();
            store.fail_commit(1, Fault::Full);
            store.commit(&[])
        };
        let failed = || {
            let mut store = Memory::new();
            store.fail_commit(1, Fault::Failed);
            store.commit(&[])
        };
        let results = [Ok(()), full(), full(), Ok(()), full(), failed(), failed()];
        let logged = results.map(|result| committer.report(&result).is_some());
        assert_eq!(logged, [false, true, false, true, true, true, false]);
    }
}

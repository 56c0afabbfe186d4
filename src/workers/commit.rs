//! Durable writes: every write that waits when a commit begins is part of that commit.
//!
//! A commit costs two fsyncs however many changes it has, so the rate of writes grows with the number of clients that
//! wait. Nobody waits for a larger group: the next commit takes what came in during the last one.

use std::marker::PhantomData;

use crate::engine::Work;
use crate::store::{Change, Store};

/// A write of a protocol that is acknowledged once it is on disk.
pub trait Durable: Send + 'static {
    /// What the protocol is told of it.
    type Written: Send + 'static;

    /// Appends what it changes in the store.
    fn changes(&self, changes: &mut Vec<Change>);

    /// The result. `committed`: it is on disk. If not, the store is as it was before, unless the disk failed
    /// ([`crate::store::Outcome::Unknown`]): then the restart shows which, and nothing is committed until then.
    fn written(self, committed: bool) -> Self::Written;
}

/// Commits the writes of a node in groups.
pub struct Committer<S, W> {
    store: S,
    /// Empty between two groups; kept for its allocation.
    changes: Vec<Change>,
    /// Whether the last commit failed: a failure is logged once, not for every group while a disk stays full.
    failing: bool,
    writes: PhantomData<fn(W)>,
}

impl<S: Store, W> Committer<S, W> {
    pub fn new(store: S) -> Committer<S, W> {
        Committer {
            store,
            changes: Vec::new(),
            failing: false,
            writes: PhantomData,
        }
    }
}

impl<S: Store + 'static, W: Durable> Work for Committer<S, W> {
    type Job = W;
    type Done = W::Written;

    fn run(&mut self, jobs: &mut Vec<W>, done: &mut Vec<W::Written>) {
        self.changes.clear();
        for write in jobs.iter() {
            write.changes(&mut self.changes);
        }
        let result = self.store.commit(&self.changes);
        // These are handles of the values; the loop has its own, and counts the bytes by them.
        self.changes.clear();
        let committed = result.is_ok();
        match result {
            Err(e) if !self.failing => log::error!("writes are refused: {e}"),
            Ok(()) if self.failing => log::warn!("writes are accepted again"),
            _ => {}
        }
        self.failing = !committed;
        done.extend(jobs.drain(..).map(|write| write.written(committed)));
    }
}

//! What a process runs: services and what stands behind them, put together.
//!
//! A protocol knows no store. What it wants kept is a [`Durable`] write here, which the [`Committer`], the worker of a
//! durable node, turns into commits.

pub mod index;

use std::marker::PhantomData;

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::dht::entries::Entries;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::store::{Change, Store, StoreError, Table};

#[cfg(feature = "net")]
pub mod transfer;

/// Where the entries of a DHT node are kept: key = the 20 bytes of the id, big-endian, so that the
/// store's order is the ring's.
const ENTRIES: Table = Table::new("dht-entries");

/// A write of a protocol that is acknowledged once it is on disk.
pub trait Durable: Send + 'static {
    /// What the protocol is told of it.
    type Written: Send + 'static;

    /// What it changes in the store.
    fn changes(&self, changes: &mut Vec<Change>);

    /// It is on disk, or it is not and the store is as it was before.
    fn written(self, committed: bool) -> Self::Written;
}

/// Commits the writes of a node, all that came in since the last commit in one.
pub struct Committer<S, W> {
    store: S,
    changes: Vec<Change>,
    /// The last commit failed; said once, not for every group while a disk stays full.
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

impl<S: Store> Committer<S, Write> {
    /// Takes over `store` and reads the entries of a DHT node that are in it.
    pub fn load(mut store: S) -> Result<(Self, Entries), StoreError> {
        let mut entries = Entries::default();
        let mut foreign = 0_u64;
        store.load(
            ENTRIES,
            &mut |key: &[u8], value: Bytes| match key.try_into() {
                Ok(key) => entries.insert(Id::from_be_bytes(key), value),
                Err(_) => foreign += 1,
            },
        )?;
        if foreign > 0 {
            log::warn!("{foreign} stored entries have keys that are no ids; they are ignored");
        }
        Ok((Committer::new(store), entries))
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
        // Handles of the values; the loop has its own.
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

impl Durable for Write {
    type Written = Written;

    fn changes(&self, changes: &mut Vec<Change>) {
        match &self.changes {
            Changes::One(key, value) => changes.push(change(*key, value)),
            Changes::Many(many) => {
                changes.extend(many.iter().map(|(key, value)| change(*key, value)));
            }
        }
    }

    fn written(self, committed: bool) -> Written {
        Written {
            write: self,
            committed,
        }
    }
}

fn change(key: Id, value: &Option<Bytes>) -> Change {
    Change {
        table: ENTRIES,
        key: key.to_be_bytes().into(),
        value: value.clone(),
    }
}

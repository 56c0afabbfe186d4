//! What a process runs: services and what stands behind them, put together.
//!
//! Now: the worker of a durable DHT node, which turns its writes into commits of a [`Store`].

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::dht::entries::Entries;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::store::{Change, Store, StoreError, Table};

/// Where the entries of a DHT node are kept: key = the 20 bytes of the id, big-endian, so that the
/// store's order is the ring's.
const ENTRIES: Table = Table::new("dht-entries");

/// Commits the writes of a DHT node, all that came in since the last commit in one.
pub struct Committer<S> {
    store: S,
    changes: Vec<Change>,
    /// The last commit failed; said once, not for every group while a disk stays full.
    failing: bool,
}

impl<S: Store> Committer<S> {
    /// Takes over `store` and reads the entries that are in it.
    pub fn load(mut store: S) -> Result<(Committer<S>, Entries), StoreError> {
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
        Ok((
            Committer {
                store,
                changes: Vec::new(),
                failing: false,
            },
            entries,
        ))
    }
}

impl<S: Store + 'static> Work for Committer<S> {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        self.changes.clear();
        for write in jobs.iter() {
            match &write.changes {
                Changes::One(key, value) => self.changes.push(change(*key, value)),
                Changes::Many(many) => {
                    self.changes
                        .extend(many.iter().map(|(key, value)| change(*key, value)));
                }
            }
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
        done.extend(jobs.drain(..).map(|write| Written { write, committed }));
    }
}

fn change(key: Id, value: &Option<Bytes>) -> Change {
    Change {
        table: ENTRIES,
        key: key.to_be_bytes().into(),
        value: value.clone(),
    }
}

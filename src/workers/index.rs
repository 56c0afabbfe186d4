//! The index server: registrations and file lists in the store, and password hashes.
//!
//! One thread commits, others only hash ([`Jobs::new`] without a store): a hash takes milliseconds by design, and no
//! commit waits for one.

use bytes::Bytes;

use super::commit::{Committer, Durable};
use super::load_error::LoadError;
use crate::engine::Work;
use crate::proto::index::fields::PeerId;
use crate::proto::index::persisted::{self as record, Done, Job};
use crate::proto::index::server::{BadRecord, Stored};
use crate::store::{Change, Store, Table};

/// Registrations: key = the id, 8 bytes big-endian.
const PEERS: Table = Table::new("index-peers");

/// Their file lists in chunks: key = the id and the number of the chunk, 8 and 4 bytes big-endian.
const FILES: Table = Table::new("index-files");

/// The server's clock: one entry with an empty key, 8 bytes big-endian.
const CLOCK: Table = Table::new("index-clock");

/// Reads everything that an index server has stored. The first entry that cannot be read is the error.
pub fn load(store: &mut impl Store) -> Result<Stored, LoadError> {
    let mut stored = Stored::default();
    let mut bad = Ok(());
    let mut note = |result: Result<(), BadRecord>| {
        if bad.is_ok() {
            bad = result;
        }
    };
    store.load(PEERS, &mut |key, value| {
        note(match key.try_into().map(u64::from_be_bytes) {
            Ok(id) => stored.peer(PeerId::from_bits(id), &value),
            Err(_) => Err(BadRecord::KEY),
        });
    })?;
    store.load(FILES, &mut |key, value| {
        let parts = key.split_first_chunk();
        let parts = parts.and_then(|(id, chunk)| Some((*id, chunk.try_into().ok()?)));
        note(match parts {
            Some((id, chunk)) => {
                let id = PeerId::from_bits(u64::from_be_bytes(id));
                stored.files(id, u32::from_be_bytes(chunk), &value)
            }
            None => Err(BadRecord::KEY),
        });
    })?;
    store.load(CLOCK, &mut |key, value| {
        note(match value.as_ref().try_into().map(u64::from_be_bytes) {
            _ if !key.is_empty() => Err(BadRecord::KEY),
            Ok(clock) => {
                stored.clock(clock);
                Ok(())
            }
            Err(_) => Err(BadRecord::CLOCK),
        });
    })?;
    bad?;
    Ok(stored)
}

impl Durable for record::Write {
    type Written = Done;

    fn changes(&mut self, changes: &mut Vec<Change>) {
        changes.extend(self.changes.iter().map(|change| match change {
            record::Change::Peer(id, value) => entry(PEERS, &id.get().to_be_bytes(), value),
            record::Change::Files(id, chunk, value) => {
                let mut key = [0; 12];
                key[..8].copy_from_slice(&id.get().to_be_bytes());
                key[8..].copy_from_slice(&chunk.to_be_bytes());
                entry(FILES, &key, value)
            }
            record::Change::Clock(clock) => Change::put(CLOCK, "", clock.to_be_bytes().to_vec()),
        }));
    }

    fn written(self, committed: bool) -> Done {
        Done::Written {
            op: self.op,
            committed,
        }
    }
}

fn entry(table: Table, key: &[u8], value: &Option<Bytes>) -> Change {
    Change {
        table,
        key: key.into(),
        value: value.clone(),
    }
}

/// Does the jobs of an index server: commits writes to a store, and hashes passwords with `hash`.
pub struct Jobs<S: Store, H> {
    /// `None` in a thread that only hashes.
    committer: Option<Committer<S, record::Write>>,
    hash: H,
    /// Empty between two groups; kept for its allocation.
    writes: Vec<record::Write>,
}

impl<S: Store + 'static, H> Jobs<S, H> {
    pub fn new(store: Option<S>, hash: H) -> Jobs<S, H> {
        Jobs {
            committer: store.map(Committer::new),
            hash,
            writes: Vec::new(),
        }
    }

    fn commit(&mut self, done: &mut Vec<Done>) {
        match &mut self.committer {
            Some(committer) => committer.run(&mut self.writes, done),
            None => done.extend(self.writes.drain(..).map(|write| write.written(false))),
        }
    }
}

impl<S, H> Work for Jobs<S, H>
where
    S: Store + 'static,
    H: FnMut(&record::Hash) -> Option<record::Digest> + Send + 'static,
{
    type Job = Job;
    type Done = Done;

    fn run(&mut self, jobs: &mut Vec<Job>, done: &mut Vec<Done>) {
        for job in jobs.drain(..) {
            match job {
                Job::Write(write) => self.writes.push(write),
                Job::Hash(hash) => {
                    // First the writes before it: results are in the order of the jobs.
                    self.commit(done);
                    done.push(Done::Hashed {
                        op: hash.op,
                        digest: (self.hash)(&hash),
                    });
                }
            }
        }
        self.commit(done);
    }
}

/// Argon2id of a password; `None` if there is no memory for it.
#[cfg(feature = "storage")]
pub fn argon2id(job: &record::Hash) -> Option<record::Digest> {
    use argon2::{Algorithm, Argon2, Params, Version};
    let record::Cost { memory_kib, passes } = job.cost;
    let params = Params::new(memory_kib, passes, 1, None).ok()?;
    let mut digest = record::Digest::default();
    let password = job.password.as_bytes();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, &job.salt, &mut digest)
        .ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn entries_that_are_not_ours_are_told() {
        let foreign = [
            Change::put(PEERS, "short", b"x".to_vec()),
            Change::put(FILES, "twelve bytes and more", b"x".to_vec()),
            Change::put(CLOCK, "", b"not a number".to_vec()),
            Change::put(CLOCK, "not empty", vec![0; 8]),
        ];
        for change in foreign {
            let mut store = Memory::new();
            store.commit(&[change]).expect("memory");
            assert!(matches!(load(&mut store), Err(LoadError::Record(_))));
        }
        assert!(load(&mut Memory::new()).is_ok());
    }
}

//! Restores the registrations and the catalogue from the store when a server starts.

use std::collections::BTreeMap;
use std::str;

use thiserror::Error;

use crate::proto::index::catalog::Catalog;
use crate::proto::index::catalog::bulk_load::Loader;
use crate::proto::index::fields::{FileLine, PeerId};
use crate::proto::index::persisted::Record;

use super::registry::{Presence, Registration, Registry};

/// A stored entry that this program does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}; the data is of another version of peerloop, or damaged")]
pub struct BadRecord(&'static str);

impl BadRecord {
    pub const KEY: BadRecord = BadRecord("an entry has no key of ours");
    pub const CLOCK: BadRecord = BadRecord("the clock cannot be read");
}

/// Everything that was stored, added entry by entry: registrations first, then their files.
#[derive(Debug, Default)]
pub struct Stored {
    registry: Registry,
    loader: Loader,
    clock: u64,
    /// Chunks of unknown registrations, for the log. No version of this program writes any.
    strays: BTreeMap<PeerId, u32>,
}

impl Stored {
    /// Adds a registration.
    pub fn peer(&mut self, id: PeerId, record: &[u8]) -> Result<(), BadRecord> {
        let record = Record::decode(record).ok_or(BadRecord("a registration cannot be read"))?;
        if self.registry.slot_of(id).is_some() {
            return Err(BadRecord("an id has two registrations"));
        }
        if self.registry.slot_of_user(&record.user).is_some() {
            return Err(BadRecord("a user has two registrations"));
        }
        let holder = self.loader.add_holder();
        self.clock = self.clock.max(record.login_at);
        self.registry.add(Registration {
            id,
            user: record.user,
            password: record.password,
            holder,
            chunks: 0,
            login_at: record.login_at,
            place: record.place,
            presence: Presence::Offline,
            expiry: None,
        });
        Ok(())
    }

    /// Adds a chunk of a registration's list. Its chunks come in their order.
    pub fn files(&mut self, id: PeerId, chunk: u32, lines: &[u8]) -> Result<(), BadRecord> {
        let slot = self.registry.slot_of(id);
        let Some(owner) = slot.and_then(|slot| self.registry.get_mut(slot)) else {
            *self.strays.entry(id).or_default() += 1;
            return Ok(());
        };
        if chunk != owner.chunks {
            return Err(BadRecord("a part of a list is missing"));
        }
        owner.chunks += 1;
        let unreadable = BadRecord("a list of files cannot be read");
        for line in str::from_utf8(lines).map_err(|_| unreadable)?.lines() {
            let line = FileLine::parse(line).map_err(|_| unreadable)?;
            self.loader.insert(owner.holder, line);
        }
        Ok(())
    }

    /// Adds the stored clock.
    pub fn clock(&mut self, clock: u64) {
        self.clock = self.clock.max(clock);
    }

    pub(super) fn into_parts(self) -> (Catalog, Registry, u64) {
        if !self.strays.is_empty() {
            log::warn!(
                "lists of {} unknown registrations are ignored",
                self.strays.len()
            );
        }
        (self.loader.finish(), self.registry, self.clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::index::persisted::{Cost, Hashed};

    fn record(user: &str) -> Record {
        Record {
            user: user.into(),
            password: Hashed {
                cost: Cost {
                    memory_kib: 8,
                    passes: 1,
                },
                salt: [0; 16],
                digest: [0; 32],
            },
            login_at: 5,
            place: None,
        }
    }

    /// Entries that contradict each other are an error, not half restored.
    #[test]
    fn contradictions_are_told() {
        let [alice, bob] = [1, 2].map(PeerId::from_bits);
        let line = b"a|1.000000|eac923ffd38e75dc5a30da86bd6ae3442638a89f\n";
        let mut stored = Stored::default();
        assert_eq!(stored.peer(alice, &record("alice").encode()), Ok(()));
        assert!(
            stored.peer(alice, &record("other").encode()).is_err(),
            "the id"
        );
        assert!(
            stored.peer(bob, &record("alice").encode()).is_err(),
            "the user"
        );
        assert!(
            stored.files(alice, 1, line).is_err(),
            "the first part is missing"
        );
        assert_eq!(stored.files(alice, 0, line), Ok(()));
        assert_eq!(stored.files(alice, 1, line), Ok(()));
        assert!(
            stored.files(alice, u32::MAX, line).is_err(),
            "parts are missing"
        );
        assert!(stored.files(alice, 2, &line[1..]).is_err(), "no name");
        let mut dear = record("carol");
        dear.password.cost.memory_kib = u32::MAX;
        assert!(stored.peer(bob, &dear.encode()).is_err(), "a hash of 4 TB");
    }
}

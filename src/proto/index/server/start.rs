//! What was stored, taken up when a server starts.

use std::collections::BTreeMap;
use std::str;

use thiserror::Error;

use super::{Catalog, PeerId, Registry};
use crate::proto::index::catalog::Loader;
use crate::proto::index::fields::FileLine;
use crate::proto::index::record::Record;
use crate::proto::index::registry::{Presence, Registration};

/// A stored entry is not what this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}; the data is of another version of peerloop, or damaged")]
pub struct BadRecord(&'static str);

/// Everything that was stored, entry by entry: registrations first, then their files.
#[derive(Debug, Default)]
pub struct Stored {
    registry: Registry,
    loader: Loader,
    clock: u64,
    /// Chunks without a registration, for the log: none are ever written.
    strays: BTreeMap<PeerId, u32>,
}

impl Stored {
    /// Takes up a registration.
    pub fn peer(&mut self, id: PeerId, record: &[u8]) -> Result<(), BadRecord> {
        let record = Record::decode(record).ok_or(BadRecord("a registration cannot be read"))?;
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

    /// Takes up a part of a registration's list.
    pub fn files(&mut self, id: PeerId, chunk: u32, lines: &[u8]) -> Result<(), BadRecord> {
        let slot = self.registry.slot_of(id);
        let Some(owner) = slot.and_then(|slot| self.registry.get_mut(slot)) else {
            *self.strays.entry(id).or_default() += 1;
            return Ok(());
        };
        owner.chunks = owner.chunks.max(chunk.saturating_add(1));
        let unreadable = BadRecord("a list of files cannot be read");
        for line in str::from_utf8(lines).map_err(|_| unreadable)?.lines() {
            let line = FileLine::parse(line).map_err(|_| unreadable)?;
            self.loader.insert(owner.holder, line);
        }
        Ok(())
    }

    /// Takes up what the clock showed.
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

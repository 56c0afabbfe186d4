//! Registrations in memory: users and their ids, who is online, and where.
//!
//! Not here: the files of a registration, which the catalogue has under its holder; timers, which the server arms.
//!
//! Invariants: a user has one registration; each is found by its slot, its id and its user.

use std::collections::HashMap;

use slab::Slab;

use crate::engine::{ConnId, Tick, TimerId};
use crate::proto::index::catalog::HolderNo;
use crate::proto::index::fields::{PeerId, Which};
use crate::proto::index::persisted::{Hashed, Place, Record};
use crate::proto::index::reply::{PeerLine, hit_label};

/// One registration.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) id: PeerId,
    pub(super) user: Box<str>,
    pub(super) password: Hashed,
    pub(super) holder: HolderNo,
    /// Number of chunks of its list in the store.
    pub(super) chunks: u32,
    /// Last login, on the server's clock.
    pub(super) login_at: u64,
    /// Set from LOGIN to LOGOUT.
    pub(super) place: Option<Place>,
    pub(super) presence: Presence,
    /// Its [`super::Timer::Expiry`].
    pub(super) expiry: Option<TimerId>,
}

#[derive(Debug)]
pub(super) enum Presence {
    Offline,
    /// Logged in before the server was restarted: until then, a keep-alive brings it back.
    Remembered {
        until: Tick,
    },
    Online {
        /// Every keep-alive moves it; the timer checks it when it fires.
        until: Tick,
        /// Its [`super::Timer::Alive`].
        timer: TimerId,
        /// The connection that logged in.
        conn: Option<ConnId>,
    },
}

impl Registration {
    pub(super) fn is_online(&self) -> bool {
        matches!(self.presence, Presence::Online { .. })
    }

    pub(super) fn record(&self) -> Record {
        Record {
            user: self.user.clone(),
            password: self.password.clone(),
            login_at: self.login_at,
            place: self.place,
        }
    }

    /// The last lines of each hit of its files, if it is online.
    pub(super) fn hit_label(&self) -> Option<Box<str>> {
        let place = self.place.filter(|_| self.is_online())?;
        Some(hit_label(&self.user, self.id, place.ip, place.port))
    }

    pub(super) fn line(&self, files: usize) -> PeerLine {
        let shown = self.place.filter(|_| self.is_online());
        PeerLine {
            id: self.id,
            user: self.user.to_string(),
            online: self.is_online(),
            ip: shown.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |place| place.ip),
            port: shown.map_or(0, |place| place.port),
            files: files as u64,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Slab<Registration>,
    by_id: HashMap<PeerId, u32>,
    by_user: HashMap<Box<str>, u32>,
    online: u64,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of the next registration.
    pub(super) fn next_slot(&self) -> u32 {
        self.slots.vacant_key() as u32
    }

    /// Adds a registration whose id and user are new.
    pub(super) fn add(&mut self, registration: Registration) -> u32 {
        let slot = self.next_slot();
        self.by_id.insert(registration.id, slot);
        self.by_user.insert(registration.user.clone(), slot);
        self.slots.insert(registration);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Registration> {
        let gone = self.slots.try_remove(slot as usize)?;
        self.by_id.remove(&gone.id);
        self.by_user.remove(&gone.user);
        self.online -= u64::from(gone.is_online());
        Some(gone)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Registration> {
        self.slots.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Registration> {
        self.slots.get_mut(slot as usize)
    }

    pub(super) fn slot_of(&self, id: PeerId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn slot_of_user(&self, user: &str) -> Option<u32> {
        self.by_user.get(user).copied()
    }

    /// The registration with this id and this user.
    pub(super) fn slot_of_both(&self, id: PeerId, user: &str) -> Option<u32> {
        self.slot_of(id)
            .filter(|&slot| self.get(slot).is_some_and(|found| *found.user == *user))
    }

    /// Sets the presence and returns the former.
    pub(super) fn set_presence(&mut self, slot: u32, presence: Presence) -> Option<Presence> {
        let registration = self.slots.get_mut(slot as usize)?;
        self.online -= u64::from(registration.is_online());
        let former = std::mem::replace(&mut registration.presence, presence);
        self.online += u64::from(registration.is_online());
        Some(former)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|(slot, _)| slot as u32)
    }

    /// Number of registrations of a kind.
    pub(super) fn count(&self, which: Which) -> u64 {
        let all = self.slots.len() as u64;
        match which {
            Which::Online => self.online,
            Which::Offline => all - self.online,
            Which::All => all,
            Which::One(id) => u64::from(self.by_id.contains_key(&id)),
        }
    }

    /// The registrations of a kind. Their order is stable.
    pub(super) fn list(&self, which: Which) -> impl Iterator<Item = &Registration> {
        let (all, one) = match which {
            Which::One(id) => (None, self.slot_of(id).and_then(|slot| self.get(slot))),
            _ => (Some(&self.slots), None),
        };
        let fits = move |found: &&Registration| match which {
            Which::Online => found.is_online(),
            Which::Offline => !found.is_online(),
            Which::All | Which::One(_) => true,
        };
        let all = all.into_iter().flatten().map(|(_, found)| found);
        all.chain(one).filter(fits)
    }
}

//! Registrations: who has which id, who is online and where.
//!
//! Names no time but the ticks it is told, and no files: those are the catalogue's, by the holder.

use std::collections::HashMap;

use slab::Slab;

use crate::engine::{ConnId, Tick, TimerId};

use super::catalog::HolderNo;
use super::fields::PeerId;
use super::record::{Hashed, Place, Record};
use super::reply::{PeerLine, hit_label};
use super::wire::Which;

/// One registration.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) id: PeerId,
    pub(super) user: Box<str>,
    pub(super) password: Hashed,
    pub(super) holder: HolderNo,
    /// Chunks of its list in the store.
    pub(super) chunks: u32,
    /// On the server's clock.
    pub(super) login_at: u64,
    /// From LOGIN to LOGOUT.
    pub(super) place: Option<Place>,
    pub(super) presence: Presence,
    /// Ends it when no login came for its time to live.
    pub(super) expiry: Option<TimerId>,
}

#[derive(Debug)]
pub(super) enum Presence {
    Offline,
    /// It was logged in when the server went down, so that a keep-alive is enough; until then, if none comes.
    Remembered {
        until: Tick,
    },
    Online {
        /// Moves with each keep-alive; the timer looks at it when it fires.
        until: Tick,
        timer: Option<TimerId>,
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

    /// What each hit of its files ends with, while it is online.
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

/// All registrations, each under a slot, its id and its user. A user has one.
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

    /// The slot that the next one gets.
    pub(super) fn next_slot(&self) -> u32 {
        self.slots.vacant_key() as u32
    }

    /// Takes up a registration, whose id and user are nobody's.
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

    /// The registration of this id, if it is this user's.
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

    /// How many there are of a kind.
    pub(super) fn count(&self, which: Which) -> u64 {
        let all = self.slots.len() as u64;
        match which {
            Which::Online => self.online,
            Which::Offline => all - self.online,
            Which::All => all,
            Which::One(id) => u64::from(self.by_id.contains_key(&id)),
        }
    }

    /// Those of a kind, in an order that stays.
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

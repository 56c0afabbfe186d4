//! The members of the ring, in order.
//!
//! Members stand in the order of their numbers, which is the order in which they registered. The neighbour of a member is its
//! predecessor, of the first one the last. A member recovered from the disk has a number, and is not in the ring before it
//! has answered ([`Members::admit`]).
//!
//! For: lookups by slot, handle and place. Not for: network or time.
//!
//! Invariants: handles are unique, and so are numbers, which the ring gives out; all that stand in the ring are members. Everything
//! is O(log members), but [`Members::ring_from`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV4;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use slab::Slab;

use crate::proto::ring::wire::{Encoding, Neighbour};

/// A registered peer, as all but the tracker's own bookkeeping (`T`) sees it.
#[derive(Debug)]
pub(super) struct Member<T> {
    pub handle: Arc<str>,
    /// Where it listens.
    pub addr: SocketAddrV4,
    /// What it registered with, and so what it is spoken to in.
    pub encoding: Encoding,
    /// How many registered before it.
    pub number: u64,
    pub contact: T,
}

impl<T> Member<T> {
    pub(super) fn as_neighbour(&self) -> Neighbour<'_> {
        Neighbour {
            handle: (&*self.handle).into(),
            addr: self.addr,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Members<T> {
    members: Slab<Member<T>>,
    by_handle: HashMap<Arc<str>, u32>,
    ring: BTreeMap<u64, u32>,
}

impl<T> Members<T> {
    pub(super) fn new() -> Members<T> {
        Members {
            members: Slab::new(),
            by_handle: HashMap::new(),
            ring: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Member<T>> {
        self.members.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Member<T>> {
        self.members.get_mut(slot as usize)
    }

    /// Whether the member in this slot is that with this number.
    pub(super) fn has(&self, slot: u32, number: u64) -> bool {
        self.get(slot).is_some_and(|member| member.number == number)
    }

    pub(super) fn by_handle(&self, handle: &str) -> Option<u32> {
        self.by_handle.get(handle).copied()
    }

    /// Gives a newcomer a slot; no other member has its handle or number. It is not in the ring yet.
    pub(super) fn insert(&mut self, member: Member<T>) -> u32 {
        let handle = member.handle.clone();
        let slot = self.members.insert(member) as u32;
        let former = self.by_handle.insert(handle, slot);
        assert!(former.is_none(), "a handle has one member");
        slot
    }

    /// Puts a member into the ring, at its place.
    pub(super) fn admit(&mut self, slot: u32) {
        self.ring.insert(self[slot].number, slot);
    }

    pub(super) fn is_in_ring(&self, slot: u32) -> bool {
        self.get(slot)
            .is_some_and(|member| self.ring.contains_key(&member.number))
    }

    pub(super) fn remove(&mut self, slot: u32) -> Member<T> {
        let member = self.members.remove(slot as usize);
        self.by_handle.remove(&member.handle);
        self.ring.remove(&member.number);
        member
    }

    pub(super) fn ring_len(&self) -> usize {
        self.ring.len()
    }

    /// The member before the place `number` in the ring: the neighbour of the one there. `None` when the ring is empty.
    pub(super) fn before(&self, number: u64) -> Option<u32> {
        let before = self.ring.range(..number).next_back();
        let (_, slot) = before.or_else(|| self.ring.last_key_value())?;
        Some(*slot)
    }

    /// The member after the place `number`: its neighbour changes when a member comes or goes there.
    pub(super) fn after(&self, number: u64) -> Option<u32> {
        let after = self.ring.range(number.saturating_add(1)..).next();
        let (_, slot) = after.or_else(|| self.ring.first_key_value())?;
        Some(*slot)
    }

    /// The ring in order, from the place `number` on to its end.
    pub(super) fn ring_from(&self, number: u64) -> impl Iterator<Item = &Member<T>> {
        self.ring.range(number..).map(|(_, slot)| &self[*slot])
    }
}

impl<T> Index<u32> for Members<T> {
    type Output = Member<T>;
    fn index(&self, slot: u32) -> &Member<T> {
        &self.members[slot as usize]
    }
}

impl<T> IndexMut<u32> for Members<T> {
    fn index_mut(&mut self, slot: u32) -> &mut Member<T> {
        &mut self.members[slot as usize]
    }
}

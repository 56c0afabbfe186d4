//! Whether there is room for an operation, and whether its sender may have it: limits, quotas, locks.

use std::net::IpAddr;

use crate::engine::Tick;

use super::IndexServer;
use super::operations::{Act, BUSY, Ko, later};
use crate::proto::index::fields::PeerId;
use crate::proto::index::guard::{counted_as, is_counted};

/// What the operations under way may add, so that many at once keep to the limits as one does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    registrations: usize,
    files: usize,
    /// Of their lists.
    bytes: usize,
}

impl Pending {
    pub(super) fn add(&mut self, act: &Act) {
        self.registrations += usize::from(matches!(act, Act::Register { .. }));
        if let Some(list) = act.list() {
            self.files += list.count;
            self.bytes += list.lines.len();
        }
    }

    pub(super) fn take(&mut self, act: &Act) {
        self.registrations -= usize::from(matches!(act, Act::Register { .. }));
        if let Some(list) = act.list() {
            self.files -= list.count;
            self.bytes -= list.lines.len();
        }
    }
}

impl IndexServer {
    /// Whether there is room for an operation beside those under way.
    pub(super) fn check_room(&self, act: &Act, user: &str) -> Result<(), Ko> {
        let Some(list) = act.list() else {
            return Ok(());
        };
        let new = matches!(act, Act::Register { .. }) && self.registry.slot_of_user(user).is_none();
        let peers = self.registry.len() + self.pending.registrations;
        if new && peers >= self.config.peers_max {
            return Err(Ko::Text("the server is full"));
        }
        self.check_length(act)?;
        // Those that are being indexed count twice: near the limit, early is better than late.
        let files = self.catalog.len() + self.pending.files;
        if files + list.count > self.config.files_max {
            return Err(Ko::Text("the server is full"));
        }
        if self.pending.bytes + list.lines.len() > self.config.pending_bytes_max {
            return Err(later("too many lists are under way", BUSY));
        }
        Ok(())
    }

    /// Whether a registration would have more files than one may have.
    pub(super) fn check_length(&self, act: &Act) -> Result<(), Ko> {
        let has = match act {
            Act::Add { id, .. } => {
                let slot = self.registry.slot_of(*id);
                let holder = slot.and_then(|slot| self.registry.get(slot));
                holder.map_or(0, |found| self.catalog.count(found.holder))
            }
            _ => 0,
        };
        let count = act.list().map_or(0, |list| list.count);
        if has + count > self.config.files_per_peer_max {
            return Err(Ko::TooMany(self.config.files_per_peer_max));
        }
        Ok(())
    }

    pub(super) fn check_quota(&mut self, now: Tick, source: IpAddr) -> Result<(), Ko> {
        match self.quota.used_up(now, counted_as(source)) {
            Some(after) if is_counted(source) => {
                Err(later("too many registrations from your address", after))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_lock(&mut self, now: Tick, id: PeerId) -> Result<(), Ko> {
        let Some(left) = self.lockout.locked(now, id) else {
            return Ok(());
        };
        self.counts.locked_out += 1;
        Err(later("locked after too many wrong passwords", left))
    }
}

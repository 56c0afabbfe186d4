//! Applies committed operations in memory: to the registry and the catalogue.

use bytes::Bytes;

use crate::engine::{Hub, Ticks};
use crate::proto::index::catalog::HolderNo;
use crate::proto::index::reply::{
    LOGIN_SUCCESS, LOGOUT_SUCCESS, REGISTER_OK, REGISTER_SUCCESS, UPDATE_OK,
};
use crate::proto::index::wire::{FrameOut, Kind, write_text};

use super::IndexServer;
use super::operation::{Action, WRONG, later};
use super::registry::{Presence, Registration};
use super::task::Task;

/// The time after which a change is tried again that the store did not take: its disk may be full.
const UNSTORED: Ticks = Ticks::from_secs(10);

/// The same for a login that no timer can watch.
const NO_TIMER: Ticks = Ticks::from_secs(10);

impl IndexServer {
    /// A worker has committed a change, or could not.
    pub(super) fn written(&mut self, hub: &mut Hub<Self>, number: u32, committed: bool) {
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        if !committed {
            self.busy.remove(&op.user);
            if let Action::Expire { id } = op.action
                && let Some(slot) = self.registry.slot_of(id)
            {
                self.arm_expiry(hub, slot);
            }
            self.refuse(hub, number, later("it cannot be stored now", UNSTORED));
            return;
        }
        let slot = match op.action {
            Action::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.action.id(), &op.user),
        };
        let clock = self.clock(hub.now());
        match (&op.action, slot) {
            (Action::Register { .. }, slot) => self.apply_register(hub, number, slot, clock),
            (Action::Update { list, .. }, Some(slot)) => {
                let lines = list.lines.clone();
                let holder = self.catalog.add_holder();
                if let Some(found) = self.registry.get_mut(slot) {
                    found.chunks = 1;
                }
                self.start_indexing(hub, number, holder, lines);
            }
            (Action::Add { list, .. }, Some(slot)) => {
                let lines = list.lines.clone();
                if let Some(found) = self.registry.get_mut(slot) {
                    found.chunks += 1;
                    let holder = found.holder;
                    self.start_indexing(hub, number, holder, lines);
                }
            }
            (Action::Login { place, .. }, Some(slot)) => {
                let (place, conn) = (*place, op.conn);
                if let Some(found) = self.registry.get_mut(slot) {
                    found.place = Some(place);
                    found.login_at = clock;
                }
                if !self.go_online(hub, slot, conn) {
                    if let Some(found) = self.registry.get(slot) {
                        self.busy.remove(&found.user);
                    }
                    let ko = later("no timer is left for a login", NO_TIMER);
                    return self.refuse(hub, number, ko);
                }
                self.counts.logins += 1;
                self.answer(hub, number, |out| {
                    write_text(out, Kind::Login.ok(), LOGIN_SUCCESS);
                });
            }
            (Action::Logout { .. }, Some(slot)) => {
                if let Some(found) = self.registry.get_mut(slot) {
                    found.place = None;
                }
                self.answer(hub, number, |out| {
                    write_text(out, Kind::Logout.ok(), LOGOUT_SUCCESS);
                });
            }
            (Action::Expire { .. }, Some(slot)) => {
                self.counts.expired += 1;
                self.remove(hub, slot);
                self.answer(hub, number, |_| {});
            }
            // Does not happen: a user has one change under way, so nothing else removed the registration.
            (_, None) => {
                self.busy.remove(&op.user);
                self.refuse(hub, number, WRONG);
            }
        }
    }

    /// Replaces the user's former registration, if any, by the new one.
    fn apply_register(&mut self, hub: &mut Hub<Self>, number: u32, old: Option<u32>, clock: u64) {
        if let Some(old) = old {
            self.remove(hub, old);
        }
        let Some(op) = self.ops.get_mut(number as usize) else {
            return;
        };
        let (Action::Register { id, list }, Some(password)) = (&op.action, op.hashed.take()) else {
            return;
        };
        let (id, lines, user) = (*id, list.lines.clone(), op.user.clone());
        let holder = self.catalog.add_holder();
        let slot = self.registry.add(Registration {
            id,
            user,
            password,
            holder,
            chunks: 1,
            login_at: clock,
            place: None,
            presence: Presence::Offline,
            expiry: None,
        });
        self.arm_expiry(hub, slot);
        self.counts.registrations += 1;
        self.start_indexing(hub, number, holder, lines);
    }

    fn start_indexing(&mut self, hub: &mut Hub<Self>, op: u32, holder: HolderNo, lines: Bytes) {
        let task = Task::Insert {
            op,
            holder,
            lines,
            done: 0,
        };
        self.add_task(hub, task);
    }

    /// All files of an operation are in the catalogue: answers it.
    pub(super) fn indexed(&mut self, hub: &mut Hub<Self>, number: u32, holder: HolderNo) {
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        let (kind, id) = (op.action.kind(), op.action.id());
        if matches!(op.action, Action::Update { .. })
            && let Some(slot) = self.registry.slot_of(id)
            && let Some(found) = self.registry.get_mut(slot)
        {
            // Searches find the new list from now on, and the former one no longer.
            let former = std::mem::replace(&mut found.holder, holder);
            let label = found.hit_label();
            self.catalog.show_holder(holder, label);
            self.catalog.kill_holder(former);
            self.add_task(hub, Task::Purge(former));
        }
        let total = self.catalog.count(holder);
        self.answer(hub, number, |out| {
            let mut frame = FrameOut::begin(out, kind.ok());
            match kind {
                Kind::Register => frame.line(REGISTER_OK).line(id).line(REGISTER_SUCCESS),
                Kind::RegisterUpdate => frame.line(UPDATE_OK).line(id),
                _ => frame.line(total),
            };
            // As the original: these answers end without a line break.
            frame.truncate(frame.payload_bytes() - 1);
            frame.finish();
        });
    }

    /// Removes a registration and its files.
    fn remove(&mut self, hub: &mut Hub<Self>, slot: u32) {
        self.go_offline(hub, slot);
        let Some(gone) = self.registry.remove(slot) else {
            return;
        };
        if let Some(timer) = gone.expiry {
            hub.cancel(timer);
        }
        self.catalog.kill_holder(gone.holder);
        self.add_task(hub, Task::Purge(gone.holder));
    }
}

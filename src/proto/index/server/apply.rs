//! What is on disk takes effect: in memory, in the index; and the end of a registration.

use bytes::Bytes;

use crate::engine::{Hub, Ticks};

use super::operations::{Act, Op, WRONG, later};
use super::work::Work;
use super::{IndexServer, Presence, Timer};
use crate::proto::index::catalog::HolderNo;
use crate::proto::index::record::{Change, Job, Write};
use crate::proto::index::registry::Registration;
use crate::proto::index::reply::{
    LOGIN_SUCCESS, LOGOUT_SUCCESS, REGISTER_OK, REGISTER_SUCCESS, UPDATE_OK,
};
use crate::proto::index::wire::{FrameOut, Kind, write_text};

/// No operation; acknowledges what nobody waits for.
const NO_OP: u32 = u32::MAX;

/// Until a disk that was full may have room.
const UNSTORED: Ticks = Ticks::from_secs(10);

/// Until the end of a registration is tried again.
const EXPIRY_AGAIN: Ticks = Ticks::from_secs(1);

impl IndexServer {
    /// A change is on disk, or is not.
    pub(super) fn written(&mut self, hub: &mut Hub<Self>, number: u32, committed: bool) {
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        if !committed {
            self.busy.remove(&op.user);
            if let Act::Expire { id } = op.act
                && let Some(slot) = self.registry.slot_of(id)
            {
                self.arm_expiry(hub, slot);
            }
            self.refuse(hub, number, later("it cannot be stored now", UNSTORED));
            return;
        }
        let slot = match op.act {
            Act::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.act.id(), &op.user),
        };
        let clock = self.clock(hub.now());
        match (&op.act, slot) {
            (Act::Register { .. }, slot) => self.apply_register(hub, number, slot, clock),
            (Act::Update { list, .. }, Some(slot)) => {
                let lines = list.lines.clone();
                let holder = self.catalog.add_holder();
                if let Some(found) = self.registry.get_mut(slot) {
                    found.chunks = 1;
                }
                self.index(hub, number, holder, lines);
            }
            (Act::Add { list, .. }, Some(slot)) => {
                let lines = list.lines.clone();
                if let Some(found) = self.registry.get_mut(slot) {
                    found.chunks += 1;
                    let holder = found.holder;
                    self.index(hub, number, holder, lines);
                }
            }
            (Act::Login { place, .. }, Some(slot)) => {
                let (place, conn) = (*place, op.conn);
                if let Some(found) = self.registry.get_mut(slot) {
                    found.place = Some(place);
                    found.login_at = clock;
                }
                self.counts.logins += 1;
                self.go_online(hub, slot, conn);
                self.answer(hub, number, |out| {
                    write_text(out, Kind::Login.ok(), LOGIN_SUCCESS);
                });
            }
            (Act::Logout { .. }, Some(slot)) => {
                if let Some(found) = self.registry.get_mut(slot) {
                    found.place = None;
                }
                self.answer(hub, number, |out| {
                    write_text(out, Kind::Logout.ok(), LOGOUT_SUCCESS);
                });
            }
            (Act::Expire { .. }, Some(slot)) => {
                self.counts.expired += 1;
                self.remove(hub, slot);
                self.answer(hub, number, |_| {});
            }
            // A user with a change under way has no other, so it is still there.
            (_, None) => self.refuse(hub, number, WRONG),
        }
    }

    /// The new registration takes the place of the user's former one, if any, in one step.
    fn apply_register(&mut self, hub: &mut Hub<Self>, number: u32, old: Option<u32>, clock: u64) {
        if let Some(old) = old {
            self.remove(hub, old);
        }
        let Some(op) = self.ops.get_mut(number as usize) else {
            return;
        };
        let (Act::Register { id, list }, Some(password)) = (&op.act, op.hashed.take()) else {
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
        self.index(hub, number, holder, lines);
    }

    fn index(&mut self, hub: &mut Hub<Self>, op: u32, holder: HolderNo, lines: Bytes) {
        let work = Work::Insert {
            op,
            holder,
            lines,
            done: 0,
        };
        self.add_work(hub, work);
    }

    /// The files of an operation are in the catalogue.
    pub(super) fn indexed(&mut self, hub: &mut Hub<Self>, number: u32, holder: HolderNo) {
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        let (kind, id) = (op.act.kind(), op.act.id());
        if matches!(op.act, Act::Update { .. })
            && let Some(slot) = self.registry.slot_of(id)
            && let Some(found) = self.registry.get_mut(slot)
        {
            // The new list is found from now on and the former one is not.
            let former = std::mem::replace(&mut found.holder, holder);
            let label = found.hit_label();
            self.catalog.show_holder(holder, label);
            self.catalog.kill_holder(former);
            self.add_work(hub, Work::Purge(former));
        }
        let total = self.catalog.count(holder);
        self.answer(hub, number, |out| {
            let mut frame = FrameOut::begin(out, kind.ok());
            match kind {
                Kind::Register => frame.line(REGISTER_OK).line(id).line(REGISTER_SUCCESS),
                Kind::RegisterUpdate => frame.line(UPDATE_OK).line(id),
                _ => frame.line(total),
            };
            // As the vectors have it: these answers are texts, and end without a line break.
            frame.truncate(frame.payload_bytes() - 1);
            frame.finish();
        });
    }

    /// A registration goes, with all that it has.
    fn remove(&mut self, hub: &mut Hub<Self>, slot: u32) {
        self.go_offline(hub, slot);
        let Some(gone) = self.registry.remove(slot) else {
            return;
        };
        if let Some(timer) = gone.expiry {
            hub.cancel(timer);
        }
        self.catalog.kill_holder(gone.holder);
        self.add_work(hub, Work::Purge(gone.holder));
    }

    /// Ticks until a registration has outlived itself.
    fn life_left(&self, hub: &Hub<Self>, slot: u32) -> Option<Ticks> {
        let found = self.registry.get(slot)?;
        let ends = found.login_at.saturating_add(self.config.time_to_live.0);
        Some(Ticks(ends.saturating_sub(self.clock(hub.now()))))
    }

    /// Arms the timer that ends a registration. A login moves the end, not the timer, which looks when it fires.
    pub(super) fn arm_expiry(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let Some(left) = self.life_left(hub, slot) else {
            return;
        };
        let after = Ticks(left.0.max(EXPIRY_AGAIN.0.min(self.config.time_to_live.0)));
        let timer = hub.arm(after, Timer::Expiry(slot));
        if let Some(found) = self.registry.get_mut(slot) {
            found.expiry = timer;
        }
    }

    pub(super) fn check_expiry(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let due = self.life_left(hub, slot).is_some_and(|left| left.0 == 0);
        let Some(found) = self.registry.get_mut(slot) else {
            return;
        };
        found.expiry = None;
        let (user, id) = (found.user.clone(), found.id);
        if !due || self.busy.contains(&user) {
            self.arm_expiry(hub, slot);
            return;
        }
        // Out of every search at once, whatever the disk says.
        self.go_offline(hub, slot);
        let op = self.ops.insert(Op::own(user, Act::Expire { id })) as u32;
        self.change(hub, op);
        if !self.ops.contains(op as usize) {
            self.arm_expiry(hub, slot);
        }
    }

    /// Keeps what the clock shows, now and then.
    pub(super) fn keep_clock(&mut self, hub: &mut Hub<Self>) {
        self.store_clock(hub);
        hub.arm(self.clock_every(), Timer::Clock);
    }

    /// Stores what the clock shows; who stores nothing is told so by the next operation.
    pub(super) fn store_clock(&mut self, hub: &mut Hub<Self>) {
        let write = Write {
            op: NO_OP,
            changes: vec![Change::Clock(self.clock(hub.now()))],
        };
        // At the limit of jobs, the next time will do.
        let _ = hub.submit(Job::Write(write));
    }
}

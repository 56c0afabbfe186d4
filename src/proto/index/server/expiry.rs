//! The time to live of registrations, and the clock that it is counted on.
//!
//! A registration without a LOGIN for its time to live is removed. Time is ticks that the server has run, stored with
//! every login and every hour: no clock that is set or jumps ends a registration, nor does a server that is down.

use crate::engine::{Hub, Ticks};
use crate::proto::index::persisted::{Change, Job, Write};

use super::operation::{Action, NO_OP, Operation};
use super::{IndexServer, Timer};

/// The time after which the end of a registration is tried again.
const EXPIRY_AGAIN: Ticks = Ticks::from_secs(1);

/// The clock is stored this often when no operation stores it.
const CLOCK_EVERY: Ticks = Ticks::from_secs(3600);

impl IndexServer {
    /// What is left of a registration's time to live.
    fn life_left(&self, hub: &Hub<Self>, slot: u32) -> Option<Ticks> {
        let found = self.registry.get(slot)?;
        let ends = found.login_at.saturating_add(self.config.time_to_live.0);
        Some(Ticks(ends.saturating_sub(self.clock(hub.now()))))
    }

    /// Arms the timer that ends a registration. A login moves only the end; the timer checks it when it fires.
    pub(super) fn arm_expiry(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let Some(left) = self.life_left(hub, slot) else {
            return;
        };
        let again = EXPIRY_AGAIN.0.min(self.config.time_to_live.0).max(1);
        let timer = hub.arm(Ticks(left.0.max(again)), Timer::Expiry(slot));
        if timer.is_none() {
            self.unwatched.push(slot);
        }
        if let Some(found) = self.registry.get_mut(slot)
            && let Some(former) = std::mem::replace(&mut found.expiry, timer)
        {
            hub.cancel(former);
        }
    }

    /// Looks after registrations whose timers were refused.
    fn check_unwatched(&mut self, hub: &mut Hub<Self>) {
        for slot in std::mem::take(&mut self.unwatched) {
            // The slot may belong to another registration by now, which has its timer.
            if self.registry.get(slot).is_some_and(|r| r.expiry.is_none()) {
                self.check_expiry(hub, slot);
            }
        }
    }

    /// [`Timer::Expiry`]: ends the registration if its time to live is over.
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
        // No search finds it any more, also if the store does not take the change.
        self.go_offline(hub, slot);
        let op = self.ops.insert(Operation::own(user, Action::Expire { id })) as u32;
        self.change(hub, op);
        if !self.ops.contains(op as usize) {
            self.arm_expiry(hub, slot);
        }
    }

    /// [`Timer::Clock`]: stores the clock, and looks after what was refused a timer.
    pub(super) fn check_clock(&mut self, hub: &mut Hub<Self>) {
        // First of all, so that the timer that has just fired makes room for it.
        self.arm_clock(hub);
        self.store_clock(hub);
        self.check_unwatched(hub);
    }

    pub(super) fn arm_clock(&self, hub: &mut Hub<Self>) {
        if hub.arm(self.clock_every(), Timer::Clock).is_none() {
            log::error!(
                "no timer for the clock (timers_max): after a crash, registrations live longer"
            );
        }
    }

    /// Often enough that a crash lengthens no life by much.
    fn clock_every(&self) -> Ticks {
        Ticks((self.config.time_to_live.0 / 16).clamp(100, CLOCK_EVERY.0))
    }

    /// Submits the clock to the store. A store that fails is reported by the next operation.
    pub(super) fn store_clock(&self, hub: &mut Hub<Self>) {
        let write = Write {
            op: NO_OP,
            changes: vec![Change::Clock(self.clock(hub.now()))],
        };
        if hub.submit(Job::Write(write)).is_err() {
            log::info!("the clock is not stored now (jobs_max)");
        }
    }
}

//! A sweep: removes the entries of a range that is not ours, a few in each turn, from memory and from the disk.
//!
//! It holds the membership lock until the last removal is committed. So nothing can give this node the range again before,
//! and no entry of it comes back from the disk after a crash. A removal that the worker has no room for is repeated. One
//! that cannot be committed is repeated [`FAILURES_MAX`] times; then the sweep goes on without it, as a full or broken
//! disk must not keep others from joining and leaving.
//!
//! A member that keeps copies removes nothing: it may hold the range for its owner. Entries that nobody needs there any more
//! stay too, until the node leaves or joins anew.
//!
//! Tombstones that are old enough go in the same way, without the lock.

use crate::engine::{Hub, Ticks};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, LockHolder, Then, Timer};

/// Removals at the worker at once. Each is of one turn's entries; the worker commits them together.
const JOBS_MAX: usize = 16;

/// The pause before a removal is repeated.
const AGAIN_AFTER: Ticks = Ticks::from_millis(100);

/// With the pauses about ten seconds.
const FAILURES_MAX: u32 = 100;

#[derive(Debug)]
pub(crate) struct Sweep {
    start: Id,
    end: Id,
    /// Memory may hold more entries of the range.
    more: bool,
    /// Removals that the worker has not taken yet.
    waiting: Vec<Id>,
    jobs: usize,
    failures: u32,
    /// Entries that stay on the disk, as it takes no writes.
    undropped: usize,
}

impl DhtNode {
    /// Removes the entries of `[start, end)`, all of them when the two are the same. Takes the membership lock over.
    pub(crate) fn sweep(&mut self, hub: &mut Hub<Self>, start: Id, end: Id) {
        self.end_lock_deadline(hub);
        // A member that keeps copies may hold this range for its owner, and merges what it has by version.
        let keeps = self.copies.is_on() && self.is_member();
        let mut sweep = Sweep {
            start,
            end,
            more: !keeps,
            waiting: Vec::new(),
            jobs: 0,
            failures: 0,
            undropped: 0,
        };
        // A node that is gone sweeps everything, whatever range it was at.
        if let LockHolder::Sweep(before) = &mut self.lock_holder {
            sweep.waiting = std::mem::take(&mut before.waiting);
            sweep.jobs = before.jobs;
        }
        self.lock_holder = LockHolder::Sweep(sweep);
        if !self.sweep_queued {
            self.sweep_some(hub);
        }
    }

    /// The next step of the sweep, in `pause` or in the next turn. At most one is queued.
    fn queue_sweep(&mut self, hub: &mut Hub<Self>, pause: Option<Ticks>) {
        if self.sweep_queued {
            return;
        }
        self.sweep_queued = true;
        let armed = pause.and_then(|pause| hub.arm(pause, Timer::Sweep));
        if armed.is_none() {
            hub.soon(Timer::Sweep);
        }
    }

    pub(crate) fn sweep_late(&mut self, hub: &mut Hub<Self>) {
        self.sweep_queued = false;
        self.sweep_some(hub);
    }

    fn sweep_some(&mut self, hub: &mut Hub<Self>) {
        let LockHolder::Sweep(sweep) = &mut self.lock_holder else {
            return;
        };
        if sweep.more && sweep.waiting.is_empty() {
            let mut removed = Vec::new();
            let most = self.config.quanta.swept_per_turn;
            sweep.more = self
                .entries
                .forget_some(sweep.start, sweep.end, most, &mut removed);
            if self.config.durable {
                sweep.waiting = removed;
            }
        }
        if !sweep.waiting.is_empty() {
            let removals = std::mem::take(&mut sweep.waiting);
            // Behind everything that wrote these keys, and before whatever will.
            if let Err(Changes::Forget(removals)) =
                self.submit(hub, Changes::Forget(removals), Then::Swept)
            {
                if let LockHolder::Sweep(sweep) = &mut self.lock_holder {
                    sweep.waiting = removals;
                }
                return self.queue_sweep(hub, Some(AGAIN_AFTER));
            }
            if let LockHolder::Sweep(sweep) = &mut self.lock_holder {
                sweep.jobs += 1;
            }
        }
        self.go_on_sweeping(hub);
    }

    fn go_on_sweeping(&mut self, hub: &mut Hub<Self>) {
        let LockHolder::Sweep(sweep) = &self.lock_holder else {
            return;
        };
        if !sweep.waiting.is_empty() || (sweep.more && sweep.jobs < JOBS_MAX) {
            self.queue_sweep(hub, None);
        } else if !sweep.more && sweep.jobs == 0 {
            if sweep.undropped > 0 {
                let count = sweep.undropped;
                log::error!("{count} entries of others stay on the disk: it takes no writes");
            }
            self.release_lock(hub);
            self.join_swept(hub);
            self.swept(hub);
        }
    }

    /// A removal came back from the worker.
    pub(crate) fn swept_from_disk(
        &mut self,
        hub: &mut Hub<Self>,
        removals: Changes,
        committed: bool,
    ) {
        let (LockHolder::Sweep(sweep), Changes::Forget(removals)) =
            (&mut self.lock_holder, removals)
        else {
            return;
        };
        sweep.jobs -= 1;
        if !committed && sweep.failures < FAILURES_MAX {
            sweep.failures += 1;
            sweep.waiting.extend(removals);
            return self.queue_sweep(hub, Some(AGAIN_AFTER));
        }
        if !committed {
            sweep.undropped += removals.len();
        }
        self.go_on_sweeping(hub);
    }

    /// The node starts, or old tombstones are to go; see [`super::tombstones`].
    pub(crate) fn tombstones_due(&mut self, hub: &mut Hub<Self>) {
        if !self.entries.keeps_tombstones() && self.entries.tombstones() == 0 {
            return;
        }
        let most = self.config.quanta.swept_per_turn;
        let mut gone = self.tombstones.due(hub.now(), &mut self.entries, most);
        // Nothing changes in a range that is counted and sent, and a write on its way to the disk must not be forgotten there.
        // The next walk finds these again, and those that the worker has no room for.
        gone.retain(|key| !self.is_moving(*key) && !self.writing.contains_key(key));
        if !self.config.durable
            || gone.is_empty()
            || self
                .submit(hub, Changes::Forget(gone.clone()), Then::Nothing)
                .is_ok()
        {
            for key in gone {
                self.entries.forget(key);
            }
        }
        if hub
            .arm(self.tombstones.pause(), Timer::Tombstones)
            .is_none()
        {
            log::warn!("no timer is to be had: tombstones stay until the node starts again");
        }
    }
}

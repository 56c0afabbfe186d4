//! A durable node that joins brings the entries of its earlier life into the ring.
//!
//! ```text
//! data directory ─▶ luggage ──of our own range──▶ entries (once we are a member, before anybody else's turn)
//!                       └─────of other ranges───▶ CONTAINS at the owner; INSERT if absent; then forgotten here
//! ```
//! A node that left gracefully has no entries on its disk. One that was killed has all that it ever acknowledged, and
//! nobody else does: the ring keeps no replicas. So it joins as every other, and puts the entries aside while it
//! does. What the ring gives us of a key, by a hand-over or a write, is newer and wins: our own entry of it is
//! dropped ([`DhtNode::receive`]). From the moment that we are a member, reads of our range see the luggage too.
//!
//! What this can bring back: an entry that was removed from the ring while we were away (another member held a copy
//! of it then, or our range had been given to another node that we did not know of), since the protocol knows
//! neither versions nor tombstones. A removed entry that comes back can be removed again; an acknowledged one that is
//! thrown away is lost, so this side is chosen. And between CONTAINS and INSERT a client may write the same
//! key, a round trip in which our older value would replace its newer one: the protocol has no INSERT of absent keys only.
//!
//! Bounds: the luggage is the memory that the entries had from the start; [`AT_ONCE_MAX`] operations at a time;
//! a key whose owner does not answer is tried again after all others, after a pause, as long as the node is a
//! member. On disk an entry goes only when its owner has acknowledged it: a crash at any point brings it again, and
//! a node that leaves earlier keeps the rest in its data directory for the next time.

use bytes::Bytes;

use crate::engine::{Hub, Tick, Ticks};

use super::client;
use super::entries::Entries;
use super::id::Id;
use super::node::{Changes, DhtNode, LockHolder, Role, Tag, Then, Timer};
use super::operation::{Bounds, Failure, Operation, Outcome, Verb};

/// Entries of our own range taken over in one turn, as in a sweep. Few in tests, as there are few.
const KEPT_PER_TURN: usize = if cfg!(test) { 2 } else { 128 };

/// Operations at a time: enough to fill the round trips of a local network, and no load to speak of for the owners.
const AT_ONCE_MAX: usize = 16;

/// Before the keys are tried again whose owners could not take them.
const PAUSE: Ticks = Ticks::from_secs(2);

const PROGRESS_EVERY: Ticks = Ticks::from_secs(1);

/// Entries of an earlier life that are not in the ring yet.
#[derive(Debug, Default)]
pub(super) struct RecoveredEntries {
    entries: Entries,
    total: usize,
    /// The next key of this round; `None` when the round is over.
    at: Option<Id>,
    under_way: usize,
    armed: bool,
    said: Option<Tick>,
}

impl RecoveredEntries {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: Id) -> Option<&Bytes> {
        self.entries.get(key)
    }

    pub(super) fn remove(&mut self, key: Id) {
        self.entries.remove(key);
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.entries.memory_bytes()
    }
}

impl DhtNode {
    /// Puts our entries aside: a ring is joined without any.
    pub(super) fn set_recovered_aside(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if !entries.is_empty() {
            log::info!("{} entries are to be brought into the ring", entries.len());
        }
        self.recovered = RecoveredEntries {
            total: entries.len(),
            entries,
            ..RecoveredEntries::default()
        };
    }

    /// We are a member. False when there is nothing to bring.
    pub(super) fn begin_recovery(&mut self, hub: &mut Hub<Self>) -> bool {
        if self.recovered.is_empty() {
            return false;
        }
        self.lock_holder = LockHolder::Recovery;
        self.arm_recovery(hub, None);
        true
    }

    fn arm_recovery(&mut self, hub: &mut Hub<Self>, pause: Option<Ticks>) {
        if !self.recovered.armed {
            self.recovered.armed = match pause {
                Some(pause) => hub.arm(pause, Timer::Recovery).is_some(),
                None => {
                    hub.soon(Timer::Recovery);
                    true
                }
            };
        }
    }

    pub(super) fn recovery_step(&mut self, hub: &mut Hub<Self>) {
        self.recovered.armed = false;
        if !matches!(self.lock_holder, LockHolder::Recovery) {
            // One that leaves keeps the rest on its disk.
            if matches!(self.role, Role::Member) {
                self.recovered.at = self.recovered.at.or(Some(Id::ZERO));
                self.recover_some(hub);
            }
            return;
        }
        let (me, next) = (self.me().id, self.routing.next().id);
        let kept = self.recovered.entries.arc(me, next).take(KEPT_PER_TURN);
        let kept: Vec<Id> = kept.map(|(key, _)| key).collect();
        for key in &kept {
            self.keep(*key);
        }
        if kept.len() == KEPT_PER_TURN {
            return self.arm_recovery(hub, None);
        }
        // As after every join: an owner may hand over more than our range.
        self.sweep(hub, next, me);
        self.arm_recovery(hub, None);
    }

    /// An entry of our own range, on our disk already.
    fn keep(&mut self, key: Id) {
        if let Some(value) = self.recovered.entries.get(key).cloned() {
            self.recovered.entries.remove(key);
            // What the ring gave us of this key would have replaced it, see `receive`.
            self.entries.insert(key, value);
        }
    }

    /// Starts as many operations as may run at once.
    fn recover_some(&mut self, hub: &mut Hub<Self>) {
        self.log_recovered(hub.now());
        let mut kept = 0;
        while self.recovered.under_way < AT_ONCE_MAX
            && let Some(at) = self.recovered.at
        {
            let Some(key) = self.recovered.entries.arc(at, Id::ZERO).next() else {
                self.recovered.at = None;
                break;
            };
            let key = key.0;
            self.recovered.at = Some(key.succ()).filter(|next| *next != Id::ZERO);
            if !self.owns(key) {
                self.recovered.under_way += 1;
                self.start_recovery(hub, Verb::Contains, key);
            } else if !self.is_moving(key) {
                // The range became ours meanwhile.
                self.keep(key);
                kept += 1;
                if kept == KEPT_PER_TURN {
                    return self.arm_recovery(hub, None);
                }
            }
        }
        if self.recovered.at.is_none() && self.recovered.under_way == 0 {
            if self.recovered.is_empty() {
                log::info!("all {} entries are in the ring", self.recovered.total);
            } else {
                self.arm_recovery(hub, Some(PAUSE));
            }
        }
    }

    fn start_recovery(&mut self, hub: &mut Hub<Self>, verb: Verb, key: Id) {
        let contacts = vec![self.closest(key).addr];
        let bounds = Bounds {
            unknown_is_final: true,
            ..self.bounds()
        };
        let operation = Operation::new(verb, key, contacts, bounds);
        client::start(self, hub, operation, Tag::Recovered(key));
    }

    pub(super) fn recovered_told(
        &mut self,
        hub: &mut Hub<Self>,
        key: Id,
        result: Result<Outcome, Failure>,
    ) {
        let ours = self.owns(key);
        match (result, self.recovered.get(key)) {
            (Ok(Outcome::Contains(false)), Some(value)) if !ours => {
                let verb = Verb::Insert(value.clone());
                return self.start_recovery(hub, verb, key);
            }
            // When the range has become ours it is kept in the next round, and stays on the disk.
            (Ok(Outcome::Contains(true) | Outcome::Inserted), Some(_)) if !ours => {
                let gone = Changes::Many(vec![(key, None)]);
                if !self.config.durable || self.submit(hub, gone, Then::Nothing) {
                    self.recovered.entries.remove(key);
                }
            }
            (Err(failure), _) => log::debug!("{key:?} is not brought yet: {failure}"),
            _ => {}
        }
        self.recovered.under_way -= 1;
        if matches!(self.role, Role::Member) {
            self.recover_some(hub);
        }
    }

    fn log_recovered(&mut self, now: Tick) {
        let said = *self.recovered.said.get_or_insert(now);
        if now >= said + PROGRESS_EVERY {
            self.recovered.said = Some(now);
            let (left, total) = (self.recovered.len(), self.recovered.total);
            log::info!("{} of {total} entries are in the ring", total - left);
        }
    }
}

//! Recovered entries: what a durable node had on its disk when it started, and takes back into the ring.
//!
//! ```text
//! data directory ─▶ recovered ──of our own range──▶ entries (once we are a member, under the membership lock)
//!                       └───────of other ranges───▶ XMERGE at the owner; then removed here
//!                                                   plain owner: CONTAINS; INSERT if absent; then removed here
//! ```
//! A node that left gracefully has no entries on its disk. A node that was killed has all that it ever acknowledged, and
//! the copies that it held for others. So
//! the node joins as every other does, with its entries set aside. Of what it has of a key and what the ring has, the
//! newer one wins, tombstones included. What the ring gives it without a version, by a plain hand-off, counts as newer
//! ([`DhtNode::take_moved`]). From the moment that the node is a member, reads of its range see recovered entries too.
//!
//! The protocol itself knows neither versions nor tombstones, which has two consequences beside plain owners, and without
//! copies (`replicas` of 1):
//! - An entry that was removed from the ring while the node was away can come back, if another node owned its range
//!   meanwhile. A removed entry that comes back can be removed again, while an acknowledged one that is dropped is lost.
//! - Between CONTAINS and INSERT, one round trip, a client may write the same key, and the older value replaces the newer.
//!   There is no INSERT of absent keys only.
//!
//! Bounds: recovered entries take the memory that the entries had from the start; [`AT_ONCE_MAX`] operations run at a
//! time. A key whose owner does not answer is tried again after a pause, behind all others, while the node is a
//! member. An entry leaves the disk when its owner has acknowledged it. So after a crash it is recovered again, and a
//! node that leaves earlier keeps the rest in its data directory.

use bytes::Bytes;

use crate::engine::{Hub, Tick, Ticks};

use super::entries::{Entries, Entry};
use super::version::Version;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, LockHolder, Role, Tag, Then, Timer};
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};

/// Operations at a time: enough to fill the round trips of a local network, and no load to speak of for the owners.
const AT_ONCE_MAX: usize = 16;

/// The pause before the next round of the keys whose owners could not take them.
const PAUSE: Ticks = Ticks::from_secs(2);

const PROGRESS_EVERY: Ticks = Ticks::from_secs(1);

/// Recovered entries that are not in the ring yet.
#[derive(Debug, Default)]
pub(crate) struct RecoveredEntries {
    entries: Entries,
    total: usize,
    /// The next key of this round; `None` when the round is over.
    at: Option<Id>,
    under_way: usize,
    armed: bool,
    logged: Option<Tick>,
}

impl RecoveredEntries {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: Id) -> Option<&Bytes> {
        self.entries.get(key)
    }

    #[inline]
    pub(crate) fn drop_older(&mut self, key: Id, version: Version) {
        // Mostly none are left, and every write comes here.
        if !self.entries.is_empty() && self.entry(key).is_some_and(|e| e.version <= version) {
            self.entries.forget(key);
        }
    }

    pub(crate) fn entry(&self, key: Id) -> Option<&Entry> {
        self.entries.entry(key)
    }

    pub(crate) fn release_pinned(&mut self, count: usize) {
        self.entries.release_pinned(count);
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.entries.memory_bytes()
    }
}

impl DhtNode {
    /// Sets our entries aside: a ring is joined without any.
    pub(crate) fn set_recovered_aside(&mut self) {
        let none = self.entries.emptied();
        let entries = std::mem::replace(&mut self.entries, none);
        if !entries.is_empty() {
            log::info!(
                "{} entries are to be recovered into the ring",
                entries.len()
            );
        }
        self.recovered = RecoveredEntries {
            total: entries.len(),
            entries,
            ..RecoveredEntries::default()
        };
    }

    /// There is no ring to recover them into: they are ours as they were.
    pub(crate) fn put_recovered_back(&mut self) {
        self.entries = std::mem::take(&mut self.recovered).entries;
    }

    /// The node is a member now. False when there is nothing to recover.
    pub(crate) fn begin_recovery(&mut self, hub: &mut Hub<Self>) -> bool {
        if self.recovered.is_empty() {
            return false;
        }
        self.lock_holder = LockHolder::Recovery;
        self.arm_recovery(hub, None);
        true
    }

    fn arm_recovery(&mut self, hub: &mut Hub<Self>, pause: Option<Ticks>) {
        if !self.recovered.armed {
            self.recovered.armed = true;
            let armed = pause.and_then(|pause| hub.arm(pause, Timer::Recovery));
            if armed.is_none() {
                hub.soon(Timer::Recovery);
            }
        }
    }

    pub(crate) fn recovery_step(&mut self, hub: &mut Hub<Self>) {
        self.recovered.armed = false;
        if !matches!(self.lock_holder, LockHolder::Recovery) {
            // A node that leaves keeps the rest on its disk.
            if matches!(self.role, Role::Member) {
                self.recovered.at = self.recovered.at.or(Some(Id::ZERO));
                self.recover_some(hub);
            }
            return;
        }
        let (me, next) = (self.me().id, self.routing.next().id);
        let most = self.config.quanta.recovered_per_turn;
        let kept = self.recovered.entries.arc_with_tombstones(me, next);
        let kept: Vec<Id> = kept.map(|(key, _)| key).take(most).collect();
        for key in &kept {
            self.keep(hub, *key);
        }
        if kept.len() == most {
            return self.arm_recovery(hub, None);
        }
        // As after every join: the owner may have sent entries from beyond our next.
        self.sweep(hub, next, me);
        self.arm_recovery(hub, None);
    }

    /// An entry of our own range, on our disk already.
    fn keep(&mut self, hub: &mut Hub<Self>, key: Id) {
        if let Some(Entry { version, value }) = self.recovered.entries.take(key) {
            // If the ring had given us a newer one, `apply` or `take_moved` would have dropped it here.
            let is_dropped = value.is_none() && !self.entries.keeps_tombstones();
            self.entries.merge(key, version, value);
            if is_dropped && self.config.durable {
                // If the worker does not take it, the next start finds it again.
                _ = self.submit(hub, Changes::Forget(vec![key]), Then::Nothing);
            }
        }
    }

    /// Starts as many operations as may run at once.
    fn recover_some(&mut self, hub: &mut Hub<Self>) {
        self.log_recovered(hub.now());
        let mut kept = 0;
        while self.recovered.under_way < AT_ONCE_MAX
            && let Some(at) = self.recovered.at
        {
            let Some(key) = self
                .recovered
                .entries
                .arc_with_tombstones(at, Id::ZERO)
                .next()
            else {
                self.recovered.at = None;
                break;
            };
            let key = key.0;
            self.recovered.at = Some(key.succ()).filter(|next| *next != Id::ZERO);
            if !self.owns(key) {
                self.recovered.under_way += 1;
                self.merge_at_owner(hub, key);
            } else if !self.is_moving(key) {
                // The range became ours meanwhile.
                self.keep(hub, key);
                kept += 1;
                if kept == self.config.quanta.recovered_per_turn {
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

    /// A key of another range.
    fn merge_at_owner(&mut self, hub: &mut Hub<Self>, key: Id) {
        let entry = self.recovered.entry(key).cloned();
        let verb = match entry.filter(|_| self.config.replicas > 1) {
            None => return self.offer_to_owner(hub, key),
            Some(Entry { version, value }) => Verb::Merge {
                version: version.0,
                value,
            },
        };
        self.start_recovery(hub, verb, key);
    }

    /// The same for an owner that knows no versions, and nothing of tombstones.
    fn offer_to_owner(&mut self, hub: &mut Hub<Self>, key: Id) {
        if self.recovered.get(key).is_some() {
            return self.start_recovery(hub, Verb::Contains, key);
        }
        self.forget_recovered(hub, key);
        self.recovered.under_way -= 1;
        self.arm_recovery(hub, None);
    }

    fn start_recovery(&mut self, hub: &mut Hub<Self>, verb: Verb, key: Id) {
        let contacts = vec![self.closest(key).addr];
        let bounds = Bounds {
            unknown_is_final: true,
            ..self.bounds()
        };
        let operation = Operation::new(verb, key, contacts, bounds);
        self.start_bounded(hub, operation, Tag::Recovered(key));
    }

    pub(crate) fn recovered_told(
        &mut self,
        hub: &mut Hub<Self>,
        key: Id,
        result: Result<Outcome, Failure>,
    ) {
        let ours = self.owns(key);
        match (result, self.recovered.entry(key)) {
            (Err(Failure::Plain { .. }), Some(_)) if !ours => {
                return self.offer_to_owner(hub, key);
            }
            (
                Ok(Outcome::Contains(false)),
                Some(Entry {
                    value: Some(value), ..
                }),
            ) if !ours => {
                let verb = Verb::Insert(value.clone());
                return self.start_recovery(hub, verb, key);
            }
            // If the range has become ours, the next round keeps it, and it stays on the disk.
            (Ok(Outcome::Contains(true) | Outcome::Inserted), Some(_)) if !ours => {
                self.forget_recovered(hub, key);
            }
            (Err(failure), _) => log::debug!("{key:?} is not in the ring yet: {failure}"),
            _ => {}
        }
        self.recovered.under_way -= 1;
        if matches!(self.role, Role::Member) {
            self.recover_some(hub);
        }
    }

    /// The owner has it, or what is newer.
    fn forget_recovered(&mut self, hub: &mut Hub<Self>, key: Id) {
        // On the disk may be a copy that we hold for the owner.
        let is_held = self.entries.entry(key).is_some() || self.writing.contains_key(&key);
        let gone = Changes::Forget(vec![key]);
        // At the worker's limit the next round asks for it again.
        if !self.config.durable || is_held || self.submit(hub, gone, Then::Nothing).is_ok() {
            self.recovered.entries.forget(key);
        }
    }

    fn log_recovered(&mut self, now: Tick) {
        let logged = *self.recovered.logged.get_or_insert(now);
        if now >= logged + PROGRESS_EVERY {
            self.recovered.logged = Some(now);
            let (left, total) = (self.recovered.len(), self.recovered.total);
            log::info!("{} of {total} entries are in the ring", total - left);
        }
    }
}

//! Tombstones end: those that are older than [`KEPT_FOR`] are dropped, a few in each turn, from memory and from the disk.
//!
//! A version tells no time. So the node marks what its clock stands at, every [`MARK_EVERY`]; the versions up to a mark are
//! at least as old as the mark. Old tombstones that other nodes still have are not taken back
//! ([`Entries::forget_tombstones_to`](super::entries::Entries::forget_tombstones_to)). The marks are lost with the process: a
//! node that starts keeps its tombstones for the whole time once more.
//!
//! A member that comes back after more than this time can bring back what was removed meanwhile.
//!
//! Bounds: as many entries are looked at in one turn as a sweep removes, and one turn each tick.

use std::collections::VecDeque;

use crate::engine::{Hub, Tick, Ticks};

use super::version::Version;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Then, Timer};

/// A member that is away for less learns what was removed meanwhile.
pub(crate) const KEPT_FOR: Ticks = Ticks::from_secs(7 * 24 * 3600);

/// How much longer a tombstone may be kept than it has to, and the time between two walks over all entries.
pub(crate) const MARK_EVERY: Ticks = Ticks::from_secs(6 * 3600);

const AGAIN_AFTER: Ticks = Ticks(1);

#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    /// The clock at the last times that it was marked, oldest first: those of [`KEPT_FOR`].
    marks: VecDeque<(Tick, Version)>,
    /// Where the walk goes on; `None` between two walks.
    at: Option<Id>,
}

impl DhtNode {
    /// The node starts.
    pub(crate) fn start_tombstones(&mut self, hub: &mut Hub<Self>) {
        if self.entries.keeps_tombstones() || self.entries.tombstones() > 0 {
            self.tombstones_due(hub);
        }
    }

    /// The time of the next mark, or of the next piece of the walk.
    pub(crate) fn tombstones_due(&mut self, hub: &mut Hub<Self>) {
        if self.tombstones.at.is_none() {
            self.mark_clock(hub.now());
            self.tombstones.at = (self.entries.tombstones() > 0).then_some(Id::ZERO);
        }
        if let Some(at) = self.tombstones.at {
            self.tombstones.at = self.drop_tombstones(hub, at);
        }
        let is_walking = self.tombstones.at.is_some();
        let pause = if is_walking { AGAIN_AFTER } else { MARK_EVERY };
        if hub.arm(pause, Timer::Tombstones).is_none() {
            log::warn!("no timer is to be had: tombstones stay until the node starts again");
        }
    }

    fn mark_clock(&mut self, now: Tick) {
        let marks = &mut self.tombstones.marks;
        marks.push_back((now, self.entries.clock()));
        while let Some((tick, version)) = marks.front().copied()
            && now.since(tick) >= KEPT_FOR
        {
            self.entries.forget_tombstones_to(version);
            marks.pop_front();
        }
    }

    /// Goes on with the walk; says where it goes on next.
    fn drop_tombstones(&mut self, hub: &mut Hub<Self>, at: Id) -> Option<Id> {
        let most = self.config.quanta.swept_per_turn;
        let from = self.entries.arc_with_tombstones(at, Id::ZERO);
        let looked_at: Vec<_> = from.take(most).collect();
        let more = looked_at.len() == most;
        let next = looked_at.last().map(|(key, _)| key.succ());
        let mut gone = Vec::new();
        for (key, entry) in looked_at {
            // Nothing changes in a range that is counted and sent, and a write on its way to the disk must not be forgotten
            // there.
            let rests = !self.is_moving(key) && !self.writing.contains_key(&key);
            if rests && self.entries.is_old_tombstone(entry) {
                gone.push(key);
            }
        }
        if self.config.durable && !gone.is_empty() {
            let changes = Changes::Forget(gone.clone());
            if self.submit(hub, changes, Then::Nothing).is_err() {
                return Some(at);
            }
        }
        for key in gone {
            self.entries.forget(key);
        }
        next.filter(|next| more && *next != Id::ZERO)
    }
}

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

use crate::engine::{Tick, Ticks};

use super::entries::Entries;
use super::version::Version;
use crate::proto::dht::id::Id;

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

impl Tombstones {
    /// When [`Tombstones::due`] is to be called next.
    pub(crate) fn pause(&self) -> Ticks {
        match self.at {
            Some(_) => AGAIN_AFTER,
            None => MARK_EVERY,
        }
    }

    /// The time of the next mark, or of the next piece of the walk: `most` entries are looked at. Says which keys may be
    /// forgotten.
    pub(crate) fn due(&mut self, now: Tick, entries: &mut Entries, most: usize) -> Vec<Id> {
        if self.at.is_none() {
            self.mark(now, entries);
            self.at = (entries.tombstones() > 0).then_some(Id::ZERO);
        }
        let Some(at) = self.at else {
            return Vec::new();
        };
        let (mut looked_at, mut last, mut gone) = (0, at, Vec::new());
        for (key, entry) in entries.arc_with_tombstones(at, Id::ZERO).take(most) {
            (looked_at, last) = (looked_at + 1, key);
            if entries.is_old_tombstone(entry) {
                gone.push(key);
            }
        }
        self.at = (looked_at == most && last != Id::MAX).then(|| last.succ());
        gone
    }

    fn mark(&mut self, now: Tick, entries: &mut Entries) {
        self.marks.push_back((now, entries.clock()));
        while let Some((tick, version)) = self.marks.front().copied()
            && now.since(tick) >= KEPT_FOR
        {
            entries.forget_tombstones_to(version);
            self.marks.pop_front();
        }
    }
}

//! Who may be served: requesters of whom the index says that they are online.
//!
//! An answer is remembered for a minute. Until there is one, the connections that wait for it are, but not for long: a
//! silent index is no reason to let a peer wait. The question stays here until it is answered, so that the
//! index is not asked again by everyone who comes back. [`Gate`] itself asks nobody.
//!
//! Invariants: a requester has one question under way at most; who waits stands in one question.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::engine::{ConnId, Tick, Ticks, TimerId};
use crate::proto::index::fields::PeerId;

/// A requester that was online is believed to be for this long.
const ONLINE_FOR: Ticks = Ticks::from_secs(60);

/// Requesters that are remembered; beyond, all are forgotten and asked for anew.
const ONLINE_MAX: usize = 65_536;

/// Requesters that the index is being asked about; the next ones are told to come back.
const ASKED_MAX: usize = 1024;

/// A requester is told to come back when the index is silent for this long: before its own patience ends.
pub(super) const SILENCE: Ticks = Ticks::from_secs(5);

pub(super) const BUSY: &str = "too many requesters at once; retry in 1 s";
pub(super) const SILENT: &str = "the index cannot be asked whether you are online; retry in 5 s";

/// A question to the index.
#[derive(Debug, Default)]
struct Question {
    waiting: Vec<ConnId>,
    timer: Option<TimerId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    online_until: HashMap<PeerId, Tick>,
    asked: HashMap<PeerId, Question>,
}

/// What is to be done for a connection that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// The index is to be asked.
    pub ask: bool,
    /// The silence of the index is to be timed ([`Gate::time`]).
    pub time: bool,
}

impl Gate {
    pub(super) fn knows(&self, requester: PeerId, now: Tick) -> bool {
        let until = self.online_until.get(&requester);
        until.is_some_and(|until| now < *until)
    }

    /// A connection waits until it is known whether its requester is online.
    pub(super) fn wait(&mut self, requester: PeerId, conn: ConnId) -> Result<Wait, &'static str> {
        let is_full = self.asked.len() >= ASKED_MAX;
        let entry = self.asked.entry(requester);
        let ask = matches!(entry, Entry::Vacant(_));
        if ask && is_full {
            return Err(BUSY);
        }
        let question = entry.or_default();
        question.waiting.push(conn);
        let time = question.timer.is_none();
        Ok(Wait { ask, time })
    }

    /// The silence of the index ends with this timer: [`Gate::is_silent`] follows.
    pub(super) fn time(&mut self, requester: PeerId, timer: Option<TimerId>) {
        if let Some(question) = self.asked.get_mut(&requester) {
            question.timer = timer;
        }
    }

    /// The index was silent for too long. Returns who waits no longer.
    pub(super) fn is_silent(&mut self, requester: PeerId) -> Vec<ConnId> {
        let question = self.asked.get_mut(&requester);
        question.map_or_else(Vec::new, |question| std::mem::take(question).waiting)
    }

    /// The index has answered, or cannot be asked. Returns who has waited, and a timer that is of no use any more.
    pub(super) fn answered(
        &mut self,
        requester: PeerId,
        online: bool,
        now: Tick,
    ) -> (Vec<ConnId>, Option<TimerId>) {
        if online {
            if self.online_until.len() >= ONLINE_MAX {
                self.online_until.clear();
            }
            self.online_until.insert(requester, now + ONLINE_FOR);
        }
        let question = self.asked.remove(&requester).unwrap_or_default();
        (question.waiting, question.timer)
    }
}

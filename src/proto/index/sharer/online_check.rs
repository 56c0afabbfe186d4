//! Which requesters may be served: those that are online at the index.
//!
//! A yes is remembered for a minute. While the index is asked, the requester's connections wait, but at most
//! [`SILENCE`]; the question itself stays until it is answered, so that requesters that come back do not ask it again.
//!
//! Invariants: a requester has at most one question under way; a connection waits for at most one.
//!
//! Not here: asking the index ([`super::Sharer`] does).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::engine::{ConnId, Tick, Ticks, TimerId};
use crate::proto::index::fields::PeerId;

/// A requester that was online is served without asking for this long.
const ONLINE_FOR: Ticks = Ticks::from_secs(60);

/// Online requesters that are remembered. Beyond, all are forgotten and asked for again.
const ONLINE_MAX: usize = 65_536;

/// Questions under way. Further requesters are told to come back.
const ASKED_MAX: usize = 1024;

/// Connections that wait for one answer. Further ones are told to come back.
const WAITING_MAX: usize = 1024;

/// A requester waits for the index this long and is then told to come back: less than fetchers wait.
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
pub(super) struct OnlineCheck {
    online_until: HashMap<PeerId, Tick>,
    asked: HashMap<PeerId, Question>,
}

/// What must be done for a connection that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// Ask the index.
    pub ask: bool,
    /// Arm a timer ([`OnlineCheck::set_timer`]).
    pub time: bool,
}

impl OnlineCheck {
    pub(super) fn is_online(&self, requester: PeerId, now: Tick) -> bool {
        let until = self.online_until.get(&requester);
        until.is_some_and(|until| now < *until)
    }

    /// Adds a connection that waits until it is known whether its requester is online.
    pub(super) fn wait(&mut self, requester: PeerId, conn: ConnId) -> Result<Wait, &'static str> {
        let is_full = self.asked.len() >= ASKED_MAX;
        let entry = self.asked.entry(requester);
        let ask = matches!(entry, Entry::Vacant(_));
        if ask && is_full {
            return Err(BUSY);
        }
        let question = entry.or_default();
        if question.waiting.len() >= WAITING_MAX {
            return Err(BUSY);
        }
        question.waiting.push(conn);
        let time = question.timer.is_none();
        Ok(Wait { ask, time })
    }

    /// Sets the timer after which [`OnlineCheck::silent`] is called.
    pub(super) fn set_timer(&mut self, requester: PeerId, timer: TimerId) {
        if let Some(question) = self.asked.get_mut(&requester) {
            question.timer = Some(timer);
        }
    }

    /// The index was silent for too long. Returns the connections that wait no longer.
    pub(super) fn silent(&mut self, requester: PeerId) -> Vec<ConnId> {
        let question = self.asked.get_mut(&requester);
        question.map_or_else(Vec::new, |question| std::mem::take(question).waiting)
    }

    /// The index has answered, or cannot be asked. Returns the connections that waited, and the timer to be cancelled.
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

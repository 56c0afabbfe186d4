//! The model of a member's user: what is certain, and what may be true without an answer.

use std::collections::BTreeSet;

use super::super::*;
use super::MEMBERS;

/// A call of a member.
pub(super) enum Asked {
    /// A list, and how many of its user's were lost when it was asked for.
    Register(BTreeSet<String>, u32),
    Update(BTreeSet<String>, u32),
    /// What it must not find, by user.
    Search([Past; MEMBERS]),
    Logout,
}

/// Of a user, at the start of a search.
pub(super) struct Past {
    /// Names that were replaced.
    pub(super) replaced: BTreeSet<String>,
    /// Offline for certain, after logging in so many times.
    pub(super) offline: Option<u32>,
}

/// See the module.
#[derive(Default)]
pub(super) struct User {
    pub(super) id: Option<PeerId>,
    pub(super) list: BTreeSet<String>,
    /// Every name that was ever under way.
    pub(super) names: BTreeSet<String>,
    /// Lists of requests that may still be done, now or later: not answered, or asked more than once.
    pub(super) maybe: Vec<BTreeSet<String>>,
    /// Calls not answered, by their tags.
    pub(super) asked: BTreeMap<usize, Asked>,
    pub(super) staying: bool,
    pub(super) stays: u32,
    pub(super) logged_out: bool,
    /// Requests that got lost without an answer.
    pub(super) lists_lost: u32,
    pub(super) register_lost: bool,
    pub(super) login_lost: bool,
}

impl User {
    /// A request of this kind has no answer, and may still be done.
    pub(super) fn lose(&mut self, kind: u16) {
        match kind {
            1 => (self.register_lost, self.lists_lost) = (true, self.lists_lost + 1),
            2 => self.login_lost = true,
            9 | 10 => self.lists_lost += 1,
            _ => {}
        }
    }

    pub(super) fn registers(&self) -> bool {
        let mut asked = self.asked.values();
        asked.any(|asked| matches!(asked, Asked::Register(..)))
    }

    pub(super) fn is_busy(&self) -> bool {
        let mut asked = self.asked.values();
        asked.any(|asked| !matches!(asked, Asked::Search(_)))
    }

    pub(super) fn past(&self) -> Past {
        let may_be = |name: &&String| {
            self.list.contains(*name) || self.maybe.iter().any(|list| list.contains(*name))
        };
        let replaced = self.names.iter().filter(|name| !may_be(name));
        Past {
            replaced: replaced.cloned().collect(),
            offline: (self.logged_out && !self.login_lost).then_some(self.stays),
        }
    }

    /// The list is acknowledged.
    pub(super) fn has(&mut self, list: BTreeSet<String>, lost_before: u32) {
        if self.lists_lost == lost_before {
            self.maybe.retain(|other| *other != list);
        }
        self.list = list;
    }
}

//! More holders: the index is asked again while a download goes on, and once more before it is given up.
//!
//! A holder that restarts has another port, others come online, and a list may be longer than what is
//! asked at once. Nobody who lied or refused is asked again; who was gone is, when the index still lists it.

use crate::engine::{Hub, Tick, Ticks};
use crate::proto::index::client;
use crate::proto::index::exchange::{Answer, Call};
use crate::proto::index::reply::Hit;
use crate::proto::index::transfer::plan::HOLDERS_MAX;

use super::holders::{Holder, LOSSES_MAX, Link};
use super::task::{Deeds, Failure, Source, Why};
use super::{Asked, Fetcher, Phase};

/// As long as more holders are of use, the index is asked for them this often.
const ASK_EVERY: Ticks = Ticks::from_secs(60);

/// Hits that are looked at: far more than holders who can be asked at once.
const HITS_MAX: usize = 1000;

/// Holders that were tried and have left their place to others; more are not taken up.
const TRIED_MAX: usize = 4096;

/// A range may take this long when there are holders who were not tried yet: 1 MiB at 35 kB/s.
const TOO_LONG: Ticks = Ticks::from_secs(30);

/// What the index was asked, and who had to make room.
#[derive(Debug, Default)]
pub(super) struct Search {
    under_way: bool,
    /// Nobody was left when it was asked.
    last: bool,
    /// When it was asked, and when somebody had to make room.
    asked_at: Tick,
    room_at: Tick,
    /// Whose places others have now.
    pub(super) tried: Vec<Deeds>,
}

impl Search {
    pub(super) fn begin(&mut self, now: Tick) {
        (self.asked_at, self.room_at) = (now, now);
    }
}

impl Fetcher {
    /// Asks the index for holders now and then.
    pub(super) fn look_around(&mut self, hub: &mut Hub<Fetcher>) {
        let is_due = hub.now().since(self.search.asked_at) >= ASK_EVERY;
        if is_due && self.phase == Phase::Fetch && self.connected() < self.useful() {
            self.ask_for_holders(hub);
        }
    }

    /// Nobody is left who could be asked: the index may know somebody else.
    pub(super) fn nobody_is_left(&mut self, hub: &mut Hub<Fetcher>) {
        if !self.search.under_way {
            self.search.last = true;
            self.ask_for_holders(hub);
        }
    }

    fn ask_for_holders(&mut self, hub: &mut Hub<Fetcher>) {
        if std::mem::replace(&mut self.search.under_way, true) {
            return;
        }
        self.search.asked_at = hub.now();
        let call = Call::Search {
            words: self.wanted.sha1.to_string(),
            hits_max: HITS_MAX,
        };
        client::ask(self, hub, Asked::Holders, call);
    }

    /// The index has answered.
    pub(super) fn found(
        &mut self,
        hub: &mut Hub<Fetcher>,
        result: Result<Answer, client::Failure>,
    ) {
        self.search.under_way = false;
        let last = std::mem::take(&mut self.search.last);
        if self.phase != Phase::Fetch {
            return;
        }
        let hits = match result {
            Ok(Answer::Hits(hits)) => hits,
            Ok(_) => Vec::new(),
            Err(e) => {
                log::warn!("the index is not asked for more holders: {e}");
                Vec::new()
            }
        };
        let mut new = 0;
        for hit in hits {
            if hit.file.sha1 == self.wanted.sha1
                && hit.file.size_bytes == self.wanted.size_bytes
                && hit.id != self.wanted.requester
            {
                new += usize::from(self.take_up(&hit, hub.now(), last));
            }
        }
        if last && new == 0 {
            return self.end(hub, Err(Failure::NoHolder));
        }
        self.staff(hub);
        self.feed_all(hub);
    }

    /// Somebody has the file; whether that is somebody new.
    fn take_up(&mut self, hit: &Hit, now: Tick, last: bool) -> bool {
        let source = Source {
            addr: std::net::SocketAddr::new(hit.ip, hit.port),
            id: hit.id,
        };
        if let Some(known) = self.holders.iter().position(|h| h.deeds.source == source) {
            let it = &mut self.holders[known];
            // It may be back, but not when it has just been given up.
            if !last && matches!(it.deeds.dropped, Some(Why::Gone(_))) {
                it.link = Link::Lost { until: now };
                it.losses = LOSSES_MAX - 1;
                self.plan.take_back(known);
            }
            return false;
        }
        if self.search.tried.iter().any(|deeds| deeds.source == source) {
            return false;
        }
        if self.holders.len() < HOLDERS_MAX {
            self.plan.add();
            self.holders.push(Holder::new(&source));
            return true;
        }
        // The place of one that has sent nothing, so that nothing is known by its number.
        let is_free = |h: &Holder| h.link == Link::Dropped && h.deeds.ranges == 0;
        let Some(free) = self.holders.iter().position(is_free) else {
            return false;
        };
        if self.search.tried.len() >= TRIED_MAX {
            return false;
        }
        self.plan.renew(free);
        let before = std::mem::replace(&mut self.holders[free], Holder::new(&source));
        self.search.tried.push(before.deeds);
        true
    }

    /// All places are taken, and somebody was not tried yet: who keeps us waiting for longest, and for too long, makes room.
    /// One at a time, since it may as well be us who are slow.
    pub(super) fn make_room(&mut self, hub: &mut Hub<Fetcher>) {
        let now = hub.now();
        let is_untried = |h: &Holder| h.link == Link::Idle;
        if self.plan.asks_one()
            || now.since(self.search.room_at) < TOO_LONG
            || !self.holders.iter().any(is_untried)
        {
            return;
        }
        let waits = |h: &Holder| {
            let (_, at) = h.asked.front()?;
            matches!(h.link, Link::Up(_)).then(|| now.since((*at).max(h.last)))
        };
        let longest = (0..self.holders.len()).max_by_key(|n| waits(&self.holders[*n]));
        if let Some(slow) = longest
            && waits(&self.holders[slow]).is_some_and(|waits| waits >= TOO_LONG)
        {
            self.search.room_at = now;
            self.is_slow(hub, slow);
        }
    }
}

//! Joiners that stall: how long one may hold up what waits for it, and who is refused for a while.
//!
//! Writes into a range that is being handed over wait for the joiner, and so does our own leave. While either waits, a joiner
//! that takes entries below the least pace for [`STALL`], or does not send its address for [`STALL`] after the last of them,
//! is given up: the range stays, and the writes are stored here. A joiner that commits what it took needs longer to
//! answer for a large range, so it has a second more for each MiB. Where nothing waits, the limits of
//! [`crate::proto::dht::node::TransferLimits`] hold alone.
//!
//! A hand-off that held writes back for [`STRIKE_AFTER`] and came to nothing is a strike against the joiner's IP. After
//! [`STRIKES_MAX`] of them its CONNECTs are answered `0` for [`REFUSED_FOR`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::engine::{Cx, Hub, Tick, Ticks};

use crate::proto::dht::node::{DhtNode, LockHolder, Role, Timer};

/// With a look, two seconds: the longest that a write waits for a joiner that does nothing.
const STALL: Ticks = Ticks::from_millis(1500);
const LOOK_EVERY: Ticks = Ticks::from_millis(250);

const STRIKE_AFTER: Ticks = Ticks::from_secs(1);
const STRIKES_MAX: u32 = 2;
const REFUSED_FOR: Ticks = Ticks::from_secs(30);

/// Sources with strikes. Beyond it the one is forgotten that is refused the shortest.
const STALLERS_MAX: usize = 1024;

/// CONNECTs of one source that run or wait. A burst from one machine has room; the rest are told `0` and come again.
const CONNECTS_PER_IP_MAX: usize = 16;

/// What the joiner did since it was judged last.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    since: Option<Tick>,
    taken_bytes: u64,
    has_all: bool,
}

/// How far a joiner is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) taken_bytes: u64,
    /// Only its address is missing.
    pub(crate) has_all: bool,
}

impl Stall {
    /// True when the joiner stalls. `waits`: something waits for it. `least_bytes`: what it must take within [`STALL`].
    fn is_over(&mut self, now: Tick, waits: bool, at: Option<Progress>, least_bytes: u64) -> bool {
        let at = at.filter(|_| waits);
        let Some(Progress {
            taken_bytes,
            has_all,
        }) = at
        else {
            self.since = None;
            return false;
        };
        let commits_for = Ticks::from_secs(if has_all { taken_bytes >> 20 } else { 0 });
        match self.since {
            Some(since) if has_all == self.has_all => {
                if now < since + STALL + commits_for {
                    return false;
                }
                if has_all || taken_bytes.saturating_sub(self.taken_bytes) < least_bytes {
                    return true;
                }
            }
            _ => {}
        }
        *self = Stall {
            since: Some(now),
            taken_bytes,
            has_all,
        };
        false
    }
}

/// Strikes by source, each with its end.
#[derive(Debug, Default)]
pub(crate) struct Stallers(BTreeMap<Ipv4Addr, (u32, Tick)>);

impl Stallers {
    fn strike(&mut self, now: Tick, source: Ipv4Addr) {
        self.0.retain(|_, (_, until)| *until > now);
        if self.0.len() >= STALLERS_MAX
            && !self.0.contains_key(&source)
            && let Some((first, _)) = self.0.iter().min_by_key(|(_, (_, until))| *until)
        {
            let first = *first;
            self.0.remove(&first);
        }
        let (strikes, until) = self.0.entry(source).or_insert((0, now));
        *strikes += 1;
        *until = now + REFUSED_FOR;
    }

    fn is_refused(&self, now: Tick, source: Ipv4Addr) -> bool {
        let strikes = self.0.get(&source);
        strikes.is_some_and(|(strikes, until)| *strikes >= STRIKES_MAX && *until > now)
    }
}

impl DhtNode {
    /// The next look at the joiner of the hand-off that goes on. False at the limit of timers.
    #[must_use]
    pub(crate) fn watch_joiner(&mut self, hub: &mut Hub<Self>) -> bool {
        self.stall_armed = self.stall_armed || hub.arm(LOOK_EVERY, Timer::Stall).is_some();
        self.stall_armed
    }

    pub(crate) fn look_for_stall(&mut self, hub: &mut Hub<Self>) {
        self.stall_armed = false;
        let waits = !self.fenced_writes.is_empty() || matches!(self.role, Role::Leaving(_));
        let pace_bytes_per_sec = self.config.transfer.pace_bytes_per_sec;
        let stall_ms = STALL.as_duration().as_millis() as u64;
        let least_bytes = pace_bytes_per_sec.saturating_mul(stall_ms) / 1000;
        let LockHolder::HandOff(hand_off) = &mut self.lock_holder else {
            return;
        };
        let conn = hand_off.conn();
        let progress = hand_off.progress(hub.queued_of(conn));
        let stalls = hand_off
            .stall
            .is_over(hub.now(), waits, progress, least_bytes);
        if stalls || !self.watch_joiner(hub) {
            log::info!("a joiner stalls while others wait for it; it is given up");
            // Its end gives the hand-off up.
            hub.close_conn(conn);
        }
    }

    /// A hand-off to a joiner at `source` came to nothing.
    pub(crate) fn strike_if_held(&mut self, now: Tick, source: Ipv4Addr) {
        let since = self.fenced_writes.since();
        if since.is_some_and(|since| now >= since + STRIKE_AFTER) {
            self.strike(now, source);
        }
    }

    pub(crate) fn strike(&mut self, now: Tick, source: Ipv4Addr) {
        self.stallers.strike(now, source);
        if self.stallers.is_refused(now, source) {
            log::info!("joiners at {source} stall; they are refused for a while");
        }
    }

    pub(crate) fn is_staller(&self, cx: &Cx<'_, Self>) -> bool {
        self.stallers.is_refused(cx.now(), *cx.peer_v4().ip())
    }

    /// A CONNECT of this connection may run or wait.
    pub(crate) fn may_connect(&self, cx: &Cx<'_, Self>) -> bool {
        let source = *cx.peer_v4().ip();
        let is_there = |id| cx.peer_v4_of(id).is_some_and(|peer| *peer.ip() == source);
        let runs = match &self.lock_holder {
            LockHolder::HandOff(hand_off) => is_there(hand_off.conn()),
            _ => false,
        };
        let waiting = self.parked.conns().filter(|id| is_there(*id)).count();
        !self.is_staller(cx) && waiting + usize::from(runs) < CONNECTS_PER_IP_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_stallers_is_bounded_and_forgets() {
        let mut stallers = Stallers::default();
        let now = Tick(5);
        for n in 0..2 * STALLERS_MAX as u32 {
            let at = now + Ticks(u64::from(n) / 100);
            stallers.strike(at, Ipv4Addr::from(n));
            stallers.strike(at, Ipv4Addr::from(n));
            assert!(stallers.is_refused(at, Ipv4Addr::from(n)));
        }
        assert_eq!(stallers.0.len(), STALLERS_MAX);
        let last = Ipv4Addr::from(2 * STALLERS_MAX as u32 - 1);
        assert!(!stallers.is_refused(now + REFUSED_FOR + REFUSED_FOR, last));
        stallers.strike(now + REFUSED_FOR + REFUSED_FOR, Ipv4Addr::from(1));
        assert_eq!(stallers.0.len(), 1);
    }

    #[test]
    fn a_joiner_that_takes_enough_goes_on_and_has_longer_for_a_large_range() {
        let mut stall = Stall::default();
        let at = |taken_bytes, has_all| {
            Some(Progress {
                taken_bytes,
                has_all,
            })
        };
        let mut over = |tenths: u64, waits, at| {
            let now = Tick::default() + Ticks::from_millis(100 * tenths);
            stall.is_over(now, waits, at, 1000)
        };
        // Nothing waits.
        assert!(!over(0, false, at(0, false)) && !over(600, false, at(0, false)));
        assert!(!over(602, true, at(0, false)) && !over(616, true, at(999, false)));
        assert!(!over(617, true, at(1000, false)), "just enough");
        assert!(!over(631, true, at(1500, false)) && over(632, true, at(1999, false)));
        assert!(!over(640, true, at(3 << 20, true)) && !over(684, true, at(3 << 20, true)));
        assert!(over(685, true, at(3 << 20, true)));
    }
}

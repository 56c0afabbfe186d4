//! Quotas: at most so many events of a key within a sliding window.
//!
//! An attempt is begun and ended. While it is under way it counts like an event, so that attempts made at once are not
//! more than attempts one after the other; at its end it becomes an event, or counts no longer.
//!
//! Time is the engine's ticks. Every operation is O(1) amortised: a refusal reads the events of its own key, and each
//! event is forgotten once.
//!
//! Invariants: `events` and the queues in `of_key` hold the same events, oldest first; at most [`EVENTS_MAX`], of which
//! the oldest are forgotten first.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::engine::{Tick, Ticks};

/// Events that are remembered: 65,536 of different keys take about 10 MB.
pub(super) const EVENTS_MAX: usize = 65_536;

/// The events and attempts of a key.
#[derive(Debug, Default)]
struct History {
    /// When its events happened, oldest first.
    events: VecDeque<Tick>,
    /// Attempts begun and not ended.
    under_way: usize,
}

impl History {
    fn count(&self) -> usize {
        self.events.len() + self.under_way
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Quota<K> {
    count_max: usize,
    window: Ticks,
    of_key: HashMap<K, History>,
    /// All events, oldest first.
    events: VecDeque<(Tick, K)>,
}

impl<K: Hash + Eq + Copy> Quota<K> {
    pub(super) fn new(count_max: usize, window: Ticks) -> Quota<K> {
        Quota {
            count_max,
            window,
            of_key: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// If the quota of a key is used up: the time until its oldest event is forgotten.
    pub(super) fn used_up(&mut self, now: Tick, key: K) -> Option<Ticks> {
        self.forget(now);
        let history = self.of_key.get(&key);
        if history.map_or(0, History::count) < self.count_max {
            return None;
        }
        let oldest = history.and_then(|history| history.events.front());
        // Without an event: all of it is under way, or the quota is zero.
        Some((*oldest.unwrap_or(&now) + self.window).since(now))
    }

    /// Begins an attempt; false when the quota is used up.
    pub(super) fn begin(&mut self, now: Tick, key: K) -> bool {
        let may = self.used_up(now, key).is_none();
        if may {
            self.of_key.entry(key).or_default().under_way += 1;
        }
        may
    }

    /// Ends an attempt, as an event if it `counts`.
    pub(super) fn end(&mut self, now: Tick, key: K, counts: bool) {
        self.forget(now);
        if let Entry::Occupied(mut history) = self.of_key.entry(key) {
            let under_way = &mut history.get_mut().under_way;
            *under_way = under_way.saturating_sub(1);
            if history.get().count() == 0 && !counts {
                history.remove();
            }
        }
        if !counts {
            return;
        }
        if self.events.len() == EVENTS_MAX {
            self.forget_oldest();
        }
        self.events.push_back((now, key));
        self.of_key.entry(key).or_default().events.push_back(now);
    }

    fn forget(&mut self, now: Tick) {
        while let Some((at, _)) = self.events.front()
            && now.since(*at) >= self.window
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.events.pop_front()
            && let Entry::Occupied(mut history) = self.of_key.entry(key)
        {
            history.get_mut().events.pop_front();
            if history.get().count() == 0 {
                history.remove();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of_key.is_empty() && self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick(0) + Ticks::from_secs(secs)
    }

    #[test]
    fn a_quota_is_free_again_when_its_oldest_event_is_over() {
        let mut quota = Quota::new(2, Ticks::from_secs(10));
        quota.end(at(0), 'a', true);
        quota.end(at(4), 'a', true);
        quota.end(at(4), 'b', true);
        assert_eq!(quota.used_up(at(4), 'a'), Some(Ticks::from_secs(6)));
        assert_eq!(quota.used_up(at(4), 'b'), None);
        assert_eq!(quota.used_up(at(10), 'a'), None);
        for n in 0..2 * EVENTS_MAX as u32 {
            let key = char::from_u32(n % 1000).unwrap_or('x');
            quota.end(at(10), key, true);
        }
        assert_eq!(quota.events.len(), EVENTS_MAX);
        let histories = quota.of_key.values();
        assert_eq!(histories.map(History::count).sum::<usize>(), EVENTS_MAX);
        quota.forget(at(20));
        assert!(quota.is_empty());
    }

    /// A key that counts how often it is compared.
    #[derive(Debug, Clone, Copy, Eq)]
    struct Counted(u32);

    thread_local! {
        static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    impl PartialEq for Counted {
        fn eq(&self, other: &Counted) -> bool {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0 == other.0
        }
    }

    impl std::hash::Hash for Counted {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    /// A refusal reads the events of one key, not those of all: the peer that causes it can repeat it.
    #[test]
    fn a_refusal_costs_the_same_however_many_events_are_remembered() {
        let mut quota = Quota::new(2, Ticks::from_secs(10));
        for n in 0..EVENTS_MAX as u32 - 2 {
            quota.end(at(0), Counted(n), true);
        }
        quota.end(at(1), Counted(u32::MAX), true);
        quota.end(at(1), Counted(u32::MAX), true);
        COMPARISONS.set(0);
        for _ in 0..10 {
            let left = quota.used_up(at(2), Counted(u32::MAX));
            assert_eq!(left, Some(Ticks::from_secs(9)));
        }
        assert!(COMPARISONS.get() < 100, "{}", COMPARISONS.get());
    }

    #[test]
    fn a_quota_of_nothing_allows_nothing() {
        let mut quota = Quota::new(0, Ticks::from_secs(10));
        assert_eq!(quota.used_up(at(0), 'a'), Some(Ticks::from_secs(10)));
    }

    #[test]
    fn attempts_at_once_are_no_more_than_one_after_the_other() {
        let mut quota = Quota::new(5, Ticks::from_secs(60));
        let begun = (0..100).filter(|_| quota.begin(at(0), 7)).count();
        assert_eq!(begun, 5);
        assert_eq!(quota.used_up(at(0), 7), Some(Ticks::from_secs(60)));
        quota.end(at(0), 7, false);
        assert!(quota.begin(at(0), 7));
        for _ in 0..5 {
            quota.end(at(0), 7, false);
        }
        assert!(quota.is_empty());
    }
}

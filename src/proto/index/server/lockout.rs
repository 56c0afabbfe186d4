//! The lock-out after wrong passwords: an id is locked for a while after too many of them within a window.
//!
//! Attempts are counted by a [`Quota`]; those under way count as wrong until they end.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::engine::{Tick, Ticks};

use super::quota::Quota;

/// Locks that are remembered. Beyond, the oldest end early.
const LOCKS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(super) struct Lockout<K> {
    wrong: Quota<K>,
    locked: HashMap<K, Tick>,
    /// The same locks, oldest first: all have the same length.
    order: VecDeque<(Tick, K)>,
    length: Ticks,
}

impl<K: Hash + Eq + Copy> Lockout<K> {
    pub(super) fn new(tries_max: usize, window: Ticks, length: Ticks) -> Lockout<K> {
        Lockout {
            wrong: Quota::new(tries_max, window),
            locked: HashMap::new(),
            order: VecDeque::new(),
            length,
        }
    }

    /// The time for which the key is still locked.
    pub(super) fn locked(&mut self, now: Tick, key: K) -> Option<Ticks> {
        while let Some((until, key)) = self.order.front()
            && (*until <= now || self.order.len() > LOCKS_MAX)
        {
            self.locked.remove(key);
            self.order.pop_front();
        }
        self.locked.get(&key).map(|until| until.since(now))
    }

    /// Begins an attempt; false when as many are under way as may fail.
    pub(super) fn begin(&mut self, now: Tick, key: K) -> bool {
        self.wrong.begin(now, key)
    }

    /// Ends an attempt: the password was right, wrong, or (`None`) not checked.
    pub(super) fn end(&mut self, now: Tick, key: K, right: Option<bool>) {
        let is_wrong = right == Some(false);
        self.wrong.end(now, key, is_wrong);
        if is_wrong && self.wrong.used_up(now, key).is_some() && self.locked(now, key).is_none() {
            let until = now + self.length;
            self.locked.insert(key, until);
            self.order.push_back((until, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick(0) + Ticks::from_secs(secs)
    }

    #[test]
    fn five_wrong_ones_lock_for_a_minute() {
        let mut lockout = Lockout::new(5, Ticks::from_secs(60), Ticks::from_secs(60));
        for n in 0..5 {
            assert_eq!(lockout.locked(at(n), 7), None, "{n}");
            assert!(lockout.begin(at(n), 7));
            lockout.end(at(n), 7, Some(false));
        }
        assert_eq!(lockout.locked(at(5), 7), Some(Ticks::from_secs(59)));
        assert_eq!(lockout.locked(at(5), 8), None);
        assert_eq!(lockout.locked(at(64), 7), None);
        assert!(lockout.begin(at(64), 7));
    }

    #[test]
    fn many_at_once_get_no_more_tries() {
        let mut lockout = Lockout::new(5, Ticks::from_secs(60), Ticks::from_secs(1));
        let begun = (0..100).filter(|_| lockout.begin(at(0), 7)).count();
        assert_eq!(begun, 5);
        lockout.end(at(0), 7, Some(true));
        assert!(lockout.begin(at(0), 7));
        for _ in 0..5 {
            lockout.end(at(0), 7, None);
        }
        assert!(lockout.wrong.is_empty());
    }
}

//! Against guessing and flooding: lock-outs, quotas, and a fair line for the dear work of hashing.
//!
//! All of it counts on the engine's ticks, is bounded, and forgets the oldest first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::engine::time::TICK_MS;
use crate::engine::{Tick, Ticks};

/// Ids and addresses that are remembered at once.
const KEYS_MAX: usize = 65_536;

/// At most `count_max` events of a key within `window`.
#[derive(Debug)]
pub(super) struct Quota<K> {
    count_max: usize,
    window: Ticks,
    counts: HashMap<K, usize>,
    events: VecDeque<(Tick, K)>,
}

impl<K: Hash + Eq + Copy> Quota<K> {
    pub(super) fn new(count_max: usize, window: Ticks) -> Quota<K> {
        Quota {
            count_max,
            window,
            counts: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether the quota is used up, and then for how long: until the oldest event that is still remembered is over.
    pub(super) fn used_up(&mut self, now: Tick, key: K) -> Option<Ticks> {
        self.forget(now);
        let used = self.counts.get(&key).is_some_and(|&n| n >= self.count_max);
        let oldest = || self.events.iter().find(|(_, other)| *other == key);
        used.then(oldest)?
            .map(|(at, _)| (*at + self.window).since(now))
    }

    pub(super) fn count(&mut self, now: Tick, key: K) {
        self.forget(now);
        if self.events.len() == KEYS_MAX {
            self.drop_oldest();
        }
        self.events.push_back((now, key));
        *self.counts.entry(key).or_default() += 1;
    }

    /// The last event of a key was none after all.
    pub(super) fn take_back(&mut self, key: K) {
        if let Some(at) = self.events.iter().rposition(|(_, other)| *other == key) {
            self.events.remove(at);
            self.count_less(key);
        }
    }

    fn forget(&mut self, now: Tick) {
        while let Some((at, _)) = self.events.front()
            && now.since(*at) >= self.window
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.events.pop_front() {
            self.count_less(key);
        }
    }

    fn count_less(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }
}

/// Ids that are locked for a while, after too many wrong passwords.
#[derive(Debug)]
pub(super) struct Lockout<K> {
    wrong: Quota<K>,
    /// Tries under way count as wrong until they are known not to be: many at once do not get more tries.
    under_way: HashMap<K, usize>,
    locked: HashMap<K, Tick>,
    order: VecDeque<(Tick, K)>,
    length: Ticks,
}

impl<K: Hash + Eq + Copy> Lockout<K> {
    pub(super) fn new(tries_max: usize, window: Ticks, length: Ticks) -> Lockout<K> {
        Lockout {
            wrong: Quota::new(tries_max, window),
            under_way: HashMap::new(),
            locked: HashMap::new(),
            order: VecDeque::new(),
            length,
        }
    }

    /// For how long the key is locked.
    pub(super) fn locked(&mut self, now: Tick, key: K) -> Option<Ticks> {
        while let Some((until, key)) = self.order.front()
            && (*until <= now || self.order.len() > KEYS_MAX)
        {
            self.locked.remove(key);
            self.order.pop_front();
        }
        self.locked.get(&key).map(|until| until.since(now))
    }

    /// A try begins; false when there are as many under way as may fail.
    pub(super) fn begin(&mut self, now: Tick, key: K) -> bool {
        self.wrong.forget(now);
        let wrong = self.wrong.counts.get(&key).copied().unwrap_or(0);
        let under_way = self.under_way.entry(key).or_default();
        let may = wrong + *under_way < self.wrong.count_max;
        if may {
            *under_way += 1;
        } else if *under_way == 0 {
            self.under_way.remove(&key);
        }
        may
    }

    /// It ended: with a right password, with a wrong one, or (`None`) without either.
    pub(super) fn end(&mut self, now: Tick, key: K, right: Option<bool>) {
        if let Some(under_way) = self.under_way.get_mut(&key) {
            *under_way -= 1;
            if *under_way == 0 {
                self.under_way.remove(&key);
            }
        }
        if right != Some(false) {
            return;
        }
        self.wrong.count(now, key);
        if self.wrong.used_up(now, key).is_some() && !self.locked.contains_key(&key) {
            let until = now + self.length;
            self.locked.insert(key, until);
            self.order.push_back((until, key));
        }
    }
}

/// Longest time after which a peer that had to be sent away is told to come back. Whoever would have to wait longer
/// is told a time at random, so that a flood cannot book the line for everybody.
const RETRY_SECS_MAX: u64 = 60;

/// What one hash takes until it has been measured: the cost parameters are chosen for about this.
const HASH_US: u64 = 20_000;

/// Hashes after which the measure of a busy time is taken.
const MEASURED_MIN: u64 = 16;

/// The line before the hashing threads.
#[derive(Debug)]
pub(super) struct Line {
    /// Operations that wait to be hashed for.
    waiting: VecDeque<u32>,
    waiting_max: usize,
    running: usize,
    lanes: usize,
    /// What one takes, all lanes together.
    hash_us: u64,
    busy_since: Option<Tick>,
    done: u64,
    /// When the next one who is sent away may come, in microseconds.
    next_us: u64,
}

impl Line {
    pub(super) fn new(waiting_max: usize, lanes: usize) -> Line {
        let lanes = lanes.max(1);
        Line {
            waiting: VecDeque::new(),
            waiting_max,
            running: 0,
            lanes,
            hash_us: HASH_US / lanes as u64,
            busy_since: None,
            done: 0,
            next_us: 0,
        }
    }

    /// Seconds after which to come back; `None` when there is room in the line.
    pub(super) fn full(&mut self, now: Tick, rng: &mut StdRng) -> Option<u64> {
        if self.waiting.len() < self.waiting_max {
            return None;
        }
        let now_us = now.0 * TICK_MS * 1000;
        let line_us = now_us + self.waiting.len() as u64 * self.hash_us;
        let at_us = self.next_us.max(line_us);
        let secs = (at_us - now_us).div_ceil(1_000_000).max(1);
        if secs > RETRY_SECS_MAX {
            return Some(rng.random_range(1..=RETRY_SECS_MAX));
        }
        self.next_us = at_us + self.hash_us;
        Some(secs)
    }

    pub(super) fn push(&mut self, op: u32) {
        self.waiting.push_back(op);
    }

    /// The next one, when a lane is free.
    pub(super) fn next(&mut self, now: Tick) -> Option<u32> {
        if self.running == self.lanes {
            return None;
        }
        let op = self.waiting.pop_front()?;
        self.running += 1;
        self.busy_since.get_or_insert(now);
        Some(op)
    }

    /// One is done, or was not begun after all.
    pub(super) fn done(&mut self, now: Tick) {
        self.running -= 1;
        self.done += 1;
        if let Some(since) = self.busy_since
            && self.done >= MEASURED_MIN
        {
            let us = now.since(since).0 * TICK_MS * 1000;
            self.hash_us = (us / self.done).clamp(100, 1_000_000);
            (self.busy_since, self.done) = (Some(now), 0);
        }
        if self.running == 0 && self.waiting.is_empty() {
            (self.busy_since, self.done) = (None, 0);
        }
    }
}

/// What registrations are counted by: an address of IPv4, or of IPv6 the network of 64 bits, in which one customer has
/// as many addresses as they like.
pub(super) fn counted_as(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Registrations of one address; those of this machine are not counted.
pub(super) fn is_counted(ip: IpAddr) -> bool {
    !ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SECOND: Ticks = Ticks::from_secs(1);

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_as_one() {
        let counted = |ip: &str| counted_as(ip.parse().unwrap());
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::ffff:0:2"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
    }

    fn at(secs: u64) -> Tick {
        Tick(0) + Ticks::from_secs(secs)
    }

    #[test]
    fn a_quota_is_free_again_when_its_oldest_event_is_over() {
        let mut quota = Quota::new(2, Ticks::from_secs(10));
        quota.count(at(0), 'a');
        quota.count(at(4), 'a');
        quota.count(at(4), 'b');
        assert_eq!(quota.used_up(at(4), 'a'), Some(Ticks::from_secs(6)));
        assert_eq!(quota.used_up(at(4), 'b'), None);
        assert_eq!(quota.used_up(at(10), 'a'), None);
        for n in 0..2 * KEYS_MAX as u32 {
            let key = char::from_u32(n % 1000).unwrap_or('x');
            quota.count(at(10), key);
        }
        assert_eq!(quota.events.len(), KEYS_MAX);
        assert_eq!(quota.counts.values().sum::<usize>(), KEYS_MAX);
        quota.forget(at(20));
        assert!(quota.counts.is_empty());
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

    /// Whoever is refused is refused again and again: a refusal looks at the events of one key, not at all of them.
    #[test]
    fn a_refusal_costs_the_same_however_many_events_are_remembered() {
        let mut quota = Quota::new(2, Ticks::from_secs(10));
        for n in 0..KEYS_MAX as u32 - 2 {
            quota.count(at(0), Counted(n));
        }
        quota.count(at(1), Counted(u32::MAX));
        quota.count(at(1), Counted(u32::MAX));
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
        let mut lockout = Lockout::new(5, Ticks::from_secs(60), SECOND);
        let begun = (0..100).filter(|_| lockout.begin(at(0), 7)).count();
        assert_eq!(begun, 5);
        lockout.end(at(0), 7, Some(true));
        assert!(lockout.begin(at(0), 7));
        for _ in 0..5 {
            lockout.end(at(0), 7, None);
        }
        assert!(lockout.under_way.is_empty());
    }

    #[test]
    fn who_is_sent_away_gets_a_turn_of_its_own() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut line = Line::new(100, 1);
        for op in 0..100 {
            assert_eq!(line.full(at(0), rng), None);
            line.push(op);
        }
        let told: Vec<u64> = (0..10_000).filter_map(|_| line.full(at(0), rng)).collect();
        assert_eq!((told.len(), told[0]), (10_000, 2));
        let booked = told
            .iter()
            .take_while(|&&secs| secs < RETRY_SECS_MAX)
            .count();
        assert!((2500..3000).contains(&booked), "{booked}");
        for second in 3..RETRY_SECS_MAX - 1 {
            let here = told[..booked]
                .iter()
                .filter(|&&secs| secs == second)
                .count();
            assert_eq!(here, 50, "in second {second}");
        }
        assert_eq!(line.next(at(0)), Some(0));
        assert_eq!(line.next(at(0)), None, "one lane");
        line.done(at(0));
        assert_eq!(line.next(at(0)), Some(1));
    }

    #[test]
    fn the_pace_is_measured() {
        let mut line = Line::new(100, 2);
        for op in 0..64 {
            line.push(op);
        }
        let mut now = Tick(0);
        for _ in 0..32 {
            assert!(line.next(now).is_some() && line.next(now).is_some());
            now = now + Ticks::from_millis(100);
            line.done(now);
            line.done(now);
        }
        assert_eq!(line.hash_us, 50_000);
    }
}

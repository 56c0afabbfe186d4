//! The queue before the threads that hash passwords.
//!
//! A peer that finds it full is told when to come back. The times are given out one hash apart, so that refused
//! peers do not come back together. The pace is measured, all threads together.

use std::collections::VecDeque;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::engine::Tick;
use crate::engine::time::TICK_MS;

/// Longest time after which a refused peer is told to come back. A peer that would have to wait longer gets a random
/// time up to this, so that a flood cannot book the queue for everybody.
const RETRY_SECS_MAX: u64 = 60;

/// Time of one hash until it is measured: about what the cost parameters are chosen for.
const HASH_US: u64 = 20_000;

/// Hashes after which the pace of a busy period is measured.
const MEASURED_MIN: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct HashQueue {
    /// Operations that wait for a hash.
    waiting: VecDeque<u32>,
    waiting_max: usize,
    running: usize,
    threads: usize,
    /// Time between two results, all threads together.
    hash_us: u64,
    busy_since: Option<Tick>,
    done: u64,
    /// The time given to the next peer that is refused, in microseconds.
    next_us: u64,
}

impl HashQueue {
    pub(super) fn new(waiting_max: usize, threads: usize) -> HashQueue {
        let threads = threads.max(1);
        HashQueue {
            waiting: VecDeque::new(),
            waiting_max,
            running: 0,
            threads,
            hash_us: HASH_US / threads as u64,
            busy_since: None,
            done: 0,
            next_us: 0,
        }
    }

    /// If the queue is full: the seconds after which to come back.
    pub(super) fn full(&mut self, now: Tick, rng: &mut StdRng) -> Option<u64> {
        if self.waiting.len() < self.waiting_max {
            return None;
        }
        let now_us = now.0.saturating_mul(TICK_MS * 1000);
        let queue_us = now_us.saturating_add(self.waiting.len() as u64 * self.hash_us);
        let at_us = self.next_us.max(queue_us);
        let secs = (at_us - now_us).div_ceil(1_000_000).max(1);
        if secs > RETRY_SECS_MAX {
            return Some(rng.random_range(1..=RETRY_SECS_MAX));
        }
        self.next_us = at_us.saturating_add(self.hash_us);
        Some(secs)
    }

    pub(super) fn push(&mut self, op: u32) {
        self.waiting.push_back(op);
    }

    /// The next operation, if a thread is free.
    pub(super) fn next(&mut self, now: Tick) -> Option<u32> {
        if self.running == self.threads {
            return None;
        }
        let op = self.waiting.pop_front()?;
        self.running += 1;
        self.busy_since.get_or_insert(now);
        Some(op)
    }

    /// An operation of [`HashQueue::next`] is hashed.
    pub(super) fn done(&mut self, now: Tick) {
        self.done += 1;
        if let Some(since) = self.busy_since
            && self.done >= MEASURED_MIN
        {
            let us = now.since(since).0.saturating_mul(TICK_MS * 1000);
            self.hash_us = (us / self.done).clamp(100, 1_000_000);
            (self.busy_since, self.done) = (Some(now), 0);
        }
        self.not_begun();
    }

    /// An operation of [`HashQueue::next`] is not to be hashed any more. It says nothing of the pace.
    pub(super) fn not_begun(&mut self) {
        self.running -= 1;
        if self.running == 0 && self.waiting.is_empty() {
            (self.busy_since, self.done) = (None, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::engine::Ticks;

    fn at(secs: u64) -> Tick {
        Tick(0) + Ticks::from_secs(secs)
    }

    #[test]
    fn refused_peers_get_times_of_their_own() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut queue = HashQueue::new(100, 1);
        for op in 0..100 {
            assert_eq!(queue.full(at(0), rng), None);
            queue.push(op);
        }
        let told: Vec<u64> = (0..10_000).filter_map(|_| queue.full(at(0), rng)).collect();
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
        assert_eq!(queue.next(at(0)), Some(0));
        assert_eq!(queue.next(at(0)), None, "one thread");
        queue.done(at(0));
        assert_eq!(queue.next(at(0)), Some(1));
    }

    #[test]
    fn the_pace_is_measured() {
        let mut queue = HashQueue::new(100, 2);
        for op in 0..96 {
            queue.push(op);
        }
        let mut now = Tick(0);
        for _ in 0..32 {
            // One whose connection is gone takes no time, and counts for nothing.
            assert!(queue.next(now).is_some());
            queue.not_begun();
            assert!(queue.next(now).is_some() && queue.next(now).is_some());
            now = now + Ticks::from_millis(100);
            queue.done(now);
            queue.done(now);
        }
        assert_eq!(queue.hash_us, 50_000);
    }
}

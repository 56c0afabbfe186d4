//! When each member is pinged: once an interval, and the pings spread over it.
//!
//! A queue in the order of the last pings. Its head is pinged as fast as the number of members asks for, so `n` members
//! make `n` pings an interval at an even pace, however many registered at once; and at the latest an interval after its
//! last ping, so that no member is forgotten while the ring grows or shrinks. Members that are gone are passed over.
//!
//! Invariants: the queue is in the order of `due`; a member stands in it once; it has at most
//! `2 * members + GONE_MIN` places.

use std::collections::VecDeque;

use crate::engine::{Tick, Ticks};

/// Pings sent at once, however many are due: what a tracker that restarts sends in a tick, 6,400 a second.
pub(super) const PINGS_AT_ONCE_MAX: u32 = 64;

/// Places of members that are gone which the queue may have whatever the number of members.
const GONE_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct PingSchedule {
    interval: Ticks,
    queue: VecDeque<Place>,
    /// Saved up, in ticks times members: a ping costs an interval of them.
    credit: u64,
    /// Until when credit was given.
    since: Tick,
}

/// A member's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: u32,
    /// Tells the member from a later one in its slot.
    pub(super) number: u64,
    due: Tick,
}

impl PingSchedule {
    pub(super) fn new(interval: Ticks) -> PingSchedule {
        PingSchedule {
            interval: Ticks(interval.0.max(1)),
            queue: VecDeque::new(),
            credit: 0,
            since: Tick(0),
        }
    }

    /// The member was heard of now, and is next an interval later.
    pub(super) fn push(&mut self, now: Tick, slot: u32, number: u64) {
        let due = now + self.interval;
        self.queue.push_back(Place { slot, number, due });
    }

    /// The member was never heard of, and is pinged at once. Called while the queue is empty or has only such members.
    pub(super) fn push_due(&mut self, now: Tick, slot: u32, number: u64) {
        let due = now;
        self.queue.push_back(Place { slot, number, due });
    }

    /// Gives credit for the time since the last call, in which there were `members`. Before their number changes.
    pub(super) fn earn(&mut self, now: Tick, members: usize) {
        let earned = now.since(self.since).0.saturating_mul(members as u64);
        // What was slept through is not caught up with in a burst.
        let credit_max = self.interval.0.max(members as u64);
        let credit = self.credit.saturating_add(earned);
        self.credit = credit.min(credit_max.saturating_mul(2));
        self.since = now;
    }

    /// Forgets the places of members that are gone, when they are many: amortised O(1) a removal. After it there are `members`.
    pub(super) fn forget(&mut self, members: usize, is_there: impl Fn(&Place) -> bool) {
        if self.queue.len() > 2 * members + GONE_MIN {
            self.queue.retain(is_there);
        }
    }

    /// The member to ping now. `is_there` says which places are still of a member.
    pub(super) fn next(&mut self, now: Tick, is_there: impl Fn(&Place) -> bool) -> Option<Place> {
        loop {
            let place = *self.queue.front()?;
            if !is_there(&place) {
                self.queue.pop_front();
            } else if place.due <= now || self.credit >= self.interval.0 {
                self.credit = self.credit.saturating_sub(self.interval.0);
                return self.queue.pop_front();
            } else {
                return None;
            }
        }
    }

    /// When the next ping is due, with so many members; `None` while there are none.
    pub(super) fn next_at(&self, now: Tick, members: usize) -> Option<Tick> {
        let due = self.queue.front()?.due;
        let missing = self.interval.0.saturating_sub(self.credit);
        let paid = now + Ticks(missing.div_ceil(members.max(1) as u64));
        Some(due.min(paid).max(now + Ticks(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the schedule of `joined` members, who registered in these ticks, and returns in which ticks each was pinged.
    fn run(interval: u64, joined: &[u64], until: u64) -> Vec<Vec<u64>> {
        let mut schedule = PingSchedule::new(Ticks(interval));
        let mut pinged = vec![Vec::new(); joined.len()];
        let (mut members, mut wake) = (0, None);
        for tick in 0..until {
            let now = Tick(tick);
            for (slot, _) in joined.iter().enumerate().filter(|(_, at)| **at == tick) {
                schedule.earn(now, members);
                members += 1;
                schedule.push(now, slot as u32, slot as u64);
                wake = schedule.next_at(now, members);
            }
            if wake.is_some_and(|at| at <= now) {
                schedule.earn(now, members);
                for _ in 0..PINGS_AT_ONCE_MAX {
                    let Some(place) = schedule.next(now, |_| true) else {
                        break;
                    };
                    pinged[place.slot as usize].push(tick);
                    schedule.push(now, place.slot, place.number);
                }
                wake = schedule.next_at(now, members);
            }
        }
        pinged
    }

    #[test]
    fn a_member_is_pinged_once_an_interval() {
        assert_eq!(run(2000, &[5], 9000), [[2005, 4005, 6005, 8005]]);
    }

    #[test]
    fn ten_thousand_at_once_are_spread_over_the_interval() {
        let pinged = run(2000, &vec![3; 10_000], 12_000);
        let mut per_second = [0_u32; 120];
        for ticks in &pinged {
            // Never more than an interval, and a tick for the rounding, without one.
            let since = std::iter::once(&3).chain(ticks);
            let gap = since.zip(ticks).map(|(a, b)| b - a).max();
            assert!(gap.is_some_and(|gap| gap <= 2001), "{ticks:?}");
            assert!((5..=6).contains(&ticks.len()), "{ticks:?}");
            ticks
                .iter()
                .for_each(|t| per_second[*t as usize / 100] += 1);
        }
        let mean = 10_000 / 20;
        assert!(per_second.iter().all(|n| *n <= mean + 10), "{per_second:?}");
    }

    #[test]
    fn the_longest_interval_does_not_wrap() {
        let mut schedule = PingSchedule::new(Ticks::NEVER);
        schedule.push(Tick(5), 0, 0);
        schedule.earn(Tick(100), 1);
        assert_eq!(
            schedule.next(Tick(100), |_| true).map(|place| place.slot),
            None
        );
        assert!(schedule.next_at(Tick(100), 1) > Some(Tick(1 << 60)));
    }

    /// A crowd that comes just before a member's place does not push it back.
    #[test]
    fn nobody_waits_longer_because_others_come() {
        for crowd_at in [1, 500, 1990, 2100, 3999] {
            let joined = [&[0_u64; 10][..], &vec![crowd_at; 3000]].concat();
            for ticks in &run(2000, &joined, 10_000)[..10] {
                let since = std::iter::once(&0).chain(ticks);
                let gap = since.zip(ticks).map(|(a, b)| b - a).max();
                assert!(gap.is_some_and(|gap| gap <= 2001), "{crowd_at}: {ticks:?}");
            }
        }
    }

    /// Members that register and are removed within one interval, behind one that stays.
    #[test]
    fn members_that_are_gone_do_not_fill_the_queue() {
        let mut schedule = PingSchedule::new(Ticks::from_secs(86_400));
        schedule.push(Tick(0), 0, 0);
        for number in 1..10_000 {
            schedule.push(Tick(number), 1, number);
            schedule.forget(1, |place| place.number == 0);
            assert!(schedule.queue.len() <= 2 + GONE_MIN, "{number}");
        }
        assert_eq!(
            schedule.queue.len() as u64,
            1 + 9_999 % (GONE_MIN as u64 + 2)
        );
    }

    #[test]
    fn who_is_gone_costs_nothing_and_who_is_due_is_first() {
        let mut schedule = PingSchedule::new(Ticks(100));
        schedule.push_due(Tick(0), 3, 3);
        schedule.push(Tick(0), 1, 1);
        schedule.push(Tick(0), 2, 2);
        let slot = |place: Option<Place>| place.map(|place| place.slot);
        assert_eq!(schedule.next_at(Tick(0), 3), Some(Tick(1)));
        assert_eq!(slot(schedule.next(Tick(1), |_| true)), Some(3));
        assert_eq!(slot(schedule.next(Tick(1), |_| true)), None);
        assert_eq!(
            slot(schedule.next(Tick(100), |place| place.slot != 1)),
            Some(2)
        );
        assert_eq!(schedule.next_at(Tick(100), 0), None);
    }
}

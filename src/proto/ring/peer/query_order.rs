//! The order in which a peer queries its neighbour for the missing items, and the pauses between queries.
//!
//! The lowest missing item comes first; there is no pause while queries hit. After a miss of the lowest, some of the others
//! are queried, so that an item which no peer has does not keep the rest from spreading. The lowest is queried again
//! after a pause: 100 ms at first, doubling to 2 s, and 100 ms again after every item that comes and every new neighbour. The
//! longer nothing comes, the fewer of the others are tried: a ring that cannot complete is quiet.
//!
//! Pure: no network, and time is an argument.

use crate::engine::{Tick, Ticks};

use super::items::Items;

/// The pause between two queries for the same item.
const BACKOFF_MIN: Ticks = Ticks::from_millis(100);
const BACKOFF_MAX: Ticks = Ticks::from_secs(2);

/// Doublings until [`BACKOFF_MAX`].
const STEPS_MAX: u8 = 5;

/// Misses among the other items before the lowest is queried again, during the first pause; halved with each longer one.
/// 64 cost a neighbour about a millisecond.
const MISSES_MAX: u32 = 64;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Query(u32),
    Wait(Tick),
    /// Nothing is missing, or nothing is known to be.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct QueryOrder {
    scan: Scan,
    /// Pauses in a row in which nothing came.
    step: u8,
    /// When the lowest item was last queried.
    asked_at: Tick,
    /// The lowest is not queried again before this.
    not_before: Tick,
    /// Where to go on among the others.
    cursor: u32,
}

#[derive(Debug, Clone, Copy, Default)]
enum Scan {
    #[default]
    Lowest,
    Others {
        from: u32,
        misses_left: u32,
    },
}

impl QueryOrder {
    pub(super) fn next(&mut self, now: Tick, items: &Items) -> Next {
        let Some(lowest) = items.missing_from(0) else {
            return Next::Nothing;
        };
        if let Scan::Others { from, misses_left } = self.scan {
            let missing = items.missing_from(from.max(lowest + 1));
            match missing.filter(|_| misses_left > 0) {
                Some(seq) => return Next::Query(seq),
                None => self.scan = Scan::Lowest,
            }
            self.cursor = missing.unwrap_or(0);
        }
        if now < self.not_before {
            return Next::Wait(self.not_before);
        }
        self.asked_at = now;
        Next::Query(lowest)
    }

    /// The neighbour had it.
    pub(super) fn hit(&mut self, seq: u32) {
        self.step = 0;
        match &mut self.scan {
            Scan::Lowest => self.not_before = Tick(0),
            Scan::Others { from, misses_left } => {
                *from = seq.saturating_add(1);
                *misses_left = MISSES_MAX;
                self.not_before = self.asked_at + BACKOFF_MIN;
            }
        }
    }

    /// The neighbour did not have it.
    pub(super) fn missed(&mut self, seq: u32) {
        match &mut self.scan {
            Scan::Lowest => {
                self.scan = Scan::Others {
                    from: self.cursor,
                    misses_left: MISSES_MAX >> self.step,
                };
                self.not_before = self.asked_at + self.pause();
            }
            Scan::Others { from, misses_left } => {
                *from = seq.saturating_add(1);
                *misses_left = misses_left.saturating_sub(1);
            }
        }
    }

    /// The neighbour did not answer.
    pub(super) fn failed(&mut self, now: Tick) {
        self.scan = Scan::Lowest;
        self.not_before = now + self.pause();
    }

    fn pause(&mut self) -> Ticks {
        let pause = Ticks(BACKOFF_MIN.0 << self.step).min(BACKOFF_MAX);
        self.step = (self.step + 1).min(STEPS_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ring::wire::Item;

    fn items(total: u32, have: &[u32]) -> Items {
        let mut items = Items::default();
        items.begin(total, None);
        for &seq in have {
            let data = "x".into();
            items.insert(&Item { seq, data });
        }
        items
    }

    #[test]
    fn the_lowest_comes_first_and_hits_have_no_pause() {
        let (mut search, mut items) = (QueryOrder::default(), items(5, &[2]));
        for seq in [0, 1, 3, 4] {
            assert_eq!(search.next(Tick(7), &items), Next::Query(seq));
            let data = "x".into();
            items.insert(&Item { seq, data });
            search.hit(seq);
        }
        assert_eq!(search.next(Tick(7), &items), Next::Nothing);
    }

    #[test]
    fn a_miss_is_asked_again_after_100_ms_doubling_to_2_s() {
        let (mut search, items) = (QueryOrder::default(), items(1, &[]));
        let (mut now, mut pauses) = (Tick(0), Vec::new());
        for _ in 0..8 {
            assert_eq!(search.next(now, &items), Next::Query(0));
            search.missed(0);
            let Next::Wait(at) = search.next(now, &items) else {
                panic!("no pause");
            };
            pauses.push((at - now).0);
            now = at;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 200, 200, 200]);
        assert_eq!(search.next(now, &items), Next::Query(0));
        search.failed(now);
        assert_eq!(search.next(now, &items), Next::Wait(now + Ticks(200)));
        search.hit(0);
        assert_eq!(search.next(now, &items), Next::Query(0));
        search.missed(0);
        assert_eq!(search.next(now, &items), Next::Wait(now + Ticks(10)));
    }

    #[test]
    fn the_others_are_looked_at_in_turn() {
        let (mut search, mut items) = (QueryOrder::default(), items(200, &[]));
        let mut asked = Vec::new();
        let mut now = Tick(0);
        for _ in 0..4 {
            loop {
                match search.next(now, &items) {
                    Next::Query(seq) => {
                        asked.push(seq);
                        search.missed(seq);
                    }
                    Next::Wait(at) => break now = at,
                    Next::Nothing => panic!("much is missing"),
                }
            }
        }
        let want: Vec<u32> = [0..65, 65..97, 97..113, 113..121]
            .into_iter()
            .flat_map(|rest| std::iter::once(0).chain(rest.filter(|n| *n > 0)))
            .collect();
        assert_eq!(asked, want);
        // An item that comes while looking around wakes the search up.
        assert_eq!(search.next(now, &items), Next::Query(0));
        search.missed(0);
        assert_eq!(search.next(now, &items), Next::Query(121));
        let data = "x".into();
        items.insert(&Item { seq: 121, data });
        search.hit(121);
        assert_eq!(search.next(now, &items), Next::Query(122));
    }
}

//! Every level and boundary by hand, then random operations against a sorted map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const SPAN: u64 = 1 << 24;
const DAYS_30: u64 = 30 * 24 * 3600 * 100;
const STARTS: [u64; 7] = [
    0,
    1,
    63,
    64 * 64 - 1,
    SPAN - 1,
    u32::MAX as u64,
    (1 << 40) + 12_345,
];
const DELTAS: [u64; 22] = [
    1,
    2,
    62,
    63,
    64,
    65,
    127,
    128,
    4095,
    4096,
    4097,
    262_143,
    262_144,
    262_145,
    SPAN - 262_144,
    SPAN - 1,
    SPAN,
    SPAN + 1,
    SPAN + 262_144,
    2 * SPAN + 7,
    DAYS_30,
    1 << 45,
];

fn pop_all(wheel: &mut Wheel<u32>) -> Vec<u32> {
    std::iter::from_fn(|| wheel.pop_due())
        .map(|(_, value)| value)
        .collect()
}

/// A wheel at `start` with one timer for each delta, its value the index in `deltas`.
fn armed(start: u64, deltas: &[u64]) -> (Wheel<u32>, Vec<TimerId>) {
    let mut wheel = Wheel::new(Tick(start));
    let ids = deltas
        .iter()
        .zip(0..)
        .map(|(delta, i)| wheel.arm(Tick(start + delta), i))
        .collect();
    wheel.validate();
    (wheel, ids)
}

#[test]
fn fires_at_its_deadline_and_not_a_tick_before() {
    for start in STARTS {
        for delta in DELTAS {
            let (mut wheel, ids) = armed(start, &[delta]);
            let at = Tick(start + delta);
            assert_eq!(
                (wheel.deadline(ids[0]), wheel.next_deadline()),
                (Some(at), Some(at))
            );
            wheel.advance(Tick(at.0 - 1));
            wheel.validate();
            assert_eq!(
                (wheel.pop_due(), wheel.next_deadline()),
                (None, Some(at)),
                "{start} + {delta}"
            );
            wheel.advance(at);
            wheel.validate();
            assert_eq!(
                wheel.next_deadline(),
                Some(at),
                "due and not popped: no sleep"
            );
            assert_eq!(wheel.pop_due(), Some((ids[0], 0)), "{start} + {delta}");
            assert!(wheel.is_empty() && wheel.next_deadline().is_none());
        }
    }
}

#[test]
fn the_next_deadline_is_exact_and_each_wake_up_fires() {
    for start in STARTS {
        let (mut wheel, _) = armed(start, &DELTAS);
        for (i, delta) in DELTAS.iter().enumerate() {
            assert_eq!(wheel.next_deadline(), Some(Tick(start + delta)));
            wheel.advance(Tick(start + delta));
            wheel.validate();
            assert_eq!(pop_all(&mut wheel), [i as u32]);
        }
    }
}

#[test]
fn one_jump_over_everything_keeps_the_order_of_deadlines() {
    for start in STARTS {
        let backwards: Vec<u64> = DELTAS.iter().rev().copied().collect();
        let (mut wheel, _) = armed(start, &backwards);
        wheel.advance(Tick(start + (1 << 46)));
        wheel.validate();
        assert_eq!(
            pop_all(&mut wheel),
            (0..DELTAS.len() as u32).rev().collect::<Vec<_>>()
        );
    }
}

#[test]
fn small_steps_across_every_level_boundary() {
    for boundary in [128, 4096, 262_144, SPAN] {
        let start = boundary - 70;
        let deltas: Vec<u64> = (1..140).collect();
        let (mut wheel, _) = armed(start, &deltas);
        for delta in deltas {
            wheel.advance(Tick(start + delta));
            wheel.validate();
            assert_eq!(pop_all(&mut wheel), [delta as u32 - 1]);
        }
    }
}

#[test]
fn equal_deadlines_fire_in_the_order_of_arming() {
    let mut wheel = Wheel::new(Tick(0));
    let at = Tick(300_000);
    for (now, value) in [
        (0, 0),
        (0, 1),
        (200_000, 2),
        (299_000, 3),
        (299_970, 4),
        (299_999, 5),
    ] {
        wheel.advance(Tick(now));
        wheel.arm(at, value);
    }
    wheel.advance(Tick(400_000));
    assert_eq!(pop_all(&mut wheel), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_zero_delay_waits_for_the_next_tick() {
    let mut wheel = Wheel::new(Tick(100));
    wheel.arm(Tick(0), 0);
    assert_eq!(wheel.next_deadline(), Some(Tick(101)));
    for now in 101..300 {
        wheel.advance(Tick(now));
        assert_eq!(wheel.pop_due().map(|(_, value)| value), Some(0));
        let id = wheel.arm(Tick(now), 0);
        assert_eq!(wheel.deadline(id), Some(Tick(now + 1)));
        assert_eq!(wheel.pop_due(), None, "fired again in the same round");
        wheel.advance(Tick(now));
        assert_eq!(wheel.pop_due(), None, "fired again at the same tick");
    }
}

#[test]
fn time_does_not_run_backwards() {
    let (mut wheel, _) = armed(5000, &[10]);
    wheel.advance(Tick(0));
    wheel.validate();
    assert_eq!(wheel.next_deadline(), Some(Tick(5010)));
    assert_eq!(wheel.pop_due(), None);
}

#[test]
fn the_last_tick_is_never_reached() {
    let mut wheel = Wheel::new(Tick(u64::MAX));
    let never = wheel.arm(Tick(u64::MAX), 1);
    wheel.advance(Tick(u64::MAX));
    wheel.validate();
    assert_eq!(wheel.pop_due(), None);
    assert_eq!(wheel.cancel(never), Some(1));

    let mut wheel = Wheel::new(Tick(0));
    wheel.arm(Tick(u64::MAX), 1);
    wheel.arm(Tick(u64::MAX - 1), 2);
    wheel.advance(Tick(u64::MAX));
    wheel.validate();
    assert_eq!(pop_all(&mut wheel), [2]);
}

#[test]
fn cancel_in_every_position_of_a_list() {
    // A slot of each level, one with parked timers, and the due list (`now` past the deadline).
    for (delta, now) in [
        (5, 0),
        (100, 0),
        (5000, 0),
        (300_000, 0),
        (DAYS_30, 0),
        (5, 6),
        (5000, 6000),
    ] {
        for position in 0..5 {
            let (mut wheel, ids) = armed(0, &[delta; 5]);
            wheel.advance(Tick(now));
            assert_eq!(wheel.cancel(ids[position]), Some(position as u32));
            wheel.validate();
            assert_eq!((wheel.len(), wheel.cancel(ids[position])), (4, None));
            wheel.advance(Tick(delta));
            let others: Vec<u32> = (0..5).filter(|&i| i != position as u32).collect();
            assert_eq!(pop_all(&mut wheel), others);
            wheel.validate();
        }
    }
}

#[test]
fn stale_ids_do_nothing() {
    let (mut wheel, ids) = armed(0, &[10, 20]);
    assert_eq!(wheel.cancel(ids[0]), Some(0));
    let reused = wheel.arm(Tick(30), 7);
    assert_eq!(reused.index, ids[0].index, "the entry is reused");
    assert_ne!(reused, ids[0]);
    wheel.advance(Tick(20));
    assert_eq!(wheel.pop_due(), Some((ids[1], 1)));
    for stale in ids {
        assert_eq!((wheel.cancel(stale), wheel.deadline(stale)), (None, None));
    }
    wheel.validate();
    assert_eq!(wheel.cancel(reused), Some(7));
    assert_eq!(
        Wheel::<u32>::new(Tick(0)).cancel(reused),
        None,
        "an id beyond the table"
    );
}

#[test]
fn a_wrapped_generation_cannot_free_an_entry_twice() {
    let (mut wheel, ids) = armed(0, &[10]);
    wheel.cancel(ids[0]);
    let generation = wheel.entries.at(0).generation;
    assert_eq!(
        wheel.cancel(TimerId {
            index: 0,
            generation
        }),
        None
    );
    wheel.validate();
    wheel.entries.at_mut(0).generation = u32::MAX;
    let last = wheel.arm(Tick(5), 1);
    assert_eq!(wheel.cancel(last), Some(1));
    assert_eq!(wheel.arm(Tick(5), 2).generation, 0);
}

#[test]
fn churn_reuses_entries() {
    let (mut wheel, mut ids) = armed(0, &[3000; 100]);
    let memory = wheel.memory_bytes();
    for now in 0..10_000 {
        wheel.advance(Tick(now));
        let i = now as usize * 7 % 100;
        assert!(wheel.cancel(ids[i]).is_some());
        ids[i] = wheel.arm(Tick(now + 3000), 0);
    }
    wheel.validate();
    assert_eq!((wheel.len(), wheel.memory_bytes()), (100, memory));
}

#[test]
fn a_cancelled_timer_costs_at_most_one_wake_up() {
    for start in [128, 64 * 70, 300_032, DAYS_30 & !63] {
        // Two in one slot of an upper level: its bound stays at the one cancelled.
        let (mut wheel, ids) = armed(0, &[start + 5, start + 25]);
        wheel.cancel(ids[0]);
        assert_eq!(wheel.next_deadline(), Some(Tick(start + 5)));
        wheel.advance(Tick(start + 5));
        wheel.validate();
        assert_eq!(wheel.pop_due(), None);
        assert_eq!(
            wheel.next_deadline(),
            Some(Tick(start + 25)),
            "corrected by the wake-up"
        );
    }
}

#[test]
fn sleeping_from_deadline_to_deadline_wakes_once_a_stale_slot() {
    let mut wheel = Wheel::new(Tick(77));
    let mut deadlines = BTreeSet::new();
    for i in 0..3000u64 {
        // Spread over every level and the parked: a multiplicative hash cut to 1..=34 bits.
        let at = 78 + (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (30 + i % 34));
        let id = wheel.arm(Tick(at), 0u32);
        if i % 2 == 0 {
            wheel.cancel(id);
        } else {
            deadlines.insert(at);
        }
    }
    let (mut needless, mut fired) = (0, BTreeSet::new());
    while let Some(at) = wheel.next_deadline() {
        wheel.advance(at);
        wheel.validate();
        if pop_all(&mut wheel).is_empty() {
            needless += 1;
        } else {
            fired.insert(at.0);
        }
    }
    assert_eq!(fired, deadlines, "each fires at its tick");
    assert!(needless <= SLOTS, "{needless} needless wake-ups");
}

#[derive(Clone, Debug)]
enum Op {
    Arm(u64),
    Cancel(usize),
    CancelStale(usize),
    Advance(u64),
    Sleep,
    Pop(usize),
}

/// Lengths of time that meet every level, its boundaries, and what lies beyond the wheel.
fn delta() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..70u64,
        3 => 0..5000u64,
        2 => 0..300_000u64,
        2 => 0..3 * SPAN,
        1 => (0..5u32, 0..3u64).prop_map(|(level, off)| (1 << (6 * level)) - 1 + off),
        1 => 0..DAYS_30,
        1 => 0..1u64 << 40,
    ]
}

fn op(cancels: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => delta().prop_map(Op::Arm),
        cancels => any::<usize>().prop_map(Op::Cancel),
        1 => any::<usize>().prop_map(Op::CancelStale),
        4 => delta().prop_map(Op::Advance),
        4 => Just(Op::Sleep),
        4 => (0..8usize).prop_map(Op::Pop),
    ]
}

/// What the wheel does, done slowly.
struct Model {
    wheel: Wheel<u32>,
    now: u64,
    next_value: u32,
    /// Armed timers, the due ones included, by deadline and then in order of arming.
    timers: BTreeMap<(u64, u32), TimerId>,
    /// Timers armed so far ahead that they were parked: these may lose their place among equals.
    far: BTreeSet<u32>,
    stale: Vec<TimerId>,
    cancelled: bool,
}

impl Model {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Arm(delta) => self.arm(delta),
            Op::Cancel(i) if !self.timers.is_empty() => {
                let (&key, &id) = self.timers.iter().nth(i % self.timers.len()).unwrap();
                assert_eq!(self.wheel.deadline(id), Some(Tick(key.0)));
                assert_eq!(self.wheel.cancel(id), Some(key.1));
                self.timers.remove(&key);
                self.stale.push(id);
                self.cancelled = true;
            }
            Op::CancelStale(i) if !self.stale.is_empty() => {
                let id = self.stale[i % self.stale.len()];
                assert_eq!(
                    (self.wheel.cancel(id), self.wheel.deadline(id)),
                    (None, None)
                );
            }
            Op::Advance(delta) => self.advance(self.now + delta),
            Op::Sleep => {
                if let Some(at) = self.wheel.next_deadline() {
                    self.advance(at.0);
                }
            }
            Op::Pop(count) => self.pop(count),
            Op::Cancel(_) | Op::CancelStale(_) => {}
        }
        self.check();
    }

    fn arm(&mut self, delta: u64) {
        let value = self.next_value;
        self.next_value += 1;
        let id = self.wheel.arm(Tick(self.now + delta), value);
        self.timers.insert((self.now + delta.max(1), value), id);
        if delta >= SPAN - 262_144 {
            self.far.insert(value);
        }
    }

    fn advance(&mut self, now: u64) {
        self.wheel.advance(Tick(now));
        self.now = now;
    }

    fn pop(&mut self, count: usize) {
        let mut last = None;
        for _ in 0..count {
            let earliest = self.timers.keys().next().copied();
            let Some((id, value)) = self.wheel.pop_due() else {
                assert!(
                    earliest.is_none_or(|(deadline, _)| deadline > self.now),
                    "fires too late"
                );
                return;
            };
            // The earliest deadline that is left, so at most `now`, and in the order of deadlines.
            let deadline = earliest.unwrap().0;
            assert!(deadline <= self.now, "fires too early");
            assert_eq!(self.timers.remove(&(deadline, value)), Some(id));
            if !self.far.contains(&value) {
                assert!(last < Some((deadline, value)), "out of the order of arming");
                last = Some((deadline, value));
            }
            self.stale.push(id);
        }
    }

    fn check(&self) {
        self.wheel.validate();
        assert_eq!(self.wheel.len(), self.timers.len());
        let earliest = self
            .timers
            .keys()
            .next()
            .map(|&(deadline, _)| deadline.max(self.now));
        let next = self.wheel.next_deadline().map(|at| at.0);
        assert_eq!(next.is_some(), earliest.is_some());
        assert!(next <= earliest, "sleeps too long");
        assert!(next == earliest || self.cancelled, "wakes needlessly");
        assert!(next > Some(self.now) || earliest <= Some(self.now), "spins");
    }
}

fn run(start: u64, ops: Vec<Op>) {
    let mut model = Model {
        wheel: Wheel::new(Tick(start)),
        now: start,
        next_value: 0,
        timers: BTreeMap::new(),
        far: BTreeSet::new(),
        stale: Vec::new(),
        cancelled: false,
    };
    for op in ops {
        model.apply(op);
    }
    // Whatever is left fires in the end, and nothing stays behind.
    model.apply(Op::Advance(1 << 41));
    model.apply(Op::Pop(usize::MAX));
    assert!(model.wheel.is_empty());
}

proptest! {
    #[test]
    fn behaves_like_a_sorted_map(
        start in prop::sample::select(STARTS.to_vec()),
        ops in prop::collection::vec(op(8), 1..150),
    ) {
        run(start, ops);
    }

    #[test]
    fn without_cancelling_each_wake_up_is_needed(
        start in prop::sample::select(STARTS.to_vec()),
        ops in prop::collection::vec(op(0), 1..150),
    ) {
        run(start, ops);
    }
}

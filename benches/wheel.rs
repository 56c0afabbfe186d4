//! The timer wheel with a million timers armed.
//!
//! Two mixes: `idle` is a node with a million connections and a 30 s idle timeout each, armed as
//! time went by; `spread` is deadlines from 10 ms to 30 days, as many in each power of two, so that
//! every level and the parked ones have their share. Timers that are cancelled or replaced are
//! chosen at random over the whole table, so nearly every one touched is out of cache, and arming
//! gets entries in random order too.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use peerloop::engine::time::{Tick, Ticks};
use peerloop::engine::wheel::{TimerId, Wheel};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const TIMERS: usize = 1_000_000;
/// Timers cancelled and armed again between two readings of the clock.
const BATCH: usize = 100_000;
const IDLE: Ticks = Ticks::from_secs(30);
/// 30 days are 2^28 ticks and a bit.
const SPREAD_BITS_MAX: u32 = 28;

type Value = [u32; 2];

#[derive(Clone, Copy)]
enum Mix {
    Idle,
    Spread,
}

impl Mix {
    const ALL: [(Mix, &str); 2] = [(Mix::Idle, "idle"), (Mix::Spread, "spread")];

    fn deadline(self, now: Tick, rng: &mut StdRng) -> Tick {
        match self {
            Mix::Idle => now + IDLE,
            Mix::Spread => {
                let bits = rng.random_range(0..=SPREAD_BITS_MAX);
                now + Ticks(rng.random_range(1 << bits..2 << bits))
            }
        }
    }

    /// A wheel with a million timers, the tick it is at, and the timers' ids.
    fn wheel(self, rng: &mut StdRng) -> (Wheel<Value>, Tick, Vec<TimerId>) {
        let mut now = Tick(12_345);
        let mut wheel = Wheel::new(now);
        let mut ids = Vec::with_capacity(TIMERS);
        for i in 0..TIMERS {
            if matches!(self, Mix::Idle) {
                // Arrivals spread over one timeout, so the deadlines are too and none fires yet.
                now = Tick(12_345 + i as u64 * IDLE.0 / TIMERS as u64);
                wheel.advance(now);
            }
            ids.push(wheel.arm(self.deadline(now, rng), [i as u32, 0]));
        }
        (wheel, now, ids)
    }
}

/// A wheel kept at a million timers while some are cancelled and as many armed.
struct Churn {
    mix: Mix,
    rng: StdRng,
    wheel: Wheel<Value>,
    now: Tick,
    ids: Vec<TimerId>,
}

impl Churn {
    fn new(mix: Mix) -> Churn {
        let mut rng = StdRng::seed_from_u64(1);
        let (wheel, now, ids) = mix.wheel(&mut rng);
        Churn {
            mix,
            rng,
            wheel,
            now,
            ids,
        }
    }

    /// The times that cancelling and arming a batch take.
    fn batch(&mut self) -> (Duration, Duration) {
        for i in 0..BATCH {
            let other = self.rng.random_range(i..TIMERS);
            self.ids.swap(i, other);
        }
        let deadlines: Vec<Tick> = (0..BATCH)
            .map(|_| self.mix.deadline(self.now, &mut self.rng))
            .collect();
        let start = Instant::now();
        for &id in &self.ids[..BATCH] {
            black_box(self.wheel.cancel(id));
        }
        let cancelled = Instant::now();
        for (id, &at) in self.ids.iter_mut().zip(&deadlines) {
            *id = self.wheel.arm(at, [0, 0]);
        }
        (cancelled - start, cancelled.elapsed())
    }

    /// The time that `count` operations take, by as many whole batches: in smaller ones, arming
    /// would find the entries just freed in cache.
    fn measure(&mut self, count: u64, part: fn((Duration, Duration)) -> Duration) -> Duration {
        let batches = count.div_ceil(BATCH as u64);
        let total: Duration = (0..batches).map(|_| part(self.batch())).sum();
        total.mul_f64(count as f64 / (batches * BATCH as u64) as f64)
    }
}

/// Pops all that is due; returns how many there were.
fn fire(wheel: &mut Wheel<Value>) -> usize {
    let mut fired = 0;
    while let Some(timer) = wheel.pop_due() {
        black_box(timer);
        fired += 1;
    }
    fired
}

fn arm_and_cancel(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel_1m");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for (mix, name) in Mix::ALL {
        let mut churn = Churn::new(mix);
        group.bench_function(format!("arm/{name}"), |b| {
            b.iter_custom(|count| churn.measure(count, |(_, arming)| arming))
        });
        group.bench_function(format!("cancel/{name}"), |b| {
            b.iter_custom(|count| churn.measure(count, |(cancelling, _)| cancelling))
        });
    }
}

/// From a million timers to none: the figure is for all of them.
fn advance_and_fire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel_1m");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Elements(TIMERS as u64));
    for (mix, name) in Mix::ALL {
        let setup = || mix.wheel(&mut StdRng::seed_from_u64(2)).0;
        group.bench_function(format!("fire_sleeping/{name}"), |b| {
            b.iter_batched_ref(
                setup,
                |wheel| {
                    let mut fired = 0;
                    while let Some(at) = wheel.next_deadline() {
                        wheel.advance(at);
                        fired += fire(wheel);
                    }
                    assert_eq!(fired, TIMERS);
                },
                BatchSize::PerIteration,
            )
        });
        group.bench_function(format!("fire_one_jump/{name}"), |b| {
            b.iter_batched_ref(
                setup,
                |wheel| {
                    wheel.advance(Tick(1 << 40));
                    assert_eq!(fire(wheel), TIMERS);
                },
                BatchSize::PerIteration,
            )
        });
    }
}

criterion_group!(benches, arm_and_cancel, advance_and_fire);
criterion_main!(benches);

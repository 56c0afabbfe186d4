//! The monotonic clock, in ticks since the start.

use std::time::{Duration, Instant};

use crate::engine::Tick;
use crate::engine::time::TICK_MS;

#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// The tick that has begun: a deadline at tick `t` has passed once `now() >= t`.
    pub(super) fn now(&self) -> Tick {
        Tick(self.start.elapsed().as_millis() as u64 / TICK_MS)
    }

    pub(super) fn until(&self, at: Tick) -> Duration {
        Duration::from_millis(at.0.saturating_mul(TICK_MS)).saturating_sub(self.start.elapsed())
    }
}

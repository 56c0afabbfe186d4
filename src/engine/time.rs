//! Time as the engine sees it: whole ticks of 10 ms since the driver started.
//!
//! A driver says the tick that has begun, so what happens in it happens up to one tick later than it says:
//! [`Tick::deadline`] makes up for that.
//!
//! The engine reads no clock. A driver (the reactor, the simulator) says at the start of each turn which
//! tick it is; everything that happens in the turn happens at that tick. A [`Tick`] is a point in time
//! and a [`Ticks`] a length of it, so that the two cannot be mixed up.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Length of a tick in milliseconds: what the overlay protocol counts in, and fine enough for every
/// timeout of the four protocols.
pub const TICK_MS: u64 = 10;

/// A point in time: ticks since the driver started. Never runs backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

/// A length of time in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Tick {
    /// The first tick at which `after` has certainly passed since something in this tick, which has begun already: a
    /// timeout never ends early, and at most one tick late.
    pub fn deadline(self, after: Ticks) -> Tick {
        self + after + Ticks(1)
    }

    /// The length of time from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Tick) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }
}

impl Ticks {
    /// Longer than anything lasts: as a limit, no limit.
    pub const NEVER: Ticks = Ticks(u64::MAX);

    pub const fn from_millis(ms: u64) -> Ticks {
        Ticks(ms.div_ceil(TICK_MS))
    }

    pub const fn from_secs(secs: u64) -> Ticks {
        Ticks(secs.saturating_mul(1000 / TICK_MS))
    }

    /// Rounds up: a timeout never ends early.
    pub fn from_duration(d: Duration) -> Ticks {
        Ticks::from_millis(u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.saturating_mul(TICK_MS))
    }
}

impl Add<Ticks> for Tick {
    type Output = Tick;
    fn add(self, rhs: Ticks) -> Tick {
        Tick(self.0.saturating_add(rhs.0))
    }
}

impl Sub<Tick> for Tick {
    type Output = Ticks;
    fn sub(self, rhs: Tick) -> Ticks {
        self.since(rhs)
    }
}

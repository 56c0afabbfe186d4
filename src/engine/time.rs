//! Time as the engine sees it: whole ticks of 10 ms since the driver started.
//!
//! A driver says the tick that has begun, so what happens in it happens up to one tick later than it says:
//! [`Tick::deadline`] makes up for that.
//!
//! The engine reads no clock. A driver (the reactor, the simulator) says at the start of each turn which
//! tick it is; everything that happens in the turn happens at that tick. A [`Tick`] is a point in time
//! and a [`Ticks`] a length of it, so that the two cannot be mixed up. Their operators saturate: a length that comes from a
//! peer or an option can be any number.

use std::ops::{Add, Div, Mul, Sub};
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

impl Add for Ticks {
    type Output = Ticks;
    fn add(self, rhs: Ticks) -> Ticks {
        Ticks(self.0.saturating_add(rhs.0))
    }
}

/// Zero when there is nothing left.
impl Sub for Ticks {
    type Output = Ticks;
    fn sub(self, rhs: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(rhs.0))
    }
}

impl Mul<u64> for Ticks {
    type Output = Ticks;
    fn mul(self, rhs: u64) -> Ticks {
        Ticks(self.0.saturating_mul(rhs))
    }
}

impl Div<u64> for Ticks {
    type Output = Ticks;
    fn div(self, rhs: u64) -> Ticks {
        Ticks(self.0 / rhs)
    }
}

impl Sub<Tick> for Tick {
    type Output = Ticks;
    fn sub(self, rhs: Tick) -> Ticks {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_length_of_time_is_too_long() {
        let (late, never) = (Tick(u64::MAX - 1), Ticks::NEVER);
        assert_eq!(late + never, Tick(u64::MAX));
        assert_eq!(late.deadline(never), Tick(u64::MAX));
        assert_eq!((never + never, never * 3), (never, never));
        assert_eq!((Ticks(1) - never, Tick(1) - late), (Ticks(0), Ticks(0)));
        assert_eq!(Ticks::from_secs(u64::MAX), never);
        assert_eq!(Ticks::from_millis(u64::MAX).0, u64::MAX.div_ceil(TICK_MS));
        assert_eq!(Ticks::from_duration(Duration::MAX).0, u64::MAX.div_ceil(10));
        assert_eq!(never.as_duration(), Duration::from_millis(u64::MAX));
    }
}

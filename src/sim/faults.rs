//! What can go wrong in a simulated network, and how often.
//!
//! Only numbers: the dice are thrown where the fault is done (`net.rs`), with the world's one generator.
//! Everything here is within what TCP and an edge-triggered poll are allowed to do; a node that breaks
//! under it is wrong. Crashes are not here: a test calls `World::kill` where it wants one.

use rand::RngExt;
use rand::rngs::StdRng;

/// A length of virtual time drawn evenly from `min..=max`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub min_us: u64,
    pub max_us: u64,
}

impl Span {
    pub const fn us(min_us: u64, max_us: u64) -> Span {
        assert!(min_us <= max_us);
        Span { min_us, max_us }
    }

    pub const fn ms(min_ms: u64, max_ms: u64) -> Span {
        Span::us(min_ms * 1000, max_ms * 1000)
    }

    pub(super) fn draw(self, rng: &mut StdRng) -> u64 {
        rng.random_range(self.min_us..=self.max_us)
    }
}

/// Probabilities are per occasion, from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// How long a byte, a FIN or a reset is under way.
    pub latency: Span,
    /// How long a node takes from an event to the turn that serves it: longer merges more events.
    pub turn_delay: Span,
    /// What a connection holds in each direction, under way and unread together.
    pub window_bytes: usize,
    /// A write arrives in several pieces, at times of their own; a third of these, byte by byte.
    pub split: f64,
    /// A read returns only a part of what is there; an event for the rest follows.
    pub short_read: f64,
    /// A write takes only a part of what it could; an event for more room follows.
    pub short_write: f64,
    /// A write freezes its direction for `stall_for`.
    pub stall: f64,
    pub stall_for: Span,
    /// A connection is reset within its first `cut_bytes_max` bytes of one direction.
    pub reset: f64,
    /// One direction ends (FIN) within its first `cut_bytes_max` bytes; the other goes on.
    pub half_close: f64,
    pub cut_bytes_max: u64,
    /// A dial is refused.
    pub refuse: f64,
    /// A dial is never answered.
    pub ignore: f64,
    /// The kernel refuses a descriptor for an accept (EMFILE).
    pub accept_failure: f64,
    /// A connection is lost between its arrival and its accept (ECONNABORTED).
    pub accept_abort: f64,
    /// A turn begins with an event for a connection that nothing happened to.
    pub spurious: f64,
    /// A closed connection still has an event coming.
    pub stale: f64,
    /// A node that is killed falls silent instead of resetting its connections.
    pub silent_kill: f64,
}

impl Faults {
    /// A good network: short, slightly uneven delays, and nothing else.
    pub const fn none() -> Faults {
        Faults {
            latency: Span::us(50, 200),
            turn_delay: Span::us(1, 20),
            window_bytes: 64 * 1024,
            split: 0.0,
            short_read: 0.0,
            short_write: 0.0,
            stall: 0.0,
            stall_for: Span::ms(1, 10),
            reset: 0.0,
            half_close: 0.0,
            cut_bytes_max: 4096,
            refuse: 0.0,
            ignore: 0.0,
            accept_failure: 0.0,
            accept_abort: 0.0,
            spurious: 0.0,
            stale: 0.0,
            silent_kill: 0.0,
        }
    }

    /// All that slows and cuts up a stream and loses nothing: every exchange must still succeed.
    pub const fn rough() -> Faults {
        Faults {
            split: 0.3,
            short_read: 0.3,
            short_write: 0.3,
            spurious: 0.2,
            stale: 0.5,
            window_bytes: 1500,
            turn_delay: Span::us(1, 2000),
            ..Faults::none()
        }
    }

    /// A random subset of the faults at random strengths: a mean of all faults in every run would hide what
    /// needs one of them strong, or another one absent.
    pub fn swarm(rng: &mut StdRng) -> Faults {
        let mut faults = Faults::none();
        let f = &mut faults;
        let often = [
            &mut f.split,
            &mut f.short_read,
            &mut f.short_write,
            &mut f.spurious,
            &mut f.stale,
            &mut f.silent_kill,
        ];
        for p in often {
            *p = strength(rng, 0.9);
        }
        let seldom = [
            &mut f.stall,
            &mut f.reset,
            &mut f.half_close,
            &mut f.refuse,
            &mut f.ignore,
            &mut f.accept_failure,
            &mut f.accept_abort,
        ];
        for p in seldom {
            *p = strength(rng, 0.2);
        }
        let spread = [100, 1000, 20_000, 200_000][rng.random_range(0..4)];
        f.latency = Span::us(20, 20 + spread);
        f.turn_delay = Span::us(1, [1, 50, 5000][rng.random_range(0..3)]);
        f.window_bytes = [1, 100, 4096, 65_536][rng.random_range(0..4)];
        f.stall_for = Span::ms(1, [10, 500, 5000][rng.random_range(0..3)]);
        f.cut_bytes_max = [1, 64, 4096, 262_144][rng.random_range(0..4)];
        faults
    }

    /// The same network without its faults, for what comes after [`super::World::heal`].
    pub(super) fn healed(&self) -> Faults {
        Faults {
            latency: self.latency,
            ..Faults::none()
        }
    }
}

/// Off in half of all runs, otherwise anything up to `max`.
fn strength(rng: &mut StdRng, max: f64) -> f64 {
    if rng.random_bool(0.5) {
        0.0
    } else {
        rng.random_range(0.0..max)
    }
}

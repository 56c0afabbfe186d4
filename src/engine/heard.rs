//! Which deadlines may be judged: those by which everything that came before them was heard and served.
//!
//! A process does not run all the time: it is stopped (SIGSTOP, a debugger), its container is frozen, its machine is
//! busy. What its peers sent meanwhile waits in the kernel, while the clock has gone on. So a deadline is not judged at the
//! time that a turn begins, but up to the tick of which this is known:
//!
//! ```text
//!   now ≥ heard    the driver has told all that happened by this tick             Heard
//!       ≥ judged   every connection of which it told was served since             CatchUp
//!                  deadlines and timers up to here fire
//! ```
//! The driver takes events in batches, and a node may serve only a share of the ready connections in a turn. Both are
//! queues in order of arrival, so that a count says when what was in them at some tick is through: however much comes
//! meanwhile, `judged` moves on.
//!
//! One share of a connection's input need not be all that waits. After a stop, which shows in timers that are late by
//! [`STOPPED`], nothing fires until no connection has input left, for at most [`ROUNDS_MAX`] turns that serve all.

use super::{Tick, Ticks};

/// Timers are late by so much only when the process did not run.
const STOPPED: Ticks = Ticks::from_millis(500);

/// Shares of input that each connection gets after a stop before timers fire all the same: 16 MiB, or 16,384 small messages,
/// with the default limits.
const ROUNDS_MAX: u32 = 256;

/// A driver's half: by which tick everything that happened has been told.
#[derive(Debug, Default)]
pub struct Heard {
    until: Tick,
    /// Polls fill their buffers since the one that began at this tick, and so many sources may not have been told of.
    filled: Option<(Tick, usize)>,
}

impl Heard {
    /// A poll that `began` at that tick or later told of `events`; `full`: there may be more. `sources`: how many there are
    /// that events can be about, each at most once in the driver's queue. Returns the tick up to which all is told.
    pub fn polled(&mut self, began: Tick, events: usize, full: bool, sources: usize) -> Tick {
        let (since, left) = self.filled.take().unwrap_or((began, sources));
        if !full {
            self.until = began;
        } else if left <= events {
            self.until = since;
        } else {
            self.filled = Some((since, left - events));
        }
        self.until
    }

    /// The same for a poll that was interrupted and told of nothing.
    pub fn interrupted(&self) -> Tick {
        self.until
    }
}

/// A node's half: up to which tick it has served what it heard.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    pub(super) heard: Tick,
    pub(super) judged: Tick,
    /// What was heard by this tick is served when so many more of the ready connections are.
    serves: Option<(Tick, usize)>,
    rounds: u32,
}

impl CatchUp {
    /// A turn begins to serve, with so many connections on the ready list.
    pub(super) fn begin(&mut self, ready: usize) {
        self.serves.get_or_insert((self.heard, ready));
    }

    /// So many were served, and so many are on the list now. `next_timer` is the deadline of the first timer.
    pub(super) fn served(&mut self, served: usize, ready: usize, next_timer: Option<Tick>) {
        let Some((heard, waiting)) = self.serves.take() else {
            return;
        };
        let was_stopped = next_timer.is_some_and(|at| at + STOPPED <= heard);
        if waiting > served {
            self.serves = Some((heard, waiting - served));
        } else if was_stopped && ready > 0 && self.rounds < ROUNDS_MAX {
            // The next round is for what is heard by then: timers that its time makes late are no sign of another stop.
            self.rounds += 1;
        } else {
            self.rounds = 0;
            self.judged = self.judged.max(heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_that_tells_of_all_reaches_its_beginning() {
        let mut heard = Heard::default();
        assert_eq!(heard.polled(Tick(5), 0, false, 9), Tick(5));
        assert_eq!(heard.polled(Tick(7), 3, false, 9), Tick(7));
        assert_eq!(heard.interrupted(), Tick(7));
    }

    /// However many are always ready.
    #[test]
    fn full_polls_reach_the_first_when_every_source_had_its_turn() {
        let mut heard = Heard::default();
        let mut polls = (0..).map(|tick| heard.polled(Tick(100 + tick), 4, true, 10));
        let reached: Vec<u64> = polls.by_ref().take(7).map(|tick| tick.0).collect();
        assert_eq!(reached, [0, 0, 100, 100, 100, 103, 103]);
        // Not more than there were when it began, if some went meanwhile.
        let mut heard = Heard::default();
        assert_eq!(heard.polled(Tick(1), 4, true, 10), Tick(0));
        assert_eq!(heard.polled(Tick(2), 4, true, 4), Tick(0));
        assert_eq!(heard.polled(Tick(3), 4, true, 4), Tick(1));
        assert_eq!(heard.polled(Tick(4), 3, false, 4), Tick(4));
    }

    fn turn(it: &mut CatchUp, heard: u64, ready: usize, served: usize, left: usize) -> u64 {
        it.heard = Tick(heard);
        it.begin(ready);
        it.served(served, left, Some(Tick(10)));
        it.judged.0
    }

    #[test]
    fn what_was_ready_is_served_first() {
        let mut it = CatchUp::default();
        assert_eq!(turn(&mut it, 10, 5, 2, 5), 0);
        assert_eq!(turn(&mut it, 11, 5, 2, 5), 0, "those that came later wait");
        assert_eq!(turn(&mut it, 12, 5, 2, 5), 10);
        assert_eq!(turn(&mut it, 13, 2, 2, 0), 13);
    }

    #[test]
    fn after_a_stop_until_nothing_is_left_or_it_takes_too_long() {
        let late = 10 + STOPPED.0;
        let mut it = CatchUp::default();
        assert_eq!(turn(&mut it, late - 1, 3, 3, 3), late - 1, "not late");
        assert_eq!(turn(&mut it, late, 3, 3, 3), late - 1);
        assert_eq!(turn(&mut it, late, 3, 3, 1), late - 1);
        assert_eq!(turn(&mut it, late, 1, 1, 0), late);
        // The rounds take longer than a stop.
        let rounds = u64::from(ROUNDS_MAX);
        for round in 0..rounds {
            assert_eq!(turn(&mut it, late + round, 3, 3, 3), late);
        }
        assert_eq!(turn(&mut it, late + rounds, 3, 3, 3), late + rounds);
    }
}

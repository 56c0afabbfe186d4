//! The load driver: when the next request is due, and what the answers measure. It knows no socket and no protocol.
//!
//! Closed loop: each answer makes room for the next request. Open loop: requests are due at a fixed rate whatever the
//! answers do, and a latency counts from when its request was due, so a server that stalls cannot hide the requests
//! that its stall delayed (no coordinated omission).
//!
//! ```text
//! opening -> warm-up -> measuring -> draining -> over
//!  dials      sends       sends      only waits
//! ```
//!
//! Times are nanoseconds since the driver was made: the engine's tick of 10 ms is too coarse for latencies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use peerloop::engine::End;

use super::histogram::Measurement;

/// How long answers are waited for after the end.
const DRAIN: Duration = Duration::from_secs(2);

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Plan {
    pub(in crate::cli) connections: usize,
    /// Requests under way on a connection at most.
    pub(in crate::cli) depth: usize,
    /// Requests a second; without it as many as there are answers.
    pub(in crate::cli) rate: Option<f64>,
    pub(in crate::cli) warm_up: Duration,
    pub(in crate::cli) until: Until,
}

impl Plan {
    /// So many requests in a closed loop.
    pub(in crate::cli) fn of_requests(connections: usize, depth: usize, requests: u64) -> Plan {
        Plan {
            connections,
            depth,
            rate: None,
            warm_up: Duration::ZERO,
            until: Until::Requests(requests),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Until {
    Elapsed(Duration),
    /// So many requests. They begin with the first connection, without a warm-up, and all of them are waited for.
    Requests(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    WarmUp { until: u64 },
    Measuring { since: u64, until: u64 },
    Draining { until: u64 },
    Over,
}

pub(in crate::cli) struct Driver {
    pub(super) plan: Plan,
    epoch: Instant,
    phase: Phase,
    /// When the open loop began, and how many of its requests were due since.
    loop_began: u64,
    loop_asked: u64,
    /// Requests since the measuring began.
    asked: u64,
    /// Requests without an answer.
    pub(super) under_way: u64,
    /// Ctrl-C came before the plan was done.
    pub(in crate::cli) interrupted: bool,
    /// What went wrong, by kind, and how often.
    pub(in crate::cli) errors: BTreeMap<String, u64>,
    pub(in crate::cli) measurement: Measurement,
}

impl Driver {
    pub(in crate::cli) fn new(plan: Plan) -> Result<Driver> {
        let length = match plan.until {
            Until::Elapsed(length) => length,
            Until::Requests(_) => Duration::ZERO,
        };
        Ok(Driver {
            plan,
            epoch: Instant::now(),
            phase: Phase::Opening,
            loop_began: 0,
            loop_asked: 0,
            asked: 0,
            under_way: 0,
            interrupted: false,
            errors: BTreeMap::new(),
            measurement: Measurement::new(length)?,
        })
    }

    pub(in crate::cli) fn first_error(&self) -> &str {
        let first = self.errors.keys().next();
        first.map_or("the others were refused", String::as_str)
    }

    pub(in crate::cli) fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }

    /// How long nothing is due, unless an answer comes. `has_room`: some connection could take a request.
    pub(in crate::cli) fn sleep(&self, has_room: bool) -> Duration {
        let phase_ends = match self.phase {
            Phase::Opening | Phase::Over => u64::MAX,
            Phase::WarmUp { until }
            | Phase::Measuring { until, .. }
            | Phase::Draining { until } => until,
        };
        let due = match self.plan.rate {
            Some(rate) if self.sends() && has_room => self.due_next(rate),
            _ => u64::MAX,
        };
        Duration::from_nanos(phase_ends.min(due).saturating_sub(self.now()))
    }

    /// Goes on to the next phase when it is time; false when the plan is done. `opened`: all connections are there.
    pub(in crate::cli) fn advance(&mut self, opened: bool) -> bool {
        let now = self.now();
        match self.phase {
            Phase::Opening if matches!(self.plan.until, Until::Requests(_)) => self.measure(now),
            Phase::Opening if opened => {
                self.loop_began = now;
                let until = now.saturating_add(nanos(self.plan.warm_up));
                self.phase = Phase::WarmUp { until };
                if until == now {
                    self.measure(now);
                }
            }
            Phase::WarmUp { until } if now >= until => self.measure(now),
            Phase::Measuring { until, .. } if now >= until => self.drain(until),
            Phase::Measuring { .. } if self.is_enough() && self.under_way == 0 => self.drain(now),
            _ => {}
        }
        if let Phase::Draining { until } = self.phase
            && (now >= until || self.under_way == 0)
        {
            self.phase = Phase::Over;
        }
        self.phase != Phase::Over
    }

    fn measure(&mut self, now: u64) {
        let until = match self.plan.until {
            Until::Elapsed(length) => now.saturating_add(nanos(length)),
            Until::Requests(_) => u64::MAX,
        };
        self.asked = 0;
        self.measurement.begin(now);
        self.phase = Phase::Measuring { since: now, until };
    }

    /// Stops sending; answers to requests under way still count.
    fn drain(&mut self, at: u64) {
        self.measurement.end(at);
        let until = at.saturating_add(nanos(DRAIN));
        self.phase = Phase::Draining { until };
    }

    /// Ends what is measured here and now.
    pub(in crate::cli) fn stop(&mut self) {
        if matches!(self.phase, Phase::Measuring { .. }) {
            self.drain(self.now());
        }
    }

    /// Ends the run without waiting: there is no server left.
    pub(in crate::cli) fn give_up(&mut self) {
        self.stop();
        self.phase = Phase::Over;
    }

    /// Ends the run on Ctrl-C and keeps what was measured.
    pub(in crate::cli) fn interrupt(&mut self) {
        self.interrupted = self.phase != Phase::Over;
        self.give_up();
    }

    fn sends(&self) -> bool {
        matches!(self.phase, Phase::WarmUp { .. } | Phase::Measuring { .. })
    }

    fn is_enough(&self) -> bool {
        matches!(self.plan.until, Until::Requests(enough) if self.asked >= enough)
    }

    /// Takes the next request that is due now or was due before, and returns when; it counts as under way.
    pub(in crate::cli) fn next_due(&mut self, now: u64) -> Option<u64> {
        if !self.sends() || self.is_enough() {
            return None;
        }
        let due = match self.plan.rate {
            None => now,
            Some(rate) => Some(self.due_next(rate)).filter(|due| *due <= now)?,
        };
        self.loop_asked += 1;
        self.asked += 1;
        self.under_way += 1;
        Some(due)
    }

    fn due_next(&self, rate: f64) -> u64 {
        // A cast from a float saturates.
        let since = (self.loop_asked as f64 * 1e9 / rate) as u64;
        self.loop_began.saturating_add(since)
    }

    /// The answer to the request that was due then; `yes` unless it was a no.
    pub(in crate::cli) fn answered(&mut self, due: u64, now: u64, yes: bool) {
        self.under_way -= 1;
        // An answer belongs to the phase that its request was due in.
        let counts = match self.phase {
            Phase::Measuring { since, .. } => due >= since,
            Phase::Draining { .. } => true,
            Phase::Opening | Phase::WarmUp { .. } | Phase::Over => false,
        };
        if counts {
            self.measurement.record(due, now, yes);
        }
    }

    /// Counts a failure, and takes its requests off those under way.
    pub(in crate::cli) fn failed(&mut self, what: String, requests: u64) {
        self.under_way -= requests;
        *self.errors.entry(what).or_default() += 1;
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// The end of a connection, in words.
pub(in crate::cli) fn describe(end: End) -> String {
    match end {
        End::Eof => "the server closed".into(),
        End::Broken(kind) => format!("broken: {kind}"),
        End::Unreachable(kind) => format!("cannot connect: {kind}"),
        End::Closed => "closed".into(),
        End::Violation(violation) => violation.what.into(),
        End::Timeout(deadline) => format!("timeout: {deadline:?}"),
        End::Limit(limit) => format!("limit: {limit}"),
        other => format!("{other:?}"),
    }
}

//! Gaps in service: for how long keys could not be read, or not be written, while members crash.
//!
//! Some keys are read and written all the time, by operations that are given up soon. The *gap* of a key is the longest time
//! without service: from the last operation that succeeded before one failed until the next one that succeeds; or how long an
//! operation took that succeeded. So it is at most [`PROBE_EVERY`] longer than the outage, and never shorter.
//!
//! The values are not checked here: see [`super::checker`].

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use serde_json::{Value, json};

use peerloop::engine::{
    ConnId, Cx, End, Hub, Input, Limits, NoJob, Service, Step, Ticks, Violation,
};
use peerloop::net::Reactor;
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::client::{self, Host, OpId, Operations};
use peerloop::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};

use crate::cli::background::{Background, pause};
use crate::cli::load::histogram::histogram_ns;
use crate::cli::stress::latency_ms;

/// Keys that are watched: enough for a percentile, and few enough not to be a load.
const KEYS: usize = 100;

/// Between two reads of a key, and two writes.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// Between two looks at which keys are due.
const LOOK_EVERY: Ticks = Ticks::from_millis(20);

/// How long a node may be silent: a ring that heals is not waited for by one operation.
const PATIENCE: Ticks = Ticks::from_secs(5);

/// How long gaps that are open at the end are watched.
const CLOSE_WITHIN: Duration = Duration::from_secs(15);

/// The reads of a key, or its writes.
#[derive(Debug, Clone, Copy)]
struct Watch {
    /// Of the latest operation.
    begun: Instant,
    under_way: bool,
    last_good: Instant,
    /// The operation before this one failed.
    is_down: bool,
    gap: Duration,
}

impl Watch {
    fn new(now: Instant) -> Watch {
        Watch {
            begun: now,
            under_way: false,
            last_good: now,
            is_down: false,
            gap: Duration::ZERO,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.under_way && now >= self.begun + PROBE_EVERY
    }

    fn begin(&mut self, now: Instant) {
        (self.begun, self.under_way) = (now, true);
    }

    fn finish(&mut self, now: Instant, good: bool) {
        self.under_way = false;
        if good {
            self.gap = self.gap.max(self.gap_until(now));
            self.last_good = now;
        }
        self.is_down = !good;
    }

    /// The gap that ends now.
    fn gap_until(&self, now: Instant) -> Duration {
        let since = if self.is_down {
            self.last_good
        } else {
            self.begun
        };
        now - since
    }
}

struct Prober {
    contacts: Vec<SocketAddrV4>,
    /// Makes the keys of this run unique.
    salt: u64,
    /// Of each key its reads, then its writes.
    watches: Vec<Watch>,
    operations: Operations<usize>,
}

/// A timer of the prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    Retry(OpId),
    Look,
}

impl From<OpId> for Timer {
    fn from(op: OpId) -> Timer {
        Timer::Retry(op)
    }
}

impl Prober {
    fn look(&mut self, hub: &mut Hub<Self>) {
        let now = Instant::now();
        for number in 0..self.watches.len() {
            if self.watches[number].is_due(now) {
                self.watches[number].begin(now);
                self.probe(hub, number);
            }
        }
        // There are few enough timers for one more.
        let _ = hub.arm(LOOK_EVERY, Timer::Look);
    }

    fn probe(&mut self, hub: &mut Hub<Self>, number: usize) {
        let count = self.contacts.len();
        let contacts: Vec<_> = (0..3)
            .map(|_| self.contacts[hub.rng().random_range(0..count)])
            .collect();
        let bounds = Bounds {
            attempts_max: contacts.len() as u32,
            backoff: Ticks::from_millis(20),
            ..Bounds::default()
        };
        let verb = if number.is_multiple_of(2) {
            Verb::Get
        } else {
            Verb::Insert(Bytes::from_static(b"watched"))
        };
        let key = Id::of(format!("watched {} {}", self.salt, number / 2).as_bytes());
        let operation = Operation::new(verb, key, contacts, bounds);
        client::start(self, hub, operation, number);
    }
}

impl Host for Prober {
    type Tag = usize;

    fn operations(&mut self) -> &mut Operations<usize> {
        &mut self.operations
    }

    fn on_outcome(&mut self, _: &mut Hub<Self>, number: usize, result: Result<Outcome, Failure>) {
        self.watches[number].finish(Instant::now(), result.is_ok());
    }
}

impl Service for Prober {
    type Conn = OpId;
    type Note = ();
    type Timer = Timer;
    type Job = NoJob;
    type Done = ();

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        self.look(hub);
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, op: &mut OpId) {
        client::dialled(self, cx, *op);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        op: &mut OpId,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        client::input(self, cx, *op, input)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, op: OpId, end: End) {
        client::ended(self, hub, id, op, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Retry(op) => client::retry(self, hub, op),
            Timer::Look => self.look(hub),
        }
    }
}

/// Keys that are watched, on a thread of its own.
pub(super) struct Gaps(Background<Prober, Prober>);

impl Gaps {
    pub(super) fn watch(contacts: Vec<SocketAddrV4>) -> Result<Gaps> {
        let make = move || {
            let limits = Limits {
                idle: PATIENCE,
                ..Limits::default()
            };
            let prober = Prober {
                contacts,
                salt: rand::random(),
                watches: vec![Watch::new(Instant::now()); 2 * KEYS],
                operations: Operations::default(),
            };
            Ok(Reactor::new(prober, limits)?)
        };
        Ok(Gaps(Background::start("gaps", make, Ok)?))
    }

    /// As that of the clients.
    pub(super) fn set_contacts(&self, contacts: Vec<SocketAddrV4>) -> Result<()> {
        self.0.call(|prober, _| {
            if !contacts.is_empty() {
                prober.contacts = contacts;
            }
        })
    }

    /// Waits for a while until every key is served again, and ends.
    pub(super) fn finish(self) -> Result<Value> {
        let until = Instant::now() + CLOSE_WITHIN;
        let is_down = |prober: &mut Prober, _: &mut Hub<Prober>| {
            prober.watches.iter().any(|watch| watch.is_down)
        };
        while self.0.call(is_down)? && Instant::now() < until {
            pause()?;
        }
        self.0.call(|_, hub| hub.stop())?;
        report(&self.0.join()?.watches, Instant::now())
    }
}

/// Percentiles over the keys: of their reads, of their writes, and of the longer of both.
fn report(watches: &[Watch], now: Instant) -> Result<Value> {
    let (mut read, mut write, mut longer) = (histogram_ns()?, histogram_ns()?, histogram_ns()?);
    let gap = |watch: &Watch| {
        let open = watch.is_down.then(|| watch.gap_until(now));
        watch.gap.max(open.unwrap_or_default()).as_nanos() as u64
    };
    for key in watches.chunks(2) {
        let [of_reads, of_writes] = [gap(&key[0]), gap(&key[1])];
        read.saturating_record(of_reads);
        write.saturating_record(of_writes);
        longer.saturating_record(of_reads.max(of_writes));
    }
    let open = watches
        .chunks(2)
        .filter(|key| key.iter().any(|w| w.is_down));
    Ok(json!({
        "keys": watches.len() / 2,
        "open": open.count(),
        "ms": latency_ms(&longer),
        "read_ms": latency_ms(&read),
        "write_ms": latency_ms(&write),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lasts_from_the_last_good_operation_to_the_next() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut watch = Watch::new(zero);
        let mut run = |from, to, good| {
            assert!(watch.is_due(at(from)));
            watch.begin(at(from));
            assert!(!watch.is_due(at(to + 1000)));
            watch.finish(at(to), good);
            watch
        };
        assert_eq!(run(500, 503, true).gap, Duration::from_millis(3));
        assert_eq!(run(1000, 1040, true).gap, Duration::from_millis(40));
        let down = run(1600, 1601, false);
        assert_eq!((down.gap, down.is_down), (Duration::from_millis(40), true));
        assert_eq!(down.gap_until(at(2000)), Duration::from_millis(960));
        run(2100, 2190, false);
        assert_eq!(run(2600, 2610, true).gap, Duration::from_millis(1570));
        let last = run(3200, 3201, true);
        assert_eq!(
            (last.gap, last.is_down),
            (Duration::from_millis(1570), false)
        );
    }

    #[test]
    fn the_report_has_gaps_that_are_still_open() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut watches = [Watch::new(zero); 4];
        watches[0].begin(zero);
        watches[0].finish(at(8), true);
        watches[3].begin(zero);
        watches[3].finish(at(8), false);
        let told = report(&watches, at(2000)).expect("a report");
        assert_eq!((&told["keys"], &told["open"]), (&json!(2), &json!(1)));
        let max = |of: &str| told[of]["max"].as_f64().expect("a time").round();
        assert_eq!(max("read_ms"), 8.0);
        assert!((max("write_ms") - 2000.0).abs() < 5.0 && max("ms") == max("write_ms"));
    }
}

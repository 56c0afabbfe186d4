//! What a load measured: histograms of the latency, of the whole run and over time, and the summary that is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told from a longer one: ten minutes.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// Points of the run over time, at most: as many as a plot shows.
const INTERVALS_MAX: u64 = 400;

/// No point of it is shorter.
const INTERVAL_MIN_NS: u64 = 100_000_000;

/// Percentiles that are told, and the points of the plot.
const PERCENTILES: [f64; 9] = [0.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// Latencies and rates of the measured part of a run; times are nanoseconds since its driver was made.
pub(in crate::cli) struct Measurement {
    latency: Histogram<u64>,
    since: u64,
    until: Option<u64>,
    /// Answers before the end.
    in_time: u64,
    refused: u64,
    interval_ns: u64,
    interval_latency: Histogram<u64>,
    intervals: Vec<Interval>,
}

/// A point of the run over time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Interval {
    /// Since the beginning of the measuring.
    pub(super) end_seconds: f64,
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Measurement {
    /// Of a run that is to take so long.
    pub(super) fn new(length: Duration) -> Result<Measurement> {
        let interval_ns = length.as_nanos() as u64 / INTERVALS_MAX;
        Ok(Measurement {
            latency: histogram_ns()?,
            since: 0,
            until: None,
            in_time: 0,
            refused: 0,
            interval_ns: interval_ns.max(INTERVAL_MIN_NS),
            interval_latency: histogram_ns()?,
            intervals: Vec::new(),
        })
    }

    pub(super) fn begin(&mut self, now: u64) {
        self.since = now;
    }

    pub(super) fn end(&mut self, now: u64) {
        self.close_intervals(now);
        self.until = Some(now);
    }

    /// A request that was due then was answered now.
    pub(super) fn record(&mut self, due: u64, now: u64, yes: bool) {
        let took = now.saturating_sub(due).max(1);
        self.latency.saturating_record(took);
        self.refused += u64::from(!yes);
        if self.until.is_none() {
            self.in_time += 1;
            self.close_intervals(now);
            self.interval_latency.saturating_record(took);
        }
    }

    fn close_intervals(&mut self, now: u64) {
        while self.intervals.len() < INTERVALS_MAX as usize {
            let end = self.since + (self.intervals.len() as u64 + 1) * self.interval_ns;
            if now < end || self.until.is_some() {
                return;
            }
            let latency = &mut self.interval_latency;
            self.intervals.push(Interval {
                end_seconds: seconds(end - self.since),
                rate: latency.len() as f64 / seconds(self.interval_ns),
                p50_us: micros(latency.value_at_percentile(50.0)),
                p99_us: micros(latency.value_at_percentile(99.0)),
            });
            latency.reset();
        }
    }

    /// Answers until now, and the latencies of the last whole interval.
    pub(super) fn last(&self) -> (u64, Option<&Interval>) {
        (self.in_time, self.intervals.last())
    }

    pub(in crate::cli) fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    pub(in crate::cli) fn answers(&self) -> u64 {
        self.latency.len()
    }

    pub(in crate::cli) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// Latency in microseconds by percentile, at ever finer steps towards 100.
    pub(super) fn by_percentile(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.latency
            .iter_quantiles(5)
            .map(|step| (step.quantile(), micros(step.value_iterated_to())))
    }

    pub(super) fn summary(
        &self,
        what: What,
        errors: &BTreeMap<String, u64>,
        unanswered: u64,
    ) -> Summary {
        let took = seconds(self.until.unwrap_or(self.since).saturating_sub(self.since));
        let at = |percent| micros(self.latency.value_at_percentile(percent));
        let [min, p25, p50, p75, p90, p99, p99_9, p99_99, max] = PERCENTILES.map(at);
        Summary {
            what,
            seconds: took,
            answers: self.answers(),
            rate: if took > 0.0 {
                self.in_time as f64 / took
            } else {
                0.0
            },
            refused: self.refused,
            unanswered,
            errors: errors.clone(),
            latency_us: LatencyUs {
                mean: self.latency.mean() / 1000.0,
                min,
                p25,
                p50,
                p75,
                p90,
                p99,
                p99_9,
                p99_99,
                max,
            },
            over_time: self.intervals.clone(),
        }
    }
}

/// A histogram of latencies in nanoseconds.
pub(in crate::cli) fn histogram_ns() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?)
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// What was asked of whom.
#[derive(Debug, Clone, Serialize)]
pub(super) struct What {
    pub(super) protocol: &'static str,
    pub(super) request: String,
    pub(super) target: String,
    pub(super) connections: usize,
    pub(super) depth: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_asked: Option<f64>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) what: What,
    pub(super) seconds: f64,
    pub(super) answers: u64,
    /// Answers a second.
    pub(super) rate: f64,
    /// Answers that were a no.
    pub(super) refused: u64,
    /// Requests without an answer, two seconds after the end.
    pub(super) unanswered: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) latency_us: LatencyUs,
    pub(super) over_time: Vec<Interval>,
}

#[derive(Debug, Serialize)]
pub(super) struct LatencyUs {
    mean: f64,
    min: f64,
    p25: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    p99_99: f64,
    max: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let What {
            protocol,
            request,
            target,
            connections,
            depth,
            rate_asked,
        } = &self.what;
        writeln!(f, "load        {protocol} {request} at {target}")?;
        write!(f, "connections {connections}, {depth} in flight on each; ")?;
        match rate_asked {
            Some(rate) => writeln!(f, "open loop, {rate} a second")?,
            None => writeln!(f, "closed loop")?,
        }
        writeln!(
            f,
            "answers     {} in {:.2} s: {:.0}/s; {} refused, {} missing",
            self.answers, self.seconds, self.rate, self.refused, self.unanswered
        )?;
        let l = &self.latency_us;
        writeln!(
            f,
            "latency us  min {:.1}  mean {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1}",
            l.min, l.mean, l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max
        )?;
        for (error, count) in &self.errors {
            writeln!(f, "ended       {count} connections: {error}")?;
        }
        Ok(())
    }
}

//! What a load measures: histograms of the latency, of the whole run and over time, and the figures printed of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

/// Longest latency that is told from a longer one: ten minutes.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// Points of the run over time, at most: as many as a plot shows.
const INTERVALS_MAX: u64 = 400;

/// Shortest interval of a point.
const INTERVAL_MIN_NS: u64 = 100_000_000;

/// Latencies and rates of the measured part of a run. Times are nanoseconds since the driver was made.
pub(in crate::cli) struct Measurement {
    /// In nanoseconds.
    pub(in crate::cli) latency: Histogram<u64>,
    since: u64,
    until: Option<u64>,
    /// Answers before the end.
    in_time: u64,
    /// Answers that were a no.
    pub(super) refused: u64,
    interval_ns: u64,
    interval_latency: Histogram<u64>,
    pub(super) intervals: Vec<Interval>,
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
    /// `length`: the planned time of the run, which is divided into intervals.
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

    /// Counts the answer to a request.
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

    pub(in crate::cli) fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// Latency in microseconds by percentile, at ever finer steps towards 100.
    pub(super) fn by_percentile(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.latency
            .iter_quantiles(5)
            .map(|step| (step.quantile(), micros(step.value_iterated_to())))
    }

    /// Adds the figures to a summary that says what was asked.
    pub(super) fn tell(&self, summary: &mut Value, errors: &BTreeMap<String, u64>, missing: u64) {
        let took = seconds(self.until.unwrap_or(self.since).saturating_sub(self.since));
        let rate = self.in_time as f64 / took;
        let at = |percent| micros(self.latency.value_at_percentile(percent));
        summary["seconds"] = took.into();
        summary["answers"] = self.answers().into();
        summary["rate"] = if took > 0.0 { rate } else { 0.0 }.into();
        summary["refused"] = self.refused.into();
        // Requests without an answer, two seconds after the end.
        summary["unanswered"] = missing.into();
        summary["errors"] = json!(errors);
        summary["latency_us"] = json!({
            "mean": self.latency.mean() / 1000.0,
            "min": at(0.0),
            "p25": at(25.0),
            "p50": at(50.0),
            "p75": at(75.0),
            "p90": at(90.0),
            "p99": at(99.0),
            "p99_9": at(99.9),
            "p99_99": at(99.99),
            "max": at(100.0),
        });
        summary["over_time"] = json!(self.intervals);
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

//! `--svg`: latency by percentile, and rate and latency over time.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use super::histogram::Measurement;
use crate::cli::print::filled;

const SIZE: (u32, u32) = (960, 900);
const MARGIN: u32 = 14;
const LABELS: u32 = 64;
const BLUE: RGBColor = RGBColor(0x3b, 0x6e, 0xa5);
const RED: RGBColor = RGBColor(0xc0, 0x39, 0x2b);

/// The finest percentile drawn: 99.9999.
const TAIL_MIN: f64 = 1e-6;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The picture of a run.
pub(super) fn svg(measured: &Measurement, summary: &Value) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let title =
            "{protocol} {request}, {connections} connections, {depth} in flight: {rate:.0}/s";
        let title = filled(title, summary);
        let root = root.titled(&title, ("sans-serif", 20))?;
        let (upper, lower) = root.split_vertically((SIZE.1 - 40) / 2);
        by_percentile(&upper, measured)?;
        over_time(&lower, measured)?;
        root.present()?;
    }
    Ok(text)
}

/// The x axis is 1 / (1 - quantile), logarithmic, so that each nine takes the same room.
fn by_percentile(area: &Area<'_>, measured: &Measurement) -> Result<()> {
    let points: Vec<(f64, f64)> = measured
        .by_percentile()
        .map(|(quantile, us)| (1.0 / (1.0 - quantile).max(TAIL_MIN), us))
        .collect();
    let tail = 10.0 * measured.answers().max(1) as f64;
    let right = tail.clamp(100.0, 1.0 / TAIL_MIN);
    let points: Vec<_> = points.into_iter().filter(|(x, _)| *x <= right).collect();
    let (low, high) = span(points.iter().map(|(_, us)| *us));
    let mut chart = ChartBuilder::on(area)
        .caption("latency by percentile", ("sans-serif", 15))
        .margin(MARGIN)
        .x_label_area_size(LABELS / 2)
        .y_label_area_size(LABELS)
        .build_cartesian_2d((1.0..right).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .y_desc("microseconds")
        .x_label_formatter(&|x| nines(*x))
        .y_label_formatter(&|us| format!("{us:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2)))?;
    Ok(())
}

fn over_time(area: &Area<'_>, measured: &Measurement) -> Result<()> {
    let intervals = &measured.intervals;
    let end = intervals.last().map_or(1.0, |last| last.end_seconds);
    let rate_max = intervals.iter().map(|i| i.rate).fold(1.0, f64::max) * 1.1;
    let latency_max = intervals.iter().map(|i| i.p99_us).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption("over time", ("sans-serif", 15))
        .margin(MARGIN)
        .x_label_area_size(LABELS / 2)
        .y_label_area_size(LABELS)
        .right_y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..end, 0.0..rate_max)?
        .set_secondary_coord(0.0..end, 0.0..latency_max);
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("answers a second")
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("p99, microseconds")
        .y_label_formatter(&|us| format!("{us:.0}"))
        .draw()?;
    let rates = intervals.iter().map(|i| (i.end_seconds, i.rate));
    chart
        .draw_series(LineSeries::new(rates, BLUE.stroke_width(2)))?
        .label("rate")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
    let latencies = intervals.iter().map(|i| (i.end_seconds, i.p99_us));
    chart
        .draw_secondary_series(LineSeries::new(latencies, RED.stroke_width(1)))?
        .label("p99")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], RED));
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .map_err(|e| anyhow!("{e}"))?;
    Ok(())
}

/// Least and greatest with some room, fit for a logarithmic axis.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, 1.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    ((low.min(high) * 0.8).max(0.1), high * 1.25)
}

/// 1 / (1 - quantile) as a percentile.
fn nines(x: f64) -> String {
    let percent = 100.0 * (1.0 - 1.0 / x);
    let digits = (x.log10().round() as usize).saturating_sub(2);
    format!("{percent:.digits$}%")
}

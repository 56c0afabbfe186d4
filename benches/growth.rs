//! How rate and latency grow with connections, entries and the size of a value: a node and a load generator as two
//! processes, on a core each where there is `taskset`. Writes benches/growth/WHAT.json and WHAT.svg.
//!
//! `cargo bench --bench growth` for all, `-- connections` for one; about four minutes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use plotters::prelude::*;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_peerloop");

/// Runs of each point; the one with the median rate is told.
const RUNS: usize = 3;

const BLUE: RGBColor = RGBColor(0x3b, 0x6e, 0xa5);
const RED: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const ORANGE: RGBColor = RGBColor(0xe0, 0x8e, 0x2b);

/// One plot: what grows, through which points, by which options of `peerloop load dht`.
struct Growth {
    name: &'static str,
    axis: &'static str,
    points: &'static [u64],
    options: fn(u64) -> Vec<String>,
}

const GROWTHS: [Growth; 3] = [
    Growth {
        name: "connections",
        axis: "connections",
        points: &[10, 30, 100, 300, 1_000, 3_000, 10_000, 19_500],
        options: |n| words(&format!("--connections {n} --keys 1000")),
    },
    Growth {
        name: "entries",
        axis: "entries of 100 bytes",
        points: &[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        options: |n| words(&format!("--connections 50 --keys {n}")),
    },
    Growth {
        name: "values",
        axis: "bytes of a value",
        points: &[10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_485_760],
        options: |n| words(&format!("--connections 50 --keys 20 --value-bytes {n}")),
    },
];

fn main() {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/growth");
    std::fs::create_dir_all(&folder).expect("benches/growth");
    for growth in &GROWTHS {
        if !named.is_empty() && !named.iter().any(|name| name == growth.name) {
            continue;
        }
        let rows: Vec<Row> = growth.points.iter().map(|n| measure(growth, *n)).collect();
        let file = |ending: &str| -> PathBuf { folder.join(format!("{}.{ending}", growth.name)) };
        let data: Vec<Value> = rows.iter().map(Row::to_json).collect();
        let text = serde_json::to_string_pretty(&data).expect("JSON") + "\n";
        std::fs::write(file("json"), text).expect("write");
        draw(growth, &rows, &file("svg"));
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A node that is killed, by its id, when it is dropped.
struct Node {
    child: Child,
    addr: String,
}

impl Node {
    fn start() -> Node {
        let mut child = on_core(0, &["dht", "node"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a node");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let addr = line.trim_end().strip_prefix("listening ");
        let addr = addr.expect("listening IP:PORT").to_owned();
        Node { child, addr }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, on one core where that can be asked for.
fn on_core(core: u32, args: &[&str]) -> Command {
    let has_taskset = Path::new("/usr/bin/taskset").exists();
    let mut command = Command::new(if has_taskset { "taskset" } else { PROGRAM });
    if has_taskset {
        command.args(["-c", &core.to_string(), PROGRAM]);
    }
    command.args(args);
    command
}

struct Row {
    n: u64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Row {
    fn to_json(&self) -> Value {
        let Row {
            n,
            rate,
            p50_us,
            p99_us,
        } = self;
        json!({"n": n, "rate": rate.round(), "p50_us": p50_us, "p99_us": p99_us})
    }
}

fn measure(growth: &Growth, n: u64) -> Row {
    let node = Node::start();
    let mut runs: Vec<Row> = (0..RUNS)
        .map(|run| {
            let mut args = words(&format!("load dht {} --json --seconds 2", node.addr));
            args.extend((growth.options)(n));
            if run > 0 {
                args.push("--filled".into());
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let out = on_core(1, &args).output().expect("a load");
            assert!(
                out.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            assert_eq!(told["errors"], json!({}), "{args:?}");
            let number = |value: &Value| value.as_f64().expect("a number");
            Row {
                n,
                rate: number(&told["rate"]),
                p50_us: number(&told["latency_us"]["p50"]),
                p99_us: number(&told["latency_us"]["p99"]),
            }
        })
        .collect();
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let row = runs.swap_remove(RUNS / 2);
    println!(
        "{:<11} {n:>9}  {:>9.0}/s  p50 {:>9.1} us  p99 {:>9.1} us",
        growth.name, row.rate, row.p50_us, row.p99_us
    );
    row
}

/// Rate on the left axis, latencies on the right one, all logarithmic.
fn draw(growth: &Growth, rows: &[Row], path: &Path) {
    let xs = span(rows.iter().map(|row| row.n as f64));
    let rates = span(rows.iter().map(|row| row.rate));
    let latencies = span(rows.iter().flat_map(|row| [row.p50_us, row.p99_us]));
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE).expect("draw");
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("GET against {}", growth.axis), ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .right_y_label_area_size(70)
        .build_cartesian_2d((xs.0..xs.1).log_scale(), (rates.0..rates.1).log_scale())
        .expect("axes")
        .set_secondary_coord(
            (xs.0..xs.1).log_scale(),
            (latencies.0..latencies.1).log_scale(),
        );
    chart
        .configure_mesh()
        .x_desc(growth.axis)
        .y_desc("answers a second")
        .x_label_formatter(&|n| format!("{n:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()
        .expect("mesh");
    chart
        .configure_secondary_axes()
        .y_desc("latency, microseconds")
        .y_label_formatter(&|us| format!("{us:.0}"))
        .draw()
        .expect("axes");
    let rate = rows.iter().map(|row| (row.n as f64, row.rate));
    chart
        .draw_series(LineSeries::new(rate, BLUE.stroke_width(2)).point_size(3))
        .expect("line")
        .label("rate")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
    for (label, colour) in [("p50", ORANGE), ("p99", RED)] {
        let us = |row: &Row| {
            if label == "p50" {
                row.p50_us
            } else {
                row.p99_us
            }
        };
        let points = rows.iter().map(|row| (row.n as f64, us(row)));
        chart
            .draw_secondary_series(LineSeries::new(points, colour.stroke_width(1)).point_size(3))
            .expect("line")
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .expect("labels");
    root.present().expect("write");
}

/// Least and greatest with some room.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    (low * 0.8, high * 1.25)
}

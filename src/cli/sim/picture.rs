//! `--svg`: the ring over time. Time runs to the right; a line is a position on the ring, in ring order.

use std::fmt::Write as _;

use peerloop::lab::dht::{Lane, Mark, Ring, Stage, Timeline};
use serde_json::Value;

use crate::cli::print::{filled, line};

const WIDTH: f64 = 1400.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 118.0;
/// Between the lanes and the chart below.
const BETWEEN: f64 = 54.0;
const CHART: f64 = 96.0;
const BOTTOM: f64 = 44.0;

/// All lanes together are about this high.
const LANES: f64 = 780.0;
const LANE_MIN: f64 = 5.0;
const LANE_MAX: f64 = 18.0;
/// A lane's text is not smaller.
const LABEL_MIN: f64 = 8.0;

/// A gap in service is at least this wide, so that it is seen.
const GAP_MIN: f64 = 2.0;

/// Labels of violations are this far apart.
const VIOLATION_LABEL: f64 = 48.0;

/// Shorter gaps are hand-overs.
const GAP_US_MIN: u64 = 1_000_000;

const SERVES: &str = "#3b6ea5";
const GAP: &str = "#d7263d";
const QUIET_INK: &str = "#64748b";
const INK: &str = "#1f2937";

const STYLE: &str = "\
text{font-family:Inter,Helvetica,Arial,sans-serif;fill:#1f2937}\
.small{font-size:11px;fill:#64748b}.lane{fill:#64748b}\
.serves{stroke:#3b6ea5}.heir{stroke:#b9cce0;stroke-width:1}.gap{fill:#d7263d}\
.joins{stroke:#2a9d6f;stroke-width:1.4;stroke-dasharray:3 2}.stalls{fill:#f0a202}\
.grid{stroke:#e5e9ef}.crash{stroke:#d7263d;stroke-width:1.8;fill:none}\
.silent{stroke:#7a1fa2;stroke-width:1.8;fill:none}.join{fill:#2a9d6f}.back{stroke:#2a9d6f;stroke-width:1.6;fill:#fff}\
.leave{stroke:#3b6ea5;stroke-width:1.4;fill:#fff}.reset{stroke:#8d6e63;stroke-width:1.2}.slow{fill:#8d6e63}\
.taken{stroke:#d7263d;stroke-width:.8;opacity:.6}.given{stroke:#94a3b8;stroke-width:.6}\
.broken{stroke:#d7263d;stroke-width:1;stroke-dasharray:5 3}";

const TITLE: &str = "A DHT ring of {nodes} members, R = {replicas}";
const SUBTITLE: &str = "{crashes} crashes, {joins} joins, {leaves} leaves, {stalls} stalls, {resets} resets \
     and {operations} operations in {minutes:.0} minutes: {violations} violations, {lost} lost writes";
const FIGURES: &str =
    "repair: {repair_seconds:.1} s \u{b7} gaps in service: {gap_seconds:.2} s \u{b7} seed {seed}";

/// Where things are drawn.
struct Canvas<'a> {
    text: String,
    timeline: &'a Timeline,
    /// The row of each lane.
    rows: Vec<usize>,
    lane: f64,
}

/// The picture of a run.
pub(super) fn svg(ring: &Ring, summary: &Value) -> String {
    let timeline = ring.timeline();
    let mut order: Vec<usize> = (0..timeline.lanes.len()).collect();
    order.sort_by_key(|lane| timeline.lanes[*lane].id);
    let mut rows = vec![0; order.len()];
    for (row, lane) in order.iter().enumerate() {
        rows[*lane] = row;
    }
    let mut canvas = Canvas {
        text: String::new(),
        timeline,
        rows,
        lane: (LANES / order.len().max(1) as f64).clamp(LANE_MIN, LANE_MAX),
    };
    canvas.begin(summary);
    canvas.grid();
    for lane in order {
        canvas.label(lane);
        canvas.service(lane);
        canvas.taken(lane);
        canvas.marks(lane);
    }
    canvas.members();
    let mut labelled = 0.0;
    for violation in ring.violations() {
        let x = canvas.x(violation.seconds() * 1e6);
        let (top, bottom) = (TOP - 4.0, canvas.lanes_end());
        canvas.vertical("broken", x, top, bottom);
        if x > labelled {
            let check = violation.check.to_string();
            canvas.label_at(x, top - 3.0, "middle", GAP, &check);
            labelled = x + VIOLATION_LABEL;
        }
    }
    canvas.text.push_str("</svg>\n");
    canvas.text
}

impl Canvas<'_> {
    fn lanes_end(&self) -> f64 {
        TOP + self.lane * self.rows.len() as f64
    }

    fn x(&self, us: f64) -> f64 {
        LEFT + us / (self.timeline.end_us.max(1) as f64) * (WIDTH - LEFT - RIGHT)
    }

    /// The middle of a lane.
    fn y(&self, lane: usize) -> f64 {
        TOP + self.lane * (self.rows[lane] as f64 + 0.5)
    }

    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        line(&mut self.text, what);
    }

    fn label_at(&mut self, x: f64, y: f64, anchor: &str, ink: &str, text: &str) {
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="11" text-anchor="{anchor}" style="fill:{ink}">{text}</text>"#
        ));
    }

    fn vertical(&mut self, class: &str, x: f64, from: f64, to: f64) {
        self.put(format_args!(
            r#"<path class="{class}" d="M{x:.1} {from:.1}V{to:.1}"/>"#
        ));
    }

    fn horizontal(&mut self, class: &str, y: f64, from: f64, to: f64, width: f64) {
        self.put(format_args!(
            r#"<path class="{class}" d="M{from:.1} {y:.1}H{to:.1}" stroke-width="{width:.1}"/>"#
        ));
    }

    fn bar(&mut self, class: &str, y: f64, from: f64, to: f64, height: f64) {
        let (width, top) = ((to - from).max(GAP_MIN), y - height / 2.0);
        self.put(format_args!(
            r#"<rect class="{class}" x="{from:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
        ));
    }

    fn begin(&mut self, summary: &Value) {
        let height = self.lanes_end() + BETWEEN + CHART + BOTTOM;
        self.put(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}"><style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>"#
        ));
        let texts = [
            (32.0, 21, "font-weight:600", TITLE),
            (52.0, 13, "", SUBTITLE),
            (69.0, 12, "fill:#64748b", FIGURES),
        ];
        for (y, size, style, template) in texts {
            let text = filled(template, summary);
            self.put(format_args!(
                r#"<text x="24" y="{y}" font-size="{size}" style="{style}">{text}</text>"#
            ));
        }
        self.legend(92.0);
    }

    /// Samples of everything that is drawn, in a row.
    fn legend(&mut self, y: f64) {
        let mut x = 24.0;
        let samples: [(&str, &str); 11] = [
            ("serves", "serves its range"),
            ("heir", "served by the one before"),
            ("gap", "nobody serves it"),
            ("joins", "joins"),
            ("stalls", "stalls"),
            ("crash", "crash"),
            ("silent", "machine dies"),
            ("back", "comes back"),
            ("join", "begins to join"),
            ("leave", "leaves"),
            ("reset", "connections reset"),
        ];
        for (class, name) in samples {
            let middle = y - 4.0;
            match class {
                "serves" | "heir" | "joins" => self.horizontal(class, middle, x, x + 16.0, 4.0),
                "gap" | "stalls" => self.bar(class, middle, x, x + 16.0, 6.0),
                class => self.symbol(class, x + 8.0, middle, 4.0),
            }
            self.label_at(x + 21.0, y, "start", INK, name);
            // Letters are about six wide.
            x += 21.0 + 6.0 * name.len() as f64 + 16.0;
        }
    }

    fn grid(&mut self) {
        let minutes = self.timeline.end_us as f64 / 60e6;
        let nice = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 360.0, 1440.0];
        let step = nice.into_iter().find(|step| minutes / step <= 16.0);
        let step = step.unwrap_or(minutes / 10.0);
        let bottom = self.lanes_end() + BETWEEN + CHART;
        for n in 0..=(minutes / step) as usize {
            let x = self.x(n as f64 * step * 60e6);
            self.vertical("grid", x, TOP, bottom);
            let label = format!("{} min", n as f64 * step);
            self.label_at(x, bottom + 16.0, "middle", QUIET_INK, &label);
        }
        self.label_at(LEFT, bottom + 33.0, "start", QUIET_INK, "virtual time");
    }

    /// As many labels as have room.
    fn label(&mut self, lane: usize) {
        let every = (LABEL_MIN / self.lane).ceil() as usize;
        if !self.rows[lane].is_multiple_of(every) {
            return;
        }
        let size = self.lane.clamp(LABEL_MIN, 10.0);
        let (y, ip) = (
            self.y(lane) + size * 0.35,
            self.timeline.lanes[lane].addr.ip(),
        );
        let x = LEFT - 8.0;
        self.put(format_args!(
            r#"<text class="lane" x="{x}" y="{y:.1}" font-size="{size:.1}" text-anchor="end">{ip}</text>"#
        ));
    }

    /// Who served the range of a lane, and what its node was.
    fn service(&mut self, lane: usize) {
        let (y, thick) = (self.y(lane), (self.lane * 0.5).clamp(2.0, 6.0));
        let Lane { states, owners, .. } = &self.timeline.lanes[lane];
        let (states, owners) = (states.clone(), owners.clone());
        let end = self.timeline.end_us;
        for (i, (since, owner)) in owners.iter().enumerate() {
            let until = owners.get(i + 1).map_or(end, |(until, _)| *until);
            let (from, to) = (self.x(*since as f64), self.x(until as f64));
            match owner {
                Some(owner) if *owner == lane => self.horizontal("serves", y, from, to, thick),
                Some(_) => self.horizontal("heir", y, from, to, 1.0),
                None => {}
            }
        }
        for (i, state) in states.iter().enumerate() {
            let until = states.get(i + 1).map_or(end, |next| next.since_us);
            let (from, to) = (self.x(state.since_us as f64), self.x(until as f64));
            match state.stage {
                _ if state.stalled => self.bar("stalls", y, from, to, thick),
                Stage::Joining | Stage::Listed => self.horizontal("joins", y, from, to, 1.4),
                _ => {}
            }
        }
        // Last: they are what is looked for.
        for (i, (since, owner)) in owners.iter().enumerate() {
            let until = owners.get(i + 1).map_or(end, |(until, _)| *until);
            // Hand-overs take a moment; on the line of a node that is long gone they would only be specks.
            let is_own = owners[..i]
                .last()
                .is_some_and(|(_, before)| *before == Some(lane));
            if owner.is_none() && (is_own || until - since > GAP_US_MIN) {
                let (from, to) = (self.x(*since as f64), self.x(until as f64));
                self.bar("gap", y, from, to, (thick * 0.7).max(2.0));
            }
        }
    }

    /// A line to the node that took a range over.
    fn taken(&mut self, lane: usize) {
        let owners = self.timeline.lanes[lane].owners.clone();
        let mut was_own = false;
        let mut gap_us = 0;
        for (i, (at, owner)) in owners.iter().enumerate() {
            let Some(heir) = *owner else {
                gap_us = owners.get(i + 1).map_or(0, |(end, _)| end - at);
                continue;
            };
            // From the node itself, not from one heir to the next.
            if heir != lane && was_own {
                let class = if gap_us > GAP_US_MIN {
                    "taken"
                } else {
                    "given"
                };
                let (x, from) = (self.x(*at as f64), self.y(lane));
                // The node before the first line is the last one: over the top edge.
                let is_above = self.rows[heir] < self.rows[lane];
                let to = if is_above { self.y(heir) } else { TOP - 4.0 };
                self.vertical(class, x, from, to);
            }
            (was_own, gap_us) = (heir == lane, 0);
        }
    }

    fn marks(&mut self, lane: usize) {
        let (y, size) = (self.y(lane), (self.lane * 0.4).clamp(2.5, 4.5));
        let Lane { states, marks, .. } = &self.timeline.lanes[lane];
        let first = states.first().filter(|state| state.since_us > 0);
        let begins = first.map(|state| (state.since_us, "join"));
        let marks = marks.iter().filter_map(|(at, mark)| {
            let class = match mark {
                Mark::Crash => "crash",
                Mark::SilentCrash => "silent",
                Mark::Return => "back",
                Mark::Reset => "reset",
                Mark::Shutdown => "leave",
                Mark::SlowDisk => "slow",
                // Drawn as a bar.
                Mark::Stall | Mark::Resume => return None,
            };
            Some((*at, class))
        });
        for (at, class) in begins.into_iter().chain(marks).collect::<Vec<_>>() {
            let x = self.x(at as f64);
            self.symbol(class, x, y, size);
        }
    }

    fn symbol(&mut self, class: &str, x: f64, y: f64, size: f64) {
        let (l, r, t, b) = (x - size, x + size, y - size, y + size);
        match class {
            "crash" | "silent" => self.put(format_args!(
                r#"<path class="{class}" d="M{l:.1} {t:.1}L{r:.1} {b:.1}M{r:.1} {t:.1}L{l:.1} {b:.1}"/>"#
            )),
            "join" => self.put(format_args!(
                r#"<path class="{class}" d="M{l:.1} {t:.1}L{r:.1} {y:.1}L{l:.1} {b:.1}Z"/>"#
            )),
            "leave" => self.put(format_args!(
                r#"<path class="{class}" d="M{l:.1} {t:.1}H{r:.1}V{b:.1}H{l:.1}Z"/>"#
            )),
            "reset" => self.vertical(class, x, t, b),
            class => self.put(format_args!(
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{:.1}"/>"#,
                size * 0.8
            )),
        }
    }

    /// Below: how many members there are, and how many ranges nobody serves.
    fn members(&mut self) {
        let (members, gaps) = (
            changes(self.timeline, is_member),
            changes(self.timeline, is_gap),
        );
        let most = members.iter().chain(&gaps).map(|(_, n)| *n).max();
        let (bottom, most) = (self.lanes_end() + BETWEEN + CHART, most.unwrap_or(1).max(1));
        let scale = CHART / most as f64;
        for (class, counts, fill) in [("members", members, "none"), ("none", gaps, GAP)] {
            let mut path = format!("M{LEFT:.1} {bottom:.1}");
            for (at, count) in counts {
                let (x, y) = (self.x(at as f64), bottom - count as f64 * scale);
                // Writing to a string does not fail.
                let _ = write!(path, "H{x:.1}V{y:.1}");
            }
            let right = self.x(self.timeline.end_us as f64);
            let _ = write!(path, "H{right:.1}");
            let ink = if fill == "none" { SERVES } else { GAP };
            if fill != "none" {
                let _ = write!(path, "V{bottom:.1}Z");
            }
            self.put(format_args!(
                r#"<path class="{class}" d="{path}" fill="{fill}" stroke="{ink}" stroke-width="1.4"/>"#
            ));
        }
        self.horizontal("grid", bottom, LEFT, WIDTH - RIGHT, 1.0);
        let top = bottom - CHART;
        self.label_at(LEFT - 8.0, top + 4.0, "end", QUIET_INK, &most.to_string());
        self.label_at(LEFT - 8.0, bottom, "end", QUIET_INK, "0");
        self.label_at(LEFT, top - 10.0, "start", SERVES, "members that serve");
        self.label_at(
            LEFT + 130.0,
            top - 10.0,
            "start",
            GAP,
            "ranges that nobody serves",
        );
    }
}

/// Whether a lane counts, from moments on.
type Counted = fn(&Lane) -> Vec<(u64, bool)>;

fn is_member(lane: &Lane) -> Vec<(u64, bool)> {
    let serves =
        |state: &peerloop::lab::dht::State| (state.since_us, state.serves && !state.stalled);
    lane.states.iter().map(serves).collect()
}

fn is_gap(lane: &Lane) -> Vec<(u64, bool)> {
    let owners = lane.owners.iter();
    owners.map(|(at, owner)| (*at, owner.is_none())).collect()
}

/// How many lanes count, at each moment at which that changes.
fn changes(timeline: &Timeline, counted: Counted) -> Vec<(u64, i64)> {
    let mut steps: Vec<(u64, i64)> = Vec::new();
    for lane in &timeline.lanes {
        let mut before = false;
        for (at, now) in counted(lane) {
            steps.push((at, i64::from(now) - i64::from(before)));
            before = now;
        }
    }
    steps.sort_unstable();
    let mut count = 0;
    for (_, step) in &mut steps {
        count += *step;
        *step = count;
    }
    steps
}

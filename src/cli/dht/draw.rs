//! Pictures of a ring.

use std::f64::consts::TAU;
use std::net::SocketAddrV4;

use peerloop::proto::dht::id::Id;

use super::walk::{Copies, Found, Kind, Walk, fraction};

const WIDTH: f64 = 1200.0;
const HEIGHT_MIN: f64 = 600.0;
const RADIUS: f64 = 220.0;
/// Width of the arcs.
const BAND: f64 = 22.0;
/// Labels begin so far from the middle.
const LABELS_AT: f64 = RADIUS + 60.0;
/// Between two labels on the same side of the circle.
const LINE_HEIGHT: f64 = 15.0;

/// Two colours in turn tell neighbouring arcs apart; the third is for the last of an odd number.
const COLOURS: [&str; 3] = ["#3b6ea5", "#9cbfe0", "#6f9bc8"];
const BROKEN: &str = "#c0392b";
/// A range with too few copies.
const THIN: &str = "#d08a10";
/// Nodes that are not in the ring are marked inside it.
const OUTSIDE_AT: f64 = RADIUS * 0.8;

/// Problems that a picture lists.
const PROBLEMS_SHOWN_MAX: usize = 20;

/// For graphviz: `peerloop dht ring --dot | circo -Tsvg`. An arrow leads to the next of a node. It is dashed where the node
/// does not tell it, and red where the ring has another one. A dotted red arrow leads to a previous node that is none.
pub(super) fn dot(walk: &Walk) -> String {
    let (mut nodes, mut edges) = (String::new(), String::new());
    let count = walk.members.len();
    for (number, member) in walk.members.iter().enumerate() {
        nodes += &dot_node(member, "solid");
        let beside = |places: usize| walk.members[(number + places) % count].addr;
        let (next, prev) = (beside(1), beside(count - 1));
        edges += &match member.next_told {
            Some(told) if told == next => dot_edge(member, next, ""),
            Some(told) => dot_edge(member, told, &format!("color=\"{BROKEN}\"")),
            None => dot_edge(member, next, "style=dashed"),
        };
        if let Some(told) = member.prev_told.filter(|told| *told != prev) {
            let style = format!("color=\"{BROKEN}\", style=dotted, label=prev");
            edges += &dot_edge(member, told, &style);
        }
    }
    for other in &walk.others {
        nodes += &dot_node(other, "dashed");
        if let Some(told) = other.next_told {
            edges += &dot_edge(other, told, &format!("color=\"{BROKEN}\""));
        }
    }
    let problems: Vec<_> = walk
        .problems
        .iter()
        .map(|problem| quoted(problem))
        .collect();
    let label = problems.join("\\n");
    format!(
        "digraph ring {{\n  layout=circo;\n  label=\"{label}\";\n  node [shape=box, fontname=\"sans-serif\"];\n{nodes}{edges}}}\n"
    )
}

fn dot_node(node: &Found, style: &str) -> String {
    let Found { addr, id_short, .. } = node;
    let (held, colour) = (holdings(node), colour_or(node, "black"));
    let problems: String = node
        .problems
        .iter()
        .map(|problem| format!("\\n{}", quoted(problem)))
        .collect();
    format!(
        "  \"{addr}\" [label=\"{addr}\\n{id_short}\\n{held}{problems}\", color=\"{colour}\", style={style}];\n"
    )
}

fn dot_edge(from: &Found, to: SocketAddrV4, style: &str) -> String {
    format!("  \"{}\" -> \"{to}\" [{style}];\n", from.addr)
}

/// Inside quotes of graphviz.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A circle with an arc for what each member owns; position 0 is at the top, and up is clockwise. What is wrong is red, and
/// listed below; a range with too few copies is yellow.
pub(super) fn svg(walk: &Walk) -> String {
    let problems: Vec<String> = walk.all_problems().collect();
    let picture = Picture::of(walk);
    let shown = problems.len().min(PROBLEMS_SHOWN_MAX + 1);
    let height = picture.height + shown as f64 * LINE_HEIGHT;
    let count = walk.members.len();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, member) in walk.members.iter().enumerate() {
        let odd_last = count % 2 == 1 && number + 1 == count && count > 1;
        let colour = COLOURS[if odd_last { 2 } else { number % 2 }];
        text += &picture.arc(member, colour_or(member, colour));
    }
    for member in &walk.members {
        let (x, y) = picture.point(member.place, RADIUS);
        text += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" stroke=\"white\"/>\n");
    }
    text += &picture.middle(walk);
    for other in &walk.others {
        text += &picture.outside(other);
    }
    text += &(picture.labels(walk, true) + &picture.labels(walk, false));
    text + &picture.list(&problems) + "</svg>\n"
}

/// A member with problems has a colour of its own; one that lacks copies and nothing else, another.
fn colour_or(member: &Found, fine: &'static str) -> &'static str {
    let is_thin = member.copies.is_some_and(Copies::are_too_few);
    match member.problems.len() {
        0 => fine,
        1 if is_thin => THIN,
        _ => BROKEN,
    }
}

struct Picture {
    height: f64,
}

impl Picture {
    /// High enough for the labels of the fuller side.
    fn of(walk: &Walk) -> Picture {
        let right = walk.members.iter().filter(|member| is_right(member));
        let right = right.count();
        let lines = right.max(walk.members.len() - right) + 2;
        Picture {
            height: HEIGHT_MIN.max(lines as f64 * LINE_HEIGHT),
        }
    }

    /// Where a place of the ring is at this distance from the middle.
    fn point(&self, place: f64, radius: f64) -> (f64, f64) {
        let (sin, cos) = (place * TAU).sin_cos();
        (WIDTH / 2.0 + radius * sin, self.height / 2.0 - radius * cos)
    }

    /// What a member owns.
    fn arc(&self, member: &Found, colour: &str) -> String {
        // An arc from a point to itself is not drawn: a whole circle is a little less.
        let share = (member.share_percent / 100.0).min(0.9999);
        let (x, y) = self.point(member.place, RADIUS);
        let (to_x, to_y) = self.point(member.place + share, RADIUS);
        let large = i32::from(share > 0.5);
        format!(
            "<path d=\"M{x:.2} {y:.2} A{RADIUS} {RADIUS} 0 {large} 1 {to_x:.2} {to_y:.2}\" fill=\"none\" \
             stroke=\"{colour}\" stroke-width=\"{BAND}\"/>\n"
        )
    }

    /// What is said of the ring as a whole.
    fn middle(&self, walk: &Walk) -> String {
        let count = walk.members.len();
        let members = if count == 1 { "member" } else { "members" };
        let (state, colour) = match walk.is_consistent() {
            true => ("consistent", "black"),
            false => ("INCONSISTENT", BROKEN),
        };
        let (x, y) = (WIDTH / 2.0, self.height / 2.0);
        format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"16\">{count} {members}</text>\n\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"{colour}\">{state}</text>\n",
            y + LINE_HEIGHT
        )
    }

    /// A node that is not in the ring, and an arrow to what it takes for its next.
    fn outside(&self, node: &Found) -> String {
        let (x, y) = self.point(node.place, OUTSIDE_AT);
        let colour = colour_or(node, "#888");
        let arrow = node.next_told.map_or(String::new(), |next| {
            let (to_x, to_y) = self.point(fraction(Id::of_addr(next)), RADIUS - BAND / 2.0);
            format!(
                "<path d=\"M{x:.1} {y:.1} L{to_x:.1} {to_y:.1}\" stroke=\"{colour}\" stroke-dasharray=\"4 3\"/>\n"
            )
        });
        format!(
            "{arrow}<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"white\" stroke=\"{colour}\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{colour}\">{}</text>\n",
            y + LINE_HEIGHT,
            node.addr
        )
    }

    /// Lines below the circle.
    fn list(&self, problems: &[String]) -> String {
        let more = problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        let more = (more > 0).then(|| format!("and {more} more"));
        let shown = problems.iter().take(PROBLEMS_SHOWN_MAX).chain(&more);
        let line = |(problem, number): (&String, u32)| {
            let y = self.height + f64::from(number) * LINE_HEIGHT;
            let safe = problem.replace('&', "&amp;").replace('<', "&lt;");
            format!("<text x=\"20\" y=\"{y}\" fill=\"{BROKEN}\">{safe}</text>\n")
        };
        shown.zip(0..).map(line).collect()
    }

    /// Labels beside the circle, each as near to the height of its member as the others allow.
    fn labels(&self, walk: &Walk, right: bool) -> String {
        let side = walk.members.iter();
        let mut side: Vec<_> = side.filter(|member| is_right(member) == right).collect();
        let height = |member: &Found, radius| self.point(member.place, radius).1;
        side.sort_by(|a, b| height(a, 1.0).total_cmp(&height(b, 1.0)));
        let wanted = side.iter().map(|member| height(member, RADIUS * 1.25));
        let spread = self.spread(wanted.collect());
        let (sign, anchor) = if right { (1.0, "start") } else { (-1.0, "end") };
        let x = WIDTH / 2.0 + sign * LABELS_AT;
        let label = |(member, y): (&Found, f64)| {
            let (from_x, from_y) = self.point(member.place, RADIUS + BAND / 2.0);
            let (by_x, by_y) = (x - sign * 5.0, y - 4.0);
            let (held, colour) = (holdings(member), colour_or(member, "#222"));
            format!(
                "<path d=\"M{from_x:.1} {from_y:.1} L{by_x:.1} {by_y:.1}\" stroke=\"#bbb\"/>\n\
                 <text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{} \u{b7} {held}</text>\n",
                member.addr
            )
        };
        side.into_iter().zip(spread).map(label).collect()
    }

    /// Moves heights, sorted from top to bottom, so that any two are a line apart.
    fn spread(&self, mut heights: Vec<f64>) -> Vec<f64> {
        let mut least = LINE_HEIGHT;
        for y in &mut heights {
            *y = y.max(least);
            least = *y + LINE_HEIGHT;
        }
        let mut most = self.height - LINE_HEIGHT;
        for y in heights.iter_mut().rev() {
            *y = y.min(most);
            most = *y - LINE_HEIGHT;
        }
        heights
    }
}

fn is_right(member: &Found) -> bool {
    member.place < 0.5
}

fn holdings(node: &Found) -> String {
    let share = format!("{:.1}%", node.share_percent);
    let entries = node.entries.map(|entries| format!("{entries} entries"));
    let copies = node.copies_text().map(|copies| format!("copies {copies}"));
    let plain = (node.kind == Kind::Plain).then(|| "plain".into());
    let known = [Some(share), entries, copies, plain];
    known.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

//! Pictures of a ring.

use std::f64::consts::TAU;

use super::walk::{Found, Walk};

const WIDTH: f64 = 1040.0;
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

/// For graphviz: `peerloop dht ring --dot | circo -Tsvg`.
pub(super) fn dot(walk: &Walk) -> String {
    let (mut nodes, mut edges) = (String::new(), String::new());
    for (number, member) in walk.members.iter().enumerate() {
        let Found { addr, id_short, .. } = member;
        let (held, colour) = (holdings(member), colour_or(member, "black"));
        let label = format!("{addr}\\n{id_short}\\n{held}");
        nodes += &format!("  \"{addr}\" [label=\"{label}\", color=\"{colour}\"];\n");
        let next = walk.members[(number + 1) % walk.members.len()].addr;
        edges += &format!("  \"{addr}\" -> \"{next}\";\n");
    }
    format!(
        "digraph ring {{\n  layout=circo;\n  node [shape=box, fontname=\"sans-serif\"];\n{nodes}{edges}}}\n"
    )
}

/// A circle with an arc for what each member owns; position 0 is at the top, and up is clockwise.
pub(super) fn svg(walk: &Walk) -> String {
    let picture = Picture::of(walk);
    let Picture { height, .. } = picture;
    let (middle_x, middle_y) = (WIDTH / 2.0, height / 2.0);
    let count = walk.members.len();
    let members = if count == 1 { "member" } else { "members" };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{middle_x}\" y=\"{middle_y}\" text-anchor=\"middle\" font-size=\"16\">\
         {count} {members}</text>\n"
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
    text + &picture.labels(walk, true) + &picture.labels(walk, false) + "</svg>\n"
}

/// A member with problems has a colour of its own.
fn colour_or(member: &Found, fine: &'static str) -> &'static str {
    let is_fine = member.problems.is_empty();
    if is_fine { fine } else { BROKEN }
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

fn holdings(member: &Found) -> String {
    match member.entries {
        Some(entries) => format!("{:.1}%, {entries} entries", member.share_percent),
        None => format!("{:.1}%", member.share_percent),
    }
}

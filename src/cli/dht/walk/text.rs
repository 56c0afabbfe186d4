//! A walk as text for people.

use std::fmt::{self, Display, Formatter};

use super::visit::Kind;
use super::{Copies, Found, Walk};

impl Display for Walk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [id, member, share, entries] = ["id", "member", "share", "entries"];
        let [copies, lease] = ["copies", "lease"];
        writeln!(
            f,
            "{id:<8}  {member:<21}  {share:>7}  {entries:>9}  {copies:>6}  {lease:>5}"
        )?;
        for member in &self.members {
            writeln!(f, "{}", Line(member, true))?;
        }
        if !self.others.is_empty() {
            writeln!(f, "not in the ring:")?;
        }
        for other in &self.others {
            writeln!(f, "{}", Line(other, false))?;
        }
        for problem in &self.problems {
            writeln!(f, "! {problem}")?;
        }
        let told = self.members.iter().filter_map(|member| member.entries);
        let entries: u64 = told.sum();
        let state = if self.consistent {
            "consistent"
        } else {
            "INCONSISTENT"
        };
        let members = self.members.len();
        write!(f, "{members} members, {entries} entries told of, ")?;
        if self.under_replicated > 0 {
            write!(f, "{} ranges with too few copies, ", self.under_replicated)?;
        }
        writeln!(f, "{state}")
    }
}

/// A node, and whether it is in the ring.
struct Line<'a>(&'a Found, bool);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Line(node, in_ring) = *self;
        let or = |known: Option<String>, unknown: &str| known.unwrap_or_else(|| unknown.into());
        let share = in_ring.then(|| format!("{:.2}%", node.share_percent));
        let entries = node.entries.map(|entries| entries.to_string());
        let lease = node.lease_secs.map(|secs| format!("{secs} s"));
        write!(
            f,
            "{}  {:<21}  {:>7}  {:>9}  {:>6}  {:>5}",
            node.id_short,
            node.addr.to_string(),
            or(share, "-"),
            or(entries, "unknown"),
            or(node.copies_text(), "-"),
            or(lease, "-"),
        )?;
        let kind = (node.kind == Kind::Plain).then_some("is a plain peer");
        for note in kind
            .into_iter()
            .chain(node.notes.iter().map(String::as_str))
        {
            write!(f, "  ({note})")?;
        }
        for problem in &node.problems {
            write!(f, "  ! {problem}")?;
        }
        Ok(())
    }
}

impl Found {
    /// How many copies there are of how many; nothing where there should be none.
    pub(in crate::cli::dht) fn copies_text(&self) -> Option<String> {
        let Copies { complete, wanted } = self.copies?;
        (wanted > 0 || complete > 0).then(|| format!("{complete}/{wanted}"))
    }
}

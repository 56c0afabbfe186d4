//! Lists for people: columns, and names that do nothing to a terminal.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr;

/// A name with every control character escaped, and those that turn the direction of text.
pub(in crate::cli) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Rows under a heading, each column as wide as its widest cell; the last one as it comes.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(str::width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (n, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let space = if n + 1 < N {
                width - cell.width() + 2
            } else {
                0
            };
            // Writing to a string does not fail.
            let _ = write!(text, "{cell}{:space$}", "");
        }
        text.push('\n');
    };
    line(heading);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

/// A size for people.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_a_terminal() {
        let name = "a\u{1b}[31m\r\n\u{7f}\u{9b}\u{202e}b\u{e4}";
        let safe = escaped(name);
        assert!(!safe.chars().any(char::is_control), "{safe:?}");
        assert_eq!(safe, "a\\u{1b}[31m\\r\\n\\u{7f}\\u{9b}\\u{202e}b\u{e4}");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["\u{4f60}".into(), "1".into()], ["abc".into(), "22".into()]];
        assert_eq!(table(["x", "n"], &rows), "x    n\n\u{4f60}   1\nabc  22\n");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1000, 999_499, 1_048_576, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "1.0 kB", "999.5 kB", "1.0 MB", "18446.7 PB"]
        );
    }
}

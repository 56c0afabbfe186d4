//! Tables and sizes as text.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr;

/// A table: each column but the last is as wide as its widest cell.
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

/// A size with a unit.
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

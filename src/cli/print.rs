//! Printing that several commands share.

use std::fmt::{Display, Write as _};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

pub(super) fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| io.kind() == ErrorKind::BrokenPipe)
}

/// Writes to stdout and flushes.
pub(super) fn stdout(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context("cannot write to stdout")
}

/// One JSON object on a line of its own.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stdout(&line)
}

/// Prints a result as one JSON object, or as text.
pub(super) fn result(as_json: bool, found: &(impl Serialize + Display)) -> Result<()> {
    if as_json {
        return json(found);
    }
    stdout(found.to_string().as_bytes())
}

/// Prints figures as one JSON object, or as a text that shows its fields.
pub(super) fn figures(as_json: bool, figures: &Value, template: &str) -> Result<()> {
    if as_json {
        return json(figures);
    }
    stdout(filled(template, figures).as_bytes())
}

/// Fills a template with the fields of a JSON object: `{field}`, `{field.inner}`, `{field:.2}` with two digits.
pub(super) fn filled(template: &str, fields: &Value) -> String {
    let mut pieces = template.split('{');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (field, after) = piece.split_once('}').unwrap_or((piece, ""));
        let (path, digits) = field.split_once(":.").unwrap_or((field, ""));
        let value = path.split('.').try_fold(fields, |of, name| of.get(name));
        debug_assert!(value.is_some(), "no field {path} in {fields}");
        text += &value.map_or(String::new(), |value| shown(value, digits.parse().ok()));
        text += after;
    }
    text
}

/// A value as text. An object is its fields with their names; `_` in a name stands for a point.
fn shown(value: &Value, digits: Option<usize>) -> String {
    match (value, value.as_f64(), digits) {
        (_, Some(number), Some(digits)) => format!("{number:.digits$}"),
        (Value::Number(n), Some(number), None) if n.is_f64() => number.to_string(),
        (Value::String(text), ..) => text.clone(),
        (Value::Object(fields), ..) => {
            let field = |(name, value): (&String, _)| {
                format!("{} {}", name.replace('_', "."), shown(value, digits))
            };
            fields.iter().map(field).collect::<Vec<_>>().join("  ")
        }
        (other, ..) => other.to_string(),
    }
}

/// Replaces a file atomically: the bytes go to a file beside it, which is then renamed. A device or a pipe is written
/// to directly.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).with_context(context);
    }
    replace_file(path, 0o666, bytes).with_context(context)
}

/// Replaces a file by one of this mode, less what the umask takes away.
pub(super) fn replace_file(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let part = PathBuf::from(format!("{}.part-{}", path.display(), std::process::id()));
    let mut new = OpenOptions::new();
    let mut file = new.write(true).create_new(true).mode(mode).open(&part)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&part, path))
        .inspect_err(|_| _ = std::fs::remove_file(&part))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Text of a peer, safe for a terminal: control characters are escaped, and those that end a line or change the
/// direction of text.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Text from peers: on a terminal without its control characters, for a program as it is.
pub(super) fn for_people(text: &str) -> String {
    if io::stdout().is_terminal() {
        escaped(text)
    } else {
        text.into()
    }
}

/// Adds a line to a text.
pub(super) fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// A progress bar on stderr, if that is a terminal.
pub(super) fn bar(template: &str, total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    // The template is a constant, and a good one: the default would only look different.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// An error on one line, escaped: it may quote a peer.
pub(super) fn error(e: &anyhow::Error) -> String {
    escaped(&format!("{e:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled() {
        let fields =
            serde_json::json!({"n": 3, "f": 2.0, "ms": {"p50": 1.256, "p99_9": 2}, "name": "x"});
        let text = filled(
            "{name}: {n} of {f} ({f:.1}), {ms.p50:.2}, {ms:.1} ms\n",
            &fields,
        );
        assert_eq!(text, "x: 3 of 2 (2.0), 1.26, p50 1.3  p99.9 2.0 ms\n");
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        let name = "a\u{1b}[31m\r\n\u{7f}\u{9b}\u{202e}b\u{e4}";
        let safe = escaped(name);
        assert!(!safe.chars().any(char::is_control), "{safe:?}");
        assert_eq!(safe, "a\\u{1b}[31m\\r\\n\\u{7f}\\u{9b}\\u{202e}b\u{e4}");
    }
}

//! Printing that several commands share.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

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

/// What a command found: one JSON object, or the same for people.
pub(super) fn result(as_json: bool, found: &(impl Serialize + Display)) -> Result<()> {
    if as_json {
        return json(found);
    }
    stdout(found.to_string().as_bytes())
}

/// Writes a whole file, or leaves what was there: the bytes go to a file beside it, which then takes its name.
/// What is no regular file (a device, a pipe) is written to directly.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).with_context(context);
    }
    let part = PathBuf::from(format!("{}.part-{}", path.display(), std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create_new(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write()
        .inspect_err(|_| _ = std::fs::remove_file(&part))
        .with_context(context)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What somebody else sent, as a terminal may show it: every control character escaped, and those that end the line or
/// turn the direction of what follows.
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

/// What others sent, for a terminal without its control characters; for a program as it is.
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

/// An error on one line. Peers' words may be in it.
pub(super) fn error(e: &anyhow::Error) -> String {
    escaped(&format!("{e:#}"))
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
}

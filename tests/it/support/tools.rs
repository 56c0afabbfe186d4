//! Programs that some tests need beside ours, and what happens where they are missing: the test says that it is skipped,
//! since `cargo test` has no word for it, and fails where `CI` is set in the environment.

use std::io::Write;
use std::process::{Command, Stdio};

/// `python3`, where it is installed.
pub fn python3() -> Option<Command> {
    find("python3")
}

/// `script`, which gives a program a terminal, where it is installed.
pub fn script() -> Option<Command> {
    find("script")
}

fn find(tool: &str) -> Option<Command> {
    let mut version = Command::new(tool);
    version.arg("--version");
    let is_there = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if is_there.is_ok_and(|status| status.success()) {
        return Some(Command::new(tool));
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{tool} is not installed, and CI must have it"
    );
    skipped(&format!("{tool} is not installed"));
    None
}

/// Says on the standard error that the test, or a part of it, is skipped. The harness captures what `eprintln!` prints,
/// and not this.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}

//! A program on a pseudo terminal.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use super::tools::script;
use super::{DEADLINE, wait, wait_until};

/// A program on a terminal that `script` gives it.
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// `None` where there is no `script`.
    pub fn start(words: &str) -> Option<Terminal> {
        let mut command = script()?;
        let line = format!("{} {words}", env!("CARGO_BIN_EXE_peerloop"));
        let mut child = command
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut from = child.stdout.take().expect("piped");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let into = shown.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut piece) {
                into.lock().expect("shown").extend_from_slice(&piece[..n]);
            }
        });
        Some(Terminal { child, shown })
    }

    /// Waits for this text and forgets everything up to there.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let came = wait_until(DEADLINE, || {
            let mut shown = self.shown.lock().expect("shown");
            let at = shown
                .windows(text.len())
                .position(|piece| piece == text.as_bytes());
            at.map(|at| shown.drain(..at + text.len())).is_some()
        });
        let shown = self.shown.lock().expect("shown");
        assert!(came, "no {text:?} in {}", shown.escape_ascii());
    }

    /// Closes the terminal under the program, which may live on.
    pub fn hang_up(self) {
        drop(self);
    }

    /// The exit code, once it has ended.
    pub fn wait(&mut self) -> Option<i32> {
        wait(&mut self.child, DEADLINE)?.code()
    }

    pub fn line(&mut self, line: &str) {
        let to = self.child.stdin.as_mut().expect("piped");
        to.write_all(format!("{line}\r").as_bytes()).expect("write");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A process whose lines on stdout are what a test looks at.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::{DEADLINE, wait_until};

/// Killed, by its id, when the test is over.
pub struct Talker {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Talker {
    pub fn start(command: &mut Command) -> Talker {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let stdout = child.stdout.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                into.lock().expect("lines").push(line);
            }
        });
        Talker { child, lines }
    }

    /// Waits for line number `n`.
    #[track_caller]
    pub fn line(&self, n: usize) -> String {
        let line = || self.lines.lock().expect("lines").get(n).cloned();
        assert!(wait_until(DEADLINE, || line().is_some()), "no line {n}");
        line().expect("there")
    }
}

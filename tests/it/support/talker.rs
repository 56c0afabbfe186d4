//! A process whose lines on stdout are what a test looks at.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{DEADLINE, wait_until};

/// Lines of a pipe, gathered on a thread.
pub struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Lines {
    pub fn of(pipe: Option<impl Read + Send + 'static>) -> Lines {
        let pipe = BufReader::new(pipe.expect("piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                into.lock().expect("lines").push(line);
            }
        });
        Lines { lines, reader }
    }

    /// What has come so far, without the first `skipped` lines.
    pub fn text(&self, skipped: usize) -> String {
        let lines = self.lines.lock().expect("lines");
        let line = |line: &String| line.clone() + "\n";
        lines.iter().skip(skipped).map(line).collect()
    }

    /// Waits for line number `n`, or for the end of the pipe.
    pub fn line(&self, n: usize) -> Option<String> {
        let line = || self.lines.lock().expect("lines").get(n).cloned();
        wait_until(DEADLINE, || self.reader.is_finished() || line().is_some());
        line()
    }
}

/// Killed, by its id, when the test is over.
pub struct Talker {
    pub child: Child,
    pub lines: Lines,
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Talker {
    pub fn start(command: &mut Command) -> Talker {
        Talker::with_stdin(command, Stdio::null())
    }

    pub fn with_stdin(command: &mut Command, stdin: Stdio) -> Talker {
        let piped = command.stdin(stdin).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("spawn");
        let lines = Lines::of(child.stdout.take());
        Talker { child, lines }
    }

    /// Waits for line number `n`.
    #[track_caller]
    pub fn line(&self, n: usize) -> String {
        let line = self.lines.line(n);
        line.unwrap_or_else(|| panic!("no line {n}"))
    }

    /// The address in its first line, `listening IP:PORT`, once that is there.
    pub fn listening(&self) -> Option<SocketAddrV4> {
        self.lines.line(0)?.strip_prefix("listening ")?.parse().ok()
    }
}

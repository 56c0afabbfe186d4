//! Lines that a loop prints without ever waiting for the reader: they go to a buffer, which a thread writes out. When the
//! buffer is full, lines are dropped and counted.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Bytes that wait to be written: some thousands of lines, which a reader that stops for a moment does not lose.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// At the end, how long a reader may take for what waits.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Writes whole lines.
pub(super) type Sink = Box<dyn FnMut(&[u8]) -> Result<()> + Send>;

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    /// The thread is writing.
    busy: bool,
    over: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// The end that the loop holds.
pub(super) struct Lines {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Lines {
    /// What is pushed waits for [`Lines::write_to`].
    pub(super) fn new() -> Lines {
        Lines {
            shared: Arc::default(),
            writer: None,
        }
    }

    /// Starts the thread that writes.
    pub(super) fn write_to(&mut self, sink: Sink) -> Result<()> {
        let shared = self.shared.clone();
        let writer = std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || shared.write_out(sink))?;
        self.writer = Some(writer);
        Ok(())
    }

    /// Has `put` append whole lines, if there is room.
    pub(super) fn push(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.shared.lock();
        if waiting.lines.len() >= WAITING_BYTES_MAX {
            waiting.dropped += 1;
            return;
        }
        put(&mut waiting.lines);
        let busy = waiting.busy;
        drop(waiting);
        // A thread that is writing looks again by itself.
        if !busy {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything is written, but not for long.
    pub(super) fn finish(self) {
        let Some(writer) = self.writer else { return };
        let until = Instant::now() + LAST_WORDS;
        let mut waiting = self.shared.lock();
        waiting.over = true;
        self.shared.changed.notify_all();
        while (waiting.busy || !waiting.lines.is_empty()) && !writer.is_finished() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (waiting, _) = self
                .shared
                .changed
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, until [`Lines::finish`].
    fn write_out(&self, mut sink: Sink) {
        let (mut lines, mut open) = (Vec::new(), true);
        let mut waiting = self.lock();
        loop {
            waiting = self
                .changed
                .wait_while(waiting, |it| it.lines.is_empty() && !it.over)
                .unwrap_or_else(PoisonError::into_inner);
            if waiting.lines.is_empty() {
                return;
            }
            std::mem::swap(&mut lines, &mut waiting.lines);
            let dropped = std::mem::take(&mut waiting.dropped);
            waiting.busy = true;
            drop(waiting);
            if open && let Err(e) = sink(&lines) {
                log::warn!("nothing more is printed: {e:#}");
                open = false;
            }
            if dropped > 0 {
                log::warn!("{dropped} lines were not printed: nobody took them");
            }
            lines.clear();
            waiting = self.lock();
            waiting.busy = false;
            self.changed.notify_all();
        }
    }
}

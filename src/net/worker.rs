//! A worker thread: does what would block the loop, in groups.
//!
//! It takes everything that came in while it was busy as one group, so the more writes there are, the more of
//! them share one commit. Order is kept; every job comes back exactly once.
//!
//! A worker that panics wakes the loop, which ends with an error: no result of it is made up, so nothing is
//! acknowledged that was not done, and no connection waits for an answer that cannot come. (Where panics abort, the
//! process is gone before that.)

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::vec;

use mio::Waker;

use crate::engine::Work;

/// Jobs in one group: bounds how long the first waits for the last.
const GROUP_JOBS_MAX: usize = 4096;

pub(super) struct Worker<J, D> {
    /// `None` only while it is dropped. How many jobs are queued is bounded by the engine (`jobs_max`).
    jobs: Option<Sender<J>>,
    done: Receiver<Vec<D>>,
    /// What is left of a group of results that was larger than a turn's share.
    group: vec::IntoIter<D>,
    /// The last share was used up: there may be more.
    has_done: bool,
    under_way: usize,
    /// `None` once it is abandoned.
    thread: Option<JoinHandle<()>>,
}

impl<J, D> Worker<J, D> {
    pub(super) fn start(
        work: impl Work<Job = J, Done = D>,
        waker: Arc<Waker>,
    ) -> io::Result<Worker<J, D>>
    where
        J: Send + 'static,
        D: Send + 'static,
    {
        let (jobs, jobs_in) = channel();
        let (done_out, done) = channel();
        let results = Results {
            done: Some(done_out),
            waker,
        };
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || work_in_groups(work, &jobs_in, &results))?;
        Ok(Worker {
            jobs: Some(jobs),
            done,
            group: Vec::new().into_iter(),
            has_done: false,
            under_way: 0,
            thread: Some(thread),
        })
    }

    /// Jobs handed in and not taken back.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) fn submit(&mut self, job: J) -> io::Result<()> {
        self.under_way += 1;
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        sent.then_some(()).ok_or_else(gone)
    }

    /// There may be results that [`Worker::take_done`] left.
    pub(super) fn has_done(&self) -> bool {
        self.has_done
    }

    /// Takes at most `share` results, in the order of the jobs.
    ///
    /// # Errors
    /// When the thread is gone and all its results are taken.
    pub(super) fn take_done(&mut self, share: usize, mut each: impl FnMut(D)) -> io::Result<()> {
        let mut left = share;
        while left > 0 {
            if let Some(done) = self.group.next() {
                left -= 1;
                self.under_way -= 1;
                each(done);
                continue;
            }
            match self.done.try_recv() {
                Ok(group) => self.group = group.into_iter(),
                Err(TryRecvError::Empty) => {
                    self.has_done = false;
                    return Ok(());
                }
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        }
        self.has_done = true;
        Ok(())
    }

    /// The thread is not joined: it ends with the process, or when it has done its jobs.
    pub(super) fn abandon(&mut self) {
        self.thread = None;
    }
}

impl<J, D> Drop for Worker<J, D> {
    /// Waits until the jobs handed in are done, unless the worker was abandoned or the loop panics.
    fn drop(&mut self) {
        self.jobs = None;
        let thread = self.thread.take().filter(|_| !std::thread::panicking());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other(
        "the worker thread ended, see its message above; what it had not done is not done",
    )
}

/// The thread's end of the results. The loop is woken when the thread ends, however it ends: it would wait for ever.
struct Results<D> {
    done: Option<Sender<Vec<D>>>,
    waker: Arc<Waker>,
}

impl<D> Results<D> {
    /// False when the loop is gone, or cannot be woken.
    fn send(&self, results: Vec<D>) -> bool {
        let sent = self.done.as_ref().is_some_and(|d| d.send(results).is_ok());
        let woken = self.waker.wake();
        if let Err(e) = &woken {
            log::error!("the worker cannot wake the loop: {e}");
        }
        sent && woken.is_ok()
    }
}

impl<D> Drop for Results<D> {
    fn drop(&mut self) {
        // First, so that the loop finds the channel closed when it wakes.
        self.done = None;
        // Without a wake-up the loop learns of it when it looks the next time, see `LOOK_EVERY` in `host.rs`.
        let _ = self.waker.wake();
    }
}

fn work_in_groups<W: Work>(mut work: W, jobs: &Receiver<W::Job>, done: &Results<W::Done>) {
    let mut group = Vec::new();
    while let Ok(first) = jobs.recv() {
        group.push(first);
        group.extend(jobs.try_iter().take(GROUP_JOBS_MAX - 1));
        let (count, mut results) = (group.len(), Vec::with_capacity(group.len()));
        work.run(&mut group, &mut results);
        assert!(
            group.is_empty() && results.len() == count,
            "one result for every job"
        );
        if !done.send(results) {
            return;
        }
    }
}

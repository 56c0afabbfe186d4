//! A worker thread: does what would block the loop, in groups.
//!
//! It takes everything that came in while it was busy as one group, so the more writes there are, the more of
//! them share one commit. Order is kept; every job comes back exactly once.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use mio::Waker;

use crate::engine::Work;

/// Jobs in one group: bounds how long the first waits for the last.
const GROUP_JOBS_MAX: usize = 4096;

pub(super) struct Worker<J, D> {
    /// `None` only while it is dropped. How many jobs are queued is bounded by the engine (`jobs_max`).
    jobs: Option<Sender<J>>,
    done: Receiver<Vec<D>>,
    under_way: usize,
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
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || work_in_groups(work, &jobs_in, &done_out, &waker))?;
        Ok(Worker {
            jobs: Some(jobs),
            done,
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

    pub(super) fn take_done(&mut self, mut each: impl FnMut(D)) -> io::Result<()> {
        loop {
            match self.done.try_recv() {
                Ok(group) => {
                    self.under_way -= group.len();
                    group.into_iter().for_each(&mut each);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        }
    }
}

impl<J, D> Drop for Worker<J, D> {
    /// Lets the jobs under way finish.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the worker thread ended; see its panic message above")
}

fn work_in_groups<W: Work>(
    mut work: W,
    jobs: &Receiver<W::Job>,
    done: &Sender<Vec<W::Done>>,
    waker: &Waker,
) {
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
        if done.send(results).is_err() || waker.wake().is_err() {
            return;
        }
    }
}

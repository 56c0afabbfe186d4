//! The serving side of a synchronisation ([`super::sync`]): XDIGEST, XKEYS and XFETCH.
//!
//! A digest looks at every entry of its range, and keys take long to write: both are jobs, done in pieces, one piece of
//! one job in a turn. The connection waits meanwhile, so each has one job at most.

use std::collections::VecDeque;

use super::compare::{COMPARED_PER_TURN, Digesting};
use crate::engine::{ConnId, Cx, Hub, Step, Violation};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Timer};

use crate::proto::dht::wire::extension::{self, KEYS_MAX, Reply};

/// Jobs at once, over all connections. A peer whose job would be one more is closed.
const JOBS_MAX: usize = 32;

/// Keys written in one turn: about 30 us.
const KEYS_PER_TURN: usize = 96;

/// The jobs that are not done, in the order of their next pieces.
#[derive(Debug, Default)]
pub(crate) struct Comparisons(VecDeque<Job>);

impl Comparisons {
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Job {
    conn: ConnId,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Digest(Box<Digesting>),
    /// Keys that are still to be written, from the back to the front.
    Keys(Vec<(Id, u64)>),
}

impl DhtNode {
    pub(super) fn serve_digest(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (start, end): (Id, Id),
        used: usize,
    ) -> Result<Step, Violation> {
        self.add_job(cx, Work::Digest(Box::new(Digesting::new(start, end))))?;
        Ok(Step::Wait(used))
    }

    pub(super) fn serve_keys(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (start, end): (Id, Id),
        used: usize,
    ) -> Result<Step, Violation> {
        // All at once, as the count comes first and entries come and go.
        let entries = self.entries.arc_with_tombstones(start, end);
        let keys = entries.map(|(key, entry)| (key, entry.version.0));
        let mut keys: Vec<(Id, u64)> = keys.take(KEYS_MAX + 1).collect();
        if keys.len() > KEYS_MAX {
            Reply::No.put(cx.out());
            return Ok(Step::Done(used));
        }
        extension::put_keys_head(cx.out(), keys.len());
        keys.reverse();
        if put_some(cx.out(), &mut keys) {
            return Ok(Step::Done(used));
        }
        self.add_job(cx, Work::Keys(keys))?;
        Ok(Step::Wait(used))
    }

    pub(super) fn serve_fetch(&mut self, cx: &mut Cx<'_, Self>, key: Id) {
        let Some(entry) = self.entries.entry(key) else {
            return Reply::No.put(cx.out());
        };
        let length = entry.value.as_ref().map(|value| value.len() as u64);
        extension::put_entry_head(cx.out(), entry.version.0, length);
        if let Some(value) = &entry.value {
            cx.send(value);
        }
    }

    fn add_job(&mut self, cx: &mut Cx<'_, Self>, work: Work) -> Result<(), Violation> {
        let jobs = &mut self.comparisons.0;
        if jobs.len() == JOBS_MAX {
            return Err(Violation::limit("too many ranges compared at once"));
        }
        let conn = cx.id();
        jobs.push_back(Job { conn, work });
        cx.soon(Timer::Compare);
        Ok(())
    }

    /// The next piece of one job.
    pub(crate) fn compare_some(&mut self, hub: &mut Hub<Self>) {
        let Some(mut job) = self.comparisons.0.pop_front() else {
            return;
        };
        // The job of a connection that is gone is dropped.
        if let Some(out) = hub.output_of(job.conn) {
            let done = match &mut job.work {
                Work::Digest(digesting) => {
                    let parts = digesting.step(&self.entries, COMPARED_PER_TURN);
                    let reply = parts.map(|parts| Reply::Digest(Box::new(*parts)));
                    reply.inspect(|reply| reply.put(out)).is_some()
                }
                Work::Keys(keys) => put_some(out, keys),
            };
            if done {
                hub.resume(job.conn);
            } else {
                self.comparisons.0.push_back(job);
            }
        }
        if !self.comparisons.0.is_empty() {
            hub.soon(Timer::Compare);
        }
    }
}

/// Writes the last keys of the list; true when none is left.
fn put_some(out: &mut Vec<u8>, keys: &mut Vec<(Id, u64)>) -> bool {
    let left = keys.len().saturating_sub(KEYS_PER_TURN);
    for (key, version) in keys.drain(left..).rev() {
        extension::put_version(out, key, version);
    }
    keys.is_empty()
}

//! Runs what takes longer than a turn may: indexing, purging, long searches, lists of many peers. One task at a time and
//! some steps of it each turn, so that connections are served in between.
//!
//! ```text
//!   tasks: [ front │ ... ]   a query stays in front until it is done; a change goes to the back after its share
//! ```
//! Invariant: only the task at the front changes the catalogue. A search at the front continues where it was, and a
//! search that fits a turn, which is no task, always finds the catalogue whole.

use std::str;

use crate::engine::{Cx, Hub};
use crate::proto::index::catalog::HolderNo;
use crate::proto::index::fields::FileLine;
use crate::proto::index::wire::write_ko;

use super::operation::{BUSY, later};
use super::task::{STEPS_PER_TURN, Task};
use super::{IndexServer, Timer};

/// Queries among the tasks; further ones are told to come back. At 5 ms each (two words in 100,000 names each) the last
/// one waits a second.
const QUERIES_MAX: usize = 256;

impl IndexServer {
    pub(super) fn add_task(&mut self, hub: &mut Hub<Self>, task: Task) {
        self.tasks.push_back(task);
        self.schedule(hub);
    }

    /// Arms [`Timer::Tasks`] if tasks wait: one for all of them, also for those that a task adds.
    pub(super) fn schedule(&mut self, hub: &mut Hub<Self>) {
        if !self.is_running && !self.tasks.is_empty() {
            hub.soon(Timer::Tasks);
            self.is_running = true;
        }
    }

    /// Adds a query, or writes a KO of type `ko` and returns false if too many wait.
    pub(super) fn add_query(&mut self, cx: &mut Cx<'_, Self>, task: Task, ko: u16) -> bool {
        if self.queries == QUERIES_MAX {
            write_ko(cx.out(), ko, later("too many long queries wait", BUSY));
            return false;
        }
        self.queries += 1;
        self.add_task(cx, task);
        true
    }

    /// [`Timer::Tasks`]: runs tasks for a turn's share of steps.
    pub(super) fn run_tasks(&mut self, hub: &mut Hub<Self>) {
        let mut steps = STEPS_PER_TURN;
        while steps > 0 {
            let Some(mut task) = self.tasks.pop_front() else {
                break;
            };
            if !self.go_on(hub, &mut task, &mut steps) {
                if task.is_query() {
                    self.tasks.push_front(task);
                } else {
                    self.tasks.push_back(task);
                }
                break;
            }
            self.queries -= usize::from(task.is_query());
        }
        self.is_running = false;
        self.schedule(hub);
    }

    /// Continues a task; true when it is done. Otherwise hardly any of `steps` are left.
    fn go_on(&mut self, hub: &mut Hub<Self>, task: &mut Task, steps: &mut usize) -> bool {
        match task {
            Task::Insert {
                op,
                holder,
                lines,
                done,
            } => {
                *done += self.insert_some(*holder, &lines[*done..], steps);
                let all = *done == lines.len();
                if all {
                    self.indexed(hub, *op, *holder);
                }
                all
            }
            Task::Purge(holder) => self.catalog.purge(*holder, steps),
            Task::Search { conn, search } => {
                let Some(peer) = hub.peer_of(*conn) else {
                    return true;
                };
                log::trace!("a long search of {peer} goes on");
                if !self.catalog.advance(search, steps) {
                    return false;
                }
                if let Some(out) = hub.output_of(*conn) {
                    self.write_hits(out, search);
                }
                hub.resume(*conn);
                true
            }
            Task::Peers {
                conn,
                which,
                offset,
            } => {
                if let Some(out) = hub.output_of(*conn) {
                    self.write_peers(out, *which, *offset);
                }
                hub.resume(*conn);
                *steps = 0;
                true
            }
        }
    }

    /// Adds files of `lines`, each a valid line with its line break, for about `steps` of work, which it subtracts; returns
    /// the bytes of the lines added.
    fn insert_some(&mut self, holder: HolderNo, lines: &[u8], steps: &mut usize) -> usize {
        let mut done = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            if *steps == 0 {
                break;
            }
            let line = str::from_utf8(&lines[done..end]).unwrap_or_default();
            if let Ok(file) = FileLine::parse(line) {
                *steps = steps.saturating_sub(self.catalog.insert(holder, file));
            }
            done = end + 1;
        }
        done
    }
}

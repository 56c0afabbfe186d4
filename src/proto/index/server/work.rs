//! What takes longer than a turn may: indexing, purging, long searches, lists of many peers. One piece of work at a time, some of it each
//! turn, so that the connections are served in between.
//!
//! The catalogue changes only by what is at the front. A search that is at the front itself can therefore go on
//! where it was, and those that fit a turn, which do not come here, always find it whole.

use std::str;

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub};

use super::operations::{BUSY, later};
use super::{IndexServer, Timer};
use crate::proto::index::catalog::{HolderNo, Scan};
use crate::proto::index::fields::FileLine;
use crate::proto::index::wire::{Which, write_ko};

/// List entries read in one turn, or as much other work: about a millisecond.
pub(super) const STEPS_PER_TURN: usize = 16_384;

/// To index a file costs about as much as this many entries: some words, a search in the list of each.
const STEPS_PER_FILE: usize = 128;

/// To count a word of a dead file.
const STEPS_PER_WORD: usize = 8;

/// Queries that wait here; the next ones are told to come back. At the 85 ms of the longest search 22 seconds, which
/// our clients wait.
const QUERIES_MAX: usize = 256;

#[derive(Debug)]
pub(super) enum Work {
    /// Adds the lines of an operation to a holder; then the operation goes on.
    Insert {
        op: u32,
        holder: HolderNo,
        lines: Bytes,
        /// Bytes of them that are done.
        done: usize,
    },
    /// Cleans up after a holder that is dead.
    Purge(HolderNo),
    Search {
        conn: ConnId,
        scan: Scan,
    },
    /// Lists peers: one look at all there are, a turn's work when they are many.
    Peers {
        conn: ConnId,
        which: Which,
        offset: u64,
    },
}

impl Work {
    fn is_query(&self) -> bool {
        matches!(self, Work::Search { .. } | Work::Peers { .. })
    }
}

impl IndexServer {
    pub(super) fn add_work(&mut self, hub: &mut Hub<Self>, work: Work) {
        self.work.push_back(work);
        // Once for all of it: work that is added while some is done is part of the same turns.
        if !std::mem::replace(&mut self.working, true) {
            hub.soon(Timer::Work);
        }
    }

    /// Adds a query, unless too many wait: then a KO of this type is written, and false.
    pub(super) fn add_query(&mut self, cx: &mut Cx<'_, Self>, work: Work, ko: u16) -> bool {
        if self.queries == QUERIES_MAX {
            write_ko(cx.out(), ko, later("too many long queries wait", BUSY));
            return false;
        }
        self.queries += 1;
        self.add_work(cx, work);
        true
    }

    /// A turn's share of it.
    pub(super) fn do_work(&mut self, hub: &mut Hub<Self>) {
        let mut steps = STEPS_PER_TURN;
        while steps > 0 {
            let Some(mut work) = self.work.pop_front() else {
                break;
            };
            if !self.go_on(hub, &mut work, &mut steps) {
                self.work.push_front(work);
                break;
            }
            self.queries -= usize::from(work.is_query());
        }
        self.working = !self.work.is_empty();
        if self.working {
            hub.soon(Timer::Work);
        }
    }

    /// True when the work is done. Otherwise `steps` are used up.
    fn go_on(&mut self, hub: &mut Hub<Self>, work: &mut Work, steps: &mut usize) -> bool {
        match work {
            Work::Insert {
                op,
                holder,
                lines,
                done,
            } => {
                let some = (*steps / STEPS_PER_FILE).max(1);
                *done += self.insert_some(*holder, &lines[*done..], some);
                *steps = steps.saturating_sub(some * STEPS_PER_FILE);
                let all = *done == lines.len();
                if all {
                    self.indexed(hub, *op, *holder);
                } else {
                    *steps = 0;
                }
                all
            }
            Work::Purge(holder) => {
                let all = self
                    .catalog
                    .purge(*holder, (*steps / STEPS_PER_WORD).max(1));
                *steps = if all { *steps / 2 } else { 0 };
                all
            }
            Work::Search { conn, scan } => {
                let Some(peer) = hub.peer_of(*conn) else {
                    return true;
                };
                log::trace!("a long search of {peer} goes on");
                if !self.catalog.advance(scan, steps) {
                    *steps = 0;
                    return false;
                }
                if let Some(out) = hub.output_of(*conn) {
                    self.write_hits(out, scan);
                }
                hub.resume(*conn);
                true
            }
            Work::Peers {
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

    /// Adds up to `some` of these lines, which are valid, and returns how many bytes that were.
    fn insert_some(&mut self, holder: HolderNo, lines: &[u8], some: usize) -> usize {
        let ends = memchr::memchr_iter(b'\n', lines);
        let end = ends.take(some).last().map_or(lines.len(), |at| at + 1);
        let text = str::from_utf8(&lines[..end]).unwrap_or_default();
        let files = text.lines().filter_map(|line| FileLine::parse(line).ok());
        self.catalog.insert(holder, files);
        end
    }
}

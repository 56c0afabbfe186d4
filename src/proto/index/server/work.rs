//! What takes longer than a turn may: indexing, purging, long searches, lists of many peers. One piece of work at a time, some of it each
//! turn, so that the connections are served in between.
//!
//! The catalogue changes only by what is at the front. A search that is at the front itself can therefore go on
//! where it was, and those that fit a turn, which do not come here, always find it whole. Changes take turns: nobody
//! waits for the whole of a long one but who asked for it.

use std::str;

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub};

use super::operations::{BUSY, later};
use super::{IndexServer, Timer};
use crate::proto::index::catalog::{HITS_MAX, HolderNo, Scan};
use crate::proto::index::fields::FileLine;
use crate::proto::index::wire::{Which, write_ko};

/// List entries read in one turn, or as much other work: about a millisecond.
const STEPS_PER_TURN: usize = 16_384;

/// A search may take as many whatever others have used: a full answer is not put off when most of those who have the
/// files are online.
const STEPS_PER_SEARCH_MIN: usize = 2 * HITS_MAX;

/// What the searches of a turn may do where they are asked for, before they become work: each a part of what is left, so
/// that many long ones in one turn do not add up.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    turn: u64,
    left: usize,
}

impl Allowance {
    /// What the next search of turn number `turn` may do.
    pub(super) fn of(&mut self, turn: u64) -> usize {
        if self.turn != turn {
            (self.turn, self.left) = (turn, STEPS_PER_TURN);
        }
        (self.left / 4).max(STEPS_PER_SEARCH_MIN)
    }

    pub(super) fn take(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }
}

/// Queries that wait here; the next ones are told to come back. At 5 ms, what two words in 100,000 names each take, the
/// last one waits a second.
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
                if work.is_query() {
                    self.work.push_front(work);
                } else {
                    self.work.push_back(work);
                }
                break;
            }
            self.queries -= usize::from(work.is_query());
        }
        self.working = !self.work.is_empty();
        if self.working {
            hub.soon(Timer::Work);
        }
    }

    /// True when the work is done. Otherwise hardly any of `steps` are left.
    fn go_on(&mut self, hub: &mut Hub<Self>, work: &mut Work, steps: &mut usize) -> bool {
        match work {
            Work::Insert {
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
            Work::Purge(holder) => self.catalog.purge(*holder, steps),
            Work::Search { conn, scan } => {
                let Some(peer) = hub.peer_of(*conn) else {
                    return true;
                };
                log::trace!("a long search of {peer} goes on");
                if !self.catalog.advance(scan, steps) {
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

    /// Adds some of these lines, which are valid and each ends, for about `steps` of work, which it takes from `steps`;
    /// returns how many bytes that were.
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

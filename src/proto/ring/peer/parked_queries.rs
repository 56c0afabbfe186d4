//! Queries that wait at a peer for their item.
//!
//! Each is answered when its item comes, at the latest after [`PARKED_TIMEOUT`], with a miss. Invariants: at most
//! [`PARKED_MAX`]; the queries are in the order of their deadlines, since all have the same timeout; a connection has
//! one at most, because its input waits until the answer.

use std::collections::VecDeque;

use crate::engine::{ConnId, Tick};
use crate::proto::ring::wire::{Encoding, Item, Reply};

use super::config::Host;
use super::inbound::PARKED_TIMEOUT;

/// Queries parked at one peer. One is the rule: the successor's.
const PARKED_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct ParkedQueries {
    queries: VecDeque<Parked>,
}

#[derive(Debug)]
struct Parked {
    conn: ConnId,
    encoding: Encoding,
    seq: u32,
    due: Tick,
}

impl ParkedQueries {
    pub(super) fn is_full(&self) -> bool {
        self.queries.len() >= PARKED_MAX
    }

    /// When [`ParkedQueries::fired`] is to be called.
    pub(super) fn due(&self) -> Option<Tick> {
        self.queries.front().map(|query| query.due)
    }

    pub(super) fn park(&mut self, conn: ConnId, encoding: Encoding, seq: u32, now: Tick) {
        self.queries.push_back(Parked {
            conn,
            encoding,
            seq,
            due: now + PARKED_TIMEOUT,
        });
    }

    /// The item came.
    pub(super) fn answer(&mut self, host: &mut dyn Host, seq: u32, data: &str) {
        self.queries.retain(|query| {
            let waits = query.seq != seq;
            if !waits {
                query.answer(host, &found(seq, data));
            }
            waits
        });
    }

    /// Answers those whose time is over.
    pub(super) fn fired(&mut self, host: &mut dyn Host) {
        let now = host.now();
        let over = self.queries.partition_point(|query| query.due <= now);
        for query in self.queries.drain(..over) {
            query.answer(host, &Reply::QueryResult(None));
        }
    }

    /// The connection is over.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.queries.retain(|query| query.conn != conn);
    }

    /// Gives all up and returns their connections.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = ConnId> + '_ {
        self.queries.drain(..).map(|query| query.conn)
    }
}

impl Parked {
    fn answer(&self, host: &mut dyn Host, reply: &Reply<'_>) {
        if let Some(out) = host.output_of(self.conn) {
            reply.put(self.encoding, out);
        }
        host.resume(self.conn);
    }
}

/// The answer to a query for an item that is there.
pub(super) fn found(seq: u32, data: &str) -> Reply<'_> {
    let data = data.into();
    Reply::QueryResult(Some(Item { seq, data }))
}

//! A connection that a peer accepted, and whether its queries may be parked.
//!
//! A query is parked only for a program that has shown that it waits: it came back to an item on the same connection, or has
//! a query parked again and again. All others are answered at once, as plain programs expect.

use crate::engine::{Tick, Ticks};
use crate::proto::ring::wire::Reader;

/// How long a query may be parked for its item. As long as the longest pause between two queries, so that a peer that
/// repeats one after each answer always has one parked; and well below the 5 s after which a peer gives up an answer.
pub(in crate::proto::ring) const PARKED_TIMEOUT: Ticks = Ticks::from_secs(2);

/// A connection that was accepted.
#[derive(Debug)]
pub struct Inbound {
    pub(super) reader: Reader,
    /// The number of the peer.
    pub(super) peer: u32,
    /// How many connections were accepted before it.
    pub(super) order: u64,
    /// The last item that was queried, and when.
    last: Option<(u32, Tick)>,
    /// Its queries are parked when the item is missing.
    parks: bool,
}

impl Inbound {
    pub(super) fn new(peer: u32, order: u64) -> Inbound {
        Inbound {
            reader: Reader::default(),
            peer,
            order,
            last: None,
            parks: false,
        }
    }

    /// Notes a query for `seq`. Returns whether it may be parked when the item is missing.
    pub(super) fn query(&mut self, seq: u32, now: Tick) -> bool {
        let (came_back, goes_on) = match self.last {
            // After a whole timeout without the item, the peer looks for other items.
            Some((last, at)) => (seq <= last, self.parks && now.since(at) < PARKED_TIMEOUT),
            None => (false, false),
        };
        self.parks = came_back || goes_on;
        self.last = Some((seq, now));
        self.parks
    }

    /// There is no place to park one of its queries.
    pub(super) fn refuse_parking(&mut self) {
        self.parks = false;
    }
}

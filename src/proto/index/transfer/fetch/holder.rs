//! What a fetcher knows of its holders, and of its search for more.

use std::collections::VecDeque;

use crate::engine::{ConnId, Tick};

use super::task::{Deeds, Source};

/// A holder that was lost so often in a row is gone.
pub(super) const LOSSES_MAX: u32 = 4;

/// The state of a holder's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// Not dialled yet.
    Idle,
    Dialling(ConnId),
    Up(ConnId),
    /// Dialled again after `until`.
    Lost {
        until: Tick,
    },
    /// Dialled again only if no other holder is left.
    Slow,
    Dropped,
}

/// A holder, as the fetcher knows it.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) link: Link,
    /// Connections lost in a row, without a range in between.
    pub(super) losses: u32,
    /// Since when all its answers were that it is busy.
    pub(super) busy_since: Option<Tick>,
    /// It said that we are not online and we logged in again; no range of it has come since.
    pub(super) logged_in_for: bool,
    /// The ranges it is asked for, oldest first, and since when.
    pub(super) asked: VecDeque<(usize, Tick)>,
    /// When it sent the last range.
    pub(super) last: Tick,
    /// The length of the range that it is sending, once its OK has come.
    pub(super) length: Option<usize>,
    /// The bytes of that range so far.
    pub(super) bytes: Vec<u8>,
    /// Its input waits until the worker has caught up.
    pub(super) rests: bool,
    pub(super) deeds: Deeds,
}

impl Holder {
    pub(super) fn new(source: &Source) -> Holder {
        Holder {
            link: Link::Idle,
            losses: 0,
            busy_since: None,
            logged_in_for: false,
            asked: VecDeque::new(),
            last: Tick(0),
            length: None,
            bytes: Vec::new(),
            rests: false,
            deeds: Deeds {
                source: source.clone(),
                ranges: 0,
                bytes: 0,
                dropped: None,
            },
        }
    }
}

/// The search for more holders.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) under_way: bool,
    /// No holder was left when the index was asked.
    pub(super) last: bool,
    /// When the index was asked last.
    pub(super) asked_at: Tick,
    /// When a slow holder was last replaced by an untried one.
    pub(super) replaced_at: Tick,
    /// Holders whose places others have now.
    pub(super) tried: Vec<Deeds>,
}

impl Search {
    pub(super) fn begin(&mut self, now: Tick) {
        (self.asked_at, self.replaced_at) = (now, now);
    }
}

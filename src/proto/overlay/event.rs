//! What happens to a peer, and the observer that is told.

use std::net::SocketAddrV4;

use crate::engine::{End, Ticks};

use super::packet::Packet;

/// What happens to a peer, as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A newcomer is in the table.
    ConnectedFrom(SocketAddrV4),
    /// A newcomer found the table full.
    Redirected(SocketAddrV4),
    /// A peer that we dialled welcomed or redirected us.
    Answered {
        peer: SocketAddrV4,
        packet: Packet<'a>,
        timestamp: u32,
    },
    /// A dial failed; `end` is `None` when the peer accepted and was silent.
    Failed {
        peer: SocketAddrV4,
        end: Option<End>,
        /// It will be tried again.
        again: bool,
    },
    /// Our own port cannot be used to dial this peer, which will therefore see an address without a listener.
    OtherPort(SocketAddrV4),
    /// A link ended.
    Gone {
        peer: SocketAddrV4,
        /// It stays in the table, since it welcomed us.
        remembered: bool,
    },
    /// Its time without a link is over.
    Forgotten(SocketAddrV4),
}

/// Why a join is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinEnd {
    /// There are as many links as were wanted, or the table is full.
    Satisfied,
    /// No candidate is left.
    Exhausted,
    /// Its time is over.
    TimedOut,
}

/// What a join did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub end: JoinEnd,
    pub dials: u32,
    /// Peers that welcomed us, or that joined us while we wanted to join them.
    pub welcomes: u32,
    /// Peers that declined.
    pub redirects: u32,
    /// Dials that failed.
    pub failures: u32,
    /// Redirects on the way to the first welcome.
    pub chain: u32,
    pub took: Ticks,
}

/// What the end of a join means to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Stop,
}

/// Is told what happens; called on the loop, so it must not block.
pub trait Observer {
    fn on_event(&mut self, _peer: usize, _event: Event<'_>) {}

    fn on_join_end(&mut self, _peer: usize, _report: &Report) -> Then {
        Then::GoOn
    }
}

/// Ignores everything.
impl Observer for () {}

//! How a connection ends, and whose fault it is.

use std::io::ErrorKind;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The peer broke the protocol.
    Peer,
    /// The peer stayed within the protocol and asked for more than we give.
    Limit,
    /// We cannot do what the protocol asks of us now.
    Us,
}

/// Why a service refuses to go on with a connection. What it has written by then, the answers to earlier
/// messages or a refusal, is delivered before the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    pub blame: Blame,
    /// For the log: what was wrong, without the peer's bytes.
    pub what: &'static str,
}

impl Violation {
    pub const fn peer(what: &'static str) -> Violation {
        Violation {
            blame: Blame::Peer,
            what,
        }
    }

    pub const fn limit(what: &'static str) -> Violation {
        Violation {
            blame: Blame::Limit,
            what,
        }
    }

    pub const fn us(what: &'static str) -> Violation {
        Violation {
            blame: Blame::Us,
            what,
        }
    }
}

/// Which deadline ended a connection. Each is a field of [`super::Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadline {
    /// The dialled peer did not accept in time.
    Dial,
    /// Nothing came between two messages.
    Idle,
    /// A message was begun and not finished at the least pace.
    Message,
    /// The peer did not read what we sent at the least pace.
    Drain,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The peer closed, and has been sent everything.
    Eof,
    /// The connection broke.
    Broken(ErrorKind),
    /// A dial failed.
    Unreachable(ErrorKind),
    /// The service closed it.
    Closed,
    /// The service refused to go on.
    Violation(Violation),
    /// A deadline passed.
    Timeout(Deadline),
    /// A limit of the engine was reached; the limit's name.
    Limit(&'static str),
}

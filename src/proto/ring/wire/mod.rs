//! The messages of the tracker protocol, read and written.
//!
//! A message is a tuple, and the bytes of a connection are messages one after the other, without framing. [`Reader`]
//! finds out in which encoding a peer writes and where its message ends; it remembers a position, so a message that
//! dribbles in costs O(n), and the bytes stay where they are. A complete message is a [`Packet`], which the role reads as
//! a [`Request`] or a [`Reply`]: `(PING, x)` is both. Both are written by `put`, in the encoding that the peer used.
//!
//! Two kinds of errors, since they are answered differently: [`Refusal`], after which nothing on the connection can be
//! understood, and [`BadRequest`], a whole tuple that is no message of ours.
//!
//! Not here: who may send what, whether an item exists, the limits of a database.

mod fields;
mod put;
mod reader;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::SocketAddrV4;

pub use self::reader::{Packet, Reader};
use crate::engine::Violation;

/// The longest message in bytes ("Bad input" in the specification), which is also what the engine keeps of the input of
/// one connection.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The longest handle in bytes of UTF-8 ("Bad input" in the specification).
pub const HANDLE_BYTES_MAX: usize = 256;

/// Peers on one page of [`Reply::Peers`]. With the next limit a page is under 64 KiB in every encoding, and so is what
/// reading it takes.
pub const PAGE_PEERS_MAX: usize = 240;

/// Bytes of handles on one page of [`Reply::Peers`].
pub const PAGE_HANDLE_BYTES_MAX: usize = 8 * 1024;

/// How a peer writes its tuples. It is answered in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Python's pickle, protocol 0 to 5.
    Pickle { protocol: u8, strings: Strings },
    /// Python's literals: `('REGISTER', 'alice', 9000)`.
    Literal,
    /// The notation of the assignment's text: `(REGISTER, alice, 9000)`.
    Bare,
}

impl Encoding {
    /// What our own peers begin with: both Pythons read it.
    pub const OURS: Encoding = Encoding::Pickle {
        protocol: 2,
        strings: Strings::Unicode,
    };
}

/// How a pickle up to protocol 2 has its strings. Both Pythons read both; text beyond ASCII is always Unicode, since
/// Python 3 refuses such byte strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strings {
    /// As Python 2 writes its `str`, so that it gets what its own programs send.
    Bytes,
    Unicode,
}

/// Nothing more can be read on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not begin like a tuple in any encoding: the raw words and bare integers of the assignment's first part
    /// among others.
    NotATuple,
    /// A pickle opcode that we do not execute; what it would do, for the log.
    Opcode(&'static str),
    /// Longer than [`MESSAGE_BYTES_MAX`], or announces to be.
    TooLong,
    /// Nested deeper than [`super::value::NESTING_MAX`].
    TooDeep,
    /// Takes more memory than [`super::value::HEAP_BYTES_MAX`].
    TooLarge,
    /// Breaks the rules of its encoding; which one.
    Malformed(&'static str),
}

impl Refusal {
    pub const fn what(self) -> &'static str {
        match self {
            Refusal::NotATuple => "not a tuple in any encoding",
            Refusal::TooLong => "message longer than 64 KiB",
            Refusal::TooDeep => "message nested deeper than 16",
            Refusal::TooLarge => "message that takes more than 64 KiB to read",
            Refusal::Opcode(what) | Refusal::Malformed(what) => what,
        }
    }
}

impl From<Refusal> for Violation {
    fn from(refusal: Refusal) -> Violation {
        Violation::peer(refusal.what())
    }
}

/// A whole tuple that is no message of ours: what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// No command that we know, in this role.
    Command,
    /// Too many or too few fields.
    Fields,
    /// A handle that is not 1 to [`HANDLE_BYTES_MAX`] bytes of text.
    Handle,
    /// A port outside 1..=65535.
    Port,
    /// Not an IPv4 address that can be dialled, or `localhost`.
    Ip,
    /// A sequence number, number of items or offset that is not an integer of 0 to 2^32-1; an item's that is not below
    /// the number of items.
    Seq,
    /// An item's data that is no text.
    Data,
    /// The time of a PING that is neither text nor a number.
    Time,
}

impl BadRequest {
    pub const fn what(self) -> &'static str {
        match self {
            BadRequest::Command => "unknown command",
            BadRequest::Fields => "wrong number of fields",
            BadRequest::Handle => "not a handle of 1 to 256 bytes",
            BadRequest::Port => "not a port from 1 to 65535",
            BadRequest::Ip => "not an IPv4 address that can be dialled",
            BadRequest::Seq => "not a sequence number or number of items",
            BadRequest::Data => "not an item's text",
            BadRequest::Time => "neither text nor a number for the time",
        }
    }
}

impl From<BadRequest> for Violation {
    fn from(bad: BadRequest) -> Violation {
        Violation::peer(bad.what())
    }
}

/// What is asked of a tracker or of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Echo {
        handle: Cow<'a, str>,
    },
    Register {
        handle: Cow<'a, str>,
        port: u16,
    },
    /// Your neighbour is this one from now on.
    UpdateNbr(Neighbour<'a>),
    /// Are you there? The time is the sender's and means nothing to us; a number is read as no text.
    Ping {
        time: Cow<'a, str>,
    },
    Query {
        seq: u32,
    },
    /// Ours: the ring in order, from place `offset` on. `(PEERS,)` is from 0.
    Peers {
        offset: u32,
    },
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    RegInit(RegInit<'a>),
    /// `(PING, handle)`, and `(ACK, handle)` as one implementation has it; we write the former.
    Ping {
        handle: Cow<'a, str>,
    },
    /// `None`: the peer does not have the item.
    QueryResult(Option<Item<'a>>),
    /// `([Tracker], text)`: a greeting or a refusal. We write a list of one text, as the notation has it, and read the
    /// text `[Tracker]` too.
    Tracker(Cow<'a, str>),
    /// Ours: `(PEERS, total, ((handle, ip, port), ...))`, a page of the ring in order.
    Peers {
        total: u32,
        page: Vec<Neighbour<'a>>,
    },
}

impl Reply<'static> {
    /// What a tracker answers to anything that it cannot serve.
    pub const BAD_REQUEST: Reply<'static> = Reply::Tracker(Cow::Borrowed("Bad request"));
}

/// What a tracker answers to a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegInit<'a> {
    /// `None`: the handle is somebody else's.
    pub nbr: Option<Neighbour<'a>>,
    /// Number of items.
    pub dbsize: u32,
    /// The item to host.
    pub item: Option<Item<'a>>,
    /// How `nbr` is written; of what was read, how it was.
    pub order: RegInitOrder,
}

/// The order of the neighbour's fields in REG_INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegInitOrder {
    /// ip, handle, port: the assignment's text.
    IpFirst,
    /// handle, ip, port: the course's own tracker.
    HandleFirst,
}

/// A peer of the ring as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour<'a> {
    pub handle: Cow<'a, str>,
    pub addr: SocketAddrV4,
}

/// An item of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    pub seq: u32,
    pub data: Cow<'a, str>,
}

/// How many of the peers with these handles go on one page of [`Reply::Peers`].
pub fn page_len<'a>(handles: impl IntoIterator<Item = &'a str>) -> usize {
    let mut bytes = 0;
    let fits = handles
        .into_iter()
        .take(PAGE_PEERS_MAX)
        .take_while(|handle| {
            bytes += handle.len();
            bytes <= PAGE_HANDLE_BYTES_MAX
        });
    fits.count()
}

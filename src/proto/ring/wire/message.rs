//! What the messages say: requests, replies, and what they are made of.
//!
//! For: values that a role acts on, and the limits of each field. Not for: bytes, which are `parse.rs`, `write.rs` and
//! `framing.rs`.

use std::borrow::Cow;
use std::net::SocketAddrV4;

use crate::engine::Violation;

/// The longest handle in bytes of UTF-8.
pub const HANDLE_BYTES_MAX: usize = 256;

/// Peers on one page of [`Reply::Peers`]. With the next limit a page is under 64 KiB in every encoding, and so is what
/// reading it takes.
pub const PAGE_PEERS_MAX: usize = 240;

/// Bytes of handles on one page of [`Reply::Peers`].
pub const PAGE_HANDLE_BYTES_MAX: usize = 8 * 1024;

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
    /// `None`: the handle is another peer's.
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

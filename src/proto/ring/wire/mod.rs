//! The messages of the tracker protocol, read and written.
//!
//! A message is a tuple. The bytes of a connection are messages one after the other, without framing, in one of three
//! encodings.
//!
//! ```text
//!  bytes ─▶ Reader (framing) ─▶ Packet: one tuple ─▶ Request or Reply (parse)
//!  bytes ◀───────────────────── write ◀───────────── Request or Reply (message)
//! ```
//! [`Reader`] detects the encoding and finds the end of a message. It remembers a position, so a message that dribbles in
//! costs O(n), and the bytes stay where they are. The role decides whether a [`Packet`] is a [`Request`] or a [`Reply`],
//! because `(PING, x)` is both. An answer is written in the encoding of its request.
//!
//! Two kinds of errors, since they are answered differently: after a [`Refusal`] nothing more on the connection can be
//! understood; a [`BadRequest`] is a whole tuple that is no message of the protocol.
//!
//! Not here: who may send what, whether an item exists, the limits of a database.

mod framing;
mod message;
mod parse;
#[cfg(test)]
mod tests;
mod write;

pub use super::encoding::{Encoding, MESSAGE_BYTES_MAX, Refusal, Strings};
pub use framing::{Packet, Reader};
pub use message::{
    BadRequest, HANDLE_BYTES_MAX, Item, Neighbour, PAGE_HANDLE_BYTES_MAX, PAGE_PEERS_MAX, RegInit,
    RegInitOrder, Reply, Request, page_len,
};

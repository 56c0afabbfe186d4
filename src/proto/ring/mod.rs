//! The tracker and its neighbour ring: Python tuples over TCP, in the three encodings in which they are seen.
//!
//! A member has an address of IPv4, which is all that plain peers read and dial: nobody has one of IPv6.
//!
//! Where to look:
//! - [`wire`]: every message of the protocol, read and written; which encoding a peer speaks; where a message ends.
//! - [`value`]: the values that a message is made of, in bounded memory.
//! - `pickle`, `literal`: the encodings. Functions of bytes, plain data only.
//! - [`tracker`]: who is in the ring (`members`), when whom to ping (`rounds`), who is to be told of its neighbour.
//! - [`peer`]: a peer, what it has ([`items`]) and what it asks for next (`search`).
//! - [`node`]: both on the engine. [`client`]: one question from outside.

pub mod client;
pub mod items;
mod literal;
mod members;
pub mod node;
pub mod peer;
mod pickle;
mod rounds;
mod search;
#[cfg(test)]
mod tests;
pub mod tracker;
pub mod value;
pub mod wire;

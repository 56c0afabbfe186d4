//! The tracker and its neighbour ring: Python tuples over TCP, in the three encodings in which they are seen.
//!
//! A tracker hands each registering peer one item of a database and a neighbour. Peers query their neighbour, which is their
//! predecessor in the ring, for the items they miss, until each has all of them.
//! A member has an address of IPv4, which is all that plain peers read and dial: nobody has one of IPv6.
//!
//! Where to look:
//! - [`wire`]: every message, read and written; which encoding a peer uses; where a message ends.
//! - [`value`]: the values that a message is made of, in bounded memory.
//! - [`encoding`]: the encodings' names and errors. `pickle`, `literal`: the encodings. Functions of bytes, plain data only.
//! - [`tracker`]: registration, the members and their pings, UPDATE_NBR, persistence.
//! - [`peer`]: registration at the tracker, queries to the neighbour, queries that are served.
//! - [`node`]: both on the engine; dispatch only. [`client`]: one question from outside.
//!
//! ```text
//!  node ──▶ tracker, peer ──▶ wire ──▶ pickle, literal ──▶ value ──▶ encoding
//! ```
//! Imports go to the right only; nothing imports the node.

pub mod client;
pub mod encoding;
mod literal;
pub mod node;
pub mod peer;
mod pickle;
#[cfg(test)]
mod tests;
pub mod tracker;
pub mod value;
pub mod wire;

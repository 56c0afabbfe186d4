//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! A node's id is the hash of its address as text, and peers read that as IPv4: no node has an address of IPv6.
//!
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, ranges, decimal digits.
//! - [`wire`]: every line, in both directions; where `INSERT` and the other requests are parsed. Pure functions.
//! - [`routing`]: next, prev and fingers; who owns a key.
//! - [`storage`]: the entries of a node, in memory and on disk, and how ranges of them move.
//! - [`rpc`]: requests to other nodes.
//! - [`membership`]: who joins and leaves.
//! - [`replication`]: copies of entries at other members.
//! - [`node`]: the service. It dispatches; what is expected next of a connection is one enum. GET, INSERT and REMOVE are in
//!   `node/commands.rs`.

pub mod id;
pub mod membership;
pub mod node;
pub mod replication;
pub mod routing;
pub mod rpc;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod wire;

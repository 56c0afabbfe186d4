//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! A node's id is the hash of its address as text, and peers read that as IPv4: no node has an address of IPv6.
//!
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, ranges, decimal digits.
//! - [`wire`]: every line, in both directions; where `INSERT` and the other requests are parsed. Pure functions.
//! - [`routing`]: next, prev and fingers; who owns a key.
//! - [`storage`]: the entries of a node, in memory and on disk, and how ranges of them move.
//! - [`rpc`]: requests to other nodes.
//! - [`membership`]: who joins, leaves, and is dead.
//! - [`replication`]: copies of entries at other members.
//! - [`node`]: the service. It dispatches; what is expected next of a connection is one enum. GET, INSERT and REMOVE are in
//!   `node/commands.rs`.
//!
//! A node owns the keys from its id up to its next. With `replicas` R over 1 the R - 1 members *before* it hold copies: the nearest,
//! its *heir*, takes the range when the node dies, and has the entries.
//!
//! ```text
//! ring:  ... P2 ──▶ P1 ──▶ O ──▶ A ...      O owns [O, A); P1 and P2 hold copies of it; P1 is the heir
//!
//! a write  client ─INSERT▶ O ─XPUT▶ P1, P2 ─ack▶ O: visible, `1` to the client
//! a lease  O ─XBEAT▶ P1 ─granted▶ O serves for 5.5 s more        (every 3.8 s)
//! a crash  O dies; P1 hears of it by its link, or misses heartbeats for 7 s
//!          P1 asks who follows O: A. P1 has the entries, or fetches them from P2
//!          P1 owns [P1, A) ─UPDATE_PREV▶ A; P2 and the one before it are synchronised for [O, A)
//! a join   J ─XCONNECT▶ P1 ─[J, O) with versions▶ J ─UPDATE_PREV▶ O, ─its address▶ P1; P1 keeps [J, O) as a copy
//!          J ─XBEAT▶ P1, O ─XBEAT▶ J: J is O's heir, and is synchronised for O's range
//! ```

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

//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! Where to look:
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, who
//!   owns what, and the decimal digits a key is written with.
//! - [`wire`]: the bytes of every line, in both directions. Pure functions: they hold no state, do
//!   no I/O and allocate nothing.
//! - [`routing`]: what a node knows of the ring, who owns a key.
//! - [`entries`]: the entries of a node in memory.
//! - [`node`]: the service of a node, one enum of what is expected next for each connection.
//! - [`operation`]: one GET, INSERT, ... from the asking side, through all its hops; pure.
//! - [`client`]: operations on a service's connections, for the commands of the program and for nodes.

mod absorb;
pub mod client;
mod data;
pub mod entries;
mod fingers;
mod handover;
mod held;
pub mod id;
mod join;
mod leave;
pub mod node;
pub mod operation;
pub mod routing;
#[cfg(test)]
mod tests;
pub mod transfer;
mod turns;
pub mod wire;

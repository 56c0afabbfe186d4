//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! A node's id is the hash of its address as text, and peers read that as IPv4: no node has an address of IPv6.
//!
//! Where to look:
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, who
//!   owns what, and the decimal digits a key is written with.
//! - [`wire`]: the bytes of every line, in both directions. Pure functions: they hold no state, do
//!   no I/O and allocate nothing.
//! - [`routing`]: what a node knows of the ring, who owns a key; `fingers` keeps it fresh.
//! - `claims`: which addresses a peer may give us.
//! - [`entries`]: the entries of a node in memory; [`transfer`]: entries on the wire, sent and received in pieces.
//! - [`node`]: the service of a node, one enum of what is expected next for each connection; `data`: GET, INSERT, REMOVE.
//! - the sub-protocols that change the ring, a file each: `handover` (we serve CONNECT), `absorb` (we serve DISCONNECT),
//!   `relay` (DISCONNECT for another member), `join` and `leave` (we ask for them); `turns`: one of them at a time;
//!   `held`: writes that wait for one. `revive`: a killed node comes back where we list it; `probe`: is our next there?
//!   `bring`: the entries that a durable node had before it joined.
//! - `commits`: what the worker of a durable node does.
//! - [`operation`]: one GET, INSERT, ... from the asking side, through all its hops; pure.
//! - [`client`]: operations on a service's connections, for the commands of the program and for nodes.
//! - [`stat`]: XSTAT, an extension of ours by which a node tells what it holds.
//! - [`workload`]: clients that write and read without end and remember what must be there, for stress runs.

mod absorb;
mod bring;
mod claims;
pub mod client;
mod commits;
mod config;
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
mod probe;
mod relay;
mod revive;
pub mod routing;
pub mod stat;
#[cfg(test)]
mod tests;
pub mod transfer;
mod turns;
pub mod wire;
pub mod workload;

//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! A node's id is the hash of its address as text, and peers read that as IPv4: no node has an address of IPv6.
//!
//! Values and bytes:
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, ranges, decimal digits.
//! - [`wire`]: every line, in both directions; where `INSERT` and the other requests are parsed. Pure functions.
//! - [`entries`]: the entries of a node in memory. [`range_stream`]: the entries of a range on the wire.
//! - [`routing`]: next, prev and fingers; who owns a key.
//!
//! The node:
//! - [`node`]: the service. It dispatches; what is expected next of a connection is one enum. `config`: what it is told at
//!   its start. `memory`: what counts towards its memory limit.
//! - `commands`: GET, INSERT and REMOVE. `commit`: the worker of a durable node.
//! - `membership_lock`: one change of membership at a time; the other requests wait.
//! - `connect`: serves CONNECT, hands a range to a joiner. `rejoin`: a CONNECT with the id of our next.
//! - `disconnect`: serves DISCONNECT, takes the range of a leaver. `relay`: a DISCONNECT for another member.
//! - `join`, `leave`: our own join and leave.
//! - `fenced_writes`: writes into a range that moves. `range_sweep`: removes a range that is not ours.
//! - `recovered_entries`: what a durable node had on its disk before it joined.
//! - `failure_detector`: what follows when a member is found dead; probes our next before its range is taken from it.
//! - `fingers`, `predecessor`: keep the routing fresh. `address_policy`: which addresses a peer may announce.
//!
//! Requests to other nodes:
//! - [`operation`]: one GET, INSERT, ... through all its hops; pure. [`client`]: operations on the connections of a service.
//! - [`stat`]: XSTAT, an extension of ours by which a node tells what it holds.

mod address_policy;
pub mod client;
mod commands;
mod commit;
mod config;
mod connect;
mod disconnect;
pub mod entries;
mod failure_detector;
mod fenced_writes;
mod fingers;
pub mod id;
mod join;
mod leave;
mod membership_lock;
mod memory;
pub mod node;
pub mod operation;
mod predecessor;
pub mod range_stream;
mod range_sweep;
mod recovered_entries;
mod rejoin;
mod relay;
pub mod routing;
pub mod stat;
#[cfg(test)]
mod tests;
pub mod wire;

//! The index server and file-sharing peers: who shares what is asked of one server, files move between peers.
//!
//! Where to look:
//! - [`fields`]: the values that messages are made of, each with the one way it is written.
//! - [`wire`]: the bytes of frames and requests; [`reply`]: those of answers.
//! - [`server`]: the index server; [`catalog`]: who shares what, searched by words; [`record`]: what outlives it;
//!   `registry`: who is online and where; `guard`: lock-outs, quotas, the line before the hashing threads.
//! - [`exchange`]: one call to the server from the asking side; pure.
//! - [`client`]: a session with the server on a service's connection: calls, and staying online;
//!   [`batch`]: a service that makes a few calls and nothing else.
//! - [`sharer`]: a peer that shares files; [`transfer`]: DOWNLOAD, from both sides.
//!
//! Addresses are text on this wire, so one of IPv6 stands wherever one of IPv4 does. A peer that has only the other family
//! cannot reach it, and a program that expects four numbers cannot read it.

pub mod batch;
pub mod catalog;
pub mod client;
pub mod exchange;
pub mod fields;
mod guard;
mod lines;
pub mod record;
mod registry;
pub mod reply;
pub mod server;
pub mod sharer;
pub mod transfer;
pub mod wire;
mod words;

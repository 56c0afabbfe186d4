//! The index server and file-sharing peers: a server knows who shares what, files move between peers.
//!
//! ```text
//!   sharer ── REGISTER, LOGIN, KEEP_ALIVE ─▶ server ◀── SEARCH ── fetcher
//!     ▲                                                              │
//!     └───────────────────────── DOWNLOAD ───────────────────────────┘
//! ```
//! - Wire format: [`wire`] (frames, requests), [`reply`] (answers), [`fields`] (values), `lines` (payloads).
//! - The server: [`server`] (operations, lock-out, who is online, registrations), [`catalog`] (search and its ranking), [`persisted`] (the
//!   persisted format and the jobs of the workers).
//! - Clients of the server: [`call`] (one call, as requests), [`client`] (a session), [`batch`] (a service that makes calls
//!   and stops).
//! - Peers: [`sharer`] (shares files), [`transfer`] (DOWNLOAD, both sides).
//!
//! Addresses are text on this wire, so one of IPv6 stands wherever one of IPv4 does. A peer that has only the other family
//! cannot reach it, and a program that expects four numbers cannot read it.
//!
//! Not here: files, disks and hashes, which are jobs of worker threads.

pub mod batch;
pub mod call;
pub mod catalog;
pub mod client;
pub mod fields;
mod lines;
pub mod persisted;
pub mod reply;
pub mod server;
pub mod sharer;
pub mod transfer;
pub mod wire;

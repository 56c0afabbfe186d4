//! The index server and file-sharing peers: who shares what is asked of one server, files move between peers.
//!
//! Where to look:
//! - [`fields`]: the values that messages are made of, each with the one way it is written.
//! - [`wire`]: the bytes of frames and requests; [`reply`]: those of answers.
//! - [`exchange`]: one call to the server from the asking side; pure.
//! - [`client`]: a session with the server on a service's connection: calls, and staying online;
//!   [`batch`]: a service that makes a few calls and nothing else.
//! - [`sharer`]: a peer that shares files; [`transfer`]: DOWNLOAD, from both sides.

pub mod batch;
pub mod client;
pub mod exchange;
pub mod fields;
mod lines;
pub mod reply;
pub mod sharer;
pub mod transfer;
pub mod wire;

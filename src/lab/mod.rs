//! Whole rings to look at: nodes, clients and faults in [`crate::sim`], and an observer that sees all of them at once.
//!
//! For the tests of the protocols, and for people who study a ring (`peerloop sim`). What a node sends and when is the
//! node's business; nothing here is part of a protocol.

pub mod dht;

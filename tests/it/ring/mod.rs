//! `peerloop ring`: trackers and their peers.

mod codec;
mod processes;

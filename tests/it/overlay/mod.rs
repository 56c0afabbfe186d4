//! `peerloop overlay`: cPTP peers.

mod crowd;
mod peers;

use crate::support::{Server, peerloop};

/// A peer with `options`.
fn peer(options: &[&str]) -> Server {
    Server::start(&mut peerloop(&[&["overlay", "peer"], options].concat()))
}

//! `peerloop overlay`: cPTP peers.

mod crowd;
mod peers;

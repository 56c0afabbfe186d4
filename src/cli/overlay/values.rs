//! What the options of several commands mean.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};

use peerloop::proto::overlay::packet::{NAME_BYTES_MAX, is_usable};

use crate::cli::addr::resolve;

/// An address that a packet may name. 0.0.0.0 would reach a peer on this machine, and then stand in tables.
pub(super) fn peer_addr(text: &str) -> Result<SocketAddrV4> {
    let addr = resolve(text)?;
    ensure!(is_usable(addr), "{addr} is no address of a peer");
    Ok(addr)
}

/// A name that fits the protocol's length byte, and a terminal.
pub(super) fn name(text: &str) -> Result<String> {
    ensure!(
        text.len() <= NAME_BYTES_MAX,
        "it has {} bytes, and {NAME_BYTES_MAX} fit",
        text.len()
    );
    ensure!(
        !text.chars().any(char::is_control),
        "it has control characters"
    );
    Ok(text.into())
}

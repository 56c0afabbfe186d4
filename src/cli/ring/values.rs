//! What the options of several commands mean.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{SystemTime, UNIX_EPOCH};

use peerloop::proto::ring::wire::HANDLE_BYTES_MAX;

/// Own connections come from the address that is listened on, since that is what others know; by default the system
/// sees to it.
pub(super) fn dial_from(listening: SocketAddrV4) -> Option<SocketAddrV4> {
    let ip = *listening.ip();
    let chosen = !ip.is_unspecified() && ip != Ipv4Addr::LOCALHOST;
    chosen.then(|| SocketAddrV4::new(ip, 0))
}

pub(super) fn handle(text: &str) -> Result<String, String> {
    if (1..=HANDLE_BYTES_MAX).contains(&text.len()) {
        Ok(text.into())
    } else {
        Err(format!("a handle has 1 to {HANDLE_BYTES_MAX} bytes"))
    }
}

pub(super) fn unix_secs() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

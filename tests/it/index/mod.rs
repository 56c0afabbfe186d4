//! `peerloop index`: the index server, sharers and downloads.

mod download;
mod ipv6;
mod server;
mod share;
mod support;
mod transfer_speed;

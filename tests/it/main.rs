//! The tests that need a process, a socket, a file or a clock; everything else is tested beside its code and in
//! the simulator. One binary, so that it is linked once.
//!
//! No fixed ports, and no sleep as a condition: a test waits for what it expects, with a deadline. Where the
//! absence of something is tested (no wake-up, no CPU), the time that is watched is a named window.

mod allocations;
mod cli;
mod download;
mod durable;
mod echo;
mod index;
mod ipv6;
mod layers;
mod limits;
mod load;
#[path = "../../benches/memory/mod.rs"]
mod memory;
mod overlay;
mod overlay_crowd;
mod plain_peer;
mod plain_wire;
mod restarts;
mod ring;
mod ring_churn;
mod ring_cli;
mod ring_codec;
mod ring_support;
mod rings;
mod share;
mod share_support;
mod support;
mod tracker;
mod transfer_speed;
mod wire;

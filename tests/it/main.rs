//! The tests that need a process, a socket, a file or a clock; everything else is tested beside its code and in
//! the simulator. One binary, so that it is linked once.
//!
//! No fixed ports, and no sleep as a condition: a test waits for what it expects, with a deadline. Where the
//! absence of something is tested (no wake-up, no CPU), the time that is watched is a named window.

mod dht;
mod index;
mod layers;
mod load;
#[path = "../../benches/memory/mod.rs"]
mod memory;
mod options;
mod overlay;
mod reactor;
mod ring;
mod support;

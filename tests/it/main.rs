//! The tests that need a process, a socket, a file or a clock. One binary, so that it is linked once.

mod plain_peer;
mod plain_wire;
mod ring_support;
mod rings;
#[allow(dead_code, reason = "what other modules of these tests need")]
mod support;

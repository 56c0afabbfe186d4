//! Peer-to-peer nodes with very many connections on one event loop.
//!
//! ```text
//!   main, cli   arguments, printing, exit codes            (the program)
//!   workers     what worker threads do for the protocols   commits, password hashes, files
//!   proto       the protocols: codecs and state machines   no I/O, no clock, no threads
//!   engine      connections, buffers, deadlines, limits    no I/O, knows no protocol
//!   net         drives the engine with sockets (mio)       sockets, clock, signals, threads
//!   sim         drives the engine in memory                virtual clock, injected faults
//!   store       where entries outlive the process          files
//! ```
//! Imports go downwards only: `engine` knows nobody, `proto` knows `engine`, `net` and `sim` know `engine`;
//! `workers` knows `proto` and `store`.
//! `cargo check --lib --no-default-features` builds everything but the reactor, the embedded database and the
//! program; a test walks the imports.
//!
//! Somebody's own protocol is an [`engine::Service`] given to a [`net::Reactor`]: `examples/echo.rs` is a whole
//! server in under 60 lines.
//!
//! Invariants of the whole: nothing that a peer sends blocks, crashes or bloats the process; every queue has a
//! named limit ([`engine::Limits`]); the same seed and events give the same run of everything but `net`.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod engine;
#[cfg(feature = "net")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the driver has the sockets, the clock and the threads"
)]
pub mod net;
pub mod proto;
pub mod sim;
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "entries and files outlive the process here"
)]
pub mod store;
pub mod workers;

//! Peer-to-peer nodes with very many connections on one event loop.
//!
//! ```text
//!   main, cli   arguments, printing, exit codes            (the program)
//!   lab         rings and their faults, watched            whole DHT rings in `sim`, for tests and people
//!   workers     what worker threads do for the protocols   commits, password hashes, files
//!   proto       the protocols: codecs and state machines   no I/O, no clock, no threads
//!   engine      connections, buffers, deadlines, limits    no I/O, knows no protocol
//!   net         drives the engine with sockets (mio)       sockets, clock, signals, threads
//!   sim         drives the engine in memory                virtual clock, injected faults
//!   store       where entries outlive the process          files
//! ```
//! `engine` imports no other folder; `proto`, `net` and `sim` import `engine`; `workers` imports `engine`, `proto` and
//! `store`; `lab` imports `engine`, `sim`, `proto` and `workers`; a test walks the imports. Features, all on by default:
//!
//! | feature     | adds                                          | dependencies                              |
//! |-------------|-----------------------------------------------|-------------------------------------------|
//! | (none)      | `engine`, `sim`; no I/O                       | bytes, log, memchr, rand, slab, thiserror |
//! | `net`       | the reactor                                   | mio, socket2, nix, rustix, signal-hook    |
//! | `protocols` | `proto`, `workers`, `lab`, `store` in memory; no I/O | indexmap, ruint, sha1                     |
//! | `storage`   | the embedded database, files, password hashes | redb, rustix, argon2                      |
//! | `cli`       | the program                                   | clap and others                           |
//!
//! A protocol of your own is an [`engine::Service`] given to a `net::Reactor`, with
//! `default-features = false, features = ["net"]`: `examples/echo.rs` is a whole server in under 60 lines, and
//! `examples/two_services.rs` two services on one loop. [`engine::framing`] finds the messages in a stream.
//! Addresses are `SocketAddr`; a protocol whose wire has room for IPv4 only says so ([`engine::Service::IPV4_ONLY`]).
//!
//! Invariants of the whole: nothing that a peer sends blocks, crashes or bloats the process; every queue has a
//! named limit ([`engine::Limits`]); the same seed and events give the same run of everything but `net`.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod engine;
#[cfg(feature = "protocols")]
pub mod lab;
#[cfg(feature = "net")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the driver has the sockets, the clock and the threads"
)]
pub mod net;
#[cfg(feature = "protocols")]
pub mod proto;
pub mod sim;
#[cfg_attr(
    feature = "storage",
    expect(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "entries and files outlive the process here"
    )
)]
#[cfg(feature = "protocols")]
pub mod store;
#[cfg(feature = "protocols")]
pub mod workers;

//! Peer-to-peer nodes with very many connections on one event loop.
//!
//! ```text
//!   main, cli   arguments, printing, exit codes            (the program)
//!   app         what a process runs, put together
//!   proto       the protocols: codecs and state machines   no I/O, no clock, no threads
//!   engine      connections, buffers, deadlines, limits    no I/O, knows no protocol
//!   net         drives the engine with sockets (mio)       sockets, clock, signals, threads
//!   sim         drives the engine in memory                virtual clock, injected faults
//!   store       where entries outlive the process          files
//! ```
//! Imports go downwards only: `engine` knows nobody, `proto` knows `engine`, `net` and `sim` know `engine`; a test
//! walks the imports. Features, all on by default:
//!
//! | feature     | adds                                          | dependencies                              |
//! |-------------|-----------------------------------------------|-------------------------------------------|
//! | (none)      | `engine`, `sim`; no I/O                       | bytes, log, memchr, rand, slab, thiserror |
//! | `net`       | the reactor                                   | mio, socket2, nix, rustix, signal-hook    |
//! | `protocols` | `proto`, `app`, `store` in memory; no I/O     | indexmap, ruint, sha1                     |
//! | `storage`   | the embedded database, files, password hashes | redb, rustix, argon2                      |
//! | `cli`       | the program                                   | clap and others                           |
//!
//! Somebody's own protocol is an [`engine::Service`] given to a `net::Reactor`, with
//! `default-features = false, features = ["net"]`: `examples/echo.rs` is a whole server in under 60 lines, and
//! `examples/two_services.rs` two services on one loop. [`engine::framing`] finds the messages in a stream.
//! Addresses are `SocketAddr`; a protocol whose wire has room for IPv4 only says so ([`engine::Service::IPV4_ONLY`]).
//!
//! Invariants of the whole: nothing that a peer sends blocks, crashes or bloats the process; every queue has a
//! named limit ([`engine::Limits`]); the same seed and events give the same run of everything but `net`.

#![forbid(unsafe_code)]

#[cfg(feature = "protocols")]
pub mod app;
pub mod engine;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "protocols")]
pub mod proto;
pub mod sim;
#[cfg(feature = "protocols")]
pub mod store;

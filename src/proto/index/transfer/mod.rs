//! Files from peer to peer: DOWNLOAD, from both sides.
//!
//! - [`serve`]: who asks for which part of which file, whether it may have it, and the bytes, read by the worker ahead of
//!   what the peer takes.
//! - [`plan`]: which range is asked of which holder, and which holder sent wrong bytes. Pure.
//! - [`fetch`]: a service that carries a plan out: connections to holders, ranges to the worker, until the file is there.
//!
//! Files are read and written by the worker (`workers::files`); here they are numbers and bytes.

pub mod fetch;
pub mod plan;
pub mod serve;

/// What is asked of a holder at once: the specification's. Large against a round trip, small against a file, so
/// that holders share one fairly and little is lost with a connection.
pub const RANGE_BYTES: u64 = 1 << 20;

/// What is read from a file at once by who serves it: where more no longer saves time.
pub const CHUNK_BYTES: u64 = 256 << 10;

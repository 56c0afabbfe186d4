//! DOWNLOAD, both sides: files from peer to peer.
//!
//! - [`serve`]: answering a request, and the slots that bound how many are answered at once.
//! - [`ranges`]: which range of a file is asked of which holder, and which holder sent wrong bytes.
//! - [`fetch`]: the service that downloads a file.
//!
//! Not here: files, which workers read and write.

pub mod fetch;
pub mod ranges;
pub mod serve;

/// Length of a range, the unit that a holder is asked for. Long against a round trip; short against a file, so that
/// holders share one evenly and a lost connection costs little.
pub const RANGE_BYTES: u64 = 1 << 20;

/// Length of a read when a file is served. Longer ones save no time.
pub const CHUNK_BYTES: u64 = 256 << 10;

//! What a node holds: entries, how they change, and how they move.
//!
//! - [`version`]: which of two states of an entry is newer. [`entries`]: keys, versions and values in memory. `memory`: what counts towards the limit.
//! - `commit`: the worker of a durable node. `fenced_writes`: writes into a range that moves.
//! - [`range_stream`]: the entries of a range on the wire. `range_sweep`: removes a range that is not ours.
//! - `tombstones`: when the traces of removed keys end.
//! - `recovered_entries`: what a durable node had on its disk before it joined.

pub(crate) mod commit;
pub mod entries;
pub(crate) mod fenced_writes;
pub(crate) mod memory;
pub mod range_stream;
pub(crate) mod range_sweep;
pub(crate) mod recovered_entries;
pub(crate) mod tombstones;
pub mod version;

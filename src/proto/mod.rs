//! The protocols: codecs as pure functions of bytes, peers as state machines on the [`crate::engine`].
//!
//! - [`dht`]: a ring of nodes that hold one hash table.
//! - [`overlay`]: cPTP peers with bounded tables of neighbours.
//! - [`ring`]: a tracker, and the ring of neighbours that it makes.
//! - [`index`]: an index server and file sharing.
//!
//! Each folder's first page says where what is. Shared by them: [`host`] (what a protocol's state machine may ask of its
//! node), [`decimal`] (numbers as text), [`log_limit`] (log lines that peers cause). They import nothing of each other.

pub mod decimal;
pub mod dht;
pub mod host;
pub mod index;
pub mod log_limit;
pub mod overlay;
pub mod ring;

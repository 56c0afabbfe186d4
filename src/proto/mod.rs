//! The protocols: codecs as pure functions of bytes, peers as state machines on the [`crate::engine`].

pub mod decimal;
pub mod dht;
pub mod host;
pub mod index;
pub mod log_limit;
pub mod overlay;
pub mod ring;

//! protocols
pub mod dht;

//! peerloop
pub mod engine;
pub mod proto;
pub mod store;
#[cfg(feature = "net")]
pub mod net;
pub mod sim;

//! peerloop
pub mod app;
pub mod engine;
#[cfg(feature = "net")]
pub mod net;
pub mod proto;
pub mod store;

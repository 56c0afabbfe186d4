//! engine
pub mod time;
pub mod wheel;

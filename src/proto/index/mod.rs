//! The index server and file-sharing peers: who shares what is asked of one server, files move between peers.
//!
//! Where to look:
//! - [`fields`]: the values that messages are made of, each with the one way it is written.
//! - [`wire`]: the bytes of frames and requests; [`reply`]: those of answers.

pub mod fields;
pub mod reply;
pub mod wire;

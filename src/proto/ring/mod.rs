//! The tracker and its neighbour ring: Python tuples over TCP, in the three encodings in which they are seen.
//!
//! Where to look:
//! - [`wire`]: every message of the protocol, read and written; which encoding a peer speaks; where a message ends.
//! - [`value`]: the values that a message is made of, in bounded memory.
//! - `pickle`, `literal`: the encodings. Functions of bytes, plain data only.

mod literal;
mod pickle;
pub mod value;
pub mod wire;

//! The DHT: a ring of nodes that together hold one hash table, spoken in text lines over TCP.
//!
//! Where to look:
//! - [`id`]: positions on the ring of 2^160. SHA-1 of names and addresses, clockwise distance, who
//!   owns what, and the decimal digits a key is written with.
//! - [`wire`]: the bytes of every line, in both directions. Pure functions: they hold no state, do
//!   no I/O and allocate nothing.
//!
//! Neither of the two knows what a node does with a request: sequences of messages, ownership over
//! time and routing are decided above them.

pub mod id;
pub mod wire;

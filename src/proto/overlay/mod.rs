//! The overlay: cPTP peers with bounded tables, which welcome a newcomer or redirect it to others.
//!
//! Where to look:
//! - [`packet`]: the bytes of a Welcome and a Redirect, both ways; pure.
//! - [`peer`]: one peer: admission of newcomers, ends of links, its time. [`config`]: how it is to behave.
//! - [`join`]: a join under way. `candidates`: which address is next; pure.
//! - [`table`]: the peers that a peer has, of which it tells a random sample; and the memory of refusals. `neighbourhood`:
//!   both together. [`connection`]: what a connection is for.
//! - [`event`]: what an observer is told.
//! - [`node`]: the service, which hosts one peer or thousands, one a listener; dispatch only.
//! - [`walk`]: visits every peer of an overlay, for a map of it.
//!
//! ```text
//!  node ──▶ peer ──▶ join ──▶ candidates, neighbourhood ──▶ table, config
//! ```
//! Imports go to the right only; nothing imports the node.
//!
//! Addresses take four bytes in a packet: no peer has one of IPv6.
//!
//! What it does not do: find out whether a peer without a link still lives. To a plain peer every connection is a
//! join, so none is dialled for that; its entry ends by time.
//!
//! Invariants: a table never has more entries than its size, no peer twice and never its own address; a join ends by
//! its deadline; an idle peer has no timer but that of the next entry without a link.

mod candidates;
pub mod config;
pub mod connection;
pub mod event;
pub mod join;
mod neighbourhood;
pub mod node;
pub mod packet;
pub mod peer;
pub mod table;
#[cfg(test)]
mod tests;
pub mod walk;

pub use event::{Event, Observer, Then};
pub use node::{Overlay, fit};

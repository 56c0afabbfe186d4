//! Requests to other nodes.
//!
//! - [`operation`]: one GET, INSERT, ... through all its hops; pure. [`client`]: operations on the connections of a service.
//! - [`links`]: connections to members that are kept open, for requests of our extension.
//! - [`stat`]: XSTAT, an extension of ours by which a node tells what it holds.
//! - `failure_detector`: probes our next before its range is taken from it.

pub mod client;
pub(crate) mod failure_detector;
pub mod links;
pub mod operation;
pub mod stat;

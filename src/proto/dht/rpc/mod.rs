//! Requests to other nodes.
//!
//! - [`operation`]: one GET, INSERT, ... through all its hops; pure. [`client`]: operations on the connections of a service.
//! - [`links`]: connections to members that are kept open, for requests of our extension.
//! - [`stat`]: XSTAT, an extension of ours by which a node tells what it holds, who is around it, and its lease.
//! - `failure_detector`: probes our next before a peer's request takes its range. Heartbeats are in `membership`.

pub mod client;
pub(crate) mod failure_detector;
pub mod links;
pub mod operation;
pub mod stat;

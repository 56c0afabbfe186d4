//! The engine: every connection of a node as a buffered state machine, without any I/O.
//!
//! ```text
//!  driver (net or sim)          engine                           a protocol
//!  ───────────────────          ──────                           ──────────
//!  ready(conn) ───────────────▶ Node ── reads, budgets ────────▶ Service::on_input
//!  accepted, job_done ────────▶  │   ◀─ writes, dials, timers ── Hub / Cx
//!  turn(now, transport) ──────▶  │
//!                                └── one write a dirty connection, then the reap
//! ```
//!
//! What it is for: the bookkeeping that every protocol needs and that is easy to get wrong: slots and
//! stale tokens, fairness, backpressure, deadlines, orderly closing. It does not open sockets, read a clock,
//! start threads or know any protocol. A driver lends it a [`Transport`] and tells it the time.
//!
//! Where to look:
//! - `node`: what a driver tells a node. `turn`: one turn of the loop. `deadlines`: timeouts of connections, due timers.
//!   `heard`: which of these may be judged.
//! - `service`: what a protocol implements. `hub`: what it may do. `input`: what it reads. `end`: why a connection ended.
//! - `conn`, `output`, `peers`: a connection, its queue, its address. [`wheel`]: timers. [`framing`]: lines and frames.
//! - `limits`: every bound. `stats`: every counter. `validate`: the invariants below, as assertions.
//!
//! Invariants (asserted by [`Node::validate`]):
//! - a slot is reused only after the reap of the turn in which its connection ended;
//! - a connection on the ready or dirty list is on it once, and its flag says so;
//! - an idle connection owns no buffer: output and stash come from a pool and go back to it;
//! - a connection that the peer can stall has a timer, armed no later than its true deadline;
//! - what output queues own is counted once each, and given back with the queue.

mod conn;
mod deadlines;
mod end;
pub mod framing;
mod heard;
mod hub;
mod input;
mod limits;
mod node;
mod output;
mod peers;
mod service;
mod stats;
pub mod time;
mod transport;
mod turn;
mod validate;
pub mod wheel;

pub use conn::ConnId;
pub use end::{Blame, Deadline, End, Violation};
pub use heard::Heard;
pub use hub::{Cx, Hub};
pub use input::{Input, Step};
pub use limits::Limits;
pub use node::Node;
pub use service::{NoJob, Service, Work};
pub use stats::Stats;
pub use time::{Tick, Ticks};
pub use transport::{Readiness, Transport};
pub use wheel::{TimerId, Wheel};

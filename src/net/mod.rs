//! Drives the engine with real sockets: the only place of the library that opens sockets, reads a clock, catches signals
//! or starts a thread. It knows no protocol, and leaves buffers, fairness, deadlines and closing to the engine.
//!
//! [`Reactor`] is the loop. A [`Host`] is what belongs to one of its services (node, sockets, listeners, worker threads);
//! most programs have one and never see it.
//!
//! `listener` binds and accepts; `sockets` dials, reads and writes; `worker` is a thread for jobs; `calls` are closures from
//! other threads; `signals` are those that ask a process to leave; `files` are limits of descriptors; `tokens` name what an
//! event is of.

mod calls;
mod clock;
mod files;
mod host;
mod listener;
mod reactor;
mod signals;
mod sockets;
#[cfg(test)]
mod tests;
mod tokens;
mod worker;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a poll token holds a connection's slot and generation, which takes 64 bits");

pub use calls::{Caller, Stopped};
pub use files::{raise_file_limit, survive_file_size_limit};
pub use host::Host;
pub use listener::{Address, Bound};
pub use reactor::{Handle, Reactor, ServiceId};
pub use signals::leave_signals;

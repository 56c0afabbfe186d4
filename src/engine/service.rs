//! The boundary between the engine and a protocol.
//!
//! A protocol is a [`Service`]: the engine calls it when something happens, and it acts through the
//! [`Cx`] (or, where no connection is concerned, the [`Hub`]) that it is lent. Each connection has a
//! protocol half, `Service::Conn`, which the engine keeps and lends with every call, and an engine half,
//! which the service reaches by id. The two stand in separate tables, so a service can hold its own half
//! and still write to, close or notify any other connection.
//!
//! What a service must not do: block, read a clock, draw randomness of its own, or loop over something
//! that a peer can make long. Whatever takes time is a job for the worker ([`Hub::submit`]).

use super::{ConnId, Cx, End, Hub, Input, Step, Violation};

/// A protocol on the engine.
pub trait Service: Sized {
    /// The protocol has no way to say an address of IPv6. Drivers then refuse it listeners that such peers could reach,
    /// and it may ask for [`Cx::peer_v4`].
    const IPV4_ONLY: bool = false;

    /// The protocol half of a connection: what is expected next on it. Counts towards the memory of an
    /// idle connection, so large states belong in a box.
    type Conn;
    /// What one part of the service tells a connection, see [`Hub::notify`].
    type Note;
    /// The service's own timers, see [`Hub::arm`]. At most 8 bytes keeps a timer at 32.
    type Timer: Copy + PartialEq;
    /// Work for the worker thread: a durable write, a hash.
    type Job: Send + 'static;
    /// What comes back from the worker, once for every job. In the order of the jobs that one worker does; a driver
    /// may have several, each for some of the jobs or several for the same, and their results come in any order.
    type Done: Send + 'static;

    /// The node starts: called once, in its first turn, before anything else.
    fn on_start(&mut self, _hub: &mut Hub<Self>) {}

    /// A peer connected to the driver's listener number `listener`. Protocols in which the acceptor
    /// speaks first write here. `None` refuses it: the engine sends what was written and closes.
    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Self::Conn> {
        None
    }

    /// A connection that [`Hub::dial`] asked for is there. When it fails, [`Service::on_end`] comes
    /// instead, with [`End::Unreachable`] or [`End::Timeout`].
    fn on_dialled(&mut self, _cx: &mut Cx<'_, Self>, _conn: &mut Self::Conn) {}

    /// Bytes are there. Called again and again until the service says that it wants more bytes or has
    /// to wait, or until the connection's share of the turn is used up; see [`Step`].
    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Self::Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation>;

    /// The output fell below the low-water mark after it had passed the high one: a service that
    /// produces a long answer piece by piece goes on here.
    fn on_room(&mut self, _cx: &mut Cx<'_, Self>, _conn: &mut Self::Conn) {}

    /// A note for this connection, sent earlier in this turn or in the one before.
    fn on_note(&mut self, _cx: &mut Cx<'_, Self>, _conn: &mut Self::Conn, _note: Self::Note) {}

    /// The connection is over, for the reason given; nothing can be written to it any more. Comes
    /// exactly once for every `Conn` that was ever handed to the engine.
    fn on_end(&mut self, _hub: &mut Hub<Self>, _id: ConnId, _conn: Self::Conn, _end: End) {}

    /// A timer of the service fired.
    fn on_timer(&mut self, _hub: &mut Hub<Self>, _timer: Self::Timer) {}

    /// A job of [`Hub::submit`] is done. The connection that asked for it may be gone by now.
    fn on_done(&mut self, _hub: &mut Hub<Self>, _done: Self::Done) {}

    /// The operator asks the process to leave (SIGINT, SIGTERM, SIGHUP, a handle). The service calls
    /// [`Hub::stop`] when it is ready to; by default at once.
    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        hub.stop();
    }
}

/// What the worker thread does with the jobs of a service. Lives on its own thread under the reactor, so it may
/// block; in the simulator it is called at a virtual time.
pub trait Work: Send + 'static {
    type Job: Send + 'static;
    type Done: Send + 'static;

    /// Does all `jobs`, in order, and pushes one `Done` for each. Everything that came in since the last call
    /// is in one call, so that many durable writes can share one commit.
    fn run(&mut self, jobs: &mut Vec<Self::Job>, done: &mut Vec<Self::Done>);
}

/// The job type of a service that has no work for the worker thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoJob {}

//! Calls from other threads into a running reactor.
//!
//! A call is a closure that the loop runs between two turns, with the service and its hub: how a prompt reads the
//! state of a node without a lock around it. Calls wait in a queue of [`CALLS_MAX`]; a thread that finds it full waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mio::Waker;
use thiserror::Error;

use crate::engine::{Hub, Node, Service};

/// Calls that wait: each has a thread behind it, and a process has few of those.
const CALLS_MAX: usize = 64;

type Call<S> = Box<dyn FnOnce(&mut S, &mut Hub<S>) + Send>;

/// The reactor is gone, and the call with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the node has stopped")]
pub struct Stopped;

/// Runs closures on the loop of a [`super::Reactor`], from other threads.
pub struct Caller<S: Service> {
    calls: SyncSender<Call<S>>,
    waker: Arc<Waker>,
}

impl<S: Service> Clone for Caller<S> {
    fn clone(&self) -> Caller<S> {
        Caller {
            calls: self.calls.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<S: Service> Caller<S> {
    /// Runs `act` on the loop and returns what it returned. It must not block, nor be called from the loop itself.
    ///
    /// # Errors
    /// When the reactor has ended, or ends before it comes to this call.
    pub fn call<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut S, &mut Hub<S>) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (tell, told) = sync_channel(1);
        let call: Call<S> = Box::new(move |service, hub| {
            // Fails only when the caller is gone, which then does not want to know.
            let _ = tell.send(act(service, hub));
        });
        self.calls.send(call).map_err(|_| Stopped)?;
        self.waker.wake().map_err(|_| Stopped)?;
        told.recv().map_err(|_| Stopped)
    }
}

/// The reactor's end of the queue.
pub(super) struct Calls<S: Service> {
    sender: SyncSender<Call<S>>,
    queue: Receiver<Call<S>>,
}

impl<S: Service> Calls<S> {
    pub(super) fn new() -> Calls<S> {
        let (sender, queue) = sync_channel(CALLS_MAX);
        Calls { sender, queue }
    }

    pub(super) fn caller(&self, waker: &Arc<Waker>) -> Caller<S> {
        Caller {
            calls: self.sender.clone(),
            waker: waker.clone(),
        }
    }

    /// Runs what waits, at most [`CALLS_MAX`] a turn. A call that is queued meanwhile wakes the loop again.
    pub(super) fn run(&self, node: &mut Node<S>) {
        for call in self.queue.try_iter().take(CALLS_MAX) {
            node.with(call);
        }
    }
}

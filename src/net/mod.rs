//! The reactor: drives a [`Node`] with real sockets on one mio poll loop.
//!
//! The only place of the library that opens sockets, reads a clock, catches signals or starts a thread. It knows
//! no protocol, and leaves buffers, fairness, deadlines and closing to the engine.
//!
//! One turn: sleep until an event or the next deadline; read the clock once; mark what is ready; take a share of what
//! the workers have done; accept a batch; let the engine serve, fire timers, write and reap; hand jobs to the workers. An
//! idle node sleeps: there is no periodic wake-up, but for one a second while jobs are under way.

mod calls;
mod clock;
mod files;
mod listener;
mod signals;
mod sockets;
#[cfg(test)]
mod tests;
mod worker;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a poll token holds a connection's slot and generation, which takes 64 bits");

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

use crate::engine::{ConnId, Limits, Node, Readiness, Service, Work};

use calls::Calls;
use clock::Clock;
use listener::Listener;
use signals::Caught;
use sockets::Sockets;
use worker::Worker;

pub use calls::{Caller, Stopped};
pub use files::{raise_file_limit, survive_file_size_limit};
pub use listener::{Address, Bound};

/// Events taken from the kernel at once. Their connections' buffers are touched again when the turn writes; with 256
/// they are still in the second-level cache then.
const EVENTS_PER_TURN: usize = 256;

/// How often a loop that waits for its workers looks at them without being woken. Results wake it; this bounds the wait
/// for a thread that is gone and could not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tokens that are no connection; their slots are beyond every connection's.
const SLOT_LISTENER: u32 = u32::MAX;
const TOKEN_WAKER: Token = Token(u32::MAX as usize - 1);
const TOKEN_SIGNALS: Token = Token(u32::MAX as usize - 2);

/// A service on real sockets.
pub struct Reactor<S: Service> {
    node: Node<S>,
    poll: Poll,
    events: Events,
    sockets: Sockets,
    listeners: Vec<Listener>,
    /// Before `workers`, so dropped before them: while they are waited for, a signal ends the process.
    signals: Option<Caught>,
    workers: Vec<Lane<S>>,
    clock: Clock,
    waker: Arc<Waker>,
    stop_asked: Arc<AtomicBool>,
    calls: Calls<S>,
    /// A signal came.
    leaving: bool,
}

/// A worker thread and the jobs that are its.
struct Lane<S: Service> {
    takes: fn(&S::Job) -> bool,
    worker: Worker<S::Job, S::Done>,
}

/// Asks a running [`Reactor`] to leave, from another thread.
#[derive(Clone)]
pub struct Handle {
    waker: Arc<Waker>,
    stop_asked: Arc<AtomicBool>,
}

impl Handle {
    /// The service is told as by SIGTERM ([`Service::on_shutdown`]).
    pub fn shutdown(&self) {
        self.stop_asked.store(true, Ordering::Release);
        // Fails only when the reactor is gone, which is what was asked for.
        let _ = self.waker.wake();
    }
}

impl<S: Service> Reactor<S> {
    /// A reactor for `service`. Raises the file limit to the hard limit and lowers `limits.conns_max` to what it
    /// allows.
    ///
    /// # Errors
    /// When the file limit leaves no room for connections, or the kernel gives no epoll instance.
    pub fn new(service: S, mut limits: Limits) -> io::Result<Reactor<S>> {
        limits.conns_max = limits.conns_max.min(files::conns_max()?);
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), TOKEN_WAKER)?);
        let clock = Clock::start();
        let keepalive = sockets::keepalive(&limits);
        Ok(Reactor {
            node: Node::new(service, limits, rand::random(), clock.now()),
            sockets: Sockets::new(poll.registry().try_clone()?, keepalive),
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            listeners: Vec::new(),
            workers: Vec::new(),
            signals: None,
            clock,
            waker,
            stop_asked: Arc::new(AtomicBool::new(false)),
            calls: Calls::new(),
            leaving: false,
        })
    }

    /// Accepts from `bound`. Listeners are numbered from 0.
    ///
    /// # Errors
    /// When the service is [`Service::IPV4_ONLY`] and `bound` is not.
    pub fn accept_from<A: Address>(&mut self, bound: Bound<A>) -> io::Result<()> {
        let addr: SocketAddr = bound.addr().into();
        if S::IPV4_ONLY && addr.is_ipv6() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{addr}: the protocol has addresses of IPv4 only"),
            ));
        }
        if let Some(settings) = sockets::keepalive(self.node.limits()) {
            bound.keep_alive(&settings)?;
        }
        let token = Token((self.listeners.len() << 32) | SLOT_LISTENER as usize);
        self.listeners
            .push(Listener::register(bound, self.poll.registry(), token)?);
        Ok(())
    }

    /// Listens on `addr` (port 0: any free one) and returns the address it got.
    pub fn listen<A: Address>(&mut self, addr: A) -> io::Result<A> {
        let bound = Bound::bind(addr)?;
        let addr = bound.addr();
        self.accept_from(bound)?;
        Ok(addr)
    }

    /// Starts the worker thread that does the service's jobs.
    pub fn start_worker(
        &mut self,
        work: impl Work<Job = S::Job, Done = S::Done>,
    ) -> io::Result<()> {
        self.start_worker_for(|_| true, work)
    }

    /// Starts a worker thread for the jobs that `takes` names, so that quick ones do not wait behind slow ones. Where
    /// several take a job, the one with the fewest gets it. Order is kept among the jobs of one thread.
    pub fn start_worker_for(
        &mut self,
        takes: fn(&S::Job) -> bool,
        work: impl Work<Job = S::Job, Done = S::Done>,
    ) -> io::Result<()> {
        let worker = Worker::start(work, self.waker.clone())?;
        self.workers.push(Lane { takes, worker });
        Ok(())
    }

    /// From now on SIGINT and SIGTERM ask the service to leave. The second one ends [`Reactor::run`] with an error of the
    /// kind [`io::ErrorKind::Interrupted`], and dropping the reactor then waits for no worker. When the last reactor
    /// that listens is gone, they end the process.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Caught::new(self.poll.registry(), TOKEN_SIGNALS)?);
        Ok(())
    }

    pub fn handle(&self) -> Handle {
        Handle {
            waker: self.waker.clone(),
            stop_asked: self.stop_asked.clone(),
        }
    }

    /// For other threads that ask the service something while it runs.
    pub fn caller(&self) -> Caller<S> {
        self.calls.caller(&self.waker)
    }

    /// The engine and the service, between turns; at the time that it is now, not that of the last turn.
    pub fn node(&mut self) -> &mut Node<S> {
        self.node.begin(self.clock.now());
        &mut self.node
    }

    pub fn into_service(self) -> S {
        self.node.into_service()
    }

    /// Runs until the service stops the node; then accepts no more, and gives what is queued and the jobs
    /// under way `limits.linger` to get out.
    ///
    /// # Errors
    /// As [`Reactor::turn`].
    pub fn run(&mut self) -> io::Result<()> {
        while !self.node.stopping() {
            self.turn(None)?;
        }
        self.listeners.clear();
        let stopped = Instant::now();
        while !self.node.drained() {
            let linger = self.node.limits().linger.as_duration();
            let left = linger.saturating_sub(stopped.elapsed());
            if left.is_zero() {
                break;
            }
            self.turn(Some(left))?;
        }
        Ok(())
    }

    /// One turn; sleeps for at most `wait_max`.
    ///
    /// # Errors
    /// When the poll itself fails, a worker thread is gone, or a second signal came: nothing can go on then. Workers are
    /// not waited for any more.
    pub fn turn(&mut self, wait_max: Option<Duration>) -> io::Result<()> {
        let result = self.take_turn(wait_max);
        if result.is_err() {
            self.workers
                .iter_mut()
                .for_each(|lane| lane.worker.abandon());
        }
        result
    }

    fn take_turn(&mut self, wait_max: Option<Duration>) -> io::Result<()> {
        let timeout = [self.timeout(), wait_max].into_iter().flatten().min();
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(e) => return Err(e),
        }
        let now = self.clock.now();
        self.node.begin(now);
        // A sleep that ran out is also the time to look at the workers.
        let (mut woken, mut signalled) = (self.events.is_empty(), false);
        for event in &self.events {
            match event.token() {
                TOKEN_WAKER => woken = true,
                TOKEN_SIGNALS => signalled = true,
                Token(token) if token as u32 == SLOT_LISTENER => {
                    // Listeners are dropped at the end of a run; an event may still be under way.
                    if let Some(listener) = self.listeners.get_mut(token >> 32) {
                        listener.event();
                    }
                }
                Token(token) => {
                    self.node
                        .ready(ConnId::from_token(token as u64), readiness(event));
                }
            }
        }
        if woken || self.workers.iter().any(|lane| lane.worker.has_done()) {
            self.take_done()?;
        }
        if signalled {
            self.take_signals()?;
        }
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            listener.accept(number, now, &mut self.node, &mut self.sockets);
        }
        self.node.turn(&mut self.sockets);
        if self.sockets.take_closed() {
            self.listeners.iter_mut().for_each(Listener::resume);
        }
        self.hand_out_jobs()
    }

    /// How long the poll may sleep; `None` until an event.
    fn timeout(&self) -> Option<Duration> {
        let accepts = self.listeners.iter().any(|l| l.has_work(&self.node));
        let done = self.workers.iter().any(|lane| lane.worker.has_done());
        if self.node.has_work() || accepts || done {
            return Some(Duration::ZERO);
        }
        let resumes = self.listeners.iter().filter_map(Listener::resumes_at);
        let deadline = resumes.chain(self.node.next_deadline()).min();
        let working = self.workers.iter().any(|lane| lane.worker.under_way() > 0);
        let deadline = deadline.map(|at| self.clock.until(at));
        deadline
            .into_iter()
            .chain(working.then_some(LOOK_EVERY))
            .min()
    }

    fn take_done(&mut self) -> io::Result<()> {
        let share = self.node.limits().jobs_done_per_turn;
        for lane in &mut self.workers {
            lane.worker
                .take_done(share, |done| self.node.job_done(done))?;
        }
        self.calls.run(&mut self.node);
        if self.stop_asked.swap(false, Ordering::Acquire) {
            self.node.shutdown();
        }
        Ok(())
    }

    fn take_signals(&mut self) -> io::Result<()> {
        let came = self.signals.as_mut().map_or(0, Caught::take);
        for _ in 0..came {
            if self.leaving {
                self.node.with(|_, hub| hub.stop());
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "ended by a second signal, before everything was done",
                ));
            }
            self.leaving = true;
            log::info!("leaving; a second signal ends at once");
            self.node.shutdown();
        }
        Ok(())
    }

    fn hand_out_jobs(&mut self) -> io::Result<()> {
        for job in self.node.take_jobs() {
            let takers = self.workers.iter_mut().filter(|lane| (lane.takes)(&job));
            let Some(lane) = takers.min_by_key(|lane| lane.worker.under_way()) else {
                return Err(io::Error::other(
                    "the service has jobs and the reactor no worker",
                ));
            };
            lane.worker.submit(job)?;
        }
        Ok(())
    }
}

fn readiness(event: &Event) -> Readiness {
    let broken = event.is_error();
    Readiness {
        readable: event.is_readable(),
        writable: event.is_writable() || event.is_write_closed() || broken,
        hung_up: event.is_read_closed() || broken,
    }
}

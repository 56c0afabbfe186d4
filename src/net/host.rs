//! What belongs to one service of a reactor: its node, its sockets, its listeners, its workers and its callers.
//!
//! Services on one reactor share the poll, the clock and the descriptors, and nothing else: each has connections, timers
//! and limits of its own. The reactor knows its first service by type; the others are [`Served`], so that one service
//! alone pays for no dynamic call. Within this file every call is static.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Registry, Waker};

use crate::engine::{Limits, Node, Readiness, Service, Tick, Work};

use super::calls::{Caller, Calls};
use super::clock::Clock;
use super::listener::{Address, Bound, Listener};
use super::sockets::{self, Sockets};
use super::tokens::{self, Of};
use super::worker::Worker;

/// Ready connections that a service which is not alone serves in one turn: the others wait for it about a millisecond at
/// the worst, 64 times a connection's share.
const READY_PER_TURN_SHARED: usize = 64;

/// How often a loop that waits for its workers looks at them without being woken. Results wake it; this bounds the wait
/// for a thread that is gone and could not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One service of a [`super::Reactor`].
pub struct Host<S: Service> {
    number: usize,
    node: Node<S>,
    sockets: Sockets,
    listeners: Vec<Listener>,
    workers: Vec<Lane<S>>,
    calls: Calls<S>,
    waker: Arc<Waker>,
    clock: Clock,
    /// There are other services, which go on when this one has stopped.
    is_shared: bool,
    /// When a service that has stopped loses the connections that are left.
    closes_at: Option<Tick>,
    /// What the service asked for; it gets what the descriptors allow.
    conns_asked: usize,
}

/// A worker thread and the jobs that are its.
struct Lane<S: Service> {
    takes: fn(&S::Job) -> bool,
    worker: Worker<S::Job, S::Done>,
}

impl<S: Service> Host<S> {
    pub(super) fn new(
        number: usize,
        service: S,
        mut limits: Limits,
        files: usize,
        clock: Clock,
        registry: &Registry,
        waker: Arc<Waker>,
    ) -> io::Result<Host<S>> {
        let conns_asked = limits.conns_max;
        limits.conns_max = conns_asked.min(files);
        let keepalive = sockets::keepalive(&limits);
        Ok(Host {
            number,
            node: Node::new(service, limits, rand::random(), clock.now()),
            sockets: Sockets::new(number, registry.try_clone()?, keepalive),
            listeners: Vec::new(),
            workers: Vec::new(),
            calls: Calls::new(),
            waker,
            clock,
            is_shared: false,
            closes_at: None,
            conns_asked,
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
        let token = tokens::of_listener(self.number, self.listeners.len());
        self.listeners
            .push(Listener::register(bound, self.sockets.registry(), token)?);
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

    /// For other threads that ask the service something while it runs.
    pub fn caller(&self) -> Caller<S> {
        self.calls.caller(&self.waker)
    }

    /// The engine and the service, between turns; at the time that it is now, not that of the last turn.
    pub fn node(&mut self) -> &mut Node<S> {
        self.node.set_now(self.clock.now());
        &mut self.node
    }

    pub(super) fn into_service(self) -> S {
        self.node.into_service()
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

    fn has_done(&self) -> bool {
        self.workers.iter().any(|lane| lane.worker.has_done())
    }

    /// A service that has stopped accepts no more and has `limits.linger` to get out what is queued; then its connections
    /// end, read or not, though other services go on.
    fn leave(&mut self, now: Tick, heard: Tick) {
        self.listeners.clear();
        let linger = self.node.limits().linger;
        let closes_at = *self.closes_at.get_or_insert(now + linger);
        if closes_at <= heard {
            self.node.drop_all();
        } else if self.node.drained() {
            self.node.close_all();
        }
    }
}

/// A service, as the loop sees it.
pub(super) trait Served {
    fn begin(&mut self, now: Tick);
    /// How many events there can be, of one each.
    fn sources(&self) -> usize;
    /// Marks what an event is about.
    fn event(&mut self, event: &Event);
    /// What the workers have done; and when the loop was woken, what callers wait for.
    fn take_done(&mut self, woken: bool) -> io::Result<()>;
    fn shutdown(&mut self);
    fn stop(&mut self);
    /// Accepts, serves, hands out jobs. By tick `heard` all events are told.
    fn turn(&mut self, now: Tick, heard: Tick) -> io::Result<()>;
    /// How long the poll may sleep; `None` until an event.
    fn sleep(&self) -> Option<Duration>;
    fn is_stopping(&self) -> bool;
    fn is_drained(&self) -> bool;
    /// Longest time for what is queued when the loop ends.
    fn linger(&self) -> Duration;
    fn stop_accepting(&mut self);
    /// Its workers are not waited for at the end.
    fn abandon(&mut self);
    fn conns_asked(&self) -> usize;
    /// There are other services: it gets so many descriptors, and a share of the turn.
    fn share(&mut self, conns_max: usize);
}

impl<S: Service> Served for Host<S> {
    fn begin(&mut self, now: Tick) {
        self.node.begin(now);
    }

    fn sources(&self) -> usize {
        self.node.conns() + self.listeners.len()
    }

    fn event(&mut self, event: &Event) {
        match tokens::what(event.token()) {
            Of::Conn(id) => self.node.ready(id, readiness(event)),
            Of::Listener(number) => {
                // Listeners are dropped at the end of a run; an event may still be under way.
                if let Some(listener) = self.listeners.get_mut(number) {
                    listener.event();
                }
            }
        }
    }

    fn take_done(&mut self, woken: bool) -> io::Result<()> {
        if woken || self.has_done() {
            let share = self.node.limits().jobs_done_per_turn;
            for lane in &mut self.workers {
                lane.worker
                    .take_done(share, |done| self.node.job_done(done))?;
            }
            self.calls.run(&mut self.node);
        }
        Ok(())
    }

    fn shutdown(&mut self) {
        self.node.shutdown();
    }

    fn stop(&mut self) {
        self.node.with(|_, hub| hub.stop());
    }

    fn turn(&mut self, now: Tick, heard: Tick) -> io::Result<()> {
        self.node.heard(heard);
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            listener.accept(number, now, &mut self.node, &mut self.sockets);
        }
        self.node.turn(&mut self.sockets);
        if self.sockets.take_closed() {
            self.listeners.iter_mut().for_each(Listener::resume);
        }
        if self.is_shared && self.node.stopping() {
            self.leave(now, heard);
        }
        self.hand_out_jobs()
    }

    fn sleep(&self) -> Option<Duration> {
        let accepts = self.listeners.iter().any(|l| l.has_work(&self.node));
        if self.node.has_work() || accepts || self.has_done() {
            return Some(Duration::ZERO);
        }
        let closes_at = self.closes_at.filter(|_| self.node.conns() > 0);
        let resumes = self.listeners.iter().map(Listener::resumes_at);
        let deadline = resumes.fold(soonest(self.node.next_deadline(), closes_at), soonest);
        let working = self.workers.iter().any(|lane| lane.worker.under_way() > 0);
        let deadline = deadline.map(|at| self.clock.until(at));
        soonest(deadline, working.then_some(LOOK_EVERY))
    }

    fn is_stopping(&self) -> bool {
        self.node.stopping()
    }

    fn is_drained(&self) -> bool {
        self.node.drained()
    }

    fn linger(&self) -> Duration {
        self.node.limits().linger.as_duration()
    }

    fn stop_accepting(&mut self) {
        self.listeners.clear();
    }

    fn abandon(&mut self) {
        self.workers
            .iter_mut()
            .for_each(|lane| lane.worker.abandon());
    }

    fn conns_asked(&self) -> usize {
        self.conns_asked
    }

    fn share(&mut self, conns_max: usize) {
        self.is_shared = true;
        self.node.share(conns_max, READY_PER_TURN_SHARED);
    }
}

/// A service that was added to a reactor: of any type, and found again by it.
pub(super) trait Added: Served + Any + Send {}

impl<T: Served + Any + Send> Added for T {}

/// The earlier of two times, of which each may be never (`None`).
pub(super) fn soonest<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
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

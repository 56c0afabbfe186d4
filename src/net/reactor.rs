//! The reactor: one mio poll loop that drives one service or several.
//!
//! One turn: sleep until an event or the next deadline; read the clock once; mark what is ready; take a share of what the
//! workers have done; then each service accepts a batch, and its engine serves, fires timers, writes and reaps; jobs go
//! to the workers. An idle node sleeps: there is no periodic wake-up, but for one a second while jobs are under way.
//!
//! Deadlines are judged up to the tick before the last poll that told of everything, not up to the time after it: the process
//! may have been stopped between the two, or the poll cut short (SIGCONT interrupts it). So the turn that a deadline woke
//! is followed by one that does not sleep, which hears what came until then and fires.
//!
//! Several services ([`Reactor::add_service`]) take their part of each turn one after the other. What one may do in its
//! part is bounded by its limits a connection, and by a number of connections: a flood of one costs the others about a
//! millisecond a turn. Each stops for itself; the loop ends when all have.

use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Waker};
use signal_hook::consts::SIGHUP;

use crate::engine::{Heard, Limits, Node, Service, Tick, Work};

use super::calls::Caller;
use super::clock::Clock;
use super::files;
use super::host::{Added, Host, Served, soonest};
use super::listener::{Address, Bound};
use super::signals::Caught;
use super::tokens::{self, CONNS_MAX, SERVICES_MAX};

/// Events taken from the kernel at once. Their connections' buffers are touched again when the turn writes; with 256
/// they are still in the second-level cache then.
const EVENTS_PER_TURN: usize = 256;

/// Sources of events that are no service's.
const WAKER_AND_SIGNALS: usize = 2;

/// Services on real sockets: one whose type is known, and any that were added.
pub struct Reactor<S: Service> {
    poll: Poll,
    events: Events,
    /// Before the services, so dropped before their workers: while they are waited for, a signal ends the process.
    signals: Option<Caught>,
    first: Host<S>,
    /// Service number 1 and so on.
    others: Vec<Box<dyn Added>>,
    /// Descriptors that connections may have, over all services.
    files: usize,
    clock: Clock,
    /// When the last turn began; the next poll begins later.
    now: Tick,
    heard: Heard,
    waker: Arc<Waker>,
    stop_asked: Arc<AtomicBool>,
    /// A signal came: the services are told.
    leaving: bool,
    /// A SIGINT or SIGTERM came: the next one ends the run.
    pressed: bool,
}

/// Names a service that was added to a reactor, see [`Reactor::host`].
pub struct ServiceId<T> {
    index: usize,
    service: PhantomData<fn() -> T>,
}

impl<T> Clone for ServiceId<T> {
    fn clone(&self) -> ServiceId<T> {
        *self
    }
}

impl<T> Copy for ServiceId<T> {}

/// Asks a running [`Reactor`] to leave, from another thread.
#[derive(Clone)]
pub struct Handle {
    waker: Arc<Waker>,
    stop_asked: Arc<AtomicBool>,
}

impl Handle {
    /// Every service is told as by SIGTERM ([`Service::on_shutdown`]).
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
    pub fn new(service: S, limits: Limits) -> io::Result<Reactor<S>> {
        let files = files::conns_max()?.min(CONNS_MAX);
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), tokens::WAKER)?);
        let clock = Clock::start();
        let registry = poll.registry();
        let first = Host::new(0, service, limits, files, clock, registry, waker.clone())?;
        Ok(Reactor {
            first,
            others: Vec::new(),
            files,
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            signals: None,
            clock,
            now: Tick(0),
            heard: Heard::default(),
            waker,
            stop_asked: Arc::new(AtomicBool::new(false)),
            leaving: false,
            pressed: false,
        })
    }

    /// Adds a service with connections, timers, limits, workers and callers of its own; [`Reactor::host`] lends it, to
    /// listen and so on. Before the reactor runs.
    ///
    /// The descriptors are divided: a service that asks for less than an equal part (`limits.conns_max`) gets what it
    /// asks for, and those that ask for more share the rest equally.
    ///
    /// # Errors
    /// When there are 15 services already, or the file limit leaves no connection for each.
    pub fn add_service<T: Service + 'static>(
        &mut self,
        service: T,
        limits: Limits,
    ) -> io::Result<ServiceId<T>>
    where
        Host<T>: Send,
    {
        let index = self.others.len();
        if index + 1 == SERVICES_MAX || self.files < index + 2 {
            return Err(io::Error::other(
                "a reactor has no room for another service",
            ));
        }
        let (clock, registry) = (self.clock, self.poll.registry());
        let waker = self.waker.clone();
        let host = Host::new(
            index + 1,
            service,
            limits,
            self.files,
            clock,
            registry,
            waker,
        )?;
        self.others.push(Box::new(host));
        let asked: Vec<usize> = self.hosts().map(|host| host.conns_asked()).collect();
        let shares = divide(self.files, &asked);
        self.hosts_mut()
            .zip(shares)
            .for_each(|(host, share)| host.share(share));
        Ok(ServiceId {
            index,
            service: PhantomData,
        })
    }

    /// A service that was added.
    ///
    /// # Panics
    /// When `id` is of another reactor.
    pub fn host<T: Service + 'static>(&mut self, id: ServiceId<T>) -> &mut Host<T> {
        let host: &mut dyn Any = &mut *self.others[id.index];
        host.downcast_mut().expect("the id is of this reactor")
    }

    /// See [`Host::accept_from`].
    pub fn accept_from<A: Address>(&mut self, bound: Bound<A>) -> io::Result<()> {
        self.first.accept_from(bound)
    }

    /// See [`Host::listen`].
    pub fn listen<A: Address>(&mut self, addr: A) -> io::Result<A> {
        self.first.listen(addr)
    }

    /// See [`Host::start_worker`].
    pub fn start_worker(
        &mut self,
        work: impl Work<Job = S::Job, Done = S::Done>,
    ) -> io::Result<()> {
        self.first.start_worker(work)
    }

    /// See [`Host::start_worker_for`].
    pub fn start_worker_for(
        &mut self,
        takes: fn(&S::Job) -> bool,
        work: impl Work<Job = S::Job, Done = S::Done>,
    ) -> io::Result<()> {
        self.first.start_worker_for(takes, work)
    }

    /// From now on SIGINT, SIGTERM and SIGHUP ask every service to leave. The second SIGINT or SIGTERM ends
    /// [`Reactor::run`] with an error of the kind [`io::ErrorKind::Interrupted`], and dropping the reactor then waits for
    /// no worker. A SIGHUP never does: one terminal that closes may send several, and a service manager one behind its
    /// SIGTERM. When the last reactor that listens is gone, the signals end the process. Where SIGHUP was ignored before
    /// (`nohup`), it stays so.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Caught::new(self.poll.registry(), tokens::SIGNALS)?);
        Ok(())
    }

    pub fn handle(&self) -> Handle {
        Handle {
            waker: self.waker.clone(),
            stop_asked: self.stop_asked.clone(),
        }
    }

    /// See [`Host::caller`].
    pub fn caller(&self) -> Caller<S> {
        self.first.caller()
    }

    /// See [`Host::node`].
    pub fn node(&mut self) -> &mut Node<S> {
        self.first.node()
    }

    pub fn into_service(self) -> S {
        // As when the reactor is dropped: before the workers, so that a signal ends the process that waits for them.
        drop(self.signals);
        self.first.into_service()
    }

    /// Runs until every service has stopped its node; then accepts no more, and gives what is queued and the jobs
    /// under way `limits.linger` to get out.
    ///
    /// # Errors
    /// As [`Reactor::turn`].
    pub fn run(&mut self) -> io::Result<()> {
        while !self.hosts().all(|host| host.is_stopping()) {
            self.turn(None)?;
        }
        self.hosts_mut().for_each(|host| host.stop_accepting());
        let linger = self.hosts().map(|host| host.linger()).max();
        let stopped = Instant::now();
        while !self.hosts().all(|host| host.is_drained()) {
            let left = linger.unwrap_or_default().saturating_sub(stopped.elapsed());
            // The last turn does not sleep: it sends what there is room for after a time in which the process did not run.
            self.turn(Some(left))?;
            if left.is_zero() {
                break;
            }
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
            self.hosts_mut().for_each(|host| host.abandon());
        }
        result
    }

    fn take_turn(&mut self, wait_max: Option<Duration>) -> io::Result<()> {
        let sleep = soonest(self.sleep(), wait_max);
        let heard = match self.poll.poll(&mut self.events, sleep) {
            Ok(()) => {
                let count = self.events.iter().count();
                let sources =
                    WAKER_AND_SIGNALS + self.hosts().map(|host| host.sources()).sum::<usize>();
                let full = count == EVENTS_PER_TURN;
                self.heard.polled(self.now, count, full, sources)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                self.heard.interrupted()
            }
            Err(e) => return Err(e),
        };
        let now = self.clock.now();
        self.now = now;
        self.first.begin(now);
        self.others.iter_mut().for_each(|host| host.begin(now));
        // A sleep that ran out is also the time to look at the workers.
        let (mut woken, mut signalled) = (self.events.is_empty(), false);
        for event in &self.events {
            match event.token() {
                tokens::WAKER => woken = true,
                tokens::SIGNALS => signalled = true,
                token => match tokens::service(token) {
                    0 => self.first.event(event),
                    number => self.others[number - 1].event(event),
                },
            }
        }
        self.first.take_done(woken)?;
        for host in &mut self.others {
            host.take_done(woken)?;
        }
        if woken && self.stop_asked.swap(false, Ordering::Acquire) {
            self.hosts_mut().for_each(|host| host.shutdown());
        }
        if signalled {
            self.take_signals()?;
        }
        self.first.turn(now, heard)?;
        for host in &mut self.others {
            host.turn(now, heard)?;
        }
        Ok(())
    }

    /// How long the poll may sleep; `None` until an event.
    pub(super) fn sleep(&self) -> Option<Duration> {
        let others = self.others.iter().map(|host| host.sleep());
        others.fold(self.first.sleep(), soonest)
    }

    fn take_signals(&mut self) -> io::Result<()> {
        let came = self.signals.as_mut().map_or(Vec::new(), Caught::take);
        came.into_iter().try_for_each(|signal| self.signal(signal))
    }

    /// Tells the services to leave, or ends the run when it was asked for a second time.
    fn signal(&mut self, signal: i32) -> io::Result<()> {
        if signal != SIGHUP && std::mem::replace(&mut self.pressed, true) {
            self.hosts_mut().for_each(|host| host.stop());
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "ended by a second signal, before everything was done",
            ));
        }
        if !std::mem::replace(&mut self.leaving, true) {
            log::info!("leaving; a second signal ends at once");
            self.hosts_mut().for_each(|host| host.shutdown());
        }
        Ok(())
    }

    fn hosts(&self) -> impl Iterator<Item = &dyn Served> {
        let others = self.others.iter().map(|host| &**host as &dyn Served);
        std::iter::once(&self.first as &dyn Served).chain(others)
    }

    fn hosts_mut(&mut self) -> impl Iterator<Item = &mut dyn Served> {
        let others = self
            .others
            .iter_mut()
            .map(|host| &mut **host as &mut dyn Served);
        std::iter::once(&mut self.first as &mut dyn Served).chain(others)
    }
}

/// Divides `files` among services that ask for so many each. A service that asks for less than an equal share gets what
/// it asks for; the others share the rest.
fn divide(files: usize, asked: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|&service| asked[service]);
    let (mut shares, mut left) = (vec![0; asked.len()], files);
    for (done, service) in order.into_iter().enumerate() {
        shares[service] = asked[service].min(left / (asked.len() - done));
        left -= shares[service];
    }
    shares
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::{SIGINT, SIGTERM};

    use crate::net::tests::Quiet;

    use super::*;

    #[test]
    fn a_hang_up_asks_once_and_is_no_second_signal() {
        for (signals, ends_at) in [
            (&[SIGHUP, SIGHUP, SIGHUP][..], None),
            (&[SIGTERM, SIGHUP], None),
            (&[SIGHUP, SIGTERM, SIGHUP], None),
            (&[SIGHUP, SIGTERM, SIGTERM], Some(2)),
            (&[SIGTERM, SIGHUP, SIGINT], Some(2)),
            (&[SIGINT, SIGTERM], Some(1)),
        ] {
            let mut reactor = Reactor::new(Quiet::default(), Limits::default()).unwrap();
            let mut ends = signals
                .iter()
                .map(|&signal| reactor.signal(signal).is_err());
            assert_eq!(ends.position(|ends| ends), ends_at, "{signals:?}");
            assert!(reactor.leaving);
        }
    }

    #[test]
    fn who_asks_for_little_gets_it_and_the_others_share_the_rest() {
        assert_eq!(divide(100, &[1_000_000]), [100]);
        assert_eq!(divide(100, &[1_000_000, 1_000_000]), [50, 50]);
        assert_eq!(divide(100, &[1_000_000, 10, 1_000_000]), [45, 10, 45]);
        assert_eq!(divide(100, &[10, 20]), [10, 20]);
        assert_eq!(divide(3, &[9, 9]), [1, 2]);
    }
}

//! The clients of a run: a [`Workload`] on a thread of its own, and what it measures.

use std::net::SocketAddrV4;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;

use peerloop::engine::Limits;
use peerloop::net::{Caller, Reactor};
use peerloop::proto::dht::operation::Bounds;
use peerloop::proto::dht::workload::{Finished, Kind, Meter, Workload};

use crate::cli::stress::{histogram_us, pause};

/// Keys of each client: some thousand in all, so that every member holds some and the check is short.
const KEYS_EACH: usize = 200;

/// What the clients measure.
pub(in crate::cli) struct Times {
    start: Instant,
    /// Of the operations that were not given up, in microseconds.
    pub(in crate::cli) gets: Histogram<u64>,
    pub(in crate::cli) inserts: Histogram<u64>,
    pub(in crate::cli) removes: Histogram<u64>,
    pub(in crate::cli) given_up: u64,
    hops: u64,
    pub(in crate::cli) hops_max: u32,
}

impl Times {
    fn new() -> Result<Times> {
        Ok(Times {
            start: Instant::now(),
            gets: histogram_us()?,
            inserts: histogram_us()?,
            removes: histogram_us()?,
            given_up: 0,
            hops: 0,
            hops_max: 0,
        })
    }

    /// Operations that were not given up.
    pub(in crate::cli) fn done(&self) -> u64 {
        self.gets.len() + self.inserts.len() + self.removes.len()
    }

    /// Of all kinds together.
    pub(in crate::cli) fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = self.gets.clone();
        all.add(&self.inserts)?;
        all.add(&self.removes)?;
        Ok(all)
    }

    pub(in crate::cli) fn hops_mean(&self) -> f64 {
        self.hops as f64 / self.done().max(1) as f64
    }
}

impl Meter for Times {
    fn now(&mut self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn finished(&mut self, finished: Finished) {
        let Finished {
            kind,
            began,
            hops,
            done,
        } = finished;
        if !done {
            self.given_up += 1;
            return;
        }
        let took = self.now() - began;
        let times = match kind {
            Kind::Get => &mut self.gets,
            Kind::Insert => &mut self.inserts,
            Kind::Remove => &mut self.removes,
        };
        times.saturating_record(took);
        self.hops += u64::from(hops);
        self.hops_max = self.hops_max.max(hops);
    }
}

/// A load that runs.
pub(in crate::cli) struct Load {
    caller: Caller<Workload<Times>>,
    thread: JoinHandle<std::io::Result<Workload<Times>>>,
}

impl Load {
    pub(in crate::cli) fn start(contacts: Vec<SocketAddrV4>, clients: usize) -> Result<Load> {
        // A write that came to nothing leaves its key in doubt, and a second try could undo later ones.
        let bounds = Bounds {
            unknown_is_final: true,
            ..Bounds::default()
        };
        let workload = Workload::new(contacts, clients, KEYS_EACH, bounds, Times::new()?);
        let limits = Limits::default();
        let limits = Limits {
            dials_max: limits.dials_max.max(clients),
            ..limits
        };
        let mut reactor = Reactor::new(workload, limits)?;
        let caller = reactor.caller();
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || {
                reactor.run()?;
                Ok(reactor.into_service())
            })?;
        Ok(Load { caller, thread })
    }

    /// From now on operations begin at one of these.
    pub(in crate::cli) fn set_contacts(&self, contacts: Vec<SocketAddrV4>) -> Result<()> {
        Ok(self
            .caller
            .call(|workload, _| workload.set_contacts(contacts))?)
    }

    /// Waits until so many more operations are over.
    pub(in crate::cli) fn run_for(&self, operations: u64) -> Result<()> {
        // Given up counts as well: every operation ends, so this does.
        let over = || {
            self.caller
                .call(|workload, _| workload.meter().done() + workload.meter().given_up)
        };
        let until = over()? + operations;
        while over()? < until {
            pause();
        }
        Ok(())
    }

    /// Lets what is under way end and begins nothing new.
    pub(in crate::cli) fn drain(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.caller.call(|workload, _| workload.drain())?;
        while !self.caller.call(|workload, _| workload.is_idle())? {
            go_on()?;
            pause();
        }
        Ok(())
    }

    /// Reads everything that was written, and ends.
    pub(in crate::cli) fn check(
        self,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Workload<Times>> {
        self.caller.call(|workload, hub| workload.check(hub))?;
        while !self.thread.is_finished() {
            go_on()?;
            pause();
        }
        let workload = self
            .thread
            .join()
            .map_err(|_| anyhow!("the clients panicked"))?;
        workload.context("the clients")
    }
}

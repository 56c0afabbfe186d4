//! The clients of a run: they write and read until the load is drained, and then read every key once more.
//!
//! An operation dials, is redirected and is repeated by [`client`], on connections of its own. So this is the talker of
//! the DHT in place of lasting connections; the [`Driver`] paces and measures it as a closed loop of one operation a
//! client, and the [`Checker`] draws the operations and judges their results.

use std::net::SocketAddrV4;

use anyhow::Result;
use hdrhistogram::Histogram;
use rand::RngExt;

use peerloop::engine::{ConnId, Cx, End, Hub, Input, Limits, NoJob, Service, Step, Violation};
use peerloop::net::Reactor;
use peerloop::proto::dht::rpc::client::{self, Host, OpId, Operations};
use peerloop::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome};

use super::checker::{Checker, Task};
use crate::cli::background::{Background, wait_until};
use crate::cli::load::driver::{Driver, Plan};
use crate::cli::load::histogram::histogram_ns;

/// Keys of each client: some thousands in all, so that every member holds some and the check is short.
const KEYS_EACH: usize = 200;

/// Reads under way in the check, at least: a key that nobody answers for takes seconds.
const CHECKS_AT_ONCE: usize = 256;

/// Members that an operation may begin at: the first may have left.
const CONTACTS_MAX: usize = 3;

pub(in crate::cli) struct Clients {
    contacts: Vec<SocketAddrV4>,
    clients: usize,
    operations: Operations<Tag>,
    driver: Driver,
    pub(in crate::cli) checker: Checker,
    /// During the check: the place from which the next key is looked for.
    checked_to: Option<usize>,
    /// Latencies of GET, INSERT and REMOVE in nanoseconds, without operations that were given up.
    pub(super) times: [Histogram<u64>; 3],
    hops: u64,
    pub(super) hops_max: u32,
}

/// What an operation is for.
pub(in crate::cli) struct Tag {
    client: usize,
    task: Task,
    due: u64,
    hops: u32,
}

impl Clients {
    fn new(contacts: Vec<SocketAddrV4>, clients: usize) -> Result<Clients> {
        Ok(Clients {
            contacts,
            clients,
            operations: Operations::default(),
            driver: Driver::new(Plan::of_requests(clients, 1, u64::MAX))?,
            checker: Checker::new(clients, KEYS_EACH),
            checked_to: None,
            times: [histogram_ns()?, histogram_ns()?, histogram_ns()?],
            hops: 0,
            hops_max: 0,
        })
    }

    /// Operations that were not given up, of all kinds.
    pub(in crate::cli) fn done(&self) -> u64 {
        self.latency().len()
    }

    pub(super) fn latency(&self) -> &Histogram<u64> {
        &self.driver.measurement.latency
    }

    pub(super) fn given_up(&self) -> u64 {
        self.driver.errors.values().sum()
    }

    pub(super) fn hops_mean(&self) -> f64 {
        self.hops as f64 / self.done().max(1) as f64
    }

    fn begin(&mut self, hub: &mut Hub<Self>) {
        self.driver.advance(true);
        for client in 0..self.clients {
            self.go_on(hub, client);
        }
    }

    /// What a client does next.
    fn go_on(&mut self, hub: &mut Hub<Self>, client: usize) {
        let (task, due) = match self.checked_to {
            Some(from) => match self.checker.check_from(from) {
                Some((task, next)) => {
                    self.checked_to = Some(next);
                    (task, 0)
                }
                None if self.operations.is_empty() => return hub.stop(),
                None => return,
            },
            None => match self.driver.next_due(self.driver.now()) {
                Some(due) => (self.checker.draw(client, hub.rng()), due),
                None => return,
            },
        };
        let count = self.contacts.len().min(CONTACTS_MAX);
        let contacts = (0..count)
            .map(|_| self.contacts[hub.rng().random_range(0..self.contacts.len())])
            .collect();
        // No second try of a write whose outcome is unknown: it could undo a later one.
        let bounds = Bounds {
            unknown_is_final: true,
            ..Bounds::default()
        };
        let (verb, key) = self.checker.operation(&task);
        let operation = Operation::new(verb, key, contacts, bounds);
        let tag = Tag {
            client,
            task,
            due,
            hops: 0,
        };
        client::start(self, hub, operation, tag);
    }

    fn measure(&mut self, tag: &Tag, done: bool) {
        if !done {
            let what = format!("{:?} was given up", tag.task.kind);
            return self.driver.failed(what, 1);
        }
        let now = self.driver.now();
        self.driver.answered(tag.due, now, true);
        self.times[tag.task.kind as usize].saturating_record(now - tag.due);
        self.hops += u64::from(tag.hops);
        self.hops_max = self.hops_max.max(tag.hops);
    }
}

impl Host for Clients {
    type Tag = Tag;

    fn operations(&mut self) -> &mut Operations<Tag> {
        &mut self.operations
    }

    fn on_hops(tag: &mut Tag, hops: u32) {
        tag.hops = hops;
    }

    fn on_outcome(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Outcome, Failure>) {
        if self.checked_to.is_some() {
            self.checker.check(&tag.task, &result);
        } else {
            self.measure(&tag, result.is_ok());
            self.checker.finished(&tag.task, &result);
        }
        self.go_on(hub, tag.client);
    }
}

impl Service for Clients {
    type Conn = OpId;
    type Note = ();
    type Timer = OpId;
    type Job = NoJob;
    type Done = ();

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, op: &mut OpId) {
        client::dialled(self, cx, *op);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        op: &mut OpId,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        client::input(self, cx, *op, input)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, op: OpId, end: End) {
        client::ended(self, hub, id, op, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, op: OpId) {
        client::retry(self, hub, op);
    }
}

/// A load that runs, on a thread of its own.
pub(in crate::cli) struct Load(Background<Clients, Clients>);

impl Load {
    pub(in crate::cli) fn start(contacts: Vec<SocketAddrV4>, clients: usize) -> Result<Load> {
        let make = move || {
            let limits = Limits::default();
            let limits = Limits {
                dials_max: limits.dials_max.max(clients),
                ..limits
            };
            let mut reactor = Reactor::new(Clients::new(contacts, clients)?, limits)?;
            reactor.node().with(|clients, hub| clients.begin(hub));
            Ok(reactor)
        };
        Ok(Load(Background::start("clients", make, Ok)?))
    }

    /// Operations begin at these members from now on; an empty list changes nothing.
    pub(in crate::cli) fn set_contacts(&self, contacts: Vec<SocketAddrV4>) -> Result<()> {
        self.0.call(|clients, _| {
            if !contacts.is_empty() {
                clients.contacts = contacts;
            }
        })
    }

    /// Waits until so many more operations are over.
    pub(in crate::cli) fn run_for(&self, operations: u64) -> Result<()> {
        // Given up counts as well: every operation ends, so this does.
        let over = |clients: &mut Clients| clients.done() + clients.given_up();
        let until = self.0.call(move |clients, _| over(clients))? + operations;
        wait_until(|| self.0.call(move |clients, _| over(clients) >= until))
    }

    /// Begins no more operations and waits for those under way.
    pub(in crate::cli) fn drain(&self) -> Result<()> {
        self.0.call(|clients, _| clients.driver.stop())?;
        wait_until(|| self.0.call(|clients, _| clients.operations.is_empty()))
    }

    /// Reads everything that was written, and ends.
    pub(in crate::cli) fn check(self) -> Result<Clients> {
        self.0.call(|clients, hub| {
            clients.checked_to = Some(0);
            let at_once = clients.clients.max(CHECKS_AT_ONCE);
            (0..at_once).for_each(|client| clients.go_on(hub, client));
        })?;
        wait_until(|| Ok(self.0.has_ended()))?;
        self.0.join()
    }
}

//! Operations on the connections of a service: what [`super::operation`] asks for is done here.
//!
//! A service that asks other nodes (the program's commands, and a node itself) is a [`Host`]: it keeps
//! [`Operations`], gives each a connection of its own, and passes on what happens to them. [`Client`] is the
//! host that does nothing else: a list of operations, a few at a time, then the end.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;

use crate::engine::{ConnId, Cx, Deadline, End, Hub, Input, NoJob, Service, Step, Violation};

use super::operation::{Bounds, Failure, Next, Operation, Outcome, Verb};
use crate::proto::dht::id::Id;

/// Names an operation of a host for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(u32);

/// A service that runs operations: each has its connection, and the timer that ends the pause between two tries.
pub trait Host: Service<Conn: From<OpId>, Timer: From<OpId>> {
    /// What the host remembers with an operation.
    type Tag;

    fn operations(&mut self) -> &mut Operations<Self::Tag>;
    /// An operation is over after so many hops in its last try; [`Host::on_outcome`] follows. For measurements.
    fn on_hops(_tag: &mut Self::Tag, _hops: u32) {}
    fn on_outcome(&mut self, hub: &mut Hub<Self>, tag: Self::Tag, result: Result<Outcome, Failure>);
}

/// The operations under way in a host.
#[derive(Debug)]
pub struct Operations<T> {
    running: BTreeMap<OpId, Running<T>>,
    next: u32,
}

#[derive(Debug)]
struct Running<T> {
    operation: Operation,
    tag: T,
    conn: Option<ConnId>,
}

impl<T> Default for Operations<T> {
    fn default() -> Operations<T> {
        Operations {
            running: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> Operations<T> {
    pub fn len(&self) -> usize {
        self.running.len()
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// What each of them is for.
    pub fn tags(&self) -> impl Iterator<Item = &T> {
        self.running.values().map(|running| &running.tag)
    }
}

/// Begins an operation; [`Host::on_outcome`] tells what came of it.
pub fn start<H: Host>(
    host: &mut H,
    hub: &mut Hub<H>,
    mut operation: Operation,
    tag: H::Tag,
) -> OpId {
    let operations = host.operations();
    let op = OpId(operations.next);
    operations.next = operations.next.wrapping_add(1);
    let next = operation.start();
    operations.running.insert(
        op,
        Running {
            operation,
            tag,
            conn: None,
        },
    );
    follow(host, hub, op, next);
    op
}

/// Gives an operation up, without an outcome. A no-op when it is over.
pub fn cancel<H: Host>(host: &mut H, hub: &mut Hub<H>, op: OpId) {
    if let Some(running) = host.operations().running.remove(&op)
        && let Some(conn) = running.conn
    {
        hub.close_conn(conn);
    }
}

/// An operation has taken too long: it fails as one whose node does not answer in time. A no-op when it is over.
pub fn expire<H: Host>(host: &mut H, hub: &mut Hub<H>, op: OpId) {
    let Some(running) = host.operations().running.get_mut(&op) else {
        return;
    };
    let next = running.operation.ended(End::Timeout(Deadline::Idle));
    follow(host, hub, op, next);
}

/// For [`Service::on_dialled`] of an operation's connection.
pub fn dialled<H: Host>(host: &mut H, cx: &mut Cx<'_, H>, op: OpId) {
    if let Some(running) = host.operations().running.get_mut(&op) {
        running.operation.dialled(cx.out());
    }
}

/// For [`Service::on_input`] of an operation's connection.
pub fn input<H: Host>(
    host: &mut H,
    cx: &mut Cx<'_, H>,
    op: OpId,
    input: Input<'_>,
) -> Result<Step, Violation> {
    let Some(running) = host.operations().running.get_mut(&op) else {
        return Err(Violation::us("the operation is over"));
    };
    let (step, next) = running.operation.input(input, cx.out());
    follow(host, cx, op, next);
    Ok(step)
}

/// For [`Service::on_end`] of an operation's connection.
pub fn ended<H: Host>(host: &mut H, hub: &mut Hub<H>, id: ConnId, op: OpId, end: End) {
    // If we closed the connection, the operation went on with another one, or ended.
    if let Some(running) = host.operations().running.get_mut(&op)
        && running.conn == Some(id)
    {
        running.conn = None;
        let next = running.operation.ended(end);
        follow(host, hub, op, next);
    }
}

/// For [`Service::on_timer`] of an operation's timer.
pub fn retry<H: Host>(host: &mut H, hub: &mut Hub<H>, op: OpId) {
    if let Some(running) = host.operations().running.get_mut(&op) {
        let next = running.operation.retry();
        follow(host, hub, op, next);
    }
}

fn follow<H: Host>(host: &mut H, hub: &mut Hub<H>, op: OpId, next: Next) {
    let Some(running) = host.operations().running.get_mut(&op) else {
        return;
    };
    match next {
        Next::Wait => return,
        Next::Send(value) => {
            if let Some(conn) = running.conn {
                hub.send_to(conn, &value);
            }
            return;
        }
        Next::Dial(_) | Next::RetryAfter(_) | Next::Finished(_) => {}
    }
    if let Some(conn) = running.conn.take() {
        hub.close_conn(conn);
    }
    match next {
        Next::Dial(addr) => running.conn = Some(hub.dial(addr, None, op.into())),
        Next::RetryAfter(pause) => {
            if hub.arm(pause, op.into()).is_none() {
                let limit = "timers_max";
                finish(host, hub, op, Err(Failure::Limit { limit }));
            }
        }
        Next::Finished(result) => finish(host, hub, op, result),
        Next::Wait | Next::Send(_) => {}
    }
}

fn finish<H: Host>(host: &mut H, hub: &mut Hub<H>, op: OpId, result: Result<Outcome, Failure>) {
    if let Some(mut running) = host.operations().running.remove(&op) {
        H::on_hops(&mut running.tag, running.operation.hops());
        host.on_outcome(hub, running.tag, result);
    }
}

/// What a [`Client`] is to do with one key.
#[derive(Debug, Clone)]
pub struct Task {
    pub verb: Verb,
    pub key: Id,
}

/// A service that works off a list of tasks and then stops its driver.
#[derive(Debug)]
pub struct Client {
    contacts: Vec<SocketAddrV4>,
    bounds: Bounds,
    /// Operations under way at once.
    at_once_max: usize,
    tasks: VecDeque<(usize, Task)>,
    operations: Operations<usize>,
    results: Vec<Option<Result<Outcome, Failure>>>,
}

impl Client {
    /// A client that asks the node at `contact`.
    pub fn new(
        contact: SocketAddrV4,
        tasks: Vec<Task>,
        bounds: Bounds,
        at_once_max: usize,
    ) -> Client {
        Client {
            contacts: vec![contact],
            bounds,
            at_once_max,
            results: vec![None; tasks.len()],
            tasks: tasks.into_iter().enumerate().collect(),
            operations: Operations::default(),
        }
    }

    /// Starts as many tasks as may run at once; stops the driver when there is none left.
    fn go_on(&mut self, hub: &mut Hub<Client>) {
        while self.operations.len() < self.at_once_max
            && let Some((number, Task { verb, key })) = self.tasks.pop_front()
        {
            let operation = Operation::new(verb, key, self.contacts.clone(), self.bounds);
            start(self, hub, operation, number);
        }
        if self.operations.is_empty() {
            hub.stop();
        }
    }

    /// What came of each task, in their order; `None` for those that were not done when the driver was stopped.
    pub fn into_results(self) -> Vec<Option<Result<Outcome, Failure>>> {
        self.results
    }
}

impl Host for Client {
    type Tag = usize;

    fn operations(&mut self) -> &mut Operations<usize> {
        &mut self.operations
    }

    fn on_outcome(&mut self, hub: &mut Hub<Self>, number: usize, result: Result<Outcome, Failure>) {
        self.results[number] = Some(result);
        self.go_on(hub);
    }
}

impl Service for Client {
    type Conn = OpId;
    type Note = ();
    type Timer = OpId;
    type Job = NoJob;
    type Done = ();

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        self.go_on(hub);
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, op: &mut OpId) {
        dialled(self, cx, *op);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        op: &mut OpId,
        bytes: Input<'_>,
    ) -> Result<Step, Violation> {
        input(self, cx, *op, bytes)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, op: OpId, end: End) {
        ended(self, hub, id, op, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, op: OpId) {
        retry(self, hub, op);
    }
}

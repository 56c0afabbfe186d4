//! One node: a service, its connections, and what a driver tells it; `turn.rs` has the turn in which everything happens.
//!
//! The driver's contract in one sentence: [`Node::begin`] at a tick, feed any number of events
//! ([`Node::ready`], [`Node::accepted`], [`Node::job_done`]), [`Node::turn`], then sleep until
//! [`Node::next_deadline`], or not at all while [`Node::has_work`]. The reactor and the simulator do exactly this.
//! One that may not have fed all that happened by that tick says so ([`Node::heard`]).

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::conn::{ConnId, Phase};
use super::heard::CatchUp;
use super::hub::Hub;
use super::service::Service;
use super::{End, Limits, Readiness, Stats, Tick};

/// A service on its engine.
pub struct Node<S: Service> {
    pub(super) service: S,
    /// The services' halves of the connections, by slot. `None` once [`Service::on_end`] has it, and of
    /// connections that were refused.
    pub(super) halves: Vec<Option<S::Conn>>,
    pub(super) hub: Hub<S>,
    started: bool,
    pub(super) catch_up: CatchUp,
    /// Ready connections served in one turn. Alone, a node serves all: nobody waits for the turn but they.
    pub(super) ready_per_turn: usize,
    /// The one read buffer of all connections.
    pub(super) scratch: Box<[u8]>,
    /// Connections that end with this turn.
    pub(super) reaped: Vec<ConnId>,
    /// Kept for its allocation, so that a turn swaps lists instead of making them.
    pub(super) spare_dirty: Vec<ConnId>,
    pub(super) spare_notes: VecDeque<(ConnId, S::Note)>,
}

impl<S: Service> Node<S> {
    /// A node whose clock stands at `now`; the same `seed` and the same events give the same run.
    pub fn new(service: S, limits: Limits, seed: u64, now: Tick) -> Node<S> {
        let scratch = vec![0; limits.read_bytes_per_turn].into_boxed_slice();
        Node {
            service,
            halves: Vec::new(),
            hub: Hub::new(limits, seed, now),
            started: false,
            catch_up: CatchUp::default(),
            ready_per_turn: usize::MAX,
            scratch,
            reaped: Vec::new(),
            spare_dirty: Vec::new(),
            spare_notes: VecDeque::new(),
        }
    }

    pub fn service(&self) -> &S {
        &self.service
    }

    /// For a driver or a test that acts on the service from outside, between turns.
    pub fn with<R>(&mut self, act: impl FnOnce(&mut S, &mut Hub<S>) -> R) -> R {
        act(&mut self.service, &mut self.hub)
    }

    pub fn into_service(self) -> S {
        self.service
    }

    pub fn stats(&self) -> &Stats {
        &self.hub.stats
    }

    pub fn limits(&self) -> &Limits {
        &self.hub.limits
    }

    pub fn conns(&self) -> usize {
        self.hub.conns.len()
    }

    /// Another connection may be accepted.
    pub fn has_room(&self) -> bool {
        self.hub.conns.len() < self.hub.limits.conns_max
    }

    /// The node is not alone on its driver: from now on it has at most so many connections, and serves so many ready ones in
    /// a turn.
    pub fn share(&mut self, conns_max: usize, ready_per_turn: usize) {
        assert!(
            conns_max > 0 && ready_per_turn > 0,
            "a node has connections"
        );
        self.hub.limits.conns_max = conns_max;
        self.ready_per_turn = ready_per_turn;
    }

    /// Ends every connection that is left, for a driver that goes on without this node.
    pub fn close_all(&mut self) {
        let ids = self.conn_ids();
        ids.into_iter().for_each(|id| self.hub.end(id, End::Closed));
    }

    /// The same at once: what is queued is lost, and nobody is waited for. They go with the next turn.
    pub fn drop_all(&mut self) {
        for id in self.conn_ids() {
            self.hub.end(id, End::Limit("linger"));
            self.hub.conns[id.slot()].phase = Phase::Closed;
            self.hub.mark_dirty(id.slot());
        }
    }

    fn conn_ids(&self) -> Vec<ConnId> {
        let conns = self.hub.conns.iter();
        conns.map(|(slot, conn)| conn.id(slot)).collect()
    }

    /// The driver stopped accepting for want of descriptors or room.
    pub fn count_accept_pause(&mut self) {
        self.hub.stats.accept_pauses += 1;
    }

    /// Nobody is owed anything: no job under way, no output queued. O(connections); for the driver's end.
    pub fn drained(&self) -> bool {
        let hub = &self.hub;
        hub.jobs_under_way == 0 && hub.conns.iter().all(|(_, conn)| conn.output.is_empty())
    }

    /// The service asked the driver to end.
    pub fn stopping(&self) -> bool {
        self.hub.stopping
    }

    /// Something is left that needs no event: the driver polls without sleeping.
    pub fn has_work(&self) -> bool {
        let hub = &self.hub;
        !(self.started
            && hub.ready.is_empty()
            && !hub.wheel.has_due()
            && hub.dirty.is_empty()
            && hub.ended.is_empty()
            && hub.notes.is_empty()
            && hub.soon.is_empty()
            && hub.dials.is_empty()
            && hub.jobs.is_empty())
    }

    /// When the driver must run a turn even if nothing happens.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.hub.wheel.next_deadline()
    }

    /// Says which tick it is, any number of times before a turn. A clock that steps back is ignored. The first time, the
    /// service starts.
    pub fn begin(&mut self, now: Tick) {
        self.set_now(now);
        self.catch_up.heard = self.hub.now;
        if !std::mem::replace(&mut self.started, true) {
            self.service.on_start(&mut self.hub);
        }
    }

    /// Of what happened after this tick, and before that of [`Node::begin`], the driver may not have told: nothing that
    /// is due later fires in this turn. The deadlines that it passed are then in the past ([`Node::next_deadline`]).
    pub fn heard(&mut self, until: Tick) {
        self.catch_up.heard = until.min(self.hub.now);
    }

    /// [`Node::begin`] for a driver that lends the node between turns: it starts nothing.
    pub fn set_now(&mut self, now: Tick) {
        self.hub.now = self.hub.now.max(now);
    }

    /// A peer connected to listener number `listener`. The driver asks [`Node::has_room`] first.
    pub fn accepted(&mut self, peer: impl Into<SocketAddr>, listener: usize) -> ConnId {
        let id = self.hub.open(peer.into(), Phase::Open);
        self.hub.stats.accepted += 1;
        self.hub.conns[id.slot()].writable = true;
        let half = self.service.on_accept(&mut self.hub.cx(id), listener);
        if half.is_none() {
            self.hub.end(id, End::Closed);
        }
        self.place(id, half);
        // As in `settle`: what an acceptor writes first is mostly sent by this turn's flush.
        if !self.hub.conns[id.slot()].on_dirty_list {
            self.hub.update_deadline(id.slot());
        }
        id
    }

    /// Marks what can be done with a connection. A stale id is a counted no-op.
    pub fn ready(&mut self, id: ConnId, readiness: Readiness) {
        let Some(conn) = self.hub.conn_mut(id) else {
            self.hub.stats.stale += 1;
            return;
        };
        conn.readable |= readiness.readable || readiness.hung_up;
        conn.writable |= readiness.writable;
        conn.hung_up |= readiness.hung_up;
        let (reads, writes) = (
            conn.readable || conn.phase == Phase::Dialling,
            conn.writable,
        );
        let flushes = writes && !conn.output.is_empty();
        if reads {
            self.hub.mark_ready(id.slot());
        }
        if flushes {
            self.hub.mark_dirty(id.slot());
        }
    }

    /// The worker finished a job.
    pub fn job_done(&mut self, done: S::Done) {
        self.hub.jobs_under_way -= 1;
        self.service.on_done(&mut self.hub, done);
    }

    /// Jobs for the worker, oldest first; the driver takes them after each turn.
    pub fn take_jobs(&mut self) -> impl Iterator<Item = S::Job> + '_ {
        self.hub.jobs.drain(..)
    }

    /// The operator asks the service to leave.
    pub fn shutdown(&mut self) {
        self.service.on_shutdown(&mut self.hub);
    }

    pub(super) fn place(&mut self, id: ConnId, half: Option<S::Conn>) {
        let slot = id.slot();
        if self.halves.len() <= slot {
            self.halves.resize_with(slot + 1, || None);
        }
        assert!(
            self.halves[slot].is_none(),
            "a slot is reused only after the reap"
        );
        self.halves[slot] = half;
    }

    /// Asserts the invariants of the module docs. O(connections); for tests and the simulator.
    pub fn validate(&self) {
        self.hub.validate();
    }
}

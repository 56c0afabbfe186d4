//! What a service can do: everything of a node but the services and their halves of the connections.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slab::Slab;

use super::conn::{ConnId, Connection, Phase};
use super::input::Stash;
use super::output::QueuePool;
use super::peers::Peers;
use super::{End, Limits, Service, Stats, Tick, Ticks, TimerId, Wheel};

/// What the wheel holds: the deadline of a connection, or a timer that a service armed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Timer<T> {
    /// Of the connection in this slot. Disarmed with the connection, so it needs no generation.
    Connection(u32),
    Service(T),
}

/// A dial that a service asked for; the driver is asked at the end of the turn.
pub(super) struct Dial<C> {
    pub(super) id: ConnId,
    pub(super) from: Option<SocketAddr>,
    pub(super) half: C,
}

/// The engine's side of a node, as a service sees it.
pub struct Hub<S: Service> {
    pub(super) now: Tick,
    pub(super) rng: StdRng,
    pub(super) limits: Limits,
    pub(super) stats: Stats,
    pub(super) conns: Slab<Connection>,
    pub(super) peers: Peers,
    pub(super) wheel: Wheel<Timer<S::Timer>>,
    /// Connections with work for the next turn, each once.
    pub(super) ready: VecDeque<ConnId>,
    /// Connections with output to flush, each once.
    pub(super) dirty: Vec<ConnId>,
    /// Connections whose service half is to be told that it is over.
    pub(super) ended: VecDeque<(ConnId, End)>,
    /// Put off until the service calls of this turn are over.
    pub(super) notes: VecDeque<(ConnId, S::Note)>,
    pub(super) dials: VecDeque<Dial<S::Conn>>,
    /// Timers for the next turn, each once.
    pub(super) soon: VecDeque<S::Timer>,
    pub(super) jobs: VecDeque<S::Job>,
    pub(super) jobs_under_way: usize,
    pub(super) dials_under_way: usize,
    pub(super) service_timers: usize,
    pub(super) queues: QueuePool,
    // The boxes are what is reused: a connection holds one pointer, not a whole stash.
    #[expect(clippy::vec_box)]
    pub(super) stashes: Vec<Box<Stash>>,
    pub(super) next_generation: u32,
    pub(super) stopping: bool,
}

impl<S: Service> Hub<S> {
    pub(super) fn new(limits: Limits, seed: u64, now: Tick) -> Hub<S> {
        limits.validate();
        Hub {
            now,
            rng: StdRng::seed_from_u64(seed),
            stats: Stats::default(),
            conns: Slab::new(),
            peers: Peers::default(),
            wheel: Wheel::new(now),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            ended: VecDeque::new(),
            notes: VecDeque::new(),
            dials: VecDeque::new(),
            soon: VecDeque::new(),
            jobs: VecDeque::new(),
            jobs_under_way: 0,
            dials_under_way: 0,
            service_timers: 0,
            queues: QueuePool::new(limits.pool_buffers_max, limits.pool_buffer_bytes_max),
            stashes: Vec::new(),
            next_generation: 0,
            stopping: false,
            limits,
        }
    }

    /// The tick of this turn; the same for everything that happens in it.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The node's only source of randomness, seeded by the driver.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Open connections, dialled ones included.
    pub fn conns(&self) -> usize {
        self.conns.len()
    }

    /// The peer's address, while the connection is there.
    pub fn peer_of(&self, id: ConnId) -> Option<SocketAddr> {
        self.conn(id).map(|conn| self.peers.get(conn.peer))
    }

    /// The same, for a service that is [`Service::IPV4_ONLY`].
    pub fn peer_v4_of(&self, id: ConnId) -> Option<SocketAddrV4> {
        self.peer_of(id).map(v4)
    }

    /// Where to write what connection `id` is to be sent, at the end of what waits already. `None` when the
    /// connection is gone or closing.
    pub fn output_of(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        self.open_conn(id)?;
        self.mark_dirty(id.slot());
        Some(self.conns[id.slot()].output.tail(&mut self.queues))
    }

    /// Queues `bytes` for connection `id`, by reference when they are many. False when it is gone.
    pub fn send_to(&mut self, id: ConnId, bytes: &Bytes) -> bool {
        if bytes.len() < self.limits.shared_bytes_min {
            return self
                .output_of(id)
                .map(|out| out.extend_from_slice(bytes))
                .is_some();
        }
        if self.open_conn(id).is_none() {
            return false;
        }
        self.mark_dirty(id.slot());
        self.conns[id.slot()]
            .output
            .push(bytes.clone(), &mut self.queues);
        true
    }

    /// Takes back the last `bytes` that were written to connection `id`, if none of them is on its way: a service that
    /// has more to say before long saves a send. False when it is too late.
    pub fn take_back(&mut self, id: ConnId, bytes: usize) -> bool {
        self.open_conn(id).is_some() && self.conns[id.slot()].output.take_back(bytes)
    }

    /// Bytes that may be queued for connection `id` before its high-water mark.
    pub fn room_of(&self, id: ConnId) -> usize {
        self.conn(id).map_or(0, |conn| {
            self.limits
                .output_bytes_high
                .saturating_sub(conn.output.len())
        })
    }

    /// Bytes that are queued for connection `id` and that the kernel has not taken.
    pub fn queued_of(&self, id: ConnId) -> usize {
        self.conn(id).map_or(0, |conn| conn.output.len())
    }

    /// Something is queued for connection `id` that the kernel does not take, because the peer does not read.
    pub fn is_blocked(&self, id: ConnId) -> bool {
        self.conn(id)
            .is_some_and(|conn| !conn.writable && !conn.output.is_empty())
    }

    /// Closes connection `id` once everything that is queued for it is sent.
    pub fn close_conn(&mut self, id: ConnId) {
        self.end(id, End::Closed);
    }

    /// The answer that a [`super::Step::Wait`] waits for is written: input is served again. Also from inside the
    /// [`Service::on_input`] that is about to return that `Wait`, which then does not wait.
    pub fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.conn_mut(id) {
            conn.waiting = false;
            self.mark_ready(id.slot());
        }
    }

    /// Hands `note` to the service half of connection `id`, after the service calls of this turn. Notes
    /// that are sent while notes are delivered wait for the next turn.
    ///
    /// No note is lost unseen: at the limit the connection ends as [`End::Limit`], and its half learns that.
    pub fn notify(&mut self, id: ConnId, note: S::Note) {
        if self.notes.len() == self.limits.notes_max {
            self.stats.notes_refused += 1;
            self.end(id, End::Limit("notes_max"));
        } else {
            self.notes.push_back((id, note));
        }
    }

    /// Opens a connection to `to`, from the local address `from` where that matters. The result is told by
    /// [`Service::on_dialled`] or [`Service::on_end`]; at the limits of dials or connections it is the
    /// latter, with [`End::Limit`].
    pub fn dial(
        &mut self,
        to: impl Into<SocketAddr>,
        from: Option<SocketAddr>,
        half: S::Conn,
    ) -> ConnId {
        let id = self.open(to.into(), Phase::Dialling);
        self.dials_under_way += 1;
        // Also when it is refused: the service half must come back to the service whatever happens.
        self.dials.push_back(Dial { id, from, half });
        if self.dials_under_way > self.limits.dials_max {
            self.end(id, End::Limit("dials_max"));
        } else if self.conns.len() > self.limits.conns_max {
            self.end(id, End::Limit("conns_max"));
        }
        id
    }

    /// Arms a timer that fires once `after` has passed, and at most one tick later. `None` at the limit.
    #[must_use]
    pub fn arm(&mut self, after: Ticks, timer: S::Timer) -> Option<TimerId> {
        if self.service_timers == self.limits.timers_max {
            self.stats.timers_refused += 1;
            return None;
        }
        self.service_timers += 1;
        let at = self.now.deadline(after);
        Some(self.wheel.arm(at, Timer::Service(timer)))
    }

    /// Fires `timer` in the next turn, which comes without sleep: for long work that is done in pieces, so that
    /// the connections are served between them. It cannot be refused: a timer that waits already waits once, so the
    /// queue is as long as the service has kinds of work. O(that length): not for a timer of each connection.
    pub fn soon(&mut self, timer: S::Timer) {
        if !self.soon.contains(&timer) {
            self.soon.push_back(timer);
        }
    }

    /// Disarms a timer; one that fired already is a no-op.
    pub fn cancel(&mut self, timer: TimerId) {
        if self.wheel.cancel(timer).is_some() {
            self.service_timers -= 1;
        }
    }

    /// Gives `job` to the worker; [`Service::on_done`] follows. `Err` with the job at the limit.
    pub fn submit(&mut self, job: S::Job) -> Result<(), S::Job> {
        if self.jobs_under_way == self.limits.jobs_max {
            self.stats.jobs_refused += 1;
            return Err(job);
        }
        self.jobs_under_way += 1;
        self.jobs.push_back(job);
        Ok(())
    }

    /// Ends the driver's loop after this turn.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn conn(&self, id: ConnId) -> Option<&Connection> {
        self.conns
            .get(id.slot())
            .filter(|conn| conn.generation == id.generation)
    }

    pub(super) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.conns
            .get_mut(id.slot())
            .filter(|conn| conn.generation == id.generation)
    }

    fn open_conn(&mut self, id: ConnId) -> Option<()> {
        let open = self.conn(id).is_some_and(|conn| conn.phase == Phase::Open);
        if !open {
            self.stats.stale += 1;
        }
        open.then_some(())
    }

    /// What a service gets that is called for connection `id`.
    pub(super) fn cx(&mut self, id: ConnId) -> Cx<'_, S> {
        Cx { id, hub: self }
    }

    /// Takes a slot.
    pub(super) fn open(&mut self, peer: SocketAddr, phase: Phase) -> ConnId {
        let peer = self.peers.add(peer);
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let slot = self
            .conns
            .insert(Connection::new(generation, peer, phase, self.now));
        ConnId {
            slot: slot as u32,
            generation,
        }
    }

    /// The connection is over: the service half is told in this turn, and what is queued is still sent
    /// where `end` allows it. The first end counts.
    pub(super) fn end(&mut self, id: ConnId, end: End) {
        let slot = id.slot();
        let Some(conn) = self.conn_mut(id) else {
            self.stats.stale += 1;
            return;
        };
        match conn.phase {
            Phase::Dialling => self.dials_under_way -= 1,
            Phase::Open => {}
            Phase::Closing | Phase::Lingering | Phase::Closed => return,
        }
        let sendable = matches!(end, End::Closed | End::Eof | End::Violation(_));
        let conn = &mut self.conns[slot];
        if sendable && conn.phase == Phase::Open {
            conn.phase = Phase::Closing;
            // A peer that breaks the protocol is often still sending.
            conn.lingers = matches!(end, End::Violation(_));
        } else {
            conn.phase = Phase::Closed;
        }
        self.stats.count_end(end);
        self.ended.push_back((id, end));
        self.mark_dirty(slot);
    }

    pub(super) fn mark_ready(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        if !conn.on_ready_list {
            conn.on_ready_list = true;
            let id = conn.id(slot);
            self.ready.push_back(id);
        }
    }

    pub(super) fn mark_dirty(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        if !conn.on_dirty_list {
            conn.on_dirty_list = true;
            let id = conn.id(slot);
            self.dirty.push(id);
        }
    }

    /// Keeps what a service left of its input.
    pub(super) fn keep(&mut self, slot: usize, rest: &[u8], seen: usize) {
        let mut stash = self.stashes.pop().unwrap_or_default();
        stash.append(rest);
        stash.seen = seen;
        self.conns[slot].stash = Some(stash);
    }

    pub(super) fn give_back(&mut self, mut stash: Box<Stash>) {
        if self.stashes.len() < self.limits.pool_buffers_max
            && stash.capacity() <= self.limits.pool_buffer_bytes_max
        {
            stash.clear();
            self.stashes.push(stash);
        }
    }
}

/// The address of a peer that can only be one of IPv4: its service dials no other, and has no listener that others reach.
fn v4(addr: SocketAddr) -> SocketAddrV4 {
    match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(addr) => panic!("{addr} reached a service that is IPV4_ONLY"),
    }
}

/// A [`Hub`] and the connection that a service is called for.
pub struct Cx<'a, S: Service> {
    pub(super) id: ConnId,
    pub(super) hub: &'a mut Hub<S>,
}

impl<S: Service> Cx<'_, S> {
    /// This connection.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.hub.peers.get(self.hub.conns[self.id.slot()].peer)
    }

    /// The same, for a service that is [`Service::IPV4_ONLY`].
    pub fn peer_v4(&self) -> SocketAddrV4 {
        v4(self.peer())
    }

    /// Where to write what this connection is to be sent, at the end of what waits already.
    pub fn out(&mut self) -> &mut Vec<u8> {
        let slot = self.id.slot();
        self.hub.mark_dirty(slot);
        self.hub.conns[slot].output.tail(&mut self.hub.queues)
    }

    /// Queues `bytes`, by reference when they are many.
    pub fn send(&mut self, bytes: &Bytes) {
        self.hub.send_to(self.id, bytes);
    }

    /// Bytes that may be queued before the high-water mark.
    pub fn room(&self) -> usize {
        self.hub.room_of(self.id)
    }

    /// Closes this connection once everything that is queued is sent.
    pub fn close(&mut self) {
        self.hub.close_conn(self.id);
    }
}

impl<S: Service> Deref for Cx<'_, S> {
    type Target = Hub<S>;
    fn deref(&self) -> &Hub<S> {
        self.hub
    }
}

impl<S: Service> DerefMut for Cx<'_, S> {
    fn deref_mut(&mut self) -> &mut Hub<S> {
        self.hub
    }
}

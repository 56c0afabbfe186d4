//! One node: a service, its connections, and the turn in which everything happens.
//!
//! The driver's contract in one sentence: [`Node::begin`] at a tick, feed any number of events
//! ([`Node::ready`], [`Node::accepted`], [`Node::job_done`]), [`Node::turn`], then sleep until
//! [`Node::next_deadline`], or not at all while [`Node::has_work`]. The reactor and the simulator do exactly this.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

use super::conn::{ConnId, Phase, Port, Watch};
use super::hub::{Alarm, Cx, Dial, Hub};
use super::input::{Input, Step};
use super::service::{End, Service, Violation};
use super::{Limits, Readiness, Stats, Tick, Transport};

/// A service on its engine.
pub struct Node<S: Service> {
    service: S,
    /// The services' halves of the connections, by slot. `None` once [`Service::on_end`] has it.
    halves: Vec<Option<S::Conn>>,
    hub: Hub<S>,
    started: bool,
    /// Ready connections served in one turn. Alone, a node serves all: nobody waits for the turn but they.
    ready_per_turn: usize,
    /// The one read buffer of all connections.
    scratch: Box<[u8]>,
    /// Connections that end with this turn.
    reaped: Vec<ConnId>,
    /// Kept for its allocation, so that a turn swaps lists instead of making them.
    spare_dirty: Vec<ConnId>,
    spare_notes: VecDeque<(ConnId, S::Note)>,
}

/// What a connection may still use in this turn.
struct Share {
    bytes: usize,
    steps: usize,
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
        self.hub.ports.len()
    }

    /// Another connection may be accepted.
    pub fn has_room(&self) -> bool {
        self.hub.ports.len() < self.hub.limits.conns_max
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
        let ids: Vec<ConnId> = self
            .hub
            .ports
            .iter()
            .map(|(slot, port)| port.id(slot))
            .collect();
        ids.into_iter().for_each(|id| self.hub.end(id, End::Closed));
    }

    /// The driver stopped accepting for want of descriptors or room.
    pub fn count_accept_pause(&mut self) {
        self.hub.stats.accept_pauses += 1;
    }

    /// Nobody is owed anything: no job under way, no output queued. O(connections); for the driver's end.
    pub fn drained(&self) -> bool {
        let hub = &self.hub;
        hub.jobs_under_way == 0 && hub.ports.iter().all(|(_, port)| port.output.is_empty())
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
        if !std::mem::replace(&mut self.started, true) {
            self.service.on_start(&mut self.hub);
        }
    }

    /// The same for a driver that lends the node between turns: it starts nothing.
    pub fn set_now(&mut self, now: Tick) {
        self.hub.now = self.hub.now.max(now);
    }

    /// A peer connected to listener number `listener`. The driver asks [`Node::has_room`] first.
    pub fn accepted(&mut self, peer: impl Into<SocketAddr>, listener: usize) -> ConnId {
        let id = self.hub.open(peer.into(), Phase::Open);
        self.hub.stats.accepted += 1;
        self.hub.ports[id.slot()].writable = true;
        let conn = self.service.on_accept(&mut self.hub.cx(id), listener);
        self.place(id, conn);
        // As in `settle`: an acceptor that speaks first is mostly out of debt after the flush.
        if !self.hub.ports[id.slot()].on_dirty_list {
            self.hub.watch(id.slot());
        }
        id
    }

    /// Marks what can be done with a connection. A stale id is a counted no-op.
    pub fn ready(&mut self, id: ConnId, readiness: Readiness) {
        let Some(port) = self.hub.port_mut(id) else {
            self.hub.stats.stale += 1;
            return;
        };
        port.readable |= readiness.readable || readiness.hung_up;
        port.writable |= readiness.writable;
        port.hung_up |= readiness.hung_up;
        let (reads, writes) = (
            port.readable || port.phase == Phase::Dialling,
            port.writable,
        );
        let flushes = writes && !port.output.is_empty();
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

    /// Everything that the events since [`Node::begin`] give rise to.
    pub fn turn(&mut self, io: &mut impl Transport) {
        self.hub.stats.turns += 1;
        self.serve_ready(io);
        self.fire_timers();
        self.deliver_notes();
        self.start_dials(io);
        self.tell_ended();
        self.flush_dirty(io);
        self.reap(io);
        self.hub.stats.queued_bytes = self.hub.queues.owned_bytes() as u64;
    }

    fn serve_ready(&mut self, io: &mut impl Transport) {
        // Connections that are queued again wait for the next turn, behind all others.
        for _ in 0..self.hub.ready.len().min(self.ready_per_turn) {
            let Some(id) = self.hub.ready.pop_front() else {
                return;
            };
            let Some(port) = self.hub.port_mut(id) else {
                continue;
            };
            port.on_ready_list = false;
            match port.phase {
                Phase::Open => self.serve(id, io),
                Phase::Dialling => self.finish_dial(id, io),
                Phase::Lingering => self.discard_input(id, io),
                Phase::Closing | Phase::Doomed => {}
            }
        }
    }

    /// Reads and serves one connection, within its share of the turn.
    fn serve(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        let limits = &self.hub.limits;
        let mut share = Share {
            bytes: limits.read_bytes_per_turn,
            steps: limits.steps_per_turn,
        };
        if self.hub.ports[slot].has_unserved() {
            self.digest(id, 0, &mut share);
        }
        while share.bytes > 0 && share.steps > 0 && self.hub.ports[slot].wants_read() {
            let kept = self.hub.ports[slot]
                .stash
                .as_ref()
                .map_or(0, |stash| stash.len());
            let room = share
                .bytes
                .min(self.hub.limits.input_bytes_max.saturating_sub(kept));
            if room == 0 {
                self.hub.end(id, End::Limit("input_bytes_max"));
                break;
            }
            match io.read(slot, &mut self.scratch[..room]) {
                Ok(0) => self.hub.ports[slot].eof = true,
                Ok(n) => {
                    share.bytes -= n;
                    let Hub {
                        ports, limits, now, ..
                    } = &mut self.hub;
                    let port = &mut ports[slot];
                    port.moved(Watch::Message, n, *now, limits);
                    // A short read emptied the socket, unless there is also an end to be read.
                    port.readable = n == room || port.hung_up;
                    self.hub.stats.bytes_in += n as u64;
                    self.digest(id, n, &mut share);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.hub.ports[slot].readable = false
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => self.hub.end(id, End::Broken(e.kind())),
            }
        }
        self.settle(id);
    }

    /// Offers the service what is kept of its input and the `fresh` bytes at the front of the scratch
    /// buffer, until it wants more, has to wait, or the share is used up. The rest is kept.
    fn digest(&mut self, id: ConnId, fresh: usize, share: &mut Share) {
        let slot = id.slot();
        let Some(conn) = self.halves[slot].as_mut() else {
            return;
        };
        let mut stash = self.hub.ports[slot].stash.take();
        let (bytes, seen) = match &mut stash {
            None => (&self.scratch[..fresh], 0),
            Some(stash) => {
                stash.append(&self.scratch[..fresh]);
                (stash.rest(), stash.seen)
            }
        };
        let (used, seen) = offer(
            &mut self.service,
            conn,
            &mut self.hub.cx(id),
            bytes,
            seen,
            share,
        );
        match stash {
            None if used < fresh => self.hub.keep(slot, &self.scratch[used..fresh], seen),
            None => {}
            Some(mut stash) => {
                stash.consume(used);
                stash.seen = seen;
                if stash.len() > 0 {
                    self.hub.ports[slot].stash = Some(stash);
                } else {
                    self.hub.give_back(stash);
                }
            }
        }
    }

    /// After anything that happened to an open connection: ends it when the peer has closed and
    /// nothing is left to do, queues it when it has work left, and sees to its deadline.
    fn settle(&mut self, id: ConnId) {
        let slot = id.slot();
        pause_if_full(&mut self.hub, slot);
        let port = &self.hub.ports[slot];
        if port.phase == Phase::Open {
            let unserved = port.has_unserved();
            if port.eof && !unserved && port.takes_input() {
                self.hub.end(id, End::Eof);
            } else if port.wants_read() || (unserved && port.takes_input()) {
                self.hub.stats.budget_spent += 1;
                self.hub.mark_ready(slot);
            }
        }
        // What is dirty is looked at again after its flush: to be in debt for the rest of a turn is no
        // reason to touch the wheel.
        if !self.hub.ports[slot].on_dirty_list {
            self.hub.watch(slot);
        }
    }

    fn finish_dial(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        match io.dialled(slot) {
            Ok(false) => {}
            Ok(true) => {
                self.hub.dials_under_way -= 1;
                self.hub.stats.dialled += 1;
                let port = &mut self.hub.ports[slot];
                port.phase = Phase::Open;
                port.writable = true;
                if let Some(conn) = self.halves[slot].as_mut() {
                    self.service.on_dialled(&mut self.hub.cx(id), conn);
                }
                // An early answer came with the event that told of the connection.
                if self.hub.ports[slot].phase == Phase::Open {
                    self.serve(id, io);
                }
            }
            Err(e) => self.hub.end(id, End::Unreachable(e.kind())),
        }
    }

    /// Reads a connection that we closed until the peer has closed too.
    fn discard_input(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        match io.read(slot, &mut self.scratch) {
            Ok(0) => self.doom(slot),
            Ok(n) => {
                let port = &mut self.hub.ports[slot];
                port.readable = n == self.scratch.len() || port.hung_up;
                if port.readable {
                    self.hub.mark_ready(slot);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.hub.ports[slot].readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => self.hub.mark_ready(slot),
            Err(_) => self.doom(slot),
        }
    }

    /// Due timers, within their share of the turn; the rest stays due, in its order.
    fn fire_timers(&mut self) {
        let share = self.hub.limits.timers_per_turn;
        self.hub.wheel.advance(self.hub.now);
        for _ in 0..share {
            let Some((_, alarm)) = self.hub.wheel.pop_due() else {
                break;
            };
            match alarm {
                Alarm::Port(slot) => {
                    self.hub.stats.timers_fired += 1;
                    self.fire_port(slot as usize);
                }
                Alarm::Service(timer) => self.fire(timer),
            }
        }
        // Those that are put off again wait for the next turn.
        for _ in 0..share.min(self.hub.soon.len()) {
            if let Some(timer) = self.hub.soon.pop_front() {
                self.fire(timer);
            }
        }
    }

    fn fire(&mut self, timer: S::Timer) {
        self.hub.stats.timers_fired += 1;
        self.hub.service_timers -= 1;
        self.service.on_timer(&mut self.hub, timer);
    }

    fn fire_port(&mut self, slot: usize) {
        let port = &mut self.hub.ports[slot];
        port.alarm = None;
        let missed = port
            .deadline(&self.hub.limits)
            .is_some_and(|at| at <= self.hub.now);
        if !missed {
            self.hub.watch(slot);
        } else if matches!(port.phase, Phase::Open | Phase::Dialling) {
            let (id, end) = (port.id(slot), port.end_at_deadline());
            self.hub.end(id, end);
        } else {
            self.doom(slot);
        }
    }

    fn deliver_notes(&mut self) {
        let mut notes =
            std::mem::replace(&mut self.hub.notes, std::mem::take(&mut self.spare_notes));
        for (id, note) in notes.drain(..) {
            let open = self
                .hub
                .port(id)
                .is_some_and(|port| port.phase == Phase::Open);
            match self.halves.get_mut(id.slot()) {
                Some(Some(conn)) if open => {
                    self.service.on_note(&mut self.hub.cx(id), conn, note);
                    self.settle(id);
                }
                _ => self.hub.stats.stale += 1,
            }
        }
        self.spare_notes = notes;
    }

    fn start_dials(&mut self, io: &mut impl Transport) {
        while let Some(Dial { id, from, conn }) = self.hub.dials.pop_front() {
            self.place(id, conn);
            let slot = id.slot();
            let port = &self.hub.ports[slot];
            if port.phase != Phase::Dialling {
                continue;
            }
            let to = self.hub.peers.get(port.peer);
            if let Err(e) = io.dial(id, to, from) {
                self.hub.end(id, End::Unreachable(e.kind()));
            } else {
                self.hub.watch(slot);
            }
        }
    }

    fn tell_ended(&mut self) {
        // What ends because of these calls is told in the next turn.
        for _ in 0..self.hub.ended.len() {
            let Some((id, end)) = self.hub.ended.pop_front() else {
                return;
            };
            let slot = id.slot();
            let port = &mut self.hub.ports[slot];
            port.told = true;
            log::debug!("{id} {} ended: {end:?}", self.hub.peers.get(port.peer));
            let conn = self.halves[slot]
                .take()
                .expect("a connection ends once, after it was placed");
            self.service.on_end(&mut self.hub, id, conn, end);
            self.hub.mark_dirty(slot);
        }
    }

    fn flush_dirty(&mut self, io: &mut impl Transport) {
        let mut dirty =
            std::mem::replace(&mut self.hub.dirty, std::mem::take(&mut self.spare_dirty));
        for id in dirty.drain(..) {
            let slot = id.slot();
            self.hub.ports[slot].on_dirty_list = false;
            self.flush(id, io);
            self.count_left(id);
            let port = &self.hub.ports[slot];
            match port.phase {
                Phase::Closing if port.output.is_empty() => self.finish(id, io),
                Phase::Doomed => self.doom(slot),
                _ => self.hub.watch(slot),
            }
        }
        self.spare_dirty = dirty;
    }

    /// One write to one connection.
    fn flush(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        // What others wrote to it counts too.
        pause_if_full(&mut self.hub, slot);
        let Hub {
            ports,
            queues,
            limits,
            stats,
            now,
            ..
        } = &mut self.hub;
        let port = &mut ports[slot];
        port.output.trim(queues);
        if port.output.len() > limits.output_bytes_max {
            self.hub.end(id, End::Limit("output_bytes_max"));
            return;
        }
        if !port.writable || port.output.is_empty() || port.phase == Phase::Doomed {
            return;
        }
        let write = |slices: &[IoSlice<'_>]| io.write(slot, slices);
        let (result, offered) = port.output.offer(limits.write_bytes_per_turn, write);
        match result {
            Ok(n) => {
                port.writable = n == offered;
                port.wrote = true;
                port.lingers |= port.phase == Phase::Closing;
                port.moved(Watch::Drain, n, *now, limits);
                stats.bytes_out += n as u64;
                port.output.consume(n, queues);
                let (more, roomy) = (
                    !port.output.is_empty(),
                    port.output.len() <= limits.output_bytes_low,
                );
                if more && port.writable {
                    self.hub.mark_dirty(slot);
                }
                if roomy && self.hub.ports[slot].paused {
                    self.unpause(id);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => port.writable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => self.hub.mark_dirty(slot),
            Err(e) if port.phase == Phase::Open => self.hub.end(id, End::Broken(e.kind())),
            Err(_) => self.doom(slot),
        }
    }

    /// Counts what a flush left in the queue, if anything.
    fn count_left(&mut self, id: ConnId) {
        let Hub {
            ports,
            queues,
            limits,
            ..
        } = &mut self.hub;
        let grew = ports[id.slot()].output.count(queues);
        if grew && queues.owned_bytes() > limits.queued_bytes_max {
            self.hub.end(id, End::Limit("queued_bytes_max"));
        }
    }

    fn unpause(&mut self, id: ConnId) {
        let slot = id.slot();
        self.hub.ports[slot].paused = false;
        self.hub.mark_ready(slot);
        if self.hub.ports[slot].phase == Phase::Open
            && let Some(conn) = self.halves[slot].as_mut()
        {
            self.service.on_room(&mut self.hub.cx(id), conn);
            self.settle(id);
        }
    }

    /// Everything is sent on a connection that is closing.
    fn finish(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        if !self.hub.ports[slot].must_linger() {
            self.doom(slot);
            return;
        }
        io.finish(slot);
        let port = &mut self.hub.ports[slot];
        port.phase = Phase::Lingering;
        if port.readable {
            self.hub.mark_ready(slot);
        }
        self.hub.watch(slot);
    }

    /// The connection goes with this turn, or with the one in which its service half is told.
    fn doom(&mut self, slot: usize) {
        let port = &mut self.hub.ports[slot];
        port.phase = Phase::Doomed;
        if port.told {
            self.reaped.push(port.id(slot));
        }
    }

    fn reap(&mut self, io: &mut impl Transport) {
        while let Some(id) = self.reaped.pop() {
            let slot = id.slot();
            // Listed twice when it was doomed on two paths of one turn.
            if self.hub.port(id).is_none() {
                continue;
            }
            assert!(
                self.halves[slot].is_none(),
                "a service is told before its connection goes"
            );
            let Port {
                peer,
                alarm,
                stash,
                mut output,
                ..
            } = self.hub.ports.remove(slot);
            self.hub.peers.remove(peer);
            if let Some(alarm) = alarm {
                self.hub.wheel.cancel(alarm);
            }
            if let Some(stash) = stash {
                self.hub.give_back(stash);
            }
            output.clear(&mut self.hub.queues);
            io.close(slot);
        }
    }

    fn place(&mut self, id: ConnId, conn: S::Conn) {
        let slot = id.slot();
        if self.halves.len() <= slot {
            self.halves.resize_with(slot + 1, || None);
        }
        assert!(
            self.halves[slot].is_none(),
            "a slot is reused only after the reap"
        );
        self.halves[slot] = Some(conn);
    }

    /// Asserts the invariants of the module docs. O(connections); for tests and the simulator.
    pub fn validate(&self) {
        self.hub.validate();
    }
}

/// Calls the service until it wants more, has to wait, or the share is used up. Returns how many bytes
/// it used, and how many of the rest it has seen.
fn offer<S: Service>(
    service: &mut S,
    conn: &mut S::Conn,
    cx: &mut Cx<'_, S>,
    bytes: &[u8],
    mut seen: usize,
    share: &mut Share,
) -> (usize, usize) {
    let (slot, mut used) = (cx.id.slot(), 0);
    while used < bytes.len() && share.steps > 0 && cx.hub.ports[slot].takes_input() {
        let input = Input {
            bytes: &bytes[used..],
            seen,
        };
        // A resume from inside the call takes this back, so that a `Wait` does not wait for what has been.
        cx.hub.ports[slot].waiting = true;
        let step = service.on_input(cx, conn, input);
        let port = &mut cx.hub.ports[slot];
        port.waiting &= matches!(step, Ok(Step::Wait(_)));
        let (consumed, whole) = match step {
            Ok(Step::More | Step::Took(0) | Step::Done(0)) => return (used, bytes.len() - used),
            Ok(Step::Took(n)) => (n, false),
            Ok(Step::Done(n) | Step::Wait(n)) => (n, true),
            Err(violation) => {
                cx.hub.end(cx.id, End::Violation(violation));
                break;
            }
        };
        if consumed > bytes.len() - used {
            let violation = Violation::us("a step of more bytes than there were");
            cx.hub.end(cx.id, End::Violation(violation));
            break;
        }
        used += consumed;
        seen = 0;
        share.steps -= 1;
        port.in_message = !whole;
        if whole {
            // The next message has a deadline of its own.
            port.watch = Watch::None;
            cx.hub.stats.messages += 1;
        }
        pause_if_full(cx.hub, slot);
    }
    (used, 0)
}

/// Input rests once the output has passed the high-water mark.
fn pause_if_full<S: Service>(hub: &mut Hub<S>, slot: usize) {
    let port = &mut hub.ports[slot];
    if !port.paused && port.output.len() >= hub.limits.output_bytes_high {
        port.paused = true;
        hub.stats.paused += 1;
    }
}

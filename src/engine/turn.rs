//! One turn of the loop: everything that the events since [`Node::begin`] give rise to.
//!
//! ```text
//!   ready connections ─▶ read ─▶ Service::on_input ┐
//!   due timers ────────▶ Service::on_timer         ├─▶ output, dials, notes, ends ─▶ one write a connection ─▶ reap
//!   notes ─────────────▶ Service::on_note          ┘
//! ```
//! Each connection has a share of bytes and steps, and so have the due timers; what is left over is queued again and makes
//! [`Node::has_work`] true. Timers and the deadlines of connections are in `deadlines.rs`.

use std::io::{ErrorKind, IoSlice};

use super::Transport;
use super::conn::{ConnId, Connection, Phase, Timeout};
use super::end::{End, Violation};
use super::hub::{Cx, Dial, Hub};
use super::input::{Input, Step};
use super::node::Node;
use super::service::Service;

/// What a connection may still use in this turn.
struct Share {
    bytes: usize,
    steps: usize,
}

impl<S: Service> Node<S> {
    /// Everything that the events since [`Node::begin`] give rise to.
    pub fn turn(&mut self, io: &mut impl Transport) {
        self.hub.stats.turns += 1;
        self.catch_up.begin(self.hub.ready.len());
        let served = self.serve_ready(io);
        let next_timer = self.hub.wheel.next_deadline();
        self.catch_up
            .served(served, self.hub.ready.len(), next_timer);
        self.fire_timers();
        self.deliver_notes();
        self.start_dials(io);
        self.tell_ends();
        self.flush_dirty(io);
        self.reap(io);
        self.hub.stats.queued_bytes = self.hub.queues.owned_bytes() as u64;
    }

    /// Serves the first of the ready list; returns how many.
    fn serve_ready(&mut self, io: &mut impl Transport) -> usize {
        // Connections that are queued again wait for the next turn, behind all others.
        let share = self.hub.ready.len().min(self.ready_per_turn);
        for _ in 0..share {
            let Some(id) = self.hub.ready.pop_front() else {
                break;
            };
            let Some(conn) = self.hub.conn_mut(id) else {
                continue;
            };
            conn.on_ready_list = false;
            match conn.phase {
                Phase::Open => self.serve(id, io),
                Phase::Dialling => self.finish_dial(id, io),
                Phase::Lingering => self.discard_input(id, io),
                Phase::Closing | Phase::Closed => {}
            }
        }
        share
    }

    /// Reads and serves one connection, within its share of the turn.
    fn serve(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        let limits = &self.hub.limits;
        let mut share = Share {
            bytes: limits.read_bytes_per_turn,
            steps: limits.steps_per_turn,
        };
        if self.hub.conns[slot].has_unserved() {
            self.digest(id, 0, &mut share);
        }
        while share.bytes > 0 && share.steps > 0 && self.hub.conns[slot].wants_read() {
            let kept = self.hub.conns[slot]
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
                Ok(0) => self.hub.conns[slot].eof = true,
                Ok(n) => {
                    share.bytes -= n;
                    let Hub {
                        conns, limits, now, ..
                    } = &mut self.hub;
                    let conn = &mut conns[slot];
                    conn.moved(Timeout::Message, n, *now, limits);
                    // A short read emptied the socket, unless there is also an end to be read.
                    conn.readable = n == room || conn.hung_up;
                    self.hub.stats.bytes_in += n as u64;
                    self.digest(id, n, &mut share);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.hub.conns[slot].readable = false
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
        let Some(half) = self.halves[slot].as_mut() else {
            return;
        };
        let mut stash = self.hub.conns[slot].stash.take();
        let (bytes, seen) = match &mut stash {
            None => (&self.scratch[..fresh], 0),
            Some(stash) => {
                stash.append(&self.scratch[..fresh]);
                (stash.rest(), stash.seen)
            }
        };
        let (used, seen) = offer(
            &mut self.service,
            half,
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
                    self.hub.conns[slot].stash = Some(stash);
                } else {
                    self.hub.give_back(stash);
                }
            }
        }
    }

    /// After anything that happened to an open connection: ends it when the peer has closed and
    /// nothing is left to do, queues it when it has work left, and sees to its deadline.
    pub(super) fn settle(&mut self, id: ConnId) {
        let slot = id.slot();
        pause_if_full(&mut self.hub, slot);
        let conn = &self.hub.conns[slot];
        if conn.phase == Phase::Open {
            let unserved = conn.has_unserved();
            if conn.eof && !unserved && conn.takes_input() {
                self.hub.end(id, End::Eof);
            } else if conn.wants_read() || (unserved && conn.takes_input()) {
                self.hub.stats.budget_spent += 1;
                self.hub.mark_ready(slot);
            }
        }
        // A connection with output to flush is looked at again after the flush: output that is queued for the
        // rest of this turn only needs no timer.
        if !self.hub.conns[slot].on_dirty_list {
            self.hub.update_deadline(slot);
        }
    }

    fn finish_dial(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        match io.dialled(slot) {
            Ok(false) => {}
            Ok(true) => {
                self.hub.dials_under_way -= 1;
                self.hub.stats.dialled += 1;
                let conn = &mut self.hub.conns[slot];
                conn.phase = Phase::Open;
                conn.writable = true;
                if let Some(half) = self.halves[slot].as_mut() {
                    self.service.on_dialled(&mut self.hub.cx(id), half);
                }
                // An early answer came with the event that told of the connection.
                if self.hub.conns[slot].phase == Phase::Open {
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
            Ok(0) => self.mark_closed(slot),
            Ok(n) => {
                let conn = &mut self.hub.conns[slot];
                conn.readable = n == self.scratch.len() || conn.hung_up;
                if conn.readable {
                    self.hub.mark_ready(slot);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.hub.conns[slot].readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => self.hub.mark_ready(slot),
            Err(_) => self.mark_closed(slot),
        }
    }

    fn deliver_notes(&mut self) {
        let mut notes =
            std::mem::replace(&mut self.hub.notes, std::mem::take(&mut self.spare_notes));
        for (id, note) in notes.drain(..) {
            let open = self
                .hub
                .conn(id)
                .is_some_and(|conn| conn.phase == Phase::Open);
            match self.halves.get_mut(id.slot()) {
                Some(Some(half)) if open => {
                    self.service.on_note(&mut self.hub.cx(id), half, note);
                    self.settle(id);
                }
                _ => self.hub.stats.stale += 1,
            }
        }
        self.spare_notes = notes;
    }

    fn start_dials(&mut self, io: &mut impl Transport) {
        while let Some(Dial { id, from, half }) = self.hub.dials.pop_front() {
            self.place(id, Some(half));
            let slot = id.slot();
            let conn = &self.hub.conns[slot];
            if conn.phase != Phase::Dialling {
                continue;
            }
            let to = self.hub.peers.get(conn.peer);
            if let Err(e) = io.dial(id, to, from) {
                self.hub.end(id, End::Unreachable(e.kind()));
            } else {
                self.hub.update_deadline(slot);
            }
        }
    }

    fn tell_ends(&mut self) {
        // What ends because of these calls is told in the next turn.
        for _ in 0..self.hub.ended.len() {
            let Some((id, end)) = self.hub.ended.pop_front() else {
                return;
            };
            let slot = id.slot();
            let conn = &mut self.hub.conns[slot];
            conn.end_told = true;
            log::debug!("{id} {} ended: {end:?}", self.hub.peers.get(conn.peer));
            if let Some(half) = self.halves[slot].take() {
                self.service.on_end(&mut self.hub, id, half, end);
            }
            self.hub.mark_dirty(slot);
        }
    }

    fn flush_dirty(&mut self, io: &mut impl Transport) {
        let mut dirty =
            std::mem::replace(&mut self.hub.dirty, std::mem::take(&mut self.spare_dirty));
        for id in dirty.drain(..) {
            let slot = id.slot();
            self.hub.conns[slot].on_dirty_list = false;
            self.flush(id, io);
            self.count_left(id);
            let conn = &self.hub.conns[slot];
            match conn.phase {
                Phase::Closing if conn.output.is_empty() => self.finish(id, io),
                Phase::Closed => self.mark_closed(slot),
                _ => self.hub.update_deadline(slot),
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
            conns,
            queues,
            limits,
            stats,
            now,
            ..
        } = &mut self.hub;
        let conn = &mut conns[slot];
        conn.output.trim(queues);
        if conn.output.len() > limits.output_bytes_max {
            self.hub.end(id, End::Limit("output_bytes_max"));
            return;
        }
        if !conn.writable || conn.output.is_empty() || conn.phase == Phase::Closed {
            return;
        }
        let write = |slices: &[IoSlice<'_>]| io.write(slot, slices);
        let (result, offered) = conn.output.offer(limits.write_bytes_per_turn, write);
        match result {
            Ok(n) => {
                conn.writable = n == offered;
                conn.wrote = true;
                conn.lingers |= conn.phase == Phase::Closing;
                conn.moved(Timeout::Drain, n, *now, limits);
                stats.bytes_out += n as u64;
                conn.output.consume(n, queues);
                let (more, roomy) = (
                    !conn.output.is_empty(),
                    conn.output.len() <= limits.output_bytes_low,
                );
                if more && conn.writable {
                    self.hub.mark_dirty(slot);
                }
                if roomy && self.hub.conns[slot].paused {
                    self.unpause(id);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => conn.writable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => self.hub.mark_dirty(slot),
            Err(e) if conn.phase == Phase::Open => self.hub.end(id, End::Broken(e.kind())),
            Err(_) => self.mark_closed(slot),
        }
    }

    /// Counts what a flush left in the queue, if anything.
    fn count_left(&mut self, id: ConnId) {
        let Hub {
            conns,
            queues,
            limits,
            ..
        } = &mut self.hub;
        let grew = conns[id.slot()].output.count(queues);
        if grew && queues.owned_bytes() > limits.queued_bytes_max {
            self.hub.end(id, End::Limit("queued_bytes_max"));
        }
    }

    fn unpause(&mut self, id: ConnId) {
        let slot = id.slot();
        self.hub.conns[slot].paused = false;
        self.hub.mark_ready(slot);
        if self.hub.conns[slot].phase == Phase::Open
            && let Some(half) = self.halves[slot].as_mut()
        {
            self.service.on_room(&mut self.hub.cx(id), half);
            self.settle(id);
        }
    }

    /// Everything is sent on a connection that is closing.
    fn finish(&mut self, id: ConnId, io: &mut impl Transport) {
        let slot = id.slot();
        if !self.hub.conns[slot].must_linger() {
            self.mark_closed(slot);
            return;
        }
        io.finish(slot);
        let conn = &mut self.hub.conns[slot];
        conn.phase = Phase::Lingering;
        if conn.readable {
            self.hub.mark_ready(slot);
        }
        self.hub.update_deadline(slot);
    }

    /// The connection goes with this turn, or with the one in which its service half is told.
    pub(super) fn mark_closed(&mut self, slot: usize) {
        let conn = &mut self.hub.conns[slot];
        conn.phase = Phase::Closed;
        if conn.end_told {
            self.reaped.push(conn.id(slot));
        }
    }

    fn reap(&mut self, io: &mut impl Transport) {
        while let Some(id) = self.reaped.pop() {
            let slot = id.slot();
            // Listed twice when it was closed on two paths of one turn.
            if self.hub.conn(id).is_none() {
                continue;
            }
            assert!(
                self.halves[slot].is_none(),
                "a service is told before its connection goes"
            );
            let Connection {
                peer,
                timer,
                stash,
                mut output,
                ..
            } = self.hub.conns.remove(slot);
            self.hub.peers.remove(peer);
            if let Some(timer) = timer {
                self.hub.wheel.cancel(timer);
            }
            if let Some(stash) = stash {
                self.hub.give_back(stash);
            }
            output.clear(&mut self.hub.queues);
            io.close(slot);
        }
    }
}

/// Calls the service until it wants more, has to wait, or the share is used up. Returns how many bytes
/// it used, and how many of the rest it has seen.
fn offer<S: Service>(
    service: &mut S,
    half: &mut S::Conn,
    cx: &mut Cx<'_, S>,
    bytes: &[u8],
    mut seen: usize,
    share: &mut Share,
) -> (usize, usize) {
    let (slot, mut used) = (cx.id.slot(), 0);
    while used < bytes.len() && share.steps > 0 && cx.hub.conns[slot].takes_input() {
        let input = Input {
            bytes: &bytes[used..],
            seen,
        };
        // A resume from inside the call takes this back, so that a `Wait` does not wait for what has been.
        cx.hub.conns[slot].waiting = true;
        let step = service.on_input(cx, half, input);
        let conn = &mut cx.hub.conns[slot];
        conn.waiting &= matches!(step, Ok(Step::Wait(_)));
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
        conn.in_message = !whole;
        if whole {
            // The next message has a deadline of its own.
            conn.timeout = Timeout::None;
            cx.hub.stats.messages += 1;
        }
        pause_if_full(cx.hub, slot);
    }
    (used, 0)
}

/// Input rests once the output has passed the high-water mark.
fn pause_if_full<S: Service>(hub: &mut Hub<S>, slot: usize) {
    let conn = &mut hub.conns[slot];
    if !conn.paused && conn.output.len() >= hub.limits.output_bytes_high {
        conn.paused = true;
        hub.stats.paused += 1;
    }
}

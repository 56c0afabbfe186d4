//! Deadlines: what a peer may keep a connection waiting for, and when a turn's due timers fire.
//!
//! At any time at most one timeout of a connection runs, and which one follows from its state alone:
//!
//! ```text
//!   dialled, not accepted ............................. dial
//!   output that the peer has not taken ................ drain
//!   an answer is ours to give ......................... none
//!   a message begun and not complete .................. message
//!   nothing between two messages ...................... idle
//!   closed by us, the peer has not .................... linger
//! ```
//! Each is a field of [`Limits`]. Message and drain have a least pace: bytes that move buy time.
//!
//! A connection has one timer, armed no later than its true deadline. A deadline that only moves later leaves the timer
//! alone; when it fires early, it is armed again. So serving a message does not touch the wheel.
//!
//! No deadline passes early, and none more than a tick late ([`Tick::deadline`]), unless more timers are due than a turn
//! has a share for, or more connections are ready than it serves.
//!
//! # What comes before a deadline
//!
//! The deadline of a connection, or a timer of a service, fires only when everything that had reached this host by then was
//! told by the driver and served (`heard.rs`): input, room for output, a dial's result. A process that was stopped for longer
//! than its timeouts goes on by serving what came meanwhile. A peer that is silent all the same is closed then.
//!
//! - A connection whose turn it is (input left of an earlier share, output that can be sent) has no deadline that passes.
//! - A service may take a timer that fires for proof that nothing came before it, with two exceptions: what lies behind a
//!   `Wait` or a high-water mark, where the service itself does not read on; and what is left after the shares that a stop
//!   is made up for with. It may not compare times in [`Service::on_input`] to that end: after a stop they are far apart.
//! - It proves nothing of what a peer would have sent, had it been asked: a service that owes the question (a heartbeat of
//!   its own that fires late, too) asks first, and waits again. Late timers fire in order of deadline.

use super::conn::{Connection, Phase, Timeout};
use super::end::{Deadline, End};
use super::hub::{Hub, Timer};
use super::node::Node;
use super::service::Service;
use super::{Limits, Tick, Ticks};

impl<S: Service> Node<S> {
    /// Due timers, within their share of the turn; the rest stays due, in its order.
    pub(super) fn fire_timers(&mut self) {
        let share = self.hub.limits.timers_per_turn;
        self.hub.wheel.advance(self.catch_up.judged);
        for _ in 0..share {
            let Some((_, timer)) = self.hub.wheel.pop_due() else {
                break;
            };
            match timer {
                Timer::Connection(slot) => {
                    self.hub.stats.timers_fired += 1;
                    self.fire_deadline(slot as usize);
                }
                Timer::Service(timer) => {
                    self.hub.service_timers -= 1;
                    self.fire(timer);
                }
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
        self.service.on_timer(&mut self.hub, timer);
    }

    /// The timer of a connection fired, at its deadline or before it.
    fn fire_deadline(&mut self, slot: usize) {
        let conn = &mut self.hub.conns[slot];
        conn.timer = None;
        let missed = conn
            .deadline(&self.hub.limits)
            .is_some_and(|at| at <= self.catch_up.judged);
        if !missed {
            self.hub.update_deadline(slot);
        } else if conn.is_our_turn() {
            // After its share of the next turn.
            conn.timer_at = self.hub.now + Ticks(1);
            let timer = Timer::Connection(slot as u32);
            conn.timer = Some(self.hub.wheel.arm(conn.timer_at, timer));
        } else if matches!(conn.phase, Phase::Open | Phase::Dialling) {
            let (id, end) = (conn.id(slot), conn.end_at_deadline());
            self.hub.end(id, end);
        } else {
            self.mark_closed(slot);
        }
    }
}

impl<S: Service> Hub<S> {
    /// Starts, restarts or leaves alone the deadline of a connection after something happened to it.
    pub(super) fn update_deadline(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        let timeout = conn.current_timeout();
        if timeout != conn.timeout {
            conn.timeout = timeout;
            conn.since = self.now;
            conn.moved_bytes = 0;
        }
        let Some(deadline) = conn.deadline(&self.limits) else {
            // For as long as the connection lasts, and not only while the service works on an answer: the timer
            // of an earlier timeout would wake the node for nothing.
            if conn.timeout == Timeout::Idle
                && let Some(timer) = conn.timer.take()
            {
                self.wheel.cancel(timer);
            }
            return;
        };
        match conn.timer {
            Some(_) if conn.timer_at <= deadline => return,
            Some(timer) => _ = self.wheel.cancel(timer),
            None => {}
        }
        conn.timer = Some(self.wheel.arm(deadline, Timer::Connection(slot as u32)));
        conn.timer_at = deadline;
    }
}

impl Connection {
    /// Which deadline should run, seen from the state alone.
    pub(super) fn current_timeout(&self) -> Timeout {
        match self.phase {
            Phase::Dialling => Timeout::Dial,
            Phase::Lingering => Timeout::Linger,
            Phase::Closed => Timeout::None,
            Phase::Open | Phase::Closing if !self.output.is_empty() => Timeout::Drain,
            Phase::Closing => Timeout::None,
            Phase::Open if self.waiting => Timeout::None,
            Phase::Open if self.in_message || self.stash.is_some() => Timeout::Message,
            Phase::Open => Timeout::Idle,
        }
    }

    /// The true deadline of the timeout that runs.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Tick> {
        let allowed = match self.timeout {
            Timeout::Dial => limits.dial,
            Timeout::Idle => limits.idle,
            Timeout::Message => limits.message,
            Timeout::Drain => limits.drain,
            Timeout::Linger => limits.linger,
            Timeout::None => return None,
        };
        (allowed != Ticks::NEVER).then(|| self.since.deadline(allowed))
    }

    /// Not the peer, but we are to do something: serve what is left of its input, or send what it has room for.
    fn is_our_turn(&self) -> bool {
        let serves = match self.phase {
            Phase::Open | Phase::Dialling => self.on_ready_list,
            // What a lingering peer sends does not count.
            Phase::Closing | Phase::Lingering | Phase::Closed => false,
        };
        serves || (self.on_dirty_list && self.writable && !self.output.is_empty())
    }

    /// Bytes moved in the direction that `timeout` looks at. At the least pace they buy time, but never more
    /// than the whole allowance from now on: bytes that moved long ago are no credit for a stall.
    pub(super) fn moved(&mut self, timeout: Timeout, bytes: usize, now: Tick, limits: &Limits) {
        if self.timeout == timeout {
            self.moved_bytes += bytes as u64;
            let (bought, paid_bytes) = limits.pace(self.moved_bytes);
            self.moved_bytes -= paid_bytes;
            self.since = (self.since + bought).min(now);
        }
    }

    /// How the connection ends when that deadline passes.
    pub(super) fn end_at_deadline(&self) -> End {
        self.timeout.missed().map_or(End::Closed, End::Timeout)
    }
}

impl Timeout {
    /// What it means when the deadline passes; `None`: nothing worth telling, just close.
    pub(super) fn missed(self) -> Option<Deadline> {
        match self {
            Timeout::Dial => Some(Deadline::Dial),
            Timeout::Idle => Some(Deadline::Idle),
            Timeout::Message => Some(Deadline::Message),
            Timeout::Drain => Some(Deadline::Drain),
            Timeout::Linger | Timeout::None => None,
        }
    }
}

//! The load generator: a service that asks on many connections and measures how long the answers take.
//!
//! Closed loop: every connection keeps `depth` requests under way. Open loop: requests are due at a fixed rate whatever
//! the answers do, and a latency counts from when its request was due, so a server that stalls cannot hide the
//! requests that its stall delayed (no coordinated omission).
//!
//! It reads the clock itself, in nanoseconds; the engine's tick of 10 ms is too coarse for latencies. What is asked and
//! how an answer is read is a [`Talk`].

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;

use peerloop::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Ticks, Violation};

use super::measured::Measured;

/// Connections being opened at once; more would overflow the backlog of many servers.
const DIALS_AT_ONCE: usize = 256;

/// Before a connection that ended is opened again: a server that closes at once is not flooded.
const REDIAL_AFTER: Ticks = Ticks::from_millis(100);

/// How long answers are waited for after the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Requests under way on a connection of their own come from these many loopback addresses, so that the ports which
/// wait in TIME_WAIT do not run out.
const SOURCES: u32 = 200;

/// Lasting connections from one loopback address. The kernel looks the longer for a free port the fewer are left: with
/// all 19,500 from one address the last ones take 0.6 ms each.
const CONNECTIONS_A_SOURCE: u32 = 5000;

/// A protocol, as the generator speaks it.
pub(super) trait Talk {
    /// How much of an answer was read.
    type Reading: Default;

    /// Every request takes a connection of its own, which ends with the answer.
    fn is_once(&self) -> bool;

    /// The server knows its peers by the address that they come from, so all connections come from one.
    fn is_known_by_address(&self) -> bool {
        false
    }

    /// Appends the next request; what is long comes back to be sent behind it.
    fn request(&mut self, out: &mut Vec<u8>) -> Option<Bytes>;

    /// Reads of the answer what is there.
    ///
    /// # Errors
    /// What is wrong with it; the connection is closed.
    fn answer(
        &mut self,
        reading: &mut Self::Reading,
        input: Input<'_>,
    ) -> Result<Heard, &'static str>;
}

/// What was read.
pub(super) enum Heard {
    More,
    Took(usize),
    /// The rest of an answer; `yes` unless the server said no.
    Answer {
        used: usize,
        yes: bool,
    },
}

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) connections: usize,
    /// Requests under way on a connection at most.
    pub(super) depth: usize,
    /// Requests a second; without it as many as there are answers.
    pub(super) rate: Option<f64>,
    pub(super) warm_up: Duration,
    pub(super) until: Until,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    Elapsed(Duration),
    /// So many requests, from the first one on.
    Requests(u64),
}

/// Times are nanoseconds since the generator was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    WarmUp { until: u64 },
    Measuring { since: u64, until: u64 },
    Draining { until: u64 },
    Over,
}

/// A place for a connection.
struct Slot {
    conn: Option<ConnId>,
    is_open: bool,
    /// When each request under way was due, oldest first.
    due: VecDeque<u64>,
}

pub(super) struct Generator<T: Talk> {
    addr: SocketAddrV4,
    talk: T,
    plan: Plan,
    epoch: Instant,
    phase: Phase,
    slots: Vec<Slot>,
    /// Slots to be opened.
    closed: VecDeque<u32>,
    /// Slots that wait for their timer to become closed.
    reopening: VecDeque<u32>,
    dialling: usize,
    open: usize,
    never_opened: bool,
    interrupted: bool,
    /// One entry for each further request that a slot may have under way. An entry whose connection has ended is
    /// passed over.
    free: VecDeque<(u32, Option<ConnId>)>,
    /// When the open loop began, and how many of its requests were due since.
    loop_began: u64,
    loop_asked: u64,
    /// Requests since the measuring began.
    asked: u64,
    under_way: u64,
    errors: BTreeMap<String, u64>,
    measured: Measured,
}

pub(super) struct Conn<R> {
    slot: u32,
    reading: R,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Reopen;

impl<T: Talk> Generator<T> {
    pub(super) fn new(addr: SocketAddrV4, talk: T, plan: Plan) -> Result<Generator<T>> {
        let slots = (0..plan.connections).map(|_| Slot {
            conn: None,
            is_open: false,
            due: VecDeque::new(),
        });
        Ok(Generator {
            addr,
            talk,
            plan,
            epoch: Instant::now(),
            phase: Phase::Opening,
            slots: slots.collect(),
            closed: (0..plan.connections as u32).collect(),
            reopening: VecDeque::new(),
            dialling: 0,
            open: 0,
            never_opened: true,
            interrupted: false,
            free: VecDeque::new(),
            loop_began: 0,
            loop_asked: 0,
            asked: 0,
            under_way: 0,
            errors: BTreeMap::new(),
            measured: Measured::new(plan.until)?,
        })
    }

    pub(super) fn measured(&self) -> &Measured {
        &self.measured
    }

    /// How connections ended that should not have, and how often.
    pub(super) fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// Requests without an answer.
    pub(super) fn under_way(&self) -> u64 {
        self.under_way
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Every connection so far was refused.
    pub(super) fn cannot_begin(&self) -> bool {
        self.never_opened && !self.errors.is_empty()
    }

    /// Ctrl-C came before the plan was done.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    pub(super) fn first_error(&self) -> &str {
        self.errors
            .keys()
            .next()
            .map_or("the others were refused", String::as_str)
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// How long nothing is due, unless an answer comes.
    pub(super) fn sleep(&self) -> Duration {
        let now = self.now_ns();
        let phase_ends = match self.phase {
            Phase::Opening | Phase::Over => u64::MAX,
            Phase::WarmUp { until } | Phase::Draining { until } => until,
            Phase::Measuring { until, .. } => until,
        };
        let sends = matches!(self.phase, Phase::WarmUp { .. } | Phase::Measuring { .. });
        let due = match self.plan.rate {
            Some(rate) if sends && !self.free.is_empty() => self.due_next(rate),
            _ => u64::MAX,
        };
        Duration::from_nanos(phase_ends.min(due).saturating_sub(now))
    }

    /// Opens, sends what is due, goes on to the next phase. Called after every turn.
    pub(super) fn pace(&mut self, hub: &mut Hub<Self>) {
        let now = self.now_ns();
        match self.phase {
            Phase::Opening if self.is_open() => {
                self.loop_began = now;
                let until = now + self.plan.warm_up.as_nanos() as u64;
                self.phase = Phase::WarmUp { until };
                if until == now {
                    self.measure(now);
                }
            }
            Phase::WarmUp { until } if now >= until => self.measure(now),
            Phase::Measuring { until, .. } if now >= until => self.drain(until),
            Phase::Measuring { .. } if self.is_enough() => self.drain(now),
            Phase::Draining { until } if now >= until || self.under_way == 0 => {
                self.phase = Phase::Over;
                hub.stop();
            }
            _ => {}
        }
        self.open_closed(hub);
        self.send_due(hub, now);
    }

    fn measure(&mut self, now: u64) {
        let length = match self.plan.until {
            Until::Elapsed(length) => length.as_nanos() as u64,
            Until::Requests(_) => u64::MAX - now,
        };
        self.asked = 0;
        self.measured.begin(now);
        self.phase = Phase::Measuring {
            since: now,
            until: now + length,
        };
    }

    fn is_open(&self) -> bool {
        self.talk.is_once() || self.open == self.slots.len()
    }

    fn is_enough(&self) -> bool {
        matches!(self.plan.until, Until::Requests(enough) if self.asked >= enough)
    }

    /// No further request; what is under way may still be answered.
    fn drain(&mut self, at: u64) {
        self.measured.end(at);
        self.phase = Phase::Draining {
            until: at + DRAIN.as_nanos() as u64,
        };
    }

    fn open_closed(&mut self, hub: &mut Hub<Self>) {
        if self.talk.is_once() {
            // Their requests open them.
            let slots = self.closed.drain(..);
            self.free.extend(slots.map(|slot| (slot, None)));
            return;
        }
        while self.dialling < DIALS_AT_ONCE {
            let Some(slot) = self.closed.pop_front() else {
                return;
            };
            self.dial(hub, slot);
        }
    }

    fn dial(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let source = match self.talk.is_once() {
            true => slot % SOURCES,
            false => slot / CONNECTIONS_A_SOURCE % SOURCES,
        };
        let from = (self.addr.ip().is_loopback() && !self.talk.is_known_by_address())
            .then(|| SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1 + source as u8), 0));
        let conn = Conn {
            slot,
            reading: T::Reading::default(),
        };
        self.dialling += 1;
        self.slots[slot as usize].conn = Some(hub.dial(self.addr, from.map(Into::into), conn));
    }

    fn send_due(&mut self, hub: &mut Hub<Self>, now: u64) {
        while let Some(&(slot, conn)) = self.free.front() {
            if conn != self.slots[slot as usize].conn {
                self.free.pop_front();
                continue;
            }
            let Some(due) = self.due(now) else { return };
            self.free.pop_front();
            self.asked += 1;
            self.under_way += 1;
            self.slots[slot as usize].due.push_back(due);
            match conn {
                None => self.dial(hub, slot),
                Some(id) => self.ask(hub, id),
            }
        }
    }

    /// When the next request is due, if that is now or before.
    fn due(&mut self, now: u64) -> Option<u64> {
        if !matches!(self.phase, Phase::WarmUp { .. } | Phase::Measuring { .. }) || self.is_enough()
        {
            return None;
        }
        let Some(rate) = self.plan.rate else {
            return Some(now);
        };
        let due = self.due_next(rate);
        if due > now {
            return None;
        }
        self.loop_asked += 1;
        Some(due)
    }

    fn due_next(&self, rate: f64) -> u64 {
        self.loop_began + (self.loop_asked as f64 * 1e9 / rate) as u64
    }

    fn ask(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        // `None` when the connection is ending: that is counted then.
        let long = hub.output_of(id).and_then(|out| self.talk.request(out));
        if let Some(long) = long {
            hub.send_to(id, &long);
        }
    }

    fn answered(&mut self, slot: u32, yes: bool, now: u64) {
        if let Some(due) = self.slots[slot as usize].due.pop_front() {
            self.under_way -= 1;
            // Requests of the warm-up are answered into the measuring, and those of the measuring after it.
            let counts = match self.phase {
                Phase::Measuring { since, .. } => due >= since,
                Phase::Draining { .. } => true,
                Phase::Opening | Phase::WarmUp { .. } | Phase::Over => false,
            };
            if counts {
                self.measured.record(due, now, yes);
            }
        }
    }
}

impl<T: Talk> Service for Generator<T> {
    type Conn = Conn<T::Reading>;
    type Note = ();
    type Timer = Reopen;
    type Job = NoJob;
    type Done = NoJob;

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Self::Conn {
        // There is no listener.
        cx.close();
        Conn {
            slot: 0,
            reading: T::Reading::default(),
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Self::Conn) {
        self.dialling -= 1;
        self.open += 1;
        self.never_opened = false;
        self.slots[conn.slot as usize].is_open = true;
        let id = cx.id();
        if self.talk.is_once() {
            self.ask(cx, id);
        } else {
            let places = std::iter::repeat_n((conn.slot, Some(id)), self.plan.depth);
            self.free.extend(places);
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Self::Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        match self.talk.answer(&mut conn.reading, input) {
            Ok(Heard::More) => Ok(Step::More),
            Ok(Heard::Took(used)) => Ok(Step::Took(used)),
            Ok(Heard::Answer { used, yes }) => {
                if self.slots[conn.slot as usize].due.is_empty() {
                    return Err(Violation::peer("an answer that nobody asked for"));
                }
                let now = self.now_ns();
                self.answered(conn.slot, yes, now);
                if self.talk.is_once() {
                    cx.close();
                } else {
                    self.free.push_back((conn.slot, Some(cx.id())));
                    self.send_due(cx, now);
                }
                Ok(Step::Done(used))
            }
            Err(what) => Err(Violation::peer(what)),
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Self::Conn, end: End) {
        let slot = &mut self.slots[conn.slot as usize];
        if slot.conn != Some(id) {
            return;
        }
        slot.conn = None;
        let lost = slot.due.len() as u64;
        slot.due.clear();
        self.under_way -= lost;
        let was_open = std::mem::take(&mut slot.is_open);
        if was_open {
            self.open -= 1;
        } else {
            self.dialling -= 1;
        }
        if lost > 0 || !(self.talk.is_once() && matches!(end, End::Closed | End::Eof)) {
            *self.errors.entry(said(end)).or_default() += 1;
        }
        if self.talk.is_once() && was_open {
            self.closed.push_back(conn.slot);
        } else if hub.arm(REDIAL_AFTER, Reopen).is_some() {
            self.reopening.push_back(conn.slot);
        }
    }

    fn on_timer(&mut self, _hub: &mut Hub<Self>, Reopen: Reopen) {
        self.closed.extend(self.reopening.pop_front());
    }

    /// Ctrl-C: the summary is of what was measured until now.
    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        if matches!(self.phase, Phase::Measuring { .. }) {
            let now = self.now_ns();
            self.measured.end(now);
        }
        self.interrupted = self.phase != Phase::Over;
        self.phase = Phase::Over;
        hub.stop();
    }
}

/// An end, as a person would say it.
fn said(end: End) -> String {
    match end {
        End::Eof => "the server closed".into(),
        End::Broken(kind) => format!("broken: {kind}"),
        End::Unreachable(kind) => format!("cannot connect: {kind}"),
        End::Closed => "closed".into(),
        End::Violation(violation) => violation.what.into(),
        End::Timeout(deadline) => format!("timeout: {deadline:?}"),
        End::Limit(limit) => format!("limit: {limit}"),
        other => format!("{other:?}"),
    }
}

//! The connections of a load: a service that sends requests to one server, when its [`Driver`] says that they are due.
//!
//! A [`Talker`] writes the requests, reads the answers and checks them. Answers come in the order of the requests on a
//! connection. A connection that ends is opened again; requests that were under way on it are lost, not repeated.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use slab::Slab;

use peerloop::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Ticks, Violation};

use super::driver::{Driver, Plan, Until, describe};

/// Connections being opened at once; more would overflow the backlog of many servers.
const DIALS_AT_ONCE: usize = 256;

/// Before a connection that ended is opened again: a server that closes at once is not flooded.
const REDIAL_AFTER: Ticks = Ticks::from_millis(100);

/// Requests under way on a connection of their own come from these many loopback addresses, so that the ports which
/// wait in TIME_WAIT do not run out.
const SOURCES: u32 = 200;

/// Lasting connections from one loopback address. The kernel looks the longer for a free port the fewer are left: with
/// all 19,500 from one address the last ones take 0.6 ms each.
const CONNECTIONS_A_SOURCE: u32 = 5000;

/// The requests and answers of one protocol.
pub(in crate::cli) trait Talker {
    /// What is kept of a request until its answer has come.
    type Request;
    /// State of reading an answer that is not complete.
    type Reading: Default;

    /// Every request takes a connection of its own, which ends with the answer.
    fn is_once(&self) -> bool {
        false
    }

    /// The server knows its peers by the address that they come from, so all connections come from one.
    fn is_known_by_address(&self) -> bool {
        false
    }

    /// The next request. The plan says how many there are.
    fn next(&mut self) -> Self::Request;

    /// Appends a request to the output. A long value is returned instead, and sent behind it without a copy.
    fn write(&mut self, request: &mut Self::Request, out: &mut Vec<u8>) -> Option<Bytes>;

    /// Reads as much of the answer to a request as has come.
    ///
    /// # Errors
    /// What is wrong with it; the connection is closed.
    fn answer(
        &mut self,
        request: &mut Self::Request,
        reading: &mut Self::Reading,
        input: Input<'_>,
    ) -> Result<Heard, &'static str>;

    /// The connection ended before the answer.
    fn lost(&mut self, _request: Self::Request, _why: &str) {}
}

/// Progress of an answer.
pub(in crate::cli) enum Heard {
    More,
    Took(usize),
    /// The answer is complete. `yes`: the server granted the request, and the answer is right.
    Answer {
        used: usize,
        yes: bool,
    },
    /// An answer after which the same request goes on with another message.
    GoesOn {
        used: usize,
        request: Bytes,
    },
    /// The server is busy. The request is repeated after this time, on any free connection.
    Later {
        used: usize,
        after: Ticks,
    },
}

/// A request and when it was due.
struct Asked<R> {
    due: u64,
    request: R,
}

/// A place for a connection.
struct Slot<R> {
    conn: Option<ConnId>,
    is_open: bool,
    /// Requests under way, oldest first.
    asked: VecDeque<Asked<R>>,
}

pub(in crate::cli) struct Connections<T: Talker> {
    addr: SocketAddrV4,
    pub(in crate::cli) talker: T,
    pub(in crate::cli) driver: Driver,
    slots: Vec<Slot<T::Request>>,
    /// Slots to be opened.
    closed: VecDeque<u32>,
    /// Requests that a busy server asked to repeat: until their timer fires, and from then on.
    retries_waiting: Slab<Asked<T::Request>>,
    retries_due: VecDeque<Asked<T::Request>>,
    dialling: usize,
    pub(super) open: usize,
    never_opened: bool,
    /// Slots that were not given up, where the plan is a number of requests.
    slots_left: usize,
    /// One entry for each further request that a slot may have under way. An entry whose connection has ended is
    /// passed over.
    free: VecDeque<(u32, Option<ConnId>)>,
}

pub(in crate::cli) struct Conn<R> {
    slot: u32,
    reading: R,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli) enum Timer {
    Reopen(u32),
    Retry(u32),
}

impl<T: Talker> Connections<T> {
    pub(in crate::cli) fn new(addr: SocketAddrV4, talker: T, plan: Plan) -> Result<Self> {
        let slots = (0..plan.connections).map(|_| Slot {
            conn: None,
            is_open: false,
            asked: VecDeque::new(),
        });
        Ok(Connections {
            addr,
            talker,
            slots: slots.collect(),
            closed: (0..plan.connections as u32).collect(),
            driver: Driver::new(plan)?,
            retries_waiting: Slab::new(),
            retries_due: VecDeque::new(),
            dialling: 0,
            open: 0,
            never_opened: true,
            slots_left: plan.connections,
            free: VecDeque::new(),
        })
    }

    /// No connection was ever opened, and one failed.
    pub(in crate::cli) fn cannot_begin(&self) -> bool {
        self.never_opened && !self.driver.errors.is_empty()
    }

    /// How long nothing is due, unless an answer comes.
    pub(in crate::cli) fn sleep(&self) -> Duration {
        self.driver.sleep(!self.free.is_empty())
    }

    /// Opens, sends what is due, goes on to the next phase. Called after every turn.
    pub(in crate::cli) fn pace(&mut self, hub: &mut Hub<Self>) {
        let opened = self.talker.is_once() || self.open == self.slots.len();
        if !self.driver.advance(opened) {
            hub.stop();
        }
        self.open_closed(hub);
        self.send_due(hub, self.driver.now());
    }

    fn open_closed(&mut self, hub: &mut Hub<Self>) {
        if self.talker.is_once() {
            // A request opens its connection.
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
        let source = match self.talker.is_once() {
            true => slot % SOURCES,
            false => slot / CONNECTIONS_A_SOURCE % SOURCES,
        };
        let from = (self.addr.ip().is_loopback() && !self.talker.is_known_by_address())
            .then(|| SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1 + source as u8), 0));
        let reading = T::Reading::default();
        self.dialling += 1;
        let conn = hub.dial(self.addr, from.map(Into::into), Conn { slot, reading });
        self.slots[slot as usize].conn = Some(conn);
    }

    fn send_due(&mut self, hub: &mut Hub<Self>, now: u64) {
        while let Some(&(slot, conn)) = self.free.front() {
            if conn != self.slots[slot as usize].conn {
                self.free.pop_front();
                continue;
            }
            let asked = match self.retries_due.pop_front() {
                Some(asked) => asked,
                None => match self.driver.next_due(now) {
                    Some(due) => Asked {
                        due,
                        request: self.talker.next(),
                    },
                    None => return,
                },
            };
            self.free.pop_front();
            self.slots[slot as usize].asked.push_back(asked);
            match conn {
                None => self.dial(hub, slot),
                Some(id) => self.ask(hub, slot, id),
            }
        }
    }

    /// Writes the latest request of a slot.
    fn ask(&mut self, hub: &mut Hub<Self>, slot: u32, id: ConnId) {
        // Without output the connection is closing: `on_end` counts the request as lost.
        if let (Some(asked), Some(out)) = (
            self.slots[slot as usize].asked.back_mut(),
            hub.output_of(id),
        ) && let Some(long) = self.talker.write(&mut asked.request, out)
        {
            hub.send_to(id, &long);
        }
    }
}

impl<T: Talker> Service for Connections<T> {
    type Conn = Conn<T::Reading>;
    type Note = ();
    type Timer = Timer;
    type Job = NoJob;
    type Done = NoJob;

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Self::Conn) {
        self.dialling -= 1;
        self.open += 1;
        self.never_opened = false;
        self.slots[conn.slot as usize].is_open = true;
        let id = cx.id();
        if self.talker.is_once() {
            self.ask(cx, conn.slot, id);
        } else {
            let depth = self.driver.plan.depth;
            let places = std::iter::repeat_n((conn.slot, Some(id)), depth);
            self.free.extend(places);
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Self::Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let asked = &mut self.slots[conn.slot as usize].asked;
        let Some(oldest) = asked.front_mut() else {
            return Err(Violation::peer("an answer that nobody asked for"));
        };
        let heard = self
            .talker
            .answer(&mut oldest.request, &mut conn.reading, input);
        let (used, now) = match heard.map_err(Violation::peer)? {
            Heard::More => return Ok(Step::More),
            Heard::Took(used) => return Ok(Step::Took(used)),
            Heard::GoesOn { used, request } => {
                cx.send(&request);
                return Ok(Step::Done(used));
            }
            Heard::Answer { used, yes } => {
                let now = self.driver.now();
                self.driver.answered(oldest.due, now, yes);
                asked.pop_front();
                (used, now)
            }
            Heard::Later { used, after } => {
                if let Some(asked) = asked.pop_front() {
                    let number = self.retries_waiting.insert(asked);
                    if cx.arm(after, Timer::Retry(number as u32)).is_none() {
                        self.driver.give_up();
                    }
                }
                (used, self.driver.now())
            }
        };
        if self.talker.is_once() {
            cx.close();
        } else {
            self.free.push_back((conn.slot, Some(cx.id())));
            self.send_due(cx, now);
        }
        Ok(Step::Done(used))
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Self::Conn, end: End) {
        let slot = &mut self.slots[conn.slot as usize];
        if slot.conn != Some(id) {
            return;
        }
        slot.conn = None;
        let lost = slot.asked.len() as u64;
        let was_open = std::mem::take(&mut slot.is_open);
        if was_open {
            self.open -= 1;
        } else {
            self.dialling -= 1;
        }
        let once = self.talker.is_once();
        if lost > 0 || !(once && matches!(end, End::Closed | End::Eof)) {
            let why = describe(end);
            for asked in slot.asked.drain(..) {
                self.talker.lost(asked.request, &why);
            }
            self.driver.failed(why, lost);
        }
        if once && was_open {
            self.closed.push_back(conn.slot);
        } else if !was_open && matches!(self.driver.plan.until, Until::Requests(_)) {
            // Such a plan waits for every answer, and would for ever when the server is gone.
            self.slots_left -= 1;
            if self.slots_left == 0 {
                self.driver.give_up();
            }
        } else if hub.arm(REDIAL_AFTER, Timer::Reopen(conn.slot)).is_none() {
            self.driver.give_up();
        }
    }

    fn on_timer(&mut self, _hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Reopen(slot) => self.closed.push_back(slot),
            Timer::Retry(number) => {
                let retry = self.retries_waiting.try_remove(number as usize);
                self.retries_due.extend(retry);
            }
        }
    }

    /// Ctrl-C: the summary covers what was measured until now.
    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        self.driver.interrupt();
        hub.stop();
    }
}

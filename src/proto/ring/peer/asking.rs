//! A peer and its neighbour: one question at a time, down one connection while the neighbour keeps it open.

use crate::engine::{ConnId, Cx, Hub, Tick, Ticks, Violation};

use super::super::node::{Conn, RingNode, Timer};
use super::super::search::{Next, Search};
use super::super::wire::{Encoding, Neighbour, Reader, Reply, Request};
use super::{Known, Out, Peer, To};

/// A neighbour that has not answered by then, dialling included, is asked again later: more than twice what one of
/// ours takes for an item that it waits for.
const ANSWER_WITHIN: Ticks = Ticks::from_secs(5);

/// The connection to the neighbour.
#[derive(Debug, Clone, Copy)]
pub(super) enum Link {
    None,
    Dialling(ConnId, Kind),
    Open(ConnId, Kind),
}

/// What a connection to this neighbour is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// For one question: it closed the one before after its answer.
    Single,
    /// Not known yet.
    Fresh,
    /// It has answered once and not closed.
    Kept,
}

impl Link {
    pub(super) fn conn(self) -> Option<ConnId> {
        match self {
            Link::None => None,
            Link::Dialling(conn, _) | Link::Open(conn, _) => Some(conn),
        }
    }
}

impl Peer {
    pub(super) fn set_neighbour(&mut self, hub: &mut Hub<RingNode>, neighbour: &Neighbour<'_>) {
        let known = Known {
            handle: (*neighbour.handle).into(),
            addr: neighbour.addr,
        };
        if self.neighbour.as_ref() == Some(&known) {
            return;
        }
        log::info!(
            "{}: the neighbour is {} at {}",
            self.config.handle.escape_debug(),
            known.handle.escape_debug(),
            known.addr
        );
        self.neighbour = Some(known);
        self.hang_up(hub);
        self.asked = None;
        self.single = false;
        self.search = Search::default();
        self.go_on(hub);
    }

    /// Asks the next question, if it is time for one and none is open.
    pub(super) fn go_on(&mut self, hub: &mut Hub<RingNode>) {
        if self.asked.is_some() {
            return;
        }
        let own = &self.config;
        let is_self = |n: &Known| *n.handle == *own.handle || n.addr == own.addr;
        let alone = self.neighbour.as_ref().is_none_or(is_self);
        match self.search.next(hub.now(), &self.items) {
            Next::Ask(seq) if !alone => {
                self.asked = Some(seq);
                self.arm_ask(hub, hub.now() + ANSWER_WITHIN);
                match self.link {
                    Link::Open(conn, _) => self.ask(hub, conn),
                    Link::Dialling(..) => {}
                    Link::None => self.call(hub),
                }
            }
            Next::Wait(at) if !alone => self.arm_ask(hub, at),
            // Of itself it has nothing to ask, and who has everything is asked, and asks no more.
            _ => self.hang_up(hub),
        }
    }

    fn call(&mut self, hub: &mut Hub<RingNode>) {
        let Some(neighbour) = &self.neighbour else {
            return;
        };
        let out = Out {
            reader: Reader::default(),
            peer: self.index,
            to: To::Neighbour,
        };
        let kind = if self.single {
            Kind::Single
        } else {
            Kind::Fresh
        };
        let conn = hub.dial(
            neighbour.addr,
            self.config.dial_from.map(Into::into),
            Conn::Out(out),
        );
        self.link = Link::Dialling(conn, kind);
    }

    fn ask(&mut self, hub: &mut Hub<RingNode>, conn: ConnId) {
        if let (Some(seq), Some(out)) = (self.asked, hub.output_of(conn)) {
            Request::Query { seq }.put(Encoding::OURS, out);
            self.queries += 1;
        }
    }

    fn hang_up(&mut self, hub: &mut Hub<RingNode>) {
        if let Some(conn) = self.link.conn() {
            self.link = Link::None;
            hub.close_conn(conn);
        }
    }

    pub(super) fn neighbour_reached(&mut self, cx: &mut Cx<'_, RingNode>) {
        let id = cx.id();
        match self.link {
            Link::Dialling(conn, kind) if conn == id => {
                self.link = Link::Open(conn, kind);
                self.ask(cx, id);
            }
            _ => cx.close(),
        }
    }

    pub(super) fn neighbour_answered(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        reply: Reply<'_>,
    ) -> Result<(), Violation> {
        let id = cx.id();
        let (Link::Open(conn, kind), Reply::QueryResult(result)) = (self.link, reply) else {
            return Err(Violation::peer("no answer to a QUERY"));
        };
        if conn != id {
            // Of the neighbour before.
            return Ok(());
        }
        let seq = self.asked;
        let seq = seq.ok_or(Violation::peer("an answer that nobody asked for"))?;
        match result {
            Some(item) if item.seq == seq => {
                self.asked = None;
                self.items.insert(&item);
                self.search.hit(seq);
                self.tell_held(cx, seq);
            }
            Some(_) => return Err(Violation::peer("another item than was asked for")),
            None => {
                self.asked = None;
                self.search.missed(seq);
            }
        }
        if kind == Kind::Single {
            self.hang_up(cx);
        } else {
            self.link = Link::Open(conn, Kind::Kept);
        }
        self.go_on(cx);
        Ok(())
    }

    pub(super) fn neighbour_ended(&mut self, hub: &mut Hub<RingNode>, id: ConnId) {
        let kept = match self.link {
            Link::Open(conn, kind) if conn == id => kind == Kind::Kept,
            Link::Dialling(conn, _) if conn == id => false,
            _ => return,
        };
        self.link = Link::None;
        if self.asked.is_none() {
            return;
        }
        if kept {
            // It closes after its answer, and our question crossed that: not a failure.
            self.single = true;
            self.call(hub);
        } else {
            self.failed(hub);
        }
    }

    pub(super) fn ask_fired(&mut self, hub: &mut Hub<RingNode>) {
        self.ask_timer = None;
        if self.asked.is_some() {
            self.hang_up(hub);
            self.failed(hub);
        } else {
            self.go_on(hub);
        }
    }

    fn failed(&mut self, hub: &mut Hub<RingNode>) {
        self.asked = None;
        self.search.failed(hub.now());
        self.go_on(hub);
    }

    fn arm_ask(&mut self, hub: &mut Hub<RingNode>, at: Tick) {
        if let Some(old) = self.ask_timer.take() {
            hub.cancel(old);
        }
        self.ask_timer = hub.arm(at.since(hub.now()), Timer::Ask(self.index));
    }
}

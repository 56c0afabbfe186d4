//! Passes a DISCONNECT on to another member: the leaver is that member's next.
//!
//! ```text
//! Find ──the member before the leaver──▶ Pass ──all entries──▶ its ack, passed back
//! ```
//! A leaver of ours looks for the right member itself when it is told `0`. A plain one would repeat its DISCONNECT at
//! once and for ever. Nothing changes at this node, and no value is stored: bytes go through as they come, no faster
//! than the other side takes them. A relay holds the membership lock.

use crate::engine::{ConnId, Cx, Hub, Input, Step, Violation};

use crate::proto::dht::node::{Conn, DhtNode, LockHolder, Note, Tag};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};
use crate::proto::dht::storage::range_stream::Receiving;
use crate::proto::dht::wire::{self, Form, NextNode, Request};

#[derive(Debug)]
pub(crate) struct Relay {
    /// The leaver's connection.
    from: ConnId,
    /// Ours to the member before it, once that is known.
    to: Option<ConnId>,
    /// The leaver's next.
    next: Member,
    /// Finds the end of the entries.
    receiving: Receiving,
}

impl Relay {
    /// Bytes passed on; `None` while the leaver owes none.
    pub(crate) fn moved_bytes(&self) -> Option<u64> {
        let owes = self.to.is_some() && !self.receiving.is_complete();
        owes.then(|| self.receiving.moved_bytes())
    }
}

impl DhtNode {
    /// `leaver`, on connection `from`, is not our next.
    pub(crate) fn begin_relay(
        &mut self,
        hub: &mut Hub<Self>,
        from: ConnId,
        leaver: Member,
        next: Member,
    ) {
        self.lock_holder = LockHolder::Relay(Relay {
            from,
            to: None,
            next,
            receiving: Receiving::default(),
        });
        let key = leaver.id.pred();
        let contacts = vec![self.routing.closest(key).addr];
        let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
        self.start_bounded(hub, operation, Tag::Relay(from));
    }

    fn relay(&mut self) -> Option<&mut Relay> {
        match &mut self.lock_holder {
            LockHolder::Relay(relay) => Some(relay),
            _ => None,
        }
    }

    /// The ring's answer: the member before the leaver.
    pub(crate) fn heir_found(
        &mut self,
        hub: &mut Hub<Self>,
        from: ConnId,
        result: Result<Outcome, Failure>,
    ) {
        let me = self.me();
        let Some(relay) = self.relay().filter(|relay| relay.from == from) else {
            return;
        };
        match result {
            Ok(Outcome::Located(heir)) if heir != me.addr => {
                relay.to = Some(hub.dial(heir, None, Conn::Relay));
            }
            _ => self.end_relay(hub, Note::Refused),
        }
    }

    pub(crate) fn relay_dialled(&mut self, cx: &mut Cx<'_, Self>) {
        let id = cx.id();
        let Some(relay) = self.relay().filter(|relay| relay.to == Some(id)) else {
            return;
        };
        let (next, from) = (NextNode::Addr(relay.next.addr), relay.from);
        wire::put_request(cx.out(), &Request::Disconnect(next, Form::Plain));
        cx.resume(from);
    }

    /// The leaver's entries.
    pub(crate) fn relay_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let (from, value_bytes_max) = (cx.id(), self.config.value_bytes_max);
        let Some(relay) = self.relay().filter(|relay| relay.from == from) else {
            return Err(Violation::us("the relay is over"));
        };
        let read = relay
            .receiving
            .read(input.bytes, input.seen, value_bytes_max, |_| false)?;
        let Some((_, used)) = read else {
            return Ok(Step::More);
        };
        let Some(to) = relay.to else {
            return Err(Violation::us("nobody to pass it to"));
        };
        let whole = relay.receiving.is_complete();
        let Some(out) = cx.output_of(to) else {
            return Err(Violation::us("the other side is gone"));
        };
        out.extend_from_slice(&input.bytes[..used]);
        // Goes on when there is room, see `relay_room`.
        let rests = whole || cx.room_of(to) == 0;
        Ok(if rests {
            Step::Wait(used)
        } else {
            Step::Took(used)
        })
    }

    pub(crate) fn relay_room(&mut self, cx: &mut Cx<'_, Self>) {
        let id = cx.id();
        if let Some(relay) = self.relay()
            && relay.to == Some(id)
            && !relay.receiving.is_complete()
        {
            let from = relay.from;
            cx.resume(from);
        }
    }

    /// The ack of the member before the leaver.
    pub(crate) fn relay_answer(
        &mut self,
        cx: &mut Cx<'_, Self>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some((yes, used)) = wire::ack(input.bytes, input.seen)? else {
            return Ok(Step::More);
        };
        let id = cx.id();
        let Some(relay) = self.relay().filter(|relay| relay.to == Some(id)) else {
            return Err(Violation::us("the relay is over"));
        };
        if yes && !relay.receiving.is_complete() {
            return Err(Violation::peer("it takes what was not sent"));
        }
        self.end_relay(cx, if yes { Note::Go } else { Note::Refused });
        Ok(Step::Done(used))
    }

    /// A connection of a relay is over: its other one goes too.
    pub(crate) fn relay_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        let Some(relay) = self
            .relay()
            .filter(|relay| relay.from == id || relay.to == Some(id))
        else {
            return;
        };
        if relay.to == Some(id) && relay.receiving.is_complete() {
            // It has everything, and may have taken the range: after a `0` the leaver would serve the range again.
            log::info!("a member broke off after a DISCONNECT was passed to it");
            let from = relay.from;
            hub.close_conn(from);
            return self.release_lock(hub);
        }
        self.end_relay(hub, Note::Refused);
    }

    fn end_relay(&mut self, hub: &mut Hub<Self>, note: Note) {
        let Some(Relay { from, to, .. }) = self.relay() else {
            return;
        };
        let (from, to) = (*from, *to);
        log::info!("passed a DISCONNECT on: {note:?}");
        hub.notify(from, note);
        if let Some(to) = to {
            hub.close_conn(to);
        }
        self.release_lock(hub);
    }
}

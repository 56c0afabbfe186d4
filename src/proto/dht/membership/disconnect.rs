//! Serves DISCONNECT: our next leaves, and this node takes its range.
//!
//! ```text
//! Name ──▶ Verify ──the leaver is our next──▶ Receive ──all entries──▶ Update ──its next took us as prev──▶ ours
//! ```
//! DISCONNECT names no leaver. The leaver is the node before the announced next, as the ring says:
//! - It is our next. The DISCONNECT must come from our next's own IP, or our next must not say that it stays (see
//!   [`crate::proto::dht::rpc::failure_detector`]). The protocol has no better proof of a sender's identity.
//! - It is the next of another member: [`super::relay`] passes the DISCONNECT on.
//! - Neither: the answer is `0`, and nothing changes.
//!
//! Entries go straight into the map. They are not served before the end, as the range is not ours yet. If the leaver
//! breaks off, they are swept. Entries outside the leaver's range are dropped as they come; a range that does not
//! fit the memory limit is refused.
//!
//! A DISCONNECT whose next is ours already gets its `1` once its entries are in the ring, see [`super::repeated`]. A DISCONNECT
//! that comes while another with the same next goes on replaces it: the leaver lost the first connection, and our
//! answer must be about both.

use crate::engine::{ConnId, Cx, Hub, Input, Step, Violation};

use super::repeated::Repeated;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Expect, LockHolder, Note, Tag, Then, say};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::failure_detector::Verdict;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};
use crate::proto::dht::storage::commit::Staging;
use crate::proto::dht::storage::range_stream::{Received, Receiving};
use crate::proto::dht::wire::{self, Form, NextNode};

#[derive(Debug)]
pub(crate) struct Disconnect {
    pub(crate) conn: ConnId,
    phase: Phase,
    /// The announced next; unknown while only its id was given.
    next: Option<Member>,
    /// The announced next is ours already.
    pub(crate) repeated: Option<Repeated>,
    pub(crate) receiving: Receiving,
    staging: Staging,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The owner of the announced id is looked up.
    Name,
    /// The node before it is looked up.
    Verify,
    Receive,
    /// The announced next is told, and the worker commits.
    Update {
        told: bool,
    },
}

impl Disconnect {
    /// Bytes received; `None` while the leaver owes none.
    pub(crate) fn moved_bytes(&self) -> Option<u64> {
        let owes = self
            .repeated
            .as_ref()
            .is_none_or(|repeated| !repeated.is_full());
        (self.phase == Phase::Receive && owes).then(|| self.receiving.moved_bytes())
    }
}

impl DhtNode {
    #[must_use]
    pub(crate) fn begin_disconnect(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        next: NextNode,
        form: Form,
    ) -> bool {
        let conn = cx.id();
        let (key, phase, next) = match next {
            NextNode::Key(id) => (id, Phase::Name, None),
            NextNode::Addr(addr) => {
                let next = Member::at(addr);
                (next.id.pred(), Phase::Verify, Some(next))
            }
        };
        let ours = self.routing.next();
        let repeated = match next {
            Some(next) => next == ours,
            None => key == ours.id,
        };
        let next = if repeated { Some(ours) } else { next };
        if self.routing.is_alone() && !repeated
            || !self.start_lock_deadline(cx, conn, self.config.transfer.within)
        {
            return false;
        }
        *expect = Expect::Leaver;
        self.lock_holder = LockHolder::Disconnect(Disconnect {
            conn,
            phase: if repeated { Phase::Receive } else { phase },
            next,
            repeated: repeated.then(Repeated::default),
            receiving: Receiving::new(form),
            staging: Staging::default(),
        });
        if repeated {
            self.receive_leaver(cx, conn);
        } else {
            self.ask_next(cx, key, Tag::WhoLeaves(conn));
        }
        true
    }

    /// Gives a DISCONNECT up whose leaver now sends another one.
    pub(crate) fn supersede_disconnect(&mut self, cx: &mut Cx<'_, Self>, next: NextNode) {
        let LockHolder::Disconnect(disconnect) = &self.lock_holder else {
            return;
        };
        let conn = disconnect.conn;
        let same_next = match next {
            NextNode::Addr(addr) => disconnect.next.is_some_and(|next| next.addr == addr),
            NextNode::Key(id) => disconnect.next.is_some_and(|next| next.id == id),
        };
        let same_peer = cx
            .peer_v4_of(conn)
            .is_none_or(|peer| peer.ip() == cx.peer_v4().ip());
        if same_next && same_peer {
            cx.close_conn(conn);
            self.give_up_disconnect(cx);
        }
    }

    /// LOCATE, beginning at our next.
    fn ask_next(&mut self, hub: &mut Hub<Self>, key: Id, tag: Tag) {
        let contacts = vec![self.routing.next().addr];
        let operation = Operation::new(Verb::Locate, key, contacts, self.bounds());
        self.start_bounded(hub, operation, tag);
    }

    fn disconnect(&mut self, id: ConnId) -> Option<&mut Disconnect> {
        match &mut self.lock_holder {
            LockHolder::Disconnect(disconnect) if disconnect.conn == id => Some(disconnect),
            _ => None,
        }
    }

    /// The ring's answer: the owner of the announced id, or the node before it.
    pub(crate) fn leaver_found(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        result: Result<Outcome, Failure>,
    ) {
        let (me, next) = (self.me(), self.routing.next());
        let own_ip = hub
            .peer_v4_of(conn)
            .is_some_and(|peer| peer.ip() == next.addr.ip());
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        match (disconnect.phase, result) {
            (Phase::Name, Ok(Outcome::Located(addr))) => {
                let named = Member::at(addr);
                disconnect.next = Some(named);
                disconnect.phase = Phase::Verify;
                if named == next {
                    disconnect.repeated = Some(Repeated::default());
                    self.receive_leaver(hub, conn);
                } else {
                    self.ask_next(hub, named.id.pred(), Tag::WhoLeaves(conn));
                }
            }
            // A plain leaver may answer no request while it leaves.
            (
                Phase::Verify,
                Ok(Outcome::Located(addr))
                | Err(Failure::Unreachable { addr, .. } | Failure::TimedOut { addr }),
            ) if addr == next.addr && next != me => {
                if own_ip {
                    self.receive_leaver(hub, conn);
                } else {
                    self.probe_next(hub, conn);
                }
            }
            // A leaver that knows versions finds its heir itself when it is refused.
            (Phase::Verify, Ok(Outcome::Located(addr)))
                if addr != next.addr
                    && addr != me.addr
                    && disconnect.receiving.form() == Form::Plain =>
            {
                if let Some(announced) = disconnect.next {
                    self.begin_relay(hub, conn, Member::at(addr), announced);
                }
            }
            (_, result) => {
                log::info!("a DISCONNECT is refused: not from our next ({result:?})");
                self.refuse_leaver(hub);
            }
        }
    }

    /// A DISCONNECT of our next that does not come from its own IP: our next is behind a NAT, has several addresses, or
    /// another member passes it on. Our next was asked whether it stays.
    pub(crate) fn leaver_probed(&mut self, hub: &mut Hub<Self>, conn: ConnId, verdict: Verdict) {
        if self.disconnect(conn).is_none() {
            return;
        }
        if matches!(verdict, Verdict::Member | Verdict::Unknown) {
            log::info!("a DISCONNECT is refused: not from our next, which may be there");
            self.refuse_leaver(hub);
        } else {
            self.receive_leaver(hub, conn);
        }
    }

    /// The leaver may send its entries. One that knows versions waits to hear so.
    fn receive_leaver(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        disconnect.phase = Phase::Receive;
        if disconnect.receiving.form() == Form::Versioned {
            say(hub, conn, true);
        }
        if self.is_repeating() {
            self.repeats.after = self.submitted;
            self.repeated_settled(hub);
        } else {
            hub.resume(conn);
        }
    }

    fn refuse_leaver(&mut self, hub: &mut Hub<Self>) {
        if let LockHolder::Disconnect(Disconnect { conn, .. }) = self.lock_holder {
            hub.notify(conn, Note::Refused);
            self.give_up_disconnect(hub);
        }
    }

    /// The leaver's entries.
    pub(crate) fn disconnect_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let (id, value_bytes_max) = (cx.id(), self.config.value_bytes_max);
        let (leaver, durable) = (self.routing.next().id, self.config.durable);
        let per_job = self.config.quanta.entries_per_job;
        let Some(disconnect) = self.disconnect(id) else {
            return Err(Violation::us("the transfer is over"));
        };
        let Some(next) = disconnect.next else {
            return Err(Violation::us("no next"));
        };
        let repeated = disconnect.repeated.is_some();
        let wants = |key: Id| repeated || key.in_arc(leaver, next.id);
        let receiving = &mut disconnect.receiving;
        let read = receiving.read(input.bytes, input.seen, value_bytes_max, wants)?;
        let Some((received, used)) = read else {
            return Ok(Step::More);
        };
        let whole = receiving.is_complete();
        let grows = receiving.staged_bytes() > 0 || matches!(received, Received::Entry(..));
        if let Received::Entry(key, version, value) = received {
            if repeated {
                self.take_repeated(cx, id, key, version, value);
            } else if let Some(entry) = self.take_moved(key, version, value)
                && durable
                && let Some(disconnect) = self.disconnect(id)
                && disconnect.staging.push(key, entry, per_job)
            {
                self.stage(cx, id);
            }
        }
        if grows && self.is_over_memory() {
            log::warn!("a DISCONNECT is refused: the leaver's range does not fit");
            wire::put_ack(cx.out(), false);
            return Err(Violation::limit("memory_bytes_max reached"));
        }
        if !whole {
            let full = self
                .disconnect(id)
                .and_then(|disconnect| disconnect.repeated.as_ref())
                .is_some_and(Repeated::is_full);
            return Ok(if full {
                Step::Wait(used)
            } else {
                Step::Took(used)
            });
        }
        self.stage(cx, id);
        self.disconnect_goes_on(cx, id);
        Ok(Step::Wait(used))
    }

    /// Reads on, or ends when all entries are here and at their owners.
    pub(crate) fn disconnect_goes_on(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        let repeated = disconnect.repeated.as_ref();
        if !disconnect.receiving.is_complete() {
            hub.resume(conn);
        } else if repeated.is_some_and(Repeated::is_failed) {
            self.log_repeated(hub);
            self.refuse_leaver(hub);
        } else if repeated.is_none_or(Repeated::is_settled)
            && let Some(next) = disconnect.next
        {
            self.log_repeated(hub);
            self.tell_next(hub, next);
        }
    }

    fn stage(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        if let Some(changes) = disconnect.staging.take()
            && self
                .submit(hub, Changes::Many(changes), Then::Staged(conn))
                .is_err()
        {
            self.disconnect_staged(hub, conn, false);
        }
    }

    /// All entries are here: the announced next is to take us as its prev.
    fn tell_next(&mut self, hub: &mut Hub<Self>, next: Member) {
        let (me, bounds) = (self.me(), self.bounds());
        let LockHolder::Disconnect(disconnect) = &mut self.lock_holder else {
            return;
        };
        // In a ring of two this node is then alone: there is nobody to tell.
        disconnect.phase = Phase::Update { told: next == me };
        let conn = disconnect.conn;
        if next != me {
            let operation = Operation::update_prev(me.addr, next.addr, bounds);
            self.start_bounded(hub, operation, Tag::DisconnectUpdate(conn));
        }
        self.commit_disconnect(hub);
    }

    pub(crate) fn disconnect_told(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        result: Result<Outcome, Failure>,
    ) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        match result {
            Ok(_) => {
                disconnect.phase = Phase::Update { told: true };
                self.commit_disconnect(hub);
            }
            Err(failure) => {
                log::info!("a DISCONNECT is refused: its next does not answer: {failure}");
                self.refuse_leaver(hub);
            }
        }
    }

    pub(crate) fn disconnect_staged(&mut self, hub: &mut Hub<Self>, conn: ConnId, committed: bool) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        disconnect.staging.came_back(committed);
        self.commit_disconnect(hub);
    }

    /// Takes the range once the next is told and everything is committed.
    fn commit_disconnect(&mut self, hub: &mut Hub<Self>) {
        let leaver = self.routing.next();
        let LockHolder::Disconnect(Disconnect {
            conn,
            phase,
            next: Some(next),
            staging,
            ..
        }) = &self.lock_holder
        else {
            return;
        };
        if *phase != (Phase::Update { told: true }) || !staging.is_settled() {
            return;
        }
        let (conn, next) = (*conn, *next);
        if staging.is_failed() || !self.heartbeat.holds_lease(hub.now()) {
            self.refuse_leaver(hub);
            return;
        }
        if next != leaver {
            log::info!("{} left; our next is {}", leaver.addr, next.addr);
            self.member_failed(leaver.addr);
            self.set_next(hub, next);
        }
        hub.notify(conn, Note::Go);
        self.release_lock(hub);
    }

    /// The leaver's connection is over.
    pub(crate) fn disconnect_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        if self.disconnect(id).is_some() {
            log::info!("a leaver broke off; nothing changes");
            self.give_up_disconnect(hub);
        }
    }

    fn give_up_disconnect(&mut self, hub: &mut Hub<Self>) {
        self.end_probe(hub);
        if self.copies.is_on()
            && let LockHolder::Disconnect(disconnect) = &mut self.lock_holder
            && let Some(batch) = disconnect.staging.take()
        {
            self.keep_on_disk(hub, batch);
        }
        let LockHolder::Disconnect(disconnect) = &self.lock_holder else {
            return;
        };
        match disconnect.next {
            Some(next) if disconnect.repeated.is_none() => {
                self.sweep(hub, self.routing.next().id, next.id)
            }
            _ => self.release_lock(hub),
        }
    }
}

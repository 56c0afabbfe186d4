//! We serve DISCONNECT: our next leaves and we take its range.
//!
//! ```text
//! Name ──▶ Verify ──the leaver is our next──▶ Receive ──all entries──▶ Update ──its next took us as prev──▶ ours
//! ```
//! DISCONNECT names no leaver. It is the node before the announced next: when the ring says that this is our next, and
//! it comes from next's own IP or next does not say that it stays ([`super::failure_detector`]), we go on; when it is another
//! member's, [`super::relay`] passes it on; else the answer is `0` and nothing changes. The
//! entries are put where they will be, unseen, as the range is not ours until the end; when the leaver dies before that
//! they are swept out again.
//!
//! A DISCONNECT whose next is ours already is a leaver that did not get our `1`: it gets it now. One that comes
//! while another with the same next goes on takes its place: the leaver lost the first connection, and counts on
//! our answer being about both.

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub, Input, Step, Violation};

use super::client;
use super::failure_detector::Verdict;
use super::id::Id;
use super::node::{Changes, DhtNode, Expect, LockHolder, Note, Tag, Then};
use super::operation::{Failure, Operation, Outcome, Verb};
use super::range_stream::{Received, Receiving};
use super::routing::Member;
use super::wire::{self, NextNode};

/// Entries that a durable node gives to the worker at once. Few in tests, as there are few.
pub(super) const STAGED_PER_JOB: usize = if cfg!(test) { 2 } else { 1024 };

#[derive(Debug)]
pub(super) struct Disconnect {
    conn: ConnId,
    phase: Phase,
    /// The announced next; unknown while only its id was given.
    next: Option<Member>,
    /// The range was taken before; what comes is thrown away.
    repeated: bool,
    pub(super) receiving: Receiving,
    staging: Staging,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Who has the announced id?
    Name,
    /// Who is before it?
    Verify,
    Receive,
    /// The announced next is told, and the worker commits.
    Update {
        told: bool,
    },
}

/// Received entries on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Staging {
    batch: Vec<(Id, Option<Bytes>)>,
    under_way: usize,
    failed: bool,
}

impl Staging {
    pub(super) fn is_settled(&self) -> bool {
        self.under_way == 0 && self.batch.is_empty()
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn came_back(&mut self, committed: bool) {
        self.under_way -= 1;
        self.failed |= !committed;
    }

    pub(super) fn push(&mut self, key: Id, value: Bytes) -> bool {
        self.batch.push((key, Some(value)));
        self.batch.len() >= STAGED_PER_JOB
    }

    /// What to submit now.
    pub(super) fn take(&mut self) -> Option<Vec<(Id, Option<Bytes>)>> {
        if self.batch.is_empty() {
            return None;
        }
        self.under_way += 1;
        Some(std::mem::take(&mut self.batch))
    }
}

impl DhtNode {
    pub(super) fn begin_disconnect(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        next: NextNode,
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
        if self.routing.is_alone() && !repeated {
            return false;
        }
        *expect = Expect::Leaver;
        self.lock_holder = LockHolder::Disconnect(Disconnect {
            conn,
            phase: if repeated { Phase::Receive } else { phase },
            next,
            repeated,
            receiving: Receiving::default(),
            staging: Staging::default(),
        });
        if repeated {
            cx.resume(conn);
        } else {
            self.ask_next(cx, key, Tag::WhoLeaves(conn));
        }
        true
    }

    /// Gives up a DISCONNECT of the leaver that now sends another one.
    pub(super) fn supersede_disconnect(&mut self, cx: &mut Cx<'_, Self>, next: NextNode) {
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
        client::start(self, hub, operation, tag);
    }

    fn disconnect(&mut self, id: ConnId) -> Option<&mut Disconnect> {
        match &mut self.lock_holder {
            LockHolder::Disconnect(disconnect) if disconnect.conn == id => Some(disconnect),
            _ => None,
        }
    }

    /// The ring's answer to who has the announced id, or who is before it.
    pub(super) fn leaver_found(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        result: Result<Outcome, Failure>,
    ) {
        let (me, next) = (self.me(), self.routing.next());
        // RELIABILITY.md A11: the protocol has no better proof of who speaks.
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
                    disconnect.repeated = true;
                    disconnect.phase = Phase::Receive;
                    hub.resume(conn);
                } else {
                    self.ask_next(hub, named.id.pred(), Tag::WhoLeaves(conn));
                }
            }
            // A plain leaver may answer nobody while it leaves.
            (
                Phase::Verify,
                Ok(Outcome::Located(addr))
                | Err(Failure::Unreachable { addr, .. } | Failure::TimedOut { addr }),
            ) if addr == next.addr && next != me => {
                if own_ip {
                    disconnect.phase = Phase::Receive;
                    hub.resume(conn);
                } else {
                    self.probe_next(hub, conn);
                }
            }
            (Phase::Verify, Ok(Outcome::Located(addr))) if addr != next.addr && addr != me.addr => {
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

    /// A DISCONNECT of our next that does not come from its own IP: it is behind a NAT, has several addresses, or
    /// another member passes it on. What next says of itself decides (RELIABILITY.md A11).
    pub(super) fn leaver_probed(&mut self, hub: &mut Hub<Self>, conn: ConnId, verdict: Verdict) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        if verdict == Verdict::Member {
            log::info!("a DISCONNECT is refused: not from our next, which is there");
            self.refuse_leaver(hub);
        } else {
            disconnect.phase = Phase::Receive;
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
    pub(super) fn disconnect_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let (id, value_bytes_max) = (cx.id(), self.config.value_bytes_max);
        let full = self.entries.memory_bytes() > self.config.entries_bytes_max;
        let (leaver, durable) = (self.routing.next().id, self.config.durable);
        let Some(disconnect) = self.disconnect(id) else {
            return Err(Violation::us("the transfer is over"));
        };
        let Some(next) = disconnect.next else {
            return Err(Violation::us("no next"));
        };
        let Some((received, used)) =
            disconnect
                .receiving
                .read(input.bytes, input.seen, value_bytes_max)?
        else {
            return Ok(Step::More);
        };
        let whole = disconnect.receiving.is_complete();
        if let Received::Entry(key, value) = received
            && !disconnect.repeated
            && key.in_arc(leaver, next.id)
        {
            if full {
                wire::put_ack(cx.out(), false);
                return Err(Violation::limit("entries_bytes_max reached"));
            }
            let filled = durable && disconnect.staging.push(key, value.clone());
            self.store_entry(key, value);
            if filled {
                self.stage(cx, id);
            }
        }
        if !whole {
            return Ok(Step::Took(used));
        }
        self.stage(cx, id);
        self.tell_next(cx, next);
        Ok(Step::Wait(used))
    }

    fn stage(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        if let Some(changes) = disconnect.staging.take()
            && !self.submit(hub, Changes::Many(changes), Then::Staged(conn))
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
        // Of a ring of two we are what stays: nobody to tell.
        disconnect.phase = Phase::Update { told: next == me };
        let conn = disconnect.conn;
        if next != me {
            let operation = Operation::update_prev(me.addr, next.addr, bounds);
            client::start(self, hub, operation, Tag::DisconnectUpdate(conn));
        }
        self.commit_disconnect(hub);
    }

    pub(super) fn disconnect_told(
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

    pub(super) fn disconnect_staged(&mut self, hub: &mut Hub<Self>, conn: ConnId, committed: bool) {
        let Some(disconnect) = self.disconnect(conn) else {
            return;
        };
        disconnect.staging.came_back(committed);
        self.commit_disconnect(hub);
    }

    /// Takes the range, once the next was told and everything is committed.
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
        if staging.is_failed() {
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
    pub(super) fn disconnect_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        if self.disconnect(id).is_some() {
            log::info!("a leaver broke off; nothing changes");
            self.give_up_disconnect(hub);
        }
    }

    fn give_up_disconnect(&mut self, hub: &mut Hub<Self>) {
        self.end_probe(hub);
        let LockHolder::Disconnect(disconnect) = &self.lock_holder else {
            return;
        };
        match disconnect.next {
            Some(next) if !disconnect.repeated => self.sweep(hub, self.routing.next().id, next.id),
            _ => self.release_lock(hub),
        }
    }
}

//! A DHT node: serves the commands of the protocol, as a member of a ring.
//!
//! This file dispatches: what comes from a connection, a timer, the worker or an operation goes to the file that serves it
//! (see the list in [`super`]).
//!
//! Reads are answered from memory at once. A write of a durable node is a job for the worker. Memory changes, and the peer
//! is acknowledged, when the job is committed, in the order of the commits; so no read sees a value that
//! a crash could still take back. With copies, every holder has the write before either ([`super::replication`]). A write into a
//! range that is being handed over is fenced.
//!
//! Invariants:
//! - nothing changes before the last byte of a value is there;
//! - `staged_bytes` is the sum of what unfinished values hold, `writing_bytes` of what durable writes under way will add at
//!   most, `forwarding_bytes` of the values that are passed on to other owners;
//! - a connection has at most one write under way;
//! - the membership lock has at most one holder;
//! - a key that is not ours by [`DhtNode::serves`] is never served, whatever is in `entries`.

mod commands;
pub(crate) mod config;
mod kinds;

use std::collections::HashMap;

use bytes::Bytes;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Tick, Ticks, Violation};

use super::id::Id;
use super::membership::heartbeat::Heartbeat;
use super::membership::join;
use super::membership::leave::Leaving;
use super::membership::lock::{Deadline, Parked};
use super::membership::repeated::Repeats;
use super::membership::stall::Stallers;
use super::replication::copies::Copies;
use super::replication::holds::Holds;
use super::replication::serve::Committing;
use super::replication::{Comparisons, LinkTag, Syncs};
use super::routing::fingers::FINGER_EVERY;
use super::routing::predecessor::Claims;
use super::routing::{Member, Routing};
use super::rpc::client::{self, Host, OpId, Operations};
use super::rpc::failure_detector::Probe;
use super::rpc::links::{self, Links};
use super::rpc::operation::{Bounds, Failure, Operation, Outcome};
use super::rpc::stat::{self, Holder, Standing, Stat};
use super::storage::entries::Entries;
use super::storage::fenced_writes::FencedWrites;
use super::storage::memory::Refusals;
use super::storage::range_stream::{self, Sink};
use super::storage::recovered_entries::RecoveredEntries;
use super::storage::tombstones::Tombstones;
use super::storage::version::Version;
use super::wire::{self, Malformed, Request};

pub use super::node::config::{Config, Quanta, TransferLimits, VALUE_BYTES_MAX};
pub use super::node::kinds::{Conn, Expect, Note, Tag, Timer};
pub(crate) use super::node::kinds::{LockHolder, Role};
pub(crate) use super::storage::commit::Then;
pub use super::storage::commit::{Changes, Write, Written};

/// Pinned values looked at with each timer and each end of a connection.
const PINNED_PER_EVENT: usize = 2;

/// The service.
#[derive(Debug)]
pub struct DhtNode {
    pub(crate) config: Config,
    pub(crate) routing: Routing,
    pub(crate) entries: Entries,
    pub(crate) staged_bytes: u64,
    pub(crate) writing_bytes: u64,
    pub(crate) forwarding_bytes: u64,
    /// Versions of the single writes that the worker has, the last one of each key.
    pub(crate) writing: HashMap<Id, Version>,
    pub(crate) refusals: Refusals,
    pub(crate) role: Role,
    pub(crate) leaving: Leaving,
    pub(crate) repeats: Repeats,
    pub(crate) lock_holder: LockHolder,
    pub(crate) lock_deadline: Option<Deadline>,
    pub(crate) parked: Parked,
    pub(crate) stallers: Stallers,
    pub(crate) stall_armed: bool,
    /// A step of the sweep is queued.
    pub(crate) sweep_queued: bool,
    pub(crate) fenced_writes: FencedWrites,
    pub(crate) probe: Option<Probe>,
    pub(crate) recovered: RecoveredEntries,
    pub(crate) tombstones: Tombstones,
    pub(crate) operations: Operations<Tag>,
    pub(crate) links: Links<LinkTag>,
    pub(crate) heartbeat: Heartbeat,
    /// The copies of our entries.
    pub(crate) copies: Copies,
    /// The timer of unfinished copies runs.
    pub(crate) copies_armed: bool,
    /// What we hold for others.
    pub(crate) holds: Holds,
    pub(crate) committing: Committing,
    /// Our next is to be probed again.
    pub(crate) suspect_armed: bool,
    pub(crate) comparisons: Comparisons,
    pub(crate) syncs: Syncs,
    /// Jobs given to the worker, and back from it, ever: a hand-off waits for the writes before it.
    pub(crate) submitted: u64,
    pub(crate) written: u64,
    pub(crate) finger: usize,
    /// Rounds of finger look-ups begun since we were alone.
    pub(crate) finger_round: u64,
    pub(crate) finger_armed: bool,
    /// From one look-up to the next.
    pub(crate) finger_pause: Ticks,
    pub(crate) claims: Claims,
    /// Outcomes of [`DhtNode::ask`] that were not taken yet.
    outcomes: Vec<(usize, Result<Outcome, Failure>)>,
}

impl DhtNode {
    /// A ring of one that holds `entries`.
    pub fn new(config: Config, mut entries: Entries) -> DhtNode {
        let me = Member::at(config.advertise);
        let (routing, replicas) = (Routing::alone(me), config.replicas);
        entries.set_writer(me.id);
        entries.keep_tombstones(config.replicas > 1);
        DhtNode {
            config,
            routing,
            entries,
            staged_bytes: 0,
            writing_bytes: 0,
            forwarding_bytes: 0,
            writing: HashMap::new(),
            refusals: Refusals::default(),
            role: Role::Member,
            leaving: Leaving::default(),
            repeats: Repeats::default(),
            lock_holder: LockHolder::Nobody,
            lock_deadline: None,
            parked: Parked::default(),
            stallers: Stallers::default(),
            stall_armed: false,
            sweep_queued: false,
            fenced_writes: FencedWrites::default(),
            probe: None,
            recovered: RecoveredEntries::default(),
            tombstones: Tombstones::default(),
            operations: Operations::default(),
            links: Links::default(),
            heartbeat: Heartbeat::default(),
            copies: Copies::new(replicas, me.id),
            copies_armed: false,
            holds: Holds::default(),
            committing: Committing::default(),
            suspect_armed: false,
            comparisons: Comparisons::default(),
            syncs: Syncs::default(),
            submitted: 0,
            written: 0,
            finger: 0,
            finger_round: 0,
            finger_armed: false,
            finger_pause: FINGER_EVERY,
            claims: Claims::default(),
            outcomes: Vec::new(),
        }
    }

    pub fn me(&self) -> Member {
        self.routing.me()
    }

    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Begins an operation of the program that the node is part of. Its outcome waits, under `number`, in
    /// [`DhtNode::take_outcomes`].
    pub fn ask(&mut self, hub: &mut Hub<Self>, number: usize, operation: Operation) {
        client::start(self, hub, operation, Tag::Program(number));
    }

    /// What came of the operations that are over since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(usize, Result<Outcome, Failure>)> {
        std::mem::take(&mut self.outcomes)
    }

    /// There are outcomes to take.
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// The clock of versions is never behind the time of day.
    #[inline]
    pub(crate) fn tell_time(&mut self, now: Tick) {
        if self.config.started_millis > 0 {
            let millis = self.config.started_millis + now.0 * 10;
            self.entries.observe(Version::of_millis(millis));
        }
    }

    /// The answer to XSTAT.
    pub fn stat(&self, now: Tick) -> Stat {
        let after = self.heartbeat.watch.after.iter().map(|member| member.addr);
        let holders = self.copies.holders();
        Stat {
            entries: self.entries.len() as u64,
            value_bytes: self.entries.value_bytes(),
            next: self.routing.next().addr,
            prev: self.routing.last_prev().map(|prev| prev.addr),
            standing: match self.role {
                Role::Joining(_) => Standing::Joining,
                Role::Leaving(_) => Standing::Leaving,
                Role::Member | Role::Gone(_) => Standing::Member,
            },
            replicas: self.config.replicas.into(),
            lease_secs: self
                .heartbeat
                .lease_left(now)
                .map(|left| left.as_duration().as_secs()),
            successors: std::iter::once(self.routing.next().addr)
                .chain(after)
                .collect(),
            holders: holders
                .map(|(addr, complete)| Holder { addr, complete })
                .collect(),
        }
    }

    /// The node is a member: it has joined, and has not left.
    pub fn is_member(&self) -> bool {
        matches!(self.role, Role::Member | Role::Leaving(_))
    }

    /// The node answers for `key` now: the key is its own, and no other can have taken its range.
    #[inline]
    pub fn serves(&self, key: Id, now: Tick) -> bool {
        self.owns(key) && self.heartbeat.holds_lease(now)
    }

    /// The key is in the range of this node, as far as it knows.
    pub fn owns(&self, key: Id) -> bool {
        let serves = match &self.role {
            Role::Member => true,
            Role::Leaving(leave) => leave.serves(),
            Role::Joining(_) | Role::Gone(_) => false,
        };
        serves && self.routing.owns(key)
    }

    /// LOCATE has an answer: not so while we join and know no member.
    fn names_owners(&self) -> bool {
        !matches!(&self.role, Role::Joining(join) if !join.names_owner())
    }

    /// Of all nodes that this one knows, the last at or before `key`.
    pub(crate) fn closest(&self, key: Id) -> Member {
        match &self.role {
            Role::Member | Role::Leaving(_) => self.routing.closest(key),
            // The ring may list us, and asks whether we serve.
            Role::Joining(join) if join.is_perhaps_member() && key == self.me().id => self.me(),
            Role::Joining(join) => join.contact(),
            Role::Gone(heir) => *heir,
        }
    }

    fn serve(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Request,
        used: usize,
    ) -> Result<Step, Violation> {
        if self.config.replicas == 1 && request.is_extension() {
            return Err(Malformed::UnknownCommand.into());
        }
        match request {
            Request::Locate(_) if !self.names_owners() => cx.close(),
            Request::Locate(key) => {
                let closest = self.closest(key);
                wire::put_address(cx.out(), closest.addr);
            }
            Request::Get(key) => self.get(cx, key),
            Request::Contains(key) => {
                let owned = self.serves(key, cx.now());
                wire::put_ack(cx.out(), owned);
                if owned {
                    wire::put_ack(cx.out(), self.value_of(key).is_some());
                }
            }
            Request::Insert(key) | Request::Merge { key, .. } => {
                let version = request.version().map(Version);
                let owned = self.serves(key, cx.now());
                wire::put_ack(cx.out(), owned);
                if owned {
                    *expect = Expect::Length { key, version };
                    return Ok(Step::Took(used));
                }
            }
            Request::Remove(key) => {
                let owned = self.serves(key, cx.now());
                wire::put_ack(cx.out(), owned);
                if owned {
                    return Ok(self.write(cx, key, None, None, used));
                }
            }
            // Acknowledged first, and a hint only: a plain joiner answers nobody until its join is over.
            Request::UpdatePrev(addr) if !self.may_announce(cx, addr) => {
                wire::put_ack(cx.out(), false);
                cx.close();
            }
            Request::UpdatePrev(addr) => {
                self.claim_prev(cx, Member::at(addr));
                wire::put_ack(cx.out(), true);
                self.greeted(cx, Member::at(addr));
            }
            Request::Stat => {
                let stat = self.is_settled_member().then(|| self.stat(cx.now()));
                stat::put(cx.out(), stat.as_ref());
            }
            Request::Connect(..) | Request::Disconnect(..) => {
                return Ok(self.acquire_lock(cx, expect, request, used));
            }
            Request::Extension(extension) => {
                return self.serve_extension(cx, expect, *extension, used);
            }
        }
        Ok(Step::Done(used))
    }

    /// One try, for what is asked again in another way.
    pub(crate) fn bounds_once(&self) -> Bounds {
        Bounds {
            attempts_max: 1,
            ..self.bounds()
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            value_bytes_max: self.config.value_bytes_max,
            ..Bounds::default()
        }
    }
}

/// Acknowledges a write of a peer that waited for it, if it is still there.
pub(crate) fn acknowledge(hub: &mut Hub<DhtNode>, conn: ConnId, yes: bool) {
    if say(hub, conn, yes) {
        hub.resume(conn);
    }
}

/// Writes an acknowledgement, if the connection is still there.
pub(crate) fn say(hub: &mut Hub<DhtNode>, conn: ConnId, yes: bool) -> bool {
    let out = hub.output_of(conn);
    out.map(|out| wire::put_ack(out, yes)).is_some()
}

impl Sink for Cx<'_, DhtNode> {
    fn out(&mut self) -> &mut Vec<u8> {
        Cx::out(self)
    }

    fn send(&mut self, value: &Bytes) {
        Cx::send(self, value);
    }

    fn room(&self) -> usize {
        Cx::room(self)
    }
}

impl Service for DhtNode {
    const IPV4_ONLY: bool = true;

    type Conn = Conn;
    type Note = Note;
    type Timer = Timer;
    type Job = Write;
    type Done = Written;

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        self.tombstones_due(hub);
    }

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Conn> {
        Some(Conn::Peer(Expect::Request))
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        match conn {
            Conn::Operation(op) => client::dialled(self, cx, *op),
            Conn::Join(_) => self.join_dialled(cx),
            Conn::Leave => self.leave_dialled(cx),
            Conn::Relay => self.relay_dialled(cx),
            Conn::Link(link) => links::dialled(self, cx, *link),
            Conn::Peer(_) => {}
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let expect = match conn {
            Conn::Peer(expect) => expect,
            Conn::Operation(op) => return client::input(self, cx, *op, input),
            Conn::Join(expect) => return self.join_input(cx, expect, input),
            Conn::Leave => return self.leave_input(cx, input),
            Conn::Relay => return self.relay_answer(cx, input),
            Conn::Link(link) => return links::input(self, cx, *link, input),
        };
        let Input { bytes, seen } = input;
        match expect {
            Expect::Request => match wire::request(bytes, seen) {
                Ok(Some((request, used))) => self.serve(cx, expect, request, used),
                Ok(None) => Ok(Step::More),
                Err(malformed) => {
                    if malformed.is_answered_no() {
                        wire::put_ack(cx.out(), false);
                    }
                    Err(malformed.into())
                }
            },
            Expect::Length { key, version } => {
                let (key, version) = (*key, *version);
                match range_stream::read_length(bytes, seen, version.is_some())? {
                    Some((length, used)) => self.length(cx, expect, key, version, length, used),
                    None => Ok(Step::More),
                }
            }
            Expect::Value(..) => self.value(cx, expect, bytes),
            Expect::Copy(_) => self.copy_input(cx, expect, bytes),
            Expect::Joiner => self.hand_off_input(cx, expect, input),
            Expect::Leaver if matches!(self.lock_holder, LockHolder::Relay(_)) => {
                self.relay_input(cx, input)
            }
            Expect::Leaver => self.disconnect_input(cx, input),
            Expect::Lock(_) => Err(Violation::us("input while the lock is waited for")),
        }
    }

    fn on_room(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        match conn {
            Conn::Peer(Expect::Joiner) => self.hand_off_some(cx),
            Conn::Leave => self.leave_some(cx),
            Conn::Relay => self.relay_room(cx),
            _ => {}
        }
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn, note: Note) {
        match (conn, note) {
            (Conn::Peer(Expect::Joiner), Note::Go) => self.hand_off_noted(cx),
            (Conn::Leave, Note::Go) => self.leave_some(cx),
            (Conn::Peer(expect @ Expect::Lock(_)), Note::Go) => self.lock_offered(cx, expect),
            (Conn::Peer(expect @ Expect::Leaver), Note::Go) => {
                *expect = Expect::Request;
                let id = cx.id();
                acknowledge(cx, id, true);
            }
            (Conn::Peer(expect @ (Expect::Lock(_) | Expect::Leaver)), Note::Refused) => {
                // What follows a DISCONNECT makes no sense without it; a CONNECT could go on, and need not.
                *expect = Expect::Request;
                wire::put_ack(cx.out(), false);
                cx.close();
            }
            _ => {}
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Conn, end: End) {
        // It may have been the last reader of a value.
        self.release_pinned(PINNED_PER_EVENT);
        if matches!(conn, Conn::Peer(_)) && self.copies.is_on() {
            self.committing.forget(id);
            self.watched_conn_ended(hub, id);
        }
        match conn {
            Conn::Operation(op) => client::ended(self, hub, id, op, end),
            Conn::Join(join::Expect::Ack) if matches!(end, End::Eof | End::Broken(_)) => {
                self.join_declined(hub, id);
            }
            Conn::Join(_) => self.join_ended(hub, id),
            Conn::Leave => self.leave_ended(hub, id, &end),
            Conn::Relay => self.relay_ended(hub, id),
            Conn::Link(link) => links::ended(self, hub, id, link, end),
            Conn::Peer(Expect::Value(incoming, _)) => self.staged_bytes -= incoming.staged_bytes(),
            Conn::Peer(Expect::Copy(copy)) => self.staged_bytes -= copy.value.staged_bytes(),
            Conn::Peer(Expect::Lock(_)) => {
                self.parked.forget(id);
                self.rejoin_ended(hub, id);
                self.offer_lock(hub);
            }
            Conn::Peer(Expect::Joiner) => self.hand_off_ended(hub, id),
            Conn::Peer(Expect::Leaver) => {
                self.disconnect_ended(hub, id);
                self.relay_ended(hub, id);
            }
            Conn::Peer(Expect::Request | Expect::Length { .. }) => {}
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        self.release_pinned(PINNED_PER_EVENT);
        match timer {
            Timer::Retry(op) => client::retry(self, hub, op),
            Timer::Link(timer) => links::timer(self, hub, timer),
            Timer::Beat => self.beat_due(hub),
            Timer::BeatNow => self.begin_beats(hub),
            Timer::Late(op) => client::expire(self, hub, op),
            Timer::Copies => self.copies_due(hub),
            Timer::Suspect => {
                self.suspect_armed = false;
                self.suspect_next(hub);
            }
            Timer::Absorb(op) => self.absorb_late(hub, op),
            Timer::Compare => self.compare_some(hub),
            Timer::Sync => self.sync_some(hub),
            Timer::Parked => self.refuse_late_parked(hub),
            Timer::FencedWrites => self.refuse_late_fenced_writes(hub),
            Timer::Lock(conn) => self.lock_window_over(hub, conn),
            Timer::Join => self.join_step(hub),
            Timer::Leave => self.leave_step(hub),
            Timer::JoinDeadline => self.join_window_over(hub),
            Timer::LeaveDeadline => self.leave_window_over(hub),
            Timer::LeaveLimit => self.leave_looked_at(hub),
            Timer::Finger => self.look_up_finger(hub),
            Timer::Prev => self.claim_late(hub),
            Timer::Stall => self.look_for_stall(hub),
            Timer::Confirmation => self.look_at_joiner(hub),
            Timer::Sweep => self.sweep_late(hub),
            Timer::Probe => self.probe_late(hub),
            Timer::Rejoin => self.rejoin_late(hub),
            Timer::Recovery => self.recovery_step(hub),
            Timer::Tombstones => self.tombstones_due(hub),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: Written) {
        self.came_back(hub, done);
    }

    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        self.leave(hub);
    }
}

impl From<OpId> for Conn {
    fn from(op: OpId) -> Conn {
        Conn::Operation(op)
    }
}

impl From<OpId> for Timer {
    fn from(op: OpId) -> Timer {
        Timer::Retry(op)
    }
}

impl Host for DhtNode {
    type Tag = Tag;

    fn operations(&mut self) -> &mut Operations<Tag> {
        &mut self.operations
    }

    fn on_outcome(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Outcome, Failure>) {
        match tag {
            Tag::Forward { conn, bytes } => {
                self.forwarding_bytes -= bytes;
                acknowledge(hub, conn, result.is_ok());
            }
            Tag::WhoLeaves(conn) => self.leaver_found(hub, conn, result),
            Tag::Relay(conn) => self.heir_found(hub, conn, result),
            Tag::Repeated(conn, key, value) => self.repeated_told(hub, conn, key, value, result),
            Tag::DisconnectUpdate(conn) => self.disconnect_told(hub, conn, result),
            Tag::Probe => self.probe_told(hub, result),
            Tag::Rejoin => self.rejoin_told(hub, result),
            Tag::Recovered(key) => self.recovered_told(hub, key, result),
            Tag::Confirmation => self.joiner_answered(hub, result),
            Tag::TakeBack | Tag::TellNext | Tag::Greeting => {}
            Tag::Absorb => self.absorb_told(hub, result),
            Tag::PlainBeat(to) => self.plain_beat_told(hub, to, result.is_ok()),
            Tag::Join => self.join_told(hub, result),
            Tag::Seed => self.seed_told(hub, result),
            Tag::Leave => self.leave_told(hub, result),
            Tag::Finger => self.finger_found(hub, result),
            Tag::Prev(claims) => self.prev_found(hub, claims, result),
            Tag::PrevGone(asked) => self.prev_asked(asked, result),
            Tag::Program(number) => self.outcomes.push((number, result)),
        }
        self.swept(hub);
        self.greet_new_prev(hub);
    }
}

#[cfg(test)]
mod tests;

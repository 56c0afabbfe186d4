//! Heartbeats: how a node knows that it is still a member, that its next is alive, and who is around them.
//!
//! ```text
//!        XBEAT: epoch, holders, successors
//! node ────────────────────────────────────▶ its prev, the heir of its range
//!      ◀──────────────────────────────────── 1, preds: a lease of LEASE from when the beat was sent
//!                                            0, next: its next is another one
//! ```
//! The lease: a node serves its range only while its heir has granted it a lease. The heir takes the range of a node that is silent only
//! SUSPECT after the last grant, so at most one of the two serves. It grants leases only while it is *listed*: its own prev said
//! within LEASE that it is its next. So when a heir was deposed, the one that deposed it has to wait for no longer than
//! SUSPECT once more before it takes the range behind as well. Leases are never on disk; a node that starts has none.
//!
//! | the prev is | the lease |
//! |---|---|
//! | a member with our extensions | needed |
//! | a plain one | not needed: it never takes the range of a node that did not leave |
//! | the node itself (alone) | not needed |
//!
//! A joiner claims to be our prev before it is a member. Until it grants a lease, the old heir is asked as well.
//!
//! What it does not do: judge claims to be our prev (see `routing/predecessor`), or take a range (see [`super::absorb`]).

use std::net::SocketAddrV4;

use crate::engine::{ConnId, Cx, Hub, Tick, Ticks};
use crate::proto::dht::node::{DhtNode, LockHolder, Role, Tag, Timer};
use crate::proto::dht::replication::LinkTag;
use crate::proto::dht::replication::drive::answer;
use crate::proto::dht::routing::{Member, Routing};
use crate::proto::dht::rpc::client;
use crate::proto::dht::rpc::links::{self, LinkError};
use crate::proto::dht::rpc::operation::Operation;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire::extension::{Extension, LIST_MAX, Reply};

/// From one heartbeat to the next: 16 a minute, and as many answers.
pub const BEAT_EVERY: Ticks = Ticks::from_millis(3800);

/// A lease ends this long after its heartbeat was sent. One heartbeat may be late by 1.7 s.
pub const LEASE: Ticks = Ticks::from_millis(5500);

/// A next that was granted nothing for this long is probed, and is dead when it is silent. Longer than [`LEASE`] by what two clocks
/// can differ in that time, and more.
pub const SUSPECT: Ticks = Ticks::from_secs(7);

/// An operation of several hops is over by then, or waits for a member that stalls.
const ANSWER_WITHIN: Ticks = Ticks::from_secs(4);

/// Holders are asked every half minute whether they still are.
const RENEW_BEATS: u64 = 9;

/// Copies are compared with those of complete holders every two minutes.
const RECHECK_BEATS: u64 = 34;

/// Denials in a row after which a node takes itself for deposed. One from a prev that is alone, or cannot tell, counts once, and
/// one from a prev that lists another next three times.
const DENIALS_MAX: u32 = 5;
const PASSED_OVER: u32 = 3;

/// What a node knows of its neighbours by heartbeats.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// When the lease ends; `None`: none is needed.
    lease_until: Option<Tick>,
    /// Until then the prev, or the heir before it, has us as its next; `None`: nobody else could have taken our range.
    listed_until: Option<Tick>,
    /// The prev that granted the last lease.
    heir: Option<Member>,
    /// The prev is this one, and does not know heartbeats.
    plain: Option<SocketAddrV4>,
    /// Those before the heir, nearest first, as it says.
    before_heir: Vec<Member>,
    /// Whom the last heartbeat went to: another prev is told at once.
    beaten: Option<Member>,
    /// When that one answered last, or was first asked.
    heard: Tick,
    denials: u32,
    /// Heartbeats so far.
    beats: u64,
    pub watch: Watch,
    /// The timer runs.
    pub armed: bool,
}

/// What a node knows of its next by the next's heartbeats.
#[derive(Debug, Default)]
pub struct Watch {
    of: Option<Member>,
    /// The epoch of its copies.
    pub epoch: u64,
    /// When it was granted its last lease, or became our next.
    granted: Tick,
    /// The connection of its heartbeats.
    conn: Option<ConnId>,
    /// It sends heartbeats.
    pub beats: bool,
    /// Its next, the one after, and on.
    pub after: Vec<Member>,
}

impl Heartbeat {
    /// The node may serve its range.
    #[inline]
    pub fn holds_lease(&self, now: Tick) -> bool {
        self.lease_until.is_none_or(|until| now < until)
    }

    /// The node may grant its next a lease.
    pub fn is_listed(&self, now: Tick) -> bool {
        self.listed_until.is_none_or(|until| now < until)
    }

    /// Its prev, or its heir, `by`, has the node as its next, and could not grant a lease.
    pub fn listed(&mut self, by: Member, prev: Option<Member>, sent: Tick) {
        if prev == Some(by) || self.heir == Some(by) {
            let until = sent + LEASE;
            self.listed_until = Some(self.listed_until.map_or(until, |old| old.max(until)));
            self.denials = 0;
        }
    }

    /// Who granted the lease that holds; `None`: nobody did, or none is needed.
    pub fn leased_by(&self, now: Tick) -> Option<Member> {
        let until = self.lease_until?;
        self.heir.filter(|_| now < until)
    }

    /// When the lease ends; `None`: no lease is needed.
    pub fn lease_until(&self) -> Option<Tick> {
        self.lease_until
    }

    /// Time until the lease ends; `None`: no lease is needed.
    pub fn lease_left(&self, now: Tick) -> Option<Ticks> {
        let until = self.lease_until?;
        Some(if until > now { until - now } else { Ticks(0) })
    }

    /// Our next changed. `alone`: it is the node itself now. `was_alone`: it was before.
    pub fn next_is(&mut self, next: Member, alone: bool, was_alone: bool, now: Tick) {
        if self.watch.of != Some(next) {
            // What followed the old one may follow the new one.
            let mut after = std::mem::take(&mut self.watch.after);
            if let Some(at) = after.iter().position(|member| *member == next) {
                after.drain(..=at);
            } else if let Some(old) = self.watch.of
                && old != next
            {
                after.insert(0, old);
                after.truncate(LIST_MAX);
            }
            self.watch = Watch {
                of: Some(next),
                granted: now,
                after,
                ..Watch::default()
            };
        }
        if alone {
            (self.lease_until, self.listed_until) = (None, None);
            (self.heir, self.plain, self.beaten) = (None, None, None);
            self.before_heir.clear();
        } else if was_alone && self.lease_until.is_none() {
            // The first other member became our heir just now. It waits longer than this before it takes our range.
            self.lease_until = Some(now + LEASE);
            self.listed_until = self.lease_until;
        }
    }

    /// The node is not a member any more, or not yet: it has no lease until it is granted one.
    pub fn reset(&mut self, now: Tick) {
        *self = Heartbeat {
            lease_until: Some(now),
            listed_until: Some(now),
            armed: self.armed,
            ..Heartbeat::default()
        };
    }

    /// Whom to send a heartbeat to: the prev, and the heir that it has not replaced yet.
    pub fn targets(&mut self, prev: Option<Member>, now: Tick) -> [Option<Member>; 2] {
        if self.beaten != prev {
            (self.beaten, self.heard) = (prev, now);
        }
        let asked = prev.filter(|prev| self.plain != Some(prev.addr));
        [asked, self.heir.filter(|heir| Some(*heir) != asked)]
    }

    /// A heartbeat was answered.
    fn answered(&mut self, by: Member, now: Tick) {
        if self.beaten == Some(by) {
            self.heard = now;
        }
    }

    /// The prev is silent for so long that whoever claims its place is believed. A lease of it is long over.
    fn is_prev_silent(&self, now: Tick) -> bool {
        self.beaten.is_some() && self.plain.is_none() && now >= self.heard + SUSPECT
    }

    /// The prev is another one than the last heartbeat went to.
    pub fn is_new(&self, prev: Option<Member>) -> bool {
        prev.is_some() && prev != self.beaten
    }

    /// A lease was granted by `by`. True: it is a new heir.
    pub fn granted(
        &mut self,
        by: Member,
        prev: Option<Member>,
        sent: Tick,
        before: Vec<Member>,
    ) -> bool {
        let is_prev = prev == Some(by);
        if !is_prev && self.heir != Some(by) {
            return false;
        }
        self.listed(by, prev, sent);
        let is_new = self.heir != Some(by);
        (self.heir, self.before_heir) = (Some(by), before);
        if is_prev {
            self.plain = None;
        }
        let until = sent + LEASE;
        self.lease_until = Some(self.lease_until.map_or(until, |old| old.max(until)));
        is_new
    }

    /// The prev, `by`, has another next. True: the node is listed by nobody and has to join anew.
    pub fn denied(&mut self, by: Member, prev: Option<Member>, weight: u32) -> bool {
        if self.heir == Some(by) && prev != Some(by) {
            // The new prev grants from now on, or is plain.
            self.heir = None;
            self.end_lease_of_plain();
            return false;
        }
        if prev == Some(by) {
            self.denials += weight;
        }
        self.denials >= DENIALS_MAX
    }

    /// The prev does not know heartbeats. True: that is news.
    pub fn found_plain(&mut self, addr: SocketAddrV4, prev: Option<Member>) -> bool {
        if prev.is_none_or(|prev| prev.addr != addr) || self.plain == Some(addr) {
            return false;
        }
        self.plain = Some(addr);
        self.heir = self.heir.filter(|heir| heir.addr != addr);
        self.end_lease_of_plain();
        true
    }

    /// A plain prev needs no lease, but the heir before it, if it still lists us, could take our range.
    fn end_lease_of_plain(&mut self) {
        if self.plain.is_some() && self.heir.is_none() {
            self.before_heir.clear();
            (self.lease_until, self.listed_until) = (None, None);
        }
    }

    pub fn has_plain_prev(&self, prev: Option<Member>) -> bool {
        prev.is_some_and(|prev| self.plain == Some(prev.addr))
    }

    /// A member is dead.
    pub fn forget(&mut self, addr: SocketAddrV4) {
        self.heir = self.heir.filter(|heir| heir.addr != addr);
        self.end_lease_of_plain();
        self.before_heir.retain(|member| member.addr != addr);
        self.watch.after.retain(|member| member.addr != addr);
    }

    /// The heir and those before it, as it says; round a small ring they come again.
    fn all_before(&self) -> impl Iterator<Item = Member> + '_ {
        self.heir
            .into_iter()
            .chain(self.before_heir.iter().copied())
    }

    /// The members before us, nearest first, up to ourselves.
    pub fn before(&self, me: Member) -> Vec<Member> {
        let mut before: Vec<Member> = Vec::with_capacity(LIST_MAX);
        for member in self.all_before() {
            if member == me || before.contains(&member) {
                break;
            }
            before.push(member);
        }
        before
    }

    /// What is told to our next of those before us.
    pub fn told_before(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.all_before().map(|member| member.addr).take(LIST_MAX)
    }
}

impl Watch {
    /// A heartbeat of our next. True: others follow it than before.
    fn beat(&mut self, conn: ConnId, epoch: u64, after: Vec<Member>) -> bool {
        let is_news = self.after != after;
        (self.conn, self.epoch, self.after) = (Some(conn), epoch, after);
        self.beats = true;
        is_news
    }

    /// It was granted a lease, or a plain one answered.
    pub fn seen(&mut self, now: Tick) {
        self.granted = now;
    }

    /// Its connection is over: it may be dead. True once.
    pub fn lost(&mut self, conn: ConnId) -> bool {
        let is_its = self.conn == Some(conn);
        if is_its {
            self.conn = None;
        }
        is_its
    }

    /// Silent for so long that it may be taken for dead.
    pub fn is_suspect(&self, now: Tick) -> bool {
        now >= self.granted + SUSPECT
    }
}

impl DhtNode {
    /// Begins heartbeats, and sends one at once. Called whenever there is a member next to us that was not there before.
    pub(crate) fn begin_beats(&mut self, hub: &mut Hub<Self>) {
        if self.copies.is_on() && self.is_member() {
            self.beat(hub);
            self.arm_beat(hub);
        }
    }

    fn arm_beat(&mut self, hub: &mut Hub<Self>) {
        if !self.heartbeat.armed && !self.routing.is_alone() {
            self.heartbeat.armed = hub.arm(BEAT_EVERY, Timer::Beat).is_some();
        }
    }

    /// The time of the next heartbeat.
    pub(crate) fn beat_due(&mut self, hub: &mut Hub<Self>) {
        self.heartbeat.armed = false;
        if self.routing.is_alone() || !self.is_member() {
            return;
        }
        self.arm_beat(hub);
        self.heartbeat.beats += 1;
        if self.heartbeat.beats.is_multiple_of(RECHECK_BEATS) {
            self.copies.recheck();
        }
        if self.heartbeat.beats.is_multiple_of(RENEW_BEATS) {
            self.copies.renew(None);
        }
        if self.heartbeat.is_prev_silent(hub.now()) {
            self.replace_silent_prev();
        }
        if self.routing.prev().is_none() {
            self.look_up_prev(hub);
        }
        self.leave_follows_prev(hub);
        self.beat(hub);
        self.look_at_next(hub);
        self.drive_copies(hub);
    }

    /// Our next is plain as long as it sends no heartbeats: it is told who is before it, which a dead one does not take.
    fn look_at_next(&mut self, hub: &mut Hub<Self>) {
        let watch = &self.heartbeat.watch;
        if watch.is_suspect(hub.now()) {
            self.suspect_next(hub);
        } else if !watch.beats && !self.is_locked() {
            let next = self.routing.next().addr;
            self.greet_next(hub, Tag::PlainBeat(next));
        }
    }

    /// A plain next took UPDATE_PREV, or not.
    pub(crate) fn plain_beat_told(&mut self, hub: &mut Hub<Self>, to: SocketAddrV4, taken: bool) {
        if to != self.routing.next().addr {
            return;
        }
        if taken {
            self.heartbeat.watch.seen(hub.now());
        } else {
            self.suspect_next(hub);
        }
    }

    /// Tells our next once that we are before it.
    fn greet_next(&mut self, hub: &mut Hub<Self>, tag: Tag) {
        let (me, next) = (self.me(), self.routing.next());
        if next != me {
            let once = self.bounds_once();
            let operation = Operation::update_prev(me.addr, next.addr, once);
            self.start_bounded(hub, operation, tag);
        }
    }

    /// UPDATE_PREV came from our prev as it was: those before it may have changed.
    pub(crate) fn greeted(&mut self, hub: &mut Hub<Self>, by: Member) {
        if self.copies.is_on() && self.routing.prev() == Some(by) {
            self.begin_beats(hub);
        }
    }

    /// The prev is another one: it is told that we are here.
    pub(crate) fn greet_new_prev(&mut self, hub: &mut Hub<Self>) {
        if self.copies.is_on() && self.heartbeat.is_new(self.routing.prev()) {
            self.begin_beats(hub);
        }
    }

    /// Starts an operation that must not wait for a member that stalls. Without copies the engine's deadlines bound it.
    pub(crate) fn start_bounded(&mut self, hub: &mut Hub<Self>, operation: Operation, tag: Tag) {
        let op = client::start(self, hub, operation, tag);
        if self.copies.is_on() && hub.arm(ANSWER_WITHIN, Timer::Late(op)).is_none() {
            client::expire(self, hub, op);
        }
    }

    pub(crate) fn beat(&mut self, hub: &mut Hub<Self>) {
        let (me, sent) = (self.me(), hub.now());
        let epoch = self.copies.epoch();
        let successors = [self.routing.next()]
            .into_iter()
            .chain(self.heartbeat.watch.after.iter().copied())
            .take(usize::from(self.config.replicas));
        let beat = Extension::Beat {
            from: me.addr,
            epoch,
            holders: self
                .copies
                .holders()
                .map(|(addr, _)| addr)
                .take(LIST_MAX)
                .collect(),
            successors: successors
                .map(|member| member.addr)
                .take(LIST_MAX)
                .collect(),
        };
        let targets = self.heartbeat.targets(self.routing.prev(), sent);
        for member in targets.into_iter().flatten().filter(|member| *member != me) {
            links::call(
                self,
                hub,
                member.addr,
                beat.clone(),
                None,
                LinkTag::Beat { sent, epoch },
            );
        }
        if self.heartbeat.has_plain_prev(self.routing.prev()) {
            self.copies.confirmed(epoch);
        }
    }

    /// The answer to a heartbeat.
    pub(crate) fn beat_told(
        &mut self,
        hub: &mut Hub<Self>,
        from: SocketAddrV4,
        sent: Tick,
        epoch: u64,
        result: Result<Reply, LinkError>,
    ) {
        let (me, by, prev) = (self.me(), Member::at(from), self.routing.prev());
        if !self.is_member() {
            return;
        }
        if result.is_ok() {
            self.heartbeat.answered(by, hub.now());
        }
        match result {
            Ok(Reply::Granted { clock, preds }) => {
                self.entries.observe(Version(clock));
                let before = preds.into_iter().map(Member::at).collect();
                let known = self.heartbeat.before(me);
                if self.heartbeat.granted(by, prev, sent, before) {
                    self.copies.new_heir();
                }
                self.copies.confirmed(epoch);
                self.place_copies(hub);
                let nearest = usize::from(self.config.replicas);
                let now_known = self.heartbeat.before(me);
                if !now_known
                    .iter()
                    .take(nearest)
                    .eq(known.iter().take(nearest))
                {
                    // It matters to our next, whose heartbeat asks for them.
                    self.greet_next(hub, Tag::Greeting);
                }
            }
            Ok(Reply::NotGranted { next }) => {
                let next = Member::at(next);
                if next == me {
                    return self.heartbeat.listed(by, prev, sent);
                }
                let weight = match next {
                    _ if next == by => 1,
                    _ if me.id.in_arc(by.id.succ(), next.id) => PASSED_OVER,
                    _ => 0,
                };
                if next != by && prev == Some(by) && next.id.in_arc(by.id.succ(), me.id) {
                    self.claim_prev(hub, next);
                }
                if next == by && prev == Some(by) && self.heartbeat.denials > 0 {
                    // It is no member now, or alone.
                    self.replace_silent_prev();
                }
                if self.heartbeat.denied(by, prev, weight) {
                    self.deposed(hub, by);
                }
            }
            Err(LinkError::Plain) if self.heartbeat.found_plain(from, prev) => {
                self.place_copies(hub)
            }
            Err(LinkError::Refused) => self.member_dead(hub, from),
            Err(LinkError::Lost) => {
                self.copies.renew(Some(from));
                self.drive_copies(hub);
            }
            _ => {}
        }
    }

    /// XBEAT.
    pub(crate) fn serve_beat(
        &mut self,
        cx: &mut Cx<'_, Self>,
        from: SocketAddrV4,
        epoch: u64,
        holders: &[SocketAddrV4],
        successors: Vec<SocketAddrV4>,
    ) {
        let member = Member::at(from);
        let now = cx.now();
        let serves = match &self.role {
            Role::Member => true,
            Role::Leaving(leave) => leave.serves(),
            Role::Joining(_) | Role::Gone(_) => false,
        };
        let can_tell = serves
            && cx.peer_v4().ip() == from.ip()
            && !matches!(self.lock_holder, LockHolder::Absorb(_));
        let next = self.routing.next();
        if can_tell && next == member {
            let most = usize::from(self.config.replicas);
            let after: Vec<Member> = successors.into_iter().take(most).map(Member::at).collect();
            let conn = cx.id();
            if self.heartbeat.watch.beat(conn, epoch, after) {
                // Who is before us has this in its list.
                cx.soon(Timer::BeatNow);
            }
            self.entries.observe(Version(epoch));
            if !holders.contains(&self.me().addr) {
                // Left out as a holder: what is here of its entries may be old.
                self.holds.drop_owner(from);
            }
        }
        if can_tell && next == member && self.heartbeat.is_listed(now) {
            self.heartbeat.watch.seen(now);
            let reply = Reply::Granted {
                clock: self.entries.clock().0,
                preds: self.heartbeat.told_before().collect(),
            };
            reply.put(cx.out());
            return self.joiner_beats(cx, member);
        }
        // Our own address says that we are alone, or cannot tell.
        let next = if can_tell { next.addr } else { self.me().addr };
        Reply::NotGranted { next }.put(cx.out());
    }

    /// Another member has our range, as it took us for dead: we join anew, and what we have is merged by version.
    fn deposed(&mut self, hub: &mut Hub<Self>, by: Member) {
        if self.is_locked() || !matches!(self.role, Role::Member) {
            return;
        }
        log::warn!("the ring goes on without this node, which was taken for dead; it joins again");
        let next = self.routing.next().addr;
        let me = self.me().addr;
        let contacts: Vec<SocketAddrV4> = [by.addr, next]
            .into_iter()
            .filter(|addr| *addr != me)
            .collect();
        self.holds.clear();
        let durable = self.config.durable;
        for (write, committed) in self.copies.abandon() {
            if let Some(client) = write.client {
                answer(hub, client, false);
            }
            if durable && committed {
                // As it is on the disk.
                self.entries.merge(write.key, write.version, write.value);
            }
        }
        self.routing = Routing::alone(self.me());
        self.join(hub, contacts);
    }

    /// A member is dead: routing, heartbeats and copies forget it.
    pub(crate) fn member_dead(&mut self, hub: &mut Hub<Self>, addr: SocketAddrV4) {
        if addr == self.routing.next().addr && !matches!(self.lock_holder, LockHolder::Absorb(_)) {
            self.suspect_next(hub);
        }
        self.member_failed(addr);
        self.heartbeat.forget(addr);
        let entries = &mut self.entries;
        self.copies.leave_out(addr, || entries.next_version().0);
        self.place_copies(hub);
    }
}

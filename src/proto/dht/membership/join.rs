//! Joins a ring: CONNECT at the node that owns our id.
//!
//! ```text
//! (Seeds) ─▶ Locate ─▶ Receive ─▶ Commit ─▶ Update ─▶ Confirm ─▶ a member
//!    └──────────┴─────────┴── a pause, and again ──┴──────┘
//! ```
//! Until CONNECT completes, the node owns no keys. It answers data commands with `0`, LOCATE with the owner of its
//! range, and UPDATE_PREV with `1`. Before it knows an owner, LOCATE ends the connection: the seed that it was told may be
//! silent, and whoever is sent there waits in vain.
//!
//! A node that has itself among its seeds asks them first whether they are members (see [`super::seeds`]), and does not give
//! up.
//!
//! The last step of CONNECT, our address, has no ack. So the node asks the ring for its own id until the answer is its own
//! address. Another answer is no proof that the join failed: our address may still be under way. Received entries
//! are therefore kept until an owner answers `1` to another CONNECT, which it does only after it has given up the first.
//!
//! The owner decides what it sends; this node decides what it keeps. Entries outside `[own id, owner's id)` are dropped as
//! they come; those beyond our next, which is named last, are swept when the join is complete. A range that does
//! not fit the memory limit ends the join for good: nothing was announced to the ring, so nothing changes there. A
//! transfer has a deadline and a least pace, as on the serving side.

use std::net::SocketAddrV4;

use rand::RngExt;

use crate::engine::{ConnId, Cx, Hub, Input, Step, Tick, Ticks, Violation};

use super::address_policy;
use super::lock::Deadline;
use super::seeds::Seeds;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Conn, DhtNode, LockHolder, Role, Tag, Then, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};
use crate::proto::dht::storage::commit::Staging;
use crate::proto::dht::storage::range_stream::{Received, Receiving};
use crate::proto::dht::wire::{self, Form, Request};

/// Tries before the join is given up: with their pauses about ten seconds, in which others may join and leave before us.
const TRIES_MAX: u32 = 20;

/// The same as a time for a node that the ring lists, or may list: without it a range of the ring is out of reach, and
/// what prevents the join is temporary. The node before us may be about to leave, which takes this long at most (see
/// [`super::leave`]), or may not know our next yet.
const LISTED_WITHIN: Ticks = Ticks::from_secs(120);

/// The ring is asked so often for our id, with this pause in between: the owner may not have read our address yet.
const CONFIRM_TRIES_MAX: u32 = 3;
const CONFIRM_PAUSE: Ticks = Ticks::from_millis(200);

/// The pause before another try is drawn below this, so that joiners which hinder each other do not go on in step.
const PAUSE_TICKS_MAX: u64 = Ticks::from_millis(500).0;

/// The same after [`TRIES_MAX`] tries: in each the node before us dials several others.
const LONG_PAUSE_TICKS_MAX: u64 = Ticks::from_secs(2).0;

/// What it does not succeed in is said this often.
const SAID_EVERY: Ticks = Ticks::from_secs(5);

#[derive(Debug)]
pub(crate) struct Join {
    pub(super) seeds: Seeds,
    phase: Phase,
    said: Option<Tick>,
    tries: u32,
    begun: Tick,
    /// The ring named us as the owner of our range before we sent our address: this node was killed and joins again.
    listed: bool,
    given_up: bool,
    /// The owner of our range; the first contact while it is not known.
    owner: Member,
    /// The ring named it, and no look-up failed since.
    knows_owner: bool,
    /// Our next, from the moment our address was sent until it is certain that it did not arrive.
    given: Option<Member>,
    /// Leave as soon as it is known whether the join succeeded.
    leaves: bool,
    next: Option<Member>,
    conn: Option<ConnId>,
    /// Owners that know no versions.
    plain: Vec<SocketAddrV4>,
    pub(crate) receiving: Receiving,
    staging: Staging,
    deadline: Option<Deadline>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The seeds are asked whether they are members.
    Seeds,
    /// The owner of our id is looked up.
    Locate,
    /// CONNECT goes on.
    Receive,
    /// The last entries are being committed.
    Commit,
    /// Our next is told.
    Update,
    /// Our address is sent; the ring is asked whether the owner lists us.
    Confirm { tries: u32 },
    /// Before the next try.
    Pause,
}

/// What comes next from the owner of our range.
#[derive(Debug)]
pub enum Expect {
    /// `0`: our id is not its.
    Ack,
    Entries,
    /// Its next, which will be ours.
    Next,
    Nothing,
}

impl Join {
    pub(crate) fn contact(&self) -> Member {
        self.owner
    }

    pub(super) fn begun(&self) -> Tick {
        self.begun
    }

    pub(super) fn asks_seeds(&self) -> bool {
        self.phase == Phase::Seeds && !self.given_up
    }

    /// LOCATE can be answered.
    pub(crate) fn names_owner(&self) -> bool {
        self.knows_owner || self.given.is_some()
    }

    /// Our address may have been sent, so the ring may count on this node.
    pub(crate) fn is_perhaps_member(&self) -> bool {
        self.given.is_some() && !self.given_up
    }

    /// Says why a try failed, now and then.
    fn say(&mut self, now: Tick, why: impl std::fmt::Display, pause: Ticks) {
        let is_due = self.said.is_none_or(|said| now >= said + SAID_EVERY);
        let level = if is_due {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        self.said = if is_due { Some(now) } else { self.said };
        let (tries, by, pause) = (self.tries, self.seeds.list(), pause.as_duration());
        log::log!(
            level,
            "try {tries} to join by {by}: {why}; again in {pause:?}"
        );
    }

    /// A new transfer begins, or none.
    fn reset_transfer(&mut self, hub: &mut Hub<DhtNode>) {
        self.next = None;
        self.receiving = Receiving::default();
        self.staging = Staging::default();
        if let Some(deadline) = self.deadline.take() {
            deadline.end(hub);
        }
    }
}

impl DhtNode {
    /// Joins the ring of any of `contacts`. Entries that the node holds are recovered into the ring, see
    /// `recovered_entries`. If the node's own address is among them, see [`DhtNode::join_or_found`].
    pub fn join(&mut self, hub: &mut Hub<Self>, mut contacts: Vec<SocketAddrV4>) {
        let me = self.me().addr;
        let own = contacts.contains(&me).then_some(me);
        contacts.retain(|contact| *contact != me);
        self.join_or_found(hub, contacts, own);
    }

    /// The same with `own`, how the list of contacts that the nodes of a ring were given calls this one. It founds the ring if
    /// it is the least of the list and no other is a member, or if there are no others.
    pub fn join_or_found(
        &mut self,
        hub: &mut Hub<Self>,
        others: Vec<SocketAddrV4>,
        own: Option<SocketAddrV4>,
    ) {
        let Some(first) = others.first() else {
            log::info!("there is nobody else to join: this node is a ring of its own");
            return;
        };
        let owner = Member::at(*first);
        let seeds = Seeds::new(others, own);
        log::info!("joining by {}", seeds.list());
        self.set_recovered_aside();
        if self.copies.is_on() {
            self.heartbeat.reset(hub.now());
        }
        self.role = Role::Joining(Join {
            seeds,
            phase: Phase::Locate,
            said: None,
            tries: 0,
            begun: hub.now(),
            listed: false,
            given_up: false,
            owner,
            knows_owner: false,
            given: None,
            leaves: false,
            next: None,
            conn: None,
            plain: Vec::new(),
            receiving: Receiving::default(),
            staging: Staging::default(),
            deadline: None,
        });
        self.join_step(hub);
    }

    /// The join was given up.
    pub fn join_failed(&self) -> bool {
        matches!(&self.role, Role::Joining(join) if join.given_up)
    }

    /// The join that goes on.
    fn joining(&mut self) -> Option<&mut Join> {
        match &mut self.role {
            Role::Joining(join) if !join.given_up => Some(join),
            _ => None,
        }
    }

    /// Begins a try, or asks once more whether the last one succeeded.
    pub(crate) fn join_step(&mut self, hub: &mut Hub<Self>) {
        let Some(join) = self.joining() else { return };
        let confirms = matches!(join.phase, Phase::Confirm { .. }) || join.given.is_some();
        if join.seeds.has_us() && !confirms {
            join.phase = Phase::Seeds;
            return self.ask_seeds(hub);
        }
        self.join_by_seeds(hub);
    }

    /// Looks our owner up, beginning at the first seed.
    pub(super) fn join_by_seeds(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Some(join) = self.joining() else { return };
        let mut contacts = join.seeds.others().to_vec();
        match join.phase {
            // The owner is the first to know.
            Phase::Confirm { .. } => contacts.insert(0, join.owner.addr),
            _ => join.phase = Phase::Locate,
        }
        // If the join succeeded, our contacts and the owner may have left since; our next still leads round the ring.
        contacts.extend(join.given.map(|next| next.addr));
        let operation = Operation::new(Verb::After, me.id.pred(), contacts, bounds);
        self.start_bounded(hub, operation, Tag::Join);
    }

    /// An operation of our join is over.
    pub(crate) fn join_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let me = self.me();
        let Some(join) = self.joining() else { return };
        match (join.phase, result) {
            (Phase::Locate | Phase::Confirm { .. }, Ok(Outcome::After { owner, .. }))
                if owner == me.addr && join.given.is_some() =>
            {
                self.joined(hub);
            }
            // The ring lists a node already that was killed and comes back: its CONNECT goes to the node before it.
            (Phase::Locate, Ok(Outcome::After { before, owner }))
                if owner == before || owner == me.addr =>
            {
                join.listed = owner == me.addr;
                (join.owner, join.knows_owner) = (Member::at(before), true);
                self.dial_owner(hub);
            }
            (Phase::Update, Ok(_)) => self.give_address(hub),
            (Phase::Confirm { tries }, _) if tries < CONFIRM_TRIES_MAX => {
                join.phase = Phase::Confirm { tries: tries + 1 };
                if hub.arm(CONFIRM_PAUSE, Timer::Join).is_none() {
                    self.try_again(hub, "no timer");
                }
            }
            (_, Ok(outcome)) => self.try_again(hub, format_args!("the ring says {outcome:?}")),
            (phase, Err(failure)) => {
                join.knows_owner &= phase != Phase::Locate;
                self.try_again(hub, failure);
            }
        }
    }

    fn dial_owner(&mut self, hub: &mut Hub<Self>) {
        let (limits, has_copies) = (self.config.transfer, self.config.replicas > 1);
        let Some(join) = self.joining() else { return };
        join.reset_transfer(hub);
        if has_copies && !join.plain.contains(&join.owner.addr) {
            join.receiving = Receiving::new(Form::Versioned);
        }
        join.phase = Phase::Receive;
        join.deadline = Deadline::start(hub, &limits, limits.within, Timer::JoinDeadline);
        if join.deadline.is_none() {
            return self.try_again(hub, "no timer");
        }
        join.conn = Some(hub.dial(join.owner.addr, None, Conn::Join(Expect::Ack)));
    }

    /// A window of the transfer's deadline is over.
    pub(crate) fn join_window_over(&mut self, hub: &mut Hub<Self>) {
        let limits = self.config.transfer;
        let Some(join) = self.joining() else { return };
        let moved_bytes = join.receiving.moved_bytes();
        // Nothing is owed before the owner said `1`: it may have others to serve first.
        let owed = (join.phase == Phase::Receive && moved_bytes > 0).then_some(moved_bytes);
        if let Some(deadline) = &mut join.deadline
            && !deadline.go_on(hub, &limits, Timer::JoinDeadline, owed)
        {
            join.deadline = None;
            self.try_again(hub, "the owner of our range is too slow");
        }
    }

    pub(crate) fn join_dialled(&mut self, cx: &mut Cx<'_, Self>) {
        let id = self.me().id;
        let Some(join) = self.joining() else { return };
        let form = join.receiving.form();
        wire::put_request(cx.out(), &Request::Connect(id, form));
    }

    pub(crate) fn join_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        match expect {
            Expect::Ack => match wire::ack(input.bytes, input.seen)? {
                Some((true, used)) => {
                    *expect = Expect::Entries;
                    Ok(self.begin_receiving(cx, used))
                }
                Some((false, _)) => Err(Violation::us("the range was not its to give")),
                None => Ok(Step::More),
            },
            Expect::Entries => self.join_entry(cx, expect, input),
            Expect::Next => match wire::address(input.bytes, input.seen)? {
                Some((addr, used)) => {
                    *expect = Expect::Nothing;
                    self.join_next(cx, addr)?;
                    Ok(Step::Wait(used))
                }
                None => Ok(Step::More),
            },
            Expect::Nothing => Err(Violation::peer("it speaks unasked")),
        }
    }

    /// The owner begins to give us its range, so it does not count on what we have from another try.
    fn begin_receiving(&mut self, hub: &mut Hub<Self>, used: usize) -> Step {
        if let Some(join) = self.joining() {
            join.given = None;
            if join.leaves {
                self.drop_join(hub);
                return Step::Wait(used);
            }
        }
        if !self.is_locked() {
            let all = self.me().id;
            self.sweep(hub, all, all);
        }
        match self.lock_holder {
            LockHolder::Sweep(_) => Step::Wait(used),
            _ => Step::Took(used),
        }
    }

    /// The entries of another try are removed.
    pub(crate) fn join_swept(&mut self, hub: &mut Hub<Self>) {
        match &self.role {
            Role::Joining(join) if join.given_up => hub.stop(),
            Role::Joining(Join {
                phase: Phase::Receive,
                conn: Some(conn),
                ..
            }) => hub.resume(*conn),
            _ => {}
        }
    }

    fn join_entry(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let (conn, me, durable) = (cx.id(), self.me().id, self.config.durable);
        let value_bytes_max = self.config.value_bytes_max;
        let per_job = self.config.quanta.entries_per_job;
        let Some(join) = self.joining() else {
            return Err(Violation::us("the join is over"));
        };
        let owner = join.owner.id;
        let wants = |key: Id| key.in_arc(me, owner);
        let receiving = &mut join.receiving;
        let read = receiving.read(input.bytes, input.seen, value_bytes_max, wants)?;
        let Some((received, used)) = read else {
            return Ok(Step::More);
        };
        if receiving.is_complete() {
            *expect = Expect::Next;
        }
        let grows = receiving.staged_bytes() > 0 || matches!(received, Received::Entry(..));
        if let Received::Entry(key, version, value) = received
            && let Some(entry) = self.take_moved(key, version, value)
            && durable
            && let Some(join) = self.joining()
            && join.staging.push(key, entry, per_job)
        {
            self.stage_join(cx, conn);
        }
        if grows && self.is_over_memory() {
            let max_bytes = self.config.memory_bytes_max;
            self.give_up_join(
                cx,
                format_args!("our range does not fit into {max_bytes} bytes (memory_bytes_max)"),
            );
            return Err(Violation::us("memory_bytes_max reached"));
        }
        Ok(Step::Took(used))
    }

    /// All entries came, and the owner's next.
    fn join_next(&mut self, cx: &mut Cx<'_, Self>, addr: SocketAddrV4) -> Result<(), Violation> {
        let (conn, me, peer) = (cx.id(), self.me().id, cx.peer_v4());
        let Some(join) = self.joining() else {
            return Err(Violation::us("the join is over"));
        };
        if !address_policy::is_plausible(*peer.ip(), addr, join.owner.addr.port()) {
            return Err(Violation::peer("a next that it cannot know"));
        }
        let next = Member::at(addr);
        if next.id == me || !me.in_arc(join.owner.id, next.id) {
            return Err(Violation::peer("its next is not after us"));
        }
        join.next = Some(next);
        join.phase = Phase::Commit;
        self.stage_join(cx, conn);
        self.join_committed(cx);
        Ok(())
    }

    fn stage_join(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Some(join) = self.joining() else { return };
        if let Some(changes) = join.staging.take()
            && self
                .submit(hub, Changes::Many(changes), Then::Staged(conn))
                .is_err()
        {
            self.staged(hub, conn, false);
        }
    }

    /// Entries of a transfer came back from the worker.
    pub(crate) fn staged(&mut self, hub: &mut Hub<Self>, conn: ConnId, committed: bool) {
        match &mut self.role {
            Role::Joining(join) if join.conn == Some(conn) => {
                join.staging.came_back(committed);
                self.join_committed(hub);
            }
            _ => self.disconnect_staged(hub, conn, committed),
        }
    }

    /// Once all entries are here and committed, the next is told.
    fn join_committed(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Some(join) = self.joining() else { return };
        let Some(next) = join.next else { return };
        if join.phase != Phase::Commit || !join.staging.is_settled() {
            return;
        }
        if join.staging.is_failed() {
            self.try_again(hub, "the entries cannot be stored");
        } else if next == join.owner {
            // Two in the ring: a plain owner serves one connection at a time and waits for our address.
            self.give_address(hub);
        } else {
            join.phase = Phase::Update;
            let operation = Operation::update_prev(me.addr, next.addr, bounds);
            self.start_bounded(hub, operation, Tag::Join);
        }
    }

    /// The step with which ownership moves.
    fn give_address(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Some(join) = self.joining() else { return };
        let Some(out) = join.conn.and_then(|conn| hub.output_of(conn)) else {
            self.try_again(hub, "the owner closed the connection");
            return;
        };
        wire::put_address(out, me.addr);
        let (next, owner) = (join.next, join.owner);
        join.phase = Phase::Confirm { tries: 0 };
        join.given = next;
        if let Some(deadline) = join.deadline.take() {
            deadline.end(hub);
        }
        if next == Some(owner) {
            let operation = Operation::update_prev(me.addr, owner.addr, bounds);
            self.start_bounded(hub, operation, Tag::TakeBack);
        }
        self.join_step(hub);
    }

    /// The owner hung up without an answer: as a plain peer does upon XCONNECT.
    pub(crate) fn join_declined(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        match self.joining() {
            Some(join) if join.conn == Some(id) && join.receiving.form() == Form::Versioned => {
                join.plain.push(join.owner.addr);
                self.dial_owner(hub);
            }
            _ => self.join_ended(hub, id),
        }
    }

    pub(crate) fn join_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        let Some(join) = self.joining().filter(|join| join.conn == Some(id)) else {
            return;
        };
        join.conn = None;
        if matches!(join.phase, Phase::Receive | Phase::Commit) {
            self.try_again(hub, "the owner of our range broke off, or refused");
        }
    }

    fn try_again(&mut self, hub: &mut Hub<Self>, why: impl std::fmt::Display) {
        // A ring with copies that loses members heals, and takes joiners then.
        let copies = self.copies.is_on();
        let Some(join) = self.joining() else { return };
        join.phase = Phase::Pause;
        join.tries += 1;
        join.reset_transfer(hub);
        if let Some(conn) = join.conn.take() {
            hub.close_conn(conn);
        }
        let matters = join.listed || join.given.is_some() || copies;
        let goes_on = join.seeds.has_us() || matters && hub.now() < join.begun + LISTED_WITHIN;
        if join.tries >= TRIES_MAX && !goes_on {
            return self.give_up_join(hub, why);
        }
        if join.leaves && join.given.is_none() {
            return self.drop_join(hub);
        }
        let below = if join.tries < TRIES_MAX {
            PAUSE_TICKS_MAX
        } else {
            LONG_PAUSE_TICKS_MAX
        };
        let pause = Ticks(1 + hub.rng().random_range(0..below));
        join.say(hub.now(), why, pause);
        if hub.arm(pause, Timer::Join).is_none() {
            self.give_up_join(hub, "no timer");
        }
    }

    /// The join ends for good. Entries that the ring did not give away leave the disk first.
    fn give_up_join(&mut self, hub: &mut Hub<Self>, why: impl std::fmt::Display) {
        let (all, durable) = (self.me().id, self.config.durable);
        let Some(join) = self.joining() else { return };
        join.given_up = true;
        log::error!("the join is given up after {} tries: {why}", join.tries);
        join.reset_transfer(hub);
        let may_count_on_us = join.given.is_some();
        if let Some(conn) = join.conn.take() {
            hub.close_conn(conn);
        }
        if durable && !may_count_on_us {
            self.sweep(hub, all, all);
        } else {
            hub.stop();
        }
    }

    /// No seed is a member, and another one founds the ring.
    pub(super) fn no_seed_is_member(&mut self, hub: &mut Hub<Self>) {
        self.try_again(hub, "none of them is a member");
    }

    /// This node founds the ring, once the entries of a join before are gone.
    pub(super) fn drop_received(&mut self, hub: &mut Hub<Self>) {
        if !self.is_locked() {
            let all = self.me().id;
            self.sweep(hub, all, all);
        }
        self.try_again(hub, "none of them is a member any more");
    }

    fn joined(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Some(join) = self.joining() else { return };
        let Some(next) = join.given else { return };
        join.reset_transfer(hub);
        let (owner, conn, leaves) = (join.owner, join.conn.take(), join.leaves);
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        self.role = Role::Member;
        self.routing.claim_prev(owner);
        self.set_next(hub, next);
        log::info!("joined between {} and {}", owner.addr, next.addr);
        log::info!("joined, {} entries", self.entries.len());
        if next != owner {
            // Our next was told before the owner listed us. If it looked up its prev in that moment, the ring named the
            // owner, so it is told once more. `rejoin` relies on a prev that is right.
            let operation = Operation::update_prev(me.addr, next.addr, bounds);
            self.start_bounded(hub, operation, Tag::TellNext);
        }
        // The owner may have sent entries from beyond our next.
        if !self.is_locked() && !self.begin_recovery(hub) && !self.copies.is_on() {
            self.sweep(hub, next.id, self.me().id);
        }
        if leaves {
            self.leave(hub);
        }
    }

    /// The operator asks the node to leave while it joins: at once, unless the ring may count on it.
    pub(crate) fn leave_after_join(&mut self, hub: &mut Hub<Self>) {
        let Some(join) = self.joining() else { return };
        join.leaves = join.given.is_some();
        if !join.leaves {
            self.drop_join(hub);
        }
    }

    /// Gives the join up and ends the process; no other node relies on this one. The join must not go on in the turns
    /// until all connections are drained.
    fn drop_join(&mut self, hub: &mut Hub<Self>) {
        let Some(join) = self.joining() else { return };
        join.reset_transfer(hub);
        let (owner, conn) = (join.owner, join.conn.take());
        self.role = Role::Gone(owner);
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        hub.stop();
    }
}

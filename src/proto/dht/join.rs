//! We join a ring: CONNECT at the node that owns our id.
//!
//! ```text
//! Locate ─▶ Receive ─▶ Update ─▶ Confirm ─▶ a member
//!    └────────┴── a pause, and again ─┘
//! ```
//! Until the last step we are nobody: data commands are answered `0`, LOCATE with the owner of our range, UPDATE_PREV
//! with `1`. The last step of CONNECT has no ack, so we ask the ring for our own id until it says that it is
//! ours. When it says otherwise our address may still be under way. So what we were given is kept until an owner
//! answers `1` to another CONNECT, which it does only once it has given up the first: no other answer is
//! proof that the ring does not count on us.

use std::net::SocketAddrV4;

use rand::RngExt;

use crate::engine::{ConnId, Cx, Hub, Input, Step, Tick, Ticks, Violation};

use super::address_policy;
use super::client;
use super::disconnect::Staging;
use super::node::{Changes, Conn, DhtNode, LockHolder, Role, Tag, Then, Timer};
use super::operation::{Failure, Operation, Outcome, Verb};
use super::range_stream::{Received, Receiving};
use super::routing::Member;
use super::wire::{self, Request};

/// Tries before we give up: with their pauses about ten seconds, in which others may join and leave before us.
const TRIES_MAX: u32 = 20;

/// The ring lists us, or may: without us a range of it is out of reach, and what is in the way passes. The node before us may
/// be about to leave, for which it takes this long at most (see `leave`), or not know yet who follows us.
const LISTED_WITHIN: Ticks = Ticks::from_secs(120);

/// Invariant 8 of the specification.
const CONFIRM_TRIES_MAX: u32 = 3;
const CONFIRM_PAUSE: Ticks = Ticks::from_millis(200);

/// The pause before another try is drawn below this, so that joiners which hinder each other part.
const PAUSE_TICKS_MAX: u64 = Ticks::from_millis(500).0;

/// The same after [`TRIES_MAX`] tries: each has the node before us dial several others.
const LONG_PAUSE_TICKS_MAX: u64 = Ticks::from_secs(2).0;

#[derive(Debug)]
pub(super) struct Join {
    contacts: Vec<SocketAddrV4>,
    phase: Phase,
    tries: u32,
    begun: Tick,
    /// The ring names us as the owner of our range, and we have given nobody our address: we were killed, and come back.
    listed: bool,
    given_up: bool,
    /// Who owns our range; the first contact while that is not known.
    owner: Member,
    /// Our next, from when our address was sent until it is sure that it did not arrive.
    given: Option<Member>,
    /// Leave as soon as we know whether we have joined.
    leaves: bool,
    next: Option<Member>,
    conn: Option<ConnId>,
    receiving: Receiving,
    staging: Staging,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Who owns our id?
    Locate,
    /// CONNECT goes on.
    Receive,
    /// Entries are committed, then the next is told.
    Commit,
    Update,
    /// Our address is sent: does the owner know us?
    Confirm {
        tries: u32,
    },
    /// Until the next try.
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
    pub(super) fn contact(&self) -> Member {
        self.owner
    }

    /// The address may have been sent, so the ring may count on us.
    pub(super) fn is_perhaps_member(&self) -> bool {
        self.given.is_some()
    }
}

impl DhtNode {
    /// Joins the ring of any of `contacts`. Entries that the node holds are brought into the ring, see `bring`.
    ///
    /// # Panics
    /// If there are no contacts.
    pub fn join(&mut self, hub: &mut Hub<Self>, contacts: Vec<SocketAddrV4>) {
        let owner = Member::at(contacts[0]);
        self.set_recovered_aside();
        self.role = Role::Joining(Join {
            contacts,
            phase: Phase::Locate,
            tries: 0,
            begun: hub.now(),
            listed: false,
            given_up: false,
            owner,
            given: None,
            leaves: false,
            next: None,
            conn: None,
            receiving: Receiving::default(),
            staging: Staging::default(),
        });
        self.join_step(hub);
    }

    /// The join was given up.
    pub fn join_failed(&self) -> bool {
        matches!(&self.role, Role::Joining(join) if join.given_up)
    }

    /// Begins a try, or asks once more whether it came to its end.
    pub(super) fn join_step(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        let mut contacts = join.contacts.clone();
        match join.phase {
            // It knows first.
            Phase::Confirm { .. } => contacts.insert(0, join.owner.addr),
            _ => join.phase = Phase::Locate,
        }
        // If we have joined, our contacts and the owner may have left since, and the way round begins at our next.
        contacts.extend(join.given.map(|next| next.addr));
        let operation = Operation::new(Verb::After, me.id.pred(), contacts, bounds);
        client::start(self, hub, operation, Tag::Join);
    }

    /// What came of an operation of our join.
    pub(super) fn join_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let me = self.me();
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        match (join.phase, result) {
            (Phase::Locate | Phase::Confirm { .. }, Ok(Outcome::After { owner, .. }))
                if owner == me.addr && join.given.is_some() =>
            {
                self.joined(hub);
            }
            // The ring lists us already when we were killed and come back (RELIABILITY.md A22): who does finds out.
            (Phase::Locate, Ok(Outcome::After { before, owner }))
                if owner == before || owner == me.addr =>
            {
                join.listed = owner == me.addr;
                join.owner = Member::at(before);
                join.phase = Phase::Receive;
                join.receiving = Receiving::default();
                join.staging = Staging::default();
                join.conn = Some(hub.dial(before, None, Conn::Join(Expect::Ack)));
            }
            (Phase::Update, Ok(_)) => self.give_address(hub),
            (Phase::Confirm { tries }, _) if tries < CONFIRM_TRIES_MAX => {
                join.phase = Phase::Confirm { tries: tries + 1 };
                if hub.arm(CONFIRM_PAUSE, Timer::Join).is_none() {
                    self.try_again(hub, "no timer");
                }
            }
            (_, Ok(outcome)) => self.try_again(hub, format_args!("the ring says {outcome:?}")),
            (_, Err(failure)) => self.try_again(hub, failure),
        }
    }

    pub(super) fn join_dialled(&mut self, cx: &mut Cx<'_, Self>) {
        let id = self.me().id;
        wire::put_request(cx.out(), &Request::Connect(id));
    }

    pub(super) fn join_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Input { bytes, seen } = input;
        let (id, value_bytes_max) = (cx.id(), self.config.value_bytes_max);
        let (me, durable) = (self.me().id, self.config.durable);
        let Role::Joining(join) = &mut self.role else {
            return Err(Violation::us("the join is over"));
        };
        let used = match expect {
            Expect::Ack => match wire::ack(bytes, seen)? {
                Some((true, used)) => {
                    *expect = Expect::Entries;
                    return Ok(self.begin_join(cx, used));
                }
                Some((false, _)) => return Err(Violation::us("the range was not its to give")),
                None => return Ok(Step::More),
            },
            Expect::Entries => {
                let Some((received, used)) = join.receiving.read(bytes, seen, value_bytes_max)?
                else {
                    return Ok(Step::More);
                };
                if join.receiving.is_complete() {
                    *expect = Expect::Next;
                }
                if let Received::Entry(key, value) = received {
                    let filled = durable && join.staging.push(key, value.clone());
                    self.store_entry(key, value);
                    if filled {
                        self.stage_join(cx, id);
                    }
                }
                used
            }
            Expect::Next => {
                let Some((addr, used)) = wire::address(bytes, seen)? else {
                    return Ok(Step::More);
                };
                if !address_policy::is_plausible(*cx.peer_v4().ip(), addr, join.owner.addr.port()) {
                    return Err(Violation::peer("a next that it cannot know"));
                }
                let next = Member::at(addr);
                if next.id == me || !me.in_arc(join.owner.id, next.id) {
                    return Err(Violation::peer("its next is not after us"));
                }
                join.next = Some(next);
                join.phase = Phase::Commit;
                *expect = Expect::Nothing;
                self.stage_join(cx, id);
                self.join_committed(cx);
                return Ok(Step::Wait(used));
            }
            Expect::Nothing => return Err(Violation::peer("it speaks unasked")),
        };
        Ok(Step::Took(used))
    }

    /// An owner begins to give us its range: nobody counts on what we have from another try.
    fn begin_join(&mut self, hub: &mut Hub<Self>, used: usize) -> Step {
        if let Role::Joining(join) = &mut self.role {
            join.given = None;
            if join.leaves {
                self.drop_join(hub);
                return Step::Wait(used);
            }
        }
        if matches!(self.lock_holder, LockHolder::Nobody) {
            let all = self.me().id;
            self.sweep(hub, all, all);
        }
        match self.lock_holder {
            LockHolder::Sweep(_) => Step::Wait(used),
            _ => Step::Took(used),
        }
    }

    /// The entries of another try are removed.
    pub(super) fn join_swept(&mut self, hub: &mut Hub<Self>) {
        if let Role::Joining(Join {
            phase: Phase::Receive,
            conn: Some(conn),
            ..
        }) = self.role
        {
            hub.resume(conn);
        }
    }

    fn stage_join(&mut self, hub: &mut Hub<Self>, conn: ConnId) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        if let Some(changes) = join.staging.take()
            && !self.submit(hub, Changes::Many(changes), Then::Staged(conn))
        {
            self.staged(hub, conn, false);
        }
    }

    /// Entries of a transfer came back from the worker.
    pub(super) fn staged(&mut self, hub: &mut Hub<Self>, conn: ConnId, committed: bool) {
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
        let Role::Joining(join) = &mut self.role else {
            return;
        };
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
            client::start(self, hub, operation, Tag::Join);
        }
    }

    /// The step with which ownership moves.
    fn give_address(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        let Some(out) = join.conn.and_then(|conn| hub.output_of(conn)) else {
            self.try_again(hub, "the owner closed the connection");
            return;
        };
        wire::put_address(out, me.addr);
        let (next, owner) = (join.next, join.owner);
        join.phase = Phase::Confirm { tries: 0 };
        join.given = next;
        if next == Some(owner) {
            let operation = Operation::update_prev(me.addr, owner.addr, bounds);
            client::start(self, hub, operation, Tag::TakeBack);
        }
        self.join_step(hub);
    }

    pub(super) fn join_ended(&mut self, hub: &mut Hub<Self>, id: ConnId) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        if join.conn != Some(id) {
            return;
        }
        join.conn = None;
        if matches!(join.phase, Phase::Receive | Phase::Commit) {
            self.try_again(hub, "the owner of our range broke off, or refused");
        }
    }

    fn try_again(&mut self, hub: &mut Hub<Self>, why: impl std::fmt::Display) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        join.phase = Phase::Pause;
        join.tries += 1;
        join.next = None;
        if let Some(conn) = join.conn.take() {
            hub.close_conn(conn);
        }
        let matters = join.listed || join.given.is_some();
        if join.tries >= TRIES_MAX && !(matters && hub.now() < join.begun + LISTED_WITHIN) {
            join.given_up = true;
            log::error!("the join is given up after {} tries: {why}", join.tries);
            hub.stop();
            return;
        }
        if join.leaves && join.given.is_none() {
            return self.drop_join(hub);
        }
        log::info!("try {} to join: {why}", join.tries);
        let below = if join.tries < TRIES_MAX {
            PAUSE_TICKS_MAX
        } else {
            LONG_PAUSE_TICKS_MAX
        };
        let pause = Ticks(1 + hub.rng().random_range(0..below));
        if hub.arm(pause, Timer::Join).is_none() {
            hub.stop();
        }
    }

    fn joined(&mut self, hub: &mut Hub<Self>) {
        let (me, bounds) = (self.me(), self.bounds());
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        let Some(next) = join.given else { return };
        let (owner, conn, leaves) = (join.owner, join.conn.take(), join.leaves);
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        self.role = Role::Member;
        self.routing.claim_prev(owner);
        self.set_next(hub, next);
        log::info!("joined between {} and {}", owner.addr, next.addr);
        if next != owner {
            // What it asked the ring before our owner knew us may have made it forget us again, and for whom it takes as
            // its prev matters to who dies (see `rejoin`).
            let operation = Operation::update_prev(me.addr, next.addr, bounds);
            client::start(self, hub, operation, Tag::TellNext);
        }
        // An owner may hand over more than our range.
        if matches!(self.lock_holder, LockHolder::Nobody) && !self.begin_recovery(hub) {
            self.sweep(hub, next.id, self.me().id);
        }
        if leaves {
            self.leave(hub);
        }
    }

    /// Asked to leave in the middle of it: at once, unless the ring may count on us.
    pub(super) fn leave_after_join(&mut self, hub: &mut Hub<Self>) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        join.leaves = join.given.is_some();
        if !join.leaves {
            self.drop_join(hub);
        }
    }

    /// The process ends, and nobody counts on us. It still has its turns until all connections are drained: in none of
    /// them may it go on to join.
    fn drop_join(&mut self, hub: &mut Hub<Self>) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        let (owner, conn) = (join.owner, join.conn.take());
        self.role = Role::Gone(owner);
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        hub.stop();
    }
}

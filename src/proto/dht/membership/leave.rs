//! Leaves the ring: DISCONNECT at the node before us, the heir, which takes our range.
//!
//! ```text
//! Find ─▶ Settle ─▶ Ask ─▶ Send ─▶ Await ──1──▶ gone
//!   ▲        └──────┴───────┴────0──┘ │ no answer
//!   └── Pause ◀───────────────────────┘
//! ```
//! Ask is for an heir that may know versions: it says so before the entries are sent. A plain one hangs up, and is sent a
//! plain DISCONNECT.
//!
//! Writes are fenced from Settle on. From Await on the range may be the heir's already, so this node does not serve it
//! unless the heir answers `0`.
//!
//! When the connection breaks before the ack, the leave is uncertain. If the node before us says that it owns our id, the
//! range is gone. If not, it may still be about to take the range: this node serves nothing and sends another DISCONNECT,
//! for which the heir gives up the first. If that one is answered `0` and the node before us still names us, the range
//! stayed ours.
//!
//! In a pause that is not uncertain, the node is an ordinary member that takes no joiner, but takes a leaver. So of two
//! neighbours that leave at once one takes the other's range.

use std::net::SocketAddrV4;

use rand::RngExt;

use crate::engine::{ConnId, Cx, End, Hub, Input, Step, Tick, Ticks, Violation};

use super::lock::Deadline;
use crate::proto::dht::node::{Conn, DhtNode, LockHolder, Role, Tag, Timer};
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};
use crate::proto::dht::storage::commit::WritesBefore;
use crate::proto::dht::storage::range_stream::{Sending, Sent};
use crate::proto::dht::wire::{self, Form, NextNode, Request};

/// How often the log says what a leave waits for, when that is new.
const SAID_EVERY: Ticks = Ticks::from_secs(2);

/// The pause before another try is drawn below this.
const PAUSE_TICKS_MAX: u64 = Ticks::from_millis(400).0;

#[derive(Debug)]
pub(crate) struct Leave {
    phase: Phase,
    /// The leave is over by then, see [`crate::proto::dht::node::Config::leave_within`].
    until: Tick,
    /// Why the last try failed, and what was last said of this.
    why: String,
    said: String,
    /// The node before us; ourselves while that is not known.
    heir: Member,
    conn: Option<ConnId>,
    /// Heirs that know no versions.
    plain: Vec<SocketAddrV4>,
    sending: Sending,
    deadline: Option<Deadline>,
    /// All was sent once, and no answer came.
    uncertain: bool,
    /// A later DISCONNECT was refused, so nothing of the first is under way any more.
    refused: bool,
}

/// What outlives [`Leave`].
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// The leave ends by then.
    until: Option<Tick>,
    /// Entries that nobody took.
    kept_entries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The node before us is looked up.
    Find,
    /// Writes that the worker had before come back.
    Settle(WritesBefore),
    /// The heir is asked whether it knows versions.
    Ask,
    Send,
    /// Everything is sent.
    Await,
    Pause,
}

impl Leave {
    /// What is awaited, in words.
    fn waits_for(&self) -> String {
        let heir = self.heir.addr;
        match self.phase {
            Phase::Settle { .. } => "our own writes".to_owned(),
            Phase::Ask => format!("{heir} does not answer"),
            Phase::Send => format!("{heir} takes our entries"),
            Phase::Await => format!("{heir} has our entries and does not say that it took them"),
            Phase::Find | Phase::Pause if self.why.is_empty() => {
                "the node before us is looked for".to_owned()
            }
            Phase::Find | Phase::Pause => self.why.clone(),
        }
    }

    /// Reads and new writes are still ours to answer.
    pub(crate) fn serves(&self) -> bool {
        !self.uncertain && self.phase != Phase::Await
    }

    #[cfg(test)]
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// Writes are fenced.
    pub(crate) fn moves(&self) -> bool {
        !self.pauses()
    }

    /// Another node is being given our range, or was.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.uncertain || matches!(self.phase, Phase::Send | Phase::Await)
    }

    /// Nothing of our leave is under way at another node.
    pub(crate) fn pauses(&self) -> bool {
        !self.uncertain && matches!(self.phase, Phase::Find | Phase::Pause)
    }
}

impl DhtNode {
    /// Hands everything over and stops the driver. A lone node just stops.
    pub fn leave(&mut self, hub: &mut Hub<Self>) {
        match self.role {
            Role::Member => {}
            Role::Joining(_) => return self.leave_after_join(hub),
            Role::Leaving(_) | Role::Gone(_) => return,
        }
        let me = self.me();
        self.role = Role::Leaving(Leave {
            phase: Phase::Find,
            until: hub.now() + self.config.leave_within,
            why: String::new(),
            said: String::new(),
            heir: me,
            conn: None,
            plain: Vec::new(),
            sending: Sending::new(me.id, me.id, Form::Plain),
            deadline: None,
            uncertain: false,
            refused: false,
        });
        self.leaving.until = Some(hub.now() + self.config.leave_within);
        if !self.arm_leave_limit(hub) {
            return self.end_leave(hub);
        }
        self.leave_step(hub);
    }

    /// Begins a try, or asks again whether the last one succeeded.
    pub(crate) fn leave_step(&mut self, hub: &mut Hub<Self>) {
        let (me, next, bounds) = (self.me(), self.routing.next(), self.bounds());
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        if self.routing.is_alone() {
            // The joiner will take the entries.
            return match self.lock_holder {
                LockHolder::HandOff(_) => self.pause_leave(hub, "somebody joins here"),
                _ => hub.stop(),
            };
        }
        leave.phase = Phase::Find;
        if self.heartbeat.watch.is_suspect(hub.now()) {
            // A heir cannot take us over while our next does not answer it.
            self.suspect_next(hub);
        }
        let Role::Leaving(leave) = &self.role else {
            return;
        };
        if let Some(heir) = self.heartbeat.leased_by(hub.now()) {
            // It has us as its next, and said so just now.
            let (before, owner) = (heir.addr, me.addr);
            return self.leave_told(hub, Ok(Outcome::After { before, owner }));
        }
        // Both may have left since; any other member knows the ring too.
        let others = self.routing.fingers().iter().copied();
        let contacts = [next, leave.heir]
            .into_iter()
            .chain(others)
            .chain(self.routing.prev())
            .filter(|member| *member != me)
            .map(|member| member.addr)
            .collect();
        let operation = Operation::new(Verb::After, me.id.pred(), contacts, bounds);
        self.start_bounded(hub, operation, Tag::Leave);
    }

    pub(crate) fn leave_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let me = self.me();
        // Without a lease and with our id owned by the node before us, we were taken for dead; it has our entries.
        let deposed = self.copies.is_on() && !self.heartbeat.holds_lease(hub.now());
        let busy = !matches!(self.lock_holder, LockHolder::Nobody);
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        match result {
            Ok(Outcome::After { before, owner })
                if owner == before && (leave.uncertain || deposed) =>
            {
                leave.heir = Member::at(before);
                self.gone(hub);
            }
            Ok(Outcome::After { owner, .. }) if owner == me.addr && leave.refused => {
                (leave.uncertain, leave.refused) = (false, false);
                self.pause_leave(hub, "the heir gave up");
            }
            Ok(_) if busy => self.pause_leave(hub, "somebody joins or leaves here"),
            Ok(Outcome::After { before, owner }) if owner == me.addr && before != me.addr => {
                leave.heir = Member::at(before);
                let before = self.writes_before();
                let Role::Leaving(leave) = &mut self.role else {
                    return;
                };
                leave.phase = Phase::Settle(before);
                self.leave_settled(hub);
            }
            Ok(_) => self.pause_leave(hub, "the ring knows nobody before us"),
            Err(failure) => self.pause_leave(hub, failure),
        }
    }

    /// A write came back from the worker.
    pub(crate) fn leave_settled(&mut self, hub: &mut Hub<Self>) {
        if let Role::Leaving(leave) = &self.role
            && let Phase::Settle(before) = leave.phase
            && self.are_over(before)
            && let Role::Leaving(leave) = &mut self.role
        {
            let limits = &self.config.transfer;
            leave.deadline = Deadline::start(hub, limits, limits.within, Timer::LeaveDeadline);
            if leave.deadline.is_none() {
                return self.pause_leave(hub, "no timer is to be had");
            }
            self.dial_heir(hub);
        }
    }

    fn dial_heir(&mut self, hub: &mut Hub<Self>) {
        let (me, next) = (self.me().id, self.routing.next().id);
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        let form = match leave.plain.contains(&leave.heir.addr) {
            false if self.config.replicas > 1 => Form::Versioned,
            _ => Form::Plain,
        };
        leave.sending = Sending::new(me, next, form);
        leave.phase = match form {
            Form::Plain => Phase::Send,
            Form::Versioned => Phase::Ask,
        };
        leave.conn = Some(hub.dial(
            leave.heir.addr,
            self.config.dial_from.map(Into::into),
            Conn::Leave,
        ));
    }

    /// A window of the transfer's deadline is over.
    pub(crate) fn leave_window_over(&mut self, hub: &mut Hub<Self>) {
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        let sends = leave.phase == Phase::Send && leave.sending.moved_bytes() > 0;
        let queued_bytes = leave.conn.map_or(0, |conn| hub.queued_of(conn));
        let moved_bytes = sends.then(|| leave.sending.taken_bytes(queued_bytes));
        let limits = &self.config.transfer;
        if let Some(deadline) = &mut leave.deadline
            && !deadline.go_on(hub, limits, Timer::LeaveDeadline, moved_bytes)
        {
            leave.deadline = None;
            // Its end decides whether the leave is uncertain.
            if let Some(conn) = leave.conn {
                hub.close_conn(conn);
            }
        }
    }

    pub(crate) fn leave_dialled(&mut self, cx: &mut Cx<'_, Self>) {
        let next = NextNode::Addr(self.routing.next().addr);
        let Role::Leaving(leave) = &self.role else {
            return;
        };
        let form = leave.sending.form();
        wire::put_request(cx.out(), &Request::Disconnect(next, form));
        self.leave_some(cx);
    }

    /// Sends entries as far as there is room.
    pub(crate) fn leave_some(&mut self, cx: &mut Cx<'_, Self>) {
        let id = cx.id();
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        if leave.conn != Some(id) || leave.phase != Phase::Send {
            return;
        }
        leave.sending.log_progress(cx.now());
        match leave.sending.step(&self.entries, &self.config.quanta, cx) {
            Sent::Again => cx.notify(id, crate::proto::dht::node::Note::Go),
            Sent::Full => {}
            Sent::Changed => cx.close(),
            Sent::All => leave.phase = Phase::Await,
        }
    }

    pub(crate) fn leave_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some((yes, used)) = wire::ack(input.bytes, input.seen)? else {
            return Ok(Step::More);
        };
        let (id, Role::Leaving(leave)) = (cx.id(), &mut self.role) else {
            return Err(Violation::us("the leave is over"));
        };
        if leave.conn != Some(id) {
            return Err(Violation::us("the leave is over"));
        }
        match (yes, leave.phase) {
            (true, Phase::Await) => self.gone(cx),
            (true, Phase::Ask) => {
                leave.phase = Phase::Send;
                self.leave_some(cx);
            }
            (true, _) => return Err(Violation::peer("it takes what was not sent")),
            (false, _) => {
                leave.refused = leave.uncertain;
                self.pause_leave(cx, "the heir says no");
            }
        }
        Ok(Step::Done(used))
    }

    /// The heir that this node leaves by is not its prev any more: another try, at the one that is.
    pub(crate) fn leave_follows_prev(&mut self, hub: &mut Hub<Self>) {
        let prev = self.routing.prev();
        if let Role::Leaving(leave) = &self.role
            && let Some(conn) = leave.conn
            && prev.is_some_and(|prev| prev != leave.heir)
        {
            hub.close_conn(conn);
        }
    }

    pub(crate) fn leave_ended(&mut self, hub: &mut Hub<Self>, id: ConnId, end: &End) {
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        if leave.conn != Some(id) {
            return;
        }
        leave.conn = None;
        if leave.phase == Phase::Ask && matches!(end, End::Eof | End::Broken(_)) {
            leave.plain.push(leave.heir.addr);
            return self.dial_heir(hub);
        }
        if leave.phase == Phase::Await {
            (leave.uncertain, leave.refused) = (true, false);
        }
        self.pause_leave(hub, "the heir broke off");
    }

    /// Another try, after a pause. The range is ours meanwhile, unless that is uncertain.
    fn pause_leave(&mut self, hub: &mut Hub<Self>, why: impl std::fmt::Display) {
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        log::info!("leaving takes another try: {why}");
        leave.why = why.to_string();
        leave.phase = Phase::Pause;
        if let Some(deadline) = leave.deadline.take() {
            deadline.end(hub);
        }
        if let Some(conn) = leave.conn.take() {
            hub.close_conn(conn);
        }
        if !leave.uncertain {
            self.release_fenced_writes(hub);
        }
        self.arm_leave(hub);
    }

    fn arm_leave(&mut self, hub: &mut Hub<Self>) {
        let Role::Leaving(leave) = &self.role else {
            return;
        };
        let late = leave.until <= hub.now();
        let pause = Ticks(1 + hub.rng().random_range(0..PAUSE_TICKS_MAX));
        if late || hub.arm(pause, Timer::Leave).is_none() {
            self.end_leave(hub);
        }
    }

    #[must_use]
    fn arm_leave_limit(&self, hub: &mut Hub<Self>) -> bool {
        let now = hub.now();
        let left = self.leaving.until.filter(|until| *until > now);
        let pause = left.map_or(SAID_EVERY, |until| (until - now).min(SAID_EVERY));
        hub.arm(pause, Timer::LeaveLimit).is_some()
    }

    /// [`SAID_EVERY`] has passed, or the time of the leave is over.
    pub(crate) fn leave_looked_at(&mut self, hub: &mut Hub<Self>) {
        match &mut self.role {
            Role::Leaving(leave) if leave.until > hub.now() => {
                let said = leave.waits_for();
                if said != leave.said {
                    log::warn!("leaving waits: {said}");
                    leave.said = said;
                }
                if !self.arm_leave_limit(hub) {
                    self.end_leave(hub);
                }
            }
            Role::Leaving(_) => self.end_leave(hub),
            // What is still awaited is for others.
            Role::Gone(_) if self.leaving.until.is_none_or(|until| until <= hub.now()) => {
                hub.stop()
            }
            Role::Gone(_) => {
                if !self.arm_leave_limit(hub) {
                    hub.stop();
                }
            }
            Role::Member | Role::Joining(_) => {}
        }
    }

    /// The process ends with its range. A durable node has it on its disk.
    fn end_leave(&mut self, hub: &mut Hub<Self>) {
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        if let Some(deadline) = leave.deadline.take() {
            deadline.end(hub);
        }
        let (conn, why) = (leave.conn.take(), leave.waits_for());
        // LOCATE needs an answer in the turns until all connections are drained.
        let heir = if leave.uncertain || leave.phase == Phase::Await {
            leave.heir
        } else {
            self.routing.next()
        };
        let entries = self.entries.len() + self.recovered.len();
        self.leaving.kept_entries = entries;
        let end = if self.config.durable {
            "they stay on the disk"
        } else {
            "they are lost"
        };
        log::error!("nobody has taken our {entries} entries ({why}); {end}");
        self.role = Role::Gone(heir);
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        hub.stop();
    }

    /// Entries that nobody took when this node left, or of which nobody said so. On the disk of a durable node.
    pub fn kept_entries(&self) -> usize {
        self.leaving.kept_entries
    }

    /// The range is the heir's.
    fn gone(&mut self, hub: &mut Hub<Self>) {
        let Role::Leaving(leave) = &mut self.role else {
            return;
        };
        let (heir, conn) = (leave.heir, leave.conn.take());
        if let Some(deadline) = leave.deadline.take() {
            deadline.end(hub);
        }
        log::info!("left; {} has our {} entries", heir.addr, self.entries.len());
        if !self.recovered.is_empty() {
            log::warn!(
                "{} entries of other ranges are left on the disk",
                self.recovered.len()
            );
        }
        if let Some(conn) = conn {
            hub.close_conn(conn);
        }
        self.role = Role::Gone(heir);
        self.release_fenced_writes(hub);
        let next = self.routing.next();
        if next != heir {
            // Some implementations leave this to the leaver; from other heirs our next has heard it already. The process ends
            // after its answer, or when the time of the leave is over.
            let once = Bounds {
                attempts_max: 3,
                ..self.bounds()
            };
            let operation = Operation::update_prev(heir.addr, next.addr, once);
            self.start_bounded(hub, operation, Tag::TellNext);
        }
        let all = self.me().id;
        self.sweep(hub, all, all);
    }

    /// Stops the driver of a node that has left, once every answer that it owes is sent.
    pub(crate) fn swept(&mut self, hub: &mut Hub<Self>) {
        // Peers wait for these. A finger look-up has no use any more.
        let awaited = self
            .operations
            .tags()
            .any(|tag| matches!(tag, Tag::Forward { .. } | Tag::TellNext));
        let quiet = !awaited && matches!(self.lock_holder, LockHolder::Nobody);
        if matches!(self.role, Role::Gone(_)) && quiet {
            hub.stop();
        }
    }
}

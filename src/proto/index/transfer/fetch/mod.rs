//! Downloads a file from all its holders at once, checks its SHA-1, and has it named.
//!
//! ```text
//!   online ─▶ dial holders ─▶ ask ranges ─▶ store ─┬─▶ whole? check ─┬─▶ right: finish ─▶ log out, end
//!                 ▲              ▲                 │                 │
//!                 └── lost       └─────────────────┘                 └─▶ wrong: drop liars, fetch again
//! ```
//! - [`super::ranges`]: which range is asked of which holder, and who lied; `holder`: the state of a holder.
//! - `connections`: dialling holders, and receiving ranges; `find_holders`: asking the index for more.
//! - `task`: the task, the jobs of the worker, the report.
//!
//! A range is received whole into memory and then given to the worker: two holders never write into one range, and a
//! connection that breaks leaves nothing. While the worker is behind, connections wait.
//!
//! A lost holder is dialled again a few times. A slow one loses its ranges to others and is asked again only if no other
//! is left. One that lies, refuses or breaks the protocol is dropped. The [`Report`] has it all.
//!
//! Invariants: ranges in memory are at most [`AT_ONCE_MAX`] + 2 `STORES_MAX`, spare buffers included; the worker has at
//! most one check or finish under way; every range that is asked is in its holder's `asked`, in the order of asking.
//!
//! Not here: files and hashes (jobs of the worker).

mod connections;
mod find_holders;
mod holder;
mod task;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::{Blame, ConnId, Cx, End, Hub, Input, Limits, Service, Step, Ticks, Violation};
use crate::proto::index::call::Answer;
use crate::proto::index::client::{self, Host, Patience, Presence, Session, SessionTimer, Stay};

use super::RANGE_BYTES;
use super::ranges::{Plan, Verdict};

use holder::{Holder, Link, Search};
pub use task::{Deeds, DiskFault, Done, Failure, Job, Progress, Report, Source, Wanted, Why};

/// Holders that are connected at once.
pub const AT_ONCE_MAX: usize = 8;

/// Ranges that are being written.
const STORES_MAX: usize = 6;

/// Idle holders get ranges of slow ones, and lost ones are dialled again, this often.
const LOOK_EVERY: Ticks = Ticks::from_millis(100);

/// A holder that is silent for this long is lost. It may have to ask the index about us first.
const SILENCE: Ticks = Ticks::from_secs(20);

/// The logout at the end may take this long.
const LEAVE: Ticks = Ticks::from_secs(3);

/// The limits of a node that downloads, from those of any.
pub fn limits(base: Limits) -> Limits {
    Limits {
        idle: SILENCE,
        // A frame of the index server must fit.
        input_bytes_max: base.input_bytes_max.max(128 << 10),
        ..base
    }
}

/// The phase of the download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not online yet.
    Begin,
    /// Ranges are asked for.
    Fetch,
    /// The worker checks the SHA-1.
    Check,
    /// The worker names the file.
    Finish,
    /// The result is known; only the logout is under way.
    Over,
}

/// A connection: to the index, or to a holder.
#[derive(Debug, Clone, Copy)]
pub enum Conn {
    Index,
    Holder(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    Session(SessionTimer),
    /// The login takes too long. One, before the first login.
    Begin,
    /// Idle and lost holders are looked after. One, from the first login to the end.
    Look,
    /// The logout takes too long. One.
    GiveUp,
}

/// The calls to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Logout,
    Holders,
}

/// See the module.
pub struct Fetcher {
    wanted: Wanted,
    patience: Patience,
    session: Session<Asked>,
    stay: Option<Stay>,
    plan: Plan,
    holders: Vec<Holder>,
    search: Search,
    /// The last failure of the login.
    trouble: Option<client::Failure>,
    phase: Phase,
    /// [`Job::Store`]s under way.
    stores: usize,
    /// Buffers for the next ranges, at most [`STORES_MAX`].
    spare: Vec<Vec<u8>>,
    progress: Arc<Progress>,
    received_bytes: u64,
    resumed_bytes: u64,
    result: Option<Result<(), Failure>>,
}

impl Fetcher {
    /// Fetches the ranges that `have` lacks. With `stay` it is online meanwhile and logs out at the end; without, another
    /// process of the user is. `patience` is for the index.
    pub fn new(
        mut wanted: Wanted,
        have: &[bool],
        (server, patience): (SocketAddr, Patience),
        stay: Option<Stay>,
        progress: Arc<Progress>,
    ) -> Fetcher {
        wanted.sources.truncate(super::ranges::HOLDERS_MAX);
        let holders: Vec<Holder> = wanted.sources.iter().map(Holder::new).collect();
        let plan = Plan::new(have, holders.len());
        let mut fetcher = Fetcher {
            session: Session::new(server, patience),
            patience,
            stay,
            plan,
            holders,
            search: Search::default(),
            trouble: None,
            phase: Phase::Begin,
            stores: 0,
            spare: Vec::new(),
            progress,
            received_bytes: 0,
            resumed_bytes: 0,
            result: None,
            wanted,
        };
        fetcher.resumed_bytes = fetcher.have_bytes();
        fetcher.show();
        fetcher
    }

    pub fn into_report(self) -> Report {
        let deeds = self.holders.into_iter().map(|h| h.deeds);
        Report {
            result: self.result.unwrap_or(Err(Failure::Interrupted)),
            holders: self.search.tried.into_iter().chain(deeds).collect(),
            received_bytes: self.received_bytes,
            resumed_bytes: self.resumed_bytes,
        }
    }

    fn go(&mut self, hub: &mut Hub<Fetcher>) {
        self.phase = Phase::Fetch;
        self.search.begin(hub.now());
        if self.arm(hub, LOOK_EVERY, Timer::Look) {
            self.staff(hub);
            self.check(hub);
        }
    }

    /// Arms a timer; without one nothing may ever happen again, so the download ends.
    fn arm(&mut self, hub: &mut Hub<Fetcher>, after: Ticks, timer: Timer) -> bool {
        let armed = hub.arm(after, timer).is_some();
        if !armed {
            self.end(hub, Err(Failure::Limit("timers_max")));
        }
        armed
    }

    fn have_bytes(&self) -> u64 {
        (self.plan.have() as u64 * RANGE_BYTES).min(self.wanted.size_bytes)
    }

    fn show(&self) {
        let have = &self.progress.have_bytes;
        have.store(self.have_bytes(), Ordering::Relaxed);
    }

    fn end(&mut self, hub: &mut Hub<Fetcher>, result: Result<(), Failure>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        self.result = Some(result);
        for holder in 0..self.holders.len() {
            self.hang_up(hub, holder, Link::Idle);
        }
        let leaves = self.session.is_online()
            && client::leave(self, hub, Asked::Logout).is_some()
            && hub.arm(LEAVE, Timer::GiveUp).is_some();
        if !leaves {
            hub.stop();
        }
    }

    /// Dials holders while more are of use.
    fn staff(&mut self, hub: &mut Hub<Fetcher>) {
        if self.phase != Phase::Fetch {
            return;
        }
        let now = hub.now();
        for holder in 0..self.holders.len() {
            if self.connected() >= self.useful() {
                return self.replace_slow(hub);
            }
            match self.holders[holder].link {
                Link::Idle => self.dial(hub, holder),
                Link::Lost { until } if until <= now => self.dial(hub, holder),
                _ => {}
            }
        }
        if self.connected() > 0 || self.count(|link| matches!(link, Link::Lost { .. })) > 0 {
            return;
        }
        // A slow holder is better than none.
        match (0..self.holders.len()).find(|h| self.holders[*h].link == Link::Slow) {
            Some(holder) => self.dial(hub, holder),
            None => self.nobody_is_left(hub),
        }
    }

    fn count(&self, which: impl Fn(&Link) -> bool) -> usize {
        self.holders.iter().filter(|h| which(&h.link)).count()
    }

    fn connected(&self) -> usize {
        self.count(|link| matches!(link, Link::Dialling(_) | Link::Up(_)))
    }

    /// Number of connections that are of use.
    fn useful(&self) -> usize {
        if self.plan.asks_one() { 1 } else { AT_ONCE_MAX }
    }

    fn submit(&mut self, hub: &mut Hub<Fetcher>, job: Job) {
        if hub.submit(job).is_err() {
            let fault = DiskFault("the worker has too much to do (jobs_max)".into());
            self.end(hub, Err(Failure::Disk(fault)));
        }
    }

    /// Has the file checked, once it is whole.
    fn check(&mut self, hub: &mut Hub<Fetcher>) {
        if self.phase == Phase::Fetch && self.plan.is_whole() {
            self.phase = Phase::Check;
            self.submit(hub, Job::Check);
        }
    }

    fn checked(&mut self, hub: &mut Hub<Fetcher>, right: bool) {
        if right {
            for liar in self.plan.liars() {
                self.drop(hub, liar, Why::WrongBytes);
            }
            self.phase = Phase::Finish;
            return self.submit(hub, Job::Finish);
        }
        match self.plan.is_wrong() {
            Verdict::Liars(liars) => {
                for liar in liars {
                    self.drop(hub, liar, Why::WrongBytes);
                }
            }
            Verdict::Reference => {
                log::warn!(
                    "the SHA-1 is wrong: one holder is asked for the whole, to see who lied"
                );
            }
        }
        self.phase = Phase::Fetch;
        self.show();
        self.staff(hub);
        self.feed_all(hub);
        // A file without ranges is whole at once, and wrong again.
        self.check(hub);
    }

    fn stored(&mut self, hub: &mut Hub<Fetcher>, done: Done) {
        let Done::Stored {
            holder,
            range,
            bytes,
            result,
        } = done
        else {
            return;
        };
        self.stores -= 1;
        self.reuse(bytes);
        match result {
            Ok(stored) => self.plan.stored(holder, range, stored),
            Err(fault) => return self.end(hub, Err(Failure::Disk(fault))),
        }
        self.show();
        for holder in &mut self.holders {
            if let (true, Link::Up(conn)) = (holder.rests, &holder.link) {
                holder.rests = false;
                hub.resume(*conn);
            }
        }
        self.check(hub);
    }
}

impl From<SessionTimer> for Timer {
    fn from(timer: SessionTimer) -> Timer {
        Timer::Session(timer)
    }
}

impl Host for Fetcher {
    type Tag = Asked;

    fn session(&mut self) -> &mut Session<Asked> {
        &mut self.session
    }

    fn conn() -> Conn {
        Conn::Index
    }

    fn on_answer(
        &mut self,
        hub: &mut Hub<Self>,
        asked: Asked,
        result: Result<Answer, client::Failure>,
    ) {
        match asked {
            Asked::Logout => hub.stop(),
            Asked::Holders => self.found(hub, result),
        }
    }

    fn on_presence(&mut self, hub: &mut Hub<Self>, presence: Presence) {
        match presence {
            Presence::Online if self.phase == Phase::Begin => self.go(hub),
            Presence::Online => {}
            Presence::Lost(failure) if self.phase == Phase::Begin => self.trouble = Some(failure),
            // Holders may still know us as online, and the session goes on trying.
            Presence::Lost(failure) => log::warn!("{failure}"),
            Presence::Refused(why) => self.end(hub, Err(Failure::Index(why.to_string()))),
        }
    }
}

impl Service for Fetcher {
    type Conn = Conn;
    type Note = ();
    type Timer = Timer;
    type Job = Job;
    type Done = Done;

    fn on_start(&mut self, hub: &mut Hub<Fetcher>) {
        match self.stay.clone() {
            Some(stay) => {
                if self.arm(hub, self.patience.call, Timer::Begin) {
                    client::stay_online(self, hub, stay);
                }
            }
            None => self.go(hub),
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn) {
        match *conn {
            Conn::Index => client::dialled(self, cx),
            Conn::Holder(holder) => {
                let id = cx.id();
                if self.holders[holder].link == Link::Dialling(id) {
                    self.holders[holder].link = Link::Up(id);
                    self.holders[holder].last = cx.now();
                    self.plan.set_ready(holder, true);
                    self.feed(cx, holder);
                }
            }
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        match *conn {
            Conn::Index => client::input(self, cx, input),
            Conn::Holder(holder) => self.holder_input(cx, holder, input),
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Conn, end: End) {
        let holder = match conn {
            Conn::Index => return client::ended(self, hub, id, end),
            Conn::Holder(holder) => holder,
        };
        let link = &self.holders[holder].link;
        if !matches!(link, Link::Dialling(conn) | Link::Up(conn) if *conn == id) {
            return;
        }
        match end {
            End::Violation(Violation {
                blame: Blame::Peer,
                what,
            }) => self.drop(hub, holder, Why::Malformed(what)),
            end => self.lose(hub, holder, end),
        }
        self.staff(hub);
        self.feed_all(hub);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Session(timer) => client::fire(self, hub, timer),
            Timer::Begin if self.phase == Phase::Begin => {
                let why = self.trouble.take().map(|failure| failure.to_string());
                let why = why.unwrap_or_else(|| "it is busy for too long".into());
                self.end(hub, Err(Failure::Index(why)));
            }
            Timer::Look if self.phase != Phase::Over => {
                if self.arm(hub, LOOK_EVERY, Timer::Look) {
                    self.ask_if_due(hub);
                    self.staff(hub);
                    self.feed_all(hub);
                }
            }
            Timer::Begin | Timer::Look => {}
            Timer::GiveUp => hub.stop(),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: Done) {
        match done {
            Done::Stored { .. } => self.stored(hub, done),
            Done::Checked(Ok(None)) => self.submit(hub, Job::Check),
            Done::Checked(Ok(Some(right))) => self.checked(hub, right),
            Done::Finished(Ok(())) => self.end(hub, Ok(())),
            Done::Checked(Err(fault)) | Done::Finished(Err(fault)) => {
                self.end(hub, Err(Failure::Disk(fault)));
            }
        }
    }

    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        self.end(hub, Err(Failure::Interrupted));
    }
}

#[cfg(test)]
mod tests;

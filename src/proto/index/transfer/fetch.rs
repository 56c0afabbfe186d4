//! Fetching: a file from all its holders at once, until it is there, right, and has its name.
//!
//! ```text
//!   online ─▶ dial holders ─▶ ask ranges ─▶ store ─┬─▶ whole? check ─┬─▶ right: finish ─▶ log out, end
//!                 ▲              ▲                 │                 │
//!                 └── lost       └─────────────────┘                 └─▶ wrong: who lied? fetch that anew
//! ```
//! [`super::plan`] says who is asked for what and who lied; the worker writes, compares and hashes. A range is taken
//! whole into memory and then given to the worker, so two holders never write into one range, and what breaks off in the
//! middle leaves nothing. When the worker is behind, connections rest.
//!
//! A holder whose connection is lost is dialled again a few times; one that is slow loses its ranges to the others and is
//! asked again only when nobody else is left; one that lies, refuses or does not speak the protocol is dropped. All
//! that is told in the [`Report`].
//!
//! Invariants: bytes held in memory are bounded by [`AT_ONCE_MAX`] and [`STORES_MAX`] ranges; the worker has one check or
//! one finish under way at most; every range that is asked stands in its holder's `asked`, in the order of asking.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use crate::engine::{
    Blame, ConnId, Cx, End, Hub, Input, Limits, Service, Step, Tick, Ticks, Violation,
};
use crate::proto::index::client::{self, Host, Patience, Presence, Session, SessionTimer, Stay};
use crate::proto::index::exchange::Answer;
use crate::proto::index::fields::{PeerId, Sha1};
use crate::proto::index::reply::{Sending, Unanswered, granted};
use crate::proto::index::sharer::NOT_ONLINE;
use crate::proto::index::wire::{Frame, HEADER_BYTES, Kind, Range, Request};

use super::RANGE_BYTES;
use super::plan::{Plan, Stored, Verdict};

/// Holders that are connected at once.
pub const AT_ONCE_MAX: usize = 8;

/// Ranges on their way to the disk.
const STORES_MAX: usize = 6;

/// Longest header of an answer between peers: three numbers, or a reason.
const ANSWER_BYTES_MAX: usize = 1024;

/// Ranges asked of a holder ahead of what it sends: a fast one is kept busy while a range is on its way.
const AHEAD_MAX: usize = 4;

/// A range in less than this is fast, in more than that slow.
const FAST: Ticks = Ticks::from_millis(50);
const SLOW: Ticks = Ticks::from_millis(500);

/// Who has nothing to do is looked after this often, and so are holders to be dialled again.
const LOOK_EVERY: Ticks = Ticks::from_millis(100);

/// A holder whose connection was lost so often in a row, without a range in between, is gone.
const LOSSES_MAX: u32 = 4;
/// Pause before it is dialled again, doubled with each loss.
const REDIAL: Ticks = Ticks::from_millis(250);

/// A holder that says nothing for this long after it was asked is lost. It may have to ask the index about us first.
const SILENCE: Ticks = Ticks::from_secs(20);

/// How long a login may take, before a holder that asked for it is asked again.
const LOGIN: Ticks = Ticks::from_secs(1);

/// At the end, the logout may take this long.
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

/// Somebody who has the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub addr: SocketAddrV4,
    pub id: PeerId,
}

/// What is fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub sha1: Sha1,
    pub size_bytes: u64,
    /// Our id, which holders ask the index about.
    pub requester: PeerId,
    /// At most [`super::plan::HOLDERS_MAX`]; beyond, the first ones are taken.
    pub sources: Vec<Source>,
}

/// A job of the worker.
#[derive(Debug)]
pub enum Job {
    /// The bytes of a range, from a holder.
    Store {
        holder: usize,
        range: usize,
        bytes: Vec<u8>,
    },
    /// Hash on, if all is there.
    Check,
    /// Give the file its name.
    Finish,
}

#[derive(Debug)]
pub enum Done {
    Stored {
        holder: usize,
        range: usize,
        /// Comes back for the next range.
        bytes: Vec<u8>,
        result: Result<Stored, DiskFault>,
    },
    /// `None`: there is more to hash.
    Checked(Result<Option<bool>, DiskFault>),
    Finished(Result<(), DiskFault>),
}

/// What the disk says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct DiskFault(pub String);

/// Why a holder is not asked any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    #[error("it sent wrong bytes")]
    WrongBytes,
    #[error("it says that the file has {0} bytes")]
    OtherSize(u64),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it does not speak the protocol: {0}")]
    Malformed(&'static str),
    #[error("it is gone: {0}")]
    Gone(String),
    #[error("it is slow: others sent its ranges")]
    Slow,
}

/// What a holder did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deeds {
    pub source: Source,
    pub ranges: u64,
    pub bytes: u64,
    /// It was dropped.
    pub dropped: Option<Why>,
}

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    #[error("no holder is left that sends the file")]
    NoHolder,
    #[error("{0}")]
    Disk(DiskFault),
    #[error("the index server does not let us in: {0}")]
    Index(String),
    #[error("interrupted")]
    Interrupted,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub result: Result<(), Failure>,
    pub holders: Vec<Deeds>,
    /// Bytes received, those thrown away included.
    pub received_bytes: u64,
    /// Bytes of the file that an earlier run had left.
    pub resumed_bytes: u64,
}

/// How far it is, for who shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub have_bytes: AtomicU64,
}

/// Where a holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Idle,
    Dialling(ConnId),
    Up(ConnId),
    Lost { until: Tick },
    Slow,
    Dropped,
}

#[derive(Debug)]
struct Holder {
    link: Link,
    losses: u32,
    /// It said that we are not online, and we logged in once more.
    logged_in_for: bool,
    /// What it owes, oldest first, and since when.
    asked: VecDeque<(usize, Tick)>,
    /// When it sent the last range.
    last: Tick,
    /// The range that it is sending; its length once the answer has announced it.
    length: Option<usize>,
    bytes: Vec<u8>,
    /// Its connection rests until the worker has caught up.
    rests: bool,
    deeds: Deeds,
}

/// What is under way besides the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not online yet.
    Begin,
    Fetch,
    Check,
    Finish,
    /// The result is there; only the logout is under way.
    Over,
}

/// A connection: to the index, or to a holder.
#[derive(Debug, Clone, Copy)]
pub enum Conn {
    Index,
    Holder(usize),
}

#[derive(Debug, Clone, Copy)]
pub enum Timer {
    Session(SessionTimer),
    Look,
    GiveUp,
}

/// See the module.
pub struct Fetcher {
    wanted: Wanted,
    session: Session<()>,
    stay: Option<Stay>,
    plan: Plan,
    holders: Vec<Holder>,
    phase: Phase,
    stores: usize,
    spare: Vec<Vec<u8>>,
    progress: Arc<Progress>,
    received_bytes: u64,
    resumed_bytes: u64,
    result: Option<Result<(), Failure>>,
}

impl Fetcher {
    /// Fetches what is not in `have`. With `stay` it is online meanwhile and logs out at the end; without, somebody
    /// else sees to that.
    pub fn new(
        mut wanted: Wanted,
        have: &[bool],
        server: SocketAddrV4,
        stay: Option<Stay>,
        progress: Arc<Progress>,
    ) -> Fetcher {
        wanted.sources.truncate(super::plan::HOLDERS_MAX);
        let holders = wanted.sources.iter().map(|source| Holder {
            link: Link::Idle,
            losses: 0,
            logged_in_for: false,
            asked: VecDeque::new(),
            last: Tick(0),
            length: None,
            bytes: Vec::new(),
            rests: false,
            deeds: Deeds {
                source: source.clone(),
                ranges: 0,
                bytes: 0,
                dropped: None,
            },
        });
        let holders: Vec<Holder> = holders.collect();
        let plan = Plan::new(have, holders.len());
        let mut fetcher = Fetcher {
            session: Session::new(server, Patience::default()),
            stay,
            plan,
            holders,
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

    /// Starts.
    pub fn begin(&mut self, hub: &mut Hub<Fetcher>) {
        match self.stay.clone() {
            Some(stay) => client::stay_online(self, hub, stay),
            None => self.go(hub),
        }
    }

    pub fn into_report(self) -> Report {
        Report {
            result: self.result.unwrap_or(Err(Failure::Interrupted)),
            holders: self.holders.into_iter().map(|h| h.deeds).collect(),
            received_bytes: self.received_bytes,
            resumed_bytes: self.resumed_bytes,
        }
    }

    fn go(&mut self, hub: &mut Hub<Fetcher>) {
        self.phase = Phase::Fetch;
        hub.arm(LOOK_EVERY, Timer::Look);
        self.staff(hub);
        self.check(hub);
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
        let online = self.session.is_online();
        if !online || client::leave(self, hub, ()).is_none() {
            hub.stop();
        } else if hub.arm(LEAVE, Timer::GiveUp).is_none() {
            hub.stop();
        }
    }

    /// Dials holders as long as more of them are of use.
    fn staff(&mut self, hub: &mut Hub<Fetcher>) {
        if self.phase != Phase::Fetch {
            return;
        }
        let now = hub.now();
        for holder in 0..self.holders.len() {
            if self.connected() >= self.useful() {
                return;
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
        // Better late than never.
        match (0..self.holders.len()).find(|h| self.holders[*h].link == Link::Slow) {
            Some(holder) => self.dial(hub, holder),
            None => self.end(hub, Err(Failure::NoHolder)),
        }
    }

    fn count(&self, which: impl Fn(&Link) -> bool) -> usize {
        self.holders.iter().filter(|h| which(&h.link)).count()
    }

    fn connected(&self) -> usize {
        self.count(|link| matches!(link, Link::Dialling(_) | Link::Up(_)))
    }

    /// How many connections are of use.
    fn useful(&self) -> usize {
        if self.plan.asks_one() { 1 } else { AT_ONCE_MAX }
    }

    fn dial(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let addr = self.holders[holder].deeds.source.addr;
        let conn = hub.dial(addr, None, Conn::Holder(holder));
        self.holders[holder].link = Link::Dialling(conn);
    }

    /// Asks a holder for as much as it is quick.
    fn feed(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let Link::Up(conn) = self.holders[holder].link else {
            return;
        };
        let ahead = match self.plan.pace(holder) {
            Some(pace) if pace <= FAST => AHEAD_MAX,
            Some(pace) if pace > SLOW => 1,
            _ => 2,
        };
        let now = hub.now();
        while self.phase == Phase::Fetch && self.holders[holder].asked.len() < ahead {
            let holders = &self.holders;
            let since = |range| {
                let asked = holders.iter().flat_map(|h| &h.asked);
                asked
                    .filter(|(of, _)| *of == range)
                    .map(|(_, at)| *at)
                    .min()
            };
            let Some(range) = self.plan.next(holder, now, since) else {
                return;
            };
            self.holders[holder].asked.push_back((range, now));
            let request = Request::Download {
                range: Range {
                    sha1: self.wanted.sha1,
                    offset: range as u64 * RANGE_BYTES,
                    length: self.length_of(range),
                },
                requester: self.wanted.requester,
            };
            if let Some(out) = hub.output_of(conn) {
                request.write(out);
            }
        }
    }

    fn feed_all(&mut self, hub: &mut Hub<Fetcher>) {
        for holder in 0..self.holders.len() {
            self.feed(hub, holder);
        }
    }

    fn length_of(&self, range: usize) -> u64 {
        (self.wanted.size_bytes - range as u64 * RANGE_BYTES).min(RANGE_BYTES)
    }

    /// Has nothing more to do with a holder's connection; what it owes goes back to the plan.
    fn hang_up(&mut self, hub: &mut Hub<Fetcher>, holder: usize, link: Link) {
        self.plan.set_ready(holder, false);
        let it = &mut self.holders[holder];
        for (range, _) in it.asked.drain(..) {
            self.plan.give_back(holder, range);
        }
        (it.length, it.rests) = (None, false);
        it.bytes.clear();
        if let Link::Dialling(conn) | Link::Up(conn) = std::mem::replace(&mut it.link, link) {
            hub.close_conn(conn);
        }
    }

    fn drop(&mut self, hub: &mut Hub<Fetcher>, holder: usize, why: Why) {
        let addr = self.holders[holder].deeds.source.addr;
        log::warn!("{addr} is not asked any more: {why}");
        self.plan.drop(holder);
        self.hang_up(hub, holder, Link::Dropped);
        self.holders[holder].deeds.dropped = Some(why);
    }

    /// The connection broke, or is silent for too long.
    fn lose(&mut self, hub: &mut Hub<Fetcher>, holder: usize, end: End) {
        let owed = !self.holders[holder].asked.is_empty();
        let was_up = matches!(self.holders[holder].link, Link::Up(_));
        if was_up && !owed {
            // It was closed for want of anything to do.
            return self.hang_up(hub, holder, Link::Idle);
        }
        let losses = self.holders[holder].losses + 1;
        self.holders[holder].losses = losses;
        if losses >= LOSSES_MAX {
            return self.drop(hub, holder, Why::Gone(how_it_ended(end)));
        }
        let pause = Ticks(REDIAL.0 << losses);
        let until = hub.now() + pause;
        self.hang_up(hub, holder, Link::Lost { until });
    }

    /// The answer to the oldest request of a holder.
    fn answer(
        &mut self,
        hub: &mut Hub<Fetcher>,
        holder: usize,
        frame: Frame<'_>,
    ) -> Result<(), Violation> {
        let Some(&(range, _)) = self.holders[holder].asked.front() else {
            return Err(Violation::peer("an answer to nothing"));
        };
        let text = match granted(Kind::Download, frame) {
            Ok(text) => text,
            Err(Unanswered::Refused(refusal)) => {
                match refusal.retry_after_secs() {
                    Some(secs) => {
                        let until = hub.now() + Ticks::from_secs(secs.min(60));
                        self.hang_up(hub, holder, Link::Lost { until });
                    }
                    None if refusal.text == NOT_ONLINE && self.log_in_again(hub, holder) => {}
                    None => self.drop(hub, holder, Why::Refused(refusal.text)),
                }
                return Ok(());
            }
            Err(_) => return Err(Violation::peer("not an answer")),
        };
        let sending = Sending::parse(text).map_err(|_| Violation::peer("not an answer"))?;
        if sending.total_bytes != self.wanted.size_bytes {
            self.drop(hub, holder, Why::OtherSize(sending.total_bytes));
            return Ok(());
        }
        let asked = (range as u64 * RANGE_BYTES, self.length_of(range));
        if (sending.offset, sending.length) != asked {
            return Err(Violation::peer("another range than was asked for"));
        }
        let it = &mut self.holders[holder];
        // No more than a range, as was just compared.
        it.length = Some(asked.1 as usize);
        it.bytes = self.spare.pop().unwrap_or_default();
        it.bytes.reserve_exact(asked.1 as usize);
        Ok(())
    }

    /// Another process of our user has logged out: we log in once more for each holder that says so.
    fn log_in_again(&mut self, hub: &mut Hub<Fetcher>, holder: usize) -> bool {
        let Some(stay) = self.stay.clone() else {
            return false;
        };
        if std::mem::replace(&mut self.holders[holder].logged_in_for, true) {
            return false;
        }
        let until = hub.now() + LOGIN;
        self.hang_up(hub, holder, Link::Lost { until });
        client::stay_online(self, hub, stay);
        true
    }

    /// A range is there.
    fn range(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let now = hub.now();
        let it = &mut self.holders[holder];
        it.length = None;
        let bytes = std::mem::take(&mut it.bytes);
        let Some((range, asked_at)) = it.asked.pop_front() else {
            return;
        };
        // What it was asked ahead does not count before the range in front was there.
        let took = now.since(asked_at.max(it.last));
        (it.last, it.losses) = (now, 0);
        it.deeds.ranges += 1;
        it.deeds.bytes += bytes.len() as u64;
        if self.plan.received(holder, range, took) {
            for slow in self.plan.others_asked(range) {
                log::info!("{}: {}", self.holders[slow].deeds.source.addr, Why::Slow);
                self.holders[slow].deeds.dropped = Some(Why::Slow);
                self.hang_up(hub, slow, Link::Slow);
            }
            self.stores += 1;
            let job = Job::Store {
                holder,
                range,
                bytes,
            };
            self.submit(hub, job);
        } else {
            self.reuse(bytes);
        }
        self.feed(hub, holder);
    }

    fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < STORES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    fn submit(&mut self, hub: &mut Hub<Fetcher>, job: Job) {
        if hub.submit(job).is_err() {
            let fault = DiskFault("the worker has too much to do (jobs_max)".into());
            self.end(hub, Err(Failure::Disk(fault)));
        }
    }

    /// Has the whole checked, once it is there.
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
        // A file without ranges is wrong whoever is asked.
        self.check(hub);
    }

    fn holder_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        holder: usize,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        if self.holders[holder].link != Link::Up(cx.id()) {
            return Err(Violation::us("the holder is not asked any more"));
        }
        let Some(length) = self.holders[holder].length else {
            let Some(&[l0, l1, ..]) = input.bytes.first_chunk::<HEADER_BYTES>() else {
                return Ok(Step::More);
            };
            if usize::from(u16::from_le_bytes([l0, l1])) > ANSWER_BYTES_MAX {
                return Err(Violation::peer("a long answer"));
            }
            let Some(frame) = Frame::of(input) else {
                return Ok(Step::More);
            };
            self.answer(cx, holder, frame)?;
            return Ok(Step::Took(frame.len()));
        };
        let bytes = &mut self.holders[holder].bytes;
        let taken = (length - bytes.len()).min(input.bytes.len());
        bytes.extend_from_slice(&input.bytes[..taken]);
        self.received_bytes += taken as u64;
        if bytes.len() < length {
            return Ok(Step::Took(taken));
        }
        self.range(cx, holder);
        if self.stores >= STORES_MAX {
            self.holders[holder].rests = true;
            return Ok(Step::Wait(taken));
        }
        Ok(Step::Done(taken))
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

fn how_it_ended(end: End) -> String {
    match end {
        End::Unreachable(kind) => format!("cannot be reached: {kind}"),
        End::Broken(kind) => format!("the connection broke: {kind}"),
        End::Timeout(_) => "it fell silent".into(),
        End::Limit(limit) => format!("limit {limit}"),
        End::Eof | End::Closed | End::Violation(_) => "it closes the connection".into(),
    }
}

impl Host for Fetcher {
    type Tag = ();

    fn session(&mut self) -> &mut Session<()> {
        &mut self.session
    }

    fn conn() -> Conn {
        Conn::Index
    }

    fn timer(timer: SessionTimer) -> Timer {
        Timer::Session(timer)
    }

    fn on_answer(&mut self, hub: &mut Hub<Self>, (): (), _logout: Result<Answer, client::Failure>) {
        hub.stop();
    }

    fn on_presence(&mut self, hub: &mut Hub<Self>, presence: Presence) {
        match presence {
            Presence::Online if self.phase == Phase::Begin => self.go(hub),
            Presence::Online => {}
            Presence::Lost(failure) if self.phase == Phase::Begin => {
                self.end(hub, Err(Failure::Index(failure.to_string())));
            }
            // Holders may still believe us to be online, and the session goes on trying.
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

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Conn {
        // Nobody is to connect here.
        cx.close();
        Conn::Index
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
            Timer::Look if self.phase == Phase::Over => {}
            Timer::Look => {
                hub.arm(LOOK_EVERY, Timer::Look);
                self.staff(hub);
                self.feed_all(hub);
            }
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

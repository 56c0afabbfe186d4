//! A session with the index server, kept by a service: calls one after the other, and staying online.
//!
//! A service that talks to an index server (the program's commands, a sharing peer) is a [`Host`]: it keeps a
//! [`Session`], gives it a connection and timers, and passes on what happens to them. [`super::batch`] has the host
//! that does nothing else.
//!
//! What a session does by itself: dials when there is something to ask, asks again after a lost connection
//! ([`Patience`]) and after a KO that says when ("retry in N s"), and, once told to stay online, logs in, keeps
//! alive, and finds its way back after the server was away: by KEEP_ALIVE first, which costs the server
//! nothing, then by LOGIN.
//!
//! Invariants: one request is under way at most; every call of the host is answered exactly once.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::RngExt;
use thiserror::Error;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Tick, Ticks, TimerId, Violation};

use super::exchange::{Answer, Call, Credentials, Exchange, Next};
use super::fields::PeerId;
use super::reply::{Refusal, Unanswered};
use super::wire::Frame;

/// Pause before the first dial after a lost connection, and its bound; it doubles in between.
const BACKOFF: Ticks = Ticks::from_millis(100);
const BACKOFF_MAX: Ticks = Ticks::from_secs(30);

/// A login after this long, although keep-alives would do: a registration lives by its logins.
const LOGIN_AFTER: Ticks = Ticks::from_secs(24 * 3600);

/// A service that has a session.
pub trait Host: Service {
    /// What the host remembers with a call.
    type Tag;

    fn session(&mut self) -> &mut Session<Self::Tag>;
    /// The service half of the session's connection.
    fn conn() -> Self::Conn;
    fn timer(timer: SessionTimer) -> Self::Timer;
    fn on_answer(&mut self, hub: &mut Hub<Self>, tag: Self::Tag, result: Result<Answer, Failure>);
    /// What came of staying online.
    fn on_presence(&mut self, _hub: &mut Hub<Self>, _presence: Presence) {}
}

/// The timers of a session, for [`fire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTimer {
    /// A pause is over.
    Pause,
    /// An answer is overdue.
    Answer,
    /// A keep-alive is due.
    KeepAlive,
}

/// Why a call was given up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    #[error("the index server says: {0}")]
    Refused(Refusal),
    #[error("cannot reach the index server at {server}: {kind}")]
    Unreachable { server: SocketAddr, kind: ErrorKind },
    #[error("the index server at {server} did not answer in time")]
    TimedOut { server: SocketAddr },
    #[error("the index server at {server} closed the connection before it answered")]
    CutOff { server: SocketAddr },
    #[error("the server at {server} does not speak the protocol: {why}")]
    Malformed { server: SocketAddr, why: Unanswered },
    #[error("no connection was to be had: {limit} reached")]
    Limit { limit: &'static str },
}

/// News of staying online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Logged in, or kept alive after a time of [`Presence::Lost`].
    Online,
    /// The server cannot be asked; the session goes on trying.
    Lost(Failure),
    /// The server does not let us in (an unknown id, a wrong password): the session gave up.
    Refused(Refusal),
}

/// Whom to keep online.
#[derive(Debug, Clone)]
pub struct Stay {
    pub who: Arc<Credentials>,
    pub id: PeerId,
    /// As in [`Call::Login`].
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// Between two keep-alives.
    pub every: Ticks,
}

/// How long a call is tried for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// An answer must come within this. Over what a busy server lets wait in its queue.
    pub answer: Ticks,
    /// No further try once a call is as old as this. What the host asks; staying online never gives up.
    pub call: Ticks,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            answer: Ticks::from_secs(30),
            call: Ticks::from_secs(60),
        }
    }
}

/// On whose behalf a call is made.
#[derive(Debug)]
enum Who<T> {
    Host(T),
    /// [`Stay`].
    Keeper,
}

#[derive(Debug)]
struct Pending<T> {
    who: Who<T>,
    exchange: Exchange,
    since: Tick,
}

/// What happens with the call at the front.
#[derive(Debug)]
enum State {
    /// Nothing is under way.
    Idle,
    Dialling,
    Asked(Option<TimerId>),
    Paused(Option<TimerId>),
}

#[derive(Debug)]
struct Keeper {
    stay: Stay,
    logged_in_at: Option<Tick>,
    /// The host was told [`Presence::Lost`] and not yet that it is over.
    lost: bool,
    timer: Option<TimerId>,
}

/// See the module.
#[derive(Debug)]
pub struct Session<T> {
    server: SocketAddr,
    patience: Patience,
    conn: Option<ConnId>,
    calls: VecDeque<Pending<T>>,
    state: State,
    /// Tries of the call at the front that failed, one after the other.
    failures: u32,
    keeper: Option<Keeper>,
}

impl<T> Session<T> {
    pub fn new(server: SocketAddr, patience: Patience) -> Session<T> {
        Session {
            server,
            patience,
            conn: None,
            calls: VecDeque::new(),
            state: State::Idle,
            failures: 0,
            keeper: None,
        }
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Logged in, as far as we know.
    pub fn is_online(&self) -> bool {
        let online = |keeper: &Keeper| keeper.logged_in_at.is_some() && !keeper.lost;
        self.keeper.as_ref().is_some_and(online)
    }

    /// Calls not answered yet.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }
}

/// Queues a call; [`Host::on_answer`] follows.
pub fn ask<H: Host>(host: &mut H, hub: &mut Hub<H>, tag: H::Tag, call: Call) {
    let since = hub.now();
    host.session().calls.push_back(Pending {
        who: Who::Host(tag),
        exchange: Exchange::new(call),
        since,
    });
    go(host, hub);
}

/// Logs in and stays online until [`leave`], or until the server refuses; a later call replaces the former.
pub fn stay_online<H: Host>(host: &mut H, hub: &mut Hub<H>, stay: Stay) {
    forget_keeper(host, hub);
    host.session().keeper = Some(Keeper {
        stay,
        logged_in_at: None,
        lost: false,
        timer: None,
    });
    log_in(host, hub);
}

/// Closes the connection; the next call dials anew.
pub fn hang_up<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    if let Some(conn) = host.session().conn.take() {
        hub.close_conn(conn);
    }
}

/// Stays online no longer, and logs out where it was; `None` when there is nothing to log out of.
pub fn leave<H: Host>(host: &mut H, hub: &mut Hub<H>, tag: H::Tag) -> Option<()> {
    let stay = forget_keeper(host, hub)?;
    let (who, id) = (stay.who, stay.id);
    ask(host, hub, tag, Call::Logout { who, id });
    Some(())
}

fn forget_keeper<H: Host>(host: &mut H, hub: &mut Hub<H>) -> Option<Stay> {
    let keeper = host.session().keeper.take()?;
    if let Some(timer) = keeper.timer {
        hub.cancel(timer);
    }
    Some(keeper.stay)
}

fn log_in<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    let Some(keeper) = &mut host.session().keeper else {
        return;
    };
    keeper.logged_in_at = None;
    let Stay {
        who, id, ip, port, ..
    } = keeper.stay.clone();
    keep(host, hub, Call::Login { who, id, ip, port });
}

/// A call of the keeper goes before the host's, behind the one under way.
fn keep<H: Host>(host: &mut H, hub: &mut Hub<H>, call: Call) {
    let since = hub.now();
    let session = host.session();
    let behind = usize::from(!matches!(session.state, State::Idle)).min(session.calls.len());
    session.calls.insert(
        behind,
        Pending {
            who: Who::Keeper,
            exchange: Exchange::new(call),
            since,
        },
    );
    go(host, hub);
}

/// For [`Service::on_dialled`] of the session's connection.
pub fn dialled<H: Host>(host: &mut H, cx: &mut Cx<'_, H>) {
    if host.session().conn == Some(cx.id()) {
        host.session().state = State::Idle;
        go(host, cx);
    }
}

/// For [`Service::on_input`] of the session's connection.
pub fn input<H: Host>(
    host: &mut H,
    cx: &mut Cx<'_, H>,
    input: Input<'_>,
) -> Result<Step, Violation> {
    let Some(frame) = Frame::of(input) else {
        return Ok(Step::More);
    };
    let step = Ok(Step::Done(frame.len()));
    let session = host.session();
    if session.conn != Some(cx.id()) {
        return Err(Violation::us("the session left this connection"));
    }
    let State::Asked(timer) = &mut session.state else {
        return Err(Violation::peer("an answer to nothing"));
    };
    let Some(front) = session.calls.front_mut() else {
        return Err(Violation::us("nobody asked"));
    };
    match front.exchange.reply(frame, cx.out()) {
        Next::Asked => {
            if let Some(timer) = timer.take() {
                cx.cancel(timer);
            }
            let answer = session.patience.answer;
            session.state = State::Asked(cx.arm(answer, H::timer(SessionTimer::Answer)));
        }
        Next::RetryIn(_, refusal) => retry_in(host, cx, refusal),
        Next::Finished(Ok(answer)) => finish(host, cx, Ok(answer)),
        Next::Finished(Err(Unanswered::Refused(refusal))) => {
            finish(host, cx, Err(Failure::Refused(refusal)));
        }
        Next::Finished(Err(why)) => {
            let server = session.server;
            finish(host, cx, Err(Failure::Malformed { server, why }));
            return Err(Violation::peer("not an answer"));
        }
    }
    step
}

/// For [`Service::on_end`] of the session's connection.
pub fn ended<H: Host>(host: &mut H, hub: &mut Hub<H>, id: ConnId, end: End) {
    let session = host.session();
    if session.conn != Some(id) {
        return;
    }
    session.conn = None;
    let server = session.server;
    match session.state {
        State::Dialling | State::Asked(_) => {
            let failure = match end {
                End::Unreachable(kind) | End::Broken(kind) => Failure::Unreachable { server, kind },
                End::Timeout(_) => Failure::TimedOut { server },
                End::Limit(limit) => Failure::Limit { limit },
                End::Eof | End::Closed | End::Violation(_) => Failure::CutOff { server },
            };
            try_again(host, hub, failure);
        }
        // We closed it for want of anything to say.
        State::Idle if matches!(end, End::Timeout(_) | End::Closed) => {}
        // Nothing was under way. Whoever is online sees at once whether the server still knows.
        State::Idle => check_presence(host, hub),
        State::Paused(_) => {}
    }
}

/// For [`Service::on_timer`] of the session's timers.
pub fn fire<H: Host>(host: &mut H, hub: &mut Hub<H>, timer: SessionTimer) {
    let session = host.session();
    match timer {
        SessionTimer::Pause => {
            session.state = State::Idle;
            go(host, hub);
        }
        SessionTimer::Answer => {
            let server = session.server;
            session.state = State::Asked(None);
            if let Some(conn) = session.conn.take() {
                hub.close_conn(conn);
            }
            try_again(host, hub, Failure::TimedOut { server });
        }
        SessionTimer::KeepAlive => {
            let now = hub.now();
            let Some(keeper) = &mut session.keeper else {
                return;
            };
            keeper.timer = None;
            let fresh = |at: Tick| now.since(at) < LOGIN_AFTER;
            if keeper.logged_in_at.is_some_and(fresh) {
                let id = keeper.stay.id;
                keep(host, hub, Call::KeepAlive { id });
            } else {
                log_in(host, hub);
            }
        }
    }
}

/// Asks what is at the front, if nothing is under way.
fn go<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    let session = host.session();
    let (State::Idle, Some(front)) = (&session.state, session.calls.front_mut()) else {
        return;
    };
    let Some(conn) = session.conn else {
        front.exchange.restart();
        session.state = State::Dialling;
        session.conn = Some(hub.dial(session.server, None, H::conn()));
        return;
    };
    match hub.output_of(conn) {
        Some(out) => {
            front.exchange.ask(out);
            let answer = session.patience.answer;
            session.state = State::Asked(hub.arm(answer, H::timer(SessionTimer::Answer)));
        }
        // It is closing; its end is told soon, and counts as a lost try.
        None => session.state = State::Asked(None),
    }
}

/// The call at the front is answered.
fn finish<H: Host>(host: &mut H, hub: &mut Hub<H>, result: Result<Answer, Failure>) {
    let session = host.session();
    match std::mem::replace(&mut session.state, State::Idle) {
        State::Asked(Some(timer)) | State::Paused(Some(timer)) => hub.cancel(timer),
        _ => {}
    }
    session.failures = 0;
    match session.calls.pop_front().map(|pending| pending.who) {
        Some(Who::Host(tag)) => host.on_answer(hub, tag, result),
        Some(Who::Keeper) => kept(host, hub, result),
        None => {}
    }
    go(host, hub);
}

/// The connection was lost, or the server silent.
fn try_again<H: Host>(host: &mut H, hub: &mut Hub<H>, failure: Failure) {
    let now = hub.now();
    let session = host.session();
    if let State::Asked(Some(timer)) = std::mem::replace(&mut session.state, State::Idle) {
        hub.cancel(timer);
    }
    let Some(front) = session.calls.front() else {
        return;
    };
    let doubled = BACKOFF.0 << session.failures.min(16);
    let pause = Ticks(doubled.min(BACKOFF_MAX.0));
    session.failures = session.failures.saturating_add(1);
    match &front.who {
        Who::Host(_) if (now + pause).since(front.since) >= session.patience.call => {
            finish(host, hub, Err(failure));
        }
        Who::Host(_) => pause_for(host, hub, pause),
        Who::Keeper => {
            pause_for(host, hub, pause);
            lose(host, hub, failure);
        }
    }
}

/// The server is busy and says for how long.
fn retry_in<H: Host>(host: &mut H, hub: &mut Hub<H>, refusal: Refusal) {
    let now = hub.now();
    let session = host.session();
    if let State::Asked(Some(timer)) = std::mem::replace(&mut session.state, State::Idle) {
        hub.cancel(timer);
    }
    let pause = busy_for(&refusal);
    let waits = |front: &Pending<H::Tag>| match front.who {
        Who::Host(_) => (now + pause).since(front.since) < session.patience.call,
        Who::Keeper => true,
    };
    if session.calls.front().is_some_and(waits) {
        pause_for(host, hub, pause);
    } else {
        finish(host, hub, Err(Failure::Refused(refusal)));
    }
}

/// Longest that a server may keep us waiting at once.
const BUSY_SECS_MAX: u64 = 600;

/// A little longer than `pause`, each peer by a length of its own: those who were refused together do not come
/// back together.
fn pause_for<H: Host>(host: &mut H, hub: &mut Hub<H>, pause: Ticks) {
    let pause = Ticks(pause.0 + jitter(hub, pause).0);
    let timer = hub.arm(pause, H::timer(SessionTimer::Pause));
    host.session().state = State::Paused(timer);
    if timer.is_none() {
        let limit = "timers_max";
        finish(host, hub, Err(Failure::Limit { limit }));
    }
}

/// How long a server that is busy asks us to wait.
pub fn busy_for(refusal: &Refusal) -> Ticks {
    let secs = refusal.retry_after_secs().unwrap_or(0);
    Ticks::from_secs(secs.min(BUSY_SECS_MAX))
}

/// What is added to a pause, so that those who pause together do not come back together.
pub fn jitter<S: Service>(hub: &mut Hub<S>, pause: Ticks) -> Ticks {
    Ticks(hub.rng().random_range(0..=pause.0 / 4))
}

/// The answer to a call of the keeper.
fn kept<H: Host>(host: &mut H, hub: &mut Hub<H>, result: Result<Answer, Failure>) {
    let now = hub.now();
    let Some(keeper) = &mut host.session().keeper else {
        return;
    };
    match result {
        Ok(answer) => {
            let back = std::mem::take(&mut keeper.lost);
            let logged_in = answer == Answer::LoggedIn;
            if logged_in {
                keeper.logged_in_at = Some(now);
            }
            let every = keeper.stay.every;
            arm_keep_alive(host, hub, every);
            if logged_in || back {
                host.on_presence(hub, Presence::Online);
            }
        }
        // It does not know us any more as online: by a keep-alive that came too late, or a restart.
        Err(Failure::Refused(_)) if keeper.logged_in_at.is_some() => log_in(host, hub),
        Err(Failure::Refused(refusal)) => {
            forget_keeper(host, hub);
            host.on_presence(hub, Presence::Refused(refusal));
        }
        Err(failure) => {
            let every = keeper.stay.every;
            arm_keep_alive(host, hub, every);
            lose(host, hub, failure);
        }
    }
}

fn arm_keep_alive<H: Host>(host: &mut H, hub: &mut Hub<H>, after: Ticks) {
    let timer = hub.arm(after, H::timer(SessionTimer::KeepAlive));
    if timer.is_none() {
        log::error!("no timer for keep-alives (timers_max): the server will take us for gone");
    }
    if let Some(keeper) = &mut host.session().keeper
        && let Some(former) = std::mem::replace(&mut keeper.timer, timer)
    {
        hub.cancel(former);
    }
}

fn lose<H: Host>(host: &mut H, hub: &mut Hub<H>, failure: Failure) {
    if let Some(keeper) = &mut host.session().keeper
        && !std::mem::replace(&mut keeper.lost, true)
    {
        host.on_presence(hub, Presence::Lost(failure));
    }
}

/// Asks soon whether we are still online: the connection is gone, and perhaps the server was restarted.
fn check_presence<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    if host.session().is_online() {
        let soon = Ticks(BACKOFF.0 + jitter(hub, CHECK_SPREAD).0);
        arm_keep_alive(host, hub, soon);
    }
}

/// All peers of a server lose their connections at the same moment; they come back over a quarter of this.
const CHECK_SPREAD: Ticks = Ticks::from_secs(8);

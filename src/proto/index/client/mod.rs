//! A client's session with the index server: calls one after the other, and staying online.
//!
//! ```text
//!   ask ─▶ calls: [ front │ ... ]     front: dial ─▶ request ─▶ answer ─▶ more requests ... ─▶ on_answer
//!   stay_online ─▶ keeper ─▶ LOGIN, KEEP_ALIVE ... before the host's calls          └ pause ─▶ again
//! ```
//! A service that talks to an index server (a sharer, a fetcher, [`super::batch`]) is a [`Host`]: it owns a [`Session`],
//! gives it a connection and timers, and forwards their events to [`dialled`], [`input`], [`ended`] and [`fire`].
//!
//! A session dials when there is something to ask; it asks again after a lost connection ([`Patience`]) and after a KO
//! that names a time ("retry in N s"). After [`stay_online`] it logs in and keeps alive. When the server was away it tries
//! KEEP_ALIVE first, which costs the server no hash, then LOGIN.
//!
//! Invariants: at most one request is under way; every wait has a deadline; every call of the host is answered exactly
//! once.
//!
//! Not here: requests and answers of a call ([`super::call`]).

#[cfg(test)]
pub(super) mod test_host;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::RngExt;
use thiserror::Error;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Tick, Ticks, TimerId, Violation};

use super::call::{Answer, Call, CallState, Credentials, Next};
use super::fields::PeerId;
use super::reply::{Refusal, Unanswered};
use super::wire::Frame;

/// Pause before a dial after a lost connection; it doubles with each loss, up to the second value.
const BACKOFF: Ticks = Ticks::from_millis(100);
const BACKOFF_MAX: Ticks = Ticks::from_secs(30);

/// LOGIN instead of KEEP_ALIVE after this long: only logins renew the time to live of a registration.
const LOGIN_AFTER: Ticks = Ticks::from_secs(24 * 3600);

/// Calls that wait. A further one is answered with [`Failure::Limit`].
const CALLS_MAX: usize = 4096;

/// A call that takes many requests ends after this, also when each is answered in time: a server could go on for ever.
const CALL_MAX: Ticks = Ticks::from_secs(3600);

/// The pauses after a connection was lost while online are spread over a quarter of this: all peers of a server that
/// restarts lose their connections at the same moment.
const CHECK_SPREAD: Ticks = Ticks::from_secs(8);

/// A service that has a session.
pub trait Host: Service<Timer: From<SessionTimer>> {
    /// The host's name for a call.
    type Tag;

    fn session(&mut self) -> &mut Session<Self::Tag>;
    /// The service half of the session's connection.
    fn conn() -> Self::Conn;
    fn on_answer(&mut self, hub: &mut Hub<Self>, tag: Self::Tag, result: Result<Answer, Failure>);
    /// News of staying online.
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

/// Why a call failed.
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
    #[error("limit {limit} reached")]
    Limit { limit: &'static str },
}

/// News of staying online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Logged in, or kept alive after a time of [`Presence::Lost`].
    Online,
    /// The server cannot be reached; the session goes on trying.
    Lost(Failure),
    /// The server refuses the login (an unknown id, a wrong password); the session has given up.
    Refused(Refusal),
}

/// The registration that is kept online.
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

/// The deadlines of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// An answer must come within this. Longer than the queue of a busy server.
    pub answer: Ticks,
    /// A call of the host is not tried again once it is this old. Staying online never gives up.
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
    /// The keeper of this number ([`Session::stays`]).
    Keeper(u32),
}

#[derive(Debug)]
struct Pending<T> {
    who: Who<T>,
    call: CallState,
    since: Tick,
}

/// The state of the call at the front.
#[derive(Debug)]
enum State {
    /// Nothing is under way.
    Idle,
    Dialling,
    /// Its answer must come before [`SessionTimer::Answer`].
    Asked(TimerId),
    /// The connection is closing. Its end counts as a lost attempt.
    Closing,
    /// Until [`SessionTimer::Pause`].
    Paused(TimerId),
}

/// Keeps a registration online.
#[derive(Debug)]
struct Keeper {
    stay: Stay,
    number: u32,
    logged_in_at: Option<Tick>,
    /// The last news was [`Presence::Lost`].
    lost: bool,
    /// [`SessionTimer::KeepAlive`].
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
    /// Attempts of the call at the front that failed in a row.
    failures: u32,
    keeper: Option<Keeper>,
    /// Number of [`stay_online`]s. It tells calls of a former keeper from those of the present one.
    stays: u32,
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
            stays: 0,
        }
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Logged in, by the last answers.
    pub fn is_online(&self) -> bool {
        let online = |keeper: &Keeper| keeper.logged_in_at.is_some() && !keeper.lost;
        self.keeper.as_ref().is_some_and(online)
    }

    /// Number of calls not answered yet.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }
}

/// Queues a call. [`Host::on_answer`] follows, at the limit of calls at once.
pub fn ask<H: Host>(host: &mut H, hub: &mut Hub<H>, tag: H::Tag, call: Call) {
    if host.session().calls.len() >= CALLS_MAX {
        let limit = "calls_max";
        return host.on_answer(hub, tag, Err(Failure::Limit { limit }));
    }
    let since = hub.now();
    host.session().calls.push_back(Pending {
        who: Who::Host(tag),
        call: CallState::new(call),
        since,
    });
    go(host, hub);
}

/// Logs in and stays online until [`leave`] or until the server refuses. Replaces a former [`Stay`].
pub fn stay_online<H: Host>(host: &mut H, hub: &mut Hub<H>, stay: Stay) {
    forget_keeper(host, hub);
    let session = host.session();
    session.stays = session.stays.wrapping_add(1);
    session.keeper = Some(Keeper {
        stay,
        number: session.stays,
        logged_in_at: None,
        lost: false,
        timer: None,
    });
    log_in(host, hub);
}

/// Closes a connection on which no request is under way. The next call dials again.
pub fn hang_up<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    if matches!(host.session().state, State::Idle | State::Paused(_)) {
        close(host, hub);
    }
}

fn close<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    if let Some(conn) = host.session().conn.take() {
        hub.close_conn(conn);
    }
}

/// Ends [`stay_online`] and logs out; `None` if there was none.
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

/// Queues a call of the keeper: behind the call under way, before the host's.
fn keep<H: Host>(host: &mut H, hub: &mut Hub<H>, call: Call) {
    let since = hub.now();
    let session = host.session();
    let behind = usize::from(!matches!(session.state, State::Idle)).min(session.calls.len());
    session.calls.insert(
        behind,
        Pending {
            who: Who::Keeper(session.stays),
            call: CallState::new(call),
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
    if !matches!(session.state, State::Asked(_)) {
        return Err(Violation::peer("an answer to nothing"));
    }
    let Some(front) = session.calls.front_mut() else {
        return Err(Violation::us("nobody asked"));
    };
    let age = cx.now().since(front.since);
    match front.call.reply(frame, cx.out()) {
        Next::Asked if age >= CALL_MAX => {
            let server = session.server;
            close(host, cx);
            finish(host, cx, Err(Failure::TimedOut { server }));
        }
        Next::Asked => await_answer(host, cx),
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
        State::Dialling | State::Asked(_) | State::Closing => {
            let failure = match end {
                End::Unreachable(kind) | End::Broken(kind) => Failure::Unreachable { server, kind },
                End::Timeout(_) => Failure::TimedOut { server },
                End::Limit(limit) => Failure::Limit { limit },
                End::Eof | End::Closed | End::Violation(_) => Failure::CutOff { server },
            };
            try_again(host, hub, failure);
        }
        // The engine or the host closed it while nothing was under way.
        State::Idle if matches!(end, End::Timeout(_) | End::Closed) => {}
        // The server closed it while nothing was under way: it may have restarted and forgotten us.
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
            close(host, hub);
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

/// Starts the call at the front, if nothing is under way.
fn go<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    let session = host.session();
    let (State::Idle, Some(front)) = (&session.state, session.calls.front_mut()) else {
        return;
    };
    let Some(conn) = session.conn else {
        front.call.restart();
        session.state = State::Dialling;
        session.conn = Some(hub.dial(session.server, None, H::conn()));
        return;
    };
    match hub.output_of(conn) {
        Some(out) => {
            front.call.ask(out);
            await_answer(host, hub);
        }
        None => session.state = State::Closing,
    }
}

/// A request is written. An answer that cannot be timed is not waited for.
fn await_answer<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    stop_timer(host, hub);
    let answer = host.session().patience.answer;
    match hub.arm(answer, SessionTimer::Answer.into()) {
        Some(timer) => host.session().state = State::Asked(timer),
        None => {
            close(host, hub);
            finish(host, hub, Err(NO_TIMER));
        }
    }
}

/// Nothing is under way any more.
fn stop_timer<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    match std::mem::replace(&mut host.session().state, State::Idle) {
        State::Asked(timer) | State::Paused(timer) => hub.cancel(timer),
        State::Idle | State::Dialling | State::Closing => {}
    }
}

/// Ends the call at the front.
fn finish<H: Host>(host: &mut H, hub: &mut Hub<H>, result: Result<Answer, Failure>) {
    stop_timer(host, hub);
    let session = host.session();
    session.failures = 0;
    match session.calls.pop_front().map(|pending| pending.who) {
        Some(Who::Host(tag)) => host.on_answer(hub, tag, result),
        Some(Who::Keeper(number)) => kept(host, hub, number, result),
        None => {}
    }
    go(host, hub);
}

/// An attempt failed: pauses before the next one, or gives up.
fn try_again<H: Host>(host: &mut H, hub: &mut Hub<H>, failure: Failure) {
    let now = hub.now();
    stop_timer(host, hub);
    let session = host.session();
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
        // A call of a former keeper.
        Who::Keeper(number) if session.keeper.as_ref().is_none_or(|k| k.number != *number) => {
            finish(host, hub, Err(failure));
        }
        Who::Keeper(_) => {
            pause_for(host, hub, pause);
            lose(host, hub, failure);
        }
    }
}

/// The server is busy and names a time.
fn retry_in<H: Host>(host: &mut H, hub: &mut Hub<H>, refusal: Refusal) {
    let now = hub.now();
    stop_timer(host, hub);
    let session = host.session();
    let pause = busy_for(&refusal);
    let waits = |front: &Pending<H::Tag>| match front.who {
        Who::Host(_) => (now + pause).since(front.since) < session.patience.call,
        Who::Keeper(_) => true,
    };
    if session.calls.front().is_some_and(waits) {
        pause_for(host, hub, pause);
    } else {
        finish(host, hub, Err(Failure::Refused(refusal)));
    }
}

const NO_TIMER: Failure = Failure::Limit {
    limit: "timers_max",
};

/// Longest pause that a server may ask for.
const BUSY_SECS_MAX: u64 = 600;

/// Pauses for `pause` and a jitter.
fn pause_for<H: Host>(host: &mut H, hub: &mut Hub<H>, pause: Ticks) {
    let pause = Ticks(pause.0 + jitter(hub, pause).0);
    match hub.arm(pause, SessionTimer::Pause.into()) {
        Some(timer) => host.session().state = State::Paused(timer),
        None => finish(host, hub, Err(NO_TIMER)),
    }
}

/// The pause that a busy server asks for.
pub fn busy_for(refusal: &Refusal) -> Ticks {
    let secs = refusal.retry_after_secs().unwrap_or(0);
    Ticks::from_secs(secs.min(BUSY_SECS_MAX))
}

/// A random addition to a pause: clients that were refused together do not come back together.
pub fn jitter<S: Service>(hub: &mut Hub<S>, pause: Ticks) -> Ticks {
    Ticks(hub.rng().random_range(0..=pause.0 / 4))
}

/// The answer to a call of the keeper. One of a former keeper means nothing to the present one.
fn kept<H: Host>(host: &mut H, hub: &mut Hub<H>, number: u32, result: Result<Answer, Failure>) {
    let now = hub.now();
    let keeper = host.session().keeper.as_mut();
    let Some(keeper) = keeper.filter(|keeper| keeper.number == number) else {
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
        // Not online any more: a keep-alive was late, or the server restarted.
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
    let timer = hub.arm(after, SessionTimer::KeepAlive.into());
    if timer.is_none() {
        lose(host, hub, NO_TIMER);
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

/// Sends a keep-alive soon: the connection is gone, and the server may have restarted.
fn check_presence<H: Host>(host: &mut H, hub: &mut Hub<H>) {
    if host.session().is_online() {
        let soon = Ticks(BACKOFF.0 + jitter(hub, CHECK_SPREAD).0);
        arm_keep_alive(host, hub, soon);
    }
}

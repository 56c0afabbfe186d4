//! A peer that shares files: registered and online at the index server, and serving DOWNLOAD to other peers.
//!
//! ```text
//!   index server ◀── one session: announcements, keep-alives, is this requester online? ── sharer
//!   peers ── connections: request ─▶ known SHA-1? ─▶ online? ─▶ slot ─▶ read (worker) ─▶ send
//! ```
//! - `online_check`: which requesters are online; `upload`: the connections of peers; [`super::transfer::serve`]: slots.
//!
//! The owner tells which files there are ([`Sharer::share`]) whenever the directory changes. `F` is the worker's handle of
//! a file. Paths never come from the wire: a request names a SHA-1, which is looked up among the shared files.
//!
//! Invariants: a connection answers one request at a time, in order; a requester that is not known to be online gets only
//! KOs (unless the sharer is open); a request has at most one read under way.
//!
//! Not here: reading directories and files.

mod online_check;
mod upload;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Ticks, TimerId, Violation};

use super::call::{Answer, Call, Credentials};
use super::client::{self, Failure, Host, Patience, Presence, Session, SessionTimer, Stay};
use super::fields::{PeerId, Sha1, Which};
use super::reply::Listed;
use super::transfer::serve::{self, Read, ReadDone, Slots};
use super::wire::{Kind, Range, write_ko};
use online_check::OnlineCheck;

/// The KO to a requester that is not online. Fetchers log in again when they read it.
pub const NOT_ONLINE: &str = "your id is not online at the index";

/// Pause before an announcement is repeated that the server did not take; it doubles each time, up to the second value.
const ANNOUNCE_AGAIN: Ticks = Ticks::from_secs(1);
const ANNOUNCE_AGAIN_MAX: Ticks = Ticks::from_secs(64);

/// The logout at the end may take this long.
const LEAVE: Ticks = Ticks::from_secs(3);

/// News that was not read yet. Further ones are dropped.
pub const NEWS_MAX: usize = 1024;

/// The configuration of a sharer.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: std::net::SocketAddr,
    pub who: Arc<Credentials>,
    /// The id of an earlier registration.
    pub id: Option<PeerId>,
    /// Where peers connect. `None`: the address that the server sees.
    pub ip: Option<std::net::IpAddr>,
    pub port: u16,
    pub keep_alive: Ticks,
    /// Serves everybody, without asking the index.
    pub open: bool,
    /// Connections served at once.
    pub slots: usize,
}

/// News for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The server has the files under this id.
    Registered(PeerId),
    /// The server lists us as online.
    Online(PeerId),
    /// The server cannot be reached or refuses a request; the sharer goes on and tries again.
    Trouble(String),
    /// The server refuses the registration or the login; the sharer ends.
    Refused(String),
}

/// One file of the shared directory.
#[derive(Debug, Clone)]
pub struct Shared<F> {
    pub announced: Listed,
    pub file: F,
}

/// All shared files, by SHA-1 and as they are announced. Making or dropping 100,000 takes a while: done away from the
/// loop.
pub struct Files<F> {
    by_sha1: HashMap<Sha1, (u64, F)>,
    announced: Arc<[Listed]>,
}

impl<F> Files<F> {
    pub fn new(files: Vec<Shared<F>>) -> Files<F> {
        let announced = files.iter().map(|f| f.announced.clone()).collect();
        let by_sha1 = files
            .into_iter()
            .map(|f| (f.announced.sha1, (f.announced.size_bytes, f.file)))
            .collect();
        Files { by_sha1, announced }
    }
}

/// The calls to the index server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Register,
    Update,
    /// Is this requester online?
    Online(PeerId),
    /// The same, of a server that lists only all online peers.
    AllOnline(PeerId),
    Logout,
}

/// A connection.
#[derive(Debug)]
pub enum Conn<F> {
    Index,
    Peer(Serving<F>),
}

/// The state of a peer's connection.
#[derive(Debug)]
pub enum Serving<F> {
    /// The next request may come.
    Ready,
    /// The index is asked whether the requester is online.
    Checking(Range),
    Sending(serve::Sending<F>),
}

/// A message to a connection.
#[derive(Debug)]
pub enum Note {
    /// Its requester is online, or why it is not served.
    Checked(Result<(), &'static str>),
    /// It has a slot.
    Go,
    Read(ReadDone),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    Session(SessionTimer),
    /// The files are announced again. At most one.
    Announce,
    /// The index was silent about this requester for too long. One for each question.
    OnlineCheck(PeerId),
    /// Connections wait for a slot. At most one.
    Slots,
    /// The logout takes too long. At most one.
    GiveUp,
}

/// The state of the announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcing {
    No,
    UnderWay,
    /// Until [`Timer::Announce`].
    Paused,
}

/// See the module.
pub struct Sharer<F> {
    config: Config,
    session: Session<Tag>,
    news: SyncSender<News>,
    files: Files<F>,
    announcing: Announcing,
    /// The files have changed since the last announcement.
    outdated: bool,
    /// Announcements that failed in a row.
    failures: u32,
    online_check: OnlineCheck,
    slots: Slots,
    slots_timer: Option<TimerId>,
    /// The id is new and was never online: registering once more would not help.
    is_new: bool,
    refused: Option<String>,
}

impl<F: Clone + Send + 'static> Sharer<F> {
    pub fn new(config: Config, news: SyncSender<News>) -> Sharer<F> {
        Sharer {
            session: Session::new(config.server, Patience::default()),
            news,
            files: Files::new(Vec::new()),
            announcing: Announcing::No,
            outdated: false,
            failures: 0,
            online_check: OnlineCheck::default(),
            slots: Slots::new(config.slots),
            slots_timer: None,
            is_new: false,
            refused: None,
            config,
        }
    }

    /// Replaces the shared files and announces them, with a registration if there is none; returns the former files.
    pub fn share(&mut self, hub: &mut Hub<Self>, files: Files<F>) -> Files<F> {
        let former = std::mem::replace(&mut self.files, files);
        self.outdated = true;
        self.announce(hub);
        former
    }

    /// Why the server refused the registration or the login, if it did.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    fn announce(&mut self, hub: &mut Hub<Self>) {
        if self.announcing != Announcing::No || !self.outdated {
            return;
        }
        (self.announcing, self.outdated) = (Announcing::UnderWay, false);
        let (who, files) = (self.config.who.clone(), self.files.announced.clone());
        let (tag, call) = match self.config.id {
            Some(id) => (Tag::Update, Call::Update { who, id, files }),
            None => (Tag::Register, Call::Register { who, files }),
        };
        client::ask(self, hub, tag, call);
    }

    fn tell(&mut self, news: News) {
        // Without a reader, the sharer is about to be dropped.
        if let Err(TrySendError::Full(news)) = self.news.try_send(news) {
            log::debug!("nobody reads the news: {news:?}");
        }
    }

    fn refuse(&mut self, hub: &mut Hub<Self>, why: String) {
        self.tell(News::Refused(why.clone()));
        self.refused = Some(why);
        hub.stop();
    }

    /// An announcement was answered.
    fn announced(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Answer, Failure>) {
        self.announcing = Announcing::No;
        let failures = std::mem::take(&mut self.failures);
        match result {
            Ok(Answer::Registered(id)) => {
                self.config.id = Some(id);
                self.is_new = true;
                self.tell(News::Registered(id));
                self.come_online(hub, id);
            }
            Ok(_) => {
                if let Some(id) = self.config.id
                    && !self.session.is_online()
                {
                    self.tell(News::Registered(id));
                    self.come_online(hub, id);
                }
            }
            Err(Failure::Refused(why)) if why.retry_after_secs().is_none() => {
                match (tag, self.config.id) {
                    // Either the id is unknown, which the login will tell, or the list is refused: then the server has
                    // the former one until the next change.
                    (Tag::Update, Some(id)) => {
                        let why = format!("the list of files is not taken: {why}");
                        self.tell(News::Trouble(why));
                        self.come_online(hub, id);
                    }
                    // A refused login has dropped the id meanwhile.
                    (Tag::Update, None) => {}
                    _ => return self.refuse(hub, why.to_string()),
                }
            }
            // The server is busy, away, or no index server: tried again later.
            Err(e) => {
                self.announce_later(hub, failures, &e);
                self.tell(News::Trouble(e.to_string()));
                return;
            }
        }
        self.announce(hub);
    }

    fn announce_later(&mut self, hub: &mut Hub<Self>, failures: u32, why: &Failure) {
        self.outdated = true;
        self.failures = failures.saturating_add(1);
        let doubled = Ticks(ANNOUNCE_AGAIN.0 << failures.min(16)).min(ANNOUNCE_AGAIN_MAX);
        let pause = match why {
            Failure::Refused(busy) => client::busy_for(busy).max(doubled),
            _ => doubled,
        };
        let pause = Ticks(pause.0 + client::jitter(hub, pause).0);
        match hub.arm(pause, Timer::Announce) {
            Some(_) => self.announcing = Announcing::Paused,
            // The next change of the files or the next login announces.
            None => self.tell(News::Trouble("no timer is left (timers_max)".into())),
        }
    }

    fn come_online(&mut self, hub: &mut Hub<Self>, id: PeerId) {
        let stay = Stay {
            who: self.config.who.clone(),
            id,
            ip: self.config.ip,
            port: self.config.port,
            every: self.config.keep_alive,
        };
        client::stay_online(self, hub, stay);
    }

    /// It is known whether a requester may be served.
    fn checked(
        &mut self,
        hub: &mut Hub<Self>,
        requester: PeerId,
        verdict: Result<(), &'static str>,
    ) {
        let (waiting, timer) = self
            .online_check
            .answered(requester, verdict.is_ok(), hub.now());
        if let Some(timer) = timer {
            hub.cancel(timer);
        }
        for conn in waiting {
            hub.notify(conn, Note::Checked(verdict));
        }
    }

    fn online_answered(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Answer, Failure>) {
        let (Tag::Online(requester) | Tag::AllOnline(requester)) = tag else {
            return;
        };
        let verdict = match result {
            Ok(Answer::Peers(peers)) => {
                let online = peers.iter().any(|peer| peer.id == requester && peer.online);
                online.then_some(()).ok_or(NOT_ONLINE)
            }
            // This server knows no SHOW_PEERS for a single peer.
            Err(Failure::Refused(_)) if matches!(tag, Tag::Online(_)) => {
                let which = Which::Online;
                client::ask(self, hub, Tag::AllOnline(requester), Call::Peers { which });
                return;
            }
            Ok(_) | Err(_) => Err(online_check::SILENT),
        };
        self.checked(hub, requester, verdict);
    }
}

impl From<SessionTimer> for Timer {
    fn from(timer: SessionTimer) -> Timer {
        Timer::Session(timer)
    }
}

impl<F: Clone + Send + 'static> Host for Sharer<F> {
    type Tag = Tag;

    fn session(&mut self) -> &mut Session<Tag> {
        &mut self.session
    }

    fn conn() -> Conn<F> {
        Conn::Index
    }

    fn on_answer(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Answer, Failure>) {
        match tag {
            Tag::Register | Tag::Update => self.announced(hub, tag, result),
            Tag::Online(_) | Tag::AllOnline(_) => self.online_answered(hub, tag, result),
            Tag::Logout => hub.stop(),
        }
    }

    fn on_presence(&mut self, hub: &mut Hub<Self>, presence: Presence) {
        match (presence, self.config.id) {
            (Presence::Online, Some(id)) => {
                self.is_new = false;
                self.tell(News::Online(id));
                self.announce(hub);
            }
            (Presence::Online, None) => {}
            (Presence::Lost(failure), _) => self.tell(News::Trouble(failure.to_string())),
            // The server has forgotten the id, or the password is wrong: registering anew tells which.
            (Presence::Refused(why), Some(_)) if !self.is_new => {
                self.tell(News::Trouble(format!("registering anew: {why}")));
                self.config.id = None;
                self.outdated = true;
                self.announce(hub);
            }
            (Presence::Refused(why), _) => self.refuse(hub, why.to_string()),
        }
    }
}

impl<F: Clone + Send + 'static> Service for Sharer<F> {
    type Conn = Conn<F>;
    type Note = Note;
    type Timer = Timer;
    type Job = Read<F>;
    type Done = ReadDone;

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Conn<F>> {
        Some(Conn::Peer(Serving::Ready))
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, _conn: &mut Conn<F>) {
        client::dialled(self, cx);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn<F>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        match conn {
            Conn::Index => client::input(self, cx, input),
            Conn::Peer(serving) => self.peer_input(cx, serving, input),
        }
    }

    fn on_room(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn<F>) {
        if let Conn::Peer(serving) = conn
            && self.slots.serves(cx.id())
        {
            self.pump(cx, serving);
        }
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Conn<F>, note: Note) {
        let Conn::Peer(serving) = conn else {
            return;
        };
        match (note, &*serving) {
            (Note::Checked(verdict), Serving::Checking(range)) => {
                let range = *range;
                if let Err(why) = verdict.and_then(|()| self.start(cx, serving, range)) {
                    write_ko(cx.out(), Kind::Download.ko(), why);
                    self.answered(cx, serving);
                }
            }
            (Note::Go, Serving::Sending(_)) => self.pump(cx, serving),
            (Note::Read(done), _) => self.chunk(cx, serving, done),
            // Of a request that was answered otherwise.
            (Note::Checked(_) | Note::Go, _) => {}
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, conn: Conn<F>, end: End) {
        match conn {
            Conn::Index => client::ended(self, hub, id, end),
            Conn::Peer(_) => {
                self.slots.leave(id);
                self.admit(hub);
            }
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: Timer) {
        match timer {
            Timer::Session(timer) => client::fire(self, hub, timer),
            Timer::Announce => {
                self.announcing = Announcing::No;
                self.announce(hub);
            }
            Timer::OnlineCheck(requester) => {
                for conn in self.online_check.silent(requester) {
                    hub.notify(conn, Note::Checked(Err(online_check::SILENT)));
                }
            }
            Timer::Slots => {
                self.slots_timer = None;
                self.admit(hub);
            }
            Timer::GiveUp => hub.stop(),
        }
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: ReadDone) {
        hub.notify(done.conn, Note::Read(done));
    }

    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        let leaves = self.session.is_online()
            && client::leave(self, hub, Tag::Logout).is_some()
            && hub.arm(LEAVE, Timer::GiveUp).is_some();
        if !leaves {
            hub.stop();
        }
    }
}

#[cfg(test)]
mod tests;

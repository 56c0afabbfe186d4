//! A peer that shares files: registered and online at the index server, and serving DOWNLOAD to other peers.
//!
//! One session with the server carries the announcements, the keep-alives and the questions whether a requester is
//! online; peers connect to the listener. Which files there are is told from outside ([`Sharer::share`]), as the
//! directory changes; `F` is what the worker knows a file by.
//!
//! What is asked comes from the wire, what is sent never does: a request names a SHA-1, which is looked up among the
//! files that are shared.
//!
//! Invariants: a connection answers one request at a time, in order; a requester whose id is not known to be online gets
//! nothing but KOs (unless the sharer is open to all); `Sending` is read by one job at most.

mod gate;
mod upload;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Ticks, TimerId, Violation};

use super::client::{self, Failure, Host, Patience, Presence, Session, SessionTimer, Stay};
use super::exchange::{Answer, Call, Credentials};
use super::fields::{PeerId, Sha1};
use super::reply::Listed;
use super::transfer::serve::{self, Read, ReadDone, Slots};
use super::wire::{Kind, Range, Which, write_ko};
use gate::Gate;

/// The KO to a requester that is not online; ours log in again.
pub const NOT_ONLINE: &str = "your id is not online at the index";

/// Pause before files are announced again that the server did not take, doubled with each time, up to the second one.
const ANNOUNCE_AGAIN: Ticks = Ticks::from_secs(1);
const ANNOUNCE_AGAIN_MAX: Ticks = Ticks::from_secs(64);

/// After being told to stop, a logout may take this long.
const LEAVE: Ticks = Ticks::from_secs(3);

/// What a sharer is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: std::net::SocketAddr,
    pub who: Arc<Credentials>,
    /// Of an earlier registration.
    pub id: Option<PeerId>,
    /// Where peers find us; without an ip it is the one that the server sees.
    pub ip: Option<std::net::IpAddr>,
    pub port: u16,
    pub keep_alive: Ticks,
    /// Serve everybody, without asking the index.
    pub open: bool,
    /// Connections served at once.
    pub slots: usize,
}

/// What the user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The server has our files under this id.
    Registered(PeerId),
    /// It lists us as online.
    Online(PeerId),
    /// It cannot be reached, or does not do what it was asked; we go on and try again.
    Trouble(String),
    /// It does not let us in: the sharer ends.
    Refused(String),
}

/// One file of the shared directory.
#[derive(Debug, Clone)]
pub struct Shared<F> {
    pub announced: Listed,
    pub file: F,
}

/// All files of the shared directory, as requests ask for them and as the index is told of them. A hundred thousand of
/// them take a while: made, and dropped, away from the loop.
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

/// What is asked of the index server, to know the answer by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Register,
    Update,
    /// Whether this requester is online.
    Online(PeerId),
    /// The same, of a server that has to list everybody for it.
    AllOnline(PeerId),
    Logout,
}

/// A connection.
#[derive(Debug)]
pub enum Conn<F> {
    Index,
    Peer(Serving<F>),
}

/// Where a peer's connection is.
#[derive(Debug)]
pub enum Serving<F> {
    /// The next request may come.
    Ready,
    /// The index is asked whether the requester is online.
    Gated(Range),
    Sending(serve::Sending<F>),
}

/// What one part tells a connection.
#[derive(Debug)]
pub enum Note {
    /// The index has answered for its requester: yes, or why not.
    Gate(Result<(), &'static str>),
    /// It is its turn.
    Go,
    Read(ReadDone),
}

#[derive(Debug, Clone, Copy)]
pub enum Timer {
    Session(SessionTimer),
    /// Files that the server did not take may be announced again.
    Announce,
    /// The index was asked about this requester a while ago.
    Gate(PeerId),
    /// Somebody waits for a slot.
    Slots,
    /// The logout takes too long.
    GiveUp,
}

/// How far an announcement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcing {
    No,
    UnderWay,
    /// [`Timer::Announce`] ends it.
    Paused,
}

/// See the module.
pub struct Sharer<F> {
    config: Config,
    session: Session<Tag>,
    news: Sender<News>,
    files: Files<F>,
    announcing: Announcing,
    /// The list has changed since the last announcement.
    outdated: bool,
    /// Announcements that failed, one after the other.
    failures: u32,
    gate: Gate,
    slots: Slots,
    slots_timer: Option<TimerId>,
    /// The id is new and was never online: to register once more would end the same.
    is_new: bool,
    refused: Option<String>,
}

impl<F: Clone + Send + 'static> Sharer<F> {
    pub fn new(config: Config, news: Sender<News>) -> Sharer<F> {
        Sharer {
            session: Session::new(config.server, Patience::default()),
            news,
            files: Files::new(Vec::new()),
            announcing: Announcing::No,
            outdated: false,
            failures: 0,
            gate: Gate::default(),
            slots: Slots::new(config.slots),
            slots_timer: None,
            is_new: false,
            refused: None,
            config,
        }
    }

    /// From now on these are the files; returns the former ones. Announces them, and registers first where that was
    /// not done.
    pub fn share(&mut self, hub: &mut Hub<Self>, files: Files<F>) -> Files<F> {
        let former = std::mem::replace(&mut self.files, files);
        self.outdated = true;
        self.announce(hub);
        former
    }

    /// Why the server did not let us in, if it did not.
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
        // Nobody listens to a sharer that is being dropped.
        let _ = self.news.send(news);
    }

    fn refuse(&mut self, hub: &mut Hub<Self>, why: String) {
        self.tell(News::Refused(why.clone()));
        self.refused = Some(why);
        hub.stop();
    }

    /// An announcement is answered.
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
                    // It does not know the id any more, which the login will tell, or it does not take the list: then
                    // the former one stands until the next change.
                    (Tag::Update, Some(id)) => {
                        let why = format!("the list of files is not taken: {why}");
                        self.tell(News::Trouble(why));
                        self.come_online(hub, id);
                    }
                    // A login has told that meanwhile.
                    (Tag::Update, None) => {}
                    _ => return self.refuse(hub, why.to_string()),
                }
            }
            // The server is busy, was away for a minute, or is no index server: no reason to give up what we have.
            Err(e) => {
                self.announce_later(hub, failures, &e);
                self.tell(News::Trouble(e.to_string()));
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
        if hub.arm(pause, Timer::Announce).is_some() {
            self.announcing = Announcing::Paused;
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

    /// The index said whether a requester is online, or that it cannot be asked.
    fn gate(&mut self, hub: &mut Hub<Self>, requester: PeerId, verdict: Result<(), &'static str>) {
        let (waiting, timer) = self.gate.answered(requester, verdict.is_ok(), hub.now());
        if let Some(timer) = timer {
            hub.cancel(timer);
        }
        for conn in waiting {
            hub.notify(conn, Note::Gate(verdict));
        }
    }

    fn gate_answered(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Answer, Failure>) {
        let (Tag::Online(requester) | Tag::AllOnline(requester)) = tag else {
            return;
        };
        let verdict = match result {
            Ok(Answer::Peers(peers)) => {
                let online = peers.iter().any(|peer| peer.id == requester && peer.online);
                online.then_some(()).ok_or(NOT_ONLINE)
            }
            // It knows no question for a single peer.
            Err(Failure::Refused(_)) if matches!(tag, Tag::Online(_)) => {
                let which = Which::Online;
                client::ask(self, hub, Tag::AllOnline(requester), Call::Peers { which });
                return;
            }
            Ok(_) | Err(_) => Err(gate::SILENT),
        };
        self.gate(hub, requester, verdict);
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

    fn timer(timer: SessionTimer) -> Timer {
        Timer::Session(timer)
    }

    fn on_answer(&mut self, hub: &mut Hub<Self>, tag: Tag, result: Result<Answer, Failure>) {
        match tag {
            Tag::Register | Tag::Update => self.announced(hub, tag, result),
            Tag::Online(_) | Tag::AllOnline(_) => self.gate_answered(hub, tag, result),
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
            // It has forgotten us, or the password is wrong: registering anew tells which.
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

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Conn<F> {
        Conn::Peer(Serving::Ready)
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
            (Note::Gate(verdict), Serving::Gated(range)) => {
                let range = *range;
                if let Err(why) = verdict.and_then(|()| self.start(cx, serving, range)) {
                    write_ko(cx.out(), Kind::Download.ko(), why);
                    self.answered(cx, serving);
                }
            }
            (Note::Go, Serving::Sending(_)) => self.pump(cx, serving),
            (Note::Read(done), _) => self.chunk(cx, serving, done),
            // For a request that was answered otherwise.
            (Note::Gate(_) | Note::Go, _) => {}
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
            Timer::Gate(requester) => {
                for conn in self.gate.is_silent(requester) {
                    hub.notify(conn, Note::Gate(Err(gate::SILENT)));
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

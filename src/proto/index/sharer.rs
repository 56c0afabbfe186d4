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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Tick, Ticks, TimerId, Violation};

use super::client::{self, Failure, Host, Patience, Presence, Session, SessionTimer, Stay};
use super::exchange::{Answer, Call, Credentials};
use super::fields::{PeerId, Sha1};
use super::reply::{self, Listed};
use super::transfer::serve::{self, After, Read, ReadDone, Slots, Unreadable};
use super::wire::{Frame, HEADER_BYTES, Kind, Range, Request, Which, unknown_ko, write_ko};

/// Longest payload of a request between peers: a SHA-1, three numbers, and room for what others may add.
const REQUEST_BYTES_MAX: usize = 1024;

/// A requester that was online is believed to be for this long.
const ONLINE_FOR: Ticks = Ticks::from_secs(60);

/// The KO to a requester that is not online; ours log in again.
pub const NOT_ONLINE: &str = "your id is not online at the index";

/// Requesters that are remembered; beyond, all are forgotten and asked for anew.
const ONLINE_MAX: usize = 65_536;

/// Requesters that the index is being asked about; the next ones are told to come back.
const ASKED_MAX: usize = 1024;

/// After being told to stop, a logout may take this long.
const LEAVE: Ticks = Ticks::from_secs(3);

/// What a sharer is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: std::net::SocketAddrV4,
    pub who: Arc<Credentials>,
    /// Of an earlier registration.
    pub id: Option<PeerId>,
    /// Where peers find us; without an ip it is the one that the server sees.
    pub ip: Option<std::net::Ipv4Addr>,
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
    /// Somebody waits for a slot.
    Slots,
    /// The logout takes too long.
    GiveUp,
}

/// See the module.
pub struct Sharer<F> {
    config: Config,
    session: Session<Tag>,
    news: Sender<News>,
    files: Files<F>,
    /// An announcement is under way; the list may have changed since.
    announcing: bool,
    outdated: bool,
    online_until: HashMap<PeerId, Tick>,
    asked: HashMap<PeerId, Vec<ConnId>>,
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
            announcing: false,
            outdated: false,
            online_until: HashMap::new(),
            asked: HashMap::new(),
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
        if self.announcing || !self.outdated {
            return;
        }
        (self.announcing, self.outdated) = (true, false);
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
        self.announcing = false;
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
            // The server does not know the id any more: a new one.
            Err(Failure::Refused(why)) if tag == Tag::Update => {
                self.tell(News::Trouble(format!("registering anew: {why}")));
                self.config.id = None;
                self.outdated = true;
            }
            Err(Failure::Refused(why)) => return self.refuse(hub, why.to_string()),
            // Tried for a minute already. The session finds the server when it is back; then we try again.
            Err(e) => {
                self.tell(News::Trouble(e.to_string()));
                self.outdated = true;
            }
        }
        self.announce(hub);
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

    /// A request of a peer.
    fn request(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        range: Range,
        requester: PeerId,
    ) -> Result<(), &'static str> {
        if !self.files.by_sha1.contains_key(&range.sha1) {
            return Err("no file with this SHA-1 is shared here");
        }
        let until = self.online_until.get(&requester);
        if self.config.open || until.is_some_and(|until| cx.now() < *until) {
            return self.start(cx, serving, range);
        }
        if self.asked.len() >= ASKED_MAX && !self.asked.contains_key(&requester) {
            return Err("too many requesters at once; retry in 1 s");
        }
        *serving = Serving::Gated(range);
        let waiting = self.asked.entry(requester).or_default();
        waiting.push(cx.id());
        if waiting.len() == 1 {
            let which = Which::One(requester);
            client::ask(self, cx, Tag::Online(requester), Call::Peers { which });
        }
        Ok(())
    }

    /// The requester may have it.
    fn start(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        range: Range,
    ) -> Result<(), &'static str> {
        // Looked up again: the directory may have changed while the index was asked.
        let (total_bytes, file) = self
            .files
            .by_sha1
            .get(&range.sha1)
            .ok_or("the file is not shared any more")?;
        let sending = serve::Sending::new(file.clone(), *total_bytes, range)
            .ok_or("the offset is beyond the end of the file")?;
        *serving = Serving::Sending(sending);
        if self.slots.enter(cx.id(), cx.now()) {
            self.pump(cx, serving);
        } else {
            self.watch_slots(cx);
        }
        Ok(())
    }

    /// Reads on, if there is room for what comes.
    fn pump(&mut self, cx: &mut Cx<'_, Self>, serving: &mut Serving<F>) {
        let id = cx.id();
        if let Serving::Sending(sending) = serving
            && cx.room() > 0
            && let Some(read) = sending.read(id)
            && cx.submit(read).is_err()
        {
            cx.close();
        }
    }

    fn chunk(&mut self, cx: &mut Cx<'_, Self>, serving: &mut Serving<F>, done: ReadDone) {
        let Serving::Sending(sending) = serving else {
            return;
        };
        let id = cx.id();
        match done.bytes {
            Ok(bytes) => {
                if sending.is_first() {
                    let ok = reply::Sending {
                        total_bytes: sending.total_bytes,
                        offset: sending.offset,
                        length: sending.end - sending.offset,
                    };
                    ok.write(cx.out());
                }
                cx.send(&bytes);
                match sending.sent(bytes.len()) {
                    After::More if self.slots.sent(id, bytes.len()) => self.pump(cx, serving),
                    After::More => self.watch_slots(cx),
                    After::Whole => {
                        self.slots.sent(id, bytes.len());
                        self.answered(cx, serving);
                    }
                }
            }
            Err(Unreadable) if sending.begun() => cx.close(),
            Err(Unreadable) => {
                write_ko(
                    cx.out(),
                    Kind::Download.ko(),
                    "the file has changed and is not announced again yet",
                );
                self.answered(cx, serving);
            }
        }
    }

    /// The next request may come.
    fn answered(&mut self, cx: &mut Cx<'_, Self>, serving: &mut Serving<F>) {
        *serving = Serving::Ready;
        let id = cx.id();
        self.slots.finish(id);
        cx.resume(id);
        self.admit(cx);
    }

    fn admit(&mut self, hub: &mut Hub<Self>) {
        for conn in self.slots.admit(hub) {
            hub.notify(conn, Note::Go);
        }
        self.watch_slots(hub);
    }

    fn watch_slots(&mut self, hub: &mut Hub<Self>) {
        if self.slots_timer.is_none() && self.slots.someone_waits() {
            self.slots_timer = hub.arm(serve::LOOK_EVERY, Timer::Slots);
        }
    }

    /// The index said whether a requester is online, or that it cannot be asked.
    fn gate(&mut self, hub: &mut Hub<Self>, requester: PeerId, verdict: Result<(), &'static str>) {
        if verdict.is_ok() {
            if self.online_until.len() >= ONLINE_MAX {
                self.online_until.clear();
            }
            self.online_until.insert(requester, hub.now() + ONLINE_FOR);
        }
        for conn in self.asked.remove(&requester).unwrap_or_default() {
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
            Ok(_) | Err(_) => Err("the index cannot be asked whether you are online"),
        };
        self.gate(hub, requester, verdict);
    }

    fn peer_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(&[l0, l1, k0, k1]) = input.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Step::More);
        };
        let code = u16::from_le_bytes([k0, k1]);
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if length > REQUEST_BYTES_MAX {
            if let Some(ko) = unknown_ko(code) {
                write_ko(cx.out(), ko, "longer than any request between peers");
            }
            return Err(Violation::peer("a long request"));
        }
        let Some(frame) = Frame::of(input) else {
            return Ok(Step::More);
        };
        let refused = match Kind::from_code(code) {
            Some(kind @ Kind::Download) => match Request::parse(kind, frame) {
                Ok(Request::Download { range, requester }) => {
                    match self.request(cx, serving, range, requester) {
                        Ok(()) => return Ok(Step::Wait(frame.len())),
                        Err(why) => why.to_owned(),
                    }
                }
                Ok(_) => return Err(Violation::us("another request")),
                Err(fault) => fault.to_string(),
            },
            Some(_) => "this is a peer; ask the index server".to_owned(),
            None => "unknown type".to_owned(),
        };
        // The numbers of KOs are those of unknown types for all requests but LOGOUT, which shares KEEP_ALIVE's.
        let ko = Kind::from_code(code).map_or_else(|| unknown_ko(code), |kind| Some(kind.ko()));
        let Some(ko) = ko else {
            return Err(Violation::peer("a type that has no KO"));
        };
        write_ko(cx.out(), ko, refused);
        Ok(Step::Done(frame.len()))
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

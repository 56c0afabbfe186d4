//! One call to the index server from the asking side, through as many requests as it takes. Pure.
//!
//! A list of files that fits no frame goes on with REGISTER_ADD; a list that comes in pages is asked on for until
//! it is whole. One request is under way at a time: LOGOUT and KEEP_ALIVE share the types of their answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::fields::PeerId;
use super::reply::{
    self, Hit, Listed, Page, PeerLine, Refusal, Unanswered, parse_files, parse_hits, parse_peers,
};
use super::wire::{Account, FileLines, Frame, Kind, Request, Which};

/// A user and the password, kept as long as calls need them. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    fn account(&self) -> Account<'_> {
        Account {
            user: &self.user,
            password: &self.password,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account().fmt(f)
    }
}

/// What the index server can be asked.
#[derive(Debug, Clone)]
pub enum Call {
    /// A new registration; the answer is its id.
    Register {
        who: Arc<Credentials>,
        files: Arc<[Listed]>,
    },
    /// Another list of files for a registration.
    Update {
        who: Arc<Credentials>,
        id: PeerId,
        files: Arc<[Listed]>,
    },
    Login {
        who: Arc<Credentials>,
        id: PeerId,
        /// The server takes the connection's when there is none.
        ip: Option<IpAddr>,
        /// Where we serve.
        port: u16,
    },
    KeepAlive {
        id: PeerId,
    },
    Logout {
        who: Arc<Credentials>,
        id: PeerId,
    },
    Search {
        words: String,
        /// No more pages are asked for once there are as many.
        hits_max: usize,
    },
    Peers {
        which: Which,
    },
    Browse {
        id: PeerId,
    },
}

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Registered(PeerId),
    Updated,
    LoggedIn,
    KeptAlive,
    LoggedOut,
    Hits(Vec<Hit>),
    Peers(Vec<PeerLine>),
    Files(Vec<Listed>),
}

/// What follows a reply.
#[derive(Debug)]
pub enum Next {
    /// A further request was written.
    Asked,
    /// The server is busy: [`Exchange::ask`] again after so many seconds.
    RetryIn(u64, Refusal),
    Finished(Result<Answer, Unanswered>),
}

/// Entries taken of lists that come in pages; a server that never comes to the end of one is left.
const ENTRIES_MAX: usize = 10_000_000;

/// A call under way.
#[derive(Debug)]
pub struct Exchange {
    call: Call,
    /// Of a registration: the id that it has got.
    registered: Option<PeerId>,
    /// Of a list of files: how many the server has, and how many are under way.
    files_stored: usize,
    files_under_way: usize,
    /// The first request of the list was granted: the rest is added.
    begun: bool,
    /// What has come of an answer in pages.
    hits: Vec<Hit>,
    peers: Vec<PeerLine>,
    files: Vec<Listed>,
}

impl Exchange {
    pub fn new(call: Call) -> Exchange {
        Exchange {
            call,
            registered: None,
            files_stored: 0,
            files_under_way: 0,
            begun: false,
            hits: Vec::new(),
            peers: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The connection is a new one: what was under way may or may not have happened. Lists begin again; a
    /// registration that has its id goes on as an update, so that there are not two of it.
    pub fn restart(&mut self) {
        (self.files_stored, self.files_under_way) = (0, 0);
        self.begun = false;
        self.hits.clear();
        self.peers.clear();
        self.files.clear();
    }

    /// Writes the next request.
    pub fn ask(&mut self, out: &mut Vec<u8>) {
        let request = match &self.call {
            Call::Register { who, files } => {
                return self.ask_list(&who.clone(), &files.clone(), self.registered, out);
            }
            Call::Update { who, id, files } => {
                return self.ask_list(&who.clone(), &files.clone(), Some(*id), out);
            }
            Call::Login { who, id, ip, port } => Request::Login {
                account: who.account(),
                id: *id,
                ip: *ip,
                port: Some(*port),
            },
            Call::KeepAlive { id } => Request::KeepAlive { id: *id },
            Call::Logout { who, id } => Request::Logout {
                account: who.account(),
                id: *id,
            },
            Call::Search { words, .. } => Request::Search {
                words,
                offset: self.hits.len() as u64,
            },
            Call::Peers { which } => Request::ShowPeers {
                which: *which,
                offset: self.peers.len() as u64,
            },
            Call::Browse { id } => Request::BrowsePeer {
                id: *id,
                offset: self.files.len() as u64,
            },
        };
        request.write(out);
    }

    fn ask_list(
        &mut self,
        who: &Credentials,
        files: &[Listed],
        id: Option<PeerId>,
        out: &mut Vec<u8>,
    ) {
        let account = who.account();
        let rest = files.get(self.files_stored..).unwrap_or_default();
        let fit = FileLines::of(account).fit(rest.iter().map(Listed::line));
        let files = rest.iter().take(fit).map(Listed::line).collect();
        self.files_under_way = fit;
        let request = match id {
            None => Request::Register { account, files },
            Some(id) if self.begun => Request::RegisterAdd { account, id, files },
            Some(id) => Request::RegisterUpdate { account, id, files },
        };
        request.write(out);
    }

    /// The type of the request under way.
    fn kind(&self) -> Kind {
        match &self.call {
            Call::Register { .. } | Call::Update { .. } if self.begun => Kind::RegisterAdd,
            Call::Register { .. } if self.registered.is_none() => Kind::Register,
            Call::Register { .. } | Call::Update { .. } => Kind::RegisterUpdate,
            Call::Login { .. } => Kind::Login,
            Call::KeepAlive { .. } => Kind::KeepAlive,
            Call::Logout { .. } => Kind::Logout,
            Call::Search { .. } => Kind::Search,
            Call::Peers { .. } => Kind::ShowPeers,
            Call::Browse { .. } => Kind::BrowsePeer,
        }
    }

    /// Takes the reply to the request under way, and writes the next one where there is one.
    pub fn reply(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Next {
        let finished = reply::granted(self.kind(), frame).and_then(|text| self.granted(text));
        match finished {
            Ok(Some(answer)) => Next::Finished(Ok(answer)),
            Ok(None) => {
                self.ask(out);
                Next::Asked
            }
            Err(Unanswered::Refused(refusal)) => match refusal.retry_after_secs() {
                Some(secs) => Next::RetryIn(secs, refusal),
                None => Next::Finished(Err(Unanswered::Refused(refusal))),
            },
            Err(e) => Next::Finished(Err(e)),
        }
    }

    /// What an OK finishes; `None` when there is more to be asked.
    fn granted(&mut self, text: &str) -> Result<Option<Answer>, Unanswered> {
        Ok(match &self.call {
            Call::Register { .. } if self.registered.is_none() => {
                let id = reply::parse_registered(text)?;
                self.registered = Some(id);
                self.list_grows()
            }
            Call::Register { .. } | Call::Update { .. } => self.list_grows(),
            Call::Login { .. } => Some(Answer::LoggedIn),
            Call::KeepAlive { .. } => Some(Answer::KeptAlive),
            Call::Logout { .. } => Some(Answer::LoggedOut),
            Call::Search { hits_max, .. } => {
                let page = parse_hits(text)?;
                let last = page.is_empty();
                self.hits.extend(page);
                let enough = (*hits_max).min(ENTRIES_MAX);
                (last || self.hits.len() >= enough).then(|| {
                    self.hits.truncate(enough);
                    Answer::Hits(std::mem::take(&mut self.hits))
                })
            }
            Call::Peers { .. } => {
                let page = parse_peers(text)?;
                gather(&mut self.peers, page).map(Answer::Peers)
            }
            Call::Browse { .. } => {
                let page = parse_files(text)?;
                gather(&mut self.files, page).map(Answer::Files)
            }
        })
    }

    fn list_grows(&mut self) -> Option<Answer> {
        self.begun = true;
        self.files_stored += std::mem::take(&mut self.files_under_way);
        match &self.call {
            Call::Register { files, .. } if self.files_stored >= files.len() => {
                self.registered.map(Answer::Registered)
            }
            Call::Update { files, .. } if self.files_stored >= files.len() => Some(Answer::Updated),
            _ => None,
        }
    }
}

/// Adds a page; the whole list once it is the last one. A list may shrink while it is read.
fn gather<T>(list: &mut Vec<T>, page: Page<T>) -> Option<Vec<T>> {
    let last = page.entries.is_empty();
    list.extend(page.entries);
    let whole = list.len() as u64 >= page.total || list.len() >= ENTRIES_MAX;
    (last || whole).then(|| std::mem::take(list))
}

//! Operations: the requests that change a registration, as data; what each changes in the store.
//!
//! `execute` and `apply` run them.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use bytes::Bytes;

use crate::engine::{ConnId, Ticks};
use crate::proto::index::fields::{FileLine, PeerId};
use crate::proto::index::persisted::{Change, Hashed, Place, Record, Salt};
use crate::proto::index::reply::RetryIn;
use crate::proto::index::wire::Kind;

use super::registry::Registration;

/// The time after which a server that is busy is asked again.
pub(super) const BUSY: Ticks = Ticks::from_secs(1);

/// The number of no operation, for writes without an answer.
pub(super) const NO_OP: u32 = u32::MAX;

/// The same text whichever of the three is wrong, so that guesses learn nothing from it.
pub(super) const WRONG: Ko = Ko::Text("wrong user, password or id");

/// The text of a KO.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ko {
    Text(&'static str),
    /// More files than this limit.
    TooMany(usize),
    Retry(RetryIn),
}

impl Display for Ko {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ko::Text(text) => f.write_str(text),
            Ko::TooMany(max) => write!(f, "more than the {max} files that are allowed"),
            Ko::Retry(retry) => retry.fmt(f),
        }
    }
}

/// A KO that says when to come back.
pub(super) fn later(why: &'static str, after: Ticks) -> Ko {
    let secs = after.as_duration().as_millis().div_ceil(1000) as u64;
    Ko::Retry(RetryIn {
        why,
        secs: secs.max(1),
    })
}

/// What an operation does once its password is checked.
#[derive(Debug)]
pub(super) enum Action {
    Register { id: PeerId, list: List },
    Update { id: PeerId, list: List },
    Add { id: PeerId, list: List },
    Login { id: PeerId, place: Place },
    Logout { id: PeerId },
    Expire { id: PeerId },
}

/// The files of a request, in the persisted format.
#[derive(Debug)]
pub(super) struct List {
    pub(super) lines: Bytes,
    pub(super) count: usize,
}

impl List {
    pub(super) fn of(files: &[FileLine<'_>]) -> List {
        let mut lines = String::new();
        for file in files {
            // Writing to a string does not fail.
            let _ = writeln!(lines, "{file}");
        }
        List {
            lines: lines.into(),
            count: files.len(),
        }
    }
}

impl Action {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Action::Register { .. } => Kind::Register,
            Action::Update { .. } => Kind::RegisterUpdate,
            Action::Add { .. } => Kind::RegisterAdd,
            Action::Login { .. } => Kind::Login,
            Action::Logout { .. } | Action::Expire { .. } => Kind::Logout,
        }
    }

    pub(super) fn id(&self) -> PeerId {
        match self {
            Action::Register { id, .. }
            | Action::Update { id, .. }
            | Action::Add { id, .. }
            | Action::Login { id, .. }
            | Action::Logout { id }
            | Action::Expire { id } => *id,
        }
    }

    pub(super) fn list(&self) -> Option<&List> {
        match self {
            Action::Register { list, .. }
            | Action::Update { list, .. }
            | Action::Add { list, .. } => Some(list),
            Action::Login { .. } | Action::Logout { .. } | Action::Expire { .. } => None,
        }
    }
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Operation {
    /// The connection that gets the answer. `None`: the server's own operation.
    pub(super) conn: Option<ConnId>,
    pub(super) action: Action,
    pub(super) user: Box<str>,
    pub(super) secret: Secret,
    /// The salt that the password is hashed with.
    pub(super) salt: Salt,
    /// The id in whose lock-out the attempt is counted.
    pub(super) tried: Option<PeerId>,
    /// The checked password. A new registration stores it.
    pub(super) hashed: Option<Hashed>,
    /// The address in whose quota the registration is counted, if it is made.
    pub(super) counted: Option<IpAddr>,
}

/// A password while it is needed. `Debug` hides it.
pub(super) struct Secret(pub(super) Box<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Operation {
    /// An operation of the server itself.
    pub(super) fn own(user: Box<str>, action: Action) -> Operation {
        Operation {
            conn: None,
            action,
            user,
            secret: Secret("".into()),
            salt: Salt::default(),
            tried: None,
            hashed: None,
            counted: None,
        }
    }
}

/// What the operations under way may add. The limits count it, so that they hold for operations made at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) registrations: usize,
    pub(super) files: usize,
    /// Of the lists of files.
    pub(super) bytes: usize,
}

impl Pending {
    pub(super) fn add(&mut self, action: &Action) {
        self.registrations += usize::from(matches!(action, Action::Register { .. }));
        if let Some(list) = action.list() {
            self.files += list.count;
            self.bytes += list.lines.len();
        }
    }

    pub(super) fn take(&mut self, action: &Action) {
        self.registrations -= usize::from(matches!(action, Action::Register { .. }));
        if let Some(list) = action.list() {
            self.files -= list.count;
            self.bytes -= list.lines.len();
        }
    }
}

/// What an operation changes in the store; `None` if there is no such registration (any more).
pub(super) fn changes(
    op: &Operation,
    known: Option<&Registration>,
    clock: u64,
) -> Option<Vec<Change>> {
    if let Action::Register { id, list } = &op.action {
        let record = Record {
            user: op.user.clone(),
            password: op.hashed.clone()?,
            login_at: clock,
            place: None,
        };
        let mut changes = known.map_or_else(Vec::new, removal);
        changes.push(Change::Peer(*id, Some(record.encode())));
        changes.push(Change::Files(*id, 0, Some(list.lines.clone())));
        return Some(changes);
    }
    let known = known?;
    let id = known.id;
    Some(match &op.action {
        Action::Update { list, .. } => {
            let surplus = (1..known.chunks).map(|chunk| Change::Files(id, chunk, None));
            let first = Change::Files(id, 0, Some(list.lines.clone()));
            surplus.chain([first]).collect()
        }
        Action::Add { list, .. } => {
            vec![Change::Files(id, known.chunks, Some(list.lines.clone()))]
        }
        Action::Login { place, .. } => {
            let record = Record {
                login_at: clock,
                place: Some(*place),
                ..known.record()
            };
            vec![Change::Peer(id, Some(record.encode()))]
        }
        Action::Logout { .. } => {
            let record = Record {
                place: None,
                ..known.record()
            };
            vec![Change::Peer(id, Some(record.encode()))]
        }
        Action::Expire { .. } => removal(known),
        Action::Register { .. } => return None,
    })
}

fn removal(known: &Registration) -> Vec<Change> {
    let files = (0..known.chunks).map(|chunk| Change::Files(known.id, chunk, None));
    let peer = Change::Peer(known.id, None);
    files.chain([peer]).collect()
}

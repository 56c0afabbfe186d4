//! Operations: what changes a registration, from the request to its answer.
//!
//! ```text
//!   begin_op ─▶ (line) ─▶ hashed ─▶ change ─▶ written ─▶ apply ─▶ (work) ─▶ indexed ─▶ answer
//!       └─ the connection has proved the password ─▲
//! ```
//! An operation lives in `ops` from `begin_op` to its answer, whatever becomes of its connection.

use std::fmt::{self, Display, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use rand::RngExt;

use crate::engine::{ConnId, Cx, Hub, Ticks};

use super::{Conn, IndexServer, Note, Proof, random_bytes, retry};
use crate::proto::index::fields::{FileLine, PeerId};
use crate::proto::index::guard::{counted_as, is_counted};
use crate::proto::index::record::{Change, Digest, Hash, Hashed, Job, Place, Record, Salt, Write};
use crate::proto::index::registry::Registration;
use crate::proto::index::reply::RetryIn;
use crate::proto::index::wire::{Account, Kind, Request, write_ko};

/// Until a change of the same user may be through.
pub(super) const BUSY: Ticks = Ticks::from_secs(1);

/// The same whatever of the three is wrong, so that nothing is learnt from it.
pub(super) const WRONG: Ko = Ko::Text("wrong user, password or id");

/// What a KO says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ko {
    Text(&'static str),
    /// More files than there may be of this many.
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

pub(super) fn later(why: &'static str, after: Ticks) -> Ko {
    Ko::Retry(retry(why, after))
}

/// What is to be done once the password is known to be right.
#[derive(Debug)]
pub(super) enum Act {
    Register { id: PeerId, list: List },
    Update { id: PeerId, list: List },
    Add { id: PeerId, list: List },
    Login { id: PeerId, place: Place },
    Logout { id: PeerId },
    Expire { id: PeerId },
}

/// Files as lines, as they are stored.
#[derive(Debug)]
pub(super) struct List {
    pub(super) lines: Bytes,
    pub(super) count: usize,
}

impl List {
    fn of(files: &[FileLine<'_>]) -> List {
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

impl Act {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Act::Register { .. } => Kind::Register,
            Act::Update { .. } => Kind::RegisterUpdate,
            Act::Add { .. } => Kind::RegisterAdd,
            Act::Login { .. } => Kind::Login,
            Act::Logout { .. } | Act::Expire { .. } => Kind::Logout,
        }
    }

    pub(super) fn id(&self) -> PeerId {
        match self {
            Act::Register { id, .. }
            | Act::Update { id, .. }
            | Act::Add { id, .. }
            | Act::Login { id, .. }
            | Act::Logout { id }
            | Act::Expire { id } => *id,
        }
    }

    pub(super) fn list(&self) -> Option<&List> {
        match self {
            Act::Register { list, .. } | Act::Update { list, .. } | Act::Add { list, .. } => {
                Some(list)
            }
            Act::Login { .. } | Act::Logout { .. } | Act::Expire { .. } => None,
        }
    }
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Op {
    /// Who gets the answer. None for what the server does by itself.
    pub(super) conn: Option<ConnId>,
    pub(super) act: Act,
    pub(super) user: Box<str>,
    secret: Secret,
    /// What the password is hashed with.
    salt: Salt,
    /// The id whose password is tried.
    tried: Option<PeerId>,
    /// What a new registration is to have.
    pub(super) hashed: Option<Hashed>,
    /// The address whose quota it counts for, unless it is refused.
    pub(super) counted: Option<IpAddr>,
}

/// A password while it is needed; not printed.
struct Secret(Box<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Op {
    /// What the server does by itself.
    pub(super) fn own(user: Box<str>, act: Act) -> Op {
        Op {
            conn: None,
            act,
            user,
            secret: Secret("".into()),
            salt: Salt::default(),
            tried: None,
            hashed: None,
            counted: None,
        }
    }
}

impl IndexServer {
    /// Takes an operation on; true when its answer comes later, false when it is written. `Err`: what refuses it at once.
    pub(super) fn begin_op(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        request: Request<'_>,
    ) -> Result<bool, Ko> {
        let (account, act) = self.act_of(cx, request)?;
        self.check_room(&act, account.user)?;
        let now = cx.now();
        let proved = |proof: &Proof| proof.holds(act.id(), account);
        let proved = conn.proof.as_deref().is_some_and(proved);
        // The registration whose password it has to be; a new user has none yet.
        let slot = match act {
            Act::Register { .. } => self.registry.slot_of_user(account.user),
            _ => self.registry.slot_of_both(act.id(), account.user),
        };
        let tried = match (&act, slot.and_then(|slot| self.registry.get(slot))) {
            (_, Some(found)) => Some(found.id),
            (Act::Register { .. }, None) => None,
            (_, None) => Some(act.id()),
        };
        // A lock does not stop who has proved the password on this connection: anybody can lock an id.
        if !proved {
            if let Some(id) = tried {
                self.check_lock(now, id)?;
            }
            if let Some(secs) = self.line.full(now, cx.rng()) {
                let why = "too many wait to be logged in";
                return Err(Ko::Retry(RetryIn { why, secs }));
            }
            if tried.is_some_and(|id| !self.lockout.begin(now, id)) {
                return Err(later("too many tries for this id at once", BUSY));
            }
        }
        let salt = match slot.and_then(|slot| self.registry.get(slot)) {
            Some(found) => found.password.salt,
            None => random_bytes(cx),
        };
        // From now on, so that many at once are no more than one after the other.
        let source = cx.peer().ip();
        let counts = matches!(act, Act::Register { .. }) && is_counted(source);
        let counted = counts.then_some(counted_as(source));
        if let Some(ip) = counted {
            self.quota.count(now, ip);
        }
        self.pending.add(&act);
        let op = self.ops.insert(Op {
            conn: Some(cx.id()),
            act,
            user: account.user.into(),
            secret: Secret(account.password.into()),
            salt,
            tried: tried.filter(|_| !proved),
            hashed: None,
            counted,
        }) as u32;
        if proved {
            self.change(cx, op);
        } else {
            self.line.push(op);
            self.hash_next(cx);
        }
        Ok(self.ops.contains(op as usize))
    }

    fn act_of<'a>(
        &mut self,
        cx: &mut Cx<'_, Self>,
        request: Request<'a>,
    ) -> Result<(Account<'a>, Act), Ko> {
        let source = cx.peer().ip();
        Ok(match request {
            Request::Register { account, files } => {
                self.check_quota(cx.now(), source)?;
                let list = List::of(&files);
                (
                    account,
                    Act::Register {
                        id: self.fresh_id(cx),
                        list,
                    },
                )
            }
            Request::RegisterUpdate { account, id, files } => {
                let list = List::of(&files);
                (account, Act::Update { id, list })
            }
            Request::RegisterAdd { account, id, files } => {
                let list = List::of(&files);
                (account, Act::Add { id, list })
            }
            Request::Login {
                account,
                id,
                ip,
                port,
            } => {
                let place = Place {
                    ip: self.shown_ip(ip, source),
                    port: port.unwrap_or(PORT),
                    from: source,
                };
                (account, Act::Login { id, place })
            }
            Request::Logout { account, id } => (account, Act::Logout { id }),
            _ => return Err(Ko::Text("not an operation")),
        })
    }

    /// 63 bits of the node's generator, which is cryptographic (ChaCha12, seeded by the system).
    fn fresh_id(&self, hub: &mut Hub<Self>) -> PeerId {
        loop {
            let id = PeerId::from_bits(hub.rng().random());
            if id.get() != 0 && self.registry.slot_of(id).is_none() {
                return id;
            }
        }
    }

    /// A peer could name somebody else's address and have others dial that. Who comes from this machine may be
    /// behind something that hides where from; for others the address is the one that they come from.
    fn shown_ip(&self, claimed: Option<IpAddr>, source: IpAddr) -> IpAddr {
        let trusted = self.config.trust_claimed_ip || source.is_loopback();
        let absurd = |ip: &IpAddr| {
            let elsewhere = ip.is_loopback() && !source.is_loopback();
            let all = *ip == Ipv4Addr::BROADCAST;
            elsewhere || all || ip.is_unspecified() || ip.is_multicast()
        };
        claimed
            .map(|ip| ip.to_canonical())
            .filter(|ip| trusted && !absurd(ip))
            .unwrap_or(source)
    }

    /// Hands the next passwords to the threads that are free.
    fn hash_next(&mut self, hub: &mut Hub<Self>) {
        while let Some(op) = self.line.next(hub.now()) {
            let Some(first) = self.ops.get(op as usize) else {
                self.line.done(hub.now());
                continue;
            };
            // Nobody waits for it, and nothing has happened yet.
            let gone = first.conn.is_some_and(|conn| hub.peer_of(conn).is_none());
            let job = Hash {
                op,
                password: first.secret.0.clone(),
                salt: first.salt,
                cost: self.cost_of(first),
            };
            if gone || hub.submit(Job::Hash(job)).is_err() {
                self.line.done(hub.now());
                self.refuse(hub, op, later("the server is busy", BUSY));
            }
        }
    }

    /// An existing password is hashed as it was.
    fn cost_of(&self, op: &Op) -> crate::proto::index::record::Cost {
        let slot = self.registry.slot_of_user(&op.user);
        let known = slot.and_then(|slot| self.registry.get(slot));
        let known = known.filter(|found| found.password.salt == op.salt);
        known.map_or(self.config.cost, |found| found.password.cost)
    }

    /// A password is hashed.
    pub(super) fn hashed(&mut self, hub: &mut Hub<Self>, number: u32, digest: Option<Digest>) {
        self.line.done(hub.now());
        self.judge(hub, number, digest);
        self.hash_next(hub);
    }

    fn judge(&mut self, hub: &mut Hub<Self>, number: u32, digest: Option<Digest>) {
        let Some(op) = self.ops.get_mut(number as usize) else {
            return;
        };
        let Some(digest) = digest else {
            self.refuse(hub, number, later("no memory to check the password", BUSY));
            return;
        };
        let slot = match op.act {
            Act::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.act.id(), &op.user),
        };
        let known = slot.and_then(|slot| self.registry.get(slot));
        let right = match (&op.act, known) {
            // The user was registered meanwhile, or again: another salt.
            (_, Some(known)) if known.password.salt != op.salt => {
                op.salt = known.password.salt;
                self.line.push(number);
                return;
            }
            (_, Some(known)) => known.password.matches(&digest),
            (Act::Register { .. }, None) => true,
            (_, None) => false,
        };
        if let Some(id) = op.tried.take() {
            self.lockout.end(hub.now(), id, Some(right));
        }
        if !right {
            self.counts.wrong_passwords += 1;
            self.refuse(hub, number, WRONG);
            return;
        }
        op.hashed = Some(Hashed {
            cost: known.map_or(self.config.cost, |known| known.password.cost),
            salt: op.salt,
            digest,
        });
        self.change(hub, number);
    }

    /// The password is right: has the change stored.
    pub(super) fn change(&mut self, hub: &mut Hub<Self>, number: u32) {
        let clock = self.clock(hub.now());
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        let slot = match op.act {
            Act::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.act.id(), &op.user),
        };
        if self.busy.contains(&op.user) {
            self.refuse(
                hub,
                number,
                later("another change of this user is under way", BUSY),
            );
            return;
        }
        // Again: the list may have grown while this part of it waited for its hash.
        if let Err(ko) = self.check_length(&op.act) {
            self.refuse(hub, number, ko);
            return;
        }
        let known = slot.and_then(|slot| self.registry.get(slot));
        if let (Act::Add { list, .. }, Some(known)) = (&op.act, known)
            && list.count == 0
        {
            // Nothing to store, and no end of empty chunks.
            let holder = known.holder;
            self.indexed(hub, number, holder);
            return;
        }
        let Some(changes) = changes(op, known, clock) else {
            // It went since its password was checked.
            self.refuse(hub, number, WRONG);
            return;
        };
        let (user, leaves) = (op.user.clone(), matches!(op.act, Act::Logout { .. }));
        let write = Write {
            op: number,
            changes,
        };
        if hub.submit(Job::Write(write)).is_err() {
            self.refuse(hub, number, later("the server is busy", BUSY));
            return;
        }
        self.busy.insert(user);
        if let Some(slot) = slot.filter(|_| leaves) {
            // Gone at once; what is stored only says that a keep-alive is no way back.
            self.go_offline(hub, slot);
        }
    }

    /// The operation was done: its connection is told, and has proved its password.
    pub(super) fn answer(
        &mut self,
        hub: &mut Hub<Self>,
        number: u32,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(op) = self.forget(number) else {
            return;
        };
        self.busy.remove(&op.user);
        let Some(conn) = op.conn else { return };
        if let Some(out) = hub.output_of(conn) {
            write(out);
            let account = Account {
                user: &op.user,
                password: &op.secret.0,
            };
            let proof = Proof::new(op.act.id(), account, random_bytes(hub));
            hub.notify(conn, Note::Proved(Box::new(proof)));
        }
        hub.resume(conn);
    }

    /// It was not.
    pub(super) fn refuse(&mut self, hub: &mut Hub<Self>, number: u32, ko: Ko) {
        let now = hub.now();
        let Some(op) = self.forget(number) else {
            return;
        };
        if let Some(id) = op.tried {
            self.lockout.end(now, id, None);
        }
        if let Some(ip) = op.counted {
            self.quota.take_back(ip);
        }
        let Some(conn) = op.conn else { return };
        if let Some(out) = hub.output_of(conn) {
            write_ko(out, op.act.kind().ko(), ko);
        }
        hub.resume(conn);
    }

    fn forget(&mut self, number: u32) -> Option<Op> {
        let op = self.ops.try_remove(number as usize)?;
        self.pending.take(&op.act);
        Some(op)
    }
}

/// The port of a peer that names none, as the specification has it.
const PORT: u16 = 9999;

/// What an operation changes in the store; `None` when the registration is not there (any more).
fn changes(op: &Op, known: Option<&Registration>, clock: u64) -> Option<Vec<Change>> {
    if let Act::Register { id, list } = &op.act {
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
    Some(match &op.act {
        Act::Update { list, .. } => {
            let surplus = (1..known.chunks).map(|chunk| Change::Files(id, chunk, None));
            let first = Change::Files(id, 0, Some(list.lines.clone()));
            surplus.chain([first]).collect()
        }
        Act::Add { list, .. } => {
            vec![Change::Files(id, known.chunks, Some(list.lines.clone()))]
        }
        Act::Login { place, .. } => {
            let record = Record {
                login_at: clock,
                place: Some(*place),
                ..known.record()
            };
            vec![Change::Peer(id, Some(record.encode()))]
        }
        Act::Logout { .. } => {
            let record = Record {
                place: None,
                ..known.record()
            };
            vec![Change::Peer(id, Some(record.encode()))]
        }
        Act::Expire { .. } => removal(known),
        Act::Register { .. } => return None,
    })
}

fn removal(known: &Registration) -> Vec<Change> {
    let files = (0..known.chunks).map(|chunk| Change::Files(known.id, chunk, None));
    let peer = Change::Peer(known.id, None);
    files.chain([peer]).collect()
}

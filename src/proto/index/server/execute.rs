//! Runs operations from the request to the commit, and answers them.
//!
//! ```text
//!   begin_op ─▶ (hash queue) ─▶ hashed ─▶ change ─▶ written ─▶ (background) ─▶ indexed ─▶ answer
//!       └─ the connection has proved the password ─▲          └─ apply.rs ─────────┘
//! ```
//! An operation is in `ops` from `begin_op` to `answer` or `refuse`, also when its connection is gone: the change may be
//! on disk already.

use std::net::{IpAddr, Ipv4Addr};

use rand::RngExt;

use crate::engine::{Cx, Hub};
use crate::proto::index::fields::{Account, PeerId};
use crate::proto::index::persisted::{Cost, Digest, Hash, Hashed, Job, Place, Write};
use crate::proto::index::reply::RetryIn;
use crate::proto::index::wire::{Request, write_ko};

use super::admission::{counted_as, is_counted};
use super::operation::{Action, BUSY, Ko, List, Operation, Secret, WRONG, changes, later};
use super::{Conn, IndexServer, Note, Proof, random_bytes};

/// The port of a peer whose LOGIN names none.
const PORT: u16 = 9999;

impl IndexServer {
    /// Begins an operation: true if its answer comes later, false if it is written, `Err` if it is refused at once.
    pub(super) fn begin_op(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Conn,
        request: Request<'_>,
    ) -> Result<bool, Ko> {
        let (account, action) = self.action_of(cx, request)?;
        self.check_limits(&action, account.user)?;
        let now = cx.now();
        let proved = |proof: &Proof| proof.holds(action.id(), account);
        let proved = conn.proof.as_deref().is_some_and(proved);
        // The registration whose password is checked; a new user has none yet.
        let slot = match action {
            Action::Register { .. } => self.registry.slot_of_user(account.user),
            _ => self.registry.slot_of_both(action.id(), account.user),
        };
        let tried = match (&action, slot.and_then(|slot| self.registry.get(slot))) {
            (_, Some(found)) => Some(found.id),
            (Action::Register { .. }, None) => None,
            (_, None) => Some(action.id()),
        };
        // A lock does not apply where the password was proved on the same connection: anybody can cause a lock.
        if !proved {
            if let Some(id) = tried {
                self.check_lock(now, id)?;
            }
            if let Some(secs) = self.hash_queue.full(now, cx.rng()) {
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
        // Counted from now on, so that registrations made at once are no more than one after the other.
        let source = cx.peer().ip();
        let counts = matches!(action, Action::Register { .. }) && is_counted(source);
        let counted = counts.then_some(counted_as(source));
        let counted = counted.filter(|ip| self.quota.begin(now, *ip));
        self.pending.add(&action);
        let op = self.ops.insert(Operation {
            conn: Some(cx.id()),
            action,
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
            self.hash_queue.push(op);
            self.hash_next(cx);
        }
        Ok(self.ops.contains(op as usize))
    }

    fn action_of<'a>(
        &mut self,
        cx: &mut Cx<'_, Self>,
        request: Request<'a>,
    ) -> Result<(Account<'a>, Action), Ko> {
        let source = cx.peer().ip();
        Ok(match request {
            Request::Register { account, files } => {
                self.check_quota(cx.now(), source)?;
                let list = List::of(&files);
                (
                    account,
                    Action::Register {
                        id: self.fresh_id(cx),
                        list,
                    },
                )
            }
            Request::RegisterUpdate { account, id, files } => {
                let list = List::of(&files);
                (account, Action::Update { id, list })
            }
            Request::RegisterAdd { account, id, files } => {
                let list = List::of(&files);
                (account, Action::Add { id, list })
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
                (account, Action::Login { id, place })
            }
            Request::Logout { account, id } => (account, Action::Logout { id }),
            _ => return Err(Ko::Text("not an operation")),
        })
    }

    /// A new id: 63 bits of the node's generator, a cryptographic one (ChaCha12, seeded by the system).
    fn fresh_id(&self, hub: &mut Hub<Self>) -> PeerId {
        loop {
            let id = PeerId::from_bits(hub.rng().random());
            if id.get() != 0 && self.registry.slot_of(id).is_none() {
                return id;
            }
        }
    }

    /// The address that a peer is listed under. A peer could name somebody else's and have others dial that, so a claim
    /// counts only from this machine (a proxy may hide the peer's address) or if the configuration trusts all.
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

    /// Submits the next passwords to the threads that are free.
    fn hash_next(&mut self, hub: &mut Hub<Self>) {
        while let Some(op) = self.hash_queue.next(hub.now()) {
            let Some(first) = self.ops.get(op as usize) else {
                self.hash_queue.not_begun();
                continue;
            };
            // The connection is gone, and nothing was changed yet.
            let gone = first.conn.is_some_and(|conn| hub.peer_of(conn).is_none());
            let job = Hash {
                op,
                password: first.secret.0.clone(),
                salt: first.salt,
                cost: self.cost_of(first),
            };
            if gone || hub.submit(Job::Hash(job)).is_err() {
                self.hash_queue.not_begun();
                self.refuse(hub, op, later("the server is busy", BUSY));
            }
        }
    }

    /// The cost of a hash: that of the stored one, if there is one.
    fn cost_of(&self, op: &Operation) -> Cost {
        let slot = self.registry.slot_of_user(&op.user);
        let known = slot.and_then(|slot| self.registry.get(slot));
        let known = known.filter(|found| found.password.salt == op.salt);
        known.map_or(self.config.cost, |found| found.password.cost)
    }

    /// A worker has hashed a password.
    pub(super) fn hashed(&mut self, hub: &mut Hub<Self>, number: u32, digest: Option<Digest>) {
        self.hash_queue.done(hub.now());
        self.check_password(hub, number, digest);
        self.hash_next(hub);
    }

    fn check_password(&mut self, hub: &mut Hub<Self>, number: u32, digest: Option<Digest>) {
        let Some(op) = self.ops.get_mut(number as usize) else {
            return;
        };
        let Some(digest) = digest else {
            self.refuse(hub, number, later("no memory to check the password", BUSY));
            return;
        };
        let slot = match op.action {
            Action::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.action.id(), &op.user),
        };
        let known = slot.and_then(|slot| self.registry.get(slot));
        let right = match (&op.action, known) {
            // The user was registered since, with another salt: hash again.
            (_, Some(known)) if known.password.salt != op.salt => {
                op.salt = known.password.salt;
                self.hash_queue.push(number);
                return;
            }
            (_, Some(known)) => known.password.matches(&digest),
            (Action::Register { .. }, None) => true,
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

    /// The password is right: submits the change to the store.
    pub(super) fn change(&mut self, hub: &mut Hub<Self>, number: u32) {
        let clock = self.clock(hub.now());
        let Some(op) = self.ops.get(number as usize) else {
            return;
        };
        let slot = match op.action {
            Action::Register { .. } => self.registry.slot_of_user(&op.user),
            _ => self.registry.slot_of_both(op.action.id(), &op.user),
        };
        if self.busy.contains(&op.user) {
            self.refuse(
                hub,
                number,
                later("another change of this user is under way", BUSY),
            );
            return;
        }
        // Checked again: the list may have grown while this operation waited for its hash.
        if let Err(ko) = self.check_length(&op.action) {
            self.refuse(hub, number, ko);
            return;
        }
        let known = slot.and_then(|slot| self.registry.get(slot));
        if let (Action::Add { list, .. }, Some(known)) = (&op.action, known)
            && list.count == 0
        {
            // Nothing to store; empty chunks would add up.
            let holder = known.holder;
            self.indexed(hub, number, holder);
            return;
        }
        let Some(changes) = changes(op, known, clock) else {
            // The registration ended after its password was checked.
            self.refuse(hub, number, WRONG);
            return;
        };
        let (user, leaves) = (op.user.clone(), matches!(op.action, Action::Logout { .. }));
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
            // Offline at once. The store only records that a keep-alive does not bring it back.
            self.go_offline(hub, slot);
        }
    }

    /// Ends an operation that was done: answers, and remembers on the connection that the password was proved.
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
        if let Some(ip) = op.counted {
            self.quota.end(hub.now(), ip, true);
        }
        let Some(conn) = op.conn else { return };
        if let Some(out) = hub.output_of(conn) {
            write(out);
            let account = Account {
                user: &op.user,
                password: &op.secret.0,
            };
            let proof = Proof::new(op.action.id(), account, random_bytes(hub));
            hub.notify(conn, Note::Proved(Box::new(proof)));
        }
        hub.resume(conn);
    }

    /// Ends an operation that was not done.
    pub(super) fn refuse(&mut self, hub: &mut Hub<Self>, number: u32, ko: Ko) {
        let now = hub.now();
        let Some(op) = self.forget(number) else {
            return;
        };
        if let Some(id) = op.tried {
            self.lockout.end(now, id, None);
        }
        if let Some(ip) = op.counted {
            self.quota.end(now, ip, false);
        }
        let Some(conn) = op.conn else { return };
        if let Some(out) = hub.output_of(conn) {
            write_ko(out, op.action.kind().ko(), ko);
        }
        hub.resume(conn);
    }

    fn forget(&mut self, number: u32) -> Option<Operation> {
        let op = self.ops.try_remove(number as usize)?;
        self.pending.take(&op.action);
        Some(op)
    }
}

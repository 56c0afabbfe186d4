//! REGISTER: gives a peer its place in the ring, and answers with a REG_INIT.
//!
//! - A new handle gets a number, an item and the place behind all others.
//! - A handle from the same address again: the same number and item.
//! - A handle from elsewhere: refused while its member lives. The member is pinged at once, so that a dead one is soon replaced.
//!
//! The answer to a new member waits for the disk, if the tracker is durable. The wait ends with the worker's report,
//! whatever it is, or with the connection.

use std::net::SocketAddrV4;

use crate::engine::ConnId;
use crate::proto::ring::wire::{Encoding, RegInit, Reply};

use super::config::Host;
use super::persisted::{Change, PendingAnswer, Written};
use super::ring::Ring;

/// What became of a REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Registered {
    /// It was answered with a refusal.
    Refused,
    /// The member with this slot and number.
    Member {
        slot: u32,
        number: u64,
        /// The answer waits for the disk.
        waits: bool,
    },
}

impl Ring {
    /// Serves a REGISTER of `handle` at `addr`, on the connection `conn`.
    pub(super) fn register(
        &mut self,
        host: &mut dyn Host,
        conn: ConnId,
        handle: &str,
        addr: SocketAddrV4,
        encoding: Encoding,
    ) -> Registered {
        let known = self.members.by_handle(handle);
        let slot = match known {
            Some(slot) if self.members[slot].addr == addr => {
                if self.members[slot].encoding != encoding {
                    self.members[slot].encoding = encoding;
                    self.persist(host, Change::Add(self.persisted(slot)), None);
                }
                slot
            }
            Some(slot) => {
                self.counts.refused += 1;
                self.counts.reg_inits += 1;
                put(host, conn, encoding, &self.refusal());
                self.ping(host, slot);
                return Registered::Refused;
            }
            None if self.members.len() >= self.config.members_max => {
                let full = Reply::Tracker("The ring is full".into());
                put(host, conn, encoding, &full);
                return Registered::Refused;
            }
            None => {
                self.counts.registered += 1;
                let line = format_args!("{} at {addr} registers", handle.escape_debug());
                self.log_joins.info(host.now(), line);
                self.add(host, handle.into(), addr, encoding)
            }
        };
        let number = self.members[slot].number;
        let next = self.members[slot].contact.update.register(conn);
        self.follow(host, slot, next);
        self.alive(host, slot);
        let answer = Some(PendingAnswer { slot, number, conn });
        let waits =
            known.is_none() && self.persist(host, Change::Add(self.persisted(slot)), answer);
        if !waits {
            self.answer(host, slot);
        }
        Registered::Member {
            slot,
            number,
            waits,
        }
    }

    /// The worker reports what became of a change.
    pub(super) fn written(&mut self, host: &mut dyn Host, done: &Written) {
        if !done.committed {
            self.not_persisted(host.now());
        }
        let Some(PendingAnswer { slot, number, conn }) = done.answer else {
            return;
        };
        host.resume(conn);
        // It may have registered again meanwhile, and was answered then.
        let waits = self.members.has(slot, number)
            && self.members[slot].contact.update.registering() == Some(conn);
        if waits {
            self.answer(host, slot);
        } else {
            host.close_conn(conn);
        }
    }

    /// Sends the REG_INIT for which a member waits.
    fn answer(&mut self, host: &mut dyn Host, slot: u32) {
        let member = &self.members[slot];
        let Some(conn) = member.contact.update.registering() else {
            return;
        };
        let reply = Reply::RegInit(RegInit {
            nbr: self.neighbour(member.number),
            item: self.item(member.number),
            ..self.reg_init()
        });
        if put(host, conn, member.encoding, &reply) {
            self.counts.reg_inits += 1;
        }
        let before = self.before(member.number);
        let update = &mut self.members[slot].contact.update;
        update.registered(before, host.now());
        self.watch(host, slot);
    }

    fn refusal(&self) -> Reply<'_> {
        Reply::RegInit(self.reg_init())
    }

    /// Without a neighbour and an item, which is a refusal.
    fn reg_init(&self) -> RegInit<'_> {
        RegInit {
            nbr: None,
            dbsize: self.items.len() as u32,
            item: None,
            order: self.config.order,
        }
    }
}

/// Whether the connection is still open.
fn put(host: &mut dyn Host, conn: ConnId, encoding: Encoding, reply: &Reply<'_>) -> bool {
    let out = host.output_of(conn);
    out.map(|out| reply.put(encoding, out)).is_some()
}

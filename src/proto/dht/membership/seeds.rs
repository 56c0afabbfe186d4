//! Seeds: the nodes that this one was told to join by, with itself among them. Who founds the ring when none is a member?
//!
//! ```text
//! ask each in turn ──one is a member──▶ join by it
//!       └──none──▶ ours is the least address of the list? ──yes──▶ found the ring
//!                                                         └─no───▶ a pause, and ask again
//! ```
//! The nodes of a new ring may all be started with the same list, each its own address included, in any order. Only the one
//! with the least address founds, so there is one founder. It founds once every other one has refused the connection, or
//! has said that it is no member. An address that cannot be reached otherwise may be that of a member: it counts as gone
//! after [`FOUND_AFTER`]. One that takes the connection and is silent is never taken for gone. The others ask until the ring
//! is there. A node with itself alone in its list founds at once.
//!
//! Lists that differ can found two rings; so can a founder that cannot reach a ring which is there.

use std::net::SocketAddrV4;

use crate::engine::{Hub, Tick, Ticks};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Role, Tag};
use crate::proto::dht::rpc::client;
use crate::proto::dht::rpc::operation::{Failure, Operation, Outcome, Verb};

const FOUND_AFTER: Ticks = Ticks::from_secs(30);

#[derive(Debug)]
pub(crate) struct Seeds {
    /// Without ourselves.
    others: Vec<SocketAddrV4>,
    /// As the list has it, by which all that were given the list agree who founds.
    own: Option<SocketAddrV4>,
    /// The one that is asked.
    at: usize,
    /// In this round one could not be reached, and was not refused either.
    lost: bool,
    /// In this round one took the connection and said nothing.
    silent: bool,
}

impl Seeds {
    pub(crate) fn new(others: Vec<SocketAddrV4>, own: Option<SocketAddrV4>) -> Seeds {
        Seeds {
            others,
            own,
            at: 0,
            lost: false,
            silent: false,
        }
    }

    pub(crate) fn others(&self) -> &[SocketAddrV4] {
        &self.others
    }

    /// The others, as they are said in the log.
    pub(crate) fn list(&self) -> String {
        let addrs: Vec<String> = self.others.iter().map(SocketAddrV4::to_string).collect();
        addrs.join(", ")
    }

    pub(crate) fn has_us(&self) -> bool {
        self.own.is_some()
    }

    /// No member is among the others, and it is us who founds.
    fn founds(&self, now: Tick, begun: Tick) -> bool {
        let least = |own: SocketAddrV4| self.others.iter().all(|other| own < *other);
        let gone = !self.silent && (!self.lost || now >= begun + FOUND_AFTER);
        self.own.is_some_and(least) && gone
    }
}

impl DhtNode {
    /// Asks each of the others whether it is a member.
    pub(crate) fn ask_seeds(&mut self, hub: &mut Hub<Self>) {
        if let Role::Joining(join) = &mut self.role {
            (join.seeds.at, join.seeds.lost, join.seeds.silent) = (0, false, false);
            self.ask_seed(hub);
        }
    }

    fn ask_seed(&mut self, hub: &mut Hub<Self>) {
        let once = self.bounds_once();
        let Role::Joining(join) = &self.role else {
            return;
        };
        match join.seeds.others.get(join.seeds.at) {
            Some(seed) => {
                let operation = Operation::new(Verb::Stat, Id::of_addr(*seed), vec![*seed], once);
                client::start(self, hub, operation, Tag::Seed);
            }
            None if join.seeds.founds(hub.now(), join.begun()) => self.found(hub),
            None => self.no_seed_is_member(hub),
        }
    }

    pub(crate) fn seed_told(&mut self, hub: &mut Hub<Self>, result: Result<Outcome, Failure>) {
        let Role::Joining(join) = &mut self.role else {
            return;
        };
        if !join.asks_seeds() {
            return;
        }
        let seeds = &mut join.seeds;
        match result {
            Ok(Outcome::Told(None)) => {}
            Err(failure) if failure.is_refused() => {}
            Err(Failure::Unreachable { .. }) => seeds.lost = true,
            // A plain peer closes upon XSTAT.
            Ok(_) | Err(Failure::CutOff { .. } | Failure::Malformed { .. }) => {
                let at = seeds.at;
                seeds.others.swap(0, at);
                return self.join_by_seeds(hub);
            }
            Err(_) => seeds.silent = true,
        }
        seeds.at += 1;
        self.ask_seed(hub);
    }

    /// A ring of one, with what we hold.
    fn found(&mut self, hub: &mut Hub<Self>) {
        if !self.entries.is_empty() || self.is_locked() {
            // Of a join that began when there was a ring.
            return self.drop_received(hub);
        }
        self.put_recovered_back();
        self.role = Role::Member;
        // Alone: it needs no lease, which it had none of while it joined.
        let me = self.me();
        self.set_next(hub, me);
        log::info!(
            "no other seed is a member: this node founds the ring, {} entries",
            self.entries.len()
        );
    }
}

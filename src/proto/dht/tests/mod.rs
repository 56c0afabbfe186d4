//! The DHT under the simulator: whole rings with everything going on at once ([`ring`]), and single exchanges against
//! scripted peers: CONNECT, DISCONNECT and what they may cost ([`connect`], [`disconnect`], [`relay`], [`rejoin`],
//! [`limits`]), LOCATE ([`lookups`]), versions of entries ([`versions`]), peers that lie ([`untrusted_peers`]).

mod connect;
mod crashes;
mod disconnect;
mod joiners;
mod limits;
mod lookups;
mod rejoin;
mod relay;
mod ring;
mod script;
mod seeds;
mod untrusted_peers;
mod versions;

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{Limits, Ticks, Work};
use crate::lab::dht::addr;
use crate::lab::dht::disk::{Commits, Disk};
use crate::sim::{NodeId, Span, World};

use super::id::Id;
use super::node::{Config, DhtNode, Quanta, Write, Written};
use super::storage::entries::{Entries, Entry};
use super::storage::version::Version;

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

/// As a node wrote it before entries had versions.
fn write_disk(disk: &Disk, key: Id, value: &str) {
    let (version, value) = (Version::ZERO, Some(Bytes::from(value.to_owned())));
    let entry = Entry { version, value };
    disk.lock().expect("no panic in here").insert(key, entry);
}

/// Quanta with which the few entries of a test take several turns.
const SMALL: Quanta = Quanta {
    counted_per_turn: 3,
    sent_per_turn: 2,
    swept_per_turn: 2,
    recovered_per_turn: 2,
    keys_per_part: 2,
    entries_per_job: 2,
};

/// Small quanta in the worlds of even seeds, those of production in the others.
fn quanta(seed: u64) -> Quanta {
    if seed.is_multiple_of(2) {
        SMALL
    } else {
        Quanta::default()
    }
}

/// The configuration of node number `n`.
fn config(seed: u64, n: usize) -> Config {
    Config {
        quanta: quanta(seed),
        // A faulty network, or a joiner that died at the heir, may keep an heir from its part for longer than the default.
        leave_within: secs(120),
        ..Config::new(addr(n))
    }
}

/// Adds node number `n`, a ring of one.
fn add(world: &mut World<DhtNode>, n: usize) -> NodeId {
    let config = config(world.seed(), n);
    let limits = config.fit(Limits::default());
    world.add(addr(n), DhtNode::new(config, Entries::default()), limits)
}

fn add_durable(world: &mut World<DhtNode>, n: usize, delay: Span) -> (NodeId, Disk) {
    let config = Config {
        durable: true,
        ..config(world.seed(), n)
    };
    let limits = config.fit(Limits::default());
    let id = world.add(addr(n), DhtNode::new(config, Entries::default()), limits);
    let disk = Disk::default();
    world.set_worker(id, Commits(disk.clone()), delay);
    (id, disk)
}

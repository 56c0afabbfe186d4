//! The DHT under the simulator: whole rings with everything going on at once ([`ring`]), and single exchanges against
//! scripted peers: CONNECT, DISCONNECT and what they may cost ([`connect`], [`disconnect`], [`relay`], [`rejoin`],
//! [`limits`]), LOCATE ([`lookups`]), versions of entries ([`versions`]), peers that lie ([`untrusted_peers`]).

mod connect;
mod disconnect;
mod limits;
mod lookups;
mod rejoin;
mod relay;
mod ring;
mod script;
mod untrusted_peers;
mod versions;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::engine::{Limits, Ticks, Work};
use crate::sim::{NodeId, Span, World};

use super::id::Id;
use super::node::{Config, DhtNode, Quanta, Write, Written};
use super::storage::entries::{Entries, Entry};
use super::storage::version::Version;

/// Where node number `n` listens. Each has an IP of its own, as members of a ring usually do.
fn addr(n: usize) -> SocketAddrV4 {
    let n = u16::try_from(n)
        .expect("a test has few nodes")
        .to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(10, 1, n[0], n[1]), 5000)
}

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

/// What a durable node's worker has committed.
type Disk = Arc<Mutex<BTreeMap<Id, Entry>>>;

/// Commits to a map that outlives the node.
struct Commits(Disk);

impl Work for Commits {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        let mut disk = self.0.lock().expect("no test panics in here");
        for write in jobs.drain(..) {
            write.changes.each(|key, entry| match entry {
                Some(entry) if entry.value.is_some() || write.keeps_tombstones => {
                    disk.insert(key, entry.clone());
                }
                _ => _ = disk.remove(&key),
            });
            done.push(Written {
                write,
                committed: true,
            });
        }
    }
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
    entries_per_job: 2,
};

/// The configuration of node number `n`: small quanta in the worlds of even seeds, those of production in the others.
fn config(seed: u64, n: usize) -> Config {
    Config {
        quanta: if seed.is_multiple_of(2) {
            SMALL
        } else {
            Quanta::default()
        },
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

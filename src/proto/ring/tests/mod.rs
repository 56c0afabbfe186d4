//! The tracker's ring under the simulator: whole rings with everything going on at once ([`ring`]), and single exchanges
//! with scripted peers ([`trackers`], [`peers`]).

mod limits;
mod peers;
mod ring;
mod script;
mod trackers;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use crate::engine::{Limits, Ticks, Work};
use crate::sim::{NodeId, Span, World};

use super::node::RingNode;
use super::peer::{Config as PeerConfig, Peer, Peers};
use super::tracker::{Change, Config, PersistedMember, Tracker, Write, Written};

type Ring = World<RingNode>;

const TRACKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);

/// Where peer number `n` listens.
fn addr(n: usize) -> SocketAddrV4 {
    let n = u16::try_from(n).expect("a test has few peers");
    let [high, low] = n.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(10, 1, high, low), 5000)
}

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

/// A database of `n` items.
fn items(n: usize) -> Vec<Box<str>> {
    (0..n).map(|n| format!("word{n}").into()).collect()
}

fn limits() -> Limits {
    Peers::fit(Limits::default())
}

fn add_tracker(world: &mut Ring, config: Config, count: usize) -> NodeId {
    let tracker = RingNode::Tracker(Tracker::new(config, items(count), Vec::new()));
    world.add(TRACKER, tracker, limits())
}

/// Starts peer number `n`.
fn add_peer(world: &mut Ring, n: usize) -> NodeId {
    let id = world.add(addr(n), RingNode::Peers(Peers::new()), limits());
    start_peer(world, id, &format!("peer{n}"));
    id
}

fn start_peer(world: &mut Ring, id: NodeId, handle: &str) {
    let config = PeerConfig {
        handle: handle.into(),
        addr: world.addr(id),
        tracker: TRACKER,
        dial_from: None,
    };
    world.with(id, |node, hub| match node {
        RingNode::Peers(peers) => _ = peers.add(hub, config),
        RingNode::Tracker(_) => unreachable!(),
    });
}

fn peer(world: &Ring, id: NodeId) -> &Peer {
    match world.service(id) {
        RingNode::Peers(peers) => &peers.all()[0],
        RingNode::Tracker(_) => panic!("{id:?} is a tracker"),
    }
}

fn tracker(world: &Ring, id: NodeId) -> &Tracker {
    match world.service(id) {
        RingNode::Tracker(tracker) => tracker,
        RingNode::Peers(_) => panic!("{id:?} is a peer"),
    }
}

fn neighbour_of(world: &Ring, id: NodeId) -> String {
    let neighbour = peer(world, id).neighbour();
    neighbour.map_or(String::new(), |n| n.handle.to_string())
}

/// What a durable tracker's worker has committed.
type Disk = Arc<Mutex<BTreeMap<u64, PersistedMember>>>;

/// Commits to a map that outlives the tracker.
struct Commits(Disk);

impl Work for Commits {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        let mut disk = self.0.lock().expect("no test panics in here");
        for write in jobs.drain(..) {
            match &write.change {
                Change::Add(known) => _ = disk.insert(known.number, known.clone()),
                Change::Remove(number) => _ = disk.remove(number),
            }
            done.push(write.written(true));
        }
    }
}

fn known(disk: &Disk) -> Vec<PersistedMember> {
    let disk = disk.lock().expect("no test panics in here");
    disk.values().cloned().collect()
}

fn set_disk(world: &mut Ring, id: NodeId, delay: Span) -> Disk {
    let disk = Disk::default();
    world.set_worker(id, Commits(disk.clone()), delay);
    disk
}

/// A tracker that is down comes back with what it finds on its disk, if it has one.
fn restart_tracker(
    world: &mut Ring,
    id: NodeId,
    config: Config,
    count: usize,
    disk: Option<&Disk>,
) {
    let known = disk.map_or(Vec::new(), known);
    world.restart(
        id,
        RingNode::Tracker(Tracker::new(config, items(count), known)),
    );
}

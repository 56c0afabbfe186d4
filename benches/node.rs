//! What the engine and a DHT node cost per message, without sockets: requests are copied from memory, answers are
//! counted and thrown away. Run with `cargo bench --bench node`; for counts that do not depend on the load
//! of the machine, run one row under callgrind: `valgrind --tool=callgrind BENCH --profile-time 1 ROW`.
//!
//! A turn here is what the reactor makes of one poll: mark the connections that are ready, serve them, write once to
//! each. All rows are per message. Every answer's length is checked; what it says is for the tests.

use std::hint::black_box;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use peerloop::engine::{ConnId, Limits, Node, Readiness, Tick, Transport};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::storage::entries::Entries;
use peerloop::proto::dht::wire::{self, Request};

/// Events that the reactor takes from the kernel at once, and so messages in a turn at most.
const EVENTS_PER_TURN: usize = 256;

/// Turns that pass in a tick of 10 ms: turns here take about 10 us.
const TURNS_PER_TICK: u64 = 1000;

const ADDR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);

/// The peers' side of all connections, by slot.
#[derive(Default)]
struct Memory {
    /// Peers send from these.
    requests: Vec<Box<[u8]>>,
    peers: Vec<Peer>,
}

#[derive(Clone, Copy, Default)]
struct Peer {
    request: usize,
    sent: usize,
    received: usize,
    closed: bool,
}

impl Transport for Memory {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize> {
        let peer = &mut self.peers[slot];
        let left = &self.requests[peer.request][peer.sent..];
        if left.is_empty() && !peer.closed {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = left.len().min(into.len());
        into[..n].copy_from_slice(&left[..n]);
        peer.sent += n;
        Ok(n)
    }

    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = from.iter().map(|slice| black_box(slice).len()).sum();
        self.peers[slot].received += n;
        Ok(n)
    }

    fn dial(&mut self, _: ConnId, _: SocketAddr, _: Option<SocketAddr>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn dialled(&mut self, _: usize) -> io::Result<bool> {
        Err(ErrorKind::Unsupported.into())
    }

    fn finish(&mut self, _: usize) {}

    fn close(&mut self, _: usize) {}
}

/// A node and its peers.
struct World {
    node: Node<DhtNode>,
    memory: Memory,
    conns: Vec<ConnId>,
    turns: u64,
}

impl World {
    /// A node with `entries`, and `conns` connections over which `requests` are sent.
    fn new(entries: Entries, conns: usize, requests: Vec<Vec<u8>>) -> World {
        let config = Config::new(ADDR);
        let limits = config.fit(Limits::default());
        let mut world = World {
            node: Node::new(DhtNode::new(config, entries), limits, 1, Tick(0)),
            memory: Memory {
                requests: requests.into_iter().map(Vec::into_boxed_slice).collect(),
                peers: Vec::new(),
            },
            conns: Vec::new(),
            turns: 0,
        };
        world.begin();
        for _ in 0..conns {
            let id = world.accept();
            world.conns.push(id);
        }
        world.node.turn(&mut world.memory);
        world
    }

    fn begin(&mut self) {
        self.turns += 1;
        self.node.begin(Tick(self.turns / TURNS_PER_TICK));
    }

    fn accept(&mut self) -> ConnId {
        let id = self.node.accepted(ADDR, 0);
        let slots = self.memory.peers.len().max(id.slot() + 1);
        self.memory.peers.resize(slots, Peer::default());
        id
    }

    /// The peer sends a request.
    fn send(&mut self, id: ConnId, request: usize) {
        self.memory.peers[id.slot()] = Peer {
            request,
            ..Peer::default()
        };
        self.report(id);
    }

    /// The peer closes.
    fn close(&mut self, id: ConnId) {
        self.memory.peers[id.slot()].closed = true;
        self.report(id);
    }

    fn report(&mut self, id: ConnId) {
        let peer = &self.memory.peers[id.slot()];
        let readiness = Readiness {
            readable: true,
            writable: false,
            hung_up: peer.closed,
        };
        self.node.ready(id, readiness);
    }

    /// Turns until nothing is left to do; more than one when a message needs more than its share.
    fn settle(&mut self) {
        self.node.turn(&mut self.memory);
        while self.node.has_work() {
            self.begin();
            self.node.turn(&mut self.memory);
        }
    }

    fn assert_answered(&self, id: ConnId, bytes: usize) {
        assert_eq!(self.memory.peers[id.slot()].received, bytes);
    }

    /// The first `conns` connections send request 0 in one turn and get an answer of `bytes`.
    fn round(&mut self, bytes: usize) {
        self.begin();
        for i in 0..self.conns.len() {
            self.send(self.conns[i], 0);
        }
        self.settle();
        for &id in &self.conns {
            self.assert_answered(id, bytes);
        }
    }
}

fn key(n: usize) -> Id {
    Id::of(&n.to_le_bytes())
}

fn entries(count: usize, value_bytes: usize) -> Entries {
    let mut entries = Entries::default();
    for n in 0..count {
        entries.insert(key(n), Bytes::from(vec![b'x'; value_bytes]));
    }
    entries
}

fn request(request: Request) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_request(&mut out, &request);
    out
}

fn insert(value_bytes: usize) -> Vec<u8> {
    let mut out = request(Request::Insert(key(0)));
    wire::put_number(&mut out, value_bytes as u64);
    out.resize(out.len() + value_bytes, b'x');
    out
}

/// Length of the answer to GET: `1`, the length, the value.
fn got(value_bytes: usize) -> usize {
    format!("1\n{value_bytes}\n").len() + value_bytes
}

const INSERTED: usize = "1\n1\n".len();

/// One request, or several at once, on each of a few connections.
fn messages(c: &mut Criterion) {
    let get = request(Request::Get(key(0)));
    let located = format!("{ADDR}\n").len();
    let contains = request(Request::Contains(key(0)));
    let locate = request(Request::Locate(key(0)));
    // Name, value in the node, connections, requests on each at once, request, answer.
    let rows = [
        ("get_100b/1_conn", 100, 1, 1, get.clone(), got(100)),
        ("get_100b/50_conns", 100, 50, 1, get.clone(), got(100)),
        ("get_100b/50_conns_x16", 100, 50, 16, get.clone(), got(100)),
        ("get_64k/1_conn", 65_536, 1, 1, get, got(65_536)),
        ("insert_100b/50_conns", 100, 50, 1, insert(100), INSERTED),
        ("insert_64k/1_conn", 100, 1, 1, insert(65_536), INSERTED),
        ("contains/50_conns", 100, 50, 1, contains, INSERTED),
        ("locate/50_conns", 100, 50, 1, locate, located),
    ];
    let mut group = c.benchmark_group("node");
    for (name, value_bytes, conns, depth, request, answer_bytes) in rows {
        let requests = vec![request.repeat(depth)];
        let mut world = World::new(entries(1, value_bytes), conns, requests);
        group.throughput(Throughput::Elements((conns * depth) as u64));
        group.bench_function(name, |b| b.iter(|| world.round(answer_bytes * depth)));
    }
}

/// 10,000 connections take turns, in an order that no cache foresees.
fn cold(c: &mut Criterion) {
    const CONNS: usize = 10_000;
    // Coprime to the number of connections: every one comes once in a round.
    const STRIDE: usize = 7_919;
    let requests = vec![request(Request::Get(key(0)))];
    let mut world = World::new(entries(1, 100), CONNS, requests);
    let mut next = 0;
    let mut served = Vec::with_capacity(EVENTS_PER_TURN);
    let mut group = c.benchmark_group("node");
    group.throughput(Throughput::Elements(EVENTS_PER_TURN as u64));
    group.bench_function("get_100b/10000_conns_cold", |b| {
        b.iter(|| {
            world.begin();
            served.clear();
            for _ in 0..EVENTS_PER_TURN {
                next = (next + STRIDE) % CONNS;
                served.push(world.conns[next]);
                world.send(world.conns[next], 0);
            }
            world.settle();
            for &id in &served {
                world.assert_answered(id, got(100));
            }
        });
    });
}

/// GET from small and large nodes: 50 connections ask for keys all over the ring.
fn sizes(c: &mut Criterion) {
    const CONNS: usize = 50;
    const KEYS_MAX: usize = 65_536;
    let mut group = c.benchmark_group("node");
    group.throughput(Throughput::Elements(CONNS as u64));
    for count in [1_000, 100_000, 1_000_000] {
        // The keys are hashes, so the first ones lie as scattered as all of them.
        let asked = KEYS_MAX.min(count);
        let build = || {
            let requests = (0..asked).map(|n| request(Request::Get(key(n)))).collect();
            World::new(entries(count, 100), CONNS, requests)
        };
        // Built when the row is run, and not when it is only passed over.
        let (mut world, mut next) = (None, 0);
        group.bench_function(format!("get_100b/{count}_entries"), |b| {
            let world = world.get_or_insert_with(build);
            b.iter(|| {
                world.begin();
                for i in 0..CONNS {
                    next = (next + 1) % asked;
                    world.send(world.conns[i], next);
                }
                world.settle();
                for &id in &world.conns {
                    world.assert_answered(id, got(100));
                }
            });
        });
    }
}

/// A connection for each command, as most implementations do it.
fn churn(c: &mut Criterion) {
    let requests = vec![request(Request::Get(key(0)))];
    let mut world = World::new(entries(1, 100), 0, requests);
    let mut group = c.benchmark_group("node");
    group.throughput(Throughput::Elements(1));
    group.bench_function("accept_get_100b_close", |b| {
        b.iter(|| {
            world.begin();
            let id = world.accept();
            world.send(id, 0);
            world.settle();
            world.assert_answered(id, got(100));
            world.begin();
            world.close(id);
            world.settle();
            assert_eq!(world.node.conns(), 0);
        });
    });
}

/// Short enough to run before every push; the figures move by a few percent between runs.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = node;
    config = config();
    targets = messages, cold, sizes, churn
}
criterion_main!(node);

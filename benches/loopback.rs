//! What a client sees of a DHT node over loopback, and what durability costs. Run with
//! `cargo bench --bench loopback`; the durable rows write to a directory under TMPDIR, so let that be a disk.
//!
//! The client is a thread with blocking sockets. With two cores it and the node have one each; the figures are round
//! trips, so they contain the client and twice the kernel.
//!
//! The group commit is seen by comparing `durable/commit_of_one` (the store itself, one insert a commit)
//! with `durable/insert_100b/64_conns` (64 connections, each with one insert under way);
//! `durable/commit_of_64` is what the store could give to the latter if nothing else took time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use peerloop::engine::Limits;
use peerloop::net::{Bound, Handle, Reactor};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{self, Config, DhtNode};
use peerloop::proto::dht::storage::entries::Entries;
use peerloop::proto::dht::wire::{self, Request};
use peerloop::store::redb::Redb;
use peerloop::store::{Change, Store, Table};
use peerloop::workers::commit::Committer;

/// Keys that the durable rows write to in turn: all are there from the start, so a store is as large at the
/// end of a run as at its begin.
const DURABLE_KEYS: usize = 10_000;

/// A node on a thread of its own; it leaves when this is dropped.
struct Server {
    port: u16,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// With its entries in memory only.
    fn volatile() -> Server {
        Server::start(Entries::default(), None)
    }

    /// With its entries in `dir`.
    fn durable(dir: &Path) -> Server {
        let (committer, entries) = Committer::load(Redb::open(dir).unwrap()).unwrap();
        Server::start(entries, Some(committer))
    }

    fn start(entries: Entries, committer: Option<Committer<Redb, node::Write>>) -> Server {
        // All of 127.0.0.0/8, see `Server::addr`.
        let bound = Bound::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = bound.addr().port();
        let mut config = Config::new(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        config.durable = committer.is_some();
        let limits = config.fit(Limits::default());
        let mut reactor = Reactor::new(DhtNode::new(config, entries), limits).unwrap();
        reactor.accept_from(bound).unwrap();
        if let Some(committer) = committer {
            reactor.start_worker(committer).unwrap();
        }
        let handle = reactor.handle();
        let thread = std::thread::spawn(move || reactor.run().unwrap());
        Server {
            port,
            handle,
            thread: Some(thread),
        }
    }

    /// One of the node's addresses; `n` chooses which. Connections that end occupy their pair of addresses for a
    /// minute, so a bench that opens many needs many.
    fn addr(&self, n: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, (n % 250) as u8 + 1), self.port)
    }

    fn connect(&self, n: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addr(n)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Sends a request, or several at once, and takes the answer.
fn ask(stream: &mut TcpStream, request: &[u8], answer: &mut [u8]) {
    stream.write_all(request).unwrap();
    stream.read_exact(answer).unwrap();
}

fn key(n: usize) -> Id {
    Id::of(&n.to_le_bytes())
}

fn get(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_request(&mut out, &Request::Get(key(n)));
    out
}

fn insert(n: usize, value_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_request(&mut out, &Request::Insert(key(n)));
    wire::put_number(&mut out, value_bytes as u64);
    out.resize(out.len() + value_bytes, b'x');
    out
}

/// The answer to GET: `1`, the length, the value.
fn got(value_bytes: usize) -> Vec<u8> {
    let mut out = format!("1\n{value_bytes}\n").into_bytes();
    out.resize(out.len() + value_bytes, b'x');
    out
}

const INSERTED: &[u8] = b"1\n1\n";

/// Rows with the entries in memory only, one connection.
fn volatile(c: &mut Criterion) {
    let server = Server::volatile();
    let mut stream = server.connect(0);
    for (n, value_bytes) in [(0, 100), (1, 65_536)] {
        let mut answer = [0; INSERTED.len()];
        ask(&mut stream, &insert(n, value_bytes), &mut answer);
        assert_eq!(answer, INSERTED);
    }
    // Name, request, its answer, how many at once.
    let rows = [
        ("get_100b", get(0), got(100), 1),
        ("get_100b_pipelined", get(0), got(100), 64),
        ("get_64k", get(1), got(65_536), 1),
        ("insert_100b", insert(2, 100), INSERTED.to_vec(), 1),
    ];
    let mut group = c.benchmark_group("loopback");
    for (name, request, expected, depth) in rows {
        let (request, expected) = (request.repeat(depth), expected.repeat(depth));
        let mut answer = vec![0; expected.len()];
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(name, |b| {
            b.iter(|| ask(&mut stream, &request, &mut answer));
        });
        assert!(answer == expected || answer.iter().all(|&b| b == 0));
    }
    group.throughput(Throughput::Elements(1));
    let (request, mut answer, mut n) = (get(0), got(100), 0);
    group.bench_function("connect_get_100b_close", |b| {
        b.iter(|| {
            n += 1;
            ask(&mut server.connect(n), &request, &mut answer);
        });
    });
}

/// Inserts that are on disk before they are acknowledged, and what a commit of each alone would cost.
fn durable(c: &mut Criterion) {
    const CONNS: usize = 64;
    let mut group = c.benchmark_group("durable");
    for (name, changes_count) in [("commit_of_one", 1), ("commit_of_64", CONNS)] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let mut store = Redb::open(dir.path()).unwrap();
        let mut n = 0;
        group.throughput(Throughput::Elements(changes_count as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let changes: Vec<_> = (n..n + changes_count).map(change).collect();
                n += changes_count;
                store.commit(&changes).unwrap();
            });
        });
    }
    for conns in [1, CONNS] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let server = Server::durable(dir.path());
        let mut streams: Vec<_> = (0..conns).map(|n| server.connect(n)).collect();
        let requests: Vec<_> = (0..DURABLE_KEYS).map(|n| insert(n, 100)).collect();
        let mut n = 0;
        group.throughput(Throughput::Elements(conns as u64));
        group.bench_function(format!("insert_100b/{conns}_conns"), |b| {
            b.iter(|| {
                for stream in &mut streams {
                    n += 1;
                    stream.write_all(&requests[n % DURABLE_KEYS]).unwrap();
                }
                for stream in &mut streams {
                    let mut answer = [0; INSERTED.len()];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, INSERTED);
                }
            });
        });
    }
}

/// The table that [`Committer`] keeps a node's entries in.
const ENTRIES: Table = Table::new("dht-entries-with-versions");

fn change(n: usize) -> Change {
    let key = key(n % DURABLE_KEYS).to_be_bytes();
    // A version, and that a value follows.
    let row = [&[0, 0, 0, 0, 0, 0, 0, 1, 1][..], &[b'x'; 100]].concat();
    Change::put(ENTRIES, key, row)
}

fn fill(dir: &Path) {
    let changes: Vec<_> = (0..DURABLE_KEYS).map(change).collect();
    Redb::open(dir).unwrap().commit(&changes).unwrap();
}

/// Short enough to run before every push; the figures move by some percent between runs.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = loopback;
    config = config();
    targets = volatile, durable
}
criterion_main!(loopback);

//! No allocation per message in the steady state, proved by counting them: the whole engine with a DHT node, a cPTP
//! peer or an index server, over connections in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use bytes::Bytes;

use peerloop::engine::{ConnId, Limits, Node, Readiness, Service, Tick, Ticks, Transport};
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::storage::entries::Entries;
use peerloop::proto::index::fields::PeerId;
use peerloop::proto::index::persisted::{Cost, Hashed, Place, Record};
use peerloop::proto::index::server::{Config as ServerConfig, IndexServer, Stored};
use peerloop::proto::index::wire::write_text;
use peerloop::proto::overlay::peer::Config as PeerConfig;
use peerloop::proto::overlay::{self, Overlay};

use crate::memory::{Memory, Pipe, READABLE};
use crate::support::{command, key, noise};

thread_local! {
    /// Allocations of this thread. `const` and without a destructor, so that using it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread has allocated and not freed; what others free for it makes this wrong, so it counts
    /// between two moments of one test.
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    /// The most that `LIVE_BYTES` was.
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: usize) {
    // The counters are gone while a thread ends; that is not counted.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    let _ = LIVE_BYTES.try_with(|live| {
        live.set(live.get() + bytes as isize);
        PEAK_BYTES.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn uncount(bytes: usize) {
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() - bytes as isize));
}

// SAFETY: every call goes to `System` unchanged, which keeps the contract of `GlobalAlloc`: a block comes from
// and returns to the same allocator with the layout the caller vouches for. `count` and `uncount` neither allocate (a `Cell` in
// a `const` thread-local without a destructor needs no lazy set-up) nor unwind, so no call is re-entered or cut short.
#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while the content moves.
        count(size);
        uncount(layout.size());
        // SAFETY: as above; `block` came from `System`, by one of these functions.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// How often this thread allocates in `act`.
fn allocations(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

/// The most that `act` has allocated at any moment, in bytes.
pub fn peak_bytes(act: impl FnOnce()) -> usize {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    act();
    (PEAK_BYTES.get() - before) as usize
}

#[test]
fn the_counter_counts() {
    let mut kept = Vec::<u8>::new();
    assert_eq!(allocations(|| kept.reserve_exact(100)), 1);
    assert_eq!(allocations(|| kept.reserve_exact(1000)), 1);
    assert_eq!(allocations(|| kept.extend_from_slice(&[1; 100])), 0);
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    assert_eq!(
        allocations(|| drop(std::hint::black_box(vec![0_u8; 100]))),
        1
    );
    let grow = || {
        drop(std::hint::black_box(vec![0_u8; 100]));
        let mut kept = vec![0_u8; 1000];
        kept.reserve_exact(2000);
        drop(std::hint::black_box(kept));
    };
    assert_eq!(peak_bytes(grow), 1000 + 3000);
}

const WARM_UP: usize = 100;
const MEASURED: usize = 10_000;

struct World<S: Service> {
    node: Node<S>,
    memory: Memory,
    conns: Vec<ConnId>,
    now: u64,
}

const ME: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);

impl World<DhtNode> {
    fn new(values: &[(&str, usize)]) -> World<DhtNode> {
        let mut entries = Entries::default();
        for &(name, len) in values {
            entries.insert(key(name), Bytes::from(noise(1, len)));
        }
        World::of(DhtNode::new(Config::new(ME), entries), Limits::default())
    }
}

impl<S: Service> World<S> {
    fn of(service: S, limits: Limits) -> World<S> {
        let mut node = Node::new(service, limits, 1, Tick(0));
        let conns: Vec<ConnId> = (0..8).map(|_| node.accepted(ME, 0)).collect();
        let pipes = conns.iter().map(|_| Pipe {
            incoming: Vec::with_capacity(1 << 16),
            outgoing: Vec::with_capacity(1 << 20),
            closed: false,
        });
        World {
            node,
            memory: Memory(pipes.collect()),
            conns,
            now: 0,
        }
    }

    /// Sends `request` to one connection in pieces of `piece`, a turn each, and expects `reply`.
    fn ask(&mut self, number: usize, request: &[u8], piece: usize, reply: &[u8]) {
        let id = self.conns[number % self.conns.len()];
        for piece in request.chunks(piece) {
            self.memory.0[id.slot()].incoming.extend_from_slice(piece);
            // Time goes by, so that deadlines are armed, moved and looked at.
            self.now += 1;
            self.node.begin(Tick(self.now));
            self.node.ready(id, READABLE);
            self.node.turn(&mut self.memory);
        }
        while self.node.has_work() {
            self.node.turn(&mut self.memory);
        }
        let Pipe {
            outgoing, closed, ..
        } = &mut self.memory.0[id.slot()];
        assert!(outgoing == reply && !*closed);
        outgoing.clear();
    }

    /// Asserts that once it is warm, answering needs no allocation.
    #[track_caller]
    fn expect_none(&mut self, request: &[u8], piece: usize, reply: &[u8]) {
        assert_eq!(self.allocations(request, piece, reply), 0);
    }

    /// How many allocations [`MEASURED`] answers need once it is warm.
    fn allocations(&mut self, request: &[u8], piece: usize, reply: &[u8]) -> usize {
        (0..WARM_UP).for_each(|number| self.ask(number, request, piece, reply));
        let made = allocations(|| {
            (0..MEASURED).for_each(|number| self.ask(number, request, piece, reply));
        });
        self.node.validate();
        assert!(
            self.node.stats().timers_fired > 0,
            "deadlines were looked at"
        );
        made as usize
    }
}

fn get_and_reply(name: &str, len: usize) -> (Vec<u8>, Vec<u8>) {
    let head = format!("1\n{len}\n").into_bytes();
    (
        command("GET", key(name)).into_bytes(),
        [head, noise(1, len)].concat(),
    )
}

#[test]
fn none_for_get() {
    let (get, reply) = get_and_reply("small", 100);
    World::new(&[("small", 100)]).expect_none(&get, get.len(), &reply);
}

/// The head of the reply takes a block of its own, in front of the value in the output queue.
#[test]
fn one_small_one_for_get_of_a_value_that_is_sent_by_reference() {
    let (get, reply) = get_and_reply("large", 10_000);
    let made = World::new(&[("large", 10_000)]).allocations(&get, get.len(), &reply);
    assert!(made <= MEASURED, "{made}");
}

#[test]
fn none_for_contains_and_locate() {
    let mut world = World::new(&[]);
    let contains = command("CONTAINS", key("x"));
    world.expect_none(contains.as_bytes(), contains.len(), b"1\n0\n");
    let locate = command("LOCATE", key("x"));
    world.expect_none(locate.as_bytes(), locate.len(), b"127.0.0.1:4000\n");
}

#[test]
fn none_for_requests_that_dribble_in() {
    let mut world = World::new(&[("small", 100)]);
    let (get, reply) = get_and_reply("small", 100);
    world.expect_none(&get, 1, &reply);
    let locate = command("LOCATE", key("x"));
    world.expect_none(locate.as_bytes(), 7, b"127.0.0.1:4000\n");
}

#[test]
fn none_for_pipelined_requests() {
    let (get, reply) = get_and_reply("small", 100);
    World::new(&[("small", 100)]).expect_none(&get.repeat(64), usize::MAX, &reply.repeat(64));
}

/// Connections in memory whose peer takes everything, and closes when we do.
struct Strangers {
    written: usize,
}

impl Transport for Strangers {
    fn read(&mut self, _: usize, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn write(&mut self, _: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = from.iter().map(|slice| slice.len()).sum();
        self.written += n;
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

/// From the accept to the end of the connection, with a table that is larger than a packet.
#[test]
fn none_for_a_redirect() {
    const TABLE: u16 = 200;
    let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let config = PeerConfig {
        table_max: TABLE.into(),
        ..PeerConfig::new("p1".into(), at(4000))
    };
    let limits = overlay::fit(Limits::default());
    let mut node = Node::new(Overlay::new(()), limits, 1, Tick(0));
    node.with(|overlay, hub| overlay.add(hub, config));
    let mut io = Strangers { written: 0 };
    for port in 0..TABLE {
        node.accepted(at(10_000 + port), 0);
    }
    node.turn(&mut io);
    let mut now = 0;
    let mut redirect = |node: &mut Node<Overlay<()>>| {
        now += 1;
        node.begin(Tick(now));
        let id = node.accepted(at(20_000 + (now % 1000) as u16), 0);
        io.written = 0;
        node.turn(&mut io);
        assert_eq!(io.written, 4 + 2 + 64 * 6, "a redirect with 64 entries");
        let hung_up = Readiness {
            hung_up: true,
            ..READABLE
        };
        node.ready(id, hung_up);
        while node.has_work() {
            node.turn(&mut io);
        }
        assert_eq!(node.conns(), usize::from(TABLE));
    };
    (0..WARM_UP).for_each(|_| redirect(&mut node));
    let made = allocations(|| (0..MEASURED).for_each(|_| redirect(&mut node)));
    assert_eq!(made, 0);
    let counters = node.service().peers()[0].counters();
    assert_eq!(counters.redirected as usize, WARM_UP + MEASURED);
}

/// An index server with one peer, which shares ten files and was online when the server went down.
fn index_world() -> World<IndexServer> {
    let record = Record {
        user: "alice".into(),
        password: Hashed {
            cost: Cost {
                memory_kib: 8,
                passes: 1,
            },
            salt: [0; 16],
            digest: [0; 32],
        },
        login_at: 0,
        place: Some(Place {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 9999,
            from: Ipv4Addr::LOCALHOST.into(),
        }),
    };
    let mut stored = Stored::default();
    let id = PeerId::from_bits(42);
    stored.peer(id, &record.encode()).expect("a record");
    let lines = (0..10).map(|n| format!("song {n}|1.000000|{}\n", "ab".repeat(20)));
    let lines: String = lines.collect();
    stored.files(id, 0, lines.as_bytes()).expect("lines");
    // Short, so that the keep-alive timer fires during the measurement.
    let config = ServerConfig {
        keep_alive: Ticks::from_secs(5),
        ..ServerConfig::default()
    };
    let limits = config.fit(Limits::default());
    World::of(IndexServer::new(config, stored), limits)
}

fn frame(kind: u16, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_text(&mut bytes, kind, text);
    bytes
}

#[test]
fn none_for_keep_alive() {
    let (request, reply) = (frame(3, "42"), frame(103, "KEEP ALIVE SUCCESS"));
    index_world().expect_none(&request, request.len(), &reply);
    index_world().expect_none(&request, 1, &reply);
}

/// Each search follows a KEEP_ALIVE, or the peer would be offline before the last.
#[test]
fn none_for_search() {
    let hits = (0..10).map(|n| {
        let sha1 = "ab".repeat(20);
        format!("song {n}\n1.000000\n{sha1}\nalice\n42\n127.0.0.1\n9999\n")
    });
    let hits = frame(107, &hits.collect::<String>());
    let alive = (frame(3, "42"), frame(103, "KEEP ALIVE SUCCESS"));
    let request = [alive.0, frame(7, "Song")].concat();
    let reply = [alive.1, hits].concat();
    index_world().expect_none(&request, request.len(), &reply);
}

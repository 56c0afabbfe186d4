//! No allocation per message in the steady state, proved by counting them: the whole engine with a DHT node,
//! over connections in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;

use peerloop::engine::{ConnId, Limits, Node, Readiness, Tick, Transport};
use peerloop::proto::dht::entries::Entries;
use peerloop::proto::dht::node::{Config, DhtNode};

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
    // Not there any more while a thread ends, which nobody counts.
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
        // Both are there while it moves.
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

/// A connection in memory: what the peer sent and what it got.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

struct Memory(Vec<Pipe>);

impl Transport for Memory {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize> {
        let incoming = &mut self.0[slot].incoming;
        if incoming.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = incoming.len().min(into.len());
        into[..n].copy_from_slice(&incoming[..n]);
        incoming.drain(..n);
        Ok(n)
    }

    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let outgoing = &mut self.0[slot].outgoing;
        from.iter()
            .for_each(|slice| outgoing.extend_from_slice(slice));
        Ok(from.iter().map(|slice| slice.len()).sum())
    }

    fn dial(&mut self, _: ConnId, _: SocketAddrV4, _: Option<SocketAddrV4>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn dialled(&mut self, _: usize) -> io::Result<bool> {
        Err(ErrorKind::Unsupported.into())
    }

    fn finish(&mut self, _: usize) {}

    fn close(&mut self, slot: usize) {
        panic!("connection {slot} ended");
    }
}

const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    hung_up: false,
};

const WARM_UP: usize = 100;
const MEASURED: usize = 10_000;

struct World {
    node: Node<DhtNode>,
    memory: Memory,
    conns: Vec<ConnId>,
    now: u64,
}

impl World {
    fn new(values: &[(&str, usize)]) -> World {
        let me = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);
        let mut entries = Entries::default();
        for &(name, len) in values {
            entries.insert(key(name), Bytes::from(noise(1, len)));
        }
        let node = DhtNode::new(Config::new(me), entries);
        let mut node = Node::new(node, Limits::default(), 1, Tick(0));
        let conns: Vec<ConnId> = (0..8).map(|_| node.accepted(me, 0)).collect();
        let pipes = conns.iter().map(|_| Pipe {
            incoming: Vec::with_capacity(1 << 16),
            outgoing: Vec::with_capacity(1 << 20),
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
        let outgoing = &mut self.memory.0[id.slot()].outgoing;
        assert!(outgoing == reply);
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

/// Its head moves into a block of its own, which stands before the value's in the queue.
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

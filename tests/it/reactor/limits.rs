//! What slow, silent and many peers can do to a node, and to each other: nothing but to be closed in time.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Resource;

use peerloop::engine::{Limits, Stats, Ticks};
use peerloop::net::{Bound, Handle, Reactor, raise_file_limit};
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::storage::entries::Entries;

use crate::support::{
    DEADLINE, LOOPBACK, Peer, Server, big_test, command, expect_idle, is_reset, key, node, noise,
    peerloop_under, reset, wait_until, window,
};

const MIB: usize = 1 << 20;

/// A node in this process, for limits that the program has no option for.
struct Local {
    addr: SocketAddrV4,
    handle: Handle,
    thread: JoinHandle<Stats>,
}

impl Local {
    fn start(limits: Limits) -> Local {
        let bound = Bound::bind(LOOPBACK).expect("bind");
        let addr = bound.addr();
        let config = Config::new(addr);
        let limits = config.fit(limits);
        let service = DhtNode::new(config, Entries::default());
        let mut reactor = Reactor::new(service, limits).expect("reactor");
        reactor.accept_from(bound).expect("listen");
        let handle = reactor.handle();
        let thread = std::thread::spawn(move || {
            reactor.run().expect("run");
            reactor.node().validate();
            reactor.node().stats().clone()
        });
        Local {
            addr,
            handle,
            thread,
        }
    }

    fn stop(self) -> Stats {
        self.handle.shutdown();
        self.thread.join().expect("the node does not panic")
    }
}

/// Deadlines that a test can wait for.
fn impatient() -> Limits {
    Limits {
        message: Ticks::from_secs(1),
        drain: Ticks::from_secs(1),
        idle: Ticks::from_secs(20),
        ..Limits::default()
    }
}

/// A deadline of a second does not pass early. How late it may be is bounded by the [`DEADLINE`] of the wait for the close.
#[track_caller]
fn expect_a_second(took: Duration) {
    assert!(took > Duration::from_millis(900), "{took:?}");
}

/// Sends `bytes` in pieces of `piece`, with a pause after each. False when the peer closed meanwhile.
fn dribble(peer: &mut Peer, bytes: &[u8], piece: usize, pause: Duration) -> bool {
    bytes.chunks(piece).all(|piece| {
        window(pause);
        peer.socket.write_all(piece).is_ok()
    })
}

/// Time from `start` until the node closes the connection, without a byte before that.
fn closed_after(peer: &mut Peer, start: Instant) -> Duration {
    peer.expect_closed();
    start.elapsed()
}

const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_slow_sender_has_a_deadline_for_the_command_not_for_the_read() {
    let node = Local::start(impatient());
    let insert = command("INSERT", key("slow"));
    std::thread::scope(|scope| {
        // A command line that never ends, a byte now and then.
        scope.spawn(|| {
            let mut peer = Peer::connect(node.addr);
            let start = Instant::now();
            let zeros = [&b"GET\n"[..], &[b'0'; 250]].concat();
            assert!(!dribble(&mut peer, &zeros, 1, PAUSE));
            expect_a_second(start.elapsed());
        });
        // A value that comes at 50 bytes a second.
        scope.spawn(|| {
            let mut peer = Peer::connect(node.addr);
            let start = Instant::now();
            peer.send(&insert).expect("1\n").send("1000000\n");
            assert!(!dribble(&mut peer, &[b'x'; 1000], 1, PAUSE));
            expect_a_second(start.elapsed());
        });
        // One that stalls at once.
        scope.spawn(|| {
            let mut peer = Peer::connect(node.addr);
            let start = Instant::now();
            peer.send("GET\n12");
            expect_a_second(closed_after(&mut peer, start));
        });
    });
    assert!(
        !Peer::connect(node.addr)
            .contains(key("slow"))
            .expect("served")
    );
    let stats = node.stop();
    assert_eq!((stats.timed_out_message, stats.timed_out_idle), (3, 0));
}

/// A fast start earns no credit for a later stall.
#[test]
fn a_sender_that_stalls_after_a_burst_has_the_same_deadline() {
    let node = Local::start(impatient());
    let mut peer = Peer::connect(node.addr);
    peer.send(command("INSERT", key("burst")))
        .expect("1\n")
        .send("10000000\n");
    peer.send(noise(1, MIB));
    let start = Instant::now();
    expect_a_second(closed_after(&mut peer, start));
    assert_eq!(node.stop().timed_out_message, 1);
}

#[test]
fn a_sender_that_keeps_the_pace_may_take_long() {
    let node = Local::start(impatient());
    std::thread::scope(|scope| {
        // Each command meets its deadline; all together take longer than one.
        scope.spawn(|| {
            let mut peer = Peer::connect(node.addr);
            for _ in 0..5 {
                assert!(dribble(&mut peer, b"CONTAINS\n123456\n", 1, PAUSE));
                peer.expect("1\n0\n");
            }
        });
        // A value that takes two deadlines at 25 times the least pace.
        scope.spawn(|| {
            let mut peer = Peer::connect(node.addr);
            let value = noise(1, 50_000);
            peer.send(command("INSERT", key("paced")))
                .expect("1\n")
                .send("50000\n");
            assert!(dribble(&mut peer, &value, 500, PAUSE));
            peer.expect("1\n");
            assert!(peer.get(key("paced")).expect("served") == Some(value));
        });
    });
    assert_eq!(node.stop().timed_out_message, 0);
}

#[test]
fn a_slow_reader_is_not_produced_for_and_closed_in_time() {
    const GETS: usize = 1000;
    let node = Local::start(impatient());
    let value = noise(1, MIB);
    let mut honest = Peer::connect(node.addr);
    assert!(honest.insert(key("big"), &value).expect("insert"));
    let mut slow = Peer::connect(node.addr);
    slow.send(command("GET", key("big")).repeat(GETS));
    // The window in which it does not read; others are served meanwhile.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert!(honest.get(key("big")).expect("served").as_ref() == Some(&value));
        window(PAUSE);
    }
    // Now it gets what the kernel had taken, and the end.
    let mut piece = vec![0; MIB];
    let mut got = 0;
    loop {
        match slow.socket.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if is_reset(&e) => break,
            Err(e) => panic!("not closed: {e}"),
        }
    }
    let stats = node.stop();
    assert_eq!(stats.timed_out_drain, 1);
    assert!(stats.paused > 0);
    // What is in the kernel's buffers, and no more than the high-water mark and one value on top.
    assert!(
        got < GETS * MIB / 10,
        "{got} bytes were produced for a peer that does not read"
    );
}

#[test]
fn a_slow_reader_that_keeps_the_pace_gets_everything() {
    let node = Local::start(impatient());
    // More than the kernel's buffers take, so that the node has to wait for the reader.
    let value = noise(1, 24 * MIB);
    let mut peer = Peer::connect(node.addr);
    assert!(peer.insert(key("big"), &value).expect("insert"));
    peer.send(command("GET", key("big")))
        .expect(format!("1\n{}\n", value.len()));
    // Twice the deadline in all.
    for piece in value.chunks(value.len().div_ceil(100)) {
        window(PAUSE);
        peer.expect(piece);
    }
    assert_eq!(node.stop().timed_out_drain, 0);
}

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let limits = Limits {
        idle: Ticks::from_secs(1),
        ..Limits::default()
    };
    let node = Local::start(limits);
    let start = Instant::now();
    let (mut silent, mut once) = (Peer::connect(node.addr), Peer::connect(node.addr));
    let mut busy = Peer::connect(node.addr);
    assert!(!once.contains(key("x")).expect("served"));
    while start.elapsed() < Duration::from_secs(2) {
        assert!(!busy.contains(key("x")).expect("served"));
        window(PAUSE);
    }
    silent.expect_closed();
    once.expect_closed();
    assert!(!busy.contains(key("x")).expect("still served"));
    let stats = node.stop();
    assert_eq!((stats.timed_out_idle, stats.timed_out_message), (2, 0));
}

/// Connections that end with a reset, so that they leave no ports waiting behind.
struct Fleet(Vec<TcpStream>);

impl Drop for Fleet {
    fn drop(&mut self) {
        self.0.drain(..).for_each(reset);
    }
}

impl Fleet {
    fn connect(node: &Server, count: usize) -> Fleet {
        let mut probe = node.connect();
        let mut fleet = Fleet(Vec::with_capacity(count));
        for i in 0..count {
            fleet
                .0
                .push(TcpStream::connect(node.addr).expect("connect"));
            // An answer proves that the earlier ones are accepted, so the backlog does not overflow.
            if i % 1000 == 999 {
                probe.contains(key("x")).expect("served");
            }
        }
        probe.contains(key("x")).expect("served");
        fleet
    }
}

/// The time that 99 of 100 requests of one client do not exceed.
fn p99(peer: &mut Peer) -> Duration {
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            assert!(peer.get(key("probe")).expect("served").is_some());
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

#[test]
fn fifteen_thousand_idle_connections_and_a_thousand_slow_ones() {
    const BYTES_PER_CONN_MAX: u64 = 192;
    const SLOW: usize = 1000;
    let _alone = big_test();
    // Ours and the node's; a few thousand are for the other tests of this process.
    let idle = 15_000.min(raise_file_limit() as usize - 3000);
    let node = node(&["--idle-timeout", "600"]);
    let mut probe = node.connect();
    assert!(probe.insert(key("probe"), &noise(1, 100)).expect("insert"));
    drop(Fleet::connect(&node, 300));
    let quiet = p99(&mut probe);
    let before = node.rss_bytes();

    let _idle = Fleet::connect(&node, idle);
    node.settle();
    let each = node.rss_bytes().saturating_sub(before) / idle as u64;
    assert!(
        each <= BYTES_PER_CONN_MAX,
        "an idle connection takes {each} bytes"
    );

    expect_idle(&[&node]);
    let slow = Fleet::connect(&node, SLOW);
    let begun = format!("{}1000000\n", command("INSERT", key("slow")));
    for (i, mut socket) in slow.0.iter().enumerate() {
        let part = if i % 2 == 0 { &begun[..] } else { &begun[..10] };
        socket.write_all(part.as_bytes()).expect("send");
    }
    let loaded = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let slow = &slow;
        scope.spawn(move || {
            // Each of them a byte a second, until the probe is done.
            for sockets in slow.0.chunks(10).cycle() {
                for mut socket in sockets {
                    // Closed meanwhile, if this takes longer than the deadline.
                    let _ = socket.write(b"1");
                }
                let pause = Duration::from_millis(10);
                if stopped.recv_timeout(pause) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        // Generous and repeated, since other programs run meanwhile; a turn that looks at every connection would show
        // each time.
        let (most, mut loaded) = (10 * quiet + Duration::from_millis(20), Duration::MAX);
        wait_until(DEADLINE, || {
            loaded = p99(&mut probe);
            loaded <= most
        });
        drop(stop);
        assert!(loaded <= most, "p99 {loaded:?}, quiet {quiet:?}");
        loaded
    });
    println!("{each} bytes each of {idle}; p99 quiet {quiet:?}, loaded {loaded:?}");
    assert!(!probe.contains(key("slow")).expect("served"));
    let log = node.log();
    assert!(!log.contains("ERROR") && !log.contains("panic"), "{log}");
}

/// Connections of which each has asked for something.
fn askers(node: &Server, count: usize) -> Vec<Peer> {
    let ask = |_| {
        let mut peer = node.connect();
        peer.send(command("CONTAINS", key("x")));
        peer
    };
    (0..count).map(ask).collect()
}

/// Whether an answer is there already.
fn answered(peer: &Peer) -> bool {
    peer.socket.set_nonblocking(true).expect("nonblocking");
    let answered = peer.socket.peek(&mut [0]).is_ok_and(|n| n > 0);
    peer.socket.set_nonblocking(false).expect("blocking");
    answered
}

/// Waits for a second in which it uses less than 5% of a core. One that spins has none.
#[track_caller]
fn expect_little_cpu(node: &Server) {
    let rests = wait_until(DEADLINE, || {
        let ticks = node.cpu_ticks();
        window(Duration::from_secs(1));
        node.cpu_ticks() - ticks <= 5
    });
    assert!(rests, "over 5 ticks of 10 ms in every second");
}

#[test]
fn a_full_node_waits_for_room_without_spinning() {
    let _alone = big_test();
    // 32 are kept back, so that 32 connections fit.
    let node = Server::start(&mut peerloop_under("-n 64", &["dht", "node"]));
    let mut served = askers(&node, 32);
    for peer in &mut served {
        peer.expect("1\n0\n");
    }
    let mut waiting = askers(&node, 8);
    expect_little_cpu(&node);
    assert!(
        !waiting.iter().any(answered),
        "more connections than there is room for"
    );
    for (gone, next) in served.drain(..8).zip(&mut waiting) {
        drop(gone);
        next.expect("1\n0\n");
    }
    for peer in served.iter_mut().chain(&mut waiting) {
        peer.send(command("CONTAINS", key("x"))).expect("1\n0\n");
    }
}

#[test]
fn no_more_descriptors_pauses_accepting_without_spinning() {
    let _alone = big_test();
    let node = node(&[]);
    let mut served = askers(&node, 10);
    for peer in &mut served {
        peer.expect("1\n0\n");
    }
    // From now on accept fails with EMFILE, in spite of what is kept back.
    node.limit(Resource::Nofile, Some(node.first_free_file()));
    let mut waiting = askers(&node, 6);
    expect_little_cpu(&node);
    assert!(!waiting.iter().any(answered));
    assert!(node.log().contains("accepting pauses"), "{}", node.log());
    // A close makes room for one, at once.
    for (gone, next) in served.drain(..3).zip(&mut waiting) {
        drop(gone);
        next.expect("1\n0\n");
    }
    // A raised limit, of which the node is not told, makes room as well.
    node.limit(Resource::Nofile, None);
    for peer in &mut waiting[3..] {
        peer.expect("1\n0\n");
    }
    for peer in served.iter_mut().chain(&mut waiting) {
        peer.send(command("CONTAINS", key("x"))).expect("1\n0\n");
    }
}

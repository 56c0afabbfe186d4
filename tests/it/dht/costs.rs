//! Rings of real processes: what a hand-over costs, and how quick lookups are meanwhile and in a larger ring.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use peerloop::proto::dht::id::Id;

use crate::support::{DEADLINE, Peer, Server, big_test, command, key, node, wait_until};

/// Requests in flight while a node is filled.
const FILL_AT_ONCE: usize = 256;

/// What a hand-over may cost on either side beyond the entries themselves.
const EXTRA_BYTES_MAX: u64 = 64 << 20;

/// Stores `count` values of `bytes` under "0", "1", ...
fn fill(node: &Server, count: usize, bytes: usize) {
    let value = vec![b'x'; bytes];
    let mut peer = node.connect();
    let mut replies = BufReader::new(peer.socket.try_clone().expect("clone"));
    let names: Vec<usize> = (0..count).collect();
    for some in names.chunks((FILL_AT_ONCE << 10) / bytes.max(1 << 10) + 1) {
        let mut requests = Vec::new();
        for name in some {
            writeln!(
                requests,
                "{}{bytes}",
                command("INSERT", key(&name.to_string()))
            )
            .expect("write");
            requests.extend_from_slice(&value);
        }
        peer.send(requests);
        let mut line = String::new();
        for _ in 0..2 * some.len() {
            line.clear();
            replies.read_line(&mut line).expect("reply");
            assert_eq!(line, "1\n");
        }
    }
}

/// An address on which a joiner of `first` gets nearly all of the ring.
fn greedy_address(first: SocketAddrV4) -> SocketAddrV4 {
    let all = |id: Id| id.distance_to(Id::of_addr(first));
    let free = |ip: u8| {
        let ip = Ipv4Addr::new(127, 0, 7, ip);
        let socket = TcpListener::bind((ip, 0)).expect("bind");
        SocketAddrV4::new(ip, socket.local_addr().expect("address").port())
    };
    let addresses = (1..=250).map(free);
    addresses
        .max_by_key(|addr| all(Id::of_addr(*addr)))
        .expect("some")
}

fn joined(node: &Server) -> bool {
    node.log().contains("joined between")
}

/// A second node takes nearly all of `count` entries of `bytes` by joining, and gives them back by leaving.
fn hand_over_and_back(count: usize, bytes: usize) {
    let _alone = big_test();
    let first = node(&["-v"]);
    fill(&first, count, bytes);
    let full_bytes = first.rss_bytes();
    let listen = greedy_address(first.addr).to_string();
    let start = Instant::now();
    let mut second = node(&["-v", "--listen", &listen, "--join", &first.at()]);
    assert!(
        wait_until(2 * DEADLINE, || joined(&second)),
        "{}",
        second.log()
    );
    let took = start.elapsed();
    assert!(first.peak_rss_bytes() < full_bytes + EXTRA_BYTES_MAX);
    let second_peak_bytes = second.peak_rss_bytes();
    assert!(second_peak_bytes < full_bytes + EXTRA_BYTES_MAX);
    second.signal(Signal::TERM);
    assert_eq!(second.wait(2 * DEADLINE), Some(0), "{}", second.log());
    assert!(first.peak_rss_bytes() < full_bytes + EXTRA_BYTES_MAX);
    println!(
        "{count} entries of {bytes} bytes: joined in {took:.2?}; full {} MiB, peaks {} and {} MiB",
        full_bytes >> 20,
        first.peak_rss_bytes() >> 20,
        second_peak_bytes >> 20,
    );
    let mut peer = first.connect();
    for name in [0, count / 2, count - 1] {
        let value = peer
            .get(key(&name.to_string()))
            .expect("get")
            .expect("an owner");
        assert_eq!(value.len(), bytes);
    }
}

#[test]
fn a_hand_over_is_streamed() {
    hand_over_and_back(60_000, 100);
    hand_over_and_back(12, 10 << 20);
}

#[test]
#[ignore = "some GiB; with --release the README's figures"]
fn a_large_hand_over_is_streamed() {
    hand_over_and_back(1_000_000, 100);
    hand_over_and_back(100, 10 << 20);
}

/// The `q`-quantile of round trips, sorted.
fn quantile(times: &[Duration], q: f64) -> Duration {
    times[((times.len() - 1) as f64 * q) as usize]
}

/// One command after the other until `done`; the sorted times of the round trips.
fn round_trips(mut one: impl FnMut(usize), mut done: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !done(times.len()) {
        let start = Instant::now();
        one(times.len());
        times.push(start.elapsed());
    }
    times.sort();
    times
}

#[test]
#[ignore = "measures; meaningful with --release on a quiet machine"]
fn commands_do_not_wait_for_a_hand_over() {
    let _alone = big_test();
    let first = node(&["-v", "--memory-max", "17179869184"]);
    fill(&first, 1_000_000, 100);
    // Just behind the first node: the arc of a greedy joiner begins later, so this range stays.
    let stays = Id::of_addr(first.addr);
    let mut peer = first.connect();
    let mut write = |_: usize| assert!(peer.insert(stays, b"value").expect("insert"));
    let quiet = round_trips(&mut write, |n| n == 20_000);
    let mut reader = first.connect();
    let mut read = |n: usize| {
        let moving = key(&(n % 1_000).to_string());
        reader.send(command("GET", moving));
        // Until it has moved; afterwards the answer is `0`.
        if reader.line().expect("ack") == "1" {
            reader.expect("100\n").expect([b'x'; 100]);
        }
    };
    let quiet_reads = round_trips(&mut read, |n| n == 20_000);
    let listen = greedy_address(first.addr).to_string();
    let second = node(&["-v", "--listen", &listen, "--join", &first.at()]);
    let (mut turn, mut busy, mut busy_reads) = (0, Vec::new(), Vec::new());
    while !joined(&second) {
        turn += 1;
        busy.extend(round_trips(&mut write, |n| n == 50));
        busy_reads.extend(round_trips(&mut read, |n| n == 50));
    }
    busy.sort();
    busy_reads.sort();
    let p99 = |times: &[Duration]| quantile(times, 0.99);
    println!(
        "writes to the range that stays, p99: quiet {:.1?}, meanwhile {:.1?}",
        p99(&quiet),
        p99(&busy)
    );
    println!(
        "reads of the range that moves, p99: quiet {:.1?}, meanwhile {:.1?}",
        p99(&quiet_reads),
        p99(&busy_reads)
    );
    assert!(turn > 3, "the hand-over was too short to measure");
    assert!(p99(&busy_reads) < Duration::from_millis(20) && p99(&busy) < Duration::from_millis(20));
}

#[test]
#[ignore = "64 processes; meaningful with --release on a quiet machine"]
fn lookups_in_a_ring_of_64() {
    let _alone = big_test();
    let mut ring = vec![node(&["-v"])];
    while ring.len() < 64 {
        let next = node(&["-v", "--join", &ring[0].at()]);
        assert!(wait_until(DEADLINE, || joined(&next)), "{}", next.log());
        ring.push(next);
    }
    let mut peers: Vec<Peer> = ring.iter().map(Server::connect).collect();
    let number = |addr: &str| {
        ring.iter()
            .position(|node| node.at() == addr)
            .expect("a member")
    };
    let mut locate = |from: usize, key: Id| {
        peers[from].send(command("LOCATE", key));
        peers[from].line().expect("address")
    };
    // From the first member with nothing but `next` known there would be about 32 hops.
    let hops = Cell::new(0);
    let mut lookup = |n: usize| {
        let key = key(&n.to_string());
        let mut at = n % 64;
        loop {
            let answer = number(&locate(at, key));
            if answer == at {
                return;
            }
            at = answer;
            hops.set(hops.get() + 1);
        }
    };
    let settled = |hops: u32| f64::from(hops) / 1_000.0 <= 0.5 * 64_f64.log2() + 1.0;
    let mut rounds = 0;
    loop {
        hops.set(0);
        (0..1_000).for_each(&mut lookup);
        rounds += 1;
        if settled(hops.get()) || rounds > 1_000 {
            break;
        }
    }
    hops.set(0);
    let times = round_trips(&mut lookup, |n| n == 20_000);
    let mean_hops = f64::from(hops.get()) / 20_000.0;
    let one = round_trips(|n| _ = locate(0, key(&n.to_string())), |n| n == 20_000);
    let round_trip = quantile(&one, 0.5);
    let p99 = quantile(&times, 0.99);
    println!(
        "64 processes: {mean_hops:.2} hops, lookup p99 {p99:.1?}, one round trip {round_trip:.1?}"
    );
    assert!(mean_hops <= 0.5 * 64_f64.log2() + 1.0);
    assert!(p99 < round_trip.mul_f64(10.0 * mean_hops));
}

//! cPTP peers in numbers, with real sockets: every address that is told accepts, two that dial each other, thousands
//! of links, and what all that costs.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Caller, Handle, Reactor, raise_file_limit};
use peerloop::proto::overlay::join::Report;
use peerloop::proto::overlay::peer::Config;
use peerloop::proto::overlay::table::Link;
use peerloop::proto::overlay::{Event, Observer, Overlay, Then, fit};

use crate::support::{
    DEADLINE, LOOPBACK, Peer, Server, big_test, peerloop, reset, run, wait_until, window,
};

/// What peers were told, and how their joins ended.
#[derive(Default)]
struct Seen {
    named: BTreeSet<SocketAddrV4>,
    reports: Vec<Report>,
}

impl Observer for Seen {
    fn on_event(&mut self, _peer: usize, event: Event<'_>) {
        if let Event::Answered { packet, .. } = event {
            self.named.extend(packet.entries.iter());
        }
    }

    fn on_join_end(&mut self, _peer: usize, report: &Report) -> Then {
        self.reports.push(*report);
        Then::GoOn
    }
}

/// Peers on a reactor in this process; it ends when this is dropped.
struct Local {
    addrs: Vec<SocketAddrV4>,
    caller: Caller<Overlay<Seen>>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Local {
    fn start(count: usize, table_max: usize, links: usize) -> Local {
        let limits = fit(Limits::default());
        let mut reactor = Reactor::new(Overlay::new(Seen::default()), limits).expect("reactor");
        let mut addrs = Vec::new();
        for number in 0..count {
            let bound = Bound::bind_to_dial_from(LOOPBACK).expect("bind");
            let addr = bound.addr();
            reactor.accept_from(bound).expect("listen");
            let config = Config {
                table_max,
                links,
                ..Config::new(format!("p{number}"), addr)
            };
            reactor.node().with(|overlay, hub| overlay.add(hub, config));
            addrs.push(addr);
        }
        let (caller, handle) = (reactor.caller(), reactor.handle());
        let thread = std::thread::spawn(move || {
            reactor.run().expect("run");
            reactor.node().validate();
        });
        Local {
            addrs,
            caller,
            handle,
            thread: Some(thread),
        }
    }

    fn join(&self, number: usize, contact: SocketAddrV4) {
        let join =
            move |overlay: &mut Overlay<Seen>, hub: &mut _| overlay.join(hub, number, contact);
        self.caller.call(join).expect("it runs");
    }

    /// Waits for the ends of so many joins.
    #[track_caller]
    fn reports(&self, count: usize) -> Vec<Report> {
        let mut reports = Vec::new();
        let all = wait_until(DEADLINE, || {
            let call = self
                .caller
                .call(|overlay, _| overlay.observer().reports.clone());
            reports = call.expect("it runs");
            reports.len() >= count
        });
        assert!(all, "{} of {count} joins ended", reports.len());
        reports
    }

    /// The addresses in the table of a peer, and how many of them have a link.
    fn table(&self, number: usize) -> (BTreeSet<SocketAddrV4>, usize) {
        let call = self.caller.call(move |overlay, _| {
            let table = overlay.peers()[number].table();
            let linked = |link| matches!(link, Link::Joined(_) | Link::Welcomed(_));
            let links = table.iter().filter(|(_, link)| linked(*link)).count();
            (table.iter().map(|(addr, _)| addr).collect(), links)
        });
        call.expect("it runs")
    }

    fn conns(&self) -> usize {
        self.caller.call(|_, hub| hub.conns()).expect("it runs")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.handle.shutdown();
        let ended = self.thread.take().expect("dropped once").join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

#[test]
fn whoever_is_named_in_any_packet_accepts() {
    const PEERS: usize = 100;
    let crowd = Local::start(PEERS, 8, 3);
    for number in 1..PEERS {
        crowd.join(number, crowd.addrs[0]);
    }
    let reports = crowd.reports(PEERS - 1);
    assert!(reports.iter().all(|report| report.welcomes > 0));
    let call = crowd
        .caller
        .call(|overlay, _| std::mem::take(&mut overlay.observer_mut().named));
    let mut named = call.expect("it runs");
    for number in 0..PEERS {
        named.extend(crowd.table(number).0);
    }
    assert!(named.len() > PEERS / 2, "{} were named", named.len());
    for addr in named {
        assert!(crowd.addrs.contains(&addr), "{addr} is nobody's");
        let mut peer = Peer::connect(addr);
        let mut first = [0];
        peer.socket.read_exact(&mut first).expect("a packet");
        assert_eq!(first, [0xe0]);
        peer.reset();
    }
}

/// Each pair on two threads, so that the dials of the two may cross on the way.
#[test]
fn two_that_join_each_other_have_one_entry_each_and_one_link() {
    const PAIRS: usize = 40;
    let (left, right) = (Local::start(PAIRS, 4, 2), Local::start(PAIRS, 4, 2));
    for number in 0..PAIRS {
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (one, other) in [(&left, &right), (&right, &left)] {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    one.join(number, other.addrs[number]);
                });
            }
        });
    }
    for side in [&left, &right] {
        let reports = side.reports(PAIRS);
        assert!(
            reports.iter().all(|report| report.welcomes == 1),
            "{reports:?}"
        );
    }
    assert!(wait_until(DEADLINE, || left.conns() == PAIRS && right.conns() == PAIRS));
    for number in 0..PAIRS {
        for (one, other) in [(&left, &right), (&right, &left)] {
            assert_eq!(one.table(number), ([other.addrs[number]].into(), 1));
        }
    }
}

/// Within one tick of the start and the time since, on the clock of this test.
#[test]
fn the_timestamp_keeps_time() {
    let peer = Local::start(1, 4, 3);
    let timestamp = || {
        let call = peer
            .caller
            .call(|overlay, hub| overlay.peers()[0].timestamp(hub.now()));
        call.expect("it runs")
    };
    let (before, first, after) = (Instant::now(), timestamp(), Instant::now());
    for _ in 0..20 {
        window(Duration::from_millis(37));
        let least = after.elapsed();
        let ticks = timestamp().wrapping_sub(first);
        let most = before.elapsed();
        // A tick is counted when it has begun, at either end.
        let (least, most) = (
            least.as_millis() as u32 / 10,
            most.as_millis() as u32 / 10 + 1,
        );
        assert!(
            (least..=most).contains(&ticks),
            "{ticks} is not in {least}..={most}"
        );
    }
}

/// A peer process with `options`.
fn peer(options: &[&str]) -> Server {
    Server::start(&mut peerloop(&[&["overlay", "peer"], options].concat()))
}

/// Connects `count` newcomers, which the peer has accepted when this returns.
fn newcomers(peer: &Server, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    for number in 1..=count {
        let mut socket = TcpStream::connect(peer.addr).expect("connect");
        // Not more than the backlog at once.
        if number % 1000 == 0 || number == count {
            socket.read_exact(&mut [0; 4]).expect("a packet");
        }
        all.push(socket);
    }
    all
}

fn quiet(peer: &Server) {
    let mut before = 0;
    let quiet = wait_until(DEADLINE, || {
        let now = peer.sleeps();
        window(Duration::from_millis(100));
        std::mem::replace(&mut before, now) == now
    });
    assert!(quiet, "a peer without work does not come to rest");
}

#[test]
fn fifteen_thousand_welcomed_peers() {
    const BYTES_PER_LINK_MAX: u64 = 192;
    let _alone = big_test();
    // Ours and the peer's; a few thousand are for the other tests of this process.
    let count = 15_000.min(raise_file_limit() as usize - 3000);
    let table = count.to_string();
    let peer = peer(&["--table-size", &table]);
    newcomers(&peer, 300).into_iter().for_each(reset);
    quiet(&peer);
    let before = peer.rss_bytes();
    let start = Instant::now();
    let mut links = newcomers(&peer, count);
    let took = start.elapsed();
    quiet(&peer);
    let each = peer.rss_bytes().saturating_sub(before) / count as u64;
    println!("{count} welcomed in {took:?}, {each} bytes each");
    assert!(each <= BYTES_PER_LINK_MAX, "a link takes {each} bytes");

    // The window: no wake-up and no CPU.
    let (sleeps, ticks) = (peer.sleeps(), peer.cpu_ticks());
    window(Duration::from_secs(2));
    assert_eq!((peer.sleeps(), peer.cpu_ticks()), (sleeps, ticks));

    // Full; a link that ends makes room for one.
    let answer = |peer: &Server| {
        let (mut one, mut head) = (peer.connect(), [0; 2]);
        one.socket.read_exact(&mut head).expect("a packet");
        (one, head)
    };
    let (redirected, head) = answer(&peer);
    assert_eq!(head, [0xe0, 0x40], "not a redirect");
    drop(redirected);
    reset(links.pop().expect("many"));
    assert!(wait_until(DEADLINE, || {
        let (one, head) = answer(&peer);
        one.reset();
        head == [0xe0, 0x20]
    }));
    links.into_iter().for_each(reset);
}

fn stress(args: &[&str]) -> (Option<i32>, Value) {
    let ended = run(
        &mut peerloop(&[&["stress", "overlay", "--json"], args].concat()),
        "",
    );
    let summary = serde_json::from_slice(&ended.stdout).unwrap_or(Value::Null);
    println!("{summary} {}", ended.stderr);
    (ended.code, summary)
}

#[test]
fn stress_places_everybody_who_can_be_placed() {
    let (code, summary) = stress(&["--peers", "300", "--table-size", "3"]);
    assert_eq!(code, Some(0));
    let of = |field: &str| summary[field].as_u64().expect(field);
    assert_eq!((of("placed"), of("refused"), of("missed")), (300, 0, 0));
    assert_eq!((of("components"), of("links"), of("one_sided")), (1, 1, 0));
    assert!(of("degree_max") <= 3 && of("welcomes") == 299);

    // Pairs: the first two have each other, and nobody can be sent to a third.
    let (code, summary) = stress(&["--peers", "9", "--table-size", "1"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        (&summary["placed"], &summary["refused"]),
        (&2.into(), &7.into())
    );
}

#[test]
fn stress_says_what_does_not_fit() {
    let ended = run(
        &mut peerloop(&["stress", "overlay", "--peers", "50000"]),
        "",
    );
    ended.expect_error(&["50000 peers", "descriptors", "--peers"]);
    let ended = run(
        &mut peerloop(&["stress", "overlay", "--peers", "4000", "--links", "64"]),
        "",
    );
    ended.expect_error(&["--links 64", "descriptors"]);
}

/// `cargo test --release --test it -- --ignored --nocapture five_thousand`
#[test]
#[ignore = "some seconds with --release, alone"]
fn five_thousand_peers_with_tables_of_eight() {
    let _alone = big_test();
    let (code, summary) = stress(&["--peers", "5000", "--table-size", "8"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        (&summary["placed"], &summary["components"]),
        (&5000.into(), &1.into())
    );
    assert!(summary["seconds"].as_f64().expect("seconds") < 30.0);
}

/// Accepting and answering against the floor server of `/work/shared/bench`, one core each, five pairs:
/// `BENCH_TARGET=DIR cargo test --release --test it -- --ignored --nocapture rate_of_the_floor`, where DIR is the
/// target folder that its compare.py builds into.
#[test]
#[ignore = "a minute with --release, alone, and the servers of the bench"]
fn welcomes_and_redirects_at_the_rate_of_the_floor() {
    const ROUNDS: usize = 5;
    const AT_LEAST: f64 = 0.8;
    let _alone = big_test();
    let target = std::env::var("BENCH_TARGET").unwrap_or("/tmp/peerloop-bench-target".into());
    let [floor, load] = ["floor", "loadgen"].map(|it| format!("{target}/release/{it}"));
    let on_core = |core: &str, program: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", core, program]);
        command
    };
    let ours = |table: &str| {
        let mut command = on_core("0", env!("CARGO_BIN_EXE_peerloop"));
        command.args(["overlay", "peer", "--name", "p1", "--table-size", table]);
        Server::start(&mut command)
    };
    let (roomy, full) = (ours("15000"), ours("1"));
    let mut only = full.connect();
    only.expect(b"\xe0\x20\x00\x02p1");
    let port = {
        let free = TcpListener::bind(LOOPBACK).expect("bind");
        free.local_addr().expect("bound").port()
    };
    let rate = |port: u16, reply_bytes: &str| -> f64 {
        let at = format!("127.0.0.1:{port}");
        let mut command = on_core("1", &load);
        let output = command
            .args([&at, "64", "1", "3", "x", reply_bytes, "--churn"])
            .output();
        let text = String::from_utf8(output.expect("loadgen").stdout).expect("UTF-8");
        let rate = text.split(' ').nth(1).and_then(|it| it.parse().ok());
        rate.unwrap_or_else(|| panic!("loadgen said {text:?}"))
    };
    let mut ratios = [Vec::new(), Vec::new()];
    // A welcome is at least its head and name; a redirect also has the one entry.
    for (kind, (port_of_ours, bytes)) in [(roomy.addr.port(), "6"), (full.addr.port(), "12")]
        .into_iter()
        .enumerate()
    {
        let mut floor = on_core("0", &floor)
            .args([&port.to_string(), "1", bytes, "--close"])
            .spawn()
            .expect("floor");
        let accepts = || TcpStream::connect((LOOPBACK.ip().to_owned(), port)).is_ok();
        assert!(wait_until(DEADLINE, accepts));
        for _ in 0..ROUNDS {
            let (theirs, ours) = (rate(port, bytes), rate(port_of_ours, bytes));
            println!(
                "{}: floor {theirs:.0}/s, ours {ours:.0}/s",
                ["welcome", "redirect"][kind]
            );
            ratios[kind].push(ours / theirs);
        }
        floor.kill().expect("kill");
        floor.wait().expect("wait");
    }
    for (kind, ratios) in ["welcome", "redirect"].iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ROUNDS / 2];
        println!("{kind}: {median:.2} of the floor");
        assert!(median >= AT_LEAST, "{kind}: {ratios:?}");
    }
}

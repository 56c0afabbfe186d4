//! `peerloop ring` as processes: a tracker, peers, and plain peers in Python's standard library.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    DEADLINE, Ended, LOOPBACK, Peer, Server, big_test, peerloop, run, wait, wait_until, window,
};

const WORDS: &str = "the\nsky\nabove\nis\nblue\n";

/// A tracker for five words, quick to notice a death.
fn tracker(dir: &tempfile::TempDir, options: &[&str]) -> Server {
    let db = dir.path().join("words");
    fs::write(&db, WORDS).expect("write");
    let db = db.to_str().expect("text");
    let quick = ["--ping-interval", "1", "--ping-timeout", "1"];
    let args = [&["ring", "tracker", "--db", db], &quick[..], options].concat();
    Server::start(&mut peerloop(&args))
}

/// A process whose lines on stdout are gathered, and which is killed, by its id, when the test is over.
struct Talker {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Talker {
    fn start(command: &mut Command) -> Talker {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let stdout = child.stdout.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                into.lock().expect("lines").push(line);
            }
        });
        Talker { child, lines }
    }

    fn peer(tracker: &Server, handle: &str, options: &[&str]) -> Talker {
        let at = tracker.at();
        let args = ["ring", "peer", "--tracker", &at, "--handle", handle];
        Talker::start(&mut peerloop(&[&args[..], options].concat()))
    }

    /// Waits for line number `n`.
    #[track_caller]
    fn line(&self, n: usize) -> String {
        let line = || self.lines.lock().expect("lines").get(n).cloned();
        assert!(wait_until(DEADLINE, || line().is_some()), "no line {n}");
        line().expect("there")
    }

    fn addr(&self) -> SocketAddrV4 {
        let line = self.line(0);
        let addr = line.strip_prefix("listening ").expect("the first line");
        addr.parse().expect("an address")
    }
}

fn ring(words: &[&str]) -> Ended {
    run(&mut peerloop(&[&["ring"], words].concat()), "")
}

#[track_caller]
fn says(words: &[&str], code: i32, text: &str) {
    let ended = ring(words);
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(
        (ended.code, &*stdout),
        (Some(code), text),
        "{}",
        ended.stderr
    );
}

/// The handles in a tracker's ring, in order.
fn members(tracker: &Server) -> Vec<String> {
    let ended = ring(&["peers", "--tracker", &tracker.at(), "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let answer: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let peers = answer["peers"].as_array().expect("peers");
    let handle = |peer: &Value| peer["handle"].as_str().expect("a handle").to_owned();
    peers.iter().map(handle).collect()
}

#[test]
fn five_peers_assemble_a_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let tracker = tracker(&dir, &[]);
    let out = dir.path().join("out");
    let names = ["anna", "bert", "cleo", "dora", "emil"];
    let peers: Vec<Talker> = names
        .iter()
        .map(|name| {
            let peer = Talker::peer(&tracker, name, &["--out", out.to_str().expect("text")]);
            // One after the other, so that their places are known.
            assert!(wait_until(DEADLINE, || members(&tracker).contains(&name.to_string())));
            peer
        })
        .collect();
    for peer in &peers {
        assert_eq!(peer.line(1), "the sky above is blue");
    }
    assert_eq!(fs::read_to_string(&out).expect("written"), WORDS);
    assert_eq!(members(&tracker), names);
    let (at, first) = (tracker.at(), peers[0].addr().to_string());
    let hi = "Hi bob, Welcome to the network. Register to get started.\n";
    says(&["echo", &at, "--handle", "bob"], 0, hi);
    says(&["echo", &first], 0, "anna\n");
    says(&["ping", &first], 0, "anna\n");
    says(&["ping", &first, "--json"], 0, "{\"handle\":\"anna\"}\n");
    says(&["query", &first, "4"], 0, "blue\n");
    says(
        &["query", &first, "4", "--json"],
        0,
        "{\"item\":\"blue\"}\n",
    );
    says(&["ping", &at], 1, "Bad request\n");
    ring(&["query", &first, "5"]).expect_error(&["closed", &first]);
    let lines: Vec<String> = peers
        .iter()
        .zip(names)
        .map(|(p, n)| format!("{} {n}\n", p.addr()))
        .collect();
    says(&["peers", "--tracker", &at], 0, &lines.concat());
    // One more, which goes when it has everything.
    let mut once = Talker::peer(&tracker, "once", &["--once", "--json"]);
    let status = wait(&mut once.child, DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(0));
    let message: Value = serde_json::from_str(&once.line(1)).expect("JSON");
    assert_eq!(message["message"], "the sky above is blue");
    assert_eq!(message["items"][4], "blue");
    // And is gone from the ring soon after.
    assert!(wait_until(DEADLINE, || members(&tracker) == names));
}

#[test]
fn a_tracker_that_is_killed_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("text");
    let mut first = tracker(&dir, &["--data", data]);
    let addr = first.addr.to_string();
    let mut peers: Vec<Talker> = ["anna", "bert", "cleo"]
        .iter()
        .map(|name| {
            let peer = Talker::peer(&first, name, &[]);
            assert!(wait_until(DEADLINE, || members(&first).contains(&name.to_string())));
            peer
        })
        .collect();
    first.kill();
    let dead = peers.remove(1);
    drop(dead);
    // With its data it knows its ring at once, and drops who does not answer.
    let mut second = tracker(&dir, &["--data", data, "--listen", &addr]);
    assert!(wait_until(Duration::from_secs(5), || members(&second)
        == ["anna", "cleo"]));
    window(Duration::from_secs(3));
    assert_eq!(members(&second), ["anna", "cleo"]);
    // Without, the peers register again, when they miss its pings.
    second.kill();
    let third = tracker(&dir, &["--listen", &addr]);
    assert!(members(&third).is_empty());
    assert!(wait_until(DEADLINE, || members(&third).len() == 2));
    // A peer that was restarted on another port gets its handle back.
    drop(peers.remove(0));
    let anna = Talker::peer(&third, "anna", &[]);
    anna.line(0);
    assert!(wait_until(DEADLINE, || {
        let listed = ring(&["peers", "--tracker", &third.at()]);
        String::from_utf8_lossy(&listed.stdout).contains(&anna.addr().to_string())
    }));
}

#[test]
fn strangers_and_half_tuples() {
    let dir = tempfile::tempdir().expect("a directory");
    let tracker = tracker(&dir, &[]);
    let peer = Talker::peer(&tracker, "anna", &[]);
    let addr = peer.addr();
    assert!(wait_until(DEADLINE, || members(&tracker) == ["anna"]));
    let update = b"('UPDATE_NBR', 'evil', '127.0.0.1', 1)";
    // Another address of the loopback network.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("socket");
    let from: SocketAddrV4 = "127.0.0.2:0".parse().expect("an address");
    socket.bind(&from.into()).expect("bind");
    socket.connect(&addr.into()).expect("connect");
    Peer::over(socket.into()).send(update).expect_closed();
    // Byte by byte, and two in one segment.
    let mut slow = Peer::connect(tracker.addr);
    for byte in b"(ECHO, bob)" {
        slow.socket.write_all(&[*byte]).expect("send");
    }
    // Quoted, since there is a comma in it.
    slow.expect("([Tracker], 'Hi bob, Welcome to the network. Register to get started.')");
    let mut peer = Peer::connect(addr);
    peer.send("('PING', 1)('QUERY', 0)");
    peer.expect("('PING', 'anna')('QUERY_RESULT', (0, 'the'))");
    peer.send("('REGISTER', 'x', 1)").expect_closed();
    let mut evil = Peer::connect(tracker.addr);
    evil.send("cos\nsystem\n(S'true'\ntR.").expect_closed();
    assert!(wait_until(DEADLINE, || tracker
        .log()
        .contains("refused a pickle")));
    assert_eq!(members(&tracker), ["anna"]);
}

#[test]
fn wrong_usage_of_ring() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("write");
        path.to_str().expect("text").to_owned()
    };
    for (db, word) in [
        (file("empty", ""), "no items"),
        (file("json", "[1]"), "JSON"),
        (file("long", &"x".repeat(9000)), "item 0 has 9000 bytes"),
        ("/nonexistent/words".into(), "cannot read"),
    ] {
        ring(&["tracker", "--db", &db]).expect_error(&[&db, word]);
    }
    let words = file("words", WORDS);
    let taken = tracker(&dir, &[]);
    let listen = ["tracker", "--db", &words, "--listen", &taken.at()];
    ring(&listen).expect_error(&["cannot listen on", &taken.at(), "--listen"]);
    for args in [
        &["tracker"][..],
        &["tracker", "--db", &words, "--ping-interval", "0"],
        &["peer", "--handle", "x"],
        &["peer", "--tracker", &taken.at(), "--handle", ""],
        &["query", &taken.at(), "-1"],
        &["query", &taken.at(), "x"],
        &["peers"],
    ] {
        assert_eq!(ring(args).code, Some(2), "{args:?}");
    }
    let nobody = std::net::TcpListener::bind(LOOPBACK).expect("bind");
    let dead = nobody.local_addr().expect("an address").to_string();
    drop(nobody);
    ring(&["echo", &dead]).expect_error(&["cannot reach", &dead]);
    ring(&["query", &taken.at(), "1", "--timeout", "1"]);
}

/// A hundred peers and items over loopback, and a ring that loses some of its peers.
#[test]
fn a_stress_run() {
    let _alone = big_test();
    let stress = |args: &[&str]| {
        let ended = run(
            &mut peerloop(&[&["stress", "ring", "--json"], args].concat()),
            "",
        );
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let summary: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        summary
    };
    let quiet = stress(&["--kill", "0", "--ping-interval", "1"]);
    assert_eq!(
        (&quiet["complete"], &quiet["added"]),
        (&100.into(), &0.into())
    );
    let took = quiet["seconds_to_completion"].as_f64().expect("seconds");
    assert!(took < 5.0, "{quiet}");
    let messages = quiet["tracker_messages_per_registration"].as_f64();
    assert!(messages.is_some_and(|n| n <= 2.0), "{quiet}");
    let args = [
        "--peers",
        "40",
        "--items",
        "10",
        "--kill",
        "8",
        "--ping-interval",
        "1",
    ];
    let killed = stress(&args);
    assert_eq!(
        (&killed["killed"], &killed["pruned"]),
        (&8.into(), &8.into())
    );
    assert_eq!(killed["complete"], killed["alive"]);
}

/// What was lost with the killed comes back with newcomers, one item each: up to a hundred of them. Once every item is
/// in the ring again, everybody has it soon.
#[test]
fn twenty_of_a_hundred_are_killed() {
    let _alone = big_test();
    let options = ["--kill", "20", "--ping-interval", "1", "--json"];
    let mut stress = peerloop(&[&["stress", "ring"], &options[..]].concat());
    let ended = stress.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    let summary: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(summary["killed"], 20);
    assert_eq!(summary["complete"], summary["alive"]);
    assert!(
        summary["seconds_with_all_items"].as_f64() < Some(10.0),
        "{summary}"
    );
}

/// A peer from the specification alone, with a thread a connection, one message on each, and blocking sockets. It
/// prints its items when it has all of them.
const PLAIN_PEER: &str = r#"
import pickle, socket, sys, threading, time
host, port, handle, protocol = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
items, neighbour, size = {}, [None], [None]

def send(s, message):
    s.sendall(pickle.dumps(message, protocol))

def receive(s):
    return pickle.loads(s.recv(1024))

def serve(s):
    message = receive(s)
    if message[0] == 'PING':
        send(s, ('ACK' if protocol % 2 else 'PING', handle))
    elif message[0] == 'UPDATE_NBR':
        neighbour[0] = (message[2], message[3])
    elif message[0] == 'QUERY':
        data = items.get(message[1])
        send(s, ('QUERY_RESULT', (None, None) if data is None else (message[1], data)))
    s.close()

listener = socket.create_server(('127.0.0.1', 0))

def accept():
    while True:
        s, _ = listener.accept()
        threading.Thread(target=serve, args=(s,), daemon=True).start()

threading.Thread(target=accept, daemon=True).start()
s = socket.create_connection((host, port))
send(s, ('REGISTER', handle, listener.getsockname()[1]))
command, ip, name, nbr_port, count, item = receive(s)
assert command == 'REG_INIT'
s.close()
items[item[0]] = item[1]
neighbour[0] = (ip, nbr_port)
print('listening 127.0.0.1:%d' % listener.getsockname()[1], flush=True)
while len(items) < count:
    for seq in range(count):
        if seq not in items:
            try:
                s = socket.create_connection(neighbour[0], 5)
                send(s, ('QUERY', seq))
                _, (number, data) = receive(s)
                s.close()
                if number is not None:
                    items[number] = data
            except (OSError, EOFError):
                pass
    time.sleep(0.05)
print(' '.join(items[seq] for seq in range(count)), flush=True)
time.sleep(1000)
"#;

/// Plain peers in every protocol of pickle and ours, each the neighbour of the other. Passes over when there is no python3.
#[test]
fn a_mixed_ring_with_python() {
    let has_python = Command::new("python3").arg("--version").output();
    if has_python.is_err() {
        println!("no python3: passed over");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tracker = tracker(&dir, &[]);
    let (ip, port) = (
        tracker.addr.ip().to_string(),
        tracker.addr.port().to_string(),
    );
    let mut peers = Vec::new();
    for protocol in 0..=5 {
        let (handle, protocol) = (format!("plain{protocol}"), protocol.to_string());
        let args = ["-c", PLAIN_PEER, &ip, &port, &handle, &protocol];
        peers.push(Talker::start(Command::new("python3").args(args)));
        peers.last().expect("one").line(0);
        let ours = format!("ours{protocol}");
        peers.push(Talker::peer(&tracker, &ours, &[]));
        assert!(wait_until(DEADLINE, || members(&tracker).contains(&ours)));
    }
    for peer in &peers {
        assert_eq!(peer.line(1), "the sky above is blue");
    }
    // They answer their pings.
    window(Duration::from_secs(3));
    assert_eq!(members(&tracker).len(), 12);
    // A plain one and one of ours die: their successors are told of the ones before.
    drop(peers.drain(3..5));
    assert!(wait_until(DEADLINE, || members(&tracker).len() == 10));
    let newcomer = Talker::peer(&tracker, "newcomer", &[]);
    assert_eq!(newcomer.line(1), "the sky above is blue");
}

//! `peerloop load`: what it measures is right, and it ends well.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{DEADLINE, LOOPBACK, Server, node, peerloop, run, wait, wait_until, window};

/// Runs a short load with `options` on the DHT node `addr` and returns its JSON.
fn load(addr: SocketAddrV4, options: &[&str]) -> Value {
    load_of("dht", addr, options)
}

fn load_of(protocol: &str, addr: SocketAddrV4, options: &[&str]) -> Value {
    let addr = addr.to_string();
    let base = ["load", protocol, &addr, "--warm-up", "0", "--json"];
    let ended = run(&mut peerloop(&[&base, options].concat()), "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_slice(&ended.stdout).expect("JSON")
}

#[test]
fn every_command_is_answered_and_none_refused() {
    let node = node(&[]);
    for options in [
        &["--command", "get", "-d", "4", "--value-bytes", "100000"][..],
        &["--command", "contains"],
        &["--command", "insert", "--value-bytes", "5000"],
        &["--command", "locate"],
        &["--command", "get", "--close"],
        &["--command", "get", "--rate", "500"],
    ] {
        let common = ["-c", "5", "-s", "0.3", "--keys", "20"];
        let told = load(node.addr, &[&common, options].concat());
        assert!(told["answers"].as_u64() > Some(20), "{told}");
        for none in ["refused", "unanswered"] {
            assert_eq!(told[none], 0, "{told}");
        }
        assert_eq!(told["errors"], serde_json::json!({}), "{told}");
        assert!(told["latency_us"]["p50"].as_f64() > Some(1.0), "{told}");
    }
}

#[test]
fn the_other_protocols_answer_too() {
    let folder = tempfile::tempdir().expect("a directory");
    let items = folder.path().join("items");
    std::fs::write(&items, "sky\n").expect("write");
    let items = items.to_str().expect("UTF-8");
    let listen = ["--listen", "127.0.0.1:0"];
    let start = |args: &[&str]| Server::start(&mut peerloop(&[args, &listen[..]].concat()));
    let overlay = start(&["overlay", "peer", "--table-size", "10000"]);
    let tracker = start(&["ring", "tracker", "--db", items]);
    let index = start(&["index", "server", "--memory"]);
    let search = ["--message", "search", "--words", "sky"];
    for (protocol, server, options) in [
        ("overlay", &overlay, &[][..]),
        ("ring", &tracker, &["--encoding", "literal", "-d", "3"]),
        ("ring", &tracker, &["--close"]),
        ("index", &index, &["-d", "3"]),
        ("index", &index, &["-d", "2"]),
        ("index", &index, &search),
    ] {
        let told = load_of(
            protocol,
            server.addr,
            &[options, &["-c", "5", "-s", "0.3"]].concat(),
        );
        assert!(told["answers"].as_u64() > Some(20), "{told}");
        for none in ["refused", "unanswered"] {
            assert_eq!(told[none], 0, "{told}");
        }
        assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    }
}

#[test]
fn a_member_of_a_ring_is_asked_for_its_own_keys() {
    let first = node(&[]);
    let join = first.addr.to_string();
    let second = node(&["--join", &join]);
    let joined = || {
        let ring = run(&mut peerloop(&["dht", "ring", "--node", &join]), "");
        String::from_utf8_lossy(&ring.stdout).contains("2 members")
    };
    assert!(wait_until(DEADLINE, joined));
    for addr in [first.addr, second.addr] {
        let told = load(addr, &["-s", "0.2", "--keys", "50"]);
        assert_eq!(
            (&told["refused"], told["answers"].as_u64() > Some(20)),
            (&0.into(), true),
            "{told}"
        );
    }
}

/// Answers LOCATE on one connection after the other until told to stop; `stall` comes once, `after` the first request.
fn plain_server(after: Duration, stall: Duration) -> SocketAddrV4 {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let addr = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        let (mut began, mut stalled) = (None, false);
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
            while let Some(Ok(line)) = lines.next() {
                if line != "LOCATE" {
                    break;
                }
                let _key = lines.next();
                let began = began.get_or_insert_with(Instant::now);
                if !stalled && began.elapsed() > after {
                    stalled = true;
                    window(stall);
                }
                if stream.write_all(b"127.0.0.1:1\n").is_err() {
                    break;
                }
            }
        }
    });
    addr.to_string().parse().expect("IPv4")
}

/// With a stall of 400 ms in a run of a second, four in ten requests of an open loop wait, 200 ms on the mean. A
/// generator that counts from when it could send says so of one.
#[test]
fn a_stall_delays_every_request_that_was_due_in_it() {
    let stall = Duration::from_millis(400);
    let options = ["--command", "locate", "-c", "1", "-s", "1"];
    let open = load(
        plain_server(Duration::from_millis(200), stall),
        &[&options[..], &["--rate", "500"]].concat(),
    );
    let us = |told: &Value, what: &str| told["latency_us"][what].as_f64().expect("a number");
    assert_eq!(open["unanswered"], 0, "{open}");
    let answers = open["answers"].as_u64().expect("a number");
    // 300, were none sent for those due in the stall; a busy machine answers the last ones after the end.
    assert!((400..=501).contains(&answers), "{open}");
    assert!(us(&open, "max") > 390_000.0, "{open}");
    assert!(us(&open, "p75") > 100_000.0, "{open}");
    let closed = load(plain_server(Duration::from_millis(200), stall), &options);
    assert!(us(&closed, "max") > 390_000.0, "{closed}");
    assert!(us(&closed, "p75") < 100_000.0, "{closed}");
}

#[test]
fn connections_that_end_are_told_and_opened_again() {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let addr: SocketAddrV4 = listener
        .local_addr()
        .expect("address")
        .to_string()
        .parse()
        .expect("IPv4");
    // Closes each connection after its first answer.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
            if lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| line == "LOCATE"))
            {
                let _ = stream.write_all(b"127.0.0.1:1\n");
            }
        }
    });
    let told = load(addr, &["--command", "locate", "-c", "2", "-s", "0.6"]);
    assert!(told["answers"].as_u64() >= Some(4), "{told}");
    let errors = told["errors"].as_object().expect("an object");
    assert!(!errors.is_empty(), "{told}");
}

#[test]
fn a_server_that_goes_while_entries_are_stored_ends_the_load() {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let addr = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        let mut storing = Vec::new();
        // As many as the load has connections then.
        while storing.len() < 16 {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut word = [0; 6];
            if stream.read_exact(&mut word).is_ok() && &word == b"INSERT" {
                storing.push(stream);
            }
        }
    });
    let ended = run(&mut peerloop(&["load", "dht", &addr]), "");
    ended.expect_error(&[&addr, "stored 0 of 1000 entries"]);
}

#[test]
fn ctrl_c_prints_what_was_measured() {
    let node = node(&[]);
    let addr = node.addr.to_string();
    let mut child = peerloop(&[
        "load",
        "dht",
        &addr,
        "-s",
        "600",
        "--warm-up",
        "0",
        "--keys",
        "5",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .expect("spawn");
    // Some of them may be of the filling, which is short.
    let stat = || {
        let stat = run(
            &mut peerloop(&["dht", "contains", "none", "--node", &addr]),
            "",
        );
        stat.code == Some(1)
    };
    assert!(wait_until(DEADLINE, stat));
    // Of the requests that are measured, since the filling takes five.
    assert!(wait_until(DEADLINE, || node.cpu_ticks() > 20));
    kill_process(Pid::from_child(&child), Signal::INT).expect("kill");
    assert_eq!(
        wait(&mut child, DEADLINE).and_then(|status| status.code()),
        Some(0)
    );
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut text).expect("read");
    assert!(
        text.contains("latency us") && text.contains("0 refused"),
        "{text}"
    );
}

#[test]
fn the_picture_and_the_errors() {
    let node = node(&[]);
    let folder = tempfile::tempdir().expect("a directory");
    let svg = folder.path().join("load.svg");
    let svg = svg.to_str().expect("UTF-8");
    load(node.addr, &["-s", "0.3", "--keys", "5", "--svg", svg]);
    let picture = std::fs::read_to_string(svg).expect("read");
    assert!(picture.starts_with("<svg") && picture.contains("latency by percentile"));

    let dead = TcpListener::bind(LOOPBACK).expect("bind").local_addr();
    let dead = dead.expect("address").to_string();
    let ended = run(&mut peerloop(&["load", "dht", &dead]), "");
    ended.expect_error(&[&dead, "refused"]);
    let full = crate::support::node(&["--memory-max", "2000"]);
    let addr = full.addr.to_string();
    let ended = run(&mut peerloop(&["load", "dht", &addr]), "");
    ended.expect_error(&["stored", "of 1000 entries"]);
    let addr = node.addr.to_string();
    let many = run(&mut peerloop(&["load", "dht", &addr, "-c", "1000000"]), "");
    many.expect_error(&["1000000", "file limit"]);
    let none = run(
        &mut peerloop(&[
            "load",
            "dht",
            &addr,
            "-s",
            "0.1",
            "--warm-up",
            "0",
            "--svg",
            "/none/x.svg",
        ]),
        "",
    );
    none.expect_error(&["/none/x.svg"]);
}

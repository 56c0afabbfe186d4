//! Commands about a whole DHT ring, and interactive ones: `dht ring`, `dht shell`, the prompt of a node, `stress dht`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Reactor, Stopped};
use peerloop::proto::dht::node::{Config, DhtNode};
use peerloop::proto::dht::storage::entries::Entries;

use crate::support::{
    DEADLINE, Ended, LOOPBACK, Server, big_test, node, peerloop, run, shell, terminal::Terminal,
    wait, wait_until, window,
};

/// How long a node is watched to prove that it does not end.
const WATCHED: Duration = Duration::from_millis(500);

fn ring(at: &str, options: &[&str]) -> Ended {
    run(
        &mut peerloop(&[&["dht", "ring", "--node", at], options].concat()),
        "",
    )
}

fn json(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr))
}

/// What the parser of the arguments says: exit 2, nothing on stdout, and all `words` on stderr.
#[track_caller]
fn expect_usage_error(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stdout.is_empty());
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "no {word:?} in: {}",
            ended.stderr
        );
    }
}

/// A ring of three without copies, once all of them are members and agree.
fn three() -> [Server; 3] {
    let first = node(&["--replicas", "1"]);
    let at = first.at();
    let join = || node(&["--replicas", "1", "--join", &at]);
    let nodes = [join(), join()];
    let whole = || {
        let ended = ring(&at, &["--json"]);
        ended.code == Some(0) && json(&ended)["members"].as_array().expect("members").len() == 3
    };
    assert!(wait_until(DEADLINE, whole), "{}", ring(&at, &[]).stderr);
    let [second, third] = nodes;
    [first, second, third]
}

#[test]
fn a_ring_of_three_in_every_format() {
    let nodes = three();
    let at = nodes[0].at();
    for name in ["a", "b", "c", "d"] {
        let words = ["dht", "insert", "--node", &nodes[1].at(), name, "value"];
        assert_eq!(run(&mut peerloop(&words), "").code, Some(0));
    }
    let ended = ring(&at, &["--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let walk = json(&ended);
    assert_eq!(walk["closed"], Value::Bool(true));
    let members = walk["members"].as_array().expect("members");
    let mut found: Vec<&str> = members
        .iter()
        .map(|m| m["addr"].as_str().expect("text"))
        .collect();
    assert_eq!(found[0], at, "it begins with the node that was asked");
    // Clockwise: in the order of the ids, up to one place where they wrap.
    let places: Vec<f64> = members
        .iter()
        .map(|m| m["place"].as_f64().expect("place"))
        .collect();
    let turns = (0..3).filter(|n| places[*n] > places[(n + 1) % 3]).count();
    assert_eq!(turns, 1, "{places:?}");
    found.sort_unstable();
    let mut want: Vec<String> = nodes.iter().map(Server::at).collect();
    want.sort_unstable();
    assert_eq!(found, want);
    let sum = |field: &str| {
        members
            .iter()
            .map(|m| m[field].as_f64().expect("told"))
            .sum::<f64>()
    };
    assert!((sum("share_percent") - 100.0).abs() < 1e-6);
    assert!((sum("entries") - 4.0).abs() < 1e-6);

    for (option, words) in [
        (&[][..], &["3 members", "4 entries", "consistent"][..]),
        (&["--dot"], &["digraph", " -> "]),
        (&["--svg"], &["<svg", "3 members", "</svg>"]),
    ] {
        let ended = ring(&at, option);
        assert_eq!(ended.code, Some(0));
        let text = String::from_utf8(ended.stdout).expect("text");
        for word in words.iter().copied().chain(want.iter().map(String::as_str)) {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }
    expect_usage_error(&ring(&at, &["--dot", "--svg"]), &["--dot", "--svg"]);
}

#[test]
fn a_member_that_died_is_shown() {
    let [first, mut second, _third] = three();
    second.kill();
    let ended = ring(&first.at(), &["--timeout", "1"]);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.code, Some(1), "{text}{}", ended.stderr);
    assert!(
        text.contains("INCONSISTENT") && text.contains(&second.at()),
        "{text}"
    );
    assert!(
        text.contains("does not answer") && text.contains("3 members"),
        "{text}"
    );
}

#[test]
fn of_a_plain_peer_nothing_is_known_but_its_address() {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let at = listener.local_addr().expect("address").to_string();
    let own = at.clone();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let (mut bytes, mut byte) = (Vec::new(), [0]);
            while bytes.iter().filter(|byte| **byte == b'\n').count() < 2 {
                if bytes == b"XSTAT\n" || !matches!(socket.read(&mut byte), Ok(1)) {
                    break;
                }
                bytes.push(byte[0]);
            }
            if bytes.starts_with(b"LOCATE\n") {
                // The client may have disconnected.
                let _ = socket.write_all(format!("{own}\n").as_bytes());
            }
        }
    });
    let ended = ring(&at, &["--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let walk = json(&ended);
    assert_eq!(walk["members"][0]["addr"], at.as_str());
    assert_eq!(walk["members"][0]["entries"], Value::Null);
    let ended = run(
        &mut peerloop(&["dht", "shell", "--node", &at]),
        "locate x\n",
    );
    assert_eq!(
        (ended.code, ended.stdout),
        (Some(0), format!("{at}\n").into_bytes())
    );
}

#[test]
fn nobody_to_walk_from() {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let at = listener.local_addr().expect("address").to_string();
    drop(listener);
    ring(&at, &[]).expect_error(&["--node", &at]);
}

#[test]
fn a_shell_takes_commands_from_a_pipe() {
    let node = node(&[]);
    let lines = "insert sky  blue and grey\nget sky\ncontains sky\n\nlocate sky\nremove sky\n\
                 get sky\ncontains sky\nhelp\nquit\nget sky\n";
    let ended = run(
        &mut peerloop(&["dht", "shell", "--node", &node.at()]),
        lines,
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let text = String::from_utf8(ended.stdout).expect("text");
    let replies = format!(
        "stored\nblue and grey\nyes\n{}\nremoved\nno entry\nno\n",
        node.addr
    );
    let help = text
        .strip_prefix(&replies)
        .unwrap_or_else(|| panic!("{text}"));
    for word in [
        "insert NAME VALUE",
        "get",
        "remove",
        "contains",
        "locate",
        "table",
        "quit",
    ] {
        assert!(help.contains(word), "{help}");
    }

    let ended = run(
        &mut peerloop(&["dht", "shell", "--node", &node.at()]),
        "fly\nget\nget a b\ninsert a\nkeys\ntable\n",
    );
    assert_eq!(ended.code, Some(2));
    for words in [
        "\"fly\"",
        "get takes a NAME",
        "one NAME",
        "a VALUE",
        "keys is for",
        "5 of the",
    ] {
        assert!(
            ended.stderr.contains(words),
            "no {words} in {}",
            ended.stderr
        );
    }
    let table = String::from_utf8(ended.stdout).expect("text");
    assert!(
        table.contains("next") && table.contains("0 entries"),
        "{table}"
    );
}

#[test]
fn a_node_without_a_terminal_runs_on_whatever_its_stdin_is() {
    for script in [
        "exec \"$0\" \"$@\" <&-",
        "exec \"$0\" \"$@\" </dev/null",
        "exec \"$0\" \"$@\"",
    ] {
        let mut node = Server::start(&mut shell(script, &["dht", "node"]));
        window(WATCHED);
        assert!(node.is_alive(), "{script}: {}", node.log());
        node.connect()
            .send("LOCATE\n1\n")
            .expect(format!("{}\n", node.addr));
        node.signal(Signal::TERM);
        assert_eq!(node.wait(DEADLINE), Some(0));
    }
}

#[test]
fn a_node_on_a_terminal_has_a_prompt() {
    let Some(mut terminal) = Terminal::start("dht node") else {
        return;
    };
    terminal.expect("listening ");
    for (line, reply) in [
        ("insert sky blue", "stored"),
        ("get sky", "blue"),
        ("keys", " bytes"),
        ("table", "holds    1 entries"),
        ("nonsense", "no command"),
    ] {
        terminal.expect("> ");
        terminal.line(line);
        // First the echo.
        terminal.expect(line);
        terminal.expect(reply);
    }
    terminal.expect("> ");
    terminal.line("disconnect");
    assert_eq!(terminal.wait(), Some(0));
}

#[test]
fn calls_run_on_the_loop_until_it_ends() {
    let bound = Bound::bind(LOOPBACK).expect("bind");
    let addr = bound.addr();
    let service = DhtNode::new(Config::new(addr), Entries::default());
    let mut reactor = Reactor::new(service, Limits::default()).expect("a reactor");
    let (handle, caller) = (reactor.handle(), reactor.caller());
    let thread = std::thread::spawn(move || reactor.run());
    let asking = (0..8).map(|_| {
        let caller = caller.clone();
        std::thread::spawn(move || (0..100).all(|n| caller.call(move |_, _| n) == Ok(n)))
    });
    assert!(
        asking
            .collect::<Vec<_>>()
            .into_iter()
            .all(|asker| asker.join().expect("asked"))
    );
    assert_eq!(caller.call(|node, _| node.me().addr), Ok(addr));
    handle.shutdown();
    thread.join().expect("joined").expect("no error");
    assert_eq!(caller.call(|node, _| node.me().addr), Err(Stopped));
}

#[test]
fn a_small_stress_run_loses_nothing() {
    let _alone = big_test();
    for extra in [&["--json"][..], &["--json", "--processes"]] {
        let words = [
            "stress",
            "dht",
            "--nodes",
            "3",
            "--clients",
            "4",
            "--churn",
            "3",
        ];
        let ended = run(
            &mut peerloop(&[&words[..], &["--seconds", "2"], extra].concat()),
            "",
        );
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let summary = json(&ended);
        let none = [
            "lost",
            "resurrected",
            "wrong_reads",
            "joins_failed",
            "leaves_failed",
            "died",
        ];
        for field in none {
            assert_eq!(summary[field], 0, "{field} of {summary}");
        }
        for field in ["operations", "joins", "leaves", "checked"] {
            assert!(summary[field].as_u64() > Some(0), "{field} of {summary}");
        }
        let most = |of: &str| summary[of]["max"].as_f64().expect("a time");
        let kinds = ["get_latency_ms", "insert_latency_ms", "remove_latency_ms"].map(most);
        assert_eq!(kinds.into_iter().fold(0.0, f64::max), most("latency_ms"));
    }
    let words = [
        "stress",
        "dht",
        "--nodes",
        "2",
        "--clients",
        "1",
        "--churn",
        "0",
        "--seconds",
        "1",
    ];
    let ended = run(&mut peerloop(&words), "");
    let text = String::from_utf8(ended.stdout).expect("text");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(text.contains("lost        0\n"), "{text}");
}

#[test]
fn an_interrupted_stress_run_leaves_no_process_behind() {
    let _alone = big_test();
    let words = [
        "stress",
        "dht",
        "--nodes",
        "3",
        "--churn",
        "0",
        "--seconds",
        "60",
        "--processes",
    ];
    for signal in [Signal::INT, Signal::HUP] {
        let mut child = peerloop(&words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let parent = child.id();
        assert!(wait_until(DEADLINE, || children(parent).len() == 3));
        let nodes = children(parent);
        kill_process(Pid::from_child(&child), signal).expect("kill");
        let status = wait(&mut child, DEADLINE).expect("it ends");
        assert_eq!(status.code(), Some(2));
        for node in nodes {
            assert!(
                !std::fs::exists(format!("/proc/{node}")).expect("/proc"),
                "{node} lives"
            );
        }
    }
}

/// The processes that this one started and that live.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned());
        let ppid = fields.and_then(|f| f.split(' ').nth(1)?.parse().ok());
        ppid == Some(parent)
    };
    pids.filter(is_child).collect()
}

#[test]
fn options_out_of_range_say_what_is_wanted() {
    for (option, value, wanted) in [
        ("--nodes", "0", "from 1 to 256"),
        ("--clients", "none", "from 1 to 4096"),
        ("--churn", "-1", "from 0 to 100"),
        ("--seconds", "0", "from 1 to 86400"),
        ("--crashes", "257", "from 0 to 256"),
        ("--crash-every", "0", "from 0.1 to 86400"),
        ("--replicas", "0", "from 1 to 8"),
    ] {
        let option_value = format!("{option}={value}");
        let ended = run(&mut peerloop(&["stress", "dht", &option_value]), "");
        expect_usage_error(&ended, &[option, value, wanted]);
    }
    let ended = run(&mut peerloop(&["stress", "dht", "--crashes", "2"]), "");
    expect_usage_error(&ended, &["--processes"]);
    for value in ["0", "9", "x"] {
        let replicas = format!("--replicas={value}");
        let ended = run(&mut peerloop(&["dht", "node", &replicas]), "");
        expect_usage_error(&ended, &["--replicas", value, "from 1 to 8"]);
    }
}

//! The one-shot `dht` commands: output, options, exit codes and error messages; also `demo`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Ended, LOOPBACK, Peer, Server, key, node, noise, peerloop, peerloop_under, run, shell,
};

/// A command that ends with it has not waited for the timeout.
const NO_TIMEOUT: [&str; 2] = ["--timeout", "3600"];

/// `peerloop dht COMMAND --node ADDR ARGS`.
fn dht(at: &str, words: &[&str]) -> Command {
    let (command, rest) = words.split_first().expect("a command");
    peerloop(&[&["dht", command, "--node", at], rest].concat())
}

/// Runs it without input.
fn ask(node: &Server, words: &[&str]) -> Ended {
    run(&mut dht(&node.at(), words), "")
}

#[track_caller]
fn expect(node: &Server, words: &[&str], code: i32, stdout: &[u8]) {
    let ended = ask(node, words);
    assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.stderr);
    assert!(ended.stdout == stdout, "{words:?}");
    assert!(ended.stderr.is_empty(), "{words:?}: {}", ended.stderr);
}

#[track_caller]
fn expect_json(node: &Server, words: &[&str], code: i32, want: Value) {
    let ended = ask(node, &[words, &["--json"]].concat());
    assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.stderr);
    assert_eq!(
        ended.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    let got: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(got, want, "{words:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn every_command() {
    let node = node(&[]);
    expect(&node, &["get", "sky"], 1, b"");
    expect(&node, &["contains", "sky"], 1, b"no\n");
    expect(&node, &["insert", "sky", "blue"], 0, b"");
    expect(&node, &["get", "sky"], 0, b"blue");
    expect(&node, &["contains", "sky"], 0, b"yes\n");
    expect(&node, &["insert", "sky", "grey"], 0, b"");
    expect(&node, &["get", "sky"], 0, b"grey");
    expect(
        &node,
        &["locate", "sky"],
        0,
        format!("{}\n", node.addr).as_bytes(),
    );
    expect(&node, &["remove", "sky"], 0, b"");
    expect(&node, &["remove", "sky"], 0, b"");
    expect(&node, &["get", "sky"], 1, b"");
    expect(&node, &["contains", "sky"], 1, b"no\n");
}

#[test]
fn an_empty_value_is_found_and_is_not_a_missing_one() {
    let node = node(&[]);
    expect(&node, &["insert", "empty", ""], 0, b"");
    expect(&node, &["get", "empty"], 0, b"");
    expect(&node, &["contains", "empty"], 0, b"yes\n");
    expect(&node, &["get", "missing"], 1, b"");
    let out = tempfile::tempdir().expect("a directory");
    let (empty, missing) = (out.path().join("empty"), out.path().join("missing"));
    expect(&node, &["get", "empty", "--out", text(&empty)], 0, b"");
    expect(&node, &["get", "missing", "--out", text(&missing)], 1, b"");
    assert_eq!(fs::read(empty).expect("written"), b"");
    assert!(!missing.exists());
}

#[test]
fn values_from_stdin_a_dash_and_a_file() {
    let node = node(&[]);
    let binary: Vec<u8> = (0..=255).chain([0, 10, 13, 255]).collect();
    for words in [&["insert", "in"][..], &["insert", "in", "-"]] {
        expect(&node, &["insert", "in", "old"], 0, b"");
        let ended = run(&mut dht(&node.at(), words), &binary[..]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        expect(&node, &["get", "in"], 0, &binary);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, &binary).expect("write");
    fs::write(&to, "old").expect("write");
    expect(&node, &["insert", "file", "--file", text(&from)], 0, b"");
    expect(&node, &["get", "file", "--out", text(&to)], 0, b"");
    assert_eq!(fs::read(to).expect("written"), binary);
    assert_eq!(
        fs::read_dir(&dir).expect("list").count(),
        2,
        "nothing else is left"
    );
    // Names are bytes, too.
    expect(&node, &["insert", "Grüße", "ümläut"], 0, b"");
    expect(&node, &["get", "Grüße"], 0, "ümläut".as_bytes());
}

#[test]
fn raw_keys_are_the_keys_of_names() {
    let node = node(&[]);
    let raw = key("sky").to_string();
    expect(&node, &["insert", "--raw-key", &raw, "blue"], 0, b"");
    expect(&node, &["get", "sky"], 0, b"blue");
    expect(&node, &["get", "--raw-key", &raw], 0, b"blue");
    expect(&node, &["contains", "--raw-key", &raw], 0, b"yes\n");
    expect(
        &node,
        &["locate", "--raw-key", "0"],
        0,
        format!("{}\n", node.addr).as_bytes(),
    );
    let ended = run(
        &mut dht(&node.at(), &["insert", "--raw-key", "7"]),
        "by stdin",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    expect(&node, &["get", "--raw-key", "007"], 0, b"by stdin");
    expect(&node, &["remove", "--raw-key", &raw], 0, b"");
    expect(&node, &["get", "sky"], 1, b"");
    let too_large = "1461501637330902918203684832716283019655932542976";
    for bad in ["x", "-1", "", "0x1", too_large] {
        let ended = ask(&node, &["get", &format!("--raw-key={bad}")]);
        assert_eq!(ended.code, Some(2), "{bad}");
        assert!(ended.stderr.contains("--raw-key"), "{}", ended.stderr);
    }
}

#[test]
fn json_of_every_command() {
    let node = node(&[]);
    let sky = key("sky").to_string();
    expect_json(
        &node,
        &["get", "sky"],
        1,
        json!({"key": sky, "found": false}),
    );
    expect_json(
        &node,
        &["contains", "sky"],
        1,
        json!({"key": sky, "found": false}),
    );
    expect_json(
        &node,
        &["insert", "sky", "blue"],
        0,
        json!({"key": sky, "stored": true}),
    );
    let found = json!({"key": sky, "found": true, "bytes": 4, "value": "blue"});
    expect_json(&node, &["get", "sky"], 0, found);
    expect_json(
        &node,
        &["contains", "sky"],
        0,
        json!({"key": sky, "found": true}),
    );
    expect_json(
        &node,
        &["locate", "sky"],
        0,
        json!({"key": sky, "owner": node.at()}),
    );
    expect_json(
        &node,
        &["remove", "sky"],
        0,
        json!({"key": sky, "removed": true}),
    );
    let ended = run(&mut dht(&node.at(), &["insert", "sky"]), [0, 0xff]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let binary = json!({"key": sky, "found": true, "bytes": 2, "value_hex": "00ff"});
    expect_json(&node, &["get", "sky"], 0, binary);
}

#[test]
fn sixty_mebibytes_in_and_out() {
    let node = node(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let value = noise(60, 60 << 20);
    fs::write(&from, &value).expect("write");
    expect(&node, &["insert", "by file", "--file", text(&from)], 0, b"");
    expect(&node, &["get", "by file"], 0, &value);
    let ended = run(&mut dht(&node.at(), &["insert", "by stdin"]), &value[..]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    expect(&node, &["get", "by stdin", "--out", text(&to)], 0, b"");
    assert!(fs::read(to).expect("written") == value);
}

#[test]
fn a_value_over_the_limit_is_refused_before_anything_is_sent() {
    let nobody = TcpListener::bind(LOOPBACK).expect("bind");
    nobody.set_nonblocking(true).expect("nonblocking");
    let at = nobody.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sparse");
    // To read it would take an hour.
    let sparse = File::create(&path).expect("create");
    sparse.set_len(1 << 43).expect("grow");
    let ended = run(&mut dht(&at, &["insert", "big", "--file", text(&path)]), "");
    ended.expect_error(&["8796093022208", "67108864", "--value-max", text(&path)]);
    let limit = ["insert", "big", "--value-max", "1000"];
    let ended = run(&mut dht(&at, &limit), noise(1, 1001));
    ended.expect_error(&["1000", "--value-max", "stdin"]);
    let word = "x".repeat(1001);
    let ended = run(&mut dht(&at, &[&limit[..], &[&word]].concat()), "");
    ended.expect_error(&["1001", "1000", "--value-max"]);
    // Reading stops at the limit, also of an endless file.
    let endless = ["insert", "big", "--file", "/dev/zero"];
    run(&mut dht(&at, &endless), "").expect_error(&["67108864", "/dev/zero"]);
    let error = nobody.accept().expect_err("nobody connected");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_limit_of_the_other_side_is_reported() {
    let node = node(&["--value-max", "1000"]);
    expect(&node, &["insert", "x", &"y".repeat(1000)], 0, b"");
    let ended = run(&mut dht(&node.at(), &["insert", "x"]), noise(1, 100_000));
    ended.expect_error(&["did not store", &node.at()]);
    let ended = ask(&node, &["get", "x", "--value-max", "999"]);
    ended.expect_error(&["1000", "999"]);
    expect(&node, &["get", "x"], 0, "y".repeat(1000).as_bytes());
}

#[test]
fn wrong_usage() {
    let node = node(&[]);
    let file = ["insert", "x", "y", "--file", "/dev/null"];
    ask(&node, &file).expect_error(&["--file", "VALUE"]);
    ask(&node, &["insert"]).expect_error(&["NAME", "--raw-key"]);
    ask(&node, &["insert", "--raw-key", "1", "a", "b"]).expect_error(&["--raw-key"]);
    let missing = ["insert", "x", "--file", "/nonexistent/file"];
    ask(&node, &missing).expect_error(&["/nonexistent/file"]);
    ask(&node, &["insert", "x", "--file", "/"]).expect_error(&["cannot read /"]);
    for words in [
        &["get"][..],
        &["get", "a", "b"],
        &["fetch"],
        &["get", "a", "--raw-key", "1"],
    ] {
        assert_eq!(ask(&node, words).code, Some(2), "{words:?}");
    }
    for at in ["", "x", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"] {
        let ended = run(&mut dht(at, &["get", "x"]), "");
        assert_eq!(ended.code, Some(2), "{at}");
        assert!(ended.stderr.contains("--node"), "{}", ended.stderr);
    }
    let ended = run(&mut peerloop(&["--help"]), "");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_dead_node() {
    let dead = TcpListener::bind(LOOPBACK)
        .expect("bind")
        .local_addr()
        .expect("an address");
    for words in [&["get", "x"][..], &["insert", "x", "y"], &["locate", "x"]] {
        let words = [words, &NO_TIMEOUT].concat();
        let ended = run(&mut dht(&dead.to_string(), &words), "");
        ended.expect_error(&["cannot reach", &dead.to_string()]);
    }
}

/// Something else than a node: answers each connection with `bytes`, then closes it or says nothing more.
fn impostor(bytes: &'static [u8], closes: bool) -> SocketAddrV4 {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let addr = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 1000]);
            let _ = socket.write_all(bytes);
            if !closes {
                open.push(socket);
            }
        }
    });
    addr.parse().expect("an address")
}

#[test]
fn a_peer_that_speaks_something_else() {
    let garbage = [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\0\x01\x02\xff\n",
        b"999.1.1.1:80\n",
        b"1\n",
        &[b'9'; 5000],
    ];
    std::thread::scope(|scope| {
        for bytes in garbage {
            scope.spawn(move || {
                let at = impostor(bytes, false).to_string();
                let words = [&["get", "x"], &NO_TIMEOUT[..]].concat();
                let ended = run(&mut dht(&at, &words), "");
                ended.expect_error(&["does not speak the protocol", &at]);
            });
        }
    });
    let at = impostor(b"", true).to_string();
    run(&mut dht(&at, &["get", "x"]), "").expect_error(&["closed the connection", &at]);
}

#[test]
fn a_silent_peer() {
    let at = impostor(b"", false).to_string();
    let ended = run(&mut dht(&at, &["get", "x", "--timeout", "1"]), "");
    ended.expect_error(&["did not answer in time", &at]);
    assert!(ended.took >= Duration::from_secs(1), "{:?}", ended.took);
}

#[test]
fn an_output_that_cannot_be_written() {
    let node = node(&[]);
    let value = noise(3, 100_000);
    assert!(node.connect().insert(key("big"), &value).expect("insert"));
    ask(&node, &["get", "big", "--out", "/dev/full"]).expect_error(&["cannot write /dev/full"]);
    let to_full = "exec \"$0\" \"$@\" > /dev/full";
    let at = node.at();
    let get = ["dht", "get", "big", "--node", &at];
    run(&mut shell(to_full, &get), "").expect_error(&["stdout"]);
    run(&mut shell(to_full, &[&get[..], &["--json"]].concat()), "").expect_error(&["stdout"]);

    let dir = tempfile::tempdir().expect("a directory");
    let list = || fs::read_dir(&dir).expect("list").count();
    let in_missing = dir.path().join("missing").join("out");
    ask(&node, &["get", "big", "--out", text(&in_missing)]).expect_error(&[text(&in_missing)]);
    ask(&node, &["get", "big", "--out", text(dir.path())]).expect_error(&[text(dir.path())]);
    assert_eq!(list(), 0);
    // A disk that is full after 512 bytes, as far as this process can tell.
    let (new, old) = (dir.path().join("new"), dir.path().join("old"));
    fs::write(&old, "old").expect("write");
    for path in [&new, &old] {
        let args = [&get[..], &["--out", text(path)]].concat();
        run(&mut peerloop_under("-f 1", &args), "").expect_error(&["cannot write", text(path)]);
    }
    assert_eq!(fs::read(&old).expect("still there"), b"old");
    assert_eq!(list(), 1, "nothing new is left");
}

#[test]
fn a_reader_that_has_enough() {
    let node = node(&[]);
    assert!(
        node.connect()
            .insert(key("big"), &noise(3, 4 << 20))
            .expect("insert")
    );
    let script = "{ \"$0\" \"$@\"; echo $? >&2; } | head -c1 | wc -c";
    for json in [&[][..], &["--json"]] {
        let at = node.at();
        let args = [&["dht", "get", "big", "--node", &at], json].concat();
        let ended = run(&mut shell(script, &args), "");
        assert_eq!(ended.stderr, "0\n");
        assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "1");
    }
}

#[test]
fn a_node_that_cannot_listen() {
    let node = node(&[]);
    let listen = |at: &str| run(&mut peerloop(&["dht", "node", "--listen", at]), "");
    listen(&node.at()).expect_error(&["cannot listen on", &node.at(), "--listen", "in use"]);
    // TEST-NET-1 is no address of this machine.
    listen("192.0.2.1:0").expect_error(&["cannot listen on", "192.0.2.1:0", "--listen"]);
    for bad in [
        "",
        "x",
        "127.0.0.1",
        "127.0.0.1:65536",
        "[::1]:0",
        "localhost:0",
    ] {
        let ended = listen(bad);
        assert_eq!(ended.code, Some(2), "{bad}");
        assert!(ended.stderr.contains("--listen"), "{}", ended.stderr);
    }
    let advertise = ["dht", "node", "--advertise", "0.0.0.0:80"];
    run(&mut peerloop(&advertise), "").expect_error(&["--advertise", "0.0.0.0:80"]);
}

#[test]
fn too_few_files() {
    for limit in ["-n 16", "-n 32"] {
        let ended = run(&mut peerloop_under(limit, &["dht", "node"]), "");
        ended.expect_error(&[&limit[3..], "open files", "ulimit -n"]);
    }
}

#[test]
fn a_node_without_stdin_keeps_running() {
    let script = "exec \"$0\" \"$@\" <&-";
    let mut node = Server::start(&mut shell(script, &["dht", "node"]));
    expect(&node, &["insert", "sky", "blue"], 0, b"");
    expect(&node, &["get", "sky"], 0, b"blue");
    assert!(node.is_alive());
}

#[test]
fn signals_end_a_node_orderly() {
    let data = tempfile::tempdir().expect("a directory");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for options in [&[][..], &["--data", text(data.path())]] {
            let mut node = node(options);
            let mut peer = node.connect();
            assert!(peer.insert(key("sky"), b"blue").expect("insert"));
            node.signal(signal);
            assert_eq!(node.wait(DEADLINE), Some(0), "{signal:?}: {}", node.log());
            peer.expect_closed();
        }
    }
    let node = node(&["--data", text(data.path())]);
    expect(&node, &["get", "sky"], 0, b"blue");
}

#[test]
fn the_demo_cleans_up() {
    let tmp = tempfile::tempdir().expect("a directory");
    let ended = run(peerloop(&["demo"]).env("TMPDIR", tmp.path()), "");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let stdout = String::from_utf8_lossy(&ended.stdout);
    for word in ["insert", "get", "restart", "remove", "contains"] {
        assert!(stdout.contains(word), "{stdout}");
    }
    // Every protocol has its rows: what was done, and a time.
    for (protocol, what) in [
        ("dht", "insert"),
        ("overlay", "join"),
        ("overlay", "map"),
        ("ring", "gather"),
        ("ring", "death"),
        ("ring", "newcomer"),
        ("index", "share"),
        ("index", "search"),
        ("index", "download"),
    ] {
        let row = stdout.lines().find(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(protocol) && words.next() == Some(what)
        });
        assert!(row.is_some_and(|row| row.ends_with(" ms")), "{stdout}");
    }
    assert_eq!(fs::read_dir(&tmp).expect("list").count(), 0);
    let none = run(
        peerloop(&["demo", "--files"])
            .arg(tmp.path())
            .env("TMPDIR", tmp.path()),
        "",
    );
    none.expect_error(&["--files"]);
    assert_eq!(fs::read_dir(&tmp).expect("list").count(), 0);
}

/// A repeated write could undo what another client wrote between the two.
#[test]
fn a_write_of_which_nobody_knows_is_not_repeated() {
    for (words, sent) in [
        (&["insert", "x", "y"][..], "INSERT"),
        (&["remove", "x"], "REMOVE"),
    ] {
        let listener = TcpListener::bind(LOOPBACK).expect("bind");
        let at = listener.local_addr().expect("an address");
        let (tell, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let mut peer = Peer::over(socket);
                while let Ok(word) = peer.line() {
                    let _ = peer.line();
                    let _ = tell.send(word.clone());
                    match &word[..] {
                        "LOCATE" => _ = peer.send(format!("{at}\n")),
                        // The value is stored, and the acknowledgement is lost.
                        "INSERT" => {
                            peer.send("1\n");
                            let _ = peer.line();
                            break;
                        }
                        _ => break,
                    }
                }
            }
        });
        let ended = run(&mut dht(&at.to_string(), words), "");
        ended.expect_error(&["is not known", &at.to_string()]);
        let writes = heard
            .try_iter()
            .filter(|word| word.as_str() == sent)
            .count();
        assert_eq!(writes, 1, "{words:?}");
    }
}

//! The index server as a process, and the commands that ask it.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Signal};

use crate::support::{DEADLINE, Ended, Peer, Server, peerloop, run, wait_until};

const SHA1: &str = "eac923ffd38e75dc5a30da86bd6ae3442638a89f";

/// Hashes that cost nothing, where their cost is not the point.
const CHEAP: [&str; 4] = ["--hash-memory", "8", "--hash-passes", "1"];

fn server(options: &[&str]) -> Server {
    Server::start(&mut peerloop(
        &[&["index", "server"], &CHEAP[..], options].concat(),
    ))
}

/// A command of a user whose files are under `home`.
fn user(home: &Path, server: &Server, args: &[&str]) -> Command {
    let at = server.at();
    let mut command = peerloop(&[&["index"], args, &["--server", &at]].concat());
    command
        .env("XDG_STATE_HOME", home)
        .env("PEERLOOP_PASSWORD", "secret")
        .env("USER", "alice");
    command
}

fn text(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    String::from_utf8(ended.stdout.clone()).expect("text")
}

/// One request and its reply.
fn ask(peer: &mut Peer, kind: u16, payload: &str) -> io::Result<(u16, String)> {
    let mut bytes = (payload.len() as u16).to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(payload.as_bytes());
    peer.socket.write_all(&bytes)?;
    let mut header = [0; 4];
    peer.socket.read_exact(&mut header)?;
    let [l0, l1, k0, k1] = header;
    let mut payload = vec![0; u16::from_le_bytes([l0, l1]).into()];
    peer.socket.read_exact(&mut payload)?;
    let payload = String::from_utf8(payload).expect("text");
    Ok((u16::from_le_bytes([k0, k1]), payload))
}

fn file(name: &str) -> String {
    format!("{name}|0.000200|{SHA1}\n")
}

/// Registers with these files and logs in; the id.
fn join(server: &Server, user: &str, files: &[&str]) -> (Peer, String) {
    let mut peer = server.connect();
    let list: String = files.iter().map(|name| file(name)).collect();
    let (kind, reply) = ask(&mut peer, 1, &format!("{user}\npw\n{list}")).expect("REGISTER");
    assert_eq!(kind, 101, "{reply}");
    let id = reply.lines().nth(1).expect("an id").to_owned();
    let login = ask(&mut peer, 2, &format!("{user}\npw\n{id}")).expect("LOGIN");
    assert_eq!(login, (102, "LOGIN SUCCESS".into()));
    (peer, id)
}

#[test]
fn commands_ask_a_server() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let server = server(&["--memory"]);
    let (_bob, bob) = join(&server, "bob", &["song.mp3", "live \u{1b}[31m song", "a"]);
    let id = text(&run(&mut user(home, &server, &["register"]), ""));
    let id = id.trim();
    let kept = home
        .join("peerloop")
        .join(format!("index-{}-alice.json", server.at()));
    let mode = kept.metadata().expect("credentials").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let login = text(&run(
        &mut user(home, &server, &["login", "--port", "7000", "--json"]),
        "",
    ));
    assert_eq!(
        login,
        format!("{{\"user\":\"alice\",\"id\":\"{id}\",\"online\":true}}\n")
    );
    // The password is with the credentials from now on.
    let mut again = user(home, &server, &["login", "--port", "7001"]);
    assert_eq!(run(again.env_remove("PEERLOOP_PASSWORD"), "").code, Some(0));
    let peers = text(&run(&mut user(home, &server, &["peers", "--json"]), ""));
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let peers: Vec<serde_json::Value> = peers.lines().map(line).collect();
    assert_eq!(peers.len(), 2);
    let me = peers
        .iter()
        .find(|peer| peer["user"] == "alice")
        .expect("alice");
    assert_eq!(
        (&me["id"], &me["at"]),
        (&id.into(), &"127.0.0.1:7001".into())
    );

    let found = text(&run(&mut user(home, &server, &["search", "SONG"]), ""));
    assert!(
        !found.contains('\u{1b}') && found.contains("live \\u{1b}[31m song"),
        "{found}"
    );
    let found = text(&run(
        &mut user(home, &server, &["search", "song", "live", "--json"]),
        "",
    ));
    let hit = line(&found);
    assert_eq!(
        (&hit["name"], &hit["size_bytes"]),
        (&"live \u{1b}[31m song".into(), &200.into())
    );
    let browsed = text(&run(&mut user(home, &server, &["browse", &bob]), ""));
    assert_eq!(browsed.lines().count(), 4, "{browsed}");
    let nothing = run(&mut user(home, &server, &["search", "nothing"]), "");
    assert_eq!((nothing.code, nothing.stdout), (Some(1), Vec::new()));

    let lines = "peers all\nsearch song\nbrowse 77\nlogout\npeers offline\nquit\nnever";
    let shell = run(&mut user(home, &server, &["shell"]), lines);
    let said = String::from_utf8_lossy(&shell.stdout);
    assert_eq!(shell.code, Some(2), "one of them failed");
    assert!(
        said.contains("song.mp3") && said.contains("alice  0      offline"),
        "{said}"
    );
    assert!(
        shell.stderr.contains("there is no peer of this id"),
        "{}",
        shell.stderr
    );
}

#[test]
fn commands_say_what_is_missing() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let mut server = server(&["--memory"]);
    let mut no_password = user(home, &server, &["register"]);
    run(no_password.env_remove("PEERLOOP_PASSWORD"), "")
        .expect_error(&["--password-file", "PEERLOOP_PASSWORD"]);
    run(&mut user(home, &server, &["logout"]), "").expect_error(&["register first"]);
    run(&mut user(home, &server, &["register", "--user", "a|b"]), "").expect_error(&["--user"]);
    for (option, value) in [
        ("--hashes-waiting-max", "0"),
        ("--connections-max", "0"),
        ("--hash-memory", "7"),
        ("--grace", "18446744073709551615"),
        ("--ttl", "0"),
        ("--listen", "nowhere"),
    ] {
        let wrong = run(
            &mut peerloop(&["index", "server", "--memory", option, value]),
            "",
        );
        assert_eq!((wrong.code, wrong.stdout), (Some(2), Vec::new()));
        let first = wrong.stderr.lines().next().expect("a line");
        assert!(first.contains(option) && first.contains(value), "{first}");
    }
    let (at, data) = (server.at(), home.join("data"));
    let mut taken = peerloop(&["index", "server", "--listen", &at, "--data"]);
    run(taken.arg(&data), "").expect_error(&["cannot listen", &at, "in use"]);
    let _ = text(&run(&mut user(home, &server, &["register"]), ""));
    let mut wrong = user(home, &server, &["login"]);
    run(wrong.env("PEERLOOP_PASSWORD", "guess"), "").expect_error(&["wrong user, password or id"]);
    let password = home.join("password");
    std::fs::write(&password, "secret\n").expect("write");
    let password = password.to_str().expect("text");
    let mut right = user(home, &server, &["login", "--password-file", password]);
    let right = right.env("PEERLOOP_PASSWORD", "guess");
    assert_eq!(run(right, "").code, Some(0));
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE), Some(0));
    run(
        &mut user(home, &server, &["search", "x", "--timeout", "1"]),
        "",
    )
    .expect_error(&["cannot reach"]);
}

/// What a server says is one short line that cannot steer a terminal.
#[test]
fn a_servers_refusal_is_shown_escaped() {
    let home = tempfile::tempdir().expect("a folder");
    let door = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = door.local_addr().expect("an address").to_string();
    let says = std::thread::spawn(move || {
        let (mut socket, _) = door.accept().expect("a call");
        let text = format!(
            "no\u{1b}]0;title\u{7}\nsecond line\u{202e}{}",
            "x".repeat(60_000)
        );
        let mut ko = (text.len() as u16).to_le_bytes().to_vec();
        ko.extend(206_u16.to_le_bytes());
        ko.extend(text.as_bytes());
        socket.write_all(&ko).expect("write");
        // Until the client closes.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let mut browse = peerloop(&["index", "browse", "1", "--server", &at]);
    let ended = run(browse.env("XDG_STATE_HOME", home.path()), "");
    ended.expect_error(&["no\\u{1b}]0;title\\u{7}\\nsecond line\\u{202e}xxx"]);
    assert!(ended.stderr.len() < 500, "{}", ended.stderr);
    says.join().expect("the server");
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("text");
    let _first = server(&["--data", data]);
    let second = run(&mut peerloop(&["index", "server", "--data", data]), "");
    second.expect_error(&["in use", data]);
}

/// Registers once, and then adds files until the server dies.
fn add_until_the_end(server: &Server, user: &str, added: &AtomicUsize) -> (String, usize) {
    let (mut peer, id) = join(server, user, &["file 0"]);
    for n in 1.. {
        let request = format!("{user}\npw\n{id}\n{}", file(&format!("file {n}")));
        match ask(&mut peer, 10, &request) {
            Ok((110, _)) => added.fetch_add(1, Ordering::Relaxed),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return (id, n),
        };
    }
    unreachable!()
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    what_was_acknowledged_is_there_after(Signal::KILL, None);
}

/// A server that is asked to leave while it commits does so in its time and loses nothing either.
#[test]
fn what_was_acknowledged_is_there_after_sigterm() {
    what_was_acknowledged_is_there_after(Signal::TERM, Some(0));
}

fn what_was_acknowledged_is_there_after(signal: Signal, code: Option<i32>) {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("text");
    for round in 0..3 {
        let mut first = server(&["--data", data]);
        let added = AtomicUsize::new(0);
        let users: Vec<String> = (0..6)
            .map(|n| format!("user {n} of round {round}"))
            .collect();
        let pid = first.pid();
        let ends: Vec<(String, usize)> = std::thread::scope(|scope| {
            let (server, added) = (&first, &added);
            let writers: Vec<_> = users
                .iter()
                .map(|user| scope.spawn(move || add_until_the_end(server, user, added)))
                .collect();
            let enough = 100 + 57 * round;
            assert!(wait_until(DEADLINE, || added.load(Ordering::Relaxed) > enough));
            rustix::process::kill_process(pid, signal).expect("kill");
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer"))
                .collect()
        });
        assert_eq!(first.wait(DEADLINE), code);
        let second = server(&["--data", data]);
        let mut peer = second.connect();
        for (user, (id, acknowledged)) in users.iter().zip(ends) {
            let names = browsed(&mut peer, &id);
            let more = names.len() - acknowledged;
            assert!(more <= 1, "{acknowledged} acknowledged, {names:?}");
            for n in 0..acknowledged {
                assert!(names.contains(&format!("file {n}")), "{user}: file {n}");
            }
            let login = ask(&mut peer, 2, &format!("{user}\npw\n{id}")).expect("LOGIN");
            assert_eq!(login.0, 102, "{login:?}");
        }
    }
}

/// The names of all files of a peer, however many answers they take.
fn browsed(peer: &mut Peer, id: &str) -> HashSet<String> {
    let mut names = HashSet::new();
    loop {
        let from = format!("{id}\n{}", names.len());
        let (kind, list) = ask(peer, 6, &from).expect("BROWSE");
        assert_eq!(kind, 106, "{id} is gone: {list}");
        let (total, lines) = list.split_once('\n').expect("a total");
        let name = |line: &str| line.split_once('|').expect("a file").0.to_owned();
        names.extend(lines.lines().map(name));
        if names.len() >= total.parse().expect("a number") {
            return names;
        }
    }
}

#[test]
fn a_disk_that_fills_up_refuses_until_there_is_room() {
    let data = tempfile::tempdir().expect("a folder");
    let server = server(&["--data", data.path().to_str().expect("text")]);
    let (mut peer, id) = join(&server, "alice", &["song"]);
    server.limit(Resource::Fsize, Some(0));
    let add = |peer: &mut Peer| {
        let lines: String = (0..500).map(|n| file(&format!("song {n}"))).collect();
        ask(peer, 10, &format!("alice\npw\n{id}\n{lines}")).expect("a reply")
    };
    let full = (210, "it cannot be stored now; retry in 10 s".to_owned());
    // The store may have room that it took earlier.
    assert!(wait_until(DEADLINE, || add(&mut peer) == full));
    let (kind, found) = ask(&mut peer, 7, "song").expect("SEARCH");
    assert!(
        kind == 107 && found.starts_with("song\n"),
        "it is still searched"
    );
    server.limit(Resource::Fsize, None);
    assert!(wait_until(DEADLINE, || add(&mut peer).0 == 110));
}

#[test]
fn times_are_options() {
    let server = server(&[
        "--memory",
        "--ttl",
        "3",
        "--keep-alive",
        "1",
        "--grace",
        "0",
        "--lock",
        "1",
    ]);
    let (mut peer, id) = join(&server, "alice", &["song"]);
    let found = |peer: &mut Peer| !ask(peer, 7, "song").expect("SEARCH").1.is_empty();
    assert!(found(&mut peer));
    assert!(wait_until(DEADLINE, || !found(&mut peer)), "no keep-alive");
    let login = |peer: &mut Peer, password: &str| {
        ask(peer, 2, &format!("alice\n{password}\n{id}"))
            .expect("LOGIN")
            .1
    };
    let mut other = server.connect();
    while !login(&mut other, "guess").starts_with("locked") {}
    assert!(login(&mut other, "pw").starts_with("locked"));
    assert!(wait_until(DEADLINE, || login(&mut other, "pw") == "LOGIN SUCCESS"));
    assert!(wait_until(DEADLINE, || ask(&mut other, 5, "all")
        .expect("SHOW_PEERS")
        .1
        == "0\n"));
}

/// More peers than may wait log in at once, and all get in; who only searches meanwhile does not wait for a hash.
#[test]
fn a_storm_of_logins_is_served_in_its_turn() {
    const PEERS: usize = 60;
    let dear = ["--hash-memory", "4096", "--hashes-waiting-max", "8"];
    let server = Server::start(peerloop(&["index", "server", "--memory"]).args(dear));
    let ids: Vec<String> = (0..PEERS)
        .map(|n| {
            let mut peer = server.connect();
            let (_, reply) = ask(&mut peer, 1, &format!("user{n}\npw")).expect("REGISTER");
            reply.lines().nth(1).expect("an id").to_owned()
        })
        .collect();
    let busy = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (n, id) in ids.iter().enumerate() {
            let (server, busy) = (&server, &busy);
            scope.spawn(move || {
                let mut peer = server.connect();
                let done = wait_until(DEADLINE, || {
                    let login = format!("user{n}\npw\n{id}");
                    let (kind, reply) = ask(&mut peer, 2, &login).expect("LOGIN");
                    assert!(kind == 102 || reply.contains("; retry in "), "{reply}");
                    busy.fetch_add(usize::from(kind != 102), Ordering::Relaxed);
                    kind == 102
                });
                assert!(done, "user{n} is not online");
            });
        }
    });
    assert!(busy.load(Ordering::Relaxed) > 0, "nobody was sent away");
    let mut peer = server.connect();
    let (_, online) = ask(&mut peer, 5, "online").expect("SHOW_PEERS");
    assert_eq!(online.lines().next(), Some(&*PEERS.to_string()));
}

#[test]
fn the_stress_run_checks_what_it_finds() {
    let args = [
        "stress",
        "index",
        "--peers",
        "20",
        "--files",
        "60",
        "--searches",
        "300",
        "--connections",
        "5",
        "--hash-memory",
        "8",
        "--hash-passes",
        "1",
        "--json",
    ];
    let report: serde_json::Value =
        serde_json::from_str(&text(&run(&mut peerloop(&args), ""))).expect("JSON");
    assert_eq!(
        (&report["wrong"], &report["files"]),
        (&0.into(), &1200.into())
    );
    let phases = report["phases"].as_array().expect("phases");
    let operations = phases.iter().map(|phase| phase["operations"].as_u64());
    let operations: Vec<u64> = operations.flatten().collect();
    assert_eq!(operations, [20, 20, 300, 300, 20, 20, 300]);
}

#[test]
fn the_passwords_are_not_on_disk_or_in_the_log() {
    let data = tempfile::tempdir().expect("a folder");
    let mut command = peerloop(&["-vv", "index", "server", "--data"]);
    let mut server = Server::start(command.arg(data.path()).args(CHEAP));
    let mut peer = server.connect();
    let request = "alice\nvery secret words\n";
    assert_eq!(ask(&mut peer, 1, request).expect("REGISTER").0, 101);
    assert_eq!(
        ask(&mut peer, 2, "alice\nvery secret words\n1")
            .expect("LOGIN")
            .0,
        202
    );
    server.signal(Signal::TERM);
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
    assert!(!server.log().contains("very secret"), "{}", server.log());
    for entry in std::fs::read_dir(data.path()).expect("files") {
        let bytes = std::fs::read(entry.expect("a file").path()).expect("read");
        assert!(memchr::memmem::find(&bytes, b"very secret").is_none());
    }
}

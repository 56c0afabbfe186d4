//! SIGHUP: a terminal that closes asks a process to leave, as SIGTERM does; under `nohup` it does not.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::support::terminal::Terminal;
use crate::support::{DEADLINE, Server, key, node, peerloop, run, shell, wait_until};

/// One server of each protocol.
fn servers(dir: &tempfile::TempDir) -> Vec<Vec<String>> {
    let words = dir.path().join("words");
    fs::write(&words, "one\ntwo\n").expect("write");
    let words = words.to_str().expect("UTF-8");
    [
        &["dht", "node"][..],
        &["overlay", "peer"],
        &["ring", "tracker", "--db", words],
        &["index", "server", "--memory"],
    ]
    .map(|args| args.iter().map(|arg| arg.to_string()).collect())
    .into()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[track_caller]
fn expect_leaves(server: &mut Server, args: &[String]) {
    let code = server.wait(DEADLINE);
    assert_eq!(code, Some(0), "{args:?}: {}", server.log());
}

#[test]
fn a_hang_up_ends_every_server_orderly() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in servers(&dir) {
        let mut server = Server::start(&mut peerloop(&strs(&args)));
        server.signal(Signal::HUP);
        expect_leaves(&mut server, &args);
    }
}

/// What `nohup` does before it starts a program.
#[test]
fn a_process_that_is_to_outlive_its_terminal_does() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in servers(&dir) {
        let script = "trap '' HUP; exec \"$0\" \"$@\"";
        let mut server = Server::start(&mut shell(script, &strs(&args)));
        server.signal(Signal::HUP);
        assert!(server.ignores(Signal::HUP), "{args:?}");
        server.signal(Signal::TERM);
        expect_leaves(&mut server, &args);
        // A SIGHUP that was taken would count among what it was asked.
        assert!(!server.log().contains("second signal"), "{}", server.log());
    }
}

fn ring(at: &Server) -> Command {
    peerloop(&["dht", "ring", "--node", &at.at()])
}

#[track_caller]
fn expect_ring(at: &Server, figures: &str) {
    let is_so = || {
        let ended = run(&mut ring(at), "");
        ended.code == Some(0) && String::from_utf8_lossy(&ended.stdout).contains(figures)
    };
    let came = wait_until(DEADLINE, is_so);
    let ended = run(&mut ring(at), "");
    assert!(came, "{}", String::from_utf8_lossy(&ended.stdout));
}

/// Also one with a prompt, whose keys nobody can press any more.
#[test]
fn a_node_whose_terminal_closes_hands_over() {
    let stays = node(&[]);
    let mut peer = stays.connect();
    for n in 0..64 {
        assert!(peer.insert(key(&n.to_string()), b"x").expect("insert"));
    }
    let Some(terminal) = Terminal::start(&format!("dht node --join {}", stays.at())) else {
        return;
    };
    terminal.expect("listening ");
    terminal.expect("> ");
    // Each has a copy of what the other owns.
    expect_ring(&stays, "2 members, 128 entries");
    terminal.hang_up();
    expect_ring(&stays, "1 members, 64 entries");
}

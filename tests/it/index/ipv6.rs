//! The index over IPv6, from one end to the other: server, commands, a sharer and a download.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

use crate::support::{DEADLINE, Ended, noise, peerloop, run, wait_until};

/// A process that listens on `[::1]`, killed when the test is over.
struct Listening {
    child: Child,
    at: String,
}

impl Listening {
    fn start(command: &mut Command) -> Listening {
        let mut child = command
            .args(["--listen", "[::1]:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let stdout = child.stdout.take().expect("piped");
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let (mut from, mut line) = (BufReader::new(stdout), String::new());
            let _ = from.read_line(&mut line);
            let _ = tell.send(line);
            // The rest of its output is read too, so that it never waits for a reader.
            let _ = from.read_to_end(&mut Vec::new());
        });
        let line = told.recv_timeout(DEADLINE).unwrap_or_default();
        let at = line.strip_prefix("listening ").unwrap_or_default().trim();
        let at = at.to_owned();
        let listening = Listening { child, at };
        assert!(listening.at.starts_with("[::1]:"), "{line:?}");
        listening
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `peerloop index ARGS`, with the users' state in `root`.
fn index(root: &Path, args: &[&str]) -> Command {
    let mut command = peerloop(&[&["index"], args].concat());
    command
        .env("XDG_STATE_HOME", root.join("state"))
        .env("PEERLOOP_PASSWORD", "secret")
        .current_dir(root);
    command
}

#[test]
fn the_index_over_ipv6() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    std::fs::create_dir(root.join("shared")).expect("made");
    let content = noise(6, 3_000_000);
    std::fs::write(root.join("shared/song.bin"), &content).expect("written");
    let hash = ["--hash-memory", "8", "--hash-passes", "1"];
    let server = [&["server", "--data", "data"][..], &hash].concat();
    let serve = |at: &str| {
        let mut command = index(root, &server);
        command.args(["--listen", at]);
        command
    };
    let first = Listening::start(&mut index(root, &server));
    let at = first.at.clone();
    let sharer = Listening::start(&mut index(
        root,
        &[
            "share",
            "shared",
            "--user",
            "alice",
            "--keep-alive",
            "1",
            "--server",
            &at,
        ],
    ));
    let ask = |args: &[&str]| run(&mut index(root, &[args, &["--server", &at]].concat()), "");
    let found = until(|| ask(&["search", "song", "--json"]), "::1");
    let port = sharer.at.trim_start_matches("[::1]:");
    assert!(found.contains(port), "{found}");
    for list in [&["peers", "--json"][..], &["peers"], &["search", "song"]] {
        let said = ask(list).stdout;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(&sharer.at), "{list:?}: {said}");
    }
    let got = ask(&["download", "song.bin", "--out", "out", "--user", "bob"]);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert!(std::fs::read(root.join("out/song.bin")).expect("downloaded") == content);

    // A server that starts again knows the address, which is kept on disk.
    drop(first);
    let mut again = serve(&at);
    again.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = again.spawn().expect("spawn");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("read");
    let again = Listening {
        child,
        at: line.clone(),
    };
    assert_eq!(again.at.trim(), format!("listening {at}"));
    // Its keep-alives count, for they come from there.
    until(|| ask(&["peers", "online", "--json"]), "::1");
}

/// What a command says once `word` is in it.
fn until(mut ask: impl FnMut() -> Ended, word: &str) -> String {
    let mut said = String::new();
    let there = wait_until(DEADLINE, || {
        said = String::from_utf8_lossy(&ask().stdout).into_owned();
        said.contains(word)
    });
    assert!(there, "no {word} in {said:?}");
    said
}

#[test]
fn the_other_protocols_say_that_they_have_none() {
    for (command, args) in [("dht", "node"), ("ring", "tracker"), ("overlay", "peer")] {
        let ended = run(&mut peerloop(&[command, args, "--listen", "[::1]:0"]), "");
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        let said = ["--listen", "[::1]:0", "IPv4"];
        let says = said.iter().all(|word| ended.stderr.contains(word));
        assert!(says, "{}", ended.stderr);
    }
}

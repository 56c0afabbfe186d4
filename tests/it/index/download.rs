//! `peerloop index download`: from many, from bad ones, after a kill, onto a full disk.

use std::time::Duration;

use serde_json::Value;

use crate::index::support::{Nature, Place, Plain, hex, names};
use crate::support::{DEADLINE, noise, peerloop_under, run, wait, wait_until};

const MIB: usize = 1 << 20;

fn dropped<'a>(json: &'a Value, at: &str) -> Option<&'a str> {
    let holders = json["holders"].as_array().expect("holders");
    let holder = holders.iter().find(|holder| holder["at"] == at);
    holder.expect("that holder")["dropped"].as_str()
}

#[test]
fn by_name_and_by_sha1_from_two() {
    let place = Place::new();
    let content = noise(1, 5 * MIB + 123);
    place.write("a/song.bin", &content);
    place.write("b/same, other name.bin", &content);
    place.write("a/empty", b"");
    let _sharers = [place.share("a", "a", &[]), place.share("b", "b", &[])];
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("song.bin") == content);
    assert_eq!(json["sha1"], hex(&content));
    assert_eq!(json["received_bytes"], content.len());
    let holders = json["holders"].as_array().expect("holders");
    assert_eq!(holders.len(), 2, "found under its other name: {json}");
    assert!(holders.iter().all(|holder| holder["dropped"].is_null()));

    // Never overwritten unless asked.
    let (ended, _) = place.download("song.bin");
    ended.expect_error(&["song.bin", "--force"]);
    let out = place.path("out");
    let out = out.to_str().expect("UTF-8");
    let sha1 = hex(&content);
    let forced = place.run(&["download", "song.bin", "--out", out, "--force"]);
    assert_eq!(forced.code, Some(0), "{}", forced.stderr);
    std::fs::remove_file(place.path("out/song.bin")).expect("there");
    let by_sha1 = place.run(&["download", &sha1, "--out", out]);
    assert_eq!(by_sha1.code, Some(0), "{}", by_sha1.stderr);
    let (ended, _) = place.download("empty");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("empty").is_empty());
    assert!(
        names(&place.path("out"))
            .iter()
            .all(|name| !name.starts_with('.'))
    );
}

#[test]
fn what_nobody_has() {
    let place = Place::new();
    place.write("a/song.bin", b"song");
    let mut sharer = place.share("a", "a", &[]);
    for wanted in ["son.bin", "other", &hex(b"other"), "song"] {
        let (ended, _) = place.download(wanted);
        assert_eq!(ended.code, Some(1), "{wanted}: {}", ended.stderr);
        assert!(ended.stderr.contains("nobody"), "{}", ended.stderr);
    }
    sharer.signal(rustix::process::Signal::TERM);
    assert_eq!(sharer.wait(DEADLINE), Some(0));
    assert_eq!(place.download("song.bin").0.code, Some(1), "it logged out");
    assert!(names(&place.path("out")).is_empty());
}

#[test]
fn from_the_shell() {
    let place = Place::new();
    place.write("a/two words.txt", b"song");
    let _sharer = place.share("a", "a", &[]);
    let out = place.write("out/.keep", b"");
    let mut shell = place.command(&["shell"]);
    shell.current_dir(out.parent().expect("a folder"));
    let ended = run(&mut shell, "download two words.txt\n");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.downloaded("two words.txt"), b"song");
}

#[test]
fn two_files_of_one_name() {
    let place = Place::new();
    place.write("a/song.bin", b"one");
    place.write("b/song.bin", b"another");
    let _sharers = [place.share("a", "a", &[]), place.share("b", "b", &[])];
    let (ended, _) = place.download("song.bin");
    ended.expect_error(&["different", &hex(b"one"), &hex(b"another")]);
    assert_eq!(place.download(&hex(b"one")).0.code, Some(0));
    assert_eq!(place.downloaded("song.bin"), b"one");
}

#[test]
fn four_holders_of_which_one_lies_one_dies_and_one_is_slow() {
    let place = Place::new();
    let content = noise(2, 12 * MIB + 1);
    place.write("a/song.bin", &content);
    let sharer = place.share("a", "a", &[]);
    let [liar, dying, slow] = [
        Nature::Lies,
        Nature::Dies,
        Nature::Waits(Duration::from_secs(20)),
    ]
    .map(|nature| Plain::start(&content, nature));
    for holder in [&liar, &dying, &slow] {
        place.announce(holder, "song.bin", &content);
    }
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
    assert!(place.downloaded("song.bin") == content);
    let why = |addr: std::net::SocketAddrV4| dropped(&json, &addr.to_string());
    assert_eq!(why(sharer.addr), None);
    assert_eq!(why(liar.addr), Some("it sent wrong bytes"));
    assert!(
        why(slow.addr).is_some_and(|why| why.contains("slow")),
        "{json}"
    );
    // Whether it is given up before the others are done is a matter of time.
    assert!(
        why(dying.addr).is_none_or(|why| why.contains("gone")),
        "{json}"
    );
    assert!(ended.stderr.contains("wrong bytes"), "{}", ended.stderr);
}

#[test]
fn a_lone_liar_leaves_no_file() {
    let place = Place::new();
    let content = noise(3, 2 * MIB);
    let liar = Plain::start(&content, Nature::Lies);
    place.announce(&liar, "song.bin", &content);
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let why = dropped(&json, &liar.addr.to_string());
    assert_eq!(why, Some("it sent wrong bytes"));
    assert!(!names(&place.path("out")).contains(&"song.bin".into()));
}

#[test]
fn a_name_that_is_not_written() {
    let place = Place::new();
    let holder = Plain::start(b"x", Nature::Lies);
    for name in [".profile", "esc\u{1b}[2Jape"] {
        place.announce(&holder, name, b"x");
        let (ended, _) = place.download(name);
        ended.expect_error(&["cannot be written safely"]);
        assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
    }
    assert!(names(&place.path("out")).is_empty());
}

#[test]
fn killed_in_the_middle_it_goes_on_where_it_was() {
    let place = Place::new();
    let content = noise(4, 12 * MIB);
    let slow = Plain::start(&content, Nature::Waits(Duration::from_millis(60)));
    place.announce(&slow, "song.bin", &content);
    let out = place.path("out");
    let marks = out.join(format!(".{}-{}.ranges", hex(&content), content.len()));
    let have = || {
        let marks = std::fs::read(&marks).unwrap_or_default();
        marks.iter().skip(44).filter(|mark| **mark == 1).count()
    };
    let mut resumed = 0;
    for round in 1..=2 {
        let out = out.to_str().expect("UTF-8");
        let mut child = place
            .command(&["download", "song.bin", "--out", out])
            .spawn()
            .expect("spawn");
        let came = wait_until(DEADLINE, || have() >= 3 * round);
        child.kill().expect("kill -9");
        child.wait().expect("ended");
        assert!(came, "{} ranges", have());
        assert!(have() >= resumed);
        resumed = have();
    }
    assert!(resumed < 12, "it was killed before it was done");
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("song.bin") == content);
    assert_eq!(json["resumed_bytes"], resumed * MIB);
    assert_eq!(json["received_bytes"], (12 - resumed) * MIB);
    assert_eq!(names(&out), ["song.bin"]);
}

#[test]
fn an_interrupt_keeps_what_is_there() {
    let place = Place::new();
    let content = noise(5, 12 * MIB);
    let slow = Plain::start(&content, Nature::Waits(Duration::from_millis(200)));
    place.announce(&slow, "song.bin", &content);
    let out = place.path("out");
    let mut child = place.download_command("song.bin").spawn().expect("spawn");
    let part = out.join(format!(".{}-{}.part", hex(&content), content.len()));
    let bytes = || std::fs::metadata(&part).map_or(0, |part| part.len());
    assert!(wait_until(DEADLINE, || bytes() > 0));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
    let status = wait(&mut child, DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
    assert!(bytes() > 0);
}

#[test]
fn a_full_disk_is_said_and_the_next_download_goes_on() {
    let place = Place::new();
    let content = noise(6, 6 * MIB);
    place.write("a/song.bin", &content);
    let _sharer = place.share("a", "a", &[]);
    let (at, out) = (place.index.at(), place.path("out"));
    let out = out.to_str().expect("UTF-8");
    let args = [
        "index", "download", "song.bin", "--out", out, "--server", &at,
    ];
    // The largest file, in blocks of 512 bytes: the disk is full at 3 MiB, as far as the process can tell.
    let full = run(place.env(&mut peerloop_under("-f 6144", &args)), "");
    assert_eq!(full.code, Some(2), "{}", full.stderr);
    assert!(full.stderr.contains("disk is full"), "{}", full.stderr);
    assert!(!names(&place.path("out")).contains(&"song.bin".into()));
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("song.bin") == content);
    let resumed = json["resumed_bytes"].as_u64().expect("a number");
    assert!(resumed > 0 && resumed <= 3 * MIB as u64, "{json}");
}

#[test]
fn an_index_that_is_not_there() {
    let place = Place::new();
    let nobody = std::net::TcpListener::bind(crate::support::LOOPBACK).expect("bind");
    let at = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    let args = ["index", "download", "x", "--server", &at, "--timeout", "1"];
    let ended = run(place.env(&mut crate::support::peerloop(&args)), "");
    ended.expect_error(&[&at]);
}

#[test]
fn sizes_that_others_announce_spoil_nothing() {
    let place = Place::new();
    let content = noise(7, MIB + 5);
    place.write("a/song.bin", &content);
    let _sharer = place.share("a", "a", &[]);
    // More peers say so than have it: a size that nobody can have, and one that turns out to be wrong.
    for size_bytes in [i64::MAX as u64, content.len() as u64 + 1] {
        let liars = [0, 1].map(|_| Plain::start(&content, Nature::Waits(Duration::ZERO)));
        for liar in &liars {
            place.announce_as(liar, "song.bin", &content, size_bytes);
        }
    }
    let (ended, json) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("song.bin") == content);
    assert_eq!(names(&place.path("out")), ["song.bin"]);
    // One object, with all who were asked.
    let holders = json["holders"].as_array().expect("one object");
    assert_eq!(holders.len(), 3, "{json}");
    let dropped = holders
        .iter()
        .filter_map(|holder| holder["dropped"].as_str());
    assert!(
        dropped
            .clone()
            .all(|why| why.contains("says that the file has")),
        "{json}"
    );
    assert_eq!(dropped.count(), 2);
}

#[test]
fn a_holder_that_comes_while_the_last_one_goes() {
    let place = Place::new();
    let content = noise(8, 3 * MIB);
    let dying = Plain::start(&content, Nature::Dies);
    place.announce(&dying, "song.bin", &content);
    let out = place.path("out");
    let mut child = place.download_command("song.bin").spawn().expect("spawn");
    assert!(
        wait_until(DEADLINE, || !names(&out).is_empty()),
        "it has begun"
    );
    place.write("b/its other name.bin", &content);
    let _sharer = place.share("b", "b", &[]);
    let status = wait(&mut child, DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(place.downloaded("song.bin") == content);
}

#[test]
fn two_downloads_of_one_file_at_once() {
    let place = Place::new();
    let content = noise(9, 4 * MIB);
    let slow = Plain::start(&content, Nature::Waits(Duration::from_millis(300)));
    place.announce(&slow, "song.bin", &content);
    let out = place.path("out");
    let mut first = place.download_command("song.bin").spawn().expect("spawn");
    assert!(
        wait_until(DEADLINE, || names(&out).len() == 2),
        "it has begun"
    );
    run(&mut place.download_command("song.bin"), "")
        .expect_error(&["another download of the same file"]);
    assert_eq!(wait(&mut first, DEADLINE).expect("it ends").code(), Some(0));
    assert!(place.downloaded("song.bin") == content);
    assert_eq!(names(&out), ["song.bin"]);
}

#[test]
fn where_it_cannot_be_put_is_said() {
    let place = Place::new();
    place.write("a/song.bin", b"song");
    let _sharer = place.share("a", "a", &[]);
    let file = place.write("file", b"");
    std::fs::create_dir_all(place.path("out/song.bin")).expect("made");
    let (out, file) = (place.path("out"), file.to_str().expect("UTF-8"));
    let out = out.to_str().expect("UTF-8");
    for (out, words) in [
        (file, [file, "Not a directory"]),
        ("/proc/nowhere", ["/proc/nowhere", "No such file"]),
        (out, ["song.bin", "is a folder"]),
    ] {
        let args = ["download", "song.bin", "--force", "--out", out];
        place.run(&args).expect_error(&words);
    }
    assert_eq!(names(&place.path("out")), ["song.bin"]);
}

#[test]
fn a_name_that_a_thousand_others_contain() {
    let place = Place::new();
    for n in 0..1100 {
        place.write(&format!("a/a {n} song.bin"), b"");
    }
    place.write("a/song.bin", b"song");
    let _sharer = place.share("a", "a", &[]);
    let (ended, _) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.downloaded("song.bin"), b"song");
}

#[test]
fn what_others_say_does_not_steer_the_terminal() {
    let place = Place::new();
    let holder = Plain::start(b"x", Nature::Rants);
    place.announce(&holder, "song.bin", b"x");
    let out = place.path("out");
    let out = out.to_str().expect("UTF-8");
    let ended = place.run(&["download", "song.bin", "--out", out]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &ended.stderr;
    assert!(said.contains("no\\u{1b}[2J\\u{202e}!"), "{said}");
    assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");

    // The same of an index server.
    let listener = std::net::TcpListener::bind(crate::support::LOOPBACK).expect("bind");
    let at = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("accepted");
            let _ = crate::index::support::read_frame(&mut socket);
            let ko = crate::index::support::frame(207, "no\u{1b}[2J!");
            let _ = std::io::Write::write_all(&mut socket, &ko);
        }
    });
    let args = ["index", "search", "x", "--server", &at];
    let ended = run(&mut crate::support::peerloop(&args), "");
    ended.expect_error(&["no\\u{1b}[2J!"]);
    assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
}

//! `peerloop index share`: what is shared, to whom, and what becomes of changes.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::index::support::{Place, frame, hex, names, read_frame};
use crate::support::{DEADLINE, Peer, Server, noise, peerloop_under, wait_until};

/// What a sharer answers to a DOWNLOAD of the whole of `content`.
fn ask(sharer: &Server, content: &[u8], requester: &str) -> (u16, String) {
    let mut peer = Peer::connect(sharer.addr);
    peer.send(frame(8, &format!("{}\n0\n0\n{requester}", hex(content))));
    read_frame(&mut peer.socket).expect("answered")
}

/// Whether the index lists a name.
fn finds(place: &Place, name: &str) -> bool {
    place.run(&["search", name]).code == Some(0)
}

#[test]
fn links_pipes_and_hidden_files_stay_where_they_are() {
    let place = Place::new();
    let secret = place.write("secret", b"top secret");
    place.write("a/fine.txt", b"fine");
    place.write("a/sub/below.txt", b"below");
    place.write("a/.hidden.txt", b"hidden");
    let folder = place.path("a");
    symlink(&secret, folder.join("link.txt")).expect("link");
    fs::hard_link(&secret, folder.join("hard.txt")).expect("link");
    symlink(place.root.path(), folder.join("folder")).expect("link");
    let fifo = folder.join("fifo.txt");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).expect("a pipe");
    let sharer = place.share("a", "a", &["--open"]);
    assert!(finds(&place, "fine.txt") && finds(&place, "below.txt"));
    for name in ["link.txt", "hard.txt", "fifo.txt", "hidden.txt", "secret"] {
        assert!(!finds(&place, name), "{name}");
    }
    assert_eq!(ask(&sharer, b"fine", "1").0, 108);
    assert_eq!(ask(&sharer, b"top secret", "1").0, 208);
    for told in ["link.txt", "hard.txt", "fifo.txt", "several hard links"] {
        assert!(sharer.log().contains(told), "{}", sharer.log());
    }
}

#[test]
fn what_took_the_place_of_a_shared_file_is_not_sent() {
    let place = Place::new();
    let secret = place.write("secret", b"secret");
    let path = place.write("a/song.txt", b"song!!");
    let sharer = place.share("a", "a", &["--open"]);
    assert_eq!(ask(&sharer, b"song!!", "1"), (108, "6\n0\n6\n".into()));
    fs::remove_file(&path).expect("removed");
    symlink(&secret, &path).expect("link");
    assert_eq!(ask(&sharer, b"song!!", "1").0, 208);
    fs::remove_file(&path).expect("removed");
    fs::write(&path, b"behind").expect("written");
    assert_eq!(ask(&sharer, b"song!!", "1").0, 208);
}

#[test]
fn only_who_is_online_is_served() {
    let place = Place::new();
    place.write("a/song.txt", b"song");
    let sharer = place.share("a", "a", &[]);
    let (kind, why) = ask(&sharer, b"song", "12345");
    assert_eq!((kind, why.contains("not online")), (208, true), "{why}");
    let login = place.run(&["register", "--user", "b"]);
    let id = String::from_utf8_lossy(&login.stdout).trim().to_owned();
    assert_eq!(
        ask(&sharer, b"song", &id).0,
        208,
        "registered is not online"
    );
    assert_eq!(place.run(&["login", "--user", "b"]).code, Some(0));
    assert_eq!(ask(&sharer, b"song", &id).0, 108);
}

#[test]
fn changes_are_announced_and_the_end_too() {
    let place = Place::new();
    place.write("a/first.txt", b"first");
    let mut sharer = place.share("a", "a", &["--rescan", "1"]);
    place.write("a/second.txt", b"second");
    fs::remove_file(place.path("a/first.txt")).expect("there");
    assert!(wait_until(DEADLINE, || finds(&place, "second.txt")));
    assert!(!finds(&place, "first.txt"));
    sharer.signal(Signal::TERM);
    assert_eq!(sharer.wait(DEADLINE), Some(0));
    assert!(!finds(&place, "second.txt"));

    // The next run has the same id, and hashes only new files.
    assert!(names(&place.path("a")).contains(&".peerloop-hashes".into()));
    let again = place.share("a", "a", &[]);
    let id = |log: &str| {
        let line = log.lines().find_map(|line| line.split("online as ").nth(1));
        line.expect("online").to_owned()
    };
    assert_eq!(id(&again.log()), id(&sharer.log()));
    assert!(finds(&place, "second.txt"));
}

#[test]
fn a_server_that_forgot_everything_is_told_again() {
    let mut place = Place::new();
    place.write("a/song.txt", b"song");
    let addr = place.index.at();
    let sharer = place.share("a", "a", &["--keep-alive", "1"]);
    place.index.kill();
    let args = ["index", "server", "--memory", "--listen", &addr];
    place.index = Server::start(&mut crate::support::peerloop(&args));
    assert!(
        wait_until(DEADLINE, || finds(&place, "song.txt")),
        "{}",
        sharer.log()
    );
}

#[test]
fn a_full_disk_keeps_nobody_from_sharing() {
    let place = Place::new();
    let content = noise(1, 100_000);
    place.write("a/song.bin", &content);
    let (folder, at) = (place.path("a"), place.index.at());
    let folder = folder.to_str().expect("UTF-8");
    let args = [
        "index", "-v", "share", folder, "--user", "a", "--server", &at,
    ];
    let sharer = Server::start(place.env(&mut peerloop_under("-f 0", &args)));
    assert!(
        wait_until(DEADLINE, || sharer.log().contains("online as")),
        "{}",
        sharer.log()
    );
    assert!(
        sharer.log().contains("hashes are not kept"),
        "{}",
        sharer.log()
    );
    let (ended, _) = place.download("song.bin");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(place.downloaded("song.bin") == content);
}

#[test]
fn what_cannot_be_shared_is_said() {
    let place = Place::new();
    let file = place.write("file", b"x");
    let file = file.to_str().expect("UTF-8");
    place
        .run(&["share", file, "--user", "a"])
        .expect_error(&[file]);
    place
        .run(&["share", "/nowhere", "--user", "a"])
        .expect_error(&["/nowhere"]);
    // Whatever the server refuses ends the command, such as a name with `|`.
    place.write("a/song.txt", b"song");
    let sharer = place.share("a", "a", &[]);
    drop(sharer);
    let folder = place.path("a");
    let folder = folder.to_str().expect("UTF-8");
    let mut command = place.command(&["share", folder, "--user", "b|c"]);
    crate::support::run(&mut command, "").expect_error(&["--user"]);
}

#[test]
fn a_directory_that_goes_and_comes_back() {
    let place = Place::new();
    place.write("a/song.txt", b"song");
    let sharer = place.share("a", "a", &["--rescan", "1"]);
    let (folder, away) = (place.path("a"), place.path("away"));
    fs::rename(&folder, &away).expect("moved");
    assert!(wait_until(DEADLINE, || !finds(&place, "song.txt")));
    assert!(
        sharer.log().contains("directory is gone"),
        "{}",
        sharer.log()
    );
    fs::rename(&away, &folder).expect("moved");
    assert!(wait_until(DEADLINE, || finds(&place, "song.txt")));
    let (ended, _) = place.download("song.txt");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_password_is_asked_without_echo_and_ctrl_c_leaves_the_terminal_as_it_was() {
    use rustix::termios::{LocalModes, tcgetattr};
    let place = Place::new();
    for (keys, code) in [(&b"sec\x7fcret\r"[..], 0), (b"sec\x03", 2)] {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let ours = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::grantpt(&ours).expect("granted");
        rustix::pty::unlockpt(&ours).expect("unlocked");
        let name = rustix::pty::ptsname(&ours, Vec::new()).expect("a name");
        let path = name.to_str().expect("UTF-8");
        let mut options = fs::File::options();
        let theirs = options.read(true).write(true).open(path).expect("opened");
        let mut command = place.command(&["register", "--user", &format!("user {code}")]);
        command.env_remove("PEERLOOP_PASSWORD");
        command.stdin(theirs.try_clone().expect("cloned"));
        let mut child = command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let modes = || tcgetattr(&theirs).expect("a terminal").local_modes;
        let silent = wait_until(DEADLINE, || !modes().contains(LocalModes::ECHO));
        assert!(silent, "no echo");
        let mut ours = fs::File::from(ours);
        std::io::Write::write_all(&mut ours, keys).expect("typed");
        let status = crate::support::wait(&mut child, DEADLINE);
        let _ = child.kill();
        assert_eq!(status.expect("it ends").code(), Some(code));
        assert!(modes().contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    }
}

#[test]
fn an_interrupted_question_says_so() {
    let place = Place::new();
    let silent = std::net::TcpListener::bind(crate::support::LOOPBACK).expect("bind");
    let at = silent.local_addr().expect("bound").to_string();
    let args = ["index", "search", "x", "--server", &at];
    let mut command = crate::support::peerloop(&args);
    let mut child = place.env(&mut command).spawn().expect("spawn");
    // It installs its signal handlers before it connects.
    let _connection = silent.accept().expect("accepted");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).expect("kill");
    let status = crate::support::wait(&mut child, DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn a_hundred_thousand_files_and_one() {
    let place = Place::new();
    let folder = place.path("a");
    fs::create_dir(&folder).expect("made");
    for n in 0..=100_000 {
        fs::File::create(folder.join(format!("file {n}"))).expect("made");
    }
    let sharer = place.share("a", "a", &["--json"]);
    let said = sharer.log();
    assert!(said.contains("more than 100000 files"), "{said}");
    let peers = place.run(&["peers", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&peers.stdout).expect("one line");
    assert_eq!(listed["files"], 100_000);
}

#[test]
fn an_id_is_kept_while_a_large_file_is_hashed() {
    let mut place = Place::new();
    place.write("a/song.txt", b"song");
    let addr = place.index.at();
    let mut sharer = place.share("a", "a", &["--rescan", "1"]);
    let folder = place.path("state/peerloop");
    let kept = || {
        let name = names(&folder).into_iter().find(|name| name.contains("-a."));
        fs::read_to_string(folder.join(name.expect("kept"))).expect("read")
    };
    let before = kept();
    // A hole of 200 GB: minutes of hashing.
    let path = place.path("a/large.bin");
    let large = fs::File::create(&path).expect("made");
    large.set_len(200 << 30).expect("long");
    assert!(wait_until(DEADLINE, || sharer.has_open(&path)));
    // The server comes back without memory, so the sharer is registered anew.
    place.index.kill();
    let args = ["index", "server", "--memory", "--listen", &addr];
    let args = [&args[..], &["--hash-memory", "8", "--hash-passes", "1"]].concat();
    let again = Server::start(&mut crate::support::peerloop(&args));
    assert!(
        wait_until(DEADLINE, || kept() != before),
        "{}",
        sharer.log()
    );
    // SIGTERM does not wait for the hashing either.
    sharer.signal(Signal::TERM);
    assert_eq!(sharer.wait(DEADLINE), Some(0));
    place.index = again;
}

#[test]
fn a_shell_between_two_commands_can_be_ended() {
    use std::io::{BufRead, Write};
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut command = place.command(&["shell"]);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("spawn");
        let stdin = child.stdin.as_mut().expect("piped");
        stdin.write_all(b"search nothing\n").expect("written");
        let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("answered");
        assert_eq!(line, "nothing found\n");
        // The command is answered, so the shell waits for its next line.
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("kill");
        let status = crate::support::wait(&mut child, DEADLINE);
        let _ = child.kill();
        let status = status.expect("it ends");
        let by = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(by, Some(signal.as_raw()));
    }
}

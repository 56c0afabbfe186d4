//! cPTP peers as processes: what a user sees, what the program answers, and how it gets on with a plain peer, which
//! is written from the specification alone, in Python.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dht::shell::Terminal;
use crate::support::{
    DEADLINE, Ended, LOOPBACK, Peer, Server, peerloop, run, wait, wait_until, window,
};

/// A peer with `options`.
fn peer(options: &[&str]) -> Server {
    Server::start(&mut peerloop(&[&["overlay", "peer"], options].concat()))
}

/// Waits for a line on stdout.
#[track_caller]
fn expect_said(server: &Server, line: &str) {
    let said = wait_until(DEADLINE, || server.said().lines().any(|it| it == line));
    assert!(said, "no {line:?} in:\n{}", server.said());
}

/// Waits for a line that begins so, and returns the rest of it.
#[track_caller]
fn rest_of_line(server: &Server, start: &str) -> String {
    let mut rest = None;
    wait_until(DEADLINE, || {
        let said = server.said();
        rest = said
            .lines()
            .find_map(|it| it.strip_prefix(start).map(str::to_owned));
        rest.is_some()
    });
    rest.unwrap_or_else(|| panic!("no {start:?} in:\n{}", server.said()))
}

/// The map that a peer leads to.
fn map(at: &Server) -> Value {
    let ended = run(
        &mut peerloop(&["overlay", "map", "-p", &at.at(), "--json"]),
        "",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_slice(&ended.stdout).expect("JSON")
}

/// Whom the map says that `peer` has.
fn peered_with(map: &Value, peer: SocketAddrV4) -> Vec<SocketAddrV4> {
    let peers = map["peers"].as_array().expect("peers");
    let found = peers.iter().find(|it| it["addr"] == peer.to_string());
    let found = found.unwrap_or_else(|| panic!("{peer} is not in {map}"));
    let known = found["peered_with"].as_array().expect("a list").iter();
    known
        .map(|it| it.as_str().expect("text").parse().expect("an address"))
        .collect()
}

#[test]
fn what_a_user_sees() {
    let alpha = peer(&["--name", "alpha", "--table-size", "1"]);
    expect_said(
        &alpha,
        &format!("This peer address is {} located at alpha", alpha.addr),
    );
    let beta = peer(&["-p", &alpha.at(), "--name", "beta é", "--table-size", "2"]);
    expect_said(&alpha, &format!("Connected from peer {}", beta.addr));
    let to = format!(
        "Connected to peer alpha:{} at timestamp: ",
        alpha.addr.port()
    );
    let timestamp: u32 = rest_of_line(&beta, &to).parse().expect("a number");
    assert!(timestamp < 5000, "more than 40 s after the start");
    expect_said(
        &beta,
        &format!("Received ack from alpha:{}", alpha.addr.port()),
    );
    assert!(!beta.said().contains("peered with"), "alpha had nobody");

    let gamma = peer(&["-p", &alpha.at(), "--name", "gamma", "--table-size", "1"]);
    expect_said(
        &alpha,
        &format!("Peer table full: {} redirected", gamma.addr),
    );
    expect_said(&gamma, &format!("  which is peered with: [{}]", beta.addr));
    expect_said(
        &gamma,
        "The join has been declined; the auto-join process is performing...",
    );
    expect_said(
        &gamma,
        &format!("Received ack from beta é:{}", beta.addr.port()),
    );
    expect_said(&gamma, &format!("  which is peered with: [{}]", alpha.addr));
    expect_said(&beta, &format!("Connected from peer {}", gamma.addr));

    // Everybody is full now.
    let ended = run(&mut peerloop(&["overlay", "peer", "-p", &alpha.at()]), "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("3 declined, 0 dials failed"),
        "{}",
        ended.stderr
    );
    // A visitor leaves no trace, also when it is redirected.
    for _ in 0..3 {
        let map = map(&gamma);
        assert_eq!(peered_with(&map, alpha.addr), [beta.addr]);
        let mut of_beta = peered_with(&map, beta.addr);
        of_beta.sort();
        let mut both = [alpha.addr, gamma.addr];
        both.sort();
        assert_eq!(of_beta, both);
        assert_eq!((&map["links"], &map["components"]), (&2.into(), &1.into()));
    }

    // Who leaves makes room at once.
    gamma.signal(Signal::TERM);
    let mut gamma = gamma;
    assert_eq!(gamma.wait(DEADLINE), Some(0));
    assert!(wait_until(DEADLINE, || peered_with(
        &map(&alpha),
        beta.addr
    ) == [alpha.addr]));
    let delta = peer(&["-p", &alpha.at()]);
    expect_said(&beta, &format!("Connected from peer {}", delta.addr));
}

#[test]
fn the_map_in_other_forms() {
    let alpha = peer(&["--name", "al\"pha"]);
    let beta = peer(&["--name", "beta", "-p", &alpha.at()]);
    expect_said(&alpha, &format!("Connected from peer {}", beta.addr));
    let at = beta.at();
    let show = |form: &[&str]| -> String {
        let args = [&["overlay", "map", "-p", &at], form].concat();
        let Ended {
            code,
            stdout,
            stderr,
            ..
        } = run(&mut peerloop(&args), "");
        assert_eq!(code, Some(0), "{stderr}");
        String::from_utf8(stdout).expect("UTF-8")
    };
    let text = show(&[]);
    assert!(text.ends_with("2 peers, 1 links, 1 part\n"), "{text}");
    assert!(text.contains("al\"pha"), "{text}");
    let dot = show(&["--dot"]);
    let (a, b) = (alpha.addr.min(beta.addr), alpha.addr.max(beta.addr));
    assert!(dot.contains(&format!("\"{a}\" -- \"{b}\";")), "{dot}");
    assert!(
        dot.contains(&format!("label=\"al\\\"pha\\n{}\"", alpha.addr)),
        "{dot}"
    );
}

#[test]
fn json_is_an_object_a_line() {
    let alpha = peer(&["--name", "alpha"]);
    let mut command = peerloop(&[
        "overlay",
        "peer",
        "-p",
        &alpha.at(),
        "--json",
        "--name",
        "beta",
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let addr: SocketAddrV4 = rest_of_line(&alpha, "Connected from peer ")
        .parse()
        .expect("an address");
    window(Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("kill");
    let mut text = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut text)
        .expect("UTF-8");
    assert_eq!(wait(&mut child, DEADLINE).and_then(|it| it.code()), Some(0));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let events: Vec<_> = lines
        .iter()
        .map(|line| line["event"].as_str().expect("event"))
        .collect();
    assert_eq!(
        events,
        ["listening", "address", "connected_to", "join_ended"]
    );
    assert_eq!(lines[0]["addr"], addr.to_string());
    assert_eq!(
        (&lines[1]["name"], &lines[1]["addr"]),
        (&"beta".into(), &addr.to_string().into())
    );
    assert_eq!(
        (&lines[2]["name"], &lines[2]["peer"]),
        (&"alpha".into(), &alpha.at().into())
    );
    assert_eq!(
        (&lines[2]["welcome"], &lines[3]["welcomes"]),
        (&true.into(), &1.into())
    );
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let closed = TcpListener::bind(LOOPBACK)
        .expect("bind")
        .local_addr()
        .expect("bound");
    let closed = closed.to_string();
    let ended = run(&mut peerloop(&["overlay", "peer", "-p", &closed]), "");
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .contains(&format!("cannot join at {closed}: connection refused")),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    run(&mut peerloop(&["overlay", "map", "-p", &closed]), "")
        .expect_error(&[&closed, "connection refused"]);

    let mute = TcpListener::bind(LOOPBACK).expect("bind");
    let at = mute.local_addr().expect("bound").to_string();
    run(
        &mut peerloop(&["overlay", "map", "-p", &at, "--timeout", "1"]),
        "",
    )
    .expect_error(&[&at, "says nothing"]);

    let taken = peer(&[]);
    run(
        &mut peerloop(&["overlay", "peer", "--listen", &taken.at()]),
        "",
    )
    .expect_error(&["cannot listen", &taken.at(), "--listen"]);
    let long = "n".repeat(256);
    for (option, value) in [
        ("--name", &long[..]),
        ("--name", "a\nb"),
        ("--table-size", "0"),
        ("--links", "0"),
    ] {
        let ended = run(&mut peerloop(&["overlay", "peer", option, value]), "");
        assert_eq!(ended.code, Some(2), "{option} {value:?}");
        assert!(
            ended.stdout.is_empty() && ended.stderr.contains(option),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn where_no_peer_can_be_is_refused_before_anything_is_done() {
    for at in [
        "0.0.0.0:9",
        "127.0.0.1:0",
        "224.0.0.1:5",
        "255.255.255.255:5",
    ] {
        for words in [["peer", "-p"], ["peer", "--advertise"], ["map", "-p"]] {
            let ended = run(
                &mut peerloop(&[&["overlay"], &words[..], &[at]].concat()),
                "",
            );
            assert_eq!(ended.code, Some(2), "{words:?} {at}");
            let is_said = ended.stderr.contains(&format!("{at} is no address"));
            assert!(ended.stdout.is_empty() && is_said, "{}", ended.stderr);
        }
    }
    // An address for documentation, to which nothing is sent from loopback.
    let ended = run(&mut peerloop(&["overlay", "peer", "-p", "192.0.2.1:9"]), "");
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--listen"), "{}", ended.stderr);
}

/// Whoever does not get a descriptor is not redirected but waits.
#[test]
fn a_table_that_descriptors_do_not_suffice_for_is_refused() {
    let line = format!(
        "ulimit -n 64 && exec {} overlay peer --table-size 40",
        env!("CARGO_BIN_EXE_peerloop")
    );
    run(Command::new("sh").args(["-c", &line]), "").expect_error(&["--table-size 40", "ulimit -n"]);
}

/// Its port is in TIME_WAIT for the peer that it had joined.
#[test]
fn who_comes_back_at_once_from_the_same_port_is_let_in_again() {
    let alpha = peer(&["--name", "alpha"]);
    let mut beta = peer(&["-p", &alpha.at()]);
    let at = beta.at();
    let came = format!("Connected from peer {at}");
    let times = |n| alpha.said().lines().filter(|line| *line == came).count() == n;
    assert!(wait_until(DEADLINE, || times(1)));
    for n in 2..4 {
        beta.signal(Signal::TERM);
        assert_eq!(beta.wait(DEADLINE), Some(0));
        beta = peer(&["-p", &alpha.at(), "--listen", &at]);
        rest_of_line(&beta, "Connected to peer alpha");
        if beta.log().contains("from another port") {
            println!("passed over: this kernel keeps four-tuples for longer");
            return;
        }
        assert!(wait_until(DEADLINE, || times(n)), "{}", alpha.said());
    }
}

#[test]
fn an_idle_peer_does_not_wake_up() {
    let alpha = peer(&[]);
    let beta = peer(&["-p", &alpha.at()]);
    // First, or else it is told of the stranger, who does not listen, and tries that for seconds.
    assert!(wait_until(DEADLINE, || beta
        .said()
        .contains("Received ack")));
    let mut stranger = alpha.connect();
    let mut head = [0; 4];
    stranger.socket.read_exact(&mut head).expect("a packet");
    window(Duration::from_millis(500));
    let before = [&alpha, &beta].map(|it| (it.sleeps(), it.cpu_ticks()));
    window(Duration::from_secs(2));
    let after = [&alpha, &beta].map(|it| (it.sleeps(), it.cpu_ticks()));
    assert_eq!(before, after, "an idle peer does something");
}

/// The name is what another peer chose.
#[test]
fn what_a_peer_is_told_does_not_reach_the_terminal_raw() {
    let evil = TcpListener::bind(LOOPBACK).expect("bind");
    let at = evil.local_addr().expect("bound").to_string();
    let ours = std::thread::spawn(move || peer(&["-p", &at]));
    let (mut socket, _) = evil.accept().expect("accept");
    socket
        .write_all(b"\xe0\x20\x00\x0c\x1b[31m\xff\nx\x07\xe2\x80\xae")
        .expect("send");
    let ours = ours.join().expect("started");
    rest_of_line(
        &ours,
        "Received ack from \\u{1b}[31m\u{fffd}\\nx\\u{7}\\u{202e}:",
    );
}

/// A plain peer as a process; `None` where there is no Python.
fn plain(options: &[&str]) -> Option<Server> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/overlay/reference_peer.py"
    );
    if Command::new("python3").arg("--version").output().is_err() {
        println!("passed over: there is no python3");
        return None;
    }
    // It ends with its stdin, which nobody else holds.
    let mut command = Command::new("sh");
    let feed = "tail -f /dev/null --pid=$$ | exec python3 \"$0\" \"$@\"";
    command.args(["-c", feed, script]).args(options);
    Some(Server::start(&mut command))
}

fn ip_port(addr: SocketAddrV4) -> (String, String) {
    (addr.ip().to_string(), addr.port().to_string())
}

#[test]
fn a_plain_peer_joins_us_and_is_sent_on() {
    let alpha = peer(&["--name", "alpha", "--table-size", "1"]);
    let (ip, port) = ip_port(alpha.addr);
    let Some(first) = plain(&["first", "2", "keep", &ip, &port]) else {
        return;
    };
    expect_said(&first, "to alpha welcome ");
    expect_said(&alpha, &format!("Connected from peer {}", first.addr));
    // The table is full: it is sent to the first one, which takes it.
    let Some(second) = plain(&["second", "2", "keep", &ip, &port]) else {
        return;
    };
    expect_said(&second, &format!("to alpha redirect {}", first.addr));
    expect_said(&second, &format!("to first welcome {}", alpha.addr));
    expect_said(&first, &format!("from {} welcome", second.addr));
    let map = map(&alpha);
    assert_eq!(peered_with(&map, alpha.addr), [first.addr]);
    assert_eq!(map["components"], 1);
}

#[test]
fn we_join_a_plain_peer_that_keeps_its_links() {
    let Some(python) = plain(&["python", "1", "keep"]) else {
        return;
    };
    let mut ours = peer(&["-p", &python.at(), "--name", "ours"]);
    expect_said(&python, &format!("from {} welcome", ours.addr));
    expect_said(
        &ours,
        &format!("Received ack from python:{}", python.addr.port()),
    );
    // Redirected by it, the next one comes to us.
    let next = peer(&["-p", &python.at()]);
    expect_said(&ours, &format!("Connected from peer {}", next.addr));
    ours.kill();
    expect_said(&python, &format!("gone {}", ours.addr));
}

/// Its entry outlives the link, for its time, and it is not asked whether it lives.
#[test]
fn we_join_a_plain_peer_that_closes() {
    let Some(python) = plain(&["python", "3", "close"]) else {
        return;
    };
    let ours = peer(&[
        "-p",
        &python.at(),
        "--table-size",
        "1",
        "--linkless-ttl",
        "3",
    ]);
    expect_said(&python, &format!("from {} welcome", ours.addr));
    let mut answers = Vec::new();
    let ended = wait_until(DEADLINE, || {
        let mut one = ours.connect();
        let mut head = [0; 2];
        one.socket.read_exact(&mut head).expect("a packet");
        answers.push(head);
        window(Duration::from_millis(50));
        head == [0xe0, 0x20]
    });
    assert!(ended, "redirected to somebody without a link for ever");
    assert_eq!(answers[0], [0xe0, 0x40], "it is in the table at first");
    assert_eq!(
        python.said().matches("from").count(),
        1,
        "{}",
        python.said()
    );
}

/// A peer that says a byte at a time, through the kernel.
#[test]
fn a_packet_in_segments_of_a_byte() {
    let dribbles = TcpListener::bind(LOOPBACK).expect("bind");
    let at = dribbles.local_addr().expect("bound");
    let text = at.to_string();
    let ours = std::thread::spawn(move || peer(&["-p", &text]));
    let (mut socket, _) = dribbles.accept().expect("accept");
    socket.set_nodelay(true).expect("nodelay");
    for byte in b"\xe0\x20\x01\x04slow\x7f\x00\x00\x01\x00\x01" {
        socket.write_all(&[*byte]).expect("send");
        window(Duration::from_millis(5));
    }
    let ours = ours.join().expect("started");
    expect_said(&ours, &format!("Received ack from slow:{}", at.port()));
    expect_said(&ours, "  which is peered with: [127.0.0.1:1]");
}

/// Who joins is seen to come from the port that it listens on.
#[test]
fn joiners_dial_from_where_they_listen() {
    let watch = TcpListener::bind(LOOPBACK).expect("bind");
    let at = watch.local_addr().expect("bound").to_string();
    let ours = std::thread::spawn(move || peer(&["-p", &at]));
    let (mut socket, from) = watch.accept().expect("accept");
    let ours = ours.join().expect("started");
    assert_eq!(from.to_string(), ours.at());
    socket.write_all(b"\xe0\x20\x00\x01w").expect("send");
    expect_said(
        &ours,
        &format!(
            "Received ack from w:{}",
            watch.local_addr().expect("bound").port()
        ),
    );
    // And can be reached there while the link is open.
    let mut back = Peer::over(TcpStream::connect(from).expect("connect"));
    back.expect([0xe0, 0x20, 1]);
}

#[test]
fn a_peer_on_a_terminal_has_a_prompt() {
    let alpha = peer(&["--name", "alpha"]);
    let free = TcpListener::bind(LOOPBACK).expect("bind");
    let own = free.local_addr().expect("bound");
    drop(free);
    let words = format!("overlay peer --name beta --table-size 5 --listen {own}");
    let Some(mut terminal) = Terminal::start(&words) else {
        eprintln!("passed over: there is no script(1)");
        return;
    };
    terminal.expect("located at beta");
    let join = format!("join {alpha}", alpha = alpha.at());
    let join_itself = format!("join {own}");
    for (line, reply) in [
        ("table", "0 of 5"),
        (
            &join,
            &format!("Received ack from alpha:{}", alpha.addr.port()),
        ),
        ("table", "welcomed us"),
        ("declined", "\n"),
        ("join nowhere", "cannot join \"nowhere\""),
        ("join 0.0.0.0:5", "0.0.0.0:5 is no address"),
        (&join_itself, "came to nothing: it is this peer itself"),
        ("help", "ticks of 10 ms"),
        ("nonsense", "no command"),
    ] {
        terminal.expect("> ");
        terminal.line(line);
        // The echo comes in pieces, and none of them is the reply.
        terminal.expect(reply);
    }
    // What happens meanwhile stands above the line that is being typed.
    let beta: SocketAddrV4 = rest_of_line(&alpha, "Connected from peer ")
        .parse()
        .expect("an address");
    let newcomer = TcpStream::connect(beta).expect("connect");
    terminal.expect(&format!(
        "Connected from peer {}",
        newcomer.local_addr().expect("bound")
    ));
    terminal.expect("> ");
    terminal.line("quit");
    assert_eq!(terminal.wait(), Some(0));
}

/// The loop does not wait for who reads the lines.
#[test]
fn nobody_reads_what_it_prints() {
    // More than a pipe holds.
    const NEWCOMERS: usize = 3000;
    let mut command = peerloop(&["overlay", "peer", "--table-size", "1"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut stdout = child.stdout.take().expect("piped");
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("a line");
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).expect("UTF-8");
    let addr = line
        .trim_end()
        .strip_prefix("listening ")
        .expect("the line");
    let addr: SocketAddrV4 = addr.parse().expect("an address");
    let mut only = Peer::connect(addr);
    only.expect([0xe0, 0x20]);
    for _ in 0..NEWCOMERS {
        let mut peer = Peer::connect(addr);
        peer.expect([0xe0, 0x40]);
        peer.reset();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("kill");
    let status = wait(&mut child, DEADLINE);
    assert_eq!(status.and_then(|it| it.code()), Some(0));
}

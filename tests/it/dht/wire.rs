//! What goes over the wire of a DHT node, byte by byte: the specification's exchanges, and its table "Bad input".

use std::io::Write;

use serde_json::Value;

use peerloop::proto::dht::id::Id;

use crate::support::{Peer, Server, command, key, node, noise};

/// The smallest number that is no key.
const TWO_TO_160: &str = "1461501637330902918203684832716283019655932542976";

const DATA_COMMANDS: [&str; 5] = ["LOCATE", "CONTAINS", "GET", "INSERT", "REMOVE"];

/// A node with an entry, and a connection on which it must be found unchanged.
struct Bystander {
    node: Server,
    peer: Peer,
}

impl Bystander {
    fn new(options: &[&str]) -> Bystander {
        let node = node(options);
        let mut peer = node.connect();
        assert!(peer.insert(key("kept"), b"as it was").expect("insert"));
        Bystander { node, peer }
    }

    /// Sends `bytes` on a connection of its own and expects exactly `reply` and the end.
    #[track_caller]
    fn refuses(&mut self, bytes: impl AsRef<[u8]>, reply: &str) {
        let bytes = bytes.as_ref();
        let mut peer = self.node.connect();
        // It may be closed while we are still sending.
        let _ = peer.socket.write_all(bytes);
        let got = peer.rest();
        let shown = bytes[..bytes.len().min(80)].escape_ascii();
        assert_eq!(
            got.escape_ascii().to_string(),
            reply.escape_default().to_string(),
            "{shown}"
        );
        self.is_unharmed();
    }

    #[track_caller]
    fn is_unharmed(&mut self) {
        let value = self.peer.get(key("kept")).expect("served");
        assert_eq!(value.as_deref(), Some(&b"as it was"[..]));
    }
}

#[test]
fn exchanges_of_the_vectors() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/dht.json")).expect("JSON");
    let node = node(&[]);
    let mut done = 0;
    for exchange in vectors["exchanges"].as_array().expect("a list") {
        // A ring of one owns every key.
        if exchange["what"]
            .as_str()
            .is_some_and(|what| what.contains("does not own"))
        {
            continue;
        }
        let part = |name: &str| exchange[name].as_str().unwrap_or_default();
        let mut peer = node.connect();
        peer.send(part("send")).expect(part("reply"));
        peer.send(part("then_send")).expect(part("then_reply"));
        peer.finish().expect_closed();
        done += 1;
    }
    assert_eq!(done, 5);
}

#[test]
fn one_connection_serves_one_command_after_the_other() {
    let node = node(&[]);
    let mut peer = node.connect();
    let name = key("blue");
    for round in 0..3 {
        let value = noise(round, 1000);
        peer.send(command("LOCATE", name))
            .expect(format!("{}\n", node.addr));
        peer.send(command("CONTAINS", name)).expect("1\n0\n");
        peer.send(command("GET", name)).expect("1\n0\n");
        peer.send(command("INSERT", name)).expect("1\n");
        peer.send("1000\n").send(&value).expect("1\n");
        peer.send(command("CONTAINS", name)).expect("1\n1\n");
        peer.send(command("GET", name))
            .expect("1\n1000\n")
            .expect(&value);
        peer.send(command("REMOVE", name)).expect("1\n1\n");
        peer.send(command("REMOVE", name)).expect("1\n1\n");
    }
    peer.send(command("INSERT", name))
        .expect("1\n")
        .send("0\n")
        .expect("1\n");
    peer.send(command("GET", name)).expect("1\n0\n");
    peer.send(command("CONTAINS", name)).expect("1\n1\n");
}

#[test]
fn sixty_four_commands_in_one_segment_are_answered_in_order() {
    let node = node(&[]);
    let mut peer = node.connect();
    let (mut send, mut reply) = (Vec::new(), Vec::new());
    for i in 0..16_u64 {
        let (name, value) = (key(&format!("name {i}")), noise(i, i as usize * 100));
        send.extend_from_slice(command("INSERT", name).as_bytes());
        send.extend_from_slice(format!("{}\n", value.len()).as_bytes());
        send.extend_from_slice(&value);
        send.extend_from_slice(command("GET", name).as_bytes());
        send.extend_from_slice(command("LOCATE", name).as_bytes());
        send.extend_from_slice(command("CONTAINS", name).as_bytes());
        reply.extend_from_slice(format!("1\n1\n1\n{}\n", value.len()).as_bytes());
        reply.extend_from_slice(&value);
        reply.extend_from_slice(format!("{}\n1\n1\n", node.addr).as_bytes());
    }
    peer.send(&send).expect(&reply);
    peer.finish().expect_closed();
}

#[test]
fn pipelined_writes_of_a_durable_node_are_answered_in_order() {
    let data = tempfile::tempdir().expect("a directory");
    let node = node(&["--data", data.path().to_str().expect("UTF-8")]);
    let mut peer = node.connect();
    let name = key("pipelined");
    let insert = |value: &str| format!("{}{}\n{value}", command("INSERT", name), value.len());
    let (one, three) = (insert("one"), insert("three"));
    let (get, remove) = (command("GET", name), command("REMOVE", name));
    peer.send([&one[..], &get, &three, &get, &remove, &get].concat());
    peer.expect("1\n1\n1\n3\none1\n1\n1\n5\nthree1\n1\n1\n0\n");
}

#[test]
fn a_request_is_answered_after_a_half_close() {
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().to_str().expect("UTF-8");
    for node in [node(&[]), node(&["--data", data])] {
        let name = key("half");
        let value = noise(1, 100_000);
        let mut peer = node.connect();
        peer.send(command("INSERT", name))
            .send("100000\n")
            .send(&value);
        peer.finish().expect("1\n1\n").expect_closed();
        let mut peer = node.connect();
        peer.send(command("GET", name)).finish();
        peer.expect("1\n100000\n").expect(&value).expect_closed();
        node.connect().finish().expect_closed();
    }
}

#[test]
fn a_carriage_return_at_the_end_of_a_line_is_tolerated() {
    let node = node(&[]);
    let mut peer = node.connect();
    let key = key("telnet");
    peer.send(format!("INSERT\r\n{key}\r\n")).expect("1\n");
    peer.send("3\r\n\r\n\0").expect("1\n");
    peer.send(format!("GET\r\n{key}\n")).expect("1\n3\n\r\n\0");
}

#[test]
fn the_first_and_the_last_key_are_keys() {
    let node = node(&[]);
    let mut peer = node.connect();
    for digits in [
        "0",
        "1461501637330902918203684832716283019655932542975",
        &"0".repeat(49),
    ] {
        peer.send(format!("LOCATE\n{digits}\n"))
            .expect(format!("{}\n", node.addr));
    }
}

/// Row 1: key not digits, empty, over 49 digits, or >= 2^160.
#[test]
fn bad_keys_close_the_connection() {
    let mut bystander = Bystander::new(&[]);
    let long = "1".repeat(50);
    let bad = [
        "",
        "x",
        "1x",
        " 1",
        "1 ",
        "-1",
        "+1",
        "0x1",
        "1_0",
        "1e3",
        "1.0",
        "\u{661}",
        "\0",
        "1\r1",
        TWO_TO_160,
        &long,
        "127.0.0.1:80",
    ];
    for word in DATA_COMMANDS {
        for key in bad {
            bystander.refuses(format!("{word}\n{key}\n"), "");
        }
        bystander.refuses([word.as_bytes(), b"\n\xff\xfe\n"].concat(), "");
    }
}

/// Row 2: negative, signed, over-long lengths, after the `1` of ownership.
#[test]
fn bad_lengths_close_the_connection() {
    let mut bystander = Bystander::new(&[]);
    let bad = [
        "",
        "x",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1_0",
        "1e3",
        "1.5",
        "\u{661}",
        "\0",
        "18446744073709551616",
        "100000000000000000000",
        &"0".repeat(21),
    ];
    for length in bad {
        let insert = command("INSERT", key("kept"));
        bystander.refuses(format!("{insert}{length}\nsome bytes"), "1\n");
    }
}

/// Row 2: nothing is allocated for an announced length before bytes arrive.
#[test]
fn an_announced_length_costs_no_memory() {
    let node = node(&[]);
    let announce = |peer: &mut Peer| {
        peer.send(command("INSERT", key("announced")))
            .expect("1\n")
            .send("67108864\nx");
    };
    announce(&mut node.connect());
    let before = node.rss_bytes();
    let mut peers: Vec<Peer> = (0..100).map(|_| node.connect()).collect();
    peers.iter_mut().for_each(announce);
    // Answered after what came before it, so the node has read that.
    assert!(!node.connect().contains(key("announced")).expect("served"));
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(
        grown < 4 << 20,
        "100 announced values of 64 MiB took {grown} bytes"
    );
}

/// Row 3: a value over the node's limit.
#[test]
fn a_value_over_the_limit_is_answered_no_and_closed() {
    let mut bystander = Bystander::new(&["--value-max", "1000"]);
    let insert = command("INSERT", key("kept"));
    let at_limit = noise(1, 1000);
    bystander
        .node
        .connect()
        .send(command("INSERT", key("limit")))
        .send("1000\n")
        .send(at_limit)
        .expect("1\n1\n");
    for length in [
        "1001",
        "67108865",
        "9223372036854775808",
        "18446744073709551615",
    ] {
        bystander.refuses(format!("{insert}{length}\n"), "1\n0\n");
        bystander.refuses(format!("{insert}{length}\n{}", "x".repeat(2000)), "1\n0\n");
    }
}

/// Row 3, with a sender that goes on for long: closing at once would reset the connection, and the `0` could
/// be lost with it.
#[test]
fn a_refusal_reaches_a_peer_that_is_still_sending() {
    let mut bystander = Bystander::new(&["--value-max", "1000"]);
    let mut peer = bystander.node.connect();
    peer.send(command("INSERT", key("kept"))).expect("1\n");
    peer.send(format!("{}\n", 16 << 20));
    let piece = noise(2, 64 << 10);
    for _ in 0..(16 << 20) / piece.len() {
        peer.send(&piece);
    }
    peer.expect("0\n").expect_closed();
    bystander.is_unharmed();
}

/// Row 4: a line longer than 256 bytes, with or without an end.
#[test]
fn long_lines_close_the_connection() {
    let mut bystander = Bystander::new(&[]);
    let insert = command("INSERT", key("kept"));
    for length in [257, 300, 5000, 1 << 20] {
        let zeros = "0".repeat(length);
        bystander.refuses(&zeros, "");
        bystander.refuses(format!("{zeros}\n"), "");
        bystander.refuses(format!("GET\n{zeros}"), "");
        bystander.refuses(format!("{insert}{zeros}"), "1\n");
    }
    // 256 bytes may still become a line; one more may not.
    let mut peer = bystander.node.connect();
    peer.send("0".repeat(256));
    bystander.is_unharmed();
    peer.send("0").expect_closed();
}

/// Row 5: EOF or reset in the middle, at each place of an exchange.
#[test]
fn an_end_in_the_middle_changes_nothing() {
    let mut bystander = Bystander::new(&[]);
    let insert = format!("{}9\n12345678", command("INSERT", key("kept")));
    let remove = command("REMOVE", key("kept"));
    let cut = |whole: &str| whole.len() - 1;
    let ends = (1..=insert.len()).map(|end| &insert[..end]);
    for sent in ends.chain((1..=cut(&remove)).map(|end| &remove[..end])) {
        let mut peer = bystander.node.connect();
        peer.send(sent).finish();
        let answer = if sent.starts_with(&command("INSERT", key("kept"))) {
            "1\n"
        } else {
            ""
        };
        peer.expect(answer).expect_closed();
        let mut peer = bystander.node.connect();
        peer.send(sent);
        peer.reset();
        bystander.is_unharmed();
    }
}

/// Row 6: an address that does not parse or cannot be dialled.
#[test]
fn bad_addresses_are_answered_no_and_closed() {
    let mut bystander = Bystander::new(&[]);
    let bad = [
        "",
        "x",
        "1.2.3.4",
        "1.2.3.4:",
        ":80",
        "1.2.3.4:x",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:-1",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "256.1.1.1:80",
        "1.2.3:80",
        "[::1]:80",
        "localhost:80",
        "1.2.3.4:80 ",
    ];
    for addr in bad {
        bystander.refuses(format!("UPDATE_PREV\n{addr}\n"), "0\n");
        bystander.refuses(format!("DISCONNECT\n{addr}\n"), "0\n");
    }
}

/// "An unknown command closes the connection quietly; it is not an attack."
#[test]
fn unknown_commands_close_the_connection() {
    let mut bystander = Bystander::new(&[]);
    let key = key("kept");
    let bad = [
        "TEST",
        "",
        "get",
        "Get",
        " GET",
        "GET ",
        "GETS",
        "GE",
        "\0GET",
        "GET\r\r",
        "\u{feff}GET",
        "PUT",
        "INSERT 1",
    ];
    for word in bad {
        bystander.refuses(format!("{word}\n{key}\n"), "");
        bystander.refuses(format!("{word}\n"), "");
    }
    bystander.refuses(b"\xff\xff\n", "");
    assert!(
        !bystander.node.log().contains("ERROR"),
        "{}",
        bystander.node.log()
    );
}

#[test]
fn what_came_before_a_bad_command_is_answered() {
    let mut bystander = Bystander::new(&[]);
    let get = command("GET", key("kept"));
    bystander.refuses(
        format!("{get}{get}TEST\n{get}"),
        "1\n9\nas it was1\n9\nas it was",
    );
}

#[test]
fn a_ring_of_one_refuses_itself_as_joiner_and_anybody_as_leaver() {
    let mut bystander = Bystander::new(&[]);
    let itself = Id::of_addr(bystander.node.addr);
    let mut peer = bystander.node.connect();
    peer.send(command("CONNECT", itself)).expect("0\n");
    peer.send("UPDATE_PREV\n127.0.0.1:4000\n").expect("1\n");
    peer.send("DISCONNECT\n127.0.0.1:4000\n0\n")
        .expect("0\n")
        .expect_closed();
    bystander.is_unharmed();
}

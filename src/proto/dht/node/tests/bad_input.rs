//! Every kind of bad input: a malformed key, number, address, length or line. The connection is closed, and no entry changes.

use super::*;

const VALUE_MAX: u64 = 1000;

/// Sends `ask`, whole and byte by byte, and expects exactly `reply`, then the end, and that nothing changed.
#[track_caller]
fn assert_refused(ask: &[u8], reply: &[u8]) {
    let shown = &ask[..ask.len().min(80)].escape_ascii().to_string();
    for pieces in [vec![ask], ask.chunks(1).collect()] {
        for after in [&b""[..], &insert("a", b"evil")] {
            let lab = &mut Lab::with(false, Limits::default(), |c| c.value_bytes_max = VALUE_MAX);
            lab.preset("a", b"old");
            let before = lab.world.node(lab.id).stats().clone();
            let peer = lab.connect();
            for piece in pieces
                .iter()
                .chain([&after])
                .take_while(|piece| !piece.is_empty())
            {
                lab.send(peer, piece);
                if pieces.len() < 400 {
                    lab.world.run_for(Ticks(1));
                }
            }
            lab.world.run_for(Ticks(10));
            lab.assert_received(peer, reply, shown);
            let ending = lab.world.peer(peer).ending();
            assert!(ending.is_some(), "closed: {shown}");
            assert!(
                reply.is_empty() || ending == Some(Ending::Fin),
                "the answer is safe: {shown}"
            );
            let stats = lab.world.node(lab.id).stats().clone();
            let counted = |s: &crate::engine::Stats| s.ended_by_peer_fault + s.ended_limit;
            assert_eq!(counted(&stats), counted(&before) + 1, "counted: {shown}");
            lab.world.peer(peer).close();
            lab.world.run_for(Ticks(10));
            lab.assert_holds(&Model::from([(of("a"), b"old".to_vec())]), shown);
            lab.assert_nothing_left(shown);
            lab.assert_serves(shown);
        }
    }
}

#[test]
fn keys_that_are_none() {
    let two_to_the_160 = "1461501637330902918203684832716283019655932542976";
    let fifty = "0".repeat(50);
    let endless = "7".repeat(10_000);
    let texts = [
        "",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1_0",
        "1e3",
        "0x1F",
        "abc",
        "1\0",
        "\0",
        "\r",
        "1\r\r",
        "1\r2",
        "\u{661}\u{662}",
        "\u{ff11}",
        two_to_the_160,
        &fifty,
        &endless,
    ];
    for word in ["LOCATE", "CONTAINS", "GET", "INSERT", "REMOVE"] {
        for text in texts {
            assert_refused(format!("{word}\n{text}\n").as_bytes(), b"");
        }
        assert_refused(&[word.as_bytes(), b"\n1\x802\n"].concat(), b"");
        // As far as 257 bytes it could still be a line.
        assert_refused(&[word.as_bytes(), b"\n", &[b'1'; 257]].concat(), b"");
    }
}

#[test]
fn the_first_and_the_last_key_are_keys() {
    let lab = &mut Lab::new(false);
    let zeros = "0".repeat(49);
    for key in [
        "0",
        "1461501637330902918203684832716283019655932542975",
        &zeros,
    ] {
        let ask = format!("INSERT\n{key}\n1\nvGET\n{key}\nREMOVE\n{key}\n");
        let peer = lab.sent(ask.as_bytes(), Ticks(5));
        lab.assert_received(peer, b"1\n1\n1\n1\nv1\n1\n", key);
    }
}

#[test]
fn lengths_that_are_none_and_values_over_the_limit() {
    let head = String::from_utf8(line("INSERT", "a")).unwrap();
    let (endless, signed) = ("9".repeat(10_000), format!("-{VALUE_MAX}"));
    let texts = [
        "",
        "-1",
        "+1",
        &signed,
        " 1",
        "1 ",
        "1_0",
        "1e3",
        "0x10",
        "five",
        "5\0",
        "\r",
        "\u{665}",
        "18446744073709551616",
        "000000000000000000001",
        &endless,
    ];
    for text in texts {
        assert_refused(format!("{head}{text}\n").as_bytes(), b"1\n");
    }
    assert_refused(format!("{head}{}", "1".repeat(257)).as_bytes(), b"1\n");
    for over in [VALUE_MAX + 1, 10 << 30, 1 << 63, u64::MAX] {
        assert_refused(format!("{head}{over}\n").as_bytes(), b"1\n0\n");
    }
}

#[test]
fn words_that_are_no_command_close_quietly() {
    for word in [
        "TEST", "", "get", "Get", "GETS", " GET", "GET ", "GE\0T", "1", "HTTP/1.1", "\u{e9}",
    ] {
        assert_refused(format!("{word}\n").as_bytes(), b"");
        assert_refused(format!("{word}\r\n").as_bytes(), b"");
    }
    assert_refused(&[b'A'; 257], b"");
    assert_refused(&[0xFF; 300], b"");
    // What came before it is answered.
    let after_others = [line("GET", "a"), b"TEST\n".to_vec()].concat();
    assert_refused(&after_others, b"1\n3\nold");
}

#[test]
fn a_line_of_256_bytes_may_still_end() {
    let lab = &mut Lab::new(false);
    let peer = lab.sent(&[b'A'; 256], Ticks(10));
    assert!(!lab.world.peer(peer).is_closed());
    lab.send(peer, b"A");
    lab.world.run_for(Ticks(10));
    assert!(lab.world.peer(peer).is_closed());
}

#[test]
fn an_announced_length_costs_nothing() {
    let lab = &mut Lab::new(false);
    let peers: Vec<PeerId> = (0..50)
        .map(|n| {
            let head = format!("INSERT\n{n}\n{VALUE_BYTES_MAX}\n");
            lab.sent(head.as_bytes(), Ticks(1))
        })
        .collect();
    assert_eq!(lab.service().staged_bytes, 0);
    for &peer in &peers {
        lab.assert_received(peer, b"1\n", "announced");
        lab.send(peer, b"some");
    }
    lab.world.run_for(Ticks(10));
    assert_eq!(lab.service().staged_bytes, 50 * 4);
    peers.iter().for_each(|&peer| lab.world.peer(peer).close());
    lab.world.run_for(Ticks(10));
    lab.assert_nothing_left("announced");
    assert!(lab.service().entries.is_empty());
}

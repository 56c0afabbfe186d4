//! Frames: whole, in pieces, wrong.

use super::*;

fn session() -> Vec<u8> {
    let requests = [
        frame(
            1,
            &format!(
                "alice\nsecret\n{}",
                files(&["song.mp3", "Book of Songs.pdf"])
            ),
        ),
        frame(7, "song"),
        frame(5, "all"),
        frame(99, "what"),
        frame(2, "alice\nwrong\n42"),
        frame(3, "42\n"),
        frame(6, "1"),
        frame(8, &format!("{SHA1}\n0\n0\n1")),
        frame(7, ""),
    ];
    requests.concat()
}

/// The same session, cut into two or into single bytes, has the same replies.
#[test]
fn a_session_is_the_same_at_every_split() {
    let bytes = session();
    let run = |pieces: &[&[u8]]| {
        let mut lab = Lab::new(Config::default());
        let peer = lab.connect();
        for piece in pieces {
            lab.world.peer(peer).send(piece);
            lab.world.run_for(Ticks(1));
        }
        lab.world.run_for(SOON);
        lab.world.peer(peer).take()
    };
    let whole = run(&[&bytes]);
    let codes: Vec<u16> = replies(&whole).iter().map(|reply| reply.0).collect();
    assert_eq!(codes, [101, 107, 105, 299, 202, 203, 206, 208, 207]);
    let same = |got: Vec<u8>, how: &str| {
        // The id differs with the number of turns before it.
        let strip = |bytes: &[u8]| {
            let replies = replies(bytes).into_iter();
            let texts = replies.map(|(code, text)| {
                let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
                let shown = code != 101 && code != 105;
                (
                    code,
                    if shown {
                        text
                    } else {
                        text.chars().map(digits).collect()
                    },
                )
            });
            let texts = texts.map(|(code, text)| (code, text.replace("0", "")));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(strip(&got), strip(&whole), "{how}");
    };
    for at in 1..bytes.len() {
        same(
            run(&[&bytes[..at], &bytes[at..]]),
            &format!("split at {at}"),
        );
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    same(run(&single), "single bytes");
}

/// A session that ends at any byte, in any way, leaves whole registrations or none.
#[test]
fn a_session_that_is_cut_leaves_nothing_half_done() {
    let bytes = session();
    for at in (0..bytes.len()).step_by(3) {
        let mut lab = Lab::new(Config::default());
        let peer = lab.connect();
        lab.world.peer(peer).send(&bytes[..at]);
        lab.world.run_for(Ticks(2));
        match at % 2 {
            0 => lab.world.peer(peer).reset(),
            _ => lab.world.peer(peer).close(),
        }
        lab.world.run_for(SOON);
        let server = lab.service();
        assert_eq!(server.files(), server.peers() * 2, "cut at {at}");
        assert!(server.ops.is_empty() && server.busy.is_empty());
        assert_eq!(server.pending, Pending::default());
        assert_eq!(lab.world.node(lab.server).conns(), 0);
    }
}

#[test]
fn a_type_without_a_ko_ends_the_connection() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    lab.expect(
        peer,
        65_335,
        "",
        (65_535, "there is no message of this type"),
    );
    lab.send(peer, 65_336, "");
    lab.world.run_for(SOON);
    assert!(lab.world.peer(peer).received().is_empty() && lab.world.peer(peer).ending().is_some());
}

#[test]
fn a_frame_that_is_not_completed_in_time_ends_the_connection() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    lab.world.peer(peer).send(&frame(7, "song")[..6]);
    lab.world.run_for(Ticks::from_secs(29));
    assert!(lab.world.peer(peer).ending().is_none());
    lab.world.run_for(Ticks::from_secs(2));
    assert!(lab.world.peer(peer).ending().is_some());
}

/// The largest frame there is, a byte short at first.
#[test]
fn a_full_frame_fits() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let mut payload = String::from("alice\nsecret\n");
    let line = files(&["some name of a file"]);
    while payload.len() + line.len() <= 65_535 {
        payload += &line;
    }
    payload += &"x".repeat(65_535 - payload.len());
    let bytes = frame(1, &payload);
    lab.world.peer(peer).send(&bytes[..bytes.len() - 1]);
    lab.world.run_for(SOON);
    lab.world.peer(peer).send(&bytes[bytes.len() - 1..]);
    lab.world.run_for(SOON);
    let (code, text) = lab.reply(peer);
    assert_eq!(code, 201);
    assert!(text.starts_with("line "), "{text}");
}

#[test]
fn bad_input_is_refused_by_its_line_and_changes_nothing() {
    let mut lab = Lab::new(Config {
        files_per_peer_max: 10,
        ..Config::default()
    });
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &["song"]);
    let (before, commits) = (
        lab.ask(peer, 6, &id.to_string()),
        lab.machine.disk().commits,
    );
    let long = "x".repeat(256);
    let bad = [
        "a/b|1.000000|S",
        "a\\b|1.0|S",
        "a|b|1.0|S",
        "a\0b|1.0|S",
        "..|1.0|S",
        "|1.0|S",
        "a|-1|S",
        "a|1e3|S",
        "a|1.0|X",
        "a|1.0|",
        "a",
        "",
        "\n",
        "a|18446744073709551615|S",
    ];
    let mut lists: Vec<String> = bad.iter().map(|line| line.replace('S', SHA1)).collect();
    lists.push(files(&[&long]));
    for list in lists.iter().filter(|list| !list.is_empty()) {
        for kind in [9, 10] {
            let payload = format!("{}\n{}{list}", account("alice", id), files(&["good"]));
            let (code, text) = lab.ask(peer, kind, &payload);
            assert_eq!(code, 200 + kind, "{list:?}");
            assert!(text.starts_with("line 5: "), "{list:?}: {text}");
        }
    }
    let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_many = (209, "more than the 10 files that are allowed");
    let payload = format!("{}\n{}", account("alice", id), files(&names));
    lab.expect(peer, 9, &payload, too_many);
    let payload = format!("{}\n{}", account("alice", id), files(&names[..10]));
    lab.expect(peer, 10, &payload, (210, too_many.1));
    lab.expect(
        peer,
        1,
        &format!("new\npw\n{}", files(&names)),
        (201, too_many.1),
    );
    assert_eq!(lab.ask(peer, 6, &id.to_string()), before);
    assert_eq!(
        (lab.machine.disk().commits, lab.service().peers()),
        (commits, 1)
    );
    lab.world
        .peer(peer)
        .send(&[&[3, 0, 7, 0][..], b"a\n\xff"].concat());
    lab.world.run_for(SOON);
    assert_eq!(lab.reply(peer), (207, "line 2: not UTF-8".into()));
}

/// The payloads of answers that are texts, to the byte: no line break at the end, as in the vectors.
#[test]
fn answers_are_what_the_vectors_have() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let (code, text) = lab.ask(peer, 1, &format!("alice\npw-alice\n{}", files(&["song"])));
    let id: PeerId = text.lines().nth(1).expect("an id").parse().expect("an id");
    assert_eq!(
        (code, text),
        (101, format!("REGISTER_OK\n{id}\nREGISTER SUCCES"))
    );
    let me = account("alice", id);
    let song = format!("song\n1.000000\n{SHA1}\nalice\n{id}\n198.51.100.1\n9999\n");
    let exchanges = [
        (2, me.clone(), (102, "LOGIN SUCCESS".into())),
        (3, format!("{id}\n"), (103, "KEEP ALIVE SUCCESS".into())),
        (7, "song".into(), (107, song)),
        (
            9,
            format!("{me}\n{}", files(&["a"])),
            (109, format!("REGISTER_UPDATE_OK\n{id}")),
        ),
        (10, format!("{me}\n{}", files(&["b"])), (110, "2".into())),
        (4, me, (103, "LOGOUT SUCCESS".into())),
    ];
    for (kind, payload, answer) in exchanges {
        assert_eq!(lab.ask(peer, kind, &payload), answer, "{kind}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &["song"]);
    let keep = frame(3, &id.to_string());
    let add = frame(
        10,
        &format!("{}\n{}", account("alice", id), files(&["live"])),
    );
    let all = [frame(7, "song"), keep.clone(), add, frame(7, "live"), keep].concat();
    lab.world.peer(peer).send(&all);
    lab.world.run_for(SOON);
    let got = replies(&lab.world.peer(peer).take());
    let codes: Vec<u16> = got.iter().map(|reply| reply.0).collect();
    assert_eq!(codes, [107, 103, 110, 107, 103]);
    assert!(
        got[3].1.starts_with("live\n"),
        "the list that was added is found"
    );
}

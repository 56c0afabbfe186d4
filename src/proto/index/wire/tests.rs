use serde_json::Value;

use super::*;
use crate::proto::index::reply;

const SHA1: &str = "eac923ffd38e75dc5a30da86bd6ae3442638a89f";

fn vectors() -> Vec<(String, u16, String, Vec<u8>)> {
    let text = include_str!("../../../../tests/vectors/index.json");
    let all: Value = serde_json::from_str(text).expect("JSON");
    let frames = all["frames"].as_array().expect("frames");
    let unhex = |hex: &str| -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")
            })
            .collect()
    };
    let row = |frame: &Value| {
        (
            frame["what"].as_str().expect("what").to_owned(),
            frame["type"].as_u64().expect("type") as u16,
            frame["payload"].as_str().expect("payload").to_owned(),
            unhex(frame["hex"].as_str().expect("hex")),
        )
    };
    frames.iter().map(row).collect()
}

fn request(kind: u16, payload: &str) -> Result<Request<'_>, Fault> {
    let frame = Frame {
        kind,
        payload: payload.as_bytes(),
    };
    Request::parse(Kind::from_code(kind).expect("a kind"), frame)
}

/// Every vector is read as what it says, at no length before its last byte, and written back to mean the same.
#[test]
fn vectors_are_read_and_written() {
    for (what, kind, payload, bytes) in vectors() {
        for cut in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..cut]), None, "{what} cut at {cut}");
        }
        let followed = [&bytes[..], b"next"].concat();
        let frame = Frame::parse(&followed).expect(&what);
        assert_eq!((frame.kind, frame.len()), (kind, bytes.len()), "{what}");
        assert_eq!(frame.text(), Ok(payload.as_str()), "{what}");
        let mut out = Vec::new();
        write_text(&mut out, kind, &payload);
        assert_eq!(out, bytes, "{what}");
        let Some(kind) = Kind::from_code(kind) else {
            continue;
        };
        let request = Request::parse(kind, frame).expect(&what);
        assert_eq!(request.kind(), kind);
        out.clear();
        request.write(&mut out);
        let again = Frame::parse(&out).expect("a frame");
        assert_eq!(Request::parse(kind, again), Ok(request), "{what}");
    }
}

#[test]
fn vectors_mean_what_they_say() {
    let account = Account {
        user: "alice",
        password: "secret",
    };
    let id = PeerId::from_bits(42);
    let all = vectors();
    let payload = |what: &str| {
        let found = all.iter().find(|row| row.0.starts_with(what));
        let (_, kind, payload, _) = found.expect(what);
        (*kind, payload.as_str())
    };
    let parse = |what: &str| {
        let (kind, payload) = payload(what);
        request(kind, payload).expect(what)
    };
    let song = FileLine {
        name: "song.mp3",
        size_bytes: 1_048_576,
        sha1: SHA1.parse().expect("a digest"),
    };
    let Request::Register { files, .. } = parse("REGISTER") else {
        panic!("REGISTER")
    };
    assert_eq!((files[0], files.len(), files[1].size_bytes), (song, 2, 200));
    let original = parse("REGISTER as the original client sends it");
    assert_eq!(
        original,
        Request::Register {
            account,
            files: vec![song]
        }
    );
    let login = Request::Login {
        account,
        id,
        ip: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        port: None,
    };
    assert_eq!(parse("LOGIN, as the original"), login);
    let search = Request::Search {
        words: "Book Songs",
        offset: 0,
    };
    assert_eq!(parse("SEARCH as the original"), search);
    assert_eq!(
        parse("KEEP_ALIVE, as the original"),
        Request::KeepAlive { id }
    );
    assert_eq!(reply::parse_registered(payload("REGISTER_OK").1), Ok(id));
    let hits = reply::parse_hits(payload("SEARCH_OK").1).expect("hits");
    assert_eq!((hits[0].id, hits[0].port, hits.len()), (id, 9999, 1));
    assert_eq!(hits[0].file.line(), song);
}

#[test]
fn a_fault_names_its_line() {
    let long = "x".repeat(256);
    let file = |name: &str| {
        format!("a\nb\nok|1.000000|{SHA1}\n{name}|1.000000|{SHA1}\nlast|1.000000|{SHA1}")
    };
    let bad = [
        (1, String::new(), 1),
        (1, "a".into(), 2),
        (1, "a|b\nc".into(), 1),
        (1, "a\n\n".into(), 2),
        (1, file("x/y"), 4),
        (1, file("..\\x"), 4),
        (1, file("a\0b"), 4),
        (1, file(&long), 4),
        (1, file(""), 4),
        (1, file("a|b"), 4),
        (1, format!("a\nb\nn|-1|{SHA1}"), 3),
        (1, format!("a\nb\nn|1.0|{}", &SHA1[1..]), 3),
        (1, "a\nb\n\n\n".into(), 3),
        (2, "a\nb".into(), 3),
        (2, "a\nb\nx".into(), 3),
        (2, "a\nb\n1\n256.0.0.1".into(), 4),
        (2, "a\nb\n1\n127.0.0.1\n0".into(), 5),
        (2, "a\nb\n1\n127.0.0.1\n1\nmore".into(), 6),
        (3, "-1".into(), 1),
        (3, "9223372036854775808".into(), 1),
        (3, "1\n2".into(), 2),
        (5, "some".into(), 1),
        (5, "all\n-1".into(), 2),
        (7, "".into(), 1),
        (7, "song\nx".into(), 2),
        (8, format!("{SHA1}\n0\n0"), 4),
        (9, "a\nb\n1\nfile".into(), 4),
    ];
    for (kind, payload, line) in bad {
        let fault = request(kind, &payload).expect_err(&payload);
        assert_eq!(fault.line, line, "{kind}: {payload:?}: {fault}");
    }
    let not_text = Frame {
        kind: 7,
        payload: b"a\nb\n\xff",
    };
    assert_eq!(not_text.text().expect_err("no text").line, 3);
}

#[test]
fn no_prefix_or_flipped_bit_of_a_request_panics() {
    for (_, kind, payload, _) in vectors() {
        let Some(kind) = Kind::from_code(kind) else {
            continue;
        };
        for cut in 0..=payload.len() {
            for bit in 0..8 {
                let mut bytes = payload.as_bytes()[..cut].to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1 << bit;
                }
                let frame = Frame {
                    kind: kind.code(),
                    payload: &bytes,
                };
                // Refused or not: what is accepted can be written and read again.
                if let Ok(request) = Request::parse(kind, frame) {
                    let mut out = Vec::new();
                    request.write(&mut out);
                    let again = Frame::parse(&out).expect("a frame");
                    assert_eq!(Request::parse(kind, again).as_ref(), Ok(&request));
                }
            }
        }
    }
}

#[test]
fn a_list_is_divided_into_frames_that_are_full() {
    let account = Account {
        user: "u",
        password: "p",
    };
    let sha1 = SHA1.parse().expect("a digest");
    let names: Vec<String> = (0..5000).map(|n| format!("file {n}")).collect();
    let files: Vec<FileLine<'_>> = names
        .iter()
        .enumerate()
        .map(|(n, name)| FileLine {
            name,
            size_bytes: (n as u64).pow(3),
            sha1,
        })
        .collect();
    let (mut rest, mut frames) = (&files[..], 0);
    while !rest.is_empty() {
        let fit = FileLines::of(account).fit(rest.iter().copied());
        let request = Request::RegisterAdd {
            account,
            id: PeerId::from_bits(u64::MAX),
            files: rest[..fit].to_vec(),
        };
        let mut out = Vec::new();
        request.write(&mut out);
        assert!(fit == rest.len() || out.len() > FRAME_BYTES_MAX - 100);
        (rest, frames) = (&rest[fit..], frames + 1);
    }
    assert!((5..7).contains(&frames), "{frames}");
}

#[test]
fn a_password_is_not_printed() {
    let request = request(4, "alice\nsecret\n42").expect("LOGOUT");
    let text = format!("{request:?}");
    assert!(text.contains("alice") && !text.contains("secret"), "{text}");
}

#[test]
fn a_ko_is_one_short_line() {
    let mut out = Vec::new();
    write_ko(&mut out, 201, format!("a\nb{}", "\u{e9}".repeat(400)));
    let frame = Frame::parse(&out).expect("a frame");
    assert!(frame.payload.len() <= KO_BYTES_MAX && frame.text().expect("text").starts_with("a b"));
}

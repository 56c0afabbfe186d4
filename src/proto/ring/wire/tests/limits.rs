//! What is refused, and how much a message may have of everything.

use super::*;
use crate::proto::ring::value::NESTING_MAX;

fn refused() -> Vec<(String, Vec<u8>, Refusal)> {
    let vectors = vectors();
    let refuse = vectors["refuse"].as_array().unwrap();
    let bytes = |one: &Json| match one["repeat"].as_object() {
        Some(repeat) => unhex(&repeat["hex"]).repeat(repeat["times"].as_u64().unwrap() as usize),
        None => unhex(&one["hex"]),
    };
    let global = Refusal::Opcode("pickle opcode GLOBAL, which imports a name");
    let stack_global = Refusal::Opcode("pickle opcode STACK_GLOBAL, which imports a name");
    let expected = [
        global,
        global,
        stack_global,
        Refusal::TooDeep,
        Refusal::TooLong,
    ];
    assert_eq!(refuse.len(), expected.len());
    let all = refuse.iter().zip(expected);
    all.map(|(one, refusal)| (one["what"].to_string(), bytes(one), refusal))
        .collect()
}

#[test]
fn everything_in_refuse_is_refused_at_every_split() {
    for (what, bytes, refusal) in refused() {
        assert_eq!(read(&bytes).unwrap_err(), refusal, "{what}");
        let len = bytes.len();
        for cut in 0..len.min(1000) {
            assert_eq!(
                read_at(&bytes, &[cut, len]),
                Err(refusal),
                "{what} at {cut}"
            );
        }
        let dribbled: Vec<usize> = (0..=len.min(1000)).collect();
        assert_eq!(read_at(&bytes, &dribbled), Err(refusal), "{what}");
    }
}

#[test]
fn what_would_import_is_refused_before_the_message_ends() {
    assert_eq!(
        read(b"cos\nsystem\n").unwrap_err(),
        Refusal::Opcode("pickle opcode GLOBAL, which imports a name")
    );
    assert!(matches!(read(b"(c").unwrap_err(), Refusal::Opcode(_)));
    assert!(matches!(
        read(b"\x80\x02c").unwrap_err(),
        Refusal::Opcode(_)
    ));
    assert_eq!(read(b"\x80\x06").unwrap_err(), Refusal::NotATuple);
}

/// A message of exactly `len` bytes: an item with as many letters as it takes.
fn sized(encoding: Encoding, letter: &str, len: usize) -> Vec<u8> {
    let put = |letters: usize| {
        let data = letter.repeat(letters);
        let item = Item {
            seq: 0,
            data: data.into(),
        };
        let mut out = Vec::new();
        Reply::QueryResult(Some(item)).put(encoding, &mut out);
        out
    };
    // One short and one long, as the length may take up more bytes then.
    let overhead = put(1000).len() - 1000;
    put(len - overhead)
}

#[test]
fn a_message_has_at_most_64_kib() {
    for (name, encoding) in encodings() {
        let most = sized(encoding, "x", MESSAGE_BYTES_MAX);
        assert_eq!(most.len(), MESSAGE_BYTES_MAX);
        match reply(&most) {
            Ok(Reply::QueryResult(Some(item))) => assert!(item.data.len() > 65_000),
            other => panic!("{name}: {other:?}"),
        }
        let over = sized(encoding, "x", MESSAGE_BYTES_MAX + 1);
        assert_eq!(read(&over).unwrap_err(), Refusal::TooLong, "{name}");
        assert_eq!(
            read(&over[..MESSAGE_BYTES_MAX]).unwrap_err(),
            Refusal::TooLong,
            "{name}: no byte more is waited for"
        );
        assert_eq!(
            read_at(&over, &[100, 200, 65_535, 65_536]),
            Err(Refusal::TooLong)
        );
    }
}

#[test]
fn text_with_escapes_has_room_too() {
    let bytes = Strings::Bytes;
    let python2 = Encoding::Pickle {
        protocol: 0,
        strings: bytes,
    };
    for encoding in [Encoding::Literal, python2] {
        let message = sized(encoding, "x", 60_000);
        let escaped = String::from_utf8(message).unwrap().replacen("xx", "\\n", 1);
        match reply(escaped.as_bytes()) {
            Ok(Reply::QueryResult(Some(item))) => assert!(item.data.starts_with("\nx")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nesting_is_at_most_16() {
    let nested = |encoding, levels: usize| {
        let (open, close): (&[u8], &[u8]) = match encoding {
            Encoding::Pickle { .. } => (b"(", b"t"),
            _ => (b"(", b",)"),
        };
        let mut bytes = b"(".to_vec();
        bytes.extend(match encoding {
            Encoding::Pickle { .. } => &b"S'ECHO'\n"[..],
            _ => b"'ECHO',",
        });
        bytes.extend(open.repeat(levels - 1));
        bytes.extend(close.repeat(levels - 1));
        bytes.extend(match encoding {
            Encoding::Pickle { .. } => &b"t."[..],
            _ => b")",
        });
        bytes
    };
    let pickle = Encoding::OURS;
    // `()` has no comma in it.
    let literal = |levels| {
        let bytes = nested(Encoding::Literal, levels);
        String::from_utf8(bytes)
            .unwrap()
            .replacen("(,)", "()", 1)
            .into_bytes()
    };
    whole(&nested(pickle, NESTING_MAX));
    whole(&literal(NESTING_MAX));
    for bytes in [nested(pickle, NESTING_MAX + 1), literal(NESTING_MAX + 1)] {
        assert_eq!(read(&bytes).unwrap_err(), Refusal::TooDeep);
        let dribbled: Vec<usize> = (0..=bytes.len()).collect();
        assert_eq!(read_at(&bytes, &dribbled), Err(Refusal::TooDeep));
    }
    // Without marks.
    let ones = |levels: usize| [b"\x80\x02N", &[0x85].repeat(levels)[..], b"."].concat();
    whole(&ones(NESTING_MAX));
    assert_eq!(read(&ones(NESTING_MAX + 1)).unwrap_err(), Refusal::TooDeep);
}

/// What a reader has passed over is spoilt before each piece: it must not look there again until the message is whole.
/// So a byte is looked at once while it comes in, except for the few of an opcode's length.
#[test]
fn a_dribbled_message_costs_its_length() {
    const BEGINNING_BYTES: usize = 64;
    const LENGTH_BYTES: usize = 9;
    let mut all: Vec<Vec<u8>> = encodings()
        .into_iter()
        .map(|(_, encoding)| sized(encoding, "x", MESSAGE_BYTES_MAX))
        .collect();
    // Many small values, and a line that does not end.
    all.push([b"(".to_vec(), b"S'x'\n".repeat(13_000), b"t.".to_vec()].concat());
    all.push([&b"("[..], &b"'x',".repeat(16_000), b")"].concat());
    all.push([&b"(I"[..], &b"1".repeat(65_000), b"\nt."].concat());
    all.push([&b" ".repeat(60)[..], b"(REGISTER, alice, 9000)"].concat());
    for bytes in all {
        let mut spoilt = bytes.clone();
        let mut reader = Reader::default();
        for seen in 0..bytes.len() - 1 {
            let passed = seen.checked_sub(LENGTH_BYTES + 1);
            if let Some(passed) = passed.filter(|&passed| passed >= BEGINNING_BYTES) {
                spoilt[passed] = b'\n';
            }
            let read = reader.read(Input {
                bytes: &spoilt[..=seen],
                seen,
            });
            assert!(read.unwrap().is_none(), "after {seen} bytes");
        }
    }
}

#[test]
fn blanks_before_a_message_are_few() {
    assert_eq!(read(&b" ".repeat(64)).unwrap_err(), Refusal::NotATuple);
    assert_eq!(read(&b"( ".repeat(32)).unwrap_err(), Refusal::TooDeep);
    assert!(read(&b" ".repeat(63)).unwrap().is_none());
}

#[test]
fn a_page_of_peers_fits_a_message_in_every_encoding() {
    let addr = SocketAddrV4::new(Ipv4Addr::new(255, 100, 100, 100), 65_535);
    for handle in [
        "x".repeat(34),
        "\u{7f}".repeat(256),
        "\u{431}".repeat(128),
        "'\"".repeat(128),
    ] {
        let len = page_len(std::iter::repeat_n(handle.as_str(), 10_000));
        assert_eq!(
            len,
            PAGE_PEERS_MAX.min(PAGE_HANDLE_BYTES_MAX / handle.len())
        );
        let page = vec![
            Neighbour {
                handle: handle.as_str().into(),
                addr,
            };
            len
        ];
        let page = Reply::Peers {
            total: 10_000,
            page,
        };
        for (_, encoding) in encodings() {
            let mut out = Vec::new();
            page.put(encoding, &mut out);
            assert_eq!(whole(&out).reply().as_ref(), Ok(&page));
        }
    }
    assert_eq!(page_len([]), 0);
    assert_eq!(page_len(["x"; 3]), 3);
}

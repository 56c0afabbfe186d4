//! The lines of the protocol: the vectors, every split point, every cut, what is refused.

use std::fmt::Debug;
use std::str::FromStr;

use proptest::prelude::*;

use super::lines::dialable;
use super::*;

/// `request`, `key`, `number`, `ack` and `address`.
trait Reader<T>: Fn(&[u8], usize) -> Result<Option<(T, usize)>, Malformed> {}
impl<T, F: Fn(&[u8], usize) -> Result<Option<(T, usize)>, Malformed>> Reader<T> for F {}

/// The first answer of a reader whose input arrives byte by byte, and the bytes it had by then.
fn dribble<T>(
    reader: &impl Reader<T>,
    input: &[u8],
) -> (Result<Option<(T, usize)>, Malformed>, usize) {
    let mut seen = 0;
    for there in 0..=input.len() {
        match reader(&input[..there], seen) {
            Ok(None) => seen = there,
            answer => return (answer, there),
        }
    }
    (Ok(None), input.len())
}

/// A whole item: not there one byte earlier, the same however it is cut, and what follows it is
/// left alone.
fn assert_reads<T: PartialEq + Debug>(reader: &impl Reader<T>, text: &[u8], expected: T) {
    let shown = text.escape_ascii();
    for there in 0..text.len() {
        for seen in 0..=there {
            let answer = reader(&text[..there], seen);
            assert_eq!(answer, Ok(None), "{shown} {seen} of {there}");
        }
    }
    let (answer, there) = dribble(reader, text);
    assert_eq!((&answer, there), (&reader(text, 0), text.len()), "{shown}");
    assert_eq!(answer, Ok(Some((expected, text.len()))), "{shown}");
    for seen in 0..text.len() {
        assert_eq!(reader(text, seen), answer, "{shown} resumed after {seen}");
    }
    let followed = [text, b"GET\n\0\xFF"].concat();
    assert_eq!(reader(&followed, 0), answer, "{shown} with more behind it");
}

fn assert_refuses<T>(reader: &impl Reader<T>, text: impl AsRef<[u8]>, error: Malformed) {
    let text = text.as_ref();
    assert_eq!(
        reader(text, 0).err(),
        Some(error),
        "{}",
        text.escape_ascii()
    );
    assert_eq!(
        dribble(reader, text).0.err(),
        Some(error),
        "{}",
        text.escape_ascii()
    );
}

const TWO_TO_THE_160: &str = "1461501637330902918203684832716283019655932542976\n";

fn of<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn every_request(id: Id, addr: SocketAddrV4) -> [Request; 14] {
    [
        Request::Locate(id),
        Request::Contains(id),
        Request::Get(id),
        Request::Insert(id),
        Request::Remove(id),
        Request::UpdatePrev(addr),
        Request::Connect(id, Form::Plain),
        Request::Disconnect(NextNode::Addr(addr), Form::Plain),
        Request::Disconnect(NextNode::Key(id), Form::Plain),
        Request::Stat,
        Request::Connect(id, Form::Versioned),
        Request::Disconnect(NextNode::Addr(addr), Form::Versioned),
        Request::Disconnect(NextNode::Key(id), Form::Versioned),
        Request::Merge {
            key: id,
            version: u64::MAX,
        },
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    let id = prop_oneof![any::<[u8; 20]>().prop_map(Id::from_be_bytes), Just(Id::MAX)];
    let addr = (any::<[u8; 4]>(), 1..=u16::MAX)
        .prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port))
        .prop_filter("dialable", |a| dialable(a.to_string().as_bytes()).is_some());
    (id, addr).prop_flat_map(|(id, addr)| prop::sample::select(every_request(id, addr).to_vec()))
}

#[test]
fn requests_are_written_as_the_protocol_has_them() {
    let golden = "LOCATE\n437\n|CONTAINS\n437\n|GET\n437\n|INSERT\n437\n|REMOVE\n437\n\
        |UPDATE_PREV\n10.0.0.5:65535\n|CONNECT\n437\n|DISCONNECT\n10.0.0.5:65535\n\
        |DISCONNECT\n437\n|XSTAT\n|XCONNECT\n437\n|XDISCONNECT\n10.0.0.5:65535\n\
        |XDISCONNECT\n437\n|XMERGE\n437\n18446744073709551615\n";
    let requests = every_request(of("437"), of("10.0.0.5:65535"));
    assert_eq!(golden.split('|').count(), requests.len());
    for (text, expected) in golden.split('|').zip(requests) {
        let mut out = Vec::new();
        put_request(&mut out, &expected);
        assert_eq!(out, text.as_bytes());
        assert_reads(&request, text.as_bytes(), expected.clone());
        assert_reads(&request, text.replace('\n', "\r\n").as_bytes(), expected);
    }
}

#[test]
fn exchanges_of_the_vectors() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/dht.json")).unwrap();
    let exchanges = vectors["exchanges"].as_array().unwrap();
    assert!(!exchanges.is_empty());
    for row in exchanges {
        let send = row["send"].as_str().unwrap().as_bytes();
        let (parsed, _) = request(send, 0).unwrap().unwrap();
        assert_reads(&request, send, parsed.clone());
        let reply = row["reply"].as_str().unwrap().as_bytes();
        let (yes, used) = ack(reply, 0).unwrap().unwrap();
        let rest = &reply[used..];
        match parsed {
            Request::Get(_) if yes => assert_is_value(rest),
            Request::Contains(_) | Request::Remove(_) if yes => assert_reads(&ack, rest, true),
            _ => assert!(rest.is_empty(), "{row}"),
        }
        if let Some(value) = row["then_send"].as_str() {
            assert_is_value(value.as_bytes());
            assert_reads(&ack, row["then_reply"].as_str().unwrap().as_bytes(), true);
        }
    }
}

fn assert_is_value(bytes: &[u8]) {
    let (length, used) = number(bytes, 0).unwrap().unwrap();
    assert_eq!(length, (bytes.len() - used) as u64);
}

#[test]
fn single_lines() {
    assert_reads(&number, b"0\n", 0);
    assert_reads(&number, b"007\r\n", 7);
    assert_reads(&number, b"9223372036854775808\n", 1 << 63);
    assert_reads(&number, b"18446744073709551615\n", u64::MAX);
    assert_reads(&number, b"00000000000000000001\n", 1);
    assert_reads(&ack, b"0\r\n", false);
    assert_reads(&key, b"007\r\n", of("7"));
    assert_reads(&address, b"127.0.0.1:4000\r\n", of("127.0.0.1:4000"));
    assert_reads(&address, b"127.0.0.1:05000\n", of("127.0.0.1:5000"));

    let mut out = Vec::new();
    put_number(&mut out, u64::MAX);
    put_ack(&mut out, true);
    put_ack(&mut out, false);
    put_address(&mut out, of("127.0.0.1:5000"));
    put_key(&mut out, of("7"));
    assert_eq!(out, b"18446744073709551615\n1\n0\n127.0.0.1:5000\n7\n");
}

#[test]
fn bad_integers_are_refused_everywhere() {
    let bad = "|-1|+1| 1|1 |1_0|0x1|1e3|1.0|1,000|\u{661}|\u{80}|1\r\r|\r1|1\r2|\r\r|1\0|\0";
    for text in bad.split('|').chain([&*"1".repeat(200)]) {
        let line = format!("{text}\n");
        assert_refuses(&number, &line, Malformed::Number);
        assert_refuses(&key, &line, Malformed::Key);
        assert_refuses(&ack, &line, Malformed::Ack);
        assert_refuses(&address, &line, Malformed::Address);
        for word in ["LOCATE", "CONTAINS", "GET", "INSERT", "REMOVE", "CONNECT"] {
            assert_refuses(&request, format!("{word}\n{line}"), Malformed::Key);
        }
        for word in ["UPDATE_PREV", "DISCONNECT"] {
            assert_refuses(&request, format!("{word}\n{line}"), Malformed::Address);
        }
    }
    for byte in 0x80..=0xFF {
        assert_refuses(&number, [b'1', byte, b'\n'], Malformed::Number);
        assert_refuses(&request, [b'A', byte, b'\n'], Malformed::UnknownCommand);
    }
    assert_refuses(&key, TWO_TO_THE_160, Malformed::Key);
    assert_refuses(&key, "0".repeat(50) + "\n", Malformed::Key);
    assert_refuses(&number, b"18446744073709551616\n", Malformed::Number);
    assert_refuses(&number, b"000000000000000000001\n", Malformed::Number);
    assert_refuses(&number, TWO_TO_THE_160, Malformed::Number);
    assert_refuses(&ack, "2\n", Malformed::Ack);
    assert_refuses(&ack, "01\n", Malformed::Ack);
}

#[test]
fn addresses_that_cannot_be_dialled_are_refused() {
    let bad = "0.0.0.0:4000|224.0.0.1:4000|239.255.255.255:4000|255.255.255.255:4000\
        |127.0.0.1:0|127.0.0.1:00000|127.0.0.1:65536|127.0.0.1:99999|127.0.0.1:005000\
        |127.0.0.1:+400|127.0.0.1:-1|127.0.0.1:4_0|127.0.0.1: 400|127.0.0.1:4000 |127.0.0.1:\
        |127.0.0.1|:4000|:| 127.0.0.1:4000|127.0.0.1:4000:1|127.0.0.1:4000\r|127.0.0.1\r:4000\
        |127.0.0.1\0:4000|256.0.0.1:4000|127.0.1:4000|127.0.0.0.1:4000|127.00.0.1:4000\
        |0x7f.0.0.1:4000|2130706433:4000|localhost:4000|[::1]:4000|::ffff:127.0.0.1:4000\
        |\u{661}.0.0.1:4000|127.0.0.1:\u{664}000";
    for text in bad.split('|') {
        assert_refuses(&address, format!("{text}\r\n"), Malformed::Address);
        for word in ["UPDATE_PREV", "DISCONNECT"] {
            assert_refuses(&request, format!("{word}\n{text}\r\n"), Malformed::Address);
        }
    }
    assert_refuses(&address, b"\xFF.0.0.1:4000\n", Malformed::Address);
    assert_refuses(
        &request,
        "DISCONNECT\n".to_string() + TWO_TO_THE_160,
        Malformed::Address,
    );
    assert!(Malformed::Address.is_answered_no() && !Malformed::Key.is_answered_no());
}

#[test]
fn an_unknown_word_is_refused_when_its_own_line_ends() {
    let words = "TEST||get|Get|GET | GET|GET\r|\rGET|GE\0T|GETS|GE|UPDATE-PREV|DISCONNECTED|437";
    for word in words.split('|') {
        let line = format!("{word}\r\n");
        let more = line.clone() + "1\n";
        assert_eq!(dribble(&request, more.as_bytes()).1, line.len());
        assert_refuses(&request, &line, Malformed::UnknownCommand);
    }
}

#[test]
fn a_line_has_at_most_256_bytes() {
    fn check<T: PartialEq + Debug>(reader: &impl Reader<T>, before: &[u8], whole: Malformed) {
        for filler in [b'1', b'\r', 0, 0xFF] {
            let line = |length| [before, &vec![filler; length]].concat();
            assert_eq!(reader(&line(LINE_BYTES_MAX), 0), Ok(None));
            assert_refuses(reader, [&line(LINE_BYTES_MAX)[..], b"\n"].concat(), whole);
            let refused_at = before.len() + LINE_BYTES_MAX + 1;
            let too_long = (Err(Malformed::LineTooLong), refused_at);
            assert_eq!(dribble(reader, &line(10_000)), too_long);
            let late_end = [&line(LINE_BYTES_MAX + 1)[..], b"\n"].concat();
            assert_refuses(reader, late_end, Malformed::LineTooLong);
        }
    }
    check(&key, b"", Malformed::Key);
    check(&number, b"", Malformed::Number);
    check(&ack, b"", Malformed::Ack);
    check(&address, b"", Malformed::Address);
    check(&request, b"", Malformed::UnknownCommand);
    check(&request, b"GET\n", Malformed::Key);
    check(&request, b"UPDATE_PREV\r\n", Malformed::Address);
}

/// A `\n` planted where the reader has been before stays unseen: it does not look there again.
#[test]
fn what_was_seen_is_not_searched_again() {
    assert_eq!(number(b"1\n2", 2), Ok(None));
    assert_eq!(request(b"GET\n1\n2", 6), Ok(None));
    assert_eq!(request(b"................\n.", 17), Ok(None));
    // A position past the end is the caller's mistake, and no reason to fall over.
    assert_eq!(number(b"12", 9), Ok(None));
    assert_eq!(request(b"GET\n1", usize::MAX), Ok(None));
}

proptest! {
    #[test]
    fn written_and_read_again(expected in any_request(), value: u64) {
        let mut out = b"before".to_vec();
        put_request(&mut out, &expected);
        let text = &out[6..];
        prop_assert_eq!(request(text, 0), Ok(Some((expected, text.len()))));
        prop_assert_eq!(dribble(&request, text), (request(text, 0), text.len()));

        out.clear();
        put_number(&mut out, value);
        prop_assert_eq!(number(&out, 0), Ok(Some((value, out.len()))));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        lines in "((GET|LOCATE|UPDATE_PREV|DISCONNECT)\r?\n)?[0-9.:\r\n+ A-Z]{0,300}",
    ) {
        fn check<T: PartialEq + Debug>(reader: &impl Reader<T>, input: &[u8]) {
            let (answer, there) = dribble(reader, input);
            assert_eq!(reader(input, 0), answer);
            assert!(there <= 2 * (LINE_BYTES_MAX + 1), "a verdict by the end of two lines");
            if let Ok(Some((_, used))) = answer {
                assert_eq!(used, there);
            }
        }
        for input in [&noise[..], lines.as_bytes()] {
            check(&request, input);
            check(&key, input);
            check(&number, input);
            check(&ack, input);
            check(&address, input);
        }
    }
}

use proptest::prelude::*;

use super::super::{LINE_BYTES_MAX, Request, put_request, request};
use super::*;

fn of<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

const GOLDEN: &str = "XBEAT\n10.0.0.5:65535\n9\n2\n10.0.0.1:1\n10.0.0.2:2\n1\n10.0.0.3:3\n\
    |XBEAT\n10.0.0.5:65535\n9\n0\n0\n|XHOLD\n10.0.0.5:65535\n9\n437\n438\n1\n\
    |XPUT\n10.0.0.5:65535\n9\n437\n8\n3\n|XDEL\n10.0.0.5:65535\n9\n437\n8\n|XFENCE\n10.0.0.5:65535\n\
    |XDIGEST\n437\n438\n|XKEYS\n437\n438\n|XFETCH\n437\n";

fn every_request() -> Vec<Extension> {
    let (owner, epoch, key, version) = (of("10.0.0.5:65535"), 9, of("437"), 8);
    let (start, end) = (key, of("438"));
    let beat = |holders, successors| Extension::Beat {
        from: owner,
        epoch,
        holders,
        successors,
    };
    vec![
        beat(
            vec![of("10.0.0.1:1"), of("10.0.0.2:2")],
            vec![of("10.0.0.3:3")],
        ),
        beat(vec![], vec![]),
        Extension::Hold {
            owner,
            epoch,
            start,
            end,
            complete: true,
        },
        Extension::Put {
            owner,
            epoch,
            key,
            version,
            length: 3,
        },
        Extension::Delete {
            owner,
            epoch,
            key,
            version,
        },
        Extension::Fence { owner },
        Extension::Digest { start, end },
        Extension::Keys { start, end },
        Extension::Fetch { key },
    ]
}

#[test]
fn a_request_is_read_once_it_is_whole() {
    let requests = every_request();
    assert_eq!(GOLDEN.split('|').count(), requests.len());
    for (text, extension) in GOLDEN.split('|').zip(requests) {
        let expected = Request::Extension(Box::new(extension));
        let mut out = Vec::new();
        put_request(&mut out, &expected);
        assert_eq!(out, text.as_bytes());
        for text in [text.to_string(), text.replace('\n', "\r\n")] {
            let bytes = text.as_bytes();
            for there in 0..bytes.len() {
                for seen in 0..=there {
                    assert_eq!(request(&bytes[..there], seen), Ok(None), "{text}");
                }
            }
            let whole = Ok(Some((expected.clone(), bytes.len())));
            let followed = [bytes, b"GET\n\0"].concat();
            for seen in 0..bytes.len() {
                assert_eq!(request(bytes, seen), whole, "{text} after {seen}");
                assert_eq!(request(&followed, seen), whole, "{text} after {seen}");
            }
        }
    }
}

#[test]
fn what_is_wrong_in_a_request_is_refused_as_soon_as_its_line_is_whole() {
    let cases = [
        ("XWHAT\n", Malformed::UnknownCommand),
        ("XBEAT \n", Malformed::UnknownCommand),
        ("XBEAT\n10.0.0.5:0\n", Malformed::Address),
        ("XBEAT\n10.0.0.5:1\n-\n", Malformed::Number),
        ("XBEAT\n10.0.0.5:1\n1\n9\n", Malformed::Number),
        (
            "XBEAT\n10.0.0.5:1\n1\n18446744073709551615\n",
            Malformed::Number,
        ),
        ("XBEAT\n10.0.0.5:1\n1\n1\n7\n", Malformed::Address),
        ("XHOLD\n10.0.0.5:1\n1\n1\n2\n2\n", Malformed::Ack),
        ("XPUT\n10.0.0.5:1\n1\nx\n", Malformed::Key),
        ("XDEL\n10.0.0.5:1\n1\n1\n\n", Malformed::Number),
        ("XFENCE\n::1\n", Malformed::Address),
        ("XDIGEST\n1\n-1\n", Malformed::Key),
        ("XKEYS\n1\n1 \n", Malformed::Key),
        ("XFETCH\n\n", Malformed::Key),
    ];
    for (text, malformed) in cases {
        for there in 0..text.len() {
            assert_eq!(request(&text.as_bytes()[..there], 0), Ok(None), "{text}");
        }
        assert_eq!(request(text.as_bytes(), 0), Err(malformed), "{text}");
    }
    let long = "XBEAT\n10.0.0.5:1\n".to_string() + &"1".repeat(LINE_BYTES_MAX + 1);
    assert_eq!(request(long.as_bytes(), 0), Err(Malformed::LineTooLong));
    assert_eq!(request(&long.as_bytes()[..long.len() - 1], 0), Ok(None));
}

fn every_reply() -> Vec<(Kind, Reply)> {
    let keys = |count: u64| (0..count).map(|n| (of("437"), n)).collect();
    let entry = |value| Reply::Entry { version: 7, value };
    let fenced = |epoch, complete| Reply::Fenced { epoch, complete };
    let mut parts = [Part::default(); DIGEST_PARTS];
    parts[3] = Part {
        count: 5,
        digest: u64::MAX,
    };
    let granted = Reply::Granted {
        clock: 3,
        preds: vec![of("10.0.0.1:1"); LIST_MAX],
    };
    vec![
        (Kind::Beat, granted),
        (
            Kind::Beat,
            Reply::NotGranted {
                next: of("10.0.0.1:1"),
            },
        ),
        (Kind::Ack, Reply::Ack(true)),
        (Kind::Ack, Reply::Ack(false)),
        (Kind::Fence, fenced(None, false)),
        (Kind::Fence, fenced(Some(9), true)),
        (Kind::Digest, Reply::Digest(Box::new(parts))),
        (Kind::Digest, Reply::No),
        (Kind::Keys, Reply::Keys(keys(0))),
        (Kind::Keys, Reply::Keys(keys(30))),
        (Kind::Keys, Reply::No),
        (Kind::Fetch, entry(None)),
        (Kind::Fetch, entry(Some(Bytes::new()))),
        (Kind::Fetch, entry(Some(Bytes::from_static(b"a\nb")))),
        (Kind::Fetch, Reply::No),
    ]
}

/// Reads one reply of a stream that comes in pieces of `most` bytes; says how many bytes it took.
fn read_in_pieces(kind: Kind, stream: &[u8], most: usize) -> Result<(Reply, usize), Malformed> {
    let mut reader = ReplyReader::new(kind);
    let (mut start, mut there) = (0, 0);
    loop {
        match reader.read(&stream[start..there], 100)? {
            Some((Piece::Whole(reply), used)) => return Ok((reply, start + used)),
            Some((Piece::Part, used)) => start += used,
            None => {
                assert!(there < stream.len(), "it is whole by now");
                there = stream.len().min(there + most);
            }
        }
    }
}

#[test]
fn a_reply_is_the_same_however_it_is_cut() {
    for (kind, reply) in every_reply() {
        let mut text = Vec::new();
        reply.put(&mut text);
        let len = text.len();
        text.extend_from_slice(b"1\n");
        for most in 1..=text.len() {
            assert_eq!(
                read_in_pieces(kind, &text, most),
                Ok((reply.clone(), len)),
                "{reply:?} in {most}"
            );
        }
    }
}

#[test]
fn what_is_wrong_in_a_reply_is_refused() {
    let cases = [
        (Kind::Beat, "2\n", Malformed::Ack),
        (Kind::Beat, "1\n1\n9\n", Malformed::Number),
        (Kind::Beat, "0\n0.0.0.0:0\n", Malformed::Address),
        (Kind::Fence, "0\n", Malformed::Ack),
        (Kind::Digest, "1\n-\n", Malformed::Number),
        (Kind::Keys, "1\n1025\n", Malformed::Number),
        (Kind::Keys, "1\n1\n-\n", Malformed::Key),
        (Kind::Fetch, "1\n1\n101\n", Malformed::Number),
        (Kind::Fetch, "1\n1\n--\n", Malformed::Number),
        (Kind::Fetch, "1\n-\n", Malformed::Number),
    ];
    for (kind, text, malformed) in cases {
        for most in 1..=text.len() {
            let read = read_in_pieces(kind, text.as_bytes(), most);
            assert_eq!(read, Err(malformed), "{text}");
        }
    }
}

#[test]
fn the_largest_reply_of_keys_is_read_piece_by_piece() {
    let keys: Vec<(Id, u64)> = (0..KEYS_MAX as u64)
        .map(|n| (Id::MAX, u64::MAX - n))
        .collect();
    let mut text = Vec::new();
    Reply::Keys(keys.clone()).put(&mut text);
    assert!(text.len() > 64 << 10, "more than an input holds");
    let read = read_in_pieces(Kind::Keys, &text, 100);
    assert_eq!(read, Ok((Reply::Keys(keys), text.len())));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        lines in "(XBEAT|XHOLD|XPUT|XKEYS|1|0)\n([0-9]{0,3}\n|10\\.0\\.0\\.1:5\n|[0-9.:\r\n+ A-Z-]{0,9}){0,30}",
    ) {
        for input in [&noise[..], lines.as_bytes()] {
            let whole = request(input, 0);
            let first = (0..=input.len()).map(|there| request(&input[..there], 0));
            let first = first.into_iter().find(|answer| *answer != Ok(None));
            prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
            for kind in [Kind::Beat, Kind::Ack, Kind::Fence, Kind::Digest, Kind::Keys, Kind::Fetch] {
                let mut reader = ReplyReader::new(kind);
                let mut start = 0;
                while let Ok(Some((Piece::Part, used))) = reader.read(&input[start..], 100) {
                    start += used;
                }
            }
        }
    }
}

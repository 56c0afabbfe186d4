use super::*;

/// What `first` says of `bytes` when they come in `pieces`, with the leftover and the scan position kept as the engine
/// keeps them: the texts and how it ended.
fn collect<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    mut first: impl FnMut(Input<'_>) -> Result<Option<(Vec<u8>, usize)>, TooLong>,
) -> (Vec<Vec<u8>>, Result<usize, TooLong>) {
    let (mut texts, mut kept, mut seen) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            match first(Input { bytes: &kept, seen }) {
                Ok(Some((text, used))) => {
                    texts.push(text);
                    kept.drain(..used);
                    seen = 0;
                }
                Ok(None) => {
                    seen = kept.len();
                    break;
                }
                Err(e) => return (texts, Err(e)),
            }
        }
    }
    (texts, Ok(kept.len()))
}

/// Whole, at every point where `bytes` can be split in two, and byte for byte it is the same.
#[track_caller]
fn assert_split_anywhere(
    bytes: &[u8],
    first: impl Fn(Input<'_>) -> Result<Option<(Vec<u8>, usize)>, TooLong>,
) -> (Vec<Vec<u8>>, Result<usize, TooLong>) {
    let whole = collect([bytes], &first);
    for at in 0..=bytes.len() {
        let (front, back) = bytes.split_at(at);
        assert_eq!(collect([front, back], &first), whole, "split at {at}");
    }
    assert_eq!(collect(bytes.chunks(1), &first), whole, "byte for byte");
    whole
}

fn lines(bytes: &[u8], cr: Cr) -> (Vec<Vec<u8>>, Result<usize, TooLong>) {
    let lines = Lines { bytes_max: 5, cr };
    assert_split_anywhere(bytes, |input| {
        let line = lines.first(input)?;
        Ok(line.map(|line| (line.text.to_vec(), line.used)))
    })
}

const LINE: TooLong = TooLong("line too long");
const FRAME: TooLong = TooLong("frame too long");

#[test]
fn lines_at_every_split() {
    let texts = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    let (got, end) = lines(b"\nab\n12345\n1234\r\n\r\r\na\rb\nlast", Cr::Kept);
    let want: [&[u8]; 6] = [b"", b"ab", b"12345", b"1234\r", b"\r\r", b"a\rb"];
    assert_eq!((got, end), (texts(&want), Ok(4)));
    let (got, end) = lines(b"\nab\n12345\n1234\r\n\r\r\na\rb\nlast\r", Cr::Stripped);
    let want: [&[u8]; 6] = [b"", b"ab", b"12345", b"1234", b"\r", b"a\rb"];
    assert_eq!((got, end), (texts(&want), Ok(5)));
}

/// Whether or not its end is there, and in the same read.
#[test]
fn a_long_line_is_refused_at_every_split() {
    for cr in [Cr::Kept, Cr::Stripped] {
        for long in [
            &b"ab\n123456\n"[..],
            b"ab\n123456",
            b"ab\n12345\r\n",
            b"ab\n1234567890\nab\n",
        ] {
            let (got, end) = lines(long, cr);
            assert_eq!((got, end), (vec![b"ab".to_vec()], Err(LINE)), "{long:?}");
        }
    }
    let unlimited = Lines {
        bytes_max: usize::MAX,
        cr: Cr::Kept,
    };
    let input = Input {
        bytes: b"x",
        seen: 0,
    };
    assert_eq!(unlimited.first(input), Ok(None));
}

/// What was looked at is not looked at again, so a line that dribbles in costs O(n).
#[test]
fn the_search_goes_on_where_it_ended() {
    let lines = Lines {
        bytes_max: 100,
        cr: Cr::Kept,
    };
    let at = |seen| Input {
        bytes: b"a\nb\n",
        seen,
    };
    assert_eq!(lines.first(at(0)).unwrap().unwrap().used, 2);
    assert_eq!(lines.first(at(2)).unwrap().unwrap().used, 4);
    assert_eq!(lines.first(at(4)), Ok(None));
}

const PREFIXES: [Prefix; 4] = [Prefix::U16Be, Prefix::U16Le, Prefix::U32Be, Prefix::U32Le];

fn frames(prefix: Prefix, header_bytes: usize) -> Frames {
    Frames {
        prefix,
        header_bytes,
        payload_bytes_max: 5,
    }
}

fn first(frames: Frames) -> impl Fn(Input<'_>) -> Result<Option<(Vec<u8>, usize)>, TooLong> {
    move |input| {
        let frame = frames.first(input.bytes)?;
        Ok(frame.map(|frame| ([frame.header, frame.payload].concat(), frame.used)))
    }
}

#[test]
fn frames_at_every_split() {
    for prefix in PREFIXES {
        for header in [&b""[..], b"T", b"type"] {
            let frames = frames(prefix, header.len());
            let mut stream = Vec::new();
            let payloads: [&[u8]; 4] = [b"", b"a", b"12345", b"\0\n"];
            for payload in payloads {
                let before = stream.len();
                frames.put(header, payload, &mut stream).unwrap();
                assert!(stream.len() - before <= frames.bytes_max());
            }
            let rest = stream.len();
            frames.put(header, b"cut", &mut stream).unwrap();
            stream.pop();
            let (got, end) = assert_split_anywhere(&stream, first(frames));
            assert_eq!(got, payloads.map(|payload| [header, payload].concat()));
            assert_eq!(end, Ok(stream.len() - rest), "{prefix:?}");
        }
    }
}

/// As soon as its length is there; nothing is reserved for it.
#[test]
fn a_long_frame_is_refused_at_every_split() {
    let longs: [(Prefix, &[u8]); 6] = [
        (Prefix::U16Be, b"\x00\x06"),
        (Prefix::U16Le, b"\x06\x00"),
        (Prefix::U16Le, b"\x00\x01123456"),
        (Prefix::U32Be, b"\x00\x00\x00\x06123456"),
        (Prefix::U32Le, b"\x06\x00\x00\x00"),
        (Prefix::U32Be, b"\xff\xff\xff\xff"),
    ];
    for (prefix, long) in longs {
        let frames = frames(prefix, 0);
        let mut stream = Vec::new();
        frames.put(b"", b"ab", &mut stream).unwrap();
        stream.extend_from_slice(long);
        let (got, end) = assert_split_anywhere(&stream, first(frames));
        assert_eq!((got, end), (vec![b"ab".to_vec()], Err(FRAME)), "{long:?}");
    }
}

#[test]
fn the_bytes_of_a_length_are_those_of_its_order() {
    let wants: [&[u8]; 4] = [b"\0\x01x", b"\x01\0x", b"\0\0\0\x01x", b"\x01\0\0\0x"];
    for (prefix, want) in PREFIXES.into_iter().zip(wants) {
        let mut out = Vec::new();
        frames(prefix, 0).put(b"", b"x", &mut out).unwrap();
        assert_eq!(out, want, "{prefix:?}");
    }
}

#[test]
fn a_long_payload_is_not_written() {
    let mut out = Vec::new();
    for prefix in PREFIXES {
        assert_eq!(frames(prefix, 0).put(b"", b"123456", &mut out), Err(FRAME));
    }
    let narrow = Frames {
        payload_bytes_max: usize::MAX,
        ..frames(Prefix::U16Be, 0)
    };
    assert_eq!(narrow.put(b"", &[0; 65_536], &mut out), Err(FRAME));
    assert_eq!(narrow.first(b"\xff\xffx"), Ok(None));
    assert_eq!(narrow.bytes_max(), usize::MAX);
    assert!(out.is_empty());
}

//! The tracker protocol's codec against what others write and read: Python itself, where there is one, and serde-pickle.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use peerloop::engine::Input;
use peerloop::proto::ring::value::{HEAP_BYTES_MAX, Value};
use peerloop::proto::ring::wire::{
    Encoding, Item, Neighbour, Packet, Reader, Refusal, RegInit, RegInitOrder, Reply, Request,
    Strings,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use serde_json::{Value as Json, json};
use serde_pickle::{DeOptions, ErrorCode, Value as Pickled};

use crate::reactor::allocations::peak_bytes;
use crate::support::tools::python3;

fn read(bytes: &[u8]) -> Result<Option<Packet<'_>>, Refusal> {
    Reader::default().read(Input { bytes, seen: 0 })
}

/// A value as `codec_oracle.py` prints it. Nested no deeper than a message may be.
fn plain(value: Value<'_>) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::BigInt => json!("big"),
        Value::Float(value) => float(value),
        Value::Text(text) => text.into(),
        Value::Tuple(items) => json!({ "tuple": items.map(plain).collect::<Vec<_>>() }),
        Value::List(items) => json!({ "list": items.map(plain).collect::<Vec<_>>() }),
    }
}

fn float(value: f64) -> Json {
    json!({ "float": format!("{:016x}", value.to_bits()) })
}

/// The same for a value that serde-pickle has read; `None` for types that no message has.
fn plain_pickled(value: &Pickled) -> Option<Json> {
    let all = |items: &[Pickled]| items.iter().map(plain_pickled).collect::<Option<Vec<_>>>();
    Some(match value {
        Pickled::None => Json::Null,
        Pickled::Bool(value) => (*value).into(),
        Pickled::I64(value) => (*value).into(),
        Pickled::Int(value) => match value.to_string().parse::<i64>() {
            Ok(value) => value.into(),
            Err(_) => json!("big"),
        },
        Pickled::F64(value) => float(*value),
        Pickled::String(text) => text.as_str().into(),
        Pickled::Bytes(bytes) => match str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => {
                let latin1 = bytes.iter().map(|&byte| char::from(byte));
                latin1.collect::<String>().into()
            }
        },
        Pickled::Tuple(items) => json!({ "tuple": all(items)? }),
        Pickled::List(items) => json!({ "list": all(items)? }),
        _ => return None,
    })
}

fn encodings() -> Vec<Encoding> {
    let mut all = vec![Encoding::Literal, Encoding::Bare];
    for protocol in 0..=5 {
        for strings in [Strings::Bytes, Strings::Unicode] {
            all.push(Encoding::Pickle { protocol, strings });
        }
    }
    all
}

const TEXTS: [&str; 8] = [
    "alice",
    "it's \"snowy\"\nhere",
    "\u{e9}\u{431}\u{1f600}\u{2028}",
    "\\ \\u0041 \\",
    "\0\r\t\u{1a}\u{7f}\u{85}",
    "a, (b) [c]",
    "'",
    "None",
];

/// Writes of every kind of message, each with the values that it has.
fn written(encoding: Encoding) -> Vec<(Vec<u8>, Json)> {
    let mut all = Vec::new();
    let mut request = |request: Request<'_>, tuple: Json| {
        let mut out = Vec::new();
        request.put(encoding, &mut out);
        all.push((out, tuple));
    };
    let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9001);
    for text in TEXTS {
        let handle = || text.into();
        request(Request::Echo { handle: handle() }, json!(["ECHO", text]));
        for port in [1, 255, 256, 65_535] {
            let register = Request::Register {
                handle: handle(),
                port,
            };
            request(register, json!(["REGISTER", text, port]));
        }
        let nbr = Neighbour {
            handle: handle(),
            addr,
        };
        let tuple = json!(["UPDATE_NBR", text, "127.0.0.1", 9001]);
        request(Request::UpdateNbr(nbr), tuple);
        request(Request::Ping { time: handle() }, json!(["PING", text]));
    }
    for seq in [0, 255, 65_536, 1 << 31, u32::MAX] {
        request(Request::Query { seq }, json!(["QUERY", seq]));
    }
    request(Request::Peers { offset: 0 }, json!(["PEERS"]));
    let mut reply = |reply: Reply<'_>, tuple: Json| {
        let mut out = Vec::new();
        reply.put(encoding, &mut out);
        all.push((out, tuple));
    };
    for text in TEXTS {
        let handle = || text.into();
        let nbr = || Neighbour {
            handle: handle(),
            addr,
        };
        let item = || Item {
            seq: 4,
            data: handle(),
        };
        reply(Reply::Ping { handle: handle() }, json!(["PING", text]));
        reply(
            Reply::QueryResult(Some(item())),
            json!(["QUERY_RESULT", [4, text]]),
        );
        reply(
            Reply::Tracker(handle()),
            json!([{ "list": ["Tracker"] }, text]),
        );
        let page = vec![nbr(), nbr()];
        let row = json!([text, "127.0.0.1", 9001]);
        reply(
            Reply::Peers { total: 9, page },
            json!(["PEERS", 9, [row, row]]),
        );
        for order in [RegInitOrder::IpFirst, RegInitOrder::HandleFirst] {
            let init = RegInit {
                nbr: Some(nbr()),
                dbsize: 5,
                item: Some(item()),
                order,
            };
            let tuple = match order {
                RegInitOrder::IpFirst => json!(["REG_INIT", "127.0.0.1", text, 9001, 5, [4, text]]),
                RegInitOrder::HandleFirst => {
                    json!(["REG_INIT", text, "127.0.0.1", 9001, 5, [4, text]])
                }
            };
            reply(Reply::RegInit(init), tuple);
        }
    }
    let taken = RegInit {
        nbr: None,
        dbsize: 5,
        item: None,
        order: RegInitOrder::IpFirst,
    };
    reply(
        Reply::RegInit(taken),
        json!(["REG_INIT", null, null, null, 5, null]),
    );
    reply(
        Reply::QueryResult(None),
        json!(["QUERY_RESULT", [null, null]]),
    );
    all
}

/// Arrays as tuples.
fn tuples(value: &Json) -> Json {
    match value {
        Json::Array(items) => json!({ "tuple": items.iter().map(tuples).collect::<Vec<_>>() }),
        other => other.clone(),
    }
}

/// Python's readers and writers, see `codec_oracle.py`.
struct Python {
    /// It has protocols 0 to this, this not included: 6 from Python 3.8 on.
    protocols: u8,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Option<Python> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/ring/codec_oracle.py");
        let mut command = python3()?;
        command
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("spawn");
        let mut python = Python {
            protocols: 0,
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        writeln!(python.stdin, "protocols").unwrap();
        python.protocols = python.line().parse().unwrap();
        Some(python)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What `load` or `eval` makes of `bytes`.
    fn ask(&mut self, word: &str, bytes: &[u8]) -> Option<Json> {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.stdin, "{word} {hex}").unwrap();
        let line = self.line();
        (line != "error").then(|| serde_json::from_str(&line).unwrap())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn python_reads_what_we_write() {
    let Some(mut python) = Python::start() else {
        return;
    };
    for encoding in encodings() {
        let word = match encoding {
            Encoding::Pickle { protocol, .. } if protocol < python.protocols => "load",
            Encoding::Literal => "eval",
            Encoding::Pickle { .. } | Encoding::Bare => continue,
        };
        for (bytes, tuple) in written(encoding) {
            assert_eq!(
                python.ask(word, &bytes),
                Some(tuples(&tuple)),
                "{encoding:?}: {}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn we_read_what_python_writes() {
    const VALUES: usize = 1000;
    let Some(mut python) = Python::start() else {
        return;
    };
    writeln!(python.stdin, "dump 1 {VALUES}").unwrap();
    let (mut whole, mut too_large) = (0, 0);
    loop {
        let line = python.line();
        let Some((hex, expected)) = line.split_once(' ') else {
            break;
        };
        let bytes = unhex(hex);
        match read(&bytes) {
            Ok(Some(packet)) => {
                let expected: Json = serde_json::from_str(expected).unwrap();
                assert_eq!(plain(packet.tree().root()), expected, "{hex}");
                assert_eq!(packet.used, bytes.len());
                whole += 1;
            }
            Err(Refusal::TooLarge | Refusal::TooLong) if bytes.len() > 4096 => too_large += 1,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }
    // And two literals.
    let encodings = usize::from(python.protocols) + 2;
    assert_eq!(whole + too_large, VALUES * encodings);
    assert!(too_large < whole / 20, "{too_large} of {whole} too large");
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// The vectors, what we write, and values with everything that a pickle may have.
fn seeds() -> Vec<Vec<u8>> {
    let vectors: Json = serde_json::from_str(include_str!("../../vectors/ring.json")).unwrap();
    let mut all: Vec<Vec<u8>> = encodings()
        .into_iter()
        .flat_map(written)
        .map(|(b, _)| b)
        .collect();
    for message in vectors["messages"].as_array().unwrap() {
        all.push(message["literal"].as_str().unwrap().into());
        let pickles = message["pickle"].as_object().unwrap();
        all.extend(pickles.values().map(|hex| unhex(hex.as_str().unwrap())));
    }
    let refuse = vectors["refuse"].as_array().unwrap();
    all.extend(
        refuse
            .iter()
            .filter_map(|one| Some(unhex(one["hex"].as_str()?))),
    );
    // ('a', ['b', (1.5,)], True) with its list twice, and numbers of all sizes.
    all.push(
        b"\x80\x02(X\x01\0\0\0aq\x00]q\x01(U\x01bG?\xf8\0\0\0\0\0\0\x85q\x02eh\x01\x88\x89tq\x03."
            .into(),
    );
    all.push(
        b"(lp0\nS'a\\'b\\x41'\np1\naF1.5\naL12345678901234567890L\naI01\nag1\na(g0\nt.".into(),
    );
    all.push(b"\x80\x04\x95\x20\0\0\0\0\0\0\0(\x8c\x01a\x94J\xff\xff\xff\xff\x8a\x09\0\0\0\0\0\0\0\0\x01\x8a\x02\0\x80C\x02\xff\xfeM\0\x01h\0]\x94a)t\x94.".into());
    all
}

/// One variant of one of `seeds`.
fn mutated(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: &[u8] = b"()]ael\x85\x86\x87\x94tN.IJKMLGFSTUVXBCpqrghj\x80\x8a\x8b\x8c\x8d\x8e\x95cRbio0123\\'\",\n\xff\0";
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(1..8)).min(bytes.len());
        let byte = match rng.random_range(0..3) {
            0 => rng.random(),
            _ => TELLING[rng.random_range(0..TELLING.len())],
        };
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes.insert(at, byte),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].repeat(rng.random_range(1..20));
                bytes.splice(at..at, again);
            }
            _ => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                let from = rng.random_range(0..other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// How a variant ended.
#[derive(Debug, Default)]
struct Tally {
    incomplete: usize,
    refused: usize,
    accepted: usize,
    agreed: usize,
}

/// Reads `bytes` twice, once in two pieces: no more heap than allowed, the same answer, and what is accepted as a pickle
/// is what serde-pickle makes of it.
fn judge(bytes: &[u8], cut: usize, tally: &mut Tally) {
    let mut answer = None;
    let peak = peak_bytes(|| {
        let mut reader = Reader::default();
        let first = reader.read(Input {
            bytes: &bytes[..cut],
            seen: 0,
        });
        answer = Some(match first {
            Ok(None) => reader.read(Input { bytes, seen: cut }),
            other => other,
        });
    });
    assert!(peak <= HEAP_BYTES_MAX, "{peak}: {}", bytes.escape_ascii());
    let answer = answer.unwrap();
    let packet = match (answer, read(bytes)) {
        (Ok(None), Ok(None)) => {
            tally.incomplete += 1;
            return;
        }
        (Err(one), Err(other)) if one == other => {
            tally.refused += 1;
            return;
        }
        (Ok(Some(one)), Ok(Some(other))) => {
            assert_eq!(plain(one.tree().root()), plain(other.tree().root()));
            one
        }
        (one, other) => panic!("{one:?} {other:?}: {}", bytes.escape_ascii()),
    };
    tally.accepted += 1;
    let message = &bytes[..packet.used];
    if let Encoding::Pickle { .. } = packet.encoding {
        agrees(
            message.trim_ascii_start(),
            &plain(packet.tree().root()),
            tally,
        );
    }
    assert!(read_peak_bytes(bytes) <= HEAP_BYTES_MAX);
}

/// The most heap that reading `bytes` takes, as a request or a reply.
fn read_peak_bytes(bytes: &[u8]) -> usize {
    let request = peak_bytes(|| {
        if let Ok(Some(packet)) = read(bytes) {
            let _ = packet.request();
        }
    });
    let reply = peak_bytes(|| {
        if let Ok(Some(packet)) = read(bytes) {
            let _ = packet.reply();
        }
    });
    request.max(reply)
}

#[test]
fn reading_takes_64_kib_of_heap_at_most() {
    let filled = |head: &[u8], item: &[u8], tail: &[u8], bytes: usize| {
        let items = (bytes - head.len() - tail.len()) / item.len();
        [head, &item.repeat(items), tail].concat()
    };
    let page = |rows: usize| {
        let row = b"(S'a\\x62cdefghijklmnopqrstuvwxyz'\nS'127.0.0.1'\nI1\nt".repeat(rows);
        [b"(S'PEERS'\nI1\n(", &row[..], b"tt."].concat()
    };
    // Lists that each hold the one before twice; the memo's slots, one by one.
    let mut doubling = b"(S'ECHO'\n(lp0\n".to_vec();
    let mut memo = b"(S'ECHO'\n".to_vec();
    for n in 1..15 {
        doubling.extend(format!("(g{0}\ng{0}\nlp{n}\n", n - 1).bytes());
    }
    doubling.extend(b"t.");
    for n in 0..1200 {
        memo.extend(format!("p{n}\n").bytes());
    }
    memo.extend(b"t.");
    let text = b"S'\\n0123456789012345678901234567890123456789'\np0\n";
    let mut most = 0;
    for size in [100, 1000, 10_000, 40_000, 60_000, 65_536] {
        for bytes in [
            filled(b"(S'ECHO'\n", b"N", b"t.", size),
            filled(b"(S'ECHO'\n", b")", b"t.", size),
            filled(b"(S'ECHO'\n", b"S'\\n'\n", b"t.", size),
            filled(b"(S'ECHO'\n", b"I1\n", b"t.", size),
            filled(b"(S'ECHO'\n(l", b"I1\na", b"t.", size),
            filled(b"(S'ECHO'\nS'\\n", b"x", b"'\nt.", size),
            filled(b"(S'ECHO'\nS'\\n", b"\xff", b"'\nt.", size),
            filled(b"(S'ECHO'\nS'", b"\xff", b"'\nt.", size),
            filled(b"(S'ECHO'\nV", b"\xff", b"\nt.", size),
            filled(b"(S'ECHO'\nV", b"\\u0416", b"\nt.", size),
            filled(b"(S'ECHO'\nL", b"9", b"\nt.", size),
            filled(b"('ECHO', '\\n", b"x", b"')", size),
            filled(b"('ECHO', b'\\n", b"\\xff", b"')", size),
            filled(b"('ECHO'", b",1", b")", size),
            filled(b"(ECHO", b",[]", b")", size),
            [&text[..], &filled(b"(S'ECHO'\n", b"g0\n", b"t.", size)].concat(),
            [
                b"(",
                &text[..],
                &filled(b"S'ECHO'\n", b"g0\n", b"t.", size - 60),
            ]
            .concat(),
        ] {
            most = most.max(read_peak_bytes(&bytes));
        }
    }
    for bytes in [page(240), page(200), doubling, memo] {
        most = most.max(read_peak_bytes(&bytes));
    }
    assert!(most <= HEAP_BYTES_MAX, "{most}");
    assert!(most > HEAP_BYTES_MAX / 2, "the worst is among them: {most}");
}

fn agrees(message: &[u8], ours: &Json, tally: &mut Tally) {
    match serde_pickle::value_from_slice(message, DeOptions::new()) {
        Ok(value) => {
            // It takes a carriage return for a part of the line's end, which Python does not.
            let is_cut = message.windows(2).any(|two| two == b"\r\n");
            let theirs = plain_pickled(&value);
            assert!(
                is_cut || theirs.as_ref() == Some(ours),
                "{ours} {theirs:?}: {}",
                message.escape_ascii()
            );
            tally.agreed += 1;
        }
        // It lacks some escapes of Python's strings, and values that are referred to from two places.
        Err(serde_pickle::Error::Eval(ErrorCode::InvalidLiteral(_), _))
        | Err(serde_pickle::Error::Syntax(ErrorCode::Recursive)) => {}
        Err(e) => panic!("{e}: {}", message.escape_ascii()),
    }
}

fn mutate(variants: usize, seed: u64) {
    let seeds = seeds();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for _ in 0..variants {
        let bytes = mutated(&mut rng, &seeds);
        let cut = rng.random_range(0..=bytes.len());
        judge(&bytes, cut, &mut tally);
    }
    println!("{tally:?}");
    let enough = variants / 50;
    assert!(tally.incomplete > enough && tally.refused > enough && tally.agreed > enough);
}

#[test]
fn variants_of_packets_are_refused_or_read_as_serde_pickle_reads_them() {
    mutate(50_000, 1);
}

/// Python reads more than we do; what both read has to be the same.
#[test]
fn variants_that_python_reads_too_are_the_same_to_both() {
    const VARIANTS: usize = 20_000;
    let Some(mut python) = Python::start() else {
        return;
    };
    let seeds = seeds();
    let mut rng = StdRng::seed_from_u64(3);
    let mut agreed = 0;
    for _ in 0..VARIANTS {
        let bytes = mutated(&mut rng, &seeds);
        let Ok(Some(packet)) = read(&bytes) else {
            continue;
        };
        let message = &bytes[..packet.used];
        let theirs = match packet.encoding {
            Encoding::Pickle { .. } => python.ask("load", message.trim_ascii_start()),
            Encoding::Literal => python.ask("eval", message.trim_ascii()),
            Encoding::Bare => continue,
        };
        if let Some(theirs) = theirs {
            let ours = plain(packet.tree().root());
            assert_eq!(ours, theirs, "{}", message.escape_ascii());
            agreed += 1;
        }
    }
    assert!(agreed > VARIANTS / 20, "{agreed}");
}

/// `cargo test --release --test it a_million_variants -- --ignored`
#[test]
#[ignore = "a million variants"]
fn a_million_variants_of_packets() {
    mutate(1_000_000, 2);
}

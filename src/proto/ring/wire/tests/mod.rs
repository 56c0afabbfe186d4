//! The messages in all encodings: the vectors, every split, every cut, every kind of bad request.

mod limits;

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value as Json;

use super::*;
use crate::engine::Input;
use crate::proto::ring::value::Value;

fn vectors() -> Json {
    serde_json::from_str(include_str!("../../../../../tests/vectors/ring.json")).unwrap()
}

fn unhex(hex: &Json) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// Reads what comes all at once.
fn read(bytes: &[u8]) -> Result<Option<Packet<'_>>, Refusal> {
    Reader::default().read(Input { bytes, seen: 0 })
}

fn whole(bytes: &[u8]) -> Packet<'_> {
    let packet = read(bytes).unwrap().expect("a whole message");
    assert_eq!(packet.used, bytes.len());
    packet
}

fn request(bytes: &[u8]) -> Result<Request<'_>, BadRequest> {
    whole(bytes).request()
}

fn reply(bytes: &[u8]) -> Result<Reply<'_>, BadRequest> {
    whole(bytes).reply()
}

/// Every encoding there is, by the name of the vectors where they have it.
fn encodings() -> Vec<(String, Encoding)> {
    let pickle = |protocol, strings| Encoding::Pickle { protocol, strings };
    let mut all = vec![
        ("literal".into(), Encoding::Literal),
        ("bare".into(), Encoding::Bare),
    ];
    for protocol in 0..=5 {
        let name = format!("python3_protocol_{protocol}");
        all.push((name, pickle(protocol, Strings::Unicode)));
    }
    for protocol in 0..=2 {
        let name = format!("python2_protocol_{protocol}");
        all.push((name, pickle(protocol, Strings::Bytes)));
    }
    all
}

/// Every message of the vectors in every encoding that they have: what it is, its encoding, its bytes.
fn messages() -> Vec<(Json, Encoding, Vec<u8>)> {
    let mut all = Vec::new();
    for message in vectors()["messages"].as_array().unwrap() {
        for (name, encoding) in encodings() {
            let pickle = &message["pickle"][name];
            let bytes = match encoding {
                Encoding::Literal => message["literal"].as_str().unwrap().into(),
                Encoding::Bare => continue,
                _ if pickle.is_null() => continue,
                _ => unhex(pickle),
            };
            all.push((message["tuple"].clone(), encoding, bytes));
        }
    }
    all
}

fn same(value: Value<'_>, json: &Json) -> bool {
    match (value, json) {
        (Value::None, Json::Null) => true,
        (Value::Int(value), Json::Number(number)) => number.as_i64() == Some(value),
        (Value::Text(text), Json::String(string)) => text == string,
        (Value::Tuple(items), Json::Array(array)) => {
            items.clone().count() == array.len()
                && items.zip(array).all(|(value, json)| same(value, json))
        }
        _ => false,
    }
}

/// Reads `bytes` in pieces that end at `ends`, from one reader, as the engine would hand them.
fn read_at(bytes: &[u8], ends: &[usize]) -> Result<usize, Refusal> {
    let mut reader = Reader::default();
    let mut seen = 0;
    for &end in ends {
        let bytes = &bytes[..end];
        match reader.read(Input { bytes, seen })? {
            Some(_) => return Ok(end),
            None => seen = end,
        }
    }
    panic!("no verdict after {} bytes", bytes.len());
}

#[test]
fn every_vector_is_read_whole_at_every_split_and_every_cut() {
    let messages = messages();
    assert_eq!(messages.len(), 12 * 8);
    for (tuple, encoding, bytes) in messages {
        let packet = whole(&bytes);
        assert_eq!(packet.encoding, encoding, "{tuple}");
        assert!(same(packet.tree().root(), &tuple), "{tuple}");

        let len = bytes.len();
        for cut in 0..len {
            assert!(read(&bytes[..cut]).unwrap().is_none(), "{tuple} at {cut}");
            assert_eq!(read_at(&bytes, &[cut, len]), Ok(len), "{tuple} at {cut}");
        }
        let dribbled: Vec<usize> = (0..=len).collect();
        assert_eq!(read_at(&bytes, &dribbled), Ok(len), "{tuple}");

        // The next message is not touched.
        let twice = bytes.repeat(2);
        assert_eq!(read(&twice).unwrap().unwrap().used, len);
    }
}

#[test]
fn one_reader_reads_one_message_after_the_other() {
    let mut reader = Reader::default();
    for (tuple, encoding, bytes) in messages() {
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let first = reader.read(Input {
                bytes: &bytes[..cut],
                seen: 0,
            });
            assert!(first.unwrap().is_none());
            let input = Input {
                bytes: &bytes,
                seen: cut,
            };
            assert!(same(
                reader.read(input).unwrap().unwrap().tree().root(),
                &tuple
            ));
            assert_eq!(reader.encoding(), encoding);
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    let item = |data: &'static str| Item {
        seq: 70_000,
        data: data.into(),
    };
    let nbr = |handle: &'static str| Neighbour {
        handle: handle.into(),
        addr: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 65_535),
    };
    let texts = [
        "alice",
        "it's",
        "\"",
        "both ' and \"",
        "a, b",
        " blanks ",
        "(x)",
        "[x]",
        "u'x'",
        "b\"x\"",
        "None",
        "42",
        "-",
        "\\",
        "\\u0041",
        "end\\",
        "\0\n\r\t\u{1a}\u{7f}\u{85}",
        "\u{e9}\u{431}\u{1f600}",
        "127.0.0.1",
        "REGISTER",
    ];
    for (name, encoding) in encodings() {
        let again_request = |request: Request<'_>| {
            let mut out = Vec::new();
            request.put(encoding, &mut out);
            let packet = whole(&out);
            if name.starts_with("python2") {
                assert!(packet.encoding == encoding || !out.is_ascii() || out.contains(&b'V'));
            } else {
                assert_eq!(packet.encoding, encoding, "{request:?}");
            }
            assert_eq!(packet.request(), Ok(request), "{name}: {out:?}");
        };
        let again_reply = |reply: Reply<'_>| {
            let mut out = Vec::new();
            reply.put(encoding, &mut out);
            assert_eq!(whole(&out).reply(), Ok(reply), "{name}: {out:?}");
        };
        for text in texts {
            again_request(Request::Echo {
                handle: text.into(),
            });
            for port in [1, 255, 256, 65_535] {
                again_request(Request::Register {
                    handle: text.into(),
                    port,
                });
            }
            again_request(Request::UpdateNbr(nbr(text)));
            again_request(Request::Ping { time: text.into() });
            again_reply(Reply::Ping {
                handle: text.into(),
            });
            again_reply(Reply::Tracker(text.into()));
            again_reply(Reply::QueryResult(Some(item(text))));
            again_reply(Reply::Peers {
                total: 3,
                page: vec![nbr(text), nbr("bob"), nbr(text)],
            });
            for order in [RegInitOrder::IpFirst, RegInitOrder::HandleFirst] {
                // Two addresses are read in the text's order.
                if text == "127.0.0.1" && order == RegInitOrder::HandleFirst {
                    continue;
                }
                again_reply(Reply::RegInit(RegInit {
                    nbr: Some(nbr(text)),
                    dbsize: u32::MAX,
                    item: Some(item(text)),
                    order,
                }));
            }
        }
        for number in [0, 1, 255, 256, 65_536, i32::MAX as u32, u32::MAX] {
            again_request(Request::Query { seq: number });
            again_request(Request::Peers { offset: number });
        }
        again_reply(Reply::QueryResult(None));
        again_reply(Reply::Peers {
            total: 0,
            page: vec![],
        });
        again_reply(Reply::RegInit(RegInit {
            nbr: None,
            dbsize: 5,
            item: None,
            order: RegInitOrder::IpFirst,
        }));
        again_reply(Reply::BAD_REQUEST);
    }
}

#[test]
fn what_is_written_as_text_is_what_the_vectors_and_the_assignment_have() {
    for (tuple, encoding, bytes) in messages() {
        if encoding != Encoding::Literal || tuple[0] == "ACK" {
            continue;
        }
        let mut out = Vec::new();
        match whole(&bytes).request() {
            Ok(request) => request.put(encoding, &mut out),
            Err(_) => whole(&bytes).reply().unwrap().put(encoding, &mut out),
        }
        assert_eq!(str::from_utf8(&out), str::from_utf8(&bytes));
    }
    let bare = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    };
    let register = Request::Register {
        handle: "alice".into(),
        port: 9000,
    };
    assert_eq!(
        bare(&|out| register.put(Encoding::Bare, out)),
        "(REGISTER, alice, 9000)"
    );
    assert_eq!(
        bare(&|out| Reply::BAD_REQUEST.put(Encoding::Bare, out)),
        "([Tracker], Bad request)"
    );
    assert_eq!(
        bare(&|out| Reply::QueryResult(None).put(Encoding::Bare, out)),
        "(QUERY_RESULT, (None, None))"
    );
    let peers = Request::Peers { offset: 0 };
    assert_eq!(bare(&|out| peers.put(Encoding::Bare, out)), "(PEERS,)");
    assert_eq!(bare(&|out| peers.put(Encoding::Literal, out)), "('PEERS',)");
}

#[test]
fn the_bare_notation() {
    let register = Ok(Request::Register {
        handle: "alice".into(),
        port: 9000,
    });
    for text in [
        "(REGISTER, alice, 9000)",
        "(REGISTER,alice,9000)",
        " \r\n( REGISTER ,\talice , 9000 )\r\n",
        "(REGISTER, 'alice', 9000)",
        "(REGISTER, u\"alice\", 9000,)",
        "('REGISTER', 'alice', 9000)",
        "(u'REGISTER', b'alice', 9000)",
        "( \"REGISTER\",\n'ali\\x63e',\n9000 )\n",
    ] {
        assert_eq!(request(text.as_bytes()), register, "{text}");
    }
    let echo = |handle: &'static str| {
        Ok(Request::Echo {
            handle: handle.into(),
        })
    };
    assert_eq!(request(b"(ECHO, it's me)"), echo("it's me"));
    assert_eq!(request(b"(ECHO, 42)"), echo("42"));
    assert_eq!(request(b"(ECHO, 'None')"), echo("None"));
    assert_eq!(request(b"(ECHO, None)"), Err(BadRequest::Handle));
    assert_eq!(request("(ECHO, é)".as_bytes()), echo("é"));
    assert_eq!(request(b"(ECHO, \xe9)"), echo("é"));
    assert_eq!(request(b"(PEERS)"), Ok(Request::Peers { offset: 0 }));
    assert_eq!(request(b"(PEERS,)"), Ok(Request::Peers { offset: 0 }));
    let says = Reply::Tracker("Hi bob".into());
    for text in [
        "([Tracker], Hi bob)",
        "([Tracker], 'Hi bob')",
        "([Tracker], \"Hi bob\")",
        "(['Tracker'], 'Hi bob')",
        "('[Tracker]', 'Hi bob')",
        "([u'Tracker'], u'Hi bob')",
    ] {
        assert_eq!(reply(text.as_bytes()), Ok(says.clone()), "{text}");
    }
    assert_eq!(
        reply(b"(QUERY_RESULT, (None, None))"),
        Ok(Reply::QueryResult(None))
    );
    let none = RegInit {
        nbr: None,
        dbsize: 5,
        item: None,
        order: RegInitOrder::IpFirst,
    };
    assert_eq!(
        reply(b"(REG_INIT, None, None, None, 5, None)"),
        Ok(Reply::RegInit(none))
    );
}

#[test]
fn text_that_is_no_tuple_is_refused() {
    for text in [
        "(ECHO,, x)",
        "(ECHO, x]",
        "([Tracker), x]",
        "('ECHO' 'x')",
        "('ECHO', x)",
        "('ECHO', 'x\n')",
        "('ECHO', '''x''')",
        "('ECHO', '\\xg0')",
        "('ECHO', '\\ud800')",
        "('ECHO', '\\N{DIGIT ONE}')",
        "('ECHO', 1_0)",
        "('ECHO', 0x10)",
        "('ECHO', inf)",
        "('ECHO', f(1))",
        "(ECHO, f(1))",
        "(ECHO, a\x07b)",
        "(,)",
    ] {
        let refusal = read(text.as_bytes()).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Malformed(_)),
            "{text}: {refusal:?}"
        );
    }
    for text in ["REGISTER", "5", "x", "[1]", "'a'", "\0", "\u{e9}", "{}"] {
        assert_eq!(read(text.as_bytes()).unwrap_err(), Refusal::NotATuple);
    }
    // One value in parentheses is no tuple in Python.
    assert_eq!(request(b"('PEERS')"), Err(BadRequest::Command));
    assert_eq!(request(b"()"), Err(BadRequest::Fields));
}

#[test]
fn a_neighbour_in_either_order() {
    use RegInitOrder::{HandleFirst, IpFirst};
    for (fields, expected) in [
        ("'10.0.0.1', 'bob', 9", Ok(("bob", [10, 0, 0, 1], IpFirst))),
        (
            "'bob', '10.0.0.1', 9",
            Ok(("bob", [10, 0, 0, 1], HandleFirst)),
        ),
        (
            "'localhost', 'bob', 9",
            Ok(("bob", [127, 0, 0, 1], IpFirst)),
        ),
        (
            "'bob', 'localhost', 9",
            Ok(("bob", [127, 0, 0, 1], HandleFirst)),
        ),
        (
            "'10.0.0.1', '10.0.0.2', 9",
            Ok(("10.0.0.2", [10, 0, 0, 1], IpFirst)),
        ),
        (
            "'localhost', '10.0.0.2', 9",
            Ok(("10.0.0.2", [127, 0, 0, 1], IpFirst)),
        ),
        (
            "'0.0.0.0', '10.0.0.2', 9",
            Ok(("0.0.0.0", [10, 0, 0, 2], HandleFirst)),
        ),
        ("'bob', 'carol', 9", Err(BadRequest::Ip)),
        ("'bob', None, 9", Err(BadRequest::Handle)),
        ("None, 'bob', 9", Err(BadRequest::Ip)),
        ("None, None, 9", Err(BadRequest::Ip)),
        ("'10.0.0.1', 'bob', 0", Err(BadRequest::Port)),
    ] {
        let text = format!("('REG_INIT', {fields}, 5, (4, 'x'))");
        let found = reply(text.as_bytes());
        let expected = expected.map(|(handle, ip, order)| {
            Reply::RegInit(RegInit {
                nbr: Some(Neighbour {
                    handle: handle.into(),
                    addr: SocketAddrV4::new(ip.into(), 9),
                }),
                dbsize: 5,
                item: Some(Item {
                    seq: 4,
                    data: "x".into(),
                }),
                order,
            })
        });
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn bad_requests() {
    use BadRequest::*;
    let long = format!("('ECHO', '{}')", "x".repeat(HANDLE_BYTES_MAX + 1));
    let accents = format!("('ECHO', '{}')", "é".repeat(HANDLE_BYTES_MAX / 2 + 1));
    for (text, bad) in [
        ("('HELLO', 'x')", Command),
        ("('echo', 'x')", Command),
        ("(1, 'x')", Command),
        ("('ECHO',)", Fields),
        ("('ECHO', 'x', 1)", Fields),
        ("('ECHO', 5)", Handle),
        ("('ECHO', None)", Handle),
        ("('ECHO', '')", Handle),
        (&long, Handle),
        (&accents, Handle),
        ("('REGISTER', 'x')", Fields),
        ("('REGISTER', 'x', 1, 2)", Fields),
        ("('REGISTER', 'x', 0)", Port),
        ("('REGISTER', 'x', -1)", Port),
        ("('REGISTER', 'x', 65536)", Port),
        ("('REGISTER', 'x', 10000000000000000000000)", Port),
        ("('REGISTER', 'x', '9000')", Port),
        ("('REGISTER', 'x', 9000.0)", Port),
        ("('REGISTER', 'x', True)", Port),
        ("('REGISTER', 'x', None)", Port),
        ("(REGISTER, x, +9000)", Port),
        ("(REGISTER, x, 09000)", Port),
        ("(REGISTER, x, 9 0)", Port),
        ("('QUERY', -1)", Seq),
        ("('QUERY', 4294967296)", Seq),
        ("('QUERY', 1000000000000000000000000000000)", Seq),
        ("('QUERY', 'x')", Seq),
        ("('QUERY', None)", Seq),
        ("('QUERY', 1.0)", Seq),
        ("('QUERY', (1, 2))", Seq),
        ("(QUERY, x)", Seq),
        ("('QUERY',)", Fields),
        ("('PING', None)", Time),
        ("('PING', [])", Time),
        ("('PING',)", Fields),
        ("('UPDATE_NBR', 'x', 'y', 1)", Ip),
        ("('UPDATE_NBR', 'x', '::1', 1)", Ip),
        ("('UPDATE_NBR', 'x', '0.0.0.0', 1)", Ip),
        ("('UPDATE_NBR', 'x', '224.0.0.1', 1)", Ip),
        ("('UPDATE_NBR', 'x', '255.255.255.255', 1)", Ip),
        ("('UPDATE_NBR', 'x', '127.0.0.1', 70000)", Port),
        ("('UPDATE_NBR', '127.0.0.1', 'x', 1)", Ip),
        ("('PEERS', -1)", Seq),
        ("('PEERS', 1, 2)", Fields),
    ] {
        assert_eq!(request(text.as_bytes()), Err(bad), "{text}");
    }
    for (text, bad) in [
        ("('QUERY', 1)", Command),
        ("('QUERY_RESULT', 1)", Fields),
        ("('QUERY_RESULT', (1, 'x', 2))", Fields),
        ("('QUERY_RESULT', (1,))", Fields),
        ("('QUERY_RESULT', (1, 2))", Data),
        ("('QUERY_RESULT', (1, None))", Data),
        ("('QUERY_RESULT', (None, 'x'))", Data),
        ("('QUERY_RESULT', ('1', 'x'))", Seq),
        ("('QUERY_RESULT', [1, 'x'])", Fields),
        ("('REG_INIT', '127.0.0.1', 'x', 1, -5, None)", Seq),
        ("('REG_INIT', '127.0.0.1', 'x', 1, 5, (5, 'x'))", Seq),
        ("('REG_INIT', '127.0.0.1', 'x', 1, 5)", Fields),
        ("(['Tracker', 'x'], 'y')", Command),
        ("(['Tracker'], 5)", Data),
        ("(['Tracker'],)", Fields),
        ("('PEERS', 1, (('x', '127.0.0.1'),))", Fields),
        ("('PEERS', 1, ('x',))", Fields),
        ("('PEERS', 1, 2)", Fields),
    ] {
        assert_eq!(reply(text.as_bytes()), Err(bad), "{text}");
    }
    assert_eq!(
        reply(b"('QUERY_RESULT', None)"),
        Ok(Reply::QueryResult(None))
    );
}

//! Single opcodes. Whole messages are in `wire/tests.rs`, Python and serde-pickle in `tests/it/ring/codec.rs`.

use super::*;
use crate::engine::Input;
use crate::proto::ring::value::Value;
use crate::proto::ring::wire::{Packet, Reader};

fn read(bytes: &[u8]) -> Result<Option<Packet<'_>>, Refusal> {
    Reader::default().read(Input { bytes, seen: 0 })
}

/// What a pickle of one value in a tuple has in it, printed.
#[track_caller]
fn one(opcodes: &[u8]) -> String {
    let bytes = [b"\x80\x02(", opcodes, b"t."].concat();
    let packet = read(&bytes).unwrap().expect("a whole message");
    match packet.tree().root() {
        Value::Tuple(mut items) => print(items.next().expect("an item")),
        other => panic!("{other:?}"),
    }
}

fn print(value: Value<'_>) -> String {
    let all = |items: Vec<String>| items.join(" ");
    match value {
        Value::Int(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Float(value) => format!("{value:?}"),
        Value::Tuple(items) => format!("({})", all(items.map(print).collect())),
        Value::List(items) => format!("[{}]", all(items.map(print).collect())),
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn refusal_of(opcodes: impl AsRef<[u8]>) -> Refusal {
    let bytes = [b"\x80\x02(", opcodes.as_ref(), b"t."].concat();
    read(&bytes).unwrap_err()
}

#[track_caller]
fn malformed(opcodes: impl AsRef<[u8]>) {
    let opcodes = opcodes.as_ref();
    let refusal = refusal_of(opcodes);
    let what = opcodes.escape_ascii();
    assert!(
        matches!(refusal, Refusal::Malformed(_)),
        "{what}: {refusal:?}"
    );
}

#[test]
fn every_opcode_that_is_not_plain_data_is_refused_when_it_comes() {
    let calls = b"cioRbPQ\x81\x82\x83\x84\x92\x93";
    let others = b"d}su012\x8f\x90\x91\x96\x97\x98";
    let mut executed = 0;
    for op in 0..=u8::MAX {
        let refused = read(&[0x80, 2, op]).map(|_| ());
        if calls.contains(&op) || others.contains(&op) {
            assert!(matches!(refused, Err(Refusal::Opcode(_))), "{op:#x}");
            assert_eq!(call(op).is_some(), calls.contains(&op), "{op:#x}");
        } else if argument(op).is_ok() {
            executed += 1;
        } else {
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{op:#x}");
        }
    }
    // What Python's pickletools knows.
    assert_eq!(executed + calls.len() + others.len(), 68);
}

#[test]
fn integers() {
    for (opcodes, value) in [
        (&b"K\xff"[..], "255"),
        (b"M\xff\xff", "65535"),
        (b"J\xff\xff\xff\xff", "-1"),
        (b"J\xff\xff\xff\x7f", "2147483647"),
        (b"I0\n", "0"),
        (b"I-12\n", "-12"),
        (b"I00\n", "Bool(false)"),
        (b"I01\n", "Bool(true)"),
        (b"\x88", "Bool(true)"),
        (b"\x89", "Bool(false)"),
        (b"N", "None"),
        (b"I9223372036854775807\n", "9223372036854775807"),
        (b"I-9223372036854775808\n", "-9223372036854775808"),
        (b"I9223372036854775808\n", "BigInt"),
        (b"L12L\n", "12"),
        (b"L12\n", "12"),
        (b"L-9223372036854775809L\n", "BigInt"),
        (b"\x8a\x00", "0"),
        (b"\x8a\x01\xff", "-1"),
        (b"\x8a\x02\xff\x00", "255"),
        (b"\x8a\x08\0\0\0\0\0\0\0\x80", "-9223372036854775808"),
        (b"\x8a\x09\0\0\0\0\0\0\0\x80\0", "BigInt"),
        (b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff", "-1"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\xff", "BigInt"),
        (b"\x8b\x02\0\0\0\x39\x30", "12345"),
        (b"G\xbf\xf8\0\0\0\0\0\0", "-1.5"),
        (b"F1e3\n", "1000.0"),
        (b"Finf\n", "inf"),
    ] {
        assert_eq!(one(opcodes), value, "{}", opcodes.escape_ascii());
    }
    for text in [
        "", "-", "+1", " 1", "1 ", "1_0", "0x1", "1.0", "007", "1\r", "1L", "\u{661}",
    ] {
        malformed(format!("I{text}\n"));
    }
    malformed("L1LL\n");
    malformed("F1,5\n");
    malformed(b"F\xff\n");
}

#[test]
fn strings() {
    for (opcodes, text) in [
        (&b"S'it\\'s \"x\"'\n"[..], "it's \"x\""),
        (b"S\"it's\"\n", "it's"),
        (
            b"S'\\a\\b\\t\\n\\v\\f\\r\\\\'\n",
            "\x07\x08\t\n\x0b\x0c\r\\",
        ),
        (b"S'\\x41\\101\\1012\\0'\n", "AAA2\0"),
        (b"S'\\q\\u0041'\n", "\\q\\u0041"),
        (b"S'\\xc3\\xa9'\n", "\u{e9}"),
        (b"S'\xc3\xa9'\n", "\u{e9}"),
        (b"S'\\xe9'\n", "\u{e9}"),
        (b"S'\xe9'\n", "\u{e9}"),
        (b"S''\n", ""),
        (b"V\n", ""),
        (b"Va\\u0041\\U0001f600\xe9\n", "aA\u{1f600}\u{e9}"),
        (b"V\\\\u0041\\x\\\n", "\\\\u0041\\x\\"),
        (b"V\xc3\xa9\n", "\u{c3}\u{a9}"),
        (b"U\x02ab", "ab"),
        (b"U\x01\xe9", "\u{e9}"),
        (b"T\x02\0\0\0ab", "ab"),
        (b"B\x02\0\0\0ab", "ab"),
        (b"C\x02ab", "ab"),
        (b"\x8e\x02\0\0\0\0\0\0\0ab", "ab"),
        (b"X\x02\0\0\0\xc3\xa9", "\u{e9}"),
        (b"\x8c\x02\xc3\xa9", "\u{e9}"),
        (b"\x8d\x02\0\0\0\0\0\0\0\xc3\xa9", "\u{e9}"),
    ] {
        assert_eq!(
            one(opcodes),
            format!("{text:?}"),
            "{}",
            opcodes.escape_ascii()
        );
    }
    for opcodes in [
        &b"Sx\n"[..],
        b"S'\n",
        b"S'x\"\n",
        b"S'x'\r\n",
        b"S'\\x4'\n",
        b"S'\\'\n",
        b"V\\u004\n",
        b"V\\ud800\n",
        b"V\\U00110000\n",
        b"V\\Uffffffff\n",
        b"X\x01\0\0\0\xe9",
        b"X\x03\0\0\0\xed\xa0\x80",
    ] {
        malformed(opcodes);
    }
}

#[test]
fn tuples_lists_and_what_is_in_two_places() {
    for (opcodes, value) in [
        (&b")"[..], "()"),
        (b"K\x01\x85", "(1)"),
        (b"K\x01K\x02\x86", "(1 2)"),
        (b"K\x01K\x02K\x03\x87", "(1 2 3)"),
        (b"(K\x01K\x02l", "[1 2]"),
        (b"](K\x01K\x02e", "[1 2]"),
        (b"](e", "[]"),
        (b"]K\x01aK\x02a", "[1 2]"),
        (b"](]K\x01aK\x02e", "[[1] 2]"),
        (b"(lp0\nK\x01ag0\n\x86", "([1] [1])"),
        (b"K\x01\x85q\x07h\x07h\x07\x87", "((1) (1) (1))"),
        (
            b"U\x01a\x94\x85\x94h\x00\x86h\x01\x86",
            "(((\"a\") \"a\") (\"a\"))",
        ),
        (
            b"S'\\x41'\nr\x05\x00\x00\x00j\x05\x00\x00\x00\x86",
            "(\"A\" \"A\")",
        ),
        (b"]q\x00q\x01K\x01ah\x00h\x01\x87", "([1] [1] [1])"),
    ] {
        assert_eq!(one(opcodes), value, "{}", opcodes.escape_ascii());
    }
    for opcodes in [
        &b"\x85"[..],
        b"K\x01\x86",
        b"a",
        b"K\x01a",
        b"]a",
        b"](",
        b"K\x01(e",
        b"(e",
        b"tt",
        b"q\x00",
        b"h\x00",
        b"K\x01q\x00h\x01",
        b"K\x01q\x00K\x02q\x00",
        b"K\x01p-1\n",
        b"K\x01px\n",
        b"\x80\x02",
        // A list in itself, and one that grows in two places.
        b"]q\x00h\x00a",
        b"]q\x00h\x00\x85a",
        b"]q\x00h\x00K\x01a\x86",
    ] {
        malformed(opcodes);
    }
    assert!(read(b"\x80\x02N").unwrap().is_none());
    assert!(matches!(
        read(b"\x80\x02NN.").unwrap_err(),
        Refusal::Malformed(_)
    ));
    assert!(matches!(
        read(b"\x80\x02.").unwrap_err(),
        Refusal::Malformed(_)
    ));
}

#[test]
fn memory_bombs() {
    for opcodes in [
        &b"K\x01p2147483648\n"[..],
        b"K\x01p1024\n",
        b"K\x01r\0\0\0\x80",
        b"K\x01r\xff\xff\xff\xff",
    ] {
        assert_eq!(refusal_of(opcodes), Refusal::TooLarge);
    }
    // Refused when the length is there, before anything else.
    for opcodes in [
        &b"X\xff\xff\xff\xff"[..],
        b"X\x00\x00\x01\x00",
        b"T\xff\xff\xff\xff",
        b"B\x00\x00\x00\x01",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8d\0\0\0\0\0\0\0\x01",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        let bytes = [b"\x80\x04", opcodes].concat();
        assert_eq!(read(&bytes).unwrap_err(), Refusal::TooLong);
    }
    // A tuple with the one before in it twice, 15 times over, takes two values each time.
    let doubled = b"q\x01h\x01\x86".to_vec();
    let doubling: Vec<u8> = (1..15_u8)
        .flat_map(|n| [&[b'q', n, b'h', n][..], &doubled[4..]].concat())
        .collect();
    let bytes = [b"\x80\x02)", &doubling[..], b"."].concat();
    assert!(read(&bytes).unwrap().is_some());
    let values = [&b"\x80\x02("[..], &b"N".repeat(2000), b"t."].concat();
    assert_eq!(read(&values).unwrap_err(), Refusal::TooLarge);
}

#[test]
fn what_is_written() {
    use Strings::{Bytes, Unicode};
    let text = |protocol, strings, text: &str| {
        let mut out = Vec::new();
        put_text(&mut out, protocol, strings, text);
        out
    };
    assert_eq!(text(0, Bytes, "a'b"), b"S\"a'b\"\n");
    assert_eq!(text(0, Bytes, "\u{e9}"), b"V\xe9\n");
    assert_eq!(
        text(0, Unicode, "a\\\n\u{431}\u{1f600}"),
        b"Va\\u005c\\u000a\\u0431\\U0001f600\n"
    );
    assert_eq!(text(1, Bytes, "a"), b"U\x01a");
    assert_eq!(text(2, Bytes, &"a".repeat(256))[..6], *b"T\0\x01\0\0a");
    assert_eq!(text(2, Bytes, "\u{e9}"), b"X\x02\0\0\0\xc3\xa9");
    assert_eq!(text(2, Unicode, "a"), b"X\x01\0\0\0a");
    assert_eq!(text(3, Bytes, "a"), b"X\x01\0\0\0a");
    assert_eq!(text(4, Unicode, "a"), b"\x8c\x01a");
    assert_eq!(text(5, Unicode, &"a".repeat(256))[..6], *b"X\0\x01\0\0a");
    let int = |protocol, value| {
        let mut out = Vec::new();
        put_int(&mut out, protocol, value);
        out
    };
    assert_eq!(int(0, 300), b"I300\n");
    assert_eq!(int(1, 255), b"K\xff");
    assert_eq!(int(1, 256), b"M\0\x01");
    assert_eq!(int(1, 65_536), b"J\0\0\x01\0");
    assert_eq!(int(1, 1 << 31), b"I2147483648\n");
    assert_eq!(int(2, 1 << 31), b"\x8a\x08\0\0\0\x80\0\0\0\0");
    assert_eq!(int(2, -1), b"J\xff\xff\xff\xff");
}

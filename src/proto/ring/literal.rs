//! Tuples as text: Python's literals, and the bare notation of the assignment's text.
//!
//! For: finding the end of a tuple, building its tree, writing values. Not for: what a tuple means.
//!
//! Python's literals are tuples, lists, strings (`''`, `u''`, `b''`), integers, floats, None, True and False. The bare
//! notation is the same with strings that need no quotes: the text between two commas is a string, without the
//! blanks around it, unless it is None. The reader of a field decides whether it is a number. A value that begins with a quote is
//! a string as in Python; strings that would be ambiguous without quotes are written so.
//!
//! What is read more strictly than Python reads it: no triple quotes, no raw strings, no `\N{}`, no strings put together
//! from several, no comments, no line feeds within strings; integers are decimal digits without underscores. A bracket in
//! bare text needs quotes.

use std::io::Write as _;

use memchr::memchr;

use super::encoding::{Encoding, Refusal};
use super::value::{Builder, Kind, NESTING_MAX, Sequence, Tree};

pub(super) const NONE: &[u8] = b"None";

/// Finds the end of a tuple that comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    /// Of the next byte.
    at: u32,
    bare: bool,
    nesting: u8,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A value may begin.
    Begin,
    /// After a `u` or `b` at the beginning of a value.
    Prefix,
    /// In a value without quotes, or after a value.
    Plain,
    /// In a string that ends with this quote.
    Quoted(u8),
    /// The same, after a backslash.
    Escaped(u8),
}

impl Scan {
    pub(super) fn new(start: usize, encoding: Encoding) -> Scan {
        Scan {
            at: start as u32,
            bare: encoding == Encoding::Bare,
            nesting: 0,
            place: Place::Begin,
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        if self.bare {
            Encoding::Bare
        } else {
            Encoding::Literal
        }
    }

    /// The position after the message's last byte, and after the blanks behind it; `None`: it is not there.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let rest = bytes.get(self.at as usize..).unwrap_or_default();
        for (n, &byte) in rest.iter().enumerate() {
            self.place = self.step(byte)?;
            if self.nesting == 0 {
                let behind = &rest[n + 1..];
                return Ok(Some(bytes.len() - behind.trim_ascii_start().len()));
            }
        }
        self.at = bytes.len() as u32;
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<Place, Refusal> {
        match (self.place, byte) {
            (Place::Quoted(_) | Place::Escaped(_), b'\n') => {
                return Err(Refusal::Malformed("line feed in a quoted string"));
            }
            (Place::Escaped(quote), _) => return Ok(Place::Quoted(quote)),
            (Place::Quoted(quote), b'\\') => return Ok(Place::Escaped(quote)),
            (Place::Quoted(quote), _) if byte == quote => return Ok(Place::Plain),
            (Place::Quoted(quote), _) => return Ok(Place::Quoted(quote)),
            (Place::Begin | Place::Prefix, b'\'' | b'"') => return Ok(Place::Quoted(byte)),
            (Place::Begin, b'(' | b'[') if usize::from(self.nesting) == NESTING_MAX => {
                return Err(Refusal::TooDeep);
            }
            (Place::Begin, b'(' | b'[') => {
                self.nesting += 1;
                return Ok(Place::Begin);
            }
            (_, b'(' | b'[') => return Err(Refusal::Malformed("bracket within text")),
            (_, b')' | b']') => self.nesting -= 1,
            (_, b',') => return Ok(Place::Begin),
            (Place::Begin, b'u' | b'b') => return Ok(Place::Prefix),
            (place, b' ' | b'\t' | b'\r' | b'\n') => return Ok(place.after_blank()),
            (_, byte) if byte.is_ascii_control() => {
                return Err(Refusal::Malformed("control character in a tuple"));
            }
            _ => {}
        }
        Ok(Place::Plain)
    }
}

impl Place {
    fn after_blank(self) -> Place {
        match self {
            Place::Begin => Place::Begin,
            _ => Place::Plain,
        }
    }
}

/// Reads a whole message.
pub(super) fn build(message: &[u8], encoding: Encoding) -> Result<Tree<'_>, Refusal> {
    let mut parser = Parser {
        builder: Builder::default(),
        rest: message.trim_ascii(),
        open: [Open::default(); NESTING_MAX],
        nesting: 0,
        bare: encoding == Encoding::Bare,
    };
    let mut expect = Expect::Value;
    loop {
        expect = parser.token(expect)?;
        if parser.nesting == 0 {
            break;
        }
        parser.rest = parser.rest.trim_ascii_start();
    }
    if !parser.rest.is_empty() {
        return Err(Refusal::Malformed("text behind a tuple"));
    }
    parser.builder.finish()
}

/// What stands next, besides the end of the tuple or list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    Comma,
}

/// A tuple or list that has begun.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    is_list: bool,
    has_comma: bool,
}

struct Parser<'a> {
    builder: Builder<'a>,
    rest: &'a [u8],
    open: [Open; NESTING_MAX],
    nesting: usize,
    bare: bool,
}

impl<'a> Parser<'a> {
    fn token(&mut self, expect: Expect) -> Result<Expect, Refusal> {
        let (first, after) = self.rest.split_first().ok_or(CUT)?;
        match (expect, first) {
            (_, b')' | b']') => {
                self.rest = after;
                self.close(*first == b']')?;
                Ok(Expect::Comma)
            }
            (Expect::Comma, b',') => {
                self.rest = after;
                self.innermost()?.has_comma = true;
                Ok(Expect::Value)
            }
            (Expect::Comma, _) => Err(Refusal::Malformed("no comma between two values")),
            (Expect::Value, b',') => Err(Refusal::Malformed("no value before a comma")),
            (Expect::Value, b'(' | b'[') => {
                self.rest = after;
                self.begin(*first == b'[')?;
                Ok(Expect::Value)
            }
            (Expect::Value, _) => {
                match *self.rest {
                    [b'\'' | b'"', ..] => self.quoted(Escapes::Text)?,
                    [b'u', b'\'' | b'"', ..] => {
                        self.rest = after;
                        self.quoted(Escapes::Text)?;
                    }
                    [b'b', b'\'' | b'"', ..] => {
                        self.rest = after;
                        self.quoted(Escapes::Bytes)?;
                    }
                    _ => self.word()?,
                }
                Ok(Expect::Comma)
            }
        }
    }

    fn begin(&mut self, is_list: bool) -> Result<(), Refusal> {
        let open = self.open.get_mut(self.nesting).ok_or(Refusal::TooDeep)?;
        *open = Open {
            is_list,
            has_comma: false,
        };
        self.nesting += 1;
        self.builder.mark()
    }

    fn close(&mut self, is_list: bool) -> Result<(), Refusal> {
        let open = *self.innermost()?;
        if open.is_list != is_list {
            return Err(Refusal::Malformed("brackets that do not match"));
        }
        self.nesting -= 1;
        match is_list {
            true => self.builder.close(Sequence::List),
            // One value in parentheses is that value.
            false if !self.bare && !open.has_comma && self.builder.items() == 1 => {
                self.builder.unmark()
            }
            false => self.builder.close(Sequence::Tuple),
        }
    }

    fn innermost(&mut self) -> Result<&mut Open, Refusal> {
        let last = self.nesting.checked_sub(1).ok_or(CUT)?;
        Ok(&mut self.open[last])
    }

    fn quoted(&mut self, escapes: Escapes) -> Result<(), Refusal> {
        let (quote, text) = self.rest.split_first().ok_or(CUT)?;
        let mut end = 0;
        loop {
            match text.get(end).ok_or(CUT)? {
                b'\\' => end += 2,
                byte if byte == quote => break,
                _ => end += 1,
            }
        }
        self.rest = &text[end + 1..];
        push_escaped(&mut self.builder, &text[..end], escapes)
    }

    /// A value without quotes, up to what cannot be in it.
    fn word(&mut self) -> Result<(), Refusal> {
        let end = self.rest.iter().position(|byte| b",)]".contains(byte));
        let (word, rest) = self.rest.split_at(end.ok_or(CUT)?);
        self.rest = rest;
        let word = word.trim_ascii_end();
        let kind = match word {
            NONE => Kind::None,
            _ if self.bare => return self.builder.push_bytes(word),
            b"True" => Kind::Bool(true),
            b"False" => Kind::Bool(false),
            _ => number(word)
                .or_else(|| float(word))
                .ok_or(Refusal::Malformed("text without quotes"))?,
        };
        self.builder.push(kind)
    }
}

const CUT: Refusal = Refusal::Malformed("tuple that is cut off");

/// Decimal digits with at most a minus in front, and no zeros in front.
pub(super) fn number<'a>(text: &[u8]) -> Option<Kind<'a>> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_number = match digits {
        [] => false,
        [b'0', _, ..] => false,
        _ => digits.iter().all(u8::is_ascii_digit),
    };
    if !is_number {
        return None;
    }
    let value = str::from_utf8(text).ok()?.parse();
    Some(value.map_or(Kind::BigInt, Kind::Int))
}

/// The same, within 64 bits.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    match number(text)? {
        Kind::Int(value) => Some(value),
        _ => None,
    }
}

fn float<'a>(text: &[u8]) -> Option<Kind<'a>> {
    // Rust also reads words for infinity.
    let is_numeric = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
    let text = text.iter().all(is_numeric).then_some(text)?;
    str::from_utf8(text).ok()?.parse().ok().map(Kind::Float)
}

/// Which escapes a string has, besides those that are the same in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// `\x` and digits are a byte: `b''`, and pickled strings of Python 2.
    Bytes,
    /// `\x` and digits are a code point, and so are `\u` and `\U`.
    Text,
}

/// Pushes what stands between two quotes.
pub(super) fn push_escaped<'a>(
    builder: &mut Builder<'a>,
    inner: &'a [u8],
    escapes: Escapes,
) -> Result<(), Refusal> {
    if memchr(b'\\', inner).is_none() {
        return builder.push_bytes(inner);
    }
    // No escape is shorter than what it stands for.
    let mut text = builder.buffer(inner.len())?;
    let mut rest = inner;
    while let Some(plain) = memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..plain]);
        rest = escape(&mut text, &rest[plain + 1..], escapes)?;
    }
    text.extend_from_slice(rest);
    builder.push_decoded(text)
}

/// Decodes what stands behind a backslash; what stands behind that.
fn escape<'a>(
    text: &mut Vec<u8>,
    escaped: &'a [u8],
    escapes: Escapes,
) -> Result<&'a [u8], Refusal> {
    let (&first, after) = escaped.split_first().ok_or(ESCAPE)?;
    let plain = match first {
        b'\\' | b'\'' | b'"' => first,
        b'a' => 0x07,
        b'b' => 0x08,
        b't' => b'\t',
        b'n' => b'\n',
        b'v' => 0x0b,
        b'f' => 0x0c,
        b'r' => b'\r',
        b'0'..=b'7' => {
            let is_octal = |byte: &&u8| (b'0'..=b'7').contains(byte);
            let digits = escaped.iter().take(3).take_while(is_octal).count();
            return put_digits(text, escaped, digits, 8, escapes);
        }
        b'x' => return put_digits(text, after, 2, 16, escapes),
        b'u' if escapes == Escapes::Text => return put_code_point(text, after, 4),
        b'U' if escapes == Escapes::Text => return put_code_point(text, after, 8),
        b'N' if escapes == Escapes::Text => return Err(ESCAPE),
        // Not an escape: the backslash stays.
        _ => {
            text.push(b'\\');
            first
        }
    };
    text.push(plain);
    Ok(after)
}

/// The code point of `len` hexadecimal digits.
pub(super) fn put_code_point<'a>(
    text: &mut Vec<u8>,
    digits: &'a [u8],
    len: usize,
) -> Result<&'a [u8], Refusal> {
    put_digits(text, digits, len, 16, Escapes::Text)
}

fn put_digits<'a>(
    text: &mut Vec<u8>,
    digits: &'a [u8],
    len: usize,
    radix: u32,
    escapes: Escapes,
) -> Result<&'a [u8], Refusal> {
    let (digits, after) = digits.split_at_checked(len).ok_or(ESCAPE)?;
    let mut value = 0_u32;
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix).ok_or(ESCAPE)?;
        value = value.checked_mul(radix).ok_or(ESCAPE)? + digit;
    }
    match escapes {
        // Octal digits go up to 777, of which Python keeps eight bits.
        Escapes::Bytes => text.push(value as u8),
        Escapes::Text => {
            let point = char::from_u32(value).ok_or(ESCAPE)?;
            text.extend_from_slice(point.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(after)
}

const ESCAPE: Refusal = Refusal::Malformed("escape that is none in a string");

pub(super) fn put_int(out: &mut Vec<u8>, value: i64) {
    write!(out, "{value}").expect("a Vec takes all");
}

/// Writes `text` as Python's `repr` does: in single quotes, unless it has some and no double ones; all beyond ASCII
/// is itself.
pub(super) fn put_quoted(out: &mut Vec<u8>, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote as u8);
    for c in text.chars() {
        match c {
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c == quote => out.extend_from_slice(&[b'\\', quote as u8]),
            // Beyond ASCII, Python 2 would take this for a byte.
            c if c.is_ascii_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).expect("a Vec takes all");
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(quote as u8);
}

/// Writes `text` without quotes, if it can be read again so.
pub(super) fn put_bare(out: &mut Vec<u8>, text: &str) {
    let is_plain = match text.as_bytes() {
        [] | [b'\'' | b'"', ..] | [b'u' | b'b', b'\'' | b'"', ..] => false,
        [.., last] if last.is_ascii_whitespace() => false,
        [first, ..] if first.is_ascii_whitespace() => false,
        NONE => false,
        _ => !text.contains(|c: char| ",()[]".contains(c) || c.is_ascii_control()),
    };
    if is_plain {
        out.extend_from_slice(text.as_bytes());
    } else {
        put_quoted(out, text);
    }
}

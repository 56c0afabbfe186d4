//! Python's pickle, protocols 0 to 5, as far as it is plain data.
//!
//! A pickle is a program for a stack machine. Executed are the opcodes that push None, booleans, numbers, strings and byte
//! strings, that make tuples and lists of them, and that put a value into the memo and get it back; picklers write
//! nothing else for such values. All others (`opcodes.rs`) are refused by name as soon as they are there, before the message
//! is complete: those that import or call something, and those for types that no message has.
//!
//! For: finding the end of a pickle, building its tree, writing values. Not for: what a message means. Invariant: no name is
//! looked up and nothing is called, whatever the bytes are.
//!
//! Two passes. [`Scan`] walks over the opcodes as they come in and finds the `.` that ends the message; it remembers
//! where it is and no more. [`build`] walks over the whole message once.
//!
//! What is read more strictly than Python reads it: integers in text are decimal digits without blanks, underscores or
//! zeros in front; PROTO stands at the beginning; a memo slot is put once; a list that was got from the memo takes no
//! more items; POP, POP_MARK and DUP, which picklers write for values that contain themselves, are refused. A surrogate
//! is no text. The length that FRAME announces is not looked at once it is one that a message may have.
//!
//! What is written: no memo and no frames, which no reader needs. Text is Unicode, which both Pythons read. A peer that wrote
//! Python 2's `str` gets `str`, if the text is ASCII; other text is Unicode for it too, since Python 3 refuses such a `str`
//! and Python 2 reads Unicode as well.

mod opcodes;
#[cfg(test)]
mod tests;

use std::io::Write as _;

use memchr::memchr;

use super::encoding::{Encoding, MESSAGE_BYTES_MAX, Refusal, Strings};
use super::literal::{self, Escapes};
use super::value::{Builder, Kind, Link, NESTING_MAX, Sequence, Tree};

use opcodes::{Argument, FRAME, STOP, argument, unknown};
pub(super) use opcodes::{LIST, MARK, NONE, PROTO, PROTOCOL_MAX, TUPLE, call, is_opcode};

/// Memo slots. A pickler numbers what it puts from 0 or 1, and a message with more values is too large anyway.
const MEMO_SLOTS_MAX: u64 = 1024;

/// An opcode, what follows it, and where the next one is.
#[derive(Debug, Clone, Copy)]
struct Instruction<'a> {
    op: u8,
    argument: &'a [u8],
    next: usize,
}

/// The instruction at `at`; `None`: it is not complete. A line is searched for its end from `seen` on.
fn instruction(bytes: &[u8], at: usize, seen: usize) -> Result<Option<Instruction<'_>>, Refusal> {
    let Some(&op) = bytes.get(at) else {
        return Ok(None);
    };
    let begin = at + 1;
    let (begin, len, end) = match argument(op)? {
        Argument::None => (begin, 0, 0),
        Argument::Fixed(len) => (begin, len, 0),
        Argument::Line => {
            let from = seen.clamp(begin, bytes.len().max(begin));
            let Some(found) = bytes.get(from..).and_then(|rest| memchr(b'\n', rest)) else {
                return Ok(None);
            };
            (begin, from + found - begin, 1)
        }
        Argument::Counted(width) => {
            let Some(len) = bytes.get(begin..begin + width) else {
                return Ok(None);
            };
            (begin + width, length(begin + width, len)?, 0)
        }
    };
    let argument = bytes.get(begin..begin + len);
    Ok(argument.map(|argument| Instruction {
        op,
        argument,
        next: begin + len + end,
    }))
}

/// The length of what begins at `begin`, if the message may have it.
fn length(begin: usize, len: &[u8]) -> Result<usize, Refusal> {
    let len = little_endian(len);
    let room = MESSAGE_BYTES_MAX.saturating_sub(begin) as u64;
    if len <= room {
        Ok(len as usize)
    } else {
        Err(Refusal::TooLong)
    }
}

/// At most 8 bytes, without a sign.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// Finds the end of a pickle that comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    /// Of the next opcode.
    at: u32,
    /// Tuples and lists that have begun and not ended. Each mark is one.
    marks: u8,
    /// As announced, or as the opcodes show.
    protocol: u8,
    strings: Strings,
}

impl Scan {
    pub(super) fn new(start: usize, protocol: u8) -> Scan {
        Scan {
            at: start as u32,
            marks: 0,
            protocol,
            strings: Strings::Unicode,
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        Encoding::Pickle {
            protocol: self.protocol,
            strings: self.strings,
        }
    }

    /// The position after the message's last byte; `None`: it is not there.
    pub(super) fn end(&mut self, bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
        while let Some(found) = instruction(bytes, self.at as usize, seen)? {
            let Instruction { op, argument, next } = found;
            match op {
                STOP => return Ok(Some(next)),
                FRAME => {
                    length(next, argument)?;
                }
                MARK if usize::from(self.marks) == NESTING_MAX => return Err(Refusal::TooDeep),
                MARK => self.marks += 1,
                TUPLE | LIST | b'e' => self.marks = self.marks.saturating_sub(1),
                b'S' | b'T' | b'U' => self.strings = Strings::Bytes,
                _ => {}
            }
            let is_text = matches!(
                op,
                MARK | TUPLE | LIST | NONE | b'a' | b'F' | b'I' | b'L' | b'S' | b'V' | b'g' | b'p'
            );
            if !is_text {
                self.protocol = self.protocol.max(1);
            }
            self.at = next as u32;
        }
        Ok(None)
    }
}

/// The pickle's memo: values that can be pushed again, by number.
#[derive(Debug, Default)]
struct Memo {
    slots: Vec<Option<Link>>,
    /// Slots in use, which is the number of the next MEMOIZE.
    used: u64,
}

impl Memo {
    fn put(&mut self, builder: &mut Builder<'_>, slot: u64) -> Result<(), Refusal> {
        let top = builder.top()?;
        if slot >= MEMO_SLOTS_MAX {
            return Err(Refusal::TooLarge);
        }
        let slot = slot as usize;
        while self.slots.len() <= slot {
            builder.make_room(&mut self.slots)?;
            self.slots.push(None);
        }
        match self.slots[slot].replace(top) {
            None => self.used += 1,
            Some(_) => return Err(Refusal::Malformed("pickle memo slot put twice")),
        }
        Ok(())
    }

    fn get(&self, slot: u64) -> Result<Link, Refusal> {
        let slot = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get(slot));
        let link = slot.copied().flatten();
        link.ok_or(Refusal::Malformed("pickle memo slot that is empty"))
    }
}

/// Executes a whole pickle.
pub(super) fn build(message: &[u8]) -> Result<Tree<'_>, Refusal> {
    let mut builder = Builder::default();
    let mut memo = Memo::default();
    let mut at = message.len() - message.trim_ascii_start().len();
    let start = at;
    while let Some(instruction) = instruction(message, at, 0)? {
        if instruction.op == STOP {
            return builder.finish();
        }
        if instruction.op == PROTO && at > start {
            return Err(Refusal::Malformed("pickle protocol not at the beginning"));
        }
        execute(&mut builder, &mut memo, instruction)?;
        at = instruction.next;
    }
    Err(Refusal::Malformed("pickle without an end"))
}

fn execute<'a>(
    builder: &mut Builder<'a>,
    memo: &mut Memo,
    Instruction { op, argument, .. }: Instruction<'a>,
) -> Result<(), Refusal> {
    match op {
        MARK => builder.mark(),
        TUPLE => builder.close(Sequence::Tuple),
        LIST => builder.close(Sequence::List),
        b')' => builder.tuple_of(0),
        0x85 => builder.tuple_of(1),
        0x86 => builder.tuple_of(2),
        0x87 => builder.tuple_of(3),
        b']' => builder.empty_list(),
        b'a' => builder.append_one(),
        b'e' => builder.append_marked(),

        NONE => builder.push(Kind::None),
        0x88 => builder.push(Kind::Bool(true)),
        0x89 => builder.push(Kind::Bool(false)),
        b'K' | b'M' => builder.push(unsigned(argument)),
        b'J' | 0x8a | 0x8b => builder.push(signed(argument)),
        b'I' => builder.push(match argument {
            b"00" => Kind::Bool(false),
            b"01" => Kind::Bool(true),
            digits => decimal(digits)?,
        }),
        b'L' => builder.push(decimal(argument.strip_suffix(b"L").unwrap_or(argument))?),
        b'F' => builder.push(float(argument)?),
        b'G' => builder.push(binary_float(argument)),

        b'S' => string(builder, argument),
        b'V' => unicode(builder, argument),
        b'T' | b'U' | b'B' | b'C' | 0x8e => builder.push_bytes(argument),
        b'X' | 0x8c | 0x8d => match str::from_utf8(argument) {
            Ok(text) => builder.push(Kind::Text(text.into())),
            Err(_) => Err(Refusal::Malformed("pickled text that is not UTF-8")),
        },

        b'p' => memo.put(builder, slot(argument)?),
        b'q' | b'r' => memo.put(builder, little_endian(argument)),
        0x94 => memo.put(builder, memo.used),
        b'g' => builder.again(memo.get(slot(argument)?)?),
        b'h' | b'j' => builder.again(memo.get(little_endian(argument))?),

        FRAME | PROTO => Ok(()),
        _ => Err(unknown(op)),
    }
}

fn unsigned<'a>(bytes: &[u8]) -> Kind<'a> {
    Kind::Int(little_endian(bytes) as i64)
}

/// A little-endian integer of any width.
fn signed<'a>(bytes: &[u8]) -> Kind<'a> {
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let sign = if negative { 0xFF } else { 0 };
    let mut wide = [sign; 8];
    wide[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(wide);
    if (value < 0) == negative && high.iter().all(|&byte| byte == sign) {
        Kind::Int(value)
    } else {
        Kind::BigInt
    }
}

fn decimal<'a>(digits: &[u8]) -> Result<Kind<'a>, Refusal> {
    literal::number(digits).ok_or(Refusal::Malformed("pickled integer that is none"))
}

fn float<'a>(text: &[u8]) -> Result<Kind<'a>, Refusal> {
    let float = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let float = float.ok_or(Refusal::Malformed("pickled float that is none"))?;
    Ok(Kind::Float(float))
}

fn binary_float<'a>(bytes: &[u8]) -> Kind<'a> {
    let mut wide = [0; 8];
    wide.copy_from_slice(bytes);
    Kind::Float(f64::from_be_bytes(wide))
}

/// The number of a memo slot, in text.
fn slot(digits: &[u8]) -> Result<u64, Refusal> {
    let number = literal::integer(digits).and_then(|number| number.try_into().ok());
    number.ok_or(Refusal::Malformed("pickle memo slot that is no number"))
}

/// Python 2's STRING: quoted, with the escapes of its literals.
fn string<'a>(builder: &mut Builder<'a>, line: &'a [u8]) -> Result<(), Refusal> {
    match *line {
        [quote @ (b'\'' | b'"'), ref inner @ .., end] if quote == end => {
            literal::push_escaped(builder, inner, Escapes::Bytes)
        }
        _ => Err(Refusal::Malformed("pickled string without quotes")),
    }
}

/// UNICODE: Latin-1 with `\uXXXX` and `\UXXXXXXXX`, where a backslash before anything else is itself.
fn unicode<'a>(builder: &mut Builder<'a>, line: &'a [u8]) -> Result<(), Refusal> {
    if line.is_ascii() && memchr(b'\\', line).is_none() {
        return builder.push_bytes(line);
    }
    let wide = line.iter().filter(|byte| !byte.is_ascii()).count();
    let mut text = builder.buffer(line.len() + wide)?;
    let mut rest = line;
    while let Some((&first, after)) = rest.split_first() {
        rest = match *rest {
            [b'\\', b'u', ref digits @ ..] => literal::put_code_point(&mut text, digits, 4)?,
            [b'\\', b'U', ref digits @ ..] => literal::put_code_point(&mut text, digits, 8)?,
            [b'\\', b'\\', ref after @ ..] => {
                text.extend_from_slice(b"\\\\");
                after
            }
            _ => {
                text.extend_from_slice(char::from(first).encode_utf8(&mut [0; 2]).as_bytes());
                after
            }
        };
    }
    builder.push_decoded(text)
}

/// Begins a pickle.
pub(super) fn begin(out: &mut Vec<u8>, protocol: u8) {
    if protocol >= 2 {
        out.extend_from_slice(&[PROTO, protocol]);
    }
}

/// Ends a pickle.
pub(super) fn end(out: &mut Vec<u8>) {
    out.push(STOP);
}

pub(super) fn put_int(out: &mut Vec<u8>, protocol: u8, value: i64) {
    match (protocol, i32::try_from(value)) {
        (0, _) | (1, Err(_)) => {
            out.push(b'I');
            literal::put_int(out, value);
            out.push(b'\n');
        }
        (_, Ok(value)) => match (u8::try_from(value), u16::try_from(value)) {
            (Ok(value), _) => out.extend_from_slice(&[b'K', value]),
            (_, Ok(value)) => {
                out.push(b'M');
                out.extend_from_slice(&value.to_le_bytes());
            }
            _ => {
                out.push(b'J');
                out.extend_from_slice(&value.to_le_bytes());
            }
        },
        (_, Err(_)) => {
            out.extend_from_slice(&[0x8a, 8]);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

pub(super) fn put_text(out: &mut Vec<u8>, protocol: u8, strings: Strings, text: &str) {
    let len = text.len();
    let bytes = strings == Strings::Bytes && text.is_ascii();
    match (protocol, u8::try_from(len)) {
        (0, _) if bytes => {
            out.push(b'S');
            literal::put_quoted(out, text);
            out.push(b'\n');
        }
        (0, _) => put_unicode_line(out, text),
        (1 | 2, Ok(len)) if bytes => out.extend_from_slice(&[b'U', len]),
        (1..=3, _) | (_, Err(_)) => {
            out.push(if bytes && protocol <= 2 { b'T' } else { b'X' });
            // No message of ours comes near 4 GiB.
            out.extend_from_slice(&(len as u32).to_le_bytes());
        }
        (_, Ok(len)) => out.extend_from_slice(&[0x8c, len]),
    }
    if protocol > 0 {
        out.extend_from_slice(text.as_bytes());
    }
}

/// What would end the line, and what old readers take for an end, is escaped; so is what is not Latin-1.
fn put_unicode_line(out: &mut Vec<u8>, text: &str) {
    out.push(b'V');
    for c in text.chars() {
        match u32::from(c) {
            // NUL, line feed, carriage return, end of file on DOS
            code @ (0 | 0x0a | 0x0d | 0x1a | 0x5c | 0x100..=0xffff) => {
                write!(out, "\\u{code:04x}").expect("a Vec takes all");
            }
            code @ 0x10000.. => write!(out, "\\U{code:08x}").expect("a Vec takes all"),
            code => out.push(code as u8),
        }
    }
    out.push(b'\n');
}

//! Where a message begins and ends, and in which encoding it is.
//!
//! For: cutting the bytes of a connection into messages, in O(n) however they dribble in. Not for: what a message says
//! (`parse.rs`).

use super::super::encoding::{Encoding, MESSAGE_BYTES_MAX, Refusal};
use super::super::value::Tree;
use super::super::{literal, pickle};
use crate::engine::Input;

/// Reads the messages of one connection. What it remembers of a message that is not complete is a position.
#[derive(Debug, Default)]
pub struct Reader {
    scan: Option<Scan>,
    /// Of the last message that showed one.
    encoding: Option<Encoding>,
}

/// A connection that waits for a message has one of these, see [`crate::engine::Service::Conn`].
const _: () = assert!(size_of::<Reader>() <= 16);

/// The position in a message that is not complete.
#[derive(Debug, Clone, Copy)]
enum Scan {
    Pickle(pickle::Scan),
    Literal(literal::Scan),
}

/// A whole message, not yet understood.
#[derive(Debug)]
pub struct Packet<'a> {
    pub(super) tree: Tree<'a>,
    pub encoding: Encoding,
    /// Bytes it takes up of the input, the blanks around it included.
    pub used: usize,
}

impl Reader {
    /// The first message of the input. `None`: it is not complete.
    ///
    /// # Errors
    /// See [`Refusal`]. The reader is of no more use then, nor is the connection.
    pub fn read<'a>(&mut self, input: Input<'a>) -> Result<Option<Packet<'a>>, Refusal> {
        let bytes = &input.bytes[..input.bytes.len().min(MESSAGE_BYTES_MAX)];
        let Some(end) = self.scan(bytes, input.seen)? else {
            return if bytes.len() < MESSAGE_BYTES_MAX {
                Ok(None)
            } else {
                Err(Refusal::TooLong)
            };
        };
        self.scan = None;
        let encoding = self.encoding.ok_or(Refusal::NotATuple)?;
        let message = &bytes[..end];
        let tree = match encoding {
            Encoding::Pickle { .. } => pickle::build(message)?,
            Encoding::Literal | Encoding::Bare => literal::build(message, encoding)?,
        };
        Ok(Some(Packet {
            tree,
            encoding,
            used: end,
        }))
    }

    /// The encoding of the message that was read last, or begun; before that, and for what is no tuple, the one that
    /// people read.
    pub fn encoding(&self) -> Encoding {
        self.encoding.unwrap_or(Encoding::Bare)
    }

    /// Where the message ends, once it has.
    fn scan(&mut self, bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
        if self.scan.is_none() {
            self.scan = begin(bytes)?;
        }
        match &mut self.scan {
            None => Ok(None),
            Some(Scan::Pickle(scan)) => {
                let end = scan.end(bytes, seen);
                self.encoding = Some(scan.encoding());
                end
            }
            Some(Scan::Literal(scan)) => {
                self.encoding = Some(scan.encoding());
                scan.end(bytes)
            }
        }
    }
}

/// Tells the encoding of a message from its first bytes. `None`: more are needed.
fn begin(bytes: &[u8]) -> Result<Option<Scan>, Refusal> {
    let head = &bytes[..bytes.len().min(BEGINNING_BYTES_MAX)];
    match told(head)? {
        None if head.len() < BEGINNING_BYTES_MAX => Ok(None),
        None if head.contains(&b'(') => Err(Refusal::TooDeep),
        None => Err(Refusal::NotATuple),
        scan => Ok(scan),
    }
}

/// The first value of a message begins within so many bytes: [`super::super::value::NESTING_MAX`] brackets with blanks
/// between them. More are not looked at, so that blanks that dribble in are not looked at over and over.
const BEGINNING_BYTES_MAX: usize = 64;

/// The encoding, by the first bytes. Blanks may stand before and within text.
///
/// | first bytes | encoding |
/// |---|---|
/// | 0x80, or `(` and an opcode: `(S`, `(V`, `(I` | pickle |
/// | `('`, `("`, `(u'` | Python's literals |
/// | `(` and a letter with which a command begins | the bare notation |
fn told(head: &[u8]) -> Result<Option<Scan>, Refusal> {
    let text = head.trim_ascii_start();
    let start = head.len() - text.len();
    let pickle = |protocol| Some(Scan::Pickle(pickle::Scan::new(start, protocol)));
    let literal = |encoding| Some(Scan::Literal(literal::Scan::new(start, encoding)));
    match *text {
        [] | [pickle::PROTO] => return Ok(None),
        [b'(', ..] => {}
        [pickle::PROTO, protocol @ 0..=pickle::PROTOCOL_MAX, ..] => return Ok(pickle(protocol)),
        // A word of the assignment's first part, not the opcode of that letter.
        [b'A'..=b'Z', ..] => return Err(Refusal::NotATuple),
        [op, ..] => return Err(pickle::call(op).map_or(Refusal::NotATuple, Refusal::Opcode)),
    }
    let is_open = |&&byte: &&u8| byte == b'(' || byte.is_ascii_whitespace();
    let inner = &text[text.iter().take_while(is_open).count()..];
    let listed = inner.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    Ok(match *listed.unwrap_or(inner) {
        [] | [b'u' | b'b' | b'U'] => None,
        [b'\'' | b'"' | b')' | b']', ..] | [b'u' | b'b', b'\'' | b'"', ..] => {
            literal(Encoding::Literal)
        }
        // Opcodes too, but none that we execute.
        [b'0'..=b'2', ..] => literal(Encoding::Literal),
        _ if listed.is_some() => literal(Encoding::Bare),
        // Commands begin with these, and pickles of tuples do not, except that U and P are also a string of 80 bytes.
        [b'E' | b'R' | b'P' | b'A' | b'Q', ..] | [b'U', b'P', ..] => literal(Encoding::Bare),
        [op, ..] if pickle::is_opcode(op) => pickle(0),
        _ => literal(Encoding::Bare),
    })
}

//! The lines of the DHT protocol, read and written.
//!
//! Every request is two lines, `WORD\nARGUMENT\n` (our own XSTAT is one); replies and what follows a request are single
//! lines (key, number, acknowledgement, address) and values, which are counted bytes and need no
//! codec. The readers are functions of the bytes alone: `Ok(None)` means that more bytes are
//! needed, an error means that no further byte can help, and more bytes never change an answer.
//!
//! `seen` spares a line that dribbles in from being searched again and again:
//!
//! ```text
//! input   G E T \n 4 3 7 3 2 9 . . .
//!         |<--- seen --->|             length of input when the same reader last said Ok(None)
//!                        ^             the search for the next '\n' starts here
//! 0 <= seen <= input.len(); 0 for the first call of each item; used > seen once it is whole
//! ```
//!
//! Not here: limits on announced lengths, who owns a key, whether a claimed id is the hash of its
//! address. The node judges those.

use std::fmt::Display;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use memchr::memchr;

use super::id::Id;
use crate::engine::framing::{Cr, Lines};
use crate::engine::{Input, Violation};
use crate::proto::decimal::Decimal;

/// The longest line in bytes, its `\n` not counted and a `\r` counted. Every legal line is shorter than 64; the rest
/// is for extension words of other implementations, while a peer that never ends its line costs us no more than this.
pub const LINE_BYTES_MAX: usize = 256;

/// The first two lines of an exchange: the request of the side that opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// LOCATE: which node that you know is the last one at or before this key?
    Locate(Id),
    /// CONTAINS: is there an entry for this key?
    Contains(Id),
    /// GET: the value of this key.
    Get(Id),
    /// INSERT: store the value that follows once ownership is acknowledged.
    Insert(Id),
    /// REMOVE: forget this key.
    Remove(Id),
    /// UPDATE_PREV: the node at this address now comes before you.
    UpdatePrev(SocketAddrV4),
    /// CONNECT: a node with this id joins and asks for its part of your range.
    Connect(Id),
    /// DISCONNECT: the leaver, which is not named, hands its range to you; this is its next node.
    Disconnect(NextNode),
    /// XSTAT, without an argument: what do you hold, and who are your neighbours? Ours, see
    /// [`super::rpc::stat`]; plain peers close.
    Stat,
}

/// How a leaver names its next node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextNode {
    /// The address: the usual form.
    Addr(SocketAddrV4),
    /// As some old peers do: the id of the node instead of its address. LOCATE finds the address.
    Key(Id),
}

/// A peer broke the protocol: no continuation of its bytes is legal. The connection is closed
/// without touching an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The peer sent a word that is no command, e.g. the `TEST` some send to see whether we are
    /// alive. Not an attack; close quietly.
    UnknownCommand,
    /// The peer sent more than [`LINE_BYTES_MAX`] bytes without a `\n`.
    LineTooLong,
    /// The peer sent as a HashedKey something else than 1 to 49 digits below 2^160.
    Key,
    /// The peer sent as an integer something else than 1 to 20 digits below 2^64.
    Number,
    /// The peer sent as a PeerAddress something else than an `IP:port` that can be dialled; in a
    /// DISCONNECT, something that is not a key either.
    Address,
    /// The peer sent as an acknowledgement something else than `0` or `1`.
    Ack,
    /// The peer sent in its answer to XSTAT something that is no role.
    Role,
}

impl Malformed {
    /// Whether a `0` goes out before the connection closes: the protocol has that for addresses, and no answer for all
    /// other errors.
    pub const fn is_answered_no(self) -> bool {
        matches!(self, Malformed::Address)
    }

    pub const fn what(self) -> &'static str {
        match self {
            Malformed::UnknownCommand => "unknown command",
            Malformed::LineTooLong => "line longer than 256 bytes",
            Malformed::Key => "not a key of 1 to 49 decimal digits below 2^160",
            Malformed::Number => "not a number of 1 to 20 decimal digits below 2^64",
            Malformed::Address => "not an IPv4 address and port that can be dialled",
            Malformed::Ack => "not an acknowledgement",
            Malformed::Role => "not a role",
        }
    }
}

impl From<Malformed> for Violation {
    fn from(malformed: Malformed) -> Violation {
        Violation::peer(malformed.what())
    }
}

/// Reads a request: a command word in upper case and its argument. With it comes the number of
/// bytes the two lines take up. `seen` may lie in either line.
///
/// An unknown word is refused as soon as its own line is whole, whatever follows.
///
/// # Errors
/// [`Malformed::UnknownCommand`]; of the argument's type, [`Malformed::Key`] or
/// [`Malformed::Address`]; [`Malformed::LineTooLong`] of either line.
pub fn request(input: &[u8], seen: usize) -> Result<Option<(Request, usize)>, Malformed> {
    let Some((word, word_used)) = word_line(input, seen)? else {
        return Ok(None);
    };
    let parse: fn(&[u8]) -> Result<Request, Malformed> = match word {
        b"GET" => |argument| to_key(argument).map(Request::Get),
        b"LOCATE" => |argument| to_key(argument).map(Request::Locate),
        b"INSERT" => |argument| to_key(argument).map(Request::Insert),
        b"CONTAINS" => |argument| to_key(argument).map(Request::Contains),
        b"REMOVE" => |argument| to_key(argument).map(Request::Remove),
        b"CONNECT" => |argument| to_key(argument).map(Request::Connect),
        b"UPDATE_PREV" => |argument| to_address(argument).map(Request::UpdatePrev),
        b"DISCONNECT" => |argument| to_next_node(argument).map(Request::Disconnect),
        b"XSTAT" => return Ok(Some((Request::Stat, word_used))),
        _ => return Err(Malformed::UnknownCommand),
    };
    let argument = item(&input[word_used..], seen.saturating_sub(word_used), parse)?;
    Ok(argument.map(|(request, used)| (request, word_used + used)))
}

/// Reads a HashedKey and its line end: an entry's key in CONNECT and DISCONNECT.
///
/// # Errors
/// [`Malformed::Key`], [`Malformed::LineTooLong`].
pub fn key(input: &[u8], seen: usize) -> Result<Option<(Id, usize)>, Malformed> {
    item(input, seen, to_key)
}

/// Reads an integer and its line end: the length of a value in bytes, or a count of entries. Only
/// the 64 bits are checked here; the caller compares with its limits before it reserves anything.
///
/// # Errors
/// [`Malformed::Number`], [`Malformed::LineTooLong`].
pub fn number(input: &[u8], seen: usize) -> Result<Option<(u64, usize)>, Malformed> {
    item(input, seen, to_number)
}

/// Reads an Acknowledgement and its line end: `true` for `1`, yes.
///
/// # Errors
/// [`Malformed::Ack`], [`Malformed::LineTooLong`].
pub fn ack(input: &[u8], seen: usize) -> Result<Option<(bool, usize)>, Malformed> {
    item(input, seen, to_ack)
}

/// Reads a PeerAddress and its line end: LOCATE's reply, and both addresses in CONNECT.
///
/// # Errors
/// [`Malformed::Address`], also for 0.0.0.0, port 0, multicast and broadcast;
/// [`Malformed::LineTooLong`].
pub fn address(input: &[u8], seen: usize) -> Result<Option<(SocketAddrV4, usize)>, Malformed> {
    item(input, seen, to_address)
}

/// Appends both lines of a request.
pub fn put_request(out: &mut Vec<u8>, request: &Request) {
    match *request {
        Request::Locate(key) => put_lines(out, "LOCATE", key),
        Request::Contains(key) => put_lines(out, "CONTAINS", key),
        Request::Get(key) => put_lines(out, "GET", key),
        Request::Insert(key) => put_lines(out, "INSERT", key),
        Request::Remove(key) => put_lines(out, "REMOVE", key),
        Request::UpdatePrev(addr) => put_lines(out, "UPDATE_PREV", addr),
        Request::Connect(key) => put_lines(out, "CONNECT", key),
        Request::Disconnect(NextNode::Addr(addr)) => put_lines(out, "DISCONNECT", addr),
        Request::Disconnect(NextNode::Key(key)) => put_lines(out, "DISCONNECT", key),
        Request::Stat => put_line(out, "XSTAT"),
    }
}

/// Appends a HashedKey line.
pub fn put_key(out: &mut Vec<u8>, key: Id) {
    put_line(out, key);
}

/// Appends an integer line. Every GET has one.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(Decimal::of(number).as_bytes());
    out.push(b'\n');
}

/// Length of an Acknowledgement line as we write it.
pub const ACK_BYTES: usize = 2;

/// Appends an Acknowledgement line: `1` for yes, `0` for no.
pub fn put_ack(out: &mut Vec<u8>, yes: bool) {
    out.extend_from_slice(if yes { b"1\n" } else { b"0\n" });
}

/// Appends a PeerAddress line, in the one spelling that a node's id is the hash of.
pub fn put_address(out: &mut Vec<u8>, addr: SocketAddrV4) {
    put_line(out, addr);
}

fn put_lines(out: &mut Vec<u8>, word: &str, argument: impl Display) {
    put_line(out, word);
    put_line(out, argument);
}

fn put_line(out: &mut Vec<u8>, item: impl Display) {
    // Safe because writing to a Vec has no error.
    writeln!(out, "{item}").expect("a Vec takes all bytes");
}

/// A line that consists of one item.
fn item<T>(
    input: &[u8],
    seen: usize,
    parse: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<Option<(T, usize)>, Malformed> {
    let line = line(input, seen)?;
    line.map(|(text, used)| Ok((parse(text)?, used)))
        .transpose()
}

/// The first line without its end, and the bytes it takes up with it. One `\r` before the `\n` is
/// part of the end; every other one is left for the item to refuse.
pub(crate) fn line(input: &[u8], seen: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let line = LINES.first(Input { bytes: input, seen });
    let line = line.map_err(|_| Malformed::LineTooLong)?;
    Ok(line.map(|line| (line.text, line.used)))
}

const LINES: Lines = Lines {
    bytes_max: LINE_BYTES_MAX,
    cr: Cr::Stripped,
};

/// The line of the command word, of which `seen` may be the end or more.
fn word_line(input: &[u8], seen: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    // Where a word line was already whole it named a command, or the request would have been
    // refused then; so it ends within these few bytes or not before `seen`.
    let known = seen.min(input.len()).min(COMMAND_LINE_BYTES_MAX);
    let was_whole = memchr(b'\n', &input[..known]).is_some();
    line(input, if was_whole { 0 } else { seen })
}

fn to_key(text: &[u8]) -> Result<Id, Malformed> {
    Id::parse(text).ok_or(Malformed::Key)
}

fn to_number(text: &[u8]) -> Result<u64, Malformed> {
    decimal(text, NUMBER_DIGITS_MAX).ok_or(Malformed::Number)
}

fn to_ack(text: &[u8]) -> Result<bool, Malformed> {
    match text {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(Malformed::Ack),
    }
}

fn to_address(text: &[u8]) -> Result<SocketAddrV4, Malformed> {
    dialable(text).ok_or(Malformed::Address)
}

fn to_next_node(text: &[u8]) -> Result<NextNode, Malformed> {
    match Id::parse(text) {
        Some(key) => Ok(NextNode::Key(key)),
        None => to_address(text).map(NextNode::Addr),
    }
}

/// Leading zeros are tolerated in the port (peers that pad it exist) but not in the quad, where
/// they mean octal to some and decimal to others.
fn dialable(text: &[u8]) -> Option<SocketAddrV4> {
    let colon = memchr(b':', text)?;
    let ip: Ipv4Addr = std::str::from_utf8(&text[..colon]).ok()?.parse().ok()?;
    let port = u16::try_from(decimal(&text[colon + 1..], PORT_DIGITS_MAX)?).ok()?;
    let names_one_node =
        port != 0 && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
    names_one_node.then(|| SocketAddrV4::new(ip, port))
}

/// The value of 1 to `count_max` ASCII digits; `None` for all else and from 2^64 up.
fn decimal(digits: &[u8], count_max: usize) -> Option<u64> {
    if digits.is_empty() || digits.len() > count_max {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Length of `UPDATE_PREV\r\n`, the longest line with a command.
const COMMAND_LINE_BYTES_MAX: usize = 13;

/// Digits of 2^64 - 1.
const NUMBER_DIGITS_MAX: usize = 20;

/// Digits of 65535.
const PORT_DIGITS_MAX: usize = 5;

// A key is the longest legal argument.
const _: () = assert!(Id::DIGITS_MAX < LINE_BYTES_MAX && COMMAND_LINE_BYTES_MAX < LINE_BYTES_MAX);

#[cfg(test)]
mod tests;

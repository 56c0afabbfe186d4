//! Single lines of the protocol: what may stand on one, read and written.

use std::fmt::Display;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use memchr::memchr;

use crate::engine::framing::{Cr, Lines};
use crate::engine::{Input, Violation};
use crate::proto::decimal::Decimal;
use crate::proto::dht::id::Id;

/// The longest line in bytes, its `\n` not counted and a `\r` counted. Every legal line is shorter than 64; the rest
/// is for extension words of other implementations, while a peer that never ends its line costs us no more than this.
pub const LINE_BYTES_MAX: usize = 256;

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

/// Reads the length of a value that may be a tombstone's, which has none.
///
/// # Errors
/// [`Malformed::Number`], [`Malformed::LineTooLong`].
pub fn length(input: &[u8], seen: usize) -> Result<Option<(Option<u64>, usize)>, Malformed> {
    item(input, seen, to_length)
}

/// Appends the length of a value, or that there is none.
pub fn put_length(out: &mut Vec<u8>, length: Option<u64>) {
    match length {
        Some(length) => put_number(out, length),
        None => {
            out.extend_from_slice(NO_VALUE);
            out.push(b'\n');
        }
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

pub(super) fn put_lines(out: &mut Vec<u8>, word: &str, argument: impl Display) {
    put_line(out, word);
    put_line(out, argument);
}

pub(super) fn put_line(out: &mut Vec<u8>, item: impl Display) {
    // Safe because writing to a Vec has no error.
    writeln!(out, "{item}").expect("a Vec takes all bytes");
}

/// A line that consists of one item.
pub(super) fn item<T>(
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

pub(super) fn to_key(text: &[u8]) -> Result<Id, Malformed> {
    Id::parse(text).ok_or(Malformed::Key)
}

pub(super) fn to_number(text: &[u8]) -> Result<u64, Malformed> {
    decimal(text, NUMBER_DIGITS_MAX).ok_or(Malformed::Number)
}

/// A length, or that there is no value.
pub(super) fn to_length(text: &[u8]) -> Result<Option<u64>, Malformed> {
    match text {
        NO_VALUE => Ok(None),
        _ => to_number(text).map(Some),
    }
}

pub(super) fn to_ack(text: &[u8]) -> Result<bool, Malformed> {
    match text {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(Malformed::Ack),
    }
}

pub(super) fn to_address(text: &[u8]) -> Result<SocketAddrV4, Malformed> {
    dialable(text).ok_or(Malformed::Address)
}

/// Leading zeros are tolerated in the port (peers that pad it exist) but not in the quad, where
/// they mean octal to some and decimal to others.
pub(super) fn dialable(text: &[u8]) -> Option<SocketAddrV4> {
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

/// Stands for the length of a value that a tombstone does not have.
const NO_VALUE: &[u8] = b"-";

/// Digits of 2^64 - 1.
const NUMBER_DIGITS_MAX: usize = 20;

/// Digits of 65535.
const PORT_DIGITS_MAX: usize = 5;

// A key is the longest legal item.
const _: () = assert!(Id::DIGITS_MAX < LINE_BYTES_MAX);

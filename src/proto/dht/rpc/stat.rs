//! XSTAT: what a node tells of itself. An extension of ours; a plain peer closes the connection, as it does on every
//! word that it does not know, and is then a member of which only the address is known.
//!
//! ```text
//! S  XSTAT
//! P  1, or 0 alone: it is no member (it has not joined yet, it gives its range away, it has left)
//! P  number of entries that it holds
//! P  bytes of their values
//! P  PeerAddress of its next node
//! P  PeerAddress of its previous node, or 0.0.0.0:0 when it knows none
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::proto::dht::wire::{self, Malformed};

/// An answer to XSTAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub entries: u64,
    pub value_bytes: u64,
    pub next: SocketAddrV4,
    pub prev: Option<SocketAddrV4>,
}

const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
const NOBODY_LINE: &[u8] = b"0.0.0.0:0\n";

/// Appends an answer; none of a node that is no member.
pub fn put(out: &mut Vec<u8>, stat: Option<&Stat>) {
    wire::put_ack(out, stat.is_some());
    let Some(stat) = stat else { return };
    wire::put_number(out, stat.entries);
    wire::put_number(out, stat.value_bytes);
    wire::put_address(out, stat.next);
    wire::put_address(out, stat.prev.unwrap_or(NOBODY));
}

/// Reads an answer whole; `None` in it is a node that is no member. It is short, so each call begins at its first byte.
///
/// # Errors
/// Those of its lines.
pub fn read(input: &[u8]) -> Result<Option<(Option<Stat>, usize)>, Malformed> {
    let Some((yes, mut used)) = wire::ack(input, 0)? else {
        return Ok(None);
    };
    if !yes {
        return Ok(Some((None, used)));
    }
    let Some((entries, more)) = wire::number(&input[used..], 0)? else {
        return Ok(None);
    };
    used += more;
    let Some((value_bytes, more)) = wire::number(&input[used..], 0)? else {
        return Ok(None);
    };
    used += more;
    let Some((next, more)) = wire::address(&input[used..], 0)? else {
        return Ok(None);
    };
    used += more;
    let rest = &input[used..];
    let (prev, more) = match wire::address(rest, 0) {
        _ if rest.starts_with(NOBODY_LINE) => (None, NOBODY_LINE.len()),
        Ok(None) => return Ok(None),
        Ok(Some((prev, more))) => (Some(prev), more),
        Err(malformed) => return Err(malformed),
    };
    Ok(Some((
        Some(Stat {
            entries,
            value_bytes,
            next,
            prev,
        }),
        used + more,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_once_it_is_whole() {
        let next = SocketAddrV4::new([10, 0, 0, 5].into(), 4711);
        for prev in [None, Some(SocketAddrV4::new([10, 0, 0, 6].into(), 1))] {
            let stat = Stat {
                entries: 7,
                value_bytes: u64::MAX,
                next,
                prev,
            };
            let mut text = Vec::new();
            put(&mut text, Some(&stat));
            for there in 0..text.len() {
                assert_eq!(read(&text[..there]), Ok(None));
            }
            let len = text.len();
            assert_eq!(read(&text), Ok(Some((Some(stat), len))));
            text.extend_from_slice(b"LOCATE\n");
            assert_eq!(read(&text), Ok(Some((Some(stat), len))));
        }
        let mut none = Vec::new();
        put(&mut none, None);
        assert_eq!((read(&none), &none[..]), (Ok(Some((None, 2))), &b"0\n"[..]));
        assert_eq!(read(b"no\n"), Err(Malformed::Ack));
        assert_eq!(read(b"1\n1\n1\n0.0.0.0:0\n"), Err(Malformed::Address));
    }
}

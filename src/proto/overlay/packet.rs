//! The bytes of a cPTP packet, Welcome or Redirect; pure functions, which allocate nothing.
//!
//! ```text
//!   V:3 = 7 | type:8 | N:13 | length:8 | sender: length bytes | N entries of 6 bytes: IPv4 address, port
//! ```
//! Big-endian, bits from the most significant. The head is 4 bytes and says how long the packet is, so that finding its
//! end costs the same however it dribbles in; nothing is reserved for an announced count. The caller ignores
//! what follows the packet: one implementation pads.
//!
//! For: parsing and writing. Not for: who gets which packet (`peer.rs`).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::engine::Violation;

const VERSION: u8 = 7;
const WELCOME: u8 = 1;
const REDIRECT: u8 = 2;

const HEAD_BYTES: usize = 4;
const ENTRY_BYTES: usize = 6;

/// Entries that 13 bits can announce.
pub const ENTRIES_MAX: usize = (1 << 13) - 1;

/// Bytes of a name: its length is one byte.
pub const NAME_BYTES_MAX: usize = u8::MAX as usize;

/// The longest packet there is: less than what the engine keeps of unconsumed input, so that a packet may be taken
/// whole.
pub const PACKET_BYTES_MAX: usize = HEAD_BYTES + NAME_BYTES_MAX + ENTRIES_MAX * ENTRY_BYTES;

/// What an acceptor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The newcomer is in the acceptor's table.
    Welcome,
    /// The acceptor's table is full; others may have room.
    Redirect,
}

/// A packet, in the bytes that it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pub kind: Kind,
    /// The sender's name. The protocol says that it is UTF-8; code that shows it must not rely on that.
    pub sender: &'a [u8],
    pub entries: Entries<'a>,
}

/// The peer entries of a packet, as they came: see [`is_usable`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a>(&'a [[u8; ENTRY_BYTES]]);

impl<'a> Entries<'a> {
    pub fn len(self) -> usize {
        self.0.len()
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = SocketAddrV4> + 'a {
        self.0.iter().map(|&[a, b, c, d, high, low]| {
            SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))
        })
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The packet at the front of `bytes` and its length; `None` while it is not all there.
///
/// # Errors
/// When the stream is not one of packets, as soon as the byte is there that says so.
pub fn parse(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Violation> {
    if bytes.first().is_some_and(|first| first >> 5 != VERSION) {
        return Err(Violation::peer("a packet of another version"));
    }
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    let kind = match first << 3 | second >> 5 {
        WELCOME => Kind::Welcome,
        REDIRECT => Kind::Redirect,
        _ => return Err(Violation::peer("a packet of unknown type")),
    };
    let Some((&[_, _, low, name_len], rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let count = usize::from(u16::from_be_bytes([second & 0x1f, low]));
    let Some((sender, rest)) = rest.split_at_checked(usize::from(name_len)) else {
        return Ok(None);
    };
    let Some((entries, _)) = rest.split_at_checked(count * ENTRY_BYTES) else {
        return Ok(None);
    };
    let (entries, _) = entries.as_chunks();
    let packet = Packet {
        kind,
        sender,
        entries: Entries(entries),
    };
    let len = HEAD_BYTES + sender.len() + count * ENTRY_BYTES;
    Ok(Some((packet, len)))
}

/// Appends a packet. Of a longer name the first [`NAME_BYTES_MAX`] bytes are sent, of more entries the first
/// [`ENTRIES_MAX`].
pub fn put_packet(
    out: &mut Vec<u8>,
    kind: Kind,
    sender: &[u8],
    entries: impl IntoIterator<Item = SocketAddrV4>,
) {
    let sender = &sender[..sender.len().min(NAME_BYTES_MAX)];
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, sender.len() as u8]);
    out.extend_from_slice(sender);
    let mut count = 0_u32;
    for entry in entries.into_iter().take(ENTRIES_MAX) {
        out.extend_from_slice(&entry.ip().octets());
        out.extend_from_slice(&entry.port().to_be_bytes());
        count += 1;
    }
    let kind = match kind {
        Kind::Welcome => WELCOME,
        Kind::Redirect => REDIRECT,
    };
    let head = u32::from(VERSION) << 21 | u32::from(kind) << 13 | count;
    let [_, head @ ..] = head.to_be_bytes();
    out[at..at + head.len()].copy_from_slice(&head);
}

/// Whether an entry can be the address of one peer. An entry that cannot is dropped; the rest of its packet counts.
pub fn is_usable(entry: SocketAddrV4) -> bool {
    let ip = entry.ip();
    entry.port() != 0 && !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/vectors/cptp.json")).unwrap()
    }

    fn bytes(vector: &Value) -> Vec<u8> {
        let hex = vector["hex"].as_str().unwrap().as_bytes();
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.chunks(2).map(byte).collect()
    }

    struct Expected {
        kind: Kind,
        sender: String,
        entries: Vec<SocketAddrV4>,
    }

    fn expected(vector: &Value) -> Expected {
        let entries = vector["peers"].as_array().unwrap().iter();
        Expected {
            kind: match vector["type"].as_u64().unwrap() {
                1 => Kind::Welcome,
                2 => Kind::Redirect,
                other => panic!("type {other}"),
            },
            sender: vector["sender"].as_str().unwrap().into(),
            entries: entries
                .map(|entry| entry.as_str().unwrap().parse().unwrap())
                .collect(),
        }
    }

    fn put(expected: &Expected) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let Expected {
            kind,
            sender,
            entries,
        } = expected;
        put_packet(&mut out, *kind, sender.as_bytes(), entries.iter().copied());
        out.split_off(6)
    }

    #[track_caller]
    fn expect_packet(bytes: &[u8], expected: &Expected, len: usize) {
        let (packet, used) = parse(bytes).unwrap().unwrap();
        assert_eq!(used, len);
        assert_eq!(packet.kind, expected.kind);
        assert_eq!(packet.sender, expected.sender.as_bytes());
        assert!(packet.entries.iter().eq(expected.entries.iter().copied()));
        assert_eq!(packet.entries.len(), expected.entries.len());
    }

    #[test]
    fn packets_of_the_vectors_both_ways_and_at_every_cut() {
        let vectors = vectors();
        let packets = vectors["packets"].as_array().unwrap();
        assert!(packets.len() >= 7);
        for vector in packets {
            let (wire, expected) = (bytes(vector), expected(vector));
            assert_eq!(put(&expected), wire);
            expect_packet(&wire, &expected, wire.len());
            for cut in 0..wire.len() {
                assert_eq!(parse(&wire[..cut]), Ok(None), "cut at {cut}");
            }
            let more = [&wire[..], b"\xe0 another"].concat();
            expect_packet(&more, &expected, wire.len());
        }
    }

    #[test]
    fn padding_is_not_part_of_the_packet() {
        let vector = &vectors()["padded"];
        let (wire, expected) = (bytes(vector), expected(vector));
        expect_packet(&wire, &expected, wire.len() - 6);
    }

    /// What is wrong from the start is refused at the first byte that shows it; what is only cut never becomes a packet.
    #[test]
    fn bad_packets_of_the_vectors_at_every_cut() {
        let vectors = vectors();
        for vector in vectors["bad"].as_array().unwrap() {
            let (wire, what) = (bytes(vector), vector["what"].as_str().unwrap());
            let refused_at = match what {
                "version 6" => 1,
                "unknown type 9" => 2,
                _ => usize::MAX,
            };
            for cut in 0..=wire.len() {
                let parsed = parse(&wire[..cut]);
                if cut < refused_at {
                    assert_eq!(parsed, Ok(None), "{what}, cut at {cut}");
                } else {
                    assert!(parsed.is_err(), "{what}, cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn the_largest_packet_fits_and_no_more_is_put() {
        let entry = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
        let mut out = Vec::new();
        let name = [b'n'; 300];
        put_packet(&mut out, Kind::Redirect, &name, std::iter::repeat(entry));
        assert_eq!(out.len(), PACKET_BYTES_MAX);
        let (packet, used) = parse(&out).unwrap().unwrap();
        assert_eq!((used, packet.entries.len()), (out.len(), ENTRIES_MAX));
        assert_eq!(packet.sender, &name[..NAME_BYTES_MAX]);
    }

    #[test]
    fn entries_that_name_no_peer() {
        let usable = |text: &str| is_usable(text.parse().unwrap());
        for bad in [
            "1.2.3.4:0",
            "0.0.0.0:5",
            "224.0.0.1:5",
            "239.255.255.255:5",
            "255.255.255.255:5",
        ] {
            assert!(!usable(bad), "{bad}");
        }
        for good in [
            "1.2.3.4:1",
            "127.0.0.1:65535",
            "223.255.255.255:5",
            "240.0.0.1:5",
        ] {
            assert!(usable(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((packet, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
                let mut out = Vec::new();
                put_packet(&mut out, packet.kind, packet.sender, packet.entries.iter());
                prop_assert_eq!(&out[..], &bytes[..used]);
            }
        }

        /// More bytes never change what was said of fewer.
        #[test]
        fn a_verdict_is_final(mut bytes in proptest::collection::vec(any::<u8>(), 1..60), good in any::<bool>()) {
            if good {
                bytes.splice(0..1, [0xe0, 0x20]);
            }
            let whole = parse(&bytes);
            for cut in 0..bytes.len() {
                match parse(&bytes[..cut]) {
                    Ok(None) => {}
                    verdict => prop_assert_eq!(verdict, whole),
                }
            }
        }
    }
}

//! Positions on the ring: 160-bit arithmetic that wraps.
//!
//! Everything that has a place on the ring has an [`Id`]: a node (SHA-1 of its advertised
//! `IP:port`), a key (SHA-1 of its name), a finger's target. "Clockwise" means upwards, and after
//! [`Id::MAX`] comes [`Id::ZERO`]. A node owns what lies in `[its own id, its next node's id)`.
//!
//! This module does not know which nodes exist; it only compares positions.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::str::FromStr;

use ruint::aliases::U160;
use sha1::{Digest, Sha1};

/// A position on the ring of 2^160: the id of a node, or a key.
///
/// `Ord` is the order of the plain integers, for sorted tables. It is not the order round the ring:
/// for that ask [`distance_to`](Id::distance_to) or [`in_arc`](Id::in_arc).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(U160);

impl Id {
    /// Where the ring wraps to; a legal key like every other.
    pub const ZERO: Id = Id(U160::ZERO);

    /// 2^160 - 1, the last position before the ring wraps; a legal key like every other.
    pub const MAX: Id = Id(U160::MAX);

    /// Bits of a position, hence the number of fingers of a node.
    pub const BITS: usize = U160::BITS;

    /// Decimal digits of [`Id::MAX`]: the longest HashedKey.
    pub const DIGITS_MAX: usize = 49;

    /// Where a name lies: SHA-1 of its bytes as a big-endian integer.
    pub fn of(text: &[u8]) -> Id {
        Id::from_be_bytes(Sha1::digest(text).into())
    }

    /// The id of the node that advertises `addr`: [`Id::of`] its canonical text `IP:port`.
    pub fn of_addr(addr: SocketAddrV4) -> Id {
        let mut text = [0; ADDRESS_BYTES_MAX];
        let mut free = &mut text[..];
        // Safe because no address is longer than the buffer: four octets of three digits.
        write!(free, "{addr}").expect("an IPv4 address and port fit in 21 bytes");
        let unused = free.len();
        Id::of(&text[..ADDRESS_BYTES_MAX - unused])
    }

    /// Reads a HashedKey without its line end: 1 to 49 ASCII digits below 2^160, leading zeros
    /// allowed. `None` for everything else: signs, spaces, `_`, prefixes, other alphabets' digits.
    pub fn parse(digits: &[u8]) -> Option<Id> {
        if digits.is_empty() || digits.len() > Id::DIGITS_MAX {
            return None;
        }
        // The odd digits go first, so that nearly all of a key is read sixteen digits at a time.
        let (head, tail) = digits.split_at(digits.len() % 16);
        let mut limbs = [few_digits(head)?, 0, 0];
        let (chunks, _) = tail.as_chunks::<16>();
        for chunk in chunks {
            mul_add(&mut limbs, 10u64.pow(16), sixteen_digits(chunk)?);
        }
        U160::checked_from_limbs_slice(&limbs).map(Id)
    }

    /// Appends the decimal digits, without leading zeros and without a line end.
    pub fn write_decimal(self, out: &mut Vec<u8>) {
        // Safe because writing to a Vec has no error.
        write!(out, "{self}").expect("a Vec takes all bytes");
    }

    /// The position whose big-endian bytes these are: how a SHA-1 digest is read.
    pub fn from_be_bytes(bytes: [u8; 20]) -> Id {
        Id(U160::from_be_bytes(bytes))
    }

    /// The inverse of [`Id::from_be_bytes`]; byte order is numeric order.
    pub fn to_be_bytes(self) -> [u8; 20] {
        self.0.to_be_bytes()
    }

    /// Steps clockwise from here to `other`, modulo 2^160: zero only for `other == self`.
    pub fn distance_to(self, other: Id) -> Id {
        Id(other.0.wrapping_sub(self.0))
    }

    /// Whether this position lies in `[start, end)`, going clockwise and wrapping. With
    /// `start == end` that is the whole ring: a lone node owns every key.
    pub fn in_arc(self, start: Id, end: Id) -> bool {
        start == end || start.distance_to(self) < start.distance_to(end)
    }

    /// The position 2^`i` further clockwise: the target of finger `i`. For `i` of 160 and more that
    /// is whole turns round the ring, so the position itself.
    pub fn plus_power_of_two(self, i: usize) -> Id {
        Id(self.0.wrapping_add(U160::ONE.wrapping_shl(i)))
    }

    /// Cuts `[self, end)` into sixteen parts of equal size, as far as that goes: part `i` is from bound `i` to bound `i + 1`,
    /// and empty where the two are the same. The first bound is `self`, the last one `end`. With `self == end` it is the
    /// whole ring that is cut.
    pub fn sixteenths(self, end: Id) -> [Id; 17] {
        let distance = self.distance_to(end).0;
        let (size, rest) = if self == end {
            (U160::ONE << (Id::BITS - 4), U160::ZERO)
        } else {
            (distance >> 4, distance & U160::from(15))
        };
        std::array::from_fn(|i| {
            let i = U160::from(i);
            Id(self
                .0
                .wrapping_add(size.wrapping_mul(i))
                .wrapping_add((rest * i) >> 4))
        })
    }

    /// The position just after this one.
    pub fn succ(self) -> Id {
        self.plus_power_of_two(0)
    }

    /// The position just before this one: LOCATE of it finds a node's previous node.
    pub fn pred(self) -> Id {
        Id(self.0.wrapping_sub(U160::ONE))
    }
}

/// Decimal, as on the wire.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Decimal as well, so that a failed assertion can be compared with a packet dump.
impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.0)
    }
}

/// A user gave something as a key that is none; peers' bytes go through [`Id::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key: give 1 to {} decimal digits and nothing else, at most {} (2^160-1)",
    Id::DIGITS_MAX,
    Id::MAX
)]
pub struct ParseIdError;

/// The rules of [`Id::parse`], for the command line.
impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(digits: &str) -> Result<Id, ParseIdError> {
        Id::parse(digits.as_bytes()).ok_or(ParseIdError)
    }
}

/// Up to 15 digits, none at all being zero; `None` when one of the bytes is not a digit.
fn few_digits(digits: &[u8]) -> Option<u64> {
    debug_assert!(digits.len() < 16);
    digits.iter().try_fold(0, |value: u64, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| value * 10 + u64::from(digit))
    })
}

fn sixteen_digits(digits: &[u8; 16]) -> Option<u64> {
    let (halves, _) = digits.as_chunks::<8>();
    halves.iter().try_fold(0, |value, half| {
        Some(value * 100_000_000 + eight_digits(*half)?)
    })
}

/// Eight digits at once, one in each byte of a word; neighbours are joined to pairs, pairs to
/// fours, fours to eight. Digit by digit, a key takes several times as long.
fn eight_digits(digits: [u8; 8]) -> Option<u64> {
    let word = u64::from_le_bytes(digits);
    // A digit is 0x30 to 0x39: its high half is 3, and still is after adding 6.
    let high_halves = |word: u64| word & 0xF0F0_F0F0_F0F0_F0F0;
    const ALL_THREES: u64 = 0x3030_3030_3030_3030;
    if high_halves(word) != ALL_THREES
        || high_halves(word.wrapping_add(0x0606_0606_0606_0606)) != ALL_THREES
    {
        return None;
    }
    // In each step the product's upper half of a lane is ten, a hundred, ten thousand times the
    // first of two neighbours plus the second; what overflows belongs to no lane that is kept.
    let ones = word & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = (ones.wrapping_mul((10 << 8) + 1) >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs.wrapping_mul((100 << 16) + 1) >> 16) & 0x0000_FFFF_0000_FFFF;
    Some(fours.wrapping_mul((10_000 << 32) + 1) >> 32)
}

/// `limbs = limbs * scale + addend`, lowest limb first.
fn mul_add(limbs: &mut [u64; 3], scale: u64, addend: u64) {
    let mut carry = addend;
    for limb in limbs {
        // At most (2^64-1)^2 + 2^64-1, which is below 2^128.
        let wide = u128::from(*limb) * u128::from(scale) + u128::from(carry);
        *limb = wide as u64;
        carry = (wide >> 64) as u64;
    }
    // 49 digits are below 2^163: three limbs hold them. Whether 160 bits do is asked at the end.
    debug_assert_eq!(carry, 0);
}

/// Length of `255.255.255.255:65535`, the longest text of an address.
const ADDRESS_BYTES_MAX: usize = 21;

/// Tables hold many of them: three words, no more.
const _: () = assert!(size_of::<Id>() == 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/vectors/dht.json")).unwrap()
    }

    fn id(value: &Value) -> Id {
        Id::parse(value.as_str().unwrap().as_bytes()).unwrap()
    }

    fn decimal(id: Id) -> String {
        let mut out = Vec::new();
        id.write_decimal(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn any_id() -> impl Strategy<Value = Id> {
        prop_oneof![
            any::<[u8; 20]>().prop_map(Id::from_be_bytes),
            // Around zero, where the ring wraps, and around powers of two.
            (0..160usize).prop_map(|i| Id::ZERO.plus_power_of_two(i)),
            (0..160usize).prop_map(|i| Id::ZERO.plus_power_of_two(i).pred()),
            Just(Id::ZERO),
            Just(Id::MAX),
        ]
    }

    #[test]
    fn hashes_match_the_vectors() {
        let vectors = vectors();
        let ids = vectors["ids"].as_array().unwrap();
        assert!(!ids.is_empty());
        for row in ids {
            let text = row["text"].as_str().unwrap();
            let expected = id(&row["decimal"]);
            assert_eq!(Id::of(text.as_bytes()), expected, "{text}");
            assert_eq!(decimal(expected), row["decimal"].as_str().unwrap());
            if let Ok(addr) = text.parse() {
                assert_eq!(Id::of_addr(addr), expected, "{text}");
            }
        }
        let longest: SocketAddrV4 = "255.255.255.255:65535".parse().unwrap();
        assert_eq!(Id::of_addr(longest), Id::of(b"255.255.255.255:65535"));
        assert_eq!("255.255.255.255:65535".len(), ADDRESS_BYTES_MAX);
    }

    #[test]
    fn limits_match_the_vectors() {
        let limits = &vectors()["limits"];
        let text = |name: &str| limits[name].as_str().unwrap().as_bytes().to_vec();
        assert_eq!(Id::parse(&text("max_key")), Some(Id::MAX));
        assert_eq!(decimal(Id::MAX).into_bytes(), text("max_key"));
        assert_eq!(Id::parse(&text("first_invalid_key")), None);
        assert_eq!(limits["digits_of_max"], Id::DIGITS_MAX);
    }

    #[test]
    fn owners_of_a_ring_of_three_match_the_vectors() {
        let ring = &vectors()["ring_of_three"];
        let nodes: Vec<&str> = ring["nodes_in_ring_order"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node.as_str().unwrap())
            .collect();
        let node_id = |i: usize| Id::of(nodes[i % nodes.len()].as_bytes());
        let owners = ring["owners"].as_array().unwrap();
        assert!(!owners.is_empty());
        for row in owners {
            let key = id(&row["key"]);
            if let Some(name) = row["name"].as_str() {
                assert_eq!(Id::of(name.as_bytes()), key, "{name}");
            }
            let owning: Vec<&str> = (0..nodes.len())
                .filter(|&i| key.in_arc(node_id(i), node_id(i + 1)))
                .map(|i| nodes[i])
                .collect();
            assert_eq!(owning, [row["owner"].as_str().unwrap()], "{key}");
        }
    }

    #[test]
    fn parse_refuses_what_is_not_a_key() {
        let mut bad: Vec<Vec<u8>> = [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "1e3",
            "1.0",
            "\u{661}\u{662}",
            "1\0",
            "1\r",
        ]
        .map(|text| text.into())
        .to_vec();
        bad.push(vec![b'0'; 50]);
        bad.push(vec![b'9'; 49]);
        bad.push(vec![b'1'; 10_000]);
        // One byte that is no digit, at each place of every length: all paths of the reader.
        for length in 1..=Id::DIGITS_MAX {
            for place in 0..length {
                for byte in [b'/', b':', b' ', b'_', 0, 0xB1, 0xFF] {
                    let mut digits = vec![b'1'; length];
                    digits[place] = byte;
                    bad.push(digits);
                }
            }
        }
        for digits in bad {
            assert_eq!(Id::parse(&digits), None, "{}", digits.escape_ascii());
        }
    }

    #[test]
    fn parse_allows_leading_zeros_within_49_digits() {
        for length in 1..=Id::DIGITS_MAX {
            let mut digits = vec![b'0'; length];
            assert_eq!(Id::parse(&digits), Some(Id::ZERO));
            digits[length - 1] = b'1';
            assert_eq!(Id::parse(&digits), Some(Id::ZERO.plus_power_of_two(0)));
        }
    }

    #[test]
    fn the_command_line_is_told_what_a_key_is() {
        assert_eq!("007".parse::<Id>().unwrap().to_string(), "7");
        let error = "blue".parse::<Id>().unwrap_err().to_string();
        assert!(error.contains("1 to 49 decimal digits"), "{error}");
        assert!(
            error.contains("1461501637330902918203684832716283019655932542975"),
            "{error}"
        );
    }

    #[test]
    fn the_ring_wraps() {
        let one = Id::ZERO.plus_power_of_two(0);
        assert_eq!(Id::ZERO.pred(), Id::MAX);
        assert_eq!(Id::MAX.plus_power_of_two(0), Id::ZERO);
        assert_eq!(Id::MAX.distance_to(one), Id::parse(b"2").unwrap());
        assert_eq!(one.distance_to(Id::MAX), Id::MAX.pred());
        assert_eq!(one.plus_power_of_two(160), one);
        assert_eq!(one.plus_power_of_two(usize::MAX), one);
        let (start, end) = (Id::MAX.pred(), one);
        assert!(
            [start, Id::MAX, Id::ZERO]
                .iter()
                .all(|id| id.in_arc(start, end))
        );
        assert!(!end.in_arc(start, end) && !start.pred().in_arc(start, end));
    }

    #[test]
    fn sixteen_parts_cover_an_arc() {
        let id = |n: u64| Id(U160::from(n));
        for (start, length) in [(0, 1), (7, 15), (7, 16), (9, 1000), (u64::MAX, 31)] {
            for start in [id(start), Id::MAX.pred()] {
                let bounds = start.sixteenths(Id(start.0.wrapping_add(U160::from(length))));
                let sizes: Vec<Id> = bounds.windows(2).map(|w| w[0].distance_to(w[1])).collect();
                let whole = sizes.iter().fold(U160::ZERO, |sum, size| sum + size.0);
                assert_eq!((bounds[0], whole), (start, U160::from(length)));
                let (least, most) = (id(length / 16), id(length.div_ceil(16)));
                assert!(sizes.iter().all(|size| (least..=most).contains(size)));
            }
        }
        let ring = id(5).sixteenths(id(5));
        assert_eq!((ring[0], ring[16]), (id(5), id(5)));
        assert_eq!(ring[3], Id(U160::from(5) + (U160::from(3) << 156)));
    }

    proptest! {
        #[test]
        fn decimal_round_trips(id in any_id()) {
            let text = decimal(id);
            prop_assert_eq!(Id::parse(text.as_bytes()), Some(id));
            prop_assert_eq!(text.parse::<Id>(), Ok(id));
            prop_assert_eq!(&id.to_string(), &text);
            prop_assert!(text == "0" || !text.starts_with('0'));
            let padded = format!("{text:0>49}");
            prop_assert_eq!(Id::parse(padded.as_bytes()), Some(id));
            prop_assert_eq!(Id::from_be_bytes(id.to_be_bytes()), id);
        }

        /// ruint's own reader is the oracle; it never sees anything but digits here.
        #[test]
        fn parse_agrees_with_ruint(digits in "[0-9]{1,52}") {
            let expected = U160::from_str(&digits).ok().map(Id);
            let allowed = expected.filter(|_| digits.len() <= Id::DIGITS_MAX);
            prop_assert_eq!(Id::parse(digits.as_bytes()), allowed);
        }

        #[test]
        fn an_arc_and_its_complement_share_the_ring(id in any_id(), a in any_id(), b in any_id()) {
            prop_assert!(id.in_arc(a, a));
            if a != b {
                prop_assert_ne!(id.in_arc(a, b), id.in_arc(b, a));
                prop_assert!(a.in_arc(a, b) && !b.in_arc(a, b) && b.pred().in_arc(a, b));
            }
        }

        #[test]
        fn distances_add_up_to_a_whole_turn(a in any_id(), b in any_id(), i in 0..160usize) {
            prop_assert_eq!(a.distance_to(b) == Id::ZERO, a == b);
            prop_assert_eq!(Id(a.distance_to(b).0.wrapping_add(b.distance_to(a).0)), Id::ZERO);
            prop_assert_eq!(
                a.distance_to(a.plus_power_of_two(i)),
                Id::ZERO.plus_power_of_two(i)
            );
            prop_assert_eq!(a.pred().plus_power_of_two(0), a);
        }
    }
}

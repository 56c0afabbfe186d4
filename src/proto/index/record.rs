//! What outlives the server: registrations and their files, as bytes; and the jobs that the service has.
//!
//! A registration is one record, and its files are chunks of lines as they came, one for each request. Keys and
//! tables are the business of the store's owner ([`crate::app`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::fields::{PeerId, check_user};

/// How dear a password's hash is: the two parameters of Argon2id that are not 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
}

impl Cost {
    /// What a server may be told; beyond, one hash takes all memory, or hours.
    pub const MEMORY_KIB: RangeInclusive<u32> = 8..=4 << 20;
    pub const PASSES: RangeInclusive<u32> = 1..=1000;

    fn is_possible(self) -> bool {
        Cost::MEMORY_KIB.contains(&self.memory_kib) && Cost::PASSES.contains(&self.passes)
    }
}

pub type Salt = [u8; 16];
pub type Digest = [u8; 32];

/// A password as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    pub cost: Cost,
    pub salt: Salt,
    pub digest: Digest,
}

impl Hashed {
    /// In a time that does not depend on where the digests differ.
    pub fn matches(&self, digest: &Digest) -> bool {
        let differ = |sum: u8, (a, b): (&u8, &u8)| sum | (a ^ b);
        std::hint::black_box(self.digest.iter().zip(digest).fold(0, differ)) == 0
    }
}

/// Where a logged-in peer serves, and where it logged in from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub ip: IpAddr,
    pub port: u16,
    pub from: IpAddr,
}

/// The record of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub user: Box<str>,
    pub password: Hashed,
    /// On the server's clock of ticks that it has run.
    pub login_at: u64,
    /// There from LOGIN to LOGOUT.
    pub place: Option<Place>,
}

/// First byte of a record; another one is of another version of this program. Its addresses are of IPv4.
const VERSION: u8 = 1;

/// The same with addresses of 16 bytes, those of IPv4 mapped. Written where there is one of IPv6.
const VERSION_IPV6: u8 = 2;

impl Record {
    /// `version, login_at, memory, passes, salt, digest, logged in, ip, port, from, user`; numbers big-endian.
    pub fn encode(&self) -> Bytes {
        let place = self.place.unwrap_or(Place {
            ip: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            from: Ipv4Addr::UNSPECIFIED.into(),
        });
        let version = match (place.ip, place.from) {
            (IpAddr::V4(_), IpAddr::V4(_)) => VERSION,
            _ => VERSION_IPV6,
        };
        let Hashed { cost, salt, digest } = &self.password;
        let mut bytes = vec![version];
        bytes.extend(self.login_at.to_be_bytes());
        bytes.extend(cost.memory_kib.to_be_bytes());
        bytes.extend(cost.passes.to_be_bytes());
        bytes.extend(salt);
        bytes.extend(digest);
        bytes.push(u8::from(self.place.is_some()));
        put_ip(version, place.ip, &mut bytes);
        bytes.extend(place.port.to_be_bytes());
        put_ip(version, place.from, &mut bytes);
        bytes.extend(self.user.as_bytes());
        bytes.into()
    }

    /// `None` when these are not the bytes of a record.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let mut rest = bytes;
        let [version] = take(&mut rest)?;
        let login_at = u64::from_be_bytes(take(&mut rest)?);
        let cost = Cost {
            memory_kib: u32::from_be_bytes(take(&mut rest)?),
            passes: u32::from_be_bytes(take(&mut rest)?),
        };
        let password = Hashed {
            cost,
            salt: take(&mut rest)?,
            digest: take(&mut rest)?,
        };
        let [logged_in] = take(&mut rest)?;
        let ip = take_ip(version, &mut rest)?;
        let port = u16::from_be_bytes(take(&mut rest)?);
        let from = take_ip(version, &mut rest)?;
        let user = std::str::from_utf8(rest).ok()?;
        let valid = logged_in <= 1 && password.cost.is_possible() && check_user(user).is_ok();
        valid.then(|| Record {
            user: user.into(),
            password,
            login_at,
            place: (logged_in == 1).then_some(Place { ip, port, from }),
        })
    }
}

fn put_ip(version: u8, ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) if version == VERSION => out.extend(ip.octets()),
        IpAddr::V4(ip) => out.extend(ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}

fn take_ip(version: u8, bytes: &mut &[u8]) -> Option<IpAddr> {
    match version {
        VERSION => Some(Ipv4Addr::from(take::<4>(bytes)?).into()),
        VERSION_IPV6 => Some(Ipv6Addr::from(take::<16>(bytes)?).to_canonical()),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// One change of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record of a registration, or none any more.
    Peer(PeerId, Option<Bytes>),
    /// A chunk of its list, counted from 0: lines as on the wire.
    Files(PeerId, u32, Option<Bytes>),
    /// What the server's clock shows.
    Clock(u64),
}

/// Changes that are done together or not at all. Acknowledged by [`Done::Written`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub op: u32,
    pub changes: Vec<Change>,
}

/// A password to hash. Acknowledged by [`Done::Hashed`].
#[derive(Clone)]
pub struct Hash {
    pub op: u32,
    pub password: Box<str>,
    pub salt: Salt,
    pub cost: Cost,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash")
            .field("op", &self.op)
            .finish_non_exhaustive()
    }
}

/// What the server has its workers do.
#[derive(Debug)]
pub enum Job {
    Write(Write),
    Hash(Hash),
}

impl Job {
    pub fn is_hash(&self) -> bool {
        matches!(self, Job::Hash(_))
    }

    pub fn is_write(&self) -> bool {
        matches!(self, Job::Write(_))
    }
}

/// What comes back.
#[derive(Debug)]
pub enum Done {
    Written {
        op: u32,
        committed: bool,
    },
    Hashed {
        op: u32,
        /// `None` when it could not be computed (no memory).
        digest: Option<Digest>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let place = Place {
            ip: Ipv4Addr::new(1, 2, 3, 4).into(),
            port: 5678,
            from: Ipv4Addr::LOCALHOST.into(),
        };
        let v6 = Ipv6Addr::LOCALHOST.into();
        let mixed = Place { from: v6, ..place };
        let both = Place { ip: v6, ..mixed };
        for place in [None, Some(place), Some(mixed), Some(both)] {
            let record = Record {
                user: "m\u{fc}ller".into(),
                password: Hashed {
                    cost: Cost {
                        memory_kib: 19_456,
                        passes: 2,
                    },
                    salt: [1; 16],
                    digest: [2; 32],
                },
                login_at: 1 << 40,
                place,
            };
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Some(record));
            for cut in 0..76 {
                assert_eq!(Record::decode(&bytes[..cut]), None, "cut at {cut}");
            }
            let mut other = bytes.to_vec();
            other[0] = 9;
            assert_eq!(Record::decode(&other), None);
        }
    }

    #[test]
    fn a_digest_matches_only_itself() {
        let digest = [7; 32];
        let cost = Cost {
            memory_kib: 8,
            passes: 1,
        };
        let hashed = Hashed {
            cost,
            salt: [0; 16],
            digest,
        };
        assert!(hashed.matches(&digest));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!hashed.matches(&other), "bit {bit}");
        }
    }
}

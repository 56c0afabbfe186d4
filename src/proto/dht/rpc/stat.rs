//! XSTAT: what a node tells of itself. An extension of ours; a plain peer closes the connection, as it does on every
//! word that it does not know, and is then a member of which only the address is known.
//!
//! ```text
//! S  XSTAT
//! P  1, or 0 alone: it is no member (it has not joined yet, it gives its range away, it has left)
//! P  number of entries that it holds, copies of other members' ranges included
//! P  bytes of their values
//! P  PeerAddress of its next node
//! P  PeerAddress of its previous node, or 0.0.0.0:0 when it knows none
//! P  its role: member, joining or leaving
//! P  R: on how many members it keeps each of its entries, itself included; 1: there are no copies
//! P  whole seconds left of the lease under which it serves, or - when it needs none
//! P  count of its successors, and the PeerAddress of each: its next, the one after that, ...
//! P  count of its holders, and of each the PeerAddress and an acknowledgement: it has every entry of the range
//! ```
//!
//! A *holder* of a member is another member that keeps copies of its range. A *lease* is the right to serve a range for a
//! time, granted by the member that would inherit the range.
//!
//! Invariant: each list has at most [`LISTED_MAX`] elements. [`put`] cuts a longer one, and [`read`] refuses an announced
//! count beyond it before anything of the list is read.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::proto::dht::wire::{self, Malformed};

/// Successors, and holders, that an answer can name: as many as one node can know of.
pub const LISTED_MAX: usize = 8;

/// An answer to XSTAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub entries: u64,
    pub value_bytes: u64,
    pub next: SocketAddrV4,
    pub prev: Option<SocketAddrV4>,
    pub standing: Standing,
    pub replicas: u64,
    /// `None`: it serves without a lease.
    pub lease_secs: Option<u64>,
    pub successors: Vec<SocketAddrV4>,
    pub holders: Vec<Holder>,
}

/// What a node that owns a range is about to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Member,
    /// The ring lists it already; its own confirmation is under way.
    Joining,
    Leaving,
}

/// A member with copies of another one's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub addr: SocketAddrV4,
    /// It has every entry of the range.
    pub complete: bool,
}

impl Standing {
    const ALL: [Standing; 3] = [Standing::Member, Standing::Joining, Standing::Leaving];

    /// As it goes over the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Member => "member",
            Standing::Joining => "joining",
            Standing::Leaving => "leaving",
        }
    }
}

const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
const NOBODY_LINE: &[u8] = b"0.0.0.0:0\n";
const NO_LEASE_LINE: &[u8] = b"-\n";

/// Appends an answer; none of a node that is no member.
pub fn put(out: &mut Vec<u8>, stat: Option<&Stat>) {
    wire::put_ack(out, stat.is_some());
    let Some(stat) = stat else { return };
    wire::put_number(out, stat.entries);
    wire::put_number(out, stat.value_bytes);
    wire::put_address(out, stat.next);
    wire::put_address(out, stat.prev.unwrap_or(NOBODY));
    out.extend_from_slice(stat.standing.word().as_bytes());
    out.push(b'\n');
    wire::put_number(out, stat.replicas);
    match stat.lease_secs {
        Some(secs) => wire::put_number(out, secs),
        None => out.extend_from_slice(NO_LEASE_LINE),
    }
    let successors = &stat.successors[..stat.successors.len().min(LISTED_MAX)];
    wire::put_number(out, successors.len() as u64);
    for addr in successors {
        wire::put_address(out, *addr);
    }
    let holders = &stat.holders[..stat.holders.len().min(LISTED_MAX)];
    wire::put_number(out, holders.len() as u64);
    for holder in holders {
        wire::put_address(out, holder.addr);
        wire::put_ack(out, holder.complete);
    }
}

/// Reads an answer whole; `None` in it is a node that is no member. It is short, so each call begins at its first byte.
///
/// # Errors
/// Those of its lines; [`Malformed::Number`] for a list that is too long.
pub fn read(input: &[u8]) -> Result<Option<(Option<Stat>, usize)>, Malformed> {
    let mut lines = Lines { input, used: 0 };
    match lines.stat() {
        Ok(stat) => Ok(Some((stat, lines.used))),
        Err(Stop::More) => Ok(None),
        Err(Stop::Malformed(malformed)) => Err(malformed),
    }
}

/// Why an answer is not read on.
enum Stop {
    More,
    Malformed(Malformed),
}

/// The lines of an answer, one after the other.
struct Lines<'a> {
    input: &'a [u8],
    used: usize,
}

/// A reader of one line, as those of [`wire`].
type Reader<T> = fn(&[u8], usize) -> Result<Option<(T, usize)>, Malformed>;

impl Lines<'_> {
    fn take<T>(&mut self, read: Reader<T>) -> Result<T, Stop> {
        let line = read(&self.input[self.used..], 0).map_err(Stop::Malformed)?;
        let (item, used) = line.ok_or(Stop::More)?;
        self.used += used;
        Ok(item)
    }

    /// Takes this line, if it is the one that follows.
    fn skip(&mut self, line: &[u8]) -> bool {
        let is_next = self.input[self.used..].starts_with(line);
        if is_next {
            self.used += line.len();
        }
        is_next
    }

    fn stat(&mut self) -> Result<Option<Stat>, Stop> {
        if !self.take(wire::ack)? {
            return Ok(None);
        }
        Ok(Some(Stat {
            entries: self.take(wire::number)?,
            value_bytes: self.take(wire::number)?,
            next: self.take(wire::address)?,
            prev: match self.skip(NOBODY_LINE) {
                true => None,
                false => Some(self.take(wire::address)?),
            },
            standing: self.take(standing)?,
            replicas: self.take(wire::number)?,
            lease_secs: match self.skip(NO_LEASE_LINE) {
                true => None,
                false => Some(self.take(wire::number)?),
            },
            successors: self.list(|lines| lines.take(wire::address))?,
            holders: self.list(|lines| {
                Ok(Holder {
                    addr: lines.take(wire::address)?,
                    complete: lines.take(wire::ack)?,
                })
            })?,
        }))
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Stop>) -> Result<Vec<T>, Stop> {
        let count = self.take(wire::number)?;
        if count > LISTED_MAX as u64 {
            return Err(Stop::Malformed(Malformed::Number));
        }
        (0..count).map(|_| item(self)).collect()
    }
}

fn standing(input: &[u8], seen: usize) -> Result<Option<(Standing, usize)>, Malformed> {
    let Some((text, used)) = wire::line(input, seen)? else {
        return Ok(None);
    };
    let mut all = Standing::ALL.into_iter();
    let standing = all.find(|standing| standing.word().as_bytes() == text);
    standing.map(|it| Some((it, used))).ok_or(Malformed::Role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, last].into(), 4711)
    }

    fn holders(count: u8) -> Vec<Holder> {
        let holder = |n| Holder {
            addr: addr(100 + n),
            complete: n % 2 == 0,
        };
        (0..count).map(holder).collect()
    }

    fn stat(prev: Option<SocketAddrV4>, lease_secs: Option<u64>, listed: u8) -> Stat {
        Stat {
            entries: 7,
            value_bytes: u64::MAX,
            next: addr(5),
            prev,
            standing: Standing::ALL[usize::from(listed) % 3],
            replicas: 3,
            lease_secs,
            successors: (0..listed).map(addr).collect(),
            holders: holders(listed),
        }
    }

    #[test]
    fn what_is_written_is_read_once_it_is_whole() {
        let stats = [
            stat(None, None, 0),
            stat(Some(addr(6)), Some(0), 1),
            stat(Some(addr(6)), Some(u64::MAX), LISTED_MAX as u8),
        ];
        for stat in stats {
            let mut text = Vec::new();
            put(&mut text, Some(&stat));
            for there in 0..text.len() {
                assert_eq!(read(&text[..there]), Ok(None));
            }
            let len = text.len();
            assert_eq!(read(&text), Ok(Some((Some(stat.clone()), len))));
            text.extend_from_slice(b"LOCATE\n");
            assert_eq!(read(&text), Ok(Some((Some(stat), len))));
        }
        let mut none = Vec::new();
        put(&mut none, None);
        assert_eq!((read(&none), &none[..]), (Ok(Some((None, 2))), &b"0\n"[..]));
    }

    #[test]
    fn a_list_that_is_too_long_is_cut_and_refused() {
        let mut text = Vec::new();
        put(&mut text, Some(&stat(None, None, LISTED_MAX as u8 + 1)));
        let (told, used) = read(&text).expect("good").expect("whole");
        let told = told.expect("a member");
        assert_eq!(used, text.len());
        assert_eq!((told.successors.len(), told.holders.len()), (8, 8));
        let base = b"1\n7\n7\n10.0.0.5:1\n0.0.0.0:0\nmember\n3\n-\n";
        for lists in ["9\n", "18446744073709551615\n", "0\n9\n"] {
            let text = [base, lists.as_bytes()].concat();
            assert_eq!(read(&text), Err(Malformed::Number), "{lists}");
        }
    }

    #[test]
    fn every_line_is_judged_as_soon_as_it_is_there() {
        for (text, malformed) in [
            ("no\n", Malformed::Ack),
            ("1\n-1\n", Malformed::Number),
            ("1\n1\n1\n0.0.0.0:0\n", Malformed::Address),
            ("1\n1\n1\n10.0.0.5:1\n0.0.0.0:1\n", Malformed::Address),
            ("1\n1\n1\n10.0.0.5:1\n0.0.0.0:0\nmembers\n", Malformed::Role),
            ("1\n1\n1\n10.0.0.5:1\n0.0.0.0:0\nMEMBER\n", Malformed::Role),
            (
                "1\n1\n1\n10.0.0.5:1\n0.0.0.0:0\nmember\n3\n--\n",
                Malformed::Number,
            ),
            (
                "1\n1\n1\n10.0.0.5:1\n0.0.0.0:0\nmember\n3\n-\n0\n1\n10.0.0.6:1\nyes\n",
                Malformed::Ack,
            ),
        ] {
            assert_eq!(read(text.as_bytes()), Err(malformed), "{text:?}");
        }
    }
}

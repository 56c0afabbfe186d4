//! What a process runs: services and what stands behind them, put together.
//!
//! A protocol knows no store. What it wants kept is a [`Durable`] write here, which the [`Committer`], the worker of a
//! durable node, turns into commits.

pub mod index;

use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::dht::entries::Entries;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::proto::ring::tracker::{self, Known};
use crate::proto::ring::wire::{Encoding, Strings};
use crate::store::{Change, Store, StoreError, Table};

#[cfg(feature = "storage")]
pub mod transfer;

/// Where the entries of a DHT node are kept: key = the 20 bytes of the id, big-endian, so that the
/// store's order is the ring's.
const ENTRIES: Table = Table::new("dht-entries");

/// Where the members of a tracker's ring are kept: key = the 8 bytes of the number, big-endian, so that the store's
/// order is the ring's; value = see [`member_bytes`].
const MEMBERS: Table = Table::new("ring-members");

/// A write of a protocol that is acknowledged once it is on disk.
pub trait Durable: Send + 'static {
    /// What the protocol is told of it.
    type Written: Send + 'static;

    /// What it changes in the store.
    fn changes(&self, changes: &mut Vec<Change>);

    /// It is on disk, or it is not and the store is as it was before.
    fn written(self, committed: bool) -> Self::Written;
}

/// Commits the writes of a node, all that came in since the last commit in one.
pub struct Committer<S, W> {
    store: S,
    changes: Vec<Change>,
    /// The last commit failed; said once, not for every group while a disk stays full.
    failing: bool,
    writes: PhantomData<fn(W)>,
}

impl<S: Store, W> Committer<S, W> {
    pub fn new(store: S) -> Committer<S, W> {
        Committer {
            store,
            changes: Vec::new(),
            failing: false,
            writes: PhantomData,
        }
    }
}

impl<S: Store> Committer<S, Write> {
    /// Takes over `store` and reads the entries of a DHT node that are in it.
    pub fn load(mut store: S) -> Result<(Self, Entries), StoreError> {
        let mut entries = Entries::default();
        let mut foreign = 0_u64;
        store.load(
            ENTRIES,
            &mut |key: &[u8], value: Bytes| match key.try_into() {
                Ok(key) => entries.insert(Id::from_be_bytes(key), value),
                Err(_) => foreign += 1,
            },
        )?;
        if foreign > 0 {
            log::warn!("{foreign} stored entries have keys that are no ids; they are ignored");
        }
        Ok((Committer::new(store), entries))
    }
}

impl<S: Store> Committer<S, tracker::Write> {
    /// Takes over `store` and reads the members of a tracker's ring that are in it, in the order of their numbers.
    pub fn load_members(mut store: S) -> Result<(Self, Vec<Known>), StoreError> {
        let mut members = Vec::new();
        let mut foreign = 0_u64;
        store.load(
            MEMBERS,
            &mut |key: &[u8], value: Bytes| match member_from_bytes(key, &value) {
                Some(member) => members.push(member),
                None => foreign += 1,
            },
        )?;
        if foreign > 0 {
            log::warn!("{foreign} stored members are none that we wrote; they are ignored");
        }
        Ok((Committer::new(store), members))
    }
}

impl<S: Store + 'static, W: Durable> Work for Committer<S, W> {
    type Job = W;
    type Done = W::Written;

    fn run(&mut self, jobs: &mut Vec<W>, done: &mut Vec<W::Written>) {
        self.changes.clear();
        for write in jobs.iter() {
            write.changes(&mut self.changes);
        }
        let result = self.store.commit(&self.changes);
        // Handles of the values; the loop has its own.
        self.changes.clear();
        let committed = result.is_ok();
        match result {
            Err(e) if !self.failing => log::error!("writes are refused: {e}"),
            Ok(()) if self.failing => log::warn!("writes are accepted again"),
            _ => {}
        }
        self.failing = !committed;
        done.extend(jobs.drain(..).map(|write| write.written(committed)));
    }
}

impl Durable for Write {
    type Written = Written;

    fn changes(&self, changes: &mut Vec<Change>) {
        match &self.changes {
            Changes::One(key, value) => changes.push(change(*key, value)),
            Changes::Many(many) => {
                changes.extend(many.iter().map(|(key, value)| change(*key, value)));
            }
        }
    }

    fn written(self, committed: bool) -> Written {
        Written {
            write: self,
            committed,
        }
    }
}

fn change(key: Id, value: &Option<Bytes>) -> Change {
    Change {
        table: ENTRIES,
        key: key.to_be_bytes().into(),
        value: value.clone(),
    }
}

impl Durable for tracker::Write {
    type Written = tracker::Written;

    fn changes(&self, changes: &mut Vec<Change>) {
        changes.push(match &self.change {
            tracker::Change::Add(member) => {
                Change::put(MEMBERS, member.number.to_be_bytes(), member_bytes(member))
            }
            tracker::Change::Remove(number) => Change::remove(MEMBERS, number.to_be_bytes()),
        });
    }

    fn written(self, _committed: bool) -> tracker::Written {
        // The Committer has said it; the tracker goes on with what it has in memory.
        self.written()
    }
}

/// ip (4 bytes), port (2, big-endian), encoding (1), handle. The encoding is the protocol of a pickle, with
/// [`BYTE_STRINGS`] added where its strings are bytes, or one of the two below.
fn member_bytes(member: &Known) -> Bytes {
    let encoding = match member.encoding {
        Encoding::Pickle { protocol, strings } => match strings {
            Strings::Bytes => protocol | BYTE_STRINGS,
            Strings::Unicode => protocol,
        },
        Encoding::Literal => LITERAL,
        Encoding::Bare => BARE,
    };
    let mut bytes = member.addr.ip().octets().to_vec();
    bytes.extend(member.addr.port().to_be_bytes());
    bytes.push(encoding);
    bytes.extend(member.handle.as_bytes());
    bytes.into()
}

const BYTE_STRINGS: u8 = 0x80;
const LITERAL: u8 = 0x40;
const BARE: u8 = 0x41;

fn member_from_bytes(key: &[u8], value: &[u8]) -> Option<Known> {
    let number = u64::from_be_bytes(key.try_into().ok()?);
    let (&ip, rest) = value.split_first_chunk::<4>()?;
    let (&port, rest) = rest.split_first_chunk::<2>()?;
    let (&encoding, handle) = rest.split_first()?;
    let encoding = match encoding {
        LITERAL => Encoding::Literal,
        BARE => Encoding::Bare,
        pickle => Encoding::Pickle {
            protocol: Some(pickle & !BYTE_STRINGS).filter(|protocol| *protocol <= 5)?,
            strings: if pickle & BYTE_STRINGS == 0 {
                Strings::Unicode
            } else {
                Strings::Bytes
            },
        },
    };
    let addr = SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_be_bytes(port));
    Some(Known {
        number,
        handle: str::from_utf8(handle).ok()?.into(),
        addr,
        encoding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn members_come_back_as_they_were() {
        let pickle = |protocol, strings| Encoding::Pickle { protocol, strings };
        let encodings = [
            Encoding::Literal,
            Encoding::Bare,
            pickle(0, Strings::Bytes),
            pickle(2, Strings::Unicode),
            pickle(5, Strings::Unicode),
        ];
        let members = (0..).zip(encodings).map(|(number, encoding)| Known {
            number: number * 1000,
            handle: format!("z\u{fc}rich {number}").into(),
            addr: SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 65_535),
            encoding,
        });
        let members: Vec<Known> = members.collect();
        for member in &members {
            let key = member.number.to_be_bytes();
            let bytes = member_bytes(member);
            assert_eq!(member_from_bytes(&key, &bytes).as_ref(), Some(member));
            for cut in 0..7 {
                assert_eq!(member_from_bytes(&key, &bytes[..cut]), None);
            }
        }
        let mut store = Memory::new();
        let put = |m: &Known| Change::put(MEMBERS, m.number.to_be_bytes(), member_bytes(m));
        let foreign = Change::put(MEMBERS, "x", "y");
        let changes: Vec<Change> = members.iter().rev().map(put).chain([foreign]).collect();
        store.commit(&changes).expect("a store in memory");
        let (_, loaded) = Committer::load_members(store).expect("a store in memory");
        assert_eq!(loaded, members);
    }
}

//! The members of a tracker's ring in the store.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;

use super::commit::{Committer, Durable};
use super::load_error::LoadError;
use crate::proto::ring::tracker::{self, PersistedMember};
use crate::proto::ring::wire::{Encoding, Strings};
use crate::store::{Change, Store, Table};

/// Key = the 8 bytes of the number, big-endian, so that the store's order is the ring's; value = see [`member_bytes`].
const MEMBERS: Table = Table::new("ring-members");

impl<S: Store> Committer<S, tracker::Write> {
    /// Takes over `store` and reads the members of a tracker's ring that are in it, in the order of their numbers.
    pub fn load_members(mut store: S) -> Result<(Self, Vec<PersistedMember>), LoadError> {
        let mut members = Vec::new();
        let mut foreign = 0;
        store.load(
            MEMBERS,
            &mut |key: &[u8], value: Bytes| match member_from_bytes(key, &value) {
                Some(member) => members.push(member),
                None => foreign += 1,
            },
        )?;
        LoadError::check_foreign(MEMBERS, foreign)?;
        Ok((Committer::new(store), members))
    }
}

impl Durable for tracker::Write {
    type Written = tracker::Written;
    const WHILE_FAILING: &'static str = "registrations are valid until a restart only";

    fn changes(&mut self, changes: &mut Vec<Change>) {
        changes.push(match &self.change {
            tracker::Change::Add(member) => {
                Change::put(MEMBERS, member.number.to_be_bytes(), member_bytes(member))
            }
            tracker::Change::Remove(number) => Change::remove(MEMBERS, number.to_be_bytes()),
        });
    }

    fn written(self, committed: bool) -> tracker::Written {
        self.written(committed)
    }
}

/// ip (4 bytes), port (2, big-endian), encoding (1), handle. The encoding is the protocol of a pickle, with
/// [`BYTE_STRINGS`] added where its strings are bytes, or one of the two below.
fn member_bytes(member: &PersistedMember) -> Bytes {
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

fn member_from_bytes(key: &[u8], value: &[u8]) -> Option<PersistedMember> {
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
    Some(PersistedMember {
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
        let members = (0..)
            .zip(encodings)
            .map(|(number, encoding)| PersistedMember {
                number: number * 1000,
                handle: format!("z\u{fc}rich {number}").into(),
                addr: SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 65_535),
                encoding,
            });
        let members: Vec<PersistedMember> = members.collect();
        for member in &members {
            let key = member.number.to_be_bytes();
            let bytes = member_bytes(member);
            assert_eq!(member_from_bytes(&key, &bytes).as_ref(), Some(member));
            for cut in 0..7 {
                assert_eq!(member_from_bytes(&key, &bytes[..cut]), None);
            }
        }
        let mut store = Memory::new();
        let put =
            |m: &PersistedMember| Change::put(MEMBERS, m.number.to_be_bytes(), member_bytes(m));
        let changes: Vec<Change> = members.iter().rev().map(put).collect();
        store.commit(&changes).expect("memory");
        let (_, loaded) = Committer::load_members(store).expect("memory");
        assert_eq!(loaded, members);
    }

    #[test]
    fn a_member_that_cannot_be_read_ends_the_start() {
        let mut store = Memory::new();
        let foreign = Change::put(MEMBERS, "x", "y");
        store.commit(&[foreign]).expect("memory");
        let error = Committer::load_members(store).err();
        assert!(
            matches!(error, Some(LoadError::Foreign { count: 1, .. })),
            "{error:?}"
        );
    }
}

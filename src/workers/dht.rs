//! The entries of a DHT node in the store.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::commit::{Committer, Durable};
use super::load_error::LoadError;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::proto::dht::storage::entries::{Entries, Entry};
use crate::proto::dht::storage::version::Version;
use crate::store::{Change, Store, Table};

/// Key = the 20 bytes of the id, big-endian, so that the store's order is the ring's. Value = the version, 8 bytes,
/// big-endian; then a byte that says what follows: [`VALUE`] and the entry's value, or [`TOMBSTONE`] and nothing.
const ENTRIES: Table = Table::new("dht-entries-with-versions");

/// As it was before entries had versions: the value alone. What is there moves at the start.
const ENTRIES_BEFORE: Table = Table::new("dht-entries");

const VALUE: u8 = 1;
const TOMBSTONE: u8 = 0;
const HEAD_BYTES: usize = 9;

/// Entries that move to the new table in one commit.
const MOVED_PER_COMMIT: usize = 1024;

/// The entries count a value as free that only the store's log shares.
#[cfg(feature = "storage")]
const _: () = assert!(
    crate::proto::dht::storage::entries::LOGGED_BYTES_MAX >= crate::store::redb::LOGGED_BYTES_MAX,
    "the log shares no longer values than the entries know of"
);

impl<S: Store> Committer<S, Write> {
    /// Takes over `store` and reads the entries of a DHT node that are in it.
    pub fn load(mut store: S) -> Result<(Self, Entries), LoadError> {
        let mut entries = Entries::default();
        // A node that keeps none drops them as it likes.
        entries.keep_tombstones(true);
        let mut foreign = 0;
        store.load(
            ENTRIES,
            &mut |key: &[u8], row: Bytes| match (key.try_into(), read(row)) {
                (Ok(key), Some(Entry { version, value })) => {
                    entries.merge(Id::from_be_bytes(key), version, value);
                }
                _ => foreign += 1,
            },
        )?;
        LoadError::check_foreign(ENTRIES, foreign)?;
        load_before(&mut store, &mut entries)?;
        Ok((Committer::new(store), entries))
    }
}

/// Reads and moves the entries of a data directory without versions. A start that is cut short goes on with the next.
fn load_before(store: &mut impl Store, entries: &mut Entries) -> Result<(), LoadError> {
    let mut foreign = 0;
    let mut moving = Vec::new();
    store.load(ENTRIES_BEFORE, &mut |key: &[u8], value: Bytes| match key
        .try_into()
        .map(Id::from_be_bytes)
    {
        Ok(key) => {
            if entries.merge(key, Version::ZERO, Some(value)) {
                moving.push(key);
            }
        }
        Err(_) => foreign += 1,
    })?;
    LoadError::check_foreign(ENTRIES_BEFORE, foreign)?;
    for keys in moving.chunks(MOVED_PER_COMMIT) {
        let mut changes = Vec::with_capacity(2 * keys.len());
        for key in keys {
            if let Some(entry) = entries.entry(*key) {
                changes.push(Change::put(ENTRIES, key.to_be_bytes(), row(entry)));
                changes.push(Change::remove(ENTRIES_BEFORE, key.to_be_bytes()));
            }
        }
        store.commit(&changes)?;
    }
    Ok(())
}

impl Durable for Write {
    type Written = Written;

    fn changes(&mut self, changes: &mut Vec<Change>) {
        let keeps_tombstones = self.keeps_tombstones;
        match &mut self.changes {
            Changes::One(key, entry) => changes.push(change(*key, entry, keeps_tombstones)),
            Changes::Many(many) => {
                let each = many.iter_mut();
                changes.extend(each.map(|(key, entry)| change(*key, entry, keeps_tombstones)));
            }
            Changes::Superseded(..) => {}
            Changes::Forget(keys) => {
                let each = keys.iter();
                changes.extend(each.map(|key| Change::remove(ENTRIES, key.to_be_bytes())));
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

/// The change of an entry, whose value is then a part of its row: the store and the node's memory share one copy.
fn change(key: Id, entry: &mut Entry, keeps_tombstones: bool) -> Change {
    if entry.value.is_none() && !keeps_tombstones {
        return Change::remove(ENTRIES, key.to_be_bytes());
    }
    let row = row(entry);
    if let Some(value) = &mut entry.value {
        *value = row.slice(HEAD_BYTES..);
    }
    Change::put(ENTRIES, key.to_be_bytes(), row)
}

fn row(entry: &Entry) -> Bytes {
    let value = entry.value.as_deref().unwrap_or_default();
    let mut row = BytesMut::with_capacity(HEAD_BYTES + value.len());
    row.put_u64(entry.version.0);
    row.put_u8(if entry.value.is_some() {
        VALUE
    } else {
        TOMBSTONE
    });
    row.put_slice(value);
    row.freeze()
}

fn read(row: Bytes) -> Option<Entry> {
    let (version, rest) = row.split_first_chunk()?;
    let version = Version(u64::from_be_bytes(*version));
    let value = match rest {
        [VALUE, ..] => Some(row.slice(HEAD_BYTES..)),
        [TOMBSTONE] => None,
        _ => return None,
    };
    Some(Entry { version, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Work as _;
    use crate::proto::dht::node::Then;
    use crate::store::memory::Memory;

    #[test]
    fn a_stored_key_that_is_no_id_ends_the_start() {
        let value = Some(Bytes::from_static(b"value"));
        let version = Version(7);
        let entry = row(&Entry { version, value });
        for (table, key, row) in [
            (ENTRIES, &b"not 20 bytes"[..], entry),
            (ENTRIES_BEFORE, b"not 20 bytes", "value".into()),
            (ENTRIES, &[7; 20], "value".into()),
            (ENTRIES, &[7; 20], Bytes::from_static(b"12345678\x02")),
        ] {
            let mut store = Memory::new();
            store
                .commit(&[Change::put(table, key, row)])
                .expect("memory");
            let error = Committer::<Memory, Write>::load(store).err();
            assert!(
                matches!(error, Some(LoadError::Foreign { count: 1, .. })),
                "{error:?}"
            );
        }
    }

    /// What a node wrote before entries had versions, on a disk.
    #[cfg(feature = "storage")]
    #[test]
    fn a_data_directory_of_before_is_read() {
        use crate::store::redb::Redb;

        let dir = tempfile::tempdir().unwrap();
        let key = |n: u16| Id::of(&n.to_be_bytes());
        let value = |n: u16| Bytes::from(n.to_string().repeat(usize::from(n % 7)));
        let count = 2 * MOVED_PER_COMMIT as u16 + 1;
        let put = |n| Change::put(ENTRIES_BEFORE, key(n).to_be_bytes(), value(n));
        let puts: Vec<Change> = (0..count).map(put).collect();
        Redb::open(dir.path()).unwrap().commit(&puts).unwrap();
        for start in 0..3 {
            let store = Redb::open(dir.path()).unwrap();
            let (mut committer, entries) = Committer::load(store).unwrap();
            let removed = u16::from(start > 0);
            assert_eq!(entries.len(), usize::from(count - removed), "start {start}");
            for n in removed..count {
                let entry = entries.entry(key(n)).unwrap();
                assert_eq!(entry.version, Version::ZERO);
                assert_eq!(entry.value.as_ref(), Some(&value(n)));
            }
            let write = Write {
                changes: Changes::Forget(vec![key(0)]),
                keeps_tombstones: false,
                then: Then::Nothing,
            };
            committer.run(&mut vec![write], &mut Vec::new());
        }
    }

    #[test]
    fn a_start_reads_what_was_written() {
        let mut committer = Committer::<Memory, Write>::new(Memory::new());
        let id = |n| Id::from_be_bytes([n; 20]);
        let entry = |n, value: Option<&'static str>| Entry {
            version: Version(n),
            value: value.map(Bytes::from),
        };
        let all = vec![
            (id(1), entry(10, Some("one"))),
            (id(2), entry(20, Some(""))),
            (id(3), entry(30, None)),
            (id(4), entry(40, Some("four"))),
        ];
        let write = |changes, keeps_tombstones| Write {
            changes,
            keeps_tombstones,
            then: Then::Nothing,
        };
        let mut jobs = vec![
            write(Changes::Many(all.clone()), true),
            write(Changes::Forget(vec![id(4)]), true),
            write(Changes::One(id(5), entry(50, Some("five"))), true),
            write(Changes::One(id(5), entry(60, None)), false),
        ];
        let mut done = Vec::new();
        committer.run(&mut jobs, &mut done);
        assert!(done.iter().all(|written| written.committed));
        let (_, entries) = Committer::<_, Write>::load(committer.into_store()).expect("memory");
        let read: Vec<_> = entries
            .arc_with_tombstones(Id::ZERO, Id::ZERO)
            .map(|(key, entry)| (key, entry.clone()))
            .collect();
        assert_eq!(read, all[..3]);
        assert_eq!(entries.clock(), Version(30));
        assert_eq!((entries.len(), entries.tombstones()), (2, 1));
    }
}

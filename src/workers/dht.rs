//! The entries of a DHT node in the store.

use bytes::Bytes;

use super::commit::{Committer, Durable};
use super::load_error::LoadError;
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, Write, Written};
use crate::proto::dht::storage::entries::Entries;
use crate::store::{Change, Store, Table};

/// Key = the 20 bytes of the id, big-endian, so that the store's order is the ring's; value = the entry's.
const ENTRIES: Table = Table::new("dht-entries");

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
        let mut foreign = 0;
        store.load(
            ENTRIES,
            &mut |key: &[u8], value: Bytes| match key.try_into() {
                Ok(key) => entries.insert(Id::from_be_bytes(key), value),
                Err(_) => foreign += 1,
            },
        )?;
        LoadError::check_foreign(ENTRIES, foreign)?;
        Ok((Committer::new(store), entries))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn a_stored_key_that_is_no_id_ends_the_start() {
        let mut store = Memory::new();
        let entry = Change::put(ENTRIES, [7; 20], "value");
        store.commit(std::slice::from_ref(&entry)).expect("memory");
        let foreign = Change::put(ENTRIES, "not 20 bytes", "value");
        store.commit(&[foreign]).expect("memory");
        let error = Committer::<Memory, Write>::load(store).err();
        assert!(
            matches!(error, Some(LoadError::Foreign { count: 1, .. })),
            "{error:?}"
        );
    }
}

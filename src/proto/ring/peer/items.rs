//! The items that a peer has of the database.
//!
//! For: what is there, what is missing, when all is there. Not for: which item is queried next (`query_order.rs`).
//!
//! Invariants: `bytes <= ITEMS_BYTES_MAX`; memory follows the items that are there, not the number that the tracker announces;
//! all items below `whole_until` are there.

use std::collections::BTreeMap;

use crate::proto::ring::wire::Item;

/// What the items of a peer may take in all: the largest database of our tracker, and as much again for keeping it.
pub const ITEMS_BYTES_MAX: usize = 128 << 20;

/// What an item costs beside its text.
const ITEM_OVERHEAD_BYTES: usize = 48;

#[derive(Debug, Default)]
pub struct Items {
    /// How many there are in all; `None` before the tracker has said it.
    total: Option<u32>,
    have: BTreeMap<u32, Box<str>>,
    /// All below this are there.
    whole_until: u32,
    bytes: usize,
}

impl Items {
    /// What the tracker says of its database: its size, and the item to host. When it is another database than before,
    /// everything that was gathered of the old one is forgotten.
    pub(super) fn begin(&mut self, total: u32, item: Option<&Item<'_>>) {
        let differs = item.is_some_and(|item| {
            let known = self.have.get(&item.seq);
            known.is_some_and(|known| **known != *item.data)
        });
        if self.total != Some(total) || differs {
            *self = Items {
                total: Some(total),
                ..Items::default()
            };
        }
        if let Some(item) = item {
            self.insert(item);
        }
    }

    /// Whether it was missing.
    pub(super) fn insert(&mut self, item: &Item<'_>) -> bool {
        let bytes = self.bytes + item.data.len() + ITEM_OVERHEAD_BYTES;
        if !self.lacks(item.seq) || bytes > ITEMS_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.have.insert(item.seq, (*item.data).into());
        while self.have.contains_key(&self.whole_until) {
            self.whole_until += 1;
        }
        true
    }

    pub fn get(&self, seq: u32) -> Option<&str> {
        self.have.get(&seq).map(|data| &**data)
    }

    /// No item has this number.
    pub(super) fn is_beyond(&self, seq: u32) -> bool {
        self.total.is_some_and(|total| seq >= total)
    }

    fn lacks(&self, seq: u32) -> bool {
        self.total.is_some_and(|total| seq < total) && !self.have.contains_key(&seq)
    }

    /// The lowest missing item from `seq` on.
    pub(super) fn missing_from(&self, seq: u32) -> Option<u32> {
        let mut missing = seq.max(self.whole_until);
        for (have, _) in self.have.range(missing..) {
            if *have != missing {
                break;
            }
            missing += 1;
        }
        self.lacks(missing).then_some(missing)
    }

    pub fn is_complete(&self) -> bool {
        self.total == Some(self.whole_until)
    }

    pub fn count(&self) -> usize {
        self.have.len()
    }

    pub fn total(&self) -> Option<u32> {
        self.total
    }

    /// What is there, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.have.iter().map(|(seq, data)| (*seq, &**data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(seq: u32, data: &str) -> Item<'_> {
        Item {
            seq,
            data: data.into(),
        }
    }

    #[test]
    fn gathers_what_is_missing() {
        let mut items = Items::default();
        assert_eq!((items.missing_from(0), items.is_complete()), (None, false));
        assert!(!items.insert(&item(0, "early")), "of no database yet");
        items.begin(5, Some(&item(2, "c")));
        assert_eq!(items.missing_from(0), Some(0));
        assert_eq!(items.missing_from(2), Some(3));
        assert!(items.insert(&item(0, "a")) && items.insert(&item(1, "b")));
        assert!(!items.insert(&item(1, "B")) && !items.insert(&item(5, "f")));
        assert_eq!(items.missing_from(0), Some(3));
        assert!(items.insert(&item(4, "e")) && !items.is_complete());
        assert_eq!((items.missing_from(4), items.is_beyond(5)), (None, true));
        assert!(items.insert(&item(3, "d")) && items.is_complete());
        assert_eq!(items.missing_from(0), None);
        let all: Vec<(u32, &str)> = items.iter().collect();
        assert_eq!(all, [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]);
    }

    #[test]
    fn another_database_is_another_collection() {
        let mut items = Items::default();
        items.begin(2, Some(&item(0, "a")));
        items.insert(&item(1, "b"));
        items.begin(2, Some(&item(1, "b")));
        assert!(items.is_complete(), "the same one again");
        items.begin(2, Some(&item(1, "B")));
        assert_eq!((items.get(0), items.get(1)), (None, Some("B")));
        items.begin(1, None);
        assert_eq!((items.count(), items.missing_from(0)), (0, Some(0)));
    }

    #[test]
    fn no_more_than_memory_is_meant_for() {
        let mut items = Items::default();
        items.begin(u32::MAX, None);
        let data = "x".repeat(32 << 10);
        let taken = (0..8192).take_while(|seq| items.insert(&item(*seq, &data)));
        let taken = taken.count();
        assert_eq!(taken, ITEMS_BYTES_MAX / (data.len() + ITEM_OVERHEAD_BYTES));
        items.begin(1, None);
        assert!(items.insert(&item(0, &data)), "another database");
    }

    #[test]
    fn the_last_number_there_is() {
        let mut items = Items::default();
        items.begin(u32::MAX, Some(&item(u32::MAX - 1, "z")));
        assert_eq!(items.missing_from(u32::MAX - 1), None);
        assert_eq!(items.missing_from(0), Some(0));
    }
}

//! The log in front of the tables: what makes a commit of many changes as cheap as one of few.
//!
//! Changes of random keys each touch a page of their own. So a commit writes its changes as one
//! record at the end of the log and leaves the tables alone; what the log holds is also kept in
//! memory, where [`Log::load`] lays it over the tables. Two redb tables take turns as the log:
//!
//! ```text
//!   commit -> active log -- full --> folding log -- in slices, in the order of keys --> tables
//! ```
//!
//! When the active log is full they change places, and the commits that follow carry the old
//! one's changes into the tables along with their own record: in slices, so that none takes long,
//! and twice as much as they write, so that the folding log is done before the active one is full.
//! In the order of keys, because neighbours share pages, and thus the more, the longer the log.
//! How far it got is noted with each slice, and with the last one the log is dropped.
//!
//! Large values are not written twice: they go into their tables at once (they are *direct*), and
//! the record only says so, to have older logged values of the key forgotten.
//!
//! A record stays where it was written until its log goes, so a file that had been fuller gives
//! its room back to the system later than without a log; the store itself uses it again at once.
//!
//! Nothing is folded at the start or the end, nor while nothing comes in: reading the log is
//! bounded and cheaper than folding it, and a node whose disk is full can start and be read.
//!
//! Invariants:
//! - records are numbered by their commits, without a gap, also from one log to the other; the
//!   last one is the last commit's, and there is one for every commit, even an empty one;
//! - tables with the logs replayed over them, older first, are the entries, after every commit:
//!   a folded change would be replayed with the same effect;
//! - memory holds exactly what the logs hold and the tables do not yet;
//! - `folding` is `None` exactly if the inactive log is empty.

use std::collections::BTreeMap;

use ::redb::{
    Database, Error, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use bytes::Bytes;

use super::definition;
use crate::store::{Change, Key, Table};

mod record;
#[cfg(test)]
mod tests;

/// The two logs: number of the commit, record.
const LOGS: [TableDefinition<u64, &[u8]>; 2] = [
    TableDefinition::new("peerloop/log-0"),
    TableDefinition::new("peerloop/log-1"),
];

/// Table and key of the last change folded, while the inactive log is there: a node that restarts
/// often would begin again each time, and never be done.
const FOLDED: TableDefinition<(), (&str, &[u8])> = TableDefinition::new("peerloop/folded");

/// What a change counts in addition to its bytes: its place in memory, and the work of folding it.
const CHANGE_BYTES: usize = 128;

/// What commits fold, relative to what they write, while there is something to fold. Above 1, so
/// that the folding log is done before the active one is full; the higher, the longer the slices.
const FOLD_FACTOR: usize = 2;

/// How much is logged, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// A log of this size is folded. Up to two of them are in the file and in memory, where the
    /// values are mostly shared with their readers. At 64 MiB, 260,000 changes of 100 bytes,
    /// folding costs 2 µs a change among 600,000 entries and 3.5 µs among 3,000,000; at 16 MiB,
    /// twice as much.
    pub(super) log_bytes_max: usize,
    /// What is folded at a time, at least, to touch each inner page in few slices. At 256 KiB,
    /// 1,000 changes of 100 bytes, it makes one commit in some take 2 ms longer; groups of 1,000
    /// fold 2,000 and take 6 to 17 ms longer.
    pub(super) slice_bytes_min: usize,
    /// A larger value is direct. Where copying its bytes once more costs what touching a page does.
    pub(super) logged_bytes_max: usize,
    /// The values beyond this size in a record are direct. It also bounds the slices.
    pub(super) record_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            log_bytes_max: 64 << 20,
            slice_bytes_min: 256 << 10,
            logged_bytes_max: 32 << 10,
            record_bytes_max: 1 << 20,
        }
    }
}

/// The logs of an open database.
pub(super) struct Log {
    bounds: Bounds,
    /// Number of the last commit.
    commits: u64,
    /// Which of [`LOGS`] takes records.
    active: usize,
    fresh: Part,
    folding: Option<Part>,
    /// How much the next slice folds.
    owed_bytes: usize,
}

/// What one log holds.
#[derive(Default)]
struct Part {
    tables: BTreeMap<Box<str>, BTreeMap<Key, Logged>>,
    /// The size of its records, also of those that later ones made pointless.
    bytes: usize,
}

type Entries<'a> = ::redb::Table<'a, &'static [u8], &'static [u8]>;

/// The new value of a key; `None` removes it.
type Logged = Option<Bytes>;

/// What a commit is going to write.
pub(super) struct Plan {
    record: Vec<u8>,
    /// Which changes are direct, by their positions, ascending.
    direct: Vec<usize>,
    /// How many changes are folded, in the order of keys.
    fold: usize,
    /// With these the folding log is done.
    done: bool,
}

impl Log {
    /// Reads the logs of a database, of which the first commits are to fold so much in addition.
    pub(super) fn read(
        database: &Database,
        bounds: Bounds,
        owed_bytes: usize,
    ) -> Result<Self, Error> {
        let mut log = Self {
            bounds,
            commits: 0,
            active: 0,
            fresh: Part::default(),
            folding: None,
            owed_bytes,
        };
        let transaction = database.begin_read()?;
        let mut found = Vec::new();
        for (at, name) in LOGS.into_iter().enumerate() {
            let table = match transaction.open_table(name) {
                Err(TableError::TableDoesNotExist(_)) => continue,
                table => table?,
            };
            let first = table.first()?.map(|(number, _)| number.value());
            found.extend(first.map(|first| (first, at, table)));
        }
        found.sort_by_key(|(first, ..)| *first);
        for (first, at, table) in found {
            if log.commits > 0 {
                log.folding = Some(std::mem::take(&mut log.fresh));
            } else {
                log.commits = first.saturating_sub(1);
            }
            log.active = at;
            log.replay(&table)?;
        }
        if let Some(folding) = &mut log.folding {
            match transaction.open_table(FOLDED) {
                Err(TableError::TableDoesNotExist(_)) => {}
                table => {
                    if let Some(last) = table?.get(())? {
                        let (table, key) = last.value();
                        folding.forget_through(table, &Key::from(key));
                    }
                }
            }
        }
        Ok(log)
    }

    /// Number of the last commit.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    fn replay(&mut self, table: &ReadOnlyTable<u64, &'static [u8]>) -> Result<(), Error> {
        for entry in table.iter()? {
            let (number, record) = entry?;
            let number = number.value();
            if number != self.commits + 1 {
                let last = self.commits;
                return Err(Error::Corrupted(format!(
                    "its log has record {number} after {last}"
                )));
            }
            self.commits = number;
            let (mut count, record) = (0, record.value());
            let read = record::read(record, |table, change| {
                count += 1;
                self.note(table, change);
            });
            if read.is_none() {
                return Err(Error::Corrupted(format!(
                    "its log has an unreadable record {number}"
                )));
            }
            self.fresh.bytes += weight(record.len(), count);
        }
        Ok(())
    }

    /// Decides what a commit of these changes writes. If it fails, the log must be read again.
    pub(super) fn plan(&mut self, changes: &[Change]) -> Plan {
        if self.folding.is_none() && self.fresh.bytes >= self.bounds.log_bytes_max {
            self.folding = Some(std::mem::take(&mut self.fresh));
            self.active = 1 - self.active;
            self.owed_bytes = 0;
        }
        let (record, direct) = record::write(changes, self.bounds);
        let mut plan = Plan {
            record,
            direct,
            fold: 0,
            done: false,
        };
        if let Some(folding) = &self.folding {
            self.owed_bytes += FOLD_FACTOR * weight(plan.record.len(), changes.len());
            if self.owed_bytes >= self.bounds.slice_bytes_min {
                (plan.fold, plan.done) = folding.slice(self.owed_bytes);
                self.owed_bytes = 0;
            }
        }
        plan
    }

    /// Writes what was planned.
    pub(super) fn write(
        &self,
        transaction: &WriteTransaction,
        plan: &Plan,
        changes: &[Change],
    ) -> Result<(), Error> {
        // First, so that an older logged value does not replace a direct one.
        if let Some(folding) = &self.folding {
            let last = folding.fold(transaction, plan.fold)?;
            if plan.done {
                transaction.delete_table(LOGS[1 - self.active])?;
                transaction.delete_table(FOLDED)?;
            } else if let Some((table, key)) = last {
                let mut folded = transaction.open_table(FOLDED)?;
                folded.insert((), (table, key.as_slice()))?;
            }
        }
        let mut direct = plan.direct.iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            let is_direct = direct.next_if_eq(&&at).is_some();
            if is_direct || change.value.is_none() {
                let mut table = transaction.open_table(definition(change.table.name()))?;
                if is_direct || self.has_large(&table, &change.key)? {
                    set(&mut table, &change.key, change.value.as_ref())?;
                }
            }
        }
        let mut log = transaction.open_table(LOGS[self.active])?;
        log.insert(self.commits + 1, &plan.record[..])?;
        Ok(())
    }

    /// A large value that is removed is removed at once, besides being logged: its room may be
    /// what somebody on a full disk is waiting for.
    fn has_large(&self, table: &Entries<'_>, key: &Key) -> Result<bool, Error> {
        let value = table.get(key.as_slice())?;
        Ok(value.is_some_and(|value| value.value().len() > self.bounds.logged_bytes_max))
    }

    /// After the commit of what was planned.
    pub(super) fn committed(&mut self, plan: Plan, changes: &[Change]) {
        if plan.done {
            self.folding = None;
        } else if let Some(folding) = &mut self.folding {
            folding.forget(plan.fold);
        }
        let mut direct = plan.direct.into_iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            let value = match direct.next_if_eq(&at) {
                Some(_) => None,
                None => Some(change.value.clone()),
            };
            self.note(change.table.name(), (change.key.clone(), value));
        }
        self.fresh.bytes += weight(plan.record.len(), changes.len());
        self.commits += 1;
    }

    /// Notes what a record says of a key: its logged value, or `None` that its table has it.
    fn note(&mut self, table: &str, (key, logged): (Key, Option<Logged>)) {
        match logged {
            Some(value) => self.fresh.set(table, key, value),
            None => {
                let parts = [Some(&mut self.fresh), self.folding.as_mut()];
                for part in parts.into_iter().flatten() {
                    part.unset(table, &key);
                }
            }
        }
    }

    /// Hands over the entries of a table with the log laid over it, in the order of keys.
    pub(super) fn load(
        &self,
        database: &Database,
        table: Table,
        each: &mut dyn FnMut(&[u8], Bytes),
    ) -> Result<(), Error> {
        let mut logged = BTreeMap::new();
        for part in [self.folding.as_ref(), Some(&self.fresh)]
            .into_iter()
            .flatten()
        {
            let entries = part.tables.get(table.name()).into_iter().flatten();
            logged.extend(entries.map(|(key, value)| (key.as_slice(), value)));
        }
        let mut logged = logged.into_iter().peekable();
        let mut hand_over = |key: &[u8], value: &Logged| {
            if let Some(value) = value {
                each(key, value.clone());
            }
        };

        let transaction = database.begin_read()?;
        let table = match transaction.open_table(definition(table.name())) {
            Err(TableError::TableDoesNotExist(_)) => None,
            table => Some(table?),
        };
        for entry in table.iter().map(ReadableTable::iter) {
            for entry in entry? {
                let (key, value) = entry?;
                let key = key.value();
                while let Some((key, value)) = logged.next_if(|(logged, _)| *logged < key) {
                    hand_over(key, value);
                }
                match logged.next_if(|(logged, _)| *logged == key) {
                    Some((key, value)) => hand_over(key, value),
                    None => hand_over(key, &Some(Bytes::copy_from_slice(value.value()))),
                }
            }
        }
        logged.for_each(|(key, value)| hand_over(key, value));
        Ok(())
    }
}

impl Part {
    fn set(&mut self, table: &str, key: Key, value: Logged) {
        match self.tables.get_mut(table) {
            Some(entries) => drop(entries.insert(key, value)),
            None => {
                let entries = BTreeMap::from([(key, value)]);
                self.tables.insert(table.into(), entries);
            }
        }
    }

    fn unset(&mut self, table: &str, key: &Key) {
        if let Some(entries) = self.tables.get_mut(table) {
            entries.remove(key);
        }
    }

    /// How many of the first changes are about so many bytes, and whether that is all of them.
    fn slice(&self, bytes: usize) -> (usize, bool) {
        let (mut count, mut sum) = (0, 0);
        for (key, value) in self.tables.values().flatten() {
            if sum >= bytes {
                return (count, false);
            }
            let value = value.as_ref().map_or(0, Bytes::len);
            sum += weight(key.as_slice().len() + value, 1);
            count += 1;
        }
        (count, true)
    }

    /// Carries the first changes into the tables; returns the last of them.
    fn fold(
        &self,
        transaction: &WriteTransaction,
        mut count: usize,
    ) -> Result<Option<(&str, &Key)>, Error> {
        let mut last = None;
        for (name, entries) in &self.tables {
            if count == 0 {
                break;
            }
            let mut table = transaction.open_table(definition(name))?;
            for (key, value) in entries.iter().take(count) {
                set(&mut table, key, value.as_ref())?;
                last = Some((&**name, key));
            }
            count -= count.min(entries.len());
        }
        Ok(last)
    }

    /// Drops the first changes.
    fn forget(&mut self, mut count: usize) {
        while count > 0
            && let Some(mut first) = self.tables.first_entry()
        {
            match first.get_mut().pop_first() {
                Some(_) => count -= 1,
                None => drop(first.remove()),
            }
        }
    }

    /// Drops the changes up to a table and key, and this one.
    fn forget_through(&mut self, table: &str, key: &Key) {
        self.tables.retain(|name, _| &**name >= table);
        if let Some(entries) = self.tables.get_mut(table) {
            let mut rest = entries.split_off(key);
            rest.remove(key);
            *entries = rest;
        }
    }
}

fn set(table: &mut Entries<'_>, key: &Key, value: Option<&Bytes>) -> Result<(), Error> {
    match value {
        Some(value) => drop(table.insert(key.as_slice(), &value[..])?),
        None => drop(table.remove(key.as_slice())?),
    }
    Ok(())
}

fn weight(bytes: usize, changes: usize) -> usize {
    bytes + changes * CHANGE_BYTES
}

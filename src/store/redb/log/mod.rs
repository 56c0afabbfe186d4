//! The log in front of the tables: a commit of many changes costs as little as one of few.
//!
//! Changes of random keys each touch a page of their own. So a commit leaves the tables alone and writes all its changes
//! as one record at the end of a log. The changes in the log are also kept in memory; [`Log::load`] merges them into what
//! the tables hold. Two redb tables take turns as the segments of the log:
//!
//! ```text
//!   commit -> active segment -- full --> sealed segment -- checkpoint, in slices, in the order of keys --> tables
//! ```
//!
//! When the active segment is full, it is sealed and the other table becomes the active one. The commits that follow
//! carry the sealed changes into the tables along with their own record: in slices, so that none takes long, and twice
//! as much as they write, so that the sealed segment is empty before the active one is full. In the order of keys,
//! because neighbours share pages, and share the more the larger the segment. Each slice stores its last key; the last
//! slice drops the segment.
//!
//! Large values are not written twice. They go into their tables at once (they are *direct*); the record only names the
//! key, which cancels older logged values of it.
//!
//! A record stays where it was written until its segment is dropped. So a file that was fuller before gives room back to
//! the file system later than it would without a log; the store itself reuses the room at once.
//!
//! There is no checkpoint at the start, at the end or without commits: reading the log is bounded and cheaper, and a node
//! on a full disk can start and be read.
//!
//! What it gains: changes a second of random keys with values of 100 bytes, after 300,000 entries, checkpoints included;
//! medians of 5 rounds in which the stores took turns, and of the ratios within a round. Commit 097edda, 2 shared cores of
//! an AMD EPYC, Linux 6.18, ext4, optimised build without link-time optimisation, other work on the machine:
//!
//! | changes a commit | with the log | redb alone, two phases (log / this) | redb alone, one phase (log / this) |
//! |---|---|---|---|
//! | 1 | 3,000 | 2,850 (1.04) | 3,790 (0.79) |
//! | 64 | 58,600 | 14,700 (4.4) | 15,800 (3.7) |
//! | 1,000 | 121,400 | 30,800 (4.4) | 31,800 (4.4) |
//!
//! `PEERLOOP_RATES_DIR=. cargo test --release --lib commit_rates -- --ignored --nocapture`
//!
//! So a group of 64 costs twice a commit of one change, and 11 to 14 times with redb alone: without the log, 64 clients
//! reach 8 times the rate of one client instead of 17 to 21 times (a node, 600,000 keys; 1,000 clients: 2.4 times slower).
//! It gains nothing for single changes, nor where all clients write the same few keys, which share their pages; while a
//! checkpoint of other keys is owed, such writes are slower than with redb alone.
//!
//! Invariants:
//! - records are numbered by their commits, without a gap, also from one segment to the other; the last one is the last
//!   commit's, and there is one for every commit, also an empty one;
//! - tables with the segments replayed over them, the sealed one first, are the entries, after every commit: replaying a
//!   change that a checkpoint wrote already has the same effect;
//! - memory holds exactly the changes that the segments hold and the tables do not yet;
//! - `sealed` is `None` exactly if the inactive table is empty.

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

/// The tables of the two segments: number of the commit, record.
const SEGMENTS: [TableDefinition<u64, &[u8]>; 2] = [
    TableDefinition::new("peerloop/log-0"),
    TableDefinition::new("peerloop/log-1"),
];

/// Table and key of the last change that a checkpoint wrote, while there is a sealed segment. Without it a node that
/// restarts often would begin the segment again each time and never finish it.
const CHECKPOINTED: TableDefinition<(), (&str, &[u8])> = TableDefinition::new("peerloop/folded");

/// What a change counts in addition to its bytes: its place in memory, and the work of its checkpoint.
const CHANGE_BYTES: usize = 128;

/// What commits checkpoint, relative to what they write, while there is a sealed segment. Above 1, so that it is empty
/// before the active one is full; the higher, the longer the slices.
const CHECKPOINT_FACTOR: usize = 2;

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// A segment of this size is sealed. Up to two of them are in the file and in memory, where the values are mostly
    /// shared with their readers. At 64 MiB, 260,000 changes of 100 bytes, a checkpoint costs 2 µs a change among
    /// 600,000 entries and 3.5 µs among 3,000,000; at 16 MiB, twice as much.
    pub(super) segment_bytes_max: usize,
    /// The least that is checkpointed at a time, so that each inner page is touched by few slices. At 256 KiB, 1,000
    /// changes of 100 bytes, some commits take 2 ms longer; groups of 1,000 checkpoint 2,000 and take 6 to 17 ms longer.
    pub(super) slice_bytes_min: usize,
    /// A larger value is direct. At this size writing its bytes twice costs what touching a page does.
    pub(super) logged_bytes_max: usize,
    /// Once a record would exceed this size, further values are direct. It also bounds the slices.
    pub(super) record_bytes_max: usize,
}

/// The log shares the values of its changes with their readers up to this length.
pub const LOGGED_BYTES_MAX: usize = 32 << 10;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            slice_bytes_min: 256 << 10,
            logged_bytes_max: LOGGED_BYTES_MAX,
            record_bytes_max: 1 << 20,
        }
    }
}

/// The logs of an open database.
pub(super) struct Log {
    bounds: Bounds,
    /// Number of the last commit.
    commits: u64,
    /// Which of [`SEGMENTS`] the active one is in.
    active_table: usize,
    active: Segment,
    sealed: Option<Segment>,
    /// How much the next slice checkpoints.
    owed_bytes: usize,
}

/// The changes of a segment.
#[derive(Default)]
struct Segment {
    tables: BTreeMap<Box<str>, BTreeMap<Key, Logged>>,
    /// The size of its records, including changes that later ones replaced.
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
    /// How many sealed changes are checkpointed, in the order of keys.
    checkpoint: usize,
    /// Whether these are the last ones of the sealed segment.
    done: bool,
}

impl Log {
    /// Reads the log of a database. The first slice is to checkpoint so much in addition.
    pub(super) fn read(
        database: &Database,
        bounds: Bounds,
        owed_bytes: usize,
    ) -> Result<Self, Error> {
        let mut log = Self {
            bounds,
            commits: 0,
            active_table: 0,
            active: Segment::default(),
            sealed: None,
            owed_bytes,
        };
        let transaction = database.begin_read()?;
        let mut found = Vec::new();
        for (at, name) in SEGMENTS.into_iter().enumerate() {
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
                log.sealed = Some(std::mem::take(&mut log.active));
            } else {
                log.commits = first.saturating_sub(1);
            }
            log.active_table = at;
            log.replay(&table)?;
        }
        if let Some(sealed) = &mut log.sealed {
            match transaction.open_table(CHECKPOINTED) {
                Err(TableError::TableDoesNotExist(_)) => {}
                table => {
                    if let Some(last) = table?.get(())? {
                        let (table, key) = last.value();
                        sealed.forget_through(table, &Key::from(key));
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
            if self.commits.checked_add(1) != Some(number) {
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
            self.active.bytes += weight(record.len(), count);
        }
        Ok(())
    }

    /// Decides what a commit of these changes writes. If the commit fails, the log must be read again.
    pub(super) fn plan(&mut self, changes: &[Change]) -> Plan {
        if self.sealed.is_none() && self.active.bytes >= self.bounds.segment_bytes_max {
            self.sealed = Some(std::mem::take(&mut self.active));
            self.active_table = 1 - self.active_table;
            self.owed_bytes = 0;
        }
        let (record, direct) = record::write(changes, self.bounds);
        let mut plan = Plan {
            record,
            direct,
            checkpoint: 0,
            done: false,
        };
        if let Some(sealed) = &self.sealed {
            self.owed_bytes += CHECKPOINT_FACTOR * weight(plan.record.len(), changes.len());
            if self.owed_bytes >= self.bounds.slice_bytes_min {
                (plan.checkpoint, plan.done) = sealed.slice(self.owed_bytes);
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
        if let Some(sealed) = &self.sealed {
            let last = sealed.checkpoint(transaction, plan.checkpoint)?;
            if plan.done {
                transaction.delete_table(SEGMENTS[1 - self.active_table])?;
                transaction.delete_table(CHECKPOINTED)?;
            } else if let Some((table, key)) = last {
                let mut checkpointed = transaction.open_table(CHECKPOINTED)?;
                checkpointed.insert((), (table, key.as_slice()))?;
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
        let mut log = transaction.open_table(SEGMENTS[self.active_table])?;
        log.insert(self.commits + 1, &plan.record[..])?;
        Ok(())
    }

    /// A large value that is removed leaves its table at once, besides being logged: on a full disk the space is needed.
    fn has_large(&self, table: &Entries<'_>, key: &Key) -> Result<bool, Error> {
        let value = table.get(key.as_slice())?;
        Ok(value.is_some_and(|value| value.value().len() > self.bounds.logged_bytes_max))
    }

    /// After the commit of what was planned.
    pub(super) fn committed(&mut self, plan: Plan, changes: &[Change]) {
        if plan.done {
            self.sealed = None;
        } else if let Some(sealed) = &mut self.sealed {
            sealed.forget(plan.checkpoint);
        }
        let mut direct = plan.direct.into_iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            let value = match direct.next_if_eq(&at) {
                Some(_) => None,
                None => Some(change.value.clone()),
            };
            self.note(change.table.name(), (change.key.clone(), value));
        }
        self.active.bytes += weight(plan.record.len(), changes.len());
        self.commits += 1;
    }

    /// Notes what a record says of a key: its logged value, or `None` that its table has it.
    fn note(&mut self, table: &str, (key, logged): (Key, Option<Logged>)) {
        match logged {
            Some(value) => self.active.set(table, key, value),
            None => {
                let segments = [Some(&mut self.active), self.sealed.as_mut()];
                for segment in segments.into_iter().flatten() {
                    segment.unset(table, &key);
                }
            }
        }
    }

    /// Hands over the entries of a table merged with the log, in the order of keys.
    pub(super) fn load(
        &self,
        database: &Database,
        table: Table,
        each: &mut dyn FnMut(&[u8], Bytes),
    ) -> Result<(), Error> {
        let mut logged = BTreeMap::new();
        for segment in [self.sealed.as_ref(), Some(&self.active)]
            .into_iter()
            .flatten()
        {
            let entries = segment.tables.get(table.name()).into_iter().flatten();
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

impl Segment {
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

    /// Writes the first changes into the tables; returns the last of them.
    fn checkpoint(
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
    bytes.saturating_add(changes.saturating_mul(CHANGE_BYTES))
}

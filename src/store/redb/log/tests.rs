//! Tests of the log: its records, its segments, and random work against a model.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::tests::disk::Disk;
use super::super::tests::{A, B, Entries, SMALL, apply_to, blank, over, read, workload};
use super::super::{Redb, State};
use super::*;
use crate::store::{Store, StoreError};

fn log(store: &Redb) -> &Log {
    match &store.state {
        State::Open(handle) => &handle.log,
        _ => panic!("the store is open"),
    }
}

/// Memory holds what reading the file again would give.
fn check_memory(store: &Redb, disk: &Disk) {
    let again = over(&disk.fresh_copy()).unwrap();
    let (log, again) = (log(store), log(&again));
    assert_eq!(log.commits, again.commits);
    assert_eq!(log.active.bytes, again.active.bytes);
    assert_eq!(log.active_table, again.active_table);
    let entries = |segment: &Segment| -> Vec<(Box<str>, Key, Logged)> {
        let tables = segment.tables.iter();
        let flat = tables.flat_map(|(table, entries)| entries.iter().map(move |e| (table, e)));
        flat.map(|(table, (key, value))| (table.clone(), key.clone(), value.clone()))
            .collect()
    };
    assert_eq!(entries(&log.active), entries(&again.active));
    let sealed = |log: &Log| log.sealed.as_ref().map(entries);
    assert_eq!(sealed(log), sealed(again));
}

#[test]
fn the_workload_seals_and_checkpoints() {
    let disk = blank();
    let mut store = over(&disk).unwrap();
    let (mut started, mut ended, mut slices) = (0, 0, 0);
    for group in workload() {
        let left = |store: &Redb| {
            let sealed = log(store).sealed.as_ref();
            sealed.map(|segment| segment.tables.values().flatten().count())
        };
        let (active, before) = (log(&store).active_table, left(&store));
        store.commit(&group).unwrap();
        let after = left(&store);
        started += u32::from(log(&store).active_table != active);
        ended += u32::from(before.is_some() && after.is_none());
        slices += u32::from(after.is_some() && after < before);
        check_memory(&store, &disk);
    }
    assert!(
        started >= 2 && ended >= 1 && slices >= 2,
        "{started}, {ended}, {slices}"
    );
    // The tests of damage are to find both segments.
    assert!(log(&store).sealed.is_some());
}

#[test]
fn restarts_do_not_keep_a_segment_from_being_checkpointed() {
    let mut disk = blank();
    let mut largest = 0;
    for i in 0..400_u16 {
        let mut store = over(&disk).unwrap();
        let log_bytes = log(&store).active.bytes;
        largest = largest.max(log_bytes);
        let mut key = [0; 20];
        key[..2].copy_from_slice(&i.wrapping_mul(40_503).to_be_bytes());
        store.commit(&[Change::put(A, key, vec![1; 100])]).unwrap();
        check_memory(&store, &disk);
        disk = disk.fresh_copy();
    }
    assert!(largest <= SMALL.segment_bytes_max + 300, "{largest}");
}

fn random_change(random: &mut StdRng) -> Change {
    let table = if random.random() { A } else { B };
    let key = [random.random_range(0..40_u8); 20];
    let bytes = match random.random_range(0..10) {
        0..3 => return Change::remove(table, key),
        3 => SMALL.logged_bytes_max + 1,
        _ => random.random_range(0..400),
    };
    Change::put(table, key, vec![random.random(); bytes])
}

#[test]
fn random_work_matches_a_model() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = blank();
        let mut store = over(&disk).unwrap();
        let mut expected = Entries::new();
        for _ in 0..80 {
            let size = random.random_range(0..16);
            let group: Vec<_> = (0..size).map(|_| random_change(&mut random)).collect();
            store.commit(&group).unwrap();
            apply_to(&mut expected, &group);
            assert!(read(&mut store).unwrap() == expected, "seed {seed}");
            match random.random_range(0..8) {
                0 => check_memory(&store, &disk),
                1 => {
                    disk = disk.fresh_copy();
                    store = over(&disk).unwrap();
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_segment_stays_within_its_bound() {
    let disk = blank();
    let mut store = over(&disk).unwrap();
    for i in 0..400_u16 {
        let mut key = [0; 20];
        key[..2].copy_from_slice(&i.wrapping_mul(40_503).to_be_bytes());
        store.commit(&[Change::put(A, key, vec![1; 100])]).unwrap();
        let log = log(&store);
        let commit = 300;
        assert!(log.active.bytes <= SMALL.segment_bytes_max + commit);
        let slice = log.owed_bytes;
        assert!(slice <= SMALL.slice_bytes_min + 2 * commit, "{slice}");
    }
}

#[test]
fn records_read_as_they_were_written() {
    let changes = [
        Change::put(A, [1; 20], "one"),
        Change::put(A, [2; 20], vec![2; SMALL.logged_bytes_max + 1]),
        Change::remove(B, Key::from(&[3; 300][..])),
        Change::put(A, "", ""),
    ];
    let (record, direct) = record::write(&changes, SMALL);
    assert_eq!(direct, [1]);
    let mut found = Vec::new();
    let read = record::read(&record, |table, (key, logged)| {
        found.push((table.to_owned(), key, logged));
    });
    assert!(read.is_some());
    let expected: Vec<_> = (0..changes.len())
        .map(|at| {
            let Change { table, key, value } = changes[at].clone();
            let logged = (!direct.contains(&at)).then_some(value);
            (table.name().to_owned(), key, logged)
        })
        .collect();
    assert_eq!(found, expected);

    let read = |record: &[u8]| record::read(record, |_, _| ());
    for refused in [
        &b""[..],
        b"\x02",
        b"\x01\x01\0\0\0\0\0\0\0\0",
        b"\x01\x04\0\0\0\0",
    ] {
        assert!(read(refused).is_none(), "{refused:?}");
    }
    for at in 0..record.len() {
        let _ = read(&record[..at]);
        let mut damaged = record.clone();
        damaged[at] ^= 0xff;
        let _ = read(&damaged);
    }
}

#[test]
fn a_record_beyond_its_bound_continues_in_the_tables() {
    let value = vec![1; SMALL.logged_bytes_max];
    let changes: Vec<_> = (0..5)
        .map(|key| Change::put(A, [key; 20], value.clone()))
        .collect();
    let (record, direct) = record::write(&changes, SMALL);
    assert!(record.len() < SMALL.record_bytes_max + 1000);
    assert_eq!(direct, [1, 2, 3, 4]);
}

/// redb's checksums rule this out; a program that skips a record must not get away with it.
#[test]
fn a_missing_or_foreign_record_is_damage() {
    type Records<'a> = ::redb::Table<'a, u64, &'static [u8]>;
    let tamper = |change: fn(&mut Records)| {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Redb::open(dir.path()).unwrap();
        for key in 0..4 {
            store.commit(&[Change::put(A, [key; 20], "")]).unwrap();
        }
        drop(store);
        let database = Database::create(dir.path().join("peerloop.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        change(&mut transaction.open_table(SEGMENTS[0]).unwrap());
        transaction.commit().unwrap();
        drop(database);
        Redb::open(dir.path()).err()
    };
    let missing = tamper(|log| drop(log.remove(3).unwrap()));
    assert!(
        matches!(missing, Some(StoreError::Corrupt { .. })),
        "{missing:?}"
    );
    let foreign = tamper(|log| drop(log.insert(5, &[9][..]).unwrap()));
    assert!(
        matches!(foreign, Some(StoreError::Corrupt { .. })),
        "{foreign:?}"
    );
}

//! Tests of the durable store: on files, on a disk that fails at every operation, on damage.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::{Key, Outcome, VALUE_BYTES_MAX};
use disk::{Disk, Room};

pub(super) mod disk;
mod rates;

pub(super) const A: Table = Table::new("a");
pub(super) const B: Table = Table::new("b");

/// So that the workload fills logs, folds them in several slices and has direct values.
pub(super) const SMALL: Bounds = Bounds {
    log_bytes_max: 8 << 10,
    slice_bytes_min: 2 << 10,
    logged_bytes_max: 16 << 10,
    record_bytes_max: 24 << 10,
};

pub(super) type Entries = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn put(table: Table, key: u8, value: impl Into<Bytes>) -> Change {
    Change::put(table, [key; 20], value)
}

pub(super) fn read(store: &mut Redb) -> Result<Entries, StoreError> {
    let mut entries = Entries::new();
    for table in [A, B] {
        let mut last = None;
        store.load(table, &mut |key, value| {
            assert!(last.as_deref() < Some(key), "keys come in order");
            last = Some(key.to_vec());
            entries.insert((table, key.to_vec()), value.to_vec());
        })?;
    }
    Ok(entries)
}

pub(super) fn apply_to(entries: &mut Entries, changes: &[Change]) {
    for change in changes {
        let key = (change.table, change.key.as_slice().to_vec());
        match &change.value {
            Some(value) => entries.insert(key, value.to_vec()),
            None => entries.remove(&key),
        };
    }
}

/// A few groups with every kind of change, small and beyond a page.
pub(super) fn workload() -> Vec<Vec<Change>> {
    let big = |byte| vec![byte; 20_000];
    vec![
        vec![put(A, 1, "one"), put(A, 2, big(2)), put(B, 1, "")],
        (10..60).map(|key| put(A, key, vec![key; 100])).collect(),
        vec![
            Change::remove(A, [1; 20]),
            put(A, 1, "again"),
            put(B, 2, "x"),
            put(B, 2, "y"),
        ],
        vec![put(A, 3, vec![3; 200_000]), Change::remove(A, [2; 20])],
        (10..60)
            .step_by(2)
            .map(|key| Change::remove(A, [key; 20]))
            .collect(),
        vec![
            put(B, 3, "last"),
            put(A, 4, big(4)),
            Change::remove(B, [9; 20]),
        ],
        // The rest of the first log is folded, and the second one is full.
        (20..70).map(|key| put(A, key, vec![key; 90])).collect(),
        // Direct over logged, logged over direct, in both logs.
        vec![
            put(A, 69, big(69)),
            put(A, 4, "small"),
            put(A, 60, "older"),
            put(A, 60, big(60)),
            put(A, 61, big(61)),
            put(A, 61, "newer"),
        ],
        (70..78).map(|key| put(B, key, vec![key; 90])).collect(),
    ]
}

pub(super) fn over(disk: &Disk) -> Result<Redb, StoreError> {
    Redb::over(Box::new(disk.clone()), SMALL)
}

/// A disk with an empty database.
pub(super) fn blank() -> Disk {
    let disk = Disk::default();
    Handle::create(disk.path(), disk.backend().unwrap()).unwrap();
    disk
}

#[test]
fn entries_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("not/yet/there");
    let mut expected = Entries::new();
    let mut store = Redb::open(&dir).unwrap();
    assert_eq!(read(&mut store).unwrap(), expected);
    for group in workload() {
        store.commit(&group).unwrap();
        apply_to(&mut expected, &group);
        assert_eq!(read(&mut store).unwrap(), expected);
    }
    let long = Change::put(B, Key::from(&[5; 100][..]), vec![1]);
    store.commit(std::slice::from_ref(&long)).unwrap();
    apply_to(&mut expected, &[long]);
    store.commit(&[]).unwrap();
    drop(store);
    assert_eq!(read(&mut Redb::open(&dir).unwrap()).unwrap(), expected);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.join("peerloop.redb")), 0o600);
    assert_eq!(mode(&dir), 0o700);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["peerloop.lock", "peerloop.redb"]);
}

#[test]
fn a_value_larger_than_the_cache_survives() {
    let dir = tempfile::tempdir().unwrap();
    let value = Bytes::from_iter((0..60 << 20).map(|i: u32| (i % 251) as u8));
    let mut store = Redb::open(dir.path()).unwrap();
    store.commit(&[put(A, 1, value.clone())]).unwrap();
    drop(store);
    let mut found = None;
    let mut store = Redb::open(dir.path()).unwrap();
    store.load(A, &mut |_, value| found = Some(value)).unwrap();
    assert!(found.unwrap() == value);
}

#[test]
fn a_second_store_is_told_that_the_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Redb::open(dir.path()).unwrap();
    for _ in 0..2 {
        match Redb::open(dir.path()) {
            Err(StoreError::InUse { path }) => assert_eq!(path, dir.path()),
            other => panic!("{:?}", other.err()),
        }
    }
    drop(store);
    Redb::open(dir.path()).unwrap();
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let refused = |content: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("peerloop.redb");
        fs::write(&file, content).unwrap();
        let error = Redb::open(dir.path()).expect_err("refused");
        assert_eq!(fs::read(&file).unwrap(), content);
        error
    };
    assert!(matches!(refused(b""), StoreError::Corrupt { .. }));
    assert!(matches!(refused(b"x"), StoreError::Foreign { .. }));
    assert!(matches!(
        refused(&[b'x'; 10_000]),
        StoreError::Foreign { .. }
    ));
    assert!(matches!(refused(&MAGIC), StoreError::Corrupt { .. }));
}

#[test]
fn a_database_of_another_program_or_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peerloop.redb");
    let database = Database::create(&file).unwrap();
    let write = |database: &Database, key| {
        let transaction = database.begin_write().unwrap();
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(key, 7).unwrap();
        drop(meta);
        transaction.commit().unwrap();
    };
    write(&database, "other");
    drop(database);
    assert!(matches!(
        Redb::open(dir.path()),
        Err(StoreError::Foreign { .. })
    ));
    let database = Database::create(&file).unwrap();
    write(&database, META_FORMAT);
    drop(database);
    let error = Redb::open(dir.path()).err();
    assert!(matches!(
        error,
        Some(StoreError::Version {
            found: 7,
            known: FORMAT,
            ..
        })
    ));
}

#[test]
fn an_interrupted_creation_is_started_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("peerloop.redb.new"), b"half").unwrap();
    // Of a process that was killed while it tried whether there is room: it would hold that room.
    fs::write(dir.path().join("peerloop.room"), b"zeros").unwrap();
    Redb::open(dir.path())
        .unwrap()
        .commit(&[put(A, 1, "x")])
        .unwrap();
    assert!(!dir.path().join("peerloop.redb.new").exists());
    assert!(!dir.path().join("peerloop.room").exists());
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Redb::open(&path).expect_err("refused");
        assert!(
            matches!(
                error,
                StoreError::Io {
                    doing: "create",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn a_value_beyond_the_limit_is_refused_without_a_trace() {
    // Mapped lazily by the system and never read.
    let value = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let mut store = over(&blank()).unwrap();
    let error = store
        .commit(&[put(A, 1, "x"), put(A, 2, value)])
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert!(read(&mut store).unwrap().is_empty());
    store.commit(&[put(A, 1, "x")]).unwrap();
}

/// What a run over a faulty disk leaves to be believed.
struct Believed {
    /// The acknowledged entries.
    known: Entries,
    /// What there is if the unanswered group landed.
    maybe: Option<Entries>,
}

impl Believed {
    fn allows(&self, entries: &Entries) -> bool {
        *entries == self.known || Some(entries) == self.maybe.as_ref()
    }
}

/// Runs the workload and, with room made, one group more; checks that errors come as promised.
fn run(store: &mut Redb, disk: &Disk, clue: &str) -> Believed {
    let mut believed = Believed {
        known: Entries::new(),
        maybe: None,
    };
    let mut groups = workload();
    let last = groups.len();
    groups.push(vec![put(B, 200, "room again")]);
    for (i, group) in groups.into_iter().enumerate() {
        if i == last {
            disk.free_room();
        }
        let mut after = believed.known.clone();
        apply_to(&mut after, &group);
        let failed = believed.maybe.is_some();
        match store.commit(&group) {
            Ok(()) => {
                assert!(!failed, "{clue}: acknowledged after a failure");
                believed.known = after;
            }
            Err(StoreError::Full { .. }) => {
                assert!(!failed, "{clue}: recovered from a failure");
                match read(store) {
                    Ok(entries) => assert_eq!(entries, believed.known, "{clue}"),
                    Err(error) => assert_eq!(error.outcome(), Outcome::Nothing, "{clue}"),
                }
                if i == last {
                    store
                        .commit(&group)
                        .unwrap_or_else(|error| panic!("{clue}: {error}"));
                    believed.known = after;
                }
            }
            Err(StoreError::Failed { .. }) => {
                believed.maybe.get_or_insert(after);
            }
            Err(error) => panic!("{clue}: {error}"),
        }
    }
    believed
}

/// Opens every image a power cut may leave and compares it with what was promised.
fn check_images(disk: &Disk, believed: &Believed, clue: &str) {
    for (name, image) in disk.images() {
        let mut store = over(&image).unwrap_or_else(|error| panic!("{clue}, {name}: {error}"));
        let found = read(&mut store).unwrap();
        assert!(
            believed.allows(&found),
            "{clue}, {name}: {:?}",
            found.keys()
        );
    }
}

/// How many operations the workload takes.
fn operations() -> u64 {
    let disk = blank();
    let before = disk.operations();
    let mut store = over(&disk).unwrap();
    run(&mut store, &disk, "no fault");
    disk.operations() - before
}

#[test]
fn every_single_fault_keeps_what_was_acknowledged() {
    let blank = blank();
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for nth in 1..=operations() {
            let disk = blank.fresh_copy();
            let clue = format!("{kind} at {nth}");
            disk.fail_at(nth, kind);
            let Ok(mut store) = over(&disk) else {
                check_images(
                    &disk,
                    &Believed {
                        known: Entries::new(),
                        maybe: None,
                    },
                    &clue,
                );
                continue;
            };
            let believed = run(&mut store, &disk, &clue);
            let recovers = kind == io::ErrorKind::StorageFull && disk.fault_hit_growth();
            assert!(
                believed.maybe.is_none() || !recovers,
                "{clue}: full is not a failure"
            );
            check_images(&disk, &believed, &clue);
            if nth % 3 == 0 {
                drop(store);
                check_images(&disk, &believed, &format!("{clue}, closed"));
            }
        }
    }
}

#[test]
fn a_fault_that_redb_lets_pass_is_the_last() {
    // Reading more than the cache takes makes redb write pages early, and pass over failures.
    let large: Vec<_> = (0..40).map(|key| put(A, key, vec![key; 100_000])).collect();
    let loaded = blank();
    let mut store = over(&loaded).unwrap();
    let mut expected = Entries::new();
    for group in [large, vec![put(A, 1, "x"), put(A, 2, "y")]] {
        store.commit(&group).unwrap();
        apply_to(&mut expected, &group);
    }
    drop(store);
    let mut passed = 0;
    for nth in (1..=40).step_by(2) {
        let disk = loaded.fresh_copy();
        let mut store = over(&disk).unwrap();
        let mut known = expected.clone();
        let group = [put(A, 3, "z"), Change::remove(A, [4; 20])];
        store.commit(&group).unwrap();
        apply_to(&mut known, &group);
        disk.fail_at(nth, io::ErrorKind::Other);
        let _ = store.load(A, &mut |_, _| ());
        let group = [put(A, 5, "")];
        let answer = store.commit(&group);
        let mut maybe = known.clone();
        apply_to(&mut maybe, &group);
        passed += u32::from(answer.is_ok());
        let believed = match answer {
            Ok(()) => Believed {
                known: maybe,
                maybe: None,
            },
            Err(_) => Believed {
                known,
                maybe: Some(maybe),
            },
        };
        assert!(
            matches!(store.commit(&[]), Err(StoreError::Failed { .. })),
            "at {nth}"
        );
        check_images(&disk, &believed, &format!("at {nth}"));
    }
    assert!(passed > 0, "no early write was hit");
}

#[test]
fn a_full_disk_loses_nothing_and_recovers() {
    let blank = blank();
    for room in [Room::NoGrowth, Room::NoWrites] {
        for nth in (1..=operations()).step_by(3) {
            let disk = blank.fresh_copy();
            let clue = format!("{room:?} from {nth}");
            let Ok(mut store) = over(&disk) else {
                panic!("{clue}")
            };
            disk.fill_up_at(nth, room);
            let believed = run(&mut store, &disk, &clue);
            // Where even the recovery cannot write, the last commit may stay unknown.
            assert!(believed.maybe.is_none() || room == Room::NoWrites, "{clue}");
            check_images(&disk, &believed, &clue);
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_keeps_what_was_acknowledged() {
    let blank = blank();
    for nth in (1..=operations()).step_by(2) {
        let disk = blank.fresh_copy();
        disk.cut_power_at(nth);
        let clue = format!("cut at {nth}");
        let believed = match over(&disk) {
            Ok(mut store) => run(&mut store, &disk, &clue),
            Err(_) => Believed {
                known: Entries::new(),
                maybe: None,
            },
        };
        check_images(&disk, &believed, &clue);
    }
}

/// Two databases with the same entries: one closed, one as a crash leaves it.
fn samples() -> (Entries, [Disk; 2]) {
    let disk = blank();
    let mut store = over(&disk).unwrap();
    let mut entries = Entries::new();
    for group in workload().into_iter().filter(|group| group.len() != 2) {
        store.commit(&group).unwrap();
        apply_to(&mut entries, &group);
    }
    let crashed = disk.fresh_copy();
    drop(store);
    (entries, [disk.fresh_copy(), crashed])
}

/// A damaged database is refused, or its damage is in a place that holds nothing.
fn check_damage(disk: &Disk, entries: &Entries, clue: &str) -> bool {
    let mut refused = false;
    // Twice: opening must not turn damage into something that looks whole.
    for _ in 0..2 {
        match over(disk) {
            Ok(mut store) => assert!(read(&mut store).unwrap() == *entries, "{clue}: wrong data"),
            Err(StoreError::Full { .. } | StoreError::Failed { .. }) => panic!("{clue}"),
            Err(_) => refused = true,
        }
    }
    refused
}

#[test]
fn damage_is_refused_or_without_effect() {
    let (entries, samples) = samples();
    let mut refused = 0;
    for (which, sample) in samples.iter().enumerate() {
        for offset in sample.spots(100) {
            let disk = sample.fresh_copy();
            disk.damage(|bytes| bytes[offset] ^= 1 << (offset % 8));
            refused += u32::from(check_damage(
                &disk,
                &entries,
                &format!("{which}: bit {offset}"),
            ));
        }
        for len in sample.spots(20) {
            let disk = sample.fresh_copy();
            disk.damage(|bytes| bytes.truncate(len));
            assert!(check_damage(
                &disk,
                &entries,
                &format!("{which}: cut to {len}")
            ));
        }
        for page in sample.spots(20).map(|offset| offset & !4095) {
            let disk = sample.fresh_copy();
            disk.damage(|bytes| bytes[page..page + 4096].fill(0));
            refused += u32::from(check_damage(
                &disk,
                &entries,
                &format!("{which}: zero {page}"),
            ));
        }
    }
    assert!(refused > 100, "only {refused} of 240 hit something");
}

/// Every bit of every used page. Run by hand: `cargo test --release --lib every_bit -- --ignored`
#[test]
#[ignore = "takes minutes"]
fn every_bit_is_refused_or_without_effect() {
    let (entries, samples) = samples();
    for (which, sample) in samples.iter().enumerate() {
        let (mut refused, mut tried) = (0, 0);
        for offset in sample.used() {
            let disk = sample.fresh_copy();
            // The one bit of the crashed file that nothing can tell from a crash: see the module.
            let switch = which == 1 && offset == MAGIC.len();
            for bit in usize::from(switch)..8 {
                disk.damage(|bytes| bytes[offset] ^= 1 << bit);
                let clue = format!("{which}: bit {offset}.{bit}");
                refused += u32::from(check_damage(&disk, &entries, &clue));
                tried += 1;
                disk.become_copy_of(sample);
            }
        }
        println!("sample {which}: {refused} of {tried} refused");
    }
}

/// On a real file system of a few MiB, mounted for it:
/// `PEERLOOP_SMALL_DIR=/mnt/small cargo test --lib small_file_system -- --ignored --nocapture`
#[test]
#[ignore = "needs a small file system"]
fn a_small_file_system_fills_up_and_recovers() {
    let dir = std::env::var_os("PEERLOOP_SMALL_DIR").expect("PEERLOOP_SMALL_DIR is set");
    let dir = Path::new(&dir).join("data");
    let mut store = Redb::open(&dir).unwrap();
    let mut known = read(&mut store).unwrap();
    let ballast = dir.join("ballast");
    for round in 0..3_u8 {
        // Less each time: the file uses its room again, but may keep what it grew by meanwhile.
        fs::write(&ballast, vec![1; (6 << 20) - (usize::from(round) << 21)]).unwrap();
        let mut full = 0;
        for key in 0..=255 {
            let group = [put(A, key, vec![round; 100_000]), put(B, key, vec![key])];
            match store.commit(&group) {
                Ok(()) => apply_to(&mut known, &group),
                Err(StoreError::Full { .. }) => full += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(full > 0 && read(&mut store).unwrap() == known);
        fs::remove_file(&ballast).unwrap();
        let group: Vec<_> = (0..=255).map(|key| Change::remove(A, [key; 20])).collect();
        store.commit(&group).unwrap();
        apply_to(&mut known, &group);
        println!(
            "round {round}: {full} of 256 commits refused, {} entries",
            known.len()
        );
        if round == 1 {
            drop(store);
            store = Redb::open(&dir).unwrap();
        }
        assert!(read(&mut store).unwrap() == known);
    }
}

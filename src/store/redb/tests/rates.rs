//! What commits cost on this machine's disk, through the log and with redb alone. Run by hand, in release:
//! `PEERLOOP_RATES_DIR=. cargo test --release --lib commit_rates -- --ignored --nocapture`
//!
//! The stores take turns, so that whatever else the machine does hits them alike. In /dev/shm, where a sync does
//! nothing, the figures show what is left besides the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::{Redb, definition};
use super::A;
use crate::store::{Change, Store};
use ::redb::{Database, Durability};

const VALUE_BYTES: usize = 100;
/// Entries before the measurement. The log has been full once by then, and is being folded.
const PREFILLED: usize = 300_000;
const ROUNDS: usize = 5;
/// redb's page cache where it is alone: the whole database. With 4 MiB, as below the log, it is no faster.
const CACHE_BYTES: usize = 256 << 20;

/// Commits a group of changes.
type Commit = Box<dyn FnMut(&[Change])>;

/// Opens a store in a directory.
type Open = fn(&Path) -> Commit;

const STORES: [(&str, Open); 3] = [
    ("log", |dir| {
        let mut store = Redb::open(dir).unwrap();
        Box::new(move |group| store.commit(group).unwrap())
    }),
    ("redb alone", |dir| alone(dir, true)),
    ("redb alone, one phase", |dir| alone(dir, false)),
];

/// A commit writes its changes into their table, in the order of keys.
fn alone(dir: &Path, two_phases: bool) -> Commit {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let database = builder.create(dir.join("alone.redb")).unwrap();
    Box::new(move |group| {
        let mut sorted: Vec<_> = group.iter().collect();
        sorted.sort_by_key(|change| &change.key);
        let mut transaction = database.begin_write().unwrap();
        transaction.set_two_phase_commit(two_phases);
        transaction.set_durability(Durability::Immediate).unwrap();
        let mut table = transaction.open_table(definition(A.name())).unwrap();
        for change in sorted {
            let value = change.value.as_deref().unwrap();
            table.insert(change.key.as_slice(), value).unwrap();
        }
        drop(table);
        transaction.commit().unwrap();
    })
}

fn group(random: &mut StdRng, size: usize) -> Vec<Change> {
    let put = |_| {
        let key: [u8; 20] = random.random();
        Change::put(A, key, vec![7; VALUE_BYTES])
    };
    (0..size).map(put).collect()
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// Commits groups of a size; prints the medians of the rounds, and of the ratios to the log within a round.
fn measure(size: usize, groups: usize) {
    let place = std::env::var_os("PEERLOOP_RATES_DIR").expect("PEERLOOP_RATES_DIR is set");
    let dirs = STORES.map(|_| tempfile::tempdir_in(&place).unwrap());
    let mut random = StdRng::seed_from_u64(size as u64);
    let mut commits: Vec<Commit> = (0..STORES.len())
        .map(|at| STORES[at].1(dirs[at].path()))
        .collect();
    for commit in &mut commits {
        (0..PREFILLED / 1000).for_each(|_| commit(&group(&mut random, 1000)));
    }
    let mut rates = STORES.map(|_| Vec::new());
    let mut took = STORES.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (at, commit) in commits.iter_mut().enumerate() {
            let mut sum = Duration::ZERO;
            for _ in 0..groups {
                let group = group(&mut random, size);
                let start = Instant::now();
                commit(&group);
                took[at].push(start.elapsed());
                sum += start.elapsed();
            }
            rates[at].push((size * groups) as f64 / sum.as_secs_f64());
        }
    }
    for (at, (name, _)) in STORES.iter().enumerate() {
        let ratios = rates[0]
            .iter()
            .zip(&rates[at])
            .map(|(log, other)| log / other);
        println!(
            "groups of {size}, {name}: {:.0} changes/s, log / this {:.2}; a commit {:?}, longest {:?}",
            median(rates[at].clone()),
            median(ratios.collect()),
            median(took[at].clone()),
            took[at].iter().max().unwrap(),
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn commit_rates() {
    measure(1, 2_000);
    measure(64, 1_000);
    measure(1000, 100);
}

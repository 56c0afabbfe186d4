//! What commits cost on this machine's disk. Run by hand, in release:
//! `PEERLOOP_RATES_DIR=. cargo test --release --lib commit_rates -- --ignored --nocapture`
//! In /dev/shm, where a sync does nothing, they show what is left besides the disk.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::Redb;
use super::A;
use crate::store::{Change, Store};

const VALUE_BYTES: usize = 100;

fn group(random: &mut StdRng, size: usize) -> Vec<Change> {
    let put = |_| {
        let key: [u8; 20] = random.random();
        Change::put(A, key, vec![7; VALUE_BYTES])
    };
    (0..size).map(put).collect()
}

/// Commits groups of a size to an empty store until the time is up or the changes are done.
fn measure(size: usize, changes: usize, prefilled: usize) {
    let place = std::env::var_os("PEERLOOP_RATES_DIR").expect("PEERLOOP_RATES_DIR is set");
    let dir = tempfile::tempdir_in(place).unwrap();
    let mut store = Redb::open(dir.path()).unwrap();
    let mut random = StdRng::seed_from_u64(size as u64);
    for _ in 0..prefilled / 1000 {
        store.commit(&group(&mut random, 1000)).unwrap();
    }
    let mut took = Vec::new();
    for _ in 0..changes / size {
        let group = group(&mut random, size);
        let start = Instant::now();
        store.commit(&group).unwrap();
        took.push(start.elapsed());
    }
    let sum: Duration = took.iter().sum();
    took.sort();
    let rate = took.len() as f64 / sum.as_secs_f64();
    let file = dir.path().join("peerloop.redb");
    println!(
        "{size} of {changes} after {prefilled}: {rate:.0} commits/s, {:.0} changes/s, \
         median {:?}, 99 % {:?}, longest {:?}, file {} MiB",
        rate * size as f64,
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
        file.metadata().unwrap().len() >> 20,
    );
    let start = Instant::now();
    drop(store);
    let closed = start.elapsed();
    let mut store = Redb::open(dir.path()).unwrap();
    let mut count = 0;
    store.load(A, &mut |_, _| count += 1).unwrap();
    assert_eq!(count, prefilled / 1000 * 1000 + changes / size * size);
    println!(
        "  closed in {closed:?}, opened and read in {:?}",
        start.elapsed() - closed
    );
}

#[test]
#[ignore = "a measurement"]
fn commit_rates() {
    measure(1, 20_000, 0);
    measure(1, 20_000, 300_000);
    measure(64, 600_000, 0);
    measure(1000, 3_000_000, 0);
}

//! The index server's catalogue at its size: 1,000,000 files of 10,000 peers. Run with `cargo bench --bench index`.
//!
//! What is measured is what a search costs the loop, without sockets. The answers to all of them are checked once.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use peerloop::proto::index::catalog::bulk_load::Loader;
use peerloop::proto::index::catalog::{Catalog, HolderNo, Match};
use peerloop::proto::index::fields::{FileLine, Sha1};

const PEERS: usize = 10_000;
const FILES: usize = 1_000_000;

/// What one turn of the server gives to a search: `STEPS_PER_TURN` there.
const STEPS: usize = 16_384;

fn name(number: usize) -> String {
    // `wN` is in 10 names, a digit in 100,000 and `song` in all.
    format!(
        "song w{} of {} n{number}.mp3",
        number % (FILES / 10),
        number % 10
    )
}

fn line(name: &str, number: usize) -> FileLine<'_> {
    let mut digest = [0; 20];
    digest[..8].copy_from_slice(
        &(number as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes(),
    );
    FileLine {
        name,
        size_bytes: number as u64,
        sha1: Sha1(digest),
    }
}

fn load() -> (Catalog, Vec<HolderNo>) {
    let mut loader = Loader::default();
    let holders: Vec<HolderNo> = (0..PEERS).map(|_| loader.add_holder()).collect();
    for number in 0..FILES {
        loader.insert(holders[number % PEERS], line(&name(number), number));
    }
    let start = Instant::now();
    let mut catalog = loader.finish();
    eprintln!("indexed {FILES} files in {:.2?}", start.elapsed());
    for &holder in &holders {
        catalog.show_holder(holder, Some("label".into()));
    }
    (catalog, holders)
}

/// A whole search; how many turns it took and how many hits it has.
fn search(catalog: &mut Catalog, words: &str) -> (usize, usize) {
    let mut scan = catalog.search(words, Match::All, 0).expect("words");
    let mut turns = 1;
    while !catalog.advance(&mut scan, &mut { STEPS }) {
        turns += 1;
    }
    let hits = black_box(scan.hits().count());
    catalog.recycle(scan);
    (turns, hits)
}

fn searches(c: &mut Criterion) {
    let (mut catalog, holders) = load();
    let mut group = c.benchmark_group("search");
    group.measurement_time(Duration::from_secs(2));
    let rows = [
        ("10 matches", "w777", (1, 10)),
        ("100,000 matches", "3", (1, 1008)),
        ("1,000,000 matches", "song", (1, 1008)),
        ("two words, 10 matches", "song w777", (1, 10)),
        ("two words, 100,000 matches", "song 3", (1, 1008)),
        ("two words of 100,000 files, none with both", "3 4", (8, 0)),
        ("none", "nothing", (1, 0)),
    ];
    for (what, words, want) in rows {
        assert_eq!(search(&mut catalog, words), want, "{what}");
        group.bench_function(what, |b| b.iter(|| search(&mut catalog, black_box(words))));
    }
    holders
        .iter()
        .for_each(|holder| catalog.show_holder(*holder, None));
    // Nobody is online: the whole list is read, in pieces.
    let all_offline = search(&mut catalog, "3");
    assert_eq!(all_offline, (100_000 / STEPS + 1, 0));
    group.bench_function("100,000 matches, all offline, in pieces", |b| {
        b.iter(|| search(&mut catalog, black_box("3")));
    });
    group.finish();

    let mut group = c.benchmark_group("change");
    let names: Vec<String> = (0..100).map(|n| name(FILES + n)).collect();
    let lines = || {
        names
            .iter()
            .enumerate()
            .map(|(n, name)| line(name, FILES + n))
    };
    group.bench_function("100 files in and out", |b| {
        b.iter_batched(
            || (),
            |()| {
                let holder = catalog.add_holder();
                for line in lines() {
                    catalog.insert(holder, line);
                }
                catalog.kill_holder(holder);
                while !catalog.purge(holder, &mut { STEPS }) {}
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, searches);
criterion_main!(benches);

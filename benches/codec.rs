//! What the codecs cost, message by message. Run with `cargo bench --bench codec`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::wire;

fn dht(c: &mut Criterion) {
    let key = Id::of(b"blue");
    let mut digits = Vec::new();
    key.write_decimal(&mut digits);

    let mut get = Vec::new();
    wire::put_request(&mut get, &wire::Request::Get(key));
    c.bench_function("dht/parse_get", |b| {
        b.iter(|| wire::request(black_box(&get), 0))
    });

    // What a node reads before the bytes of a value: the request, then the value's length.
    let mut insert = Vec::new();
    wire::put_request(&mut insert, &wire::Request::Insert(key));
    wire::put_number(&mut insert, 65_536);
    c.bench_function("dht/parse_insert_header", |b| {
        b.iter(|| {
            let input = black_box(insert.as_slice());
            let (request, used) = wire::request(input, 0)?.ok_or(wire::Malformed::Key)?;
            let length = wire::number(&input[used..], 0)?;
            Ok::<_, wire::Malformed>((request, length))
        });
    });

    c.bench_function("dht/id_of_name", |b| {
        b.iter(|| Id::of(black_box(b"snowy peaks")))
    });
    c.bench_function("dht/id_parse", |b| b.iter(|| Id::parse(black_box(&digits))));
    c.bench_function("dht/id_write_decimal", |b| {
        let mut out = Vec::with_capacity(Id::DIGITS_MAX);
        b.iter(|| {
            out.clear();
            black_box(key).write_decimal(&mut out);
            black_box(out.as_slice());
        });
    });
}

/// Short enough to run before every push; the figures move by a few percent between runs.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = codec;
    config = config();
    targets = dht
}
criterion_main!(codec);

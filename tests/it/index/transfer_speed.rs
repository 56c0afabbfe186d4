//! What a download costs beside the least that any program could do: a plain pair that sends with sendfile, and receives,
//! hashes and writes with blocking calls. Both move the same file over loopback, in turns.
//!
//! `cargo test --release --test it transfer_speed -- --ignored --nocapture`; PEERLOOP_SPEED_DIR says on which disk. And
//! what memory it takes, of both processes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Handle, Reactor};
use peerloop::proto::index::client::Patience;
use peerloop::proto::index::exchange::Credentials;
use peerloop::proto::index::fields::{self, PeerId};
use peerloop::proto::index::reply;
use peerloop::proto::index::sharer::{Config, Files, Shared, Sharer};
use peerloop::proto::index::transfer::fetch::{Fetcher, Source, Wanted};
use peerloop::proto::index::transfer::{RANGE_BYTES, fetch, serve};
use peerloop::store::partial_file::PartialFile;
use peerloop::store::shared_dir::SharedDir;
use peerloop::workers::files::{Reader, Writer};

use crate::index::support::{Place, hex};
use crate::support::{DEADLINE, LOOPBACK, big_test, noise, wait_until};

const FILE_BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;

/// What a receiver reads at once. Larger buffers do not fit the cache and are slower.
const PLAIN_BYTES: usize = 256 << 10;

/// The least share of the plain pair's rate.
const RATIO_MIN: f64 = 0.8;

/// A plain receiver: every byte is received, hashed and written; with `sync` it also waits for the disk, as ours always
/// does.
fn plain(from: &Path, to: &Path, sync: bool) -> ([u8; 20], Duration) {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let addr = listener.local_addr().expect("bound");
    let file = File::open(from).expect("open");
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accept");
        let mut left = file.metadata().expect("stat").len() as usize;
        while left > 0 {
            left -= rustix::fs::sendfile(&socket, &file, None, left).expect("sendfile");
        }
    });
    let mut socket = TcpStream::connect(addr).expect("connect");
    let mut into = File::create(to).expect("create");
    let (mut sha1, mut buffer) = (Sha1::new(), vec![0; PLAIN_BYTES]);
    loop {
        let n = socket.read(&mut buffer).expect("read");
        if n == 0 {
            break;
        }
        sha1.update(&buffer[..n]);
        into.write_all(&buffer[..n]).expect("write");
    }
    if sync {
        into.sync_all().expect("fsync");
    }
    let took = start.elapsed();
    sender.join().expect("sender");
    (sha1.finalize().into(), took)
}

/// A sharer that serves everybody, on a thread.
struct Holder {
    addr: SocketAddrV4,
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
}

fn holder(dir: &Path) -> (Holder, fields::Sha1) {
    let dir = Arc::new(SharedDir::open(dir).expect("open"));
    let scan = dir.scan(&[], &mut |_| true).expect("scan");
    let shared: Vec<_> = scan.files.iter().map(shared).collect();
    let sha1 = shared[0].announced.sha1;
    let shared = Files::new(shared);
    let bound = Bound::bind(LOOPBACK).expect("bind");
    let addr = bound.addr();
    let (tell_handle, handle) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (news, _) = std::sync::mpsc::channel();
        let config = Config {
            // Nobody is there; the sharer goes on without.
            server: LOOPBACK.into(),
            who: Arc::new(Credentials {
                user: "u".into(),
                password: "p".into(),
            }),
            id: None,
            ip: None,
            port: addr.port(),
            keep_alive: Ticks::from_secs(300),
            open: true,
            slots: serve::SLOTS_MAX,
        };
        let limits = serve::limits(Limits::default());
        let mut reactor = Reactor::new(Sharer::new(config, news), limits).expect("reactor");
        reactor.start_worker(Reader::new(dir)).expect("worker");
        reactor.accept_from(bound).expect("listen");
        reactor.node().with(|sharer, hub| sharer.share(hub, shared));
        tell_handle.send(reactor.handle()).expect("told");
        reactor.run().expect("run");
    });
    let handle = handle.recv().expect("it runs");
    (
        Holder {
            addr,
            handle,
            thread,
        },
        sha1,
    )
}

fn shared<F: Clone + std::ops::Deref<Target = peerloop::store::shared_dir::SharedFile>>(
    file: &F,
) -> Shared<F> {
    Shared {
        announced: reply::Listed {
            name: file.name().into(),
            size_bytes: file.stamp.size_bytes,
            sha1: fields::Sha1(file.sha1),
        },
        file: file.clone(),
    }
}

fn ours(holder: SocketAddrV4, sha1: fields::Sha1, to: &Path) -> Duration {
    let start = Instant::now();
    let wanted = Wanted {
        sha1,
        size_bytes: FILE_BYTES as u64,
        requester: PeerId::from_bits(1),
        sources: vec![Source {
            addr: holder.into(),
            id: PeerId::from_bits(2),
        }],
    };
    let part = PartialFile::open(to, sha1.0, FILE_BYTES as u64, RANGE_BYTES).expect("part");
    let fetcher = Fetcher::new(
        wanted,
        part.have(),
        (LOOPBACK.into(), Patience::default()),
        None,
        Arc::default(),
    );
    let limits = fetch::limits(Limits::default());
    let mut reactor = Reactor::new(fetcher, limits).expect("reactor");
    let writer = Writer::new(part, "ours".into(), true);
    reactor.start_worker(writer).expect("worker");
    reactor.run().expect("run");
    let took = start.elapsed();
    let report = reactor.into_service().into_report();
    assert_eq!(report.result, Ok(()));
    took
}

/// CPU time of this process in seconds: what a busy machine does not change.
fn cpu_secs() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    // utime and stime, the 14th and 15th field, in ticks of 10 ms.
    let ticks = |field: usize| fields[field - 3].parse::<f64>().expect("a number");
    (ticks(14) + ticks(15)) / 100.0
}

#[test]
#[ignore = "needs a release build and a quiet machine; the command is in the module"]
fn transfer_speed_beside_a_plain_pair() {
    let _alone = big_test();
    let base = std::env::var("PEERLOOP_SPEED_DIR").unwrap_or_else(|_| "/dev/shm".into());
    let root = tempfile::tempdir_in(base).expect("a directory");
    let (share, to) = (root.path().join("share"), root.path().join("to"));
    fs::create_dir_all(&share).expect("made");
    let file = share.join("big");
    fs::write(&file, noise(1, FILE_BYTES)).expect("write");
    let (holder, sha1) = holder(&share);
    let mut ratios = Vec::new();
    let rate = |took: Duration| FILE_BYTES as f64 / took.as_secs_f64() / 1e6;
    let plain_to = root.path().join("plain");
    let plain_once = |sync| {
        let start = cpu_secs();
        let (digest, took) = plain(&file, &plain_to, sync);
        let cpu = cpu_secs() - start;
        assert_eq!(digest, sha1.0);
        fs::remove_file(&plain_to).expect("removed");
        (took, cpu)
    };
    for round in 0..ROUNDS {
        let (plain_took, plain_cpu) = plain_once(false);
        let start = cpu_secs();
        let took = ours(holder.addr, sha1, &to);
        let cpu = cpu_secs() - start;
        fs::remove_dir_all(&to).expect("removed");
        let (synced_took, _) = plain_once(true);
        let ratio = plain_took.as_secs_f64() / took.as_secs_f64();
        println!(
            "round {round}: plain {:.0} MB/s, ours {:.0} MB/s, ratio {ratio:.2}; CPU {plain_cpu:.2} s and {cpu:.2} s; \
             beside one that syncs ({:.0} MB/s) {:.2}",
            rate(plain_took),
            rate(took),
            rate(synced_took),
            synced_took.as_secs_f64() / took.as_secs_f64(),
        );
        ratios.push(ratio);
    }
    holder.handle.shutdown();
    holder.thread.join().expect("the holder ends");
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    println!("median ratio {median:.2}");
    assert!(median >= RATIO_MIN);
}

/// The most memory that either side may take above a sharer that does nothing.
const MEMORY_BYTES_MAX: u64 = 32 << 20;

/// The most memory that a process ever had, as long as it lives.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[test]
#[ignore = "a gigabyte; the command is in the module"]
fn transfer_speed_memory_of_both_sides() {
    let _alone = big_test();
    let place = Place::new();
    let content = noise(1, FILE_BYTES);
    place.write("a/big.bin", &content);
    // The second start knows the hash: what it has then is what an idle sharer takes.
    drop(place.share("a", "a", &[]));
    let sharer = place.share("a", "a", &[]);
    let idle = sharer.peak_rss_bytes();
    let out = place.path("out");
    let mut child = place
        .command(&["download", "big.bin", "--out", out.to_str().expect("UTF-8")])
        .spawn()
        .expect("spawn");
    let mut peak = 0;
    let mut status = None;
    let ended = wait_until(2 * DEADLINE, || {
        peak = peak_bytes(child.id()).unwrap_or(peak);
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    assert!(ended && status.is_some_and(|status| status.success()));
    assert!(hex(&fs::read(out.join("big.bin")).expect("there")) == hex(&content));
    let serving = sharer.peak_rss_bytes();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "idle {:.1} MiB, serving {:.1} MiB, downloading {:.1} MiB",
        mib(idle),
        mib(serving),
        mib(peak)
    );
    assert!(serving < idle + MEMORY_BYTES_MAX);
    assert!(peak < idle + MEMORY_BYTES_MAX);
}

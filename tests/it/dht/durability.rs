//! What an acknowledged write survives, and what a data directory does when it is not usable.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Signal};

use peerloop::proto::dht::id::Id;

use crate::support::{DEADLINE, Peer, Server, key, node, noise, peerloop, run, wait_until};

const SECOND: Duration = Duration::from_secs(1);

/// What a key may hold: the number of a write, of which key and number give the value. `None` is no entry.
type Version = Option<u64>;

/// A client with keys of its own, and what it knows of them.
struct Writer {
    keys: Range<u64>,
    next: u64,
    state: u64,
    acknowledged: HashMap<u64, Version>,
    /// The write that was under way when the node died.
    open: Option<(u64, Version)>,
}

const KEYS_PER_WRITER: u64 = 20;
const VALUE_BYTES_MAX: u64 = 200 << 10;

fn id(number: u64) -> Id {
    key(&format!("durable {number}"))
}

/// Says what it is, has a length and bytes that follow from that, and is empty now and then.
fn value(number: u64, version: u64) -> Vec<u8> {
    let seed = number << 32 | version;
    let random = u64::from_le_bytes(noise(seed, 8).try_into().expect("8 bytes"));
    // Mostly small, so that many writes share a commit.
    let most = [0, 100, 4000, VALUE_BYTES_MAX][random as usize % 4];
    let len = random / 4 % (most + 1);
    let mut bytes = format!("{number} {version}\n").into_bytes();
    bytes.extend_from_slice(&noise(seed, VALUE_BYTES_MAX as usize));
    bytes.truncate(len as usize);
    bytes
}

impl Writer {
    fn new(number: u64) -> Writer {
        Writer {
            keys: number * KEYS_PER_WRITER..(number + 1) * KEYS_PER_WRITER,
            next: 1,
            state: number,
            acknowledged: HashMap::new(),
            open: None,
        }
    }

    fn random(&mut self) -> u64 {
        self.state += 1;
        u64::from_le_bytes(
            noise(self.state << 20 | self.keys.start, 8)
                .try_into()
                .expect("8 bytes"),
        )
    }

    /// Overwrites and removes until the connection breaks.
    fn write(&mut self, node: &Server, acknowledged: &AtomicUsize) {
        let mut peer = node.connect();
        loop {
            let number = self.keys.start + self.random() % KEYS_PER_WRITER;
            let removes = self.random().is_multiple_of(5);
            let version = (!removes).then_some(self.next);
            self.next += 1;
            self.open = Some((number, version));
            let result = match version {
                Some(version) => peer.insert(id(number), &value(number, version)),
                None => peer.remove(id(number)),
            };
            match result {
                Ok(true) => {
                    self.acknowledged.insert(number, version);
                    self.open = None;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) => panic!("a write was refused"),
                Err(_) => return,
            }
        }
    }

    /// Every key holds what was acknowledged last, or the whole of what was under way.
    fn check(&mut self, peer: &mut Peer) {
        for number in self.keys.clone() {
            let acknowledged = self.acknowledged.get(&number).copied().flatten();
            let open = self.open.filter(|(of, _)| *of == number);
            let got = read(peer, id(number));
            let holds = |version: Version| got == version.map(|version| value(number, version));
            if holds(acknowledged) {
                continue;
            }
            let Some((_, version)) = open.filter(|(_, version)| holds(*version)) else {
                let got = got.map(|got| got[..got.len().min(40)].escape_ascii().to_string());
                panic!("key {number} had {acknowledged:?}, then {open:?}, and has {got:?}");
            };
            self.acknowledged.insert(number, version);
        }
        self.open = None;
    }
}

/// The value of a key; CONTAINS tells an empty one from none.
fn read(peer: &mut Peer, key: Id) -> Option<Vec<u8>> {
    let value = peer.get(key).expect("served");
    let is_there = peer.contains(key).expect("served");
    assert!(is_there || value.is_none());
    is_there.then(|| value.unwrap_or_default())
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    const ROUNDS: usize = 6;
    const WRITERS: u64 = 4;
    const WRITES_PER_ROUND: usize = 150;
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    for round in 0..ROUNDS {
        let mut node = node(&["--data", data]);
        let mut peer = node.connect();
        writers
            .iter_mut()
            .for_each(|writer| writer.check(&mut peer));
        let acknowledged = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.write(&node, &acknowledged));
            }
            // A different moment of the load in each round.
            let writes = WRITES_PER_ROUND + round * 7;
            let came = wait_until(DEADLINE, || acknowledged.load(Ordering::Relaxed) >= writes);
            node.signal(Signal::KILL);
            assert!(came, "the load is not taken");
        });
        node.kill();
    }
    let node = node(&["--data", data]);
    let mut peer = node.connect();
    writers
        .iter_mut()
        .for_each(|writer| writer.check(&mut peer));
}

#[test]
fn a_second_node_on_the_same_data_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let mut first = node(&["--data", data]);
    assert!(
        first
            .connect()
            .insert(key("mine"), b"first")
            .expect("insert")
    );
    let second = || run(&mut peerloop(&["dht", "node", "--data", data]), "");
    for _ in 0..2 {
        let ended = second();
        ended.expect_error(&[data, "in use", "--data"]);
        assert!(ended.took < SECOND, "{:?}", ended.took);
    }
    assert_eq!(
        read(&mut first.connect(), key("mine")),
        Some(b"first".to_vec())
    );
    // A dead process holds nothing.
    first.kill();
    let again = node(&["--data", data]);
    assert_eq!(
        read(&mut again.connect(), key("mine")),
        Some(b"first".to_vec())
    );
}

#[test]
fn a_data_directory_that_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("write");
    let below = file.join("below");
    for path in [&file, &below] {
        let path = path.to_str().expect("UTF-8");
        let ended = run(&mut peerloop(&["dht", "node", "--data", path]), "");
        ended.expect_error(&[path, "--data"]);
        assert!(ended.took < SECOND, "{:?}", ended.took);
    }
    assert_eq!(fs::read(&file).expect("still there"), b"mine");
    // One that is not there yet is made.
    let fresh = dir.path().join("a").join("b");
    let node = node(&["--data", fresh.to_str().expect("UTF-8")]);
    assert!(node.connect().insert(key("x"), b"y").expect("insert"));
    assert!(fresh.is_dir());
}

#[test]
fn a_data_file_that_is_none_of_ours() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    node(&["--data", data]).kill();
    let of_a_kind = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "redb");
    let mut files = fs::read_dir(&dir)
        .expect("list")
        .map(|file| file.expect("entry").path());
    let file = files.find(of_a_kind).expect("a database");
    for bytes in [&b""[..], b"not a database", &noise(1, 100_000)] {
        fs::write(&file, bytes).expect("write");
        let ended = run(&mut peerloop(&["dht", "node", "--data", data]), "");
        ended.expect_error(&[file.to_str().expect("UTF-8")]);
        assert!(fs::read(&file).expect("still there") == bytes);
    }
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    const LIMIT_BYTES: u64 = 8 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let mut node = node(&["--data", data]);
    // A disk that is full at this size of a file, as far as the process can tell. Without a handler
    // for SIGXFSZ it would die of it.
    node.limit(Resource::Fsize, Some(LIMIT_BYTES));
    let mut peer = node.connect();
    let value = |number: u64| noise(number, 256 << 10);
    let insert =
        |peer: &mut Peer, number| peer.insert(id(number), &value(number)).expect("answered");
    let most = 2 * LIMIT_BYTES / (256 << 10);
    let stored = (0..most).find(|number| !insert(&mut peer, *number));
    let stored = stored.expect("a disk of 8 MiB takes no 16");
    assert!(stored > 0);
    let check = |peer: &mut Peer, count| {
        for number in 0..count {
            assert!(
                read(peer, id(number)) == Some(value(number)),
                "value {number}"
            );
        }
    };
    // Reads go on, and an entry that could not be replaced is as it was.
    assert!(!peer.insert(id(0), &noise(99, 4 << 20)).expect("answered"));
    check(&mut peer, stored);
    assert!(!peer.contains(id(stored)).expect("served"));
    assert!(node.is_alive());
    assert_eq!(
        node.log().matches("writes are refused").count(),
        1,
        "{}",
        node.log()
    );

    // It recovers by itself when there is room.
    node.limit(Resource::Fsize, None);
    assert!(insert(&mut peer, stored));
    check(&mut peer, stored + 1);
    node.signal(Signal::KILL);
    node.kill();
    let node = crate::support::node(&["--data", data]);
    check(&mut node.connect(), stored + 1);
}

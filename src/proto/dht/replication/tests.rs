//! Two nodes in the simulator synchronise a range; scripted peers that are plain, or lie.

use crate::proto::dht::replication::syncs::SyncOver;
use crate::proto::dht::storage::version::Version;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use rand::RngExt;

use super::sync::{Mode, SyncError, SyncStats};
use super::*;
use crate::engine::{Limits, Ticks, Work};
use crate::proto::dht::node::{Config, Quanta, Write, Written};
use crate::proto::dht::routing::Member;
use crate::proto::dht::storage::entries::{Entries, Entry};
use crate::proto::dht::wire::extension::{DIGEST_PARTS, Part};
use crate::sim::{Faults, NodeId, Span, World, check, seeds};

type Map = BTreeMap<Id, Entry>;

fn addr(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, n), 5000)
}

/// The owner of a range, and a node before or behind it that keeps copies.
struct Pair {
    world: World<DhtNode>,
    owner: NodeId,
    holder: NodeId,
    start: Id,
    end: Id,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut world = World::new(seed);
        world.validate_turns(seed.is_multiple_of(4));
        let quanta = if seed.is_multiple_of(2) {
            Quanta {
                sent_per_turn: 2,
                keys_per_part: 3,
                ..Quanta::default()
            }
        } else {
            Quanta::default()
        };
        let nodes = [1, 2].map(|n| {
            let config = Config {
                replicas: 2,
                quanta,
                ..Config::new(addr(n))
            };
            let limits = config.fit(Limits::default());
            world.add(addr(n), DhtNode::new(config, Entries::default()), limits)
        });
        let members = [1, 2].map(|n| Member::at(addr(n)));
        for (id, next) in nodes.into_iter().zip([members[1], members[0]]) {
            world.with(id, |node, _| node.routing.set_next(next));
        }
        let held = Held {
            owner: addr(1),
            epoch: 7,
            start: members[0].id,
            end: members[1].id,
            complete: false,
        };
        let told = world.with(nodes[1], |node, _| node.holds.told(held));
        assert!(told, "nobody is fenced");
        Pair {
            world,
            owner: nodes[0],
            holder: nodes[1],
            start: members[0].id,
            end: members[1].id,
        }
    }

    fn put(&mut self, id: NodeId, key: Id, version: u64, value: Option<Vec<u8>>) {
        let value = value.map(Bytes::from);
        self.world.with(id, |node, _| {
            node.entries.merge(key, Version(version), value)
        });
    }

    fn map(&self, id: NodeId) -> Map {
        let entries = self.world.service(id).entries();
        let arc = entries.arc_with_tombstones(self.start, self.end);
        arc.map(|(key, entry)| (key, entry.clone())).collect()
    }

    fn start(&mut self, mode: Mode) {
        self.start_with(addr(2), mode);
    }

    fn start_with(&mut self, peer: SocketAddrV4, mode: Mode) {
        let (start, end) = (self.start, self.end);
        self.world.with(self.owner, |node, hub| {
            let told = node.syncs.told.len();
            node.start_sync(hub, peer, (start, end), (addr(1), 7), mode);
            assert_eq!(node.syncs.told.len(), told, "told later");
        });
    }

    fn told(&self) -> &[SyncOver] {
        &self.world.service(self.owner).syncs.told
    }

    /// Lets the world go on until as many synchronisations are over.
    #[track_caller]
    fn ends(&mut self, count: usize) -> Result<SyncStats, SyncError> {
        let owner = self.owner;
        self.world.until(Ticks::from_secs(120), |w| {
            w.service(owner).syncs.told.len() >= count
        });
        self.told()[count - 1].result
    }

    #[track_caller]
    fn runs(&mut self, mode: Mode) -> Result<SyncStats, SyncError> {
        let count = self.told().len() + 1;
        self.start(mode);
        self.ends(count)
    }

    /// Nothing is under way or kept on either side.
    #[track_caller]
    fn is_quiet(&mut self) {
        self.world.run_for(Ticks::from_secs(1));
        for id in [self.owner, self.holder] {
            let node = self.world.service(id);
            assert_eq!(node.links.calls(), 0);
            assert!(node.syncs.is_idle() && node.comparisons.is_idle());
        }
    }

    /// A key of the range: anywhere, or close to others.
    fn key(&mut self) -> Id {
        loop {
            let rng = self.world.rng();
            let key = if rng.random() {
                Id::from_be_bytes(rng.random())
            } else {
                let i = rng.random_range(0..12);
                let start = self.start.plus_power_of_two(100);
                (0..rng.random_range(0..4)).fold(start, |key, _| key.plus_power_of_two(i))
            };
            if key.in_arc(self.start, self.end) {
                return key;
            }
        }
    }

    fn version(&mut self) -> u64 {
        self.world.rng().random_range(0..4)
    }

    /// Values follow from keys and versions, as they do in a ring.
    fn value(&mut self, key: Id, version: u64) -> Option<Vec<u8>> {
        let [.., last] = key.to_be_bytes();
        let is_tombstone = (u64::from(last) + version).is_multiple_of(5);
        (!is_tombstone).then(|| vec![last; (version.pow(3) * 200) as usize])
    }

    /// Fills both sides: much is common, the rest is on one side or in two versions.
    fn fill(&mut self) {
        let most = [0, 3, 40, 200, 800][self.world.rng().random_range(0..5)];
        let differs = [0, 1, 10, 100][self.world.rng().random_range(0..4)];
        for _ in 0..most {
            let (key, version) = (self.key(), self.version());
            let value = self.value(key, version);
            let sides = if self.world.rng().random_range(0..100) < differs {
                self.world.rng().random_range(0..3)
            } else {
                3
            };
            for (side, id) in [(1, self.owner), (2, self.holder)] {
                if sides & side != 0 {
                    self.put(id, key, version, value.clone());
                }
            }
        }
    }
}

/// The newer entry of each key.
fn newer(one: &Map, other: &Map) -> Map {
    let mut all = one.clone();
    for (key, entry) in other {
        let known = all.entry(*key).or_insert_with(|| entry.clone());
        if known.version < entry.version {
            *known = entry.clone();
        }
    }
    all
}

#[test]
fn two_maps_become_the_same() {
    let (mut pulled, mut pushed, mut digests) = (0, 0, 0);
    for seed in seeds(300) {
        check(seed, || {
            let mut pair = Pair::new(seed);
            pair.fill();
            let (ours, theirs) = (pair.map(pair.owner), pair.map(pair.holder));
            let mode = if seed.is_multiple_of(3) {
                Mode::PullOnly
            } else {
                Mode::Both
            };
            let stats = pair.runs(mode).unwrap();
            let newest = newer(&ours, &theirs);
            assert_eq!(pair.map(pair.owner), newest);
            let holds = pair.map(pair.holder);
            assert_eq!(holds, if mode == Mode::Both { newest } else { theirs });
            pulled += stats.pulled;
            pushed += stats.pushed;
            if mode == Mode::Both {
                let again = pair.runs(mode).unwrap();
                assert_eq!((again.pulled, again.pushed, again.digests), (0, 0, 1));
            }
            digests += stats.digests;
            pair.is_quiet();
        });
    }
    assert!(pulled > 2000 && pushed > 1500 && digests > 1000);
}

#[test]
fn everything_goes_to_an_empty_holder_at_once() {
    let mut pair = Pair::new(1);
    pair.world.validate_turns(false);
    let count = 100_000;
    while pair.world.service(pair.owner).entries().len() < count {
        let key = pair.key();
        pair.put(pair.owner, key, 9, Some(vec![7; 20]));
    }
    let stats = pair.runs(Mode::Both).unwrap();
    assert_eq!((stats.pushed, stats.digests), (count as u64, 1));
    assert_eq!(pair.map(pair.holder), pair.map(pair.owner));
    pair.is_quiet();
}

#[test]
fn everything_comes_from_a_full_holder() {
    let mut pair = Pair::new(1);
    pair.world.validate_turns(false);
    for _ in 0..20_000 {
        let key = pair.key();
        pair.put(pair.holder, key, 9, Some(vec![7; 20]));
    }
    let all = pair.map(pair.holder);
    let stats = pair.runs(Mode::PullOnly).unwrap();
    assert_eq!(stats.pulled, all.len() as u64);
    assert_eq!(pair.map(pair.owner), all);
}

/// What is written meanwhile may be missed, and everything else is not.
#[test]
fn writes_during_a_synchronisation_do_no_harm() {
    for seed in seeds(60) {
        check(seed, || {
            let mut pair = Pair::new(seed);
            pair.fill();
            let newest = newer(&pair.map(pair.owner), &pair.map(pair.holder));
            pair.start(Mode::Both);
            let mut written = Map::new();
            let mut keys: Vec<Id> = newest.keys().copied().collect();
            while pair.told().is_empty() {
                for _ in 0..pair.world.rng().random_range(0..4) {
                    let old = pair.world.rng().random_range(0..=keys.len());
                    let key = keys.get(old).copied().unwrap_or_else(|| pair.key());
                    keys.push(key);
                    let owner = pair.owner;
                    let value = (!old.is_multiple_of(3)).then(|| Bytes::from_static(b"new"));
                    let entry = pair.world.with(owner, |node, _| {
                        node.write_in_memory(key, None, value);
                        node.entries.entry(key).cloned()
                    });
                    written.insert(key, entry.expect("a tombstone at least"));
                }
                pair.world.run_for(Ticks(1));
            }
            pair.ends(1).unwrap();
            assert_eq!(pair.map(pair.owner), newer(&newest, &written));
            let holds = pair.map(pair.holder);
            for (key, entry) in &newest {
                let held = &holds[key];
                assert!(held.version >= entry.version);
                let ours = &pair.map(pair.owner)[key];
                assert!(held.version <= ours.version);
            }
            pair.runs(Mode::Both).unwrap();
            assert_eq!(pair.map(pair.holder), pair.map(pair.owner));
        });
    }
}

#[test]
fn a_synchronisation_that_breaks_off_ends_once_and_the_next_one_does_the_rest() {
    let mut lost = 0;
    for seed in seeds(100) {
        check(seed, || {
            let mut pair = Pair::new(seed);
            pair.fill();
            let newest = newer(&pair.map(pair.owner), &pair.map(pair.holder));
            let faults = Faults::swarm(pair.world.rng());
            pair.world.set_faults(faults);
            for _ in 0..3 {
                pair.start(Mode::Both);
            }
            let pause = pair.world.rng().random_range(0..30);
            pair.world.run_for(Ticks(pause));
            let holder = pair.holder;
            if seed.is_multiple_of(2) {
                let addr = pair.world.addr(holder);
                let owner = pair.owner;
                pair.world.with(owner, |node, hub| {
                    super::super::rpc::links::close(node, hub, addr)
                });
            }
            for count in 1..=3 {
                match pair.ends(count) {
                    Ok(_) => {}
                    Err(SyncError::Lost) => lost += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            pair.world.heal();
            pair.world.run_for(Ticks::from_secs(200));
            assert_eq!(pair.told().len(), 3);
            pair.runs(Mode::Both).unwrap();
            assert_eq!(pair.map(pair.owner), newest);
            assert_eq!(pair.map(holder), newest);
            pair.is_quiet();
        });
    }
    assert!(lost > 30, "{lost}");
}

#[test]
fn a_plain_peer_and_a_dead_one() {
    let mut pair = Pair::new(1);
    pair.world.kill(pair.holder);
    assert_eq!(pair.runs(Mode::Both), Err(SyncError::Lost));
    let mut pair = Pair::new(1);
    pair.world
        .with(pair.holder, |node, _| node.config.replicas = 1);
    assert_eq!(pair.runs(Mode::Both), Err(SyncError::Plain));
    assert_eq!(pair.runs(Mode::PullOnly), Err(SyncError::Plain));
}

#[test]
fn an_entry_that_the_peer_does_not_take_ends_it() {
    let mut pair = Pair::new(1);
    let (key, holder) = (pair.start, pair.holder);
    pair.put(pair.owner, key, 5, Some(vec![1]));
    // It owns everything now.
    pair.world.with(holder, |node, _| {
        node.routing = crate::proto::dht::routing::Routing::alone(node.me())
    });
    assert_eq!(pair.runs(Mode::Both), Err(SyncError::Refused));
    assert_eq!(pair.runs(Mode::PullOnly).map(|s| s.pulled), Ok(0));
}

#[test]
fn there_is_a_limit_of_synchronisations() {
    let mut pair = Pair::new(1);
    for _ in 0..=syncs::SYNCS_MAX {
        pair.start(Mode::Both);
    }
    pair.ends(1 + syncs::SYNCS_MAX).unwrap();
    let failed = pair.told().iter().filter(|over| over.result.is_err());
    let failed: Vec<_> = failed.map(|over| over.result).collect();
    assert_eq!(failed, [Err(SyncError::Limit)]);
}

#[test]
fn what_the_memory_does_not_hold_does_not_come() {
    let mut pair = Pair::new(1);
    for _ in 0..100 {
        let key = pair.key();
        pair.put(pair.holder, key, 5, Some(vec![1; 1000]));
    }
    pair.world
        .with(pair.owner, |node, _| node.config.memory_bytes_max = 20_000);
    assert_eq!(pair.runs(Mode::Both), Err(SyncError::Limit));
    let held = pair.world.service(pair.owner).held_bytes();
    assert!(held <= 20_000, "{held}");
}

/// Commits to a map; or nothing, once it is full.
struct Disk(Arc<Mutex<Map>>, usize);

impl Work for Disk {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        let mut map = self.0.lock().expect("no test panics in here");
        for write in jobs.drain(..) {
            let committed = map.len() < self.1;
            if committed {
                write.changes.each(|key, entry| match entry {
                    Some(entry) => _ = map.insert(key, entry.clone()),
                    None => _ = map.remove(&key),
                });
            }
            done.push(Written { write, committed });
        }
    }
}

/// It is over once everything that came is on the disk.
#[test]
fn what_comes_to_a_durable_node_is_committed() {
    for (seed, full_at) in [(1, usize::MAX), (2, usize::MAX), (3, 1), (4, 100)] {
        let mut pair = Pair::new(seed);
        let disk = Arc::new(Mutex::new(Map::new()));
        let worker = Disk(disk.clone(), full_at);
        let owner = pair.owner;
        pair.world.set_worker(owner, worker, Span::ms(20, 20));
        pair.world.with(owner, |node, _| {
            node.config.durable = true;
            node.config.quanta.entries_per_job = 64;
        });
        for n in 0..300 {
            let key = pair.key();
            pair.put(pair.holder, key, n, (n % 7 != 0).then(|| vec![1]));
        }
        let result = pair.runs(Mode::PullOnly).map(|stats| stats.pulled);
        let came = pair.map(owner);
        if full_at == usize::MAX {
            assert_eq!(came, pair.map(pair.holder));
            assert_eq!(result, Ok(came.len() as u64));
            assert_eq!(*disk.lock().unwrap(), came);
        } else {
            assert_eq!(result, Err(SyncError::NotCommitted));
        }
        pair.is_quiet();
    }
}

/// A peer that always has something else is given up.
#[test]
fn a_peer_that_lies_does_not_keep_us_busy() {
    let mut pair = Pair::new(1);
    let listener = pair.world.listen(addr(9));
    let mut peer = None;
    let many = Part {
        count: u64::MAX,
        digest: 1,
    };
    let cases = [
        (
            Reply::Digest(Box::new([many; DIGEST_PARTS])),
            SyncError::Malformed,
        ),
        (Reply::No, SyncError::Malformed),
    ];
    for (nth, (reply, error)) in cases.into_iter().enumerate() {
        let mut text = Vec::new();
        reply.put(&mut text);
        pair.start_with(addr(9), Mode::Both);
        let (owner, mut asked) = (pair.owner, 0);
        pair.world.until(Ticks::from_secs(60), |w| {
            peer = w.accept(listener).or(peer);
            if let Some(peer) = peer
                && !w.peer(peer).take().is_empty()
            {
                asked += 1;
                w.peer(peer).send(&text);
            }
            w.service(owner).syncs.told.len() == nth + 1
        });
        assert_eq!(pair.told()[nth].result, Err(error));
        assert!(asked <= 50, "{asked}");
    }
}

#[test]
fn comparisons_for_others_are_bounded_and_block_nobody() {
    let mut pair = Pair::new(1);
    for _ in 0..20_000 {
        let key = pair.key();
        pair.put(pair.holder, key, 5, Some(vec![1]));
    }
    let to = pair.world.addr(pair.holder);
    let ask = format!("XDIGEST\n{}\n{}\n", pair.start, pair.end);
    let peers: Vec<_> = (0..40).map(|_| pair.world.connect(to)).collect();
    pair.world.run_for(Ticks(5));
    for peer in &peers {
        pair.world.peer(*peer).send(ask.as_bytes());
        pair.world.peer(*peer).send(b"LOCATE\n1\n");
    }
    pair.world.run_for(Ticks::from_secs(5));
    let mut served = 0;
    for peer in peers {
        let got = pair.world.peer(peer).take();
        served += usize::from(got.iter().filter(|b| **b == b'\n').count() == 34);
        assert!(got.is_empty() || got.starts_with(b"1\n"));
    }
    assert_eq!(served, 32);
    let turns = pair.world.node(pair.holder).stats().turns;
    assert!(turns > 250, "a piece in each turn: {turns}");
    assert!(pair.world.service(pair.holder).comparisons.is_idle());
}

/// `cargo test --release --lib a_million_entries -- --ignored --nocapture`
#[test]
#[ignore = "takes seconds with --release, and prints what it took"]
#[expect(clippy::disallowed_types, reason = "it measures the machine")]
fn a_million_entries_to_an_empty_holder_and_back() {
    let mut pair = Pair::new(1);
    pair.world.validate_turns(false);
    pair.world.set_events_max(u64::MAX);
    while pair.world.service(pair.owner).entries().len() < 1_000_000 {
        let key = Id::from_be_bytes(pair.world.rng().random());
        if key.in_arc(pair.start, pair.end) {
            pair.put(pair.owner, key, 9, Some(vec![7; 100]));
        }
    }
    let time = |what: &str, pair: &mut Pair| {
        let (since, turns) = (
            std::time::Instant::now(),
            pair.world.node(pair.owner).stats().turns,
        );
        let at = pair.world.now();
        let stats = pair.runs(Mode::Both);
        let took = since.elapsed();
        let turns = pair.world.node(pair.owner).stats().turns - turns;
        let virtual_ticks = pair.world.now().since(at);
        println!("{what}: {took:?} for both nodes, {turns} turns, {virtual_ticks:?}: {stats:?}");
    };
    time("all to an empty holder", &mut pair);
    time("nothing differs", &mut pair);
    for n in 0..1000 {
        let key = pair.key();
        pair.put(pair.holder, key, 10 + n, Some(vec![8; 100]));
    }
    time("a thousand differ", &mut pair);
    let owner = pair.owner;
    pair.world
        .with(owner, |node, _| node.entries = node.entries.emptied());
    time("all from a full holder", &mut pair);
}

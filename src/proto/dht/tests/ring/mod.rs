//! Whole rings: nodes join and leave, clients read and write through any member, and the network has faults. Every step is
//! checked, and the end.
//!
//! Each key has one writer at a time, so what a read may return is known exactly: the state after the
//! last write that was acknowledged before the read began, or after any later one that was begun before it ended. A write
//! with an unknown outcome is the last of its key.

mod checks;

use rand::RngExt;

use crate::engine::{Tick, Ticks};
use crate::sim::{Faults, Span, Tally, check};

use super::*;
use crate::proto::dht::node::{LockHolder, Role};
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};

use checks::Watched;

/// Operations under way at once.
const CLIENTS: usize = 6;

/// Everything that was begun ends within this after the network is good again.
const SETTLES_WITHIN: Ticks = Ticks::from_secs(300);

/// How often a restart looks whether the ring is at rest, 100 ms apart.
const REST_LOOKS_MAX: usize = 100;

struct Key {
    id: Id,
    /// What was ever written, in order; `None` is a removal.
    writes: Vec<Option<Bytes>>,
    /// So many of them are acknowledged; at most one more was begun.
    acknowledged: usize,
    writing: bool,
    /// The outcome of the last write is unknown.
    retired: bool,
}

impl Key {
    fn state_after(&self, writes: usize) -> Option<Bytes> {
        writes
            .checked_sub(1)
            .and_then(|last| self.writes[last].clone())
    }
}

struct Asked {
    key: usize,
    /// For a read: what was acknowledged when it began.
    since: usize,
    write: bool,
    begun: Tick,
}

struct Ring {
    world: World<DhtNode>,
    /// Runs the clients' operations; no member.
    asker: NodeId,
    nodes: Vec<NodeId>,
    disks: Vec<(NodeId, Disk)>,
    /// Members that were killed and came back: the ring lists them while they join, so they have to.
    back: Vec<NodeId>,
    keys: Vec<Key>,
    asked: Vec<Option<Asked>>,
    open: usize,
    next_addr: usize,
    durable: bool,
    /// Next and whether it serves, of each node, when the ranges were last compared.
    seen: Vec<Option<Id>>,
    watched: Vec<Watched>,
    done: Tally,
    /// PEERLOOP_TRACE is set: say what happens, for the replay of one seed.
    trace: bool,
}

impl Ring {
    fn new(seed: u64, restarts: bool) -> Ring {
        let mut world = World::new(seed);
        world.validate_turns(false);
        let asker = add(&mut world, 0);
        let durable = world.rng().random_bool(0.4) || restarts;
        let mut ring = Ring {
            world,
            asker,
            nodes: Vec::new(),
            disks: Vec::new(),
            back: Vec::new(),
            keys: Vec::new(),
            asked: Vec::new(),
            open: 0,
            next_addr: 1,
            durable,
            seen: Vec::new(),
            watched: Vec::new(),
            done: Tally::default(),
            trace: std::env::var_os("PEERLOOP_TRACE").is_some(),
        };
        ring.add();
        ring
    }

    fn add(&mut self) -> NodeId {
        let n = self.next_addr;
        self.next_addr += 1;
        let id = if self.durable {
            let delay = Span::us(
                100,
                [200, 5_000, 100_000][self.world.rng().random_range(0..3)],
            );
            let (id, disk) = add_durable(&mut self.world, n, delay);
            self.disks.push((id, disk));
            id
        } else {
            add(&mut self.world, n)
        };
        self.nodes.push(id);
        id
    }

    fn up(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes
            .iter()
            .copied()
            .filter(|id| self.world.is_up(*id))
    }

    fn members(&self) -> Vec<NodeId> {
        self.up()
            .filter(|id| matches!(self.world.service(*id).role, Role::Member))
            .collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.world.rng().random_range(0..from.len())]
    }

    /// A node begins to join through up to two members.
    fn join(&mut self) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        let contacts = vec![self.pick(&members), self.pick(&members)];
        let contacts = contacts.into_iter().map(|id| self.world.addr(id)).collect();
        let id = self.add();
        self.world.with(id, |node, hub| node.join(hub, contacts));
        self.done.count("joins");
    }

    fn leave(&mut self) {
        let members = self.members();
        // A member that leaves serves no CONNECT, so a node that comes back would have to wait for it.
        let waits = |id: &NodeId| !matches!(self.world.service(*id).role, Role::Member);
        let is_back = self
            .back
            .iter()
            .any(|id| self.world.is_up(*id) && waits(id));
        // A leaver without an heir ends with its entries, so one member always stays.
        if members.len() >= 2 && !is_back {
            let id = self.pick(&members);
            self.world.shutdown(id);
            self.done.count("leaves");
        }
    }

    /// A joiner is asked to leave before it knows that it has joined.
    fn turn_joiner_away(&mut self) {
        let role = |id: &NodeId| &self.world.service(*id).role;
        let joiners: Vec<NodeId> = self
            .up()
            .filter(|id| matches!(role(id), Role::Joining(_)) && !self.back.contains(id))
            .collect();
        // When it has, it leaves with all that goes with it; a member stays.
        if !joiners.is_empty() && !self.members().is_empty() {
            let id = self.pick(&joiners);
            self.world.shutdown(id);
        }
    }

    /// A joiner dies before it is a member.
    fn kill_joiner(&mut self) {
        let joiners: Vec<NodeId> = self
            .up()
            .filter(|id| match &self.world.service(*id).role {
                Role::Joining(join) => !join.is_perhaps_member() && !self.back.contains(id),
                _ => false,
            })
            .collect();
        if !joiners.is_empty() {
            let id = self.pick(&joiners);
            self.world.kill(id);
            self.done.count("kills");
        }
    }

    /// A durable member dies and comes back at once at its address, with what it had on its disk. One at a time, and one
    /// at rest whose members have the right prev: what was removed while a part of the ring moved may come back with it,
    /// and the node after the dead one is found by asking each for its prev.
    fn restart(&mut self) {
        for _ in 0..REST_LOOKS_MAX {
            if self.is_at_rest() {
                break;
            }
            self.run_for(Ticks::from_millis(100));
        }
        if !self.is_at_rest() {
            return;
        }
        let members = self.members();
        let id = self.pick(&members);
        let others: Vec<NodeId> = members.into_iter().filter(|other| *other != id).collect();
        let contact = self.pick(&others);
        let contact = self.world.addr(contact);
        let disk = &self
            .disks
            .iter()
            .find(|(other, _)| *other == id)
            .expect("durable")
            .1;
        let mut entries = Entries::default();
        for (key, entry) in disk.lock().expect("no panic in here").iter() {
            entries.merge(*key, entry.version, entry.value.clone());
        }
        let config = Config {
            durable: true,
            advertise: self.world.addr(id),
            ..config(self.world.seed(), 0)
        };
        self.world.kill(id);
        self.world.restart(id, DhtNode::new(config, entries));
        self.world
            .with(id, |node, hub| node.join(hub, vec![contact]));
        if self.trace {
            eprintln!("{}: restart {}", self.world.now().0, self.world.addr(id));
        }
        self.back.push(id);
        self.done.count("restarts");
    }

    /// At least two nodes, all members, of which each has all its writes on the disk and the right prev.
    fn is_at_rest(&self) -> bool {
        let members = self.members();
        let at_rest = |id: &NodeId| {
            let node = self.world.service(*id);
            matches!(node.lock_holder, LockHolder::Nobody)
                && node.submitted == node.written
                && node.recovered.is_empty()
                && node.routing.prev().is_some_and(|prev| {
                    let before = members.iter().map(|id| self.world.service(*id));
                    let mut before = before.filter(|other| other.me() == prev);
                    before.any(|other| other.routing.next() == node.me())
                })
        };
        members.len() == self.up().count() && members.len() >= 2 && members.iter().all(at_rest)
    }

    fn new_key(&mut self) {
        let members = self.members();
        let near = self.world.rng().random_range(0..8);
        let id = match (near, members.is_empty()) {
            (0, _) => Id::ZERO,
            (1, _) => Id::MAX,
            (2 | 3, false) => {
                let member = self.pick(&members);
                let id = self.world.service(member).me().id;
                if near == 2 { id } else { id.pred() }
            }
            _ => Id::from_be_bytes(self.world.rng().random()),
        };
        if self.keys.iter().all(|key| key.id != id) {
            self.keys.push(Key {
                id,
                writes: Vec::new(),
                acknowledged: 0,
                writing: false,
                retired: false,
            });
        }
    }

    fn value(&mut self, key: usize) -> Bytes {
        let number = self.keys[key].writes.len();
        let long = [0, 0, 20, 3000][self.world.rng().random_range(0..4)];
        if long == 0 && self.world.rng().random_bool(0.2) {
            return Bytes::new();
        }
        let mut value = format!("{key}.{number}.").into_bytes();
        value.resize(value.len() + self.world.rng().random_range(0..=long), b'x');
        Bytes::from(value)
    }

    /// A client begins something.
    fn ask(&mut self) {
        let live: Vec<usize> = (0..self.keys.len())
            .filter(|k| !self.keys[*k].retired)
            .collect();
        if self.open >= CLIENTS {
            return;
        }
        if live.len() < 24 {
            self.new_key();
        }
        if self.keys.is_empty() {
            return;
        }
        let key = self.world.rng().random_range(0..self.keys.len());
        let what = self.world.rng().random_range(0..10);
        let may_write = !self.keys[key].writing && !self.keys[key].retired;
        let verb = match what {
            0..=4 if may_write => Verb::Insert(self.value(key)),
            5 if may_write => Verb::Remove,
            6 => Verb::Contains,
            _ => Verb::Get,
        };
        self.ask_for(key, verb);
    }

    fn ask_for(&mut self, key: usize, verb: Verb) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        let contact = self.pick(&members);
        let contacts = vec![self.world.addr(contact)];
        let written = match &verb {
            Verb::Insert(value) => Some(Some(value.clone())),
            Verb::Remove => Some(None),
            _ => None,
        };
        let write = written.is_some();
        let state = &mut self.keys[key];
        state.writing |= write;
        state.writes.extend(written);
        let (id, since) = (state.id, state.acknowledged);
        let number = self.asked.len();
        let begun = self.world.now();
        self.asked.push(Some(Asked {
            key,
            since,
            write,
            begun,
        }));
        self.open += 1;
        let operation = Operation::new(
            verb,
            id,
            contacts,
            Bounds {
                unknown_is_final: true,
                ..Bounds::default()
            },
        );
        self.world.with(self.asker, |node, hub| {
            node.ask(hub, number, operation);
        });
    }

    /// Looks at what came of the clients' operations.
    fn hear(&mut self) {
        if !self.world.service(self.asker).has_outcomes() {
            return;
        }
        let told = self.world.with(self.asker, |node, _| node.take_outcomes());
        for (number, result) in told {
            let asked = self.asked[number].take().expect("an operation ends once");
            self.open -= 1;
            self.judge(&asked, result);
        }
    }

    fn judge(&mut self, asked: &Asked, result: Result<Outcome, Failure>) {
        let Asked {
            key: number,
            since,
            write,
            begun,
        } = *asked;
        if self.trace {
            let short = format!("{result:.60?}");
            let at = self.world.now().0;
            eprintln!(
                "{at}: key {number} write {write} begun {} {:.90}",
                begun.0, short
            );
        }
        let key = &mut self.keys[number];
        match result {
            Ok(Outcome::Inserted | Outcome::Removed) if write => {
                key.writing = false;
                key.acknowledged = key.writes.len();
                self.done.count("writes");
            }
            Err(failure) if write => {
                key.retired = true;
                let is_refusal = |failure: &Failure| matches!(failure, Failure::Refused { .. });
                if is_refusal(&failure)
                    || matches!(&failure, Failure::Unknown { why } if is_refusal(why))
                {
                    self.done.count("refused");
                }
                self.done.count("unknown");
            }
            Ok(Outcome::Got(value)) => {
                let may = (since..=key.writes.len()).any(|n| key.state_after(n) == value);
                assert!(
                    may,
                    "key {number} ({}): read {} (begun at {}), {} of {} acknowledged, {since} before",
                    key.id,
                    short(&value),
                    begun.0,
                    key.acknowledged,
                    key.writes.len()
                );
                self.done.count("reads");
            }
            Ok(Outcome::Contains(there)) => {
                let may = (since..=key.writes.len()).any(|n| key.state_after(n).is_some() == there);
                assert!(
                    may,
                    "key {number}: there is{} an entry",
                    if there { "" } else { " not" }
                );
                self.done.count("reads");
            }
            Err(_) => self.done.count("failed reads"),
            Ok(outcome) => panic!("an answer to another question: {outcome:?}"),
        }
    }

    fn run_for(&mut self, time: Ticks) {
        let end = self.world.now() + time;
        while self.world.now() < end {
            let left = end - self.world.now();
            // After every event; it never comes true.
            let mut events = 0;
            _ = self.world.run_until(left, |_| {
                events += 1;
                events > 1
            });
            self.compare_ranges();
            self.watch();
            self.hear();
        }
    }

    /// After the storm: everything ends, and every key is what it should be.
    fn settle(&mut self) {
        self.world.heal();
        let end = self.world.now() + SETTLES_WITHIN;
        while !self.is_quiet() {
            assert!(
                self.world.now() < end,
                "still not quiet: {}",
                self.describe()
            );
            self.run_for(Ticks::from_millis(500));
        }
        self.check_leavers();
        self.run_for(secs(30));
        self.check_ring();
        let failed_reads = self.done.times("failed reads");
        for key in 0..self.keys.len() {
            self.ask_for(key, Verb::Get);
            while self.open > 0 {
                self.run_for(Ticks::from_millis(1));
            }
        }
        assert_eq!(
            self.done.times("failed reads"),
            failed_reads,
            "every key can be read"
        );
        // Lookups of fingers go on; where they take as long as their pauses, there is no moment without one.
        self.world.set_faults(Faults::none());
        self.run_for(secs(2));
        let up: Vec<NodeId> = self.up().chain([self.asker]).collect();
        for id in up {
            self.world.until(secs(120), |w| w.node(id).conns() == 0);
            self.world
                .with(id, |node, _| node.release_pinned(usize::MAX));
            let node = self.world.service(id);
            assert!(
                node.fenced_writes.is_empty() && node.parked.is_empty(),
                "somebody waits"
            );
            let entries = node.entries();
            assert_eq!(entries.pinned_bytes(), 0, "values that nobody reads");
            assert_eq!(
                node.held_bytes(),
                entries.memory_bytes(),
                "values under way"
            );
        }
    }
}

fn short(value: &Option<Bytes>) -> String {
    value.as_ref().map_or("nothing".into(), |v| {
        String::from_utf8_lossy(&v[..v.len().min(8)]).into_owned()
    })
}

/// A network that slows and cuts up everything; in half of the runs it loses connections as well.
fn faults(ring: &mut Ring) -> Faults {
    let rng = ring.world.rng();
    let mut faults = Faults {
        spurious: 0.1,
        stale: 0.3,
        ..Faults::none()
    };
    faults.split = [0.0, 0.3][rng.random_range(0..2)];
    faults.short_write = [0.0, 0.3][rng.random_range(0..2)];
    faults.short_read = [0.0, 0.3][rng.random_range(0..2)];
    faults.latency = Span::us(50, [200, 5_000, 60_000, 200_000][rng.random_range(0..4)]);
    faults.turn_delay = Span::us(1, [20, 5_000][rng.random_range(0..2)]);
    faults.window_bytes = [100, 4096, 65_536][rng.random_range(0..3)];
    faults.stall = [0.0, 0.0, 0.02][rng.random_range(0..3)];
    faults.stall_for = Span::ms(1, [50, 1000, 5000][rng.random_range(0..3)]);
    if rng.random_bool(0.5) {
        faults.reset = [0.0, 0.03, 0.15][rng.random_range(0..3)];
        faults.half_close = [0.0, 0.05][rng.random_range(0..2)];
        faults.refuse = [0.0, 0.05][rng.random_range(0..2)];
        faults.accept_abort = [0.0, 0.05][rng.random_range(0..2)];
        faults.cut_bytes_max = [64, 200, 4096][rng.random_range(0..3)];
        faults.silent_kill = [0.0, 0.5][rng.random_range(0..2)];
    }
    faults
}

/// One run: `size` nodes at first, then `steps` things that happen; with `restarts`, members die and come back.
fn storm(seed: u64, size: usize, steps: usize, restarts: bool) -> Tally {
    let mut ring = Ring::new(seed, restarts);
    let faults = faults(&mut ring);
    let pace_ms = [1, 20, 200][ring.world.rng().random_range(0..3)];
    for _ in 1..size {
        ring.join();
        ring.run_for(Ticks::from_millis(50));
    }
    for _ in 0..10 {
        ring.ask();
        ring.run_for(Ticks::from_millis(10));
    }
    ring.world.set_faults(faults);
    for _ in 0..steps {
        match ring.world.rng().random_range(0..20) {
            0 | 1 if ring.up().count() < size + 4 => ring.join(),
            2 | 3 => ring.leave(),
            4 => ring.kill_joiner(),
            5 => ring.turn_joiner_away(),
            6 if restarts => ring.restart(),
            _ => ring.ask(),
        }
        let pause = ring.world.rng().random_range(0..=pace_ms);
        ring.run_for(Ticks::from_millis(pause));
    }
    ring.settle();
    ring.done
}

/// What happens in a storm of 200 seeds, at least; about half of what did when this was written.
const HAPPENS: &[(&str, u64)] = &[
    ("joined", 600),
    ("leaves", 400),
    ("kills", 300),
    ("hand-overs", 700),
    ("absorbed", 500),
    ("relayed", 25),
    ("swept", 200),
    ("held", 100),
    ("parked", 100),
    ("writes", 2500),
    ("reads", 4000),
    ("unknown", 40),
    ("refused", 2),
];

/// The same of 40 seeds in which members die and come back.
const HAPPENS_WITH_RESTARTS: &[(&str, u64)] = &[
    ("restarts", 100),
    ("revived", 100),
    ("unpacked", 40),
    ("joined", 250),
    ("leaves", 60),
    ("kills", 50),
    ("held", 15),
    ("parked", 30),
    ("writes", 600),
    ("reads", 900),
    ("unknown", 10),
];

/// Storms of `count` seeds, half of them with small quanta and half with those of production.
fn storms(count: u64, restarts: bool) {
    let least = if restarts {
        HAPPENS_WITH_RESTARTS
    } else {
        HAPPENS
    };
    crate::sim::storms(count, least, |seed| {
        let size = [2, 2, 3, 3, 4, 5, 8][seed as usize % 7];
        storm(seed, size, 120, restarts)
    });
}

#[test]
fn rings_of_a_few_in_a_storm() {
    storms(200, false);
}

#[test]
fn rings_whose_members_are_killed_and_come_back() {
    storms(40, true);
}

#[test]
fn a_large_ring_in_a_storm() {
    for seed in [16, 48] {
        let tally = check(seed, || storm(seed, seed as usize, 150, false));
        for what in [
            "joined",
            "leaves",
            "hand-overs",
            "absorbed",
            "writes",
            "reads",
        ] {
            assert!(
                tally.times(what) > 0,
                "no {what} with seed {seed}: {tally:?}"
            );
        }
    }
}

#[test]
#[ignore = "10,000 seeds: half a minute with --release"]
fn many_rings_in_a_storm() {
    storms(10_000, false);
}

#[test]
#[ignore = "10,000 seeds: a minute with --release"]
fn many_rings_whose_members_are_killed_and_come_back() {
    storms(10_000, true);
}

//! The observer finds what is wrong: each violation is planted, and found under its name. (I1, I2, D1 and D2 are planted in
//! [`super::checks`] as well, in all their forms.) And a run is the same each time.

use bytes::Bytes;

use super::clients::Pending;
use super::*;
use crate::proto::dht::rpc::operation::Outcome;

fn setup(seed: u64, replicas: usize) -> Setup {
    Setup {
        seed,
        replicas,
        durable: false,
        disk: Span::us(100, 1000),
        quanta: Quanta::default(),
        load: Load {
            clients: 4,
            keys: 8,
            shared: 0.5,
        },
        panics: false,
    }
}

/// Five members, and keys that have been written; nothing is wrong.
fn ring(replicas: usize) -> Ring {
    let mut ring = Ring::new(setup(1, replicas));
    for _ in 1..5 {
        ring.join();
        ring.run_for(Ticks::from_secs(2));
    }
    for _ in 0..80 {
        ring.ask();
        ring.run_for(Ticks::from_millis(50));
    }
    ring.run_for(Ticks::from_secs(5));
    ring.violations.clear();
    ring
}

impl Ring {
    /// A key that has a value, and the host that serves it.
    fn key(&self) -> (usize, Id, usize) {
        let serving = self.serving();
        let mut keys = self.clients.keys.iter().enumerate();
        let found = keys.find_map(|(at, key)| {
            let value = key.register.settled()?;
            let (owner, _) = serving.iter().find(|(_, view)| view.owns(key.id))?;
            (value.is_some() && key.register.unknown() == 0).then_some((at, key.id, *owner))
        });
        found.expect("80 operations on 8 keys")
    }

    /// The same of a key that was removed.
    fn removed_key(&mut self) -> (usize, Id, usize) {
        let found = self.key();
        self.ask_for(found.0, Verb::Remove);
        self.run_for(Ticks::from_secs(5));
        found
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut DhtNode)) {
        let id = self.hosts[at].id;
        self.world.with(id, |node, _| change(node));
        self.look(at);
    }

    #[track_caller]
    fn assert_found(&self, check: Check) {
        let found = self.violations.iter().any(|found| found.check == check);
        assert!(found, "no {check} in {:?}", self.violations);
    }
}

#[test]
fn d1_a_node_that_thinks_it_is_alone_is_found() {
    let mut ring = ring(1);
    ring.change(2, |node| {
        let me = node.me();
        node.routing.set_next(me);
    });
    ring.assert_found(Check::D1);
}

#[test]
fn d2_a_next_that_is_dead_is_found_when_the_ring_is_quiet() {
    let mut ring = ring(1);
    ring.world.kill_with(ring.hosts[3].id, false);
    ring.look(3);
    ring.check_ring();
    ring.assert_found(Check::D2);
}

/// The acknowledgement of a write that no node has heard of.
#[test]
fn d3_an_acknowledgement_before_the_copies_is_found() {
    for value in [Some(Bytes::from_static(b"new")), None] {
        let mut ring = ring(2);
        let (_, key, _) = ring.key();
        let write = Pending::only(key, value, ring.world.now_us(), 5);
        ring.check_copies(&write);
        ring.assert_found(Check::D3);
    }
}

#[test]
fn d4_what_comes_back_is_found() {
    let mut ring = ring(1);
    let (key, id, owner) = ring.removed_key();
    ring.change(owner, |node| {
        node.entries.insert(id, Bytes::from_static(b"old"))
    });
    ring.read(key);
    ring.run_for(Ticks::from_secs(5));
    ring.assert_found(Check::D4);
}

#[test]
fn a_lost_write_is_found_by_its_reader() {
    let mut ring = ring(1);
    let (key, id, owner) = ring.key();
    ring.change(owner, |node| _ = node.entries.forget(id));
    ring.read(key);
    ring.run_for(Ticks::from_secs(5));
    ring.assert_found(Check::History);
    assert_eq!(ring.lost(), 1);
}

#[test]
fn d5_a_hand_over_that_loses_an_entry_is_found_before_anybody_reads() {
    let mut ring = ring(1);
    let (_, id, owner) = ring.key();
    ring.change(owner, |node| _ = node.entries.forget(id));
    while ring.violations.is_empty() && ring.hosts.len() < 12 {
        ring.join();
        ring.run_for(Ticks::from_secs(2));
    }
    ring.assert_found(Check::D5);
}

#[test]
fn d6_an_entry_that_is_gone_after_joins_and_leaves_is_found() {
    let mut ring = ring(1);
    ring.check_conserved(2, 2);
    assert_eq!(ring.violations, []);
    let before = ring.served_entries();
    let (_, id, owner) = ring.key();
    ring.change(owner, |node| _ = node.entries.forget(id));
    ring.compare_served_before(&before);
    ring.assert_found(Check::D6);
}

#[test]
fn d7_a_holder_without_a_copy_is_found() {
    let mut ring = ring(2);
    let (_, id, owner) = ring.key();
    let before = ring.serving();
    let at = before.iter().position(|(at, _)| *at == owner);
    let at = at.expect("it serves");
    let holder = before[(at + before.len() - 1) % before.len()].0;
    ring.change(holder, |node| _ = node.entries.forget(id));
    assert!(ring.is_converged().is_err());
}

#[test]
fn what_never_ends_is_found() {
    let mut ring = ring(1);
    let (key, _, _) = ring.key();
    ring.clients.begin(key, Verb::Get, vec![addr(1)], 0, 5);
    ring.settle();
    ring.assert_found(Check::Settles);
}

/// The history counts an answer that came from nobody.
#[test]
fn an_answer_is_judged_once() {
    let mut ring = ring(1);
    let (key, _, _) = ring.removed_key();
    let (number, _) = ring.clients.begin(key, Verb::Get, vec![addr(1)], 0, 5);
    let value = Some(Bytes::from_static(b"x"));
    let mut tell = || {
        let outcome = Ok(Outcome::Got(value.clone()));
        ring.clients.told(number, outcome, &mut ring.tally).wrong
    };
    assert!(tell().is_some_and(|(check, ..)| check == Check::D4));
    assert!(tell().is_none());
}

fn plan() -> Plan {
    Plan {
        nodes: 6,
        minutes: 4,
        joins: 4,
        leaves: 4,
        crashes: 3,
        stalls: 0,
        resets: 4,
        slow_disks: 2,
        operations: 600,
    }
}

fn experiment(seed: u64) -> Experiment {
    let setup = Setup {
        durable: true,
        ..setup(seed, 1)
    };
    let mut experiment = Experiment::new(setup, plan());
    while experiment.step(Ticks::from_secs(60)) {}
    experiment.finish();
    experiment
}

/// Without copies, members that are killed come back with their disks.
#[test]
fn a_ring_without_copies_bears_restarts_and_churn() {
    for seed in crate::sim::seeds(4) {
        let experiment = crate::sim::check(seed, || experiment(seed));
        let ring = &experiment.ring;
        assert_eq!(ring.violations, [], "seed {seed}");
        assert_eq!(experiment.faults().times("crashes"), 3, "seed {seed}");
        assert_eq!(ring.repairs_us().len(), 3, "seed {seed}");
        assert!(ring.tally().times("writes") > 100, "seed {seed}");
        let (gaps, open) = ring.timeline().gaps();
        assert!(
            gaps.len() >= 3 && open == 0,
            "seed {seed}: {gaps:?}, {open}"
        );
    }
}

#[test]
fn a_seed_names_a_run() {
    let run = |seed| experiment(seed).ring.world.fingerprint();
    assert_eq!(run(7), run(7));
}

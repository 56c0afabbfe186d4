//! An owner and its holders without links: random steps, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::engine::Ticks;

/// A holder as it really is.
#[derive(Default)]
struct Peer {
    /// Requests on the way to it, in order.
    way: VecDeque<Request>,
    /// The writes that it has.
    has: BTreeSet<u64>,
    /// The owner's last XHOLD said that it is complete.
    complete: bool,
}

enum Request {
    Hold(bool),
    Write(u64),
}

struct Model {
    copies: Copies,
    rng: StdRng,
    now: Tick,
    peers: BTreeMap<SocketAddrV4, Peer>,
    /// Members before the owner, nearest first.
    before: Vec<Member>,
    epoch: u64,
    acknowledged: BTreeSet<u64>,
    begun: u64,
    syncing: Vec<SocketAddrV4>,
}

fn member(n: u16) -> Member {
    Member::at(SocketAddrV4::new([10, 0, 0, 1].into(), n))
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut copies = Copies::new(3, Id::ZERO);
        copies.begin((Id::ZERO, Id::MAX), 1);
        Model {
            copies,
            rng: StdRng::seed_from_u64(seed),
            now: Tick(0),
            peers: BTreeMap::new(),
            before: (1..=5).map(member).collect(),
            epoch: 1,
            acknowledged: BTreeSet::new(),
            begun: 0,
            syncing: Vec::new(),
        }
    }

    fn step(&mut self) {
        self.now = self.now + Ticks(self.rng.random_range(1..60));
        match self.rng.random_range(0..20) {
            0..=6 => self.write(),
            7..=13 => self.deliver(),
            14 | 15 => self.end_sync(),
            16 => self.lose_link(),
            17 => self.crash(),
            18 => self.copies.confirmed(self.epoch),
            _ => self.place(),
        }
        let epoch = self.epoch + 1;
        let _ = self.copies.leave_out_failing(self.now, || epoch);
        self.follow();
        self.check();
    }

    fn write(&mut self) {
        self.begun += 1;
        let write = Write {
            client: None,
            key: Id::ZERO,
            version: Version(self.begun),
            value: None,
        };
        let number = self.copies.begin_write(write, self.now, false);
        assert_eq!(number, self.begun);
        for to in self.copies.takers().collect::<Vec<_>>() {
            self.peer(to).way.push_back(Request::Write(number));
        }
    }

    fn peer(&mut self, addr: SocketAddrV4) -> &mut Peer {
        self.peers.entry(addr).or_default()
    }

    fn pick(&mut self) -> Option<SocketAddrV4> {
        let all: Vec<SocketAddrV4> = self.copies.holders().map(|(addr, _)| addr).collect();
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len())])
    }

    /// One request arrives, and its answer.
    fn deliver(&mut self) {
        let (Some(addr), now) = (self.pick(), self.now) else {
            return;
        };
        match self.peer(addr).way.pop_front() {
            Some(Request::Hold(complete)) => {
                self.peer(addr).complete = complete;
                if self.copies.held(addr, now, true) {
                    let unacked: Vec<u64> = self.copies.unacked(addr).map(|(n, _)| n).collect();
                    let way = &mut self.peer(addr).way;
                    way.extend(unacked.into_iter().map(Request::Write));
                }
            }
            Some(Request::Write(number)) => {
                self.peer(addr).has.insert(number);
                self.copies.acked(addr, number);
            }
            None => {}
        }
    }

    /// A synchronisation ends: the holder has all that the owner shows.
    fn end_sync(&mut self) {
        let Some(with) = self.syncing.pop() else {
            return;
        };
        let done = self.rng.random_bool(0.7);
        if done {
            let shown = self.acknowledged.clone();
            self.peer(with).has.extend(shown);
        }
        self.copies.synced(with, self.now, done);
    }

    fn lose_link(&mut self) {
        if let Some(addr) = self.pick() {
            let refused = self.rng.random_bool(0.3);
            self.peer(addr).way.clear();
            self.copies.failed(addr, self.now, refused);
        }
    }

    fn crash(&mut self) {
        if let Some(addr) = self.pick() {
            self.peers.remove(&addr);
            self.syncing.retain(|with| *with != addr);
            self.epoch += 1;
            let epoch = self.epoch;
            self.copies.leave_out(addr, || epoch);
        }
    }

    fn place(&mut self) {
        let at = self.rng.random_range(0..self.before.len());
        let n = self.rng.random_range(1..12);
        if !self.before.contains(&member(n)) {
            self.before[at] = member(n);
        }
        let epoch = self.epoch + 1;
        self.copies.place(&self.before, self.now, || epoch);
    }

    fn follow(&mut self) {
        self.epoch = self.copies.epoch();
        while let Some(step) = self.copies.next_step(self.now) {
            match step {
                CopyStep::Confirm => {}
                CopyStep::Hold { to, complete } => {
                    self.peer(to).way.push_back(Request::Hold(complete));
                }
                CopyStep::Sync { with } => self.syncing.push(with),
            }
        }
        while let Some(finished) = self.copies.take_finished() {
            let number = finished.write.version.0;
            assert!(self.acknowledged.insert(number), "acknowledged twice");
            assert_eq!(number, self.acknowledged.len() as u64, "not in order");
            for (addr, _) in self.copies.holders() {
                let has = self
                    .peers
                    .get(&addr)
                    .is_some_and(|p| p.has.contains(&number));
                assert!(has, "{addr} does not have write {number}");
            }
        }
    }

    /// A holder that is called complete has every acknowledged write.
    fn check(&self) {
        for (addr, complete) in self.copies.holders().filter(|(_, complete)| *complete) {
            let has = |n: &u64| self.peers.get(&addr).is_some_and(|p| p.has.contains(n));
            assert!(
                complete && self.acknowledged.iter().all(has),
                "{addr} is not complete"
            );
        }
    }
}

#[test]
fn an_acknowledged_write_is_with_every_holder() {
    for seed in 0..40 {
        let mut model = Model::new(seed);
        for _ in 0..400 {
            model.step();
        }
        // Then everything is well, and all ends.
        for _ in 0..1_000 {
            model.now = model.now + Ticks(10);
            model.copies.confirmed(model.copies.epoch());
            model.deliver();
            if let Some(with) = model.syncing.pop() {
                let shown = model.acknowledged.clone();
                model.peer(with).has.extend(shown);
                model.copies.synced(with, model.now, true);
            }
            model.follow();
            model.check();
        }
        assert_eq!(model.acknowledged.len() as u64, model.begun, "seed {seed}");
        assert!(
            model.copies.holders().all(|(_, complete)| complete),
            "seed {seed}"
        );
        assert!(!model.copies.is_unsettled());
    }
}

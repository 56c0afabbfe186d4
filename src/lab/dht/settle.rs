//! After the faults: everything that was begun ends, and the ring is what it should be.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::Ticks;
use crate::proto::dht::id::Id;
use crate::sim::Faults;

use super::checks::{self, Check};
use super::observe::{self, Stage};
use super::{Ring, disk};

/// Everything that was begun ends within this after the network is good again, in a ring without copies: a leaver tries for
/// two minutes, a joiner whose disk remembers a place in the ring for as long.
const SETTLES_WITHIN: Ticks = Ticks::from_secs(300);

/// A round of the heartbeats of D7.
const ROUND: Ticks = Ticks::from_secs(2);

/// With so many keys that cannot be read, no more are tried: each takes its time.
const UNREADABLE_MAX: u64 = 10;

/// Between two looks.
const LOOK: Ticks = Ticks::from_millis(500);

/// What a ring does in which nothing happens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quiet {
    pub messages_per_node_minute: f64,
    pub turns_per_node_minute: f64,
}

impl Ring {
    fn is_quiet(&self) -> bool {
        self.clients.open() == 0 && self.up().all(|at| observe::is_idle(self.node(at)))
    }

    /// The network is good again, nobody stalls, and everything ends in time.
    pub fn settle(&mut self) {
        self.world.heal();
        for at in 0..self.hosts.len() {
            self.resume(at);
            self.quick_disk(at);
        }
        let begun = self.world.now();
        let within = self.settles_within();
        while !(self.is_quiet() && self.is_converged().is_ok()) {
            if self.world.now() >= begun + within {
                let what = self.is_converged().err().unwrap_or_else(|| self.describe());
                let check = if self.is_quiet() {
                    Check::D7
                } else {
                    Check::Settles
                };
                self.found(check, format!("not after {within:?}: {what}"));
                break;
            }
            self.run_for(LOOK);
            self.look_at_leases();
            self.look_at_wounds();
        }
        let settled = self.world.now().since(begun);
        self.trace(format_args!("settled after {settled:?}"));
        self.check_leavers();
        self.run_for(Ticks::from_secs(30));
        self.check_ring();
        self.read_all();
    }

    fn settles_within(&self) -> Ticks {
        if self.setup.replicas == 1 {
            return SETTLES_WITHIN;
        }
        Ticks(ROUND.0 * (10 + self.up().count() as u64))
    }

    /// D7.
    pub(super) fn is_converged(&self) -> Result<(), String> {
        if self.setup.replicas == 1 {
            return Ok(());
        }
        checks::ideal(&self.views())?;
        self.compare_holders()
    }

    /// The R - 1 members before an owner have the entries of its range as it has them.
    fn compare_holders(&self) -> Result<(), String> {
        let serving = self.serving();
        for (i, (owner, view)) in serving.iter().enumerate() {
            for back in 1..self.setup.replicas.min(serving.len()) {
                let (holder, before) = serving[(i + serving.len() - back) % serving.len()];
                let (start, end) = (view.me.id, view.next.id);
                let [a, b] = [*owner, holder].map(|at| self.node(at).entries());
                if !observe::is_same_range(a, b, start, end) {
                    let (owner, holder) = (view.me.addr, before.me.addr);
                    return Err(format!("{holder} has other entries of {owner} than it has"));
                }
            }
        }
        Ok(())
    }

    /// D2: the members' nexts are one round through all of them, so their ranges tile the ring. Without copies, each has
    /// what is its own and nothing else; memory and disk are the same.
    pub(super) fn check_ring(&mut self) {
        let up = self.views();
        let mut result = checks::ideal(&up);
        for (i, view) in up.iter().enumerate().filter(|_| up.len() > 1) {
            let next = up[(i + 1) % up.len()];
            let at = |id| (0..self.hosts.len()).find(|at| self.hosts[*at].view.me.id == id);
            let prev = at(next.me.id).and_then(|at| self.node(at).routing().prev());
            if result.is_ok() && prev.is_none_or(|prev| prev != view.me) {
                let (me, next) = (view.me.addr, next.me.addr);
                result = Err(format!("the prev of {next} is {prev:?} and not {me}"));
            }
            let entries = at(view.me.id).map(|at| self.node(at).entries());
            let stray = entries.and_then(|entries| entries.arc(next.me.id, view.me.id).next());
            if self.setup.replicas == 1 && result.is_ok() && stray.is_some() {
                result = Err(format!("{} holds {stray:?}, not its own", view.me.addr));
            }
        }
        self.check(Check::D2, result);
        for at in self.up().collect::<Vec<_>>() {
            let disk = self.hosts[at].disk.as_ref();
            if let Some(what) = disk.and_then(|disk| disk::differs(disk, self.node(at).entries())) {
                let what = format!("{} has of {what}", self.hosts[at].addr);
                self.found(Check::Settles, what);
            }
        }
    }

    /// Who was asked to leave is gone with its entries taken, or was the last.
    fn check_leavers(&mut self) {
        for at in 0..self.hosts.len() {
            let crashed = self.hosts[at].died_us > 0;
            if !self.is_up(at) && !crashed && !observe::is_emptied(self.node(at)) {
                let what = format!("{} took its range with it", self.hosts[at].addr);
                self.found(Check::Settles, what);
            }
        }
    }

    /// Every key can be read; what is read is judged as always.
    fn read_all(&mut self) {
        let before = self.tally.times("failed reads");
        for key in 0..self.clients.keys.len() {
            self.read(key);
            let mut left = SETTLES_WITHIN.0;
            while self.clients.open() > 0 && left > 0 {
                self.run_for(Ticks(1));
                left -= 1;
            }
            if self.tally.times("failed reads") - before == UNREADABLE_MAX {
                break;
            }
        }
        let failed = self.tally.times("failed reads") - before;
        if failed > 0 || self.clients.open() > 0 {
            self.found(Check::Settles, format!("{failed} keys cannot be read"));
        }
    }

    /// For a ring without copies, whose nodes keep no connections: nobody waits, and all memory is accounted for.
    pub fn check_leftovers(&mut self) {
        // Lookups of fingers go on; where they take as long as their pauses, there is no moment without one.
        self.world.set_faults(Faults::none());
        self.run_for(Ticks::from_secs(2));
        let hosts = self.up().map(|at| self.hosts[at].id);
        for id in hosts.chain([self.asker]).collect::<Vec<_>>() {
            let is_free = |world: &mut crate::sim::World<_>| world.node(id).conns() == 0;
            if self
                .world
                .run_until(Ticks::from_secs(120), is_free)
                .is_err()
            {
                self.found(Check::Settles, "connections stay".into());
            }
            self.world
                .with(id, |node, _| node.release_pinned(usize::MAX));
            if let Some(what) = observe::leftovers(self.world.service(id)) {
                self.found(Check::Settles, what.into());
            }
        }
    }

    /// D6: nodes join and leave while no client writes, and the entries that are served stay the same.
    pub fn check_conserved(&mut self, joins: usize, leaves: usize) {
        let before = self.served_entries();
        for n in 0..joins + leaves {
            let _ = if n % 2 == 0 && n / 2 < joins || n / 2 >= leaves {
                self.join()
            } else {
                self.leave()
            };
            let end = self.world.now() + self.settles_within();
            self.run_for(LOOK);
            while !self.is_quiet() && self.world.now() < end {
                self.run_for(LOOK);
            }
        }
        self.compare_served_before(&before);
    }

    pub(super) fn compare_served_before(&mut self, before: &BTreeMap<Id, Bytes>) {
        let after = self.served_entries();
        if *before != after {
            let (before, after) = (before.len(), after.len());
            let what = format!("{before} entries before, {after} after, or other values");
            self.found(Check::D6, what);
        }
    }

    /// What a client could read now.
    pub(super) fn served_entries(&self) -> BTreeMap<Id, Bytes> {
        let mut all = BTreeMap::new();
        for (at, view) in self.serving() {
            let own = self.node(at).entries().arc(view.me.id, view.next.id);
            all.extend(own.map(|(key, value)| (key, value.clone())));
        }
        all
    }

    /// Messages and turns of a ring that nobody uses, over a time.
    pub fn measure_quiet(&mut self, time: Ticks) -> Quiet {
        let counts = |ring: &Ring| {
            let stats = ring
                .up()
                .map(|at| ring.world.node(ring.hosts[at].id).stats());
            stats.fold((0, 0), |(messages, turns), stats| {
                (messages + stats.messages, turns + stats.turns)
            })
        };
        let before = counts(self);
        self.run_for(time);
        let after = counts(self);
        let minutes = time.as_duration().as_secs_f64() / 60.0 * self.up().count() as f64;
        Quiet {
            messages_per_node_minute: (after.0 - before.0) as f64 / minutes,
            turns_per_node_minute: (after.1 - before.1) as f64 / minutes,
        }
    }

    /// Messages that the members received so far, all of their lives.
    pub fn messages(&self) -> u64 {
        let hosts = self.hosts.iter();
        let of = |host: &super::Host| host.messages + self.world.node(host.id).stats().messages;
        hosts.map(of).sum()
    }

    fn describe(&self) -> String {
        let busy = self.up().filter(|at| !observe::is_idle(self.node(*at)));
        let busy = busy.map(|at| {
            let (addr, stage) = (self.hosts[at].addr, self.hosts[at].view.stage);
            format!("\n{addr} {stage:?} {}", observe::described(self.node(at)))
        });
        let busy: String = busy.collect();
        format!("{} operations open{busy}", self.clients.open())
    }

    /// Hosts of each kind at this moment, for a progress bar.
    pub fn stages(&self) -> impl Iterator<Item = Stage> + '_ {
        self.hosts.iter().map(|host| host.view.stage)
    }
}

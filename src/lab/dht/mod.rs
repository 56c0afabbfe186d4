//! A DHT ring with clients and faults, and an observer that sees every node after each of its turns.
//!
//! ```text
//!   Experiment (a plan of faults over time)      a test
//!        └──────────────┬──────────────────────────┘
//!                     Ring ── join, leave, crash, return, stall, reset, ask ──▶ sim::World<DhtNode>
//!                       │                                                            │ a turn
//!                       │◀────────── observe: View of that node ─────────────────────┘
//!                       ├─ checks     I1, I2, D1 to D7: violations
//!                       ├─ clients    histories of the keys (history)
//!                       └─ timeline   who served what, gaps, repairs
//! ```
//! The node is the one of production; disks are maps ([`disk`]). The checks look into all nodes and compare them with what
//! the clients were told; they cost one comparison for a turn after which the ring is the same.
//!
//! Invariants: the same setup and calls give the same run; nothing here changes a node, except by what could happen to it.

mod checks;
mod clients;
pub mod disk;
mod experiment;
mod faults;
mod history;
mod observe;
mod settle;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use rand::RngExt;

use crate::engine::{Limits, Tick, Ticks};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Config, DhtNode, Quanta};
use crate::proto::dht::rpc::operation::Verb;
use crate::proto::dht::storage::entries::Entries;
use crate::sim::{NodeId, Span, Tally, World};

use clients::Clients;
use disk::{Commits, Disk};
use observe::Doing;

pub use checks::{Check, Violation};
pub use clients::Load;
pub use experiment::{Experiment, Plan};
pub use observe::{Stage, View};
pub use settle::Quiet;
pub use timeline::{Lane, Mark, State, Timeline};

/// Violations that are kept; one fault of a ring may be found again with every change of it.
const VIOLATIONS_MAX: usize = 100;

/// The same for one that was stopped, in addition.
const BACK_AFTER_US: u64 = 6_000_000;

/// A new member counts among those that have copies after this time.
const HEARD_OF_US: u64 = 2_000_000;
/// Two silent members one after the other, and a leaver that gives up beside them.
const UNSERVED_US_MAX: u64 = 45_000_000;

/// A stall that is longer makes a member dead for the others.
const SUSPECT_US: u64 = 3_000_000;

/// What the ring is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    /// Members that have each entry.
    pub replicas: usize,
    /// Members have disks.
    pub durable: bool,
    /// How long a disk takes.
    pub disk: Span,
    pub quanta: Quanta,
    pub load: Load,
    /// Panic at the first violation: for tests.
    pub panics: bool,
}

/// A node's place in the world.
#[derive(Debug)]
struct Host {
    id: NodeId,
    addr: SocketAddrV4,
    disk: Option<Disk>,
    /// As it was after its last turn.
    view: View,
    doing: Doing,
    /// It died and came back: the ring lists it while it joins, so it has to.
    is_back: bool,
    /// It was stopped, and has not had a turn since.
    is_stalled: bool,
    member_since_us: u64,
    /// When the ring was last compared, it answered for its range.
    is_serving: bool,
    died_us: u64,
    /// Messages that its former lives received.
    messages: u64,
}

/// A ring of nodes.
pub struct Ring {
    setup: Setup,
    pub(super) world: World<DhtNode>,
    /// Runs the clients' operations; no member. The first node of the world; the others are the hosts.
    asker: NodeId,
    hosts: Vec<Host>,
    clients: Clients,
    timeline: Timeline,
    violations: Vec<Violation>,
    /// Keys of which an acknowledged write was missed.
    lost: BTreeSet<Id>,
    wounds: Vec<faults::Wound>,
    repairs_us: Vec<u64>,
    /// Positions that nobody serves for too long.
    unserved: BTreeSet<usize>,
    tally: Tally,
    /// `PEERLOOP_TRACE` is set: say what happens, for the replay of one seed.
    trace: bool,
}

/// Where node number `n` listens. Each has an IP of its own, as members of a ring usually do.
pub fn addr(n: usize) -> SocketAddrV4 {
    let [.., high, low] = n.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(10, 1, high, low), 5000)
}

impl Ring {
    /// A ring of one.
    pub fn new(setup: Setup) -> Ring {
        let mut world = World::new(setup.seed);
        world.validate_turns(false);
        world.set_events_max(u64::MAX);
        let config = Config::new(addr(0));
        let limits = config.fit(Limits::default());
        let asker = world.add(addr(0), DhtNode::new(config, Entries::default()), limits);
        let clients = Clients::new(setup.load);
        let mut ring = Ring {
            setup,
            world,
            asker,
            hosts: Vec::new(),
            clients,
            timeline: Timeline::default(),
            violations: Vec::new(),
            lost: BTreeSet::new(),
            wounds: Vec::new(),
            repairs_us: Vec::new(),
            unserved: BTreeSet::new(),
            tally: Tally::default(),
            trace: std::env::var_os("PEERLOOP_TRACE").is_some(),
        };
        let first = ring.add();
        ring.look(first);
        ring
    }

    pub fn world(&mut self) -> &mut World<DhtNode> {
        &mut self.world
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Keys of which an acknowledged write was missed.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// From each crash to the ring that has closed, with min(R, members) copies of everything.
    pub fn repairs_us(&self) -> &[u64] {
        &self.repairs_us
    }

    fn config(&self, addr: SocketAddrV4) -> Config {
        Config {
            durable: self.setup.durable,
            // Not more than a byte has: the command's bound is far below.
            replicas: u8::try_from(self.setup.replicas).unwrap_or(u8::MAX),
            quanta: self.setup.quanta,
            // A faulty network, or a joiner that died at the heir, may keep an heir from its part for longer than the default.
            leave_within: Ticks::from_secs(120),
            ..Config::new(addr)
        }
    }

    /// A new process, alone until it is told to join.
    fn add(&mut self) -> usize {
        let addr = addr(self.hosts.len() + 1);
        let config = self.config(addr);
        let limits = config.fit(Limits::default());
        let node = DhtNode::new(config, Entries::default());
        let view = View::of(&node);
        let id = self.world.add(addr, node, limits);
        let disk = self.setup.durable.then(Disk::default);
        if let Some(disk) = &disk {
            let delay = self.setup.disk;
            self.world.set_worker(id, Commits(disk.clone()), delay);
        }
        self.timeline.add(addr, view.me.id);
        self.hosts.push(Host {
            id,
            addr,
            disk,
            view: view.down(),
            doing: Doing::default(),
            is_back: false,
            is_stalled: false,
            member_since_us: 0,
            is_serving: false,
            died_us: 0,
            messages: 0,
        });
        self.hosts.len() - 1
    }

    fn node(&self, at: usize) -> &DhtNode {
        self.world.service(self.hosts[at].id)
    }

    fn is_up(&self, at: usize) -> bool {
        self.world.is_up(self.hosts[at].id)
    }

    /// Hosts whose process runs.
    fn up(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(|at| self.is_up(*at))
    }

    /// Hosts that are members and do not leave.
    fn members(&self) -> Vec<usize> {
        let is_member = |at: &usize| self.hosts[*at].view.stage == Stage::Member;
        self.up().filter(is_member).collect()
    }

    /// Members of which the others have had time to hear: a new one takes its first copies a few round trips later.
    fn settled_members(&self) -> usize {
        let now_us = self.world.now_us();
        let is_settled = |at: &usize| now_us >= self.hosts[*at].member_since_us + HEARD_OF_US;
        self.members().into_iter().filter(is_settled).count()
    }

    /// How many members there are.
    pub fn size(&self) -> usize {
        self.members().len()
    }

    /// How many processes run.
    pub fn running(&self) -> usize {
        self.up().count()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.world.rng().random_range(0..from.len())]
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if self.trace {
            let seconds = self.world.now_us() as f64 / 1e6;
            eprintln!("{seconds:>12.6} {what}");
        }
    }

    fn found(&mut self, check: Check, what: String) {
        let at = self.world.now();
        let violation = Violation { at, check, what };
        self.trace(format_args!("VIOLATION {violation}"));
        let seed = self.setup.seed;
        assert!(!self.setup.panics, "{violation}; seed {seed}");
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }

    fn check(&mut self, check: Check, result: Result<(), String>) {
        if let Err(what) = result {
            self.found(check, what);
        }
    }

    /// Looks at the node that had a turn, or that something was done to.
    fn look(&mut self, at: usize) {
        let (id, now_us) = (self.hosts[at].id, self.world.now_us());
        let host = &mut self.hosts[at];
        let node = self.world.service(id);
        let was_stalled = std::mem::replace(&mut host.is_stalled, self.world.is_paused(id));
        let view = if self.world.is_up(id) {
            host.doing.watch(node, &mut self.tally);
            if host.view.is_of(node) && was_stalled == host.is_stalled {
                return;
            }
            View::of(node)
        } else {
            host.view.down()
        };
        // A lease that goes on changes nothing.
        let goes_on = host.is_serving && view.serves_at(self.world.now());
        let same = View {
            lease_until: host.view.lease_until,
            ..view.clone()
        };
        let is_same =
            was_stalled == host.is_stalled && (view == host.view || goes_on && same == host.view);
        if matches!(view.stage, Stage::Gone) && host.view.is_member() {
            self.clients.note_leaver();
        }
        if view.is_member() && !host.view.is_member() {
            host.member_since_us = now_us;
        }
        if was_stalled && !host.is_stalled {
            // The others left it out; it is a holder again with their next heartbeats.
            host.member_since_us = now_us + BACK_AFTER_US;
        }
        host.view = view;
        if is_same {
            return;
        }
        self.timeline.note(at, now_us, &host.view, host.is_stalled);
        if self.trace {
            let host = &self.hosts[at];
            let (addr, stage, serves) = (host.addr, host.view.stage, host.view.serves);
            let what = observe::described(self.world.service(id));
            self.trace(format_args!("{addr} {stage:?} serves {serves} {what}"));
        }
        self.ring_changed();
    }

    /// Views of everybody who runs, in the order of ids.
    fn views(&self) -> Vec<&View> {
        let up = self.hosts.iter().map(|host| &host.view);
        let mut up: Vec<&View> = up.filter(|view| view.stage != Stage::Down).collect();
        up.sort_by_key(|view| view.me.id);
        up
    }

    /// Hosts that answer for a range, with their views, in the order of ids. A stalled one answers nobody.
    fn serving(&self) -> Vec<(usize, &View)> {
        let now = self.world.now();
        let serves = |host: &Host| host.view.serves_at(now) && !host.is_stalled;
        let hosts = self.hosts.iter().enumerate();
        let serving = hosts.filter(|(_, host)| serves(host));
        let mut serving: Vec<_> = serving.map(|(at, host)| (at, &host.view)).collect();
        serving.sort_by_key(|(_, view)| view.me.id);
        serving
    }

    /// Some node's part in the ring changed.
    fn ring_changed(&mut self) {
        let now_us = self.world.now_us();
        self.look_again();
        let members = self.members().len();
        self.clients.note_members(self.settled_members());
        let now = self.world.now();
        for host in &mut self.hosts {
            host.is_serving = host.view.serves_at(now) && !host.is_stalled;
        }
        let serving = self.serving();
        let views: Vec<&View> = serving.iter().map(|(_, view)| *view).collect();
        let one_owner = checks::one_owner(&views);
        let served_right = self.compare_served(&serving);
        let mut timeline = std::mem::take(&mut self.timeline);
        timeline.note_owners(now_us, &self.serving());
        self.timeline = timeline;
        self.check(Check::D1, one_owner);
        self.check(Check::D5, served_right);
        if self.setup.replicas > 1 && members > self.setup.replicas {
            self.check_lists();
        }
    }

    /// What a node serves may end with time alone, without a turn.
    fn look_again(&mut self) {
        for (at, host) in self.hosts.iter_mut().enumerate() {
            let node = self.world.service(host.id);
            let is_new = self.world.is_up(host.id) && !host.is_stalled && !host.view.is_of(node);
            if is_new && host.view.stage != Stage::Down {
                host.view = View::of(node);
                let now_us = self.world.now_us();
                self.timeline.note(at, now_us, &host.view, host.is_stalled);
            }
        }
    }

    /// Leases end with time alone.
    pub(super) fn look_at_leases(&mut self) {
        let now = self.world.now();
        let ended = |host: &Host| host.is_serving && !host.view.serves_at(now);
        if self.hosts.iter().any(ended) {
            self.ring_changed();
        }
        if self.setup.replicas > 1 {
            self.look_at_service();
        }
    }

    fn look_at_service(&mut self) {
        let now_us = self.world.now_us();
        let unserved: BTreeSet<usize> = self.timeline.unserved(now_us, UNSERVED_US_MAX).collect();
        for at in &unserved - &self.unserved {
            let what = format!("nobody serves the range from {}", self.hosts[at].addr);
            self.found(Check::Service, what);
        }
        self.unserved = unserved;
    }

    fn check_lists(&mut self) {
        // One that stalls, or has no lease, may have been taken for dead; it joins anew when it hears of it.
        let now = self.world.now();
        let stalls = |view: &&View| {
            let mut hosts = self.hosts.iter();
            hosts.any(|host| host.view.me == view.me && host.is_stalled)
        };
        let mut up = self.views();
        up.retain(|view| view.is_member() && !stalls(view));
        let leased = up.iter().filter(|view| view.serves_at(now));
        let leased: Vec<&View> = leased.copied().collect();
        if leased.len() <= self.setup.replicas {
            return;
        }
        let (live, ring) = (checks::live_successors(&up), checks::one_ring(&up, &leased));
        let (principals, least) = (
            checks::principals(&up, &leased).len(),
            self.setup.replicas + 1,
        );
        let enough = if principals < least {
            Err(format!("{principals} principals, fewer than {least}"))
        } else {
            Ok(())
        };
        self.check(Check::I1, live);
        self.check(Check::I2, ring.and(enough));
    }

    /// D5: who serves a key has its last acknowledged value.
    fn compare_served(&self, serving: &[(usize, &View)]) -> Result<(), String> {
        for key in &self.clients.keys {
            let Some(value) = key.register.settled() else {
                continue;
            };
            let before = serving.partition_point(|(_, view)| view.me.id <= key.id);
            let before = before.checked_sub(1).or(serving.len().checked_sub(1));
            let owner = before.map(|i| &serving[i]);
            let Some((at, view)) = owner.filter(|(_, view)| view.owns(key.id)) else {
                continue;
            };
            let has = observe::value(self.node(*at), key.id);
            if has != value.as_ref() {
                let (addr, id) = (view.me.addr, key.id);
                let (has, value) = (clients::short(has), clients::short(value.as_ref()));
                return Err(format!("{addr} serves {id} with {has} and not {value}"));
            }
        }
        Ok(())
    }

    /// Hosts on which a key is in this state. One that died since a moment counts with what it had.
    fn copies(&self, key: Id, value: &history::Value, since_us: u64) -> usize {
        let has = |at: &usize| {
            let host = &self.hosts[*at];
            let counts = self.is_up(*at) || host.died_us >= since_us;
            let on_disk = |disk: &Disk| disk::has(disk, key, value.as_ref());
            counts
                && observe::has(self.node(*at), key, value.as_ref())
                && host.disk.as_ref().is_none_or(on_disk)
        };
        (0..self.hosts.len()).filter(has).count()
    }

    /// A client begins something; false when none is free, or there is nobody to ask.
    pub fn ask(&mut self) -> bool {
        let members = self.members();
        let ids: Vec<Id> = members
            .iter()
            .map(|at| self.hosts[*at].view.me.id)
            .collect();
        match self.clients.pick(self.world.rng(), &ids) {
            Some((key, verb)) if !members.is_empty() => self.ask_for(key, verb),
            _ => return false,
        }
        true
    }

    fn ask_for(&mut self, key: usize, verb: Verb) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        let contacts = [(); 3].map(|()| self.pick(&members));
        let contacts = contacts.map(|at| self.hosts[at].addr).to_vec();
        let now_us = self.world.now_us();
        let traced = self.trace.then(|| format!("{verb:.60?}"));
        let settled = self.settled_members();
        let clients = &mut self.clients;
        let (number, operation) = clients.begin(key, verb, contacts, now_us, settled);
        if let Some(what) = traced {
            self.trace(format_args!("#{number} key {key}: {what}"));
        }
        self.world.with(self.asker, |node, hub| {
            node.ask(hub, number, operation);
        });
    }

    /// Looks at what came of the clients' operations.
    fn hear(&mut self) {
        if !self.world.service(self.asker).has_outcomes() {
            return;
        }
        let outcomes = self.world.with(self.asker, |node, _| node.take_outcomes());
        for (number, result) in outcomes {
            self.trace(format_args!("#{number} {result:.120?}"));
            let told = self.clients.told(number, result, &mut self.tally);
            if let Some((check, key, what)) = told.wrong {
                self.lost.insert(key);
                self.found(check, what);
            }
            if let Some(write) = told.acknowledged {
                self.check_copies(&write);
            }
        }
    }

    /// D3.
    fn check_copies(&mut self, write: &clients::Pending) {
        let copies = self.copies(write.key, &write.value, write.begun_us);
        let least = write.members.min(self.setup.replicas);
        let least = least.saturating_sub(write.left).max(1);
        // Without tombstones, a removal is what every node says that never had the key.
        let is_told = write.value.is_some() || self.setup.replicas > 1;
        if copies < least && is_told {
            let (id, value) = (write.key, clients::short(write.value.as_ref()));
            let what = format!("{value} of {id} was acknowledged on {copies} nodes, not {least}");
            self.found(Check::D3, what);
        }
    }

    /// Runs for a time, and looks at every node after each of its turns.
    pub fn run_for(&mut self, time: Ticks) {
        let end = Tick(self.world.now().0.saturating_add(time.0));
        while let Some(id) = self.world.run_turn(end) {
            match id.index().checked_sub(1) {
                Some(at) => self.look(at),
                None => self.hear(),
            }
        }
        self.timeline.end_us = self.world.now_us();
    }
}

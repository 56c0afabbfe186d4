//! The simulator: any number of nodes on an in-memory network and a virtual clock, in one thread.
//!
//! ```text
//!   World ── turn, jobs, clock ──▶ Node<S> (the engine, unchanged)
//!     │                              │ Transport
//!     └── heap of events ─▶ Net ◀────┘     links, faults, scripted peers
//! ```
//! What it is for: protocols, and the engine itself, under every order of events and every fault that TCP,
//! epoll and crashes allow, at thousands of times real speed; a failure is replayed from its seed. It makes the
//! same calls in the same order as the reactor. It is no model of a kernel's throughput, and disks are the
//! business of the [`Work`] that a test lends.
//!
//! Invariants:
//! - the run is a function of the seed and the test's calls; [`World::fingerprint`] proves it;
//! - time moves forward only, from event to event; an idle world costs nothing;
//! - an event costs O(log events), whatever the number of nodes.
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use peerloop::sim::{check, seeds, World, Faults};
//! # use peerloop::engine::{Cx, Input, Limits, NoJob, Service, Step, Ticks, Violation};
//! # struct Echo;
//! # impl Service for Echo {
//! #     type Conn = (); type Note = (); type Timer = (); type Job = NoJob; type Done = NoJob;
//! #     fn on_accept(&mut self, _: &mut Cx<'_, Self>, _: usize) -> Option<()> { Some(()) }
//! #     fn on_input(&mut self, cx: &mut Cx<'_, Self>, (): &mut (), input: Input<'_>)
//! #         -> Result<Step, Violation> {
//! #         cx.out().extend_from_slice(input.bytes);
//! #         Ok(Step::Done(input.bytes.len()))
//! #     }
//! # }
//! for seed in seeds(20) {
//!     check(seed, || {
//!         let mut world = World::new(seed);
//!         world.set_faults(Faults::rough());
//!         let addr: SocketAddr = "10.0.0.1:4000".parse().unwrap();
//!         world.add(addr, Echo, Limits::default());
//!         let peer = world.connect(addr);
//!         world.peer(peer).send(b"hello");
//!         world.until(Ticks::from_secs(5), |w| w.peer(peer).received() == b"hello");
//!         world.peer(peer).finish();
//!         world.run_for(Ticks::from_secs(1));
//!         assert!(world.peer(peer).is_closed());
//!     });
//! }
//! ```

mod event;
mod faults;
mod host;
mod link;
mod net;
mod peer;
mod script;
mod tally;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::engine::{Hub, Limits, Node, Service, Tick, Ticks, Work};

use event::{TICK_US, What};
use host::Host;
use net::Net;
use script::Script;

pub use faults::{Faults, Span};
pub use peer::PeerEnd;
pub use script::{Answer, Ending, ListenerId, PeerId};
pub use tally::{Tally, storms};

/// Names a node of a world; the same through crashes and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

impl NodeId {
    /// Its place in the order in which nodes were added, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Events after which a run is taken for a runaway: some minutes of a debug build.
const EVENTS_MAX: u64 = 50_000_000;

/// The network of scripted peers, away from the nodes of any sensible test.
const PEER_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Nodes of one service, the network between them and the clock.
pub struct World<S: Service> {
    seed: u64,
    net: Net,
    hosts: Vec<Host<S>>,
    events: u64,
    events_max: u64,
    validates: bool,
    peer_port: u16,
    /// Whose turn the last event was, for [`World::run_turn`].
    turned: Option<usize>,
}

/// A condition did not come true in time.
pub struct Stuck {
    pub seed: u64,
    pub at: Tick,
}

impl fmt::Debug for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stuck { seed, at } = self;
        write!(
            f,
            "condition not met by tick {}; replay with PEERLOOP_SEED={seed}",
            at.0
        )
    }
}

impl<S: Service> World<S> {
    /// An empty world on a good network. Every node is validated after each of its turns; see
    /// [`World::validate_turns`].
    pub fn new(seed: u64) -> World<S> {
        World {
            seed,
            net: Net::new(seed, Faults::none()),
            hosts: Vec::new(),
            events: 0,
            events_max: EVENTS_MAX,
            validates: true,
            peer_port: 1024,
            turned: None,
        }
    }

    /// A world with the faults of [`Faults::swarm`] for this seed.
    pub fn swarm(seed: u64) -> World<S> {
        let mut world = World::new(seed);
        world.net.faults = Faults::swarm(&mut StdRng::seed_from_u64(seed ^ SWARM_SALT));
        world
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn now(&self) -> Tick {
        Tick(self.net.now_us / TICK_US)
    }

    pub fn now_us(&self) -> u64 {
        self.net.now_us
    }

    /// A hash over every event so far and every byte written: equal for equal runs.
    pub fn fingerprint(&self) -> u64 {
        self.net.fingerprint
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Fails the run once it has had this many events.
    pub fn set_events_max(&mut self, events: u64) {
        self.events_max = events;
    }

    /// Whether a node is validated after each of its turns, which costs O(connections²). On by default.
    pub fn validate_turns(&mut self, on: bool) {
        self.validates = on;
    }

    pub fn faults(&self) -> &Faults {
        &self.net.faults
    }

    /// From now on. What a connection is (its window, where it is cut) was settled when it was dialled.
    pub fn set_faults(&mut self, faults: Faults) {
        self.net.faults = faults;
    }

    /// The world's generator, for a test's own choices: they are replayed with the rest.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.net.rng
    }

    /// Ends all faults: the network keeps its latency and has no faults any more. Connections that were to be cut stay
    /// whole; dials without an answer are left to their deadline.
    pub fn heal(&mut self) {
        self.net.faults = self.net.faults.healed();
        for (_, link) in &mut self.net.links {
            for pipe in &mut link.pipes {
                pipe.cut = None;
                pipe.stalled_until_us = 0;
            }
        }
    }

    /// Adds a node that listens on `addr`, as its listener number 0.
    pub fn add(&mut self, addr: impl Into<SocketAddr>, service: S, limits: Limits) -> NodeId {
        let addr = addr.into();
        assert_listens::<S>(addr);
        let index = self.net.add_door(addr);
        self.net.listen_host(addr, index, 0);
        let node = self.make_node(service, limits);
        self.hosts.push(Host::new(node));
        self.net.wake(index);
        NodeId(index)
    }

    /// Adds a listener to a node; they are numbered from 0. Survives a restart.
    pub fn add_listener(&mut self, id: NodeId, addr: impl Into<SocketAddr>) {
        let addr = addr.into();
        assert_listens::<S>(addr);
        let host = &mut self.hosts[id.0];
        host.listeners += 1;
        self.net.listen_host(addr, id.0, host.listeners - 1);
    }

    /// From now on a node's worker takes this long: its disk became slow, or fast again.
    pub fn set_work_delay(&mut self, id: NodeId, delay: Span) {
        self.hosts[id.0].work_delay = delay;
    }

    /// What does the jobs of a node; it stays through a crash, as a disk does. A group of jobs runs after a time
    /// drawn from `delay`, and is reported after another one.
    pub fn set_worker(
        &mut self,
        id: NodeId,
        work: impl Work<Job = S::Job, Done = S::Done>,
        delay: Span,
    ) {
        self.hosts[id.0].set_worker(Box::new(work), delay);
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<S> {
        (0..self.hosts.len()).map(NodeId)
    }

    /// Where a node listens that was added with an address of IPv4.
    pub fn addr(&self, id: NodeId) -> SocketAddrV4 {
        match self.socket_addr(id) {
            SocketAddr::V4(addr) => addr,
            SocketAddr::V6(addr) => panic!("{addr} is no address of IPv4"),
        }
    }

    pub fn socket_addr(&self, id: NodeId) -> SocketAddr {
        self.net.doors[id.0].addr
    }

    /// The node runs: it was not killed and did not leave.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.net.doors[id.0].up
    }

    /// A node to look at, also once it is down. To act on one, use [`World::with`].
    pub fn node(&self, id: NodeId) -> &Node<S> {
        &self.hosts[id.0].node
    }

    pub fn service(&self, id: NodeId) -> &S {
        self.node(id).service()
    }

    /// Acts on a service from outside, at this moment; a turn follows. Between [`World::add`] and the node's first turn
    /// it acts on a service that has not started.
    pub fn with<R>(&mut self, id: NodeId, act: impl FnOnce(&mut S, &mut Hub<S>) -> R) -> R {
        let now = self.now();
        let node = &mut self.hosts[id.0].node;
        node.set_now(now);
        let result = node.with(act);
        self.net.wake(id.0);
        result
    }

    /// The process dies. Its jobs that have not run are lost; its connections reset, or fall silent with
    /// the probability `silent_kill` of the faults.
    pub fn kill(&mut self, id: NodeId) {
        let silent = self.net.chance(self.net.faults.silent_kill);
        self.kill_with(id, silent);
    }

    /// As [`World::kill`], with (`silent`) the whole machine or without.
    pub fn kill_with(&mut self, id: NodeId, silent: bool) {
        self.net.mix(0x6b69_6c6c ^ id.0 as u64);
        self.net.cut_off(id.0, silent);
        self.hosts[id.0].crash();
    }

    /// A node that is down comes back at its address with a new service; returns the old one.
    pub fn restart(&mut self, id: NodeId, service: S) -> S {
        assert!(!self.is_up(id), "only what is down is restarted");
        let limits = self.node(id).limits().clone();
        let node = self.make_node(service, limits);
        let old = self.hosts[id.0].restart(node);
        self.net.restore(id.0);
        self.net.wake(id.0);
        old.into_service()
    }

    /// Asks a node to leave, as SIGTERM does.
    pub fn shutdown(&mut self, id: NodeId) {
        let now = self.now();
        let node = &mut self.hosts[id.0].node;
        node.begin(now);
        node.shutdown();
        self.net.wake(id.0);
    }

    /// Stops a process (SIGSTOP) or lets it go on: its kernel still answers, and nothing is served.
    pub fn pause(&mut self, id: NodeId, paused: bool) {
        self.hosts[id.0].paused = paused;
        if !paused {
            self.net.wake(id.0);
        }
    }

    pub fn is_paused(&self, id: NodeId) -> bool {
        self.hosts[id.0].paused
    }

    /// Every connection of a node is reset, as when a middlebox on its path lost its state.
    pub fn reset_connections(&mut self, id: NodeId) {
        self.net.mix(0x0072_6573_6574 ^ id.0 as u64);
        self.net.reset_host(id.0);
    }

    /// A scripted peer dials `to`.
    pub fn connect(&mut self, to: impl Into<SocketAddr>) -> PeerId {
        let to = to.into();
        self.peer_port = self.peer_port.checked_add(1).unwrap_or(1024);
        let ip = match to {
            SocketAddr::V4(_) => PEER_IP.into(),
            SocketAddr::V6(_) => net::in_ipv6(PEER_IP).into(),
        };
        self.connect_from(SocketAddr::new(ip, self.peer_port), to)
    }

    pub fn connect_from(
        &mut self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
    ) -> PeerId {
        self.net.connect_peer(from.into(), to.into())
    }

    pub fn peer(&mut self, id: PeerId) -> PeerEnd<'_> {
        PeerEnd {
            net: &mut self.net,
            id,
        }
    }

    /// A scripted server at `addr`; at first with [`Answer::Queue`].
    pub fn listen(&mut self, addr: impl Into<SocketAddr>) -> ListenerId {
        self.net.scripts.push(Script {
            answer: Answer::Queue,
            backlog: VecDeque::new(),
        });
        let index = self.net.scripts.len() - 1;
        self.net.listen_script(addr.into(), index);
        ListenerId(index)
    }

    /// What a scripted server does with dials from now on.
    pub fn answer(&mut self, id: ListenerId, answer: Answer) {
        self.net.scripts[id.0].answer = answer;
    }

    /// The oldest connection that a scripted server has not accepted.
    pub fn accept(&mut self, id: ListenerId) -> Option<PeerId> {
        self.net.accept_script(id)
    }

    /// Connections of which an end still has an owner.
    pub fn links(&self) -> usize {
        self.net.links.len()
    }

    pub fn validate(&self) {
        for host in &self.hosts {
            host.node.validate();
        }
    }

    pub fn run_for(&mut self, time: Ticks) {
        let end = self.end_of(time);
        while self.step(end) {}
        self.net.now_us = end;
    }

    /// Runs until `done`, which is asked after every event, for at most `time`.
    pub fn run_until(
        &mut self,
        time: Ticks,
        mut done: impl FnMut(&mut World<S>) -> bool,
    ) -> Result<(), Stuck> {
        let end = self.end_of(time);
        while !done(self) {
            if !self.step(end) {
                self.net.now_us = end;
                let stuck = Stuck {
                    seed: self.seed,
                    at: self.now(),
                };
                return if done(self) { Ok(()) } else { Err(stuck) };
            }
        }
        Ok(())
    }

    /// As [`World::run_until`]; panics, with the seed, when the time is up.
    #[track_caller]
    pub fn until(&mut self, time: Ticks, done: impl FnMut(&mut World<S>) -> bool) {
        if let Err(stuck) = self.run_until(time, done) {
            panic!("{stuck:?}");
        }
    }

    /// Runs to the end of the next turn of a node and says whose it was; `None` when there is none up to `end`. Between
    /// two turns no service changes, unless the caller changes it.
    pub fn run_turn(&mut self, end: Tick) -> Option<NodeId> {
        let end_us = end.0.saturating_mul(TICK_US);
        self.turned = None;
        while self.turned.is_none() && self.step(end_us) {}
        if self.turned.is_none() {
            self.net.now_us = self.net.now_us.max(end_us);
        }
        self.turned.map(NodeId)
    }

    fn end_of(&self, time: Ticks) -> u64 {
        self.net
            .now_us
            .saturating_add(time.0.saturating_mul(TICK_US))
    }

    /// One event, if there is one up to `end_us`.
    fn step(&mut self, end_us: u64) -> bool {
        let Some(event) = self.net.next(end_us) else {
            return false;
        };
        self.events += 1;
        assert!(
            self.events <= self.events_max,
            "a runaway: {} events by tick {}; replay with PEERLOOP_SEED={}",
            self.events_max,
            self.now().0,
            self.seed
        );
        self.net.mix(event.at_us);
        self.net.mix(digest(event.what));
        match event.what {
            What::Turn(host, epoch) => {
                if self.is_current(host, epoch) {
                    self.net.doors[host].soon_us = None;
                    self.turn(host);
                }
            }
            What::Deadline(host, epoch) => {
                if self.is_current(host, epoch) {
                    self.hosts[host].deadline(&mut self.net, host, event.at_us);
                }
            }
            What::Work(host, epoch) if self.is_current(host, epoch) => {
                self.hosts[host].work(&mut self.net, host);
            }
            What::Done(host, epoch) if self.is_current(host, epoch) => {
                self.hosts[host].report(&mut self.net, host);
            }
            What::Work(..) | What::Done(..) => {}
            what => self.net.deliver(what),
        }
        self.net.pump_stirred();
        true
    }

    fn is_current(&self, host: usize, epoch: u32) -> bool {
        let door = &self.net.doors[host];
        door.up && door.epoch == epoch
    }

    fn turn(&mut self, host: usize) {
        let seed = self.seed;
        self.turned = Some(host);
        self.hosts[host].turn(&mut self.net, host, seed);
        if self.validates {
            self.hosts[host].node.validate();
        }
    }

    fn make_node(&mut self, service: S, limits: Limits) -> Node<S> {
        let seed = rand::RngExt::random(&mut self.net.rng);
        Node::new(service, limits, seed, self.now())
    }
}

/// As the reactor, which refuses the listener.
fn assert_listens<S: Service>(addr: SocketAddr) {
    assert!(
        !(S::IPV4_ONLY && addr.is_ipv6()),
        "{addr}: the protocol has addresses of IPv4 only"
    );
}

/// Tells the faults of a seed from everything else that is drawn for it.
const SWARM_SALT: u64 = 0x7377_6172_6d00;

fn digest(what: What) -> u64 {
    let end = |tag: u64, end: link::EndRef| tag << 56 ^ end.serial << 1 ^ u64::from(end.side);
    match what {
        What::Syn(e) => end(1, e),
        What::Up(e) => end(2, e),
        What::Bytes(e, n) => end(3, e) ^ (n as u64) << 32,
        What::Fin(e) => end(4, e),
        What::Reset(e, _) => end(5, e),
        What::Again(e) => end(6, e),
        What::Stale(host, _, id) => 11 << 56 ^ (host as u64) << 32 ^ id.to_token(),
        What::Turn(host, epoch) => 7 << 56 ^ (host as u64) << 32 ^ u64::from(epoch),
        What::Deadline(host, epoch) => 8 << 56 ^ (host as u64) << 32 ^ u64::from(epoch),
        What::Work(host, epoch) => 9 << 56 ^ (host as u64) << 32 ^ u64::from(epoch),
        What::Done(host, epoch) => 10 << 56 ^ (host as u64) << 32 ^ u64::from(epoch),
    }
}

/// The seeds of a test: 0, 1, 2 and so on; with `PEERLOOP_SEEDS=N` in the environment so many of them, and with
/// `PEERLOOP_SEED=N` that one alone.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        )
    };
    match number("PEERLOOP_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..number("PEERLOOP_SEEDS").unwrap_or(count),
    }
}

/// Runs `run` and says on the standard error which seed it was when it panics.
pub fn check<R>(seed: u64, run: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("the run of seed {seed} failed; replay with PEERLOOP_SEED={seed}");
        resume_unwind(panic)
    })
}

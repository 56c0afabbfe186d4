//! Links of a service that does nothing else, against scripted peers and against itself with faults.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rand::RngExt;

use super::*;
use crate::engine::{Limits, NoJob};
use crate::proto::dht::id::Id;
use crate::proto::dht::wire::{self, Request};
use crate::sim::{Answer, Faults, NodeId, PeerId, World, check, seeds};

const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 4000);

/// Calls, and answers the calls of others.
#[derive(Default)]
struct Caller {
    links: Links<u64>,
    /// How each call ended, by its tag.
    over: BTreeMap<u64, Result<Reply, LinkError>>,
    /// Set while a call is made: none may end then.
    calling: bool,
}

#[derive(Debug)]
enum Half {
    Link(LinkKey),
    Peer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Timer(LinkTimer);

impl From<LinkKey> for Half {
    fn from(key: LinkKey) -> Half {
        Half::Link(key)
    }
}

impl From<LinkTimer> for Timer {
    fn from(timer: LinkTimer) -> Timer {
        Timer(timer)
    }
}

impl LinkHost for Caller {
    type CallTag = u64;

    fn links(&mut self) -> &mut Links<u64> {
        &mut self.links
    }

    fn dial_from(&self) -> Option<SocketAddrV4> {
        None
    }

    fn value_bytes_max(&self) -> u64 {
        1 << 20
    }

    fn on_reply(
        &mut self,
        _hub: &mut Hub<Self>,
        _from: SocketAddrV4,
        tag: u64,
        result: Result<Reply, LinkError>,
    ) {
        assert!(!self.calling, "a call ends later");
        assert!(self.over.insert(tag, result).is_none(), "once");
    }
}

impl Service for Caller {
    const IPV4_ONLY: bool = true;

    type Conn = Half;
    type Note = ();
    type Timer = Timer;
    type Job = NoJob;
    type Done = NoJob;

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<Half> {
        Some(Half::Peer)
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, half: &mut Half) {
        if let Half::Link(key) = half {
            dialled(self, cx, *key);
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        half: &mut Half,
        bytes: Input<'_>,
    ) -> Result<Step, Violation> {
        if let Half::Link(key) = half {
            return input(self, cx, *key, bytes);
        }
        match wire::request(bytes.bytes, bytes.seen)? {
            Some((Request::Extension(extension), used)) => {
                answer(&extension).put(cx.out());
                Ok(Step::Done(used))
            }
            Some(_) => Err(Violation::peer("no extension")),
            None => Ok(Step::More),
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, half: Half, end: End) {
        if let Half::Link(key) = half {
            ended(self, hub, id, key, end);
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, Timer(which): Timer) {
        timer(self, hub, which);
    }
}

/// What the keys of tests begin with.
fn key(n: u64) -> Id {
    let mut bytes = [0; 20];
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    Id::from_be_bytes(bytes)
}

/// Answers a request in a way that tells which it was.
fn answer(extension: &Extension) -> Reply {
    match extension {
        Extension::Fetch { key } => {
            let number = key.to_string();
            let value = vec![b'x'; number.parse::<usize>().unwrap_or(0) % 5000];
            Reply::Entry {
                version: number.parse().unwrap_or(0),
                value: Some(value.into()),
            }
        }
        Extension::Keys { start, .. } => Reply::Keys(vec![(*start, 1); 20]),
        other => panic!("not asked: {other:?}"),
    }
}

struct Lab {
    world: World<Caller>,
    id: NodeId,
}

impl Lab {
    fn new(limits: Limits) -> Lab {
        let mut world = World::new(3);
        let addr: SocketAddrV4 = "10.0.0.1:4000".parse().unwrap();
        let id = world.add(addr, Caller::default(), limits);
        Lab { world, id }
    }

    fn fetch(&mut self, to: SocketAddrV4, n: u64) {
        self.world.with(self.id, |caller, hub| {
            caller.calling = true;
            call(caller, hub, to, Extension::Fetch { key: key(n) }, None, n);
            caller.calling = false;
        });
    }

    fn over(&self, n: u64) -> Option<&Result<Reply, LinkError>> {
        self.world.service(self.id).over.get(&n)
    }

    #[track_caller]
    fn ends(&mut self, n: u64, time: Ticks, error: LinkError) {
        let id = self.id;
        self.world
            .until(time, |w| w.service(id).over.contains_key(&n));
        assert_eq!(self.over(n), Some(&Err(error)));
    }

    #[track_caller]
    fn accept(&mut self, listener: crate::sim::ListenerId) -> PeerId {
        let mut peer = None;
        self.world.until(Ticks::from_secs(1), |w| {
            peer = w.accept(listener);
            peer.is_some()
        });
        peer.expect("it came true")
    }
}

#[test]
fn calls_are_pipelined_over_one_link_and_answered_in_order() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    (1..=3).for_each(|n| lab.fetch(PEER, n));
    let peer = lab.accept(listener);
    lab.fetch(PEER, 4);
    let asked = b"XFETCH\n1\nXFETCH\n2\nXFETCH\n3\nXFETCH\n4\n";
    lab.world
        .until(Ticks::from_secs(1), |w| w.peer(peer).received() == asked);
    lab.world.peer(peer).send(b"0\n1\n7\n-\n1\n8\n3\na");
    lab.world.run_for(Ticks::from_secs(1));
    assert_eq!(lab.over(1), Some(&Ok(Reply::No)));
    let entry = |version, value| Some(Ok(Reply::Entry { version, value }));
    assert_eq!(lab.over(2).cloned(), entry(7, None));
    assert_eq!(lab.over(3), None);
    lab.world.peer(peer).send(b"bc0\n");
    lab.world.run_for(Ticks::from_secs(1));
    assert_eq!(lab.over(3).cloned(), entry(8, Some("abc".into())));
    assert_eq!(lab.over(4), Some(&Ok(Reply::No)));
    assert!(lab.world.accept(listener).is_none(), "one link");
}

#[test]
fn how_calls_fail() {
    let mut lab = Lab::new(Limits::default());
    lab.fetch(PEER, 1);
    lab.ends(1, Ticks::from_secs(1), LinkError::Refused);

    let listener = lab.world.listen(PEER);
    (2..=3).for_each(|n| lab.fetch(PEER, n));
    let peer = lab.accept(listener);
    lab.world.peer(peer).send(b"0\n");
    lab.ends(3, Ticks::from_secs(4), LinkError::TimedOut);
    assert_eq!(lab.over(2), Some(&Ok(Reply::No)), "the one before");

    lab.fetch(PEER, 4);
    let peer = lab.accept(listener);
    lab.world.peer(peer).reset();
    lab.ends(4, Ticks::from_secs(1), LinkError::Lost);

    lab.fetch(PEER, 5);
    let peer = lab.accept(listener);
    lab.world.peer(peer).send(b"what\n");
    lab.ends(5, Ticks::from_secs(1), LinkError::Lost);
    lab.world.answer(listener, Answer::Ignore);
    lab.fetch(PEER, 6);
    lab.ends(6, Ticks::from_secs(4), LinkError::Unreachable);
    assert_eq!(lab.world.service(lab.id).links.calls(), 0);
}

/// What is large is on its way for longer than a reply may take.
#[test]
fn a_request_that_moves_is_not_too_late() {
    let mut lab = Lab::new(Limits {
        output_bytes_low: 1 << 10,
        output_bytes_high: 16 << 10,
        output_bytes_max: 616 << 20,
        ..Limits::default()
    });
    let listener = lab.world.listen(PEER);
    let put = Extension::Put {
        owner: PEER,
        epoch: 1,
        key: key(1),
        version: 1,
        length: 16 << 20,
    };
    let value = Bytes::from(vec![0; 16 << 20]);
    let id = lab.id;
    lab.world
        .with(id, |c, hub| call(c, hub, PEER, put, Some(value), 1));
    let peer = lab.accept(listener);
    lab.world.peer(peer).set_window(32 << 10);
    for _ in 0..8 {
        lab.world.peer(peer).stop_reading();
        lab.world.run_for(Ticks::from_secs(1));
        assert_eq!(lab.over(1), None);
        lab.world.peer(peer).read_again();
        lab.world.run_for(Ticks(1));
    }
    let got = lab.world.peer(peer).received().len();
    assert!(got < 16 << 20, "it is under way for all that time");
    lab.world.run_for(Ticks::from_secs(3));
    lab.world.peer(peer).send(b"1\n");
    lab.world.run_for(Ticks::from_secs(1));
    assert_eq!(lab.over(1), Some(&Ok(Reply::Ack(true))));
}

#[test]
fn a_reply_nobody_asked_for_ends_the_link() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    lab.fetch(PEER, 1);
    let peer = lab.accept(listener);
    lab.world.peer(peer).send(b"0\n0\n");
    lab.world
        .until(Ticks::from_secs(5), |w| w.peer(peer).is_closed());
    assert_eq!(lab.over(1), Some(&Ok(Reply::No)));
}

#[test]
fn a_plain_peer_is_asked_once_in_ten_minutes() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    for (n, asked) in [(1, true), (2, false), (3, false), (4, true)] {
        if n == 4 {
            lab.world.run_for(PLAIN_FOR);
        }
        lab.fetch(PEER, n);
        if asked {
            let peer = lab.accept(listener);
            lab.world.peer(peer).close();
        }
        lab.ends(n, Ticks::from_secs(1), LinkError::Plain);
        assert!(lab.world.accept(listener).is_none());
    }
    let id = lab.id;
    lab.world
        .with(id, |caller, _| caller.links.is_extended(PEER));
    lab.fetch(PEER, 5);
    let peer = lab.accept(listener);
    lab.world.peer(peer).close();
    lab.ends(5, Ticks::from_secs(1), LinkError::Lost);
}

/// One that answered before may have died the moment it was asked.
#[test]
fn a_peer_of_ours_is_not_taken_for_a_plain_one_when_it_dies() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    lab.fetch(PEER, 1);
    let peer = lab.accept(listener);
    lab.world.peer(peer).send(b"0\n");
    lab.world.run_for(Ticks::from_secs(1));
    lab.world.peer(peer).close();
    lab.world.run_for(Ticks::from_secs(1));
    for (n, error) in [(2, LinkError::Lost), (3, LinkError::Plain)] {
        lab.fetch(PEER, n);
        let peer = lab.accept(listener);
        lab.world.peer(peer).close();
        lab.ends(n, Ticks::from_secs(1), error);
    }
}

/// A plain peer that closes with something unread resets the connection; so does the system of a peer of ours that dies.
#[test]
fn a_peer_that_resets_is_asked_twice() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    for (n, error) in [(1, LinkError::Lost), (2, LinkError::Plain)] {
        lab.fetch(PEER, n);
        let peer = lab.accept(listener);
        lab.world.peer(peer).reset();
        lab.ends(n, Ticks::from_secs(1), error);
    }
    lab.fetch(PEER, 3);
    lab.ends(3, Ticks::from_secs(1), LinkError::Plain);
    assert!(lab.world.accept(listener).is_none());
}

/// A value of which something comes in each second takes as long as it takes.
#[test]
fn a_reply_that_moves_is_not_too_late() {
    let mut lab = Lab::new(Limits::default());
    let listener = lab.world.listen(PEER);
    lab.fetch(PEER, 1);
    let peer = lab.accept(listener);
    lab.world.peer(peer).send(b"1\n7\n20000\n");
    for _ in 0..10 {
        lab.world.run_for(Ticks::from_secs(1));
        assert_eq!(lab.over(1), None);
        lab.world.peer(peer).send(&[b'x'; 2000]);
    }
    lab.world.run_for(Ticks::from_secs(1));
    assert!(matches!(lab.over(1), Some(Ok(Reply::Entry { .. }))));
}

/// Beats every three seconds keep a link over the idle deadline of either side, and between them nothing wakes a node.
#[test]
fn a_link_that_is_used_stays_open() {
    let mut lab = Lab::new(Limits::default());
    let other: SocketAddrV4 = "10.0.0.2:4000".parse().unwrap();
    lab.world.add(other, Caller::default(), Limits::default());
    for n in 0..100 {
        lab.fetch(other, n);
        lab.world.run_for(Ticks::from_secs(3));
        assert!(matches!(lab.over(n), Some(Ok(Reply::Entry { .. }))));
    }
    let stats = lab.world.node(lab.id).stats();
    assert_eq!(stats.dialled, 1);
    // The idle deadline's timer follows once a minute.
    assert!(stats.timers_fired < 12, "{}", stats.timers_fired);
}

#[test]
fn what_may_wait_is_bounded() {
    let mut lab = Lab::new(Limits {
        output_bytes_high: 10_000,
        output_bytes_low: 1000,
        output_bytes_max: 100_000,
        ..Limits::default()
    });
    let listener = lab.world.listen(PEER);
    lab.world.answer(listener, Answer::Ignore);
    let put = |n| Extension::Put {
        owner: PEER,
        epoch: 1,
        key: key(n),
        version: 1,
        length: 40_000,
    };
    let id = lab.id;
    for n in 1..=3 {
        let value = Bytes::from(vec![0; 40_000]);
        lab.world
            .with(id, |c, hub| call(c, hub, PEER, put(n), Some(value), n));
    }
    lab.ends(3, Ticks::from_secs(1), LinkError::Limit);
    for n in 0..LINKS_MAX as u64 {
        let to = SocketAddrV4::new([10, 1, 0, n as u8].into(), 1);
        lab.fetch(to, 100 + n);
    }
    lab.ends(99 + LINKS_MAX as u64, Ticks::from_secs(1), LinkError::Limit);
    lab.ends(1, Ticks::from_secs(4), LinkError::Unreachable);
    let extra = 1000;
    for n in 0..=CALLS_MAX as u64 {
        lab.fetch(PEER, extra + n);
    }
    let last = extra + CALLS_MAX as u64;
    lab.ends(last, Ticks::from_secs(1), LinkError::Limit);
    lab.ends(last - 1, Ticks::from_secs(4), LinkError::Unreachable);
}

#[test]
fn each_call_ends_once_whatever_breaks() {
    for seed in seeds(60) {
        check(seed, || storm(seed));
    }
}

/// Three nodes call each other while connections break and nodes die.
fn storm(seed: u64) {
    let mut world = World::<Caller>::new(seed);
    let faults = if seed.is_multiple_of(2) {
        Faults::rough()
    } else {
        Faults::swarm(world.rng())
    };
    world.set_faults(faults);
    let addrs: Vec<SocketAddrV4> = (1..=3)
        .map(|n| SocketAddrV4::new([10, 0, 0, n].into(), 4000))
        .collect();
    let ids: Vec<NodeId> = addrs
        .iter()
        .map(|addr| world.add(*addr, Caller::default(), Limits::default()))
        .collect();
    let mut asked = vec![0u64; ids.len()];
    for _ in 0..100 {
        let (at, to) = (
            world.rng().random_range(0..ids.len()),
            world.rng().random_range(0..ids.len()),
        );
        let many: u64 = world.rng().random_range(1..5);
        let lane = [Lane::Main, Lane::Bulk][usize::from(many == 1)];
        for _ in 0..many {
            let n = asked[at];
            asked[at] += 1;
            let request = if n.is_multiple_of(5) {
                Extension::Keys {
                    start: key(n),
                    end: key(0),
                }
            } else {
                Extension::Fetch { key: key(n) }
            };
            world.with(ids[at], |caller, hub| {
                caller.calling = true;
                call_in(caller, hub, addrs[to], lane, request, None, n);
                caller.calling = false;
            });
        }
        let pause_ms = world.rng().random_range(0..200);
        world.run_for(Ticks::from_millis(pause_ms));
    }
    world.run_for(Ticks::from_secs(600));
    for (id, asked) in ids.into_iter().zip(asked) {
        let caller = world.service(id);
        assert_eq!(caller.links.calls(), 0);
        assert_eq!(caller.over.len() as u64, asked);
        for (n, result) in &caller.over {
            match result {
                Ok(Reply::Entry { version, value }) => {
                    assert_eq!(version, n);
                    let length = value.as_ref().map(Bytes::len);
                    assert_eq!(length, Some((n % 5000) as usize));
                }
                Ok(Reply::Keys(keys)) => assert_eq!(keys, &[(key(*n), 1); 20]),
                Ok(other) => panic!("{n}: {other:?}"),
                Err(_) => {}
            }
        }
    }
}

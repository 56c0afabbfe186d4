//! A tracker on a thread of its own and any number of peers on one reactor, on loopback, with the code and the sockets of
//! `ring tracker` and `ring peer`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::RngExt;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Reactor};
use peerloop::proto::ring::node::RingNode;
use peerloop::proto::ring::peer::{self, Peer, Peers};
use peerloop::proto::ring::tracker::{Config, Counts, Tracker};

use crate::cli::background::{Background, LOOK_EVERY, LOOPBACK, check_interrupts};
use crate::cli::ring;

/// Descriptors of a peer: its listener and both ends of the connection to its neighbour. Short connections
/// (registrations, pings, UPDATE_NBR) are part of the rest.
const FILES_PER_PEER: usize = 3;
const FILES_BESIDE: usize = 1000;

pub(in crate::cli) struct Swarm {
    tracker_addr: SocketAddrV4,
    tracker: Background<RingNode, ()>,
    reactor: Reactor<RingNode>,
    items: usize,
    killed: usize,
}

/// State of a swarm at one moment.
#[derive(Debug, Default)]
pub(in crate::cli) struct Look {
    pub(in crate::cli) alive: usize,
    pub(in crate::cli) registered: usize,
    pub(in crate::cli) complete: usize,
    /// Items of all living peers, summed up.
    pub(in crate::cli) gathered: u64,
    /// QUERYs of all peers, including dead ones.
    pub(in crate::cli) queries: u64,
}

impl Swarm {
    /// A tracker with `items` and no peers yet.
    pub(in crate::cli) fn start(config: Config, items: Vec<Box<str>>) -> Result<Swarm> {
        let (count, bound) = (items.len(), Bound::bind(LOOPBACK)?);
        let tracker_addr = bound.addr();
        let make = move || ring::tracker(bound, config, items, Vec::new(), None);
        let service = RingNode::Peers(Peers::new());
        Ok(Swarm {
            tracker_addr,
            tracker: Background::start("tracker", make, |_| Ok(()))?,
            reactor: Reactor::new(service, Peers::fit(Limits::default()))?,
            items: count,
            killed: 0,
        })
    }

    /// Most peers that the file limit allows.
    pub(in crate::cli) fn peers_max(&mut self) -> usize {
        let files = self.reactor.node().limits().conns_max;
        files.saturating_sub(FILES_BESIDE) / FILES_PER_PEER
    }

    /// One more peer, which registers at once.
    pub(in crate::cli) fn add(&mut self) -> Result<()> {
        let bound = Bound::bind(LOOPBACK).context("no listener for one more peer")?;
        let addr = bound.addr();
        self.reactor.accept_from(bound)?;
        let tracker = self.tracker_addr;
        self.with_peers(|peers, hub| {
            let config = peer::Config {
                handle: format!("peer{}", peers.all().len()).into(),
                addr,
                tracker,
                dial_from: None,
            };
            peers.add(hub, config);
        })
    }

    /// Kills a living peer, drawn at random.
    pub(in crate::cli) fn kill_one(&mut self) -> Result<()> {
        let alive: Vec<usize> = (0..self.peers()?.len())
            .filter(|at| self.peers().is_ok_and(|peers| peers[*at].is_alive()))
            .collect();
        ensure!(!alive.is_empty(), "nobody is left to be killed");
        let victim = alive[rand::rng().random_range(0..alive.len())];
        self.killed += 1;
        self.with_peers(|peers, hub| peers.kill(hub, victim))
    }

    pub(in crate::cli) fn killed(&self) -> usize {
        self.killed
    }

    /// One turn of the peers' loop.
    pub(in crate::cli) fn turn(&mut self) -> Result<()> {
        check_interrupts()?;
        Ok(self.reactor.turn(Some(LOOK_EVERY))?)
    }

    /// Runs until the condition holds, which is checked once in `look_every`; false when it does not hold in time.
    pub(in crate::cli) fn turn_until(
        &mut self,
        within: Duration,
        look_every: Duration,
        mut condition: impl FnMut(&mut Swarm) -> Result<bool>,
    ) -> Result<bool> {
        let start = Instant::now();
        while !condition(self)? {
            if start.elapsed() > within {
                return Ok(false);
            }
            let next_look = Instant::now() + look_every;
            self.turn()?;
            while Instant::now() < next_look {
                self.turn()?;
            }
        }
        Ok(true)
    }

    pub(in crate::cli) fn look(&mut self) -> Result<Look> {
        let mut look = Look::default();
        for peer in self.peers()? {
            look.queries += peer.queries();
            if peer.is_alive() {
                look.alive += 1;
                look.registered += usize::from(peer.is_registered());
                look.complete += usize::from(peer.items().is_complete());
                look.gathered += peer.items().count() as u64;
            }
        }
        Ok(look)
    }

    /// Items that no living peer has.
    pub(in crate::cli) fn lost(&mut self) -> Result<usize> {
        let items = self.items;
        let mut have = vec![false; items];
        for peer in self.peers()?.iter().filter(|peer| peer.is_alive()) {
            if peer.items().is_complete() {
                return Ok(0);
            }
            for (seq, _) in peer.items().iter() {
                have[seq as usize] = true;
            }
        }
        Ok(have.iter().filter(|have| !**have).count())
    }

    pub(in crate::cli) fn counts(&self) -> Result<Counts> {
        self.ask(|tracker| tracker.counts())
    }

    /// The tracker's ring consists of the living peers, and each knows its predecessor in it.
    pub(in crate::cli) fn is_one_ring(&mut self) -> Result<bool> {
        let ring = self.ask(|tracker| tracker.ring())?;
        let alive: BTreeSet<&str> = self
            .peers()?
            .iter()
            .filter(|peer| peer.is_alive())
            .map(Peer::handle)
            .collect();
        let listed: BTreeSet<&str> = ring.iter().map(|handle| &**handle).collect();
        if alive != listed {
            return Ok(false);
        }
        let before = ring.iter().cycle().skip(ring.len().saturating_sub(1));
        let before = ring.iter().map(|handle| &**handle).zip(before);
        let before: BTreeMap<&str, _> = before.collect();
        let mut alive = self.peers()?.iter().filter(|peer| peer.is_alive());
        Ok(alive.all(|peer| {
            let known = peer.neighbour().map(|neighbour| &*neighbour.handle);
            known == before.get(peer.handle()).map(|handle| &***handle)
        }))
    }

    /// The message that the last living peer has assembled.
    pub(in crate::cli) fn message(&mut self) -> Result<String> {
        let peer = self.peers()?.iter().rfind(|peer| peer.is_alive());
        let items = peer.context("nobody is left")?.items();
        let items: Vec<&str> = items.iter().map(|(_, data)| data).collect();
        Ok(items.join(" "))
    }

    /// Ends the swarm; an error is one of the tracker.
    pub(in crate::cli) fn stop(self) -> Result<()> {
        self.tracker.stop()
    }

    fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Tracker) -> R + Send + 'static,
    ) -> Result<R> {
        let answer = self.tracker.call(|node, _| match node {
            RingNode::Tracker(tracker) => Some(question(tracker)),
            RingNode::Peers(_) => None,
        })?;
        answer.context("not a tracker")
    }

    fn peers(&mut self) -> Result<&[Peer]> {
        match self.reactor.node().service() {
            RingNode::Peers(peers) => Ok(peers.all()),
            RingNode::Tracker(_) => Err(anyhow!("not a reactor of peers")),
        }
    }

    fn with_peers(
        &mut self,
        act: impl FnOnce(&mut Peers, &mut peerloop::engine::Hub<RingNode>),
    ) -> Result<()> {
        self.reactor.node().with(|node, hub| match node {
            RingNode::Peers(peers) => {
                act(peers, hub);
                Ok(())
            }
            RingNode::Tracker(_) => Err(anyhow!("not a reactor of peers")),
        })
    }
}

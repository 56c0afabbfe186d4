//! Many cPTP peers on one reactor, each at a listener of its own, with real sockets between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Reactor, raise_file_limit};
use peerloop::proto::overlay::join::Report;
use peerloop::proto::overlay::peer::{Config, Peer};
use peerloop::proto::overlay::table::Link;
use peerloop::proto::overlay::{Observer, Overlay, Then, fit};

use crate::cli::background::{Background, LOOPBACK, wait_until};
use crate::cli::overlay::graph::Graph;

/// Descriptors that are neither a listener nor a connection.
const FILES_KEPT_BACK: usize = 32;

/// Results of the joins.
pub(in crate::cli) struct Tally {
    pub(in crate::cli) ended: u32,
    pub(in crate::cli) welcomes: u64,
    pub(in crate::cli) redirects: u64,
    pub(in crate::cli) failures: u64,
    /// Redirects before the first welcome.
    pub(in crate::cli) chains: Histogram<u64>,
    /// Peers whose join found no place.
    unplaced: Vec<usize>,
}

impl Observer for Tally {
    fn on_join_end(&mut self, peer: usize, report: &Report) -> Then {
        self.ended += 1;
        self.welcomes += u64::from(report.welcomes);
        self.redirects += u64::from(report.redirects);
        self.failures += u64::from(report.failures);
        if report.welcomes > 0 {
            self.chains.saturating_record(report.chain.into());
        } else {
            self.unplaced.push(peer);
        }
        Then::GoOn
    }
}

/// Peers on a thread of their own.
pub(in crate::cli) struct Crowd {
    pub(in crate::cli) first: SocketAddrV4,
    peers: u32,
    overlay: Background<Overlay<Tally>, Overlay<Tally>>,
}

impl Crowd {
    /// Peers that listen and have no links yet.
    pub(in crate::cli) fn start(peers: u32, table_max: u32, links: u32) -> Result<Crowd> {
        let tally = Tally {
            ended: 0,
            welcomes: 0,
            redirects: 0,
            failures: 0,
            chains: Histogram::new(3)?,
            unplaced: Vec::new(),
        };
        let files = usize::try_from(raise_file_limit()).unwrap_or(usize::MAX);
        let make = move || {
            let limits = fit(Limits {
                // Listeners take file descriptors too.
                conns_max: files
                    .saturating_sub(peers as usize + FILES_KEPT_BACK)
                    .max(1),
                ..Limits::default()
            });
            let mut reactor = Reactor::new(Overlay::new(tally), limits)?;
            for number in 0..peers {
                let bound = Bound::bind_to_dial_from(LOOPBACK)?;
                let config = Config {
                    table_max: table_max as usize,
                    links: links as usize,
                    ..Config::new(format!("p{number}"), bound.addr())
                };
                reactor.accept_from(bound)?;
                reactor.node().with(|overlay, hub| overlay.add(hub, config));
            }
            Ok(reactor)
        };
        let overlay = Background::start("overlay", make, Ok)?;
        let first = overlay.call(|overlay, _| overlay.peers().first().map(|p| p.config().addr))?;
        Ok(Crowd {
            first: first.context("no peers")?,
            peers,
            overlay,
        })
    }

    /// Joins all peers through the first one, `at_once` at a time, and waits for the last.
    pub(in crate::cli) fn join_all(&self, at_once: u32) -> Result<()> {
        let (contact, peers) = (self.first, self.peers);
        let mut begun = 1;
        wait_until(|| {
            let ended;
            (ended, begun) = self.overlay.call(move |overlay, hub| {
                let ended = overlay.observer().ended;
                let may_begin = (ended + 1 + at_once).min(peers);
                (begun..may_begin).for_each(|n| overlay.join(hub, n as usize, contact));
                (ended, may_begin.max(begun))
            })?;
            Ok(ended + 1 >= peers)
        })
    }

    /// Redirects so far.
    pub(in crate::cli) fn redirects(&self) -> Result<u64> {
        self.overlay.call(|overlay, _| overlay.observer().redirects)
    }

    /// Reads all tables and stops the peers.
    pub(in crate::cli) fn stop(self) -> Result<Told> {
        let tables = self.overlay.call(|overlay, _| {
            let table = |peer: &Peer| {
                let known = peer.table().iter();
                let linked = known.filter(|(_, link)| !matches!(link, Link::Dialling(_)));
                linked.map(|(addr, _)| addr).collect()
            };
            let peers = overlay.peers().iter();
            peers
                .map(|peer| (peer.config().addr, table(peer)))
                .collect::<BTreeMap<_, Vec<_>>>()
        })?;
        let overlay = self.overlay.stop()?;
        let addr = |number: &usize| overlay.peers()[*number].config().addr;
        let unplaced = overlay.observer().unplaced.iter().map(addr).collect();
        Ok(Told {
            first: self.first,
            tables,
            unplaced,
            tally: overlay.into_observer(),
        })
    }
}

/// State of all peers at the end.
pub(in crate::cli) struct Told {
    first: SocketAddrV4,
    pub(in crate::cli) tables: BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>,
    pub(in crate::cli) unplaced: BTreeSet<SocketAddrV4>,
    pub(in crate::cli) tally: Tally,
}

impl Told {
    /// Unplaced peers that could have been placed: a peer reachable from the first one has room.
    pub(in crate::cli) fn missed(
        &self,
        graph: &Graph,
        parts: &[Vec<usize>],
        table_max: usize,
    ) -> usize {
        let first = graph.number_of(self.first);
        let degrees: Vec<usize> = graph.degrees().collect();
        let reached = parts
            .iter()
            .find(|part| first.is_some_and(|n| part.contains(&n)));
        let room = reached.is_some_and(|part| part.iter().any(|n| degrees[*n] < table_max));
        if room { self.unplaced.len() } else { 0 }
    }

    /// Entries that are missing in the table of the other side.
    pub(in crate::cli) fn one_sided(&self) -> usize {
        let tables = self.tables.iter();
        let known = |peer, by| {
            self.tables
                .get(by)
                .is_some_and(|table: &Vec<_>| table.contains(peer))
        };
        tables
            .map(|(peer, table)| table.iter().filter(|other| !known(peer, *other)).count())
            .sum()
    }
}

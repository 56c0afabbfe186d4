//! Many cPTP peers on one reactor, each at a listener of its own, with real sockets between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;

use peerloop::engine::Limits;
use peerloop::net::{Bound, Caller, Handle, Reactor, raise_file_limit};
use peerloop::proto::overlay::join::Report;
use peerloop::proto::overlay::peer::Config;
use peerloop::proto::overlay::table::Link;
use peerloop::proto::overlay::{Observer, Overlay, Then, fit};

use crate::cli::overlay::graph::Graph;

/// Descriptors that are neither a listener nor a connection.
const FILES_KEPT_BACK: usize = 32;

/// What the joins came to.
pub(in crate::cli) struct Tally {
    pub(in crate::cli) ended: u32,
    pub(in crate::cli) welcomes: u64,
    pub(in crate::cli) redirects: u64,
    pub(in crate::cli) failures: u64,
    /// Redirects before the first welcome.
    pub(in crate::cli) chains: Histogram<u64>,
    /// Numbers of the peers whose join found nobody.
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
    caller: Caller<Overlay<Tally>>,
    handle: Handle,
    thread: Option<JoinHandle<std::io::Result<Overlay<Tally>>>>,
}

impl Crowd {
    /// Peers that listen and know nobody.
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
        let limits = fit(Limits {
            // Listeners come out of the same purse.
            conns_max: files
                .saturating_sub(peers as usize + FILES_KEPT_BACK)
                .max(1),
            ..Limits::default()
        });
        let mut reactor = Reactor::new(Overlay::new(tally), limits)?;
        let mut first = None;
        for number in 0..peers {
            let bound = Bound::bind_to_dial_from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
            let addr = bound.addr();
            first.get_or_insert(addr);
            reactor.accept_from(bound)?;
            let config = Config {
                table_max: table_max as usize,
                links: links as usize,
                ..Config::new(format!("p{number}"), addr)
            };
            reactor.node().with(|overlay, hub| overlay.add(hub, config));
        }
        let (caller, handle) = (reactor.caller(), reactor.handle());
        let thread = std::thread::Builder::new()
            .name("overlay".into())
            .spawn(move || {
                reactor.run()?;
                Ok(reactor.into_service())
            })?;
        Ok(Crowd {
            first: first.ok_or(anyhow!("no peers"))?,
            peers,
            caller,
            handle,
            thread: Some(thread),
        })
    }

    /// Has everybody join through the first one, so many at once, and waits with `look` until all joins are over.
    pub(in crate::cli) fn join_all(
        &self,
        at_once: u32,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let (contact, peers) = (self.first, self.peers);
        let mut begun = 1;
        loop {
            let ended = self.caller.call(move |overlay, hub| {
                let may_begin = (overlay.observer().ended + 1 + at_once).min(peers);
                for number in begun..may_begin {
                    overlay.join(hub, number as usize, contact);
                }
                (overlay.observer().ended, may_begin.max(begun))
            })?;
            begun = ended.1;
            if ended.0 + 1 >= peers {
                return Ok(());
            }
            look()?;
        }
    }

    /// How often somebody was redirected so far.
    pub(in crate::cli) fn redirects(&self) -> Result<u64> {
        Ok(self
            .caller
            .call(|overlay, _| overlay.observer().redirects)?)
    }

    /// Who has whom, and the end.
    pub(in crate::cli) fn stop(mut self) -> Result<Told> {
        let tables = self.caller.call(|overlay, _| {
            let peers = overlay.peers().iter();
            let table = |peer: &peerloop::proto::overlay::peer::Peer| {
                let known = peer.table().iter();
                let linked = known.filter(|(_, link)| !matches!(link, Link::Dialling(_)));
                linked.map(|(addr, _)| addr).collect()
            };
            peers
                .map(|peer| (peer.config().addr, table(peer)))
                .collect::<BTreeMap<_, Vec<_>>>()
        })?;
        let overlay = self.end()?;
        let addr = |number: &usize| overlay.peers()[*number].config().addr;
        let unplaced = overlay.observer().unplaced.iter().map(addr).collect();
        Ok(Told {
            first: self.first,
            tables,
            unplaced,
            tally: overlay.into_observer(),
        })
    }

    fn end(&mut self) -> Result<Overlay<Tally>> {
        self.handle.shutdown();
        let thread = self.thread.take().ok_or(anyhow!("stopped twice"))?;
        Ok(thread.join().map_err(|_| anyhow!("the peers panicked"))??)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // An error was reported already, or this is one.
            let _ = self.end();
        }
    }
}

/// What a crowd says at its end.
pub(in crate::cli) struct Told {
    first: SocketAddrV4,
    pub(in crate::cli) tables: BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>,
    pub(in crate::cli) unplaced: BTreeSet<SocketAddrV4>,
    pub(in crate::cli) tally: Tally,
}

impl Told {
    /// How many of those who found nobody could have been placed: somebody whom they can be sent to has room.
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

    /// Entries that the other side does not have.
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

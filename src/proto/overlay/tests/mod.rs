//! Overlays under the simulator: whole ones with everything going on at once ([`swarm`]), and single exchanges
//! against scripted peers ([`joins`], [`newcomers`], [`walks`]).

mod joins;
mod limits;
mod newcomers;
mod swarm;
mod walks;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value;

use crate::engine::{Hub, Limits, Ticks};
use crate::sim::{NodeId, World};

use super::join::Report;
use super::packet::{Kind, put_packet};
use super::peer::{Config, Peer};
use super::table::Link;
use super::{Event, Observer, Overlay, Then};

/// Where peer number `n` listens.
fn addr(n: usize) -> SocketAddrV4 {
    let n = u16::try_from(n).expect("a test has few peers");
    let [high, low] = n.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(10, 1, high, low), 4000)
}

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

/// What a peer has seen.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    reports: Vec<Report>,
    /// Every address that came in a packet.
    named: BTreeSet<SocketAddrV4>,
}

impl Observer for Log {
    fn on_event(&mut self, _peer: usize, event: Event<'_>) {
        if let Event::Answered { packet, .. } = event {
            self.named.extend(packet.entries.iter());
        }
        self.lines.push(format!("{event:?}"));
    }

    fn on_join_end(&mut self, _peer: usize, report: &Report) -> Then {
        self.reports.push(*report);
        Then::GoOn
    }
}

type Sim = World<Overlay<Log>>;

fn config(n: usize, table_max: usize) -> Config {
    Config {
        table_max,
        links: 3.min(table_max),
        ..Config::new(format!("p{n}"), addr(n))
    }
}

/// Adds a peer that is a node of its own.
fn add(world: &mut Sim, config: Config) -> NodeId {
    let limits = super::fit(Limits::default());
    let id = world.add(config.addr, Overlay::new(Log::default()), limits);
    world.with(id, |overlay, hub| overlay.add(hub, config));
    id
}

fn join(world: &mut Sim, id: NodeId, contact: SocketAddrV4) {
    world.with(id, |overlay, hub: &mut Hub<_>| {
        overlay.join(hub, 0, contact)
    });
}

fn peer(world: &Sim, id: NodeId) -> &Peer {
    &world.service(id).peers()[0]
}

fn log(world: &Sim, id: NodeId) -> &Log {
    world.service(id).observer()
}

/// The table, in order.
fn table(world: &Sim, id: NodeId) -> Vec<SocketAddrV4> {
    let known: BTreeSet<_> = peer(world, id)
        .table()
        .iter()
        .map(|(addr, _)| addr)
        .collect();
    known.into_iter().collect()
}

fn is_linked(link: Link) -> bool {
    matches!(link, Link::Joined(_) | Link::Welcomed(_))
}

/// Waits for the end of the one join of a peer.
fn report(world: &mut Sim, id: NodeId) -> Report {
    world.until(secs(60), |w| !log(w, id).reports.is_empty());
    let reports = &log(world, id).reports;
    assert_eq!(reports.len(), 1);
    reports[0]
}

fn packet(kind: Kind, sender: &str, entries: &[SocketAddrV4]) -> Vec<u8> {
    let mut out = Vec::new();
    put_packet(&mut out, kind, sender.as_bytes(), entries.iter().copied());
    out
}

/// The packets of a list of the vectors.
fn vectors(list: &str) -> Vec<(String, Vec<u8>)> {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/cptp.json")).unwrap();
    let bytes = |hex: &str| {
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.as_bytes().chunks(2).map(byte).collect()
    };
    let list = vectors[list].as_array().unwrap().iter();
    list.map(|vector| {
        let what = vector["what"].as_str().unwrap_or_default();
        (what.into(), bytes(vector["hex"].as_str().unwrap()))
    })
    .collect()
}

//! `peerloop overlay map`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::overlay::table::SAMPLE_MAX;
use peerloop::proto::overlay::walk::{Failure, Visit, Walk};

use super::graph::Graph;
use super::report::{printable, reason};
use super::values::peer_addr;
use crate::cli::addr::advertised;
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct MapArgs {
    /// Any peer of the overlay
    #[arg(short, long, value_name = "IP:PORT", value_parser = peer_addr)]
    peer: SocketAddrV4,
    /// Give a peer up that accepts and says nothing for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print one JSON object
    #[arg(long, group = "format")]
    json: bool,
    /// Print a graph for graphviz
    #[arg(long, group = "format")]
    dot: bool,
}

/// What was found.
#[derive(Serialize)]
pub(in crate::cli) struct Map {
    peers: Vec<Found>,
    links: usize,
    components: usize,
}

#[derive(Serialize)]
struct Found {
    addr: SocketAddrV4,
    /// Of a peer that answered.
    name: Option<String>,
    has_room: Option<bool>,
    peered_with: Vec<SocketAddrV4>,
    /// It told as many as one packet holds, so there may be more.
    more: bool,
    problem: Option<String>,
}

impl MapArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let timeout = Duration::from_secs(self.timeout);
        let map = walk(self.peer, timeout, Reactor::catch_signals)?;
        match self.dot {
            true => print::stdout(map.dot().as_bytes())?,
            false => print::result(self.json, &map)?,
        }
        Ok(Answer::Yes)
    }
}

/// Visits every peer that can be found from `contact`; `prepare` may change the reactor that does it.
pub(in crate::cli) fn walk(
    contact: SocketAddrV4,
    answer: Duration,
    prepare: impl FnOnce(&mut Reactor<Walk>) -> io::Result<()>,
) -> Result<Map> {
    // A peer on this machine is reached, and sees us, by loopback.
    let ip = if contact.ip().is_loopback() {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let bound = Bound::bind_to_dial_from(SocketAddrV4::new(ip, 0))?;
    let own = advertised(None, bound.addr())?;
    let walk = Walk::new(contact, bound.addr(), own, Ticks::from_duration(answer));
    let mut reactor = Reactor::new(walk, Limits::default())?;
    reactor.accept_from(bound)?;
    prepare(&mut reactor)?;
    reactor.run()?;
    let map = Map::new(reactor.into_service().into_found());
    if let Some(found) = map.peers.iter().find(|found| found.addr == contact)
        && let Some(problem) = &found.problem
    {
        bail!("{contact}: {problem}");
    }
    Ok(map)
}

type Visits = BTreeMap<SocketAddrV4, Option<Result<Visit, Failure>>>;

impl Map {
    fn new(visits: Visits) -> Map {
        let peers: Vec<Found> = visits
            .into_iter()
            .map(|(addr, visit)| Found::new(addr, visit))
            .collect();
        let graph = graph(&peers);
        Map {
            links: graph.links().count(),
            components: graph.parts().len(),
            peers,
        }
    }

    /// Peers, links and parts.
    pub(in crate::cli) fn shape(&self) -> (usize, usize, usize) {
        (self.peers.len(), self.links, self.components)
    }

    fn dot(&self) -> String {
        let mut text = String::from("graph overlay {\n  node [shape=box];\n");
        for found in &self.peers {
            let name = found.name.as_deref().unwrap_or("?");
            let label = format!("{name}\n{}", found.addr);
            let look = match (&found.problem, found.has_room) {
                (Some(_), _) => ", style=dashed",
                (None, Some(false)) => ", style=filled, fillcolor=lightgrey",
                _ => "",
            };
            print::line(
                &mut text,
                format_args!("  \"{}\" [label={label:?}{look}];", found.addr),
            );
        }
        for (a, b) in graph(&self.peers).links() {
            print::line(&mut text, format_args!("  \"{a}\" -- \"{b}\";"));
        }
        text.push_str("}\n");
        text
    }
}

impl std::fmt::Display for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<21}  {:<16}  {:<4}  peered with",
            "peer", "name", "room"
        )?;
        for found in &self.peers {
            let name = found.name.as_deref().unwrap_or("?");
            let room = match found.has_room {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            };
            let mut peers: Vec<String> =
                found.peered_with.iter().map(|it| it.to_string()).collect();
            if found.more {
                peers.push("and perhaps more".into());
            }
            peers.extend(found.problem.iter().map(|problem| format!("! {problem}")));
            let peers = peers.join(" ");
            writeln!(f, "{:<21}  {name:<16}  {room:<4}  {peers}", found.addr)?;
        }
        let (peers, links, components) = (self.peers.len(), self.links, self.components);
        let parts = if components == 1 { "part" } else { "parts" };
        writeln!(f, "{peers} peers, {links} links, {components} {parts}")
    }
}

impl Found {
    fn new(addr: SocketAddrV4, visit: Option<Result<Visit, Failure>>) -> Found {
        let unknown = Found {
            addr,
            name: None,
            has_room: None,
            peered_with: Vec::new(),
            more: false,
            problem: None,
        };
        match visit {
            Some(Ok(visit)) => {
                let peers: BTreeSet<_> = visit.peers.into_iter().collect();
                Found {
                    name: Some(printable(&visit.name)),
                    has_room: Some(visit.has_room),
                    more: peers.len() >= SAMPLE_MAX,
                    peered_with: peers.into_iter().collect(),
                    ..unknown
                }
            }
            Some(Err(Failure(end))) => Found {
                problem: Some(reason(end)),
                ..unknown
            },
            None => Found {
                problem: Some("not visited: interrupted".into()),
                ..unknown
            },
        }
    }
}

fn graph(peers: &[Found]) -> Graph {
    let told = peers.iter();
    Graph::new(told.map(|found| (found.addr, found.peered_with.clone())))
}

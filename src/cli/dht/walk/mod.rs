//! A walk around a ring: what every node of it says, and whether that fits together.
//!
//! ```text
//! visit   asks a node, and the ring about it        one visit a node
//!   |     and names further nodes to visit          until nobody new is named
//! judge   compares what they said                   pure
//!   |
//! text, ../draw                                     show it
//! ```
//!
//! *Backwards*: the member before a node is the owner of the key just below the node's id. That needs LOCATE only, which
//! plain peers have. *Forwards*: a node tells its next by XSTAT, an extension of ours. A plain peer does not, and the walk goes on
//! from it with the node that was found behind it. Both walks have to come round to the same members.
//!
//! It is no snapshot: a ring that changes during the walk can look wrong.

mod judge;
mod text;
mod visit;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;

use anyhow::Result;
use serde::{Serialize, Serializer};

use peerloop::engine::Ticks;
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::stat::Holder;

use crate::cli::print;
pub(super) use visit::Kind;
use visit::{Visit, Visitor};

/// A walk that finds ever more nodes ends here. More cannot be visited in a minute.
const NODES_MAX: usize = 20_000;

/// The visits, by the node's address.
type Visits = BTreeMap<SocketAddrV4, Visit>;

/// What was found.
#[derive(Serialize)]
pub(super) struct Walk {
    /// Clockwise, beginning with the member that the walk began at, if it is in the ring.
    pub(super) members: Vec<Found>,
    /// Nodes that somebody names, and that are not in the ring.
    pub(super) others: Vec<Found>,
    /// Backwards, the walk came back to its start.
    closed: bool,
    /// Forwards, it did.
    forwards_closed: bool,
    /// Rings that nodes are in which are no members of this one.
    further_rings: Vec<Vec<SocketAddrV4>>,
    /// Ranges with fewer complete copies than there should be.
    under_replicated: usize,
    consistent: bool,
    /// What is wrong with the ring as a whole.
    pub(super) problems: Vec<String>,
}

/// A node that was found.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) addr: SocketAddrV4,
    id: String,
    /// The first digits of the id in base 16.
    pub(super) id_short: String,
    /// Place on the ring, from 0 to 1.
    pub(super) place: f64,
    /// Of the key space, from its id to the next member's; 0 for a node that is not in the ring.
    pub(super) share_percent: f64,
    pub(super) kind: Kind,
    /// By XSTAT, as all that follows: member, joining or leaving.
    standing: Option<&'static str>,
    /// Copies of other ranges included.
    pub(super) entries: Option<u64>,
    value_bytes: Option<u64>,
    pub(super) next_told: Option<SocketAddrV4>,
    pub(super) prev_told: Option<SocketAddrV4>,
    replicas: Option<u64>,
    lease_secs: Option<u64>,
    successors: Vec<SocketAddrV4>,
    #[serde(serialize_with = "holders")]
    holders: Vec<Holder>,
    pub(super) copies: Option<Copies>,
    pub(super) problems: Vec<String>,
    /// What is worth knowing and not wrong.
    pub(super) notes: Vec<String>,
}

/// Copies of a member's range at other members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Copies {
    /// Holders that have everything, and answer as members.
    pub(super) complete: u64,
    /// As many as there should be, in a ring of this size.
    pub(super) wanted: u64,
}

impl Copies {
    pub(super) fn are_too_few(self) -> bool {
        self.complete < self.wanted
    }
}

/// Walks the ring that `contact` is in. A node that is silent for `timeout_secs` is given up.
pub(super) fn walk(contact: SocketAddrV4, timeout_secs: u64) -> Result<Walk> {
    let visitor = Visitor {
        contact,
        patience: Ticks::from_secs(timeout_secs),
    };
    let (start, mut problems) = visitor.start()?;
    let (mut visits, mut named) = (Visits::new(), VecDeque::from([start]));
    while let Some(at) = named.pop_front() {
        if visits.contains_key(&at) {
            continue;
        }
        if visits.len() == NODES_MAX {
            problems.push(format!("more than {NODES_MAX} nodes are named"));
            break;
        }
        let visit = visitor.visit(at)?;
        named.extend(visit.named());
        visits.insert(at, visit);
    }
    let mut walk = judge::judge(start, &visits);
    problems.append(&mut walk.problems);
    walk.problems = problems;
    walk.consistent &= walk.problems.is_empty();
    Ok(walk)
}

impl Walk {
    pub(super) fn is_consistent(&self) -> bool {
        self.consistent
    }

    /// All that is wrong, of the ring first.
    pub(super) fn all_problems(&self) -> impl Iterator<Item = String> + '_ {
        let nodes = self.members.iter().chain(&self.others);
        let of_nodes = nodes.flat_map(|node| {
            let say = |problem| format!("{} {problem}", node.addr);
            node.problems.iter().map(say)
        });
        self.problems.iter().cloned().chain(of_nodes)
    }
}

impl Found {
    /// What a visit found, before anything is compared.
    fn of(visit: &Visit) -> Found {
        let Visit { addr, .. } = *visit;
        let (id, stat) = (Id::of_addr(addr), visit.stat());
        Found {
            addr,
            id: id.to_string(),
            id_short: print::hex(&id.to_be_bytes()[..4]),
            place: fraction(id),
            share_percent: 0.0,
            kind: visit.kind(),
            standing: stat.map(|stat| stat.standing.word()),
            entries: stat.map(|stat| stat.entries),
            value_bytes: stat.map(|stat| stat.value_bytes),
            next_told: stat.map(|stat| stat.next),
            prev_told: stat.and_then(|stat| stat.prev),
            replicas: stat.map(|stat| stat.replicas),
            lease_secs: stat.and_then(|stat| stat.lease_secs),
            successors: stat.map_or(Vec::new(), |stat| stat.successors.clone()),
            holders: stat.map_or(Vec::new(), |stat| stat.holders.clone()),
            copies: None,
            problems: visit.problems.clone(),
            notes: Vec::new(),
        }
    }
}

/// Position on the ring, from 0 to 1.
pub(super) fn fraction(id: Id) -> f64 {
    let bytes = id.to_be_bytes();
    let (head, _) = bytes.split_at(8);
    let head = head
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    head as f64 / 2_f64.powi(64)
}

fn holders<S: Serializer>(holders: &[Holder], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line {
        addr: SocketAddrV4,
        complete: bool,
    }
    to.collect_seq(
        holders
            .iter()
            .map(|&Holder { addr, complete }| Line { addr, complete }),
    )
}

//! Compares what the nodes of a ring said. Pure: it asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use peerloop::proto::dht::id::Id;

use super::visit::{Kind, Visit};
use super::{Copies, Found, Visits, Walk, fraction};

/// The walk backwards, from a start.
struct Backwards {
    /// Clockwise. It begins with the start if that is in the ring.
    ring: Vec<SocketAddrV4>,
    /// The walk came round, though perhaps not to its start.
    is_ring: bool,
    closed: bool,
    problem: Option<String>,
}

/// Everything that is compared.
struct Judge<'a> {
    visits: &'a Visits,
    ring: Vec<SocketAddrV4>,
    is_ring: bool,
    /// The place in `ring`.
    places: BTreeMap<SocketAddrV4, usize>,
}

pub(super) fn judge(start: SocketAddrV4, visits: &Visits) -> Walk {
    let backwards = backwards(start, visits);
    let places = backwards.ring.iter().copied().zip(0..).collect();
    let judge = Judge {
        visits,
        ring: backwards.ring,
        is_ring: backwards.is_ring,
        places,
    };
    let mut problems = Vec::from_iter(backwards.problem);
    problems.extend(judge.disorder());
    let forwards = judge.forwards();
    problems.extend(forwards.clone().err());
    let further_rings = judge.further_rings();
    for ring in &further_rings {
        let members: Vec<_> = ring.iter().map(SocketAddrV4::to_string).collect();
        problems.push(format!("there is another ring: {}", members.join(", ")));
    }
    let members: Vec<_> = judge.ring.iter().map(|addr| judge.found(addr)).collect();
    let others: Vec<_> = judge.others().map(|addr| judge.found(addr)).collect();
    let all_fine = members
        .iter()
        .chain(&others)
        .all(|node| node.problems.is_empty());
    let too_few = |member: &&Found| member.copies.is_some_and(Copies::are_too_few);
    Walk {
        under_replicated: members.iter().filter(too_few).count(),
        consistent: problems.is_empty() && all_fine,
        closed: backwards.closed,
        forwards_closed: forwards.is_ok(),
        members,
        others,
        further_rings,
        problems,
    }
}

fn backwards(start: SocketAddrV4, visits: &Visits) -> Backwards {
    let (mut chain, mut seen) = (vec![start], BTreeMap::from([(start, 0)]));
    let (mut at, mut round) = (start, None);
    let mut problem = None;
    while round.is_none() && problem.is_none() {
        let visit = visits.get(&at);
        match visit.and_then(|visit| visit.before) {
            Some(before) if before == start => round = Some(0),
            Some(before) => match seen.insert(before, chain.len()) {
                Some(place) => {
                    problem = Some(format!(
                        "backwards the walk does not close: before {at} comes {before} again"
                    ));
                    round = Some(place);
                }
                None => {
                    chain.push(before);
                    at = before;
                }
            },
            None => {
                let why = visit.and_then(|visit| visit.no_before.as_deref());
                let why = why.unwrap_or("it was not visited");
                problem = Some(format!("backwards the walk ends at {at}: {why}"));
            }
        }
    }
    // What comes before the place that came again leads into the ring and is not in it.
    let mut ring = chain.split_off(round.unwrap_or(0));
    // Found counter-clockwise, from its first member on.
    ring[1..].reverse();
    Backwards {
        ring,
        is_ring: round.is_some(),
        closed: round == Some(0),
        problem,
    }
}

impl Judge<'_> {
    /// The member of the ring that is so many places clockwise.
    fn beside(&self, addr: SocketAddrV4, places: usize) -> Option<SocketAddrV4> {
        let place = self.places.get(&addr)?;
        let count = self.ring.len();
        let beside = self.ring[(place + places) % count];
        self.is_ring.then_some(beside)
    }

    fn next(&self, addr: SocketAddrV4) -> Option<SocketAddrV4> {
        self.beside(addr, 1)
    }

    fn prev(&self, addr: SocketAddrV4) -> Option<SocketAddrV4> {
        self.beside(addr, self.ring.len() - 1)
    }

    /// What a node tells as its next; of one that tells nothing, the member that was found behind it.
    fn next_told(&self, addr: SocketAddrV4) -> Option<SocketAddrV4> {
        let visit = self.visits.get(&addr)?;
        let told = visit.stat().map(|stat| stat.next);
        told.or_else(|| self.next(addr))
    }

    /// Clockwise the ids grow, up to the one place where they wrap.
    fn disorder(&self) -> Option<String> {
        let falls = |addr: &&SocketAddrV4| {
            let next = self.next(**addr);
            next.is_some_and(|next| {
                Id::of_addr(next).to_be_bytes() <= Id::of_addr(**addr).to_be_bytes()
            })
        };
        let turns = self.ring.iter().filter(falls).count();
        (turns > 1).then(|| format!("the ids go round {turns} times, and not once"))
    }

    /// The walk forwards, as the members tell it.
    fn forwards(&self) -> Result<(), String> {
        let start = self.ring[0];
        let (mut at, mut seen) = (start, BTreeSet::new());
        while seen.insert(at) {
            match self.next_told(at) {
                Some(next) if next == start => {
                    let (forwards, backwards) = (seen.len(), self.ring.len());
                    return if forwards == backwards || !self.is_ring {
                        Ok(())
                    } else {
                        Err(format!(
                            "forwards there are {forwards} members, backwards {backwards}"
                        ))
                    };
                }
                Some(next) if seen.contains(&next) => {
                    return Err(format!(
                        "forwards the walk does not close: after {at} comes {next} again"
                    ));
                }
                Some(next) => at = next,
                None => break,
            }
        }
        let visit = self.visits.get(&at);
        let why = match visit.map(Visit::kind) {
            Some(Kind::Plain) => "a plain peer does not tell its next",
            Some(Kind::NoMember) => "it is no member",
            Some(Kind::Silent) => "it does not answer",
            Some(Kind::Member) | None => "it was not visited",
        };
        Err(format!("forwards the walk ends at {at}: {why}"))
    }

    /// Rings of nodes that are not in this one, each once, as what they tell leads round them.
    fn further_rings(&self) -> Vec<Vec<SocketAddrV4>> {
        let mut rings = BTreeMap::new();
        let told = |addr: SocketAddrV4| self.visits.get(&addr)?.stat().map(|stat| stat.next);
        let before = |addr: SocketAddrV4| self.visits.get(&addr)?.before;
        let mut known = BTreeSet::new();
        for addr in self.visits.keys() {
            for (edge, step) in [&told as &dyn Fn(_) -> _, &before].into_iter().zip(0..) {
                if let Some(ring) = self.round(*addr, edge, step, &mut known) {
                    let members: BTreeSet<_> = ring.iter().copied().collect();
                    rings.entry(members).or_insert(ring);
                }
            }
        }
        rings.into_values().collect()
    }

    /// The ring that the steps from a node end in, unless that is ours or one that was found.
    fn round(
        &self,
        from: SocketAddrV4,
        edge: &dyn Fn(SocketAddrV4) -> Option<SocketAddrV4>,
        step: u8,
        known: &mut BTreeSet<(SocketAddrV4, u8)>,
    ) -> Option<Vec<SocketAddrV4>> {
        let (mut path, mut at) = (Vec::new(), from);
        while !self.places.contains_key(&at) && known.insert((at, step)) {
            path.push(at);
            at = edge(at)?;
        }
        let place = path.iter().position(|seen| *seen == at)?;
        Some(path.split_off(place))
    }

    /// Nodes that are not in the ring: those that answer, and those that somebody takes for a neighbour.
    fn others(&self) -> impl Iterator<Item = &SocketAddrV4> {
        let neighbours: BTreeSet<_> = self.visits.values().flat_map(Visit::neighbours).collect();
        let all = self.visits.iter();
        let shown = all.filter(move |(addr, visit)| {
            let matters = visit.kind() != Kind::Silent || neighbours.contains(addr);
            matters && !self.places.contains_key(addr)
        });
        shown.map(|(addr, _)| addr)
    }

    /// A node and all that is wrong with it.
    fn found(&self, addr: &SocketAddrV4) -> Found {
        let Some(visit) = self.visits.get(addr) else {
            // Named last, when there were too many.
            return Found::of(&Visit::unvisited(*addr));
        };
        let mut found = Found::of(visit);
        if self.places.contains_key(addr) {
            found.share_percent = self.share_percent(*addr);
            self.compare_neighbours(&mut found);
            self.count_copies(&mut found);
        } else {
            found.problems.extend(self.outside(visit));
        }
        found.problems.extend(self.unlisted(visit));
        if let Some(0) = found.lease_secs {
            found.problems.push("is at the end of its lease".into());
        }
        if let Some(word) = found.standing.filter(|word| *word != "member") {
            found.notes.push(format!("is {word}"));
        }
        for listed in visit.listed().collect::<BTreeSet<_>>() {
            if self.visits.get(&listed).is_some_and(|it| !it.is_member()) {
                found
                    .notes
                    .push(format!("lists {listed}, which is no member"));
            }
        }
        found
    }

    fn share_percent(&self, addr: SocketAddrV4) -> f64 {
        let next = self.ring[(self.places[&addr] + 1) % self.ring.len()];
        if next == addr {
            return 100.0;
        }
        fraction(Id::of_addr(addr).distance_to(Id::of_addr(next))) * 100.0
    }

    fn compare_neighbours(&self, found: &mut Found) {
        let (Some(next), Some(prev)) = (self.next(found.addr), self.prev(found.addr)) else {
            return;
        };
        if let Some(told) = found.next_told.filter(|told| *told != next) {
            let problem = format!("says that {told} comes next, and not {next}");
            found.problems.push(problem);
        }
        match found.prev_told {
            Some(told) if told != prev => {
                let problem = format!("says that {told} is before it, and not {prev}");
                found.problems.push(problem);
            }
            None if found.kind == Kind::Member && prev != found.addr => {
                found.problems.push("does not know who is before it".into());
            }
            _ => {}
        }
    }

    /// Plain peers hold no copies, so they do not count.
    fn count_copies(&self, found: &mut Found) {
        let Some(replicas) = found.replicas else {
            return;
        };
        let is_ours = |addr: &&SocketAddrV4| {
            self.visits
                .get(addr)
                .is_some_and(|visit| visit.stat().is_some())
        };
        let ours = self.ring.iter().filter(is_ours).count() as u64;
        let complete = found.holders.iter().filter(|holder| {
            holder.complete && holder.addr != found.addr && is_ours(&&holder.addr)
        });
        let copies = Copies {
            complete: complete.count() as u64,
            wanted: replicas.min(ours).saturating_sub(1),
        };
        if copies.are_too_few() {
            let Copies { complete, wanted } = copies;
            let problem = format!("has {complete} of {wanted} copies of its range");
            found.problems.push(problem);
        }
        found.copies = Some(copies);
    }

    /// Why a node that is not in the ring matters.
    fn outside(&self, visit: &Visit) -> Option<String> {
        let named_by = |what: &str, names: fn(&Visit) -> Option<SocketAddrV4>| {
            let mut all = self.visits.values();
            let by =
                all.find(|other| other.addr != visit.addr && names(other) == Some(visit.addr))?;
            Some(format!(
                "is not in the ring; {} takes it for its {what}",
                by.addr
            ))
        };
        if visit.is_member() {
            return Some("is a member, and not in the ring".into());
        }
        named_by("next", |other| other.stat().map(|stat| stat.next))
            .or_else(|| named_by("prev", |other| other.stat()?.prev))
    }

    /// Members that nobody lists as next.
    fn unlisted(&self, visit: &Visit) -> Option<String> {
        let (addr, before, named) = (visit.addr, visit.before?, visit.after_before?);
        let mut all = self.visits.values();
        let is_listed =
            named == addr || all.any(|other| other.stat().is_some_and(|stat| stat.next == addr));
        (visit.is_member() && !is_listed)
            .then(|| format!("is listed as next by nobody: {before}, before it, names {named}"))
    }
}

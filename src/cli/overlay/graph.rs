//! The shape of an overlay: its links, as either side tells of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;

/// An undirected graph.
pub(in crate::cli) struct Graph {
    numbers: BTreeMap<SocketAddrV4, usize>,
    /// Of the peer of each number.
    next_to: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// From what each peer tells of its table. A peer that is only named is one too.
    pub(in crate::cli) fn new(
        told: impl IntoIterator<Item = (SocketAddrV4, Vec<SocketAddrV4>)>,
    ) -> Graph {
        let mut graph = Graph {
            numbers: BTreeMap::new(),
            next_to: Vec::new(),
        };
        for (peer, others) in told {
            let peer = graph.number(peer);
            for other in others {
                let other = graph.number(other);
                if other != peer {
                    graph.next_to[peer].insert(other);
                    graph.next_to[other].insert(peer);
                }
            }
        }
        graph
    }

    fn number(&mut self, peer: SocketAddrV4) -> usize {
        let next = self.next_to.len();
        let number = *self.numbers.entry(peer).or_insert(next);
        if number == next {
            self.next_to.push(BTreeSet::new());
        }
        number
    }

    /// Every link once, the lower address first.
    pub(in crate::cli) fn links(&self) -> impl Iterator<Item = (SocketAddrV4, SocketAddrV4)> + '_ {
        let mut addrs: Vec<(usize, SocketAddrV4)> =
            self.numbers.iter().map(|(addr, n)| (*n, *addr)).collect();
        addrs.sort_unstable();
        let addrs: Vec<SocketAddrV4> = addrs.into_iter().map(|(_, addr)| addr).collect();
        self.numbers.iter().flat_map(move |(addr, n)| {
            let others: BTreeSet<_> = self.next_to[*n].iter().map(|n| addrs[*n]).collect();
            let higher = others.into_iter().filter(move |other| other > addr);
            higher.map(move |other| (*addr, other))
        })
    }

    /// How many links each peer has.
    pub(in crate::cli) fn degrees(&self) -> impl Iterator<Item = usize> + '_ {
        self.next_to.iter().map(BTreeSet::len)
    }

    /// The peers of each part, of which no two are connected; the largest first.
    pub(in crate::cli) fn parts(&self) -> Vec<Vec<usize>> {
        let mut seen = vec![false; self.next_to.len()];
        let mut parts = Vec::new();
        for start in 0..self.next_to.len() {
            if !seen[start] {
                let part: Vec<usize> = self.distances(start).map(|(n, _)| n).collect();
                part.iter().for_each(|n| seen[*n] = true);
                parts.push(part);
            }
        }
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts
    }

    /// Links between the two that are furthest apart in a part; O(peers x links).
    pub(in crate::cli) fn diameter(&self, part: &[usize]) -> usize {
        let furthest = |start: &usize| self.distances(*start).last().map_or(0, |(_, links)| links);
        part.iter().map(furthest).max().unwrap_or(0)
    }

    pub(in crate::cli) fn number_of(&self, peer: SocketAddrV4) -> Option<usize> {
        self.numbers.get(&peer).copied()
    }

    /// The peers connected with `start`, the nearest first, and how many links away.
    fn distances(&self, start: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut seen = vec![false; self.next_to.len()];
        seen[start] = true;
        let mut queue = VecDeque::from([(start, 0)]);
        std::iter::from_fn(move || {
            let (peer, links) = queue.pop_front()?;
            for other in &self.next_to[peer] {
                if !std::mem::replace(&mut seen[*other], true) {
                    queue.push_back((*other, links + 1));
                }
            }
            Some((peer, links))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn addr(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, n)
    }

    #[test]
    fn a_line_of_four_and_two_others() {
        let told = [
            (addr(3), vec![addr(1), addr(2)]),
            (addr(1), vec![addr(4)]),
            (addr(9), vec![addr(8), addr(9)]),
        ];
        let graph = Graph::new(told);
        let links: Vec<_> = graph.links().collect();
        let pairs = [(1, 3), (1, 4), (2, 3), (8, 9)].map(|(a, b)| (addr(a), addr(b)));
        assert_eq!(links, pairs);
        let parts = graph.parts();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
        assert_eq!(graph.diameter(&parts[0]), 3);
        assert_eq!(graph.diameter(&parts[1]), 1);
        assert_eq!(graph.degrees().sum::<usize>(), 8);
    }

    #[test]
    fn who_is_alone_is_a_part() {
        let graph = Graph::new([(addr(1), vec![])]);
        assert_eq!(graph.parts(), [[0]]);
        assert_eq!((graph.diameter(&[0]), graph.links().count()), (0, 0));
    }
}

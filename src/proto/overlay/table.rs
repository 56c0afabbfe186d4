//! The peers that a peer has, and those that declined it.
//!
//! For: bounded tables, random samples of them, and expiry of entries without a link. Not for: connections.
//!
//! Invariants: never more entries than the table's size; one entry an address; `joined` counts the entries that came
//! from our own joins. Everything is O(1) but the sample, which is O([`SAMPLE_MAX`]²) at worst.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use indexmap::IndexMap;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::engine::{ConnId, Tick};

/// Entries attached to a packet: more would help a newcomer little, and a packet is to fit
/// one segment.
pub const SAMPLE_MAX: usize = 64;

/// What stands behind an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// We dial it and it has not answered: its slot is reserved, and it is in no packet.
    Dialling(ConnId),
    /// It welcomed us.
    Joined(ConnId),
    /// We welcomed it.
    Welcomed(ConnId),
    /// It welcomed us and closed; it is forgotten at this tick.
    Linkless(Tick),
}

impl Link {
    /// It counts towards the links that a joiner looks for.
    fn is_joined(self) -> bool {
        matches!(self, Link::Joined(_) | Link::Linkless(_))
    }
}

/// A bounded table of peers.
#[derive(Debug)]
pub struct Table {
    entries: IndexMap<SocketAddrV4, Link>,
    size_max: usize,
    joined: usize,
    /// Addresses without a link, the one to be forgotten first in front. Also some that have a link again or are
    /// gone; at most [`Table::stale_max`] in all.
    linkless: VecDeque<(Tick, SocketAddrV4)>,
}

impl Table {
    pub fn new(size_max: usize) -> Table {
        Table {
            entries: IndexMap::new(),
            size_max,
            joined: 0,
            linkless: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.size_max
    }

    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// Entries that came from our joins.
    pub fn joined(&self) -> usize {
        self.joined
    }

    pub fn get(&self, peer: SocketAddrV4) -> Option<Link> {
        self.entries.get(&peer).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (SocketAddrV4, Link)> + '_ {
        self.entries.iter().map(|(peer, link)| (*peer, *link))
    }

    /// Sets the entry of `peer`; false when it is a new one and the table is full.
    pub fn set(&mut self, peer: SocketAddrV4, link: Link) -> bool {
        let full = self.is_full();
        let joined = match self.entries.entry(peer) {
            indexmap::map::Entry::Occupied(mut entry) => entry.insert(link).is_joined(),
            indexmap::map::Entry::Vacant(_) if full => return false,
            indexmap::map::Entry::Vacant(entry) => {
                entry.insert(link);
                false
            }
        };
        self.joined = self.joined + usize::from(link.is_joined()) - usize::from(joined);
        if let Link::Linkless(until) = link {
            if self.linkless.len() >= self.stale_max() {
                self.drop_stale();
            }
            self.linkless.push_back((until, peer));
        }
        true
    }

    pub fn remove(&mut self, peer: SocketAddrV4) -> Option<Link> {
        let link = self.entries.swap_remove(&peer)?;
        self.joined -= usize::from(link.is_joined());
        Some(link)
    }

    /// When the next entry without a link is due.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.linkless.front().map(|(until, _)| *until)
    }

    /// Forgets one entry without a link whose time is over.
    pub fn expire(&mut self, now: Tick) -> Option<SocketAddrV4> {
        while let Some(&(until, peer)) = self.linkless.front()
            && until <= now
        {
            self.linkless.pop_front();
            if self.get(peer) == Some(Link::Linkless(until)) {
                self.remove(peer);
                return Some(peer);
            }
        }
        None
    }

    /// Of a sample that was drawn from as many places as there are entries, those of other peers than `except`. Entries
    /// that are `in_doubt` are told of only when there is no other.
    pub fn choose(
        &self,
        mut drawn: Sample,
        except: SocketAddrV4,
        in_doubt: impl Fn(ConnId) -> bool,
    ) -> Sample {
        let link_of = |place: u32| match self.entries.get_index(place as usize) {
            Some((peer, link)) if *peer != except => Some(*link),
            _ => None,
        };
        drawn.keep(|place| link_of(place).is_some_and(|link| !matches!(link, Link::Dialling(_))));
        let mut good = drawn.clone();
        good.keep(|place| match link_of(place) {
            Some(Link::Welcomed(conn)) => !in_doubt(conn),
            _ => true,
        });
        if good.len > 0 { good } else { drawn }
    }

    /// The peers of a sample of this table, which has not changed since.
    pub fn peers<'a>(&'a self, sample: &'a Sample) -> impl Iterator<Item = SocketAddrV4> + 'a {
        let places = sample.places.iter().take(sample.len);
        places.filter_map(|place| Some(*self.entries.get_index(*place as usize)?.0))
    }

    /// Every entry once, and as many again that are no longer true: then they are sorted out, at O(1) each.
    fn stale_max(&self) -> usize {
        self.size_max.max(1).saturating_mul(2)
    }

    fn drop_stale(&mut self) {
        let entries = &self.entries;
        self.linkless
            .retain(|(until, peer)| entries.get(peer) == Some(&Link::Linkless(*until)));
    }
}

/// Places in a table, on the stack.
#[derive(Debug, Clone)]
pub struct Sample {
    places: [u32; SAMPLE_MAX],
    len: usize,
}

impl Sample {
    /// Distinct numbers below `n`, at most [`SAMPLE_MAX`], every set of them as likely as any other (Floyd's way: the
    /// number `top` stands in for a number that is taken, and cannot have been drawn before), in random order.
    pub fn draw(n: usize, rng: &mut StdRng) -> Sample {
        let mut sample = Sample {
            places: [0; SAMPLE_MAX],
            len: 0,
        };
        for top in n.saturating_sub(SAMPLE_MAX)..n {
            let drawn = rng.random_range(0..=top) as u32;
            let taken = sample.places[..sample.len].contains(&drawn);
            sample.places[sample.len] = if taken { top as u32 } else { drawn };
            // The last one goes anywhere, so that the order says nothing.
            sample
                .places
                .swap(rng.random_range(0..=sample.len), sample.len);
            sample.len += 1;
        }
        sample
    }

    fn keep(&mut self, is_wanted: impl Fn(u32) -> bool) {
        let mut kept = 0;
        for at in 0..self.len {
            if is_wanted(self.places[at]) {
                self.places[kept] = self.places[at];
                kept += 1;
            }
        }
        self.len = kept;
    }
}

/// The addresses that were remembered last, oldest first.
#[derive(Debug, Default)]
pub struct RecentAddrs {
    addrs: VecDeque<SocketAddrV4>,
    addrs_max: usize,
}

impl RecentAddrs {
    pub fn new(addrs_max: usize) -> RecentAddrs {
        RecentAddrs {
            addrs: VecDeque::new(),
            addrs_max,
        }
    }

    pub fn contains(&self, addr: SocketAddrV4) -> bool {
        self.addrs.contains(&addr)
    }

    /// Remembers `addr` as the latest, and forgets the oldest when there is one too many.
    pub fn add(&mut self, addr: SocketAddrV4) {
        self.remove(addr);
        while self.addrs.len() >= self.addrs_max.max(1) {
            self.addrs.pop_front();
        }
        self.addrs.push_back(addr);
    }

    pub fn remove(&mut self, addr: SocketAddrV4) {
        self.addrs.retain(|known| *known != addr);
    }

    pub fn iter(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.addrs.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use rand::SeedableRng;

    use super::*;

    fn peer(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), n)
    }

    fn conn(n: u64) -> ConnId {
        ConnId::from_token(n)
    }

    #[test]
    fn never_more_than_its_size_and_one_entry_an_address() {
        let mut table = Table::new(2);
        assert!(table.set(peer(1), Link::Dialling(conn(1))));
        assert!(table.set(peer(2), Link::Welcomed(conn(2))));
        assert!(!table.set(peer(3), Link::Welcomed(conn(3))));
        assert!(table.set(peer(1), Link::Joined(conn(1))));
        assert_eq!((table.len(), table.joined()), (2, 1));
        assert_eq!(table.remove(peer(1)), Some(Link::Joined(conn(1))));
        assert_eq!(table.remove(peer(1)), None);
        assert_eq!((table.len(), table.joined()), (1, 0));
    }

    #[test]
    fn what_has_no_link_is_forgotten_in_time_and_what_has_one_again_is_not() {
        let mut table = Table::new(4);
        for n in 1..=3 {
            table.set(peer(n), Link::Linkless(Tick(100 + u64::from(n))));
        }
        table.set(peer(2), Link::Welcomed(conn(2)));
        assert_eq!(table.expire(Tick(100)), None);
        assert_eq!(table.expire(Tick(200)), Some(peer(1)));
        assert_eq!(table.expire(Tick(200)), Some(peer(3)));
        assert_eq!(table.expire(Tick(200)), None);
        assert_eq!((table.len(), table.next_expiry()), (1, None));
    }

    #[test]
    fn links_that_come_and_go_leave_a_bounded_trace() {
        let mut table = Table::new(2);
        for n in 0..1000 {
            table.set(peer(1), Link::Joined(conn(n)));
            table.set(peer(1), Link::Linkless(Tick(n)));
            assert!(table.linkless.len() <= table.stale_max());
        }
        assert_eq!(table.joined(), 1);
        assert_eq!(table.expire(Tick(1000)), Some(peer(1)));
    }

    fn sampled(table: &Table, except: SocketAddrV4, rng: &mut StdRng) -> BTreeSet<SocketAddrV4> {
        let sample = table.choose(Sample::draw(table.len(), rng), except, |_| false);
        let peers: Vec<_> = table.peers(&sample).collect();
        let distinct: BTreeSet<_> = peers.iter().copied().collect();
        assert_eq!(distinct.len(), peers.len(), "an entry twice");
        distinct
    }

    #[test]
    fn a_sample_has_everything_of_a_small_table_and_any_64_of_a_large_one() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut table = Table::new(1000);
        for n in 1..=64 {
            table.set(peer(n), Link::Welcomed(conn(n.into())));
        }
        assert_eq!(sampled(&table, peer(99), &mut rng).len(), 64);
        assert!(!sampled(&table, peer(7), &mut rng).contains(&peer(7)));
        for n in 65..=200 {
            table.set(peer(n), Link::Welcomed(conn(n.into())));
        }
        let mut times = [0_u32; 201];
        for _ in 0..2000 {
            let sample = sampled(&table, peer(999), &mut rng);
            assert_eq!(sample.len(), SAMPLE_MAX);
            sample
                .iter()
                .for_each(|peer| times[usize::from(peer.port())] += 1);
        }
        // 640 each are expected, with a standard deviation of 21.
        let rare = times[1..].iter().position(|n| !(530..750).contains(n));
        assert_eq!(rare, None, "{times:?}");
    }

    #[test]
    fn nobody_is_told_of_who_has_not_answered_or_may_be_gone() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut table = Table::new(10);
        table.set(peer(1), Link::Dialling(conn(1)));
        table.set(peer(2), Link::Welcomed(conn(2)));
        table.set(peer(3), Link::Linkless(Tick(9)));
        let names = |table: &Table, rng: &mut StdRng, good: u64| {
            let drawn = Sample::draw(table.len(), rng);
            let sample = table.choose(drawn, peer(99), |id| id != conn(good));
            table.peers(&sample).collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&table, &mut rng, 2), [peer(2), peer(3)].into());
        assert_eq!(names(&table, &mut rng, 0), [peer(3)].into());
        table.remove(peer(3));
        assert_eq!(names(&table, &mut rng, 0), [peer(2)].into());
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = RecentAddrs::new(2);
        for n in [1, 2, 1, 3] {
            recent.add(peer(n));
        }
        assert!(recent.iter().eq([peer(1), peer(3)]));
    }
}

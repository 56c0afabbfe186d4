//! The peers' addresses, in few bytes.
//!
//! An address of IPv4 stands in the connection itself. One of IPv6 takes 28 bytes, which every idle connection would pay
//! for, so it stands in a table beside and the connection has its place there.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use slab::Slab;

/// The address of one connection's peer, as [`Peers`] gave it out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    V4(SocketAddrV4),
    /// The place in the table.
    V6(u32),
}

/// The IPv6 addresses of the peers. Invariant: one for each connection that has a [`Peer::V6`], so not more than
/// connections.
#[derive(Debug, Default)]
pub(super) struct Peers {
    v6: Slab<SocketAddrV6>,
}

impl Peers {
    pub(super) fn add(&mut self, addr: SocketAddr) -> Peer {
        match unmapped(addr) {
            SocketAddr::V4(addr) => Peer::V4(addr),
            SocketAddr::V6(addr) => Peer::V6(self.v6.insert(addr) as u32),
        }
    }

    pub(super) fn get(&self, peer: Peer) -> SocketAddr {
        match peer {
            Peer::V4(addr) => addr.into(),
            Peer::V6(place) => self.v6[place as usize].into(),
        }
    }

    /// With the connection.
    pub(super) fn remove(&mut self, peer: Peer) {
        if let Peer::V6(place) = peer {
            self.v6.remove(place as usize);
        }
    }

    /// Addresses in the table.
    pub(super) fn v6(&self) -> usize {
        self.v6.len()
    }
}

/// A listener on `[::]` names its IPv4 peers in IPv6 (`::ffff:192.0.2.1`); they are the same peers.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_and_their_places_are_used_again() {
        let mut peers = Peers::default();
        let texts = ["192.0.2.1:9", "[2001:db8::1]:9", "[fe80::1%3]:9"];
        let addrs = texts.map(|text| text.parse::<SocketAddr>().unwrap());
        let given = addrs.map(|addr| peers.add(addr));
        assert_eq!(given.map(|peer| peers.get(peer)), addrs);
        assert_eq!(peers.v6(), 2);
        given.into_iter().for_each(|peer| peers.remove(peer));
        assert_eq!(peers.v6(), 0);
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_listener_is_an_ipv4_peer() {
        let mut peers = Peers::default();
        let peer = peers.add("[::ffff:192.0.2.1]:9".parse().unwrap());
        assert_eq!(peers.get(peer), "192.0.2.1:9".parse().unwrap());
        assert_eq!(peers.v6(), 0);
    }
}

//! Which addresses a peer may announce.
//!
//! CONNECT, UPDATE_PREV, DISCONNECT and the answers to LOCATE carry addresses of other nodes. Some of them are dialled, all
//! are passed on. So a stranger could make a whole ring dial addresses of its choice, or have it list members that
//! cannot be reached. This policy decides what can be decided without asking another node. Whether a node has the identity that
//! it claims is settled elsewhere, by its id and by asking it.
//!
//! The number of dials that strangers cause is bounded beyond that. No UPDATE_PREV and no CONNECT causes a dial.
//! The next of a DISCONNECT is dialled only under the membership lock, so one such dial at most is under way for all
//! sources together. Loopback needs no exemption, although all nodes of a test share an IP there. A joiner that
//! claims another's address is listed, and then dialled as a member is: by a finger look-up each second and by clients of
//! its keys. The protocol knows no proof of an address. A node has one listener, so there is none of its own to dial.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::engine::Cx;

use crate::proto::dht::node::DhtNode;

/// Ports below this belong to services that an operator set up (mail, web, login). A node that listens on such a port itself
/// belongs to a ring that does so on purpose, and accepts them. Higher ports are not listed: each may be a node's.
const PORT_MIN: u16 = 1024;

/// How far an address can be reached from; in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Machine,
    /// Private (RFC 1918), link-local, shared with a provider (RFC 6598), for documentation and benchmarks.
    Site,
    Public,
}

impl Scope {
    fn of(ip: Ipv4Addr) -> Scope {
        let [a, b, ..] = ip.octets();
        let shared = a == 100 && b & 0xC0 == 64;
        let benchmark = a == 198 && b & 0xFE == 18;
        if ip.is_loopback() {
            Scope::Machine
        } else if ip.is_private()
            || ip.is_link_local()
            || ip.is_documentation()
            || shared
            || benchmark
        {
            Scope::Site
        } else {
            Scope::Public
        }
    }
}

/// Whether a peer at `source` may announce a node at `claimed`: a peer from outside knows no node that only this machine, or
/// this network, can reach. `port` is that of a trusted member: ours, or the peer's.
pub fn is_plausible(source: Ipv4Addr, claimed: SocketAddrV4, port: u16) -> bool {
    Scope::of(*claimed.ip()) >= Scope::of(source) && (claimed.port() >= PORT_MIN || port < PORT_MIN)
}

impl DhtNode {
    /// Whether the peer may announce this address of a node.
    pub(crate) fn may_announce(&self, cx: &Cx<'_, Self>, addr: SocketAddrV4) -> bool {
        let plausible = is_plausible(*cx.peer_v4().ip(), addr, self.me().addr.port());
        if !plausible {
            log::debug!("{} may not announce a node at {addr}", cx.peer());
        }
        plausible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_reaches_no_less_far_than_its_source() {
        let scopes: [&[&str]; 3] = [
            &["127.0.0.1", "127.255.0.3"],
            &[
                "10.0.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "169.254.0.9",
                "100.64.0.1",
                "100.127.255.255",
                "192.0.2.1",
                "198.18.0.1",
                "198.19.9.9",
                "198.51.100.1",
                "203.0.113.7",
            ],
            &[
                "8.8.8.8",
                "172.32.0.1",
                "172.15.0.1",
                "100.63.255.255",
                "100.128.0.1",
                "198.20.0.1",
                "198.17.0.1",
                "126.255.255.255",
                "128.0.0.1",
            ],
        ];
        for (i, sources) in scopes.iter().enumerate() {
            for (j, claims) in scopes.iter().enumerate() {
                for (source, claimed) in sources
                    .iter()
                    .flat_map(|s| claims.iter().map(move |c| (s, c)))
                {
                    let claimed = SocketAddrV4::new(claimed.parse().unwrap(), 4000);
                    let may = is_plausible(source.parse().unwrap(), claimed, 5000);
                    assert_eq!(may, j >= i, "{source} says {claimed}");
                }
            }
        }
    }

    #[test]
    fn low_ports_are_for_rings_on_low_ports() {
        let ip = Ipv4Addr::new(8, 8, 8, 8);
        for (claimed, ours, may) in [
            (1, 5000, false),
            (25, 5000, false),
            (1023, 1024, false),
            (1024, 5000, true),
            (25, 80, true),
            (5000, 80, true),
            (65_535, 65_535, true),
        ] {
            let claimed = SocketAddrV4::new(ip, claimed);
            assert_eq!(is_plausible(ip, claimed, ours), may, "{claimed} {ours}");
        }
    }
}

//! Addresses of IPv6 in the engine: who dials, who accepts, from where.

use std::net::SocketAddr;

use crate::engine::{ConnId, Limits};
use crate::sim::{NodeId, World};

use super::lines::{Conn, Lines};
use super::{addr, assert_nothing_left, secs};

fn v6(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn dial(world: &mut World<Lines>, id: NodeId, to: SocketAddr, from: Option<SocketAddr>) -> ConnId {
    let dialled = world.service(id).dialled.len();
    let conn = world.with(id, |service, hub| {
        service.opened += 1;
        hub.dial(to, from, Conn::Client)
    });
    world.until(secs(1), |w| w.service(id).dialled.len() > dialled);
    conn
}

#[test]
fn dialled_and_accepted_and_from_where_it_was_asked_for() {
    let mut world = World::new(1);
    let (here, there) = (v6("[2001:db8::1]:4000"), v6("[2001:db8::2]:4000"));
    let [one, other] = [here, there].map(|at| world.add(at, Lines::default(), Limits::default()));
    for (from, seen) in [(None, here.ip()), (Some(here), here.ip())] {
        let conn = dial(&mut world, one, there, from);
        assert_eq!(world.with(one, |_, hub| hub.peer_of(conn)), Some(there));
        let accepted = *world.service(other).accepted.last().expect("accepted");
        let peer = world.with(other, |_, hub| hub.peer_of(accepted)).unwrap();
        assert_eq!(peer.ip(), seen);
        assert_eq!(peer.port() == here.port(), from.is_some());
        world.with(one, |_, hub| hub.close_conn(conn));
        world.run_for(secs(3));
        for id in [one, other] {
            assert_nothing_left(&world, id);
        }
    }
}

#[test]
fn a_listener_of_each_family() {
    let mut world = World::new(2);
    let id = world.add(addr(1), Lines::default(), Limits::default());
    let second = v6("[2001:db8::1]:4000");
    world.add_listener(id, second);
    for to in [addr(1).into(), second] {
        let peer = world.connect(to);
        world.peer(peer).send(b"echo hello\n");
        world.until(secs(1), |w| w.peer(peer).received() == b"HELLO\n");
        let accepted = *world.service(id).accepted.last().expect("accepted");
        let seen = world.with(id, |_, hub| hub.peer_of(accepted)).unwrap();
        assert_eq!(seen.is_ipv6(), to.is_ipv6());
        world.peer(peer).close();
        world.run_for(secs(1));
        assert_nothing_left(&world, id);
    }
}

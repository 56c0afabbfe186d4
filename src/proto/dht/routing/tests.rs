//! Who owns what, and how many hops a lookup takes.

use std::net::{Ipv4Addr, SocketAddrV4};

use rand::RngExt;

use super::*;
use crate::engine::{Limits, Ticks};
use crate::proto::dht::node::{Config, DhtNode};
use crate::proto::dht::storage::entries::Entries;
use crate::proto::dht::wire::{self, Request};
use crate::sim::World;

/// `n` members with addresses of their own, in ring order.
fn ring_of(n: u32) -> Vec<Member> {
    let addr = |i| SocketAddrV4::new(Ipv4Addr::from_bits((10 << 24) + i), 4000);
    let mut ring: Vec<Member> = (1..=n).map(|i| Member::at(addr(i))).collect();
    ring.sort_by_key(|member| member.id);
    ring
}

/// The last of `ring` at or before `key`.
fn owner_in(ring: &[Member], key: Id) -> Member {
    let before = ring.partition_point(|member| member.id <= key);
    ring[before.checked_sub(1).unwrap_or(ring.len() - 1)]
}

/// What member `at` knows once all its fingers are fresh.
fn settled(ring: &[Member], at: usize) -> Routing {
    let mut routing = Routing::alone(ring[at]);
    routing.set_next(ring[(at + 1) % ring.len()]);
    for i in (0..Id::BITS).rev() {
        let key = ring[at].id.plus_power_of_two(i);
        if routing.owns(key) {
            break;
        }
        routing.learn(owner_in(ring, key));
    }
    routing
}

#[test]
fn the_closest_known_node_is_never_beyond_the_key() {
    let ring = ring_of(50);
    for at in 0..ring.len() {
        let routing = settled(&ring, at);
        for key in ring
            .iter()
            .flat_map(|m| [m.id, m.id.pred(), m.id.plus_power_of_two(150)])
        {
            let closest = routing.closest(key);
            assert!(closest.id.in_arc(ring[at].id, key) || closest.id == key);
            assert_eq!(routing.owns(key), closest == ring[at]);
            assert_eq!(routing.owns(key), owner_in(&ring, key) == ring[at]);
        }
    }
}

#[test]
fn prev_is_the_closest_claimant_and_gone_when_it_is_dead() {
    let ring = ring_of(4);
    let mut routing = Routing::alone(ring[3]);
    routing.claim_prev(ring[1]);
    routing.claim_prev(ring[3]);
    assert_eq!(routing.prev(), Some(ring[1]));
    routing.claim_prev(ring[2]);
    routing.claim_prev(ring[0]);
    assert_eq!(routing.prev(), Some(ring[2]));
    routing.forget(ring[2].addr);
    assert_eq!(routing.prev(), None);
}

/// Mean hops of `lookups` from random members to random keys, asked over the wire.
fn mean_hops(n: u32, lookups: u32) -> f64 {
    let ring = ring_of(n);
    let mut world = World::new(u64::from(n));
    world.validate_turns(false);
    let limits = Limits {
        read_bytes_per_turn: 4096,
        input_bytes_max: 4096,
        ..Limits::default()
    };
    for (at, member) in ring.iter().enumerate() {
        let mut node = DhtNode::new(Config::new(member.addr), Entries::default());
        node.routing = settled(&ring, at);
        world.add(member.addr, node, limits.clone());
    }
    let mut hops = 0_u32;
    for _ in 0..lookups {
        let key = Id::of(&world.rng().random::<[u8; 8]>());
        let mut asked = ring[world.rng().random_range(0..ring.len())].addr;
        let owner = owner_in(&ring, key).addr;
        loop {
            let peer = world.connect(asked);
            let mut request = Vec::new();
            wire::put_request(&mut request, &Request::Locate(key));
            world.peer(peer).send(&request);
            world.until(Ticks::from_secs(5), |w| {
                w.peer(peer).received().ends_with(b"\n")
            });
            let answer = wire::address(world.peer(peer).received(), 0);
            world.peer(peer).close();
            let (addr, _) = answer.expect("an address").expect("a whole one");
            if addr == asked {
                break;
            }
            asked = addr;
            hops += 1;
        }
        assert_eq!(asked, owner);
    }
    f64::from(hops) / f64::from(lookups)
}

fn assert_few_hops(n: u32, lookups: u32) {
    let mean = mean_hops(n, lookups);
    let bound = 0.5 * f64::from(n).log2() + 1.0;
    println!("{n:>6} nodes: {mean:.2} hops in the mean of {lookups} lookups, bound {bound:.2}");
    assert!(mean <= bound, "{n} nodes: {mean} hops");
}

#[test]
fn lookups_take_half_the_logarithm() {
    assert_few_hops(16, 500);
    assert_few_hops(256, 500);
}

#[test]
#[ignore = "the README's table; 3 s and 800 MiB with --release"]
fn lookups_take_half_the_logarithm_in_large_rings() {
    assert_few_hops(16, 5_000);
    assert_few_hops(256, 5_000);
    assert_few_hops(4_096, 5_000);
    assert_few_hops(65_536, 5_000);
}

#[test]
fn a_prev_that_does_not_answer_is_still_the_last_one() {
    let ring = ring_of(4);
    let mut routing = settled(&ring, 3);
    assert!(routing.claim_prev(ring[2]));
    routing.forget(ring[2].addr);
    assert_eq!((routing.prev(), routing.last_prev()), (None, Some(ring[2])));
    // Another one that fails is not it.
    routing.forget(ring[1].addr);
    assert_eq!(routing.last_prev(), Some(ring[2]));
    // Whoever claims now is taken, however far, and is all that is known.
    assert!(routing.claim_prev(ring[1]));
    assert_eq!(routing.last_prev(), Some(ring[1]));
    routing.forget(ring[1].addr);
    routing.set_prev(ring[0]);
    assert_eq!(routing.last_prev(), Some(ring[0]));
    routing.forget(ring[0].addr);
    routing.set_next(ring[3]);
    assert_eq!(routing.last_prev(), None);
}

//! Nodes that are started with one list of addresses, their own among them.

use super::script::{Ring, asked, put};
use super::*;
use crate::proto::dht::node::Role;
use crate::sim::Faults;

fn is_member(world: &Ring, id: NodeId) -> bool {
    matches!(world.service(id).role, Role::Member)
}

/// All are members, and the nexts of the first lead round all of them.
fn is_one_ring(world: &Ring, nodes: &[NodeId]) -> bool {
    let mut at = world.addr(nodes[0]);
    let mut seen = Vec::new();
    for _ in nodes {
        let Some(node) = nodes.iter().find(|node| world.addr(**node) == at) else {
            return false;
        };
        if !is_member(world, *node) || seen.contains(&at) {
            return false;
        }
        seen.push(at);
        at = world.service(*node).routing().next().addr;
    }
    at == world.addr(nodes[0])
}

/// Every order in which three are started, at once or one after the other, with every rotation of the list.
#[test]
fn three_that_are_started_with_one_list_are_one_ring() {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for (seed, order) in orders.into_iter().enumerate() {
        for apart in [0, 1, 700, 30_000] {
            for turn in 0..3 {
                let mut world = Ring::new(seed as u64);
                world.set_faults(Faults {
                    latency: Span::us(100, 20_000),
                    ..Faults::none()
                });
                let mut list: Vec<SocketAddrV4> = (1..=3).map(addr).collect();
                list.rotate_left(turn);
                let mut nodes = Vec::new();
                for n in order {
                    let id = add(&mut world, n + 1);
                    world.with(id, |node, hub| node.join(hub, list.clone()));
                    nodes.push(id);
                    world.run_for(Ticks::from_millis(apart));
                    // Never two rings on the way.
                    let alone = nodes.iter().filter(|id| {
                        is_member(&world, **id) && world.service(**id).routing().is_alone()
                    });
                    assert!(alone.count() <= 1);
                }
                world.until(secs(20), |w| is_one_ring(w, &nodes));
            }
        }
    }
}

#[test]
fn a_node_with_itself_alone_in_its_list_is_a_ring_with_its_entries() {
    let mut world = Ring::new(7);
    let node = add(&mut world, 1);
    put(&mut world, node, Id::ZERO, "v");
    world.with(node, |node, hub| node.join(hub, vec![addr(1)]));
    assert_eq!(asked(&mut world, node, "GET\n0\n"), "1\n1\nv");
}

/// The founder keeps what it had on its disk; the others wait for it, however long that takes.
#[test]
fn the_others_wait_for_the_founder() {
    let mut world = Ring::new(8);
    let list: Vec<SocketAddrV4> = (1..=3).map(addr).collect();
    let late: Vec<NodeId> = [3, 2].map(|n| add(&mut world, n)).into();
    for id in &late {
        world.with(*id, |node, hub| node.join(hub, list.clone()));
    }
    world.run_for(secs(200));
    assert!(late.iter().all(|id| !is_member(&world, *id)));
    let founder = add(&mut world, 1);
    put(&mut world, founder, Id::ZERO, "v");
    world.with(founder, |node, hub| node.join(hub, list.clone()));
    let nodes = [late, vec![founder]].concat();
    world.until(secs(20), |w| is_one_ring(w, &nodes));
    let has = |id: &&NodeId| world.service(**id).entries().contains(Id::ZERO);
    assert_eq!(nodes.iter().filter(has).count(), 1);
}

/// A founder of members that keep copies needs no lease, so the others can join it.
#[test]
fn the_founder_of_a_ring_with_copies_hands_over() {
    let mut world = Ring::new(1);
    let list: Vec<SocketAddrV4> = (1..=3).map(addr).collect();
    let start = |n: usize| {
        let config = Config {
            replicas: 3,
            ..config(world.seed(), n)
        };
        let limits = config.fit(Limits::default());
        let id = world.add(addr(n), DhtNode::new(config, Entries::default()), limits);
        world.with(id, |node, hub| node.join(hub, list.clone()));
        id
    };
    let nodes: Vec<NodeId> = [2, 1, 3].map(start).into();
    world.until(secs(20), |w| is_one_ring(w, &nodes));
}

/// One that takes the connection and says nothing may be a member.
#[test]
fn nobody_founds_while_a_seed_is_silent() {
    let mut world = Ring::new(9);
    let node = add(&mut world, 1);
    let listener = world.listen(addr(2));
    world.with(node, |node, hub| node.join(hub, vec![addr(1), addr(2)]));
    world.run_for(secs(100));
    assert!(!is_member(&world, node));
    assert!(world.accept(listener).is_some());
}

/// Nobody is sent to a seed of which nothing is known: a client would wait for it.
#[test]
fn a_node_that_knows_no_member_ends_a_look_up_at_once() {
    let mut world = Ring::new(10);
    let node = add(&mut world, 1);
    let silent = world.listen(addr(2));
    world.with(node, |node, hub| node.join(hub, vec![addr(2)]));
    world.run_for(secs(1));
    assert_eq!(asked(&mut world, node, "LOCATE\n5\n"), "");
    for (text, answer) in [
        ("GET\n5\n", "0\n"),
        ("CONTAINS\n5\n", "0\n"),
        ("INSERT\n5\n", "0\n"),
        ("REMOVE\n5\n", "0\n"),
        ("CONNECT\n5\n", "0\n"),
        ("DISCONNECT\n10.1.0.9:5000\n", "0\n"),
        ("UPDATE_PREV\n10.1.0.9:5000\n", "1\n"),
        ("XSTAT\n", "0\n"),
    ] {
        let begun = world.now();
        assert_eq!(asked(&mut world, node, text), answer, "{text}");
        assert!(world.now() - begun < secs(1), "{text}");
    }
    assert!(world.accept(silent).is_some());
}

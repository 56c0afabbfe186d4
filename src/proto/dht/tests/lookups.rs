//! LOCATE through nodes that answer badly, or not at all.

use super::script::{Member, Ring, Then, ring};
use super::*;
use crate::proto::dht::node::Role;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};

fn start(world: &mut Ring, asker: NodeId, key: Id, contact: SocketAddrV4, bounds: Bounds) {
    let operation = Operation::new(Verb::Locate, key, vec![contact], bounds);
    world.with(asker, |node, hub| node.ask(hub, 0, operation));
}

fn told(world: &mut Ring, asker: NodeId) -> Result<Outcome, Failure> {
    world.until(secs(60), |w| w.service(asker).has_outcomes());
    world
        .with(asker, |node, _| node.take_outcomes().remove(0))
        .1
}

#[test]
fn loops_and_garbage_end_in_an_error() {
    let (a, b) = (addr(10), addr(11));
    // Each names the other, for the other's key and its own; itself under another address; no node.
    let answers: [(&str, &str); 5] = [
        ("10.1.0.11:5000\n", "10.1.0.10:5000\n"),
        ("10.1.0.11:5000\n", "10.1.0.11:5001\n"),
        ("garbage\n", "garbage\n"),
        ("0.0.0.0:0\n", "1\n"),
        ("10.1.0.99:5000\n", "10.1.0.99:5000\n"),
    ];
    for (one, other) in answers {
        for key in [Id::ZERO, Id::MAX, Id::of_addr(a), Id::of_addr(b).pred()] {
            let mut world = Ring::new(1);
            let asker = add(&mut world, 0);
            let mut first = Member::at(&mut world, a);
            let mut second = Member::at(&mut world, b);
            let bounds = Bounds {
                attempts_max: 3,
                ..Bounds::default()
            };
            start(&mut world, asker, key, a, bounds);
            world.until(secs(30), |w| {
                first.serve(w, &mut |_, _| Then::Say(one.into()));
                second.serve(w, &mut |_, _| Then::Say(other.into()));
                w.service(asker).has_outcomes()
            });
            assert!(told(&mut world, asker).is_err(), "{one:?} {other:?}");
            assert!(
                first.heard.len() + second.heard.len() <= 3 * 4,
                "no endless loop"
            );
        }
    }
}

/// A finger to a node that left is no reason for a lookup to fail, not even for its first try.
#[test]
fn a_lookup_goes_round_a_node_that_left() {
    let mut world = Ring::new(2);
    let asker = add(&mut world, 0);
    let nodes = ring(&mut world, 8);
    world.run_for(secs(30));
    let mut stale = 0;
    // Those that others have as fingers, and not as their next.
    for left in [7, 4, 2] {
        let gone = world.addr(nodes[left]);
        world.shutdown(nodes[left]);
        world.until(secs(10), |w| !w.is_up(nodes[left]));
        for contact in nodes
            .iter()
            .copied()
            .filter(|id| world.is_up(*id))
            .collect::<Vec<_>>()
        {
            stale += usize::from(
                world
                    .service(contact)
                    .routing()
                    .fingers()
                    .iter()
                    .any(|f| f.addr == gone),
            );
            for key in [Id::of_addr(gone), Id::of_addr(gone).pred(), Id::ZERO] {
                let bounds = Bounds {
                    attempts_max: 1,
                    ..Bounds::default()
                };
                let at = world.addr(contact);
                start(&mut world, asker, key, at, bounds);
                let outcome = told(&mut world, asker);
                let owner = nodes.iter().find(|id| {
                    let node = world.service(**id);
                    matches!(node.role, Role::Member) && world.is_up(**id) && node.owns(key)
                });
                let owner = world.addr(*owner.expect("a key has an owner"));
                assert_eq!(outcome, Ok(Outcome::Located(owner)));
            }
        }
        world.run_for(secs(10));
    }
    assert!(stale > 0, "somebody had a finger to go round");
}

/// The node that a dead one follows directly has nobody else to name.
#[test]
fn a_dead_next_is_an_error_and_no_loop() {
    let mut world = Ring::new(3);
    let asker = add(&mut world, 0);
    let nodes = ring(&mut world, 3);
    let (dead, contact) = (world.service(nodes[1]).me(), world.addr(nodes[0]));
    world.kill_with(nodes[1], false);
    start(&mut world, asker, dead.id, contact, Bounds::default());
    let outcome = told(&mut world, asker);
    assert!(
        matches!(outcome, Err(Failure::Unreachable { addr, .. }) if addr == dead.addr),
        "{outcome:?}"
    );
}

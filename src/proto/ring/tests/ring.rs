//! Whole rings. What is checked when all is quiet: the neighbours that the peers know are one cycle over the living, in the
//! tracker's order; and who could complete has completed.

use rand::RngExt;

use crate::sim::{Faults, Tally, storms};

use super::*;

/// After the faults end: an interval and a timeout until the dead are gone, three intervals until a peer
/// misses the tracker, and retries.
const SETTLES_WITHIN: Ticks = Ticks::from_secs(200);

/// What is wrong with the ring; `None` when nothing is.
fn fault(world: &Ring, tracker_id: NodeId, peers: &[NodeId]) -> Option<String> {
    let tracker = tracker(world, tracker_id);
    let ring = tracker.ring();
    let up: Vec<NodeId> = peers
        .iter()
        .copied()
        .filter(|id| world.is_up(*id))
        .collect();
    if ring.len() != up.len() || tracker.members() != ring.len() {
        return Some(format!(
            "{} in the ring, {} members, {} are up",
            ring.len(),
            tracker.members(),
            up.len()
        ));
    }
    for id in &up {
        let peer = peer(world, *id);
        let at = ring.iter().position(|handle| **handle == *peer.handle());
        let Some(at) = at else {
            return Some(format!("{} is not in the ring", peer.handle()));
        };
        let before = &ring[(at + ring.len() - 1) % ring.len()];
        let known = neighbour_of(world, *id);
        if *known != **before {
            return Some(format!(
                "{} knows {known:?} and not {before}",
                peer.handle()
            ));
        }
    }
    (!tracker.is_settled()).then(|| "somebody is to be told of its neighbour".into())
}

/// The items that the living have between them.
fn items_alive(world: &Ring, peers: &[NodeId]) -> std::collections::BTreeSet<u32> {
    let up = peers.iter().filter(|id| world.is_up(**id));
    up.flat_map(|id| peer(world, *id).items().iter().map(|(seq, _)| seq))
        .collect()
}

fn incomplete(world: &Ring, peers: &[NodeId]) -> usize {
    let up = peers.iter().filter(|id| world.is_up(**id));
    up.filter(|id| !peer(world, **id).items().is_complete())
        .count()
}

fn assert_same_items(world: &Ring, peers: &[NodeId], count: usize) {
    for id in peers.iter().filter(|id| world.is_up(**id)) {
        let peer = peer(world, *id);
        let have: Vec<&str> = peer.items().iter().map(|(_, data)| data).collect();
        let want = items(count);
        assert!(have.iter().zip(&want).all(|(a, b)| **a == **b) && have.len() == count);
    }
}

#[test]
fn rings_under_a_swarm_of_faults() {
    let happens = &[
        ("completed", 1000),
        ("deaths", 300),
        ("tracker deaths", 100),
    ];
    storms(200, happens, run);
}

/// Peers come, die and come back, the tracker dies and comes back with or without its disk, the network does what it
/// does; then peace.
fn run(seed: u64) -> Tally {
    let mut world = World::swarm(seed);
    world.validate_turns(false);
    // An orderly end after an UPDATE_NBR is how a peer says that it took it, so nobody else may say it: TCP ends a
    // direction only when one of the two programs does.
    let half_close = 0.0;
    let faults = world.faults().clone();
    world.set_faults(Faults {
        half_close,
        ..faults
    });
    let mut tally = Tally::default();
    let count = world.rng().random_range(1..16);
    let durable = world.rng().random_bool(0.5);
    let config = Config {
        durable,
        ..Config::default()
    };
    let tracker_id = add_tracker(&mut world, config.clone(), count);
    let disk = durable.then(|| {
        let max = [1, 100, 5000][world.rng().random_range(0..3)];
        set_disk(&mut world, tracker_id, Span::ms(0, max))
    });
    let mut peers = Vec::new();
    for _ in 0..world.rng().random_range(5..30) {
        let some = (!peers.is_empty()).then(|| {
            let at = world.rng().random_range(0..peers.len());
            peers[at]
        });
        match (world.rng().random_range(0..20), some) {
            (0..12, _) | (_, None) => {
                let id = add_peer(&mut world, peers.len() + 1);
                peers.push(id);
            }
            (12..17, Some(id)) if world.is_up(id) => {
                world.kill(id);
                tally.count("deaths");
            }
            (12..17, Some(id)) => {
                let handle = peer(&world, id).handle().to_owned();
                world.restart(id, RingNode::Peers(Peers::new()));
                start_peer(&mut world, id, &handle);
            }
            (17, Some(id)) => {
                let paused = world.rng().random_bool(0.5);
                world.pause(id, paused);
            }
            (_, Some(_)) if world.is_up(tracker_id) => {
                world.kill(tracker_id);
                tally.count("tracker deaths");
            }
            _ => restart_tracker(&mut world, tracker_id, config.clone(), count, disk.as_ref()),
        }
        let pause_max = [10, 300, 3000][world.rng().random_range(0..3)];
        let pause = Ticks(world.rng().random_range(0..pause_max));
        world.run_for(pause);
    }
    world.heal();
    // Dials that were lost are left to their deadline, and may still cost a living peer its place.
    world.run_for(secs(15));
    if !world.is_up(tracker_id) {
        restart_tracker(&mut world, tracker_id, config, count, disk.as_ref());
    }
    for id in &peers {
        world.pause(*id, false);
    }
    settle(&mut world, tracker_id, &peers);
    // Every peer that could complete has. If an item is missing, newcomers have it: the tracker gives items in turn.
    for _ in 0..=count {
        if items_alive(&world, &peers).len() == count {
            break;
        }
        let id = add_peer(&mut world, peers.len() + 1);
        peers.push(id);
        world.run_for(secs(5));
    }
    if !peers.iter().any(|id| world.is_up(*id)) {
        return tally;
    }
    assert_eq!(items_alive(&world, &peers).len(), count);
    for _ in 0..300 {
        if incomplete(&world, &peers) == 0 {
            break;
        }
        world.run_for(secs(1));
    }
    assert_same_items(&world, &peers, count);
    settle(&mut world, tracker_id, &peers);
    let up = peers.iter().filter(|id| world.is_up(**id));
    tally.add("completed", up.count() as u64);
    tally
}

#[track_caller]
fn settle(world: &mut Ring, tracker_id: NodeId, peers: &[NodeId]) {
    let until = world.now() + SETTLES_WITHIN;
    while let Some(fault) = fault(world, tracker_id, peers) {
        assert!(world.now() < until, "{fault}");
        world.run_for(secs(1));
    }
    // And it stays so.
    world.run_for(secs(30));
    assert_eq!(fault(world, tracker_id, peers), None);
}

#[test]
fn a_hundred_peers_and_items() {
    let mut world = World::new(1);
    world.validate_turns(false);
    let tracker_id = add_tracker(&mut world, Config::default(), 100);
    let peers: Vec<NodeId> = (1..=100).map(|n| add_peer(&mut world, n)).collect();
    world.until(secs(30), |w| incomplete(w, &peers) == 0);
    assert_same_items(&world, &peers, 100);
    assert!(world.now().0 < 500, "{:?}", world.now());
    world.run_for(secs(3));
    assert_eq!(fault(&world, tracker_id, &peers), None);
    let counts = tracker(&world, tracker_id).counts();
    assert_eq!((counts.registered, counts.reg_inits), (100, 100));
    assert!(counts.updates <= 100, "{counts:?}");
    let queries: u64 = peers.iter().map(|id| peer(&world, *id).queries()).sum();
    assert!(queries < 100 * 100 * 3, "{queries}");
}

//! Both toy services under random faults, many seeds; and the proof that a seed is a run.

use rand::RngExt;

use crate::engine::{Limits, Ticks};
use crate::sim::{PeerId, Span, Tally, World, storms};

use super::lines::{Lines, Stamp};
use super::relay::{Capitals, Relay};
use super::{addr, assert_nothing_left, secs, tight};

#[test]
fn line_servers_under_a_swarm_of_faults() {
    let happens = &[
        ("accepted", 700),
        ("messages", 1700),
        ("paused", 40),
        ("budget spent", 200),
        ("broken", 90),
        ("violations", 100),
        ("messages timed out", 4),
    ];
    storms(100, happens, lines_run);
}

/// Peers that send random commands, stop reading, close, reset; then peace, and nothing may be left.
fn lines_run(seed: u64) -> Tally {
    let mut world: World<Lines> = World::swarm(seed);
    let limits = if seed.is_multiple_of(2) {
        tight()
    } else {
        Limits::default()
    };
    let id = world.add(addr(1), Lines::default(), limits);
    world.set_worker(id, Stamp, Span::ms(0, 30));
    let mut peers: Vec<PeerId> = Vec::new();
    for _ in 0..60 {
        let dice = world.rng().random_range(0..100);
        let some = (!peers.is_empty()).then(|| world.rng().random_range(0..peers.len().max(1)));
        match (dice, some) {
            (0..25, _) | (_, None) => peers.push(world.connect(addr(1))),
            (25..80, Some(p)) => {
                let command = random_command(&mut world);
                world.peer(peers[p]).send(&command);
            }
            (80..85, Some(p)) => world.peer(peers[p]).finish(),
            (85..90, Some(p)) => world.peer(peers[p]).reset(),
            (90..95, Some(p)) => world.peer(peers[p]).stop_reading(),
            (_, Some(p)) => world.peer(peers[p]).read_again(),
        }
        let pause = Ticks(world.rng().random_range(0..20));
        world.run_for(pause);
    }
    world.heal();
    for &peer in &peers {
        world.peer(peer).close();
    }
    world.run_for(secs(400));
    assert_nothing_left(&world, id);
    let (stats, mut tally) = (world.node(id).stats(), Tally::default());
    for (what, times) in [
        ("accepted", stats.accepted),
        ("messages", stats.messages),
        ("paused", stats.paused),
        ("budget spent", stats.budget_spent),
        ("broken", stats.ended_broken),
        ("violations", stats.ended_by_peer_fault),
        ("messages timed out", stats.timed_out_message),
    ] {
        tally.add(what, times);
    }
    tally
}

fn random_command(world: &mut World<Lines>) -> Vec<u8> {
    let n = world.rng().random_range(0..2000u32);
    let text = match world.rng().random_range(0..14) {
        0..3 => format!("echo {n}\n"),
        3 => format!("put {n}\n{}", "p".repeat(n as usize)),
        4 => format!("big {}\n", n * 50),
        5 => format!("blob {}\n", n * 10),
        6 => format!("wait {}\n", n / 10),
        7 => format!("notes {}\n", n / 20),
        8 => format!("jobs {}\n", n / 100),
        9 => "bye\n".into(),
        10 => "refuse\n".into(),
        11 => "echo half a line".into(),
        12 => "echo x\n".repeat(n as usize % 50),
        _ => "nonsense\n".into(),
    };
    text.into_bytes()
}

const RELAYS: u8 = 6;

#[test]
fn relays_under_a_swarm_of_faults_and_crashes() {
    let happens = &[
        ("answered", 1000),
        ("failed", 400),
        ("late", 5),
        ("kills", 90),
    ];
    storms(100, happens, |seed| relays_run(seed).0);
}

/// Requests through up to four nodes, with crashes; every request is answered in its turn, or its connection ends.
fn relays_run(seed: u64) -> (Tally, u64, u64) {
    let mut world: World<Relay> = World::swarm(seed);
    let limits = if seed.is_multiple_of(2) {
        tight()
    } else {
        Limits::default()
    };
    let others = |n: u8| {
        (1..=RELAYS)
            .filter(|&m| m != n)
            .map(addr)
            .collect::<Vec<_>>()
    };
    let nodes: Vec<_> = (1..=RELAYS)
        .map(|n| world.add(addr(n), Relay::new(others(n)), limits.clone()))
        .collect();
    for &id in &nodes {
        world.set_worker(id, Capitals, Span::ms(0, 20));
    }
    let mut peers: Vec<(PeerId, Vec<String>)> = Vec::new();
    let mut tally = Tally::default();
    for _ in 0..20 {
        let to = addr(world.rng().random_range(1..=RELAYS));
        let peer = world.connect(to);
        let mut sent = Vec::new();
        for n in 0..world.rng().random_range(1..4) {
            let hops = world.rng().random_range(0..4);
            sent.push(format!("word {n} of {}", peers.len()));
            let request = format!("ask {hops} {}\n", sent[n]);
            world.peer(peer).send(request.as_bytes());
        }
        peers.push((peer, sent));
        let pause = Ticks(world.rng().random_range(0..50));
        world.run_for(pause);
        let victim = nodes[world.rng().random_range(0..nodes.len())];
        match world.rng().random_range(0..10) {
            0 if world.is_up(victim) => {
                world.kill(victim);
                tally.count("kills");
            }
            0..3 if !world.is_up(victim) => {
                let next = world.service(victim).next.clone();
                world.restart(victim, Relay::new(next));
            }
            _ => {}
        }
    }
    world.heal();
    world.run_for(secs(200));
    for (peer, sent) in &peers {
        check_answers(&world.peer(*peer).take(), sent, &mut tally);
        world.peer(*peer).close();
    }
    world.run_for(secs(200));
    for &id in &nodes {
        let (node, service) = (world.node(id), world.service(id));
        if world.is_up(id) {
            assert_eq!((node.conns(), service.opened), (0, service.ended), "{id:?}");
            assert_eq!(node.next_deadline(), None, "{id:?}");
        }
    }
    (tally, world.fingerprint(), world.events())
}

fn check_answers(got: &[u8], sent: &[String], tally: &mut Tally) {
    let got = String::from_utf8(got.to_vec()).expect("text");
    let lines: Vec<&str> = got
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .collect();
    assert!(lines.len() <= sent.len(), "{lines:?} for {sent:?}");
    for (line, sent) in lines.iter().zip(sent) {
        let line = line.trim_end();
        tally.count(match line {
            "failed" => "failed",
            "late" => "late",
            line => {
                assert_eq!(line, sent.to_uppercase());
                "answered"
            }
        });
    }
}

#[test]
fn relays_on_a_good_network_answer_everything() {
    let mut world: World<Relay> = World::new(3);
    let others = |n: u8| {
        (1..=RELAYS)
            .filter(|&m| m != n)
            .map(addr)
            .collect::<Vec<_>>()
    };
    for n in 1..=RELAYS {
        let id = world.add(addr(n), Relay::new(others(n)), Limits::default());
        world.set_worker(id, Capitals, Span::ms(0, 20));
    }
    let peer = world.connect(addr(1));
    let mut want = String::new();
    for n in 0..50 {
        world
            .peer(peer)
            .send(format!("ask {} word {n}\n", n % 4).as_bytes());
        want += &format!("WORD {n}\n");
    }
    world.until(secs(60), |w| w.peer(peer).received().len() >= want.len());
    assert_eq!(world.peer(peer).take(), want.into_bytes());
}

#[test]
fn a_seed_is_a_run() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let first = relays_run(seed);
        assert_eq!(first, relays_run(seed), "seed {seed}");
        assert!(seen.insert(first.1), "seed {seed} runs as another one");
    }
}

/// What the ring's tests need: many nodes, many runs.
#[test]
fn sixty_four_nodes_are_quick() {
    let mut world: World<Relay> = World::new(9);
    let others = |n: u8| (1..=64).filter(|&m| m != n).map(addr).collect::<Vec<_>>();
    for n in 1..=64 {
        let id = world.add(addr(n), Relay::new(others(n)), Limits::default());
        world.set_worker(id, Capitals, Span::ms(0, 5));
    }
    let peers: Vec<_> = (1..=64).map(|n| world.connect(addr(n))).collect();
    for &peer in &peers {
        world.peer(peer).send(b"ask 3 a\nask 2 b\nask 1 c\n");
    }
    world.run_for(secs(100));
    for &peer in &peers {
        assert_eq!(world.peer(peer).received(), b"A\nB\nC\n");
    }
}

//! Nodes that are killed and come back at their address while the ring lists them, and what a durable one recovers.

use super::script::{Member, Ring, Then, after, hears, places, put, ring, run_with, say};
use super::*;
use crate::proto::dht::node::{LockHolder, Role};
use crate::proto::dht::routing;
use crate::sim::{Answer, Faults, check, seeds};

fn next_of(world: &Ring, id: NodeId) -> SocketAddrV4 {
    world.service(id).routing().next().addr
}

/// A node as it starts at the address of `id`, with these entries on its disk.
fn again(world: &Ring, id: NodeId, disk: Option<&Disk>) -> DhtNode {
    let mut entries = Entries::default();
    if let Some(disk) = disk {
        for (key, entry) in disk.lock().expect("no panic in here").iter() {
            entries.merge(*key, entry.version, entry.value.clone());
        }
    }
    let config = Config {
        durable: disk.is_some(),
        advertise: world.addr(id),
        ..config(world.seed(), 0)
    };
    DhtNode::new(config, entries)
}

fn come_back(world: &mut Ring, id: NodeId, disk: Option<&Disk>, contact: SocketAddrV4) {
    let node = again(world, id, disk);
    world.restart(id, node);
    world.with(id, |node, hub| node.join(hub, vec![contact]));
}

fn is_settled(world: &Ring, id: NodeId) -> bool {
    let node = world.service(id);
    matches!(node.role, Role::Member)
        && matches!(node.lock_holder, LockHolder::Nobody)
        && node.recovered.is_empty()
}

/// The nexts of `nodes`, which are in the order of their ids, are one round.
#[track_caller]
fn assert_round(world: &Ring, nodes: &[NodeId]) {
    for (i, id) in nodes.iter().enumerate() {
        let next = nodes[(i + 1) % nodes.len()];
        assert_eq!(next_of(world, *id), world.addr(next), "next of {i}");
    }
}

#[test]
fn a_killed_node_joins_again_at_its_address() {
    for size in [2, 3, 5] {
        for dead in 0..size {
            for quick in [true, false] {
                let mut world = Ring::new(dead as u64);
                let nodes = ring(&mut world, size);
                world.run_for(secs(5));
                for id in &nodes {
                    let own = world.service(*id).me().id;
                    put(&mut world, *id, own, "own");
                }
                world.kill_with(nodes[dead], false);
                if !quick {
                    world.run_for(secs(60));
                }
                let contact = world.addr(nodes[(dead + size / 2) % size]);
                come_back(&mut world, nodes[dead], None, contact);
                let begun = world.now();
                world.until(secs(30), |w| is_settled(w, nodes[dead]));
                assert!(world.now() - begun < secs(2), "{:?}", world.now() - begun);
                assert_round(&world, &nodes);
                for (i, id) in nodes.iter().enumerate() {
                    // Its entries were nowhere else.
                    assert_eq!(world.service(*id).entries().len(), usize::from(i != dead));
                }
            }
        }
    }
}

/// By a forged CONNECT while it is away, too.
#[test]
fn the_range_of_a_killed_node_waits_for_it() {
    let mut world = Ring::new(1);
    let nodes = ring(&mut world, 2);
    let (stays, me) = (nodes[0], world.service(nodes[1]).me());
    world.kill_with(nodes[1], false);
    // The member is dead, and a stranger claims its id: it gets no range, and our next stays as it was.
    let peer = say(
        &mut world,
        addr(77),
        stays,
        &format!("CONNECT\n{}\n", me.id),
    );
    let text = format!("1\n0\n{}\n", world.addr(stays));
    hears(&mut world, peer, &text);
    world.peer(peer).send(format!("{}\n", addr(77)).as_bytes());
    world.until(secs(5), |w| w.peer(peer).is_closed());
    assert_eq!(next_of(&world, stays), me.addr);
    // Its keys are refused, not reported as absent.
    let peer = say(&mut world, addr(77), stays, &format!("GET\n{}\n", me.id));
    hears(&mut world, peer, "0\n");
    let contact = world.addr(stays);
    come_back(&mut world, nodes[1], None, contact);
    world.until(secs(5), |w| is_settled(w, nodes[1]));
    assert_round(&world, &nodes);
}

/// No take-over by a forged CONNECT, wherever it comes from.
#[test]
fn a_member_that_is_there_keeps_its_range() {
    let mut world = Ring::new(2);
    let nodes = ring(&mut world, 3);
    let next = world.service(nodes[1]).me();
    put(&mut world, nodes[1], next.id, "own");
    for from in [addr(77), next.addr] {
        let peer = say(
            &mut world,
            from,
            nodes[0],
            &format!("CONNECT\n{}\n", next.id),
        );
        hears(&mut world, peer, "0\n");
        assert_round(&world, &nodes);
        assert!(matches!(
            world.service(nodes[0]).lock_holder,
            LockHolder::Nobody
        ));
    }
    // While it is stopped it is silent, as a plain joiner is: a stranger is not believed.
    world.pause(nodes[1], true);
    let peer = say(
        &mut world,
        addr(77),
        nodes[0],
        &format!("CONNECT\n{}\n", next.id),
    );
    hears(&mut world, peer, "0\n");
    assert_round(&world, &nodes);
    world.pause(nodes[1], false);
    world.run_for(secs(1));
    assert!(world.service(nodes[1]).owns(next.id));
}

/// A node of ours whose next is what a test plays.
fn with_next(seed: u64) -> (Ring, NodeId, SocketAddrV4, SocketAddrV4) {
    let mut world = Ring::new(seed);
    let at = places(3);
    let node = add(&mut world, at[0]);
    let (next, beyond) = (addr(at[1]), addr(at[2]));
    world.with(node, |node, hub| {
        node.set_next(hub, routing::Member::at(next));
        node.claim_prev(hub, routing::Member::at(beyond));
    });
    (world, node, next, beyond)
}

/// Plain joiners do not listen, listen and say nothing, or close; a plain member answers LOCATE with itself. The node
/// beyond is plain as well.
#[test]
fn a_plain_node_comes_back() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Is {
        Refusing,
        Silent,
        Closing,
        There,
    }
    for is in [Is::Refusing, Is::Silent, Is::Closing, Is::There] {
        for own_ip in [true, false] {
            let (mut world, node, next, beyond) = with_next(3);
            let mut there = Member::at(&mut world, next);
            if is == Is::Refusing {
                world.answer(there.listener, Answer::Refuse);
            }
            let mut behind = Member::at(&mut world, beyond);
            let from = if own_ip { next } else { addr(77) };
            let id = Id::of_addr(next);
            let peer = say(&mut world, from, node, &format!("CONNECT\n{id}\n"));
            world.until(secs(30), |w| {
                match is {
                    Is::Closing => there.serve_plain(w, &mut |_, _| Then::Reset),
                    Is::There => there.serve_plain(w, &mut |_, _| Then::Say(format!("{next}\n"))),
                    Is::Refusing | Is::Silent => {}
                }
                // Every look-up of the node before it leads over the dead one.
                behind.serve_plain(w, &mut |_, _| Then::Say(format!("{next}\n")));
                !w.peer(peer).received().is_empty()
            });
            let taken = match is {
                Is::There => false,
                Is::Refusing => true,
                Is::Silent | Is::Closing => own_ip,
            };
            let heard = String::from_utf8_lossy(world.peer(peer).received()).into_owned();
            assert_eq!(heard.starts_with('1'), taken, "{is:?} {own_ip} {heard:?}");
            assert_eq!(next_of(&world, node), next, "{is:?}");
            if taken {
                hears(&mut world, peer, &format!("1\n0\n{beyond}\n"));
                world.peer(peer).send(format!("{next}\n").as_bytes());
                world.run_for(secs(1));
                assert_eq!(next_of(&world, node), next, "{is:?}");
                assert!(matches!(
                    world.service(node).lock_holder,
                    LockHolder::Nobody
                ));
            }
        }
    }
}

/// Of two plain peers behind a dead node we know the second only. Unless it names the first, or the dead one, the
/// owner of the range behind the dead one's is unknown: the joiner is refused, and the first keeps its range.
#[test]
fn a_node_that_comes_back_is_not_given_the_range_of_a_living_one() {
    for what in ["first", "asker", "itself", "beyond", "reset", "silence"] {
        let mut world = Ring::new(4);
        let at = places(4);
        let node = add(&mut world, at[0]);
        let (me, dead, first, second) = (addr(at[0]), addr(at[1]), addr(at[2]), addr(at[3]));
        world.with(node, |node, hub| {
            node.set_next(hub, routing::Member::at(dead));
            node.claim_prev(hub, routing::Member::at(second));
        });
        let mut unknown = Member::at(&mut world, first);
        let mut known = Member::at(&mut world, second);
        let text = format!("CONNECT\n{}\n", Id::of_addr(dead));
        let peer = say(&mut world, dead, node, &text);
        world.until(secs(30), |w| {
            unknown.serve_plain(w, &mut |_, _| Then::Say(format!("{dead}\n")));
            known.serve_plain(w, &mut |_, _| match what {
                "first" => Then::Say(format!("{first}\n")),
                "asker" => Then::Say(format!("{me}\n")),
                "itself" => Then::Say(format!("{second}\n")),
                "beyond" => Then::Say("10.9.9.9:5000\n".into()),
                "reset" => Then::Reset,
                _ => Then::Silence,
            });
            !w.peer(peer).received().is_empty()
        });
        if what == "first" {
            hears(&mut world, peer, &format!("1\n0\n{first}\n"));
        } else {
            hears(&mut world, peer, "0\n");
            assert!(matches!(
                world.service(node).lock_holder,
                LockHolder::Nobody
            ));
        }
        assert_eq!(next_of(&world, node), dead, "{what}");
    }
}

/// The node before it says no for a while, as one does that leaves: a node that the ring lists does not give up
/// as early as another joiner.
#[test]
fn a_listed_node_goes_on_trying() {
    for listed in [true, false] {
        let mut world = Ring::new(6);
        let at = places(3);
        let [first, me, third] = [0, 1, 2].map(|n| addr(at[n]));
        let id = Id::of_addr(me);
        let node = add(&mut world, at[1]);
        let mut owner = Member::at(&mut world, first);
        let mut next = Member::at(&mut world, third);
        world.with(node, |node, hub| node.join(hub, vec![first]));
        let begun = world.now();
        let mut given = false;
        let _ = world.run_until(secs(110), |w| {
            let yields = w.now() > begun + secs(80);
            owner.serve(w, &mut |command, key| match command {
                "LOCATE" if (listed || given) && key == id.to_string() => {
                    Then::Say(format!("{me}\n"))
                }
                "LOCATE" => Then::Say(format!("{first}\n")),
                "CONNECT" if yields => {
                    given = true;
                    Then::Say(format!("1\n0\n{third}\n"))
                }
                "CONNECT" => Then::SayAndClose("0\n".into()),
                _ => Then::Reset,
            });
            next.serve(w, &mut |_, _| Then::Say("1\n".into()));
            !w.is_up(node) || matches!(w.service(node).role, Role::Member)
        });
        assert_eq!(world.is_up(node), listed);
        assert_eq!(world.service(node).join_failed(), !listed);
        let tries = owner.heard.iter().filter(|r| r.starts_with("CONNECT"));
        let tries = tries.count();
        assert!(
            if listed { tries < 200 } else { tries == 20 },
            "{tries} tries"
        );
    }
}

/// What the owner of a key would answer.
fn lookup(world: &Ring, nodes: &[NodeId], key: Id) -> Option<String> {
    let owner = nodes.iter().find(|id| world.service(**id).owns(key))?;
    let value = world.service(*owner).value_of(key)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn durable_ring(world: &mut Ring, size: usize) -> Vec<(NodeId, Disk)> {
    let delay = Span::us(100, 2_000);
    let nodes: Vec<_> = places(size)
        .into_iter()
        .map(|n| add_durable(world, n, delay))
        .collect();
    let contact = world.addr(nodes[0].0);
    for (id, _) in &nodes[1..] {
        world.with(*id, |node, hub| node.join(hub, vec![contact]));
        world.until(secs(10), |w| is_settled(w, *id));
    }
    nodes
}

/// The keys that a node had on its disk when it was killed, of its own range and of others'.
#[test]
fn a_durable_node_recovers_what_it_had() {
    for kill_after in (0..40).step_by(4) {
        let mut world = Ring::new(kill_after);
        let nodes = durable_ring(&mut world, 4);
        let ids: Vec<NodeId> = nodes.iter().map(|(id, _)| *id).collect();
        let (back, disk) = &nodes[2];
        world.kill_with(*back, false);
        let own = world.service(*back).me().id;
        let others: Vec<Id> = [0, 1, 3]
            .into_iter()
            .flat_map(|n| (0..5).map(move |i| (n, i)))
            .map(|(n, i)| after(Id::of_addr(world.addr(ids[n])), i))
            .collect();
        for i in 0..7 {
            write_disk(disk, after(own, i), "mine");
        }
        for key in &others {
            write_disk(disk, *key, "old");
        }
        // The ring has a newer one of this key, so that it wins.
        let newer = others[6];
        let owner = ids
            .iter()
            .copied()
            .find(|id| world.is_up(*id) && world.service(*id).owns(newer));
        let owner = owner.expect("a key has an owner");
        put(&mut world, owner, newer, "newer");
        let contact = world.addr(ids[0]);
        come_back(&mut world, *back, Some(disk), contact);
        if kill_after > 0 {
            // In the middle of it, once more.
            world.run_for(Ticks(kill_after));
            world.kill_with(*back, false);
            world.run_for(Ticks(5));
            come_back(&mut world, *back, Some(disk), contact);
        }
        world.until(secs(60), |w| is_settled(w, *back));
        world.run_for(secs(1));
        assert_round(&world, &ids);
        for i in 0..7 {
            let found = lookup(&world, &ids, after(own, i));
            assert_eq!(found.as_deref(), Some("mine"), "{i} after {kill_after}");
        }
        for key in &others {
            let want = if *key == newer { "newer" } else { "old" };
            assert_eq!(lookup(&world, &ids, *key).as_deref(), Some(want));
        }
        let left: Vec<Id> = disk.lock().expect("no panic").keys().copied().collect();
        let mine: Vec<Id> = world
            .service(*back)
            .entries()
            .arc(own, own)
            .map(|(key, _)| key)
            .collect();
        assert_eq!(mine.len(), 7);
        assert!(mine.iter().all(|key| left.contains(key)) && left.len() == 7);
    }
}

/// Told to leave in the middle of it: what the node had is in the ring or still on its disk, and its own range is in the
/// ring as soon as it was a member.
#[test]
fn a_node_that_leaves_while_it_recovers_loses_nothing() {
    // So many that recovering them takes some ticks.
    const COUNT: u8 = 120;
    let (mut some_left, mut all_recovered) = (false, false);
    for leaves_after in (0..40).step_by(3) {
        let mut world = Ring::new(leaves_after);
        let nodes = durable_ring(&mut world, 3);
        let ids: Vec<NodeId> = nodes.iter().map(|(id, _)| *id).collect();
        let (back, disk) = &nodes[1];
        world.kill_with(*back, false);
        let own = world.service(*back).me().id;
        let foreign = world.service(ids[0]).me().id;
        for i in 0..COUNT {
            write_disk(disk, after(own, i), "mine");
            write_disk(disk, after(foreign, i), "theirs");
        }
        let contact = world.addr(ids[0]);
        come_back(&mut world, *back, Some(disk), contact);
        world.run_for(Ticks(leaves_after));
        let was_member = world.service(*back).owns(own);
        world.shutdown(*back);
        world.until(secs(60), |w| !w.is_up(*back));
        world.run_for(secs(1));
        let left = disk.lock().expect("no panic in here").clone();
        let rest = [ids[0], ids[2]];
        for (start, is_own) in [(own, true), (foreign, false)] {
            for i in 0..COUNT {
                let key = after(start, i);
                let found = lookup(&world, &rest, key).is_some();
                assert!(found || left.contains_key(&key), "{i} after {leaves_after}");
                assert!(found || !is_own || !was_member, "{i} after {leaves_after}");
            }
        }
        some_left |= was_member && !left.is_empty();
        all_recovered |= left.is_empty();
    }
    assert!(some_left && all_recovered, "both happen");
}

/// What the ring moves to us, or is told through us, is newer than a recovered entry.
#[test]
fn what_the_ring_gives_wins_over_what_was_recovered() {
    let mut world = Ring::new(5);
    let at = places(3);
    let (node, disk) = add_durable(&mut world, at[1], Span::ms(1, 2));
    let (first, me, third) = (addr(at[0]), addr(at[1]), addr(at[2]));
    let id = Id::of_addr(me);
    let mut owner = Member::at(&mut world, first);
    let mut next = Member::at(&mut world, third);
    for (i, value) in ["given", "kept", "removed", "written"].iter().enumerate() {
        write_disk(&disk, after(id, i as u8), &format!("old {value}"));
    }
    world.kill_with(node, false);
    come_back(&mut world, node, Some(&disk), first);
    let mut given = false;
    run_with(
        &mut world,
        &mut owner,
        secs(20),
        &mut |command, key| match command {
            "LOCATE" if given && key == id.to_string() => Then::Say(format!("{me}\n")),
            "LOCATE" => Then::Say(format!("{first}\n")),
            "CONNECT" => {
                given = true;
                Then::Say(format!("1\n1\n{id}\n3\nnew{third}\n"))
            }
            _ => Then::Reset,
        },
        &mut |w| {
            next.serve(w, &mut |_, _| Then::Say("1\n".into()));
            matches!(w.service(node).role, Role::Member)
        },
    );
    // At once, whatever of it is taken over already: reads see all, writes replace it.
    let get = |n: u8| format!("GET\n{}\n", after(id, n));
    let peer = say(&mut world, addr(70), node, &get(1));
    hears(&mut world, peer, "1\n8\nold kept");
    let text = format!("REMOVE\n{}\n", after(id, 2));
    let peer = say(&mut world, addr(70), node, &text);
    hears(&mut world, peer, "1\n1\n");
    let text = format!("INSERT\n{}\n3\nnew", after(id, 3));
    let peer = say(&mut world, addr(70), node, &text);
    hears(&mut world, peer, "1\n1\n");
    world.until(secs(10), |w| is_settled(w, node));
    world.run_for(secs(1));
    for (n, want) in [
        (0, "1\n3\nnew"),
        (1, "1\n8\nold kept"),
        (2, "1\n0\n"),
        (3, "1\n3\nnew"),
    ] {
        let peer = say(&mut world, addr(70), node, &get(n));
        hears(&mut world, peer, want);
    }
    let kept = disk.lock().expect("no panic in here").len();
    assert_eq!(kept, 3);
}

/// Durable members are killed one at a time, at any moment of a rough network, and come back; nothing that was
/// acknowledged is lost, and the ring is whole again.
#[test]
fn killed_and_back_in_a_rough_network() {
    for seed in seeds(12) {
        check(seed, || {
            let mut world = Ring::new(seed);
            let size = [2, 3, 4, 6][seed as usize % 4];
            let nodes = durable_ring(&mut world, size);
            let ids: Vec<NodeId> = nodes.iter().map(|(id, _)| *id).collect();
            world.run_for(secs(3));
            world.set_faults(Faults::rough());
            let mut acknowledged = Vec::new();
            for round in 0..4 {
                // Writes at their owners.
                for n in 0..6 {
                    let key = Id::from_be_bytes(rand::RngExt::random(world.rng()));
                    let owner = *ids
                        .iter()
                        .find(|id| world.service(**id).owns(key))
                        .expect("owned");
                    let value = format!("{round}.{n}");
                    let text = format!("INSERT\n{key}\n{}\n{value}", value.len());
                    let peer = say(&mut world, addr(99), owner, &text);
                    hears(&mut world, peer, "1\n1\n");
                    acknowledged.push((key, value));
                }
                let dead = rand::RngExt::random_range(world.rng(), 0..size);
                let (id, disk) = &nodes[dead];
                let silent = rand::RngExt::random(world.rng());
                world.kill_with(*id, silent);
                let pause = rand::RngExt::random_range(world.rng(), 0..4000);
                world.run_for(Ticks(pause));
                let contact = world.addr(ids[(dead + 1) % size]);
                come_back(&mut world, *id, Some(disk), contact);
                world.until(secs(60), |w| is_settled(w, *id));
                assert_round(&world, &ids);
                for (key, value) in &acknowledged {
                    let found = lookup(&world, &ids, *key);
                    assert_eq!(found.as_ref(), Some(value), "{key} in round {round}");
                }
            }
        });
    }
}

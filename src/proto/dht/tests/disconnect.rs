//! DISCONNECT, from both sides.

use super::script::{
    Member, Ring, Then, after, asked, has, hears, places, put, ring, run_with, say,
};
use super::*;
use crate::proto::dht::node::{LockHolder, Role};
use crate::proto::dht::routing;
use crate::sim::PeerId;

/// A ring of three with an entry at the first key of each.
fn three(seed: u64) -> (Ring, [NodeId; 3]) {
    let mut world = Ring::new(seed);
    let nodes = ring(&mut world, 3);
    for id in &nodes {
        let key = world.service(*id).me().id;
        put(&mut world, *id, key, "own");
    }
    (world, [nodes[0], nodes[1], nodes[2]])
}

/// What the node in the middle would say to leave, with two entries of its range and two that are not of it.
fn leaving(world: &Ring, [prev, leaver, next]: [NodeId; 3]) -> String {
    let id = world.service(leaver).me().id;
    let foreign = [world.service(next).me().id, world.service(prev).me().id];
    let keys = [id, foreign[0], after(id, 1), foreign[1]];
    let entries: String = keys.iter().map(|key| format!("{key}\n3\nnew")).collect();
    format!("DISCONNECT\n{}\n4\n{entries}", world.addr(next))
}

fn next_of(world: &Ring, id: NodeId) -> SocketAddrV4 {
    world.service(id).routing().next().addr
}

#[track_caller]
fn is_untouched(world: &Ring, [prev, leaver, _]: [NodeId; 3]) {
    assert_eq!(next_of(world, prev), world.addr(leaver));
    let service = world.service(prev);
    assert!(matches!(service.lock_holder, LockHolder::Nobody));
    assert_eq!(service.entries().len(), 1, "swept");
}

#[test]
fn our_next_leaves_with_its_entries_and_no_others() {
    for bare_key in [false, true] {
        let (mut world, nodes) = three(1);
        let [prev, leaver, next] = nodes;
        let (from, id) = (world.addr(leaver), world.service(leaver).me().id);
        let mut text = leaving(&world, nodes);
        if bare_key {
            let next = world.service(next).me();
            text = text.replacen(&next.addr.to_string(), &next.id.to_string(), 1);
        }
        let peer = say(&mut world, from, prev, &text);
        hears(&mut world, peer, "1\n");
        assert_eq!(next_of(&world, prev), world.addr(next));
        assert_eq!(has(&world, prev, id).as_deref(), Some("new"));
        assert_eq!(has(&world, prev, after(id, 1)).as_deref(), Some("new"));
        assert_eq!(
            world.service(prev).entries().len(),
            3,
            "foreign entries are not taken"
        );
        let own = world.service(prev).me().id;
        assert_eq!(
            has(&world, prev, own).as_deref(),
            Some("own"),
            "nor do they replace ours"
        );
        // Again, as its ack was lost; what was written since stands.
        put(&mut world, prev, id, "newer");
        let peer = say(&mut world, from, prev, &text);
        hears(&mut world, peer, "1\n");
        assert_eq!(has(&world, prev, id).as_deref(), Some("newer"));
        assert_eq!(next_of(&world, prev), world.addr(next));
        let me = world.addr(prev);
        world.until(secs(8), |w| {
            w.service(next).routing().prev().map(|prev| prev.addr) != Some(from)
                || w.service(next).routing().prev().map(|prev| prev.addr) == Some(me)
                // The one that was said to leave is still there, so the ring may name it.
                || matches!(w.service(leaver).role, Role::Member)
        });
    }
}

#[test]
fn nobody_else_can_say_that_our_next_leaves() {
    let (mut world, nodes) = three(2);
    let [prev, leaver, next] = nodes;
    let text = leaving(&world, nodes);
    let peer = say(&mut world, addr(50_000), prev, &text);
    hears(&mut world, peer, "0\n");
    world.run_for(secs(1));
    is_untouched(&world, nodes);
    // Its next is nobody; it is ours; it is not the one before us.
    let (us, they) = (world.addr(prev), world.addr(next));
    for (to, told) in [(prev, addr(77)), (prev, us), (leaver, us), (next, they)] {
        let said = format!("DISCONNECT\n{told}\n0\n");
        let from = world.addr(leaver);
        let peer = say(&mut world, from, to, &said);
        hears(&mut world, peer, "0\n");
        world.until(secs(5), |w| w.peer(peer).is_closed());
        is_untouched(&world, nodes);
    }
    for bad in ["0.0.0.0:80", "x", "", "1.2.3.4:0"] {
        let answer = asked(&mut world, prev, &format!("DISCONNECT\n{bad}\n0\n"));
        assert_eq!(answer, "0\n", "{bad}");
        is_untouched(&world, nodes);
    }
}

#[test]
fn a_leaver_that_ends_at_any_byte_stays_a_member() {
    let (mut world, nodes) = three(3);
    let [prev, leaver, _] = nodes;
    let (text, from) = (leaving(&world, nodes), world.addr(leaver));
    for cut in 0..text.len() {
        let peer = say(&mut world, from, prev, &text[..cut]);
        world.run_for(Ticks::from_millis(20));
        match cut % 3 {
            0 => world.peer(peer).close(),
            1 => world.peer(peer).reset(),
            _ => world.peer(peer).finish(),
        }
        world.run_for(Ticks::from_millis(100));
        is_untouched(&world, nodes);
    }
}

#[test]
fn a_leaver_waits_for_a_joiner_and_is_judged_by_the_ring_of_then() {
    for (joins, verdict) in [(true, "1\n"), (true, "0\n"), (false, "1\n")] {
        let (mut world, nodes) = three(4);
        let [prev, leaver, next] = nodes;
        let service = world.service(prev);
        let joiner = (100..)
            .map(addr)
            .find(|a| service.owns(Id::of_addr(*a)))
            .expect("spread");
        let first = say(
            &mut world,
            joiner,
            prev,
            &format!("CONNECT\n{}\n", Id::of_addr(joiner)),
        );
        let text = format!("1\n0\n{}\n", world.addr(leaver));
        hears(&mut world, first, &text);
        let (text, from) = (leaving(&world, nodes), world.addr(leaver));
        let peer = say(&mut world, from, prev, &text);
        world.run_for(secs(1));
        assert!(world.peer(peer).received().is_empty());
        if joins {
            let mut member = Member::at(&mut world, joiner);
            world.peer(first).send(format!("{joiner}\n").as_bytes());
            // The leaver is the joiner's next by now, so the joiner gets all that it says.
            let (announced, last) = (world.addr(next), world.service(prev).me().id);
            let mut answer = |command: &str, argument: &str| match command {
                "LOCATE" => {
                    let key: Id = argument.parse().expect("a key");
                    let own = key.in_arc(Id::of_addr(joiner), Id::of_addr(from));
                    Then::Say(format!("{}\n", if own { joiner } else { from }))
                }
                "DISCONNECT" => {
                    assert_eq!(argument, announced.to_string());
                    Then::Silence
                }
                _ if argument.ends_with(&last.to_string()) => Then::Say(verdict.into()),
                _ => Then::Silence,
            };
            run_with(&mut world, &mut member, secs(10), &mut answer, &mut |w| {
                !w.peer(peer).received().is_empty()
            });
            assert!(member.heard.len() > 4 && text.starts_with("DISCONNECT"));
            hears(&mut world, peer, verdict);
            assert_eq!(next_of(&world, prev), joiner);
        } else {
            world.peer(first).reset();
            hears(&mut world, peer, "1\n");
            assert_eq!(next_of(&world, prev), world.addr(next));
        }
    }
}

/// The leaver lost its connection and the node before it does not know: with the second DISCONNECT the first is over,
/// so that a `0` to the second speaks of both.
#[test]
fn a_second_disconnect_takes_the_place_of_the_first() {
    let mut world = Ring::new(5);
    let at = places(3);
    let prev = add(&mut world, at[0]);
    let (leaver, next) = (addr(at[1]), addr(at[2]));
    world.with(prev, |node, hub| {
        node.set_next(hub, routing::Member::at(leaver))
    });
    let mut member = Member::at(&mut world, leaver);
    // Takes UPDATE_PREV and never answers it.
    let silent = world.listen(next);
    let text = format!("DISCONNECT\n{next}\n1\n{}\n1\nx", Id::of_addr(leaver));
    let first = say(&mut world, leaver, prev, &text);
    let mut answer = |_: &str, _: &str| Then::Say(format!("{leaver}\n"));
    run_with(&mut world, &mut member, secs(5), &mut answer, &mut |w| {
        w.service(prev).entries().len() == 1
    });
    world.run_for(Ticks::from_millis(100));
    assert!(world.accept(silent).is_some() && world.peer(first).received().is_empty());
    let text = format!("DISCONNECT\n{next}\n0\n");
    let second = say(&mut world, leaver, prev, &text);
    run_with(&mut world, &mut member, secs(5), &mut answer, &mut |w| {
        w.peer(first).is_closed()
    });
    assert!(world.peer(first).received().is_empty());
    let mut told = None;
    run_with(&mut world, &mut member, secs(5), &mut answer, &mut |w| {
        told = told.or_else(|| w.accept(silent));
        told.is_some()
    });
    world.peer(told.expect("next is told again")).send(b"1\n");
    hears(&mut world, second, "1\n");
    assert_eq!(next_of(&world, prev), next);
    assert!(
        world.service(prev).entries().is_empty(),
        "what the first one brought is gone"
    );
}

/// Our node between two places that one scripted member has: it is before us and after us.
struct Scripted {
    world: Ring,
    node: NodeId,
    me: SocketAddrV4,
    other: SocketAddrV4,
    member: Member,
}

impl Scripted {
    fn new(seed: u64) -> Scripted {
        let mut world = Ring::new(seed);
        let node = add(&mut world, 1);
        let (me, other) = (addr(1), addr(2));
        let member = Member::at(&mut world, other);
        world.with(node, |node, hub| {
            node.set_next(hub, routing::Member::at(other))
        });
        let key = Id::of_addr(me);
        put(&mut world, node, key, "value");
        Scripted {
            world,
            node,
            me,
            other,
            member,
        }
    }
}

#[test]
fn an_heir_that_ends_at_any_byte_is_tried_again_and_nothing_is_served_meanwhile() {
    let full = format!(
        "DISCONNECT\n{}\n1\n{}\n5\nvalue",
        addr(2),
        Id::of_addr(addr(1))
    )
    .len();
    for cut in 1..=full {
        for took in [true, false] {
            let Scripted {
                mut world,
                node,
                me,
                other,
                member,
            } = Scripted::new(cut as u64);
            world.shutdown(node);
            let (mut ended, mut answered) = (false, 0);
            let listener = member.listener;
            let mut peers: Vec<(PeerId, Vec<u8>)> = Vec::new();
            world.until(secs(40), |w| {
                while let Some(peer) = w.accept(listener) {
                    peers.push((peer, Vec::new()));
                }
                for (peer, text) in &mut peers {
                    let fresh = w.peer(*peer).take();
                    text.extend(fresh);
                    if text.starts_with(b"LOCATE")
                        && text.iter().filter(|b| **b == b'\n').count() == 2
                    {
                        let own =
                            text[7..].trim_ascii_end() == Id::of_addr(me).to_string().as_bytes();
                        let taken = ended && took && cut == full;
                        let who = if own && !taken { me } else { other };
                        w.peer(*peer).send(format!("{who}\n").as_bytes());
                        text.clear();
                    }
                    if text.starts_with(b"DISC") && text.len() >= cut && !ended {
                        ended = true;
                        w.peer(*peer).reset();
                        text.clear();
                    } else if text.starts_with(b"DISC") && text.len() == full && ended {
                        answered += 1;
                        w.peer(*peer).send(b"1\n");
                        text.clear();
                    }
                }
                let lost = ended && cut == full && answered == 0;
                let owns = w.service(node).owns(Id::of_addr(me));
                // The heir has read all of it and has not acknowledged it.
                assert!(!(lost && owns), "served while the heir may have taken it");
                !w.is_up(node)
            });
            assert!(ended);
            assert_eq!(
                answered,
                if took && cut == full { 0 } else { 1 },
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn a_leaver_that_is_refused_serves_and_tries_again() {
    let Scripted {
        mut world,
        node,
        me,
        other,
        mut member,
    } = Scripted::new(9);
    let key = Id::of_addr(me);
    let locate = |asked: &str| {
        let who = if asked == key.to_string() { me } else { other };
        Then::Say(format!("{who}\n"))
    };
    world.shutdown(node);
    let mut refusals = 0;
    run_with(
        &mut world,
        &mut member,
        secs(10),
        &mut |command, asked| match command {
            "LOCATE" => locate(asked),
            "DISCONNECT" => {
                refusals += 1;
                Then::Say("0\n".into())
            }
            // The entries.
            _ => Then::Silence,
        },
        &mut |w| {
            matches!(&w.service(node).role, Role::Leaving(leave) if leave.pauses())
                && w.service(node).owns(key)
                && w.node(node).stats().messages > 2
        },
    );
    assert!(refusals > 0);
    assert_eq!(
        asked(&mut world, node, &format!("GET\n{key}\n")),
        "1\n5\nvalue"
    );
    world.until(secs(200), |w| {
        member.serve(w, &mut |command, asked| match command {
            "LOCATE" => locate(asked),
            _ => Then::Say("0\n".into()),
        });
        !w.is_up(node)
    });
}

#[test]
fn neighbours_and_whole_rings_leave_at_once() {
    for seed in 0..10 {
        for size in 2..6 {
            for staying in [0, 1] {
                let mut world = Ring::new(seed);
                let nodes = ring(&mut world, size);
                for (n, id) in nodes.iter().enumerate() {
                    let own = world.service(*id).me().id;
                    put(&mut world, *id, own, &n.to_string());
                }
                nodes[staying..].iter().for_each(|id| world.shutdown(*id));
                let all_out = |w: &mut Ring| nodes[staying..].iter().all(|id| !w.is_up(*id));
                if let Err(stuck) = world.run_until(secs(25), all_out) {
                    panic!("{size} nodes, {staying} stay: {stuck:?}");
                }
                if staying == 1 {
                    assert_eq!(
                        world.service(nodes[0]).entries().len(),
                        size,
                        "seed {seed}, {size} nodes"
                    );
                    assert!(world.service(nodes[0]).routing().is_alone());
                }
            }
        }
    }
}

/// A leaver whose next had collapsed to ours: its entries are nowhere else. Those that are there stay as they are.
#[test]
fn what_a_repeated_disconnect_brings_is_stored_where_it_belongs() {
    for bare_key in [false, true] {
        let (mut world, nodes) = three(11);
        let [prev, middle, next] = nodes;
        let ids = nodes.map(|id| world.service(id).me().id);
        let named = if bare_key {
            ids[1].to_string()
        } else {
            world.addr(middle).to_string()
        };
        let keys = [0, 1, 2].map(|n| after(ids[n], 5));
        let entries: String = keys
            .iter()
            .chain([&ids[0], &ids[2]])
            .map(|key| format!("{key}\n3\nabc"))
            .collect();
        let text = format!("DISCONNECT\n{named}\n5\n{entries}");
        let peer = say(&mut world, addr(50_000), prev, &text);
        hears(&mut world, peer, "1\n");
        for (node, key) in [prev, middle, next].into_iter().zip(keys) {
            assert_eq!(has(&world, node, key).as_deref(), Some("abc"));
        }
        assert_eq!(has(&world, prev, ids[0]).as_deref(), Some("own"));
        assert_eq!(has(&world, next, ids[2]).as_deref(), Some("own"));
        assert_eq!(next_of(&world, prev), world.addr(middle));
    }
}

/// The owner of an entry is dead: the entry is not stored, so it is not acknowledged.
#[test]
fn a_repeated_disconnect_whose_entries_have_no_owner_is_refused() {
    let (mut world, nodes) = three(12);
    let [prev, middle, next] = nodes;
    let key = after(world.service(next).me().id, 5);
    let text = format!("DISCONNECT\n{}\n1\n{key}\n3\nabc", world.addr(middle));
    world.kill(next);
    let peer = say(&mut world, addr(50_000), prev, &text);
    hears(&mut world, peer, "0\n");
}

/// The others are dead. The leave ends in time, and says that its entries are nowhere.
#[test]
fn a_leave_that_nobody_takes_ends_in_time() {
    for count in [2, 3] {
        let mut world = Ring::new(13);
        let nodes = ring(&mut world, count);
        let key = world.service(nodes[0]).me().id;
        put(&mut world, nodes[0], key, "kept");
        nodes[1..].iter().for_each(|id| world.kill(*id));
        world.with(nodes[0], |node, _| node.config.leave_within = secs(20));
        world.shutdown(nodes[0]);
        world.until(secs(22), |w| !w.is_up(nodes[0]));
        assert_eq!(world.service(nodes[0]).kept_entries(), 1);
    }
}

/// The heir reads and never answers.
#[test]
fn a_leave_whose_heir_stalls_ends_in_time() {
    let Scripted {
        mut world,
        node,
        me,
        other,
        mut member,
    } = Scripted::new(14);
    world.with(node, |node, _| node.config.leave_within = secs(20));
    world.shutdown(node);
    let own = Id::of_addr(me).to_string();
    world.until(secs(22), |w| {
        member.serve_plain(w, &mut |command, asked| match command {
            "LOCATE" => Then::Say(format!("{}\n", if asked == own { me } else { other })),
            _ => Then::Silence,
        });
        !w.is_up(node)
    });
    assert_eq!(world.service(node).kept_entries(), 1);
}

/// The ring's answer about our prev is wrong: a member has a wrong next.
#[test]
fn a_living_prev_stays_when_the_ring_names_a_farther_one() {
    let (mut world, nodes) = three(15);
    let [prev, middle, next] = nodes;
    world.until(secs(20), |w| {
        w.service(next).routing().prev().map(|prev| prev.addr) == Some(w.addr(middle))
    });
    let wrong = world.addr(prev);
    let named = crate::proto::dht::rpc::operation::Outcome::Located(wrong);
    world.with(next, |node, hub| {
        let claims = node.claims.claims;
        node.prev_found(hub, claims, Ok(named.clone()));
    });
    let prev_of_next = |w: &Ring| w.service(next).routing().prev().map(|prev| prev.addr);
    for _ in 0..100 {
        assert_eq!(prev_of_next(&world), Some(world.addr(middle)));
        world.run_for(Ticks::from_millis(100));
    }
    world.kill(middle);
    world.with(next, |node, hub| {
        let claims = node.claims.claims;
        node.prev_found(hub, claims, Ok(named));
    });
    world.until(secs(10), |w| prev_of_next(w) == Some(wrong));
}

/// A plain heir takes the range and tells nobody: the leaver's next hears of its new prev before the leaver is gone.
#[test]
fn our_next_hears_who_is_before_it_when_the_heir_does_not_say_so() {
    for answered in [true, false] {
        let mut world = Ring::new(16);
        let at = places(3);
        let node = add(&mut world, at[1]);
        let (heir, me, next) = (addr(at[0]), addr(at[1]), addr(at[2]));
        world.with(node, |node, hub| {
            node.set_next(hub, routing::Member::at(next))
        });
        let mut before = Member::at(&mut world, heir);
        let mut behind = Member::at(&mut world, next);
        world.shutdown(node);
        let own = Id::of_addr(me).to_string();
        let (mut taken, mut told) = (false, None);
        world.until(secs(22), |w| {
            before.serve_plain(w, &mut |command, asked| match command {
                "LOCATE" if asked == own => {
                    Then::Say(format!("{}\n", if taken { heir } else { me }))
                }
                "LOCATE" => Then::Say(format!("{heir}\n")),
                "DISCONNECT" => {
                    taken = true;
                    // The answer may get lost.
                    if answered {
                        Then::Say("1\n".into())
                    } else {
                        Then::Reset
                    }
                }
                _ => Then::Silence,
            });
            behind.serve_plain(w, &mut |command, argument| {
                if command == "UPDATE_PREV" {
                    told = Some(argument.to_owned());
                    return Then::Say("1\n".into());
                }
                Then::Say(format!("{heir}\n"))
            });
            !w.is_up(node)
        });
        assert!(taken);
        assert_eq!(told, Some(heir.to_string()), "answered: {answered}");
    }
}

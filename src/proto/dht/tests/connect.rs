//! CONNECT, from both sides.

use super::script::{
    Member, Ring, Then, after, asked, confirm, has, hears, places, put, ring, run_with, say,
};
use super::*;
use crate::proto::dht::node::{LockHolder, Role};

/// The id of a node that would come right after `node`, and where it listens: its id lies in the node's range.
fn joiner_at(world: &Ring, node: NodeId) -> (SocketAddrV4, Id) {
    let of = |n| (addr(n), Id::of_addr(addr(n)));
    let service = world.service(node);
    (100..)
        .map(of)
        .find(|(_, id)| service.owns(*id))
        .expect("ids are spread")
}

fn is_untouched(world: &Ring, node: NodeId, next: SocketAddrV4) {
    let service = world.service(node);
    assert_eq!(service.routing().next().addr, next);
    assert!(
        matches!(service.lock_holder, LockHolder::Nobody),
        "{:?}",
        service.lock_holder
    );
    assert!(service.fenced_writes.is_empty() && service.parked.is_empty());
}

fn insert(key: Id, value: &str) -> String {
    format!("INSERT\n{key}\n{}\n{value}", value.len())
}

#[test]
fn a_joiner_takes_its_range_in_either_order_of_its_last_steps() {
    for address_first in [false, true] {
        let mut world = Ring::new(1);
        let p = ring(&mut world, 1)[0];
        let (me, from) = (world.addr(p), world.service(p).me().id);
        let (joiner, id) = joiner_at(&world, p);
        // The last key that stays, the first that goes, the last that goes, the first again, and the ends.
        for key in [id.pred(), id, from.pred(), from, Id::ZERO, Id::MAX] {
            put(&mut world, p, key, "v");
        }
        let moved: Vec<Id> = world
            .service(p)
            .entries()
            .arc(id, from)
            .map(|(key, _)| key)
            .collect();
        let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
        let lines: String = moved.iter().map(|key| format!("{key}\n1\nv")).collect();
        hears(
            &mut world,
            peer,
            &format!("1\n{}\n{lines}{me}\n", moved.len()),
        );
        assert_eq!(
            asked(&mut world, p, &format!("GET\n{id}\n")),
            "1\n1\nv",
            "reads stay until the end"
        );
        let steps = [format!("UPDATE_PREV\n{joiner}\n"), format!("{joiner}\n")];
        for step in if address_first { [1, 0] } else { [0, 1] } {
            if step == 0 {
                assert_eq!(
                    asked(&mut world, p, &steps[0]),
                    "1\n",
                    "while P is inside CONNECT"
                );
            } else {
                world.peer(peer).send(steps[1].as_bytes());
                confirm(&mut world, p, joiner);
                world.run_for(Ticks::from_millis(50));
            }
        }
        assert_eq!(asked(&mut world, p, &format!("GET\n{id}\n")), "0\n");
        assert_eq!(
            asked(&mut world, p, &format!("LOCATE\n{id}\n")),
            format!("{joiner}\n")
        );
        assert_eq!(
            asked(&mut world, p, &format!("LOCATE\n{}\n", id.pred())),
            format!("{me}\n")
        );
        assert_eq!(
            asked(&mut world, p, &format!("CONTAINS\n{}\n", id.pred())),
            "1\n1\n"
        );
        assert_eq!(
            asked(&mut world, p, &format!("CONTAINS\n{from}\n")),
            "1\n1\n"
        );
        assert!(
            moved
                .iter()
                .all(|key| !world.service(p).entries().contains(*key))
        );
        assert_eq!(
            world.service(p).routing().prev().map(|prev| prev.addr),
            Some(joiner)
        );
    }
}

#[test]
fn ids_that_cannot_join_get_a_no_and_nothing_changes() {
    let mut world = Ring::new(2);
    let nodes = ring(&mut world, 2);
    let (p, next) = (nodes[0], world.addr(nodes[1]));
    let (_, own) = joiner_at(&world, p);
    let not_ours = joiner_at(&world, nodes[1]).1;
    let (me, theirs) = (world.service(p).me().id, world.service(nodes[1]).me().id);
    for id in [me, theirs, not_ours, me.pred()] {
        assert_eq!(
            asked(&mut world, p, &format!("CONNECT\n{id}\n")),
            "0\n",
            "{id}"
        );
    }
    put(&mut world, p, own, "v");
    for address in [world.addr(p), next, addr(70), "10.1.0.1:1".parse().unwrap()] {
        let peer = say(
            &mut world,
            addr(70),
            p,
            &format!("CONNECT\n{own}\n{address}\n"),
        );
        world.until(secs(10), |w| w.peer(peer).is_closed());
        world.run_for(secs(3));
        is_untouched(&world, p, next);
        assert_eq!(has(&world, p, own).as_deref(), Some("v"));
    }
}

#[test]
fn a_joiner_that_ends_at_any_byte_leaves_the_ring_as_it_was() {
    let mut world = Ring::new(3);
    let nodes = ring(&mut world, 2);
    let (p, next) = (nodes[0], nodes[1]);
    let (joiner, id) = joiner_at(&world, p);
    let keys: Vec<Id> = (0..3).map(|n| after(id, n)).collect();
    keys.iter().for_each(|key| put(&mut world, p, *key, "v"));
    let all = format!("CONNECT\n{id}\n{joiner}\n");
    for cut in 0..all.len() {
        for how in 0..3 {
            let peer = say(&mut world, joiner, p, &all[..cut]);
            world.run_for(Ticks::from_millis(20));
            // It told our next already.
            let update = format!("UPDATE_PREV\n{joiner}\n");
            assert_eq!(asked(&mut world, next, &update), "1\n");
            let value = format!("{cut}.{how}");
            let writer = say(&mut world, addr(80), p, &insert(keys[1], &value));
            world.run_for(Ticks::from_millis(20));
            match how {
                0 => world.peer(peer).close(),
                1 => world.peer(peer).reset(),
                _ => world.peer(peer).finish(),
            }
            hears(&mut world, writer, "1\n1\n");
            world.run_for(Ticks::from_millis(20));
            is_untouched(&world, p, world.addr(next));
            assert_eq!(has(&world, p, keys[1]), Some(value));
            assert_eq!(world.service(p).entries().len(), 3);
        }
    }
    let prev = |w: &mut Ring| w.service(next).routing().prev().map(|prev| prev.addr);
    let me = world.addr(p);
    world.until(secs(10), |w| prev(w) == Some(me));
}

#[test]
fn a_joiner_that_stalls_is_given_up_and_others_get_an_answer() {
    let mut world = Ring::new(4);
    let p = ring(&mut world, 1)[0];
    let me = world.addr(p);
    let (joiner, id) = joiner_at(&world, p);
    for said in [
        "CONNECT\n".to_owned(),
        format!("CONNECT\n{id}\n"),
        format!("CONNECT\n{id}\n{}", "10.1."),
    ] {
        let peer = say(&mut world, joiner, p, &said);
        world.run_for(Ticks::from_millis(50));
        let second = say(
            &mut world,
            addr(90),
            p,
            &format!("CONNECT\n{}\n", after(id, 1)),
        );
        world.run_for(secs(6));
        let answer = world.peer(second).take();
        assert!(
            answer.starts_with(if said.len() < 10 { b"1\n" } else { b"0\n" }),
            "{answer:?}"
        );
        world.peer(second).reset();
        world.run_for(secs(40));
        assert!(world.peer(peer).is_closed());
        is_untouched(&world, p, me);
    }
}

#[test]
fn two_joiners_come_one_after_the_other_and_are_judged_anew() {
    for (second_after_first, commits) in [(true, true), (true, false), (false, true)] {
        let mut world = Ring::new(5);
        let p = ring(&mut world, 1)[0];
        let (one, me) = (joiner_at(&world, p).0, world.service(p).me().id);
        let id = Id::of_addr(one);
        let beyond = |n: &usize| Id::of_addr(addr(*n)).in_arc(id, me) == second_after_first;
        let two = addr((200..).find(beyond).expect("ids are spread"));
        let first = say(&mut world, one, p, &format!("CONNECT\n{id}\n"));
        let text = format!("1\n0\n{}\n", world.addr(p));
        hears(&mut world, first, &text);
        let second = say(
            &mut world,
            two,
            p,
            &format!("CONNECT\n{}\n", Id::of_addr(two)),
        );
        world.run_for(secs(1));
        assert!(world.peer(second).received().is_empty(), "parked");
        if commits {
            world.peer(first).send(format!("{one}\n").as_bytes());
            confirm(&mut world, p, one);
        } else {
            world.peer(first).reset();
        }
        let next = if commits { one } else { world.addr(p) };
        match (commits, second_after_first) {
            (true, true) => hears(&mut world, second, "0\n"),
            _ => hears(&mut world, second, &format!("1\n0\n{next}\n")),
        }
    }
}

/// Of several that wait, one that is refused or gone does not keep the others waiting.
#[test]
fn a_lock_that_nobody_takes_is_offered_to_the_next_in_line() {
    let mut world = Ring::new(6);
    let p = ring(&mut world, 1)[0];
    let (one, id) = joiner_at(&world, p);
    let me = world.service(p).me().id;
    let first = say(&mut world, one, p, &format!("CONNECT\n{id}\n"));
    let text = format!("1\n0\n{}\n", world.addr(p));
    hears(&mut world, first, &text);
    let refused = say(
        &mut world,
        addr(61),
        p,
        &format!("CONNECT\n{}\n", after(id, 1)),
    );
    world.run_for(Ticks::from_millis(10));
    let gone = say(
        &mut world,
        addr(62),
        p,
        &format!("CONNECT\n{}\n", after(me, 2)),
    );
    world.run_for(Ticks::from_millis(10));
    let last = say(
        &mut world,
        addr(63),
        p,
        &format!("CONNECT\n{}\n", after(me, 1)),
    );
    world.run_for(Ticks::from_millis(10));
    world.peer(gone).reset();
    world.run_for(Ticks::from_millis(10));
    world.peer(first).send(format!("{one}\n").as_bytes());
    confirm(&mut world, p, one);
    world.until(secs(1), |w| !w.peer(last).received().is_empty());
    hears(&mut world, refused, "0\n");
    hears(&mut world, last, &format!("1\n0\n{one}\n"));
}

#[test]
fn writes_into_a_moving_range_wait_and_go_to_the_new_owner() {
    let mut world = Ring::new(7);
    let p = ring(&mut world, 1)[0];
    let (joiner, id) = joiner_at(&world, p);
    let mut member = Member::at(&mut world, joiner);
    // `1` to its INSERT came before the range began to move.
    let early = say(&mut world, addr(64), p, &format!("INSERT\n{id}\n5\nea"));
    hears(&mut world, early, "1\n");
    let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
    let text = format!("1\n0\n{}\n", world.addr(p));
    hears(&mut world, peer, &text);
    let writer = say(&mut world, addr(65), p, &insert(after(id, 1), "new"));
    let remover = say(
        &mut world,
        addr(66),
        p,
        &format!("REMOVE\n{}\n", after(id, 2)),
    );
    world.peer(early).send(b"rly");
    hears(&mut world, writer, "1\n");
    hears(&mut world, remover, "1\n");
    world.run_for(secs(1));
    assert!(world.peer(writer).received().is_empty() && world.peer(early).received().is_empty());
    assert!(world.service(p).entries().is_empty(), "fenced, not stored");
    let stays = insert(id.pred(), "stays");
    assert_eq!(
        asked(&mut world, p, &stays),
        "1\n1\n",
        "what does not move is not fenced"
    );
    world.peer(peer).send(format!("{joiner}\n").as_bytes());
    let mut got = Vec::new();
    let mut answer = |command: &str, argument: &str| {
        got.push(format!("{command} {argument}"));
        Then::Say(match command {
            "LOCATE" => format!("{joiner}\n"),
            "REMOVE" => "1\n1\n".into(),
            "INSERT" => "1\n".into(),
            // The length and the value, which has no newline, come as what looks like half a request.
            _ => "1\n".into(),
        })
    };
    world.until(secs(5), |w| {
        member.serve(w, &mut answer);
        w.peer(remover).received() == b"1\n"
    });
    world.run_for(Ticks::from_millis(100));
    drop(member);
    let inserts = got.iter().filter(|line| line.starts_with("INSERT")).count();
    assert_eq!(inserts, 2, "{got:?}");
    assert!(
        got.contains(&format!("INSERT {id}")) && got.contains(&format!("INSERT {}", after(id, 1)))
    );
    assert!(
        world.peer(writer).received().is_empty(),
        "acknowledged by the new owner or not at all"
    );
    assert_eq!(world.service(p).entries().len(), 1);
}

#[test]
fn a_write_over_the_quota_of_fenced_ones_is_refused() {
    let mut world = Ring::new(8);
    let p = ring(&mut world, 1)[0];
    let (joiner, id) = joiner_at(&world, p);
    let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
    let text = format!("1\n0\n{}\n", world.addr(p));
    hears(&mut world, peer, &text);
    world.with(p, |node, _| node.fenced_writes.fill());
    assert_eq!(asked(&mut world, p, &insert(id, "x")), "1\n0\n");
    world.peer(peer).reset();
    world.run_for(secs(1));
    assert_eq!(asked(&mut world, p, &insert(id, "x")), "1\n1\n");
}

/// A fenced write is answered in any case.
#[test]
fn fenced_writes_are_refused_after_thirty_seconds() {
    let mut world = Ring::new(9);
    let p = ring(&mut world, 1)[0];
    let (joiner, id) = joiner_at(&world, p);
    let slow = "v".repeat(3_000_000);
    for n in 0..8 {
        put(&mut world, p, after(id, n), &slow);
    }
    let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
    world.peer(peer).set_window(8000);
    world.peer(peer).stop_reading();
    world.run_for(secs(1));
    let writer = say(&mut world, addr(66), p, &insert(id, "x"));
    // It takes as much as it must, while a write waits.
    let mut waited = 0;
    while world.peer(writer).received().len() < 4 {
        world.peer(peer).read_again();
        world.run_for(Ticks::from_millis(50));
        world.peer(peer).stop_reading();
        world.run_for(Ticks::from_millis(450));
        waited += 1;
        assert!(waited < 70, "it waits for ever");
    }
    let got = world.peer(peer).received().len();
    assert!(
        waited > 20,
        "{waited} {got} {:?}",
        world.peer(writer).received()
    );
    hears(&mut world, writer, "1\n0\n");
}

/// A node of ours joins a ring of scripted members.
struct Scripted {
    world: Ring,
    node: NodeId,
    me: SocketAddrV4,
    owner: SocketAddrV4,
    next: SocketAddrV4,
}

impl Scripted {
    /// Owner, our node, next, in this order.
    fn new(seed: u64) -> Scripted {
        let mut world = Ring::new(seed);
        let at = places(3);
        let node = add(&mut world, at[1]);
        Scripted {
            node,
            me: addr(at[1]),
            owner: addr(at[0]),
            next: addr(at[2]),
            world,
        }
    }

    fn join(&mut self) {
        let contact = self.owner;
        self.world
            .with(self.node, |node, hub| node.join(hub, vec![contact]));
    }

    fn is_member(&self) -> bool {
        matches!(self.world.service(self.node).role, Role::Member)
    }
}

#[test]
fn what_an_owner_gives_beyond_the_range_is_ignored() {
    let mut s = Scripted::new(10);
    let mut owner = Member::at(&mut s.world, s.owner);
    let mut next = Member::at(&mut s.world, s.next);
    let (me, theirs) = (s.me, s.next);
    let (id, end) = (Id::of_addr(me), Id::of_addr(theirs));
    let keys = [id.pred(), id, end.pred(), end, Id::ZERO, Id::MAX];
    let entries: String = keys.iter().map(|key| format!("{key}\n1\nv")).collect();
    let first = s.owner;
    s.join();
    let (mut told, mut given) = (false, false);
    s.world.until(secs(20), |w| {
        owner.serve(w, &mut |command, key| match command {
            "LOCATE" if given && key == id.to_string() => Then::Say(format!("{me}\n")),
            "LOCATE" => Then::Say(format!("{first}\n")),
            "CONNECT" => {
                given = true;
                Then::Say(format!("1\n{}\n{entries}{theirs}\n", keys.len()))
            }
            _ => Then::Reset,
        });
        next.serve(w, &mut |command, _| {
            told |= command == "UPDATE_PREV";
            Then::Say("1\n".into())
        });
        let service = w.service(s.node);
        matches!(service.role, Role::Member) && matches!(service.lock_holder, LockHolder::Nobody)
    });
    assert!(told);
    let service = s.world.service(s.node);
    let kept: Vec<Id> = service
        .entries()
        .arc(Id::ZERO, Id::ZERO)
        .map(|(key, _)| key)
        .collect();
    assert_eq!(kept, [id, end.pred()]);
    assert!(service.owns(id) && service.owns(end.pred()) && !service.owns(end));
}

#[test]
fn an_owner_that_ends_at_any_byte_is_asked_again() {
    let mut s = Scripted::new(11);
    let mut owner = Member::at(&mut s.world, s.owner);
    let (me, first) = (s.me, s.owner);
    let id = Id::of_addr(me);
    // A ring of two: the address comes first, and no other node has to be told.
    let all = format!("1\n1\n{id}\n3\nabc{first}\n");
    for cut in (0..all.len()).step_by(7) {
        let mut cuts = vec![cut, cut + 1, cut + 2, cut + 3, cut + 4, cut + 5, cut + 6];
        cuts.retain(|cut| *cut < all.len());
        let node = add(&mut s.world, 1000 + cut);
        let (me, id) = (s.world.addr(node), s.world.service(node).me().id);
        let all = format!("1\n1\n{id}\n3\nabc{first}\n");
        s.world.with(node, |node, hub| node.join(hub, vec![first]));
        let mut given = false;
        run_with(
            &mut s.world,
            &mut owner,
            secs(60),
            &mut |command, key| match command {
                "LOCATE" if given && key == id.to_string() => Then::Say(format!("{me}\n")),
                "LOCATE" => Then::Say(format!("{first}\n")),
                "CONNECT" => match cuts.pop() {
                    Some(0) => Then::Reset,
                    Some(cut) => Then::SayAndClose(all[..cut].to_owned()),
                    None => {
                        given = true;
                        Then::Say(all.clone())
                    }
                },
                _ => Then::Say("1\n".into()),
            },
            &mut |w| matches!(w.service(node).role, Role::Member),
        );
        assert_eq!(has(&s.world, node, id).as_deref(), Some("abc"));
        assert_eq!(s.world.service(node).entries().len(), 1);
    }
}

/// The last step has no ack. The node serves only once the ring names it, and keeps the entries until an owner proves that
/// it does not list the node.
#[test]
fn a_join_is_confirmed_before_it_counts_and_given_up_only_with_proof() {
    for committed in [true, false] {
        let mut s = Scripted::new(12);
        let mut owner = Member::at(&mut s.world, s.owner);
        let (me, first) = (s.me, s.owner);
        let id = Id::of_addr(me);
        s.join();
        let mut connects = 0;
        let mut served_early = false;
        let mut locates = 0;
        let mut answer = |command: &str, key: &str| match command {
            "LOCATE" => {
                // The first time it does not know yet, for longer than we ask.
                let knows = connects == 3 && committed || connects > 3;
                locates += u32::from(connects == 1 && key == id.to_string());
                let who = if knows && key == id.to_string() {
                    me
                } else {
                    first
                };
                Then::Say(format!("{who}\n"))
            }
            "CONNECT" => {
                connects += 1;
                match (connects, committed) {
                    (1, _) => Then::Say(format!("1\n1\n{id}\n3\nold{first}\n")),
                    (_, true) => {
                        connects = 3;
                        Then::Say("0\n".into())
                    }
                    (_, false) => {
                        connects = 4;
                        Then::Say(format!("1\n1\n{}\n3\nnew{first}\n", after(id, 1)))
                    }
                }
            }
            _ => Then::Say("1\n".into()),
        };
        s.world.until(secs(60), |w| {
            owner.serve(w, &mut answer);
            let node = w.service(s.node);
            served_early |= node.owns(id) && !matches!(node.role, Role::Member);
            matches!(node.role, Role::Member)
        });
        assert!(!served_early && s.is_member());
        let entries = s.world.service(s.node).entries();
        assert_eq!(entries.len(), 1);
        assert_eq!(
            entries.contains(id),
            committed,
            "given and kept, or given anew"
        );
        assert!(locates > 3);
    }
}

/// Deadlines belong to one hand-off: a second on the same connection has its own time.
#[test]
fn a_hand_off_does_not_end_with_the_deadline_of_another() {
    let mut world = Ring::new(1);
    let at = places(3);
    let node = add(&mut world, at[0]);
    let [me, second, first] = [0, 1, 2].map(|n| addr(at[n]));
    let connect = |addr| format!("CONNECT\n{}\n", Id::of_addr(addr));
    let peer = say(&mut world, first, node, &connect(first));
    hears(&mut world, peer, &format!("1\n0\n{me}\n"));
    world.peer(peer).send(format!("{first}\n").as_bytes());
    confirm(&mut world, node, first);
    world.run_for(secs(25));
    world.peer(peer).send(connect(second).as_bytes());
    hears(&mut world, peer, &format!("1\n0\n{first}\n"));
    world.run_for(secs(10));
    world.peer(peer).send(format!("{second}\n").as_bytes());
    world.run_for(secs(1));
    assert_eq!(world.service(node).routing().next().addr, second);
}

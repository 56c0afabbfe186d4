//! Peers that lie about themselves or about others: addresses that they cannot know, leavers from another IP, members that
//! answer with garbage.

use super::script::{
    Member, Ring, Then, after, asked, has, hears, places, put, ring, run_with, say,
};
use super::*;
use crate::proto::dht::node::Role;
use crate::proto::dht::routing;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};
use crate::sim::Answer;

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an address")
}

fn next_of(world: &Ring, id: NodeId) -> SocketAddrV4 {
    world.service(id).routing().next().addr
}

/// A peer from the internet knows no node of a private network, and no peer has a node on a port that belongs to another
/// service (below 1024).
#[test]
fn nobody_lists_an_address_that_he_cannot_know() {
    let ours = at("8.8.8.8:5000");
    let mut world = Ring::new(1);
    let config = Config::new(ours);
    let limits = config.fit(Limits::default());
    let node = world.add(ours, DhtNode::new(config, Entries::default()), limits);
    for (from, claimed, may) in [
        ("9.9.9.9:40000", "127.0.0.1:5000", false),
        ("9.9.9.9:40000", "10.0.0.1:5000", false),
        ("9.9.9.9:40000", "192.168.7.7:5000", false),
        ("9.9.9.9:40000", "9.9.9.9:25", false),
        ("10.0.0.1:40000", "127.0.0.1:5000", false),
        ("10.0.0.1:40000", "10.0.0.1:6000", true),
        ("127.0.0.1:40000", "127.0.0.1:6000", true),
        ("9.9.9.9:40000", "9.9.9.9:6000", true),
    ] {
        let (claimed, id) = (at(claimed), Id::of_addr(at(claimed)));
        let peer = say(
            &mut world,
            at(from),
            node,
            &format!("CONNECT\n{id}\n{claimed}\n"),
        );
        world.run_for(secs(1));
        assert_eq!(
            next_of(&world, node) == claimed,
            may,
            "{from} joins as {claimed}"
        );
        world.peer(peer).reset();
        world.with(node, |node, _| {
            node.routing = routing::Routing::alone(node.me())
        });
        let peer = say(
            &mut world,
            at(from),
            node,
            &format!("UPDATE_PREV\n{claimed}\n"),
        );
        hears(&mut world, peer, if may { "1\n" } else { "0\n" });
        assert_eq!(world.service(node).routing().prev().is_some(), may);
        world.run_for(secs(3));
        assert_eq!(world.peer(peer).is_closed(), !may);
        world.with(node, |node, _| {
            node.routing = routing::Routing::alone(node.me())
        });
        if !may {
            let peer = say(
                &mut world,
                at(from),
                node,
                &format!("DISCONNECT\n{claimed}\n0\n"),
            );
            hears(&mut world, peer, "0\n");
        }
    }
}

#[test]
fn a_lookup_goes_nowhere_that_its_hop_cannot_know() {
    let contact = at("8.8.8.8:5000");
    for to in ["127.0.0.1:5000", "10.0.0.1:5000", "9.9.9.9:22"] {
        let mut world = Ring::new(2);
        let asker = add(&mut world, 0);
        let mut member = Member::at(&mut world, contact);
        let target = world.listen(at(to));
        let bounds = Bounds {
            attempts_max: 2,
            ..Bounds::default()
        };
        let operation = Operation::new(Verb::Locate, Id::ZERO, vec![contact], bounds);
        world.with(asker, |node, hub| node.ask(hub, 0, operation));
        let mut answer = |_: &str, _: &str| Then::Say(format!("{to}\n"));
        run_with(&mut world, &mut member, secs(30), &mut answer, &mut |w| {
            w.service(asker).has_outcomes()
        });
        let (_, result) = world.with(asker, |node, _| node.take_outcomes().remove(0));
        let want = Failure::Implausible {
            addr: contact,
            to: at(to),
        };
        assert_eq!(result, Err(want));
        assert!(world.accept(target).is_none(), "{to} was dialled");
    }
}

/// Announced nexts are dialled one after the other, whoever announces them.
#[test]
fn many_disconnects_do_not_dial_many() {
    let (mut world, node, leaver, _) = with_next(3);
    let mut member = Member::at(&mut world, leaver);
    let victims: Vec<SocketAddrV4> = (200..210).map(addr).collect();
    let doors: Vec<_> = victims.iter().map(|addr| world.listen(*addr)).collect();
    let peers: Vec<_> = victims
        .iter()
        .map(|victim| {
            say(
                &mut world,
                leaver,
                node,
                &format!("DISCONNECT\n{victim}\n0\n"),
            )
        })
        .collect();
    let mut answer = |_: &str, _: &str| Then::Say(format!("{leaver}\n"));
    let mut open = Vec::new();
    let end = world.now() + secs(30);
    while world.now() < end {
        world.run_for(Ticks(2));
        member.serve(&mut world, &mut answer);
        open.extend(doors.iter().filter_map(|door| world.accept(*door)));
        open.retain(|peer| !world.peer(*peer).is_closed());
        assert!(open.len() <= 2, "{} at once", open.len());
    }
    assert!(!open.is_empty(), "one at least was dialled");
    let refused = peers
        .iter()
        .filter(|peer| world.peer(**peer).received() == b"0\n");
    assert!(refused.count() >= 9, "the others do not wait for ever");
}

/// A node of ours whose next is what a test plays, and where a third would be.
fn with_next(seed: u64) -> (Ring, NodeId, SocketAddrV4, SocketAddrV4) {
    let mut world = Ring::new(seed);
    let at = places(3);
    let node = add(&mut world, at[0]);
    let (next, beyond) = (addr(at[1]), addr(at[2]));
    world.with(node, |node, hub| {
        node.set_next(hub, routing::Member::at(next))
    });
    (world, node, next, beyond)
}

/// Our own leaver behind a NAT, or with several addresses, gets out as fast as any.
#[test]
fn a_leaver_from_another_address_is_believed_when_it_says_so_itself() {
    let mut world = Ring::new(4);
    let nodes = ring(&mut world, 3);
    let config = Config {
        dial_from: Some(at("10.9.9.9:0")),
        ..Config::new(addr(500))
    };
    let limits = config.fit(Limits::default());
    let leaver = world.add(addr(500), DhtNode::new(config, Entries::default()), limits);
    let contact = world.addr(nodes[0]);
    world.with(leaver, |node, hub| node.join(hub, vec![contact]));
    world.until(secs(10), |w| matches!(w.service(leaver).role, Role::Member));
    let own = world.service(leaver).me().id;
    for n in 0..20 {
        put(&mut world, leaver, after(own, n), "own");
    }
    let begun = world.now();
    world.shutdown(leaver);
    world.until(secs(60), |w| !w.is_up(leaver));
    assert!(world.now() - begun < secs(5));
    let heir = nodes.iter().find(|id| world.service(**id).owns(own));
    let heir = *heir.expect("a key has an owner");
    assert!((0..20).all(|n| has(&world, heir, after(own, n)).is_some()));
}

/// A plain leaver has no XSTAT to say that it leaves. It may be silent, gone, or alive while another IP speaks for it. The
/// same when a member passes its DISCONNECT on.
#[test]
fn a_plain_leaver_from_another_address_is_believed_when_it_is_not_there() {
    for silent in [Some(Answer::Refuse), Some(Answer::Queue), None] {
        let (mut world, node, leaver, beyond) = with_next(5);
        let mut member = Member::at(&mut world, leaver);
        let mut last = Member::at(&mut world, beyond);
        let peer = say(
            &mut world,
            addr(77),
            node,
            &format!("DISCONNECT\n{beyond}\n0\n"),
        );
        let mut located = false;
        world.until(secs(40), |w| {
            // It answered the ring until now.
            match silent.filter(|_| located) {
                Some(answer) => w.answer(member.listener, answer),
                None => member.serve_plain(w, &mut |_, _| {
                    located = true;
                    Then::Say(format!("{leaver}\n"))
                }),
            }
            last.serve_plain(w, &mut |_, _| Then::Say("1\n".into()));
            !w.peer(peer).received().is_empty()
        });
        let gone = silent.is_some();
        hears(&mut world, peer, if gone { "1\n" } else { "0\n" });
        assert_eq!(next_of(&world, node), if gone { beyond } else { leaver });
    }
}

/// The claimant may be a joiner that serves no requests until its join is over.
#[test]
fn update_prev_is_acknowledged_before_anybody_is_asked() {
    for answer in [Answer::Queue, Answer::Ignore, Answer::Refuse] {
        let mut world = Ring::new(6);
        let nodes = ring(&mut world, 3);
        world.run_for(secs(5));
        let (node, prev) = (nodes[1], world.service(nodes[0]).me());
        let claimed = (100..)
            .map(addr)
            .find(|addr| world.service(nodes[0]).owns(Id::of_addr(*addr)))
            .expect("ids are spread");
        let door = world.listen(claimed);
        world.answer(door, answer);
        let peer = say(
            &mut world,
            claimed,
            node,
            &format!("UPDATE_PREV\n{claimed}\n"),
        );
        world.run_for(Ticks::from_millis(50));
        assert_eq!(world.peer(peer).received(), b"1\n", "at once: {answer:?}");
        // It never joins, so that the ring's word counts again: once the claimant, asked whether it is there, was silent until
        // the deadline of a connection.
        world.until(secs(180), |w| {
            w.service(node).routing().prev() == Some(prev)
        });
    }
}

/// It is unknown whether the new owner stored it; a second try could undo a later write.
#[test]
fn a_passed_on_write_is_not_repeated_when_its_outcome_is_unknown() {
    for removes in [false, true] {
        for how in [Then::Reset, Then::SayAndClose(String::new())] {
            let mut world = Ring::new(7);
            let node = ring(&mut world, 1)[0];
            let joiner = addr(100);
            let key = Id::of_addr(joiner);
            let mut member = Member::at(&mut world, joiner);
            let moving = say(&mut world, joiner, node, &format!("CONNECT\n{key}\n"));
            let text = format!("1\n0\n{}\n", world.addr(node));
            hears(&mut world, moving, &text);
            let write = if removes {
                format!("REMOVE\n{key}\n")
            } else {
                // As a scripted member reads it: a request of two lines.
                format!("INSERT\n{key}\n2\nx\n")
            };
            let peer = say(&mut world, addr(77), node, &write);
            hears(&mut world, peer, "1\n");
            world.peer(moving).send(format!("{joiner}\n").as_bytes());
            let end = || match &how {
                Then::Reset => Then::Reset,
                _ => Then::SayAndClose(String::new()),
            };
            let mut writes = 0;
            let mut answer = |command: &str, _: &str| match command {
                "LOCATE" => Then::Say(format!("{joiner}\n")),
                "INSERT" => Then::Say("1\n".into()),
                "REMOVE" | "2" => {
                    writes += 1;
                    end()
                }
                _ => Then::Silence,
            };
            run_with(&mut world, &mut member, secs(20), &mut answer, &mut |w| {
                !w.peer(peer).received().is_empty()
            });
            hears(&mut world, peer, "0\n");
            let later = world.now() + secs(10);
            run_with(&mut world, &mut member, secs(20), &mut answer, &mut |w| {
                w.now() >= later
            });
            assert_eq!(writes, 1, "removes {removes}");
        }
    }
}

/// Wrong answers of a member: noise, no node, itself for a key of another, the asker, a node farther from the key.
const WRONG: [&str; 6] = [
    "noise\n",
    "0.0.0.0:0\n",
    "itself",
    "10.1.0.1:5000\n",
    "10.1.234.96:5000\n",
    "",
];

/// A finger that answers LOCATE and XSTAT with garbage makes no lookup fail for ever and goes in time.
#[test]
fn a_finger_that_talks_nonsense_is_gone_round() {
    for wrong in WRONG {
        let mut world = Ring::new(8);
        let nodes = ring(&mut world, 6);
        world.run_for(secs(30));
        let asker = add(&mut world, 700);
        // It lies in the range of the last but one, and half of the ring has it as a finger.
        let liar = (800..)
            .map(addr)
            .find(|addr| world.service(nodes[4]).owns(Id::of_addr(*addr)))
            .expect("ids are spread");
        let mut member = Member::at(&mut world, liar);
        for id in &nodes[..3] {
            world.with(*id, |node, _| node.routing.learn(routing::Member::at(liar)));
        }
        let key = Id::of_addr(liar).succ();
        let owner = world.addr(nodes[4]);
        let mut answer = |_: &str, _: &str| match wrong {
            "itself" => Then::Say(format!("{liar}\n")),
            "" => Then::SayAndClose(String::new()),
            _ => Then::Say(wrong.into()),
        };
        for id in &nodes {
            let contact = world.addr(*id);
            let operation = Operation::new(Verb::Contains, key, vec![contact], Bounds::default());
            world.with(asker, |node, hub| node.ask(hub, 0, operation));
            world.until(secs(60), |w| {
                member.serve_plain(w, &mut answer);
                w.service(asker).has_outcomes()
            });
            let (_, result) = world.with(asker, |node, _| node.take_outcomes().remove(0));
            // A member that claims another's range cannot be told from its owner by asking it alone.
            let fooled =
                wrong == "itself" && member.heard.iter().any(|line| line.starts_with("CONTAINS"));
            assert!(
                fooled || result == Ok(Outcome::Contains(false)),
                "{wrong:?}: {result:?}"
            );
        }
        assert!(!member.heard.is_empty());
        assert!(nodes.iter().all(|id| next_of(&world, *id) != liar));
        assert_eq!(
            asked(&mut world, nodes[4], &format!("LOCATE\n{key}\n")),
            format!("{owner}\n")
        );
    }
}

/// Before a join and in a leave the owner of our id less one is asked for the node after it. Whatever it answers, the node
/// neither serves nor gives away a range without the ring's consent.
#[test]
fn a_wrong_answer_about_ourselves_is_asked_for_again() {
    for wrong in WRONG {
        for leaves in [false, true] {
            let (mut world, seat) = (Ring::new(9), places(2));
            let (other, me) = (addr(seat[0]), addr(seat[1]));
            let node = add(&mut world, seat[1]);
            let mut member = Member::at(&mut world, other);
            let own = Id::of_addr(me);
            if leaves {
                world.with(node, |node, hub| {
                    node.set_next(hub, routing::Member::at(other))
                });
                put(&mut world, node, own, "own");
                world.shutdown(node);
            } else {
                world.with(node, |node, hub| node.join(hub, vec![other]));
            }
            let (mut lies, mut joined, mut left) = (0, leaves, false);
            world.until(secs(60), |w| {
                member.serve_plain(w, &mut |command, argument| match command {
                    "LOCATE" if argument == own.to_string() && lies < 4 => {
                        lies += 1;
                        match wrong {
                            // True when we are to leave, and when we are to join a lie.
                            "itself" => Then::Say(format!("{}\n", if leaves { other } else { me })),
                            "" => Then::SayAndClose(String::new()),
                            _ => Then::Say(wrong.into()),
                        }
                    }
                    "LOCATE" if argument == own.to_string() && joined => {
                        Then::Say(format!("{me}\n"))
                    }
                    "LOCATE" => Then::Say(format!("{other}\n")),
                    "CONNECT" if lies < 4 => Then::Say("0\n".into()),
                    "CONNECT" => {
                        joined = true;
                        Then::Say(format!("1\n0\n{other}\n"))
                    }
                    "DISCONNECT" => Then::Silence,
                    _ if leaves => {
                        left = true;
                        Then::Say("1\n".into())
                    }
                    _ => Then::Say("1\n".into()),
                });
                let serves = w.service(node).owns(own);
                assert!(
                    leaves || lies == 4 || !serves,
                    "{wrong:?}: a member by nobody's word"
                );
                if leaves { !w.is_up(node) } else { serves }
            });
            assert!(lies == 4 && joined && left == leaves, "{wrong:?} {leaves}");
        }
    }
}

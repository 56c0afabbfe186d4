//! The tracker against scripted peers, message by message.

use super::script::*;
use super::*;

const BAD: &str = "(['Tracker'], 'Bad request')";

fn quick() -> Config {
    Config {
        ping_interval: secs(20),
        ..Config::default()
    }
}

#[test]
fn places_and_items_in_the_order_of_registration() {
    let mut world = World::new(1);
    add_tracker(&mut world, quick(), 2);
    let reg_init = |nbr: usize, seq: usize| {
        let addr = addr(nbr);
        let (ip, port) = (addr.ip(), addr.port());
        format!("('REG_INIT', '{ip}', 'p{nbr}', {port}, 2, ({seq}, 'word{seq}'))")
    };
    // Alone, a peer is its own neighbour; after that it is the one before.
    assert_eq!(register(&mut world, addr(1), "p1"), reg_init(1, 0));
    assert_eq!(register(&mut world, addr(2), "p2"), reg_init(1, 1));
    assert_eq!(register(&mut world, addr(3), "p3"), reg_init(2, 0));
    // The same again: the same place and item. The first one's neighbour is the last.
    assert_eq!(register(&mut world, addr(2), "p2"), reg_init(1, 1));
    assert_eq!(register(&mut world, addr(1), "p1"), reg_init(3, 0));
}

#[test]
fn the_order_of_the_courses_own_tracker() {
    let mut world = World::new(1);
    let config = Config {
        order: super::super::wire::RegInitOrder::HandleFirst,
        ..quick()
    };
    add_tracker(&mut world, config, 1);
    let answer = register(&mut world, addr(1), "p1");
    assert_eq!(
        answer,
        "('REG_INIT', 'p1', '10.1.0.1', 5000, 1, (0, 'word0'))"
    );
}

#[test]
fn everybody_is_answered_in_his_encoding() {
    let mut world = World::new(1);
    add_tracker(&mut world, quick(), 1);
    let hi = "Hi bob, Welcome to the network. Register to get started.";
    let (answer, closed) = asked(&mut world, TRACKER, "('ECHO', 'bob')");
    assert_eq!(answer, format!("(['Tracker'], '{hi}')"));
    assert!(!closed, "more may follow");
    let (answer, _) = asked(&mut world, TRACKER, "(ECHO, bob)");
    assert!(
        answer.starts_with("([Tracker], ") && answer.contains("Hi bob"),
        "{answer}"
    );
    let (answer, _) = asked(&mut world, TRACKER, "(S'ECHO'\np0\nS'bob'\np1\ntp2\n.");
    assert!(answer.starts_with('(') && answer.ends_with('.'), "{answer}");
    assert_eq!(
        read(answer.as_bytes()).expect("whole").0,
        format!("(['Tracker'], '{hi}')")
    );
    let (answer, _) = asked(&mut world, TRACKER, "('ECHO', 'a')('PEERS',)");
    assert!(answer.ends_with("('PEERS', 0, ())"), "{answer}");
}

#[test]
fn bad_input_changes_nothing() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 1);
    let long = format!("('REGISTER', '{}', 5000)", "h".repeat(257));
    let deep = "(".repeat(20) + &")".repeat(20);
    for text in [
        "('REGISTER', 'x', 0)",
        "('REGISTER', 'x', 65536)",
        "('REGISTER', 'x', -1)",
        "('REGISTER', 'x', '5000')",
        "('REGISTER', 'x', 5000.0)",
        "('REGISTER', 'x', None)",
        "('REGISTER', 'x')",
        "('REGISTER', 'x', 5000, 1)",
        "('REGISTER', '', 5000)",
        "('REGISTER', 7, 5000)",
        "('QUERY', 0)",
        "('PING', 'now')",
        "('UPDATE_NBR', 'x', '10.0.0.9', 1)",
        "('QUERY_RESULT', (0, 'word0'))",
        "('HELLO',)",
        "()",
        "('register', 'x', 5000)",
        "('PEERS', -1)",
        &long,
        &deep,
        "REGISTER",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let (answer, closed) = asked(&mut world, TRACKER, text);
        let bare = "([Tracker], Bad request)";
        assert!(answer == BAD || answer == bare, "{text}: {answer}");
        assert!(closed, "{text}");
    }
    // A tuple that does not end.
    let (answer, closed) = asked(
        &mut world,
        TRACKER,
        &format!("('ECHO', '{}", "e".repeat(70_000)),
    );
    assert_eq!((&*answer, closed), (BAD, true));
    // What would call something is not answered at all.
    let (answer, closed) = asked(&mut world, TRACKER, "(cposix\nsystem\n(S'true'\ntR.");
    assert_eq!((&*answer, closed), ("", true));
    assert_eq!(tracker(&world, id).members(), 0);
}

#[test]
fn a_message_that_stops_is_given_up() {
    let mut world = World::new(1);
    add_tracker(&mut world, quick(), 1);
    let peer = say(&mut world, STRANGER, TRACKER, "('REGISTER', 'x");
    world.run_for(secs(9));
    assert!(!world.peer(peer).is_closed());
    world.run_for(secs(3));
    assert!(world.peer(peer).is_closed());
    assert_eq!(world.peer(peer).take(), b"");
}

#[test]
fn a_handle_is_its_owners_while_it_lives() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 3);
    let mut owner = Plain::at(&mut world, addr(1));
    register(&mut world, addr(1), "p1");
    let refused = "('REG_INIT', None, None, None, 3, None)";
    assert_eq!(register(&mut world, addr(2), "p1"), refused);
    let other_port = SocketAddrV4::new(*addr(1).ip(), 5001);
    assert_eq!(register(&mut world, other_port, "p1"), refused);
    let pong = |request: &str| match request {
        text if text.contains("PING") => Then::SayAndClose("('ACK', 'p1')".into()),
        _ => Then::Close,
    };
    owner.run(&mut world, secs(10), &mut { pong });
    assert_eq!(tracker(&world, id).members(), 1, "it answered");
    // It dies: the next one who wants the handle gets it as soon as that is known.
    world.answer(owner.listener, crate::sim::Answer::Refuse);
    assert_eq!(register(&mut world, addr(2), "p1"), refused);
    world.run_for(secs(6));
    let answer = register(&mut world, addr(2), "p1");
    assert_eq!(
        answer,
        "('REG_INIT', '10.1.0.2', 'p1', 5000, 3, (1, 'word1'))"
    );
}

/// Of three peers the first is told whenever a peer registers behind the last; no other is.
#[test]
fn only_who_is_affected_is_told() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 3);
    let mut plain: Vec<Plain> = (1..=3).map(|n| Plain::at(&mut world, addr(n))).collect();
    for n in 1..=3 {
        register(&mut world, addr(n), &format!("p{n}"));
    }
    let run = |world: &mut Ring, plain: &mut Vec<Plain>, time: Ticks| {
        for _ in 0..time.0 {
            world.run_for(Ticks(1));
            for (n, plain) in plain.iter_mut().enumerate() {
                plain.serve(world, &mut |request| match request {
                    text if text.contains("PING") => {
                        Then::SayAndClose(format!("('PING', 'p{}')", n + 1))
                    }
                    _ => Then::Close,
                });
            }
        }
    };
    run(&mut world, &mut plain, secs(5));
    let updates: Vec<usize> = plain.iter().map(|p| p.heard("UPDATE_NBR").len()).collect();
    assert_eq!(updates, [2, 0, 0], "{:?}", plain[0].heard);
    assert_eq!(
        plain[0].heard[1].1,
        "('UPDATE_NBR', 'p3', '10.1.0.3', 5000)"
    );
    assert!(tracker(&world, id).is_settled());
    // The second one dies: the third one gets the first for a neighbour.
    world.answer(plain[1].listener, crate::sim::Answer::Refuse);
    run(&mut world, &mut plain, secs(26));
    assert_eq!(
        tracker(&world, id).members(),
        2,
        "an interval and the deadline"
    );
    // Twice each, for good: at once, and once more with the ping after it.
    run(&mut world, &mut plain, secs(60));
    let updates: Vec<usize> = plain.iter().map(|p| p.heard("UPDATE_NBR").len()).collect();
    assert_eq!(updates, [3, 0, 2]);
    assert!(tracker(&world, id).is_settled());
}

/// An UPDATE_NBR that was refused, cut off or left hanging is sent again until one is read, and once more after one
/// whose fate is unknown.
#[test]
fn an_update_is_repeated_until_it_is_taken() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 3);
    let mut first = Plain::at(&mut world, addr(1));
    register(&mut world, addr(1), "p1");
    world.answer(first.listener, crate::sim::Answer::Refuse);
    let _second = Plain::at(&mut world, addr(2));
    register(&mut world, addr(2), "p2");
    world.run_for(Ticks(150));
    world.answer(first.listener, crate::sim::Answer::Queue);
    let mut seen = 0;
    let mut answer = |request: &str| {
        if request.contains("PING") {
            return Then::SayAndClose("('PING', 'p1')".into());
        }
        seen += 1;
        if seen == 1 {
            Then::Silence
        } else {
            Then::Close
        }
    };
    first.run(&mut world, secs(15), &mut answer);
    let heard = first.heard("('UPDATE_NBR', 'p2'");
    assert_eq!(heard.len(), 3, "{:?}", first.heard);
    // 5 s of silence and a pause of 2 s; then the one more.
    assert!((650..=750).contains(&(heard[1] - heard[0])), "{heard:?}");
    assert!((90..=220).contains(&(heard[2] - heard[1])), "{heard:?}");
    assert!(!tracker(&world, id).ring().is_empty());
    first.run(&mut world, secs(5), &mut |_| Then::Close);
    assert_eq!(first.heard("UPDATE_NBR").len(), 3);
}

/// A peer that keeps the connection open on which it registered may not have read the answer: what comes after it waits.
#[test]
fn an_update_does_not_overtake_a_reg_init() {
    let mut world = World::new(1);
    add_tracker(&mut world, quick(), 3);
    let mut first = Plain::at(&mut world, addr(1));
    say(
        &mut world,
        *addr(1).ip(),
        TRACKER,
        "('REGISTER', 'p1', 5000)",
    );
    world.run_for(Ticks(5));
    register(&mut world, addr(2), "p2");
    first.run(&mut world, Ticks(170), &mut |_| Then::Close);
    assert_eq!(first.heard("UPDATE_NBR").len(), 0);
    first.run(&mut world, secs(1), &mut |_| Then::Close);
    assert_eq!(first.heard("('UPDATE_NBR', 'p2'").len(), 1);
}

/// A peer that closes the connection without reading it, as one that is at its limit does, is told again when it has answered
/// a ping; and then no more.
#[test]
fn an_update_that_nobody_read() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 3);
    let mut first = Plain::at(&mut world, addr(1));
    let mut second = Plain::at(&mut world, addr(2));
    register(&mut world, addr(1), "p1");
    register(&mut world, addr(2), "p2");
    world.run_for(secs(3));
    let hung_up = world.accept(first.listener).expect("an UPDATE_NBR");
    world.peer(hung_up).close();
    world.run_for(secs(3));
    assert!(tracker(&world, id).is_settled(), "as far as it can know");
    for _ in 0..secs(70).0 {
        world.run_for(Ticks(1));
        for (plain, handle) in [(&mut first, "p1"), (&mut second, "p2")] {
            plain.serve(&mut world, &mut |request| match request {
                text if text.contains("PING") => Then::SayAndClose(format!("('PING', '{handle}')")),
                _ => Then::Close,
            });
        }
    }
    let updates = first.heard("('UPDATE_NBR', 'p2'");
    assert_eq!(updates.len(), 1, "{:?}", first.heard);
    let ping = first.heard("PING")[0];
    assert!((ping..ping + 10).contains(&updates[0]), "{:?}", first.heard);
    assert_eq!(second.heard("UPDATE_NBR").len(), 0);
}

#[test]
fn whoever_answers_with_another_handle_is_not_the_peer() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 3);
    let mut plain = Plain::at(&mut world, addr(1));
    register(&mut world, addr(1), "p1");
    plain.run(&mut world, secs(19), &mut |_| Then::Close);
    assert_eq!(tracker(&world, id).members(), 1);
    plain.run(&mut world, secs(2), &mut |_| {
        Then::Say("('PING', 'somebody')".into())
    });
    assert_eq!(tracker(&world, id).members(), 0);
}

#[test]
fn a_peer_that_never_answers_is_gone_after_its_deadline_and_not_before() {
    for how in 0..3 {
        let mut world = World::new(1);
        let id = add_tracker(&mut world, quick(), 3);
        let mut plain = Plain::at(&mut world, addr(1));
        register(&mut world, addr(1), "p1");
        let mut answer = |_: &str| match how {
            0 => Then::Silence,
            1 => Then::Close,
            _ => Then::Say("nonsense".into()),
        };
        plain.run(&mut world, secs(24), &mut answer);
        assert_eq!(tracker(&world, id).members(), 1, "{how}");
        plain.run(&mut world, secs(2), &mut answer);
        assert_eq!(tracker(&world, id).members(), 0, "{how}");
        let asked = plain.heard("PING").len();
        assert_eq!(asked, if how == 0 { 1 } else { 5 }, "{how}");
    }
}

/// A peer registers a port without a listener: it is dialled at the pace of its pings, and is removed when they fail.
#[test]
fn a_port_where_nobody_is() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, quick(), 1);
    let nobody = SocketAddrV4::new(*addr(1).ip(), 1);
    let answer = register(&mut world, nobody, "p1");
    assert_eq!(answer, "('REG_INIT', '10.1.0.1', 'p1', 1, 1, (0, 'word0'))");
    let mut second = Plain::at(&mut world, addr(2));
    register(&mut world, addr(2), "p2");
    second.run(&mut world, secs(10), &mut |_| Then::Close);
    assert_eq!(
        tracker(&world, id).members(),
        1,
        "the UPDATE_NBR could not be delivered"
    );
    let refused = world.node(id).stats().ended_unreachable;
    assert!((5..=15).contains(&refused), "{refused}");
}

/// A tracker that comes back pings the members that it recovered; before they have answered they are no neighbours.
#[test]
fn a_restart_with_a_disk() {
    let mut world = World::new(1);
    let config = Config {
        durable: true,
        ..quick()
    };
    let id = add_tracker(&mut world, config.clone(), 3);
    let disk = set_disk(&mut world, id, Span::ms(1, 5));
    let mut alive = Plain::at(&mut world, addr(1));
    for n in 1..=2 {
        register(&mut world, addr(n), &format!("p{n}"));
    }
    world.kill(id);
    assert_eq!(known(&disk).len(), 2, "who has his answer is on the disk");
    restart_tracker(&mut world, id, config, 3, Some(&disk));
    let newcomer = register(&mut world, addr(3), "p3");
    assert_eq!(
        newcomer,
        "('REG_INIT', '10.1.0.3', 'p3', 5000, 3, (2, 'word2'))"
    );
    let mut third = Plain::at(&mut world, addr(3));
    for _ in 0..600 {
        world.run_for(Ticks(1));
        for (plain, handle) in [(&mut alive, "p1"), (&mut third, "p3")] {
            plain.serve(&mut world, &mut |request| match request {
                text if text.contains("PING") => Then::SayAndClose(format!("('PING', '{handle}')")),
                _ => Then::Close,
            });
        }
    }
    let ring: Vec<String> = tracker(&world, id)
        .ring()
        .iter()
        .map(|h| h.to_string())
        .collect();
    assert_eq!(ring, ["p1", "p3"], "the one that is dead is gone");
    assert_eq!(tracker(&world, id).members(), 2);
    assert_eq!(known(&disk).len(), 2);
    let told = |plain: &Plain| {
        plain
            .heard
            .iter()
            .rfind(|(_, text)| text.contains("UPDATE"))
            .cloned()
    };
    assert_eq!(
        told(&alive).expect("told").1,
        "('UPDATE_NBR', 'p3', '10.1.0.3', 5000)"
    );
    assert_eq!(
        told(&third).expect("told").1,
        "('UPDATE_NBR', 'p1', '10.1.0.1', 5000)"
    );
}

/// Every place at which a registration can be cut off.
#[test]
fn a_registration_that_is_cut_off() {
    let text = "('REGISTER', 'p1', 5000)";
    for cut in 0..=text.len() {
        let mut world = World::new(1);
        let id = add_tracker(&mut world, quick(), 1);
        let peer = say(&mut world, *addr(1).ip(), TRACKER, &text[..cut]);
        world.peer(peer).reset();
        world.run_for(secs(1));
        let members = tracker(&world, id).members();
        assert_eq!(members, usize::from(cut == text.len()), "{cut}");
        let answer = register(&mut world, addr(1), "p1");
        let want = "('REG_INIT', '10.1.0.1', 'p1', 5000, 1, (0, 'word0'))";
        assert_eq!(answer, want, "{cut}");
        assert_eq!(tracker(&world, id).members(), 1, "{cut}");
    }
}

/// Ten thousand at once: each costs two messages, pings are spread over the interval, and the dead are gone after
/// an interval and the deadline.
#[test]
fn ten_thousand_peers() {
    const PEERS: usize = 10_000;
    let mut world = World::new(1);
    world.validate_turns(false);
    let id = add_tracker(&mut world, quick(), 1);
    let host = world.add(addr(1), RingNode::Peers(Peers::new()), limits());
    for n in 1..=PEERS {
        let addr = addr(n);
        if n > 1 {
            world.add_listener(host, addr);
        }
        world.with(host, |node, hub| match node {
            RingNode::Peers(peers) => {
                let config = PeerConfig {
                    handle: format!("peer{n}").into(),
                    addr,
                    tracker: TRACKER,
                    dial_from: Some(SocketAddrV4::new(*addr.ip(), 0)),
                };
                _ = peers.add(hub, config);
            }
            RingNode::Tracker(_) => unreachable!(),
        });
    }
    world.run_for(secs(5));
    let registered = tracker(&world, id).counts();
    assert_eq!(
        (registered.registered, registered.reg_inits),
        (10_000, 10_000)
    );
    assert!(registered.updates <= 10_000, "{registered:?}");
    world.run_for(secs(1));
    assert!(tracker(&world, id).is_settled());
    let mut per_second = Vec::new();
    for _ in 0..20 {
        let before = tracker(&world, id).counts().pings;
        world.run_for(secs(1));
        per_second.push(tracker(&world, id).counts().pings - before);
    }
    let (sum, peak): (u64, _) = (per_second.iter().sum(), per_second.iter().max());
    assert!((9_950..=10_050).contains(&sum), "{per_second:?}");
    assert!(
        peak.is_some_and(|peak| *peak < 2 * sum / 20),
        "{per_second:?}"
    );
    for dead in (0..PEERS).step_by(100) {
        world.with(host, |node, hub| match node {
            RingNode::Peers(peers) => peers.kill(hub, dead),
            RingNode::Tracker(_) => unreachable!(),
        });
    }
    world.run_for(secs(26));
    assert_eq!(tracker(&world, id).members(), PEERS - 100);
    world.run_for(secs(2));
    let counts = tracker(&world, id).counts();
    assert!(tracker(&world, id).is_settled());
    // One for each gap, and for whoever was told by one, the first peer included, another after its next ping.
    let updates = counts.updates - registered.updates;
    assert!((100..=201).contains(&updates), "{updates}");
}

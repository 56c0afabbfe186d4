//! A peer against scripted trackers, neighbours and strangers.

use super::script::*;
use super::*;

const TEN: &str = "('REG_INIT', '10.1.0.2', 'p2', 5000, 10, (3, 'word3'))";

/// A peer, number 1, of a scripted tracker that gave it `reg_init`; the second number is its neighbour's.
fn registered(world: &mut Ring, reg_init: &str) -> (NodeId, Plain) {
    let mut tracker = Plain::at(world, TRACKER);
    let id = add_peer(world, 1);
    let answer = reg_init.to_owned();
    tracker.run(world, Ticks(5), &mut |_| Then::SayAndClose(answer.clone()));
    assert_eq!(tracker.heard[0].1, "('REGISTER', 'peer1', 5000)");
    assert!(peer(world, id).is_registered());
    (id, tracker)
}

/// The scripted neighbour has these items, and closes after each answer or not.
fn neighbour(have: &[u32], closes: bool) -> impl FnMut(&str) -> Then {
    move |request| {
        let seq = request
            .strip_prefix("('QUERY', ")
            .and_then(|rest| rest.strip_suffix(')'));
        let seq: u32 = seq.expect("a QUERY").parse().expect("a number");
        let answer = if have.contains(&seq) {
            format!("('QUERY_RESULT', ({seq}, 'word{seq}'))")
        } else {
            "('QUERY_RESULT', (None, None))".into()
        };
        if closes {
            Then::SayAndClose(answer)
        } else {
            Then::Say(answer)
        }
    }
}

#[test]
fn serves_before_it_has_registered() {
    let mut world = World::new(1);
    let id = add_peer(&mut world, 1);
    world.run_for(secs(5));
    assert!(!peer(&world, id).is_registered());
    for (text, want) in [
        ("('ECHO', 'bob')", "('ECHO', 'peer1')"),
        ("('PING', 'now')", "('PING', 'peer1')"),
        ("('QUERY', 0)", "('QUERY_RESULT', (None, None))"),
        ("(QUERY, 4294967295)", "(QUERY_RESULT, (None, None))"),
    ] {
        assert_eq!(
            asked(&mut world, addr(1), text),
            (want.into(), false),
            "{text}"
        );
    }
    let update = "('UPDATE_NBR', 'bob', '10.1.0.7', 5000)";
    let teller = say(&mut world, *TRACKER.ip(), addr(1), update);
    world.run_for(Ticks(5));
    assert!(
        world.peer(teller).is_closed(),
        "that is how it says that it was taken"
    );
    assert_eq!(neighbour_of(&world, id), "bob");
    // The tracker is there at last.
    let mut tracker = Plain::at(&mut world, TRACKER);
    tracker.run(&mut world, secs(9), &mut |_| Then::SayAndClose(TEN.into()));
    assert!(peer(&world, id).is_registered());
    assert_eq!(
        asked(&mut world, addr(1), "('QUERY', 3)").0,
        "('QUERY_RESULT', (3, 'word3'))"
    );
}

#[test]
fn either_order_of_reg_init_and_both_names_of_loopback() {
    for (init, known) in [
        (TEN, "p2 10.1.0.2:5000"),
        (
            "('REG_INIT', 'p2', '10.1.0.2', 5000, 10, (3, 'word3'))",
            "p2 10.1.0.2:5000",
        ),
        (
            "('REG_INIT', 'p2', 'localhost', 5000, 10, (3, 'word3'))",
            "p2 127.0.0.1:5000",
        ),
        (
            "('REG_INIT', '10.1.0.2', '10.1.0.3', 5000, 10, (3, 'word3'))",
            "10.1.0.3 10.1.0.2:5000",
        ),
        (
            "('REG_INIT', '10.1.0.2', 'p2', 5000, 10, None)",
            "p2 10.1.0.2:5000",
        ),
    ] {
        let mut world = World::new(1);
        let (id, _) = registered(&mut world, init);
        let neighbour = peer(&world, id).neighbour().expect("one");
        assert_eq!(format!("{} {}", neighbour.handle, neighbour.addr), known);
    }
}

#[test]
fn bad_input_ends_that_connection_only() {
    let mut world = World::new(1);
    let (id, _tracker) = registered(&mut world, TEN);
    for text in [
        "('QUERY', -1)",
        "('QUERY', 10)",
        "('QUERY', 1000000000000000000000000000000)",
        "('QUERY', 'x')",
        "('QUERY', None)",
        "('QUERY', 1.0)",
        "('QUERY',)",
        "('QUERY', 1, 2)",
        "('PING',)",
        "('UPDATE_NBR', 'x', '10.0.0.9', 0)",
        "('UPDATE_NBR', 'x', '0.0.0.0', 5)",
        "('UPDATE_NBR', 'x', 'example.org', 5)",
        "('UPDATE_NBR', 'x', '10.0.0.9', 5, 1)",
        "('REGISTER', 'x', 5000)",
        "('REG_INIT', '10.1.0.2', 'p2', 5000, 10, (3, 'word3'))",
        "hello",
    ] {
        assert_eq!(
            asked(&mut world, addr(1), text),
            (String::new(), true),
            "{text}"
        );
    }
    assert_eq!(
        asked(&mut world, addr(1), "('PING', 1)").0,
        "('PING', 'peer1')"
    );
    assert_eq!(neighbour_of(&world, id), "p2");
}

#[test]
fn update_nbr_from_a_stranger() {
    let mut world = World::new(1);
    let (id, _tracker) = registered(&mut world, TEN);
    let update = "('UPDATE_NBR', 'evil', '10.6.6.6', 666)";
    assert_eq!(asked(&mut world, addr(1), update), (String::new(), true));
    assert_eq!(neighbour_of(&world, id), "p2");
}

/// The tracker has one message under way at a time, so what comes on an older connection is older.
#[test]
fn a_late_update_nbr() {
    let mut world = World::new(1);
    let (id, _tracker) = registered(&mut world, TEN);
    let from = *TRACKER.ip();
    let (first, rest) = "('UPDATE_NBR', 'old', '10.1.0.7', 5000)".split_at(9);
    let late = say(&mut world, from, addr(1), first);
    world.run_for(Ticks(2));
    say(
        &mut world,
        from,
        addr(1),
        "('UPDATE_NBR', 'new', '10.1.0.8', 5000)",
    );
    world.run_for(Ticks(2));
    assert_eq!(neighbour_of(&world, id), "new");
    world.peer(late).send(rest.as_bytes());
    world.run_for(Ticks(2));
    assert_eq!(neighbour_of(&world, id), "new");
}

#[test]
fn alone_it_asks_nobody_and_answers_itself() {
    let mut world = World::new(1);
    let tracker_id = add_tracker(&mut world, Config::default(), 2);
    let id = add_peer(&mut world, 1);
    world.run_for(secs(60));
    assert_eq!(neighbour_of(&world, id), "peer1");
    assert_eq!(peer(&world, id).queries(), 0);
    for (seq, want) in [(0, "(0, 'word0')"), (1, "(None, None)")] {
        let (answer, _) = asked(&mut world, addr(1), &format!("('QUERY', {seq})"));
        assert_eq!(answer, format!("('QUERY_RESULT', {want})"));
    }
    // A second one, and both have everything.
    let second = add_peer(&mut world, 2);
    world.run_for(secs(3));
    for id in [id, second] {
        assert!(peer(&world, id).items().is_complete());
    }
    assert_eq!(tracker(&world, tracker_id).members(), 2);
}

/// A neighbour that closes after each answer, as plain ones do, and one that does not: the same items, lowest first, and
/// one connection for each query or for all.
#[test]
fn neighbours_that_close_and_that_do_not() {
    for closes in [true, false] {
        let mut world = World::new(1);
        let mut plain = Plain::at(&mut world, addr(2));
        let (id, _tracker) = registered(&mut world, TEN);
        let have: Vec<u32> = (0..10).collect();
        plain.run(&mut world, secs(1), &mut neighbour(&have, closes));
        let asked: Vec<&str> = plain.heard.iter().map(|(_, text)| &**text).collect();
        let want = [0, 1, 2, 4, 5, 6, 7, 8, 9].map(|seq| format!("('QUERY', {seq})"));
        assert_eq!(asked, want, "closes: {closes}");
        assert!(peer(&world, id).items().is_complete());
        assert_eq!(world.node(id).conns(), 0, "and hangs up");
        let dialled = world.node(id).stats().dialled;
        assert!(
            if closes { dialled >= 9 } else { dialled <= 2 },
            "{dialled}"
        );
    }
}

#[test]
fn misses_back_off_and_a_new_neighbour_does_not_wait() {
    let mut world = World::new(1);
    let mut plain = Plain::at(&mut world, addr(2));
    let (id, _tracker) = registered(&mut world, "('REG_INIT', '10.1.0.2', 'p2', 5000, 1, None)");
    plain.run(&mut world, secs(12), &mut neighbour(&[], false));
    let at = plain.heard("('QUERY', 0)");
    let gaps: Vec<u64> = at
        .windows(2)
        .map(|pair| (pair[1] - pair[0] + 5) / 10 * 10)
        .collect();
    assert_eq!(gaps[..6], [10, 20, 40, 80, 160, 200], "{at:?}");
    assert!(gaps[6..].iter().all(|gap| *gap == 200), "{gaps:?}");
    let mut other = Plain::at(&mut world, addr(3));
    let update = "('UPDATE_NBR', 'p3', '10.1.0.3', 5000)";
    say(&mut world, *TRACKER.ip(), addr(1), update);
    other.run(&mut world, Ticks(5), &mut neighbour(&[0], false));
    assert!(peer(&world, id).items().is_complete());
}

#[test]
fn a_neighbour_that_is_silent_dead_or_lies() {
    for (how, lie) in [
        (0, ""),
        (1, "('QUERY_RESULT', (5, 'word5'))"),
        (2, "('QUERY_RESULT', (0, 'a'))('QUERY_RESULT', (0, 'b'))"),
        (3, "('PING', 'p2')"),
        (4, "('QUERY_RESULT', (-1, 'x'))"),
        (5, "HTTP/1.1 200 OK"),
    ] {
        let mut world = World::new(1);
        let mut plain = Plain::at(&mut world, addr(2));
        let (id, _tracker) = registered(&mut world, TEN);
        let mut answer = |_: &str| match how {
            0 => Then::Silence,
            _ => Then::Say(lie.into()),
        };
        plain.run(&mut world, secs(11), &mut answer);
        assert!(peer(&world, id).items().count() <= 2, "{how}");
        let asked = plain.heard.len();
        // Again after the deadline or a pause, never in a tight loop.
        assert!((2..=12).contains(&asked), "{how}: {asked}");
        // It still serves, and believes the next neighbour.
        let mut other = Plain::at(&mut world, addr(3));
        let update = "('UPDATE_NBR', 'p3', '10.1.0.3', 5000)";
        say(&mut world, *TRACKER.ip(), addr(1), update);
        let have: Vec<u32> = (0..10).collect();
        other.run(&mut world, secs(1), &mut neighbour(&have, false));
        assert!(peer(&world, id).items().is_complete(), "{how}");
    }
}

/// A query that comes back to an item on the same connection is answered when the item comes; all others at once.
#[test]
fn a_query_that_is_parked_for_its_item() {
    let mut world = World::new(1);
    let (id, _tracker) = registered(&mut world, TEN);
    let none = b"('QUERY_RESULT', (None, None))";
    let asker = say(&mut world, STRANGER, addr(1), "('QUERY', 0)");
    world.run_for(Ticks(2));
    assert_eq!(world.peer(asker).take(), none, "the first question");
    world.peer(asker).send(b"('QUERY', 4)");
    world.run_for(Ticks(2));
    assert_eq!(world.peer(asker).take(), none, "looking around");
    world.peer(asker).send(b"('QUERY', 0)");
    world.run_for(Ticks(190));
    assert_eq!(world.peer(asker).take(), b"");
    world.run_for(Ticks(20));
    assert_eq!(world.peer(asker).take(), none, "at the latest after 2 s");
    world.peer(asker).send(b"('QUERY', 0)");
    world.run_for(Ticks(2));
    let mut plain = Plain::at(&mut world, addr(3));
    say(
        &mut world,
        *TRACKER.ip(),
        addr(1),
        "('UPDATE_NBR', 'p3', '10.1.0.3', 5000)",
    );
    plain.run(&mut world, Ticks(5), &mut neighbour(&[0], false));
    assert_eq!(world.peer(asker).take(), b"('QUERY_RESULT', (0, 'word0'))");
    // One that goes away while it waits leaves nothing behind.
    world.peer(asker).send(b"('QUERY', 1)('QUERY', 1)");
    world.run_for(Ticks(2));
    world.peer(asker).reset();
    world.run_for(secs(5));
    assert_eq!(
        asked(&mut world, addr(1), "('PING', 1)").0,
        "('PING', 'peer1')"
    );
    assert!(world.node(id).conns() <= 2);
}

#[test]
fn more_queries_than_may_be_parked() {
    let mut world = World::new(1);
    let (_id, _tracker) = registered(&mut world, TEN);
    let askers: Vec<_> = (0..100)
        .map(|_| say(&mut world, STRANGER, addr(1), "('QUERY', 0)('QUERY', 0)"))
        .collect();
    world.run_for(secs(1));
    let none = "('QUERY_RESULT', (None, None))".len();
    let at_once = askers
        .iter()
        .filter(|asker| world.peer(**asker).received().len() == 2 * none);
    assert_eq!(at_once.count(), 36);
    world.run_for(secs(2));
    for asker in askers {
        assert_eq!(world.peer(asker).received().len(), 2 * none);
    }
}

/// All peers register again with a tracker that forgot its ring, as soon as they miss its pings.
#[test]
fn a_tracker_that_comes_back_without_its_ring() {
    let mut world = World::new(1);
    let id = add_tracker(&mut world, Config::default(), 5);
    let peers: Vec<NodeId> = (1..=5).map(|n| add_peer(&mut world, n)).collect();
    world.run_for(secs(60));
    world.kill(id);
    world.run_for(secs(30));
    // The peers serve each other meanwhile.
    assert_eq!(
        asked(&mut world, addr(3), "('QUERY', 4)").0,
        "('QUERY_RESULT', (4, 'word4'))"
    );
    restart_tracker(&mut world, id, Config::default(), 5, None);
    world.run_for(secs(75));
    assert_eq!(tracker(&world, id).ring().len(), 5);
    assert!(peers.iter().all(|id| peer(&world, *id).is_registered()));
}

#[test]
fn a_handle_that_stays_somebody_elses() {
    let mut world = World::new(1);
    let mut tracker = Plain::at(&mut world, TRACKER);
    let id = add_peer(&mut world, 1);
    let refused = "('REG_INIT', None, None, None, 10, None)";
    let mut says = |_: &str| Then::SayAndClose(refused.into());
    tracker.run(&mut world, secs(25), &mut says);
    assert!(!peer(&world, id).is_declined(), "its owner may be dead");
    tracker.run(&mut world, secs(20), &mut says);
    assert!(peer(&world, id).is_declined());
    let tries = tracker.heard.len();
    tracker.run(&mut world, secs(60), &mut says);
    assert_eq!(tracker.heard.len(), tries, "and it is given up");
}

#[test]
fn a_tracker_that_answers_nonsense_or_nothing() {
    for says in ["", "([Tracker], Bad request)", "nonsense", "('PING', 'x')"] {
        let mut world = World::new(1);
        let mut tracker = Plain::at(&mut world, TRACKER);
        let id = add_peer(&mut world, 1);
        tracker.run(&mut world, secs(30), &mut |_| match says {
            "" => Then::Silence,
            says => Then::Say(says.into()),
        });
        assert!(
            (2..=20).contains(&tracker.heard.len()),
            "{says}: {}",
            tracker.heard.len()
        );
        tracker.run(&mut world, secs(20), &mut |_| Then::SayAndClose(TEN.into()));
        assert!(peer(&world, id).is_registered(), "{says}");
    }
}

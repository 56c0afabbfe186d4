//! Owners that answer, each in its own way.

use super::*;

/// The talks of a peer that closes after each command. An INSERT's value belongs to its command.
fn closing(lines: &[Lines], then: Then) -> Vec<Talk> {
    let mut talks: Vec<Talk> = Vec::new();
    for line in lines {
        match talks.last_mut() {
            Some(last) if !line.0.contains('K') => last.lines.push(*line),
            _ => talks.push(talk(&[*line], then)),
        }
    }
    talks
}

#[test]
fn on_one_connection_or_on_one_for_each_command() {
    for (verb, lines, outcome) in good() {
        for then in THENS {
            let run = Lab::one(verb.clone())
                .server(addr(1), vec![talk(&lines, then)])
                .run();
            assert_eq!(run.only(), &Ok(outcome.clone()), "{then:?}");
            assert_eq!(run.dials, 1);
        }
        for then in [Then::Finish, Then::Close, Then::Reset] {
            let talks = closing(&lines, then);
            let count = talks.len();
            let run = Lab::one(verb.clone()).server(addr(1), talks).run();
            assert_eq!(run.only(), &Ok(outcome.clone()), "{lines:?} {then:?}");
            assert_eq!(run.dials, count, "{lines:?} {then:?}");
            assert!(run.took < Ticks::from_secs(1), "nothing was tried again");
        }
    }
}

#[test]
fn split_at_every_offset() {
    for (verb, lines, outcome) in good() {
        let longest = lines.iter().map(|line| line.1.len()).max().unwrap_or(0);
        for at in 0..=longest {
            let lab = Lab::one(verb.clone()).split(at);
            let run = lab.server(addr(1), vec![talk(&lines, Then::Stay)]).run();
            assert_eq!(run.only(), &Ok(outcome.clone()), "{lines:?} at {at}");
            assert_eq!(run.dials, 1);
        }
    }
}

#[test]
fn through_another_node() {
    for (verb, mut lines, outcome) in good() {
        let outcome = match outcome {
            Outcome::Located(_) => Outcome::Located(addr(2)),
            other => other,
        };
        lines[0].1 = B;
        for then in THENS {
            let run = Lab::one(verb.clone())
                .server(addr(1), vec![talk(&[("LOCATE\nK\n", B)], then)])
                .server(addr(2), vec![talk(&lines, then)])
                .run();
            assert_eq!(run.only(), &Ok(outcome.clone()), "{then:?}");
            assert_eq!(run.dials, 2);
        }
    }
}

#[test]
fn an_owner_that_no_longer_is_one_is_looked_for_again() {
    let moved = |word| talk(&[("LOCATE\nK\n", A), (word, "0\n")], Then::Close);
    let insert = [("LOCATE\nK\n", A), ("INSERT\nK\n", "1\n"), ("1\nv", "0\n")];
    for (verb, lines, outcome) in good().into_iter().skip(1) {
        let word = lines[1].0;
        let talks = vec![moved(word), moved(word), talk(&lines, Then::Close)];
        let run = Lab::one(verb.clone()).server(addr(1), talks).run();
        assert_eq!(run.only(), &Ok(outcome), "{verb:?}");
        assert_eq!(run.dials, 3);
    }
    // Also where it turns out only after the value.
    let good = [("LOCATE\nK\n", A), ("INSERT\nK\n", "1\n"), ("1\nv", "1\n")];
    let talks = vec![talk(&insert, Then::Close), talk(&good, Then::Close)];
    let lab = Lab::one(Verb::Insert(Bytes::from_static(b"v")));
    assert_eq!(
        lab.server(addr(1), talks).run().only(),
        &Ok(Outcome::Inserted)
    );
}

#[test]
fn a_try_that_fails_in_any_quick_way_is_made_again() {
    let bad: [(&[Lines], Then); 7] = [
        (&[], Then::Close),
        (&[("LOCATE\nK\n", "")], Then::Close),
        (&[("LOCATE\nK\n", "10.0.0")], Then::Finish),
        (&[("LOCATE\nK\n", "garbage\n")], Then::Stay),
        (&[("LOCATE\nK\n", A), ("GET\nK\n", "1\n")], Then::Reset),
        (
            &[("LOCATE\nK\n", A), ("GET\nK\n", "1\n5\nhel")],
            Then::Close,
        ),
        (
            &[("LOCATE\nK\n", A), ("GET\nK\n", "1\n5\nhel")],
            Then::Reset,
        ),
    ];
    let good = [("LOCATE\nK\n", A), ("GET\nK\n", "1\n5\nhello")];
    for (lines, then) in bad {
        let talks = vec![talk(lines, then), talk(&good, Then::Close)];
        let run = Lab::one(Verb::Get).server(addr(1), talks).run();
        let hello = Outcome::Got(Some(Bytes::from_static(b"hello")));
        assert_eq!(run.only(), &Ok(hello), "{lines:?}");
        assert_eq!(run.dials, 2, "{lines:?}");
    }
}

#[test]
fn a_node_may_know_itself_by_another_address() {
    // Whatever A says of the owner first is believed; from then on, each must be closer.
    let at_b = [("LOCATE\nK\n", B), ("REMOVE\nK\n", "1\n1\n")];
    let run = Lab::one(Verb::Remove)
        .server(addr(1), vec![talk(&[("LOCATE\nK\n", B)], Then::Close)])
        .server(addr(2), vec![talk(&at_b, Then::Close)])
        .run();
    assert_eq!(run.only(), &Ok(Outcome::Removed));
}

/// Servers by falling distance to the key, each of which names the next.
fn chain(lab: Lab, length: usize) -> (Lab, SocketAddrV4) {
    let mut addrs: Vec<SocketAddrV4> = (2..100).map(addr).collect();
    addrs.sort_by_key(|&addr| std::cmp::Reverse(Id::of_addr(addr).distance_to(key())));
    addrs.truncate(length);
    let owner = addrs[length - 1];
    let names = addrs.iter().chain([&owner]).map(|addr| format!("{addr}\n"));
    let mut lab = lab;
    for (at, name) in [&addr(1)].into_iter().chain(&addrs).zip(names) {
        let answer: &'static str = name.leak();
        lab = lab.server(*at, vec![talk(&[("LOCATE\nK\n", answer)], Then::Close)]);
    }
    (lab, owner)
}

#[test]
fn hops_have_a_limit() {
    let bounds = Bounds {
        hops_max: 5,
        ..Bounds::default()
    };
    for length in [1, 4, 5] {
        let (lab, owner) = chain(Lab::bounded(Verb::Locate, bounds), length);
        let run = lab.run();
        assert_eq!(run.only(), &Ok(Outcome::Located(owner)));
        assert_eq!(run.dials, length + 1);
    }
    for length in [6, 20] {
        let (lab, _) = chain(Lab::bounded(Verb::Locate, bounds), length);
        let run = lab.run();
        assert_eq!(run.only(), &Err(Failure::TooManyHops { hops: 6 }));
        assert_eq!(run.dials, 6 * bounds.attempts_max as usize);
    }
}

#[test]
fn a_write_may_take_as_long_as_a_connection_may_be_silent() {
    // An owner holds a write back for up to 30 s while its range moves.
    let limits = Limits::default();
    assert!(limits.idle > Ticks::from_secs(30) && limits.message < Ticks::from_secs(30));
    let value = Bytes::from_static(b"v");
    for verb in [Verb::Insert(value), Verb::Remove] {
        let tasks = vec![Task {
            verb: verb.clone(),
            key: key(),
        }];
        let mut lab = Lab::new(tasks, Bounds::default(), limits.clone(), 1);
        let listener = lab.world.listen(addr(1));
        lab.world.run_for(Ticks(2));
        let peer = lab.world.accept(listener).expect("it dials");
        for (answer, after) in [(A, 1), ("1\n", 30), ("1\n", 1)] {
            lab.world.peer(peer).send(answer.as_bytes());
            lab.world.run_for(Ticks::from_secs(after));
        }
        let nobody = Client::new(addr(1), Vec::new(), Bounds::default(), 1);
        assert!(!lab.world.is_up(lab.id), "{verb:?} waits for nothing more");
        let results = lab.world.restart(lab.id, nobody).into_results();
        assert!(matches!(results[0], Some(Ok(_))), "{verb:?}: {results:?}");
    }
}

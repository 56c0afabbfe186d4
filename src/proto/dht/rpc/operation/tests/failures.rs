//! Peers that lead nowhere: each ends in a failure that names the reason, in bounded time.

use super::*;

const TRIES: usize = 7;

/// Fails every try against one server with these talks.
#[track_caller]
fn assert_fails(verb: Verb, talks: Vec<Talk>, failure: &Failure) {
    let (shown, count) = (format!("{talks:?}"), talks.len());
    let run = Lab::one(verb).server(addr(1), talks).run();
    assert_eq!(run.only(), &Err(failure.clone()), "{shown}");
    assert_eq!(run.dials, TRIES * count, "{shown}");
    // The pauses of the default bounds, and a little for each try.
    assert!(run.took < Ticks::from_secs(5), "{:?}: {shown}", run.took);
}

#[test]
fn one_that_closes_instead_of_answering() {
    let addr = addr(1);
    let value = || Verb::Insert(Bytes::from_static(b"v"));
    for then in [Then::Finish, Then::Close, Then::Reset] {
        let cut = &Failure::CutOff { addr };
        assert_fails(Verb::Get, vec![talk(&[], then)], cut);
        assert_fails(Verb::Get, vec![talk(&[("LOCATE\nK\n", "")], then)], cut);
        // After LOCATE it is asked once more on a new connection, and closes that one too.
        let locate = talk(&[("LOCATE\nK\n", A)], then);
        for verb in [Verb::Contains, Verb::Get, value(), Verb::Remove] {
            assert_fails(verb, vec![locate.clone(), talk(&[], then)], cut);
        }
        for (verb, word, answers) in [
            (Verb::Contains, "CONTAINS\nK\n", &["1", "1\n", "1\n1"][..]),
            (
                Verb::Get,
                "GET\nK\n",
                &["1\n", "1\n12", "1\n2\n", "1\n2\nx"],
            ),
            (value(), "INSERT\nK\n", &["1"]),
            (Verb::Remove, "REMOVE\nK\n", &["1", "1\n", "1\n0"]),
        ] {
            for answer in answers {
                let lines = [("LOCATE\nK\n", A), (word, answer)];
                let first_line = answer.contains('\n');
                let talks = if first_line {
                    vec![talk(&lines, then)]
                } else {
                    vec![talk(&lines[..1], then), talk(&lines[1..], then)]
                };
                assert_fails(verb.clone(), talks, cut);
            }
        }
        let lines = [("LOCATE\nK\n", A), ("INSERT\nK\n", "1\n"), ("1\nv", "")];
        assert_fails(value(), vec![talk(&lines, then)], cut);
    }
}

#[test]
fn one_that_talks_nonsense() {
    let long = "1".repeat(300).leak();
    let malformed = |m: wire::Malformed| Failure::Malformed {
        addr: addr(1),
        what: m.what(),
    };
    use wire::Malformed::{Ack, Address, LineTooLong, Number};
    for (answer, reason) in [
        ("garbage\n", Address),
        ("\n", Address),
        ("0.0.0.0:4000\n", Address),
        ("10.0.0.1:0\n", Address),
        ("255.255.255.255:1\n", Address),
        ("localhost:4000\n", Address),
        ("1\n", Address),
        (long, LineTooLong),
    ] {
        for then in [Then::Stay, Then::Close] {
            let lines = [("LOCATE\nK\n", answer)];
            assert_fails(Verb::Get, vec![talk(&lines, then)], &malformed(reason));
        }
    }
    for (answer, reason) in [
        ("2\n", Ack),
        ("yes\n", Ack),
        ("\n", Ack),
        ("10.0.0.1:4000\n", Ack),
        (long, LineTooLong),
        ("1\n-1\n", Number),
        ("1\n18446744073709551616\n", Number),
        ("1\n\n", Number),
    ] {
        let lines = [("LOCATE\nK\n", A), ("GET\nK\n", answer)];
        assert_fails(
            Verb::Get,
            vec![talk(&lines, Then::Stay)],
            &malformed(reason),
        );
    }
    // The answer to LOCATE, and then more than was asked for.
    let lines = [("LOCATE\nK\n", "10.0.0.1:4000\nhello\n")];
    assert_fails(Verb::Get, vec![talk(&lines, Then::Stay)], &malformed(Ack));
}

#[test]
fn one_that_does_not_store() {
    let addr = addr(1);
    let verb = || Verb::Insert(Bytes::from_static(b"v"));
    for then in [Then::Stay, Then::Close] {
        let stored = [("LOCATE\nK\n", A), ("INSERT\nK\n", "1\n"), ("1\nv", "0\n")];
        assert_fails(
            verb(),
            vec![talk(&stored, then)],
            &Failure::Refused { addr },
        );
        let owned = [("LOCATE\nK\n", A), ("INSERT\nK\n", "0\n")];
        assert_fails(
            verb(),
            vec![talk(&owned, then)],
            &Failure::NotOwner { addr },
        );
        let removed = [("LOCATE\nK\n", A), ("REMOVE\nK\n", "1\n0\n")];
        assert_fails(
            Verb::Remove,
            vec![talk(&removed, then)],
            &Failure::Refused { addr },
        );
    }
}

#[test]
fn two_that_send_us_to_each_other() {
    for verb in [Verb::Locate, Verb::Get] {
        let run = Lab::one(verb)
            .server(addr(1), vec![talk(&[("LOCATE\nK\n", B)], Then::Close)])
            .server(
                addr(2),
                vec![
                    talk(&[("LOCATE\nK\n", A)], Then::Close),
                    // It names no other node.
                    talk(&[("LOCATE\n#\n", B)], Then::Close),
                ],
            )
            .run();
        assert!(
            matches!(run.only(), Err(Failure::Misrouted { .. })),
            "{:?}",
            run.only()
        );
        assert!(run.dials <= 4 * TRIES && run.took < Ticks::from_secs(5));
    }
}

#[test]
fn a_value_over_the_limit_is_refused_unread() {
    let bytes = 10 << 30;
    let lines = [("LOCATE\nK\n", A), ("GET\nK\n", "1\n10737418240\nsome")];
    for then in [Then::Stay, Then::Close] {
        let run = Lab::one(Verb::Get)
            .server(addr(1), vec![talk(&lines, then)])
            .run();
        let max_bytes = Bounds::default().value_bytes_max;
        let (addr, dials) = (addr(1), 1);
        assert_eq!(
            run.only(),
            &Err(Failure::TooLarge {
                addr,
                bytes,
                max_bytes
            })
        );
        assert_eq!(run.dials, dials, "asking again would not help");
    }
    // Within the limit it is allocated as it comes.
    let mut operation = Operation::new(Verb::Get, key(), vec![addr(1)], Bounds::default());
    let mut out = Vec::new();
    operation.start();
    operation.dialled(&mut out);
    for text in [A, "1\n", "67108864\n", "some"] {
        let input = Input {
            bytes: text.as_bytes(),
            seen: 0,
        };
        assert_eq!(operation.input(input, &mut out).1, Next::Wait);
    }
    assert!(operation.value.capacity() < 100);
}

#[test]
fn one_that_is_not_there() {
    let addr = addr(1);
    let (kind, dial) = (ErrorKind::ConnectionRefused, Limits::default().dial);
    let run = Lab::one(Verb::Get).deaf(addr, Answer::Refuse).run();
    assert_eq!(run.only(), &Err(Failure::Unreachable { addr, kind }));
    assert!(run.took < Ticks::from_secs(5));
    let run = Lab::one(Verb::Get).deaf(addr, Answer::Ignore).run();
    let kind = ErrorKind::TimedOut;
    assert_eq!(run.only(), &Err(Failure::Unreachable { addr, kind }));
    assert!(
        run.took < Ticks(dial.0 * TRIES as u64 + 500),
        "{:?}",
        run.took
    );
}

#[test]
fn one_that_says_nothing() {
    let addr = addr(1);
    let silent: [&[Lines]; 5] = [
        &[("LOCATE\nK\n", "")],
        &[("LOCATE\nK\n", "10.0.0.1")],
        &[("LOCATE\nK\n", A), ("GET\nK\n", "")],
        &[("LOCATE\nK\n", A), ("GET\nK\n", "1\n")],
        &[("LOCATE\nK\n", A), ("GET\nK\n", "1\n5\nhell")],
    ];
    let waits = limits().idle.0.max(limits().message.0);
    for lines in silent {
        let run = Lab::one(Verb::Get)
            .server(addr, vec![talk(lines, Then::Stay)])
            .run();
        assert_eq!(run.only(), &Err(Failure::TimedOut { addr }), "{lines:?}");
        // Not again: somebody waits, and has waited as long as was said.
        assert_eq!(run.dials, 1);
        assert!(run.took < Ticks(waits + 100), "{:?}", run.took);
    }
}

#[test]
fn a_hop_that_is_not_there() {
    let there = talk(&[("LOCATE\nK\n", A), ("REMOVE\nK\n", "1\n1\n")], Then::Stay);
    let away = talk(&[("LOCATE\nK\n", B)], Then::Stay);
    let around = talk(&[("LOCATE\n@\n", A)], Then::Stay);
    let talks = vec![away.clone(), around.clone(), there];
    let lab = Lab::one(Verb::Remove).server(addr(1), talks);
    assert_eq!(
        lab.run().only(),
        &Ok(Outcome::Removed),
        "the ring got over it"
    );
    let talks = vec![away, around];
    let run = Lab::one(Verb::Remove).server(addr(1), talks).run();
    let (addr, kind) = (addr(2), ErrorKind::ConnectionRefused);
    assert_eq!(run.only(), &Err(Failure::Unreachable { addr, kind }));
}

//! How connections end: every half comes back once, nothing is left, and what was answered is delivered.

use std::io::ErrorKind;

use crate::engine::{Blame, Deadline, End, Limits, Ticks, Violation};
use crate::sim::{Answer, Ending};

use super::lines::Conn;
use super::{addr, ask, assert_nothing_left, one_server, secs};

/// A pipelined exchange with every kind of message in it.
const EXCHANGE: &[u8] = b"echo one\nput 7\nabc\ndefblob 9\necho two\nbig 20000\nwait 3\necho 3\n\
    notes 2\nput 1\nxwait 1\necho last\nbye\n";

fn answers() -> Vec<u8> {
    let (mut world, _) = one_server(1, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(EXCHANGE);
    world.until(secs(5), |w| w.peer(peer).is_closed());
    world.peer(peer).take()
}

#[test]
fn the_exchange_is_answered_in_order() {
    let got = answers();
    let text = String::from_utf8(got).unwrap();
    let x = "x".repeat(20_000);
    // The notes come after the turn's service calls, and so behind `got 1`.
    let want = format!(
        "ONE\ngot 7\nbbbbbbbbbTWO\n{x}waited\n3\ngot 1\nnote 0\nnote 1\nwaited\nLAST\nbye\n"
    );
    assert_eq!(text, want);
}

/// A `Wait` for what the same call has resumed does not wait.
#[test]
fn a_resume_from_inside_the_call_sticks() {
    let (mut world, _) = one_server(1, Limits::default());
    let (_, got) = ask(&mut world, b"ready\necho x\n", 2);
    assert_eq!(got, b"X\n");
}

#[test]
fn a_step_of_nothing_waits_for_more() {
    let (mut world, id) = one_server(1, Limits::default());
    for step in [&b"none\n"[..], b"none take\n"] {
        let peer = world.connect(addr(1));
        world.peer(peer).send(step);
        world.run_for(secs(1));
        assert_eq!(world.peer(peer).take(), b"", "and the node does not spin");
        world.peer(peer).send(b"x");
        world.run_for(secs(1));
        let all = format!("given {}\n", step.len() + 1);
        assert_eq!(world.peer(peer).take(), all.as_bytes());
    }
    let (_, got) = ask(&mut world, b"none wait\n", 16);
    assert_eq!(got, b"waited\ngiven 10\n", "all of it is offered again");
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"over\n");
    world.until(secs(1), |w| w.peer(peer).is_closed());
    let end = *world.service(id).ends.last().unwrap();
    assert!(
        matches!(end, End::Violation(v) if v.blame == Blame::Us),
        "{end:?}"
    );
}

/// Without notes, whose place depends on the turn.
fn exchange_without_notes() -> Vec<u8> {
    let text = String::from_utf8(EXCHANGE.to_vec()).unwrap();
    text.replace("notes 2\n", "").into_bytes()
}

fn answers_without_notes() -> Vec<u8> {
    let text = String::from_utf8(answers()).unwrap();
    text.replace("note 0\nnote 1\n", "").into_bytes()
}

#[test]
fn a_split_at_any_byte_changes_nothing() {
    let (exchange, want) = (exchange_without_notes(), answers_without_notes());
    for at in 0..=exchange.len() {
        let (mut world, id) = one_server(at as u64, Limits::default());
        let peer = world.connect(addr(1));
        world.peer(peer).send(&exchange[..at]);
        world.run_for(secs(1));
        world.peer(peer).send(&exchange[at..]);
        world.until(secs(5), |w| w.peer(peer).is_closed());
        assert!(world.peer(peer).take() == want, "split at {at}");
        world.peer(peer).close();
        world.run_for(secs(1));
        assert_nothing_left(&world, id);
    }
}

#[test]
fn byte_by_byte_changes_nothing() {
    let (mut world, _) = one_server(1, Limits::default());
    let peer = world.connect(addr(1));
    for byte in exchange_without_notes() {
        world.peer(peer).send(&[byte]);
        world.run_for(Ticks(1));
    }
    world.until(secs(5), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).take(), answers_without_notes());
}

#[test]
fn an_eof_at_any_byte_leaves_nothing_behind() {
    let (exchange, want) = (exchange_without_notes(), answers_without_notes());
    for at in 0..=exchange.len() {
        let (mut world, id) = one_server(at as u64, Limits::default());
        let peer = world.connect(addr(1));
        world.peer(peer).send(&exchange[..at]);
        world.peer(peer).finish();
        world.run_for(secs(3));
        assert_nothing_left(&world, id);
        let got = world.peer(peer).take();
        assert!(want.starts_with(&got), "EOF after {at} bytes");
        // Every command that was complete is answered.
        let whole = exchange[..at].iter().filter(|&&b| b == b'\n').count();
        assert!(whole == 0 || !got.is_empty(), "EOF after {at} bytes");
        assert_eq!(
            world.peer(peer).ending(),
            Some(Ending::Fin),
            "EOF after {at} bytes"
        );
    }
}

#[test]
fn a_reset_at_any_byte_leaves_nothing_behind() {
    let exchange = exchange_without_notes();
    for at in 0..=exchange.len() {
        let (mut world, id) = one_server(at as u64, Limits::default());
        let peer = world.connect(addr(1));
        world.peer(peer).send(&exchange[..at]);
        world.peer(peer).reset();
        world.run_for(secs(3));
        assert_nothing_left(&world, id);
    }
}

#[test]
fn a_half_close_after_the_request_still_gets_the_whole_reply() {
    let (mut world, id) = one_server(7, Limits::default());
    for request in [
        &b"big 1000000\n"[..],
        b"wait 200\nbig 1000000\n",
        b"blob 700000\nbig 300000\n",
    ] {
        let peer = world.connect(addr(1));
        world.peer(peer).send(request);
        world.peer(peer).finish();
        world.until(secs(10), |w| w.peer(peer).is_closed());
        let waited = usize::from(request.starts_with(b"wait")) * "waited\n".len();
        assert_eq!(world.peer(peer).take().len(), 1_000_000 + waited);
        assert_eq!(world.peer(peer).ending(), Some(Ending::Fin));
    }
    world.run_for(secs(1));
    assert_nothing_left(&world, id);
}

#[test]
fn input_rests_while_an_answer_is_waited_for() {
    let (mut world, _) = one_server(1, Limits::default());
    let peer = world.connect(addr(1));
    world
        .peer(peer)
        .send(b"wait 100\necho a\nwait 100\necho b\n");
    world.run_for(Ticks(102));
    assert_eq!(world.peer(peer).take(), b"waited\nA\n");
    world.peer(peer).send(b"echo c\n");
    world.run_for(Ticks(101));
    assert_eq!(world.peer(peer).take(), b"waited\nB\nC\n");
}

#[test]
fn an_eof_or_a_reset_while_an_answer_is_waited_for() {
    let (mut world, id) = one_server(1, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"wait 100\necho a\n");
    world.run_for(Ticks(10));
    world.peer(peer).finish();
    world.until(secs(2), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).take(), b"waited\nA\n");
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"wait 100\necho a\n");
    world.run_for(Ticks(10));
    world.peer(peer).reset();
    world.run_for(secs(2));
    assert_eq!(world.service(id).ends.len(), 2);
    assert_nothing_left(&world, id);
}

#[test]
fn a_late_resume_of_a_connection_that_is_gone_does_nothing() {
    let (mut world, id) = one_server(1, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"wait 1\n");
    world.until(secs(1), |w| w.service(id).last_wait.is_some());
    let old = world.service(id).last_wait.unwrap();
    world.peer(peer).reset();
    world.run_for(secs(1));
    assert_eq!(world.node(id).conns(), 0);
    let next = world.connect(addr(1));
    world.peer(next).send(b"wait 1000\n");
    world.until(secs(1), |w| w.node(id).conns() == 1);
    let before = world.node(id).stats().stale;
    world.with(id, |_, hub| {
        hub.resume(old);
        hub.close_conn(old);
        hub.notify(old, 1);
        assert!(hub.output_of(old).is_none() && hub.peer_of(old).is_none());
    });
    world.run_for(secs(1));
    assert_eq!(world.node(id).conns(), 1);
    assert_eq!(
        world.node(id).stats().stale,
        before + 3,
        "close, note and write are counted"
    );
    assert_eq!(world.peer(next).received(), b"");
}

#[test]
fn the_last_reply_reaches_a_peer_that_is_still_sending() {
    for request in ["bye\n", "refuse\n", "echo a\nbye\n"] {
        let (mut world, id) = one_server(3, Limits::default());
        let peer = world.connect(addr(1));
        world.peer(peer).set_window(1000);
        world.peer(peer).send(request.as_bytes());
        world.peer(peer).send(&[b'z'; 100_000]);
        world.until(secs(5), |w| w.peer(peer).is_closed());
        assert_eq!(world.peer(peer).ending(), Some(Ending::Fin), "{request:?}");
        assert!(world.peer(peer).take().ends_with(b"e\n") || request == "refuse\n");
        world.peer(peer).close();
        world.run_for(secs(3));
        assert_nothing_left(&world, id);
    }
}

#[test]
fn a_peer_that_never_closes_lingers_for_no_longer_than_the_limit() {
    let (mut world, id) = one_server(3, Limits::default());
    let (peer, got) = ask(&mut world, b"bye\n", 4);
    assert_eq!(got, b"bye\n");
    assert_eq!(world.node(id).conns(), 1);
    world.run_for(Ticks(1));
    assert_eq!(
        world.peer(peer).ending(),
        Some(Ending::Fin),
        "our side ends at once"
    );
    world.run_for(Ticks(201));
    assert_nothing_left_of_node(&world, id);
    // What it sends now is answered with a reset.
    world.peer(peer).send(b"more");
    world.run_for(secs(1));
    assert_eq!(world.peer(peer).received(), b"");
}

fn assert_nothing_left_of_node(world: &crate::sim::World<super::lines::Lines>, id: super::NodeId) {
    assert_eq!(
        (world.node(id).conns(), world.node(id).next_deadline()),
        (0, None)
    );
}

#[test]
fn every_kind_of_end_is_told_once() {
    let (mut world, id) = one_server(5, Limits::default());
    let cases: [(&[u8], End); 4] = [
        (b"bye\n", End::Closed),
        (b"close\n", End::Closed),
        (b"refuse\n", End::Violation(Violation::peer("refused"))),
        (
            b"nonsense\n",
            End::Violation(Violation::peer("unknown command")),
        ),
    ];
    for (request, end) in cases {
        let peer = world.connect(addr(1));
        world.peer(peer).send(request);
        world.until(secs(5), |w| w.peer(peer).is_closed());
        world.peer(peer).close();
        world.run_for(secs(3));
        assert_eq!(world.service(id).ends.last(), Some(&end));
        assert_nothing_left(&world, id);
    }
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo half");
    world.run_for(secs(1));
    world.peer(peer).reset();
    world.run_for(secs(1));
    let broken = End::Broken(ErrorKind::ConnectionReset);
    assert_eq!(world.service(id).ends.last(), Some(&broken));
    assert_nothing_left(&world, id);
    assert_eq!(world.service(id).ends.len(), 5);
}

#[test]
fn dials_fail_as_they_should() {
    let (mut world, id) = one_server(5, Limits::default());
    let silent = world.listen(addr(2));
    world.answer(silent, Answer::Ignore);
    let refusing = world.listen(addr(3));
    world.answer(refusing, Answer::Refuse);
    for (to, end, after) in [
        (addr(2), End::Timeout(Deadline::Dial), secs(3)),
        (
            addr(3),
            End::Unreachable(ErrorKind::ConnectionRefused),
            secs(0),
        ),
        (
            addr(4),
            End::Unreachable(ErrorKind::ConnectionRefused),
            secs(0),
        ),
    ] {
        let began = world.now();
        world.with(id, |service, hub| {
            service.opened += 1;
            hub.dial(to, None, Conn::Client);
        });
        let told = world.service(id).ends.len() + 1;
        world.until(secs(10), |w| w.service(id).ends.len() == told);
        assert_eq!(world.service(id).ends.last(), Some(&end));
        let took = world.now().since(began);
        assert!(after <= took && took.0 <= after.0 + 2, "{took:?}");
        world.run_for(Ticks(1));
        assert_nothing_left(&world, id);
    }
}

#[test]
fn a_dial_to_a_scripted_server_carries_bytes_both_ways() {
    let (mut world, id) = one_server(5, Limits::default());
    let listener = world.listen(addr(2));
    let to = addr(2);
    let conn = world.with(id, |service, hub| {
        service.opened += 1;
        hub.dial(to, None, Conn::Line)
    });
    world.until(secs(1), |w| !w.service(id).dialled.is_empty());
    world.with(id, |_, hub| {
        hub.output_of(conn).unwrap().extend_from_slice(b"hello")
    });
    let peer = world.accept(listener).expect("a connection waits");
    world.until(secs(1), |w| w.peer(peer).received() == b"hello");
    world.peer(peer).send(b"echo back\n");
    world.peer(peer).finish();
    world.until(secs(1), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).received(), b"helloBACK\n");
    world.run_for(secs(1));
    assert_nothing_left(&world, id);
}

#[test]
fn a_dial_that_is_closed_before_it_is_there() {
    let (mut world, id) = one_server(5, Limits::default());
    for wait_us in [0, 1, 2] {
        world.with(id, |service, hub| {
            service.opened += 1;
            let conn = hub.dial(addr(1), None, Conn::Client);
            if wait_us == 0 {
                hub.close_conn(conn);
            }
            service.last_wait = Some(conn);
        });
        let events = world.events() + wait_us;
        world.until(secs(1), |w| w.events() >= events);
        let conn = world.service(id).last_wait.unwrap();
        world.with(id, |_, hub| hub.close_conn(conn));
        world.run_for(secs(3));
        assert_nothing_left(&world, id);
    }
}

/// A refused peer is told what was written, and no half ends.
#[test]
fn a_refusal() {
    let (mut world, id) = one_server(1, Limits::default());
    world.with(id, |service, _| service.refuses = true);
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo one\n");
    world.until(secs(1), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).received(), b"no\n");
    world.peer(peer).finish();
    world.run_for(secs(1));
    assert_eq!(world.service(id).ends, []);
    assert_nothing_left(&world, id);
}

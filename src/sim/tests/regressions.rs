//! Each test here found a bug of the engine and fails without its fix.

use crate::engine::{Deadline, End, Limits, Ticks};
use crate::sim::{Answer, Ending, Span, World};

use super::{
    addr,
    lines::{Conn, Lines},
    one_server, secs,
};

/// Lingering was decided by what was queued at the close alone: with the answer already in the network, closing
/// on input still to come reset the connection, and the answer was lost.
#[test]
fn replies_under_way_survive_a_violation_in_a_later_turn() {
    let (mut world, id) = one_server(3, Limits::default());
    let mut slow = world.faults().clone();
    slow.latency = Span::ms(50, 60);
    world.set_faults(slow);
    let peer = world.connect(addr(1));
    world.until(secs(1), |w| w.peer(peer).is_connected());
    world.peer(peer).send(b"echo first\n");
    world.run_for(Ticks(1));
    // The answer is in the network when a bad command closes the connection, with more behind it.
    world.peer(peer).send(b"nonsense\n");
    world.run_for(Ticks(2));
    world.peer(peer).send(&[b'z'; 100_000]);
    world.until(secs(5), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).received(), b"FIRST\n");
    assert_eq!(world.peer(peer).ending(), Some(Ending::Fin));
    assert_eq!(world.node(id).stats().ended_by_peer_fault, 1);
}

/// The limit was checked against all dials of the turn, so that a burst lost its oldest ones.
#[test]
fn the_dials_beyond_the_limit_are_the_ones_refused() {
    let limits = Limits {
        dials_max: 4,
        ..Limits::default()
    };
    let (mut world, id) = one_server(2, limits);
    let listener = world.listen(addr(2));
    let dial = |world: &mut World<Lines>, count: usize| {
        world.with(id, |service, hub| {
            service.opened += count;
            (0..count)
                .map(|_| hub.dial(addr(2), None, Conn::Client))
                .collect::<Vec<_>>()
        })
    };
    let asked = dial(&mut world, 10);
    world.run_for(secs(1));
    assert_eq!(world.service(id).ends, [End::Limit("dials_max"); 6]);
    let mut dialled = world.service(id).dialled.clone();
    dialled.sort();
    assert_eq!(dialled, asked[..4], "the first four");
    world.answer(listener, Answer::Ignore);
    dial(&mut world, 3);
    world.run_for(secs(1));
    let later = dial(&mut world, 3);
    assert_eq!(later.len(), 3);
    world.run_for(secs(1));
    assert_eq!(
        world.service(id).ends.len(),
        6 + 2,
        "one of the later three fits"
    );
    world.run_for(secs(10));
    assert_eq!(world.service(id).ends.len(), 6 + 2 + 4);
}

/// What was moved quickly was credit for hours of moving nothing, and input was credit for output.
#[test]
fn a_fast_reader_or_sender_that_stops_has_no_credit() {
    let (mut world, id) = one_server(2, Limits::default());
    let reader = world.connect(addr(1));
    world.peer(reader).send(b"big 50000000\n");
    world.until(secs(60), |w| w.peer(reader).received().len() > 5_000_000);
    world.peer(reader).stop_reading();
    let sender = world.connect(addr(1));
    world.peer(sender).send(b"put 50000000\n");
    world.peer(sender).send(&[b'x'; 5_000_000]);
    world.until(secs(60), |w| w.peer(sender).unsent() == 0);
    world.run_for(secs(9));
    assert_eq!(world.node(id).conns(), 2);
    world.run_for(secs(2));
    assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Message)]);
    world.run_for(secs(18));
    assert_eq!(world.node(id).conns(), 1);
    world.run_for(secs(3));
    assert_eq!(
        world.service(id).ends.last(),
        Some(&End::Timeout(Deadline::Drain))
    );
}

/// As above: what a peer sends says nothing of what it takes.
#[test]
fn a_peer_that_sends_and_never_reads_is_closed() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).stop_reading();
    world.peer(peer).send(b"blob 200000\nput 50000000\n");
    for _ in 0..32 {
        world.peer(peer).send(&[b'x'; 5000]);
        world.run_for(secs(1));
    }
    assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Drain)]);
}

/// Output that another connection or a timer wrote did not pause a connection, so that a relaying connection was never
/// told of room.
#[test]
fn output_written_from_elsewhere_pauses_too() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    world.until(secs(1), |w| w.peer(peer).is_connected());
    world.peer(peer).send(b"echo a\n");
    world.until(secs(1), |w| w.peer(peer).received() == b"A\n");
    world.peer(peer).stop_reading();
    let conn = world.service(id).accepted[0];
    let much = bytes::Bytes::from(vec![b'x'; 400_000]);
    world.with(id, |_, hub| assert!(hub.send_to(conn, &much)));
    world.run_for(secs(1));
    assert_eq!(world.node(id).stats().paused, 1);
    world.peer(peer).send(b"echo b\n");
    world.run_for(secs(1));
    assert_eq!(world.node(id).stats().messages, 1, "input rests");
    world.peer(peer).read_again();
    world.until(secs(5), |w| w.peer(peer).received().ends_with(b"xB\n"));
}

//! Deadlines, budgets and bounds.

use std::collections::BTreeSet;

use crate::engine::{ConnId, Deadline, End, Limits, Ticks};
use crate::sim::{Ending, Faults, Span};

use super::{addr, ask, assert_nothing_left, one_server, secs};

#[test]
fn a_slow_reader_stops_production_and_is_closed_in_the_end() {
    let limits = Limits::default();
    let (mut world, id) = one_server(2, limits.clone());
    let peer = world.connect(addr(1));
    world.peer(peer).stop_reading();
    world.peer(peer).send(b"big 50000000\n");
    world.run_for(secs(29));
    let produced = world.service(id).produced;
    let bound = limits.output_bytes_high + 64 * 1024 + 16 * 1024;
    assert!(
        produced <= bound,
        "{produced} bytes for a peer that reads nothing"
    );
    assert_eq!(world.node(id).conns(), 1);
    world.run_for(secs(2));
    assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Drain)]);
    world.peer(peer).reset();
    world.run_for(secs(1));
    assert_nothing_left(&world, id);
}

#[test]
fn a_reader_that_keeps_the_pace_is_served_to_the_end() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"big 1000000\n");
    for _ in 0..100_000 {
        world.peer(peer).stop_reading();
        world.run_for(secs(5));
        world.peer(peer).read_again();
        if world.peer(peer).received().len() == 1_000_000 {
            break;
        }
    }
    assert_eq!(world.peer(peer).received().len(), 1_000_000);
    assert!(world.service(id).ends.is_empty());
    assert!(world.node(id).stats().paused > 0);
}

#[test]
fn a_slow_message_is_ended_by_its_own_deadline_and_not_by_each_read() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"e");
    for sent in 1..20 {
        world.run_for(secs(1));
        if world.peer(peer).is_closed() {
            assert!((10..=11).contains(&sent), "closed after {sent} s");
            assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Message)]);
            return;
        }
        world.peer(peer).send(b"c");
    }
    panic!("a byte a second kept the message alive");
}

#[test]
fn a_body_at_the_least_pace_is_taken_and_a_slower_one_is_not() {
    for (per_second, taken) in [(1100, true), (600, false)] {
        let (mut world, id) = one_server(2, Limits::default());
        let peer = world.connect(addr(1));
        world.peer(peer).send(b"put 100000\n");
        for _ in 0..100_000 / per_second + 1 {
            world.peer(peer).send(&vec![b'x'; per_second]);
            world.run_for(secs(1));
        }
        let late = [End::Timeout(Deadline::Message)];
        assert_eq!(world.peer(peer).received() == b"got 100000\n", taken);
        assert_eq!(world.service(id).ends.first() == late.first(), !taken);
    }
}

#[test]
fn each_message_has_a_deadline_of_its_own() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    // Always in the middle of a message, each of them 6 s old at most.
    world.peer(peer).send(b"echo 0");
    for n in 1..20 {
        world.run_for(secs(6));
        world.peer(peer).send(format!("\necho {n}").as_bytes());
    }
    world.run_for(secs(1));
    assert!(world.service(id).ends.is_empty());
    assert_eq!(world.node(id).stats().messages, 19);
}

#[test]
fn an_idle_connection_is_closed_and_serving_does_not_touch_the_wheel() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    for _ in 0..600 {
        world.peer(peer).send(b"echo x\n");
        world.run_for(secs(1));
    }
    let fired = world.node(id).stats().timers_fired;
    assert!(
        fired <= 600 / 59 + 2,
        "{fired} timers for 600 messages in 600 s"
    );
    world.run_for(secs(58));
    assert_eq!(world.node(id).conns(), 1);
    world.run_for(secs(2));
    assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Idle)]);
    assert_eq!(world.peer(peer).ending(), Some(Ending::Fin));
}

#[test]
fn no_deadline_runs_while_we_owe_the_answer() {
    let (mut world, id) = one_server(2, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"wait 30000\n");
    world.run_for(secs(301));
    assert_eq!(world.peer(peer).take(), b"waited\n");
    assert!(world.service(id).ends.is_empty());
    world.run_for(secs(60));
    assert_eq!(world.service(id).ends, [End::Timeout(Deadline::Idle)]);
}

#[test]
fn a_flood_on_one_connection_does_not_starve_another() {
    let (mut world, id) = one_server(2, Limits::default());
    world.validate_turns(false);
    let mut faults = Faults::none();
    faults.window_bytes = 8 << 20;
    world.set_faults(faults);
    let flood = world.connect(addr(1));
    world.peer(flood).send(&b"echo x\n".repeat(200_000));
    world.until(secs(1), |w| w.node(id).stats().messages > 100);
    let before = world.node(id).stats().turns;
    let (_, got) = ask(&mut world, b"echo quick\n", 6);
    assert_eq!(got, b"QUICK\n");
    let turns = world.node(id).stats().turns - before;
    // Dial, accept and request take some 600 us of latency, and a turn at most 20 us.
    assert!(turns < 200, "answered after {turns} turns");
    assert!(
        world.peer(flood).received().len() < 200_000,
        "the flood was still going on"
    );
    assert!(world.node(id).stats().budget_spent > 10);
}

#[test]
fn small_budgets_change_no_reply() {
    let (mut world, id) = one_server(2, super::tight());
    let request = b"blob 50000\nput 3000\n"
        .iter()
        .chain(&[b'p'; 3000])
        .copied();
    let request: Vec<u8> = request.chain(b"echo x\n".repeat(100)).collect();
    let (_, got) = ask(&mut world, &request, 50_000 + 9 + 200);
    assert!(got.ends_with(b"bgot 3000\nX\nX\n") || got.ends_with(&b"X\n".repeat(100)));
    let stats = world.node(id).stats();
    assert!(
        stats.budget_spent > 30 && stats.turns > 50,
        "the budgets were met: {stats:?}"
    );
}

#[test]
fn output_and_input_have_a_hard_end() {
    let limits = Limits {
        output_bytes_max: 300_000,
        ..Limits::default()
    };
    let (mut world, id) = one_server(2, limits);
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"blob 400000\n");
    world.run_for(secs(1));
    assert_eq!(world.service(id).ends, [End::Limit("output_bytes_max")]);
    let peer2 = world.connect(addr(1));
    world.peer(peer2).send(&[b'a'; 64 * 1024 - 1]);
    world.run_for(secs(1));
    assert_eq!(
        world.node(id).conns(),
        1,
        "there is room for the end of the message"
    );
    world.peer(peer2).send(b"aa");
    world.run_for(secs(1));
    assert_eq!(
        world.service(id).ends.last(),
        Some(&End::Limit("input_bytes_max"))
    );
    world.peer(peer).close();
    world.peer(peer2).close();
    world.run_for(secs(1));
    assert_nothing_left(&world, id);
}

#[test]
fn a_message_that_just_fits_the_input_is_served() {
    let (mut world, _) = one_server(2, Limits::default());
    let mut line = b"echo ".to_vec();
    line.resize(64 * 1024 - 1, b'a');
    line.push(b'\n');
    let twice = [&line[..], &line[..]].concat();
    let (_, got) = ask(&mut world, &twice, 2 * (line.len() - 5));
    assert_eq!(got.len(), 2 * (line.len() - 5));
}

/// A note too many is not lost unseen: its connection ends.
#[test]
fn notes_and_jobs_beyond_their_limit_are_refused() {
    let limits = Limits {
        notes_max: 5,
        jobs_max: 3,
        ..Limits::default()
    };
    let (mut world, id) = one_server(2, limits);
    let (_, got) = ask(&mut world, b"notes 5\n", 5 * 7);
    assert_eq!(got.len(), 5 * 7);
    assert!(world.service(id).ends.is_empty());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"notes 6\n");
    world.until(secs(1), |w| w.peer(peer).is_closed());
    assert_eq!(world.service(id).ends, [End::Limit("notes_max")]);
    let stats = world.node(id).stats();
    assert_eq!((stats.notes_refused, stats.ended_limit), (1, 1));
    let (_, got) = ask(&mut world, b"jobs 8\n", 3 * 8);
    assert_eq!(got, b"stamped\n".repeat(3));
    assert_eq!(
        (world.service(id).refused, world.service(id).stamped),
        (5, 3)
    );
    assert_eq!(world.node(id).stats().jobs_refused, 5);
    let (_, got) = ask(&mut world, b"jobs 3\n", 3 * 8);
    assert_eq!(got, b"stamped\n".repeat(3), "and there is room again");
}

#[test]
fn a_full_node_leaves_newcomers_in_the_backlog() {
    let limits = Limits {
        conns_max: 2,
        ..Limits::default()
    };
    let (mut world, id) = one_server(2, limits);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let peer = world.connect(addr(1));
        world.peer(peer).send(b"echo x\n");
        world.run_for(secs(1));
        peers.push(peer);
    }
    assert_eq!(world.node(id).conns(), 2);
    assert!(world.peer(peers[2]).is_connected());
    assert_eq!(world.peer(peers[2]).received(), b"");
    world.peer(peers[0]).finish();
    world.run_for(secs(1));
    assert_eq!(world.peer(peers[2]).received(), b"X\n");
}

#[test]
fn a_thousand_repeats_leave_nothing_behind() {
    let (mut world, id) = one_server(2, Limits::default());
    for n in 0..1000 {
        let peer = world.connect(addr(1));
        world.peer(peer).send(b"echo x\nwait 1\nput 3\nab");
        world.run_for(Ticks(3));
        match n % 4 {
            0 => world.peer(peer).finish(),
            1 => world.peer(peer).reset(),
            2 => world.peer(peer).send(b"cnonsense\n"),
            _ => world.peer(peer).send(b"cbye\n"),
        }
        world.run_for(Ticks(3));
        world.peer(peer).close();
        world.run_for(Ticks(3));
    }
    assert_nothing_left(&world, id);
    assert_eq!(world.service(id).ends.len(), 1000);
    assert!(world.net.doors[0].slots.len() <= 2, "slots are used again");
    assert!(world.net.peers.iter().all(|peer| peer.end.is_none()));
}

#[test]
fn a_million_timers_at_once_take_many_turns_and_keep_their_order() {
    const TIMERS: u64 = 1_000_000;
    let (mut world, id) = one_server(2, Limits::default());
    world.validate_turns(false);
    let share = world.node(id).limits().timers_per_turn as u64;
    world.with(id, |_, hub| {
        for n in 0..TIMERS {
            // Of a connection that there is not.
            let nobody = ConnId::from_token(n << 32 | 0xffff);
            hub.arm(secs(1), nobody).expect("below the limit");
        }
        for n in TIMERS..TIMERS + share + 1 {
            let nobody = ConnId::from_token(n << 32 | 0xffff);
            hub.soon(nobody);
            hub.soon(nobody);
        }
    });
    world.until(secs(1), |w| w.service(id).fired.len() as u64 > share);
    assert!(world.node(id).stats().turns >= 2, "those put off, too");
    world.until(secs(2), |w| w.service(id).fired.len() as u64 > share + 1);
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo x\n");
    let (mut turns, mut fired) = (0, 0);
    let mut answered = None;
    world.until(secs(10), |w| {
        let stats = w.node(id).stats();
        let (turn, count) = (stats.turns, stats.timers_fired);
        if turn != turns {
            assert!(count - fired <= share || turns == 0, "{}", count - fired);
            assert!(w.node(id).has_work() || count > TIMERS);
        }
        (turns, fired) = (turn, count);
        if w.peer(peer).received() == b"X\n" {
            answered.get_or_insert(count);
        }
        count == TIMERS + share + 1 && answered.is_some()
    });
    assert!(answered < Some(TIMERS / 2), "served between them");
    let timers = &world.service(id).fired;
    assert!(timers[share as usize + 1..].is_sorted());
}

/// A driver's tick has begun when it says so: what is armed in it must not count the part that is over.
#[test]
fn deadlines_are_never_early_and_at_most_a_tick_late() {
    const TICK_US: u64 = crate::engine::time::TICK_MS * 1000;
    let limits = Limits {
        idle: Ticks(7),
        ..Limits::default()
    };
    let (mut world, id) = one_server(3, limits);
    let mut faults = Faults::none();
    faults.latency = Span::us(100, 9_900);
    world.set_faults(faults);
    let mut phases = BTreeSet::new();
    for asked in (0..10).cycle().take(500) {
        let peer = world.connect(addr(1));
        let count = world.service(id).accepted.len();
        world.until(secs(1), |w| w.service(id).accepted.len() > count);
        let (began, ends) = (world.now_us(), world.service(id).ends.len());
        phases.insert(began % TICK_US / 1000);
        let fired = world.service(id).fired.len();
        world.with(id, |_, hub| {
            let nobody = ConnId::from_token(u64::MAX);
            assert!(hub.arm(Ticks(asked), nobody).is_some());
        });
        world.until(secs(1), |w| w.service(id).fired.len() > fired);
        let took = world.now_us() - began;
        assert!(took >= asked * TICK_US, "a timer of {asked}: {took} us");
        assert!(took <= (asked + 1) * TICK_US + 100, "{asked}: {took} us");
        if asked < 7 {
            world.until(secs(1), |w| w.service(id).ends.len() > ends);
            let took = world.now_us() - began;
            assert!((7 * TICK_US..=8 * TICK_US + 100).contains(&took), "{took}");
        }
        world.peer(peer).close();
    }
    assert!(phases.len() > 5, "all over the tick: {phases:?}");
}

/// Each slow reader is within its own limits; together they would hold more than the node gives.
#[test]
fn output_that_nobody_reads_is_bounded_over_all_connections() {
    let limits = Limits {
        queued_bytes_max: 2 << 20,
        ..Limits::default()
    };
    let bound = limits.queued_bytes_max as u64 + 2 * limits.output_bytes_high as u64;
    let (mut world, id) = one_server(4, limits);
    let mut peers = Vec::new();
    for _ in 0..20 {
        let peer = world.connect(addr(1));
        world.peer(peer).stop_reading();
        world.peer(peer).send(b"big 1000000\n");
        world.run_for(Ticks(10));
        let queued = world.node(id).stats().queued_bytes;
        assert!(queued <= bound, "{queued} bytes");
        peers.push(peer);
    }
    let ended = world.service(id).ends.len();
    assert_eq!(
        world.service(id).ends,
        vec![End::Limit("queued_bytes_max"); ended]
    );
    assert!((5..=16).contains(&ended), "{ended} of 20");
    assert!(world.node(id).stats().queued_bytes > 1 << 20);
    let mut served = 0;
    for peer in peers {
        world.peer(peer).read_again();
        world.run_for(secs(1));
        served += usize::from(world.peer(peer).received().len() == 1_000_000);
    }
    assert_eq!(served, 20 - ended, "the others get everything");
    assert_eq!(world.node(id).stats().queued_bytes, 0);
}

//! Joins, mostly at scripted acceptors.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use crate::engine::{ConnId, Node, Tick, Transport};
use crate::sim::{Answer, Faults, ListenerId, check, seeds};

use super::super::join::JoinEnd;
use super::*;

/// Accepts all who wait at `listener`, says `bytes`, and then closes or not.
fn answer_all(world: &mut Sim, listener: ListenerId, bytes: &[u8], closes: bool) -> usize {
    let mut answered = 0;
    while let Some(id) = world.accept(listener) {
        world.peer(id).send(bytes);
        if closes {
            world.peer(id).finish();
        }
        answered += 1;
    }
    answered
}

/// What an acceptor does after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Stay,
    Finish,
    Reset,
}

/// A joiner whose contact says `bytes`, in pieces that end at `splits`; how its join ended.
fn join_at(bytes: &[u8], splits: &[usize], last: Last) -> (Sim, NodeId, Report) {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let contact = world.listen(addr(50));
    join(&mut world, me, addr(50));
    let mut ends = splits.to_vec();
    ends.push(bytes.len());
    world.until(secs(60), |w| {
        while let Some(id) = w.accept(contact) {
            let mut from = 0;
            for &to in &ends {
                w.peer(id).send(&bytes[from..to]);
                // Less than the deadline of an answer in all.
                w.run_for(Ticks(3));
                from = to;
            }
            match last {
                Last::Stay => {}
                Last::Finish => w.peer(id).finish(),
                Last::Reset => w.peer(id).reset(),
            }
        }
        !log(w, me).reports.is_empty()
    });
    let report = log(&world, me).reports[0];
    (world, me, report)
}

#[test]
fn a_packet_may_come_in_any_pieces() {
    let welcome = packet(Kind::Welcome, "acceptor", &[addr(1), addr(50)]);
    for split in 0..welcome.len() {
        let (world, me, report) = join_at(&welcome, &[split], Last::Stay);
        assert_eq!(
            (report.welcomes, report.failures),
            (1, 0),
            "split at {split}"
        );
        assert_eq!(table(&world, me), [addr(50)]);
    }
    let each: Vec<usize> = (1..welcome.len()).collect();
    let (_, _, report) = join_at(&welcome, &each, Last::Stay);
    assert_eq!((report.welcomes, report.failures), (1, 0));
}

/// However it ends, the table gets no entry, and the addresses in it are not dialled.
#[test]
fn a_packet_that_ends_before_its_end_is_none() {
    for kind in [Kind::Welcome, Kind::Redirect] {
        let whole = packet(kind, "acceptor", &[addr(60), addr(61)]);
        for cut in 0..whole.len() {
            for last in [Last::Finish, Last::Reset] {
                let (world, me, report) = join_at(&whole[..cut], &[], last);
                let context = format!("{kind:?} cut at {cut}, {last:?}");
                // The contact is tried four times, and nobody else.
                let counts = (
                    report.dials,
                    report.failures,
                    report.welcomes,
                    report.redirects,
                );
                assert_eq!(counts, (4, 4, 0, 0), "{context}");
                assert!(table(&world, me).is_empty(), "{context}");
                assert_eq!(world.node(me).conns(), 0, "{context}");
            }
        }
    }
}

#[test]
fn padding_after_the_packet_is_overlooked_for_ever() {
    let padded = [packet(Kind::Welcome, "p1", &[]), vec![0; 100_000]].concat();
    let (mut world, me, report) = join_at(&padded, &[7, 1000], Last::Stay);
    assert_eq!(report.welcomes, 1);
    world.run_for(secs(100));
    assert_eq!(table(&world, me), [addr(50)]);
    assert!(matches!(
        peer(&world, me).table().get(addr(50)),
        Some(Link::Joined(_))
    ));
}

#[test]
fn bad_packets_at_every_split_leave_the_table_as_it_was() {
    for (what, bytes) in vectors("bad") {
        for split in 0..bytes.len() {
            for last in [Last::Stay, Last::Finish, Last::Reset] {
                let (world, me, report) = join_at(&bytes, &[split], last);
                let context = format!("{what}, split at {split}, {last:?}");
                assert_eq!(report.end, JoinEnd::Exhausted, "{context}");
                assert_eq!((report.welcomes, report.redirects), (0, 0), "{context}");
                assert!(table(&world, me).is_empty(), "{context}");
                assert_eq!(world.node(me).conns(), 0, "{context}");
                assert!(report.failures >= 1, "{context}");
            }
        }
    }
}

/// The rest of the packet counts.
#[test]
fn entries_that_name_nobody_are_dropped() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let (contact, other) = (world.listen(addr(50)), world.listen(addr(51)));
    let bad: Vec<SocketAddrV4> = [
        "0.0.0.0:4000",
        "10.1.0.51:0",
        "224.0.0.1:9",
        "255.255.255.255:9",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    let entries = [&bad[..], &[addr(1), addr(50), addr(51), addr(51)]].concat();
    let redirect = packet(Kind::Redirect, "contact", &entries);
    join(&mut world, me, addr(50));
    world.until(secs(60), |w| {
        answer_all(w, contact, &redirect, true);
        answer_all(w, other, &packet(Kind::Welcome, "other", &entries), false);
        !log(w, me).reports.is_empty()
    });
    let report = log(&world, me).reports[0];
    assert_eq!((report.dials, report.welcomes, report.redirects), (2, 1, 1));
    assert_eq!((report.failures, report.chain), (0, 1));
    assert_eq!(table(&world, me), [addr(51)]);
    assert!(peer(&world, me).declined().eq([addr(50)]));
}

#[test]
fn a_redirect_loop_ends() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 1));
    let ring: Vec<_> = (0..3).map(|n| world.listen(addr(50 + n))).collect();
    join(&mut world, me, addr(50));
    world.until(secs(60), |w| {
        for (n, listener) in ring.iter().enumerate() {
            let to = [addr(50 + (n + 1) % 3), addr(50 + n), addr(1)];
            answer_all(w, *listener, &packet(Kind::Redirect, "r", &to), true);
        }
        !log(w, me).reports.is_empty()
    });
    let report = log(&world, me).reports[0];
    assert_eq!(report.end, JoinEnd::Exhausted);
    assert!(table(&world, me).is_empty());
    assert!(peer(&world, me).declined().count() <= 2, "twice the table");
}

/// More decliners than are remembered, each of which names all.
#[test]
fn a_loop_that_is_longer_than_the_memory_is_gone_round_once() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 1));
    let ring: Vec<_> = (0..8).map(|n| world.listen(addr(50 + n))).collect();
    let all: Vec<_> = (0..8).map(|n| addr(50 + n)).collect();
    join(&mut world, me, addr(50));
    world.until(secs(31), |w| {
        for listener in &ring {
            answer_all(w, *listener, &packet(Kind::Redirect, "r", &all), true);
        }
        !log(w, me).reports.is_empty()
    });
    let report = log(&world, me).reports[0];
    assert_eq!((report.end, report.dials), (JoinEnd::Exhausted, 8));
    assert!(peer(&world, me).declined().count() <= 2, "twice the table");
    world.run_for(secs(5));
    assert_eq!(world.node(me).conns(), 0);
}

#[test]
fn who_accepts_and_is_silent_is_given_up_after_five_seconds() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let (contact, silent) = (world.listen(addr(50)), world.listen(addr(51)));
    join(&mut world, me, addr(50));
    let redirect = packet(Kind::Redirect, "contact", &[addr(51)]);
    world.until(secs(60), |w| answer_all(w, contact, &redirect, true) == 1);
    let mut held = None;
    world.until(secs(1), |w| {
        held = held.or_else(|| w.accept(silent));
        held.is_some()
    });
    let since = world.now();
    // Its slot is reserved meanwhile, and nobody is told of it.
    assert_eq!(table(&world, me), [addr(51)]);
    let report = report(&mut world, me);
    let took = world.now() - since;
    assert!((498..=505).contains(&took.0), "{took:?}");
    assert_eq!((report.end, report.failures), (JoinEnd::Exhausted, 1));
    assert!(table(&world, me).is_empty());
    let held = held.unwrap();
    world.until(secs(1), |w| w.peer(held).is_closed());
}

/// A contact that the user named is dialled a second time; then the join is over.
#[test]
fn a_silent_contact_is_dialled_again() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    world.listen(addr(50));
    join(&mut world, me, addr(50));
    let report = report(&mut world, me);
    assert_eq!((report.dials, report.failures, report.welcomes), (3, 3, 0));
    assert!(report.took <= secs(12));
    // It never closed its end, so the second dial was refused by our own kernel.
    let silent = "Failed { peer: 10.1.0.50:4000, end: None, again: true }";
    let taken = "Failed { peer: 10.1.0.50:4000, end: Some(Unreachable(AddrNotAvailable)), again: ";
    let lines = &log(&world, me).lines;
    assert_eq!(lines[0], silent);
    assert!(
        lines[1..].iter().all(|line| line.starts_with(taken)),
        "{lines:?}"
    );
    world.run_for(secs(5));
    assert_eq!(world.node(me).conns(), 0);
}

#[test]
fn a_silent_contact_that_speaks_at_the_second_dial() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let contact = world.listen(addr(50));
    join(&mut world, me, addr(50));
    let mut first = None;
    world.until(secs(1), |w| {
        first = first.or_else(|| w.accept(contact));
        first.is_some()
    });
    world.until(secs(6), |w| w.peer(first.unwrap()).is_closed());
    world.peer(first.unwrap()).close();
    world.until(secs(5), |w| {
        answer_all(w, contact, &packet(Kind::Welcome, "slow", &[]), false) == 1
    });
    let report = report(&mut world, me);
    assert_eq!((report.dials, report.failures, report.welcomes), (2, 1, 1));
}

/// A plain joiner listens only once its own join is over.
#[test]
fn a_refused_dial_is_tried_again() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let contact = world.listen(addr(50));
    world.answer(contact, Answer::Refuse);
    join(&mut world, me, addr(50));
    world.run_for(secs(1));
    world.answer(contact, Answer::Queue);
    world.until(secs(5), |w| {
        answer_all(w, contact, &packet(Kind::Welcome, "late", &[]), false) == 1
    });
    let report = report(&mut world, me);
    assert_eq!((report.dials, report.failures, report.welcomes), (3, 2, 1));
}

#[test]
fn who_is_not_there_is_given_up_and_others_come_first() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let (contact, good) = (world.listen(addr(50)), world.listen(addr(99)));
    let mut named: Vec<_> = (60..70).map(addr).collect();
    named.push(addr(99));
    join(&mut world, me, addr(50));
    world.until(secs(60), |w| {
        answer_all(w, contact, &packet(Kind::Redirect, "c", &named), true);
        answer_all(w, good, &packet(Kind::Welcome, "g", &[]), false);
        log(w, me).lines.iter().any(|line| line.contains("Welcome"))
    });
    // Nobody of those who refuse was waited for.
    assert!(world.now() < Tick(20), "{:?}", world.now());
    let report = report(&mut world, me);
    assert_eq!((report.end, report.welcomes), (JoinEnd::Exhausted, 1));
    assert_eq!(report.failures, 40, "four tries each");
    assert!(report.took <= secs(10));
}

/// The plain peers that were seen close after their packet.
#[test]
fn a_peer_that_welcomed_us_and_closed_is_remembered_for_a_time_and_never_dialled() {
    let mut world = Sim::new(1);
    let me = add(
        &mut world,
        Config {
            linkless_ttl: secs(600),
            ..config(1, 1)
        },
    );
    let contact = world.listen(addr(50));
    join(&mut world, me, addr(50));
    world.until(secs(60), |w| {
        answer_all(w, contact, &packet(Kind::Welcome, "plain", &[]), true) == 1
    });
    world.until(secs(1), |w| {
        matches!(peer(w, me).table().get(addr(50)), Some(Link::Linkless(_)))
    });
    // The table is full with somebody who may be dead: newcomers are sent there, but not for ever.
    let since = world.now();
    let mut redirected = 0;
    let mut welcomed = false;
    while !welcomed {
        let id = world.connect_from(addr(11), addr(1));
        world.run_for(secs(7));
        let bytes = world.peer(id).take();
        welcomed = bytes == packet(Kind::Welcome, "p1", &[]);
        assert!(welcomed || bytes == packet(Kind::Redirect, "p1", &[addr(50)]));
        redirected += u32::from(!welcomed);
        assert!(
            world.accept(contact).is_none(),
            "dialled to see if it lives"
        );
    }
    let took = world.now() - since;
    assert!(secs(590) < took && took < secs(615), "{took:?}");
    assert!(redirected > 80);
    assert_eq!(table(&world, me), [addr(11)]);
}

#[test]
fn what_breaks_is_forgotten_at_once() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let contact = world.listen(addr(50));
    join(&mut world, me, addr(50));
    let mut held = None;
    world.until(secs(60), |w| {
        held = w.accept(contact);
        held.is_some()
    });
    let held = held.unwrap();
    world.peer(held).send(&packet(Kind::Welcome, "w", &[]));
    world.until(secs(1), |w| table(w, me) == [addr(50)]);
    world.peer(held).reset();
    world.until(secs(1), |w| table(w, me).is_empty());
}

/// Also when a packet of so many others that the oldest are forgotten comes before its turn.
#[test]
fn whom_the_user_names_is_next() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 4));
    let (contact, named) = (world.listen(addr(50)), world.listen(addr(51)));
    join(&mut world, me, addr(50));
    join(&mut world, me, addr(51));
    let others: Vec<_> = (100..400).map(addr).collect();
    world.until(secs(60), |w| {
        answer_all(w, contact, &packet(Kind::Redirect, "c", &others), true);
        answer_all(w, named, &packet(Kind::Welcome, "n", &[]), false);
        log(w, me).lines.len() > 1
    });
    let second = &log(&world, me).lines[1];
    assert!(
        second.starts_with("Answered { peer: 10.1.0.51:"),
        "{second}"
    );
}

/// It is known by one address, and seen to come from another.
#[test]
fn neither_of_its_own_addresses_is_joined() {
    let mut world = Sim::new(1);
    let config = Config {
        listening: addr(2),
        ..config(1, 4)
    };
    let limits = super::super::fit(Limits::default());
    let me = world.add(addr(2), Overlay::new(Log::default()), limits);
    world.with(me, |overlay, hub| overlay.add(hub, config));
    let contact = world.listen(addr(50));
    join(&mut world, me, addr(50));
    let welcome = packet(Kind::Welcome, "c", &[addr(1), addr(2)]);
    world.until(secs(60), |w| {
        answer_all(w, contact, &welcome, false);
        !log(w, me).reports.is_empty()
    });
    assert_eq!(log(&world, me).reports[0].dials, 1);
    assert_eq!(table(&world, me), [addr(50)]);
}

/// One entry each and one link, whatever the network does to the order.
#[test]
fn two_that_join_each_other_at_the_same_moment() {
    for seed in seeds(200) {
        check(seed, || {
            let mut world = Sim::new(seed);
            world.set_faults(Faults::rough());
            let (a, b) = (add(&mut world, config(1, 4)), add(&mut world, config(2, 4)));
            join(&mut world, a, addr(2));
            let apart = Ticks(seed % 4 / 3);
            world.run_for(apart);
            join(&mut world, b, addr(1));
            report(&mut world, a);
            report(&mut world, b);
            world.until(secs(10), |w| {
                let both = [a, b].map(|id| (table(w, id), w.node(id).conns()));
                both == [(vec![addr(2)], 1), (vec![addr(1)], 1)]
            });
            assert!(
                [a, b]
                    .iter()
                    .all(|id| log(&world, *id).reports[0].welcomes == 1)
            );
            world.run_for(secs(20));
            assert!([a, b].iter().all(|id| world.node(*id).conns() == 1));
        });
    }
}

#[test]
fn a_join_goes_on_until_it_has_its_links() {
    let mut world = Sim::new(1);
    for n in 1..=6 {
        let id = add(&mut world, config(n, 8));
        if n > 1 {
            join(&mut world, id, addr(1));
            let report = report(&mut world, id);
            assert_eq!(report.welcomes as usize, 3.min(n - 1));
            let expected = if n > 3 {
                JoinEnd::Satisfied
            } else {
                JoinEnd::Exhausted
            };
            // With exactly three there is nobody left, and enough.
            assert!(report.end == expected || n == 4, "{n}: {report:?}");
        }
    }
}

/// Theirs counts, and ours is closed even when they would keep both.
#[test]
fn of_two_dials_that_cross_the_one_of_the_higher_address_is_closed() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(9, 4));
    let lower = world.listen(addr(5));
    join(&mut world, me, addr(5));
    let mut ours = None;
    world.until(secs(1), |w| {
        ours = ours.or_else(|| w.accept(lower));
        ours.is_some()
    });
    let theirs = world.connect_from(addr(5), addr(9));
    world.until(secs(1), |w| !w.peer(theirs).received().is_empty());
    assert_eq!(world.peer(theirs).take(), packet(Kind::Welcome, "p9", &[]));
    world.until(secs(1), |w| w.peer(ours.unwrap()).is_closed());
    let report = report(&mut world, me);
    assert_eq!((report.welcomes, report.failures), (1, 0));
    assert!(matches!(
        peer(&world, me).table().get(addr(5)),
        Some(Link::Welcomed(_))
    ));
    assert_eq!(world.node(me).conns(), 1);
}

/// Sockets of which each dial from our own port fails, as while its four-tuple is in TIME_WAIT.
#[derive(Default)]
struct PortTaken {
    dials: Vec<(Tick, SocketAddr)>,
    now: Tick,
}

impl Transport for PortTaken {
    fn read(&mut self, _: usize, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, _: usize, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn dial(&mut self, _: ConnId, _: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let from = from.unwrap();
        self.dials.push((self.now, from));
        if from.port() == 0 {
            Ok(())
        } else {
            Err(ErrorKind::AddrNotAvailable.into())
        }
    }

    fn dialled(&mut self, _: usize) -> io::Result<bool> {
        Ok(false)
    }

    fn finish(&mut self, _: usize) {}

    fn close(&mut self, _: usize) {}
}

/// It is tried again, and another port is the last resort, which is said.
#[test]
fn a_port_in_time_wait() {
    let limits = super::super::fit(Limits::default());
    let mut node = Node::new(Overlay::new(Log::default()), limits, 1, Tick(0));
    node.with(|overlay, hub| {
        overlay.add(hub, config(1, 4));
        overlay.join(hub, 0, addr(50));
    });
    let mut io = PortTaken::default();
    for tick in 0..500 {
        io.now = Tick(tick);
        node.begin(Tick(tick));
        node.turn(&mut io);
        while node.has_work() {
            node.turn(&mut io);
        }
    }
    let any_port = SocketAddrV4::new(*addr(1).ip(), 0);
    let dials = [
        (0, addr(1)),
        (21, addr(1)),
        (122, addr(1)),
        (423, addr(1)),
        (423, any_port),
    ];
    assert_eq!(
        io.dials,
        dials.map(|(tick, from)| (Tick(tick), from.into()))
    );
    let said = format!("OtherPort({})", addr(50));
    let lines = &node.service().observer().lines;
    assert_eq!(lines.iter().filter(|line| **line == said).count(), 1);
}

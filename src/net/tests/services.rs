//! Several services on one reactor: each has what is its own, and none takes the turn from the others.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::engine::framing::{Cr, Lines};
use crate::engine::{Cx, Hub, Input, Limits, Service, Step, Ticks, Violation};
use crate::net::{Reactor, ServiceId};

use super::{Copier, DEADLINE};

const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// Answers each line with itself, by way of the worker if it has one.
#[derive(Default)]
struct Echo {
    lines: u64,
    starts: u32,
    done: Vec<u32>,
    /// Leaves only when it is told twice.
    is_stubborn: bool,
}

const LINES: Lines = Lines {
    bytes_max: 100,
    cr: Cr::Kept,
};

impl Service for Echo {
    type Conn = ();
    type Note = ();
    type Timer = u32;
    type Job = u32;
    type Done = u32;

    fn on_start(&mut self, _hub: &mut Hub<Echo>) {
        self.starts += 1;
    }

    fn on_accept(&mut self, _: &mut Cx<'_, Echo>, _: usize) -> Option<()> {
        Some(())
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Echo>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(line) = LINES.first(input)? else {
            return Ok(Step::More);
        };
        self.lines += 1;
        cx.out().extend_from_slice(&input.bytes[..line.used]);
        Ok(Step::Done(line.used))
    }

    fn on_timer(&mut self, hub: &mut Hub<Echo>, job: u32) {
        hub.submit(job).expect("room");
    }

    fn on_done(&mut self, _: &mut Hub<Echo>, done: u32) {
        self.done.push(done);
    }

    fn on_shutdown(&mut self, hub: &mut Hub<Echo>) {
        if !std::mem::take(&mut self.is_stubborn) {
            hub.stop();
        }
    }
}

fn two() -> (Reactor<Echo>, ServiceId<Echo>) {
    let mut reactor = Reactor::new(Echo::default(), Limits::default()).unwrap();
    let second = reactor
        .add_service(Echo::default(), Limits::default())
        .unwrap();
    (reactor, second)
}

/// A connection whose reads and writes do not block.
fn connect(to: SocketAddrV4) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Writes until the kernel takes no more, and throws away what has come.
fn flood(stream: &mut TcpStream, lines: &[u8]) {
    while stream.write(lines).is_ok() {}
    while stream.read(&mut [0; 64 * 1024]).is_ok_and(|n| n > 0) {}
}

/// Turns until `stream` has an answer.
fn turns_until_answered(reactor: &mut Reactor<Echo>, stream: &mut TcpStream) -> u64 {
    let mut answer = [0; 16];
    for turns in 1.. {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        match stream.read(&mut answer) {
            Ok(n) => {
                assert_eq!(&answer[..n], b"ping\n");
                return turns;
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
    unreachable!()
}

/// Two hundred connections pipeline as much as the first service takes. A request of the second is answered within a few
/// turns, and what the first does in each is bounded, however many they are.
#[test]
fn a_flood_of_one_leaves_the_others_their_share_of_a_turn() {
    let (mut reactor, second) = two();
    let flooded = reactor.listen(LOOPBACK).unwrap();
    let calm = reactor.host(second).listen(LOOPBACK).unwrap();
    let mut floods: Vec<TcpStream> = (0..200).map(|_| connect(flooded)).collect();
    let mut asker = connect(calm);
    let lines = b"x\n".repeat(32 * 1024);
    let (mut asked, mut turns, mut turns_max) = (0, 0, 0);
    let mut lines_most = 0;
    while asked < 50 {
        floods.iter_mut().for_each(|stream| flood(stream, &lines));
        let before = reactor.node().service().lines;
        asker.write_all(b"ping\n").unwrap();
        let took = turns_until_answered(&mut reactor, &mut asker);
        let served = reactor.node().service().lines - before;
        lines_most = lines_most.max(served / took);
        (asked, turns, turns_max) = (asked + 1, turns + took, turns_max.max(took));
    }
    let share = 64 * reactor.node().limits().steps_per_turn as u64;
    assert!(reactor.node().stats().budget_spent > 1000, "it is a flood");
    assert!(lines_most <= share, "{lines_most} lines a turn");
    // A turn takes 256 events of the kernel, so one that comes behind those of the flood waits for the next.
    assert!(turns_max <= 3, "{turns_max} turns for an answer");
    assert!(turns <= 75, "{turns} turns for 50 answers");
}

#[test]
fn each_has_its_own_connections_timers_workers_and_callers() {
    let (mut reactor, second) = two();
    let first_at = reactor.listen(LOOPBACK).unwrap();
    let second_at = reactor.host(second).listen(LOOPBACK).unwrap();
    let copier = || Copier { panics_at: None };
    reactor.start_worker(copier()).unwrap();
    reactor.host(second).start_worker(copier()).unwrap();
    let callers = [reactor.caller(), reactor.host(second).caller()];
    let handle = reactor.handle();
    let thread = std::thread::spawn(move || {
        reactor.run().unwrap();
        reactor.node().validate();
        reactor.host(second).node().validate();
        let second = reactor.host(second).node().service();
        let ends = (second.lines, second.done.clone());
        let first = reactor.into_service();
        assert_eq!((first.starts, first.lines, first.done), (1, 1, vec![7]));
        assert_eq!(ends, (2, vec![8]));
    });
    let ask = |to: SocketAddrV4| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(b"ping\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping\n");
        stream
    };
    let _open = [ask(second_at), ask(first_at), ask(second_at)];
    for (caller, job) in callers.iter().zip([7, 8]) {
        let armed = caller.call(move |_, hub| hub.arm(Ticks(1), job).is_some());
        assert!(armed.unwrap());
        let until = Instant::now() + DEADLINE;
        while caller.call(|echo, _| echo.done.is_empty()).unwrap() {
            assert!(Instant::now() < until, "job {job} is done");
        }
    }
    handle.shutdown();
    thread.join().unwrap();
}

/// Its listener and its connections go, the other service goes on; the reactor ends with the last.
#[test]
fn one_stops_and_the_other_goes_on() {
    let (mut reactor, second) = two();
    let stops = reactor.listen(LOOPBACK).unwrap();
    let stays = reactor.host(second).listen(LOOPBACK).unwrap();
    reactor
        .host(second)
        .node()
        .with(|echo, _| echo.is_stubborn = true);
    let handle = reactor.handle();
    let caller = reactor.host(second).caller();
    let thread = std::thread::spawn(move || reactor.run());
    let mut open = TcpStream::connect(stops).unwrap();
    open.write_all(b"ping\n").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    handle.shutdown();
    assert_eq!(open.read(&mut [0; 5]).unwrap(), 0, "closed in order");
    // Its answer says that the turn is over in which the listener went.
    caller.call(|_, _| ()).unwrap();
    let refused = TcpStream::connect(stops).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut other = TcpStream::connect(stays).unwrap();
    other.write_all(b"ping\n").unwrap();
    other.read_exact(&mut [0; 5]).unwrap();
    assert!(!thread.is_finished());
    handle.shutdown();
    thread.join().unwrap().unwrap();
}

/// A peer that does not read keeps neither a service that has stopped nor the loop busy.
#[test]
fn one_that_stops_drops_what_nobody_reads_after_its_linger() {
    let mut reactor = Reactor::new(
        Echo::default(),
        Limits {
            linger: Ticks(1),
            ..Limits::default()
        },
    )
    .unwrap();
    let second = reactor
        .add_service(Echo::default(), Limits::default())
        .unwrap();
    let stops = reactor.listen(LOOPBACK).unwrap();
    let mut deaf = connect(stops);
    let lines = [&[b'x'; 39][..], b"\n"].concat().repeat(1024);
    let until = Instant::now() + DEADLINE;
    while reactor.node().stats().paused == 0 {
        assert!(Instant::now() < until, "its output is full");
        while deaf.write(&lines).is_ok() {}
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    reactor.node().with(|_, hub| hub.stop());
    let turns_max = reactor.node().stats().turns + 1000;
    while reactor.node().conns() > 0 {
        assert!(Instant::now() < until, "the connection ends");
        assert!(reactor.node().stats().turns < turns_max, "the loop spins");
        reactor.turn(None).unwrap();
    }
    assert!(reactor.sleep().is_none_or(|sleep| !sleep.is_zero()));
    assert!(
        reactor.node().stats().ended_limit > 0,
        "what was queued is lost"
    );
    reactor.host(second).node().validate();
}

#[test]
fn descriptors_are_divided() {
    let limits = |conns_max| Limits {
        conns_max,
        ..Limits::default()
    };
    let mut reactor = Reactor::new(Echo::default(), limits(1_000_000)).unwrap();
    let all = reactor.node().limits().conns_max;
    let modest = reactor.add_service(Echo::default(), limits(10)).unwrap();
    let greedy = reactor
        .add_service(Echo::default(), limits(usize::MAX))
        .unwrap();
    let mut got = |id| reactor.host(id).node().limits().conns_max;
    let (modest, greedy) = (got(modest), got(greedy));
    let first = reactor.node().limits().conns_max;
    assert_eq!((modest, first), (10, (all - 10) / 2));
    assert!(first + modest + greedy <= all && greedy >= first);
    for _ in 3..15 {
        reactor.add_service(Echo::default(), limits(1)).unwrap();
    }
    assert!(reactor.add_service(Echo::default(), limits(1)).is_err());
}

//! The ring alone, without an engine: what is dialled, what is written, what is due.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, End, Tick};
use crate::proto::host::fake::FakeHost;
use crate::proto::ring::wire::Encoding;

use super::config::{Config, Host, Outbound, Purpose, Timer};
use super::persisted::Write;
use super::registration::Registered;
use super::ring::Ring;

impl Host for FakeHost<Outbound, Timer> {
    fn submit(&mut self, write: Write) -> Result<(), Write> {
        Err(write)
    }
}

fn addr(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new([10, 0, 0, n].into(), 5000)
}

/// The connection on which peer `n` registers; no dial has its token.
fn conn(n: u8) -> ConnId {
    ConnId::from_token(1_000_000 + u64::from(n))
}

fn ring(config: Config) -> Ring {
    Ring::new(config, vec!["only".into()], Vec::new())
}

/// Peer `n` registers and closes; what it was answered.
fn register(ring: &mut Ring, host: &mut FakeHost<Outbound, Timer>, n: u8) -> String {
    let handle = format!("p{n}");
    let registered = ring.register(host, conn(n), &handle, addr(n), Encoding::Literal);
    let Registered::Member {
        slot,
        number,
        waits,
    } = registered
    else {
        panic!("{registered:?}");
    };
    assert!(!waits, "there is no disk to wait for");
    ring.registration_ended(host, (slot, number), conn(n), End::Eof);
    String::from_utf8(host.take(conn(n))).expect("a literal")
}

/// Accepts the dial `n`; what is written to it.
fn reach(ring: &mut Ring, host: &mut FakeHost<Outbound, Timer>, n: usize) -> String {
    let id = ConnId::from_token(n as u64);
    let outbound = Outbound {
        reader: Default::default(),
        ..host.dials[n].1
    };
    ring.reached(host, id, &outbound);
    String::from_utf8(host.take(id)).expect("a literal")
}

#[test]
fn the_neighbour_of_a_newcomer_is_told_and_no_other() {
    let (mut ring, mut host) = (ring(Config::default()), FakeHost::new());
    let answer = register(&mut ring, &mut host, 1);
    assert!(answer.contains("'10.0.0.1', 'p1'"), "{answer}");
    assert!(host.dials.is_empty());
    for n in 2..=4 {
        let answer = register(&mut ring, &mut host, n);
        let before = format!("'10.0.0.{0}', 'p{0}'", n - 1);
        assert!(answer.contains(&before), "{answer}");
        let (to, outbound) = host.dials.last().expect("an UPDATE_NBR");
        assert_eq!((*to, outbound.purpose), (addr(1), Purpose::Update));
        let last = host.dials.len() - 1;
        let update = reach(&mut ring, &mut host, last);
        assert_eq!(
            update,
            format!("('UPDATE_NBR', 'p{n}', '10.0.0.{n}', 5000)")
        );
        // Read; at the next one the member is told anew.
        let (id, outbound) = (host.last(), host.dials.pop().expect("that dial").1);
        ring.outbound_ended(&mut host, id, &outbound, End::Eof);
    }
}

#[test]
fn the_ring_closes_over_a_member_that_does_not_answer() {
    let (mut ring, mut host) = (ring(Config::default()), FakeHost::new());
    for n in 1..=3 {
        register(&mut ring, &mut host, n);
    }
    let slot = ring.members.by_handle("p2").expect("a member");
    let before = host.dials.len();
    ring.ping(&mut host, slot);
    assert_eq!(host.dials[before].0, addr(2));
    host.now = Tick(499);
    ring.fired(&mut host, Timer::Member(slot));
    assert_eq!(ring.members.len(), 3, "its time is not over");
    host.now = Tick(500);
    ring.fired(&mut host, Timer::Member(slot));
    assert_eq!(ring.members.len(), 2);
    let (to, outbound) = &host.dials[before + 1];
    assert_eq!((*to, outbound.purpose), (addr(3), Purpose::Update));
    let update = reach(&mut ring, &mut host, before + 1);
    assert_eq!(update, "('UPDATE_NBR', 'p1', '10.0.0.1', 5000)");
}

/// The disk's queue is full: the registration is answered at once, and counted.
#[test]
fn a_change_that_is_not_taken_is_no_reason_to_wait() {
    let config = Config {
        durable: true,
        ..Config::default()
    };
    let (mut ring, mut host) = (ring(config), FakeHost::new());
    let answer = register(&mut ring, &mut host, 1);
    assert!(answer.starts_with("('REG_INIT'"), "{answer}");
    assert_eq!(ring.counts.unpersisted, 1);
}

//! The engine under the simulator, and the simulator itself.

mod ends;
mod faulty;
mod ipv6;
mod limits;
mod lines;
mod regressions;
mod relay;
mod stops;
mod swarm;

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::engine::{Limits, Service, Ticks};

use super::{NodeId, PeerId, World};

/// Where the test's node number `n` listens.
fn addr(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 4000)
}

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

/// A world with one line server at `addr(1)`.
fn one_server(seed: u64, limits: Limits) -> (World<lines::Lines>, NodeId) {
    let mut world = World::new(seed);
    let id = world.add(addr(1), lines::Lines::default(), limits);
    world.set_worker(id, lines::Stamp, super::Span::ms(1, 3));
    (world, id)
}

/// Sends `bytes` over a new connection and waits until `answer` bytes came back.
#[track_caller]
fn ask<S: Service>(world: &mut World<S>, bytes: &[u8], answer: usize) -> (PeerId, Vec<u8>) {
    let peer = world.connect(addr(1));
    world.peer(peer).send(bytes);
    world.until(secs(30), |w| w.peer(peer).received().len() >= answer);
    let got = world.peer(peer).take();
    (peer, got)
}

/// Nothing is left of any connection: no slot, no timer, no protocol half.
#[track_caller]
fn assert_nothing_left(world: &World<lines::Lines>, id: NodeId) {
    let (node, service) = (world.node(id), world.service(id));
    assert_eq!(node.conns(), 0, "ports");
    assert_eq!(node.next_deadline(), None, "timers");
    assert!(!node.has_work(), "work");
    assert_eq!(
        service.opened,
        service.ends.len(),
        "every half comes back exactly once"
    );
    assert_eq!(world.links(), 0, "links");
}

/// Limits small enough for every one of them to be met.
fn tight() -> Limits {
    Limits {
        read_bytes_per_turn: 512,
        steps_per_turn: 3,
        write_bytes_per_turn: 1000,
        input_bytes_max: 2048,
        output_bytes_high: 20_000,
        output_bytes_low: 5_000,
        output_bytes_max: 100_000,
        accepts_per_turn: 2,
        conns_max: 20,
        dials_max: 8,
        notes_max: 64,
        jobs_max: 16,
        pool_buffers_max: 2,
        ..Limits::default()
    }
}

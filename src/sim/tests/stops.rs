//! A process that does not run for longer than its deadlines: what came meanwhile is served before they are judged.

use crate::engine::{Limits, Ticks};
use crate::sim::{PeerId, World};

use super::lines::Lines;
use super::{addr, one_server, secs};

fn impatient() -> Limits {
    Limits {
        idle: secs(1),
        drain: secs(1),
        ..Limits::default()
    }
}

fn connect(world: &mut World<Lines>) -> PeerId {
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo hello\n");
    world.until(secs(1), |w| w.peer(peer).received() == b"HELLO\n");
    world.peer(peer).take();
    peer
}

/// More than a turn takes of what the kernel has to tell.
#[test]
fn who_asked_meanwhile_is_served_and_who_did_not_is_closed() {
    let (mut world, id) = one_server(1, impatient());
    world.validate_turns(false);
    let silent = connect(&mut world);
    let peers: Vec<PeerId> = (0..600).map(|_| connect(&mut world)).collect();
    world.pause(id, true);
    for &peer in &peers {
        world.peer(peer).send(b"echo x\n");
    }
    world.run_for(secs(5));
    world.pause(id, false);
    world.until(secs(1), |w| {
        peers.iter().all(|&peer| w.peer(peer).received() == b"X\n")
    });
    world.until(secs(1), |w| w.peer(silent).is_closed());
    assert_eq!(world.node(id).stats().timed_out_idle, 1);
}

/// Also what takes many shares of a turn.
#[test]
fn a_timer_of_the_service_fires_after_the_input_that_waited() {
    const LINES: usize = 5000;
    let (mut world, id) = one_server(1, Limits::default());
    let (waits, asks) = (connect(&mut world), connect(&mut world));
    world.peer(waits).send(b"wait 100\n");
    world.run_for(Ticks(50));
    world.pause(id, true);
    world.peer(asks).send(&b"echo x\n".repeat(LINES));
    world.run_for(secs(5));
    world.pause(id, false);
    world.until(secs(1), |w| !w.service(id).fired.is_empty());
    let answered = world.node(id).stats().messages - 2;
    assert!(answered >= LINES as u64, "{answered} of {LINES} lines");
}

/// Without end, while each turn leaves input behind.
#[test]
fn a_timer_does_not_wait_for_ever_for_input_that_does_not_end() {
    let (mut world, id) = one_server(1, Limits::default());
    let (waits, asks) = (connect(&mut world), connect(&mut world));
    world.peer(waits).send(b"wait 100\n");
    world.run_for(Ticks(50));
    world.pause(id, true);
    world.peer(asks).send(&b"echo x\n".repeat(100_000));
    world.run_for(secs(5));
    world.pause(id, false);
    world.until(secs(5), |w| !w.service(id).fired.is_empty());
    assert!(world.peer(asks).unsent() > 0);
}

/// The node learns that it can send again; only then is it known how fast the peer reads.
#[test]
fn who_read_meanwhile_gets_the_rest() {
    const BYTES: usize = 200_000;
    let (mut world, id) = one_server(1, impatient());
    let peer = connect(&mut world);
    world.peer(peer).stop_reading();
    world.peer(peer).send(format!("big {BYTES}\n").as_bytes());
    world.run_for(Ticks(50));
    world.pause(id, true);
    world.peer(peer).read_again();
    world.run_for(secs(5));
    world.pause(id, false);
    world.until(secs(1), |w| w.peer(peer).received().len() == BYTES);
    assert_eq!(world.node(id).stats().timed_out_drain, 0);
}

//! Each test here found a bug of the engine and fails without its fix.

use crate::engine::{Limits, Ticks};
use crate::sim::{Ending, Span};

use super::{addr, one_server, secs};

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

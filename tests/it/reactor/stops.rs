//! A process that was stopped (SIGSTOP, a debugger, a frozen container) for longer than a deadline: what its peers sent
//! meanwhile counts, and only then their silence.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{DEADLINE, Peer, Server, command, key, node, wait_until, window};

/// The least `--idle-timeout`, and a stop that is longer.
const IDLE: &str = "1";
const STOP: Duration = Duration::from_millis(1500);

/// Stops the process, lets `act` happen, and lets it go on when longer than [`IDLE`] has passed.
fn stopped(node: &Server, act: impl FnOnce()) {
    node.signal(Signal::STOP);
    let is_stopped = wait_until(DEADLINE, || node.state() == "T");
    assert!(is_stopped, "{}", node.state());
    act();
    window(STOP);
    node.signal(Signal::CONT);
}

/// More than one look at the kernel tells of.
#[test]
fn who_asked_while_the_process_was_stopped_is_served() {
    const PEERS: usize = 600;
    let node = node(&["--idle-timeout", IDLE]);
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| node.connect()).collect();
    // The last one is accepted, so all are.
    peers[PEERS - 1]
        .send(command("CONTAINS", key("x")))
        .expect("1\n0\n");
    stopped(&node, || {
        for peer in &mut peers {
            peer.send(command("CONTAINS", key("x")));
        }
    });
    for peer in &mut peers {
        peer.expect("1\n0\n");
    }
    // From then on their silence counts.
    for peer in &mut peers {
        peer.expect_closed();
    }
}

/// One that says nothing is closed: the stop is no excuse for it.
#[test]
fn who_was_silent_is_closed_after_the_stop() {
    let node = node(&["--idle-timeout", IDLE]);
    let (mut silent, mut asks) = (node.connect(), node.connect());
    stopped(&node, || _ = asks.send(command("CONTAINS", key("x"))));
    silent.expect_closed();
    asks.expect("1\n0\n");
}

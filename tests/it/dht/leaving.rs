//! Real processes that leave beside neighbours that are dead or stalled.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::dht::support::{first, settled, some, store};
use crate::support::{DEADLINE, Server, node, wait_until};

/// Without copies, it says what it waits for at default verbosity, is over in time, and exits 1 for entries that nobody took.
#[test]
fn leaving_beside_dead_or_stalled_neighbours_ends_in_time_and_exits_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    for (neighbours, signal, durable) in [
        (1, Signal::KILL, false),
        (2, Signal::KILL, true),
        (1, Signal::STOP, false),
    ] {
        let seed = first();
        let contact = seed.addr.to_string();
        let mut others = vec![seed];
        while others.len() < neighbours {
            others.push(crate::dht::support::join(others[0].addr));
        }
        let mut options = vec!["--join", &contact, "--replicas", "1"];
        options.extend(["--leave-timeout", "5"]);
        if durable {
            options.extend(["--data", data]);
        }
        let mut leaver = node(&options);
        let mut addrs: Vec<_> = others.iter().map(|other| other.addr).collect();
        addrs.push(leaver.addr);
        settled(&addrs);
        store(leaver.addr, &some(0..60, "kept"));
        others.iter().for_each(|other| other.signal(signal));
        let begun = Instant::now();
        leaver.signal(Signal::TERM);
        assert!(says(&leaver, "leaving waits: "), "{}", leaver.log());
        assert_eq!(leaver.wait(DEADLINE), Some(1), "{}", leaver.log());
        assert!(begun.elapsed() < Duration::from_secs(8), "{}", leaver.log());
        let end = if durable {
            "they stay on the disk"
        } else {
            "they are lost"
        };
        assert!(says(&leaver, end), "{}", leaver.log());
        others.iter_mut().for_each(Server::kill);
    }
}

/// With copies, a dead neighbour's range is taken over on the way: a ring of one has nobody to hand over to.
#[test]
fn leaving_beside_a_dead_holder_ends_as_a_ring_of_one() {
    let mut seed = first();
    let mut leaver = crate::dht::support::join(seed.addr);
    settled(&[seed.addr, leaver.addr]);
    store(leaver.addr, &some(0..60, "kept"));
    seed.kill();
    leaver.signal(Signal::TERM);
    assert_eq!(leaver.wait(DEADLINE), Some(0), "{}", leaver.log());
    assert!(says(&leaver, "took the range of"), "{}", leaver.log());
}

fn says(node: &Server, text: &str) -> bool {
    wait_until(DEADLINE, || node.log().contains(text))
}

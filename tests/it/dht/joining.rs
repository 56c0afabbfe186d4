//! Joins of real processes: by a list of addresses, by a seed that is not there, and of strangers that never join.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::dht::reference::wire::{Conversation, id_of, locate_at};
use crate::dht::support::{check, settled, some, store};
use crate::support::{DEADLINE, Server, key, node, peerloop, run, wait_until};

/// Addresses of this machine at which nobody listens; another process may take one before it is used.
fn free(count: usize) -> Vec<SocketAddrV4> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let bound: Vec<TcpListener> = (0..count).map(bind).collect();
    let port = |it: &TcpListener| it.local_addr().expect("an address").port();
    let addr = |it| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port(it));
    bound.iter().map(addr).collect()
}

#[track_caller]
fn says(node: &Server, text: &str) {
    let said = wait_until(DEADLINE, || node.log().contains(text));
    assert!(said, "{text:?} is not in the log:\n{}", node.log());
}

fn by_list(own: &str, advertise: &str, list: &[SocketAddrV4]) -> Server {
    let list: Vec<String> = list.iter().map(SocketAddrV4::to_string).collect();
    let mut options = vec!["--listen", own, "--advertise", advertise];
    for addr in &list {
        options.extend(["--join", addr]);
    }
    node(&options)
}

/// Each has all three addresses, its own among them, and one listens on all interfaces.
#[test]
fn three_processes_with_one_list_are_one_ring() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let list = free(3);
        let start = |n: usize| {
            let own = list[n].to_string();
            let listen = format!("0.0.0.0:{}", list[n].port());
            by_list(if n == 1 { &listen } else { &own }, &own, &list)
        };
        let servers: Vec<Server> = std::thread::scope(|scope| {
            let all: Vec<_> = order.map(|n| scope.spawn(move || start(n))).into();
            let joined = all.into_iter().map(|it| it.join().expect("started"));
            joined.collect()
        });
        settled(&list);
        let all = some(0..50, "written");
        store(list[0], &all);
        check(&list, &all);
        let said = |text: &str| servers.iter().filter(|it| it.log().contains(text)).count();
        assert_eq!(said("founds the ring"), 1);
        assert_eq!(said("joined, 0 entries"), 2);
    }
}

#[test]
fn a_node_says_why_it_has_not_joined_yet_and_when_it_has() {
    let seed = free(1)[0];
    let joiner = node(&["--join", &seed.to_string()]);
    says(&joiner, &format!("joining by {seed}"));
    says(&joiner, "connection refused; again in");
    let listen = seed.to_string();
    let first = node(&["--listen", &listen]);
    store(first.addr, &some(0..40, "there"));
    says(&joiner, "joined, ");
    settled(&[first.addr, joiner.addr]);
    // Once in five seconds.
    assert!(
        joiner.log().matches("to join by").count() <= 4,
        "{}",
        joiner.log()
    );
}

/// The seed takes connections and is silent. Whoever asks the node is told at once that it has nothing.
#[test]
fn a_node_that_is_no_member_answers_at_once() {
    let seed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let contact = seed.local_addr().expect("an address").to_string();
    let joiner = node(&["--join", &contact]);
    let at = joiner.addr.to_string();
    let begun = Instant::now();
    let mut get = Conversation::dial(joiner.addr).expect("dial");
    get.say(format_args!("GET\n{}", key("x"))).expect("say");
    assert!(!get.ack().expect("answered"));
    let ended = run(&mut peerloop(&["dht", "get", "x", "--node", &at]), "");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// A stranger takes the dump and names an address at which nobody listens: all is still there, also after a restart in the
/// moment in which that is not known yet.
#[test]
fn a_stranger_takes_no_range_from_a_durable_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let mut victim = node(&["-v", "--data", data]);
    let addr = victim.addr;
    let all = some(0..2000, "kept");
    store(addr, &all);
    let take = || {
        let own = id_of(addr);
        let after = |joiner: &SocketAddrV4| id_of(*joiner).wrapping_sub(own);
        // The closest of a few behind the node.
        let stranger = free(50).into_iter().min_by_key(after).expect("50");
        let mut connect = Conversation::dial(addr).expect("dial");
        let id = id_of(stranger);
        connect.say(format_args!("CONNECT\n{id}")).expect("say");
        assert!(connect.ack().expect("ack"));
        assert!(connect.entries().expect("entries").len() > 1500);
        connect.addr().expect("next");
        connect.say(stranger).expect("say");
        let moved = || locate_at(addr, id).ok() == Some(stranger);
        assert!(wait_until(DEADLINE, moved));
        connect
    };
    let connect = take();
    says(&victim, "took the range of");
    check(&[addr], &all);
    drop(connect);
    let _connect = take();
    victim.signal(Signal::KILL);
    victim.kill();
    let listen = addr.to_string();
    let victim = node(&["-v", "--data", data, "--listen", &listen]);
    check(&[victim.addr], &all);
}

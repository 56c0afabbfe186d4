//! Rings of our nodes and of plain peers in which writes, joins and leaves go on at once, and peers which do what
//! they should not.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use peerloop::proto::dht::rpc::operation::{Outcome, Verb};

use crate::dht::reference::wire::{Conversation, Entries, Key, between, id_of, key_of, locate};
use crate::dht::reference::{Last, PlainPeer};
use crate::dht::support::{
    Python, across, ask, check, first, join, join_at_once, leave, leave_at_once, range, read,
    settled, some, store, task,
};
use crate::support::{DEADLINE, Server, noise, wait_until};

/// What a writer knows of a key: the last version that was acknowledged, and those whose fate is unknown.
type Written = BTreeMap<Key, (u32, Vec<u32>)>;

/// Writes version after version of `keys` until it is told to stop.
fn write_on(contact: SocketAddrV4, keys: Vec<Key>, stop: &AtomicBool) -> Written {
    let mut written: Written = keys.iter().map(|key| (*key, (0, Vec::new()))).collect();
    for version in 1.. {
        let verb = || Verb::Insert(version_bytes(version).into());
        let tasks = keys.iter().map(|key| task(verb(), key)).collect();
        for (key, result) in keys.iter().zip(ask(contact, tasks)) {
            let (acked, unknown) = written.get_mut(key).expect("one of them");
            match result {
                Ok(_) => *acked = version,
                Err(e) => {
                    println!("version {version} of {key}: {e}");
                    unknown.push(version);
                }
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    written
}

fn version_bytes(version: u32) -> Vec<u8> {
    let mut bytes = format!("{version}\n").into_bytes();
    bytes.extend(noise(version.into(), 500));
    bytes
}

/// Writes by way of `base` while `change` changes the ring, of which only `base` is there in the end.
#[track_caller]
fn no_write_is_lost(base: SocketAddrV4, change: impl FnOnce()) {
    // Large entries, so that a hand-over takes long enough to overlap with writes.
    let ballast: Entries = (0..2000)
        .map(|i| (key_of(&format!("ballast {i}")), noise(i, 1000)))
        .collect();
    store(base, &ballast);
    let stop = AtomicBool::new(false);
    let written: Vec<Written> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let name = |i| key_of(&format!("writer {writer} key {i}"));
                let (keys, stop) = ((0..16).map(name).collect(), &stop);
                scope.spawn(move || write_on(base, keys, stop))
            })
            .collect();
        // Stops the writers also when this closure panics.
        let over = StopOnDrop(&stop);
        change();
        drop(over);
        let done = writers.into_iter().map(|writer| writer.join());
        done.map(|written| written.expect("no panic")).collect()
    });
    settled(&[base]);
    check(&[base], &ballast);
    for written in written {
        let results = read(base, written.keys().copied());
        for ((key, (acked, unknown)), result) in written.iter().zip(results) {
            assert!(*acked > 0, "no write of {key} was acknowledged");
            let fits =
                |version: &u32| result == Ok(Outcome::Got(Some(version_bytes(*version).into())));
            assert!(
                unknown.iter().chain([acked]).any(fits),
                "{key}: version {acked} is acknowledged, {unknown:?} unknown, and there is {:?}",
                result.map(|got| match got {
                    Outcome::Got(Some(value)) => String::from_utf8_lossy(&value[..4]).into_owned(),
                    other => format!("{other:?}"),
                })
            );
        }
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn writes_go_on_through_joins_and_leaves() {
    let base = first();
    no_write_is_lost(base.addr, || change_members(base.addr));
}

/// Both kinds come and go; in the end `base` is alone again.
fn change_members(base: SocketAddrV4) {
    let plain = PlainPeer::join_where(base, Last::Address, across(base));
    settled(&[base, plain.addr()]);
    let one = join(plain.addr());
    settled(&[base, plain.addr(), one.addr]);
    let python = Python::start(Some(one.addr));
    let in_python = python.iter().map(|peer| peer.addr);
    let mut ring = vec![base, plain.addr(), one.addr];
    ring.extend(in_python);
    settled(&ring);
    let two = join(base);
    ring.push(two.addr);
    settled(&ring);
    ring.retain(|addr| *addr != plain.addr());
    plain.leave();
    settled(&ring);
    ring.retain(|addr| *addr != one.addr);
    leave(one);
    settled(&ring);
    let plain = PlainPeer::join(two.addr, Last::UpdatePrev);
    ring.push(plain.addr());
    settled(&ring);
    if let Some(python) = python {
        ring.retain(|addr| *addr != python.addr);
        python.leave();
        settled(&ring);
    }
    leave(two);
    settled(&[base, plain.addr()]);
    plain.leave();
    settled(&[base]);
}

#[test]
fn writes_go_on_while_many_come_and_go_at_once() {
    let base = first();
    let ours = || {
        for _ in 0..3 {
            leave(joined(base.addr));
        }
    };
    let plain = || {
        for last in [Last::Address, Last::UpdatePrev, Last::Address] {
            PlainPeer::join(base.addr, last).leave();
        }
    };
    no_write_is_lost(base.addr, || {
        std::thread::scope(|scope| {
            let changes = [scope.spawn(ours), scope.spawn(ours), scope.spawn(plain)];
            for change in changes {
                change.join().expect("no panic");
            }
        });
    });
}

#[test]
fn writes_by_way_of_a_plain_peer_while_ours_come_and_go_at_once() {
    let base = PlainPeer::alone();
    let ours = || {
        for _ in 0..3 {
            leave(joined(base.addr()));
        }
    };
    no_write_is_lost(base.addr(), || {
        std::thread::scope(|scope| {
            for change in [scope.spawn(ours), scope.spawn(ours)] {
                change.join().expect("no panic");
            }
        });
    });
    assert_eq!((base.prev(), base.next()), (base.addr(), base.addr()));
}

/// SIGTERM before, in the middle of and after a join, as it happens.
#[test]
fn told_to_leave_as_soon_as_they_join() {
    let base = PlainPeer::alone();
    let all = some(0..60, "kept");
    store(base.addr(), &all);
    for _ in 0..3 {
        leave_at_once(join_at_once(base.addr(), 3));
        base.settle();
        settled(&[base.addr()]);
        assert_eq!(base.entries(), all);
    }
}

/// One of ours that is a member already.
#[track_caller]
fn joined(contact: SocketAddrV4) -> Server {
    let server = join(contact);
    let id = id_of(server.addr);
    assert!(
        wait_until(DEADLINE, || locate(contact, id).ok() == Some(server.addr)),
        "{} does not get in",
        server.addr
    );
    server
}

#[test]
fn neighbours_of_both_kinds_leave_at_once() {
    let base = first();
    let all = some(0..60, "kept");
    store(base.addr, &all);
    for _ in 0..4 {
        let (one, plain) = (joined(base.addr), PlainPeer::join(base.addr, Last::Address));
        settled(&[base.addr, one.addr, plain.addr()]);
        std::thread::scope(|scope| {
            scope.spawn(|| plain.leave());
            scope.spawn(|| leave(one));
        });
        settled(&[base.addr]);
        check(&[base.addr], &all);
    }
}

/// Two of ours and a plain peer, in this order.
fn two_and_a_plain_one(all: &Entries) -> (Server, Server, PlainPeer) {
    let base = first();
    store(base.addr, all);
    let one = joined(base.addr);
    let plain = PlainPeer::join_where(one.addr, Last::Address, |id| {
        between(id_of(one.addr), id, id_of(base.addr))
    });
    settled(&[base.addr, one.addr, plain.addr()]);
    assert_eq!(plain.prev(), one.addr);
    (base, one, plain)
}

fn update_prev(at: SocketAddrV4, prev: SocketAddrV4) {
    let mut update = Conversation::dial(at).expect("dial");
    update
        .say(format_args!("UPDATE_PREV\n{prev}"))
        .expect("say");
    assert!(update.ack().expect("served at once"));
}

/// DISCONNECT reaches a node that is not the leaver's predecessor, and is relayed.
#[test]
fn a_plain_leaver_with_a_wrong_prev() {
    let all = some(0..60, "kept");
    let (base, one, plain) = two_and_a_plain_one(&all);
    update_prev(plain.addr(), base.addr);
    plain.leave();
    let both = [base.addr, one.addr];
    settled(&both);
    check(&both, &all);
}

#[test]
fn a_prev_that_is_no_member_and_answers_nobody() {
    let all = some(0..60, "kept");
    let (base, one, plain) = two_and_a_plain_one(&all);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = silent.local_addr().expect("an address").port();
    for member in [base.addr, one.addr] {
        update_prev(member, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    }
    let ring = [base.addr, one.addr, plain.addr()];
    settled(&ring);
    check(&ring, &all);
    leave(base);
    settled(&ring[1..]);
    leave(one);
    assert_eq!(plain.entries(), all);
    assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
}

/// A leaver whose acknowledgement is lost repeats DISCONNECT, with entries that are old by then.
#[test]
fn a_leaver_that_repeats_itself() {
    let ours = first();
    let mut all = some(0..60, "old");
    store(ours.addr, &all);
    let plain = PlainPeer::join_where(ours.addr, Last::Address, across(ours.addr));
    settled(&[ours.addr, plain.addr()]);
    let old = plain.entries();
    let mut lost = Conversation::dial(ours.addr).expect("dial");
    lost.say(format_args!("DISCONNECT\n{}", ours.addr))
        .expect("say");
    lost.say_entries(&old).expect("say");
    assert!(wait_until(DEADLINE, || {
        locate(ours.addr, id_of(plain.addr())).ok() == Some(ours.addr)
    }));
    drop(lost);
    let new: Entries = old.keys().map(|key| (*key, b"new".to_vec())).collect();
    store(ours.addr, &new);
    all.extend(new);
    plain.leave();
    settled(&[ours.addr]);
    check(&[ours.addr], &all);
}

/// A write into a range that is being handed over is answered when the hand-over has ended.
#[test]
fn a_write_waits_for_a_joiner_that_gives_up() {
    let ours = first();
    let all = some(0..60, "old");
    store(ours.addr, &all);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let joiner = match listener.local_addr().expect("an address") {
        std::net::SocketAddr::V4(addr) => addr,
        std::net::SocketAddr::V6(_) => unreachable!("bound to IPv4"),
    };
    let mut connect = Conversation::dial(ours.addr).expect("dial");
    connect
        .say(format_args!("CONNECT\n{}", id_of(joiner)))
        .expect("say");
    assert!(connect.ack().expect("ack"));
    assert_eq!(
        connect.entries().expect("entries"),
        range(&all, joiner, ours.addr)
    );
    assert_eq!(connect.addr().expect("next"), ours.addr);
    let moving: Entries = [(id_of(joiner), b"new".to_vec())].into();
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let (at, new) = (ours.addr, &moving);
        scope.spawn(move || {
            store(at, new);
            let _ = tell.send(());
        });
        // A window in which it must not be acknowledged.
        let early = told.recv_timeout(Duration::from_millis(300));
        assert_eq!(
            early,
            Err(RecvTimeoutError::Timeout),
            "before the range stands still"
        );
        drop(connect);
        assert_eq!(told.recv_timeout(DEADLINE), Ok(()));
    });
    check(&[ours.addr], &all);
    check(&[ours.addr], &moving);
}

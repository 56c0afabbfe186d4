//! Rings of our nodes and of plain peers, which are written from the specification alone: one in this process
//! ([`PlainPeer`]), one in Python. One change at a time; see [`crate::dht::churn`] for several.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use ruint::aliases::U160;

use crate::dht::reference::wire::{
    Conversation, Entries, between, distance, get, id_of, insert, locate_at,
};
use crate::dht::reference::{Last, PlainPeer, Step};
use crate::dht::support::{
    Python, across, check, first, join, join_at_once, leave, leave_at_once, members, range,
    settled, some, store,
};
use crate::support::{DEADLINE, wait_until};

/// A plain peer joins us in either order, serves its range, and gets ours when we leave.
#[track_caller]
fn plain_joins_ours(last: Last) {
    let ours = first();
    let mut all = some(0..60, "first");
    store(ours.addr, &all);
    let plain = PlainPeer::join_where(ours.addr, last, across(ours.addr));
    let both = [ours.addr, plain.addr()];
    settled(&both);
    assert_eq!(plain.entries(), range(&all, plain.addr(), ours.addr));
    assert_eq!((plain.prev(), plain.next()), (ours.addr, ours.addr));
    check(&both, &all);
    for contact in both {
        let more = some(40..80, &format!("by way of {contact}"));
        store(contact, &more);
        all.extend(more);
        check(&both, &all);
    }
    // Neither keeps what is the other's.
    assert_eq!(plain.entries(), range(&all, plain.addr(), ours.addr));
    leave(ours);
    assert_eq!(plain.entries(), all);
    assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
    check(&both[1..], &all);
}

#[test]
fn a_plain_peer_joins_us_with_its_address_last() {
    plain_joins_ours(Last::Address);
}

#[test]
fn a_plain_peer_joins_us_with_update_prev_last() {
    plain_joins_ours(Last::UpdatePrev);
}

#[test]
fn update_prev_while_connect_is_open() {
    let ours = first();
    let all = some(0..40, "kept");
    store(ours.addr, &all);
    // Never accepts: a joiner that is not a member yet.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let joiner = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut connect = Conversation::dial(ours.addr).expect("dial");
    let id = id_of(joiner);
    connect.say(format_args!("CONNECT\n{id}")).expect("say");
    assert!(connect.ack().expect("ack"));
    assert_eq!(
        connect.entries().expect("entries"),
        range(&all, joiner, ours.addr)
    );
    assert_eq!(connect.addr().expect("next"), ours.addr);
    let mut update = Conversation::dial(ours.addr).expect("dial");
    update
        .say(format_args!("UPDATE_PREV\n{joiner}"))
        .expect("say");
    assert!(update.ack().expect("served at once"));
    // Nothing has moved.
    assert_eq!(locate_at(ours.addr, id).expect("LOCATE"), ours.addr);
    check(&[ours.addr], &all);
    connect.say(joiner).expect("say");
    assert!(wait_until(DEADLINE, || {
        locate_at(ours.addr, id).ok() == Some(joiner)
    }));
    assert_eq!(locate_at(ours.addr, id_of(ours.addr)).ok(), Some(ours.addr));
}

#[test]
fn we_join_and_leave_a_plain_ring_of_one() {
    let plain = PlainPeer::alone();
    let mut all = some(0..60, "first");
    for (key, value) in &all {
        insert(plain.addr(), *key, value).expect("stored");
    }
    let ours = join(plain.addr());
    let both = [plain.addr(), ours.addr];
    settled(&both);
    assert_eq!(plain.entries(), range(&all, plain.addr(), ours.addr));
    check(&both, &all);
    for (key, value) in some(50..70, "second") {
        insert(ours.addr, key, &value).expect("stored");
        assert_eq!(get(plain.addr(), key).expect("read"), value);
        all.insert(key, value);
    }
    leave(ours);
    assert_eq!(plain.entries(), all);
    assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
}

#[test]
fn we_join_and_leave_a_ring_of_one_in_python() {
    let Some(python) = Python::start(None) else {
        return;
    };
    let mut all = some(0..60, "first");
    store(python.addr, &all);
    let ours = join(python.addr);
    let both = [python.addr, ours.addr];
    settled(&both);
    check(&both, &all);
    let second = some(0..30, "second");
    store(ours.addr, &second);
    all.extend(second);
    leave(ours);
    check(&both[..1], &all);
    // It has kept everything; nothing old may come back when it leaves through us.
    let ours = join(python.addr);
    settled(&[python.addr, ours.addr]);
    let third = some(20..50, "third");
    store(python.addr, &third);
    all.extend(third);
    python.leave();
    settled(&[ours.addr]);
    check(&[ours.addr], &all);
}

#[test]
fn a_mixed_ring_of_five() {
    let mut ours = vec![first()];
    let python = Python::start(Some(ours[0].addr));
    ours.push(join(python.as_ref().map_or(ours[0].addr, |peer| peer.addr)));
    settled(&members(&ours, python.iter().map(|peer| peer.addr)));
    let plain = PlainPeer::join(ours[1].addr, Last::Address);
    ours.push(join(plain.addr()));
    let mut ring = members(&ours, python.iter().map(|peer| peer.addr));
    ring.push(plain.addr());
    settled(&ring);
    let mut all = Entries::new();
    for (i, contact) in (0..).zip(&ring) {
        let part = some(20 * i..20 * i + 20, "first");
        store(*contact, &part);
        all.extend(part);
    }
    check(&ring, &all);
    let second = some(10..60, "second");
    store(ring[0], &second);
    all.extend(second);

    let mut gone = |ring: &mut Vec<SocketAddrV4>, addr, kind: &str| {
        ring.retain(|member| *member != addr);
        settled(ring);
        check(ring, &all);
        // What the one that goes next may have kept is old.
        let new = some(0..30, kind);
        store(ring[0], &new);
        all.extend(new);
        check(ring, &all);
    };
    let one = ours.remove(1);
    let addr = one.addr;
    leave(one);
    gone(&mut ring, addr, "without one of ours");
    let addr = plain.addr();
    plain.leave();
    gone(&mut ring, addr, "without the plain one");
    if let Some(python) = python {
        let addr = python.addr;
        python.leave();
        gone(&mut ring, addr, "without the one in Python");
    }
}

#[test]
fn two_of_ours_join_at_once() {
    let base = first();
    let plain = PlainPeer::alone();
    for contact in [base.addr, plain.addr()] {
        let all = some(0..60, "kept");
        store(contact, &all);
        let two = join_at_once(contact, 2);
        let ring = members(&two, [contact]);
        settled(&ring);
        check(&ring, &all);
        for one in two {
            leave(one);
        }
        settled(&[contact]);
        check(&[contact], &all);
    }
    assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
}

#[test]
fn all_of_ours_leave_at_once_and_a_plain_one_stays() {
    let plain = PlainPeer::alone();
    let all = some(0..80, "kept");
    store(plain.addr(), &all);
    let ours = join_at_once(plain.addr(), 4);
    let ring = members(&ours, [plain.addr()]);
    settled(&ring);
    check(&ring[..1], &all);
    leave_at_once(ours);
    assert_eq!(plain.entries(), all);
    assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
}

#[test]
fn all_of_ours_leave_at_once_and_two_plain_ones_stay() {
    let Some(python) = Python::start(None) else {
        return;
    };
    let all = some(0..80, "kept");
    store(python.addr, &all);
    let mut ours = join_at_once(python.addr, 2);
    let plain = PlainPeer::join(python.addr, Last::Address);
    ours.extend(join_at_once(plain.addr(), 2));
    let both = [python.addr, plain.addr()];
    settled(&members(&ours, both));
    leave_at_once(ours);
    settled(&both);
    check(&both, &all);
    assert_eq!((plain.prev(), plain.next()), (python.addr, python.addr));
}

#[test]
fn a_whole_ring_of_ours_leaves_at_once() {
    let mut ours = vec![first()];
    ours.extend(join_at_once(ours[0].addr, 3));
    settled(&members(&ours, []));
    store(ours[0].addr, &some(0..40, "lost in the end"));
    leave_at_once(ours);
}

#[test]
fn killed_while_it_joins_a_plain_peer() {
    let plain = PlainPeer::alone();
    let all = some(0..60, "kept");
    store(plain.addr(), &all);
    for step in [Step::ConnectAck, Step::ConnectEntries, Step::ConnectNext] {
        let reached = plain.stop_at(step);
        let mut joiner = join(plain.addr());
        reached.recv_timeout(DEADLINE).expect("it joins");
        joiner.kill();
        plain.settle();
        settled(&[plain.addr()]);
        assert_eq!(plain.entries(), all, "{step:?}");
        assert_eq!((plain.prev(), plain.next()), (plain.addr(), plain.addr()));
    }
    let joiner = join(plain.addr());
    let both = [plain.addr(), joiner.addr];
    settled(&both);
    check(&both, &all);
}

/// The joiner has told its next node already, and dies before it tells us.
#[test]
fn killed_while_it_joins_us() {
    let ours = first();
    let all = some(0..60, "kept");
    store(ours.addr, &all);
    // Most of the ring is ours, so that a joiner most likely joins between us and the plain peer.
    let most = !U160::ZERO - (!U160::ZERO >> 4);
    let plain = PlainPeer::join_where(ours.addr, Last::Address, |id| {
        distance(id_of(ours.addr), id) > most
    });
    let both = [ours.addr, plain.addr()];
    settled(&both);
    let reached = plain.stop_at(Step::UpdatePrevAck);
    loop {
        let mut joiner = join(ours.addr);
        if between(id_of(ours.addr), id_of(joiner.addr), id_of(plain.addr())) {
            reached.recv_timeout(DEADLINE).expect("it joins");
            assert_eq!(plain.prev(), joiner.addr);
            joiner.kill();
            break;
        }
        settled(&[ours.addr, plain.addr(), joiner.addr]);
        leave(joiner);
        settled(&both);
    }
    assert!(
        wait_until(DEADLINE, || plain.prev() == ours.addr),
        "we take our next node's prev back"
    );
    settled(&both);
    check(&both, &all);
    plain.leave();
    settled(&[ours.addr]);
    check(&[ours.addr], &all);
}

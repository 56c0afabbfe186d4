//! What a peer answers those who connect.

use crate::engine::Tick;
use crate::sim::{Ending, PeerId};

use super::super::packet::parse;
use super::*;

/// Connects from `from`; returns the kind and the entries of the packet that comes.
fn newcomer(world: &mut Sim, from: usize, to: SocketAddrV4) -> (PeerId, Kind, Vec<SocketAddrV4>) {
    let id = world.connect_from(addr(from), to);
    world.until(secs(5), |w| {
        matches!(parse(w.peer(id).received()), Ok(Some(_)))
    });
    let bytes = world.peer(id).take();
    let (packet, used) = parse(&bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len(), "one packet, and nothing behind it");
    let mut entries: Vec<_> = packet.entries.iter().collect();
    entries.sort();
    (id, packet.kind, entries)
}

#[test]
fn welcomes_at_once_with_the_table_as_it_was_until_it_is_full() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 2));
    let (_first, kind, entries) = newcomer(&mut world, 11, addr(1));
    assert_eq!((kind, entries), (Kind::Welcome, vec![]));
    let (second, kind, entries) = newcomer(&mut world, 12, addr(1));
    assert_eq!((kind, entries), (Kind::Welcome, vec![addr(11)]));
    let (third, kind, entries) = newcomer(&mut world, 13, addr(1));
    assert_eq!((kind, entries), (Kind::Redirect, vec![addr(11), addr(12)]));
    world.until(secs(1), |w| w.peer(third).ending() == Some(Ending::Fin));
    assert_eq!(table(&world, me), [addr(11), addr(12)]);

    // A link that ends gives its place to the next one.
    world.peer(second).close();
    world.until(secs(1), |w| table(w, me) == [addr(11)]);
    let (fourth, kind, _) = newcomer(&mut world, 14, addr(1));
    assert_eq!(kind, Kind::Welcome);
    world.peer(fourth).reset();
    world.until(secs(1), |w| table(w, me) == [addr(11)]);
    let counters = peer(&world, me).counters();
    assert_eq!((counters.welcomed, counters.redirected), (3, 1));
    assert_eq!(
        log(&world, me).lines[..3],
        [
            "ConnectedFrom(10.1.0.11:4000)",
            "ConnectedFrom(10.1.0.12:4000)",
            "Redirected(10.1.0.13:4000)"
        ]
    );
}

#[test]
fn a_link_lives_for_days_without_a_byte_and_without_an_event() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 8));
    let friend = add(&mut world, config(2, 8));
    join(&mut world, friend, addr(1));
    report(&mut world, friend);
    let (stranger, ..) = newcomer(&mut world, 11, addr(1));
    // Less than any deadline of the engine: none is left over from the dial.
    world.run_for(secs(1));
    let turns = |world: &Sim| [me, friend].map(|id| world.node(id).stats().turns);
    let before = turns(&world);
    world.run_for(secs(3 * 24 * 3600));
    assert_eq!(turns(&world), before, "an idle peer does something");
    assert_eq!(table(&world, me), [addr(2), addr(11)]);
    assert_eq!(table(&world, friend), [addr(1)]);
    assert!(!world.peer(stranger).is_closed());
}

#[test]
fn a_kib_that_nobody_asked_for_is_overlooked_and_no_more() {
    for sent in [1, 1024, 1025, 5000] {
        let mut world = Sim::new(1);
        let me = add(&mut world, config(1, 2));
        let id = world.connect_from(addr(11), addr(1));
        world.peer(id).send(&vec![b'x'; sent]);
        world.run_for(secs(120));
        let kept = sent <= 1024;
        assert_eq!(table(&world, me).len(), usize::from(kept), "{sent} bytes");
        assert_eq!(world.peer(id).is_closed(), !kept, "{sent} bytes");
        assert!(parse(world.peer(id).received()).unwrap().is_some());
    }
}

/// The connection may come from our own address only when it is our own.
#[test]
fn itself_is_no_newcomer() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 2));
    let id = world.connect_from(addr(1), addr(1));
    world.until(secs(1), |w| w.peer(id).is_closed());
    assert!(world.peer(id).received().is_empty());
    assert!(table(&world, me).is_empty());
}

/// Its former connection is over, also when that is not known yet.
#[test]
fn the_same_address_again_is_the_same_entry() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 2));
    let (old, ..) = newcomer(&mut world, 11, addr(1));
    let (new, kind, entries) = newcomer(&mut world, 11, addr(1));
    assert_eq!((kind, entries), (Kind::Welcome, vec![]));
    world.until(secs(5), |w| w.peer(old).is_closed());
    world.run_for(secs(1));
    assert_eq!(table(&world, me), [addr(11)]);
    assert!(!world.peer(new).is_closed());
}

/// One that cannot take its packet is not named to others while there is somebody else, and is gone in time.
#[test]
fn who_does_not_read_gives_its_place_back() {
    let mut world = Sim::new(1);
    let me = add(&mut world, config(1, 2));
    let (_good, ..) = newcomer(&mut world, 11, addr(1));
    let stuck = world.connect_from(addr(12), addr(1));
    world.peer(stuck).stop_reading();
    world.peer(stuck).set_window(1);
    world.until(secs(5), |w| table(w, me).len() == 2);
    world.run_for(secs(1));
    let (_, kind, entries) = newcomer(&mut world, 13, addr(1));
    assert_eq!((kind, entries), (Kind::Redirect, vec![addr(11)]));
    world.until(secs(40), |w| table(w, me) == [addr(11)]);
}

#[test]
fn one_node_hosts_many_peers() {
    let mut world = Sim::new(1);
    let host = add(&mut world, config(1, 4));
    for n in 2..=4 {
        world.with(host, |overlay, hub| overlay.add(hub, config(n, 4)));
        world.add_listener(host, addr(n));
    }
    for n in 1..4 {
        world.with(host, |overlay, hub| overlay.join(hub, n, addr(1)));
    }
    world.until(secs(5), |w| log(w, host).reports.len() == 3);
    for peer in world.service(host).peers() {
        assert_eq!(peer.table().len(), 3, "everybody has everybody");
        assert!(peer.table().get(peer.config().addr).is_none());
    }
    let (_, _, entries) = newcomer(&mut world, 11, addr(3));
    assert_eq!(entries, [addr(1), addr(2), addr(4)]);
}

#[test]
fn the_timestamp_is_the_ticks_since_the_start_from_a_random_first_one_and_wraps() {
    let mut firsts = BTreeSet::new();
    for seed in 0..300 {
        let mut world = Sim::new(seed);
        let me = add(&mut world, config(1, 2));
        let first = peer(&world, me).timestamp(world.now());
        assert!((1..=999).contains(&first));
        firsts.insert(first);
        world.run_for(Ticks(12_345));
        assert_eq!(peer(&world, me).timestamp(world.now()), first + 12_345);
    }
    assert!(firsts.len() > 200, "not random");
    let late = Peer::new(0, config(1, 2), Tick(1000), 999);
    assert_eq!(late.timestamp(Tick(1000)), 999);
    assert_eq!(late.timestamp(Tick(1000 + (1 << 32) - 1000)), u32::MAX);
    assert_eq!(late.timestamp(Tick(1000 + (1 << 32) - 999)), 0);
    assert_eq!(late.timestamp(Tick(1000 + (1 << 33))), 999);
}

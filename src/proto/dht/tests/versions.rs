//! Versions and tombstones: how they move with a range, outlive their process, and end.

use std::collections::BTreeMap;

use super::script::{Member, Ring, Then, after, hears, places, put, run_with, say};
use super::*;
use crate::proto::dht::node::{LockHolder, Role};
use crate::proto::dht::storage::tombstones::{KEPT_FOR, MARK_EVERY};
use crate::sim::PeerId;

/// A node as it starts at number `n`, with what is on its disk.
fn started(world: &Ring, n: usize, replicas: u8, disk: Option<&Disk>) -> DhtNode {
    let mut entries = Entries::default();
    entries.keep_tombstones(true);
    for (key, entry) in disk
        .iter()
        .flat_map(|disk| disk.lock().expect("no panic").clone())
    {
        entries.merge(key, entry.version, entry.value);
    }
    let config = Config {
        durable: disk.is_some(),
        replicas,
        ..config(world.seed(), n)
    };
    DhtNode::new(config, entries)
}

fn add_node(world: &mut Ring, n: usize, replicas: u8) -> NodeId {
    let node = started(world, n, replicas, None);
    let limits = node.config.fit(Limits::default());
    world.add(addr(n), node, limits)
}

fn add_with_disk(world: &mut Ring, n: usize, replicas: u8) -> (NodeId, Disk) {
    let disk = Disk::default();
    let node = started(world, n, replicas, Some(&disk));
    let limits = node.config.fit(Limits::default());
    let id = world.add(addr(n), node, limits);
    world.set_worker(id, Commits(disk.clone()), Span::us(100, 2_000));
    (id, disk)
}

fn is_settled(world: &Ring, id: NodeId) -> bool {
    let node = world.service(id);
    matches!(node.role, Role::Member)
        && matches!(node.lock_holder, LockHolder::Nobody)
        && node.recovered.is_empty()
}

fn join(world: &mut Ring, id: NodeId, contact: NodeId) {
    let contact = world.addr(contact);
    world.with(id, |node, hub| node.join(hub, vec![contact]));
    world.until(secs(60), |w| is_settled(w, id));
}

fn remove(world: &mut Ring, id: NodeId, key: Id) {
    world.with(id, |node, _| node.write_in_memory(key, None, None));
}

/// Everything that a node holds.
fn held(world: &Ring, id: NodeId) -> BTreeMap<Id, Entry> {
    let entries = world.service(id).entries();
    let all = entries.arc_with_tombstones(Id::ZERO, Id::ZERO);
    all.map(|(key, entry)| (key, entry.clone())).collect()
}

/// What the owner of a key answers.
fn lookup(world: &Ring, nodes: &[NodeId], key: Id) -> Option<String> {
    let mut up = nodes.iter().filter(|id| world.is_up(**id));
    let owner = up.find(|id| world.service(**id).owns(key))?;
    let value = world.service(*owner).value_of(key)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Some entries and some tombstones from `start` on.
fn fill(world: &mut Ring, id: NodeId, start: Id) {
    for n in 0..9 {
        put(world, id, after(start, n), "value");
        if n % 3 == 0 {
            remove(world, id, after(start, n));
        }
    }
}

#[test]
fn a_join_and_a_leave_move_versions_and_tombstones() {
    for seed in 0..4 {
        let mut world = Ring::new(seed);
        let [owner, joiner] = [1, 2].map(|n| add_node(&mut world, n, 2));
        let ids = [owner, joiner].map(|id| world.service(id).me().id);
        for start in ids {
            fill(&mut world, owner, start);
        }
        let all = held(&world, owner);
        join(&mut world, joiner, owner);
        world.until(secs(10), |w| is_settled(w, owner));
        let own = |world: &Ring, id| {
            let mut own = held(world, id);
            own.retain(|key, _| world.service(id).owns(*key));
            own
        };
        let (left, moved) = (own(&world, owner), own(&world, joiner));
        assert_eq!((left.len(), moved.len()), (9, 9));
        assert!(moved.keys().all(|key| key.in_arc(ids[1], ids[0])));
        // The owner holds for the joiner what it had.
        assert_eq!(held(&world, owner), all);
        let both: BTreeMap<Id, Entry> = left.into_iter().chain(moved).collect();
        assert_eq!(both, all);
        // What it writes is newer than what it was given.
        let clock = world.service(owner).entries().clock();
        put(&mut world, joiner, ids[1], "newer");
        assert!(held(&world, joiner)[&ids[1]].version > clock);
        let newest = held(&world, joiner);
        world.shutdown(joiner);
        world.until(secs(10), |w| !w.is_up(joiner));
        let all: BTreeMap<Id, Entry> = all.into_iter().chain(newest).collect();
        assert_eq!(held(&world, owner), all);
    }
}

/// A peer that knows no versions closes upon them: the other joins, and leaves, as a plain one.
#[test]
fn beside_a_plain_peer_nothing_is_lost_and_nothing_waits() {
    for (replicas, seed) in [([1, 2], 0), ([2, 1], 0), ([1, 2], 1), ([2, 1], 1)] {
        let mut world = Ring::new(seed);
        let [first, second] = [0, 1].map(|i| add_node(&mut world, i + 1, replicas[i]));
        let ids = [first, second].map(|id| world.service(id).me().id);
        for start in ids {
            fill(&mut world, first, start);
        }
        join(&mut world, second, first);
        let live = |w: &Ring| {
            [first, second].map(|id| {
                let node = w.service(id);
                let own = node.entries().arc_with_tombstones(Id::ZERO, Id::ZERO);
                let live = own.filter(|(key, entry)| entry.value.is_some() && node.owns(*key));
                if w.is_up(id) { live.count() } else { 0 }
            })
        };
        world.until(secs(10), |w| is_settled(w, first));
        assert_eq!(live(&world), [6, 6], "{replicas:?}");
        let begun = world.now();
        world.shutdown(second);
        world.until(secs(10), |w| {
            let late = match &w.service(second).role {
                Role::Leaving(leave) => leave.is_uncertain(),
                _ => false,
            };
            assert!(!late, "{replicas:?}: nobody knows who has the range");
            !w.is_up(second)
        });
        assert!(world.now().since(begun) < secs(1), "{replicas:?}");
        assert_eq!(live(&world)[0], 12, "{replicas:?}");
    }
}

/// One that hangs up without a byte is asked once in its own way; one that answers `0` is not plain.
#[test]
fn a_plain_owner_is_asked_by_xconnect_once() {
    let mut world = Ring::new(1);
    let at = places(2);
    let owner_addr = addr(at[1]);
    let mut owner = Member::at(&mut world, owner_addr);
    let joiner = add_node(&mut world, at[0], 2);
    let me = world.service(joiner).me();
    world.with(joiner, |node, hub| node.join(hub, vec![owner_addr]));
    let mut tries = 0;
    run_with(
        &mut world,
        &mut owner,
        secs(30),
        &mut |command, argument| match command {
            "LOCATE" if tries == 2 && argument == me.id.to_string() => {
                Then::Say(format!("{}\n", me.addr))
            }
            "LOCATE" => Then::Say(format!("{owner_addr}\n")),
            "XCONNECT" => Then::SayAndClose(String::new()),
            "CONNECT" => {
                tries += 1;
                let answer = format!("1\n1\n{}\n1\nv{owner_addr}\n", me.id);
                Then::Say(if tries == 2 { answer } else { "0\n".into() })
            }
            _ => Then::Say("1\n".into()),
        },
        &mut |w| matches!(w.service(joiner).role, Role::Member),
    );
    let heard = |word: &str| owner.heard.iter().filter(|r| r.starts_with(word)).count();
    assert_eq!((heard("XCONNECT"), heard("CONNECT")), (1, 2));
    let entry = &held(&world, joiner)[&me.id];
    assert_eq!(entry.version, Version::ZERO);
}

/// The README's second deviation: what was removed while its node was away came back with it.
#[test]
fn an_entry_that_was_removed_while_its_node_was_away_stays_removed() {
    for (replicas, seed) in [(2, 0), (2, 1), (1, 0)] {
        let mut world = Ring::new(seed);
        let at = places(3);
        let nodes: Vec<_> = at
            .iter()
            .map(|n| add_with_disk(&mut world, *n, replicas))
            .collect();
        let ids: Vec<NodeId> = nodes.iter().map(|(id, _)| *id).collect();
        for id in &ids[1..] {
            join(&mut world, *id, ids[0]);
        }
        world.run_for(secs(5));
        let (back, disk) = &nodes[1];
        world.kill_with(*back, false);
        let [prev, own] = [ids[0], *back].map(|id| world.service(id).me().id);
        // It held these when it was killed; since then the ring has removed some, and written others.
        let kept = |n| disk.lock().expect("no panic").get(&after(own, n)).cloned();
        for n in 0..4 {
            write_disk(disk, after(prev, n), "old");
            write_disk(disk, after(own, n), "old");
        }
        put(&mut world, ids[0], after(prev, 0), "old");
        remove(&mut world, ids[0], after(prev, 0));
        put(&mut world, ids[0], after(prev, 1), "new");
        // The node before it has copies of its range.
        if replicas > 1 {
            remove(&mut world, ids[0], after(own, 0));
            put(&mut world, ids[0], after(own, 1), "new");
        }
        let node = started(&world, at[1], replicas, Some(disk));
        world.restart(*back, node);
        join(&mut world, *back, ids[0]);
        world.until(secs(10), |w| is_settled(w, ids[0]));
        let found = |start, n| lookup(&world, &ids, after(start, n));
        if replicas == 1 {
            assert_eq!(found(prev, 0).as_deref(), Some("old"), "as it always was");
            continue;
        }
        for start in [prev, own] {
            assert_eq!(found(start, 0), None, "it was removed");
            assert_eq!(found(start, 1).as_deref(), Some("new"));
            assert_eq!(
                found(start, 2).as_deref(),
                Some("old"),
                "it was there alone"
            );
        }
        assert!(
            kept(0).is_some_and(|entry| entry.value.is_none()),
            "on the disk too"
        );
        world.run_for(secs(1));
        let (disk, memory) = (disk.lock().expect("no panic").clone(), held(&world, *back));
        assert_eq!(disk, memory);
    }
}

/// Newer than what the ring has: it wins, and what the ring gives does not replace it on the disk.
#[test]
fn a_recovered_entry_that_is_newer_wins() {
    for seed in 0..4 {
        let mut world = Ring::new(seed);
        let at = places(2);
        let nodes: Vec<_> = at
            .iter()
            .map(|n| add_with_disk(&mut world, *n, 2))
            .collect();
        let (first, (back, disk)) = (nodes[0].0, &nodes[1]);
        join(&mut world, *back, first);
        world.kill_with(*back, false);
        let own = world.service(*back).me().id;
        let entry = |version, value: Option<&'static str>| Entry {
            version: Version(version),
            value: value.map(Bytes::from),
        };
        let ours = [entry(90 << 20, Some("new")), entry(90 << 20, None)];
        let theirs = [entry(80 << 20, None), entry(80 << 20, Some("old"))];
        for (n, (ours, theirs)) in (0..).zip(ours.iter().zip(theirs)) {
            let key = after(own, n);
            disk.lock().expect("no panic").insert(key, ours.clone());
            world.with(first, |node, _| node.apply(key, theirs));
        }
        let node = started(&world, at[1], 2, Some(disk));
        world.restart(*back, node);
        join(&mut world, *back, first);
        world.run_for(secs(1));
        for (n, ours) in (0..).zip(&ours) {
            let key = after(own, n);
            assert_eq!(held(&world, *back).get(&key), Some(ours));
            assert_eq!(disk.lock().expect("no panic").get(&key), Some(ours));
        }
    }
}

fn hears_of(world: &mut Ring, id: NodeId, text: &str, answer: &str) -> PeerId {
    let peer = say(world, addr(60_000), id, text);
    hears(world, peer, answer);
    peer
}

#[test]
fn xmerge_stores_what_is_newer() {
    for durable in [false, true] {
        let mut world = Ring::new(3);
        let (node, _disk) = match durable {
            true => add_with_disk(&mut world, 1, 2),
            false => (add_node(&mut world, 1, 2), Disk::default()),
        };
        let entry = |w: &Ring, key: u64| {
            let key = Id::parse(key.to_string().as_bytes()).expect("digits");
            let entry = w.service(node).entries().entry(key).cloned();
            entry.map(|e| {
                (
                    e.version.0,
                    e.value.map(|v| String::from_utf8_lossy(&v).into_owned()),
                )
            })
        };
        let some = |version, value: &str| Some((version, Some(value.to_owned())));
        let mut merge = |text: &str, want: Option<(u64, Option<String>)>| {
            hears_of(&mut world, node, &format!("XMERGE\n7\n{text}"), "1\n1\n");
            assert_eq!(entry(&world, 7), want, "{text}");
        };
        merge("20\n3\nold", some(20, "old"));
        merge("10\n5\nolder", some(20, "old"));
        merge("20\n3\nold", some(20, "old"));
        merge("30\n-\n", Some((30, None)));
        merge("25\n3\nold", Some((30, None)));
        merge("40\n0\n", some(40, ""));
        // A client's write comes after all that.
        hears_of(&mut world, node, "INSERT\n7\n3\nnew", "1\n1\n");
        assert!(entry(&world, 7).is_some_and(|(version, _)| version > 40));
        hears_of(&mut world, node, "REMOVE\n7\n", "1\n1\n");
        assert!(entry(&world, 7).is_some_and(|(_, value)| value.is_none()));
        hears_of(&mut world, node, "GET\n7\n", "1\n0\n");
        for bad in [
            "x\n3\nabc",
            "50\n-1\n",
            "50\n--\n",
            "18446744073709551616\n1\na",
        ] {
            let peer = say(&mut world, addr(60_000), node, &format!("XMERGE\n8\n{bad}"));
            world.until(secs(5), |w| w.peer(peer).is_closed());
            assert_eq!(entry(&world, 8), None, "{bad}");
        }
    }
    // Without copies it is a plain peer.
    let mut world = Ring::new(3);
    let node = add_node(&mut world, 1, 1);
    for request in ["XMERGE\n7\n20\n3\nold", "XCONNECT\n7\n", "XDISCONNECT\n7\n"] {
        let peer = hears_of(&mut world, node, request, "");
        world.until(secs(5), |w| w.peer(peer).is_closed());
        assert_eq!(world.peer(peer).take(), b"");
    }
}

/// Commits come in the order in which they are given, and the last one stays.
#[test]
fn an_older_write_does_not_replace_a_newer_one_on_the_disk() {
    for pause in 0..4 {
        let mut world = Ring::new(4);
        let (node, disk) = add_with_disk(&mut world, 1, 2);
        world.set_worker(node, Commits(disk.clone()), Span::ms(20, 20));
        let newer = say(&mut world, addr(60_000), node, "INSERT\n7\n3\nnew");
        world.run_for(Ticks(pause));
        let older = say(&mut world, addr(60_001), node, "XMERGE\n7\n1\n3\nold");
        hears(&mut world, newer, "1\n1\n");
        hears(&mut world, older, "1\n1\n");
        let memory = held(&world, node);
        assert_eq!(
            memory.values().next().and_then(|e| e.value.as_deref()),
            Some(&b"new"[..])
        );
        assert_eq!(*disk.lock().expect("no panic"), memory);
    }
}

#[test]
fn a_restart_keeps_versions_and_tombstones() {
    for replicas in [2, 1] {
        let mut world = Ring::new(5);
        let (node, disk) = add_with_disk(&mut world, 1, replicas);
        for n in 0..6 {
            hears_of(&mut world, node, &format!("INSERT\n{n}\n3\nnew"), "1\n1\n");
        }
        for n in 0..3 {
            hears_of(&mut world, node, &format!("REMOVE\n{n}\n"), "1\n1\n");
        }
        let before = held(&world, node);
        assert_eq!(before.len(), if replicas > 1 { 6 } else { 3 });
        let clock = world.service(node).entries().clock();
        world.kill_with(node, false);
        let again = started(&world, 1, replicas, Some(&disk));
        world.restart(node, again);
        assert_eq!(held(&world, node), before);
        hears_of(&mut world, node, "INSERT\n9\n3\nnew", "1\n1\n");
        let entries = world.service(node).entries();
        // Without tombstones, the clock of the last removal is not on the disk.
        assert!(entries.clock() > clock || replicas == 1);
        assert!(before.values().all(|entry| entry.version < entries.clock()));
    }
}

#[test]
fn tombstones_end_after_a_week() {
    let mut world = Ring::new(6);
    let (node, disk) = add_with_disk(&mut world, 1, 2);
    for n in 0..20 {
        hears_of(&mut world, node, &format!("INSERT\n{n}\n3\nnew"), "1\n1\n");
        if n % 4 > 0 {
            hears_of(&mut world, node, &format!("REMOVE\n{n}\n"), "1\n1\n");
        }
    }
    let tombstones = |w: &Ring| w.service(node).entries().tombstones();
    let old = held(&world, node)
        .into_iter()
        .find(|(_, entry)| entry.value.is_none());
    let (key, old) = old.expect("a tombstone");
    world.run_for(KEPT_FOR);
    assert_eq!(tombstones(&world), 15);
    // Written again and removed again: the time begins anew.
    hears_of(&mut world, node, "INSERT\n1\n3\nnew", "1\n1\n");
    hears_of(&mut world, node, "REMOVE\n1\n", "1\n1\n");
    world.run_for(MARK_EVERY + secs(60));
    assert_eq!(tombstones(&world), 1);
    assert_eq!(
        world.service(node).entries().len(),
        5,
        "what is not removed stays"
    );
    assert_eq!(*disk.lock().expect("no panic"), held(&world, node));
    // Another node may have it a little longer.
    world.with(node, |node, _| node.apply(key, old));
    assert_eq!(tombstones(&world), 1);
    world.run_for(KEPT_FOR + MARK_EVERY);
    assert_eq!(tombstones(&world), 0);
    let entries = world.service(node).entries();
    let live_bytes =
        entries.len() as u64 * crate::proto::dht::storage::entries::entry_bytes(&"new".into());
    assert_eq!(entries.memory_bytes(), live_bytes);
}

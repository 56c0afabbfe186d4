//! What one membership change may cost: time, memory, a turn, room at the worker.

use super::script::{Member, Ring, Then, after, hears, places, put, ring, say};
use super::*;
use crate::proto::dht::node::{LockHolder, Role, TransferLimits};
use crate::proto::dht::routing;
use crate::proto::dht::storage::entries::entry_bytes;
use crate::sim::{Faults, PeerId};

/// A deadline of 100 s, and 12 KiB/s averaged over 20 s.
const SHORT: TransferLimits = TransferLimits {
    within: Ticks::from_secs(100),
    pace_bytes_per_sec: 12 << 10,
    pace_over: Ticks::from_secs(20),
    answer_within: Ticks::from_secs(30),
};

/// A listening address whose id lies in the range of `node`.
fn joiner_at(world: &Ring, node: NodeId) -> (SocketAddrV4, Id) {
    let of = |n| (addr(n), Id::of_addr(addr(n)));
    let service = world.service(node);
    let mut all = (100..).map(of);
    all.find(|(_, id)| service.owns(*id))
        .expect("ids are spread")
}

fn is_free(world: &Ring, node: NodeId) -> bool {
    matches!(world.service(node).lock_holder, LockHolder::Nobody)
}

/// Sends `piece` once a second until the peer is closed; says for how many seconds.
fn trickle(world: &mut Ring, peer: PeerId, piece: &[u8], most: u64) -> u64 {
    for second in 0..most {
        if world.peer(peer).is_closed() {
            return second;
        }
        world.peer(peer).send(piece);
        world.run_for(secs(1));
    }
    most
}

/// Entries of no value, one after the other from `start` on, of about `bytes` bytes.
fn entries_of(start: Id, bytes: usize) -> Vec<u8> {
    let one = format!("{start}\n0\n");
    one.repeat(bytes.div_ceil(one.len())).into_bytes()
}

#[test]
fn a_leaver_that_trickles_holds_the_lock_no_longer_than_the_deadline() {
    for (bytes_per_sec, least, most) in [(2 << 10, 38, 44), (20 << 10, 95, 105)] {
        let mut world = Ring::new(21);
        let nodes = ring(&mut world, 3);
        let (prev, leaver) = (nodes[0], nodes[1]);
        let (from, next) = (world.addr(leaver), world.addr(nodes[2]));
        world.with(prev, |node, _| node.config.transfer = SHORT);
        let text = format!("DISCONNECT\n{next}\n1000000\n");
        let peer = say(&mut world, from, prev, &text);
        let piece = entries_of(Id::of_addr(from), bytes_per_sec);
        let lasted = trickle(&mut world, peer, &piece, 200);
        assert!((least..=most).contains(&lasted), "{lasted} s");
        world.until(secs(10), |w| is_free(w, prev));
        assert_eq!(world.service(prev).routing().next().addr, from);
        assert!(world.service(prev).entries().is_empty(), "swept");
    }
}

/// A value that takes longer than two windows of the least pace, at ten times that pace: nothing is written meanwhile.
#[test]
fn a_joiner_that_takes_large_values_at_a_fair_pace_is_served() {
    let mut world = Ring::new(29);
    let node = add(&mut world, 1);
    let within = secs(300);
    world.with(node, |node, _| {
        node.config.transfer = TransferLimits { within, ..SHORT }
    });
    let (joiner, id) = joiner_at(&world, node);
    let value = "v".repeat(8_000_000);
    for n in 0..2 {
        put(&mut world, node, after(id, n), &value);
    }
    let peer = say(&mut world, joiner, node, &format!("CONNECT\n{id}\n"));
    let all = 2 * value.len();
    for second in 0.. {
        let received = world.peer(peer).received().len();
        if received > all {
            break;
        }
        assert!(!world.peer(peer).is_closed(), "cut off after {second} s");
        world.peer(peer).read_again();
        world.until(secs(2), |w| {
            w.peer(peer).received().len() >= all.min(received + 100_000)
        });
        world.peer(peer).stop_reading();
        world.run_for(secs(1));
    }
    world.peer(peer).read_again();
    world.run_for(secs(1));
    world.peer(peer).send(format!("{joiner}\n").as_bytes());
    world.until(secs(1), |w| w.service(node).routing().next().addr == joiner);
}

#[test]
fn a_relayed_leaver_that_trickles_is_given_up() {
    let mut world = Ring::new(22);
    let at = places(3);
    let asked = add(&mut world, at[0]);
    let (heir, leaver) = (addr(at[1]), addr(at[2]));
    world.with(asked, |node, hub| {
        node.config.transfer = SHORT;
        node.set_next(hub, routing::Member::at(heir));
    });
    let mut members = [Member::at(&mut world, heir), Member::at(&mut world, leaver)];
    let me = addr(at[0]);
    let peer = say(
        &mut world,
        leaver,
        asked,
        &format!("DISCONNECT\n{me}\n1000000\n"),
    );
    let piece = entries_of(Id::of_addr(leaver), 2 << 10);
    let before_leaver = Id::of_addr(leaver).pred().to_string();
    let mut seconds = 0;
    while !world.peer(peer).is_closed() {
        seconds += 1;
        assert!(seconds < 60, "the lock is held");
        world.peer(peer).send(&piece);
        let end = world.now() + secs(1);
        world.until(secs(2), |w| {
            for (member, own) in members.iter_mut().zip([heir, leaver]) {
                member.serve(w, &mut |command, key| match command {
                    "LOCATE" if own == heir && key == before_leaver => {
                        Then::Say(format!("{heir}\n"))
                    }
                    "LOCATE" => Then::Say(format!("{leaver}\n")),
                    _ => Then::Silence,
                });
            }
            w.now() >= end
        });
    }
    world.until(secs(10), |w| is_free(w, asked));
}

/// Owner, our node, next, in this order; the owner is scripted.
fn joiner(seed: u64) -> (Ring, NodeId, SocketAddrV4, SocketAddrV4) {
    let mut world = Ring::new(seed);
    let at = places(3);
    let node = add(&mut world, at[1]);
    (world, node, addr(at[0]), addr(at[2]))
}

#[test]
fn an_owner_that_trickles_is_asked_again() {
    let (mut world, node, first, _) = joiner(23);
    let id = world.service(node).me().id;
    world.with(node, |node, _| node.config.transfer = SHORT);
    let door = world.listen(first);
    world.with(node, |node, hub| node.join(hub, vec![first]));
    let piece = entries_of(id, 2 << 10);
    let (mut peers, mut givers): (Vec<PeerId>, Vec<PeerId>) = (Vec::new(), Vec::new());
    let mut serve = |w: &mut Ring| {
        peers.extend(w.accept(door));
        for peer in &peers {
            let said = w.peer(*peer).take();
            if said.starts_with(b"LOCATE") {
                w.peer(*peer).send(format!("{first}\n").as_bytes());
            } else if said.starts_with(b"CONNECT") {
                w.peer(*peer).send(b"1\n1000000\n");
                givers.push(*peer);
            }
        }
        givers.clone()
    };
    for second in 0..60 {
        let end = world.now() + secs(1);
        let mut all = Vec::new();
        while world.now() < end {
            all = serve(&mut world);
            world.run_for(Ticks(1));
        }
        for peer in &all {
            world.peer(*peer).send(&piece);
        }
        if all.len() > 1 {
            assert!((38..44).contains(&second), "after {second} s");
            return assert!(world.peer(all[0]).is_closed());
        }
    }
    panic!("the first owner is waited for");
}

#[test]
fn a_joiner_takes_no_more_than_its_memory_and_its_range() {
    for (fits, durable) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut world = Ring::new(24);
        let at = places(3);
        let (node, disk) = if durable {
            add_durable(&mut world, at[1], Span::us(100, 2000))
        } else {
            (add(&mut world, at[1]), Disk::default())
        };
        let (first, theirs) = (addr(at[0]), addr(at[2]));
        let (me, id) = (world.addr(node), world.service(node).me().id);
        world.with(node, |node, _| node.config.memory_bytes_max = 100_000);
        let mut owner = Member::at(&mut world, first);
        let mut next = Member::at(&mut world, theirs);
        world.with(node, |node, hub| node.join(hub, vec![first]));
        // A megabyte that is not of its range, in both cases; then its own.
        let foreign = format!("{}\n1000000\n{}", id.pred(), "x".repeat(1_000_000));
        let own: String = (0..20)
            .map(|n| {
                let len = if fits { 1000 } else { 10_000 };
                format!("{}\n{len}\n{}", after(id, n), "v".repeat(len))
            })
            .collect();
        let (mut given, mut told, mut most) = (false, false, 0);
        world.until(secs(60), |w| {
            owner.serve(w, &mut |command, key| match command {
                "LOCATE" if given && fits && key == id.to_string() => Then::Say(format!("{me}\n")),
                "LOCATE" => Then::Say(format!("{first}\n")),
                "CONNECT" => {
                    given = true;
                    Then::Say(format!("1\n21\n{foreign}{own}{theirs}\n"))
                }
                _ => Then::Silence,
            });
            next.serve(w, &mut |command, _| {
                told |= command == "UPDATE_PREV";
                Then::Say("1\n".into())
            });
            most = most.max(w.service(node).held_bytes());
            matches!(w.service(node).role, Role::Member) || w.service(node).join_failed()
        });
        assert!(most <= 100_000 + 65_536, "held {most}");
        assert_eq!((told, world.service(node).join_failed()), (fits, !fits));
        assert_eq!(world.service(node).memory_refusals() > 0, !fits);
        if fits {
            assert_eq!(world.service(node).entries().len(), 20);
        } else {
            world.until(secs(5), |w| !w.is_up(node));
        }
        let on_disk = disk.lock().expect("no panic").len();
        assert_eq!(on_disk, if fits && durable { 20 } else { 0 });
    }
}

#[test]
fn a_range_that_does_not_fit_is_not_taken_from_a_leaver() {
    let mut world = Ring::new(25);
    let nodes = ring(&mut world, 3);
    let (prev, leaver) = (nodes[0], nodes[1]);
    let (from, next) = (world.addr(leaver), world.addr(nodes[2]));
    world.with(prev, |node, _| node.config.memory_bytes_max = 100_000);
    let entries: String = (0..20)
        .map(|n| {
            format!(
                "{}\n10000\n{}",
                after(Id::of_addr(from), n),
                "v".repeat(10_000)
            )
        })
        .collect();
    let peer = say(
        &mut world,
        from,
        prev,
        &format!("DISCONNECT\n{next}\n20\n{entries}"),
    );
    hears(&mut world, peer, "0\n");
    world.until(secs(10), |w| is_free(w, prev));
    assert_eq!(world.service(prev).routing().next().addr, from);
    assert!(world.service(prev).entries().is_empty(), "swept");
}

/// Of many commits that come back in one turn, one starts a quantum.
#[test]
fn a_batch_of_commits_is_one_quantum_of_a_hand_off() {
    let mut world = Ring::new(26);
    let (node, _) = add_durable(&mut world, 1, Span::ms(50, 50));
    let (joiner, id) = joiner_at(&world, node);
    for n in 0..60 {
        put(&mut world, node, after(id, n), "v");
    }
    let me = world.service(node).me().id;
    let insert = |key: Id| format!("INSERT\n{key}\n1\nw");
    // The worker is busy with the first write while the others come, so they are one batch: one from before the CONNECT,
    // which the hand-off waits for, and many from after it.
    let mut writers = vec![say(&mut world, addr(300), node, &insert(after(id, 0)))];
    world.run_for(Ticks(1));
    writers.push(say(&mut world, addr(300), node, &insert(after(id, 1))));
    world.run_for(Ticks(1));
    let peer = say(&mut world, joiner, node, &format!("CONNECT\n{id}\n"));
    world.run_for(Ticks(1));
    writers.extend((0..20).map(|n| say(&mut world, addr(300), node, &insert(after(me, n)))));
    let quantum = 2 * entry_bytes(&Bytes::from_static(b"v"));
    let (mut before, mut turns) = (0, 0);
    world.until(secs(10), |w| {
        if let LockHolder::HandOff(hand_off) = &w.service(node).lock_holder
            && let Some(bytes) = hand_off.moved_bytes(|_| 0)
        {
            assert!(
                bytes - before <= quantum,
                "{} bytes in a turn",
                bytes - before
            );
            turns += u32::from(bytes > before);
            before = bytes;
        }
        w.peer(peer).received().ends_with(b"10.1.0.1:5000\n")
    });
    assert!(turns > 20, "{turns}");
    for writer in writers {
        hears(&mut world, writer, "1\n1\n");
    }
}

/// Overtaken when the lock was offered to it, a CONNECT waits on with its first deadline.
#[test]
fn a_parked_request_that_is_overtaken_keeps_its_deadline() {
    let mut world = Ring::new(27);
    let p = ring(&mut world, 1)[0];
    let (one, id) = joiner_at(&world, p);
    let me = world.service(p).me().id;
    let connect = |id: Id| format!("CONNECT\n{id}\n");
    let first = say(&mut world, one, p, &connect(id));
    let text = format!("1\n0\n{}\n", world.addr(p));
    hears(&mut world, first, &text);
    // All of it but its last byte.
    let mut quick = connect(after(me, 2));
    quick.pop();
    let third = say(&mut world, addr(92), p, &quick);
    let second = say(&mut world, addr(91), p, &connect(after(me, 1)));
    let parked_at = world.now();
    world.run_for(secs(4));
    assert!(world.peer(second).received().is_empty(), "parked");
    // A byte that comes while the node rests between two turns is served before the offer is delivered.
    world.set_faults(Faults {
        latency: Span::us(10, 10),
        turn_delay: Span::us(5_000, 5_000),
        ..Faults::none()
    });
    world.peer(first).reset();
    world.until(secs(1), |w| is_free(w, p));
    world.peer(third).send(b"\n");
    world.until(secs(1), |w| w.peer(third).received().starts_with(b"1\n"));
    world.until(secs(10), |w| !w.peer(second).received().is_empty());
    let waited = world.now() - parked_at;
    assert!(
        waited >= secs(5) && waited < Ticks::from_millis(5_500),
        "{waited:?}"
    );
    assert_eq!(world.peer(second).received(), b"0\n");
}

/// Commits nothing at first.
struct Unwilling {
    commits: Commits,
    failures: u32,
}

impl Work for Unwilling {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        if self.failures == 0 {
            return self.commits.run(jobs, done);
        }
        self.failures -= 1;
        done.extend(jobs.drain(..).map(|write| Written {
            write,
            committed: false,
        }));
    }
}

/// The worker has room for two jobs, or fails at first: what was handed over leaves the disk all the same.
#[test]
fn entries_of_a_joiner_leave_the_disk_even_when_the_worker_is_full_or_fails() {
    for failures in [0, 3] {
        let mut world = Ring::new(28);
        let config = Config {
            durable: true,
            ..config(28, 1)
        };
        let limits = Limits {
            jobs_max: 2,
            ..config.fit(Limits::default())
        };
        let node = world.add(addr(1), DhtNode::new(config, Entries::default()), limits);
        let disk = Disk::default();
        let commits = Commits(disk.clone());
        world.set_worker(node, Unwilling { commits, failures }, Span::ms(20, 20));
        let (joiner, id) = joiner_at(&world, node);
        for n in 0..20 {
            put(&mut world, node, after(id, n), "v");
            write_disk(&disk, after(id, n), "v");
        }
        let peer = say(&mut world, joiner, node, &format!("CONNECT\n{id}\n"));
        world.until(secs(5), |w| {
            w.peer(peer).received().ends_with(b"10.1.0.1:5000\n")
        });
        world.peer(peer).send(format!("{joiner}\n").as_bytes());
        world.run_for(Ticks(1));
        assert!(!is_free(&world, node), "until everything is gone");
        world.until(secs(10), |w| is_free(w, node));
        assert!(world.service(node).entries().is_empty());
        assert!(disk.lock().expect("no panic").is_empty(), "{failures}");
    }
}

//! Joiners that never become members: they take no range away, and hold up nobody for long.

use super::script::{Member, Ring, Then, after, asked, hears, put, ring, say};
use super::*;
use crate::engine::Tick;
use crate::proto::dht::node::LockHolder;
use crate::sim::PeerId;

/// A listening address whose id lies in the range of `node`.
fn joiner_at(world: &Ring, node: NodeId) -> (SocketAddrV4, Id) {
    let of = |n| (addr(n), Id::of_addr(addr(n)));
    let service = world.service(node);
    let mut all = (100..).map(of);
    all.find(|(_, id)| service.owns(*id))
        .expect("ids are spread")
}

fn insert(key: Id, value: &str) -> String {
    format!("INSERT\n{key}\n{}\n{value}", value.len())
}

fn is_free(world: &Ring, node: NodeId) -> bool {
    matches!(world.service(node).lock_holder, LockHolder::Nobody)
}

/// A durable ring of one with 20 entries behind a joiner, which was given them and the next. `1` to an INSERT of the first
/// key was said before.
struct HandedOver {
    world: Ring,
    node: NodeId,
    disk: Disk,
    joiner: SocketAddrV4,
    id: Id,
    peer: PeerId,
    writer: PeerId,
}

fn handed_over(seed: u64) -> HandedOver {
    let mut world = Ring::new(seed);
    let (node, disk) = add_durable(&mut world, 1, Span::us(100, 2000));
    let (joiner, id) = joiner_at(&world, node);
    let keys: Vec<Id> = (0..20).map(|n| after(id, n)).collect();
    for key in &keys {
        assert_eq!(asked(&mut world, node, &insert(*key, "v")), "1\n1\n");
    }
    let peer = say(&mut world, joiner, node, &format!("CONNECT\n{id}\n"));
    world.until(secs(5), |w| {
        w.peer(peer).received().ends_with(b"10.1.0.1:5000\n")
    });
    let writer = say(&mut world, addr(64), node, &insert(id, "new"));
    hears(&mut world, writer, "1\n");
    HandedOver {
        world,
        node,
        disk,
        joiner,
        id,
        peer,
        writer,
    }
}

impl HandedOver {
    fn has_all(&self) -> bool {
        let disk = self.disk.lock().expect("no panic");
        self.world.service(self.node).entries().len() == 20 && disk.len() == 20
    }

    fn give_address(&mut self) {
        let text = format!("{}\n", self.joiner);
        self.world.peer(self.peer).send(text.as_bytes());
        let joiner = self.joiner;
        let node = self.node;
        self.world
            .until(secs(1), |w| w.service(node).routing().next().addr == joiner);
    }
}

#[test]
fn a_joiner_at_whose_address_nobody_listens_takes_nothing_away() {
    let mut it = handed_over(31);
    it.give_address();
    let (node, id) = (it.node, it.id);
    let at = it.world.now();
    assert_eq!(
        asked(&mut it.world, node, &format!("GET\n{id}\n")),
        "0\n",
        "the joiner may serve it"
    );
    assert_eq!(
        asked(&mut it.world, node, &format!("LOCATE\n{id}\n")),
        format!("{}\n", it.joiner)
    );
    let second = say(&mut it.world, addr(90), node, &format!("CONNECT\n{id}\n"));
    assert!(it.world.peer(second).received().is_empty());
    let writer = it.writer;
    it.world
        .until(secs(5), |w| w.peer(writer).received() == b"1\n");
    assert!(it.world.now() - at <= secs(2), "{:?}", it.world.now() - at);
    assert!(it.has_all());
    assert_eq!(
        asked(&mut it.world, node, &format!("GET\n{id}\n")),
        "1\n3\nnew"
    );
    it.world.until(secs(5), |w| {
        w.peer(second).received().starts_with(b"1\n20\n")
    });
}

/// It accepts and says nothing, or says that it is no member, or breaks off.
#[test]
fn a_joiner_that_does_not_answer_as_a_member_takes_nothing_away() {
    for how in 0..3 {
        let mut it = handed_over(32 + how);
        it.give_address();
        let node = it.node;
        let mut joiner = Member::at(&mut it.world, it.joiner);
        let at = it.world.now();
        let mut refused_at: Option<Tick> = None;
        let writer = it.writer;
        it.world.until(secs(15), |w| {
            joiner.serve(w, &mut |_, _| match how {
                0 => Then::Silence,
                1 => Then::Say(format!("{}\n", addr(1))),
                _ => Then::Reset,
            });
            if refused_at.is_none() && w.peer(writer).received() == b"0\n" {
                refused_at = Some(w.now());
            }
            is_free(w, node)
        });
        let waited = refused_at.expect("a write does not wait for it") - at;
        assert!(waited <= secs(2), "{waited:?}");
        let lasted = it.world.now() - at;
        assert!(lasted > secs(9) && lasted < secs(11), "{lasted:?}");
        assert!(it.has_all());
        let id = it.id;
        assert_eq!(
            asked(&mut it.world, node, &format!("GET\n{id}\n")),
            "1\n1\nv"
        );
    }
}

/// A plain joiner may answer late.
#[test]
fn a_joiner_that_answers_in_the_end_has_its_range() {
    let mut it = handed_over(35);
    it.give_address();
    let (node, address) = (it.node, it.joiner);
    let mut joiner = Member::at(&mut it.world, it.joiner);
    it.world.run_for(secs(6));
    assert!(it.has_all());
    it.world.until(secs(10), |w| {
        joiner.serve(w, &mut |_, _| Then::Say(format!("{address}\n")));
        is_free(w, node)
    });
    assert_eq!(it.world.service(node).routing().next().addr, address);
    assert!(it.world.service(node).entries().is_empty());
    assert!(it.disk.lock().expect("no panic").is_empty());
}

/// The node is told to leave, or is killed, while it is not known whether the joiner serves.
#[test]
fn a_leave_or_a_crash_meanwhile_loses_nothing() {
    for killed in [false, true] {
        let mut it = handed_over(36);
        it.give_address();
        if killed {
            it.world.kill(it.node);
        } else {
            it.world.shutdown(it.node);
        }
        let node = it.node;
        it.world.until(secs(5), |w| !w.is_up(node));
        let disk = it.disk.lock().expect("no panic");
        assert_eq!(disk.len(), 20);
    }
}

/// The next was told by the joiner that it is its prev.
#[test]
fn a_range_that_comes_back_has_its_old_next() {
    let mut world = Ring::new(37);
    let nodes = ring(&mut world, 2);
    let (p, next) = (nodes[0], nodes[1]);
    let (joiner, id) = joiner_at(&world, p);
    put(&mut world, p, id, "v");
    let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
    let theirs = world.addr(next);
    hears(&mut world, peer, &format!("1\n1\n{id}\n1\nv{theirs}\n"));
    let update = format!("UPDATE_PREV\n{joiner}\n");
    assert_eq!(asked(&mut world, next, &update), "1\n");
    world.peer(peer).send(format!("{joiner}\n").as_bytes());
    world.until(secs(1), |w| w.service(p).routing().next().addr == joiner);
    let me = world.addr(p);
    world.until(secs(10), |w| {
        w.service(p).routing().next().addr == theirs
            && w.service(next).routing().prev().map(|prev| prev.addr) == Some(me)
    });
    assert_eq!(asked(&mut world, p, &format!("GET\n{id}\n")), "1\n1\nv");
}

/// Writers of one key each, one write after the other.
struct Load {
    writers: Vec<(PeerId, Id, Tick)>,
    done: u32,
    worst: Ticks,
}

impl Load {
    fn begin(world: &mut Ring, node: NodeId, keys: impl Iterator<Item = Id>) -> Load {
        let writers = keys.enumerate().map(|(n, key)| {
            let writer = say(world, addr(300 + n), node, &insert(key, "w"));
            (writer, key, world.now())
        });
        Load {
            writers: writers.collect(),
            done: 0,
            worst: Ticks::default(),
        }
    }

    /// A write that is refused is tried again at once.
    fn go_on(&mut self, world: &mut Ring, node: NodeId) {
        let now = world.now();
        for (writer, key, begun) in &mut self.writers {
            self.worst = self.worst.max(now - *begun);
            let text = insert(*key, "w");
            match world.peer(*writer).received() {
                b"" | b"1\n" => {}
                b"1\n1\n" => {
                    world.peer(*writer).take();
                    world.peer(*writer).send(text.as_bytes());
                    self.done += 1;
                    *begun = now;
                }
                _ => {
                    world.peer(*writer).reset();
                    *writer = say(world, addr(300), node, &text);
                }
            }
        }
    }
}

/// Three connections of one source, each of which begins a CONNECT again whenever it is over.
#[test]
fn joiners_that_stall_in_a_loop_let_writes_through() {
    // Nothing more, the address cut short, the address of nobody.
    for how in 0..3 {
        let mut world = Ring::new(41 + how);
        world.set_faults(crate::sim::Faults {
            latency: Span::ms(1, 1),
            ..crate::sim::Faults::none()
        });
        let p = ring(&mut world, 1)[0];
        let (joiner, id) = joiner_at(&world, p);
        let connect = format!("CONNECT\n{id}\n");
        let text = match how {
            0 => connect,
            1 => format!("{connect}10.1."),
            _ => format!("{connect}{joiner}\n"),
        };
        let mut load = Load::begin(&mut world, p, (0..2).map(|n| after(id, n)));
        let mut stallers: Vec<PeerId> = Vec::new();
        let end = world.now() + secs(119);
        while world.now() < end {
            stallers.retain(|peer| !world.peer(*peer).is_closed());
            for staller in &stallers {
                if world.peer(*staller).received() == b"0\n" {
                    world.peer(*staller).reset();
                }
            }
            while stallers.len() < 3 {
                stallers.push(say(&mut world, joiner, p, &text));
            }
            world.run_for(Ticks(1));
            load.go_on(&mut world, p);
        }
        println!("{} writes, the worst {:?}", load.done, load.worst);
        assert!(load.done > 20_000, "{} writes", load.done);
        let most = if how == 2 { secs(4) } else { secs(2) };
        assert!(load.worst <= most, "{:?}", load.worst);
    }
}

#[test]
fn a_node_that_is_to_leave_does_not_wait_for_a_joiner_that_stalls() {
    let mut world = Ring::new(44);
    let nodes = ring(&mut world, 2);
    let p = nodes[0];
    let (joiner, id) = joiner_at(&world, p);
    put(&mut world, p, id, "v");
    let peer = say(&mut world, joiner, p, &format!("CONNECT\n{id}\n"));
    world.until(secs(1), |w| !w.peer(peer).received().is_empty());
    world.shutdown(p);
    world.until(secs(4), |w| !w.is_up(p));
    let heir = world.service(nodes[1]);
    assert!(heir.routing().is_alone() && heir.entries().contains(id));
}

#[test]
fn connects_of_one_source_leave_room_for_others() {
    let mut world = Ring::new(45);
    let p = ring(&mut world, 1)[0];
    let (joiner, id) = joiner_at(&world, p);
    let connect = format!("CONNECT\n{id}\n");
    let many: Vec<PeerId> = (0..100)
        .map(|_| say(&mut world, joiner, p, &connect))
        .collect();
    let other = say(&mut world, addr(91), p, &connect);
    world.run_for(secs(1));
    let refused = many
        .iter()
        .filter(|peer| world.peer(**peer).received() == b"0\n");
    assert_eq!(refused.count(), 100 - 16);
    assert!(world.peer(other).received().is_empty(), "it waits");
}

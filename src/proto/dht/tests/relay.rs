//! A DISCONNECT that is passed on: the leaver asked the wrong member, and either connection may end at any byte.

use super::script::{Member, Ring, Then, after, has, hears, places, say};
use super::*;
use crate::proto::dht::node::LockHolder;
use crate::proto::dht::routing;
use crate::sim::PeerId;

/// A ring of three: ours, which is asked; the heir; the leaver, which is played, says that it leaves and announces ours.
struct Three {
    world: Ring,
    asked: NodeId,
    me: SocketAddrV4,
    heir: SocketAddrV4,
    leaver: SocketAddrV4,
    member: Member,
}

impl Three {
    /// The heir is not there yet.
    fn new(seed: u64) -> Three {
        let mut world = Ring::new(seed);
        let at = places(3);
        let asked = add(&mut world, at[0]);
        let (heir, leaver) = (addr(at[1]), addr(at[2]));
        world.with(asked, |node, hub| {
            node.set_next(hub, routing::Member::at(heir))
        });
        let member = Member::at(&mut world, leaver);
        Three {
            me: addr(at[0]),
            world,
            asked,
            heir,
            leaver,
            member,
        }
    }

    /// One of ours.
    fn with_heir(&mut self) -> NodeId {
        let n = places(3)[1];
        let heir = add(&mut self.world, n);
        let next = routing::Member::at(self.leaver);
        self.world.with(heir, |node, hub| node.set_next(hub, next));
        heir
    }

    /// Two of its own entries, and one that is not.
    fn disconnect(&self) -> String {
        let id = Id::of_addr(self.leaver);
        let keys = [id, Id::of_addr(self.heir), after(id, 1)];
        let entries: String = keys.iter().map(|key| format!("{key}\n3\nown")).collect();
        format!("DISCONNECT\n{}\n3\n{entries}", self.me)
    }

    /// Runs until `done`; the leaver answers XSTAT with `0`, and LOCATE with itself.
    #[track_caller]
    fn until(&mut self, time: Ticks, mut done: impl FnMut(&mut Ring) -> bool) {
        let leaver = self.leaver;
        let Three { world, member, .. } = self;
        world.until(time, |w| {
            member.serve_leaving(w, &mut |_, _| Then::Say(format!("{leaver}\n")));
            done(w)
        });
    }

    fn is_free(&self) -> bool {
        matches!(
            self.world.service(self.asked).lock_holder,
            LockHolder::Nobody
        )
    }
}

#[test]
fn a_disconnect_for_another_member_gets_there_and_its_answer_back() {
    let mut ring = Three::new(1);
    let heir = ring.with_heir();
    let text = ring.disconnect();
    let peer = say(&mut ring.world, ring.leaver, ring.asked, &text);
    ring.until(secs(10), |w| !w.peer(peer).received().is_empty());
    hears(&mut ring.world, peer, "1\n");
    let id = Id::of_addr(ring.leaver);
    assert_eq!(ring.world.service(heir).routing().next().addr, ring.me);
    assert_eq!(has(&ring.world, heir, id).as_deref(), Some("own"));
    assert_eq!(
        ring.world.service(heir).entries().len(),
        2,
        "its own, and no others"
    );
    assert!(ring.world.service(ring.asked).entries().is_empty());
    assert!(ring.is_free());
}

/// Wherever the leaver breaks off, its range is whole: the heir's with every entry, or its own.
#[test]
fn a_leaver_that_ends_at_any_byte_of_a_relay() {
    let all = Three::new(0).disconnect();
    for cut in 0..=all.len() {
        for how in 0..3 {
            let mut ring = Three::new(cut as u64);
            let heir = ring.with_heir();
            let peer = say(&mut ring.world, ring.leaver, ring.asked, &all[..cut]);
            // Either at once, or when all that was sent is on its way.
            if cut % 2 == 0 {
                let later = ring.world.now() + Ticks(20);
                ring.until(secs(1), |w| w.now() >= later);
            }
            match how {
                0 => ring.world.peer(peer).close(),
                1 => ring.world.peer(peer).reset(),
                _ => ring.world.peer(peer).finish(),
            }
            let later = ring.world.now() + secs(2);
            ring.until(secs(3), |w| w.now() >= later);
            assert!(ring.is_free(), "cut at {cut}");
            let node = ring.world.service(heir);
            assert!(
                matches!(node.lock_holder, LockHolder::Nobody),
                "cut at {cut}"
            );
            let took = node.routing().next().addr == ring.me;
            assert_eq!(
                node.entries().len(),
                if took { 2 } else { 0 },
                "cut at {cut}"
            );
            assert!(!took || cut == all.len(), "cut at {cut}");
            assert!(ring.world.service(ring.asked).entries().is_empty());
        }
    }
}

/// The heir, played, ends after so many bytes. What the leaver hears is true: `0` only of what the heir cannot have.
#[test]
fn an_heir_that_ends_at_any_byte_of_a_relay() {
    let all = Three::new(0).disconnect();
    for cut in 1..=all.len() {
        for reset in [true, false] {
            let mut ring = Three::new(cut as u64);
            let door = ring.world.listen(ring.heir);
            let (heir, leaver) = (ring.heir, ring.leaver);
            let peer = say(&mut ring.world, leaver, ring.asked, &all);
            let mut heirs: Vec<(PeerId, Vec<u8>)> = Vec::new();
            let (mut ended, mut got) = (false, 0);
            ring.until(secs(30), |w| {
                while let Some(peer) = w.accept(door) {
                    heirs.push((peer, Vec::new()));
                }
                for (peer, text) in &mut heirs {
                    text.extend(w.peer(*peer).take());
                    let lines = text.iter().filter(|byte| **byte == b'\n').count();
                    if text.starts_with(b"LOCATE") && lines == 2 {
                        let key: Id = String::from_utf8_lossy(&text[7..])
                            .trim()
                            .parse()
                            .expect("a key");
                        let own = key.in_arc(Id::of_addr(heir), Id::of_addr(leaver));
                        let who = if own { heir } else { leaver };
                        w.peer(*peer).send(format!("{who}\n").as_bytes());
                        text.clear();
                    } else if text.starts_with(b"D") && text.len() >= cut && !ended {
                        (ended, got) = (true, text.len());
                        if reset {
                            w.peer(*peer).reset();
                        } else {
                            w.peer(*peer).close();
                        }
                    }
                }
                w.peer(peer).is_closed()
            });
            assert!(ended, "cut at {cut}");
            let heard = ring.world.peer(peer).take();
            // What it was sent may be all of it, also when it had read less.
            let unknown = heard.is_empty();
            assert!(unknown || heard == b"0\n", "{heard:?}");
            assert!(unknown || got < all.len(), "a no to what the heir has");
            assert!(ring.is_free(), "cut at {cut}");
            assert_eq!(ring.world.service(ring.asked).routing().next().addr, heir);
        }
    }
}

/// And at any byte of its answer.
#[test]
fn an_answer_of_an_heir_is_passed_back_when_it_is_whole() {
    for (answer, heard) in [
        ("", ""),
        ("1", ""),
        ("0", ""),
        ("1\n", "1\n"),
        ("0\n", "0\n"),
        ("yes\n", ""),
        ("\n", ""),
    ] {
        let mut ring = Three::new(3);
        let mut heir = Member::at(&mut ring.world, ring.heir);
        let (me, leaver) = (ring.heir, ring.leaver);
        let text = ring.disconnect();
        let last = format!("own{}", after(Id::of_addr(leaver), 1));
        let peer = say(&mut ring.world, leaver, ring.asked, &text);
        ring.until(secs(30), |w| {
            heir.serve(w, &mut |command, argument| match command {
                "LOCATE" => {
                    let key: Id = argument.parse().expect("a key");
                    let own = key.in_arc(Id::of_addr(me), Id::of_addr(leaver));
                    Then::Say(format!("{}\n", if own { me } else { leaver }))
                }
                // Two lines, the last of which is the last whole one; the value behind them has no end of line.
                _ if argument == last => Then::SayAndClose(answer.into()),
                _ => Then::Silence,
            });
            w.peer(peer).is_closed() || !w.peer(peer).received().is_empty()
        });
        let got = String::from_utf8_lossy(&ring.world.peer(peer).take()).into_owned();
        // The last three bytes may still have been under way when it broke off.
        assert!(
            got == heard || (heard.is_empty() && got == "0\n"),
            "{answer:?}: {got:?}"
        );
        assert!(ring.is_free());
    }
}

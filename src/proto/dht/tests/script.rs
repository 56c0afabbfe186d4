//! What the scripted exchanges share: small rings with known places, and peers that say given lines.

use std::net::SocketAddrV4;

use crate::engine::Ticks;
use crate::sim::{ListenerId, NodeId, PeerEnd, PeerId, World};

use super::{add, addr, secs};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{DhtNode, Role};

pub(super) type Ring = World<DhtNode>;

/// Numbers for [`addr`] whose ids come in this order round the ring, `count` of them, beginning with the least.
pub(super) fn places(count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (1..=count).collect();
    places.sort_by_key(|n| Id::of_addr(addr(*n)));
    places
}

/// A ring of real nodes at [`places`], in the order of their ids.
pub(super) fn ring(world: &mut Ring, count: usize) -> Vec<NodeId> {
    let nodes: Vec<NodeId> = places(count).into_iter().map(|n| add(world, n)).collect();
    let contact = world.addr(nodes[0]);
    for id in &nodes[1..] {
        world.with(*id, |node, hub| node.join(hub, vec![contact]));
        world.until(secs(10), |w| matches!(w.service(*id).role, Role::Member));
    }
    nodes
}

/// A key that lies `n` after `start`.
pub(super) fn after(start: Id, n: u8) -> Id {
    (0..n).fold(start, |id, _| id.plus_power_of_two(0))
}

pub(super) fn put(world: &mut Ring, id: NodeId, key: Id, value: &str) {
    let value = value.as_bytes().to_vec();
    world.with(id, |node, _| {
        node.write_in_memory(key, None, Some(value.into()))
    });
}

pub(super) fn has(world: &Ring, id: NodeId, key: Id) -> Option<String> {
    let value = world.service(id).entries().get(key)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// A peer at the IP of `from` connects to a node and says `text`.
pub(super) fn say(world: &mut Ring, from: SocketAddrV4, to: NodeId, text: &str) -> PeerId {
    let to = world.addr(to);
    let port = rand::RngExt::random_range(world.rng(), 20_000..60_000);
    let peer = world.connect_from(SocketAddrV4::new(*from.ip(), port), to);
    world.peer(peer).send(text.as_bytes());
    peer
}

/// The peer hears exactly `text`, within ten seconds.
#[track_caller]
pub(super) fn hears(world: &mut Ring, peer: PeerId, text: &str) {
    let result = world.run_until(secs(12), |w| w.peer(peer).received().len() >= text.len());
    let got = String::from_utf8_lossy(&world.peer(peer).take()).into_owned();
    assert!(result.is_ok() && got == text, "heard {got:?}, not {text:?}");
}

/// What a stranger is answered to `text`.
pub(super) fn asked(world: &mut Ring, to: NodeId, text: &str) -> String {
    let peer = say(world, addr(60_000), to, text);
    world.peer(peer).finish();
    world.until(secs(60), |w| w.peer(peer).is_closed());
    String::from_utf8_lossy(&world.peer(peer).take()).into_owned()
}

/// A scripted member: answers each request, a command and its argument, with what the test's function says.
pub(super) struct Member {
    pub listener: ListenerId,
    peers: Vec<(PeerId, String)>,
    /// Every request, in order.
    pub heard: Vec<String>,
}

/// What a scripted member does upon a request.
pub(super) enum Then {
    Say(String),
    SayAndClose(String),
    Silence,
    Reset,
}

impl Member {
    pub(super) fn at(world: &mut Ring, addr: SocketAddrV4) -> Member {
        Member {
            listener: world.listen(addr),
            peers: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// As [`Member::serve`], as a plain peer: XSTAT, which it does not know and which is one line, ends the connection.
    pub(super) fn serve_plain(
        &mut self,
        world: &mut Ring,
        answer: &mut dyn FnMut(&str, &str) -> Then,
    ) {
        self.serve_stat(world, |mut peer| peer.close());
        self.serve(world, answer);
    }

    /// As [`Member::serve`], as one of ours that gives its range away: `0` to XSTAT.
    pub(super) fn serve_leaving(
        &mut self,
        world: &mut Ring,
        answer: &mut dyn FnMut(&str, &str) -> Then,
    ) {
        self.serve_stat(world, |mut peer| peer.send(b"0\n"));
        self.serve(world, answer);
    }

    fn serve_stat(&mut self, world: &mut Ring, act: fn(PeerEnd<'_>)) {
        self.accept(world);
        for (peer, _) in &self.peers {
            if world.peer(*peer).received().starts_with(b"XSTAT\n") {
                world.peer(*peer).take();
                act(world.peer(*peer));
            }
        }
    }

    fn accept(&mut self, world: &mut Ring) {
        while let Some(peer) = world.accept(self.listener) {
            self.peers.push((peer, String::new()));
        }
    }

    /// Serves what has come; lines beyond the two of a request are left to `more`, which is given all that is unread
    /// behind a request that was answered with [`Then::Silence`].
    pub(super) fn serve(&mut self, world: &mut Ring, answer: &mut dyn FnMut(&str, &str) -> Then) {
        self.accept(world);
        for (peer, unread) in &mut self.peers {
            let fresh = world.peer(*peer).take();
            unread.push_str(&String::from_utf8_lossy(&fresh));
            while let Some((request, rest)) = two_lines(unread) {
                self.heard
                    .push(request.replace('\n', " ").trim().to_owned());
                *unread = rest;
                let (command, argument) = request.split_once('\n').expect("two lines");
                match answer(command, argument.trim_end()) {
                    Then::Say(text) => world.peer(*peer).send(text.as_bytes()),
                    Then::SayAndClose(text) => {
                        world.peer(*peer).send(text.as_bytes());
                        world.peer(*peer).close();
                    }
                    Then::Silence => {}
                    Then::Reset => world.peer(*peer).reset(),
                }
            }
        }
    }
}

fn two_lines(text: &str) -> Option<(String, String)> {
    let end = text.match_indices('\n').nth(1)?.0 + 1;
    Some((text[..end].to_owned(), text[end..].to_owned()))
}

/// Runs with a scripted member until `done`.
#[track_caller]
pub(super) fn run_with(
    world: &mut Ring,
    member: &mut Member,
    time: Ticks,
    answer: &mut dyn FnMut(&str, &str) -> Then,
    done: &mut dyn FnMut(&mut Ring) -> bool,
) {
    world.until(time, |w| {
        member.serve(w, answer);
        done(w)
    });
}

//! What the scripted exchanges share: peers and trackers that say given tuples, in the encoding that people read.

use crate::engine::Input;
use crate::sim::{ListenerId, PeerId};

use super::super::wire::{Encoding, Reader, Reply};
use super::*;

/// A stranger at `from` connects to a node and says `text`.
pub(super) fn say(world: &mut Ring, from: Ipv4Addr, to: SocketAddrV4, text: &str) -> PeerId {
    let port = rand::RngExt::random_range(world.rng(), 20_000..60_000);
    let peer = world.connect_from(SocketAddrV4::new(from, port), to);
    world.peer(peer).send(text.as_bytes());
    peer
}

/// What was answered to `text` within a few seconds, and whether the connection was closed.
pub(super) fn asked(world: &mut Ring, to: SocketAddrV4, text: &str) -> (String, bool) {
    let peer = say(world, STRANGER, to, text);
    world.run_for(secs(1));
    let answer = String::from_utf8_lossy(&world.peer(peer).take()).into_owned();
    let closed = world.peer(peer).is_closed();
    world.peer(peer).close();
    (answer, closed)
}

pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Registers a scripted peer and closes, as plain programs do; what it was answered.
pub(super) fn register(world: &mut Ring, from: SocketAddrV4, handle: &str) -> String {
    let text = format!("('REGISTER', '{handle}', {})", from.port());
    let peer = say(world, *from.ip(), TRACKER, &text);
    world.until(secs(5), |w| !w.peer(peer).received().is_empty());
    world.run_for(Ticks(2));
    let answer = String::from_utf8_lossy(&world.peer(peer).take()).into_owned();
    world.peer(peer).close();
    world.run_for(Ticks(2));
    answer
}

/// A scripted server: answers each request with what the test's function says.
pub(super) struct Plain {
    pub listener: ListenerId,
    peers: Vec<(PeerId, Vec<u8>)>,
    /// Every request with the tick at which it came.
    pub heard: Vec<(u64, String)>,
}

/// What a scripted server does upon a request.
pub(super) enum Then {
    Say(String),
    SayAndClose(String),
    Close,
    Silence,
}

impl Plain {
    pub(super) fn at(world: &mut Ring, addr: SocketAddrV4) -> Plain {
        Plain {
            listener: world.listen(addr),
            peers: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// Serves what has come.
    pub(super) fn serve(&mut self, world: &mut Ring, answer: &mut dyn FnMut(&str) -> Then) {
        while let Some(peer) = world.accept(self.listener) {
            self.peers.push((peer, Vec::new()));
        }
        for (peer, unread) in &mut self.peers {
            unread.extend(world.peer(*peer).take());
            while let Some((request, used)) = read(unread) {
                unread.drain(..used);
                self.heard.push((world.now().0, request.clone()));
                match answer(&request) {
                    Then::Say(text) => world.peer(*peer).send(text.as_bytes()),
                    Then::SayAndClose(text) => {
                        world.peer(*peer).send(text.as_bytes());
                        world.peer(*peer).close();
                    }
                    Then::Close => world.peer(*peer).close(),
                    Then::Silence => {}
                }
            }
            // A program that sees the end of the stream closes.
            if world.peer(*peer).is_closed() {
                world.peer(*peer).close();
            }
        }
    }

    /// Runs for `time`, serving.
    pub(super) fn run(
        &mut self,
        world: &mut Ring,
        time: Ticks,
        answer: &mut dyn FnMut(&str) -> Then,
    ) {
        for _ in 0..time.0 {
            world.run_for(Ticks(1));
            self.serve(world, answer);
        }
    }

    pub(super) fn heard(&self, word: &str) -> Vec<u64> {
        let said = self.heard.iter().filter(|(_, text)| text.contains(word));
        said.map(|(at, _)| *at).collect()
    }
}

/// The first message of `bytes`, as a literal, and its length.
pub(super) fn read(bytes: &[u8]) -> Option<(String, usize)> {
    let input = Input { bytes, seen: 0 };
    let packet = Reader::default().read(input).expect("a message")?;
    let (used, mut text) = (packet.used, Vec::new());
    match packet.request() {
        Ok(request) => request.put(Encoding::Literal, &mut text),
        Err(_) => {
            let packet = Reader::default().read(input).expect("a message")?;
            let reply: Reply<'_> = packet.reply().expect("a message of ours");
            reply.put(Encoding::Literal, &mut text);
        }
    }
    Some((String::from_utf8(text).expect("a literal"), used))
}

//! Operations through a client in the simulator, against scripted servers and a real node.
//!
//! A server is a list of talks, one for each connection, begun again when it is through. A talk says word for
//! word what the client must send and what it is answered; `K` stands for the key.

use std::net::Ipv4Addr;

use crate::engine::{Limits, Ticks};
use crate::proto::dht::node::{Config, DhtNode};
use crate::proto::dht::rpc::client::{Client, Host, Task};
use crate::proto::dht::storage::entries::Entries;
use crate::sim::{Answer, ListenerId, NodeId, PeerId, World};

use super::*;

mod answers;
mod failures;
mod real;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 99), 1);

const TOO_LONG: Ticks = Ticks::from_secs(600);

/// Server number `n` of a test. The client's contact is number 1.
fn addr(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 4000)
}

const A: &str = "10.0.0.1:4000\n";
const B: &str = "10.0.0.2:4000\n";

fn key() -> Id {
    Id::of(b"key")
}

/// What a server does after the last answer of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Stay,
    Finish,
    Close,
    Reset,
}

const THENS: [Then; 4] = [Then::Stay, Then::Finish, Then::Close, Then::Reset];

/// What the client sends, and the answer.
type Lines = (&'static str, &'static str);

#[derive(Debug, Clone)]
struct Talk {
    lines: Vec<Lines>,
    then: Then,
}

fn talk(lines: &[Lines], then: Then) -> Talk {
    Talk {
        lines: lines.to_vec(),
        then,
    }
}

struct Server {
    listener: ListenerId,
    talks: Vec<Talk>,
    /// Connections so far.
    accepted: usize,
}

struct Line {
    peer: PeerId,
    talk: Talk,
    /// What the client must send before the next answer.
    heard: Vec<u8>,
    unsaid: Vec<Vec<u8>>,
    over: bool,
}

/// A client with scripted servers.
struct Lab {
    world: World<Client>,
    id: NodeId,
    servers: Vec<Server>,
    lines: Vec<Line>,
    /// Answers come in two pieces, cut after so many bytes.
    split_at: usize,
    running_max: usize,
}

/// What came of a run.
struct Run {
    results: Vec<Option<Result<Outcome, Failure>>>,
    took: Ticks,
    /// Connections of all servers.
    dials: usize,
}

impl Run {
    #[track_caller]
    fn only(&self) -> &Result<Outcome, Failure> {
        assert_eq!(self.results.len(), 1);
        self.results[0].as_ref().expect("it ended")
    }
}

fn limits() -> Limits {
    Limits {
        idle: Ticks::from_secs(5),
        output_bytes_max: usize::MAX,
        ..Limits::default()
    }
}

impl Lab {
    fn new(tasks: Vec<Task>, bounds: Bounds, limits: Limits, at_once_max: usize) -> Lab {
        let mut world = World::new(11);
        let client = Client::new(addr(1), tasks, bounds, at_once_max);
        let id = world.add(CLIENT, client, limits);
        Lab {
            world,
            id,
            servers: Vec::new(),
            lines: Vec::new(),
            split_at: usize::MAX,
            running_max: 0,
        }
    }

    /// One task, with the default bounds.
    fn one(verb: Verb) -> Lab {
        Lab::bounded(verb, Bounds::default())
    }

    fn bounded(verb: Verb, bounds: Bounds) -> Lab {
        Lab::new(vec![Task { verb, key: key() }], bounds, limits(), 1)
    }

    fn server(mut self, addr: SocketAddrV4, talks: Vec<Talk>) -> Lab {
        let listener = self.world.listen(addr);
        self.servers.push(Server {
            listener,
            talks,
            accepted: 0,
        });
        self
    }

    /// A server that does with every dial as `answer` says.
    fn deaf(mut self, addr: SocketAddrV4, answer: Answer) -> Lab {
        let listener = self.world.listen(addr);
        self.world.answer(listener, answer);
        self
    }

    fn split(mut self, at: usize) -> Lab {
        self.split_at = at;
        self
    }

    /// Runs to the end of the client.
    #[track_caller]
    fn run(mut self) -> Run {
        let began = self.world.now();
        while self.world.is_up(self.id) {
            let running = self
                .world
                .with(self.id, |client, _| client.operations().len());
            self.running_max = self.running_max.max(running);
            self.world.run_for(Ticks(1));
            self.accept();
            for n in 0..self.lines.len() {
                self.speak(n);
            }
            assert!(self.world.now() - began < TOO_LONG, "it ends some day");
        }
        let took = self.world.now() - began;
        let nobody = Client::new(addr(1), Vec::new(), Bounds::default(), 1);
        let client = self.world.restart(self.id, nobody);
        Run {
            results: client.into_results(),
            took,
            dials: self.servers.iter().map(|server| server.accepted).sum(),
        }
    }

    fn accept(&mut self) {
        for server in &mut self.servers {
            while let Some(peer) = self.world.accept(server.listener) {
                let talk = server.talks[server.accepted % server.talks.len()].clone();
                server.accepted += 1;
                self.lines.push(Line {
                    peer,
                    talk,
                    heard: Vec::new(),
                    unsaid: Vec::new(),
                    over: false,
                });
            }
        }
    }

    /// At most one piece for each tick.
    fn speak(&mut self, n: usize) {
        let line = &mut self.lines[n];
        if line.over {
            return;
        }
        let mut peer = self.world.peer(line.peer);
        if !line.unsaid.is_empty() {
            peer.send(&line.unsaid.remove(0));
            return;
        }
        let Some(&(ask, answer)) = line.talk.lines.first() else {
            line.over = true;
            match line.talk.then {
                Then::Stay => {}
                Then::Finish => peer.finish(),
                Then::Close => peer.close(),
                Then::Reset => peer.reset(),
            }
            return;
        };
        line.heard.extend(peer.take());
        // `#` is the position before A, `@` that before B.
        let before = |n| Id::of_addr(addr(n)).pred().to_string();
        let ask = ask.replace('#', &before(1)).replace('@', &before(2));
        let ask = ask.replace('K', &key().to_string()).into_bytes();
        let common = ask.len().min(line.heard.len());
        assert_eq!(
            line.heard[..common].escape_ascii().to_string(),
            ask[..common].escape_ascii().to_string()
        );
        if line.heard.len() >= ask.len() {
            line.heard.drain(..ask.len());
            line.talk.lines.remove(0);
            let answer = answer.as_bytes();
            let (front, back) = answer.split_at(self.split_at.min(answer.len()));
            let pieces = [front, back].map(<[u8]>::to_vec).into_iter();
            line.unsaid.extend(pieces.filter(|piece| !piece.is_empty()));
        }
    }
}

/// Each verb, its talk with a lone owner in single lines, and what comes of it.
fn good() -> Vec<(Verb, Vec<Lines>, Outcome)> {
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let locate = ("LOCATE\nK\n", A);
    let got = |text| Outcome::Got(Some(value(text)));
    vec![
        (Verb::Locate, vec![locate], Outcome::Located(addr(1))),
        (
            Verb::Contains,
            vec![locate, ("CONTAINS\nK\n", "1\n1\n")],
            Outcome::Contains(true),
        ),
        (
            Verb::Contains,
            vec![locate, ("CONTAINS\nK\n", "1\n0\n")],
            Outcome::Contains(false),
        ),
        (
            Verb::Get,
            vec![locate, ("GET\nK\n", "1\n7\n1\n\r\n0\r\n")],
            got("1\n\r\n0\r\n"),
        ),
        (
            Verb::Get,
            vec![locate, ("GET\nK\n", "1\r\n1\r\n\0")],
            got("\0"),
        ),
        (
            Verb::Get,
            vec![
                locate,
                ("GET\nK\n", "1\n0\n"),
                ("CONTAINS\nK\n", "1\n1\n"),
                ("GET\nK\n", "1\n0\n"),
                ("CONTAINS\nK\n", "1\n1\n"),
            ],
            got(""),
        ),
        // Written and removed in between.
        (
            Verb::Get,
            vec![
                locate,
                ("GET\nK\n", "1\n0\n"),
                ("CONTAINS\nK\n", "1\n1\n"),
                ("GET\nK\n", "1\n0\n"),
                ("CONTAINS\nK\n", "1\n0\n"),
            ],
            Outcome::Got(None),
        ),
        (
            Verb::Get,
            vec![locate, ("GET\nK\n", "1\n0\n"), ("CONTAINS\nK\n", "1\n0\n")],
            Outcome::Got(None),
        ),
        (
            Verb::Insert(value("va\nlue")),
            vec![locate, ("INSERT\nK\n", "1\n"), ("6\nva\nlue", "1\n")],
            Outcome::Inserted,
        ),
        (
            Verb::Insert(Bytes::new()),
            vec![locate, ("INSERT\nK\n", "1\n"), ("0\n", "1\n")],
            Outcome::Inserted,
        ),
        (
            Verb::Remove,
            vec![locate, ("REMOVE\nK\n", "1\n1\n")],
            Outcome::Removed,
        ),
    ]
}

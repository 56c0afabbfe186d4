//! The longest turn of an index server with 1,000,000 files of 10,000 peers. Run with `cargo bench --bench turns`.
//!
//! The whole engine with the server, over connections in memory; the worker thread's jobs are done between the turns and
//! not counted, nor is what the kernel would take. Each row is something that takes many steps; all answers are checked.

mod memory;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use peerloop::engine::{ConnId, Limits, Node, Tick, Ticks};
use peerloop::proto::index::fields::PeerId;
use peerloop::proto::index::record::{Cost, Done, Hashed, Job, Place, Record};
use peerloop::proto::index::server::{Config, IndexServer, Stored};

use memory::{Memory, Pipe, READABLE};

const PEERS: usize = 10_000;
const FILES: usize = 1_000_000;
const SEARCHERS: usize = 50;
/// Of one peer: as many as it may have.
const MANY: usize = 100_000;

/// No turn may take longer.
const TURN_MAX: Duration = Duration::from_millis(10);

/// `wN` is in 10 names, a digit in 100,000, and `song`, `of` and `mp3` are in all.
fn name(number: usize) -> String {
    let word = number % (FILES / 10);
    format!("song w{word} of {} n{number}.mp3", number % 10)
}

/// A file's line of a REGISTER.
fn line(name: &str, number: usize) -> String {
    let digest = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{name}|{}.000000|{digest:040x}\n", number % 1000)
}

/// A digest that costs nothing: what a real one takes is the hashing threads' time.
fn hashed() -> Hashed {
    Hashed {
        cost: Cost {
            memory_kib: 8,
            passes: 1,
        },
        salt: [1; 16],
        digest: [2; 32],
    }
}

struct World {
    node: Node<IndexServer>,
    memory: Memory,
    conns: Vec<ConnId>,
    now: u64,
    done: Vec<Done>,
    turns: u32,
    longest: Duration,
}

impl World {
    fn load() -> World {
        let start = Instant::now();
        let mut stored = Stored::default();
        let place = Place {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 9999,
            from: Ipv4Addr::LOCALHOST.into(),
        };
        for peer in 0..PEERS {
            let record = Record {
                user: format!("peer{peer}").into(),
                password: hashed(),
                login_at: 0,
                place: Some(place),
            };
            let id = PeerId::from_bits(peer as u64 + 1);
            stored.peer(id, &record.encode()).expect("a record");
            let numbers = (peer..FILES).step_by(PEERS);
            let lines: String = numbers.map(|n| line(&name(n), n)).collect();
            stored.files(id, 0, lines.as_bytes()).expect("lines");
        }
        let config = Config::default();
        let limits = config.fit(Limits::default());
        let server = IndexServer::new(config, stored);
        println!(
            "{FILES} files of {PEERS} peers in {:.1?}\n",
            start.elapsed()
        );
        let node = Node::new(server, limits, 1, Tick(0));
        let mut world = World {
            node,
            memory: Memory(Vec::new()),
            conns: Vec::new(),
            now: 0,
            done: Vec::new(),
            turns: 0,
            longest: Duration::ZERO,
        };
        (0..=SEARCHERS).for_each(|_| world.connect());
        world
    }

    fn connect(&mut self) {
        let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);
        self.conns.push(self.node.accepted(peer, 0));
        self.memory.0.push(Pipe::default());
    }

    fn send(&mut self, conn: usize, kind: u16, payload: &str) {
        let incoming = &mut self.memory.0[self.conns[conn].slot()].incoming;
        incoming.extend((payload.len() as u16).to_le_bytes());
        incoming.extend(kind.to_le_bytes());
        incoming.extend(payload.as_bytes());
        self.node.ready(self.conns[conn], READABLE);
    }

    /// One turn, timed.
    fn turn(&mut self) {
        let start = Instant::now();
        self.node.begin(Tick(self.now));
        for done in self.done.drain(..) {
            self.node.job_done(done);
        }
        self.node.turn(&mut self.memory);
        self.longest = self.longest.max(start.elapsed());
        self.turns += 1;
        let jobs = self.node.take_jobs().map(|job| match job {
            Job::Hash(hash) => Done::Hashed {
                op: hash.op,
                digest: Some([2; 32]),
            },
            Job::Write(write) => Done::Written {
                op: write.op,
                committed: true,
            },
        });
        self.done.extend(jobs);
    }

    /// Until nothing is left to do.
    fn run(&mut self) {
        while self.node.has_work() || !self.done.is_empty() {
            self.turn();
        }
    }

    /// The replies that a connection got: type and payload of each.
    fn replies(&mut self, conn: usize) -> Vec<(u16, String)> {
        let pipe = &mut self.memory.0[self.conns[conn].slot()];
        assert!(!pipe.closed, "connection {conn} ended");
        let bytes = std::mem::take(&mut pipe.outgoing);
        let (mut rest, mut replies) = (&bytes[..], Vec::new());
        while let [l0, l1, k0, k1, more @ ..] = rest {
            let (payload, others) = more.split_at(u16::from_le_bytes([*l0, *l1]).into());
            let text = String::from_utf8_lossy(payload).into_owned();
            replies.push((u16::from_le_bytes([*k0, *k1]), text));
            rest = others;
        }
        replies
    }

    /// The reply of connection 0 to one request.
    fn ask(&mut self, kind: u16, payload: &str) -> String {
        self.send(0, kind, payload);
        self.run();
        let [(code, text)] = &self.replies(0)[..] else {
            panic!("one reply to type {kind}");
        };
        assert!(
            *code < 200,
            "type {kind}: {text} to {}",
            &payload[..payload.len().min(80)]
        );
        text.clone()
    }

    /// Runs `act` and prints how it went.
    fn row(&mut self, what: &str, act: impl FnOnce(&mut World)) {
        (self.turns, self.longest) = (0, Duration::ZERO);
        let start = Instant::now();
        act(self);
        let (turns, longest) = (self.turns, self.longest);
        let over = if longest > TURN_MAX { "  OVER" } else { "" };
        println!(
            "{what:<64} {turns:>7} turns, longest {longest:>9.1?}, all {:>9.1?}{over}",
            start.elapsed()
        );
    }
}

/// Hits that fit one answer.
const PAGE: RangeInclusive<usize> = 500..=700;

fn hits(reply: &str) -> usize {
    reply.lines().count() / 7
}

fn searches(world: &mut World) {
    let rows = [
        ("SEARCH, a word of 10 files", "w777", 10..=10),
        ("SEARCH, a word of all files", "song", PAGE),
        (
            "SEARCH, a word of all files, from number 900,000 on",
            "song\n900000",
            PAGE,
        ),
        (
            "SEARCH, two words, of 10 and all files",
            "song w777",
            10..=10,
        ),
        ("SEARCH, two words, 100,000 files", "song 3", PAGE),
        (
            "SEARCH, two words of 100,000 files, none with both",
            "3 4",
            0..=0,
        ),
        (
            "SEARCH, two words, 100,000 files, from number 10,000 on",
            "song 3\n10000",
            PAGE,
        ),
    ];
    for (what, words, want) in rows {
        world.row(what, |world| {
            let got = hits(&world.ask(7, words));
            assert!(want.contains(&got), "{words}: {got} hits");
        });
    }
    for (what, words) in [
        ("SEARCH, two words, none with both, 50 at once", "3 4"),
        ("SEARCH, a word of all files, 50 at once", "song"),
        ("SEARCH, from number 900,000 on, 50 at once", "song\n900000"),
    ] {
        world.row(what, |world| {
            (1..=SEARCHERS).for_each(|conn| world.send(conn, 7, words));
            world.run();
            for conn in 1..=SEARCHERS {
                assert!(matches!(&world.replies(conn)[..], [(107, _)]));
            }
        });
    }
    world.row("SEARCH, 50 under way whose connections go", |world| {
        (1..=SEARCHERS).for_each(|conn| world.send(conn, 7, "song\n900000"));
        world.turn();
        let going = world.conns[1..].to_vec();
        world.node.with(|_, hub| {
            going.iter().for_each(|conn| hub.close_conn(*conn));
        });
        world.run();
        world.conns.truncate(1);
    });
}

fn changes(world: &mut World) {
    let login = |id: &str| format!("big\npassword\n{id}\n127.0.0.1\n9999");
    let lists = |begin: usize, count: usize, name: &dyn Fn(usize) -> String| {
        let mut lists = vec![String::new()];
        for number in begin..begin + count {
            let line = line(&name(number), number);
            if lists[lists.len() - 1].len() + line.len() > 65_000 {
                lists.push(String::new());
            }
            let last = lists.len() - 1;
            lists[last] += &line;
        }
        lists
    };
    let mut id = String::new();
    world.row("REGISTER and REGISTER_ADD, 100,000 files", |world| {
        for (number, list) in lists(FILES, MANY, &name).iter().enumerate() {
            if number == 0 {
                let reply = world.ask(1, &format!("big\npassword\n{list}"));
                id = reply.lines().nth(1).expect("the id").to_owned();
            } else {
                world.ask(10, &format!("big\npassword\n{id}\n{list}"));
            }
        }
    });
    world.row("LOGIN of a peer with 100,000 files", |world| {
        world.ask(2, &login(&id));
    });
    world.row("LOGOUT of it", |world| {
        world.ask(4, &format!("big\npassword\n{id}"));
    });
    world.row("LOGIN again", |world| {
        world.ask(2, &login(&id));
    });
    world.row(
        "REGISTER_UPDATE of it to 100 files, 99,900 to purge",
        |world| {
            let list = &lists(FILES + MANY, 100, &name)[0];
            world.ask(9, &format!("big\npassword\n{id}\n{list}"));
            assert_eq!(world.node.service().files(), FILES + 100);
        },
    );
    let dense = |number: usize| {
        let mut name = "song of mp3".to_owned();
        (0..10).for_each(|digit| _ = write!(name, " {digit}"));
        (0..50).for_each(|word| _ = write!(name, " x{word}"));
        _ = write!(name, " {number}");
        name
    };
    world.row(
        "REGISTER_UPDATE to 10,000 files of 64 common words each",
        |world| {
            for (number, list) in lists(0, 10_000, &dense).iter().enumerate() {
                let kind = if number == 0 { 9 } else { 10 };
                world.ask(kind, &format!("big\npassword\n{id}\n{list}"));
            }
        },
    );
    world.row("the same 200 times with 100 files", |world| {
        for round in 0..200 {
            let list = &lists(FILES + round * 100, 100, &name)[0];
            world.ask(9, &format!("big\npassword\n{id}\n{list}"));
        }
    });
}

/// All that are online and silent at once.
fn silence(world: &mut World) {
    let keep_alive = |world: &mut World, want: u16| {
        for peer in 0..PEERS {
            world.send(0, 3, &(peer + 1).to_string());
        }
        world.run();
        let replies = world.replies(0);
        assert!(replies.len() == PEERS && replies.iter().all(|(code, _)| *code == want));
    };
    world.row("KEEP_ALIVE of 10,000", |world| keep_alive(world, 103));
    world.row("SHOW_PEERS, the last of them", |world| {
        world.ask(5, &format!("online\n{}", PEERS - 10));
    });
    world.row("10,000 that keep alive no more, all in one tick", |world| {
        world.now += Ticks::from_secs(340).0;
        world.turn();
        world.run();
        assert!(world.ask(5, "online").starts_with("0\n"));
    });
}

fn main() {
    let mut world = World::load();
    for peer in 0..PEERS {
        world.send(0, 3, &(peer + 1).to_string());
    }
    world.run();
    world.replies(0);
    searches(&mut world);
    changes(&mut world);
    silence(&mut world);
}

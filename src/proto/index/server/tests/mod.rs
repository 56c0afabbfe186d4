//! The server in the simulator: scripted peers, a disk that outlives it, and a hash that costs nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use super::*;
use crate::engine::{Limits, Work as Worker};
use crate::proto::index::record::{self, Change};
use crate::sim::{NodeId, PeerId as Script, Span, World};

mod accounts;
mod limits;
mod lives;
mod queries;
mod sessions;
mod steps;
mod swarm;
mod words;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 9000);

pub(super) const SHA1: &str = "eac923ffd38e75dc5a30da86bd6ae3442638a89f";

/// What is on the disk of a server, and what its worker thread did.
#[derive(Debug, Default)]
struct Disk {
    peers: BTreeMap<PeerId, Bytes>,
    files: BTreeMap<(PeerId, u32), Bytes>,
    clock: u64,
    full: bool,
    commits: u64,
    hashes: u64,
}

impl Disk {
    fn stored(&self) -> Stored {
        let mut stored = Stored::default();
        for (id, record) in &self.peers {
            stored.peer(*id, record).expect("a record");
        }
        for ((id, chunk), lines) in &self.files {
            stored.files(*id, *chunk, lines).expect("lines");
        }
        stored.clock(self.clock);
        stored
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Peer(id, Some(record)) => _ = self.peers.insert(id, record),
            Change::Peer(id, None) => _ = self.peers.remove(&id),
            Change::Files(id, chunk, Some(lines)) => _ = self.files.insert((id, chunk), lines),
            Change::Files(id, chunk, None) => _ = self.files.remove(&(id, chunk)),
            Change::Clock(clock) => self.clock = clock,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<Disk>>);

impl Machine {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("one thread")
    }
}

impl Worker for Machine {
    type Job = Job;
    type Done = Done;

    fn run(&mut self, jobs: &mut Vec<Job>, done: &mut Vec<Done>) {
        let mut disk = self.disk();
        for job in jobs.drain(..) {
            done.push(match job {
                Job::Write(write) => {
                    let committed = !disk.full;
                    if committed {
                        disk.commits += 1;
                        write
                            .changes
                            .into_iter()
                            .for_each(|change| disk.apply(change));
                    }
                    Done::Written {
                        op: write.op,
                        committed,
                    }
                }
                Job::Hash(hash) => {
                    disk.hashes += 1;
                    Done::Hashed {
                        op: hash.op,
                        digest: Some(cheap_hash(&hash)),
                    }
                }
            });
        }
    }
}

fn cheap_hash(job: &record::Hash) -> record::Digest {
    let mut sha1 = Sha1::new();
    sha1.update(job.salt);
    sha1.update(job.password.as_bytes());
    let mut digest = [0; 32];
    digest[..20].copy_from_slice(&sha1.finalize());
    digest
}

/// A world with one server.
struct Lab {
    world: World<IndexServer>,
    server: NodeId,
    machine: Machine,
    config: Config,
}

/// Long enough for any answer.
const SOON: Ticks = Ticks::from_secs(1);

impl Lab {
    /// Scripted peers share an address, so that its quota is lifted.
    fn new(config: Config) -> Lab {
        let config = Config {
            registrations_per_hour_max: usize::MAX,
            ..config
        };
        Lab::in_world(World::new(1), config, Span::ms(1, 5))
    }

    fn in_world(world: World<IndexServer>, config: Config, delay: Span) -> Lab {
        let limits = config.fit(Limits::default());
        Lab::with_limits(world, config, delay, limits)
    }

    fn with_limits(
        mut world: World<IndexServer>,
        config: Config,
        delay: Span,
        limits: Limits,
    ) -> Lab {
        let server = IndexServer::new(config.clone(), Stored::default());
        let server = world.add(SERVER, server, limits);
        let machine = Machine::default();
        world.set_worker(server, machine.clone(), delay);
        Lab {
            world,
            server,
            machine,
            config,
        }
    }

    /// The server starts from its disk.
    fn start(&mut self) {
        let stored = self.machine.disk().stored();
        let server = IndexServer::new(self.config.clone(), stored);
        self.world.restart(self.server, server);
    }

    fn crash(&mut self) {
        self.world.kill_with(self.server, false);
        self.start();
    }

    fn service(&self) -> &IndexServer {
        self.world.service(self.server)
    }

    fn connect(&mut self) -> Script {
        self.world.connect(SERVER)
    }

    fn connect_from(&mut self, ip: [u8; 4], port: u16) -> Script {
        self.world
            .connect_from(SocketAddrV4::new(ip.into(), port), SERVER)
    }

    fn send(&mut self, peer: Script, kind: u16, payload: &str) {
        self.world.peer(peer).send(&frame(kind, payload));
    }

    /// One request and its reply.
    #[track_caller]
    fn ask(&mut self, peer: Script, kind: u16, payload: &str) -> (u16, String) {
        self.send(peer, kind, payload);
        self.world.until(SOON, |world| {
            Frame::parse(world.peer(peer).received()).is_some()
        });
        self.reply(peer)
    }

    #[track_caller]
    fn reply(&mut self, peer: Script) -> (u16, String) {
        let mut replies = replies(&self.world.peer(peer).take());
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    #[track_caller]
    fn expect(&mut self, peer: Script, kind: u16, payload: &str, reply: (u16, &str)) {
        let (code, text) = self.ask(peer, kind, payload);
        assert_eq!((code, text.trim_end()), reply, "{payload:?}");
    }

    #[track_caller]
    fn register(&mut self, peer: Script, user: &str, names: &[&str]) -> PeerId {
        let (code, text) = self.ask(peer, 1, &format!("{user}\npw-{user}\n{}", files(names)));
        assert_eq!(code, 101, "{text}");
        text.lines().nth(1).expect("an id").parse().expect("an id")
    }

    /// Registers and logs in.
    #[track_caller]
    fn join(&mut self, peer: Script, user: &str, names: &[&str]) -> PeerId {
        let id = self.register(peer, user, names);
        self.expect(peer, 2, &account(user, id), (102, "LOGIN SUCCESS"));
        id
    }

    /// The names that a search finds, in order.
    #[track_caller]
    fn search(&mut self, peer: Script, words: &str) -> Vec<String> {
        let (code, text) = self.ask(peer, 7, words);
        assert_eq!(code, 107, "{text}");
        text.lines().step_by(7).map(str::to_owned).collect()
    }
}

fn frame(kind: u16, payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    crate::proto::index::wire::write_text(&mut out, kind, payload);
    out
}

fn replies(mut bytes: &[u8]) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    while let Some(frame) = Frame::parse(bytes) {
        all.push((frame.kind, frame.text().expect("text").to_owned()));
        bytes = &bytes[frame.len()..];
    }
    all
}

fn files(names: &[&str]) -> String {
    let lines = names.iter().map(|name| format!("{name}|1.000000|{SHA1}\n"));
    lines.collect()
}

fn account(user: &str, id: PeerId) -> String {
    format!("{user}\npw-{user}\n{id}")
}

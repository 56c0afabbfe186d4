//! What tests of rings have in common: the peer in Python, our nodes and our client, and when a ring is as it
//! should be.

use std::io::Write;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::process::Stdio;

use peerloop::engine::Limits;
use peerloop::net::Reactor;
use peerloop::proto::dht::rpc::client::{Client, Task};
use peerloop::proto::dht::rpc::operation::{Bounds, Failure, Outcome, Verb};
use ruint::aliases::U160;
use rustix::process::Signal;

use crate::dht::reference::wire::{Entries, Key, between, distance, id_of, key_of, locate};
use crate::support::talker::Talker;
use crate::support::tools::python3;
use crate::support::{DEADLINE, Server, node, wait, wait_until};

/// The peer in Python, which is killed when the test is over.
pub struct Python {
    talker: Talker,
    pub addr: SocketAddrV4,
}

impl Python {
    /// A ring of its own, or in that of `contact`; `None` where there is no Python.
    pub fn start(contact: Option<SocketAddrV4>) -> Option<Python> {
        let mut command = python3()?;
        command.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/dht/reference/peer.py"
        ));
        if let Some(contact) = contact {
            command.args([contact.ip().to_string(), contact.port().to_string()]);
        }
        let talker = Talker::with_stdin(&mut command, Stdio::piped());
        let addr = talker.listening().expect("the peer in Python comes up");
        Some(Python { talker, addr })
    }

    pub fn leave(mut self) {
        let stdin = self.talker.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"leave\n").expect("it reads");
        assert_eq!(self.talker.line(1), "left");
        wait(&mut self.talker.child, DEADLINE).expect("it ends");
    }
}

/// The first of ours, in a ring of its own.
pub fn first() -> Server {
    node(&["-v"])
}

/// One of ours, told to join.
pub fn join(contact: SocketAddrV4) -> Server {
    node(&["-v", "--join", &contact.to_string()])
}

/// Ours leaves and ends.
#[track_caller]
pub fn leave(mut server: Server) {
    server.signal(Signal::TERM);
    gone(&mut server);
}

/// Runs tasks with our client.
pub fn ask(contact: SocketAddrV4, tasks: Vec<Task>) -> Vec<Result<Outcome, Failure>> {
    let client = Client::new(contact, tasks, Bounds::default(), 4);
    let mut reactor = Reactor::new(client, Limits::default()).expect("reactor");
    reactor.run().expect("run");
    let results = reactor.into_service().into_results();
    results
        .into_iter()
        .map(|result| result.expect("not interrupted"))
        .collect()
}

pub fn task(verb: Verb, key: &Key) -> Task {
    let key = key.to_string().parse().expect("a key");
    Task { verb, key }
}

/// Every entry is acknowledged.
#[track_caller]
pub fn store(contact: SocketAddrV4, entries: &Entries) {
    let verb = |value: &Vec<u8>| Verb::Insert(value.clone().into());
    let tasks = entries.iter().map(|(key, value)| task(verb(value), key));
    for result in ask(contact, tasks.collect()) {
        assert_eq!(result, Ok(Outcome::Inserted), "by way of {contact}");
    }
}

pub fn read(
    contact: SocketAddrV4,
    keys: impl Iterator<Item = Key>,
) -> Vec<Result<Outcome, Failure>> {
    ask(contact, keys.map(|key| task(Verb::Get, &key)).collect())
}

/// Every entry is what it should be, by way of every contact.
#[track_caller]
pub fn check(contacts: &[SocketAddrV4], entries: &Entries) {
    for contact in contacts {
        let results = read(*contact, entries.keys().copied());
        for ((key, value), result) in entries.iter().zip(results) {
            let want = Ok(Outcome::Got(Some(value.clone().into())));
            assert!(
                result == want,
                "{key} by way of {contact}: {result:?} and not {:?}",
                String::from_utf8_lossy(value)
            );
        }
    }
}

pub fn some(range: Range<u32>, kind: &str) -> Entries {
    let entry = |i| (key_of(&format!("name {i}")), format!("{kind} {i}").into());
    range.map(entry).collect()
}

/// The entries whose keys are in `[from, to)`.
pub fn range(entries: &Entries, from: SocketAddrV4, to: SocketAddrV4) -> Entries {
    let mut entries = entries.clone();
    entries.retain(|key, _| between(id_of(from), *key, id_of(to)));
    entries
}

/// Waits until every member answers LOCATE of the first and the last key of every range with its owner.
#[track_caller]
pub fn settled(members: &[SocketAddrV4]) {
    let mut members = members.to_vec();
    members.sort_by_key(|addr| id_of(*addr));
    let mut wrong = String::new();
    let good = wait_until(DEADLINE, || {
        let nexts = members.iter().cycle().skip(1);
        let ends: Vec<_> = members.iter().zip(nexts).collect();
        for at in &members {
            for (member, next) in &ends {
                for key in [id_of(**member), id_of(**next).wrapping_sub(U160::from(1))] {
                    let owner = locate(*at, key);
                    if owner.as_ref().ok() != Some(*member) {
                        wrong = format!("{at} places {key} of {member} at {owner:?}");
                        return false;
                    }
                }
            }
        }
        true
    });
    assert!(good, "{wrong}; members: {members:?}");
}

/// Ids between a quarter and three quarters of the ring away.
pub fn across(from: SocketAddrV4) -> impl Fn(Key) -> bool {
    let quarter = U160::from(1) << 158;
    move |id| (quarter..quarter * U160::from(3)).contains(&distance(id_of(from), id))
}

pub fn members(
    ours: &[Server],
    others: impl IntoIterator<Item = SocketAddrV4>,
) -> Vec<SocketAddrV4> {
    ours.iter()
        .map(|server| server.addr)
        .chain(others)
        .collect()
}

/// Starts that many of ours at once.
pub fn join_at_once(contact: SocketAddrV4, count: usize) -> Vec<Server> {
    std::thread::scope(|scope| {
        let joiners: Vec<_> = (0..count).map(|_| scope.spawn(|| join(contact))).collect();
        let joined = joiners.into_iter().map(|joiner| joiner.join());
        joined.map(|server| server.expect("started")).collect()
    })
}

/// Waits until a node that was told to leave ends, with exit code 0.
#[track_caller]
fn gone(server: &mut Server) {
    let code = server.wait(DEADLINE);
    println!("{} ended:\n{}", server.addr, server.log());
    assert_eq!(code, Some(0), "{} left", server.addr);
}

/// SIGTERM to all of ours, and their ends.
#[track_caller]
pub fn leave_at_once(mut ours: Vec<Server>) {
    for server in &ours {
        server.signal(Signal::TERM);
    }
    for server in &mut ours {
        gone(server);
    }
}

//! The data commands of a node, byte by byte, against scripted peers.
//!
//! A session is a table of parts: what a peer sends, what comes back for it, and what it changes. Each test
//! delivers sessions in another way; replies and entries follow from the table alone.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use crate::engine::{Limits, Ticks, Work};
use crate::sim::{Ending, Faults, NodeId, PeerId, Span, World, check, seeds};

use super::*;
use crate::proto::dht::storage::entries::Entry;

mod bad_input;
mod durable;
mod slow;

const ME: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);

/// Over the high-water mark of the output and over what one turn reads.
const LONG: usize = 300 * 1024;

/// Values that the worker cannot commit begin with this.
const UNLUCKY: &[u8] = b"unlucky";

type Model = BTreeMap<Id, Vec<u8>>;

/// Commits everything but unlucky values, and keeps the order.
struct Commits {
    values: Arc<Mutex<Vec<Option<Bytes>>>>,
    /// Handles of the last values, as the store's log has them.
    log: HashMap<Id, Option<Bytes>>,
}

impl Work for Commits {
    type Job = Write;
    type Done = Written;

    fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
        for write in jobs.drain(..) {
            let Changes::One(key, Entry { value, .. }) = &write.changes else {
                unreachable!("a ring of one moves no ranges");
            };
            let committed = !value.as_ref().is_some_and(|v| v.starts_with(UNLUCKY));
            if committed {
                self.log.insert(*key, value.clone());
                // A copy: handles of all values would keep them in memory.
                let value = value.as_deref().map(Bytes::copy_from_slice);
                self.values.lock().unwrap().push(value);
            }
            done.push(Written { write, committed });
        }
    }
}

/// One node and the values its worker committed, in order.
struct Lab {
    world: World<DhtNode>,
    id: NodeId,
    commits: Arc<Mutex<Vec<Option<Bytes>>>>,
}

impl Lab {
    fn new(durable: bool) -> Lab {
        Lab::with(durable, Limits::default(), |_| {})
    }

    fn with(durable: bool, limits: Limits, change: impl FnOnce(&mut Config)) -> Lab {
        let mut config = Config::new(ME);
        config.durable = durable;
        change(&mut config);
        let limits = config.fit(limits);
        let mut world = World::new(7);
        let id = world.add(ME, DhtNode::new(config, Entries::default()), limits);
        let commits = Arc::default();
        let worker = Commits {
            values: Arc::clone(&commits),
            log: HashMap::new(),
        };
        world.set_worker(id, worker, Span::ms(20, 20));
        Lab { world, id, commits }
    }

    fn preset(&mut self, name: &str, value: &[u8]) {
        let value = Bytes::copy_from_slice(value);
        self.world
            .with(self.id, |node, _| node.entries.insert(of(name), value));
    }

    fn connect(&mut self) -> PeerId {
        self.world.connect(ME)
    }

    fn send(&mut self, peer: PeerId, bytes: &[u8]) {
        self.world.peer(peer).send(bytes);
    }

    /// A new peer that sends `bytes`, after which `time` goes by.
    fn sent(&mut self, bytes: &[u8], time: Ticks) -> PeerId {
        let peer = self.connect();
        self.send(peer, bytes);
        self.world.run_for(time);
        peer
    }

    fn received(&mut self, peer: PeerId) -> Vec<u8> {
        self.world.peer(peer).received().to_vec()
    }

    #[track_caller]
    fn assert_received(&mut self, peer: PeerId, reply: &[u8], shown: &str) {
        let got = self.received(peer);
        if got == reply {
            return;
        }
        let at = got.iter().zip(reply).take_while(|(a, b)| a == b).count();
        panic!(
            "{shown}: {} bytes, {} expected; from {at} on {}",
            got.len(),
            reply.len(),
            got[at..got.len().min(at + 40)].escape_ascii()
        );
    }

    /// What the node holds for `name`.
    fn held(&self, name: &str) -> Option<&[u8]> {
        self.service().entries.get(of(name)).map(|value| &value[..])
    }

    fn service(&self) -> &DhtNode {
        self.world.service(self.id)
    }

    #[track_caller]
    fn assert_holds(&self, model: &Model, shown: &str) {
        let entries = &self.service().entries;
        assert_eq!(entries.len(), model.len(), "{shown}");
        for (&key, value) in model {
            let held = entries.get(key).map(|v| &v[..]);
            assert!(held == Some(&value[..]), "{shown}: {key}");
        }
    }

    /// No port, no timer, no staged byte, no end of a connection.
    #[track_caller]
    fn assert_nothing_left(&self, shown: &str) {
        let node = self.world.node(self.id);
        assert_eq!(node.conns(), 0, "ports: {shown}");
        assert_eq!(node.next_deadline(), None, "timers: {shown}");
        assert!(!node.has_work(), "work: {shown}");
        assert_eq!(self.service().staged_bytes, 0, "staged: {shown}");
        assert_eq!(self.service().writing_bytes, 0, "writing: {shown}");
        assert_eq!(self.world.links(), 0, "links: {shown}");
    }

    /// Somebody else is served.
    #[track_caller]
    fn assert_serves(&mut self, shown: &str) {
        let peer = self.sent(&line("LOCATE", "x"), Ticks(10));
        self.assert_received(peer, b"10.0.0.1:4000\n", shown);
        self.world.peer(peer).close();
        self.world.run_for(Ticks(2));
    }
}

fn of(name: &str) -> Id {
    Id::of(name.as_bytes())
}

/// A request: a word, and the key of a name.
fn line(word: &str, name: &str) -> Vec<u8> {
    format!("{word}\n{}\n", of(name)).into_bytes()
}

fn insert(name: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("INSERT\n{}\n{}\n", of(name), value.len());
    [head.as_bytes(), value].concat()
}

/// Bytes in which a lost, doubled or moved piece shows, line ends and commands among them.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
    let telling = b"\r\nGET\n1\n\0\xFF";
    if let Some(front) = bytes.get_mut(..telling.len()) {
        front.copy_from_slice(telling);
    }
    bytes
}

/// What a peer sends in one go, what comes back for it, and what it does to the entries.
struct Part {
    ask: Vec<u8>,
    reply: Vec<u8>,
    change: Option<(Id, Option<Vec<u8>>)>,
}

/// A session under construction; replies come from a model of the table.
#[derive(Default)]
struct Session {
    parts: Vec<Part>,
    model: Model,
}

impl Session {
    fn push(&mut self, ask: Vec<u8>, reply: impl AsRef<[u8]>) -> &mut Session {
        let reply = reply.as_ref().to_vec();
        self.parts.push(Part {
            ask,
            reply,
            change: None,
        });
        self
    }

    fn locate(&mut self, name: &str) -> &mut Session {
        self.push(line("LOCATE", name), "10.0.0.1:4000\n")
    }

    fn contains(&mut self, name: &str) -> &mut Session {
        let there = self.model.contains_key(&of(name));
        self.push(
            line("CONTAINS", name),
            if there { "1\n1\n" } else { "1\n0\n" },
        )
    }

    fn get(&mut self, name: &str) -> &mut Session {
        let value = self.model.get(&of(name)).cloned().unwrap_or_default();
        let head = format!("1\n{}\n", value.len());
        self.push(line("GET", name), [head.as_bytes(), &value].concat())
    }

    fn insert(&mut self, name: &str, value: &[u8]) -> &mut Session {
        self.push(line("INSERT", name), "1\n");
        let length = format!("{}\n", value.len());
        self.push([length.as_bytes(), value].concat(), "1\n");
        self.change(name, Some(value.to_vec()))
    }

    fn remove(&mut self, name: &str) -> &mut Session {
        self.push(line("REMOVE", name), "1\n1\n");
        self.change(name, None)
    }

    fn change(&mut self, name: &str, value: Option<Vec<u8>>) -> &mut Session {
        match value.clone() {
            Some(value) => _ = self.model.insert(of(name), value),
            None => _ = self.model.remove(&of(name)),
        }
        if let Some(part) = self.parts.last_mut() {
            part.change = Some((of(name), value));
        }
        self
    }

    fn ask(&self) -> Vec<u8> {
        let asks: Vec<&[u8]> = self.parts.iter().map(|part| &part.ask[..]).collect();
        asks.concat()
    }

    fn reply(&self) -> Vec<u8> {
        self.after(usize::MAX).0
    }

    /// The reply to the first `sent` bytes, and the entries after them.
    fn after(&self, sent: usize) -> (Vec<u8>, Model) {
        let (mut reply, mut model, mut end) = (Vec::new(), Model::new(), 0);
        for part in &self.parts {
            end += part.ask.len();
            if end > sent {
                break;
            }
            reply.extend_from_slice(&part.reply);
            match &part.change {
                Some((key, Some(value))) => _ = model.insert(*key, value.clone()),
                Some((key, None)) => _ = model.remove(key),
                None => {}
            }
        }
        (reply, model)
    }
}

/// Every command, as a hit and as a miss, with values of several lengths; the entries are as before at its end.
fn session() -> Session {
    let mut s = Session::default();
    s.locate("a").contains("a").get("a").remove("a");
    s.insert("a", b"x").contains("a").get("a");
    s.insert("a", &noise(100)).get("a").get("b");
    s.insert("b", b"").contains("b").get("b");
    s.insert("a", b"").get("a").insert("a", b"y").get("a");
    s.remove("a").contains("a").get("a").remove("b");
    s
}

/// A long value between short commands.
fn long_session() -> Session {
    let mut s = Session::default();
    s.insert("a", &noise(LONG)).get("a").locate("a");
    s.insert("a", b"short").get("a").remove("a");
    s
}

/// Sends `pieces` with pauses between them and expects what the whole session is answered.
#[track_caller]
fn assert_answered(lab: &mut Lab, session: &Session, pieces: &[&[u8]], shown: &str) {
    let reply = session.reply();
    let peer = lab.connect();
    for piece in pieces {
        lab.send(peer, piece);
        // A tick is over the longest latency and turn of a good network.
        lab.world.run_for(Ticks(1));
    }
    let until = Ticks::from_secs(60);
    _ = lab.world.run_until(until, |w| {
        w.peer(peer).received().len() >= reply.len() || w.peer(peer).is_closed()
    });
    lab.world.run_for(Ticks(1));
    lab.assert_received(peer, &reply, shown);
    lab.world.peer(peer).close();
    lab.world.run_for(Ticks(2));
}

#[test]
fn each_command_by_itself_and_all_in_one_segment() {
    for durable in [false, true] {
        let lab = &mut Lab::new(durable);
        let session = session();
        for (n, part) in session.parts.iter().enumerate() {
            // An INSERT is two parts and one command.
            if part.ask.starts_with(b"INSERT") {
                continue;
            }
            let is_value = n > 0 && session.parts[n - 1].ask.starts_with(b"INSERT");
            let command = &session.parts[if is_value { n - 1 } else { n }..=n];
            let ask = command.iter().flat_map(|part| part.ask.clone());
            let reply = command.iter().flat_map(|part| part.reply.clone());
            let alone = Session {
                parts: vec![Part {
                    ask: ask.collect(),
                    reply: reply.collect(),
                    change: None,
                }],
                model: Model::new(),
            };
            let shown = alone.parts[0].ask.escape_ascii().to_string();
            assert_answered(lab, &alone, &[&alone.ask()], &shown);
        }
        for session in [session, long_session()] {
            assert_answered(lab, &session, &[&session.ask()], "one segment");
        }
        lab.assert_nothing_left("in the end");
        lab.assert_holds(&Model::new(), "in the end");
    }
}

#[test]
fn byte_by_byte_and_with_crlf() {
    for durable in [false, true] {
        let lab = &mut Lab::new(durable);
        let session = session();
        let ask = session.ask();
        let bytes: Vec<&[u8]> = ask.chunks(1).collect();
        assert_answered(lab, &session, &bytes, "byte by byte");
        let long = long_session();
        let ask = long.ask();
        let (head, rest) = ask.split_at(100);
        let pieces: Vec<&[u8]> = head.chunks(1).chain(rest.chunks(997)).collect();
        assert_answered(lab, &long, &pieces, "long, in small pieces");

        let mut crlf = Session::default();
        crlf.locate("a").contains("a").get("a").remove("a");
        for part in &mut crlf.parts {
            let text = String::from_utf8(part.ask.clone()).unwrap();
            part.ask = text.replace('\n', "\r\n").into_bytes();
        }
        let ask = format!("INSERT\r\n{}\r\n2\r\n\r\n", of("a")).into_bytes();
        crlf.push(ask, "1\n1\n");
        crlf.push(line("GET", "a"), "1\n2\n\r\n").remove("a");
        let ask = crlf.ask();
        assert_answered(lab, &crlf, &ask.chunks(1).collect::<Vec<_>>(), "CRLF");
        assert_answered(lab, &crlf, &[&ask], "CRLF in one segment");
        lab.assert_nothing_left("in the end");
    }
}

#[test]
fn split_at_every_offset() {
    for durable in [false, true] {
        let lab = &mut Lab::new(durable);
        let (short, long) = (session(), long_session());
        let every = 0..=short.ask().len();
        // The head of the long value, some fifty places in it, and around its end.
        let some = (0..70)
            .chain((70..LONG).step_by(LONG / 50))
            .chain(LONG..LONG + 80);
        for (session, offsets) in [
            (short, every.collect::<Vec<_>>()),
            (long, some.step_by(if durable { 5 } else { 1 }).collect()),
        ] {
            let ask = session.ask();
            for at in offsets {
                let (front, back) = ask.split_at(at);
                assert_answered(lab, &session, &[front, back], &format!("split at {at}"));
            }
        }
        lab.assert_nothing_left("in the end");
    }
}

#[test]
fn many_commands_in_one_segment() {
    for durable in [false, true] {
        for count in [64, 500] {
            let lab = &mut Lab::new(durable);
            let mut s = Session::default();
            for n in 0..count {
                let name = ["a", "b", "c"][n % 3];
                match n % 7 {
                    0 | 4 => s.insert(name, &noise(n)),
                    1 | 5 => s.get(name),
                    2 => s.contains(name),
                    3 => s.locate(name),
                    _ => s.remove(name),
                };
            }
            assert_answered(lab, &s, &[&s.ask()], &format!("{count} commands"));
            lab.assert_holds(&s.model, "many commands");
            lab.assert_nothing_left("many commands");
        }
    }
}

#[test]
fn cut_by_fin_and_by_reset_at_every_offset() {
    let session = session();
    let ask = session.ask();
    for durable in [false, true] {
        for at in 0..=ask.len() {
            for reset in [false, true] {
                let shown = &format!("durable {durable}, reset {reset}, cut at {at}");
                let lab = &mut Lab::new(durable);
                let (reply, model) = session.after(at);
                let peer = lab.connect();
                lab.send(peer, &ask[..at]);
                if reset {
                    // A reset before the answers is in `a_cut_overwrite_leaves_the_old_value`.
                    _ = lab.world.run_until(Ticks::from_secs(5), |w| {
                        w.peer(peer).received().len() >= reply.len()
                    });
                    lab.assert_received(peer, &reply, shown);
                    lab.world.peer(peer).reset();
                } else {
                    lab.world.peer(peer).finish();
                }
                lab.world.run_for(Ticks::from_secs(1));
                if !reset {
                    lab.assert_received(peer, &reply, shown);
                    assert_eq!(lab.world.peer(peer).ending(), Some(Ending::Fin), "{shown}");
                }
                lab.assert_holds(&model, shown);
                lab.assert_nothing_left(shown);
                lab.assert_serves(shown);
            }
        }
    }
}

#[test]
fn a_cut_overwrite_leaves_the_old_value() {
    for durable in [false, true] {
        for (len, step) in [(20, 1), (LONG, LONG / 40)] {
            let (ask, head) = (
                insert("a", &noise(len)),
                insert("a", &noise(len)).len() - len,
            );
            for at in (0..head)
                .chain((head..ask.len()).step_by(step))
                .chain([ask.len()])
            {
                for reset in [false, true] {
                    let shown = &format!("durable {durable}, reset {reset}, {at} of {len}");
                    let lab = &mut Lab::new(durable);
                    lab.preset("a", b"old");
                    let peer = lab.connect();
                    lab.send(peer, &ask[..at]);
                    if reset {
                        lab.world.peer(peer).reset();
                    } else {
                        lab.world.peer(peer).finish();
                    }
                    lab.world.run_for(Ticks::from_secs(1));
                    let value = if at == ask.len() {
                        noise(len)
                    } else {
                        b"old".to_vec()
                    };
                    assert!(lab.held("a") == Some(&value), "{shown}");
                    lab.assert_nothing_left(shown);
                }
            }
        }
    }
}

#[test]
fn a_rough_network_changes_no_reply() {
    for seed in seeds(20) {
        check(seed, || {
            let lab = &mut Lab::new(seed % 2 == 0);
            lab.world.set_faults(Faults::rough());
            for _ in 0..seed {
                rand::RngExt::random::<u64>(lab.world.rng());
            }
            for session in [session(), long_session()] {
                assert_answered(lab, &session, &[&session.ask()], "rough");
            }
            lab.world.run_for(Ticks(10));
            lab.assert_nothing_left("rough");
        });
    }
}

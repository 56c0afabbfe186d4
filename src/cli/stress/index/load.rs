//! Peers and searchers on one loop: calls over many connections, timed, each answer checked by what was shared.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;
use sha1::{Digest, Sha1 as Hasher};

use peerloop::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Ticks, Violation};
use peerloop::proto::index::call::{Answer, Call, CallState as Exchange, Credentials, Next};
use peerloop::proto::index::fields::{PeerId, Sha1};
use peerloop::proto::index::reply::{Hit, Listed};
use peerloop::proto::index::wire::Frame;

/// Files that share a word of their own: what a search finds.
const FILES_PER_WORD: usize = 10;

/// Who shares what: all of it follows from the numbers.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    pub(super) peers: usize,
    pub(super) files: usize,
    /// The id of each peer, once it is registered.
    pub(super) ids: Vec<Option<PeerId>>,
}

impl Shares {
    fn total(&self) -> usize {
        self.peers * self.files
    }

    /// Words that [`Task::Search`] looks for.
    pub(super) fn words(&self) -> usize {
        (self.total() / FILES_PER_WORD).max(1)
    }

    fn who(&self, peer: usize) -> Arc<Credentials> {
        Arc::new(Credentials {
            user: format!("peer{peer}"),
            password: format!("password of {peer}"),
        })
    }

    fn file(&self, number: usize) -> Listed {
        let word = number % self.words();
        let digest = Hasher::digest(number.to_le_bytes());
        Listed {
            name: format!("song w{word} of {} n{number}.mp3", number % 10),
            size_bytes: number as u64,
            sha1: Sha1(digest.into()),
        }
    }

    fn call(&self, task: Task) -> Option<Call> {
        Some(match task {
            Task::Register(peer) => Call::Register {
                who: self.who(peer),
                files: (peer * self.files..(peer + 1) * self.files)
                    .map(|number| self.file(number))
                    .collect(),
            },
            Task::Login(peer) => Call::Login {
                who: self.who(peer),
                id: self.ids[peer]?,
                ip: None,
                port: 1 + (peer % 65_535) as u16,
            },
            Task::KeepAlive(peer) => Call::KeepAlive {
                id: self.ids[peer]?,
            },
            Task::Search(word) => Call::Search {
                words: format!("w{word}"),
                // One answer and no further page, when all are there.
                hits_max: self.matches(word).count().max(1),
            },
        })
    }

    fn matches(&self, word: usize) -> impl Iterator<Item = usize> {
        (word..self.total()).step_by(self.words())
    }

    /// Whether these are the files with a word, all of them, each with its holder.
    fn is_right(&self, word: usize, hits: &[Hit]) -> bool {
        let mut found: Vec<&Hit> = hits.iter().collect();
        found.sort_by_key(|hit| hit.file.size_bytes);
        let right = |number: usize, hit: &Hit| {
            let peer = number / self.files;
            let holder = Some(hit.id) == self.ids[peer] && hit.user == format!("peer{peer}");
            hit.file == self.file(number) && holder && usize::from(hit.port) == 1 + peer % 65_535
        };
        let same = self
            .matches(word)
            .zip(&found)
            .all(|(number, hit)| right(number, hit));
        same && found.len() == self.matches(word).count()
    }
}

/// What a connection asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Register(usize),
    Login(usize),
    KeepAlive(usize),
    Search(usize),
}

/// What came of a phase.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) done: u64,
    /// Answers that said when to come back.
    pub(super) retries: u64,
    pub(super) wrong: u64,
    /// What was wrong first.
    pub(super) first_wrong: Option<String>,
    /// From the first request of a task to its answer, retries included.
    pub(super) times_us: Histogram<u64>,
}

#[derive(Debug)]
pub(super) struct Running {
    task: Task,
    exchange: Exchange,
    since: Instant,
}

/// A phase: works off tasks over connections, `depth` at a time on each.
pub(super) struct Load {
    server: SocketAddrV4,
    pub(super) shares: Shares,
    tasks: VecDeque<(Task, Option<Instant>)>,
    /// Told to come back; by the number in their timer.
    resting: slab::Slab<(Task, Instant, ConnId)>,
    depth: usize,
    open: usize,
    pub(super) outcome: Outcome,
    left: usize,
    pub(super) interrupted: bool,
}

impl Load {
    pub(super) fn new(
        server: SocketAddrV4,
        shares: Shares,
        tasks: impl IntoIterator<Item = Task>,
        depth: usize,
        times_us: Histogram<u64>,
    ) -> Load {
        let tasks: VecDeque<_> = tasks.into_iter().map(|task| (task, None)).collect();
        Load {
            server,
            shares,
            left: tasks.len(),
            tasks,
            resting: slab::Slab::new(),
            depth,
            open: 0,
            outcome: Outcome {
                done: 0,
                retries: 0,
                wrong: 0,
                first_wrong: None,
                times_us,
            },
            interrupted: false,
        }
    }

    pub(super) fn begin(&mut self, hub: &mut Hub<Self>, conns: usize) {
        for _ in 0..conns.min(self.left) {
            self.open += 1;
            hub.dial(self.server, None, VecDeque::new());
        }
        if self.left == 0 {
            hub.stop();
        }
    }

    fn fill(&mut self, cx: &mut Cx<'_, Self>, conn: &mut VecDeque<Running>) {
        while conn.len() < self.depth
            && let Some((task, since)) = self.tasks.pop_front()
        {
            let Some(call) = self.shares.call(task) else {
                self.finish(cx, task, since, Some("a peer without an id".into()));
                continue;
            };
            let mut exchange = Exchange::new(call);
            exchange.ask(cx.out());
            conn.push_back(Running {
                task,
                exchange,
                since: since.unwrap_or_else(Instant::now),
            });
        }
    }

    fn finish(
        &mut self,
        hub: &mut Hub<Self>,
        task: Task,
        since: Option<Instant>,
        wrong: Option<String>,
    ) {
        let outcome = &mut self.outcome;
        outcome.done += 1;
        if let Some(since) = since {
            let us = since.elapsed().as_micros() as u64;
            outcome.times_us.saturating_record(us.max(1));
        }
        if let Some(wrong) = wrong {
            outcome.wrong += 1;
            let first = || format!("{task:?}: {wrong}");
            outcome.first_wrong.get_or_insert_with(first);
        }
        self.left -= 1;
        if self.left == 0 {
            hub.stop();
        }
    }

    /// What is wrong with an answer, if anything.
    fn check(&mut self, task: Task, answer: Answer) -> Option<String> {
        match (task, answer) {
            (Task::Register(peer), Answer::Registered(id)) => self.shares.ids[peer] = Some(id),
            (Task::Login(_), Answer::LoggedIn) | (Task::KeepAlive(_), Answer::KeptAlive) => {}
            (Task::Search(word), Answer::Hits(hits)) if self.shares.is_right(word, &hits) => {}
            (_, Answer::Hits(hits)) => return Some(format!("{} hits: {hits:?}", hits.len())),
            (_, other) => return Some(format!("{other:?}")),
        }
        None
    }
}

impl Service for Load {
    type Conn = VecDeque<Running>;
    type Note = ();
    type Timer = u32;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Self::Conn {
        cx.close();
        VecDeque::new()
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Self::Conn) {
        self.fill(cx, conn);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        conn: &mut Self::Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(frame) = Frame::of(input) else {
            return Ok(Step::More);
        };
        let Some(front) = conn.front_mut() else {
            return Err(Violation::peer("an answer to nothing"));
        };
        let (task, since) = (front.task, front.since);
        match front.exchange.reply(frame, cx.out()) {
            Next::Asked => return Ok(Step::Done(frame.len())),
            Next::RetryIn(secs, _) => {
                self.outcome.retries += 1;
                let number = self.resting.insert((task, since, cx.id())) as u32;
                cx.arm(Ticks::from_secs(secs), number);
            }
            Next::Finished(Ok(answer)) => {
                let wrong = self.check(task, answer);
                self.finish(cx, task, Some(since), wrong);
            }
            Next::Finished(Err(e)) => self.finish(cx, task, Some(since), Some(e.to_string())),
        }
        conn.pop_front();
        self.fill(cx, conn);
        Ok(Step::Done(frame.len()))
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, _id: ConnId, conn: Self::Conn, end: End) {
        self.open -= 1;
        for running in conn {
            let wrong = format!("the connection ended: {end:?}");
            self.finish(hub, running.task, Some(running.since), Some(wrong));
        }
        // What nobody is left to ask is lost; those who rest dial anew when they come back.
        while self.open == 0 && self.left > 0 && self.resting.is_empty() {
            let Some((task, since)) = self.tasks.pop_front() else {
                hub.stop();
                return;
            };
            self.finish(hub, task, since, Some(format!("no connection: {end:?}")));
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, number: u32) {
        if let Some((task, since, conn)) = self.resting.try_remove(number as usize) {
            self.tasks.push_back((task, Some(since)));
            if hub.peer_of(conn).is_some() {
                hub.notify(conn, ());
            } else {
                self.open += 1;
                hub.dial(self.server, None, VecDeque::new());
            }
        }
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Self>, conn: &mut Self::Conn, (): ()) {
        self.fill(cx, conn);
    }

    fn on_shutdown(&mut self, hub: &mut Hub<Self>) {
        self.interrupted = true;
        hub.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use peerloop::engine::Limits;
    use peerloop::net::Reactor;
    use peerloop::proto::index::wire::{write_ko, write_text};

    use super::*;

    #[test]
    fn who_is_told_to_come_back_does_even_when_the_connection_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Ok(std::net::SocketAddr::V4(at)) = listener.local_addr() else {
            panic!("bound to IPv4");
        };
        let server = std::thread::spawn(move || {
            for busy in [true, false] {
                let (mut socket, _) = listener.accept().unwrap();
                let mut header = [0; 4];
                socket.read_exact(&mut header).unwrap();
                let length = usize::from(u16::from_le_bytes([header[0], header[1]]));
                socket.read_exact(&mut vec![0; length]).unwrap();
                let mut out = Vec::new();
                if busy {
                    write_ko(&mut out, 202, "busy; retry in 1 s");
                } else {
                    write_text(&mut out, 102, "LOGIN SUCCESS");
                }
                socket.write_all(&out).unwrap();
            }
        });
        let shares = Shares {
            peers: 1,
            files: 1,
            ids: vec![Some(PeerId::from_bits(7))],
        };
        let times_us = Histogram::new(3).unwrap();
        let load = Load::new(at, shares, [Task::Login(0)], 1, times_us);
        let mut reactor = Reactor::new(load, Limits::default()).unwrap();
        reactor.node().with(|load, hub| load.begin(hub, 1));
        reactor.run().unwrap();
        let outcome = reactor.into_service().outcome;
        assert_eq!((outcome.done, outcome.retries, outcome.wrong), (1, 1, 0));
        server.join().unwrap();
    }
}

//! The requests of peers and searchers at an index server, and the check of every answer against what was shared.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use sha1::{Digest, Sha1 as Hasher};

use peerloop::engine::{Input, Ticks};
use peerloop::proto::index::call::{Answer, Call, CallState, Credentials, Next};
use peerloop::proto::index::fields::{PeerId, Sha1};
use peerloop::proto::index::reply::{Hit, Listed};
use peerloop::proto::index::wire::Frame;

use crate::cli::load::connections::{Heard, Talker};

/// Files of a word: the results of a search.
const FILES_PER_WORD: usize = 10;

/// The checker: files and their peers, all derived from numbers.
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

    /// A peer whose registration failed asks with id 0, which no peer has.
    fn call(&self, task: Task) -> Call {
        let id = |peer: usize| self.ids[peer].unwrap_or(PeerId::from_bits(0));
        match task {
            Task::Register(peer) => Call::Register {
                who: self.who(peer),
                files: (peer * self.files..(peer + 1) * self.files)
                    .map(|number| self.file(number))
                    .collect(),
            },
            Task::Login(peer) => Call::Login {
                who: self.who(peer),
                id: id(peer),
                ip: None,
                port: 1 + (peer % 65_535) as u16,
            },
            Task::KeepAlive(peer) => Call::KeepAlive { id: id(peer) },
            Task::Search(word) => Call::Search {
                words: format!("w{word}"),
                // With this limit the client asks for no second page.
                hits_max: self.matches(word).count().max(1),
            },
        }
    }

    fn matches(&self, word: usize) -> impl Iterator<Item = usize> {
        (word..self.total()).step_by(self.words())
    }

    /// Whether these are exactly the files with a word, each with its holder.
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

/// One request of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Register(usize),
    Login(usize),
    KeepAlive(usize),
    Search(usize),
}

/// Sends the tasks of a phase in turn and checks the answers.
pub(super) struct IndexTalker<I> {
    pub(super) shares: Shares,
    tasks: I,
    /// Right answers.
    pub(super) right: u64,
    /// Answers that asked to come back later.
    pub(super) retries: u64,
    /// The first wrong answer.
    pub(super) first_wrong: Option<String>,
}

/// A task, and its exchange once it was sent.
pub(super) struct Asked {
    task: Task,
    exchange: Option<CallState>,
}

impl<I: Iterator<Item = Task>> IndexTalker<I> {
    /// `tasks` must be as many as the plan has requests.
    pub(super) fn new(shares: Shares, tasks: I) -> IndexTalker<I> {
        IndexTalker {
            shares,
            tasks,
            right: 0,
            retries: 0,
            first_wrong: None,
        }
    }

    fn wrong(&mut self, task: Task, why: impl Display) {
        let first = || format!("{task:?}: {why}");
        self.first_wrong.get_or_insert_with(first);
    }

    /// Whether an answer is right; the id of a registration is kept.
    fn is_right(&mut self, task: Task, answer: &Answer) -> bool {
        match (task, answer) {
            (Task::Register(peer), Answer::Registered(id)) => {
                self.shares.ids[peer] = Some(*id);
                true
            }
            (Task::Login(_), Answer::LoggedIn) | (Task::KeepAlive(_), Answer::KeptAlive) => true,
            (Task::Search(word), Answer::Hits(hits)) => self.shares.is_right(word, hits),
            _ => false,
        }
    }
}

impl<I: Iterator<Item = Task>> Talker for IndexTalker<I> {
    type Request = Asked;
    type Reading = ();

    fn is_known_by_address(&self) -> bool {
        true
    }

    fn next(&mut self) -> Asked {
        Asked {
            task: self.tasks.next().unwrap_or(Task::Search(0)),
            exchange: None,
        }
    }

    fn write(&mut self, asked: &mut Asked, out: &mut Vec<u8>) -> Option<Bytes> {
        let exchange = CallState::new(self.shares.call(asked.task));
        asked.exchange.insert(exchange).ask(out);
        None
    }

    fn answer(
        &mut self,
        asked: &mut Asked,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Heard, &'static str> {
        let Some(frame) = Frame::of(input) else {
            return Ok(Heard::More);
        };
        let (used, task, mut more) = (frame.len(), asked.task, Vec::new());
        let exchange = asked.exchange.as_mut().ok_or("an answer to nothing")?;
        let yes = match exchange.reply(frame, &mut more) {
            Next::Asked => {
                let request = more.into();
                return Ok(Heard::GoesOn { used, request });
            }
            Next::RetryIn(secs, _) => {
                self.retries += 1;
                let after = Ticks::from_secs(secs);
                return Ok(Heard::Later { used, after });
            }
            Next::Finished(Ok(answer)) => {
                let yes = self.is_right(task, &answer);
                if !yes {
                    self.wrong(task, format_args!("{answer:?}"));
                }
                yes
            }
            Next::Finished(Err(e)) => {
                self.wrong(task, e);
                false
            }
        };
        self.right += u64::from(yes);
        Ok(Heard::Answer { used, yes })
    }

    fn lost(&mut self, asked: Asked, why: &str) {
        self.wrong(asked.task, format_args!("the connection ended: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use peerloop::proto::index::wire::{write_ko, write_text};

    use super::*;
    use crate::cli::load::driver::Plan;
    use crate::cli::load::run_to_end;

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
        let talker = IndexTalker::new(shares, [Task::Login(0)].into_iter());
        let load = run_to_end(at, talker, Plan::of_requests(1, 1, 1)).unwrap();
        let (answers, talker) = (load.driver.measurement.answers(), load.talker);
        assert_eq!((answers, talker.retries, talker.right), (1, 1, 1));
        server.join().unwrap();
    }
}

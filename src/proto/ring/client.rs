//! One question to a tracker or a peer, from outside the ring.
//!
//! For: asking and understanding the answer, which for a list of peers comes in pages. Not for: printing.
//!
//! Invariants: the whole ends by its deadline, whatever the other side sends; a list has at most `PEERS_MAX` peers.

use std::io::ErrorKind;
use std::net::SocketAddrV4;

use thiserror::Error;

use crate::engine::{
    ConnId, Cx, Deadline, End, Hub, Input, NoJob, Service, Step, Ticks, Violation,
};

use super::value::{Tree, Value};
use super::wire::{Encoding, Neighbour, Reader, Reply, Request};

/// Peers that a list may have: more than a tracker takes, so that one that lies does not fill our memory.
const PEERS_MAX: usize = 1_000_000;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Echo { handle: String },
    Ping { time: String },
    Query { seq: u32 },
    Peers,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A tracker's text: a greeting or a refusal.
    Says(String),
    /// The handle of the peer that answered ECHO or PING.
    Handle(String),
    /// `None`: the peer does not have it.
    Item(Option<String>),
    /// The ring in order.
    Peers(Vec<Row>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub handle: String,
    pub addr: SocketAddrV4,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    #[error("cannot reach {0}: {1}")]
    Unreachable(SocketAddrV4, ErrorKind),
    #[error("{0} did not answer in time")]
    Silent(SocketAddrV4),
    #[error("{0} closed the connection without an answer")]
    Closed(SocketAddrV4),
    #[error("{0} does not speak the protocol: {1}")]
    Nonsense(SocketAddrV4, &'static str),
    #[error("interrupted")]
    Interrupted,
}

/// The service. It stops the node when it has its answer.
pub struct Client {
    to: SocketAddrV4,
    question: Question,
    /// The whole is to take no longer: each page may come in time and the list still never end.
    deadline: Ticks,
    peers: Vec<Row>,
    result: Result<Answer, Failure>,
}

impl Client {
    /// Asks `to`, for `deadline` at the longest.
    pub fn new(to: SocketAddrV4, question: Question, deadline: Ticks) -> Client {
        Client {
            to,
            question,
            deadline,
            peers: Vec::new(),
            result: Err(Failure::Interrupted),
        }
    }

    /// The answer, once there is one.
    pub fn result(&self) -> &Result<Answer, Failure> {
        &self.result
    }

    pub fn into_result(self) -> Result<Answer, Failure> {
        self.result
    }

    fn ask(&self, out: &mut Vec<u8>) {
        let request = match &self.question {
            Question::Echo { handle } => Request::Echo {
                handle: handle.as_str().into(),
            },
            Question::Ping { time } => Request::Ping {
                time: time.as_str().into(),
            },
            Question::Query { seq } => Request::Query { seq: *seq },
            Question::Peers => Request::Peers {
                offset: self.peers.len() as u32,
            },
        };
        request.put(Encoding::OURS, out);
    }

    /// What a reply means as an answer to the question; `None`: there is more to come.
    fn judge(&mut self, cx: &mut Cx<'_, Client>, reply: Reply<'_>) -> Option<Answer> {
        match (&self.question, reply) {
            (_, Reply::Tracker(text)) => Some(Answer::Says(text.into_owned())),
            (Question::Ping { .. }, Reply::Ping { handle }) => {
                Some(Answer::Handle(handle.into_owned()))
            }
            (Question::Query { .. }, Reply::QueryResult(None)) => Some(Answer::Item(None)),
            (Question::Query { seq }, Reply::QueryResult(Some(item))) if item.seq == *seq => {
                Some(Answer::Item(Some(item.data.into_owned())))
            }
            (Question::Peers, Reply::Peers { total, page }) => {
                let last = page.is_empty();
                self.peers.extend(page.into_iter().map(Row::from));
                if !last && self.peers.len() < PEERS_MAX.min(total as usize) {
                    self.ask(cx.out());
                    return None;
                }
                Some(Answer::Peers(std::mem::take(&mut self.peers)))
            }
            _ => {
                self.result = Err(Failure::Nonsense(
                    self.to,
                    "another answer than was asked for",
                ));
                cx.stop();
                None
            }
        }
    }
}

impl Service for Client {
    type Conn = Reader;
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = NoJob;

    fn on_start(&mut self, hub: &mut Hub<Client>) {
        hub.dial(self.to, None, Reader::default());
        if hub.arm(self.deadline, ()).is_none() {
            // Nothing would end the wait.
            hub.stop();
        }
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Client>, _reader: &mut Reader) {
        self.ask(cx.out());
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Client>,
        reader: &mut Reader,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(packet) = reader.read(input)? else {
            return Ok(Step::More);
        };
        let used = packet.used;
        // A peer answers ECHO with an ECHO, which is a request.
        if is_echo(packet.tree()) {
            let Request::Echo { handle } = packet.request()? else {
                return Err(Violation::peer("no answer"));
            };
            if let Question::Echo { .. } = self.question {
                self.result = Ok(Answer::Handle(handle.into_owned()));
                cx.stop();
            }
            return Ok(Step::Done(used));
        }
        let reply = packet.reply()?;
        if let Some(answer) = self.judge(cx, reply) {
            self.result = Ok(answer);
            cx.stop();
        }
        Ok(Step::Done(used))
    }

    fn on_timer(&mut self, hub: &mut Hub<Client>, _timer: ()) {
        if self.result == Err(Failure::Interrupted) {
            self.result = Err(Failure::Silent(self.to));
        }
        hub.stop();
    }

    fn on_end(&mut self, hub: &mut Hub<Client>, _id: ConnId, _reader: Reader, end: End) {
        let to = self.to;
        if self.result == Err(Failure::Interrupted) {
            self.result = Err(match end {
                End::Unreachable(kind) => Failure::Unreachable(to, kind),
                End::Timeout(Deadline::Dial) => Failure::Unreachable(to, ErrorKind::TimedOut),
                End::Timeout(_) => Failure::Silent(to),
                End::Violation(violation) => Failure::Nonsense(to, violation.what),
                _ => Failure::Closed(to),
            });
            hub.stop();
        }
    }
}

fn is_echo(tree: &Tree<'_>) -> bool {
    let Value::Tuple(mut fields) = tree.root() else {
        return false;
    };
    matches!(fields.next(), Some(Value::Text("ECHO")))
}

impl From<Neighbour<'_>> for Row {
    fn from(peer: Neighbour<'_>) -> Row {
        Row {
            handle: peer.handle.into_owned(),
            addr: peer.addr,
        }
    }
}

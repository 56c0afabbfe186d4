//! Scripted peers and servers as data: what they are told to do, and what they have received.
//!
//! `peer.rs` acts for them; the network only knows that they exist.

use std::collections::VecDeque;

use super::link::EndRef;

/// Names a scripted peer of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerId(pub(super) usize);

/// Names a scripted listener of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId(pub(super) usize);

/// What a scripted listener does with a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The dialler is connected at once; the peer behind it comes with `World::accept`, if ever.
    Queue,
    /// The dialler hears nothing.
    Ignore,
    Refuse,
}

/// How the other side ended a peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It closed its direction; all that it sent was received.
    Fin,
    Reset,
    Refused,
    /// Nobody answered the dial.
    TimedOut,
}

/// What a peer does after the last of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Nothing,
    Finish,
    Reset,
    Close,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) end: Option<EndRef>,
    pub(super) received: Vec<u8>,
    pub(super) unsent: VecDeque<u8>,
    pub(super) reading: bool,
    pub(super) last: Last,
    pub(super) finished: bool,
    pub(super) ending: Option<Ending>,
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) answer: Answer,
    pub(super) backlog: VecDeque<EndRef>,
}

impl Script {
    /// Whether a dial is connected (true) or refused (false); `None`: no answer.
    pub(super) fn syn(&mut self, end: EndRef) -> Option<bool> {
        match self.answer {
            Answer::Queue => {
                self.backlog.push_back(end);
                Some(true)
            }
            Answer::Refuse => Some(false),
            Answer::Ignore => None,
        }
    }
}

impl Peer {
    pub(super) fn new(end: Option<EndRef>) -> Peer {
        Peer {
            end,
            received: Vec::new(),
            unsent: VecDeque::new(),
            reading: true,
            last: Last::Nothing,
            finished: false,
            ending: None,
        }
    }
}

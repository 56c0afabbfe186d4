//! One operation of a client: find the owner of a key by LOCATE, then do with the key what is wanted.
//!
//! A state machine without I/O and without a clock. Its host dials, sends, waits and closes as [`Next`]
//! says and reports what happened; the same machine serves the commands of the program and a node that asks other
//! nodes. It copes with peers that close after each command, with nodes that moved, with dead hops, and with
//! answers that lead nowhere: after `attempts_max` tries it gives up with the last reason.
//!
//! Invariants: every hop of one try is strictly closer to the key than the one before, and there are at most
//! `hops_max`; nothing is allocated by an announced length.

use std::io::ErrorKind;
use std::net::SocketAddrV4;

use bytes::Bytes;
use thiserror::Error;

use crate::engine::{Deadline, End, Input, Step, Ticks, Violation};

use super::stat::{self, Stat};
use crate::proto::dht::id::Id;
use crate::proto::dht::membership::address_policy;
use crate::proto::dht::wire::{self, Request};

/// What is wanted with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Locate,
    /// One node's answer to LOCATE; it is not followed.
    Closest,
    /// The owner of the position after the key, as the owner of the key names it. For a node's own id less one this is the
    /// ring's view of the node, independent of fingers to it.
    After,
    Contains,
    Get,
    Insert(Bytes),
    Remove,
    /// XMERGE: this entry, if it is newer than the owner's.
    Merge {
        version: u64,
        value: Option<Bytes>,
    },
    /// UPDATE_PREV with this address, at the contact itself.
    UpdatePrev(SocketAddrV4),
    /// XSTAT of the contact itself.
    Stat,
}

impl Verb {
    /// The owner of the key is looked for; the others are for the node that is asked.
    fn looks_for_owner(&self) -> bool {
        !matches!(self, Verb::UpdatePrev(_) | Verb::Stat)
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The owner of the key, or the answer of one node ([`Verb::Closest`]).
    Located(SocketAddrV4),
    /// The owner of the key, and its answer for the position that follows.
    After {
        before: SocketAddrV4,
        owner: SocketAddrV4,
    },
    Contains(bool),
    /// `None`: there is no entry. An empty value is `Some`.
    Got(Option<Bytes>),
    /// Merged as well.
    Inserted,
    Removed,
    PrevUpdated,
    /// `None`: it says that it is no member.
    Told(Option<Stat>),
}

/// Why an operation was given up, or a try of it failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    #[error("cannot reach the node at {addr}: {kind}")]
    Unreachable { addr: SocketAddrV4, kind: ErrorKind },
    #[error("the node at {addr} did not answer in time")]
    TimedOut { addr: SocketAddrV4 },
    #[error("the node at {addr} closed the connection in the middle of an answer")]
    CutOff { addr: SocketAddrV4 },
    #[error("the peer at {addr} does not speak the protocol: {what}")]
    Malformed {
        addr: SocketAddrV4,
        what: &'static str,
    },
    /// It hung up upon XMERGE without a byte, twice.
    #[error("the node at {addr} knows no versions")]
    Plain { addr: SocketAddrV4 },
    #[error("the node at {addr} sent us to {to}, which is no closer to the key")]
    Misrouted {
        addr: SocketAddrV4,
        to: SocketAddrV4,
    },
    #[error("the node at {addr} sent us to {to}, where no member can be that it knows")]
    Implausible {
        addr: SocketAddrV4,
        to: SocketAddrV4,
    },
    #[error("no owner found after {hops} hops")]
    TooManyHops { hops: u32 },
    #[error("the node at {addr} says that it owns the key and then that it does not")]
    NotOwner { addr: SocketAddrV4 },
    /// A write was not acknowledged in the end. If the range moved meanwhile, the new owner may have it all the same.
    #[error(
        "the node at {addr} did not store the value (too large for it, it is full, or its range moved)"
    )]
    Refused { addr: SocketAddrV4 },
    #[error("the value at {addr} has {bytes} bytes, over the limit of {max_bytes}")]
    TooLarge {
        addr: SocketAddrV4,
        bytes: u64,
        max_bytes: u64,
    },
    /// Only where [`Bounds::unknown_is_final`].
    #[error("{why}; whether the write was done is not known")]
    Unknown { why: Box<Failure> },
    #[error("no connection was to be had: {limit} reached")]
    Limit { limit: &'static str },
}

impl Failure {
    /// Nobody listens there: the process is gone. Everything else may be a slow one, or the path.
    pub fn is_refused(&self) -> bool {
        let refused = ErrorKind::ConnectionRefused;
        matches!(self, Failure::Unreachable { kind, .. } if *kind == refused)
    }

    /// Another try would end the same way, or take as long again.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Failure::TooLarge { .. } | Failure::TimedOut { .. } | Failure::Plain { .. }
        )
    }
}

/// The bounds of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Longest value that is taken.
    pub value_bytes_max: u64,
    /// Hops of one try: far over log2 of any ring's size.
    pub hops_max: u32,
    /// Tries from the start. With `backoff` they span about three seconds, the time in which a ring gets over a
    /// join or a leave.
    pub attempts_max: u32,
    /// Pause before the second try; it doubles for each further one, up to `backoff_max`.
    pub backoff: Ticks,
    pub backoff_max: Ticks,
    /// An INSERT or REMOVE whose outcome is unknown is not tried again. A second try could be acknowledged while the bytes
    /// of the first are still under way; the first would then undo what is written afterwards.
    pub unknown_is_final: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            value_bytes_max: crate::proto::dht::node::VALUE_BYTES_MAX,
            hops_max: 64,
            attempts_max: 7,
            backoff: Ticks::from_millis(50),
            backoff_max: Ticks::from_secs(2),
            unknown_is_final: false,
        }
    }
}

/// What the host of an operation has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for what comes on the connection.
    Wait,
    /// Send this after what was written.
    Send(Bytes),
    /// Let go of the connection, if there is one, and dial.
    Dial(SocketAddrV4),
    /// Let go of the connection; [`Operation::retry`] after this time.
    RetryAfter(Ticks),
    /// Let go of the connection: that was it.
    Finished(Result<Outcome, Failure>),
}

/// What is expected next from the node that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A connection, or the time of the next try.
    Nothing,
    /// LOCATE's address.
    Location,
    /// The command's "I own it".
    Owned,
    /// CONTAINS's "I have an entry".
    Presence,
    /// GET's length.
    Length,
    /// GET's value.
    Value { left_bytes: u64 },
    /// INSERT's or REMOVE's "done".
    Accepted,
    /// All lines of XSTAT.
    Stat,
}

/// What is sent when a connection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Locate,
    /// LOCATE of the position before a node that cannot be reached, at the one that named it.
    Detour {
        dead: SocketAddrV4,
    },
    Command,
    /// GET again: there is an entry now, and there may have been none when GET answered 0.
    GetAgain,
    /// CONTAINS, to tell an empty value from a missing entry.
    TellEmpty,
    /// CONTAINS once more: the entry may have been removed before GET answered 0 again.
    StillThere,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Operation {
    verb: Verb,
    key: Id,
    bounds: Bounds,
    /// Nodes to begin a try with, in turn. Never empty.
    contacts: Vec<SocketAddrV4>,
    /// The node that is asked.
    at: SocketAddrV4,
    stage: Stage,
    expect: Expect,
    /// Something of the answer to the command of this stage has come.
    answered: bool,
    hops: u32,
    attempts: u32,
    /// Clockwise distance to the key of the node that the last LOCATE named.
    distance: Option<Id>,
    /// The node that named the one that is asked, and its own distance.
    via: Option<(SocketAddrV4, Option<Id>)>,
    /// Why a detour is made: what is said if there is none.
    detour: Option<Failure>,
    value: Vec<u8>,
}

impl Operation {
    /// # Panics
    /// If `contacts` is empty.
    pub fn new(verb: Verb, key: Id, contacts: Vec<SocketAddrV4>, bounds: Bounds) -> Operation {
        let looks = verb.looks_for_owner();
        Operation {
            verb,
            key,
            bounds,
            at: contacts[0],
            contacts,
            stage: if looks { Stage::Locate } else { Stage::Command },
            expect: Expect::Nothing,
            answered: !looks,
            hops: 0,
            attempts: 0,
            distance: None,
            via: None,
            detour: None,
            value: Vec::new(),
        }
    }

    /// UPDATE_PREV at `next`: `prev` is before it.
    pub fn update_prev(prev: SocketAddrV4, next: SocketAddrV4, bounds: Bounds) -> Operation {
        let verb = Verb::UpdatePrev(prev);
        Operation::new(verb, Id::of_addr(next), vec![next], bounds)
    }

    /// Hops of the last try: nodes asked after the first.
    pub fn hops(&self) -> u32 {
        self.hops
    }

    /// Begins.
    pub fn start(&mut self) -> Next {
        Next::Dial(self.at)
    }

    /// The time of [`Next::RetryAfter`] is over.
    pub fn retry(&mut self) -> Next {
        self.at = self.contacts[self.attempts as usize % self.contacts.len()];
        self.stage = if self.verb.looks_for_owner() {
            Stage::Locate
        } else {
            Stage::Command
        };
        self.hops = 0;
        self.distance = None;
        self.via = None;
        Next::Dial(self.at)
    }

    /// The connection to the node that was to be dialled is there.
    pub fn dialled(&mut self, out: &mut Vec<u8>) {
        self.ask(out);
    }

    /// Bytes came from it.
    pub fn input(&mut self, input: Input<'_>, out: &mut Vec<u8>) -> (Step, Next) {
        match self.read(input, out) {
            Ok(None) => (Step::More, Next::Wait),
            Ok(Some(read)) => read,
            Err(v) => {
                let malformed = Failure::Malformed {
                    addr: self.at,
                    what: v.what,
                };
                // One hop with a malformed answer does not end the lookup: there may be a way round it.
                (Step::Done(input.bytes.len()), self.go_round(malformed))
            }
        }
    }

    /// The connection ended, or the dial failed.
    pub fn ended(&mut self, end: End) -> Next {
        let addr = self.at;
        let closed_between_commands = !self.answered && !self.is_locating();
        let failure = match end {
            // A peer that closes after each command did so after LOCATE (or after GET); dial it again. Once:
            // the command is then the first on its connection, and its end a failure.
            End::Eof | End::Broken(_) if closed_between_commands => {
                self.answered = true;
                self.expect = Expect::Nothing;
                return Next::Dial(addr);
            }
            End::Unreachable(kind) => Failure::Unreachable { addr, kind },
            End::Timeout(Deadline::Dial) => Failure::Unreachable {
                addr,
                kind: ErrorKind::TimedOut,
            },
            End::Timeout(_) => Failure::TimedOut { addr },
            End::Limit(limit) => Failure::Limit { limit },
            End::Eof | End::Broken(_)
                if matches!(self.verb, Verb::Merge { .. }) && self.expect == Expect::Owned =>
            {
                Failure::Plain { addr }
            }
            End::Eof | End::Broken(_) | End::Closed | End::Violation(_) => Failure::CutOff { addr },
        };
        match failure {
            Failure::Unreachable { .. } | Failure::CutOff { .. } => self.go_round(failure),
            _ => self.fail(failure),
        }
    }

    /// Writes the request of this stage.
    fn ask(&mut self, out: &mut Vec<u8>) {
        let key = self.key;
        let (request, expect) = match (self.stage, &self.verb) {
            (Stage::Locate, _) => (Request::Locate(key), Expect::Location),
            (Stage::Detour { dead }, _) => {
                (Request::Locate(Id::of_addr(dead).pred()), Expect::Location)
            }
            (Stage::GetAgain, _) => (Request::Get(key), Expect::Owned),
            (Stage::TellEmpty | Stage::StillThere, _) => (Request::Contains(key), Expect::Owned),
            (Stage::Command, Verb::After) => (Request::Locate(key.succ()), Expect::Location),
            (Stage::Command, Verb::Get) => (Request::Get(key), Expect::Owned),
            (Stage::Command, Verb::Insert(_)) => (Request::Insert(key), Expect::Owned),
            (Stage::Command, Verb::Remove) => (Request::Remove(key), Expect::Owned),
            (Stage::Command, Verb::Merge { version, .. }) => {
                let version = *version;
                (Request::Merge { key, version }, Expect::Owned)
            }
            (Stage::Command, Verb::UpdatePrev(prev)) => {
                (Request::UpdatePrev(*prev), Expect::Accepted)
            }
            (Stage::Command, Verb::Stat) => (Request::Stat, Expect::Stat),
            (Stage::Command, Verb::Contains | Verb::Locate | Verb::Closest) => {
                (Request::Contains(key), Expect::Owned)
            }
        };
        wire::put_request(out, &request);
        self.expect = expect;
    }

    fn read(
        &mut self,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<(Step, Next)>, Violation> {
        let Input { bytes, seen } = input;
        let stage = self.stage;
        let read = match self.expect {
            Expect::Nothing => return Err(Violation::peer("it speaks unasked")),
            Expect::Location => wire::address(bytes, seen)?
                .map(|(addr, used)| (Step::Done(used), self.located(addr, out))),
            Expect::Owned => wire::ack(bytes, seen)?.map(|(yes, used)| {
                let next = self.owned(yes, out);
                // An owner may hold back a write while its range moves: not a line that is late.
                let is_write = self.expect == Expect::Accepted;
                let step = if is_write { Step::Done } else { Step::Took };
                (step(used), next)
            }),
            Expect::Presence => wire::ack(bytes, seen)?
                .map(|(yes, used)| (Step::Done(used), self.present(yes, out))),
            Expect::Accepted => {
                wire::ack(bytes, seen)?.map(|(yes, used)| (Step::Done(used), self.accepted(yes)))
            }
            Expect::Stat => stat::read(bytes)?
                .map(|(stat, used)| (Step::Done(used), Next::Finished(Ok(Outcome::Told(stat))))),
            Expect::Length => {
                wire::number(bytes, seen)?.map(|(n, used)| (Step::Took(used), self.length(n, out)))
            }
            Expect::Value { left_bytes } => Some(self.value(bytes, left_bytes)),
        };
        // What ended a stage is no answer to the command of the next one.
        self.answered |= read.is_some() && self.stage == stage;
        Ok(read)
    }

    fn located(&mut self, addr: SocketAddrV4, out: &mut Vec<u8>) -> Next {
        if self.verb == Verb::Closest {
            return Next::Finished(Ok(Outcome::Located(addr)));
        }
        if !address_policy::is_plausible(*self.at.ip(), addr, self.at.port()) {
            let by = self.at;
            return self.fail(Failure::Implausible { addr: by, to: addr });
        }
        if let Stage::Detour { dead } = self.stage {
            self.stage = Stage::Locate;
            if (addr == self.at || addr == dead)
                && let Some(failure) = self.detour.take()
            {
                // There is no node between the two, so there is no way round.
                return self.fail(failure);
            }
        }
        if self.verb == Verb::After && self.stage == Stage::Command {
            let before = self.at;
            return Next::Finished(Ok(Outcome::After {
                before,
                owner: addr,
            }));
        }
        if addr == self.at {
            if self.verb == Verb::Locate {
                return Next::Finished(Ok(Outcome::Located(addr)));
            }
            if self.verb == Verb::Remove && self.bounds.unknown_is_final {
                // Where it goes out behind LOCATE, the end of the connection does not tell whether it was read.
                self.stage = Stage::Command;
                self.expect = Expect::Nothing;
                self.answered = true;
                return Next::Dial(addr);
            }
            self.begin(Stage::Command, out);
            return Next::Wait;
        }
        let distance = Id::of_addr(addr).distance_to(self.key);
        // The first node may know itself by another address than we do, so only answers are compared.
        if self.distance.is_some_and(|before| distance >= before) {
            return self.go_round(Failure::Misrouted {
                addr: self.at,
                to: addr,
            });
        }
        self.hops += 1;
        if self.hops > self.bounds.hops_max {
            return self.fail(Failure::TooManyHops { hops: self.hops });
        }
        self.via = Some((self.at, self.distance));
        self.distance = Some(distance);
        self.at = addr;
        self.expect = Expect::Nothing;
        Next::Dial(addr)
    }

    /// The node that is asked is of no use. The node that named it may know another one before it.
    fn go_round(&mut self, failure: Failure) -> Next {
        let Some((via, distance)) = self.via.take().filter(|_| self.stage == Stage::Locate) else {
            return self.fail(failure);
        };
        self.hops += 1;
        if self.hops > self.bounds.hops_max {
            return self.fail(failure);
        }
        self.stage = Stage::Detour { dead: self.at };
        self.detour = Some(failure);
        self.expect = Expect::Nothing;
        (self.at, self.distance) = (via, distance);
        Next::Dial(via)
    }

    fn is_locating(&self) -> bool {
        matches!(self.stage, Stage::Locate | Stage::Detour { .. })
    }

    /// Goes on to a further command on the same connection.
    fn begin(&mut self, stage: Stage, out: &mut Vec<u8>) {
        self.stage = stage;
        self.answered = false;
        self.ask(out);
    }

    fn owned(&mut self, yes: bool, out: &mut Vec<u8>) -> Next {
        if !yes {
            return self.fail(Failure::NotOwner { addr: self.at });
        }
        let (expect, next) = match (self.stage, &self.verb) {
            (Stage::TellEmpty | Stage::StillThere, _)
            | (_, Verb::Contains | Verb::Locate | Verb::Closest | Verb::After) => {
                (Expect::Presence, Next::Wait)
            }
            (_, Verb::Get) => (Expect::Length, Next::Wait),
            (_, Verb::Remove | Verb::UpdatePrev(_) | Verb::Stat) => (Expect::Accepted, Next::Wait),
            (_, Verb::Merge { value, .. }) => {
                wire::put_length(out, value.as_ref().map(|value| value.len() as u64));
                let next = value.clone().map_or(Next::Wait, Next::Send);
                (Expect::Accepted, next)
            }
            (_, Verb::Insert(value)) => {
                wire::put_number(out, value.len() as u64);
                (Expect::Accepted, Next::Send(value.clone()))
            }
        };
        self.expect = expect;
        next
    }

    fn present(&mut self, yes: bool, out: &mut Vec<u8>) -> Next {
        match self.stage {
            Stage::TellEmpty if yes => {
                self.begin(Stage::GetAgain, out);
                Next::Wait
            }
            Stage::StillThere if yes => Next::Finished(Ok(Outcome::Got(Some(Bytes::new())))),
            Stage::TellEmpty | Stage::StillThere => Next::Finished(Ok(Outcome::Got(None))),
            _ => Next::Finished(Ok(Outcome::Contains(yes))),
        }
    }

    fn accepted(&mut self, yes: bool) -> Next {
        match (&self.verb, yes) {
            (_, false) => self.fail(Failure::Refused { addr: self.at }),
            (Verb::Remove, true) => Next::Finished(Ok(Outcome::Removed)),
            (Verb::UpdatePrev(_), true) => Next::Finished(Ok(Outcome::PrevUpdated)),
            (_, true) => Next::Finished(Ok(Outcome::Inserted)),
        }
    }

    fn length(&mut self, bytes: u64, out: &mut Vec<u8>) -> Next {
        let max_bytes = self.bounds.value_bytes_max;
        if bytes > max_bytes {
            return self.fail(Failure::TooLarge {
                addr: self.at,
                bytes,
                max_bytes,
            });
        }
        if bytes == 0 && self.stage == Stage::GetAgain {
            self.begin(Stage::StillThere, out);
        } else if bytes == 0 {
            self.begin(Stage::TellEmpty, out);
        } else {
            self.expect = Expect::Value { left_bytes: bytes };
        }
        Next::Wait
    }

    fn value(&mut self, bytes: &[u8], left_bytes: u64) -> (Step, Next) {
        let take = usize::try_from(left_bytes)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.value.extend_from_slice(&bytes[..take]);
        let left_bytes = left_bytes - take as u64;
        if left_bytes > 0 {
            self.expect = Expect::Value { left_bytes };
            return (Step::Took(take), Next::Wait);
        }
        let value = Bytes::from(std::mem::take(&mut self.value));
        (
            Step::Done(take),
            Next::Finished(Ok(Outcome::Got(Some(value)))),
        )
    }

    /// The write was sent, or the part of it that matters, and no answer came that says what became of it.
    fn is_unknown(&self, failure: &Failure) -> bool {
        let sent = match (&self.verb, self.expect) {
            (Verb::Insert(_), expect) => expect == Expect::Accepted,
            (Verb::Remove, expect) => matches!(expect, Expect::Owned | Expect::Accepted),
            _ => false,
        };
        sent && !matches!(failure, Failure::NotOwner { .. })
    }

    /// This try failed: another one after a pause, or the end.
    fn fail(&mut self, failure: Failure) -> Next {
        let unknown = self.bounds.unknown_is_final && self.is_unknown(&failure);
        let failure = match failure {
            Failure::Refused { .. } => failure,
            _ if unknown => Failure::Unknown {
                why: Box::new(failure),
            },
            _ => failure,
        };
        self.expect = Expect::Nothing;
        self.answered = false;
        self.value = Vec::new();
        self.attempts += 1;
        if failure.is_final() || unknown || self.attempts >= self.bounds.attempts_max {
            return Next::Finished(Err(failure));
        }
        log::debug!("try {} of {:?}: {failure}", self.attempts, self.key);
        let doubled = (self.bounds.backoff.0).saturating_mul(1 << (self.attempts - 1).min(16));
        Next::RetryAfter(Ticks(doubled.min(self.bounds.backoff_max.0)))
    }
}

#[cfg(test)]
mod tests;

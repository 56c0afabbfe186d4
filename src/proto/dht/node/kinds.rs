//! What is told apart at a node: what a connection is for, what is expected on it, the node's role, what holds the
//! membership lock, and what a note, a timer and an operation are for. The node dispatches on these.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::ConnId;
use crate::proto::dht::id::Id;
use crate::proto::dht::membership::absorb::Absorb;
use crate::proto::dht::membership::confirm::Confirmation;
use crate::proto::dht::membership::connect::HandOff;
use crate::proto::dht::membership::disconnect::Disconnect;
use crate::proto::dht::membership::join::{self, Join};
use crate::proto::dht::membership::leave::Leave;
use crate::proto::dht::membership::lock::ParkedRequest;
use crate::proto::dht::membership::rejoin::Rejoin;
use crate::proto::dht::membership::relay::Relay;
use crate::proto::dht::replication::IncomingCopy;
use crate::proto::dht::routing::Member;
use crate::proto::dht::rpc::client::OpId;
use crate::proto::dht::rpc::links::{LinkKey, LinkTimer};
use crate::proto::dht::storage::range_stream::Incoming;
use crate::proto::dht::storage::range_sweep::Sweep;
use crate::proto::dht::storage::version::Version;

/// The node's half of a connection.
#[derive(Debug)]
pub enum Conn {
    /// A peer that connected to us.
    Peer(Expect),
    /// An operation of ours at another node.
    Operation(OpId),
    /// To the node that hands us our range.
    Join(join::Expect),
    /// To the node that takes our range.
    Leave,
    /// To the node that takes the range of a leaver whose DISCONNECT we pass on.
    Relay,
    /// To a member, kept open.
    Link(LinkKey),
}

/// What is expected next from a peer that connected to us.
#[derive(Debug)]
pub enum Expect {
    Request,
    /// The length line of an INSERT that we said `1` to, or of an XMERGE, which has a version.
    Length {
        key: Id,
        version: Option<Version>,
    },
    Value(Box<Incoming>, Option<Version>),
    Copy(Box<IncomingCopy>),
    /// Nothing: its CONNECT or DISCONNECT waits for the membership lock.
    Lock(Box<ParkedRequest>),
    /// The joiner's address, once everything is handed over (`LockHolder::HandOff`).
    Joiner,
    /// The leaver's entries (`LockHolder::Disconnect`).
    Leaver,
}

/// What the node is to the ring.
#[derive(Debug)]
pub(crate) enum Role {
    Member,
    Joining(Join),
    Leaving(Leave),
    /// The node has left; this node has its range.
    Gone(Member),
}

/// What holds the membership lock.
#[derive(Debug)]
pub(crate) enum LockHolder {
    Nobody,
    HandOff(HandOff),
    /// The joiner that a range was handed to is asked whether it is a member.
    Confirmation(Confirmation),
    Disconnect(Disconnect),
    /// A DISCONNECT that is for another member.
    Relay(Relay),
    /// A CONNECT with the id of our next.
    Rejoin(Rejoin),
    /// Recovered entries of our own range are taken over in pieces.
    Recovery,
    /// Our next is dead, or may be.
    Absorb(Absorb),
    /// Entries that are not ours are removed in pieces.
    Sweep(Sweep),
}

/// A note of the node to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The exchange goes on: the lock is offered, a quantum is due, or the answer is `1`.
    Go,
    /// The answer is `0`.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    Retry(OpId),
    Link(LinkTimer),
    /// The next heartbeat is due.
    Beat,
    /// An operation on which the ring's repair waits has taken too long.
    Late(OpId),
    /// One more, as it has news.
    BeatNow,
    /// Copies that are not finished are looked at.
    Copies,
    /// Our next is probed once more.
    Suspect,
    /// The one that is asked while a dead next is looked into is silent.
    Absorb(OpId),
    /// The next piece of a comparison that a peer asked for, and of a synchronisation of ours.
    Compare,
    Sync,
    /// Parked connections may have waited long enough.
    Parked,
    /// Fenced writes may have waited long enough.
    FencedWrites,
    /// A window of the deadline of what the membership lock is held for, at the peer of this connection.
    Lock(ConnId),
    /// Next step of our own join or leave.
    Join,
    Leave,
    /// A window of the deadline of our own join's, or leave's, transfer is over.
    JoinDeadline,
    LeaveDeadline,
    /// Says what our leave waits for, and ends it when it is late.
    LeaveLimit,
    /// Look up one finger.
    Finger,
    /// Look up our prev.
    Prev,
    /// Look whether the joiner, to which a range is being handed over, goes on.
    Stall,
    /// Look whether the joiner, to which a range was handed over, answers.
    Confirmation,
    /// Remove a further piece.
    Sweep,
    /// A round of the probe of our next is over.
    Probe,
    /// The walk to the node behind a dead one takes too long.
    Rejoin,
    /// The next step of recovering entries.
    Recovery,
    /// Tombstones may be old.
    Tombstones,
}

/// What an operation of the node is for.
#[derive(Debug)]
pub enum Tag {
    /// A write of this peer, whose key went to another node meanwhile, and what its value costs.
    Forward {
        conn: ConnId,
        bytes: u64,
    },
    /// The owner of the key before the announced next of a leaver.
    WhoLeaves(ConnId),
    /// The node before a leaver that is not our next.
    Relay(ConnId),
    /// An absent entry of a repeated DISCONNECT on this connection, at its owner.
    Repeated(ConnId, Id, Bytes),
    /// The announced next of a leaver takes us as its prev.
    DisconnectUpdate(ConnId),
    /// Whether our next is a member.
    Probe,
    /// The node that follows our dead next.
    Rejoin,
    /// A recovered entry, at its owner.
    Recovered(Id),
    /// Whether the joiner that has our range is a member.
    Confirmation,
    /// Our next takes us back as its prev after a joiner failed.
    TakeBack,
    /// Our next is told its prev, after we left or joined.
    TellNext,
    /// A step of our own join or leave.
    Join,
    Leave,
    /// Whether a node that we may join by is a member.
    Seed,
    Finger,
    /// Whether our next is dead, and who follows it.
    Absorb,
    /// Our next is told that those before us changed.
    Greeting,
    /// A next that sends no heartbeats is told that we are before it.
    PlainBeat(SocketAddrV4),
    /// Our prev, and how many UPDATE_PREVs there were when the ring was asked.
    Prev(u64),
    /// Whether our prev, this one, is gone: a farther node claims its place.
    PrevGone(Member),
    /// An operation of the program that the node is part of, by the program's number.
    Program(usize),
}

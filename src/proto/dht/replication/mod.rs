//! Copies of entries at other members, over links ([`super::rpc::links`]): which requests of the extension a node
//! serves, and what the replies to its own are for.
//!
//! - `copies`: who holds our entries, and which writes they all have; pure. `drive`: the node as an owner does what it says.
//! - `serve`: the node as a holder. `holds`: what owners told it, and which of them are fenced.
//! - `sync`: a range is synchronised with a peer; pure. `syncs`: those of a node. `serve_sync`: the peer's side.
//! - `compare`: what a node tells of a range in short.
//!
//! A node without copies (`replicas` of 1) closes upon each request of the extension, as a plain peer does.

mod compare;
pub(crate) mod copies;
pub(crate) mod drive;
pub(crate) mod holds;
pub(crate) mod serve;
mod serve_sync;
pub(crate) mod sync;
pub(crate) mod syncs;

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{Cx, Hub, Step, Tick, Violation};

use self::holds::Held;
pub(crate) use self::serve_sync::Comparisons;
use self::sync::Asked;
use self::syncs::SyncId;
pub(crate) use self::syncs::Syncs;
use super::id::Id;
use super::node::{Conn, DhtNode, Expect, Timer};
use super::rpc::links::{LinkError, LinkHost, LinkKey, LinkTimer, Links};
use super::storage::range_stream::Incoming;
use super::wire::extension::{Extension, Reply};

/// What a call of the node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTag {
    /// A beat: when it was sent, and with which epoch.
    Beat { sent: Tick, epoch: u64 },
    /// Our prev, or another pred, is told that it is a holder.
    Hold,
    /// A copy of the write with this number.
    Copy(u64),
    /// A fence at another holder of this dead owner.
    Fence { owner: SocketAddrV4 },
    /// A call of a synchronisation.
    Sync { id: SyncId, asked: Asked },
}

/// An entry that an owner sends to one of its holders.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) owner: SocketAddrV4,
    pub(crate) epoch: u64,
    pub(crate) key: Id,
    pub(crate) version: u64,
    /// `None`: a tombstone.
    pub(crate) value: Option<Bytes>,
}

/// A copy whose value is still to come.
#[derive(Debug)]
pub struct IncomingCopy {
    pub(crate) owner: SocketAddrV4,
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    pub(crate) value: Incoming,
}

impl DhtNode {
    /// Serves a request of the extension.
    ///
    /// # Errors
    /// As for an unknown command where nothing serves it; a limit was reached.
    pub(crate) fn serve_extension(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        extension: Extension,
        used: usize,
    ) -> Result<Step, Violation> {
        if self.waits_for_copies(cx, &extension) {
            return Ok(Step::Wait(0));
        }
        match extension {
            Extension::Put {
                owner,
                epoch,
                key,
                version,
                length,
            } => {
                if length > self.config.value_bytes_max {
                    return Err(Violation::limit("copy over value_bytes_max"));
                }
                if length > 0 {
                    let value = Incoming::new(key, length);
                    *expect = Expect::Copy(Box::new(IncomingCopy {
                        owner,
                        epoch,
                        version,
                        value,
                    }));
                    return Ok(Step::Took(used));
                }
                let value = Some(Bytes::new());
                let copy = Copy {
                    owner,
                    epoch,
                    key,
                    version,
                    value,
                };
                self.take_copy(cx, copy, used)
            }
            Extension::Delete {
                owner,
                epoch,
                key,
                version,
            } => {
                let copy = Copy {
                    owner,
                    epoch,
                    key,
                    version,
                    value: None,
                };
                self.take_copy(cx, copy, used)
            }
            Extension::Beat {
                from,
                epoch,
                holders,
                successors,
            } => {
                self.serve_beat(cx, from, epoch, &holders, successors);
                Ok(Step::Done(used))
            }
            Extension::Hold {
                owner,
                epoch,
                start,
                end,
                complete,
            } => {
                let held = Held {
                    owner,
                    epoch,
                    start,
                    end,
                    complete,
                };
                self.serve_hold(cx, held);
                Ok(Step::Done(used))
            }
            Extension::Fence { owner } => {
                let held = self.holds.fence(owner);
                let reply = Reply::Fenced {
                    epoch: held.map(|held| held.epoch),
                    complete: held.is_some_and(|held| held.complete),
                };
                reply.put(cx.out());
                Ok(Step::Done(used))
            }
            Extension::Digest { start, end } => self.serve_digest(cx, (start, end), used),
            Extension::Keys { start, end } => self.serve_keys(cx, (start, end), used),
            Extension::Fetch { key } => {
                self.serve_fetch(cx, key);
                Ok(Step::Done(used))
            }
        }
    }

    /// The value of a copy comes in. Its bytes are staged as those of an INSERT are.
    pub(crate) fn copy_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        bytes: &[u8],
    ) -> Result<Step, Violation> {
        let Expect::Copy(incoming) = expect else {
            unreachable!("called in this state only")
        };
        let (used, value) = self.take_value(cx, &mut incoming.value, bytes)?;
        let Some(value) = value else {
            return Ok(Step::Took(used));
        };
        let copy = Copy {
            owner: incoming.owner,
            epoch: incoming.epoch,
            key: incoming.value.key,
            version: incoming.version,
            value: Some(value),
        };
        *expect = Expect::Request;
        self.take_copy(cx, copy, used)
    }
}

impl LinkHost for DhtNode {
    type CallTag = LinkTag;

    fn links(&mut self) -> &mut Links<LinkTag> {
        &mut self.links
    }

    fn dial_from(&self) -> Option<SocketAddrV4> {
        self.config.dial_from
    }

    fn value_bytes_max(&self) -> u64 {
        self.config.value_bytes_max
    }

    fn on_reply(
        &mut self,
        hub: &mut Hub<Self>,
        from: SocketAddrV4,
        tag: LinkTag,
        result: Result<Reply, LinkError>,
    ) {
        match tag {
            LinkTag::Beat { sent, epoch } => self.beat_told(hub, from, sent, epoch, result),
            LinkTag::Fence { owner } => self.fence_told(hub, from, owner, result),
            LinkTag::Hold | LinkTag::Copy(_) => self.holder_told(hub, from, tag, result),
            LinkTag::Sync { id, asked } => self.sync_replied(hub, from, id, asked, result),
        }
    }
}

impl From<LinkKey> for Conn {
    fn from(link: LinkKey) -> Conn {
        Conn::Link(link)
    }
}

impl From<LinkTimer> for Timer {
    fn from(timer: LinkTimer) -> Timer {
        Timer::Link(timer)
    }
}

#[cfg(test)]
mod tests;

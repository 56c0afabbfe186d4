//! The node as a holder: takes the copies of other members' entries.
//!
//! A durable node acknowledges a copy once it is committed. Copies come one after the other on a link and are committed together, so
//! the link is read on meanwhile. Answers keep the order of the requests: the worker's order is that of the copies, and any other
//! request on the link waits until all copies before it are answered.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{ConnId, Cx, Hub, Step, Violation};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Expect, Role, Then, say};
use crate::proto::dht::storage::range_stream::Incoming;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire;
use crate::proto::dht::wire::extension::{Extension, Reply};

use super::holds::Held;

/// Copies of one link that are being committed. More wait in the socket.
const COPIES_AHEAD_MAX: u32 = 1024;

/// A copy whose value is being received.
#[derive(Debug)]
pub struct Copy {
    pub owner: SocketAddrV4,
    pub epoch: u64,
    pub version: Version,
    pub incoming: Incoming,
}

/// Links with copies at the worker.
#[derive(Debug, Default)]
pub struct Committing {
    links: Vec<(ConnId, Committed)>,
}

#[derive(Debug, Default)]
struct Committed {
    under_way: u32,
    /// The link is not read until they are back.
    waits: bool,
}

impl Committing {
    fn of(&mut self, conn: ConnId) -> Option<&mut Committed> {
        let found = self.links.iter_mut().find(|(id, _)| *id == conn);
        found.map(|(_, committed)| committed)
    }

    pub fn forget(&mut self, conn: ConnId) {
        self.links.retain(|(id, _)| *id != conn);
    }
}

impl DhtNode {
    /// A request of the extension. Without copies of its own this node is a plain one to others.
    pub(crate) fn serve_extension(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        request: Extension,
        used: usize,
    ) -> Result<Step, Violation> {
        if !self.copies.is_on() {
            return Err(Violation::peer("unknown command"));
        }
        let is_copy = matches!(request, Extension::Put { .. } | Extension::Delete { .. });
        if let Some(committed) = self.committing.of(cx.id())
            && committed.under_way > if is_copy { COPIES_AHEAD_MAX - 1 } else { 0 }
        {
            committed.waits = true;
            return Ok(Step::Wait(0));
        }
        match request {
            Extension::Beat {
                from,
                epoch,
                holders,
                successors,
            } => self.serve_beat(cx, from, epoch, &holders, successors),
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
            }
            Extension::Put {
                owner,
                epoch,
                key,
                version,
                length,
            } => {
                if length > self.config.value_bytes_max {
                    return Err(Violation::limit("value over value_bytes_max"));
                }
                let version = Version(version);
                if length == 0 {
                    self.take_copy(cx, owner, epoch, key, version, Some(Bytes::new()))?;
                } else {
                    *expect = Expect::Copy(Box::new(Copy {
                        owner,
                        epoch,
                        version,
                        incoming: Incoming::new(key, length),
                    }));
                    return Ok(Step::Took(used));
                }
            }
            Extension::Delete {
                owner,
                epoch,
                key,
                version,
            } => self.take_copy(cx, owner, epoch, key, Version(version), None)?,
            Extension::Fence { owner } => {
                let held = self.holds.fence(owner);
                let reply = Reply::Fenced {
                    epoch: held.map(|held| held.epoch),
                    complete: held.is_some_and(|held| held.complete),
                };
                reply.put(cx.out());
            }
            Extension::Digest { .. } | Extension::Keys { .. } | Extension::Fetch { .. } => {
                return self.serve_sync(cx, expect, request, used);
            }
        }
        Ok(Step::Done(used))
    }

    fn serve_hold(&mut self, cx: &mut Cx<'_, Self>, held: Held) {
        let is_plausible = cx.peer_v4().ip() == held.owner.ip() && held.owner != self.me().addr;
        let takes_part = match &self.role {
            Role::Member | Role::Leaving(_) => true,
            Role::Joining(join) => join.is_perhaps_member(),
            Role::Gone(_) => false,
        };
        // What this node owns, it holds for nobody: the other one was deposed, or one of them is about to hear so.
        let yes = is_plausible
            && takes_part
            && !self.routing.owns(held.start)
            && self.holds.told(held);
        wire::put_ack(cx.out(), yes);
    }

    /// Bytes of a copy's value.
    pub(crate) fn copy_value(
        &mut self,
        cx: &mut Cx<'_, Self>,
        expect: &mut Expect,
        bytes: &[u8],
    ) -> Result<Step, Violation> {
        let Expect::Copy(copy) = expect else {
            unreachable!("called in this state only")
        };
        let incoming = &mut copy.incoming;
        if let Some(more_bytes) = incoming.stages(bytes.len()) {
            let staged_bytes = self.staged_bytes.saturating_add(more_bytes);
            if staged_bytes > self.config.staged_bytes_max || !self.has_memory_of(cx, more_bytes) {
                return Err(Violation::limit("no memory for a copy"));
            }
            self.staged_bytes = staged_bytes;
        }
        let staged_bytes = incoming.staged_bytes();
        let (used, value) = incoming.take(bytes);
        let Some(value) = value else {
            return Ok(Step::Took(used));
        };
        self.staged_bytes -= staged_bytes;
        let (owner, epoch, key, version) = (copy.owner, copy.epoch, incoming.key, copy.version);
        *expect = Expect::Request;
        self.take_copy(cx, owner, epoch, key, version, Some(value))?;
        Ok(Step::Done(used))
    }

    /// Stores a copy, and acknowledges it when that is done.
    fn take_copy(
        &mut self,
        cx: &mut Cx<'_, Self>,
        owner: SocketAddrV4,
        epoch: u64,
        key: Id,
        version: Version,
        value: Option<Bytes>,
    ) -> Result<(), Violation> {
        let conn = cx.id();
        let fits = value
            .as_ref()
            .is_none_or(|value| self.has_memory_for(cx, key, value));
        let yes = fits && !self.routing.owns(key) && self.holds.takes(owner, epoch, key);
        if yes && self.config.durable {
            let changes = Changes::One(key, version, value);
            let then = Then::HeldFor { conn };
            if self.submit(cx, changes, then).is_err() {
                // The owner sends it again over another link.
                return Err(Violation::us("the worker is at its limit"));
            }
            match self.committing.of(conn) {
                Some(committed) => committed.under_way += 1,
                None => {
                    let committed = Committed {
                        under_way: 1,
                        waits: false,
                    };
                    self.committing.links.push((conn, committed));
                }
            }
            return Ok(());
        }
        if !yes
            && let Some(committed) = self.committing.of(conn)
            && committed.under_way > 0
        {
            // A `0` before the answers that are still to come would be taken for one of those.
            return Err(Violation::us("a copy is refused behind others"));
        }
        if yes {
            self.entries.merge(key, version, value);
        }
        wire::put_ack(cx.out(), yes);
        Ok(())
    }

    /// A copy came back from the worker.
    pub(crate) fn copy_held(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        changes: Changes,
        committed: bool,
    ) {
        if let Changes::One(key, version, value) = changes
            && committed
        {
            self.entries.merge(key, version, value);
        }
        say(hub, conn, committed);
        if let Some(state) = self.committing.of(conn) {
            state.under_way -= 1;
            if state.under_way == 0 || state.under_way < COPIES_AHEAD_MAX / 2 {
                let waits = std::mem::take(&mut state.waits);
                if state.under_way == 0 {
                    self.committing.forget(conn);
                }
                if waits {
                    hub.resume(conn);
                }
            }
        }
    }
}

//! The node as a holder: takes the copies of other members' entries.
//!
//! A durable node acknowledges a copy once it is committed. Copies come one after the other on a link and are committed together, so
//! the link is read on meanwhile. Answers keep the order of the requests: the worker's order is that of the copies, and any other
//! request on the link waits until all copies before it are answered.

use crate::engine::{ConnId, Cx, Hub, Step, Violation};
use crate::proto::dht::node::{Changes, DhtNode, Then, say};
use crate::proto::dht::storage::entries::Entry;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire;
use crate::proto::dht::wire::extension::Extension;

use super::Copy;
use super::holds::Held;

/// Copies of one link that are being committed. More wait in the socket.
const COPIES_AHEAD_MAX: u32 = 1024;

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
    /// A request has to wait until the copies before it on its link are answered.
    pub(crate) fn waits_for_copies(&mut self, cx: &Cx<'_, Self>, request: &Extension) -> bool {
        let is_copy = matches!(request, Extension::Put { .. } | Extension::Delete { .. });
        let most = if is_copy { COPIES_AHEAD_MAX - 1 } else { 0 };
        let committed = self.committing.of(cx.id());
        let Some(committed) = committed.filter(|committed| committed.under_way > most) else {
            return false;
        };
        committed.waits = true;
        true
    }

    /// XHOLD.
    pub(super) fn serve_hold(&mut self, cx: &mut Cx<'_, Self>, held: Held) {
        let is_plausible = cx.peer_v4().ip() == held.owner.ip() && held.owner != self.me().addr;
        // What this node owns, it holds for nobody: the other one was deposed, or one of them is about to hear so.
        let yes = is_plausible
            && self.is_member()
            && !self.routing.owns(held.start)
            && self.holds.told(held);
        wire::put_ack(cx.out(), yes);
    }

    /// Stores a copy, and acknowledges it when that is done.
    pub(super) fn take_copy(
        &mut self,
        cx: &mut Cx<'_, Self>,
        copy: Copy,
        used: usize,
    ) -> Result<Step, Violation> {
        let Copy {
            owner,
            epoch,
            key,
            version,
            value,
        } = copy;
        let version = Version(version);
        let conn = cx.id();
        let fits = value
            .as_ref()
            .is_none_or(|value| self.has_memory_for(cx, key, value));
        // One that has left, or joins, clears what it has.
        let yes = fits
            && self.is_member()
            && !self.routing.owns(key)
            && self.holds.takes(owner, epoch, key);
        if yes && self.config.durable {
            let changes = Changes::One(key, Entry { version, value });
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
            return Ok(Step::Done(used));
        }
        if !yes
            && let Some(committed) = self.committing.of(conn)
            && committed.under_way > 0
        {
            // A `0` before the answers that are still to come would be taken for one of those.
            return Err(Violation::us("a copy is refused behind others"));
        }
        if yes {
            self.apply(key, Entry { version, value });
        }
        wire::put_ack(cx.out(), yes);
        Ok(Step::Done(used))
    }

    /// A copy came back from the worker.
    pub(crate) fn copy_held(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        changes: Changes,
        committed: bool,
    ) {
        if let Changes::One(key, entry) = changes
            && committed
        {
            self.apply(key, entry);
        }
        say(hub, conn, committed);
        if let Some(state) = self.committing.of(conn) {
            state.under_way -= 1;
            if state.under_way < COPIES_AHEAD_MAX / 2 {
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

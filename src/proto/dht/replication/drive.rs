//! The node as an owner: does what [`super::copies`] says, over links.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{ConnId, Hub, Ticks};
use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, Then, Timer, acknowledge, say};
use crate::proto::dht::routing::RangeChange;
use crate::proto::dht::rpc::links::{self, LinkError};
use crate::proto::dht::storage::entries::Entry;
use crate::proto::dht::storage::version::Version;
use crate::proto::dht::wire;
use crate::proto::dht::wire::extension::{Extension, Reply};

use super::LinkTag;
use super::copies::{Client, CopyStep, Write};
use super::sync::Mode;
use super::syncs::SyncOver;

/// How often unfinished copies are looked at.
const COPIES_EVERY: Ticks = Ticks::from_millis(500);

impl DhtNode {
    /// The range of this node changed.
    pub(crate) fn range_changed(&mut self, hub: &mut Hub<Self>, change: RangeChange) {
        if !self.copies.is_on() {
            return;
        }
        let (me, next) = (self.me(), change.after);
        let (was_alone, alone) = (change.before == me, next == me);
        self.heartbeat.next_is(next, alone, was_alone, hub.now());
        self.copies.set_range((me.id, next.id), change.grew);
        if alone {
            self.copies.all_gone();
        } else if was_alone {
            // Whoever is our first next is also before us.
            let entries = &mut self.entries;
            let epoch = entries.next_version().0;
            self.copies.begin((me.id, next.id), epoch);
            let prev = self.routing.prev().unwrap_or(next);
            self.copies.place(&[prev], hub.now(), || epoch);
        }
        self.begin_beats(hub);
        self.drive_copies(hub);
    }

    /// Writes an entry of ours to all that hold it. False: it could not be taken.
    #[must_use]
    pub(crate) fn replicate(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
    ) -> bool {
        let version = version.unwrap_or_else(|| self.entries.next_version());
        let owns_said = !hub.take_back(conn, wire::ACK_BYTES);
        let client = Client { conn, owns_said };
        let begun = self.begin_copies(hub, Some(client), key, version, value);
        if !begun && !owns_said {
            say(hub, conn, true);
        }
        begun
    }

    #[must_use]
    fn begin_copies(
        &mut self,
        hub: &mut Hub<Self>,
        client: Option<Client>,
        key: Id,
        version: Version,
        value: Option<Bytes>,
    ) -> bool {
        let durable = self.config.durable;
        let number = self.copies.last() + 1;
        if durable {
            let changes = Changes::One(
                key,
                Entry {
                    version,
                    value: value.clone(),
                },
            );
            if self.submit(hub, changes, Then::Copied(number)).is_err() {
                return false;
            }
        }
        let write = Write {
            client,
            key,
            version,
            value: value.clone(),
        };
        self.copies.begin_write(write, hub.now(), durable);
        let takers: Vec<SocketAddrV4> = self.copies.takers().collect();
        for to in takers {
            self.send_copy(hub, to, number, key, version, value.clone());
        }
        self.finish_writes(hub);
        self.arm_copies(hub);
        true
    }

    fn arm_copies(&mut self, hub: &mut Hub<Self>) {
        if self.copies.is_unsettled() && !self.copies_armed {
            self.copies_armed = hub.arm(COPIES_EVERY, Timer::Copies).is_some();
        }
    }

    /// Copies may have to be tried again, and writes may have waited long enough.
    pub(crate) fn copies_due(&mut self, hub: &mut Hub<Self>) {
        self.copies_armed = false;
        while let Some(client) = self.copies.take_late(hub.now()) {
            answer(hub, client, false);
        }
        self.drive_copies(hub);
    }

    fn send_copy(
        &mut self,
        hub: &mut Hub<Self>,
        to: SocketAddrV4,
        number: u64,
        key: Id,
        version: Version,
        value: Option<Bytes>,
    ) {
        let (owner, epoch) = (self.me().addr, self.copies.epoch());
        let request = Extension::copy(owner, epoch, key, version.0, value.as_ref());
        links::call(self, hub, to, request, value, LinkTag::Copy(number));
    }

    /// The worker is done with a write.
    pub(crate) fn copy_committed(
        &mut self,
        hub: &mut Hub<Self>,
        number: u64,
        changes: Changes,
        committed: bool,
    ) {
        if !self.copies.is_pending(number) {
            // It was given up when this node was taken for dead; it is on the disk all the same.
            if committed && let Changes::One(key, entry) = changes {
                self.apply(key, entry);
            }
            return;
        }
        self.copies.worker_done(number, committed);
        self.finish_writes(hub);
    }

    /// The answer of a holder.
    pub(crate) fn holder_told(
        &mut self,
        hub: &mut Hub<Self>,
        from: SocketAddrV4,
        tag: LinkTag,
        result: Result<Reply, LinkError>,
    ) {
        let now = hub.now();
        match (tag, result) {
            (LinkTag::Hold, Ok(Reply::Ack(yes))) => {
                if self.copies.held(from, now, yes) {
                    self.send_unacked(hub, from);
                }
            }
            (LinkTag::Copy(number), Ok(Reply::Ack(true))) => {
                self.copies.acked(from, number);
                return self.finish_writes(hub);
            }
            (_, Err(LinkError::Refused)) => return self.member_dead(hub, from),
            (_, Ok(_)) => self.copies.failed(from, now, true),
            (_, Err(LinkError::Plain)) => {
                let entries = &mut self.entries;
                self.copies.leave_out(from, || entries.next_version().0);
            }
            (_, Err(_)) => self.copies.failed(from, now, false),
        }
        self.drive_copies(hub);
    }

    /// What a holder did not acknowledge before its link ended, or before it was one.
    fn send_unacked(&mut self, hub: &mut Hub<Self>, to: SocketAddrV4) {
        let unacked: Vec<(u64, Id, Version, Option<Bytes>)> = self
            .copies
            .unacked(to)
            .map(|(number, write)| (number, write.key, write.version, write.value.clone()))
            .collect();
        for (number, key, version, value) in unacked {
            self.send_copy(hub, to, number, key, version, value);
        }
    }

    /// Who should hold our entries, as far as is known, and what follows.
    pub(crate) fn place_copies(&mut self, hub: &mut Hub<Self>) {
        let before = self.heartbeat.before(self.me());
        let entries = &mut self.entries;
        self.copies
            .place(&before, hub.now(), || entries.next_version().0);
        self.drive_copies(hub);
    }

    /// Does what the copies need, as far as it can be done now.
    pub(crate) fn drive_copies(&mut self, hub: &mut Hub<Self>) {
        if !self.copies.is_on() || !self.is_member() {
            return;
        }
        let entries = &mut self.entries;
        if self
            .copies
            .leave_out_failing(hub.now(), || entries.next_version().0)
        {
            return self.place_copies(hub);
        }
        let owner = self.me().addr;
        let (start, end) = (self.me().id, self.routing.next().id);
        while let Some(step) = self.copies.next_step(hub.now()) {
            let epoch = self.copies.epoch();
            match step {
                CopyStep::Confirm if self.routing.is_alone() => self.copies.confirmed(epoch),
                CopyStep::Confirm => self.beat(hub),
                CopyStep::Hold { to, complete } => {
                    let request = Extension::Hold {
                        owner,
                        epoch,
                        start,
                        end,
                        complete,
                    };
                    links::call(self, hub, to, request, None, LinkTag::Hold);
                }
                CopyStep::Sync { with } => {
                    self.start_sync(hub, with, (start, end), (owner, epoch), Mode::Both);
                }
            }
        }
        self.finish_writes(hub);
        self.arm_copies(hub);
    }

    /// A synchronisation is over: one with a holder, or one for the range of a dead next.
    pub(crate) fn sync_done(&mut self, hub: &mut Hub<Self>, over: SyncOver) {
        let done = over.result.is_ok();
        if self.is_fetching(over.start) {
            return self.fetched(hub, done);
        }
        self.copies.synced(over.peer, hub.now(), done);
        self.drive_copies(hub);
    }

    /// An entry of ours that a holder has newer than this node: the write of a former owner that was not acknowledged, or of
    /// this node before it was taken for dead. It becomes visible when all holders have it, as every write does. False: the
    /// key is not ours.
    pub(crate) fn adopt(
        &mut self,
        hub: &mut Hub<Self>,
        key: Id,
        version: Version,
        value: Option<Bytes>,
    ) -> bool {
        if !self.owns(key) || !self.copies.has_holders() {
            return false;
        }
        self.entries.observe(version);
        if !self.is_older(key, version) {
            // At the worker's limit the next comparison finds it again.
            let _ = self.begin_copies(hub, None, key, version, value);
        }
        true
    }

    /// Writes that all have become visible, and their clients are acknowledged.
    pub(crate) fn finish_writes(&mut self, hub: &mut Hub<Self>) {
        let mut any = false;
        while let Some(finished) = self.copies.take_finished() {
            let write = finished.write;
            any = true;
            if finished.stored {
                let (version, value) = (write.version, write.value);
                self.apply(write.key, Entry { version, value });
            }
            if let Some(client) = write.client {
                answer(hub, client, finished.stored);
            }
        }
        if any {
            self.hand_off_settled(hub);
            self.leave_settled(hub);
        }
    }
}

/// Tells a client what became of its write.
pub(crate) fn answer(hub: &mut Hub<DhtNode>, client: Client, stored: bool) {
    let Client { conn, owns_said } = client;
    if !owns_said {
        say(hub, conn, true);
    }
    acknowledge(hub, conn, stored);
}

//! The entries of a repeated DISCONNECT: its announced next already is our next.
//!
//! The leaver did not get our `1`, or its own next had collapsed to ours, and then nobody has its entries. So those that are
//! absent are stored before the `1`: the ones of our range here, as durable as a write, the others at their owner, by
//! CONTAINS and INSERT. What is there already is newer and stays; so does what a tombstone says was removed. Without
//! tombstones a key that was removed after the first DISCONNECT comes back: the protocol knows no removed keys. When one
//! entry cannot be stored, the answer is `0`.
//!
//! Bounds: [`AT_ONCE_MAX`] entries are on their way to owners, and their values count as memory; no more input is read
//! meanwhile. The deadline of the membership lock is the deadline.

use bytes::Bytes;

use crate::engine::{ConnId, Hub};

use crate::proto::dht::id::Id;
use crate::proto::dht::node::{Changes, DhtNode, LockHolder, Tag, Then};
use crate::proto::dht::rpc::client;
use crate::proto::dht::rpc::operation::{Bounds, Failure, Operation, Outcome, Verb};
use crate::proto::dht::storage::entries::{self, Entry};
use crate::proto::dht::storage::version::Version;
use crate::proto::log_limit::LogLimit;

/// Entries on their way to their owners.
const AT_ONCE_MAX: usize = 16;

/// What became of the entries so far.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    /// Writes from before are back from the worker, so those under way are known by their keys.
    settled: bool,
    under_way: usize,
    stored: u64,
    present: u64,
    failed: u64,
}

/// What a node remembers of repeated DISCONNECTs beyond the one under way.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// The one under way begins when so many writes are back from the worker.
    pub(crate) after: u64,
    logged: LogLimit,
}

impl Repeated {
    pub(crate) fn is_full(&self) -> bool {
        self.under_way >= AT_ONCE_MAX
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.under_way == 0
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed > 0
    }
}

impl DhtNode {
    /// Writes under way are to be known by their keys.
    pub(crate) fn is_repeating(&self) -> bool {
        matches!(&self.lock_holder, LockHolder::Disconnect(disconnect) if disconnect.repeated.is_some())
    }

    /// Begins to read entries once the writes from before are back from the worker.
    pub(crate) fn repeated_settled(&mut self, hub: &mut Hub<Self>) {
        let back = self.written >= self.repeats.after;
        if let LockHolder::Disconnect(disconnect) = &mut self.lock_holder
            && let Some(repeated) = &mut disconnect.repeated
            && !repeated.settled
            && back
        {
            repeated.settled = true;
            hub.resume(disconnect.conn);
        }
    }

    /// An entry of the leaver.
    pub(crate) fn take_repeated(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        version: Option<Version>,
        value: Option<Bytes>,
    ) {
        let ours = self.routing.owns(key);
        let newest = self.newest_version(key);
        // Without a version it is as old as can be.
        let entry = Entry {
            version: version.unwrap_or(Version::ZERO),
            value,
        };
        let is_new = newest.is_none_or(|newest| newest < entry.version);
        match entry.value {
            _ if ours && is_new => self.store_repeated(hub, conn, key, entry),
            Some(value) if !ours => {
                self.count_repeated(|repeated| repeated.under_way += 1);
                self.forwarding_bytes += entries::entry_bytes(&value);
                self.ask_repeated(hub, conn, Verb::Contains, key, value);
            }
            // A removed key of another range: its owner has heard of it, or never had it.
            _ => self.count_repeated(|repeated| repeated.present += 1),
        }
    }

    /// An entry of our range that is not here: it becomes visible when it is as durable as a write.
    fn store_repeated(&mut self, hub: &mut Hub<Self>, conn: ConnId, key: Id, entry: Entry) {
        if !self.config.durable {
            self.apply(key, entry);
            return self.count_repeated(|repeated| repeated.stored += 1);
        }
        let change = Changes::One(key, entry);
        if self.submit(hub, change, Then::Repeated(conn)).is_ok() {
            self.count_repeated(|repeated| repeated.under_way += 1);
        } else {
            self.count_repeated(|repeated| repeated.failed += 1);
        }
    }

    /// One of these came back from the worker.
    pub(crate) fn repeated_written(&mut self, hub: &mut Hub<Self>, conn: ConnId, committed: bool) {
        if self.repeated_of(conn).is_some() {
            self.count_repeated(|repeated| {
                repeated.under_way -= 1;
                repeated.stored += u64::from(committed);
                repeated.failed += u64::from(!committed);
            });
            self.disconnect_goes_on(hub, conn);
        }
    }

    fn count_repeated(&mut self, count: impl FnOnce(&mut Repeated)) {
        if let LockHolder::Disconnect(disconnect) = &mut self.lock_holder
            && let Some(repeated) = &mut disconnect.repeated
        {
            count(repeated);
        }
    }

    fn repeated_of(&mut self, conn: ConnId) -> Option<&mut Repeated> {
        match &mut self.lock_holder {
            LockHolder::Disconnect(disconnect) if disconnect.conn == conn => {
                disconnect.repeated.as_mut()
            }
            _ => None,
        }
    }

    fn ask_repeated(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        verb: Verb,
        key: Id,
        value: Bytes,
    ) {
        let contacts = vec![self.closest(key).addr];
        let bounds = Bounds {
            unknown_is_final: true,
            ..self.bounds()
        };
        let operation = Operation::new(verb, key, contacts, bounds);
        client::start(self, hub, operation, Tag::Repeated(conn, key, value));
    }

    /// What the owner of an entry of another range said.
    pub(crate) fn repeated_told(
        &mut self,
        hub: &mut Hub<Self>,
        conn: ConnId,
        key: Id,
        value: Bytes,
        result: Result<Outcome, Failure>,
    ) {
        let bytes = entries::entry_bytes(&value);
        let Some(repeated) = self.repeated_of(conn) else {
            // The leaver is gone.
            self.forwarding_bytes -= bytes;
            return;
        };
        match result {
            Ok(Outcome::Contains(false)) => {
                let verb = Verb::Insert(value.clone());
                return self.ask_repeated(hub, conn, verb, key, value);
            }
            Ok(Outcome::Contains(true)) => repeated.present += 1,
            Ok(_) => repeated.stored += 1,
            Err(failure) => {
                log::debug!("{key:?} of a repeated DISCONNECT is not stored: {failure}");
                repeated.failed += 1;
            }
        }
        repeated.under_way -= 1;
        self.forwarding_bytes -= bytes;
        self.disconnect_goes_on(hub, conn);
    }

    /// Says what became of the entries.
    pub(crate) fn log_repeated(&mut self, hub: &Hub<Self>) {
        if let LockHolder::Disconnect(disconnect) = &self.lock_holder
            && let Some(Repeated {
                stored,
                present,
                failed,
                ..
            }) = &disconnect.repeated
            && stored + failed > 0
        {
            self.repeats.logged.warn(
                hub.now(),
                format_args!(
                    "a DISCONNECT was repeated, or its leaver had a wrong next: {stored} entries were absent and are \
                     stored, {present} were there, {failed} could not be stored"
                ),
            );
        }
    }
}

//! The copies of this node's own entries: who holds them, and which writes they have.
//!
//! ```text
//!            ┌─ XPUT ─▶ holder ─ack─┐
//!  write ────┼─ XPUT ─▶ holder ─ack─┼──▶ all have it, in the order of the writes ──▶ visible, acknowledged
//!            └─ worker: committed ──┘
//! ```
//! A holder is one of the R - 1 nearest members before this one that know our extensions. The first of them is the *heir*: it
//! takes this node's range when this node dies, and then has the entries.
//!
//! Every holder has its writes over one link, in order, and acknowledges them in order; so does the worker. So what a holder has is
//! one number, and the writes that all have are a prefix of the queue.
//!
//! A holder that is added has to take the writes that are under way as well, from then on all others, and what was before by a
//! synchronisation of the range: then it is complete. A holder is left out only with a new epoch that the heir has confirmed:
//! the heir must not take old copies for complete ones. Until it has confirmed, no write is acknowledged.
//!
//! What it does not do: send anything. Its caller does what [`Copies::next_step`] says.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::engine::{ConnId, Tick, Ticks};
use crate::proto::dht::id::Id;
use crate::proto::dht::routing::Member;
use crate::proto::dht::storage::entries;
use crate::proto::dht::storage::version::Version;

/// A holder that fails for this long is left out.
const FAILS_FOR: Ticks = Ticks::from_secs(4);

/// One that was left out is not asked again for this long.
const AVOIDED_FOR: Ticks = Ticks::from_secs(2);

/// A write that its holders do not have after this time is answered `0`: its outcome is unknown.
const WRITE_WITHIN: Ticks = Ticks::from_secs(8);

/// Members that were left out lately.
const AVOIDED_MAX: usize = 16;

/// The pause before a holder is asked again that could not be reached.
const AGAIN_AFTER: Ticks = Ticks::from_millis(500);

/// A write under way.
#[derive(Debug)]
pub struct Write {
    /// Who waits for it.
    pub client: Option<Client>,
    pub key: Id,
    pub version: Version,
    pub value: Option<Bytes>,
}

/// The connection of a client that waits for the outcome of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub conn: ConnId,
    /// The `1` that says whose key it is was sent already.
    pub owns_said: bool,
}

impl Write {
    fn bytes(&self) -> u64 {
        self.value.as_ref().map_or(0, entries::entry_bytes)
    }
}

#[derive(Debug)]
struct Pending {
    write: Write,
    begun: Tick,
    /// The worker could not commit it.
    failed: bool,
}

/// The range that a holder was told, and whether it is complete in it.
type Told = (u64, Id, Id, bool);

#[derive(Debug)]
struct Holder {
    member: Member,
    /// It has all writes up to this one.
    has: u64,
    /// What XHOLD said last and was acknowledged.
    told: Option<Told>,
    /// An XHOLD is under way.
    telling: Option<Told>,
    /// It has everything that was acknowledged before it became a holder.
    complete: bool,
    /// A synchronisation goes on; the number of the range that it is for.
    syncing: Option<u64>,
    /// It could not be reached, or refused, since then.
    failing: Option<Tick>,
    /// Not to be asked before.
    rests_until: Tick,
    /// It is complete, and to be compared all the same.
    recheck: bool,
    /// It is to be told again, as it may have been started anew.
    renew: bool,
}

impl Holder {
    /// It takes writes: XHOLD was acknowledged for the range as it is.
    fn is_held(&self, epoch: u64, range: (Id, Id)) -> bool {
        self.told
            .is_some_and(|(e, start, end, _)| (e, (start, end)) == (epoch, range))
    }
}

/// What the caller is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum CopyStep {
    /// Tell this holder by XHOLD; [`Copies::held`] takes the answer.
    Hold { to: SocketAddrV4, complete: bool },
    /// Synchronise the range with it; [`Copies::synced`] takes the end.
    Sync { with: SocketAddrV4 },
    /// Send the heir a heartbeat with the new epoch.
    Confirm,
}

/// A write that is over.
#[derive(Debug)]
pub struct Finished {
    pub write: Write,
    /// It is where it has to be; else it could not be committed here.
    pub stored: bool,
}

#[derive(Debug)]
pub struct Copies {
    /// R - 1.
    wanted: usize,
    range: (Id, Id),
    /// Changes of the range ever: a synchronisation of an earlier one completes nobody.
    range_number: u64,
    epoch: u64,
    /// The heir knows this epoch.
    confirmed: u64,
    /// A heartbeat with the epoch is to be sent.
    confirm: bool,
    holders: Vec<Holder>,
    avoided: VecDeque<(SocketAddrV4, Tick)>,
    pending: VecDeque<Pending>,
    /// The number of the last write ever; that of the front of `pending` follows from it.
    last: u64,
    /// The worker has all writes up to this one.
    committed: u64,
    pending_bytes: u64,
}

impl Copies {
    /// For `replicas` copies in all, the node's own one included.
    pub fn new(replicas: u8, me: Id) -> Copies {
        Copies {
            wanted: usize::from(replicas.saturating_sub(1)),
            range: (me, me),
            range_number: 0,
            epoch: 0,
            confirmed: 0,
            confirm: false,
            holders: Vec::new(),
            avoided: VecDeque::new(),
            pending: VecDeque::new(),
            last: 0,
            committed: 0,
            pending_bytes: 0,
        }
    }

    /// Copies are kept at all.
    pub fn is_on(&self) -> bool {
        self.wanted > 0
    }

    /// Somebody holds copies, a write waits, or will have to: writes go through here.
    #[inline]
    pub fn has_holders(&self) -> bool {
        !self.holders.is_empty() || !self.pending.is_empty() || self.confirmed < self.epoch
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The holders, with whether each has everything.
    pub fn holders(&self) -> impl Iterator<Item = (SocketAddrV4, bool)> + '_ {
        self.holders.iter().map(|h| (h.member.addr, h.complete))
    }

    /// The node is a member now, or a member anew: nobody holds anything for it. `epoch`: later than all before.
    pub fn begin(&mut self, range: (Id, Id), epoch: u64) {
        self.holders.clear();
        self.avoided.clear();
        self.range = range;
        self.range_number += 1;
        (self.epoch, self.confirmed, self.confirm) = (epoch, epoch, true);
    }

    /// The node is alone: nobody can hold anything, and no heir is there.
    pub fn all_gone(&mut self) {
        self.holders.clear();
        self.confirmed = self.epoch;
    }

    /// The range changed. When it grew, nobody has all of it.
    pub fn set_range(&mut self, range: (Id, Id), grew: bool) {
        self.range = range;
        self.range_number += u64::from(grew);
        if grew {
            for holder in &mut self.holders {
                holder.complete = false;
            }
        }
    }

    /// The members before this one, nearest first, without itself: the first of them are to be holders. Others are left
    /// out once all of these are complete. `epoch`: what a new epoch would be.
    pub fn place(&mut self, before: &[Member], now: Tick, epoch: impl FnOnce() -> u64) {
        self.avoided.retain(|(_, until)| now < *until);
        let is_avoided =
            |member: &&Member| !self.avoided.iter().any(|(addr, _)| *addr == member.addr);
        let nearest = before.iter().filter(is_avoided).take(self.wanted);
        let nearest: Vec<Member> = nearest.copied().collect();
        let front = self.first_pending();
        for member in &nearest {
            if self.holders.iter().all(|h| h.member != *member) {
                self.holders.push(Holder {
                    member: *member,
                    has: front - 1,
                    told: None,
                    telling: None,
                    complete: false,
                    syncing: None,
                    failing: None,
                    rests_until: now,
                    recheck: false,
                    renew: false,
                });
            }
        }
        let is_near = |h: &Holder| nearest.contains(&h.member);
        let all_complete = self
            .holders
            .iter()
            .filter(|h| is_near(h))
            .all(|h| h.complete);
        if all_complete && !nearest.is_empty() && !self.holders.iter().all(is_near) {
            self.holders.retain(is_near);
            self.set_epoch(epoch());
        }
    }

    /// A member is dead: it holds nothing any more.
    pub fn leave_out(&mut self, addr: SocketAddrV4, epoch: impl FnOnce() -> u64) {
        let before = self.holders.len();
        self.holders.retain(|h| h.member.addr != addr);
        if self.holders.len() < before {
            self.set_epoch(epoch());
        }
    }

    /// Leaves out a holder that fails for too long. True: another one is to take its place.
    #[must_use]
    pub fn leave_out_failing(&mut self, now: Tick, epoch: impl FnOnce() -> u64) -> bool {
        let is_late = |h: &Holder| h.failing.is_some_and(|since| now >= since + FAILS_FOR);
        let Some(late) = self.holders.iter().find(|h| is_late(h)) else {
            return false;
        };
        let addr = late.member.addr;
        log::info!("{addr} holds no copies of ours any more: it does not take them");
        if self.avoided.len() == AVOIDED_MAX {
            self.avoided.pop_front();
        }
        self.avoided.push_back((addr, now + AVOIDED_FOR));
        self.leave_out(addr, epoch);
        true
    }

    fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.confirm = true;
    }

    /// The heir has granted a heartbeat with this epoch, or there is no heir that could inherit.
    pub fn confirmed(&mut self, epoch: u64) {
        self.confirmed = self.confirmed.max(epoch);
    }

    /// Another heir: it has to be told.
    pub fn new_heir(&mut self) {
        self.confirm = true;
    }

    /// Begins a write. The caller gives it to the worker of a durable node, and calls [`Copies::next_step`].
    pub fn begin_write(&mut self, write: Write, now: Tick, durable: bool) -> u64 {
        self.last += 1;
        if !durable {
            self.committed = self.last;
        }
        self.pending_bytes += write.bytes();
        self.pending.push_back(Pending {
            write,
            begun: now,
            failed: false,
        });
        self.last
    }

    /// The worker is done with this write.
    pub fn worker_done(&mut self, number: u64, committed: bool) {
        self.committed = self.committed.max(number);
        let first = self.first_pending();
        if !committed
            && let Some(at) = number.checked_sub(first)
            && let Some(pending) = self
                .pending
                .get_mut(usize::try_from(at).unwrap_or(usize::MAX))
        {
            pending.failed = true;
        }
    }

    /// A holder acknowledged this write.
    pub fn acked(&mut self, from: SocketAddrV4, number: u64) {
        if let Some(holder) = self.holder(from) {
            holder.has = holder.has.max(number);
            holder.failing = None;
        }
    }

    /// A holder refused a write, or its link ended with calls under way: it is told again what it holds, and what it has not
    /// acknowledged is sent again. `refused`: what it has may be old.
    pub fn failed(&mut self, from: SocketAddrV4, now: Tick, refused: bool) {
        if let Some(holder) = self.holder(from) {
            holder.failing.get_or_insert(now);
            holder.told = None;
            holder.telling = None;
            holder.complete &= !refused;
            holder.rests_until = now + AGAIN_AFTER;
        }
    }

    /// The answer to XHOLD. True: what [`Copies::unacked`] lists is to be sent to it now.
    #[must_use]
    pub fn held(&mut self, from: SocketAddrV4, now: Tick, yes: bool) -> bool {
        if !yes {
            self.failed(from, now, true);
            return false;
        }
        let Some(holder) = self.holder(from) else {
            return false;
        };
        let was_held = holder.told.is_some();
        if let Some(told) = holder.telling.take() {
            holder.told = Some(told);
        }
        !was_held && holder.told.is_some()
    }

    /// A synchronisation with a holder is over.
    pub fn synced(&mut self, with: SocketAddrV4, now: Tick, done: bool) {
        let number = self.range_number;
        if let Some(holder) = self.holder(with) {
            let was_for = holder.syncing.take();
            if done {
                holder.complete |= was_for == Some(number) && holder.told.is_some();
                holder.failing = None;
            } else {
                holder.failing.get_or_insert(now);
                holder.rests_until = now + AGAIN_AFTER;
            }
        }
    }

    /// All complete holders are compared with this node.
    pub fn recheck(&mut self) {
        for holder in &mut self.holders {
            holder.recheck = true;
        }
    }

    /// A holder may have been started anew: it is asked whether it still holds what it did. `None`: all are asked.
    pub fn renew(&mut self, addr: Option<SocketAddrV4>) {
        for holder in &mut self.holders {
            holder.renew |= addr.is_none_or(|addr| addr == holder.member.addr);
        }
    }

    /// Something is under way, or waits.
    pub fn is_unsettled(&self) -> bool {
        let is_unsettled = |h: &Holder| !h.complete || !h.is_held(self.epoch, self.range);
        !self.pending.is_empty() || self.holders.iter().any(is_unsettled)
    }

    fn holder(&mut self, addr: SocketAddrV4) -> Option<&mut Holder> {
        self.holders.iter_mut().find(|h| h.member.addr == addr)
    }

    /// The number of the oldest write under way, or of the next one.
    fn first_pending(&self) -> u64 {
        self.last + 1 - self.pending.len() as u64
    }

    /// What to do now; each call gives one thing, until there is none.
    pub fn next_step(&mut self, now: Tick) -> Option<CopyStep> {
        if std::mem::take(&mut self.confirm) {
            return Some(CopyStep::Confirm);
        }
        let (epoch, (start, end), number) = (self.epoch, self.range, self.range_number);
        for holder in &mut self.holders {
            let to = holder.member.addr;
            if now < holder.rests_until || holder.telling.is_some() {
                continue;
            }
            let want = (epoch, start, end, holder.complete);
            if holder.told != Some(want) || holder.renew {
                holder.renew = false;
                let was_held = holder.is_held(epoch, (start, end));
                holder.telling = Some(want);
                if !was_held {
                    // What it did not acknowledge is sent once it is told.
                    holder.told = None;
                }
                return Some(CopyStep::Hold {
                    to,
                    complete: want.3,
                });
            }
            if (!holder.complete || holder.recheck) && holder.syncing.is_none() {
                holder.syncing = Some(number);
                holder.recheck = false;
                return Some(CopyStep::Sync { with: to });
            }
        }
        None
    }

    /// Who is to be sent a write at once, as it is told and up to date.
    pub fn takers(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        let held = |h: &&Holder| h.told.is_some() && h.is_held(self.epoch, self.range);
        self.holders.iter().filter(held).map(|h| h.member.addr)
    }

    /// Writes that a holder has not acknowledged, with their numbers: to be sent again after XHOLD.
    pub fn unacked(&self, by: SocketAddrV4) -> impl Iterator<Item = (u64, &Write)> + '_ {
        let has = self.holders.iter().find(|h| h.member.addr == by);
        let has = has.map_or(u64::MAX, |h| h.has);
        let first = self.first_pending();
        let numbered = self.pending.iter().zip(first..);
        numbered
            .filter(move |(_, number)| *number > has)
            .map(|(pending, number)| (number, &pending.write))
    }

    /// Bytes of values under way.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// The last write ever: a hand-off waits until it is done.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// This write waits for its holders, or for the worker.
    pub fn is_pending(&self, number: u64) -> bool {
        number >= self.first_pending() && number <= self.last
    }

    /// Every write up to this one is over.
    pub fn is_done(&self, number: u64) -> bool {
        self.first_pending() > number
    }

    /// The oldest write under way, if all have it.
    pub fn take_finished(&mut self) -> Option<Finished> {
        let first = self.first_pending();
        let has_all = |h: &Holder| h.has >= first;
        let ready = self.committed >= first
            && self.confirmed >= self.epoch
            && self.holders.iter().all(has_all);
        if self.pending.is_empty() || !ready {
            return None;
        }
        let Pending { write, failed, .. } = self.pending.pop_front()?;
        self.pending_bytes -= write.bytes();
        Some(Finished {
            write,
            stored: !failed,
        })
    }

    /// The client of the oldest write that waits too long, each once.
    pub fn take_late(&mut self, now: Tick) -> Option<Client> {
        let late = self
            .pending
            .iter_mut()
            .take_while(|p| now >= p.begun + WRITE_WITHIN);
        late.filter_map(|p| p.write.client.take()).next()
    }

    /// All writes under way, when the node is no member any more: their outcome is unknown. Each with whether the worker has
    /// committed it.
    pub fn abandon(&mut self) -> Vec<(Write, bool)> {
        let first = self.first_pending();
        let committed = self.committed;
        self.holders.clear();
        self.committed = self.last;
        self.pending_bytes = 0;
        let numbered = self.pending.drain(..).zip(first..);
        numbered
            .map(|(p, number)| (p.write, number <= committed && !p.failed))
            .collect()
    }
}

#[cfg(test)]
mod tests;

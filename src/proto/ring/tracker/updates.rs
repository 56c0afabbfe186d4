//! UPDATE_NBR: to whoever's neighbour changed, until it is taken.

use crate::engine::{ConnId, Cx, End, Hub, Ticks};

use super::super::members::Member;
use super::super::node::{RingNode, Timer};
use super::super::wire::Request;
use super::{Tracker, Update, What};

/// How long a peer has to close the connection of an UPDATE_NBR, dialling included.
const UPDATE_WITHIN: Ticks = Ticks::from_secs(5);

/// Until an UPDATE_NBR of which nobody knows whether it was taken is sent again; doubles up to the interval of the
/// pings for a peer that never closes the connection after one.
const UPDATE_AGAIN: Ticks = Ticks::from_secs(1);

impl Tracker {
    /// The neighbour of whoever stands after this place may be another one.
    pub(super) fn settle_after(&mut self, hub: &mut Hub<RingNode>, number: u64) {
        if let Some(after) = self.members.after(number) {
            self.settle(hub, after);
        }
    }

    /// Sees to it that the member gets to know its neighbour, if it does not.
    pub(super) fn settle(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let Member {
            number, contact, ..
        } = &self.members[slot];
        let knows = contact.told.is_some() && contact.told == self.before(*number);
        if knows || contact.update != Update::Idle || !self.members.is_in_ring(slot) {
            return;
        }
        self.send_update(hub, slot);
    }

    /// The member answered a ping: what it was told of its neighbour since the one before, it is told once more, since
    /// it may have closed that connection without reading.
    pub(super) fn confirm(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let contact = &mut self.members[slot].contact;
        if contact.confirm && contact.update == Update::Idle {
            contact.confirm = false;
            self.send_update(hub, slot);
        }
    }

    fn send_update(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let conn = self.dial(hub, slot, What::Update);
        self.members[slot].contact.update = Update::Sending(conn, None);
        self.arm_update(hub, slot, UPDATE_WITHIN);
    }

    pub(super) fn update_reached(&mut self, cx: &mut Cx<'_, RingNode>, slot: u32) {
        let id = cx.id();
        let member = &self.members[slot];
        let (true, Some(nbr), Some(before)) = (
            member.contact.update == Update::Sending(id, None),
            self.neighbour(member.number),
            self.before(member.number),
        ) else {
            return cx.close();
        };
        Request::UpdateNbr(nbr).put(member.encoding, cx.out());
        self.counts.updates += 1;
        self.members[slot].contact.update = Update::Sending(id, Some(before));
    }

    pub(super) fn update_ended(
        &mut self,
        hub: &mut Hub<RingNode>,
        slot: u32,
        id: ConnId,
        end: End,
    ) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        let contact = &mut member.contact;
        let Update::Sending(conn, written) = contact.update else {
            return;
        };
        if conn != id {
            return;
        }
        match (end, written) {
            (End::Eof, Some(before)) => {
                contact.unconfirmed = 0;
                self.taken(hub, slot, before);
            }
            _ => {
                contact.unsettled |= written.is_some();
                self.update_again(hub, slot);
                // Who cannot be reached may be dead.
                if matches!(end, End::Unreachable(_)) {
                    self.ping(hub, slot);
                }
            }
        }
    }

    fn taken(&mut self, hub: &mut Hub<RingNode>, slot: u32, before: u64) {
        let contact = &mut self.members[slot].contact;
        if std::mem::take(&mut contact.unsettled) {
            contact.told = None;
            self.update_again(hub, slot);
        } else {
            // The same twice is certain enough.
            contact.confirm = contact.told != Some(before);
            contact.told = Some(before);
            contact.update = Update::Idle;
            if let Some(timer) = contact.update_timer.take() {
                hub.cancel(timer);
            }
            self.settle(hub, slot);
        }
    }

    fn update_again(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let contact = &mut self.members[slot].contact;
        contact.told = None;
        contact.update = Update::Again;
        let pause = Ticks(UPDATE_AGAIN.0 << contact.unconfirmed.min(8));
        let pause_max = self.config.ping_interval.max(UPDATE_AGAIN);
        self.arm_update(hub, slot, pause.min(pause_max));
    }

    pub(super) fn arm_update(&mut self, hub: &mut Hub<RingNode>, slot: u32, after: Ticks) {
        let contact = &mut self.members[slot].contact;
        if let Some(old) = contact.update_timer.take() {
            hub.cancel(old);
        }
        contact.update_timer = hub.arm(after, Timer::Update(slot));
    }

    pub(super) fn update_fired(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        let contact = &mut member.contact;
        contact.update_timer = None;
        match contact.update {
            Update::Sending(conn, written) => {
                contact.update = Update::Again;
                hub.close_conn(conn);
                contact.unconfirmed = contact.unconfirmed.saturating_add(1);
                contact.unsettled |= written.is_some();
                self.update_again(hub, slot);
            }
            Update::Registering(_) | Update::Again => {
                contact.update = Update::Idle;
                self.settle(hub, slot);
            }
            Update::Idle => {}
        }
    }
}

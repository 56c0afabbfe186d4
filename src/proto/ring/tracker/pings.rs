//! Who is there: everybody is pinged in turn, and who does not answer in time is removed.

use crate::engine::{ConnId, Cx, End, Hub, Input, Step, Tick, Ticks, Violation};

use super::super::node::{RingNode, Timer};
use super::super::rounds::TURNS_AT_ONCE_MAX;
use super::super::wire::Reply;
use super::{Call, Ping, Tracker, What};

/// Until a ping that was refused or cut off is tried again: five times before a peer is given up.
const PING_AGAIN: Ticks = Ticks::from_secs(1);

impl Tracker {
    pub(super) fn round(&mut self, hub: &mut Hub<RingNode>) {
        let now = hub.now();
        self.rounds.earn(now, self.members.len());
        for _ in 0..TURNS_AT_ONCE_MAX {
            let members = &self.members;
            let is_there = |slot, number| members.get(slot).is_some_and(|m| m.number == number);
            let Some(turn) = self
                .rounds
                .next(now, |turn| is_there(turn.slot, turn.number))
            else {
                break;
            };
            self.rounds.push(now, turn.slot, turn.number);
            self.ping(hub, turn.slot);
        }
        self.plan_round(hub);
    }

    pub(super) fn plan_round(&mut self, hub: &mut Hub<RingNode>) {
        let Some(at) = self.rounds.next_at(hub.now(), self.members.len()) else {
            return;
        };
        match self.round_timer {
            Some((_, armed)) if armed <= at => return,
            Some((timer, _)) => hub.cancel(timer),
            None => {}
        }
        let timer = hub.arm(at.since(hub.now()), Timer::Round);
        self.round_timer = timer.map(|timer| (timer, at));
    }

    pub(super) fn ping(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        if self.members[slot].contact.ping == Ping::Idle {
            let until = hub.now() + self.config.ping_timeout;
            self.ping_until(hub, slot, until);
        }
    }

    fn ping_until(&mut self, hub: &mut Hub<RingNode>, slot: u32, until: Tick) {
        let conn = self.dial(hub, slot, What::Ping);
        self.members[slot].contact.ping = Ping::Asked { conn, until };
        self.arm_ping(hub, slot, until);
    }

    fn arm_ping(&mut self, hub: &mut Hub<RingNode>, slot: u32, at: Tick) {
        let contact = &mut self.members[slot].contact;
        if let Some(old) = contact.ping_timer.take() {
            hub.cancel(old);
        }
        contact.ping_timer = hub.arm(at.since(hub.now()), Timer::Ping(slot));
    }

    pub(in crate::proto::ring) fn answered(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        call: &mut Call,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        if call.what == What::Update {
            // Nothing is asked; whatever it says, it is there until it closes.
            return Ok(Step::Done(input.bytes.len()));
        }
        let Some(packet) = call.reader.read(input)? else {
            return Ok(Step::More);
        };
        let used = packet.used;
        let Reply::Ping { handle } = packet.reply()? else {
            return Err(Violation::peer("no answer to a PING"));
        };
        let (slot, id) = (call.slot, cx.id());
        let member = self.members.get_mut(slot);
        let is_asked = |ping| matches!(ping, Ping::Asked { conn, .. } if conn == id);
        let Some(member) = member.filter(|m| is_asked(m.contact.ping)) else {
            return Ok(Step::Done(used));
        };
        if *handle == *member.handle {
            member.contact.ping = Ping::Idle;
            if let Some(timer) = member.contact.ping_timer.take() {
                cx.cancel(timer);
            }
            cx.close();
            self.alive(cx, slot);
            self.confirm(cx, slot);
        } else {
            self.remove(cx, slot, "somebody else answers there");
        }
        Ok(Step::Done(used))
    }

    pub(super) fn ping_ended(&mut self, hub: &mut Hub<RingNode>, slot: u32, id: ConnId, end: End) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        let Ping::Asked { conn, until } = member.contact.ping else {
            return;
        };
        if conn != id {
            return;
        }
        let again = hub.now() + PING_AGAIN;
        // What our own limits keep from being asked is not the peer's fault.
        let until = if matches!(end, End::Limit(_)) {
            until + PING_AGAIN
        } else {
            until
        };
        member.contact.ping = Ping::Again { until };
        self.arm_ping(hub, slot, again.min(until));
    }

    pub(super) fn ping_fired(&mut self, hub: &mut Hub<RingNode>, slot: u32) {
        let now = hub.now();
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        member.contact.ping_timer = None;
        match member.contact.ping {
            Ping::Again { until } if now < until => self.ping_until(hub, slot, until),
            Ping::Again { .. } | Ping::Asked { .. } => self.remove(hub, slot, "no answer"),
            Ping::Idle => {}
        }
    }
}

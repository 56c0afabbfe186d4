//! The invariants of the module, as assertions over the whole state.

use super::conn::{ConnId, Connection, Phase, Timeout};
use super::hub::Hub;
use super::peers::Peer;
use super::{Service, Ticks};

const ONE: Ticks = Ticks(1);

impl<S: Service> Hub<S> {
    /// Asserts the invariants of the module docs. O(connections).
    pub(super) fn validate(&self) {
        self.wheel.validate();
        let listed = |list: &mut dyn Iterator<Item = &ConnId>, slot: usize| {
            list.filter(|id| self.conn(**id).is_some() && id.slot() == slot)
                .count()
        };
        for (slot, conn) in &self.conns {
            assert_eq!(
                listed(&mut self.ready.iter(), slot),
                usize::from(conn.on_ready_list)
            );
            assert_eq!(
                listed(&mut self.dirty.iter(), slot),
                usize::from(conn.on_dirty_list)
            );
            assert!(!conn.paused || conn.output.len() > self.limits.output_bytes_low);
            assert!(conn.stash.as_ref().is_none_or(|stash| stash.len() > 0));
            let armed = conn.timer.and_then(|timer| self.wheel.deadline(timer));
            match conn.deadline(&self.limits) {
                Some(deadline) => {
                    assert!(armed.is_some_and(|at| at <= deadline.max(self.now + ONE)))
                }
                None => {
                    let for_ever =
                        conn.timeout == Timeout::Idle && self.limits.idle == Ticks::NEVER;
                    assert!(for_ever || conn.timeout == Timeout::None);
                }
            }
        }
        let v6 = |conn: &&Connection| matches!(conn.peer, Peer::V6(_));
        let conns = self.conns.iter().map(|(_, conn)| conn);
        assert_eq!(conns.filter(v6).count(), self.peers.v6());
        let counted = self
            .conns
            .iter()
            .map(|(_, conn)| conn.output.counted_bytes());
        assert_eq!(counted.sum::<usize>(), self.queues.owned_bytes());
        let dialling = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.phase == Phase::Dialling)
            .count();
        assert_eq!(dialling, self.dials_under_way);
    }
}

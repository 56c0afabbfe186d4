//! The invariants of the module, as assertions over the whole state.

use super::conn::{ConnId, Phase, Port, Watch};
use super::hub::Hub;
use super::peers::Peer;
use super::{Service, Ticks};

const ONE: Ticks = Ticks(1);

impl<S: Service> Hub<S> {
    /// Asserts the invariants of the module docs. O(connections).
    pub(super) fn validate(&self) {
        self.wheel.validate();
        let listed = |list: &mut dyn Iterator<Item = &ConnId>, slot: usize| {
            list.filter(|id| self.port(**id).is_some() && id.slot() == slot)
                .count()
        };
        for (slot, port) in &self.ports {
            assert_eq!(
                listed(&mut self.ready.iter(), slot),
                usize::from(port.on_ready_list)
            );
            assert_eq!(
                listed(&mut self.dirty.iter(), slot),
                usize::from(port.on_dirty_list)
            );
            assert!(!port.paused || port.output.len() > self.limits.output_bytes_low);
            assert!(port.stash.as_ref().is_none_or(|stash| stash.len() > 0));
            let armed = port.alarm.and_then(|alarm| self.wheel.deadline(alarm));
            match port.deadline(&self.limits) {
                Some(deadline) => {
                    assert!(armed.is_some_and(|at| at <= deadline.max(self.now + ONE)))
                }
                None => {
                    let for_ever = port.watch == Watch::Idle && self.limits.idle == Ticks::NEVER;
                    assert!(for_ever || port.watch == Watch::None);
                }
            }
        }
        let v6 = |port: &&Port| matches!(port.peer, Peer::V6(_));
        let ports = self.ports.iter().map(|(_, port)| port);
        assert_eq!(ports.filter(v6).count(), self.peers.v6());
        let dialling = self
            .ports
            .iter()
            .filter(|(_, port)| port.phase == Phase::Dialling)
            .count();
        assert_eq!(dialling, self.dials_under_way);
    }
}

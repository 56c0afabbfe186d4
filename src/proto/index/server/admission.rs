//! Admission: whether an operation is begun, by the limits of the server, quotas and lock-outs.

use std::net::{IpAddr, Ipv6Addr};

use crate::engine::Tick;
use crate::proto::index::fields::PeerId;

use super::IndexServer;
use super::operation::{Action, BUSY, Ko, later};

/// Whether registrations from an address are counted. Those from this machine are not: a proxy or many users may be
/// behind them.
pub(super) fn is_counted(ip: IpAddr) -> bool {
    !ip.is_loopback()
}

/// The key of an address's quota: itself for IPv4; for IPv6 its network of 64 bits, all of whose addresses one customer has.
pub(super) fn counted_as(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl IndexServer {
    /// Whether the limits of the server allow an operation beside those under way.
    pub(super) fn check_limits(&self, action: &Action, user: &str) -> Result<(), Ko> {
        let Some(list) = action.list() else {
            return Ok(());
        };
        let new =
            matches!(action, Action::Register { .. }) && self.registry.slot_of_user(user).is_none();
        let peers = self.registry.len() + self.pending.registrations;
        if new && peers >= self.config.peers_max {
            return Err(Ko::Text("the server is full"));
        }
        self.check_length(action)?;
        // Files that are being indexed count twice: near the limit, refusing early is better than late.
        let files = self.catalog.len() + self.pending.files;
        if files.saturating_add(list.count) > self.config.files_max {
            return Err(Ko::Text("the server is full"));
        }
        if self.pending.bytes + list.lines.len() > self.config.pending_bytes_max {
            return Err(later("too many lists are under way", BUSY));
        }
        Ok(())
    }

    /// Whether the registration would keep to the limit of files of one.
    pub(super) fn check_length(&self, action: &Action) -> Result<(), Ko> {
        let has = match action {
            Action::Add { id, .. } => {
                let slot = self.registry.slot_of(*id);
                let holder = slot.and_then(|slot| self.registry.get(slot));
                holder.map_or(0, |found| self.catalog.count(found.holder))
            }
            _ => 0,
        };
        let count = action.list().map_or(0, |list| list.count);
        if has + count > self.config.files_per_peer_max {
            return Err(Ko::TooMany(self.config.files_per_peer_max));
        }
        Ok(())
    }

    pub(super) fn check_quota(&mut self, now: Tick, source: IpAddr) -> Result<(), Ko> {
        match self.quota.used_up(now, counted_as(source)) {
            Some(after) if is_counted(source) => {
                Err(later("too many registrations from your address", after))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_lock(&mut self, now: Tick, id: PeerId) -> Result<(), Ko> {
        let Some(left) = self.lockout.locked(now, id) else {
            return Ok(());
        };
        self.counts.locked_out += 1;
        Err(later("locked after too many wrong passwords", left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_as_one() {
        let counted = |ip: &str| counted_as(ip.parse().expect("an address"));
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::ffff:0:2"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
    }
}

//! What a peer knows of others: its table, and the peers that declined it.

use std::net::SocketAddrV4;

use super::config::Config;
use super::table::{RecentAddrs, Table};

/// Peers that declined us and are remembered, whatever the size of the table: each candidate is compared with all.
const DECLINED_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Neighbourhood {
    /// The peer's number in the overlay.
    pub(super) number: u32,
    pub(super) config: Config,
    pub(super) table: Table,
    pub(super) declined: RecentAddrs,
}

impl Neighbourhood {
    pub(super) fn new(number: u32, config: Config) -> Neighbourhood {
        let declined_max = config.table_max.saturating_mul(2).min(DECLINED_MAX);
        Neighbourhood {
            number,
            table: Table::new(config.table_max),
            declined: RecentAddrs::new(declined_max),
            config,
        }
    }

    /// Whether `addr` is neither ourselves nor a peer of which we know already what it would say. A peer that the user named
    /// is asked whatever is known of it.
    pub(super) fn is_wanted(&self, addr: SocketAddrV4, named: bool) -> bool {
        let known = self.table.get(addr).is_some() || self.declined.contains(addr);
        !self.config.is_own(addr) && (named || !known)
    }
}

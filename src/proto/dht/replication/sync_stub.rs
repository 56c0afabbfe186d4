//! Stand-in until the real one is merged.
use super::*;
use crate::proto::dht::storage::version::Version;

impl DhtNode {
    pub(crate) fn sync_holder(&mut self, hub: &mut Hub<Self>, with: SocketAddrV4, start: Id, end: Id) {
        let owner = self.me().addr;
        let epoch = self.copies.epoch();
        let all: Vec<_> = self.entries.arc_with_tombstones(start, end).map(|(k, e)| (k, e.version, e.value.clone())).collect();
        self.sync_left.retain(|s| s.0 != with);
        self.sync_left.push((with, all.len() + 1, false));
        for (key, Version(version), value) in all {
            let r = match &value {
                Some(v) => Extension::Put { owner, epoch, key, version, length: v.len() as u64 },
                None => Extension::Delete { owner, epoch, key, version },
            };
            super::super::rpc::links::call(self, hub, with, r, value, LinkTag::Sync);
        }
        let r = Extension::Fetch { key: start };
        super::super::rpc::links::call(self, hub, with, r, None, LinkTag::Sync);
    }
    pub(crate) fn fetch_range(&mut self, hub: &mut Hub<Self>, _at: SocketAddrV4, _start: Id, _end: Id) {
        self.fetched(hub, true);
    }
    pub(crate) fn sync_told(&mut self, hub: &mut Hub<Self>, from: SocketAddrV4, result: Result<Reply, LinkError>) {
        let Some(s) = self.sync_left.iter_mut().find(|s| s.0 == from) else { return };
        s.1 -= 1;
        s.2 |= !matches!(result, Ok(Reply::Ack(true) | Reply::No | Reply::Entry { .. }));
        if s.1 == 0 {
            let ok = !s.2;
            self.sync_left.retain(|s| s.0 != from);
            self.copies.synced(from, hub.now(), ok);
            self.drive_copies(hub);
        }
    }
}

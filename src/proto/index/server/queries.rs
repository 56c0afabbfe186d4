//! Requests that are answered from memory: SEARCH, SHOW_PEERS, BROWSE_PEER.

use crate::engine::Cx;
use crate::proto::index::catalog::{DEPTH_MAX, Search, WORDS_MAX};
use crate::proto::index::fields::{PeerId, Which};
use crate::proto::index::reply::write_hit;
use crate::proto::index::wire::{FrameOut, Kind, write_ko};

use super::IndexServer;
use super::task::Task;

/// Registrations that are listed at once, in about 10 us. A million take 3 ms.
const PEERS_AT_ONCE: usize = 4096;

impl IndexServer {
    /// True if the search goes on as a task.
    pub(super) fn search(&mut self, cx: &mut Cx<'_, Self>, words: &str, offset: u64) -> bool {
        self.counts.searches += 1;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let search = self.catalog.search(words, self.config.matching, offset);
        let ko = match &search {
            None => Some("there is no word to search for"),
            Some(search) if search.words() > WORDS_MAX => Some("there are more than 32 words"),
            Some(search) if search.words() > 1 && offset > DEPTH_MAX => {
                Some("the offset is over 10000: search for more words")
            }
            Some(_) => None,
        };
        let (Some(mut search), None) = (search, ko) else {
            write_ko(cx.out(), Kind::Search.ko(), ko.unwrap_or_default());
            return false;
        };
        // A search that fits a turn does not wait behind longer ones.
        let allowed = self.allowance.of(cx.stats().turns);
        let mut steps = allowed;
        let done = self.catalog.advance(&mut search, &mut steps);
        self.allowance.take(allowed - steps);
        if done {
            self.write_hits(cx.out(), &search);
            self.catalog.recycle(search);
            return false;
        }
        if !self.tasks.is_empty() {
            // Tasks before it may change the catalogue.
            search.restart(offset);
        }
        let conn = cx.id();
        self.add_query(cx, Task::Search { conn, search }, Kind::Search.ko())
    }

    /// Writes as many hits as fit, of holders that are online now.
    pub(super) fn write_hits(&self, out: &mut Vec<u8>, search: &Search) {
        let mut frame = FrameOut::begin(out, Kind::Search.ok());
        for file in search.hits() {
            let Some((file, label)) = self.catalog.found(file) else {
                continue;
            };
            if !frame.entry(|frame| write_hit(frame, file, label)) {
                break;
            }
        }
        frame.finish();
    }

    /// True if the list comes later: many peers are listed by a task.
    pub(super) fn show_peers(&mut self, cx: &mut Cx<'_, Self>, which: Which, offset: u64) -> bool {
        if matches!(which, Which::One(_)) || self.registry.len() <= PEERS_AT_ONCE {
            self.write_peers(cx.out(), which, offset);
            return false;
        }
        let conn = cx.id();
        let task = Task::Peers {
            conn,
            which,
            offset,
        };
        self.add_query(cx, task, Kind::ShowPeers.ko())
    }

    pub(super) fn write_peers(&self, out: &mut Vec<u8>, which: Which, offset: u64) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut frame = FrameOut::begin(out, Kind::ShowPeers.ok());
        frame.line(self.registry.count(which));
        for peer in self.registry.list(which).skip(offset) {
            let line = peer.line(self.catalog.count(peer.holder));
            if !frame.entry(|frame| _ = frame.line(line)) {
                break;
            }
        }
        frame.finish();
    }

    pub(super) fn browse(&mut self, cx: &mut Cx<'_, Self>, id: PeerId, offset: u64) {
        let slot = self.registry.slot_of(id);
        let Some(peer) = slot.and_then(|slot| self.registry.get(slot)) else {
            write_ko(
                cx.out(),
                Kind::BrowsePeer.ko(),
                "there is no peer of this id",
            );
            return;
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut frame = FrameOut::begin(cx.out(), Kind::BrowsePeer.ok());
        frame.line(self.catalog.count(peer.holder));
        for file in self.catalog.browse(peer.holder, offset) {
            if !frame.entry(|frame| _ = frame.line(file)) {
                break;
            }
        }
        frame.finish();
    }
}

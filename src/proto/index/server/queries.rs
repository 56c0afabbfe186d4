//! Requests that are answered from memory: SEARCH, SHOW_PEERS, BROWSE_PEER, KEEP_ALIVE.

use crate::engine::{ConnId, Cx, Hub};
use crate::proto::index::catalog::{DEPTH_MAX, Search, WORDS_MAX};
use crate::proto::index::fields::{PeerId, Which};
use crate::proto::index::reply::{KEEP_ALIVE_SUCCESS, write_hit};
use crate::proto::index::wire::{FrameOut, Kind, write_ko, write_text};

use super::registry::Presence;
use super::task::Task;
use super::{IndexServer, Timer};

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

    /// KEEP_ALIVE proves no password: it is taken only on the connection of the LOGIN, or from its address.
    pub(super) fn keep_alive(&mut self, cx: &mut Cx<'_, Self>, id: PeerId) {
        if self.is_kept_alive(cx, id) {
            write_text(cx.out(), Kind::KeepAlive.ok(), KEEP_ALIVE_SUCCESS);
        } else {
            self.counts.keep_alives_refused += 1;
            let why = "this id is not logged in from here: log in";
            write_ko(cx.out(), Kind::KeepAlive.ko(), why);
        }
    }

    fn is_kept_alive(&mut self, cx: &mut Cx<'_, Self>, id: PeerId) -> bool {
        let (now, peer_ip, this) = (cx.now(), cx.peer().ip(), cx.id());
        let alive = self.config.alive();
        let Some(slot) = self.registry.slot_of(id) else {
            return false;
        };
        let Some(peer) = self.registry.get_mut(slot) else {
            return false;
        };
        let from_here = peer.place.is_some_and(|place| place.from == peer_ip);
        match &mut peer.presence {
            Presence::Online { until, conn, .. } => {
                let known = from_here || *conn == Some(this);
                // A late one is refused, also before the timer has fired.
                let in_time = now < *until;
                if known && in_time {
                    *until = now + alive;
                }
                known && in_time
            }
            Presence::Remembered { until } => {
                let back = from_here && now < *until;
                back && self.go_online(cx, slot, Some(this))
            }
            Presence::Offline => false,
        }
    }

    /// Searches find the peer from now on. False without a timer that could take it offline again.
    pub(super) fn go_online(
        &mut self,
        hub: &mut Hub<Self>,
        slot: u32,
        conn: Option<ConnId>,
    ) -> bool {
        // Offline first: the timer of a former login makes room for the new one.
        self.go_offline(hub, slot);
        let alive = self.config.alive();
        let until = hub.now() + alive;
        let Some(timer) = hub.arm(alive, Timer::Alive(slot)) else {
            return false;
        };
        let online = Presence::Online { until, timer, conn };
        self.registry.set_presence(slot, online);
        if let Some(peer) = self.registry.get(slot) {
            self.catalog.show_holder(peer.holder, peer.hit_label());
        }
        true
    }

    pub(super) fn go_offline(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let former = self.registry.set_presence(slot, Presence::Offline);
        if let Some(Presence::Online { timer, .. }) = former {
            hub.cancel(timer);
        }
        if let Some(peer) = self.registry.get(slot) {
            self.catalog.show_holder(peer.holder, None);
        }
    }

    /// [`Timer::Alive`]: takes a peer offline whose keep-alive is overdue.
    pub(super) fn check_alive(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let now = hub.now();
        let Some(peer) = self.registry.get_mut(slot) else {
            return;
        };
        let Presence::Online { until, timer, .. } = &mut peer.presence else {
            return;
        };
        if *until > now
            && let Some(next) = hub.arm(until.since(now), Timer::Alive(slot))
        {
            *timer = next;
            return;
        }
        log::info!("{:?} ({}) sent no keep-alive", peer.user, peer.id);
        self.go_offline(hub, slot);
    }
}

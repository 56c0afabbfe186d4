//! What is answered from memory: SEARCH, SHOW_PEERS, BROWSE_PEER, KEEP_ALIVE.

use crate::engine::{Cx, Hub};

use super::work::Work;
use super::{IndexServer, Presence, Timer};
use crate::proto::index::catalog::{DEPTH_MAX, Scan, WORDS_MAX};
use crate::proto::index::fields::PeerId;
use crate::proto::index::reply::{KEEP_ALIVE_SUCCESS, write_hit};
use crate::proto::index::wire::{FrameOut, Kind, Which, write_ko, write_text};

/// As many peers are looked at in 10 us; a million take 3 ms.
const PEERS_AT_ONCE: usize = 4096;

impl IndexServer {
    /// True when the search goes on as work.
    pub(super) fn search(&mut self, cx: &mut Cx<'_, Self>, words: &str, offset: u64) -> bool {
        self.counts.searches += 1;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let scan = self.catalog.search(words, self.config.matching, offset);
        let ko = match &scan {
            None => Some("there is no word to search for"),
            Some(scan) if scan.words() > WORDS_MAX => Some("there are more than 32 words"),
            Some(scan) if scan.words() > 1 && offset > DEPTH_MAX => {
                Some("the offset is over 10000: search for more words")
            }
            Some(_) => None,
        };
        let (Some(mut scan), None) = (scan, ko) else {
            write_ko(cx.out(), Kind::Search.ko(), ko.unwrap_or_default());
            return false;
        };
        // What takes less than a turn is not put behind what takes more.
        let allowed = self.allowance.of(cx.stats().turns);
        let mut steps = allowed;
        let done = self.catalog.advance(&mut scan, &mut steps);
        self.allowance.take(allowed - steps);
        if done {
            self.write_hits(cx.out(), &scan);
            self.catalog.recycle(scan);
            return false;
        }
        if !self.work.is_empty() {
            // The catalogue may be another one when it is its turn.
            scan.restart(offset);
        }
        let conn = cx.id();
        self.add_query(cx, Work::Search { conn, scan }, Kind::Search.ko())
    }

    /// Writes as many hits as fit, of those who are online now.
    pub(super) fn write_hits(&self, out: &mut Vec<u8>, scan: &Scan) {
        let mut frame = FrameOut::begin(out, Kind::Search.ok());
        for file in scan.hits() {
            let Some((file, label)) = self.catalog.found(file) else {
                continue;
            };
            if !frame.entry(|frame| write_hit(frame, file, label)) {
                break;
            }
        }
        frame.finish();
    }

    /// True when the list comes later: to look at many peers takes long.
    pub(super) fn show_peers(&mut self, cx: &mut Cx<'_, Self>, which: Which, offset: u64) -> bool {
        if matches!(which, Which::One(_)) || self.registry.len() <= PEERS_AT_ONCE {
            self.write_peers(cx.out(), which, offset);
            return false;
        }
        let conn = cx.id();
        let work = Work::Peers {
            conn,
            which,
            offset,
        };
        self.add_query(cx, work, Kind::ShowPeers.ko())
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

    /// An id alone proves nothing: it is taken on the connection that logged in, or from the address of that one.
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
                // Late is late, whether or not the timer has noticed.
                let in_time = now < *until;
                if known && in_time {
                    *until = now + alive;
                }
                known && in_time
            }
            Presence::Remembered { until } => {
                let back = from_here && now < *until;
                if back {
                    self.go_online(cx, slot, Some(this));
                }
                back
            }
            Presence::Offline => false,
        }
    }

    /// From now on searches find the peer; it has a place.
    pub(super) fn go_online(
        &mut self,
        hub: &mut Hub<Self>,
        slot: u32,
        conn: Option<crate::engine::ConnId>,
    ) {
        let alive = self.config.alive();
        let online = Presence::Online {
            until: hub.now() + alive,
            timer: hub.arm(alive, Timer::Alive(slot)),
            conn,
        };
        self.replace_presence(hub, slot, online);
        if let Some(peer) = self.registry.get(slot) {
            self.catalog.show_holder(peer.holder, peer.hit_label());
        }
    }

    pub(super) fn go_offline(&mut self, hub: &mut Hub<Self>, slot: u32) {
        self.replace_presence(hub, slot, Presence::Offline);
        if let Some(peer) = self.registry.get(slot) {
            self.catalog.show_holder(peer.holder, None);
        }
    }

    fn replace_presence(&mut self, hub: &mut Hub<Self>, slot: u32, presence: Presence) {
        if let Some(Presence::Online {
            timer: Some(timer), ..
        }) = self.registry.set_presence(slot, presence)
        {
            hub.cancel(timer);
        }
    }

    pub(super) fn check_alive(&mut self, hub: &mut Hub<Self>, slot: u32) {
        let now = hub.now();
        let Some(peer) = self.registry.get_mut(slot) else {
            return;
        };
        let Presence::Online { until, timer, .. } = &mut peer.presence else {
            return;
        };
        *timer = None;
        if *until > now {
            *timer = hub.arm(until.since(now), Timer::Alive(slot));
        } else {
            log::info!("{:?} ({}) sent no keep-alive", peer.user, peer.id);
            self.go_offline(hub, slot);
        }
    }
}

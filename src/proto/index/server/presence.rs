//! Which peers are online: KEEP_ALIVE, and the timer that takes a peer offline without one.
//!
//! ```text
//!           LOGIN                      LOGOUT, a late KEEP_ALIVE
//!  Offline ───────▶ Online ◀─┐ KEEP_ALIVE ──────────────────────▶ Offline
//!                     │ └────┘
//!                     └─ the server restarts ─▶ Remembered ─ KEEP_ALIVE in time ─▶ Online
//! ```
//! Invariant: searches find the files of a peer exactly while it is online.

use crate::engine::{ConnId, Cx, Hub};
use crate::proto::index::fields::PeerId;
use crate::proto::index::reply::KEEP_ALIVE_SUCCESS;
use crate::proto::index::wire::{Kind, write_ko, write_text};

use super::registry::Presence;
use super::{IndexServer, Timer};

impl IndexServer {
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

//! A peer's registration at the tracker: it registers, and again when the tracker seems to have forgotten it.
//!
//! The protocol has no message for "you are registered": a peer infers it from the pings. After three intervals without a
//! ping it registers again, and keeps trying while the tracker is away. A tracker of ours that still knows the peer
//! changes nothing then. The peer serves and queries all the while.
//!
//! ```text
//!              REG_INIT with a neighbour
//!  Registering ─────────────────────────▶ Registered
//!   ▲  │  ▲          three intervals of silence │
//!   │  │  └─────────────────────────────────────┘
//!   │  │ no answer, refusal          handle refused for 30 s
//!   │  └──────────────────▶ Waiting ───────────────────▶ Declined
//!   └───── after a backoff ─────┘
//! ```
//! For: the exchange with the tracker and its deadlines. Not for: what a peer does with its neighbour and its item, which
//! [`Registration::answered`] returns.

use rand::RngExt;

use crate::engine::{ConnId, End, Tick, Ticks, Violation};
use crate::proto::ring::wire::{Encoding, RegInit, Reply, Request};

use super::config::{Host, Own, Target};

/// The interval of the tracker's pings before it is known: the protocol's default.
const PING_GAP: Ticks = Ticks::from_secs(20);

/// Bounds of the interval that is inferred from the pings.
const PING_GAP_MIN: Ticks = Ticks::from_secs(1);
const PING_GAP_MAX: Ticks = Ticks::from_secs(60);

/// A tracker that has not answered a registration within this is tried again.
const ANSWER_TIMEOUT: Ticks = Ticks::from_secs(10);

/// The pause between two tries doubles from the one to the other. A random half is taken off: when a tracker comes back,
/// its whole ring is waiting.
const RETRY_MIN: Ticks = Ticks::from_millis(500);
const RETRY_MAX: Ticks = Ticks::from_secs(8);

/// A handle that is refused for this long is given up. A dead peer's handle is free an interval and a timeout later.
const DECLINED_AFTER: Ticks = Ticks::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not registered; tried again when it is due.
    Waiting,
    Registering(ConnId),
    /// Registered, as far as a peer can know.
    Registered,
    /// The handle is another peer's.
    Declined,
}

#[derive(Debug)]
pub(super) struct Registration {
    state: State,
    due: Option<Tick>,
    /// Tries in a row that failed.
    failures: u32,
    has_registered: bool,
    /// Since when the handle is refused.
    refused_since: Option<Tick>,
    /// The last sign of life of the tracker, and the last PING.
    heard: Tick,
    pinged: Option<Tick>,
    /// The interval of the tracker's pings, as inferred.
    ping_gap: Ticks,
}

impl Default for Registration {
    fn default() -> Registration {
        Registration {
            state: State::Waiting,
            due: None,
            failures: 0,
            has_registered: false,
            refused_since: None,
            heard: Tick(0),
            pinged: None,
            ping_gap: PING_GAP,
        }
    }
}

impl Registration {
    pub(super) fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    pub(super) fn is_declined(&self) -> bool {
        self.state == State::Declined
    }

    /// The connection of a registration under way.
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Registering(conn) => Some(conn),
            _ => None,
        }
    }

    /// When [`Registration::fired`] is to be called.
    pub(super) fn due(&self) -> Option<Tick> {
        self.due
    }

    pub(super) fn begin(&mut self, host: &mut dyn Host, own: &Own) {
        let conn = own.dial(host, Target::Tracker, own.config.tracker);
        self.state = State::Registering(conn);
        self.due = Some(host.now() + ANSWER_TIMEOUT);
    }

    /// The connection to the tracker is open.
    pub(super) fn reached(&self, own: &Own, out: &mut Vec<u8>) {
        let (handle, port) = ((&*own.config.handle).into(), own.config.addr.port());
        Request::Register { handle, port }.put(Encoding::OURS, out);
    }

    /// The tracker's answer. Returns it when it has a place in the ring for the peer.
    pub(super) fn answered<'a>(
        &mut self,
        host: &mut dyn Host,
        own: &Own,
        conn: ConnId,
        reply: Reply<'a>,
    ) -> Result<Option<RegInit<'a>>, Violation> {
        if self.state != State::Registering(conn) {
            return Ok(None);
        }
        // To a tracker of ours, the close says that the answer was read.
        host.close_conn(conn);
        match reply {
            Reply::RegInit(RegInit { nbr: None, .. }) => self.refused(host, own),
            Reply::RegInit(init) => {
                self.registered(host, own);
                return Ok(Some(init));
            }
            Reply::Tracker(says) => {
                let (tracker, says) = (own.config.tracker, says.escape_debug());
                log::warn!("the tracker at {tracker} says: {says}");
                self.retry(host);
            }
            _ => return Err(Violation::peer("no answer to a REGISTER")),
        }
        Ok(None)
    }

    fn registered(&mut self, host: &mut dyn Host, own: &Own) {
        log::info!("{}: registered", own.config.handle.escape_debug());
        self.state = State::Registered;
        self.has_registered = true;
        self.refused_since = None;
        self.failures = 0;
        self.heard = host.now();
        self.pinged = None;
        self.due = Some(self.heard + self.silence_max());
    }

    fn refused(&mut self, host: &mut dyn Host, own: &Own) {
        let now = host.now();
        let since = *self.refused_since.get_or_insert(now);
        let handle = own.config.handle.escape_debug();
        // A peer that was in this ring waits for its place: what answers under its handle may be its own former
        // connection.
        if !self.has_registered && now.since(since) >= DECLINED_AFTER {
            log::error!("the handle {handle} is another peer's");
            self.state = State::Declined;
            self.due = None;
        } else {
            if since == now {
                log::warn!("the handle {handle} is another peer's; trying for a while");
            }
            self.retry(host);
        }
    }

    fn retry(&mut self, host: &mut dyn Host) {
        self.state = State::Waiting;
        let pause = Ticks(RETRY_MIN.0 << self.failures.min(8)).min(RETRY_MAX).0;
        self.failures = self.failures.saturating_add(1);
        let pause = Ticks(host.rng().random_range(pause / 2..=pause));
        self.due = Some(host.now() + pause);
    }

    pub(super) fn ended(&mut self, host: &mut dyn Host, own: &Own, conn: ConnId, end: End) {
        if self.state == State::Registering(conn) {
            if self.failures == 0 {
                let tracker = own.config.tracker;
                log::warn!("no answer from the tracker at {tracker} ({end:?}); trying again");
            }
            self.retry(host);
        }
    }

    /// Does what is due by now.
    pub(super) fn fired(&mut self, host: &mut dyn Host, own: &Own) {
        if self.due.is_none_or(|due| due > host.now()) {
            return;
        }
        match self.state {
            State::Waiting => self.begin(host, own),
            State::Registering(conn) => {
                self.retry(host);
                host.close_conn(conn);
            }
            State::Registered => {
                log::info!("the tracker is silent; registering again");
                self.begin(host, own);
            }
            State::Declined => self.due = None,
        }
    }

    /// The tracker sent a PING.
    pub(super) fn pinged(&mut self, now: Tick) {
        if let Some(before) = self.pinged {
            // Halved at most: one ping out of turn is no new interval.
            let gap = now.since(before).max(Ticks(self.ping_gap.0 / 2));
            self.ping_gap = gap.clamp(PING_GAP_MIN, PING_GAP_MAX);
        }
        self.pinged = Some(now);
        self.heard(now);
    }

    /// The tracker gave a sign of life.
    pub(super) fn heard(&mut self, now: Tick) {
        self.heard = now;
        if self.state == State::Registered {
            self.due = Some(now + self.silence_max());
        }
    }

    /// Silence after which the tracker seems to have forgotten the peer.
    fn silence_max(&self) -> Ticks {
        Ticks(self.ping_gap.0 * 3)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use crate::proto::host::fake::FakeHost;
    use crate::proto::ring::wire::{Neighbour, RegInitOrder};

    use super::super::config::{Config, Outbound, Timer};
    use super::*;

    fn own() -> Own {
        let addr = |n| SocketAddrV4::new([10, 0, 0, n].into(), 5000);
        let config = Config {
            handle: "me".into(),
            addr: addr(1),
            tracker: addr(9),
            dial_from: None,
        };
        Own { config, index: 0 }
    }

    fn reg_init(registered: bool) -> Reply<'static> {
        let nbr = Neighbour {
            handle: "other".into(),
            addr: SocketAddrV4::new([10, 0, 0, 2].into(), 5000),
        };
        Reply::RegInit(RegInit {
            nbr: registered.then_some(nbr),
            dbsize: 1,
            item: None,
            order: RegInitOrder::IpFirst,
        })
    }

    /// Waits for the next deadline.
    fn wait(host: &mut FakeHost<Outbound, Timer>, registration: &mut Registration, own: &Own) {
        host.now = registration.due().expect("a deadline");
        registration.fired(host, own);
    }

    #[test]
    fn a_silent_tracker_is_dialled_again_with_growing_pauses() {
        let (mut host, own) = (FakeHost::new(), own());
        let mut registration = Registration::default();
        registration.begin(&mut host, &own);
        let mut pauses = Vec::new();
        for n in 1..=6 {
            wait(&mut host, &mut registration, &own);
            assert_eq!((host.closed.len(), host.dials.len()), (n, n));
            let from = host.now;
            wait(&mut host, &mut registration, &own);
            pauses.push((host.now - from).0);
        }
        for (pause, max) in pauses.iter().zip([50, 100, 200, 400, 800, 800]) {
            assert!((max / 2..=max).contains(pause), "{pauses:?}");
        }
    }

    #[test]
    fn a_handle_that_stays_refused_is_given_up_but_not_by_a_peer_that_had_it() {
        for had_it in [false, true] {
            let (mut host, own) = (FakeHost::new(), own());
            let mut registration = Registration::default();
            registration.begin(&mut host, &own);
            if had_it {
                let conn = host.last();
                let place = registration.answered(&mut host, &own, conn, reg_init(true));
                assert!(place.is_ok_and(|place| place.is_some()));
                assert_eq!(registration.due(), Some(Tick(6000)));
                wait(&mut host, &mut registration, &own);
            }
            let since = host.now;
            while registration.due().is_some() && host.now - since < Ticks::from_secs(60) {
                let conn = host.last();
                let place = registration.answered(&mut host, &own, conn, reg_init(false));
                assert!(place.is_ok_and(|place| place.is_none()));
                if registration.due().is_some() {
                    wait(&mut host, &mut registration, &own);
                }
            }
            assert_eq!(registration.is_declined(), !had_it);
            assert!(host.now - since >= DECLINED_AFTER);
        }
    }
}

//! The ping of one member: sent, sent again while the member's time lasts, given up.
//!
//! ```text
//!          sent               refused or cut off
//!   Idle ───────▶ Asked ─────────────────────────▶ Paused
//!    ▲   answered │   ▲            1 s later          │
//!    └────────────┤   └───────────────────────────────┤
//!                 └────────▶ GiveUp ◀─────────────────┘
//!                      the time is over
//! ```
//! Pure: no network, and time is an argument. Invariant: one deadline from the first ping to the last; only our own limits
//! move it.

use crate::engine::{ConnId, End, Tick, Ticks};

/// The pause after a ping that was refused or cut off: five tries within the default timeout.
const RETRY_PAUSE: Ticks = Ticks::from_secs(1);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ping {
    #[default]
    Idle,
    Asked {
        conn: ConnId,
        until: Tick,
    },
    Paused {
        again: Tick,
        until: Tick,
    },
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Another ping, with this deadline.
    Again { until: Tick },
    /// The member did not answer in time.
    GiveUp,
}

impl Ping {
    /// When [`Ping::fired`] is to be called.
    pub(super) fn due(self) -> Option<Tick> {
        match self {
            Ping::Idle => None,
            Ping::Asked { until, .. } => Some(until),
            Ping::Paused { again, until } => Some(again.min(until)),
        }
    }

    pub(super) fn conn(self) -> Option<ConnId> {
        match self {
            Ping::Asked { conn, .. } => Some(conn),
            _ => None,
        }
    }

    /// The member answered on the connection `id`. Returns whether an answer was expected there.
    pub(super) fn answered(&mut self, id: ConnId) -> bool {
        let expected = self.conn() == Some(id);
        if expected {
            *self = Ping::Idle;
        }
        expected
    }

    /// The connection `id` ended without an answer.
    pub(super) fn ended(&mut self, id: ConnId, end: End, now: Tick) {
        let Ping::Asked { conn, until } = *self else {
            return;
        };
        if conn == id {
            // A ping that our own limits kept from being sent does not count against the member.
            let until = match end {
                End::Limit(_) => until + RETRY_PAUSE,
                _ => until,
            };
            let again = now + RETRY_PAUSE;
            *self = Ping::Paused { again, until };
        }
    }

    /// What is due by now.
    pub(super) fn fired(self, now: Tick) -> Option<Due> {
        match self {
            _ if self.due().is_none_or(|due| now < due) => None,
            Ping::Paused { until, .. } if now < until => Some(Due::Again { until }),
            _ => Some(Due::GiveUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(n: u64) -> ConnId {
        ConnId::from_token(n)
    }

    #[test]
    fn refused_pings_are_repeated_until_the_one_deadline() {
        let until = Tick(500);
        let (mut now, mut sent) = (Tick(0), 0);
        loop {
            sent += 1;
            let mut ping = Ping::Asked {
                conn: conn(sent),
                until,
            };
            ping.ended(conn(sent + 1), End::Eof, now);
            assert_eq!(ping.due(), Some(until), "another connection's end");
            ping.ended(conn(sent), End::Eof, now);
            assert_eq!(ping.fired(now), None);
            now = ping.due().expect("a pause");
            match ping.fired(now) {
                Some(Due::Again { until: same }) => assert_eq!(same, until),
                Some(Due::GiveUp) => break,
                None => panic!("nothing at {now:?}"),
            }
        }
        assert_eq!((sent, now), (5, until));
    }

    #[test]
    fn our_own_limit_moves_the_deadline() {
        let mut ping = Ping::Asked {
            conn: conn(1),
            until: Tick(10),
        };
        ping.ended(conn(1), End::Limit("dials_max"), Tick(0));
        assert_eq!(ping.fired(Tick(100)), Some(Due::Again { until: Tick(110) }));
        assert!(!ping.answered(conn(1)), "nothing is asked");
    }
}

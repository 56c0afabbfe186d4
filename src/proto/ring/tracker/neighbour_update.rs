//! What one member knows of its neighbour, and the UPDATE_NBRs that tell it.
//!
//! UPDATE_NBR has no answer, and each message has a connection of its own, so an old one may overtake a new one. Therefore:
//! - a member has at most one message about its neighbour under way; the next is sent when that one is settled;
//! - a REG_INIT is settled when the peer has closed its connection, or after 2 s;
//! - an UPDATE_NBR was read when the peer closes the connection after it. When the connection breaks, or is still open
//!   after 5 s, it may be read or not, now or later: it is sent again until one is known to be read, and then once more;
//! - a peer may close without reading (at its limit of connections it closes at once): the message is sent once more when
//!   the peer next answers a ping.
//!
//! ```text
//!             UPDATE_NBR dialled, written          closed by the peer
//!   Settled ────────────────────────────▶ Sending ─────────────────────▶ Settled
//!     ▲  ▲                                 │   ▲
//!     │  │ closed, or 2 s         otherwise ▼   │ after a pause
//!     │  └──────── Registering            Paused
//!     └───────────────────────────────────────┘
//! ```
//! Pure: no network, and time is an argument. Neighbours are told apart by their numbers.

use crate::engine::{ConnId, End, Tick, Ticks};

/// How long a peer has to close the connection on which it registered. Programs that keep it open have read the answer
/// by then.
const REGISTRATION_TIMEOUT: Ticks = Ticks::from_secs(2);

/// How long a peer has to close the connection of an UPDATE_NBR, dialling included.
const UPDATE_TIMEOUT: Ticks = Ticks::from_secs(5);

/// The pause before an UPDATE_NBR is repeated. Doubles, up to the interval of the pings, for a peer that never closes.
const RETRY_PAUSE: Ticks = Ticks::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct NeighbourUpdate {
    state: State,
    due: Option<Tick>,
    /// The neighbour that the member knows; `None`: that is not certain.
    told: Option<u64>,
    /// An earlier UPDATE_NBR may still reach it.
    overtaken: bool,
    /// UPDATE_NBRs in a row whose connection it kept open.
    unclosed: u8,
    /// It is told of its neighbour once more when it next answers a ping.
    repeat: bool,
}

/// The message about its neighbour that is under way to a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Settled,
    /// A REG_INIT.
    Registering(ConnId),
    /// An UPDATE_NBR; with the neighbour's number, once it is written.
    Sending(ConnId, Option<u64>),
    /// To be sent again.
    Paused,
}

/// What the tracker has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Send an UPDATE_NBR if one is [`NeighbourUpdate::needed`].
    Settle,
    /// The member cannot be reached: find out whether it is alive.
    Ping,
    Close(ConnId),
}

impl NeighbourUpdate {
    /// When [`NeighbourUpdate::fired`] is to be called.
    pub(super) fn due(&self) -> Option<Tick> {
        self.due
    }

    /// Nothing is under way, and the member knows that `neighbour` is its own.
    pub(super) fn is_settled(&self, neighbour: Option<u64>) -> bool {
        self.state == State::Settled && self.told == neighbour
    }

    /// An UPDATE_NBR is to be sent to a member whose neighbour is `neighbour`.
    pub(super) fn needed(&self, neighbour: Option<u64>) -> bool {
        self.state == State::Settled && (self.told.is_none() || self.told != neighbour)
    }

    /// The member answered a ping. Returns whether an UPDATE_NBR is to be sent although none is needed.
    pub(super) fn take_repeat(&mut self) -> bool {
        self.state == State::Settled && std::mem::take(&mut self.repeat)
    }

    /// The connection of an UPDATE_NBR.
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Sending(conn, _) => Some(conn),
            _ => None,
        }
    }

    /// The connection on which the member waits for its REG_INIT, or has it and has not closed.
    pub(super) fn registering(&self) -> Option<ConnId> {
        match self.state {
            State::Registering(conn) => Some(conn),
            _ => None,
        }
    }

    /// The member registers on the connection `conn`. An UPDATE_NBR under way is given up; [`Next::Close`] is its
    /// connection.
    pub(super) fn register(&mut self, conn: ConnId) -> Next {
        let before = std::mem::replace(&mut self.state, State::Registering(conn));
        self.due = None;
        match before {
            State::Sending(old, written) => {
                self.overtaken |= written.is_some();
                Next::Close(old)
            }
            _ => Next::Nothing,
        }
    }

    /// The REG_INIT is written, which names `neighbour`.
    pub(super) fn registered(&mut self, neighbour: Option<u64>, now: Tick) {
        self.told = neighbour.filter(|_| !self.overtaken);
        self.due = Some(now + REGISTRATION_TIMEOUT);
    }

    /// A connection on which a member registered is over.
    pub(super) fn registration_ended(&mut self, id: ConnId, end: End) -> Next {
        if self.state != State::Registering(id) {
            return Next::Nothing;
        }
        self.settled();
        // A peer that closes has read the answer. Otherwise the answer may be lost.
        if end != End::Eof {
            self.told = None;
        }
        Next::Settle
    }

    /// An UPDATE_NBR is dialled.
    pub(super) fn dialled(&mut self, conn: ConnId, now: Tick) {
        self.state = State::Sending(conn, None);
        self.due = Some(now + UPDATE_TIMEOUT);
    }

    /// The dial succeeded. Returns whether the message is to be written.
    pub(super) fn reached(&self, id: ConnId) -> bool {
        self.state == State::Sending(id, None)
    }

    /// The message is written, which names `neighbour`.
    pub(super) fn written(&mut self, id: ConnId, neighbour: u64) {
        self.state = State::Sending(id, Some(neighbour));
    }

    /// The connection of an UPDATE_NBR is over.
    pub(super) fn ended(&mut self, id: ConnId, end: End, now: Tick, pause_max: Ticks) -> Next {
        let State::Sending(conn, written) = self.state else {
            return Next::Nothing;
        };
        if conn != id {
            return Next::Nothing;
        }
        match (end, written) {
            (End::Eof, Some(neighbour)) => {
                self.unclosed = 0;
                self.read(neighbour, now, pause_max)
            }
            _ => {
                self.overtaken |= written.is_some();
                self.pause(now, pause_max);
                match end {
                    End::Unreachable(_) => Next::Ping,
                    _ => Next::Nothing,
                }
            }
        }
    }

    /// The member has read the message that named `neighbour`.
    fn read(&mut self, neighbour: u64, now: Tick, pause_max: Ticks) -> Next {
        if std::mem::take(&mut self.overtaken) {
            self.pause(now, pause_max);
            return Next::Nothing;
        }
        // Two that name the same are enough.
        self.repeat = self.told != Some(neighbour);
        self.told = Some(neighbour);
        self.settled();
        Next::Settle
    }

    /// Does what is due by now.
    pub(super) fn fired(&mut self, now: Tick, pause_max: Ticks) -> Next {
        if self.due.is_none_or(|due| now < due) {
            return Next::Nothing;
        }
        match self.state {
            State::Sending(conn, written) => {
                self.unclosed = self.unclosed.saturating_add(1);
                self.overtaken |= written.is_some();
                self.pause(now, pause_max);
                Next::Close(conn)
            }
            State::Registering(_) | State::Paused => {
                self.settled();
                Next::Settle
            }
            State::Settled => Next::Nothing,
        }
    }

    fn settled(&mut self) {
        self.state = State::Settled;
        self.due = None;
    }

    fn pause(&mut self, now: Tick, pause_max: Ticks) {
        self.told = None;
        self.state = State::Paused;
        let pause = Ticks(RETRY_PAUSE.0 << self.unclosed.min(8));
        self.due = Some(now + pause.min(pause_max.max(RETRY_PAUSE)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const PAUSE_MAX: Ticks = Ticks::from_secs(20);

    fn conn(n: u64) -> ConnId {
        ConnId::from_token(n)
    }

    /// Sends an UPDATE_NBR that names `neighbour` on connection `n`.
    fn send(update: &mut NeighbourUpdate, n: u64, neighbour: u64, now: u64) {
        update.dialled(conn(n), Tick(now));
        assert!(update.reached(conn(n)) && !update.reached(conn(n + 1)));
        update.written(conn(n), neighbour);
    }

    #[test]
    fn what_is_read_is_sent_once_more_at_the_next_ping_and_not_a_third_time() {
        let mut update = NeighbourUpdate::default();
        assert!(update.needed(Some(7)));
        for n in 1..=2 {
            send(&mut update, n, 7, 0);
            let next = update.ended(conn(n), End::Eof, Tick(1), PAUSE_MAX);
            assert_eq!(next, Next::Settle);
            assert!(update.is_settled(Some(7)) && !update.needed(Some(7)));
            assert_eq!(update.take_repeat(), n == 1);
        }
        assert_eq!(update.due(), None);
    }

    #[test]
    fn one_that_may_come_late_is_overtaken_by_two() {
        let mut update = NeighbourUpdate::default();
        send(&mut update, 1, 7, 0);
        assert_eq!(update.fired(Tick(499), PAUSE_MAX), Next::Nothing);
        assert_eq!(update.fired(Tick(500), PAUSE_MAX), Next::Close(conn(1)));
        for n in 2..=3 {
            let due = update.due().expect("a pause");
            assert_eq!(update.fired(due, PAUSE_MAX), Next::Settle);
            assert!(update.needed(Some(7)));
            send(&mut update, n, 7, due.0);
            let next = update.ended(conn(n), End::Eof, due, PAUSE_MAX);
            assert_eq!(next, if n == 2 { Next::Nothing } else { Next::Settle });
        }
        assert!(update.is_settled(Some(7)));
    }

    #[test]
    fn a_registration_takes_the_place_of_an_update() {
        let mut update = NeighbourUpdate::default();
        send(&mut update, 1, 7, 0);
        assert_eq!(update.register(conn(2)), Next::Close(conn(1)));
        assert_eq!(update.due(), None, "the REG_INIT waits for the disk");
        update.registered(Some(8), Tick(10));
        assert_eq!(update.registration_ended(conn(1), End::Eof), Next::Nothing);
        assert_eq!(update.registration_ended(conn(2), End::Eof), Next::Settle);
        assert!(update.needed(Some(8)), "the older one may come late");
    }

    #[test]
    fn a_member_that_cannot_be_reached_is_pinged_and_pauses_have_a_limit() {
        let mut update = NeighbourUpdate::default();
        update.dialled(conn(1), Tick(0));
        let refused = End::Unreachable(ErrorKind::ConnectionRefused);
        assert_eq!(
            update.ended(conn(1), refused, Tick(3), PAUSE_MAX),
            Next::Ping
        );
        assert_eq!(update.due(), Some(Tick(103)));
        let mut now = Tick(103);
        for _ in 0..300 {
            assert_eq!(update.fired(now, PAUSE_MAX), Next::Settle);
            send(&mut update, 9, 7, now.0);
            now = update.due().expect("a deadline");
            assert_eq!(update.fired(now, PAUSE_MAX), Next::Close(conn(9)));
            let paused = now;
            now = update.due().expect("a pause");
            assert!(now - paused <= PAUSE_MAX);
        }
    }
}

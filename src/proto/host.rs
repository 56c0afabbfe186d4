//! What a protocol's machine may ask of the node that hosts it: the narrow side of the engine's [`Hub`].
//!
//! For: machines that name neither the node nor its service. They take a `&mut dyn Host`, so the node imports them and they
//! import nothing of it, and a test can host one machine alone. Not for: connections that the machine is called for, whose
//! input and identity are arguments of the call.
//!
//! ```text
//!  engine ──▶ node (Service): dispatch ──▶ machine (state, deadlines)
//!    ▲                                        │
//!    └───────────── Hub, seen as Host ◀───────┘
//! ```
//! A machine holds no timers. It says when it is due (`Alarm` has the rest), and what is due then it sees when it is called.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::ops::Bound;

use rand::rngs::StdRng;

use crate::engine::{ConnId, Hub, Service, Tick, TimerId};

/// The host of a machine that opens connections of type `C` and has timers of type `T`. Each method is that of the
/// [`Hub`] with the same name, but `arm`, which takes a point in time.
pub trait Host<C, T> {
    fn now(&self) -> Tick;
    fn rng(&mut self) -> &mut StdRng;
    fn dial(&mut self, to: SocketAddrV4, from: Option<SocketAddrV4>, conn: C) -> ConnId;
    fn output_of(&mut self, conn: ConnId) -> Option<&mut Vec<u8>>;
    fn is_blocked(&self, conn: ConnId) -> bool;
    fn resume(&mut self, conn: ConnId);
    fn close_conn(&mut self, conn: ConnId);
    fn arm(&mut self, at: Tick, timer: T) -> Option<TimerId>;
    fn cancel(&mut self, timer: TimerId);
    fn stop(&mut self);
}

impl<S, C, T> Host<C, T> for Hub<S>
where
    S: Service<Conn: From<C>, Timer: From<T>>,
{
    fn now(&self) -> Tick {
        Hub::now(self)
    }

    fn rng(&mut self) -> &mut StdRng {
        Hub::rng(self)
    }

    fn dial(&mut self, to: SocketAddrV4, from: Option<SocketAddrV4>, conn: C) -> ConnId {
        Hub::dial(self, to, from.map(Into::into), conn.into())
    }

    fn output_of(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        Hub::output_of(self, conn)
    }

    fn is_blocked(&self, conn: ConnId) -> bool {
        Hub::is_blocked(self, conn)
    }

    fn resume(&mut self, conn: ConnId) {
        Hub::resume(self, conn);
    }

    fn close_conn(&mut self, conn: ConnId) {
        Hub::close_conn(self, conn);
    }

    fn arm(&mut self, at: Tick, timer: T) -> Option<TimerId> {
        Hub::arm(self, at.since(Hub::now(self)), timer.into())
    }

    fn cancel(&mut self, timer: TimerId) {
        Hub::cancel(self, timer);
    }

    fn stop(&mut self) {
        Hub::stop(self);
    }
}

/// The one timer of a machine, which follows the machine's deadline.
///
/// A deadline that moves later leaves the timer alone: it fires early once, the machine finds nothing due, and the timer
/// follows again. So there is never a second chain of timers.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    armed: Option<(TimerId, Tick)>,
}

impl Alarm {
    /// Has `timer` fire at `due` or earlier; disarms it for `None`. At the engine's limit of timers it goes to `unarmed`.
    pub(super) fn follow<C, T: Copy + Ord>(
        &mut self,
        host: &mut (impl Host<C, T> + ?Sized),
        due: Option<Tick>,
        timer: T,
        unarmed: &mut Unarmed<T>,
    ) {
        match (self.armed, due) {
            (Some((_, at)), Some(due)) if at <= due => return,
            // When it fires, the next unarmed timer gets its place.
            (Some(_), None) if !unarmed.timers.is_empty() => return,
            (Some((timer, _)), _) => host.cancel(timer),
            (None, _) => {}
        }
        self.armed = due.and_then(|due| Some((host.arm(due, timer)?, due)));
        if due.is_some() && self.armed.is_none() {
            unarmed.timers.insert(timer);
        }
    }

    /// The machine is gone.
    pub(super) fn disarm<C, T>(&mut self, host: &mut (impl Host<C, T> + ?Sized)) {
        if let Some((timer, _)) = self.armed.take() {
            host.cancel(timer);
        }
    }

    /// The timer fired.
    pub(super) fn fired(&mut self) {
        self.armed = None;
    }
}

/// Timers that the engine refused to arm, at its limit; each once.
///
/// A timer that fires or is disarmed frees a place. [`Unarmed::next`] is called before the machine of the timer that fired,
/// which would take the place again itself; the [`Alarm`] of that next machine follows again. A machine without a deadline
/// leaves the place to the next one.
#[derive(Debug)]
pub(super) struct Unarmed<T> {
    timers: BTreeSet<T>,
    /// The last that was returned: they are served round robin.
    last: Option<T>,
}

impl<T> Default for Unarmed<T> {
    fn default() -> Unarmed<T> {
        Unarmed {
            timers: BTreeSet::new(),
            last: None,
        }
    }
}

impl<T: Copy + Ord> Unarmed<T> {
    pub(super) fn next(&mut self) -> Option<T> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.timers.range((behind, Bound::Unbounded)).next();
        let next = *next.or(self.timers.first())?;
        self.timers.remove(&next);
        self.last = Some(next);
        Some(next)
    }
}

/// A host for one machine alone, which records what it is asked for.
#[cfg(test)]
pub(in crate::proto) mod fake {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use crate::engine::Wheel;

    use super::*;

    pub(in crate::proto) struct FakeHost<C, T> {
        pub(in crate::proto) now: Tick,
        rng: StdRng,
        wheel: Wheel<T>,
        pub(in crate::proto) timers: usize,
        pub(in crate::proto) timers_max: usize,
        /// Every dial so far; its place is the token of its connection.
        pub(in crate::proto) dials: Vec<(SocketAddrV4, C)>,
        written: BTreeMap<ConnId, Vec<u8>>,
        pub(in crate::proto) closed: Vec<ConnId>,
    }

    impl<C, T: Copy> FakeHost<C, T> {
        pub(in crate::proto) fn new() -> FakeHost<C, T> {
            FakeHost {
                now: Tick(0),
                rng: StdRng::seed_from_u64(1),
                wheel: Wheel::new(Tick(0)),
                timers: 0,
                timers_max: usize::MAX,
                dials: Vec::new(),
                written: BTreeMap::new(),
                closed: Vec::new(),
            }
        }

        /// The connection of the last dial.
        pub(in crate::proto) fn last(&self) -> ConnId {
            ConnId::from_token(self.dials.len() as u64 - 1)
        }

        /// What was written to a connection since the last call.
        pub(in crate::proto) fn take(&mut self, conn: ConnId) -> Vec<u8> {
            self.written.remove(&conn).unwrap_or_default()
        }
    }

    impl<C, T: Copy> Host<C, T> for FakeHost<C, T> {
        fn now(&self) -> Tick {
            self.now
        }

        fn rng(&mut self) -> &mut StdRng {
            &mut self.rng
        }

        fn dial(&mut self, to: SocketAddrV4, _from: Option<SocketAddrV4>, conn: C) -> ConnId {
            self.dials.push((to, conn));
            self.last()
        }

        fn output_of(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
            let open = !self.closed.contains(&conn);
            open.then(|| self.written.entry(conn).or_default())
        }

        fn is_blocked(&self, _conn: ConnId) -> bool {
            false
        }

        fn resume(&mut self, _conn: ConnId) {}

        fn close_conn(&mut self, conn: ConnId) {
            self.closed.push(conn);
        }

        fn arm(&mut self, at: Tick, timer: T) -> Option<TimerId> {
            let room = self.timers < self.timers_max;
            room.then(|| {
                self.timers += 1;
                self.wheel.arm(at, timer)
            })
        }

        fn cancel(&mut self, timer: TimerId) {
            self.timers -= usize::from(self.wheel.cancel(timer).is_some());
        }

        fn stop(&mut self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeHost;
    use super::*;

    #[test]
    fn a_machine_has_one_timer_and_it_is_never_later_than_the_deadline() {
        let mut host = FakeHost::<(), u32>::new();
        let (mut alarm, mut unarmed) = (Alarm::default(), Unarmed::default());
        for (due, armed_at) in [(50, 50), (80, 50), (30, 30), (31, 30)] {
            alarm.follow(&mut host, Some(Tick(due)), 7, &mut unarmed);
            let at = alarm.armed.map(|(_, at)| at);
            assert_eq!((at, host.timers), (Some(Tick(armed_at)), 1));
        }
        alarm.follow(&mut host, None, 7, &mut unarmed);
        assert_eq!((host.timers, unarmed.next()), (0, None));
    }

    #[test]
    fn refused_timers_have_their_turns_in_a_round() {
        let mut host = FakeHost::<(), u32>::new();
        host.timers_max = 1;
        let mut unarmed = Unarmed::default();
        let mut alarms: Vec<Alarm> = (0..4).map(|_| Alarm::default()).collect();
        let due = Some(Tick(9));
        for (timer, alarm) in (0..).zip(&mut alarms) {
            alarm.follow(&mut host, due, timer, &mut unarmed);
        }
        let (mut fired, mut order) = (0, Vec::new());
        for _ in 0..8 {
            host.timers = 0;
            alarms[fired].fired();
            let next = unarmed.next().expect("three wait");
            for timer in [next, fired as u32] {
                let alarm = &mut alarms[timer as usize];
                alarm.follow(&mut host, due, timer, &mut unarmed);
            }
            fired = next as usize;
            order.push(next);
        }
        assert_eq!(order, [1, 2, 3, 0, 1, 2, 3, 0]);
    }
}

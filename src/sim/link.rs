//! One simulated connection: two directed pipes with a bounded window.
//!
//! ```text
//!   Pipe.bytes: [ arrived: can be read | under way ]        space() = window - bytes.len()
//!               0                      arrived      len
//! ```
//! Only the state and its rules. When things happen, and what goes wrong, is decided in `net.rs`.
//!
//! Invariants: `arrived <= bytes.len()`; bytes are read in the order in which they were written; nothing
//! arrives behind a FIN.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use crate::engine::{ConnId, Readiness};

/// One end of a link. The serial number tells a link from earlier ones in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndRef {
    pub(super) link: u32,
    pub(super) side: u8,
    pub(super) serial: u64,
}

impl EndRef {
    pub(super) fn other(self) -> EndRef {
        EndRef {
            side: 1 - self.side,
            ..self
        }
    }

    pub(super) fn side(self) -> usize {
        usize::from(self.side)
    }
}

/// The owner of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Connection `1` of host `0`.
    Conn(usize, ConnId),
    /// A scripted peer.
    Peer(usize),
    /// The kernel of the side that was dialled; not accepted yet.
    Kernel,
    /// Closed: what arrives is answered with a reset.
    Closed,
    /// The machine is gone: bytes that arrive have no answer.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fin {
    No,
    Sent,
    Arrived,
}

/// What happens to a direction at a certain byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Reset,
    HalfClose,
}

/// The bytes of one direction.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    arrived: usize,
    pub(super) window: usize,
    pub(super) fin: Fin,
    /// The writer was refused room and waits for an event.
    pub(super) writer_waits: bool,
    /// When the last thing arrives that is under way; the next one comes no earlier.
    pub(super) last_arrival_us: u64,
    pub(super) stalled_until_us: u64,
    /// Bytes ever written.
    pub(super) written: u64,
    /// Where this direction is cut, as a number of bytes written.
    pub(super) cut: Option<(u64, Cut)>,
    /// What is written leads nowhere: the direction was cut.
    pub(super) swallows: bool,
}

impl Pipe {
    fn new(window: usize) -> Pipe {
        Pipe {
            bytes: VecDeque::new(),
            arrived: 0,
            window,
            fin: Fin::No,
            writer_waits: false,
            last_arrival_us: 0,
            stalled_until_us: 0,
            written: 0,
            cut: None,
            swallows: false,
        }
    }

    pub(super) fn space(&self) -> usize {
        self.window.saturating_sub(self.bytes.len())
    }

    pub(super) fn readable(&self) -> usize {
        self.arrived
    }

    /// Whether a waiting writer is told: as with Linux, once a third of the window is free.
    pub(super) fn worth_telling(&self) -> bool {
        self.writer_waits && self.space() >= self.window.div_ceil(3)
    }

    pub(super) fn write(&mut self, from: &[IoSlice<'_>], max: usize) -> usize {
        let mut left = self.space().min(max);
        let before = left;
        for slice in from {
            let n = slice.len().min(left);
            self.bytes.extend(&slice[..n]);
            left -= n;
        }
        let n = before - left;
        self.written += n as u64;
        n
    }

    /// `n` bytes that were under way are there.
    pub(super) fn arrive(&mut self, n: usize) {
        assert!(
            self.arrived + n <= self.bytes.len(),
            "what arrives was sent"
        );
        assert!(self.fin != Fin::Arrived, "nothing arrives behind a FIN");
        self.arrived += n;
    }

    pub(super) fn read(&mut self, into: &mut [u8], max: usize) -> usize {
        let n = self.arrived.min(into.len()).min(max);
        let (front, back) = self.bytes.as_slices();
        let first = n.min(front.len());
        into[..first].copy_from_slice(&front[..first]);
        into[first..n].copy_from_slice(&back[..n - first]);
        self.bytes.drain(..n);
        self.arrived -= n;
        n
    }

    /// If the bytes written have reached the cut, drops those beyond it and says how many they were.
    pub(super) fn cut_off(&mut self) -> Option<(Cut, usize)> {
        let (at, cut) = self.cut.filter(|&(at, _)| self.written >= at)?;
        let lost = (self.written - at) as usize;
        self.bytes.truncate(self.bytes.len() - lost);
        (self.cut, self.swallows) = (None, true);
        Some((cut, lost))
    }

    /// Forgets what is under way and everything that would follow.
    pub(super) fn lose_rest(&mut self) {
        self.bytes.truncate(self.arrived);
        self.swallows = true;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.arrived = 0;
        self.swallows = true;
    }

    /// Bytes that have not arrived.
    pub(super) fn under_way(&self) -> usize {
        self.bytes.len() - self.arrived
    }
}

/// A connection. Side 0 dialled side 1.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) serial: u64,
    /// `pipes[s]` carries what side `s` writes.
    pub(super) pipes: [Pipe; 2],
    pub(super) owners: [Owner; 2],
    pub(super) addrs: [SocketAddr; 2],
    /// The dialling side knows that the connection is there.
    pub(super) up: bool,
    /// Why a side can do no more, once it has seen it.
    pub(super) broken: [Option<ErrorKind>; 2],
    /// An event for this side is waiting to be served.
    pub(super) edge: [bool; 2],
}

impl Link {
    pub(super) fn new(
        serial: u64,
        owners: [Owner; 2],
        addrs: [SocketAddr; 2],
        window: usize,
    ) -> Link {
        Link {
            serial,
            pipes: [Pipe::new(window), Pipe::new(window)],
            owners,
            addrs,
            up: false,
            broken: [None; 2],
            edge: [false; 2],
        }
    }

    /// What a poll would report for `side` now.
    pub(super) fn readiness(&self, side: usize) -> Readiness {
        let broken = self.broken[side].is_some();
        let (from, to) = (&self.pipes[1 - side], &self.pipes[side]);
        let ended = from.fin == Fin::Arrived;
        Readiness {
            readable: broken || ended || from.readable() > 0,
            writable: broken || (self.connected(side) && to.space() > 0),
            hung_up: broken || ended,
        }
    }

    pub(super) fn connected(&self, side: usize) -> bool {
        side == 1 || self.up
    }

    /// Reads as a socket does: what arrived before a reset can still be read.
    pub(super) fn read(&mut self, side: usize, into: &mut [u8], max: usize) -> io::Result<usize> {
        let pipe = &mut self.pipes[1 - side];
        if pipe.readable() > 0 {
            return Ok(pipe.read(into, max));
        }
        match self.broken[side] {
            Some(kind) => Err(kind.into()),
            None if pipe.fin == Fin::Arrived => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    pub(super) fn write(
        &mut self,
        side: usize,
        from: &[IoSlice<'_>],
        max: usize,
    ) -> io::Result<usize> {
        if let Some(kind) = self.broken[side] {
            return Err(kind.into());
        }
        let pipe = &mut self.pipes[side];
        if pipe.fin != Fin::No && !pipe.swallows {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !self.up && side == 0 {
            return Err(ErrorKind::NotConnected.into());
        }
        if pipe.swallows {
            return Ok(from.iter().map(|slice| slice.len()).sum::<usize>().min(max));
        }
        match pipe.write(from, max) {
            0 => {
                pipe.writer_waits = true;
                Err(ErrorKind::WouldBlock.into())
            }
            n => Ok(n),
        }
    }
}

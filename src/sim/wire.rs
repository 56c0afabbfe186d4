//! The sockets of one host: the [`Transport`] of the simulator.
//!
//! A thin table from the engine's slots to ends of links. What a read or a write does, and which faults it
//! meets, is decided in `net.rs`.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use crate::engine::{ConnId, Transport};

use super::event::What;
use super::faults::Span;
use super::link::{EndRef, Owner};
use super::net::Net;

/// When a stale event comes: late enough for the slot to be taken again.
const STALE_AFTER: Span = Span::us(0, 2000);

/// The sockets of one host.
pub(super) struct Wire<'a> {
    pub(super) net: &'a mut Net,
    pub(super) host: usize,
}

impl Wire<'_> {
    pub(super) fn insert(&mut self, id: ConnId, end: EndRef) {
        let slots = &mut self.net.doors[self.host].slots;
        if slots.len() <= id.slot() {
            slots.resize(id.slot() + 1, None);
        }
        assert!(
            slots[id.slot()].is_none(),
            "a slot is closed before it is used again"
        );
        slots[id.slot()] = Some((id, end));
    }

    fn end(&self, slot: usize) -> io::Result<EndRef> {
        let slots = &self.net.doors[self.host].slots;
        let found = slots.get(slot).copied().flatten();
        found
            .map(|(_, end)| end)
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl Transport for Wire<'_> {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize> {
        let end = self.end(slot)?;
        self.net.read(end, into)
    }

    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let end = self.end(slot)?;
        self.net.write(end, from)
    }

    fn dial(&mut self, id: ConnId, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let from = match from {
            Some(from) if from.is_ipv6() != to.is_ipv6() => {
                return Err(ErrorKind::AddrNotAvailable.into());
            }
            None => self.net.ephemeral(self.host, to),
            Some(from) if from.port() == 0 => {
                let port = self.net.ephemeral(self.host, to).port();
                SocketAddr::new(from.ip(), port)
            }
            Some(from) if self.net.is_taken(from, to) => {
                return Err(ErrorKind::AddrNotAvailable.into());
            }
            Some(from) => from,
        };
        // It would meet itself, see the sockets of `net`.
        if from == to {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let end = self.net.connect(Owner::Conn(self.host, id), from, to);
        self.insert(id, end);
        Ok(())
    }

    fn dialled(&mut self, slot: usize) -> io::Result<bool> {
        let end = self.end(slot)?;
        let link = self.net.link(end).ok_or(ErrorKind::NotConnected)?;
        match link.broken[end.side()] {
            Some(kind) => Err(kind.into()),
            None => Ok(link.up),
        }
    }

    fn finish(&mut self, slot: usize) {
        if let Ok(end) = self.end(slot) {
            self.net.finish(end);
        }
    }

    fn close(&mut self, slot: usize) {
        let taken = self.net.doors[self.host]
            .slots
            .get_mut(slot)
            .and_then(Option::take);
        let Some((id, end)) = taken else { return };
        self.net.close(end);
        if self.net.chance(self.net.faults.stale) {
            // Late enough for the slot to be taken again.
            let at = self.net.now_us + STALE_AFTER.draw(&mut self.net.rng);
            let epoch = self.net.doors[self.host].epoch;
            self.net.schedule(at, What::Stale(self.host, epoch, id));
        }
    }
}

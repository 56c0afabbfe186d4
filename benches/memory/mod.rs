//! Connections in memory, by slot: a transport for what measures the whole engine without sockets. It accepts only, and is
//! never full.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use peerloop::engine::{ConnId, Readiness, Transport};

pub const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    hung_up: false,
};

/// What a peer sent that was not read yet, and what it got.
#[derive(Default)]
pub struct Pipe {
    pub incoming: Vec<u8>,
    pub outgoing: Vec<u8>,
    pub closed: bool,
}

pub struct Memory(pub Vec<Pipe>);

impl Transport for Memory {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize> {
        let incoming = &mut self.0[slot].incoming;
        if incoming.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = incoming.len().min(into.len());
        into[..n].copy_from_slice(&incoming[..n]);
        incoming.drain(..n);
        Ok(n)
    }

    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let outgoing = &mut self.0[slot].outgoing;
        from.iter()
            .for_each(|slice| outgoing.extend_from_slice(slice));
        Ok(from.iter().map(|slice| slice.len()).sum())
    }

    fn dial(&mut self, _: ConnId, _: SocketAddr, _: Option<SocketAddr>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn dialled(&mut self, _: usize) -> io::Result<bool> {
        Err(ErrorKind::Unsupported.into())
    }

    fn finish(&mut self, _: usize) {}

    fn close(&mut self, slot: usize) {
        self.0[slot].closed = true;
    }
}

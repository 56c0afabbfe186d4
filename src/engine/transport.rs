//! What a driver lends the engine, and what it tells of connections.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use super::ConnId;

/// What the engine needs of sockets. `slot` is [`ConnId::slot`]; calls for a slot stop with `close`.
/// Nothing blocks: what cannot be done now is [`io::ErrorKind::WouldBlock`], and the driver reports with
/// [`super::Node::ready`] when it can be tried again (an edge is enough).
pub trait Transport {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Begins to connect, from the local address `from` where one is given.
    fn dial(&mut self, id: ConnId, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()>;
    /// Whether the connection of a dial is there; false when it is still under way.
    fn dialled(&mut self, slot: usize) -> io::Result<bool>;
    /// Nothing more will be written: the peer is to see the end of the stream.
    fn finish(&mut self, slot: usize);
    fn close(&mut self, slot: usize);
}

/// What a driver saw of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer closed its side or the connection broke: there is an end to be read.
    pub hung_up: bool,
}

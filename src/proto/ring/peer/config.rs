//! A peer's identity, and the connections that it opens.

use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::engine::ConnId;
use crate::proto::host;
use crate::proto::ring::wire::Reader;

/// A peer's identity, and the tracker that it registers with.
#[derive(Debug, Clone)]
pub struct Config {
    pub handle: Arc<str>,
    /// Where it listens; the tracker is told the port.
    pub addr: SocketAddrV4,
    pub tracker: SocketAddrV4,
    /// The local address of its own connections, where it matters: the tracker takes it for the peer's.
    pub dial_from: Option<SocketAddrV4>,
}

/// A peer's timer; the number is the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer(pub(in crate::proto::ring) u32);

/// A connection that a peer opened.
#[derive(Debug)]
pub struct Outbound {
    pub(super) reader: Reader,
    pub(super) peer: u32,
    pub(super) to: Target,
}

/// What an outbound connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Tracker,
    Neighbour,
}

/// What the machines of a peer act through.
pub trait Host: host::Host<Outbound, Timer> {}

impl<H: host::Host<Outbound, Timer> + ?Sized> Host for H {}

/// A peer's identity, as its machines need it.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) config: Config,
    /// Its number among the peers of the service.
    pub(super) index: u32,
}

impl Own {
    pub(super) fn dial(&self, host: &mut dyn Host, to: Target, addr: SocketAddrV4) -> ConnId {
        let outbound = Outbound {
            reader: Reader::default(),
            peer: self.index,
            to,
        };
        host.dial(addr, self.config.dial_from, outbound)
    }
}

//! A listening socket that accepts in batches and knows when to pause.
//!
//! The poll reports an edge once, so a listener remembers that connections may wait (`ready`) until an accept
//! says that none do. When descriptors run out it pauses: until a connection closes, or for
//! [`PAUSE`], whichever is first; trying again at once would only spin. When the node is full it waits
//! for a close; the kernel's backlog holds who comes meanwhile.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::engine::{Node, Service, Tick, Ticks};

use super::sockets::Sockets;

/// Connections that the kernel holds until they are accepted; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Pause after the kernel refused a descriptor, when no close ends it before: often enough to go unnoticed,
/// seldom enough to cost nothing.
const PAUSE: Ticks = Ticks::from_millis(100);

/// An address that is bound and listened on; a reactor accepts from it. Binding first gives the port when any was
/// asked for, which a service may need to know before it exists.
pub struct Bound {
    socket: Socket,
    addr: SocketAddrV4,
}

impl Bound {
    /// Binds `addr` (port 0: any free one).
    pub fn bind(addr: SocketAddrV4) -> io::Result<Bound> {
        Bound::with(addr, false)
    }

    /// The same, and the port can be dialled from too ([`crate::engine::Hub::dial`] with this address): for
    /// protocols in which a peer is known by the address that its connections come from.
    pub fn bind_to_dial_from(addr: SocketAddrV4) -> io::Result<Bound> {
        Bound::with(addr, true)
    }

    fn with(addr: SocketAddrV4, shares_port: bool) -> io::Result<Bound> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Inherited by what is accepted, which saves a call for each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        // Not before: a second listener on the port would be let in, and get some of the connections.
        socket.set_reuse_port(shares_port)?;
        let bound = socket.local_addr()?.as_socket_ipv4();
        let addr = bound.ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Bound { socket, addr })
    }

    /// What is accepted inherits it, as it does TCP_NODELAY.
    pub(super) fn keep_alive(&self, settings: &TcpKeepalive) -> io::Result<()> {
        self.socket.set_tcp_keepalive(settings)
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// The address, with the port that was got.
    pub fn addr(&self) -> SocketAddrV4 {
        self.addr
    }
}

pub(super) struct Listener {
    socket: TcpListener,
    /// Connections may wait.
    ready: bool,
    paused_until: Option<Tick>,
    /// Descriptors ran out and nothing was accepted since: said once, not ten times a second.
    starved: bool,
}

impl Listener {
    pub(super) fn register(bound: Bound, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut socket = TcpListener::from_std(bound.into_socket().into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener {
            socket,
            ready: false,
            paused_until: None,
            starved: false,
        })
    }

    pub(super) fn event(&mut self) {
        self.ready = true;
    }

    /// A descriptor became free.
    pub(super) fn resume(&mut self) {
        self.paused_until = None;
    }

    /// A connection could be accepted without a further event.
    pub(super) fn has_work<S: Service>(&self, node: &Node<S>) -> bool {
        self.ready && self.paused_until.is_none() && node.has_room()
    }

    pub(super) fn resumes_at(&self) -> Option<Tick> {
        self.paused_until.filter(|_| self.ready)
    }

    /// Accepts a batch.
    pub(super) fn accept<S: Service>(
        &mut self,
        number: usize,
        now: Tick,
        node: &mut Node<S>,
        sockets: &mut Sockets,
    ) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        for _ in 0..node.limits().accepts_per_turn {
            if !self.has_work(node) {
                return;
            }
            match self.socket.accept() {
                Ok((stream, SocketAddr::V4(peer))) => {
                    self.starved = false;
                    let id = node.accepted(peer, number);
                    if let Err(e) = sockets.insert(id, stream) {
                        log::warn!("cannot watch the connection of {peer}: {e}");
                        node.with(|_, hub| hub.close_conn(id));
                    }
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(e) if out_of_resources(&e) => {
                    if !self.starved {
                        log::warn!("accepting pauses: {e}");
                    }
                    self.starved = true;
                    node.count_accept_pause();
                    self.paused_until = Some(now + PAUSE);
                }
                // ECONNABORTED, EINTR and the network errors that Linux passes on: that connection is lost,
                // the next one is not.
                Err(e) => log::debug!("accept: {e}"),
            }
        }
    }
}

fn out_of_resources(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn dialled_from_and_not_listened_on_twice() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let elsewhere = Bound::bind(any).unwrap();
        let bound = Bound::bind_to_dial_from(any).unwrap();
        let second = Bound::bind_to_dial_from(bound.addr());
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        let dials = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        dials.set_reuse_address(true).unwrap();
        dials.set_reuse_port(true).unwrap();
        dials.bind(&bound.addr().into()).unwrap();
        dials.connect(&elsewhere.addr().into()).unwrap();
        let second = Bound::bind_to_dial_from(bound.addr());
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}

//! A listening socket that accepts in batches and knows when to pause.
//!
//! The poll reports an edge once, so a listener remembers that connections may wait (`ready`) until an accept
//! says that none do. When descriptors run out, or accept fails for a reason that may last, it pauses: until a
//! connection closes, or for [`PAUSE`], whichever is first; trying again at once would only spin. When the node is full
//! it waits for a close; the kernel's backlog holds the connections that come meanwhile.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::engine::{Node, Service, Tick, Ticks};

use super::sockets::Sockets;

/// Connections that the kernel holds until they are accepted; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Pause after accept failed for a reason that may last, when no close ends it before: often enough to go unnoticed,
/// seldom enough to cost nothing.
const PAUSE: Ticks = Ticks::from_millis(100);

/// Connections lost in a row while they were accepted; one more, and the reason may last.
const LOST_IN_A_ROW_MAX: u32 = 1000;

/// A listener's failures are logged this often, whatever causes them.
const LOG_EVERY: Ticks = Ticks::from_secs(10);

/// An address that is bound and listened on; a reactor accepts from it. Binding first gives the port when any was
/// asked for, which a service may need to know before it exists.
///
/// Its address has the type that was bound: bind a [`SocketAddrV4`] where it has to be IPv4.
pub struct Bound<A = SocketAddr> {
    socket: Socket,
    addr: A,
}

/// A type of address: any, or of one family.
pub trait Address: Copy + Into<SocketAddr> + sealed::Sealed {
    /// `addr`, when it is of this type.
    fn of(addr: SocketAddr) -> Option<Self>;
}

impl Address for SocketAddr {
    fn of(addr: SocketAddr) -> Option<SocketAddr> {
        Some(addr)
    }
}

impl Address for SocketAddrV4 {
    fn of(addr: SocketAddr) -> Option<SocketAddrV4> {
        match addr {
            SocketAddr::V4(addr) => Some(addr),
            SocketAddr::V6(_) => None,
        }
    }
}

impl Address for SocketAddrV6 {
    fn of(addr: SocketAddr) -> Option<SocketAddrV6> {
        match addr {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(addr) => Some(addr),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::SocketAddr {}
    impl Sealed for std::net::SocketAddrV4 {}
    impl Sealed for std::net::SocketAddrV6 {}
}

impl<A: Address> Bound<A> {
    /// Binds `addr` (port 0: any free one). On `[::]`, IPv4 is listened on too if the system has it so.
    pub fn bind(addr: A) -> io::Result<Bound<A>> {
        Bound::with(addr, false)
    }

    /// The same, and the port can be dialled from too ([`crate::engine::Hub::dial`] with this address): for
    /// protocols in which a peer is known by the address that its connections come from.
    pub fn bind_to_dial_from(addr: A) -> io::Result<Bound<A>> {
        Bound::with(addr, true)
    }

    fn with(addr: A, shares_port: bool) -> io::Result<Bound<A>> {
        let addr: SocketAddr = addr.into();
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Inherited by what is accepted, which saves a call for each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        // Not before: a second listener on the port would be let in, and get some of the connections.
        socket.set_reuse_port(shares_port)?;
        let bound = socket.local_addr()?.as_socket();
        let addr = bound
            .and_then(A::of)
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
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
    pub fn addr(&self) -> A {
        self.addr
    }
}

pub(super) struct Listener {
    socket: TcpListener,
    /// Connections may wait.
    ready: bool,
    paused_until: Option<Tick>,
    /// Connections lost since the last that was accepted.
    lost: u32,
    /// The next failure is logged when it comes after this.
    quiet_until: Tick,
}

impl Listener {
    pub(super) fn register<A: Address>(
        bound: Bound<A>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut socket = TcpListener::from_std(bound.into_socket().into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener {
            socket,
            ready: false,
            paused_until: None,
            lost: 0,
            quiet_until: Tick::default(),
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
                Ok((stream, peer)) => {
                    self.lost = 0;
                    let id = node.accepted(peer, number);
                    if let Err(e) = sockets.insert(id, stream) {
                        self.warn(now, format_args!("cannot watch a connection: {e}"));
                        node.with(|_, hub| hub.close_conn(id));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(e) if is_of_one_connection(&e) && self.lost < LOST_IN_A_ROW_MAX => {
                    self.lost += 1;
                    log::debug!("accept: {e}");
                }
                Err(e) => {
                    self.warn(now, format_args!("accepting pauses: {e}"));
                    node.count_accept_pause();
                    self.paused_until = Some(now + PAUSE);
                }
            }
        }
    }

    fn warn(&mut self, now: Tick, what: fmt::Arguments<'_>) {
        if now >= self.quiet_until {
            log::warn!("{what}");
            self.quiet_until = now + LOG_EVERY;
        }
    }
}

/// The failure took one connection out of the backlog, or none: the next accept may work. These are the errors that
/// accept(2) names for that, the network errors that Linux passes on included.
fn is_of_one_connection(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(
            Errno::INTR
                | Errno::CONNABORTED
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::TIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Shutdown};
    use std::time::Duration;

    use crate::engine::Limits;
    use crate::net::Reactor;
    use crate::net::tests::Quiet;

    use super::*;

    /// A listener that was shut down is ready for ever, and each accept fails with EINVAL.
    #[test]
    fn an_accept_error_that_lasts_pauses_the_listener() {
        let mut reactor = Reactor::new(Quiet::default(), Limits::default()).unwrap();
        let bound = Bound::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let same = bound.socket.try_clone().unwrap();
        reactor.accept_from(bound).unwrap();
        same.shutdown(Shutdown::Both).unwrap();
        reactor.turn(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(reactor.node().stats().accept_pauses, 1);
        let sleep = reactor.sleep().expect("accepting is tried again");
        assert!(!sleep.is_zero(), "the loop spins");
        reactor.turn(None).unwrap();
        assert_eq!(reactor.node().stats().accept_pauses, 2);
    }

    #[test]
    fn errors_of_one_connection_do_not_stop_the_others() {
        let lost = |errno: Errno| is_of_one_connection(&errno.into());
        assert!([Errno::INTR, Errno::CONNABORTED, Errno::HOSTUNREACH].map(lost) == [true; 3]);
        assert!([Errno::MFILE, Errno::NFILE, Errno::PERM, Errno::INVAL].map(lost) == [false; 4]);
    }

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

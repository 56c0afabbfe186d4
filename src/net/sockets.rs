//! The sockets of a node, by the engine's slots: the [`Transport`] of the reactor.
//!
//! Each socket is registered once, for both directions and edge-triggered; the engine remembers what is
//! ready, so there is no further epoll_ctl. Closing the descriptor ends the registration.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::engine::{ConnId, Limits, Ticks, Transport};

use super::tokens;

pub(super) struct Sockets {
    /// The number of the service, for the tokens.
    service: usize,
    streams: Vec<Option<TcpStream>>,
    registry: Registry,
    /// Of sockets that are dialled; those that are accepted have it from their listener.
    keepalive: Option<TcpKeepalive>,
    /// A descriptor became free since [`Sockets::take_closed`].
    closed: bool,
}

/// Asked so often, at a third of the time that is waited for the first one, before a peer counts as gone.
const KEEPALIVE_RETRIES: u32 = 3;

/// The longest time that Linux takes for either (MAX_TCP_KEEPIDLE); a longer one would be refused.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// The kernel's settings for [`Limits::keepalive`]; it counts in whole seconds.
pub(super) fn keepalive(limits: &Limits) -> Option<TcpKeepalive> {
    let after = (limits.keepalive != Ticks::NEVER).then(|| limits.keepalive.as_duration())?;
    let after = after.clamp(Duration::from_secs(1), KEEPALIVE_MAX);
    let interval = (after / KEEPALIVE_RETRIES).max(Duration::from_secs(1));
    let settings = TcpKeepalive::new()
        .with_time(after)
        .with_interval(interval)
        .with_retries(KEEPALIVE_RETRIES);
    Some(settings)
}

impl Sockets {
    pub(super) fn new(
        service: usize,
        registry: Registry,
        keepalive: Option<TcpKeepalive>,
    ) -> Sockets {
        Sockets {
            service,
            streams: Vec::new(),
            registry,
            keepalive,
            closed: false,
        }
    }

    pub(super) fn insert(&mut self, id: ConnId, mut stream: TcpStream) -> io::Result<()> {
        let token = tokens::of_conn(self.service, id);
        self.registry
            .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        if self.streams.len() <= id.slot() {
            self.streams.resize_with(id.slot() + 1, || None);
        }
        self.streams[id.slot()] = Some(stream);
        Ok(())
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    fn stream(&mut self, slot: usize) -> io::Result<&mut TcpStream> {
        // Missing only when its registration failed; the engine is told with the next call.
        self.streams
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Transport for Sockets {
    fn read(&mut self, slot: usize, into: &mut [u8]) -> io::Result<usize> {
        self.stream(slot)?.read(into)
    }

    fn write(&mut self, slot: usize, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let stream = self.stream(slot)?;
        match from {
            [one] => stream.write(one),
            many => stream.write_vectored(many),
        }
    }

    fn dial(&mut self, id: ConnId, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(settings) = &self.keepalive {
            socket.set_tcp_keepalive(settings)?;
        }
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            // A port of 0 is chosen by `connect`, where one that goes elsewhere may be used again; `bind` would look for
            // one that nobody has, which takes the longer the more are taken.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&from.into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
        if meets_itself(&socket, to)? {
            // A reset: after an orderly close the port would wait for a minute.
            socket.set_linger(Some(Duration::ZERO))?;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.insert(id, TcpStream::from_std(socket.into()))
    }

    fn dialled(&mut self, slot: usize) -> io::Result<bool> {
        let stream = self.stream(slot)?;
        if let Some(e) = stream.take_error()? {
            return Err(e);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn finish(&mut self, slot: usize) {
        // A connection that broke meanwhile says so at the next read.
        let _ = self
            .stream(slot)
            .map(|stream| stream.shutdown(Shutdown::Write));
    }

    fn close(&mut self, slot: usize) {
        if let Some(stream) = self.streams.get_mut(slot) {
            self.closed |= stream.take().is_some();
        }
    }
}

/// Whether a dial to `to` goes to its own socket, which TCP connects to itself (a simultaneous open). The kernel may choose
/// the dialled port for a dial of an ephemeral port of this host at which nobody listens; that counts as refused. Known
/// as soon as the socket has an address, before anything of it is told.
fn meets_itself(socket: &Socket, to: SocketAddr) -> io::Result<bool> {
    let here = socket.local_addr()?.as_socket();
    // The unspecified address is this host.
    Ok(here.is_some_and(|here| {
        here.port() == to.port() && (here.ip() == to.ip() || to.ip().is_unspecified())
    }))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

    use mio::Poll;
    use socket2::SockRef;

    use crate::net::Bound;

    use super::*;

    /// A peer that vanishes without a word is found out by the kernel, on both sides of a connection.
    #[test]
    fn keepalive_on_what_is_dialled_and_on_what_is_accepted() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut limits = Limits::default();
        assert!(keepalive(&limits).is_none());
        for extreme in [Ticks(0), Ticks(u64::MAX - 1)] {
            limits.keepalive = extreme;
            let bound = Bound::bind(any).unwrap();
            bound.keep_alive(&keepalive(&limits).unwrap()).unwrap();
        }
        limits.keepalive = Ticks::from_secs(60);
        let settings = keepalive(&limits).unwrap();
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let mut sockets = Sockets::new(0, registry, Some(settings.clone()));
        let bound = Bound::bind(any).unwrap();
        bound.keep_alive(&settings).unwrap();
        let addr = bound.addr();
        let listener: TcpListener = bound.into_socket().into();
        listener.set_nonblocking(false).unwrap();
        sockets
            .dial(ConnId::from_token(0), addr.into(), None)
            .unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let dialled = sockets.stream(0).unwrap();
        for socket in [SockRef::from(&accepted), SockRef::from(&*dialled)] {
            assert!(socket.keepalive().unwrap());
            assert_eq!(
                socket.tcp_keepalive_time().unwrap(),
                Duration::from_secs(60)
            );
            assert_eq!(
                socket.tcp_keepalive_interval().unwrap(),
                Duration::from_secs(20)
            );
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        }
    }
}

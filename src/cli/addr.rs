//! Addresses as a user gives them, and as others can reach them.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};

use anyhow::{Context, Result, anyhow, bail, ensure};

use peerloop::engine::Service;
use peerloop::net::{Address, Bound, Reactor};

use super::print;

/// `IP:PORT`, or a name that resolves to an IPv4 address.
pub(super) fn resolve(text: &str) -> Result<SocketAddrV4> {
    match resolve_any(text)? {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => bail!("it has no IPv4 address, and the protocol no other"),
    }
}

/// `IP:PORT`, `[IPV6]:PORT`, or a name that resolves to an address: of IPv4 if it has one.
pub(super) fn resolve_any(text: &str) -> Result<SocketAddr> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let found = text
        .to_socket_addrs()
        .map_err(|e| anyhow!("{e}; expected IP:PORT"))?;
    found
        .min_by_key(SocketAddr::is_ipv6)
        .context("it has no address")
}

/// Binds what `--listen` says.
pub(super) fn bind<A: Address + Display>(listen: A) -> Result<Bound<A>> {
    Bound::bind(listen).with_context(|| format!("cannot listen on {listen} (--listen)"))
}

/// Accepts from now on, until a signal; the first line on stdout says where.
pub(super) fn serve<S: Service, A: Address + Display>(
    reactor: &mut Reactor<S>,
    bound: Bound<A>,
) -> Result<()> {
    let addr = bound.addr();
    reactor.accept_from(bound)?;
    reactor.catch_signals()?;
    print::stdout(format!("listening {addr}\n").as_bytes())
}

/// The address that a node's id is made of: `--advertise`, else the listening one; when that is 0.0.0.0, the
/// address of the interface with the default route, and loopback when there is none.
pub(super) fn advertised(
    told: Option<SocketAddrV4>,
    listening: SocketAddrV4,
) -> Result<SocketAddrV4> {
    if let Some(told) = told {
        ensure!(
            !told.ip().is_unspecified() && told.port() != 0,
            "--advertise {told} is no address that others can reach"
        );
        return Ok(told);
    }
    if !listening.ip().is_unspecified() {
        return Ok(listening);
    }
    let ip = default_route_ip().unwrap_or_else(|| {
        log::warn!("no default route: advertising loopback; --advertise IP:PORT says otherwise");
        Ipv4Addr::LOCALHOST
    });
    Ok(SocketAddrV4::new(ip, listening.port()))
}

/// Whether what listens on `listening` and advertises `advertised` is reached at `addr`.
pub(super) fn is_own(
    addr: SocketAddrV4,
    advertised: SocketAddrV4,
    listening: SocketAddrV4,
) -> bool {
    // Only an address of this machine can be bound.
    let is_here = |ip: Ipv4Addr| UdpSocket::bind((ip, 0)).is_ok();
    let everywhere = listening.ip().is_unspecified() && addr.port() == listening.port();
    addr == advertised || addr == listening || everywhere && is_here(*addr.ip())
}

/// Asks the routing table; connecting a UDP socket sends nothing.
fn default_route_ip() -> Option<Ipv4Addr> {
    // An address of TEST-NET-1, which is nobody's and so takes the default route.
    const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(addr) if !addr.ip().is_unspecified() => Some(*addr.ip()),
        _ => None,
    }
}

//! Addresses of IPv6 on real sockets.

use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream};

use crate::engine::ConnId;
use crate::engine::{Cx, End, Hub, Input, Limits, NoJob, Service, Step, Violation};
use crate::net::{Bound, Reactor};

const LOOPBACK: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

/// Tells each peer who it is, dials once, and stops when that connection has ended.
struct Mirror<const IPV4_ONLY: bool> {
    dials: Option<(SocketAddr, Option<SocketAddr>)>,
    dialled: Option<SocketAddr>,
    accepted: Vec<SocketAddr>,
}

impl<const IPV4_ONLY: bool> Mirror<IPV4_ONLY> {
    fn reactor(dials: Option<(SocketAddr, Option<SocketAddr>)>) -> Reactor<Self> {
        let mirror = Mirror {
            dials,
            dialled: None,
            accepted: Vec::new(),
        };
        Reactor::new(mirror, Limits::default()).unwrap()
    }
}

impl<const IPV4: bool> Service for Mirror<IPV4> {
    const IPV4_ONLY: bool = IPV4;

    /// We dialled.
    type Conn = bool;
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = NoJob;

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        if let Some((to, from)) = self.dials {
            hub.dial(to, from, true);
        }
    }

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Option<bool> {
        let peer = cx.peer();
        self.accepted.push(peer);
        cx.out().extend(peer.to_string().bytes());
        None
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, _: &mut bool) {
        self.dialled = Some(cx.peer());
    }

    fn on_input(
        &mut self,
        _: &mut Cx<'_, Self>,
        _: &mut bool,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        Ok(Step::Done(input.bytes.len()))
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, _: ConnId, dialled: bool, _: End) {
        if dialled {
            hub.stop();
        }
    }
}

/// From any port, and from the one that is listened on.
#[test]
fn a_node_dials_itself_at_its_ipv6_address() {
    for from_listener in [false, true] {
        let bound = Bound::bind_to_dial_from(LOOPBACK).unwrap();
        let second = Bound::bind_to_dial_from(SocketAddr::from(LOOPBACK)).unwrap();
        let (here, there) = (SocketAddr::from(bound.addr()), second.addr());
        let mut reactor = Mirror::<false>::reactor(Some((there, from_listener.then_some(here))));
        reactor.accept_from(bound).unwrap();
        reactor.accept_from(second).unwrap();
        reactor.run().unwrap();
        reactor.node().validate();
        let mirror = reactor.into_service();
        assert_eq!(mirror.dialled, Some(there));
        assert_eq!(mirror.accepted[0].ip(), Ipv6Addr::LOCALHOST);
        assert_eq!(mirror.accepted[0] == here, from_listener);
    }
}

/// Peers of both families come to `[::]`; those of IPv4 are seen with their address of IPv4.
#[test]
fn an_ipv4_peer_of_an_ipv6_listener_is_an_ipv4_peer() {
    let mut reactor = Mirror::<false>::reactor(None);
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let at = reactor.listen(any).unwrap();
    let (handle, caller) = (reactor.handle(), reactor.caller());
    let thread = std::thread::spawn(move || reactor.run());
    for host in ["127.0.0.1", "::1"] {
        let mut peer = TcpStream::connect((host, at.port())).unwrap();
        let mut told = String::new();
        peer.read_to_string(&mut told).unwrap();
        assert_eq!(told, peer.local_addr().unwrap().to_string());
    }
    let accepted = caller.call(|mirror, _| mirror.accepted.clone()).unwrap();
    assert_eq!(accepted.iter().filter(|peer| peer.is_ipv4()).count(), 1);
    handle.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_protocol_without_ipv6_gets_no_listener_there() {
    let mut reactor = Mirror::<true>::reactor(None);
    let refused = reactor.listen(LOOPBACK).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrNotAvailable);
    assert!(refused.to_string().contains("IPv4 only"), "{refused}");
    let v4: SocketAddrV4 = "127.0.0.1:0".parse().unwrap();
    reactor.listen(v4).unwrap();
    reactor.listen(SocketAddr::from(v4)).unwrap();
}

//! A dial that reaches itself is a refused one.
//!
//! TCP lets a socket connect to its own address: its SYN meets itself and counts as a simultaneous open. The kernel may
//! choose the dialled port for a dial of an ephemeral port on the same host at which nobody listens.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, NoJob, Service, Step, Violation};
use crate::net::{Bound, Reactor};

/// Dials once, and stops when that connection has ended.
struct Dialler {
    to: SocketAddr,
    from: SocketAddr,
    dialled: bool,
    end: Option<End>,
}

impl Service for Dialler {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = NoJob;

    fn on_start(&mut self, hub: &mut Hub<Self>) {
        hub.dial(self.to, Some(self.from), ());
    }

    fn on_accept(&mut self, _: &mut Cx<'_, Self>, _listener: usize) -> Option<()> {
        panic!("nobody else dials")
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, (): &mut ()) {
        self.dialled = true;
        cx.close();
    }

    fn on_input(
        &mut self,
        _: &mut Cx<'_, Self>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        Ok(Step::Done(input.bytes.len()))
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, _: ConnId, (): (), end: End) {
        self.end = Some(end);
        hub.stop();
    }
}

/// A free port of loopback that others do not get meanwhile, and that can be dialled from.
fn hold(ip: &str) -> (Socket, SocketAddr) {
    let any = SocketAddr::new(ip.parse().unwrap(), 0);
    let socket = Socket::new(Domain::for_address(any), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&any.into()).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, at)
}

#[track_caller]
fn expect_refused(to: SocketAddr, from: SocketAddr, listener: Option<Bound>) {
    let dialler = Dialler {
        to,
        from,
        dialled: false,
        end: None,
    };
    let mut reactor = Reactor::new(dialler, Limits::default()).unwrap();
    if let Some(bound) = listener {
        reactor.accept_from(bound).unwrap();
    }
    reactor.run().unwrap();
    let Dialler { dialled, end, .. } = reactor.into_service();
    assert!(!dialled, "{from} reached itself at {to}");
    let refused = End::Unreachable(ErrorKind::ConnectionRefused);
    assert_eq!(end, Some(refused), "{from} to {to}");
}

#[test]
fn a_dial_that_meets_itself_is_refused_and_leaves_the_port_free() {
    for (ip, to_ip) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("::1", "::1"),
        ("::1", "::"),
    ] {
        let (held, from) = hold(ip);
        let to = SocketAddr::new(to_ip.parse().unwrap(), from.port());
        expect_refused(to, from, None);
        drop(held);
        // The standard library's listener may take a port in TIME_WAIT; this one may not.
        let again =
            Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP)).unwrap();
        again
            .bind(&from.into())
            .unwrap_or_else(|e| panic!("{from}: {e}"));
    }
}

/// A node that dials from the port at which it listens, and is told its own address.
#[test]
fn a_listener_that_dials_itself_from_its_own_port_is_refused() {
    let bound = Bound::bind_to_dial_from(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let at = bound.addr();
    expect_refused(at, at, Some(bound));
    TcpListener::bind(at).unwrap();
}

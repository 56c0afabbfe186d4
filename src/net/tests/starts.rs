//! A service starts before anything else happens to it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use crate::engine::{Cx, Hub, Input, Limits, NoJob, Service, Step, Violation};
use crate::net::Reactor;

/// Writes down what it is called for; stops once it has `enough` of it.
struct Diary {
    enough: usize,
    lines: Vec<&'static str>,
}

impl Diary {
    fn note(&mut self, hub: &mut Hub<Diary>, line: &'static str) {
        self.lines.push(line);
        if self.lines.len() == self.enough {
            hub.stop();
        }
    }
}

impl Service for Diary {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = NoJob;

    fn on_start(&mut self, hub: &mut Hub<Diary>) {
        self.note(hub, "start");
    }

    fn on_accept(&mut self, cx: &mut Cx<'_, Diary>, _listener: usize) -> Option<()> {
        self.note(cx, "accept");
        Some(())
    }

    fn on_input(
        &mut self,
        _cx: &mut Cx<'_, Diary>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        Ok(Step::Done(input.bytes.len()))
    }
}

fn reactor(enough: usize) -> Reactor<Diary> {
    let lines = Vec::new();
    Reactor::new(Diary { enough, lines }, Limits::default()).unwrap()
}

/// The first turn does not sleep until something comes.
#[test]
fn a_service_starts_though_nobody_comes() {
    let mut reactor = reactor(1);
    reactor.run().unwrap();
    assert_eq!(reactor.into_service().lines, ["start"]);
}

#[test]
fn a_service_starts_before_whoever_waits_already() {
    let mut reactor = reactor(2);
    let addr = reactor
        .listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
        .unwrap();
    let _waits = TcpStream::connect(addr).unwrap();
    reactor.run().unwrap();
    assert_eq!(reactor.into_service().lines, ["start", "accept"]);
}

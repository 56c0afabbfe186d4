//! Two services on one reactor: lines are echoed at one port, and another one tells how many there were.
//! `cargo run --example two_services`
//!
//! Each has its own connections, limits and listeners; a flood of the first leaves the second its share of each turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerloop::engine::framing::{Cr, Lines};
use peerloop::engine::{Cx, Input, Limits, NoJob, Service, Step, Violation};
use peerloop::net::Reactor;

const LINES: Lines = Lines {
    bytes_max: 1024,
    cr: Cr::Kept,
};

struct Echo(Arc<AtomicU64>);

impl Service for Echo {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, _cx: &mut Cx<'_, Self>, _listener: usize) -> Option<()> {
        Some(())
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(line) = LINES.first(input)? else {
            return Ok(Step::More);
        };
        self.0.fetch_add(1, Relaxed);
        cx.out().extend_from_slice(&input.bytes[..line.used]);
        Ok(Step::Done(line.used))
    }
}

struct Count(Arc<AtomicU64>);

impl Service for Count {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Option<()> {
        let told = format!("{} lines\n", self.0.load(Relaxed));
        cx.out().extend_from_slice(told.as_bytes());
        None
    }

    fn on_input(
        &mut self,
        _cx: &mut Cx<'_, Self>,
        (): &mut (),
        _input: Input<'_>,
    ) -> Result<Step, Violation> {
        Err(Violation::peer("nothing is asked here"))
    }
}

fn main() -> std::io::Result<()> {
    let lines = Arc::new(AtomicU64::new(0));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut reactor = Reactor::new(Echo(lines.clone()), Limits::default())?;
    let echo = reactor.listen(any)?;
    let count = reactor.add_service(Count(lines), Limits::default())?;
    let count = reactor.host(count).listen(any)?;
    reactor.catch_signals()?;
    println!("listening {echo}\ncounting {count}");
    reactor.run()
}

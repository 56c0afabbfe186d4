//! A whole server on the reactor: sends back every line, upper-cased. `cargo run --example echo [IP:PORT]`
//!
//! What the engine does for it: any number of connections, backpressure (a peer that does not read is not read from),
//! an idle timeout, a deadline per line, and a clean end on Ctrl-C.

use peerloop::engine::framing::{Cr, Lines};
use peerloop::engine::{Cx, Input, Limits, NoJob, Service, Step, Ticks, Violation};
use peerloop::net::Reactor;

const LINES: Lines = Lines {
    bytes_max: 1024,
    cr: Cr::Kept,
};

struct Echo;

impl Service for Echo {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) -> Option<()> {
        cx.out().extend_from_slice(b"hello\n");
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
        let out = cx.out();
        out.extend(line.text.iter().map(u8::to_ascii_uppercase));
        out.push(b'\n');
        Ok(Step::Done(line.used))
    }
}

fn main() -> std::io::Result<()> {
    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let listen: std::net::SocketAddr = listen.parse().map_err(std::io::Error::other)?;
    let limits = Limits {
        conns_max: 10_000,
        idle: Ticks::from_secs(30),
        ..Limits::default()
    };
    let mut reactor = Reactor::new(Echo, limits)?;
    reactor.catch_signals()?;
    println!("listening {}", reactor.listen(listen)?);
    reactor.run()
}

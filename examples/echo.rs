//! A whole server on the reactor: sends back every line, upper-cased. `cargo run --example echo [IP:PORT]`
//!
//! What the engine does for it: any number of connections, backpressure (who does not read is not read from),
//! an idle timeout, a deadline per line, and a clean end on Ctrl-C.

use std::net::SocketAddrV4;

use peerloop::engine::{Cx, Input, Limits, NoJob, Service, Step, Ticks, Violation};
use peerloop::net::Reactor;

/// Without its newline.
const LINE_BYTES_MAX: usize = 1024;

struct Echo;

impl Service for Echo {
    type Conn = ();
    type Note = ();
    type Timer = ();
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, cx: &mut Cx<'_, Self>, _listener: usize) {
        cx.out().extend_from_slice(b"hello\n");
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let fresh = &input.bytes[input.seen..];
        match fresh.iter().position(|&byte| byte == b'\n') {
            Some(at) if input.seen + at <= LINE_BYTES_MAX => {
                let line = &input.bytes[..=input.seen + at];
                cx.out().extend(line.iter().map(u8::to_ascii_uppercase));
                Ok(Step::Done(line.len()))
            }
            None if input.bytes.len() <= LINE_BYTES_MAX => Ok(Step::More),
            _ => Err(Violation::peer("line too long")),
        }
    }
}

fn main() -> std::io::Result<()> {
    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let listen: SocketAddrV4 = listen.parse().map_err(std::io::Error::other)?;
    let limits = Limits {
        conns_max: 10_000,
        idle: Ticks::from_secs(30),
        ..Limits::default()
    };
    let mut reactor = Reactor::new(Echo, limits)?;
    let address = reactor.listen(listen)?;
    reactor.catch_signals()?;
    println!("listening {address}");
    reactor.run()
}

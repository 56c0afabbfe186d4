//! The prompt of a running peer.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};

use peerloop::net::{Caller, Handle};
use peerloop::proto::overlay::Overlay;
use peerloop::proto::overlay::peer::Peer;
use peerloop::proto::overlay::table::Link;

use super::lines::Sink;
use super::report::Printer;
use super::values::peer_addr;
use crate::cli::print;
use crate::cli::prompt::{Commands, NodePrompt, Then, split_word};

/// Entries that `table` names; a table may have many thousands.
const ENTRIES_SHOWN_MAX: usize = 100;

const HELP: &str = "\
table              the peers that this one has
declined           who declined it, the latest last
timestamp          ticks of 10 ms, from a random one at the start
join IP:PORT       join one more peer
help               this
quit               leave the overlay and end
";

/// The prompt of the peer at `at`, which runs on the loop of `caller`.
pub(super) fn inside(
    at: SocketAddrV4,
    caller: Caller<Overlay<Printer>>,
    handle: Handle,
) -> Result<NodePrompt> {
    NodePrompt::start(Prompt { at, caller, handle })
}

/// Prints lines in place of the prompt of the peer at `at`, and the prompt again below them. What was typed already is
/// seen again with the next key. (The line editor can do that better, but then waits for a key before it looks at what
/// was typed ahead.)
pub(super) fn above(at: SocketAddrV4) -> Sink {
    const CLEAR_LINE: &str = "\r\x1b[K";
    Box::new(move |lines| {
        print::stdout(&[CLEAR_LINE.as_bytes(), lines, sign(at).as_bytes()].concat())
    })
}

fn sign(at: SocketAddrV4) -> String {
    format!("{at}> ")
}

struct Prompt {
    at: SocketAddrV4,
    caller: Caller<Overlay<Printer>>,
    handle: Handle,
}

impl Commands for Prompt {
    fn sign(&self) -> String {
        sign(self.at)
    }

    fn on_interrupt(&self) -> Option<&'static str> {
        Some("quit")
    }

    fn obey(&self, line: &str) -> Result<Then> {
        match split_word(line) {
            ("", _) => {}
            ("table", "") => self.show(|peer| {
                let mut text = String::new();
                for (addr, link) in peer.table().iter().take(ENTRIES_SHOWN_MAX) {
                    print::line(&mut text, format_args!("{addr:<21}  {}", describe(link)));
                }
                let (len, max) = (peer.table().len(), peer.table().size_max());
                print::line(&mut text, format_args!("{len} of {max}"));
                text
            })?,
            ("declined", "") => self.show(|peer| {
                let mut text = String::new();
                let shown = peer.declined().take(ENTRIES_SHOWN_MAX);
                shown.for_each(|addr| print::line(&mut text, format_args!("{addr}")));
                text
            })?,
            ("timestamp", "") => {
                let timestamp = self.caller.call(|overlay, hub| {
                    let peer = overlay.peers().first();
                    peer.map(|peer| peer.timestamp(hub.now()))
                })?;
                if let Some(timestamp) = timestamp {
                    print::stdout(format!("{timestamp}\n").as_bytes())?;
                }
            }
            ("join", to) => {
                let to = peer_addr(to).with_context(|| format!("cannot join {to:?}"))?;
                self.caller
                    .call(move |overlay, hub| overlay.join(hub, 0, to))?;
            }
            ("help", _) => print::stdout(HELP.as_bytes())?,
            ("quit", _) => {
                self.handle.shutdown();
                return Ok(Then::End);
            }
            (other, _) => bail!("there is no command {other:?}; help lists them"),
        }
        Ok(Then::Next)
    }
}

impl Prompt {
    /// Prints what `tell` says of the peer, on its loop.
    fn show(&self, tell: impl FnOnce(&Peer) -> String + Send + 'static) -> Result<()> {
        let text = self
            .caller
            .call(move |overlay, _| overlay.peers().first().map(tell))?;
        print::stdout(text.unwrap_or_default().as_bytes())
    }
}

fn describe(link: Link) -> &'static str {
    match link {
        Link::Dialling(_) => "dialled",
        Link::Joined(_) => "welcomed us",
        Link::Welcomed(_) => "joined us",
        Link::Linkless(_) => "welcomed us and closed",
    }
}

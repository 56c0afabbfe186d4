//! `peerloop ring peer`.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use peerloop::engine::Limits;
use peerloop::net::Reactor;
use peerloop::proto::ring::node::RingNode;
use peerloop::proto::ring::peer::{self, Peer, Peers};

use super::values::{dial_from, handle};
use crate::cli::addr::{bind, resolve, serve};
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct PeerArgs {
    /// The tracker to register with
    #[arg(long, value_name = "IP:PORT", value_parser = resolve)]
    tracker: SocketAddrV4,
    /// The name of this peer, of 1 to 256 bytes
    #[arg(long, value_name = "NAME", value_parser = handle)]
    handle: String,
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
    /// Write the items to this file, one a line, when all are there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Exit when all items are there
    #[arg(long)]
    once: bool,
    /// Print the message as one JSON object
    #[arg(long)]
    json: bool,
}

impl PeerArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let bound = bind(self.listen)?;
        let listening = bound.addr();
        if listening.ip().is_loopback() && !self.tracker.ip().is_loopback() {
            log::warn!(
                "listening on {listening}, where nobody else can reach this peer; see --listen"
            );
        }
        let config = peer::Config {
            handle: self.handle.as_str().into(),
            addr: listening,
            tracker: self.tracker,
            dial_from: dial_from(listening),
        };
        let service = RingNode::Peers(Peers::new());
        let mut reactor = Reactor::new(service, Peers::fit(Limits::default()))?;
        serve(&mut reactor, bound)?;
        reactor.node().with(|node, hub| {
            if let RingNode::Peers(peers) = node {
                peers.add(hub, config);
            }
        });
        let answer = self.gather(&mut reactor)?;
        // What is queued gets out.
        reactor.run()?;
        Ok(answer)
    }

    /// Serves until it is told to leave; prints the message when it is there.
    fn gather(&self, reactor: &mut Reactor<RingNode>) -> Result<Answer> {
        let mut bar = None;
        let mut printed = false;
        while !reactor.node().stopping() {
            reactor.turn(None)?;
            let node = reactor.node();
            let RingNode::Peers(peers) = node.service() else {
                break;
            };
            let Some(peer) = peers.all().first() else {
                break;
            };
            if peer.is_declined() {
                return Ok(stop(reactor, Answer::No));
            }
            let items = peer.items();
            if let (Some(total), false) = (items.total(), printed) {
                let template = "{bar:40} {pos}/{len} items {elapsed}";
                let bar = bar.get_or_insert_with(|| print::bar(template, 0));
                bar.set_length(total.into());
                bar.set_position(items.count() as u64);
            }
            // A tracker with another database makes it begin again.
            if items.is_complete() && !printed {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                match self.print(peer) {
                    // Its stdout is closed; other peers still need it.
                    Err(e) if print::is_broken_pipe(&e) && !self.once => {
                        log::info!("nobody reads the message");
                    }
                    printed => printed?,
                }
                if self.once {
                    return Ok(stop(reactor, Answer::Yes));
                }
            }
            printed = items_complete(reactor);
        }
        Ok(Answer::Yes)
    }

    fn print(&self, peer: &Peer) -> Result<()> {
        let items: Vec<&str> = peer.items().iter().map(|(_, data)| data).collect();
        if let Some(path) = &self.out {
            write_lines(path, &items)?;
        }
        let message = items.join(" ");
        if self.json {
            return print::json(&Message {
                handle: peer.handle(),
                items: &items,
                message: &message,
            });
        }
        print::stdout(format!("{}\n", print::for_people(&message)).as_bytes())
    }
}

/// What `peer --json` prints when it has all items.
#[derive(Serialize)]
struct Message<'a> {
    handle: &'a str,
    items: &'a [&'a str],
    message: &'a str,
}

fn items_complete(reactor: &mut Reactor<RingNode>) -> bool {
    match reactor.node().service() {
        RingNode::Peers(peers) => peers.all().iter().all(|peer| peer.items().is_complete()),
        RingNode::Tracker(_) => false,
    }
}

fn stop(reactor: &mut Reactor<RingNode>, answer: Answer) -> Answer {
    reactor.node().with(|_, hub| hub.stop());
    answer
}

fn write_lines(path: &Path, items: &[&str]) -> Result<()> {
    let mut lines = String::new();
    for item in items {
        print::line(&mut lines, format_args!("{item}"));
    }
    print::write_file(path, lines.as_bytes())
}

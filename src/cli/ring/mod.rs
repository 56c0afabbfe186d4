//! `peerloop ring`: a tracker, a peer, and the commands that ask one something.

mod database;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use peerloop::app::Committer;
use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::ring::client::{Answer as Told, Client, Question, Row};
use peerloop::proto::ring::node::RingNode;
use peerloop::proto::ring::peer::{self, Peer, Peers};
use peerloop::proto::ring::tracker::{Config, Known, Tracker, Write};
use peerloop::proto::ring::wire::{HANDLE_BYTES_MAX, RegInitOrder};
use peerloop::store::redb::Redb;

use super::addr::resolve;
use super::{Answer, print};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a tracker. Its first line on stdout is `listening IP:PORT`
    Tracker(TrackerArgs),
    /// Run a peer, which prints the assembled message when it has all items and goes on serving. Its first line on stdout is
    /// `listening IP:PORT`
    Peer(PeerArgs),
    /// Say hello to a tracker or a peer and print the answer
    Echo(EchoArgs),
    /// Ask a peer for an item; exits 1 when it does not have it
    Query(QueryArgs),
    /// Ask a peer for its handle; exits 1 when the answer is none
    Ping(PingArgs),
    /// Print the ring of a tracker of ours, in order
    Peers(PeersArgs),
}

#[derive(Args)]
pub(super) struct TrackerArgs {
    /// The database: a text file with one item a line, or a JSON array of strings
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
    /// Each peer is pinged once in this time
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ping_interval: u64,
    /// A peer that does not answer within this is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    ping_timeout: u64,
    /// In which order REG_INIT names the neighbour: as the assignment's text, or as the course's own tracker
    #[arg(long, value_enum, default_value_t = Order::IpFirst)]
    reg_init_order: Order,
    /// Keep the members of the ring in this directory, for the next start
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    IpFirst,
    HandleFirst,
}

#[derive(Args)]
pub(super) struct PeerArgs {
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

#[derive(Args)]
struct Asking {
    /// Give up when there is no answer for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct EchoArgs {
    /// A tracker or a peer
    #[arg(value_name = "IP:PORT", value_parser = resolve)]
    to: SocketAddrV4,
    /// Who says hello
    #[arg(long, value_name = "NAME", default_value = "peerloop", value_parser = handle)]
    handle: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args)]
pub(super) struct QueryArgs {
    /// The peer
    #[arg(value_name = "IP:PORT", value_parser = resolve)]
    to: SocketAddrV4,
    /// The number of the item, from 0
    #[arg(value_name = "SEQ")]
    seq: u32,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args)]
pub(super) struct PingArgs {
    /// The peer
    #[arg(value_name = "IP:PORT", value_parser = resolve)]
    to: SocketAddrV4,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args)]
pub(super) struct PeersArgs {
    /// The tracker
    #[arg(long, value_name = "IP:PORT", value_parser = resolve)]
    tracker: SocketAddrV4,
    #[command(flatten)]
    asking: Asking,
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Tracker(args) => args.run(),
            Command::Peer(args) => args.run(),
            Command::Echo(args) => {
                let handle = args.handle;
                args.asking.ask(args.to, Question::Echo { handle })
            }
            Command::Query(args) => args.asking.ask(args.to, Question::Query { seq: args.seq }),
            Command::Ping(args) => {
                let time = unix_secs().to_string();
                args.asking.ask(args.to, Question::Ping { time })
            }
            Command::Peers(args) => args.asking.ask(args.tracker, Question::Peers),
        }
    }
}

impl TrackerArgs {
    fn run(self) -> Result<Answer> {
        let items = database::read(&self.db)?;
        let (committer, known) = match &self.data {
            Some(dir) => {
                let (committer, known) = Committer::load_members(Redb::open(dir)?)?;
                (Some(committer), known)
            }
            None => (None, Vec::new()),
        };
        let bound = bind(self.listen)?;
        let config = Config {
            ping_interval: Ticks::from_secs(self.ping_interval),
            ping_timeout: Ticks::from_secs(self.ping_timeout),
            order: match self.reg_init_order {
                Order::IpFirst => RegInitOrder::IpFirst,
                Order::HandleFirst => RegInitOrder::HandleFirst,
            },
            dial_from: dial_from(bound.addr()),
            ..Config::default()
        };
        log::info!("{} items; {} peers known", items.len(), known.len());
        let listening = bound.addr();
        let mut reactor = tracker(bound, config, items, known, committer)?;
        reactor.catch_signals()?;
        print::stdout(format!("listening {listening}\n").as_bytes())?;
        reactor.run()?;
        Ok(Answer::Yes)
    }
}

/// A reactor with a tracker.
pub(super) fn tracker(
    bound: Bound<SocketAddrV4>,
    config: Config,
    items: Vec<Box<str>>,
    known: Vec<Known>,
    committer: Option<Committer<Redb, Write>>,
) -> Result<Reactor<RingNode>> {
    let config = Config {
        durable: committer.is_some(),
        started_unix_secs: unix_secs(),
        ..config
    };
    let limits = config.fit(Limits::default());
    let service = RingNode::Tracker(Tracker::new(config, items, known));
    let mut reactor = Reactor::new(service, limits)?;
    if let Some(committer) = committer {
        reactor.start_worker(committer)?;
    }
    reactor.accept_from(bound)?;
    Ok(reactor)
}

impl PeerArgs {
    fn run(self) -> Result<Answer> {
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
        reactor.accept_from(bound)?;
        reactor.catch_signals()?;
        print::stdout(format!("listening {listening}\n").as_bytes())?;
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
                let bar = bar.get_or_insert_with(progress_bar);
                bar.set_length(total.into());
                bar.set_position(items.count() as u64);
            }
            // A tracker with another database makes it begin again.
            if items.is_complete() && !printed {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                match self.print(peer) {
                    // It serves on, even if nobody listens to it any more.
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
        print::stdout(format!("{}\n", for_people(&message)).as_bytes())
    }
}

/// What `peer --json` prints when it has all items.
#[derive(Serialize)]
struct Message<'a> {
    handle: &'a str,
    items: &'a [&'a str],
    message: &'a str,
}

/// A bar on stderr, where somebody looks at one.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} items {elapsed}");
    // The template is a constant, and a good one: the default would only look different.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
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
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{item}");
    }
    print::write_file(path, lines.as_bytes())
}

/// What others sent, for a terminal without its control characters; for a program as it is.
fn for_people(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.into();
    }
    print::escaped(text)
}

impl Asking {
    fn ask(&self, to: SocketAddrV4, question: Question) -> Result<Answer> {
        let wants_text = matches!(question, Question::Echo { .. });
        let limits = Limits {
            idle: Ticks::from_secs(self.timeout),
            dial: Ticks::from_secs(self.timeout),
            ..Limits::default()
        };
        let mut reactor = Reactor::new(Client::new(to, question), limits)?;
        reactor.run()?;
        let told = reactor.into_service().into_result()?;
        let answer = match &told {
            Told::Item(None) => Answer::No,
            Told::Says(_) if !wants_text => Answer::No,
            _ => Answer::Yes,
        };
        if self.json {
            print::json(&Report::from(&told))?;
        } else {
            print::stdout(text(&told).as_bytes())?;
        }
        Ok(answer)
    }
}

/// The answer as lines; of a tracker's text, also where something else was asked.
fn text(told: &Told) -> String {
    match told {
        Told::Says(text) | Told::Handle(text) | Told::Item(Some(text)) => {
            format!("{}\n", for_people(text))
        }
        Told::Item(None) => String::new(),
        Told::Peers(rows) => {
            let mut lines = String::new();
            for row in rows {
                let _ = writeln!(lines, "{} {}", row.addr, for_people(&row.handle));
            }
            lines
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Report<'a> {
    Says(&'a str),
    Handle(&'a str),
    Item(Option<&'a str>),
    Peers(Vec<Place<'a>>),
}

#[derive(Serialize)]
struct Place<'a> {
    handle: &'a str,
    address: SocketAddrV4,
}

impl<'a> From<&'a Told> for Report<'a> {
    fn from(told: &'a Told) -> Report<'a> {
        let place = |row: &'a Row| Place {
            handle: &row.handle,
            address: row.addr,
        };
        match told {
            Told::Says(text) => Report::Says(text),
            Told::Handle(handle) => Report::Handle(handle),
            Told::Item(item) => Report::Item(item.as_deref()),
            Told::Peers(rows) => Report::Peers(rows.iter().map(place).collect()),
        }
    }
}

fn bind(listen: SocketAddrV4) -> Result<Bound<SocketAddrV4>> {
    Bound::bind(listen).with_context(|| format!("cannot listen on {listen} (--listen)"))
}

/// Own connections come from the address that is listened on, since that is what others know; by default the system
/// sees to it.
fn dial_from(listening: SocketAddrV4) -> Option<SocketAddrV4> {
    let ip = *listening.ip();
    let chosen = !ip.is_unspecified() && ip != Ipv4Addr::LOCALHOST;
    chosen.then(|| SocketAddrV4::new(ip, 0))
}

fn handle(text: &str) -> Result<String, String> {
    if (1..=HANDLE_BYTES_MAX).contains(&text.len()) {
        Ok(text.into())
    } else {
        Err(format!("a handle has 1 to {HANDLE_BYTES_MAX} bytes"))
    }
}

fn unix_secs() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

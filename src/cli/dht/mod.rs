//! `peerloop dht`: a node, and the commands that talk to one.

mod draw;
mod shell;
mod walk;

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{Config, DhtNode, VALUE_BYTES_MAX};
use peerloop::proto::dht::rpc::client::{Client, Task};
use peerloop::proto::dht::rpc::operation::{Bounds, Outcome, Verb};
use peerloop::proto::dht::storage::entries::Entries;
use peerloop::store::redb::Redb;
use peerloop::workers::commit::Committer;

use super::addr::{advertised, bind, is_own, resolve, serve};
use super::options::{LONG_SECS, patience_secs, within};
use super::prompt::{self, NodePrompt};
use super::{Answer, print};

/// Range of `--value-max`: sums with a tebibyte do not overflow.
const VALUE_BYTES: RangeInclusive<u64> = 0..=1 << 40;

/// Range of `--replicas`, and its default: two members may crash at once.
pub(super) const REPLICAS_RANGE: RangeInclusive<u8> = 1..=8;
pub(super) const REPLICAS: u8 = 3;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a node. Its first line on stdout is `listening IP:PORT`
    Node(NodeArgs),
    /// Store a value under a name
    Insert(InsertArgs),
    /// Print the value of a name; exits 1 when there is none
    Get(GetArgs),
    /// Forget a name; not an error when there is no entry
    Remove(KeyArgs),
    /// Say whether there is an entry: `yes`, or `no` and exit 1
    Contains(KeyArgs),
    /// Print the address of the node that owns a name
    Locate(KeyArgs),
    /// Walk the ring and show its members; exits 1 when something is inconsistent
    Ring(RingArgs),
    /// A prompt for the commands above; without a terminal, one command a line from stdin
    Shell(shell::ShellArgs),
}

#[derive(Args)]
pub(super) struct NodeArgs {
    /// Join the ring that this peer is in; without one the node is a ring of its own
    #[arg(num_args = 2, value_names = ["PEER_IP", "PEER_PORT"])]
    peer: Vec<String>,
    /// The same; may be given several times, and then any of them will do. With the node's own address among them, the
    /// nodes of a new ring can all be started with one list: the one with the least address founds it
    #[arg(long, value_name = "IP:PORT", value_parser = resolve, conflicts_with = "peer")]
    join: Vec<SocketAddrV4>,
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
    /// The address that others reach this node at, when it is not the one it listens on
    #[arg(long, value_name = "IP:PORT")]
    advertise: Option<SocketAddrV4>,
    /// Keep entries in this directory and acknowledge writes once they are on disk. Without it they are in memory only
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep each entry on so many members of the ring, of which all but one may crash at once; 1: no copies
    #[arg(long, value_name = "R", default_value_t = REPLICAS, value_parser = within(REPLICAS_RANGE))]
    replicas: u8,
    /// Longest value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = VALUE_BYTES_MAX, value_parser = within(VALUE_BYTES))]
    value_max: u64,
    /// Memory for entries and values under way in bytes; a write beyond it is refused [default: 8 GiB]
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30, hide_default_value = true)]
    memory_max: u64,
    /// Most connections at once; the file limit less 32 when that is lower
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = within::<usize>(1..=1_000_000))]
    connections_max: usize,
    /// Close a connection on which nothing was asked for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = within(1..=LONG_SECS))]
    idle_timeout: u64,
    /// Leaving takes at most this long. When nobody took the node's entries by then it exits 1; with --data they are still in
    /// the directory, and come back into the ring when the node is started again; without, they are lost
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = within(1..=LONG_SECS))]
    leave_timeout: u64,
}

#[derive(Args)]
struct Node {
    /// The node to ask first
    #[arg(long = "node", value_name = "IP:PORT", value_parser = resolve)]
    contact: SocketAddrV4,
    /// Give up when a node is silent for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = patience_secs())]
    timeout: u64,
    /// Longest value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = VALUE_BYTES_MAX, value_parser = within(VALUE_BYTES))]
    value_max: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct KeyArgs {
    /// The name; its key is the SHA-1 of its bytes
    #[arg(required_unless_present = "raw_key", conflicts_with = "raw_key")]
    name: Option<String>,
    /// A key itself instead of a name
    #[arg(long, value_name = "DECIMAL")]
    raw_key: Option<Id>,
    #[command(flatten)]
    node: Node,
}

#[derive(Args)]
pub(super) struct RingArgs {
    /// Any member of the ring
    #[arg(long = "node", value_name = "IP:PORT", value_parser = resolve)]
    contact: SocketAddrV4,
    /// Give a member up when it is silent for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = patience_secs())]
    timeout: u64,
    /// Print one JSON object
    #[arg(long, group = "format")]
    json: bool,
    /// Print a graph for graphviz
    #[arg(long, group = "format")]
    dot: bool,
    /// Print a picture
    #[arg(long, group = "format")]
    svg: bool,
}

#[derive(Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Write the value to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct InsertArgs {
    /// The name, then the value; with --raw-key the value alone. No value, or `-`, takes it from stdin
    #[arg(num_args = 0..=2, value_names = ["NAME", "VALUE"])]
    words: Vec<String>,
    /// A key itself instead of a name
    #[arg(long, value_name = "DECIMAL")]
    raw_key: Option<Id>,
    /// Take the value from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    node: Node,
}

impl Command {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Command::Node(args) => args.run(),
            Command::Insert(args) => args.run(),
            Command::Get(args) => args.run(),
            Command::Remove(args) => args.run(Verb::Remove),
            Command::Contains(args) => args.run(Verb::Contains),
            Command::Locate(args) => args.run(Verb::Locate),
            Command::Ring(args) => args.run(),
            Command::Shell(args) => args.run(),
        }
    }
}

impl NodeArgs {
    fn run(self) -> Result<Answer> {
        let mut contacts = self.join;
        if let [ip, port] = &self.peer[..] {
            let peer = format!("{ip}:{port}");
            contacts.push(resolve(&peer).with_context(|| format!("cannot join at {peer}"))?);
        }
        let (committer, entries) = match &self.data {
            Some(dir) => {
                let (committer, entries) = Committer::load(Redb::open(dir)?)?;
                (Some(committer), entries)
            }
            None => (None, Entries::default()),
        };
        let bound = bind(self.listen)?;
        let advertise = advertised(self.advertise, bound.addr())?;
        let own_ip = Some(*bound.addr().ip()).filter(|ip| !ip.is_unspecified());
        let config = Config {
            dial_from: own_ip.map(|ip| SocketAddrV4::new(ip, 0)),
            durable: committer.is_some(),
            replicas: self.replicas,
            value_bytes_max: self.value_max,
            staged_bytes_max: Config::new(advertise).staged_bytes_max.max(self.value_max),
            memory_bytes_max: self.memory_max,
            started_millis: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            leave_within: Ticks::from_secs(self.leave_timeout),
            ..Config::new(advertise)
        };
        let limits = config.fit(Limits {
            conns_max: self.connections_max,
            idle: Ticks::from_secs(self.idle_timeout),
            ..Limits::default()
        });
        log::info!(
            "node {} at {advertise}, {} entries",
            Id::of_addr(advertise),
            entries.len()
        );
        let listening = bound.addr();
        let mut reactor = Reactor::new(DhtNode::new(config, entries), limits)?;
        match committer {
            Some(committer) => reactor.start_worker(committer)?,
            None => log::warn!("entries are kept in memory only; --data DIR keeps them on disk"),
        }
        serve(&mut reactor, bound)?;
        if !contacts.is_empty() {
            let (own, others): (Vec<_>, Vec<_>) = contacts
                .into_iter()
                .partition(|contact| is_own(*contact, advertise, listening));
            let own = own.into_iter().min();
            reactor
                .node()
                .with(|node, hub| node.join_or_found(hub, others, own));
        }
        let prompt = prompt(&reactor, listening)?;
        let result = reactor.run();
        drop(prompt);
        result?;
        let node = reactor.into_service();
        ensure!(
            !node.join_failed(),
            "the ring did not let us join; see the log"
        );
        // The log has said what was not handed over.
        Ok(Answer::yes_if(node.kept_entries() == 0))
    }
}

/// A prompt, if there is a terminal. Otherwise the node ignores stdin.
fn prompt(reactor: &Reactor<DhtNode>, listening: SocketAddrV4) -> Result<Option<NodePrompt>> {
    if !prompt::is_interactive() {
        return Ok(None);
    }
    let ip = listening.ip();
    let ip = if ip.is_unspecified() {
        Ipv4Addr::LOCALHOST
    } else {
        *ip
    };
    let at = SocketAddrV4::new(ip, listening.port());
    shell::inside(at, reactor.caller(), reactor.handle()).map(Some)
}

impl KeyArgs {
    fn key(&self) -> Id {
        self.raw_key
            .unwrap_or_else(|| Id::of(self.name.as_deref().unwrap_or_default().as_bytes()))
    }

    fn run(self, verb: Verb) -> Result<Answer> {
        let key = self.key();
        let outcome = self.node.ask(verb, key)?;
        if self.node.json {
            print::json(&report(key, &outcome))?;
        } else if matches!(outcome, Outcome::Located(_) | Outcome::Contains(_)) {
            print::stdout(format!("{}\n", text(&outcome)?).as_bytes())?;
        }
        Ok(Answer::yes_if(outcome != Outcome::Contains(false)))
    }
}

impl GetArgs {
    fn run(self) -> Result<Answer> {
        let key = self.key.key();
        let outcome = self.key.node.ask(Verb::Get, key)?;
        let Outcome::Got(value) = &outcome else {
            bail!("GET came to {outcome:?}")
        };
        if let (Some(path), Some(value)) = (&self.out, value) {
            print::write_file(path, value)?;
        }
        if self.key.node.json {
            print::json(&report(key, &outcome))?;
        } else if let (None, Some(value)) = (&self.out, value) {
            print::stdout(value)?;
        }
        Ok(Answer::yes_if(value.is_some()))
    }
}

impl RingArgs {
    fn run(self) -> Result<Answer> {
        let walk = walk::walk(self.contact, self.timeout)?;
        match (self.dot, self.svg) {
            (true, _) => print::stdout(draw::dot(&walk).as_bytes())?,
            (_, true) => print::stdout(draw::svg(&walk).as_bytes())?,
            _ => print::result(self.json, &walk)?,
        }
        Ok(Answer::yes_if(walk.is_consistent()))
    }
}

impl InsertArgs {
    fn run(self) -> Result<Answer> {
        let mut words = self.words.iter();
        let key = match self.raw_key {
            Some(key) => key,
            None => {
                let name = words.next().context("a NAME or --raw-key is missing")?;
                Id::of(name.as_bytes())
            }
        };
        let word = words.next().map(String::as_str).filter(|word| *word != "-");
        ensure!(
            words.next().is_none(),
            "with --raw-key there is one VALUE at most"
        );
        let max_bytes = self.node.value_max;
        let value = match (word, &self.file) {
            (Some(_), Some(_)) => bail!("a VALUE and --file exclude each other"),
            (Some(word), None) => checked(Bytes::copy_from_slice(word.as_bytes()), max_bytes)?,
            (None, Some(path)) => read_file(path, max_bytes)?,
            (None, None) => {
                let stdin = std::io::stdin();
                if stdin.is_terminal() {
                    eprintln!("reading the value from the terminal; end it with Ctrl-D");
                }
                read(stdin.lock(), max_bytes).context("stdin")?
            }
        };
        let outcome = self.node.ask(Verb::Insert(value), key)?;
        if self.node.json {
            print::json(&report(key, &outcome))?;
        }
        Ok(Answer::Yes)
    }
}

impl Node {
    /// Runs one operation to its end.
    fn ask(&self, verb: Verb, key: Id) -> Result<Outcome> {
        let bounds = Bounds {
            value_bytes_max: self.value_max,
            // About a second in all, since a person waits.
            attempts_max: 5,
            // Another client may have written in between, and a repetition would undo that. The user decides.
            unknown_is_final: true,
            ..Bounds::default()
        };
        let limits = Limits {
            idle: Ticks::from_secs(self.timeout),
            output_bytes_max: usize::MAX,
            ..Limits::default()
        };
        let results = run_tasks(self.contact, vec![Task { verb, key }], bounds, limits, 1)?;
        let result = results
            .into_iter()
            .next()
            .flatten()
            .context("interrupted")?;
        Ok(result?)
    }
}

/// Runs a list of tasks on a reactor of their own.
pub(super) fn run_tasks(
    contact: SocketAddrV4,
    tasks: Vec<Task>,
    bounds: Bounds,
    limits: Limits,
    at_once_max: usize,
) -> Result<Vec<Option<Result<Outcome, peerloop::proto::dht::rpc::operation::Failure>>>> {
    let mut reactor = Reactor::new(Client::new(contact, tasks, bounds, at_once_max), limits)?;
    reactor.run()?;
    Ok(reactor.into_service().into_results())
}

/// What `--json` prints of an operation.
fn report(key: Id, outcome: &Outcome) -> Value {
    let mut report = json!({ "key": key.to_string() });
    match outcome {
        Outcome::Located(addr) => report["owner"] = addr.to_string().into(),
        Outcome::Contains(found) => report["found"] = (*found).into(),
        Outcome::Inserted => report["stored"] = true.into(),
        Outcome::Removed => report["removed"] = true.into(),
        Outcome::Got(None) => report["found"] = false.into(),
        Outcome::Got(Some(value)) => {
            report["found"] = true.into();
            report["bytes"] = value.len().into();
            match std::str::from_utf8(value) {
                Ok(text) => report["value"] = text.into(),
                Err(_) => report["value_hex"] = print::hex(value).into(),
            }
        }
        // Operations between nodes.
        Outcome::PrevUpdated | Outcome::After { .. } | Outcome::Told(_) => {}
    }
    report
}

/// The outcome of an operation as text.
fn text(outcome: &Outcome) -> Result<String> {
    Ok(match outcome {
        Outcome::Located(addr) => addr.to_string(),
        Outcome::Contains(true) => "yes".into(),
        Outcome::Contains(false) => "no".into(),
        Outcome::Got(None) => "no entry".into(),
        Outcome::Got(Some(value)) => match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("{} bytes, in base 16: {}", value.len(), print::hex(value)),
        },
        Outcome::Inserted => "stored".into(),
        Outcome::Removed => "removed".into(),
        other => bail!("it came to {other:?}"),
    })
}

fn checked(value: Bytes, max_bytes: u64) -> Result<Bytes> {
    let bytes = value.len() as u64;
    ensure!(bytes <= max_bytes, "{}", too_large(bytes, max_bytes));
    Ok(value)
}

fn too_large(bytes: u64, max_bytes: u64) -> String {
    format!(
        "the value has {bytes} bytes, over the limit of {max_bytes}; nodes refuse it too unless they \
         are started with a larger --value-max, then give the same here"
    )
}

fn read_file(path: &Path, max_bytes: u64) -> Result<Bytes> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let known = file.metadata().with_context(context)?;
    if known.is_file() && known.len() > max_bytes {
        bail!("{}: {}", path.display(), too_large(known.len(), max_bytes));
    }
    read(file, max_bytes).with_context(context)
}

/// Reads everything, but not more than a byte over the limit.
fn read(from: impl Read, max_bytes: u64) -> Result<Bytes> {
    let mut value = Vec::new();
    from.take(max_bytes.saturating_add(1))
        .read_to_end(&mut value)?;
    if value.len() as u64 > max_bytes {
        bail!("the value is over the limit of {max_bytes} bytes (--value-max)");
    }
    Ok(value.into())
}

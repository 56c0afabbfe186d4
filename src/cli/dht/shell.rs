//! The prompt: `peerloop dht shell`, and the one inside a running node.
//!
//! Commands on data are ordinary client operations; inside a node they go over loopback to its own address. State that
//! only the node has (its table, its keys) is read on its loop, by [`Caller::call`].

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;

use peerloop::net::{Caller, Handle};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::node::{DhtNode, VALUE_BYTES_MAX};
use peerloop::proto::dht::routing::Member;
use peerloop::proto::dht::rpc::operation::{Outcome, Verb};

use super::{Node, resolve, text};
use crate::cli::options::patience_secs;
use crate::cli::prompt::{self, Commands, NodePrompt, Then, split_word};
use crate::cli::{Answer, print};

/// Keys that `keys` lists; a node may hold millions.
const KEYS_SHOWN_MAX: usize = 100;

/// Timeout of an operation at the prompt of a node.
const PATIENCE_SECS: u64 = 10;

const HELP: &str = "\
insert NAME VALUE  store a value; the rest of the line is the value
get NAME           print it
remove NAME        forget it
contains NAME      yes or no
locate NAME        the address of the node that owns the name
table              what the node knows of the ring
";
const HELP_NODE: &str = "\
keys               what this node holds
disconnect         hand everything over and leave the ring
quit               close the prompt; the node runs on
";
const HELP_SHELL: &str = "\
quit               end
";

#[derive(Args)]
pub(in crate::cli) struct ShellArgs {
    /// The node to ask first
    #[arg(long = "node", value_name = "IP:PORT", value_parser = resolve)]
    contact: SocketAddrV4,
    /// Give up when a node is silent for this long
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_SECS, value_parser = patience_secs())]
    timeout: u64,
}

impl ShellArgs {
    pub(super) fn run(self) -> Result<Answer> {
        prompt::run(&Prompt::new(self.contact, self.timeout, None))
    }
}

/// The prompt of the node at `at`, which runs on the loop of `caller`.
pub(super) fn inside(
    at: SocketAddrV4,
    caller: Caller<DhtNode>,
    handle: Handle,
) -> Result<NodePrompt> {
    NodePrompt::start(Prompt::new(
        at,
        PATIENCE_SECS,
        Some(Inside { caller, handle }),
    ))
}

/// The node that the prompt is part of.
struct Inside {
    caller: Caller<DhtNode>,
    handle: Handle,
}

struct Prompt {
    node: Node,
    inside: Option<Inside>,
}

impl Commands for Prompt {
    fn sign(&self) -> String {
        format!("{}> ", self.node.contact)
    }

    fn on_interrupt(&self) -> Option<&'static str> {
        // As SIGINT does to a node without a prompt.
        self.inside.is_some().then_some("disconnect")
    }

    fn obey(&self, line: &str) -> Result<Then> {
        let (word, rest) = split_word(line);
        let (name, value) = split_word(rest);
        match (word, &self.inside) {
            ("", _) => {}
            ("insert", _) => {
                ensure!(!value.is_empty(), "insert takes a NAME and a VALUE");
                let value = Bytes::copy_from_slice(value.as_bytes());
                self.ask("insert", Verb::Insert(value), name)?;
            }
            ("get" | "remove" | "contains" | "locate", _) => {
                ensure!(value.is_empty(), "{word} takes one NAME, without spaces");
                let verb = match word {
                    "get" => Verb::Get,
                    "remove" => Verb::Remove,
                    "contains" => Verb::Contains,
                    _ => Verb::Locate,
                };
                self.ask(word, verb, name)?;
            }
            ("table", Some(inside)) => print::stdout(inside.table()?.as_bytes())?,
            ("table", None) => self.table_from_outside()?,
            ("keys", Some(inside)) => print::stdout(inside.keys()?.as_bytes())?,
            ("disconnect", Some(inside)) => {
                inside.handle.shutdown();
                return Ok(Then::End);
            }
            ("help", inside) => {
                let more = if inside.is_some() {
                    HELP_NODE
                } else {
                    HELP_SHELL
                };
                print::stdout(format!("{HELP}{more}").as_bytes())?;
            }
            ("quit", _) => return Ok(Then::End),
            ("keys" | "disconnect", None) => bail!("{word} is for the prompt of the node itself"),
            (other, _) => bail!("there is no command {other:?}; help lists them"),
        }
        Ok(Then::Next)
    }
}

impl Prompt {
    fn new(contact: SocketAddrV4, timeout: u64, inside: Option<Inside>) -> Prompt {
        let node = Node {
            contact,
            timeout,
            value_max: VALUE_BYTES_MAX,
            json: false,
        };
        Prompt { node, inside }
    }

    fn ask(&self, word: &str, verb: Verb, name: &str) -> Result<()> {
        ensure!(!name.is_empty(), "{word} takes a NAME");
        let outcome = self.node.ask(verb, Id::of(name.as_bytes()))?;
        let text = text(&outcome).with_context(|| word.to_owned())?;
        print::stdout(format!("{text}\n").as_bytes())
    }

    /// The table by XSTAT, which plain nodes do not know.
    fn table_from_outside(&self) -> Result<()> {
        let addr = self.node.contact;
        let told = self.node.ask(Verb::Stat, Id::of_addr(addr));
        let Outcome::Told(stat) = told.context("the node does not tell (XSTAT)")? else {
            bail!("XSTAT came to something else");
        };
        let stat = stat.context("the node is no member (it joins or leaves)")?;
        let text = table(
            Member::at(addr),
            stat.prev.map(Member::at),
            Member::at(stat.next),
            &[],
        );
        let text = text + &holdings(stat.entries, stat.value_bytes);
        print::stdout(text.as_bytes())
    }
}

impl Inside {
    fn table(&self) -> Result<String> {
        let (routing, stat) = self
            .caller
            .call(|node, hub| (node.routing().clone(), node.stat(hub.now())))?;
        let (me, prev, next) = (routing.me(), routing.prev(), routing.next());
        let text = table(me, prev, next, routing.fingers());
        Ok(text + &holdings(stat.entries, stat.value_bytes))
    }

    fn keys(&self) -> Result<String> {
        let (keys, count) = self.caller.call(|node, _| {
            let (me, entries) = (node.me().id, node.entries());
            let some = entries.arc(me, me).take(KEYS_SHOWN_MAX);
            (
                some.map(|(key, value)| (key, value.len()))
                    .collect::<Vec<_>>(),
                entries.len(),
            )
        })?;
        let mut text = String::new();
        for (key, bytes) in &keys {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key:<49}  {bytes} bytes");
        }
        if count > keys.len() {
            let _ = writeln!(text, "and {} more", count - keys.len());
        }
        if count == 0 {
            text += "no entries\n";
        }
        Ok(text)
    }
}

fn table(me: Member, prev: Option<Member>, next: Member, fingers: &[Member]) -> String {
    let row = |what: &str, member: &Member| {
        let Member { addr, id } = member;
        format!("{what:<7}  {:<21}  {id}\n", addr.to_string())
    };
    let prev = prev.map_or("prev     unknown\n".into(), |prev| row("prev", &prev));
    let fingers: String = fingers.iter().map(|finger| row("finger", finger)).collect();
    row("node", &me) + &prev + &row("next", &next) + &fingers
}

fn holdings(entries: u64, value_bytes: u64) -> String {
    format!("holds    {entries} entries, {value_bytes} bytes of values\n")
}

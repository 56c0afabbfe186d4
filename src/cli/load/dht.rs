//! `peerloop load dht`: data commands on one node.

use std::net::SocketAddrV4;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};

use peerloop::engine::{Input, Limits};
use peerloop::proto::dht::id::Id;
use peerloop::proto::dht::rpc::client::Task;
use peerloop::proto::dht::rpc::operation::{Bounds, Outcome, Verb};
use peerloop::proto::dht::wire::{self, Malformed, Request};

use super::connections::{Heard, Talker};
use super::driver::Plan;
use super::{Common, load, run_to_end};
use crate::cli::options::within;
use crate::cli::{Answer, dht};

/// Requests that are encoded in advance; the encoding of more would take too much memory.
const WRITTEN_MAX: u64 = 65_536;

/// Connections that store the entries at the start, and the requests under way on each.
const FILL_CONNECTIONS: usize = 16;
const FILL_DEPTH: usize = 16;

/// Random keys tried to find one that the node owns; more means that it owns next to nothing.
const DRAWS_MAX: u64 = 1_000_000;

#[derive(Args)]
pub(in crate::cli) struct DhtArgs {
    #[command(flatten)]
    common: Common,
    /// What is asked
    #[arg(long, value_enum, default_value_t = Command::Get)]
    command: Command,
    /// Entries that are asked for in turn; GET and CONTAINS store them first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = within::<u64>(1..=10_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = within::<u64>(0..=64 << 20))]
    value_bytes: u64,
    /// Do not store the entries first: they are there from an earlier run
    #[arg(long)]
    filled: bool,
    /// A connection for every request, as plain peers do it
    #[arg(long)]
    close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Command {
    Get,
    Contains,
    Insert,
    Locate,
}

impl DhtArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let addr = self.common.addr;
        let arc = arc(addr)?;
        if matches!(self.command, Command::Get | Command::Contains) && !self.filled {
            let fill = DhtTalk::new(&self, Command::Insert, false, arc)?;
            let plan = Plan::of_requests(FILL_CONNECTIONS, FILL_DEPTH, self.keys);
            let filled = run_to_end(addr, fill, plan)?.driver;
            ensure!(
                !filled.interrupted,
                "interrupted while the entries were stored"
            );
            let (stored, refused) = (filled.measurement.answers(), filled.measurement.refused);
            ensure!(
                stored == self.keys && refused == 0,
                "{addr} stored {} of {} entries: {}",
                stored - refused,
                self.keys,
                filled.first_error()
            );
        }
        let talk = DhtTalk::new(&self, self.command, self.close, arc)?;
        let request = format!(
            "{} of {} bytes, {} keys",
            format!("{:?}", self.command).to_uppercase(),
            self.value_bytes,
            self.keys
        );
        load(&self.common, "dht", request, talk)
    }
}

/// The arc that the node owns, by XSTAT. A node without XSTAT is asked for all keys.
fn arc(addr: SocketAddrV4) -> Result<(Id, Id)> {
    let me = Id::of_addr(addr);
    let task = Task {
        verb: Verb::Stat,
        key: me,
    };
    let bounds = Bounds {
        attempts_max: 2,
        ..Bounds::default()
    };
    let results = dht::run_tasks(addr, vec![task], bounds, Limits::default(), 1)?;
    Ok(match results.into_iter().next().flatten() {
        Some(Ok(Outcome::Told(Some(stat)))) => (me, Id::of_addr(stat.next)),
        Some(Err(e)) => {
            log::info!("{addr} does not tell what it owns: {e}");
            (me, me)
        }
        _ => (me, me),
    })
}

/// Requests for the keys that the node owns, in turn.
struct DhtTalk {
    command: Command,
    once: bool,
    keys: u64,
    arc: (Id, Id),
    next: u64,
    /// The first requests, encoded.
    written: Vec<Box<[u8]>>,
    value: Bytes,
}

/// The part of an answer that is read next.
#[derive(Debug, Default, Clone, Copy)]
enum Reading {
    #[default]
    Ack,
    Length,
    Value {
        left: u64,
    },
    Second,
}

impl DhtTalk {
    fn new(args: &DhtArgs, command: Command, once: bool, arc: (Id, Id)) -> Result<DhtTalk> {
        let mut talk = DhtTalk {
            command,
            once,
            keys: args.keys,
            arc,
            next: 0,
            written: Vec::new(),
            value: Bytes::from(vec![b'x'; args.value_bytes as usize]),
        };
        for number in 0..args.keys.min(WRITTEN_MAX) {
            if talk.key(number).is_none() {
                bail!(
                    "{} owns next to nothing of its ring: ask another member",
                    args.common.addr
                );
            }
            let mut request = Vec::new();
            talk.put(number, &mut request);
            talk.written.push(request.into());
        }
        Ok(talk)
    }

    /// Key number `number` of those that the node owns.
    fn key(&self, number: u64) -> Option<Id> {
        let (start, end) = self.arc;
        (0..DRAWS_MAX)
            .map(|draw| {
                let mut bytes = [0; 20];
                for (place, chunk) in bytes.chunks_mut(8).enumerate() {
                    let word = mixed(number ^ (draw << 40) ^ ((place as u64 + 1) << 60));
                    chunk.copy_from_slice(&word.to_be_bytes()[..chunk.len()]);
                }
                Id::from_be_bytes(bytes)
            })
            .find(|key| key.in_arc(start, end))
    }

    fn put(&self, number: u64, out: &mut Vec<u8>) {
        let key = self.key(number).unwrap_or(self.arc.0);
        let request = match self.command {
            Command::Get => Request::Get(key),
            Command::Contains => Request::Contains(key),
            Command::Insert => Request::Insert(key),
            Command::Locate => Request::Locate(key),
        };
        wire::put_request(out, &request);
        if self.command == Command::Insert {
            wire::put_number(out, self.value.len() as u64);
        }
    }
}

/// The finaliser of splitmix64: every bit of the input moves every bit of the output.
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Talker for DhtTalk {
    type Request = ();
    type Reading = Reading;

    fn is_once(&self) -> bool {
        self.once
    }

    fn next(&mut self) {}

    fn write(&mut self, (): &mut (), out: &mut Vec<u8>) -> Option<Bytes> {
        let number = self.next;
        self.next = (self.next + 1) % self.keys;
        match self.written.get(number as usize) {
            Some(request) => out.extend_from_slice(request),
            None => self.put(number, out),
        }
        (self.command == Command::Insert).then(|| self.value.clone())
    }

    fn answer(
        &mut self,
        (): &mut (),
        reading: &mut Reading,
        input: Input<'_>,
    ) -> Result<Heard, &'static str> {
        let Input { bytes, seen } = input;
        let bad = Malformed::what;
        // The next state, the bytes used, and the answer if it is complete.
        let (next, used, yes) = match (*reading, self.command) {
            (Reading::Ack, Command::Locate) => match wire::address(bytes, seen).map_err(bad)? {
                Some((_, used)) => (Reading::Ack, used, Some(true)),
                None => return Ok(Heard::More),
            },
            (Reading::Ack, command) => match wire::ack(bytes, seen).map_err(bad)? {
                Some((false, used)) => (Reading::Ack, used, Some(false)),
                Some((true, used)) if command == Command::Get => (Reading::Length, used, None),
                Some((true, used)) => (Reading::Second, used, None),
                None => return Ok(Heard::More),
            },
            (Reading::Length, _) => match wire::number(bytes, seen).map_err(bad)? {
                Some((0, used)) => (Reading::Ack, used, Some(true)),
                Some((left, used)) => (Reading::Value { left }, used, None),
                None => return Ok(Heard::More),
            },
            (Reading::Value { .. }, _) if bytes.is_empty() => return Ok(Heard::More),
            (Reading::Value { left }, _) => {
                let used = left.min(bytes.len() as u64);
                match left - used {
                    0 => (Reading::Ack, used as usize, Some(true)),
                    left => (Reading::Value { left }, used as usize, None),
                }
            }
            (Reading::Second, _) => match wire::ack(bytes, seen).map_err(bad)? {
                Some((yes, used)) => (Reading::Ack, used, Some(yes)),
                None => return Ok(Heard::More),
            },
        };
        *reading = next;
        Ok(match yes {
            Some(yes) => Heard::Answer { used, yes },
            None => Heard::Took(used),
        })
    }
}

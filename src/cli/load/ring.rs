//! `peerloop load ring`: messages to a tracker, or to a peer of its ring.

use std::borrow::Cow;

use anyhow::Result;
use bytes::Bytes;
use clap::{Args, ValueEnum};

use peerloop::engine::Input;
use peerloop::proto::ring::wire::{Encoding, Reader, Reply, Request};

use super::connections::{Heard, Talker};
use super::{Common, load};
use crate::cli::Answer;
use crate::cli::options::within;

/// The sender that ECHO names.
const HANDLE: &str = "load";

#[derive(Args)]
pub(in crate::cli) struct RingArgs {
    #[command(flatten)]
    common: Common,
    /// What is asked: ECHO of anybody, QUERY and PING of a peer
    #[arg(long, value_enum, default_value_t = Message::Echo)]
    message: Message,
    /// QUERY asks for the items from 0 up to this one in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within::<u32>(1..=u32::MAX))]
    items: u32,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Written::Pickle)]
    encoding: Written,
    /// A connection for every message, as the course's programs do it
    #[arg(long)]
    close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Message {
    Echo,
    Ping,
    Query,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Written {
    Pickle,
    Literal,
    Bare,
}

impl RingArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let encoding = match self.encoding {
            Written::Pickle => Encoding::OURS,
            Written::Literal => Encoding::Literal,
            Written::Bare => Encoding::Bare,
        };
        let name = format!("{:?}", self.message).to_uppercase();
        let request = format!("{name} as {:?}", self.encoding).to_lowercase();
        let talk = RingTalk {
            message: self.message,
            items: self.items,
            next: 0,
            encoding,
            once: self.close,
        };
        load(&self.common, "ring", request, talk)
    }
}

struct RingTalk {
    message: Message,
    items: u32,
    next: u32,
    encoding: Encoding,
    once: bool,
}

impl Talker for RingTalk {
    type Request = ();
    type Reading = Reader;

    fn is_once(&self) -> bool {
        self.once
    }

    fn next(&mut self) {}

    fn write(&mut self, (): &mut (), out: &mut Vec<u8>) -> Option<Bytes> {
        let request = match self.message {
            Message::Echo => Request::Echo {
                handle: Cow::Borrowed(HANDLE),
            },
            Message::Ping => Request::Ping {
                time: Cow::Borrowed("0"),
            },
            Message::Query => {
                let seq = self.next;
                self.next = (self.next + 1) % self.items;
                Request::Query { seq }
            }
        };
        request.put(self.encoding, out);
        None
    }

    fn answer(
        &mut self,
        (): &mut (),
        reader: &mut Reader,
        input: Input<'_>,
    ) -> Result<Heard, &'static str> {
        let Some(packet) = reader.read(input).map_err(|refusal| refusal.what())? else {
            return Ok(Heard::More);
        };
        let used = packet.used;
        let reply = packet.reply().map_err(|bad| bad.what())?;
        let yes = match (self.message, reply) {
            (_, bad) if bad == Reply::BAD_REQUEST => false,
            (Message::Echo, Reply::Tracker(_)) | (Message::Ping, Reply::Ping { .. }) => true,
            (Message::Query, Reply::QueryResult(item)) => item.is_some(),
            _ => return Err("the answer to something else"),
        };
        Ok(Heard::Answer { used, yes })
    }
}

//! `peerloop load index`: searches, or the keep-alives of a peer that is registered for it.

use std::net::SocketAddrV4;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};

use peerloop::engine::Input;
use peerloop::proto::index::call::{Answer as Granted, Call, Credentials};
use peerloop::proto::index::fields::PeerId;
use peerloop::proto::index::wire::{Frame, Kind, Request};

use super::connections::{Heard, Talker};
use super::{Common, load};
use crate::cli::Answer;
use crate::cli::index::ServerAt;

/// A busy server takes the one registration within this.
const PATIENCE_SECS: u64 = 60;

#[derive(Args)]
pub(in crate::cli) struct IndexArgs {
    #[command(flatten)]
    common: Common,
    /// What is asked
    #[arg(long, value_enum, default_value_t = Message::KeepAlive)]
    message: Message,
    /// What SEARCH looks for; given several times, each in turn
    #[arg(long, value_name = "WORDS")]
    words: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Message {
    KeepAlive,
    Search,
}

impl IndexArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let (kind, requests) = match self.message {
            Message::KeepAlive => {
                let id = registered(self.common.addr)?;
                (Kind::KeepAlive, vec![written(&Request::KeepAlive { id })])
            }
            Message::Search => {
                ensure!(!self.words.is_empty(), "--message search needs --words");
                let search = |words: &String| written(&Request::Search { words, offset: 0 });
                (Kind::Search, self.words.iter().map(search).collect())
            }
        };
        let request = format!("{kind:?} {}", self.words.join(", "));
        let talk = IndexTalk {
            kind,
            requests,
            next: 0,
        };
        load(&self.common, "index", request.trim_end().into(), talk)
    }
}

fn written(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    bytes
}

/// Registers a peer without files and logs it in, so that there is somebody to keep alive.
fn registered(addr: SocketAddrV4) -> Result<PeerId> {
    let server = ServerAt {
        addr: addr.into(),
        timeout: PATIENCE_SECS,
    };
    let who = Arc::new(Credentials {
        // Of its own in every run: nobody else knows the password.
        user: format!("load-{:x}", rand::random::<u64>()),
        password: format!("{:032x}", rand::random::<u128>()),
    });
    let register = Call::Register {
        who: who.clone(),
        files: Arc::new([]),
    };
    let Granted::Registered(id) = server.ask(register)? else {
        bail!("REGISTER came to something else");
    };
    let login = Call::Login {
        who,
        id,
        ip: None,
        port: addr.port(),
    };
    server.ask(login)?;
    Ok(id)
}

struct IndexTalk {
    kind: Kind,
    requests: Vec<Vec<u8>>,
    next: usize,
}

impl Talker for IndexTalk {
    type Request = ();
    type Reading = ();

    fn is_known_by_address(&self) -> bool {
        self.kind == Kind::KeepAlive
    }

    fn next(&mut self) {}

    fn write(&mut self, (): &mut (), out: &mut Vec<u8>) -> Option<Bytes> {
        out.extend_from_slice(&self.requests[self.next]);
        self.next = (self.next + 1) % self.requests.len();
        None
    }

    fn answer(
        &mut self,
        (): &mut (),
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Heard, &'static str> {
        let Some(frame) = Frame::of(input) else {
            return Ok(Heard::More);
        };
        let yes = frame.kind == self.kind.ok();
        if !yes && frame.kind != self.kind.ko() {
            return Err("the answer to something else");
        }
        Ok(Heard::Answer {
            used: frame.len(),
            yes,
        })
    }
}

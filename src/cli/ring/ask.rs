//! `peerloop ring echo`, `query`, `ping` and `peers`: one question, one answer.

use std::net::SocketAddrV4;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::ring::client::{Answer as Told, Client, Question, Row};

use super::values::{handle, unix_secs};
use crate::cli::addr::resolve;
use crate::cli::{Answer, print};

/// Timeouts that a question may take in all: for the dial and for the answer.
const ANSWER_TIMEOUTS_MAX: u64 = 2;

/// Timeouts that a list of peers may take in all, which comes in many answers.
const LIST_TIMEOUTS_MAX: u64 = 10;

#[derive(Args)]
pub(in crate::cli) struct AskOptions {
    /// Give up when there is no answer for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub(in crate::cli) enum Ask {
    /// Say hello to a tracker or a peer and print the answer
    Echo {
        /// A tracker or a peer
        #[arg(value_name = "IP:PORT", value_parser = resolve)]
        to: SocketAddrV4,
        /// Who says hello
        #[arg(long, value_name = "NAME", default_value = "peerloop", value_parser = handle)]
        handle: String,
        #[command(flatten)]
        options: AskOptions,
    },
    /// Ask a peer for an item; exits 1 when it does not have it
    Query {
        /// The peer
        #[arg(value_name = "IP:PORT", value_parser = resolve)]
        to: SocketAddrV4,
        /// The number of the item, from 0
        #[arg(value_name = "SEQ")]
        seq: u32,
        #[command(flatten)]
        options: AskOptions,
    },
    /// Ask a peer for its handle; exits 1 when the answer is none
    Ping {
        /// The peer
        #[arg(value_name = "IP:PORT", value_parser = resolve)]
        to: SocketAddrV4,
        #[command(flatten)]
        options: AskOptions,
    },
    /// Print the ring of a tracker of ours, in order
    Peers {
        /// The tracker
        #[arg(long, value_name = "IP:PORT", value_parser = resolve)]
        tracker: SocketAddrV4,
        #[command(flatten)]
        options: AskOptions,
    },
}

impl Ask {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Ask::Echo {
                to,
                handle,
                options,
            } => options.ask(to, Question::Echo { handle }),
            Ask::Query { to, seq, options } => options.ask(to, Question::Query { seq }),
            Ask::Ping { to, options } => {
                let time = unix_secs().to_string();
                options.ask(to, Question::Ping { time })
            }
            Ask::Peers { tracker, options } => options.ask(tracker, Question::Peers),
        }
    }
}

impl AskOptions {
    fn ask(&self, to: SocketAddrV4, question: Question) -> Result<Answer> {
        let wants_text = matches!(question, Question::Echo { .. });
        let timeout = Ticks::from_secs(self.timeout);
        let limits = Limits {
            idle: timeout,
            dial: timeout,
            ..Limits::default()
        };
        let timeouts = match question {
            Question::Peers => LIST_TIMEOUTS_MAX,
            _ => ANSWER_TIMEOUTS_MAX,
        };
        let deadline = Ticks(timeout.0.saturating_mul(timeouts));
        let mut reactor = Reactor::new(Client::new(to, question, deadline), limits)?;
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
            format!("{}\n", print::for_people(text))
        }
        Told::Item(None) => String::new(),
        Told::Peers(rows) => {
            let mut lines = String::new();
            for row in rows {
                let handle = print::for_people(&row.handle);
                print::line(&mut lines, format_args!("{} {handle}", row.addr));
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

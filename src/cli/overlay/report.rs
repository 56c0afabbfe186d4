//! What a peer prints on stdout: the protocol's lines, or one JSON object each. All else goes to the log.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::time::Instant;

use serde::Serialize;

use peerloop::engine::{Deadline, End, Tick, Ticks};
use peerloop::proto::log_limit::LogLimit;
use peerloop::proto::overlay::join::{JoinEnd, Report};
use peerloop::proto::overlay::packet::{Kind, Packet};
use peerloop::proto::overlay::peer::Config;
use peerloop::proto::overlay::{Event, Observer, Then};

use super::lines::Lines;
use crate::cli::print;

/// Entries of a packet that a line shows: all that our peers send.
const ENTRIES_SHOWN_MAX: usize = 64;

/// What became of the join that the peer was started with.
pub(super) enum Outcome {
    /// Or there was none.
    Joined,
    Declined {
        by: u32,
        failures: u32,
    },
    Failed {
        contact: SocketAddrV4,
        why: String,
    },
}

/// Prints events.
pub(super) struct Printer {
    json: bool,
    /// The join that the node was started for is not over.
    starting: Option<SocketAddrV4>,
    outcome: Outcome,
    last_failure: String,
    lines: Lines,
    started: Instant,
    /// Peers come and go as fast as they like.
    log_gone: LogLimit,
    log_failed: LogLimit,
    log_other_port: LogLimit,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Listening {
        addr: SocketAddrV4,
    },
    Address {
        addr: SocketAddrV4,
        name: &'a str,
    },
    ConnectedFrom {
        peer: SocketAddrV4,
    },
    Redirected {
        peer: SocketAddrV4,
    },
    ConnectedTo {
        peer: SocketAddrV4,
        name: String,
        timestamp: u32,
        welcome: bool,
        peered_with: Vec<SocketAddrV4>,
    },
    Failed {
        peer: SocketAddrV4,
        why: &'a str,
        again: bool,
    },
    OtherPort {
        peer: SocketAddrV4,
    },
    Gone {
        peer: SocketAddrV4,
        remembered: bool,
    },
    Forgotten {
        peer: SocketAddrV4,
    },
    JoinEnded {
        satisfied: bool,
        welcomes: u32,
        redirects: u32,
        failures: u32,
        milliseconds: u128,
    },
}

impl Printer {
    /// `contact`: the peer to join at the start.
    pub(super) fn new(json: bool, contact: Option<SocketAddrV4>) -> Printer {
        Printer {
            json,
            starting: contact,
            outcome: Outcome::Joined,
            last_failure: "it is this peer itself".into(),
            lines: Lines::new(),
            started: Instant::now(),
            log_gone: LogLimit::default(),
            log_failed: LogLimit::default(),
            log_other_port: LogLimit::default(),
        }
    }

    /// The first lines.
    pub(super) fn begin(&self, listening: SocketAddrV4, config: &Config) {
        let (addr, name) = (config.addr, &config.name);
        self.object(&Line::Listening { addr: listening });
        self.object(&Line::Address { addr, name });
        self.text(format_args!(
            "listening {listening}\nThis peer address is {addr} located at {name}\n"
        ));
    }

    pub(super) fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    /// Once the peer has ended.
    pub(super) fn finish(self) -> Outcome {
        self.lines.finish();
        self.outcome
    }

    fn now(&self) -> Tick {
        Tick(0) + Ticks::from_duration(self.started.elapsed())
    }

    /// A text, unless objects are wanted.
    fn text(&self, text: std::fmt::Arguments<'_>) {
        use std::io::Write as _;
        if self.json {
            return;
        }
        // Writing to memory does not fail.
        self.lines.push(|lines| _ = lines.write_fmt(text));
    }

    /// An object, if objects are wanted.
    fn object(&self, line: &Line<'_>) {
        if !self.json {
            return;
        }
        self.lines.push(|lines| {
            // Nor does this: no map has keys that are no strings.
            let _ = serde_json::to_writer(&mut *lines, line);
            lines.push(b'\n');
        });
    }

    fn answered(&self, peer: SocketAddrV4, packet: Packet<'_>, timestamp: u32) {
        let name = printable(packet.sender);
        let welcome = packet.kind == Kind::Welcome;
        if self.json {
            return self.object(&Line::ConnectedTo {
                peer,
                name,
                timestamp,
                welcome,
                peered_with: packet.entries.iter().collect(),
            });
        }
        let port = peer.port();
        let mut text = format!(
            "Connected to peer {name}:{port} at timestamp: {timestamp}\nReceived ack from {name}:{port}\n"
        );
        if !packet.entries.is_empty() {
            let shown = packet.entries.iter().take(ENTRIES_SHOWN_MAX);
            let shown: Vec<String> = shown.map(|peer| format!("[{peer}]")).collect();
            let more = match packet.entries.len() - shown.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "  which is peered with: {}{more}", shown.join(","));
        }
        if !welcome {
            text += "The join has been declined; the auto-join process is performing...\n";
        }
        self.text(format_args!("{text}"));
    }

    /// Answers a `join` at the prompt that brought no neighbour.
    fn say_why_nobody(&self, report: &Report) {
        let &Report {
            end,
            dials,
            redirects,
            failures,
            ..
        } = report;
        if report.welcomes > 0 {
            return;
        }
        let why = match (end, dials) {
            (JoinEnd::Satisfied, _) => "the table is full".into(),
            (_, 0) => "it is this peer itself".into(),
            _ if failures > 0 => format!(
                "{redirects} declined, {failures} dials failed: {}",
                self.last_failure
            ),
            _ => format!("{redirects} declined"),
        };
        self.text(format_args!("The join came to nothing: {why}\n"));
    }
}

impl Observer for Printer {
    fn on_event(&mut self, _peer: usize, event: Event<'_>) {
        match event {
            Event::ConnectedFrom(peer) => {
                self.object(&Line::ConnectedFrom { peer });
                self.text(format_args!("Connected from peer {peer}\n"));
            }
            Event::Redirected(peer) => {
                self.object(&Line::Redirected { peer });
                self.text(format_args!("Peer table full: {peer} redirected\n"));
            }
            Event::Answered {
                peer,
                packet,
                timestamp,
            } => self.answered(peer, packet, timestamp),
            Event::Failed { peer, end, again } => {
                let why = reason(end);
                let later = if again { "; again later" } else { "" };
                let line = format_args!("{peer}: {why}{later}");
                self.log_failed.info(self.now(), line);
                self.last_failure = why;
                let why = &self.last_failure;
                self.object(&Line::Failed { peer, why, again });
            }
            Event::OtherPort(peer) => {
                let line = format_args!(
                    "dialling {peer} from another port, since ours is in use for a connection to it that ended \
                     lately: the peers that it names us to will not reach us"
                );
                self.log_other_port.warn(self.now(), line);
                self.object(&Line::OtherPort { peer });
            }
            Event::Gone { peer, remembered } => {
                self.log_gone
                    .info(self.now(), format_args!("{peer} has gone"));
                self.object(&Line::Gone { peer, remembered });
            }
            Event::Forgotten(peer) => {
                let line = format_args!("{peer} had no link for too long");
                self.log_gone.info(self.now(), line);
                self.object(&Line::Forgotten { peer });
            }
        }
    }

    fn on_join_end(&mut self, _peer: usize, report: &Report) -> Then {
        log::info!("the join is over: {report:?}");
        self.object(&Line::JoinEnded {
            satisfied: report.end == JoinEnd::Satisfied,
            welcomes: report.welcomes,
            redirects: report.redirects,
            failures: report.failures,
            milliseconds: report.took.as_duration().as_millis(),
        });
        let Some(contact) = self.starting.take() else {
            self.say_why_nobody(report);
            return Then::GoOn;
        };
        if report.welcomes > 0 || report.end == JoinEnd::Satisfied {
            return Then::GoOn;
        }
        self.outcome = match report.redirects {
            0 => Outcome::Failed {
                contact,
                why: std::mem::take(&mut self.last_failure),
            },
            by => Outcome::Declined {
                by,
                failures: report.failures,
            },
        };
        Then::Stop
    }
}

/// Why a dial came to nothing, for people.
pub(super) fn reason(end: Option<End>) -> String {
    match end {
        None => "it accepts and says nothing".into(),
        Some(End::Eof | End::Broken(_)) => "it closes without a packet".into(),
        Some(End::Unreachable(ErrorKind::InvalidInput)) => {
            "it cannot be reached from the address that is listened on (--listen)".into()
        }
        Some(End::Unreachable(kind)) => kind.to_string(),
        Some(End::Violation(violation)) => format!("it does not speak cPTP: {}", violation.what),
        Some(End::Timeout(Deadline::Dial)) => "it does not answer".into(),
        Some(End::Timeout(_)) => "it does not finish its packet".into(),
        Some(End::Limit(name)) => format!("the limit {name} is reached"),
        Some(_) => "the connection was closed".into(),
    }
}

/// A name as a terminal may show it: some other peer chose it.
pub(super) fn printable(name: &[u8]) -> String {
    print::escaped(&String::from_utf8_lossy(name))
}

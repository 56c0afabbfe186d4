//! The answers to requests: what their payloads hold, and what a KO says.

use std::fmt::{self, Display};
use std::net::IpAddr;

use thiserror::Error;

use super::fields::{FileLine, Invalid, PeerId, Sha1, SizeMb, check_name, check_user, decimal};
use super::lines::Lines;
use super::wire::{Fault, Frame, FrameOut, KO_BYTES_MAX, Kind};

/// The first line of REGISTER's OK; the original client reads the id on the second.
pub const REGISTER_OK: &str = "REGISTER_OK";
/// The third. The spelling is the original's.
pub const REGISTER_SUCCESS: &str = "REGISTER SUCCES";
pub const UPDATE_OK: &str = "REGISTER_UPDATE_OK";
pub const LOGIN_SUCCESS: &str = "LOGIN SUCCESS";
pub const KEEP_ALIVE_SUCCESS: &str = "KEEP ALIVE SUCCESS";
pub const LOGOUT_SUCCESS: &str = "LOGOUT SUCCESS";

/// A KO, as its line says it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Refusal {
    pub text: String,
}

impl Refusal {
    /// When the server says that it is only busy: seconds after which to ask again.
    pub fn retry_after_secs(&self) -> Option<u64> {
        let (_, after) = self.text.rsplit_once(RETRY_IN)?;
        decimal(after.strip_suffix(" s")?)
    }
}

const RETRY_IN: &str = "retry in ";

/// A reason, and when to ask again; [`Refusal::retry_after_secs`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryIn {
    pub why: &'static str,
    pub secs: u64,
}

impl Display for RetryIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {RETRY_IN}{} s", self.why, self.secs)
    }
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unanswered {
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("not an answer to what was asked: type {0}")]
    Kind(u16),
    #[error("not an answer: {0}")]
    Malformed(#[from] Fault),
}

/// The payload of the answer to a request of `kind`, when it is its OK.
pub fn granted(kind: Kind, frame: Frame<'_>) -> Result<&str, Unanswered> {
    if frame.kind == kind.ok() {
        return Ok(frame.text()?);
    }
    if frame.kind != kind.ko() {
        return Err(Unanswered::Kind(frame.kind));
    }
    let said = &frame.payload[..frame.payload.len().min(KO_BYTES_MAX)];
    let text = String::from_utf8_lossy(said).trim_end().to_owned();
    Err(Unanswered::Refused(Refusal { text }))
}

/// The id that REGISTER gave.
pub fn parse_registered(payload: &str) -> Result<PeerId, Fault> {
    let mut lines = Lines::of(payload);
    lines.next("REGISTER_OK")?;
    lines.value("the id")
}

/// The number of files after a REGISTER_ADD.
pub fn parse_total(payload: &str) -> Result<u64, Fault> {
    Lines::of(payload).number("the number of files")
}

/// A peer, as SHOW_PEERS lists it: `id|user|status|ip|port|files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLine {
    pub id: PeerId,
    pub user: String,
    /// Where it serves, when it is online.
    pub online: bool,
    pub ip: IpAddr,
    pub port: u16,
    pub files: u64,
}

impl Display for PeerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = if self.online { "online" } else { "offline" };
        let PeerLine {
            id,
            user,
            ip,
            port,
            files,
            ..
        } = self;
        write!(f, "{id}|{user}|{status}|{ip}|{port}|{files}")
    }
}

impl PeerLine {
    fn parse(line: &str) -> Result<PeerLine, Invalid> {
        const SHAPE: Invalid = Invalid("a peer is id|user|status|ip|port|files");
        let fields: Vec<&str> = line.split('|').collect();
        let [id, user, status, ip, port, files] = fields[..] else {
            return Err(SHAPE);
        };
        check_user(user)?;
        Ok(PeerLine {
            id: id.parse()?,
            user: user.to_owned(),
            online: match status {
                "online" => true,
                "offline" => false,
                _ => return Err(SHAPE),
            },
            ip: ip.parse().map_err(|_| SHAPE)?,
            port: decimal(port)
                .and_then(|port| port.try_into().ok())
                .ok_or(SHAPE)?,
            files: decimal(files).ok_or(SHAPE)?,
        })
    }
}

/// A part of a longer list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Of the whole list.
    pub total: u64,
    pub entries: Vec<T>,
}

pub fn parse_peers(payload: &str) -> Result<Page<PeerLine>, Fault> {
    let mut lines = Lines::of(payload);
    let total = lines.number("the number of peers")?;
    let entries = lines.rest_by(PeerLine::parse)?;
    Ok(Page { total, entries })
}

/// What BROWSE_PEER lists, with names of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub size_bytes: u64,
    pub sha1: Sha1,
}

impl Listed {
    pub fn line(&self) -> FileLine<'_> {
        FileLine {
            name: &self.name,
            size_bytes: self.size_bytes,
            sha1: self.sha1,
        }
    }
}

impl From<FileLine<'_>> for Listed {
    fn from(line: FileLine<'_>) -> Listed {
        Listed {
            name: line.name.to_owned(),
            size_bytes: line.size_bytes,
            sha1: line.sha1,
        }
    }
}

pub fn parse_files(payload: &str) -> Result<Page<Listed>, Fault> {
    let mut lines = Lines::of(payload);
    let total = lines.number("the number of files")?;
    let entries = lines.rest_by(|line| FileLine::parse(line).map(Listed::from))?;
    Ok(Page { total, entries })
}

/// One holder of one file, as SEARCH finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub file: Listed,
    pub user: String,
    pub id: PeerId,
    pub ip: IpAddr,
    pub port: u16,
}

/// Who has the file of a hit, and where: its last four lines, made once for all hits of a holder.
pub fn hit_label(user: &str, id: PeerId, ip: IpAddr, port: u16) -> Box<str> {
    format!("{user}\n{id}\n{ip}\n{port}\n").into()
}

/// Writes a hit; an answer has up to a thousand.
pub fn write_hit(frame: &mut FrameOut<'_>, file: FileLine<'_>, label: &str) {
    frame
        .text(file.name.as_bytes())
        .text(b"\n")
        .text(SizeMb(file.size_bytes).decimal().as_bytes())
        .text(b"\n")
        .text(&file.sha1.hex())
        .text(b"\n")
        .text(label.as_bytes());
}

pub fn parse_hits(payload: &str) -> Result<Vec<Hit>, Fault> {
    let mut lines = Lines::of(payload);
    let mut hits = Vec::new();
    while !lines.is_at_end() {
        let name = lines.checked("the name", check_name)?.to_owned();
        hits.push(Hit {
            file: Listed {
                name,
                size_bytes: lines.size()?,
                sha1: lines.value("the sha1")?,
            },
            user: lines.checked("the user", check_user)?.to_owned(),
            id: lines.value("the id")?,
            ip: lines.parsed("the ip", |text| text.parse().ok())?,
            port: lines.parsed("the port", |text| decimal(text)?.try_into().ok())?,
        });
    }
    Ok(hits)
}

/// What DOWNLOAD's OK announces; `length` raw bytes follow the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    pub total_bytes: u64,
    pub offset: u64,
    pub length: u64,
}

impl Sending {
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut frame = FrameOut::begin(out, Kind::Download.ok());
        frame
            .line(self.total_bytes)
            .line(self.offset)
            .line(self.length);
        frame.finish();
    }

    pub fn parse(payload: &str) -> Result<Sending, Fault> {
        let mut lines = Lines::of(payload);
        let sending = Sending {
            total_bytes: lines.number("the total size")?,
            offset: lines.number("the offset")?,
            length: lines.number("the length")?,
        };
        lines.end()?;
        Ok(sending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_says_when_to_come_back() {
        let busy = RetryIn {
            why: "busy",
            secs: 12,
        };
        let read = |text: &str| Refusal { text: text.into() }.retry_after_secs();
        assert_eq!(busy.to_string(), "busy; retry in 12 s");
        assert_eq!(read(&busy.to_string()), Some(12));
        for text in [
            "wrong password",
            "retry in s",
            "retry in -1 s",
            "retry in 5 s later",
            "",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}

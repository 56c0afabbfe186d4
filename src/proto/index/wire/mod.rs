//! The bytes of every message, in both directions. Pure functions of bytes: no state, no I/O.
//!
//! ```text
//!   0            2            4                      4 + length
//!   | length, LE | type, LE   | payload: lines of UTF-8, a last line break is optional |
//! ```
//! The header says how long a message is, so a frame that dribbles in costs one look at its header a read.
//! [`super::fields`] has the values that the lines are made of.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use thiserror::Error;

use crate::engine::Input;
use crate::engine::framing::{Frames, Prefix, TooLong};

use super::fields::{FileLine, PeerId, Sha1, SizeMb};
use super::lines::{Lines, parse_port};

pub const HEADER_BYTES: usize = 4;

/// What a length of 16 bits allows.
pub const PAYLOAD_BYTES_MAX: usize = u16::MAX as usize;

pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// Longest text of a KO; what is longer is cut, where it is written and where it is read.
pub(super) const KO_BYTES_MAX: usize = 256;

/// One message as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes`, if it is whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        // Two bytes cannot announce more than the longest payload.
        Frame::within(bytes, PAYLOAD_BYTES_MAX).ok().flatten()
    }

    /// The same, when no legal payload is longer than `payload_bytes_max`: told by the length alone.
    pub fn within(bytes: &'a [u8], payload_bytes_max: usize) -> Result<Option<Frame<'a>>, TooLong> {
        let frames = Frames {
            prefix: Prefix::U16Le,
            header_bytes: 2,
            payload_bytes_max,
        };
        let frame = frames.first(bytes)?;
        Ok(frame.and_then(|frame| {
            let kind = u16::from_le_bytes(*frame.header.first_chunk()?);
            let payload = frame.payload;
            Some(Frame { kind, payload })
        }))
    }

    /// The same of a connection's input.
    pub fn of(input: Input<'a>) -> Option<Frame<'a>> {
        Frame::parse(input.bytes)
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The payload as text.
    pub fn text(&self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.payload).map_err(|e| {
            let before = &self.payload[..e.valid_up_to()];
            let line = 1 + memchr::memchr_iter(b'\n', before).count();
            Fault {
                line,
                what: "not UTF-8",
            }
        })
    }
}

/// What requests there are. The number of each is its type on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    Register = 1,
    Login = 2,
    KeepAlive = 3,
    Logout = 4,
    ShowPeers = 5,
    BrowsePeer = 6,
    Search = 7,
    Download = 8,
    RegisterUpdate = 9,
    RegisterAdd = 10,
}

impl Kind {
    pub const fn from_code(code: u16) -> Option<Kind> {
        Some(match code {
            1 => Kind::Register,
            2 => Kind::Login,
            3 => Kind::KeepAlive,
            4 => Kind::Logout,
            5 => Kind::ShowPeers,
            6 => Kind::BrowsePeer,
            7 => Kind::Search,
            8 => Kind::Download,
            9 => Kind::RegisterUpdate,
            10 => Kind::RegisterAdd,
            _ => return None,
        })
    }

    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The type of the answer that grants it. LOGOUT shares KEEP_ALIVE's, as the original has it.
    pub const fn ok(self) -> u16 {
        100 + self.reply_code()
    }

    /// The type of the answer that refuses it.
    pub const fn ko(self) -> u16 {
        200 + self.reply_code()
    }

    const fn reply_code(self) -> u16 {
        match self {
            Kind::Logout => Kind::KeepAlive as u16,
            other => other as u16,
        }
    }
}

/// The type of the KO to a request of an unknown type, where it fits.
pub const fn unknown_ko(code: u16) -> Option<u16> {
    code.checked_add(200)
}

/// A message that is not understood: which line of the payload (from 1), and what is expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    pub line: usize,
    pub what: &'static str,
}

/// Who asks, for requests that change a registration. The password is in no log: its `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Account<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

impl fmt::Debug for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Which peers SHOW_PEERS is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Online,
    Offline,
    All,
    /// One peer, an extension of ours: how a holder asks whether a requester is online.
    One(PeerId),
}

impl Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Online => f.write_str("online"),
            Which::Offline => f.write_str("offline"),
            Which::All => f.write_str("all"),
            Which::One(id) => id.fmt(f),
        }
    }
}

/// A request, valid in all its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Register {
        account: Account<'a>,
        files: Vec<FileLine<'a>>,
    },
    Login {
        account: Account<'a>,
        id: PeerId,
        ip: Option<IpAddr>,
        port: Option<u16>,
    },
    KeepAlive {
        id: PeerId,
    },
    Logout {
        account: Account<'a>,
        id: PeerId,
    },
    ShowPeers {
        which: Which,
        offset: u64,
    },
    BrowsePeer {
        id: PeerId,
        offset: u64,
    },
    Search {
        words: &'a str,
        offset: u64,
    },
    Download {
        range: Range,
        requester: PeerId,
    },
    RegisterUpdate {
        account: Account<'a>,
        id: PeerId,
        files: Vec<FileLine<'a>>,
    },
    RegisterAdd {
        account: Account<'a>,
        id: PeerId,
        files: Vec<FileLine<'a>>,
    },
}

/// What DOWNLOAD asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub sha1: Sha1,
    pub offset: u64,
    /// 0: to the end.
    pub length: u64,
}

impl<'a> Request<'a> {
    /// Reads the payload of a request. Time and memory are linear in its length.
    pub fn parse(kind: Kind, frame: Frame<'a>) -> Result<Request<'a>, Fault> {
        let mut lines = Lines::of(frame.text()?);
        let request = match kind {
            Kind::Register => Request::Register {
                account: lines.account()?,
                files: lines.rest_by(FileLine::parse)?,
            },
            Kind::Login => Request::Login {
                account: lines.account()?,
                id: lines.value("the id")?,
                ip: lines.option("the ip is not an IPv4 address", |text| text.parse().ok())?,
                port: lines.option("the port is not 1 to 65535", parse_port)?,
            },
            Kind::KeepAlive => Request::KeepAlive {
                id: lines.value("the id")?,
            },
            Kind::Logout => Request::Logout {
                account: lines.account()?,
                id: lines.value("the id")?,
            },
            Kind::ShowPeers => Request::ShowPeers {
                which: lines.which()?,
                offset: lines.offset()?,
            },
            Kind::BrowsePeer => Request::BrowsePeer {
                id: lines.value("the id")?,
                offset: lines.offset()?,
            },
            Kind::Search => Request::Search {
                words: lines.next("the words")?,
                offset: lines.offset()?,
            },
            Kind::Download => Request::Download {
                range: Range {
                    sha1: lines.value("the sha1")?,
                    offset: lines.number("the offset")?,
                    length: lines.number("the length")?,
                },
                requester: lines.value("the requester's id")?,
            },
            Kind::RegisterUpdate => Request::RegisterUpdate {
                account: lines.account()?,
                id: lines.value("the id")?,
                files: lines.rest_by(FileLine::parse)?,
            },
            Kind::RegisterAdd => Request::RegisterAdd {
                account: lines.account()?,
                id: lines.value("the id")?,
                files: lines.rest_by(FileLine::parse)?,
            },
        };
        lines.end()?;
        Ok(request)
    }

    pub fn kind(&self) -> Kind {
        match self {
            Request::Register { .. } => Kind::Register,
            Request::Login { .. } => Kind::Login,
            Request::KeepAlive { .. } => Kind::KeepAlive,
            Request::Logout { .. } => Kind::Logout,
            Request::ShowPeers { .. } => Kind::ShowPeers,
            Request::BrowsePeer { .. } => Kind::BrowsePeer,
            Request::Search { .. } => Kind::Search,
            Request::Download { .. } => Kind::Download,
            Request::RegisterUpdate { .. } => Kind::RegisterUpdate,
            Request::RegisterAdd { .. } => Kind::RegisterAdd,
        }
    }

    /// Appends the request as one frame.
    ///
    /// # Panics
    /// When the files, which the caller divides with [`FileLines`], do not fit a frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut frame = FrameOut::begin(out, self.kind().code());
        match self {
            Request::Register { account, files } => frame.account(*account, None).files(files),
            Request::RegisterUpdate { account, id, files }
            | Request::RegisterAdd { account, id, files } => {
                frame.account(*account, Some(*id)).files(files)
            }
            Request::Login {
                account,
                id,
                ip,
                port,
            } => {
                frame.account(*account, Some(*id));
                match (ip, port) {
                    (Some(ip), _) => _ = frame.line(ip),
                    // The port is the fifth line; an empty one before it leaves the address to the server.
                    (None, Some(_)) => _ = frame.line(""),
                    (None, None) => {}
                }
                if let Some(port) = port {
                    frame.line(port);
                }
                &mut frame
            }
            Request::Logout { account, id } => frame.account(*account, Some(*id)),
            Request::KeepAlive { id } => frame.line(id),
            Request::ShowPeers { which, offset } => frame.line(which).line(offset),
            Request::BrowsePeer { id, offset } => frame.line(id).line(offset),
            Request::Search { words, offset } => frame.line(words).line(offset),
            Request::Download { range, requester } => frame
                .line(range.sha1)
                .line(range.offset)
                .line(range.length)
                .line(requester),
        };
        frame.finish();
    }
}

/// A frame that is being written at the end of an output: its length is filled in last.
pub struct FrameOut<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> FrameOut<'a> {
    pub fn begin(out: &'a mut Vec<u8>, kind: u16) -> FrameOut<'a> {
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&kind.to_le_bytes());
        FrameOut { out, start }
    }

    /// Appends one field and its line break.
    pub fn line(&mut self, field: impl Display) -> &mut FrameOut<'a> {
        // Writing to memory does not fail.
        let _ = writeln!(Text(self.out), "{field}");
        self
    }

    /// Appends bytes of UTF-8 as they are.
    pub fn text(&mut self, text: &[u8]) -> &mut FrameOut<'a> {
        self.out.extend_from_slice(text);
        self
    }

    /// Takes back the last bytes, down to a payload of `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.out.truncate(self.start + HEADER_BYTES + bytes);
    }

    /// Bytes of the payload so far; over [`PAYLOAD_BYTES_MAX`] they are no frame.
    pub fn payload_bytes(&self) -> usize {
        self.out.len() - self.start - HEADER_BYTES
    }

    /// Appends an entry of a list, unless it does not fit any more: then nothing is appended, and false.
    pub fn entry(&mut self, write: impl FnOnce(&mut FrameOut<'a>)) -> bool {
        let before = self.payload_bytes();
        write(self);
        let fits = self.payload_bytes() <= PAYLOAD_BYTES_MAX;
        if !fits {
            self.truncate(before);
        }
        fits
    }

    fn account(&mut self, account: Account<'_>, id: Option<PeerId>) -> &mut FrameOut<'a> {
        self.line(account.user).line(account.password);
        if let Some(id) = id {
            self.line(id);
        }
        self
    }

    fn files(&mut self, files: &[FileLine<'_>]) -> &mut FrameOut<'a> {
        for file in files {
            self.line(file);
        }
        self
    }

    /// # Panics
    /// When the payload is over [`PAYLOAD_BYTES_MAX`].
    pub fn finish(self) {
        let length = u16::try_from(self.payload_bytes()).expect("the writer keeps to a frame");
        self.out[self.start..self.start + 2].copy_from_slice(&length.to_le_bytes());
    }
}

/// Formats into bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends a reply whose payload is this text.
pub fn write_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    let mut frame = FrameOut::begin(out, kind);
    frame.text(text.as_bytes());
    frame.finish();
}

/// Appends a KO that says `why` on one line.
pub fn write_ko(out: &mut Vec<u8>, kind: u16, why: impl Display) {
    let mut text = why.to_string().replace('\n', " ");
    text.truncate(text.floor_char_boundary(KO_BYTES_MAX));
    write_text(out, kind, &text);
}

/// Divides a list of files into as few frames as hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLines {
    /// Bytes that a frame has left for files.
    room_bytes: usize,
}

impl FileLines {
    /// For requests of this account.
    pub fn of(account: Account<'_>) -> FileLines {
        // The id has at most 19 digits.
        let head = account.user.len() + account.password.len() + 22;
        FileLines {
            room_bytes: PAYLOAD_BYTES_MAX - head,
        }
    }

    /// How many of `files`, from the front, fit one frame.
    pub fn fit<'a>(self, files: impl IntoIterator<Item = FileLine<'a>>) -> usize {
        let mut left = self.room_bytes;
        let fits = |file: &FileLine<'_>| {
            let size = SizeMb(file.size_bytes).to_string().len();
            // Two bars and a line break, and 40 digits.
            let bytes = file.name.len() + size + 43;
            left.checked_sub(bytes).map(|rest| left = rest).is_some()
        };
        files.into_iter().take_while(fits).count()
    }
}

#[cfg(test)]
mod tests;

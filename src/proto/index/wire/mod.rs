//! The wire format: frames, and every request. Pure functions of bytes.
//!
//! ```text
//!   0            2            4                      4 + length
//!   | length, LE | type, LE   | payload: lines of UTF-8, a last line break is optional |
//! ```
//! The header has the length, so a frame that arrives byte by byte costs one look at the header a read.
//! Not here: the fields of the lines ([`super::fields`]), and answers ([`super::reply`]).

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use crate::engine::Input;
use crate::engine::framing::{Frames, Prefix, TooLong};

use super::fields::{
    Account, FileLine, Invalid, PeerId, Sha1, SizeMb, Which, check_password, check_user, decimal,
};
use super::lines::Lines;

pub use super::lines::Fault;

pub const HEADER_BYTES: usize = 4;

/// Longest payload: its length has 16 bits.
pub const PAYLOAD_BYTES_MAX: usize = u16::MAX as usize;

pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// Longest text of a KO in bytes. Longer ones are cut, when written and when read.
pub(super) const KO_BYTES_MAX: usize = 256;

/// One message: its type and its payload, not parsed further.
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

/// The requests. The number of each is its type on the wire.
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

    /// The type of its OK. LOGOUT shares KEEP_ALIVE's, as in the original.
    pub const fn ok(self) -> u16 {
        100 + self.reply_code()
    }

    /// The type of its KO.
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

/// The type of the KO to a request of an unknown type, if it fits 16 bits.
pub const fn unknown_ko(code: u16) -> Option<u16> {
    code.checked_add(200)
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

/// The bytes that DOWNLOAD asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub sha1: Sha1,
    pub offset: u64,
    /// 0: to the end of the file.
    pub length: u64,
}

impl<'a> Request<'a> {
    /// Parses the payload of a request. Time and memory are linear in its length.
    pub fn parse(kind: Kind, frame: Frame<'a>) -> Result<Request<'a>, Fault> {
        let mut lines = Lines::of(frame.text()?);
        let request = match kind {
            Kind::Register => Request::Register {
                account: account(&mut lines)?,
                files: lines.rest_by(FileLine::parse)?,
            },
            Kind::Login => Request::Login {
                account: account(&mut lines)?,
                id: lines.value("the id")?,
                ip: lines.option("the ip is not an IPv4 address", |text| text.parse().ok())?,
                port: lines.option("the port is not 1 to 65535", parse_port)?,
            },
            Kind::KeepAlive => Request::KeepAlive {
                id: lines.value("the id")?,
            },
            Kind::Logout => Request::Logout {
                account: account(&mut lines)?,
                id: lines.value("the id")?,
            },
            Kind::ShowPeers => Request::ShowPeers {
                which: which(&mut lines)?,
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
                account: account(&mut lines)?,
                id: lines.value("the id")?,
                files: lines.rest_by(FileLine::parse)?,
            },
            Kind::RegisterAdd => Request::RegisterAdd {
                account: account(&mut lines)?,
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
    /// If the files do not fit a frame. The caller divides them with [`FileLines`].
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
                    // The port is the fifth line. An empty fourth one leaves the address to the server.
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

fn account<'a>(lines: &mut Lines<'a>) -> Result<Account<'a>, Fault> {
    Ok(Account {
        user: lines.checked("the user", check_user)?,
        password: lines.checked("the password", check_password)?,
    })
}

fn which(lines: &mut Lines<'_>) -> Result<Which, Fault> {
    Ok(match lines.next("online, offline or all")? {
        "online" => Which::Online,
        "offline" => Which::Offline,
        "all" => Which::All,
        other => {
            let id = other.parse().map(Which::One);
            id.map_err(|_| lines.fault(Invalid("not online, offline, all or an id")))?
        }
    })
}

fn parse_port(text: &str) -> Option<u16> {
    let port = u16::try_from(decimal(text)?).ok()?;
    (port != 0).then_some(port)
}

/// A frame that is being written to the end of an output. Its length is filled in last.
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

    /// Shortens the payload to `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.out.truncate(self.start + HEADER_BYTES + bytes);
    }

    /// Bytes of the payload so far. More than [`PAYLOAD_BYTES_MAX`] cannot be finished.
    pub fn payload_bytes(&self) -> usize {
        self.out.len() - self.start - HEADER_BYTES
    }

    /// Appends an entry of a list if it fits whole; otherwise appends nothing and returns false.
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
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn finish(self) {
        let length = u16::try_from(self.payload_bytes()).expect("the writer keeps to a frame");
        self.out[self.start..self.start + 2].copy_from_slice(&length.to_le_bytes());
    }
}

/// A `fmt::Write` that appends to bytes.
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

/// Appends a KO with `why` on one line.
pub fn write_ko(out: &mut Vec<u8>, kind: u16, why: impl Display) {
    let mut text = why.to_string().replace('\n', " ");
    text.truncate(text.floor_char_boundary(KO_BYTES_MAX));
    write_text(out, kind, &text);
}

/// Divides a list of files into as few frames as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLines {
    /// Bytes of a frame that are left for files.
    room_bytes: usize,
}

impl FileLines {
    /// For requests of this account.
    pub fn of(account: Account<'_>) -> FileLines {
        // An id of at most 19 digits, and three line breaks.
        let head = account.user.len() + account.password.len() + 22;
        FileLines {
            room_bytes: PAYLOAD_BYTES_MAX.saturating_sub(head),
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

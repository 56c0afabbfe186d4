//! Our extension of the protocol, of which plain peers know nothing: requests that keep copies of entries, over
//! connections that are kept open. Each begins with a word with an `X`, upon which a plain peer closes.
//!
//! Terms. The *owner* of a range has *copies* of it at other members, its *holders*. A *beat* is an owner's sign of
//! life. An *epoch* is the version of a configuration of holders. A *version* orders the values of a key; an entry
//! without a value is a *tombstone*: the key was removed.
//!
//! | request | lines | reply |
//! |---|---|---|
//! | `XBEAT` | owner, epoch, count + holders, count + successors | `1`, clock, count + predecessors; or `0`, next |
//! | `XHOLD` | owner, epoch, start, end, complete (`0` or `1`) | ack |
//! | `XPUT` | owner, epoch, key, version, length; the value | ack |
//! | `XDEL` | owner, epoch, key, version | ack |
//! | `XFENCE` | owner | `1`, epoch or `0` for none, complete (`0` or `1`) |
//! | `XDIGEST` | start, end | `1`, then for each of [`DIGEST_PARTS`] parts: count, digest |
//! | `XKEYS` | start, end | `1`, count, then key and version of each; `0`: more than [`KEYS_MAX`] |
//! | `XFETCH` | key | `1`, version, length or `-` for a tombstone, the value; `0`: no entry |
//!
//! Replies come in the order of the requests. What a request is is known from its own lines; a reply is read by what was
//! asked ([`Kind`]).
//!
//! A request without its value, and each reply without its keys or its value, is a few hundred bytes. It is read as a whole,
//! from its first byte in each call. What may be longer, keys and values, is read piece by piece ([`ReplyReader`]).
//!
//! Not here: who may ask, what an epoch is compared with, how ranges are cut.

use std::net::SocketAddrV4;

use bytes::Bytes;

use super::lines::{self, Malformed};
use crate::proto::dht::id::Id;

/// Most addresses in one list.
pub const LIST_MAX: usize = 8;

/// Parts that a range is cut into for its digest.
pub const DIGEST_PARTS: usize = 16;

/// Most keys in one reply.
pub const KEYS_MAX: usize = 1024;

/// A request of the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// XBEAT: I live. You are my prev.
    Beat {
        from: SocketAddrV4,
        epoch: u64,
        holders: Vec<SocketAddrV4>,
        /// The next of `from`, that one's next, and so on.
        successors: Vec<SocketAddrV4>,
    },
    /// XHOLD: you are a holder of `owner`'s range.
    Hold {
        owner: SocketAddrV4,
        epoch: u64,
        start: Id,
        end: Id,
        /// It has a copy of everything.
        complete: bool,
    },
    /// XPUT: store a copy. The value, of `length` bytes, follows.
    Put {
        owner: SocketAddrV4,
        epoch: u64,
        key: Id,
        version: u64,
        length: u64,
    },
    /// XDEL: store a tombstone.
    Delete {
        owner: SocketAddrV4,
        epoch: u64,
        key: Id,
        version: u64,
    },
    /// XFENCE: take no more copies of `owner` with the epochs that it has had.
    Fence { owner: SocketAddrV4 },
    /// XDIGEST: what do you hold of `[start, end)`, in short?
    Digest { start: Id, end: Id },
    /// XKEYS: which keys do you hold of `[start, end)`, in which versions?
    Keys { start: Id, end: Id },
    /// XFETCH: the entry of this key.
    Fetch { key: Id },
}

/// What a reply is to, and so how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Beat,
    /// XHOLD, XPUT, XDEL.
    Ack,
    Fence,
    Digest,
    Keys,
    Fetch,
}

/// One part of a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub count: u64,
    pub digest: u64,
}

/// A reply of the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To XBEAT: the lease is granted.
    Granted {
        clock: u64,
        /// The prev of the one that answers, that one's prev, and so on.
        preds: Vec<SocketAddrV4>,
    },
    /// To XBEAT: no lease; the next of the one that answers.
    NotGranted {
        next: SocketAddrV4,
    },
    /// To XHOLD, XPUT and XDEL.
    Ack(bool),
    /// To XFENCE: the last epoch of XHOLD, or none, and whether the copy was complete.
    Fenced {
        epoch: Option<u64>,
        complete: bool,
    },
    Digest(Box<[Part; DIGEST_PARTS]>),
    Keys(Vec<(Id, u64)>),
    /// To XFETCH.
    Entry {
        version: u64,
        value: Option<Bytes>,
    },
    /// To XDIGEST, XKEYS and XFETCH: `0`.
    No,
}

impl Extension {
    /// A copy of an entry for a holder: XPUT, which the value follows, or XDEL for a tombstone.
    pub fn copy(
        owner: SocketAddrV4,
        epoch: u64,
        key: Id,
        version: u64,
        value: Option<&Bytes>,
    ) -> Extension {
        match value {
            Some(value) => Extension::Put {
                owner,
                epoch,
                key,
                version,
                length: value.len() as u64,
            },
            None => Extension::Delete {
                owner,
                epoch,
                key,
                version,
            },
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Extension::Beat { .. } => Kind::Beat,
            Extension::Hold { .. } | Extension::Put { .. } | Extension::Delete { .. } => Kind::Ack,
            Extension::Fence { .. } => Kind::Fence,
            Extension::Digest { .. } => Kind::Digest,
            Extension::Keys { .. } => Kind::Keys,
            Extension::Fetch { .. } => Kind::Fetch,
        }
    }

    /// Appends the lines of the request. The value of an XPUT follows them.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Extension::Beat {
                from,
                epoch,
                holders,
                successors,
            } => {
                lines::put_line(out, "XBEAT");
                lines::put_address(out, *from);
                lines::put_number(out, *epoch);
                put_list(out, holders);
                put_list(out, successors);
            }
            Extension::Hold {
                owner,
                epoch,
                start,
                end,
                complete,
            } => {
                lines::put_line(out, "XHOLD");
                lines::put_address(out, *owner);
                lines::put_number(out, *epoch);
                lines::put_key(out, *start);
                lines::put_key(out, *end);
                lines::put_ack(out, *complete);
            }
            Extension::Put {
                owner,
                epoch,
                key,
                version,
                length,
            } => {
                lines::put_line(out, "XPUT");
                lines::put_address(out, *owner);
                lines::put_number(out, *epoch);
                put_version(out, *key, *version);
                lines::put_number(out, *length);
            }
            Extension::Delete {
                owner,
                epoch,
                key,
                version,
            } => {
                lines::put_line(out, "XDEL");
                lines::put_address(out, *owner);
                lines::put_number(out, *epoch);
                put_version(out, *key, *version);
            }
            Extension::Fence { owner } => lines::put_lines(out, "XFENCE", *owner),
            Extension::Digest { start, end } => {
                lines::put_lines(out, "XDIGEST", *start);
                lines::put_key(out, *end);
            }
            Extension::Keys { start, end } => {
                lines::put_lines(out, "XKEYS", *start);
                lines::put_key(out, *end);
            }
            Extension::Fetch { key } => lines::put_lines(out, "XFETCH", *key),
        }
    }

    /// Reads what follows the `word` of a request, and says how many bytes that is.
    ///
    /// # Errors
    /// [`Malformed::UnknownCommand`] for any other word, and those of the lines; [`Malformed::Number`] for a list of more
    /// than [`LIST_MAX`].
    pub(super) fn read(word: &[u8], rest: &[u8]) -> Result<Option<(Extension, usize)>, Malformed> {
        let fields: fn(&mut Fields<'_>) -> Result<Extension, Stop> = match word {
            b"XBEAT" => |from| {
                Ok(Extension::Beat {
                    from: from.address()?,
                    epoch: from.number()?,
                    holders: from.list()?,
                    successors: from.list()?,
                })
            },
            b"XHOLD" => |from| {
                Ok(Extension::Hold {
                    owner: from.address()?,
                    epoch: from.number()?,
                    start: from.key()?,
                    end: from.key()?,
                    complete: from.ack()?,
                })
            },
            b"XPUT" => |from| {
                Ok(Extension::Put {
                    owner: from.address()?,
                    epoch: from.number()?,
                    key: from.key()?,
                    version: from.number()?,
                    length: from.number()?,
                })
            },
            b"XDEL" => |from| {
                Ok(Extension::Delete {
                    owner: from.address()?,
                    epoch: from.number()?,
                    key: from.key()?,
                    version: from.number()?,
                })
            },
            b"XFENCE" => |from| {
                let owner = from.address()?;
                Ok(Extension::Fence { owner })
            },
            b"XDIGEST" => |from| {
                let (start, end) = (from.key()?, from.key()?);
                Ok(Extension::Digest { start, end })
            },
            b"XKEYS" => |from| {
                let (start, end) = (from.key()?, from.key()?);
                Ok(Extension::Keys { start, end })
            },
            b"XFETCH" => |from| Ok(Extension::Fetch { key: from.key()? }),
            _ => return Err(Malformed::UnknownCommand),
        };
        Fields::read(rest, fields)
    }
}

impl Reply {
    /// Appends the whole reply.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Granted { clock, preds } => {
                lines::put_ack(out, true);
                lines::put_number(out, *clock);
                put_list(out, preds);
            }
            Reply::NotGranted { next } => {
                lines::put_ack(out, false);
                lines::put_address(out, *next);
            }
            Reply::Ack(yes) => lines::put_ack(out, *yes),
            Reply::Fenced { epoch, complete } => {
                lines::put_ack(out, true);
                lines::put_number(out, epoch.unwrap_or(0));
                lines::put_ack(out, *complete);
            }
            Reply::Digest(parts) => {
                lines::put_ack(out, true);
                for part in parts.iter() {
                    lines::put_number(out, part.count);
                    lines::put_number(out, part.digest);
                }
            }
            Reply::Keys(keys) => {
                put_keys_head(out, keys.len());
                for (key, version) in keys {
                    put_version(out, *key, *version);
                }
            }
            Reply::Entry { version, value } => {
                put_entry_head(
                    out,
                    *version,
                    value.as_ref().map(|value| value.len() as u64),
                );
                out.extend_from_slice(value.as_deref().unwrap_or_default());
            }
            Reply::No => lines::put_ack(out, false),
        }
    }
}

/// Appends what comes before the `count` keys of a reply to XKEYS.
pub fn put_keys_head(out: &mut Vec<u8>, count: usize) {
    lines::put_ack(out, true);
    lines::put_number(out, count as u64);
}

/// Appends a key and its version.
pub fn put_version(out: &mut Vec<u8>, key: Id, version: u64) {
    lines::put_key(out, key);
    lines::put_number(out, version);
}

/// Appends what comes before the value of a reply to XFETCH; `None` is a tombstone.
pub fn put_entry_head(out: &mut Vec<u8>, version: u64, length: Option<u64>) {
    lines::put_ack(out, true);
    lines::put_number(out, version);
    lines::put_length(out, length);
}

/// # Panics
/// If there are more than [`LIST_MAX`].
fn put_list(out: &mut Vec<u8>, list: &[SocketAddrV4]) {
    assert!(list.len() <= LIST_MAX, "a list is bounded where it is made");
    lines::put_number(out, list.len() as u64);
    for addr in list {
        lines::put_address(out, *addr);
    }
}

/// Reads one reply.
#[derive(Debug)]
pub struct ReplyReader {
    expect: Expect,
}

#[derive(Debug)]
enum Expect {
    /// Everything up to the keys or the value.
    Head(Kind),
    /// `left` more keys. The list grows with what arrives.
    Keys { left: u64, keys: Vec<(Id, u64)> },
    /// `left_bytes` more bytes of a value. It grows with what arrives.
    Value {
        version: u64,
        left_bytes: u64,
        bytes: Vec<u8>,
    },
}

/// What [`ReplyReader::read`] made of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// More of the reply is to come.
    Part,
    Whole(Reply),
}

/// The lines before the keys or the value.
enum Head {
    Whole(Reply),
    Keys(u64),
    Value { version: u64, left_bytes: u64 },
}

impl ReplyReader {
    pub fn new(kind: Kind) -> ReplyReader {
        ReplyReader {
            expect: Expect::Head(kind),
        }
    }

    /// Reads the next piece and says how many bytes it took; `None` when more are needed. Not called once the reply is
    /// whole.
    ///
    /// # Errors
    /// Those of the lines; [`Malformed::Number`] for lists and values that are too long.
    pub fn read(
        &mut self,
        input: &[u8],
        value_bytes_max: u64,
    ) -> Result<Option<(Piece, usize)>, Malformed> {
        match &mut self.expect {
            Expect::Head(kind) => {
                let kind = *kind;
                let read = Fields::read(input, |from| from.head(kind, value_bytes_max))?;
                Ok(read.map(|(head, used)| (self.begin(head), used)))
            }
            Expect::Keys { left, keys } => {
                let read = Fields::read(input, |from| Ok((from.key()?, from.number()?)))?;
                Ok(read.map(|(key, used)| {
                    keys.push(key);
                    *left -= 1;
                    let whole = *left == 0;
                    let piece = if whole {
                        Piece::Whole(Reply::Keys(std::mem::take(keys)))
                    } else {
                        Piece::Part
                    };
                    (piece, used)
                }))
            }
            Expect::Value {
                version,
                left_bytes,
                bytes,
            } => {
                if input.is_empty() {
                    return Ok(None);
                }
                let take = usize::try_from(*left_bytes)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                *left_bytes -= take as u64;
                bytes.extend_from_slice(&input[..take]);
                let piece = if *left_bytes == 0 {
                    // Boxed, so that the spare capacity of its growth is given back.
                    let value = Bytes::from(std::mem::take(bytes).into_boxed_slice());
                    Piece::Whole(Reply::Entry {
                        version: *version,
                        value: Some(value),
                    })
                } else {
                    Piece::Part
                };
                Ok(Some((piece, take)))
            }
        }
    }

    fn begin(&mut self, head: Head) -> Piece {
        self.expect = match head {
            Head::Whole(reply) => return Piece::Whole(reply),
            Head::Keys(left) => Expect::Keys {
                left,
                keys: Vec::new(),
            },
            Head::Value {
                version,
                left_bytes,
            } => Expect::Value {
                version,
                left_bytes,
                bytes: Vec::new(),
            },
        };
        Piece::Part
    }
}

/// Why fields cannot be read: they are not whole, or wrong.
enum Stop {
    More,
    Malformed(Malformed),
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Stop {
        Stop::Malformed(malformed)
    }
}

/// Lines, read one after the other.
struct Fields<'a> {
    input: &'a [u8],
    used: usize,
}

impl Fields<'_> {
    /// What `read` makes of the lines at the front of `input`, and the bytes that they take.
    fn read<T>(
        input: &[u8],
        read: impl FnOnce(&mut Fields<'_>) -> Result<T, Stop>,
    ) -> Result<Option<(T, usize)>, Malformed> {
        let mut fields = Fields { input, used: 0 };
        match read(&mut fields) {
            Ok(value) => Ok(Some((value, fields.used))),
            Err(Stop::More) => Ok(None),
            Err(Stop::Malformed(malformed)) => Err(malformed),
        }
    }

    fn next<T>(&mut self, parse: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T, Stop> {
        let item = lines::item(&self.input[self.used..], 0, parse)?;
        let (value, used) = item.ok_or(Stop::More)?;
        self.used += used;
        Ok(value)
    }

    fn key(&mut self) -> Result<Id, Stop> {
        self.next(lines::to_key)
    }

    fn number(&mut self) -> Result<u64, Stop> {
        self.next(lines::to_number)
    }

    fn ack(&mut self) -> Result<bool, Stop> {
        self.next(lines::to_ack)
    }

    fn address(&mut self) -> Result<SocketAddrV4, Stop> {
        self.next(lines::to_address)
    }

    /// A number of at most `max`.
    fn at_most(&mut self, max: u64) -> Result<u64, Stop> {
        let number = self.number()?;
        let fits = number <= max;
        fits.then_some(number)
            .ok_or(Stop::Malformed(Malformed::Number))
    }

    fn list(&mut self) -> Result<Vec<SocketAddrV4>, Stop> {
        let count = self.at_most(LIST_MAX as u64)?;
        (0..count).map(|_| self.address()).collect()
    }

    fn head(&mut self, kind: Kind, value_bytes_max: u64) -> Result<Head, Stop> {
        let yes = self.ack()?;
        let reply = match (kind, yes) {
            (Kind::Ack, _) => Reply::Ack(yes),
            (Kind::Beat, true) => Reply::Granted {
                clock: self.number()?,
                preds: self.list()?,
            },
            (Kind::Beat, false) => Reply::NotGranted {
                next: self.address()?,
            },
            (Kind::Fence, true) => Reply::Fenced {
                epoch: Some(self.number()?).filter(|epoch| *epoch > 0),
                complete: self.ack()?,
            },
            (Kind::Fence, false) => return Err(Malformed::Ack.into()),
            (Kind::Digest | Kind::Keys | Kind::Fetch, false) => Reply::No,
            (Kind::Digest, true) => {
                let mut parts = Box::new([Part::default(); DIGEST_PARTS]);
                for part in parts.iter_mut() {
                    part.count = self.number()?;
                    part.digest = self.number()?;
                }
                Reply::Digest(parts)
            }
            (Kind::Keys, true) => match self.at_most(KEYS_MAX as u64)? {
                0 => Reply::Keys(Vec::new()),
                count => return Ok(Head::Keys(count)),
            },
            (Kind::Fetch, true) => return self.entry_head(value_bytes_max),
        };
        Ok(Head::Whole(reply))
    }

    fn entry_head(&mut self, value_bytes_max: u64) -> Result<Head, Stop> {
        let version = self.number()?;
        let length = self.next(lines::to_length)?;
        let value = match length {
            Some(length) if length > value_bytes_max => return Err(Malformed::Number.into()),
            Some(0) => Some(Bytes::new()),
            Some(left_bytes) => {
                return Ok(Head::Value {
                    version,
                    left_bytes,
                });
            }
            None => None,
        };
        Ok(Head::Whole(Reply::Entry { version, value }))
    }
}

#[cfg(test)]
mod tests;

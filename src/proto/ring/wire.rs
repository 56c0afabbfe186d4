//! The messages of the tracker protocol, read and written.
//!
//! A message is a tuple, and the bytes of a connection are messages one after the other, without framing. [`Reader`]
//! finds out in which encoding a peer writes and where its message ends; it remembers a position, so a message that
//! dribbles in costs O(n), and the bytes stay where they are. A complete message is a [`Packet`], which the role reads as
//! a [`Request`] or a [`Reply`]: `(PING, x)` is both. Both are written by `put`, in the encoding that the peer used.
//!
//! Two kinds of errors, since they are answered differently: [`Refusal`], after which nothing on the connection can be
//! understood, and [`BadRequest`], a whole tuple that is no message of ours.
//!
//! Not here: who may send what, whether an item exists, the limits of a database.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::value::{Link, Tree, Value};
use super::{literal, pickle};
use crate::engine::{Input, Violation};

/// The longest message in bytes ("Bad input" in the specification), which is also what the engine keeps of the input of
/// one connection.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The longest handle in bytes of UTF-8 ("Bad input" in the specification).
pub const HANDLE_BYTES_MAX: usize = 256;

/// Peers on one page of [`Reply::Peers`]. With the next limit a page is under 64 KiB in every encoding, and so is what
/// reading it takes.
pub const PAGE_PEERS_MAX: usize = 240;

/// Bytes of handles on one page of [`Reply::Peers`].
pub const PAGE_HANDLE_BYTES_MAX: usize = 8 * 1024;

/// How a peer writes its tuples. It is answered in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Python's pickle, protocol 0 to 5.
    Pickle { protocol: u8, strings: Strings },
    /// Python's literals: `('REGISTER', 'alice', 9000)`.
    Literal,
    /// The notation of the assignment's text: `(REGISTER, alice, 9000)`.
    Bare,
}

impl Encoding {
    /// What our own peers begin with: both Pythons read it.
    pub const OURS: Encoding = Encoding::Pickle {
        protocol: 2,
        strings: Strings::Unicode,
    };
}

/// How a pickle up to protocol 2 has its strings. Both Pythons read both; text beyond ASCII is always Unicode, since
/// Python 3 refuses such byte strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strings {
    /// As Python 2 writes its `str`, so that it gets what its own programs send.
    Bytes,
    Unicode,
}

/// Nothing more can be read on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not begin like a tuple in any encoding: the raw words and bare integers of the assignment's first part
    /// among others.
    NotATuple,
    /// A pickle opcode that we do not execute; what it would do, for the log.
    Opcode(&'static str),
    /// Longer than [`MESSAGE_BYTES_MAX`], or announces to be.
    TooLong,
    /// Nested deeper than [`super::value::NESTING_MAX`].
    TooDeep,
    /// Takes more memory than [`super::value::HEAP_BYTES_MAX`].
    TooLarge,
    /// Breaks the rules of its encoding; which one.
    Malformed(&'static str),
}

impl Refusal {
    pub const fn what(self) -> &'static str {
        match self {
            Refusal::NotATuple => "not a tuple in any encoding",
            Refusal::TooLong => "message longer than 64 KiB",
            Refusal::TooDeep => "message nested deeper than 16",
            Refusal::TooLarge => "message that takes more than 64 KiB to read",
            Refusal::Opcode(what) | Refusal::Malformed(what) => what,
        }
    }
}

impl From<Refusal> for Violation {
    fn from(refusal: Refusal) -> Violation {
        Violation::peer(refusal.what())
    }
}

/// A whole tuple that is no message of ours: what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// No command that we know, in this role.
    Command,
    /// Too many or too few fields.
    Fields,
    /// A handle that is not 1 to [`HANDLE_BYTES_MAX`] bytes of text.
    Handle,
    /// A port outside 1..=65535.
    Port,
    /// Not an IPv4 address that can be dialled, or `localhost`.
    Ip,
    /// A sequence number, number of items or offset that is not an integer of 0 to 2^32-1; an item's that is not below
    /// the number of items.
    Seq,
    /// An item's data that is no text.
    Data,
    /// The time of a PING that is neither text nor a number.
    Time,
}

impl BadRequest {
    pub const fn what(self) -> &'static str {
        match self {
            BadRequest::Command => "unknown command",
            BadRequest::Fields => "wrong number of fields",
            BadRequest::Handle => "not a handle of 1 to 256 bytes",
            BadRequest::Port => "not a port from 1 to 65535",
            BadRequest::Ip => "not an IPv4 address that can be dialled",
            BadRequest::Seq => "not a sequence number or number of items",
            BadRequest::Data => "not an item's text",
            BadRequest::Time => "neither text nor a number for the time",
        }
    }
}

impl From<BadRequest> for Violation {
    fn from(bad: BadRequest) -> Violation {
        Violation::peer(bad.what())
    }
}

/// What is asked of a tracker or of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Echo {
        handle: Cow<'a, str>,
    },
    Register {
        handle: Cow<'a, str>,
        port: u16,
    },
    /// Your neighbour is this one from now on.
    UpdateNbr(Neighbour<'a>),
    /// Are you there? The time is the sender's and means nothing to us; a number is read as its digits.
    Ping {
        time: Cow<'a, str>,
    },
    Query {
        seq: u32,
    },
    /// Ours: the ring in order, from place `offset` on. `(PEERS,)` is from 0.
    Peers {
        offset: u32,
    },
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    RegInit(RegInit<'a>),
    /// `(PING, handle)`, and `(ACK, handle)` as one implementation has it; we write the former.
    Ping {
        handle: Cow<'a, str>,
    },
    /// `None`: the peer does not have the item.
    QueryResult(Option<Item<'a>>),
    /// `([Tracker], text)`: a greeting or a refusal.
    Tracker(Cow<'a, str>),
    /// Ours: `(PEERS, total, ((handle, ip, port), ...))`, a page of the ring in order.
    Peers {
        total: u32,
        page: Vec<Neighbour<'a>>,
    },
}

impl Reply<'static> {
    /// What a tracker answers to anything that it cannot serve.
    pub const BAD_REQUEST: Reply<'static> = Reply::Tracker(Cow::Borrowed("Bad request"));
}

/// What a tracker answers to a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegInit<'a> {
    /// `None`: the handle is somebody else's.
    pub nbr: Option<Neighbour<'a>>,
    /// Number of items.
    pub dbsize: u32,
    /// The item to host.
    pub item: Option<Item<'a>>,
    /// How `nbr` is written; of what was read, how it was.
    pub order: RegInitOrder,
}

/// The order of the neighbour's fields in REG_INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegInitOrder {
    /// ip, handle, port: the assignment's text.
    IpFirst,
    /// handle, ip, port: the course's own tracker.
    HandleFirst,
}

/// A peer of the ring as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour<'a> {
    pub handle: Cow<'a, str>,
    pub addr: SocketAddrV4,
}

/// An item of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    pub seq: u32,
    pub data: Cow<'a, str>,
}

/// Reads the messages of one connection.
#[derive(Debug, Default)]
pub struct Reader {
    scan: Option<Scan>,
    /// Of the last message that showed one.
    encoding: Option<Encoding>,
}

/// The position in a message that is not complete.
#[derive(Debug, Clone, Copy)]
enum Scan {
    Pickle(pickle::Scan),
    Literal(literal::Scan),
}

/// A whole message, not yet understood.
#[derive(Debug)]
pub struct Packet<'a> {
    tree: Tree<'a>,
    pub encoding: Encoding,
    /// Bytes it takes up of the input, the blanks around it included.
    pub used: usize,
}

impl Reader {
    /// The first message of the input. `None`: it is not complete. An error stays the answer, however much more comes.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn read<'a>(&mut self, input: Input<'a>) -> Result<Option<Packet<'a>>, Refusal> {
        let bytes = &input.bytes[..input.bytes.len().min(MESSAGE_BYTES_MAX)];
        let Some(end) = self.scan(bytes, input.seen)? else {
            return if bytes.len() < MESSAGE_BYTES_MAX {
                Ok(None)
            } else {
                Err(Refusal::TooLong)
            };
        };
        self.scan = None;
        let encoding = self.encoding.ok_or(Refusal::NotATuple)?;
        let message = &bytes[..end];
        let tree = match encoding {
            Encoding::Pickle { .. } => pickle::build(message)?,
            Encoding::Literal | Encoding::Bare => literal::build(message, encoding)?,
        };
        Ok(Some(Packet {
            tree,
            encoding,
            used: end,
        }))
    }

    /// The encoding of the message that was read last, or begun; before that, and for what is no tuple, the one that
    /// people read.
    pub fn encoding(&self) -> Encoding {
        self.encoding.unwrap_or(Encoding::Bare)
    }
}

impl Reader {
    /// Where the message ends, once it has.
    fn scan(&mut self, bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
        if self.scan.is_none() {
            self.scan = begin(bytes)?;
        }
        match &mut self.scan {
            None => Ok(None),
            Some(Scan::Pickle(scan)) => {
                let end = scan.end(bytes, seen);
                self.encoding = Some(scan.encoding());
                end
            }
            Some(Scan::Literal(scan)) => {
                self.encoding = Some(scan.encoding());
                scan.end(bytes)
            }
        }
    }
}

/// Tells the encoding of a message from its first bytes, see the table in the specification. Blanks may stand before and
/// within text. `None`: more bytes are needed.
fn begin(bytes: &[u8]) -> Result<Option<Scan>, Refusal> {
    let text = bytes.trim_ascii_start();
    let start = bytes.len() - text.len();
    let pickle = |protocol| Some(Scan::Pickle(pickle::Scan::new(start, protocol)));
    let literal = |encoding| Some(Scan::Literal(literal::Scan::new(start, encoding)));
    match *text {
        [] | [pickle::PROTO] => return Ok(None),
        [pickle::PROTO, protocol @ 0..=pickle::PROTOCOL_MAX, ..] => return Ok(pickle(protocol)),
        [b'(', ..] => {}
        [op, ..] if !op.is_ascii_uppercase() => {
            return Err(pickle::call(op).map_or(Refusal::NotATuple, Refusal::Opcode));
        }
        _ => return Err(Refusal::NotATuple),
    }
    let is_blank_or_open = |byte: u8| byte.is_ascii_whitespace() || byte == b'(';
    let open = text.iter().take_while(|&&byte| is_blank_or_open(byte));
    let inner = &text[open.count()..];
    let listed = inner.first() == Some(&b'[');
    let first = if listed {
        inner[1..].trim_ascii_start()
    } else {
        inner
    };
    Ok(match *first {
        [] if text.len() > OPENING_BYTES_MAX => return Err(Refusal::TooDeep),
        [] | [b'u' | b'b' | b'U'] => None,
        [b'\'' | b'"' | b')' | b']', ..] | [b'u' | b'b', b'\'' | b'"', ..] => {
            literal(Encoding::Literal)
        }
        // Commands begin with these, and pickles of tuples do not, except with a string of up to 255 bytes after a U.
        _ if listed => literal(Encoding::Bare),
        [b'E' | b'R' | b'P' | b'A' | b'Q', ..] | [b'U', b'P', ..] => literal(Encoding::Bare),
        [op, ..] if pickle::is_opcode(op) => pickle(0),
        _ => literal(Encoding::Bare),
    })
}

/// Brackets and blanks at the beginning; one blank between any two brackets is still read.
const OPENING_BYTES_MAX: usize = 64;

impl<'a> Packet<'a> {
    /// The message as values, whatever it means.
    pub fn tree(&self) -> &Tree<'a> {
        &self.tree
    }

    /// What it asks of a tracker or a peer.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn request(self) -> Result<Request<'a>, BadRequest> {
        let mut fields = self.fields()?;
        let request = match &*fields.command()? {
            "ECHO" => Request::Echo {
                handle: fields.handle()?,
            },
            "REGISTER" => Request::Register {
                handle: fields.handle()?,
                port: fields.port()?,
            },
            "UPDATE_NBR" => Request::UpdateNbr(fields.neighbour()?),
            "PING" => Request::Ping {
                time: fields.time()?,
            },
            "QUERY" => Request::Query {
                seq: fields.number()?,
            },
            "PEERS" if fields.is_end() => Request::Peers { offset: 0 },
            "PEERS" => Request::Peers {
                offset: fields.number()?,
            },
            _ => return Err(BadRequest::Command),
        };
        fields.end(request)
    }

    /// What it answers.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn reply(self) -> Result<Reply<'a>, BadRequest> {
        let mut fields = self.fields()?;
        if fields.skip_tracker()? {
            let says = Reply::Tracker(fields.text(BadRequest::Data)?);
            return fields.end(says);
        }
        let reply = match &*fields.command()? {
            "REG_INIT" => Reply::RegInit(fields.reg_init()?),
            "PING" | "ACK" => Reply::Ping {
                handle: fields.handle()?,
            },
            "QUERY_RESULT" => Reply::QueryResult(fields.item()?),
            "PEERS" => Reply::Peers {
                total: fields.number()?,
                page: fields.page()?,
            },
            _ => return Err(BadRequest::Command),
        };
        fields.end(reply)
    }

    fn fields(self) -> Result<Fields<'a>, BadRequest> {
        let next = self.tree.first().ok_or(BadRequest::Command)?;
        Ok(Fields {
            bare: self.encoding == Encoding::Bare,
            tree: self.tree,
            next,
        })
    }
}

/// The fields of a message from the next one on, read by what they have to be.
struct Fields<'a> {
    tree: Tree<'a>,
    next: Link,
    /// Everything is text: numbers and None are told by their looks.
    bare: bool,
}

impl<'a> Fields<'a> {
    fn peek(&self) -> Result<Value<'_>, BadRequest> {
        let (value, _) = self.tree.item(self.next).ok_or(BadRequest::Fields)?;
        Ok(value)
    }

    fn is_end(&self) -> bool {
        self.tree.item(self.next).is_none()
    }

    fn end<T>(&self, message: T) -> Result<T, BadRequest> {
        if self.is_end() {
            Ok(message)
        } else {
            Err(BadRequest::Fields)
        }
    }

    /// Moves to the next field; where the one before it stands.
    fn skip(&mut self) -> Result<Link, BadRequest> {
        let (_, next) = self.tree.item(self.next).ok_or(BadRequest::Fields)?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn text(&mut self, otherwise: BadRequest) -> Result<Cow<'a, str>, BadRequest> {
        let at = self.skip()?;
        self.tree.take_text(at).ok_or(otherwise)
    }

    fn command(&mut self) -> Result<Cow<'a, str>, BadRequest> {
        self.text(BadRequest::Command)
    }

    fn handle(&mut self) -> Result<Cow<'a, str>, BadRequest> {
        let handle = self.text(BadRequest::Handle)?;
        if handle.is_empty() || handle.len() > HANDLE_BYTES_MAX {
            return Err(BadRequest::Handle);
        }
        Ok(handle)
    }

    fn integer(&mut self) -> Result<Option<i64>, BadRequest> {
        let integer = match self.peek()? {
            Value::Int(value) => Some(value),
            Value::Text(text) if self.bare => literal::integer(text.as_bytes()),
            _ => None,
        };
        self.skip()?;
        Ok(integer)
    }

    fn number(&mut self) -> Result<u32, BadRequest> {
        let number = self.integer()?.and_then(|number| number.try_into().ok());
        number.ok_or(BadRequest::Seq)
    }

    fn port(&mut self) -> Result<u16, BadRequest> {
        let port = self.integer()?.and_then(|port| port.try_into().ok());
        port.filter(|&port| port != 0).ok_or(BadRequest::Port)
    }

    fn time(&mut self) -> Result<Cow<'a, str>, BadRequest> {
        let time = match self.peek()? {
            Value::Text(_) => return self.text(BadRequest::Time),
            Value::Int(time) => time.to_string(),
            Value::Float(time) => time.to_string(),
            _ => return Err(BadRequest::Time),
        };
        self.skip()?;
        Ok(Cow::Owned(time))
    }

    fn is_none(&self) -> Result<bool, BadRequest> {
        Ok(match self.peek()? {
            Value::None => true,
            Value::Text(text) => self.bare && text == literal::NONE,
            _ => false,
        })
    }

    /// Passes over `[Tracker]`, a list of one text or one text, if it is there.
    fn skip_tracker(&mut self) -> Result<bool, BadRequest> {
        let is_tracker = match self.peek()? {
            Value::Text(text) => text == "[Tracker]",
            Value::List(mut items) => {
                matches!(items.next(), Some(Value::Text("Tracker"))) && items.next().is_none()
            }
            _ => false,
        };
        if is_tracker {
            self.skip()?;
        }
        Ok(is_tracker)
    }

    /// handle, ip, port
    fn neighbour(&mut self) -> Result<Neighbour<'a>, BadRequest> {
        let handle = self.handle()?;
        let ip = ip(&self.text(BadRequest::Ip)?).ok_or(BadRequest::Ip)?;
        let addr = SocketAddrV4::new(ip, self.port()?);
        Ok(Neighbour { handle, addr })
    }

    fn reg_init(&mut self) -> Result<RegInit<'a>, BadRequest> {
        let (nbr, order) = self.reg_init_nbr()?;
        let dbsize = self.number()?;
        let item = if self.is_none()? {
            self.skip()?;
            None
        } else {
            self.item()?
        };
        if item.as_ref().is_some_and(|item| item.seq >= dbsize) {
            return Err(BadRequest::Seq);
        }
        Ok(RegInit {
            nbr,
            dbsize,
            item,
            order,
        })
    }

    /// The neighbour in either order, told by which field is an address; the text's where both are.
    fn reg_init_nbr(&mut self) -> Result<(Option<Neighbour<'a>>, RegInitOrder), BadRequest> {
        if self.is_none()? {
            for _ in 0..3 {
                if !self.is_none()? {
                    return Err(BadRequest::Ip);
                }
                self.skip()?;
            }
            return Ok((None, RegInitOrder::IpFirst));
        }
        let first = self.handle()?;
        let second = self.handle()?;
        let (handle, ip, order) = match (ip(&first), ip(&second)) {
            (Some(ip), _) => (second, ip, RegInitOrder::IpFirst),
            (None, Some(ip)) => (first, ip, RegInitOrder::HandleFirst),
            (None, None) => return Err(BadRequest::Ip),
        };
        let addr = SocketAddrV4::new(ip, self.port()?);
        Ok((Some(Neighbour { handle, addr }), order))
    }

    /// (seq, data), or (None, None), or None
    fn item(&mut self) -> Result<Option<Item<'a>>, BadRequest> {
        if self.is_none()? {
            self.skip()?;
            return Ok(None);
        }
        self.nested(|pair| {
            if pair.is_none()? {
                pair.skip()?;
                if !pair.is_none()? {
                    return Err(BadRequest::Data);
                }
                pair.skip()?;
                return Ok(None);
            }
            let seq = pair.number()?;
            let data = pair.text(BadRequest::Data)?;
            Ok(Some(Item { seq, data }))
        })
    }

    fn page(&mut self) -> Result<Vec<Neighbour<'a>>, BadRequest> {
        self.nested(|rows| {
            let mut page = Vec::new();
            while !rows.is_end() {
                if page.len() == PAGE_PEERS_MAX {
                    return Err(BadRequest::Fields);
                }
                page.push(rows.nested(Fields::neighbour)?);
            }
            Ok(page)
        })
    }

    /// Reads all fields of the tuple that is the next field.
    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, BadRequest>,
    ) -> Result<T, BadRequest> {
        let at = self.skip()?;
        let first = self.tree.first_of(at).ok_or(BadRequest::Fields)?;
        let after = std::mem::replace(&mut self.next, first);
        let read = read(self)?;
        let read = self.end(read)?;
        self.next = after;
        Ok(read)
    }
}

/// `localhost` or an IPv4 address, if it can be dialled.
fn ip(text: &str) -> Option<Ipv4Addr> {
    let ip = match text {
        "localhost" => Ipv4Addr::LOCALHOST,
        _ => text.parse().ok()?,
    };
    (!ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()).then_some(ip)
}

/// How many of the peers with these handles go on one page of [`Reply::Peers`].
pub fn page_len<'a>(handles: impl IntoIterator<Item = &'a str>) -> usize {
    let mut bytes = 0;
    let fits = handles
        .into_iter()
        .take(PAGE_PEERS_MAX)
        .take_while(|handle| {
            bytes += handle.len();
            bytes <= PAGE_HANDLE_BYTES_MAX
        });
    fits.count()
}

impl Request<'_> {
    /// Appends the message.
    pub fn put(&self, encoding: Encoding, out: &mut Vec<u8>) {
        put(encoding, out, |fields| match self {
            Request::Echo { handle } => {
                fields.text("ECHO");
                fields.text(handle);
            }
            Request::Register { handle, port } => {
                fields.text("REGISTER");
                fields.text(handle);
                fields.int((*port).into());
            }
            Request::UpdateNbr(nbr) => {
                fields.text("UPDATE_NBR");
                fields.neighbour(nbr);
            }
            Request::Ping { time } => {
                fields.text("PING");
                fields.text(time);
            }
            Request::Query { seq } => {
                fields.text("QUERY");
                fields.int((*seq).into());
            }
            Request::Peers { offset } => {
                fields.text("PEERS");
                if *offset > 0 {
                    fields.int((*offset).into());
                }
            }
        });
    }
}

impl Reply<'_> {
    /// Appends the message.
    pub fn put(&self, encoding: Encoding, out: &mut Vec<u8>) {
        put(encoding, out, |fields| match self {
            Reply::RegInit(init) => {
                fields.text("REG_INIT");
                fields.reg_init(init);
            }
            Reply::Ping { handle } => {
                fields.text("PING");
                fields.text(handle);
            }
            Reply::QueryResult(item) => {
                fields.text("QUERY_RESULT");
                match item {
                    Some(item) => fields.item(item),
                    None => fields.tuple(|pair| {
                        pair.none();
                        pair.none();
                    }),
                }
            }
            Reply::Tracker(says) => {
                fields.list(|list| list.text("Tracker"));
                fields.text(says);
            }
            Reply::Peers { total, page } => {
                fields.text("PEERS");
                fields.int((*total).into());
                fields.tuple(|rows| {
                    for peer in page {
                        rows.tuple(|row| row.neighbour(peer));
                    }
                });
            }
        });
    }
}

/// Appends the tuple of the fields that `write` writes.
fn put(encoding: Encoding, out: &mut Vec<u8>, write: impl FnOnce(&mut Writer<'_>)) {
    if let Encoding::Pickle { protocol, .. } = encoding {
        pickle::begin(out, protocol);
    }
    let mut writer = Writer {
        out,
        encoding,
        items: 0,
    };
    writer.tuple(write);
    if let Encoding::Pickle { .. } = encoding {
        pickle::end(out);
    }
}

/// Writes values in any encoding.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    encoding: Encoding,
    /// How many there are already in the tuple or list that is written.
    items: usize,
}

impl Writer<'_> {
    fn none(&mut self) {
        self.separate();
        match self.encoding {
            Encoding::Pickle { .. } => self.out.push(pickle::NONE),
            Encoding::Literal | Encoding::Bare => self.out.extend(literal::NONE.as_bytes()),
        }
    }

    fn int(&mut self, value: i64) {
        self.separate();
        match self.encoding {
            Encoding::Pickle { protocol, .. } => pickle::put_int(self.out, protocol, value),
            Encoding::Literal | Encoding::Bare => literal::put_int(self.out, value),
        }
    }

    fn text(&mut self, text: &str) {
        self.separate();
        match self.encoding {
            Encoding::Pickle { protocol, strings } => {
                pickle::put_text(self.out, protocol, strings, text);
            }
            Encoding::Literal => literal::put_quoted(self.out, text),
            Encoding::Bare => literal::put_bare(self.out, text),
        }
    }

    fn tuple(&mut self, fill: impl FnOnce(&mut Self)) {
        let items = self.sequence(b'(', fill);
        match self.encoding {
            Encoding::Pickle { .. } => self.out.push(pickle::TUPLE),
            Encoding::Literal | Encoding::Bare if items == 1 => self.out.extend(b",)"),
            Encoding::Literal | Encoding::Bare => self.out.push(b')'),
        }
    }

    fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        self.sequence(b'[', fill);
        match self.encoding {
            Encoding::Pickle { .. } => self.out.push(pickle::LIST),
            Encoding::Literal | Encoding::Bare => self.out.push(b']'),
        }
    }

    /// Opens a tuple or list and writes its items; how many there are.
    fn sequence(&mut self, bracket: u8, fill: impl FnOnce(&mut Self)) -> usize {
        self.separate();
        self.out.push(match self.encoding {
            Encoding::Pickle { .. } => pickle::MARK,
            Encoding::Literal | Encoding::Bare => bracket,
        });
        let outer = std::mem::replace(&mut self.items, 0);
        fill(self);
        std::mem::replace(&mut self.items, outer)
    }

    fn separate(&mut self) {
        if self.items > 0 && matches!(self.encoding, Encoding::Literal | Encoding::Bare) {
            self.out.extend(b", ");
        }
        self.items += 1;
    }

    fn neighbour(&mut self, nbr: &Neighbour<'_>) {
        self.text(&nbr.handle);
        self.text(&nbr.addr.ip().to_string());
        self.int(nbr.addr.port().into());
    }

    fn item(&mut self, item: &Item<'_>) {
        self.tuple(|pair| {
            pair.int(item.seq.into());
            pair.text(&item.data);
        });
    }

    fn reg_init(&mut self, init: &RegInit<'_>) {
        match (&init.nbr, init.order) {
            (Some(nbr), RegInitOrder::HandleFirst) => self.neighbour(nbr),
            (Some(nbr), RegInitOrder::IpFirst) => {
                self.text(&nbr.addr.ip().to_string());
                self.text(&nbr.handle);
                self.int(nbr.addr.port().into());
            }
            (None, _) => (0..3).for_each(|_| self.none()),
        }
        self.int(init.dbsize.into());
        match &init.item {
            Some(item) => self.item(item),
            None => self.none(),
        }
    }
}

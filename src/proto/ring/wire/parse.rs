//! Parses a whole tuple into a [`Request`] or a [`Reply`].
//!
//! For: the fields of a message, each read by the type it must have. Not for: finding where a message ends (`framing.rs`).

use std::borrow::Cow;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::super::encoding::Encoding;
use super::super::literal;
use super::super::value::{Link, Tree, Value};
use super::framing::Packet;
use super::message::{
    BadRequest, HANDLE_BYTES_MAX, Item, Neighbour, PAGE_PEERS_MAX, RegInit, RegInitOrder, Reply,
    Request,
};

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
    /// Numbers are text that looks like one.
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
        Ok(mem::replace(&mut self.next, next))
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
        if matches!(self.peek()?, Value::Int(_) | Value::Float(_)) {
            self.skip()?;
            return Ok(Cow::Borrowed(""));
        }
        self.text(BadRequest::Time)
    }

    fn is_none(&self) -> Result<bool, BadRequest> {
        Ok(matches!(self.peek()?, Value::None))
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
            let len = rows.tree.items_from(rows.next).count();
            let bytes = len * size_of::<Neighbour<'_>>();
            if len > PAGE_PEERS_MAX || bytes > rows.tree.room_bytes() {
                return Err(BadRequest::Fields);
            }
            let mut page = Vec::with_capacity(len);
            while !rows.is_end() {
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
        let after = mem::replace(&mut self.next, first);
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

//! Writes a [`Request`] or a [`Reply`] in any encoding.

use std::mem;

use super::super::encoding::Encoding;
use super::super::{literal, pickle};
use super::message::{Item, Neighbour, RegInit, RegInitOrder, Reply, Request};

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
            Encoding::Literal | Encoding::Bare => self.out.extend(literal::NONE),
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
        let outer = mem::replace(&mut self.items, 0);
        fill(self);
        mem::replace(&mut self.items, outer)
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

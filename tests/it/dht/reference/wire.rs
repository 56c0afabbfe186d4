//! The wire of the DHT ring and a client of it, from the specification alone, for [`crate::dht::reference`]: it shares
//! no line with `src`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use ruint::aliases::U160;
use sha1::{Digest, Sha1};

/// An id or a key.
pub type Key = U160;
pub type Entries = BTreeMap<Key, Vec<u8>>;

/// Nobody is waited for longer, and a hand-over waits no longer for another.
pub const PATIENCE: Duration = Duration::from_secs(10);
const LINE_BYTES_MAX: u64 = 256;

pub fn key_of(text: &str) -> Key {
    U160::from_be_bytes::<20>(Sha1::digest(text).into())
}

pub fn id_of(addr: SocketAddrV4) -> Key {
    key_of(&addr.to_string())
}

/// The way from `from` up to `to`.
pub fn distance(from: Key, to: Key) -> Key {
    to.wrapping_sub(from)
}

/// Whether `key` is in `[from, to)`; all keys are when the two are the same.
pub fn between(from: Key, key: Key, to: Key) -> bool {
    from == to || distance(from, key) < distance(from, to)
}

pub fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// One connection: lines, numbers, bytes.
pub struct Conversation(BufReader<TcpStream>);

impl Conversation {
    pub fn dial(to: SocketAddrV4) -> io::Result<Conversation> {
        Conversation::over(TcpStream::connect(to)?)
    }

    pub fn over(socket: TcpStream) -> io::Result<Conversation> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Conversation(BufReader::new(socket)))
    }

    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.0).take(LINE_BYTES_MAX).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(text) => Ok(text.to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    pub fn key(&mut self) -> io::Result<Key> {
        let line = self.line()?;
        if !line.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad("not digits"));
        }
        U160::from_str_radix(&line, 10).map_err(|_| bad("not a key"))
    }

    pub fn number(&mut self) -> io::Result<usize> {
        self.line()?.parse().map_err(|_| bad("not a number"))
    }

    pub fn addr(&mut self) -> io::Result<SocketAddrV4> {
        self.line()?.parse().map_err(|_| bad("not an address"))
    }

    pub fn ack(&mut self) -> io::Result<bool> {
        match self.line()?.as_str() {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(bad("not an acknowledgement")),
        }
    }

    pub fn value(&mut self) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.number()?];
        self.0.read_exact(&mut value)?;
        Ok(value)
    }

    pub fn entries(&mut self) -> io::Result<Entries> {
        let count = self.number()?;
        (0..count)
            .map(|_| Ok((self.key()?, self.value()?)))
            .collect()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn say(&mut self, what: impl Display) -> io::Result<()> {
        self.send(format!("{what}\n").as_bytes())
    }

    pub fn say_ack(&mut self, yes: bool) -> io::Result<()> {
        self.say(u8::from(yes))
    }

    pub fn say_value(&mut self, value: &[u8]) -> io::Result<()> {
        self.send(&[format!("{}\n", value.len()).as_bytes(), value].concat())
    }

    pub fn say_entries(&mut self, entries: &Entries) -> io::Result<()> {
        self.say(entries.len())?;
        for (key, value) in entries {
            self.say_entry(key, value)?;
        }
        Ok(())
    }

    pub fn say_entry(&mut self, key: &Key, value: &[u8]) -> io::Result<()> {
        self.say(key)?;
        self.say_value(value)
    }

    /// Waits until the other side is gone.
    pub fn until_gone(&mut self) {
        let _ = self.0.get_mut().read(&mut [0]);
    }
}

/// Asks from node to node until one names itself.
pub fn locate(contact: SocketAddrV4, key: Key) -> io::Result<SocketAddrV4> {
    let mut asked = Vec::new();
    let mut at = contact;
    while !asked.contains(&at) {
        asked.push(at);
        let next = locate_at(at, key)?;
        if next == at {
            return Ok(at);
        }
        at = next;
    }
    Err(io::Error::other(format!(
        "LOCATE {key} goes round: {asked:?}"
    )))
}

/// One LOCATE.
pub fn locate_at(at: SocketAddrV4, key: Key) -> io::Result<SocketAddrV4> {
    let mut peer = Conversation::dial(at)?;
    peer.say(format_args!("LOCATE\n{key}"))?;
    peer.addr()
}

/// One GET at its owner, by way of `contact`; a missing key has no bytes.
pub fn get(contact: SocketAddrV4, key: Key) -> io::Result<Vec<u8>> {
    let mut peer = Conversation::dial(locate(contact, key)?)?;
    peer.say(format_args!("GET\n{key}"))?;
    owned(peer.ack()?)?;
    peer.value()
}

/// One INSERT at its owner, by way of `contact`.
pub fn insert(contact: SocketAddrV4, key: Key, value: &[u8]) -> io::Result<()> {
    let mut peer = Conversation::dial(locate(contact, key)?)?;
    peer.say(format_args!("INSERT\n{key}"))?;
    owned(peer.ack()?)?;
    peer.say_value(value)?;
    owned(peer.ack()?)
}

fn owned(ack: bool) -> io::Result<()> {
    let refused = || io::Error::other("the owner says no");
    ack.then_some(()).ok_or_else(refused)
}

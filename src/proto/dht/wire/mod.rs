//! The lines of the DHT protocol, read and written.
//!
//! Every request is two lines, `WORD\nARGUMENT\n` (our own XSTAT is one, those of the [`extension`] are more); replies and
//! what follows a request are single lines (key, number, acknowledgement, address) and values, which are counted bytes and
//! need no codec. The readers are functions of the bytes alone: `Ok(None)` means that more bytes are
//! needed, an error means that no further byte can help, and more bytes never change an answer.
//!
//! `seen` spares a line that dribbles in from being searched again and again:
//!
//! ```text
//! input   G E T \n 4 3 7 3 2 9 . . .
//!         |<--- seen --->|             length of input when the same reader last said Ok(None)
//!                        ^             the search for the next '\n' starts here
//! 0 <= seen <= input.len(); 0 for the first call of each item; used > seen once it is whole
//! ```
//!
//! Not here: limits on announced lengths, who owns a key, whether a claimed id is the hash of its
//! address. The node judges those.

pub mod extension;
mod lines;

use std::net::SocketAddrV4;

use memchr::memchr;

use self::extension::Extension;
use self::lines::{item, put_line, put_lines, to_address, to_key};
use super::id::Id;

pub(crate) use self::lines::line;
pub use self::lines::{
    ACK_BYTES, LINE_BYTES_MAX, Malformed, ack, address, key, length, number, put_ack, put_address,
    put_key, put_length, put_number,
};

/// The first lines of an exchange: the request of the side that opened the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// LOCATE: which node that you know is the last one at or before this key?
    Locate(Id),
    /// CONTAINS: is there an entry for this key?
    Contains(Id),
    /// GET: the value of this key.
    Get(Id),
    /// INSERT: store the value that follows once ownership is acknowledged.
    Insert(Id),
    /// REMOVE: forget this key.
    Remove(Id),
    /// UPDATE_PREV: the node at this address now comes before you.
    UpdatePrev(SocketAddrV4),
    /// CONNECT: a node with this id joins and asks for its part of your range.
    Connect(Id, Form),
    /// DISCONNECT: the leaver, which is not named, hands its range to you; this is its next node.
    Disconnect(NextNode, Form),
    /// XMERGE: as INSERT or REMOVE, by what follows, but only if it is newer than what you have.
    Merge { key: Id, version: u64 },
    /// XSTAT, without an argument: what do you hold, and who are your neighbours? Ours, see
    /// [`super::rpc::stat`]; plain peers close.
    Stat,
    /// A request of the [`extension`]. Boxed, as it is larger than the others and rarer.
    Extension(Box<Extension>),
}

/// How CONNECT and DISCONNECT move entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As in the protocol: key, length, value.
    #[default]
    Plain,
    /// XCONNECT, XDISCONNECT: key, version, length or `-` for a tombstone, value. The heir acknowledges XDISCONNECT before
    /// the entries too, so that a leaver knows of a plain peer before it has given anything away.
    Versioned,
}

/// How a leaver names its next node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextNode {
    /// The address: the usual form.
    Addr(SocketAddrV4),
    /// As some old peers do: the id of the node instead of its address. LOCATE finds the address.
    Key(Id),
}

/// Reads a request: a command word in upper case and its argument. With it comes the number of
/// bytes the two lines take up. `seen` may lie in either line.
///
/// An unknown word is refused as soon as its own line is whole, whatever follows.
///
/// # Errors
/// [`Malformed::UnknownCommand`]; of the argument's type, [`Malformed::Key`] or
/// [`Malformed::Address`]; [`Malformed::LineTooLong`] of either line.
pub fn request(input: &[u8], seen: usize) -> Result<Option<(Request, usize)>, Malformed> {
    let Some((word, word_used)) = word_line(input, seen)? else {
        return Ok(None);
    };
    let parse: fn(&[u8]) -> Result<Request, Malformed> = match word {
        b"GET" => |argument| to_key(argument).map(Request::Get),
        b"LOCATE" => |argument| to_key(argument).map(Request::Locate),
        b"INSERT" => |argument| to_key(argument).map(Request::Insert),
        b"CONTAINS" => |argument| to_key(argument).map(Request::Contains),
        b"REMOVE" => |argument| to_key(argument).map(Request::Remove),
        b"CONNECT" => |argument| to_key(argument).map(|id| Request::Connect(id, Form::Plain)),
        b"XCONNECT" => |argument| to_key(argument).map(|id| Request::Connect(id, Form::Versioned)),
        b"UPDATE_PREV" => |argument| to_address(argument).map(Request::UpdatePrev),
        b"DISCONNECT" => {
            |argument| to_next_node(argument).map(|next| Request::Disconnect(next, Form::Plain))
        }
        b"XDISCONNECT" => {
            |argument| to_next_node(argument).map(|next| Request::Disconnect(next, Form::Versioned))
        }
        b"XMERGE" => {
            let merge = merge(&input[word_used..])?;
            return Ok(merge.map(|(request, used)| (request, word_used + used)));
        }
        b"XSTAT" => return Ok(Some((Request::Stat, word_used))),
        _ => {
            let read = Extension::read(word, &input[word_used..])?;
            return Ok(read.map(|(extension, used)| {
                let request = Request::Extension(Box::new(extension));
                (request, word_used + used)
            }));
        }
    };
    let argument = item(&input[word_used..], seen.saturating_sub(word_used), parse)?;
    Ok(argument.map(|(request, used)| (request, word_used + used)))
}

/// What follows the word XMERGE.
fn merge(input: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    let Some((key, key_used)) = key(input, 0)? else {
        return Ok(None);
    };
    let version = number(&input[key_used..], 0)?;
    Ok(version.map(|(version, used)| (Request::Merge { key, version }, key_used + used)))
}

impl Form {
    /// The word of a command, given the one of its versioned form.
    fn word(self, word: &'static str) -> &'static str {
        match self {
            Form::Plain => &word[1..],
            Form::Versioned => word,
        }
    }
}

impl Request {
    /// That of XMERGE.
    pub fn version(&self) -> Option<u64> {
        match self {
            Request::Merge { version, .. } => Some(*version),
            _ => None,
        }
    }

    /// Plain peers do not know it, and close.
    pub fn is_extension(&self) -> bool {
        match self {
            Request::Connect(_, form) | Request::Disconnect(_, form) => *form == Form::Versioned,
            Request::Merge { .. } | Request::Extension(_) => true,
            _ => false,
        }
    }
}

/// Appends the lines of a request.
pub fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Locate(key) => put_lines(out, "LOCATE", *key),
        Request::Contains(key) => put_lines(out, "CONTAINS", *key),
        Request::Get(key) => put_lines(out, "GET", *key),
        Request::Insert(key) => put_lines(out, "INSERT", *key),
        Request::Remove(key) => put_lines(out, "REMOVE", *key),
        Request::UpdatePrev(addr) => put_lines(out, "UPDATE_PREV", *addr),
        Request::Connect(key, form) => put_lines(out, form.word("XCONNECT"), *key),
        Request::Disconnect(next, form) => match next {
            NextNode::Addr(addr) => put_lines(out, form.word("XDISCONNECT"), *addr),
            NextNode::Key(key) => put_lines(out, form.word("XDISCONNECT"), *key),
        },
        Request::Merge { key, version } => {
            put_lines(out, "XMERGE", *key);
            put_number(out, *version);
        }
        Request::Stat => put_line(out, "XSTAT"),
        Request::Extension(extension) => extension.put(out),
    }
}

/// The line of the command word, of which `seen` may be the end or more.
fn word_line(input: &[u8], seen: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    // Where a word line was already whole it named a command, or the request would have been
    // refused then; so it ends within these few bytes or not before `seen`.
    let known = seen.min(input.len()).min(COMMAND_LINE_BYTES_MAX);
    let was_whole = memchr(b'\n', &input[..known]).is_some();
    line(input, if was_whole { 0 } else { seen })
}

fn to_next_node(text: &[u8]) -> Result<NextNode, Malformed> {
    match Id::parse(text) {
        Some(key) => Ok(NextNode::Key(key)),
        None => to_address(text).map(NextNode::Addr),
    }
}

/// Length of `UPDATE_PREV\r\n` and `XDISCONNECT\r\n`, the longest line with a command.
const COMMAND_LINE_BYTES_MAX: usize = 13;

const _: () = assert!(COMMAND_LINE_BYTES_MAX < LINE_BYTES_MAX);

#[cfg(test)]
mod tests;

//! The encodings of a tuple, and why bytes in one of them are refused.
//!
//! For: the vocabulary that the readers of the encodings (`pickle`, `literal`) and the messages (`wire`) share. Not for: reading
//! or writing anything.

use crate::engine::Violation;

/// The longest message in bytes, which is also what the engine keeps of the input of one connection.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

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
#[non_exhaustive]
pub enum Refusal {
    /// It does not begin like a tuple in any encoding: the raw words and bare integers of the assignment's first part
    /// among others.
    NotATuple,
    /// A pickle opcode that is not executed; its name and what it would do, for the log.
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

//! Messages in a stream of bytes: lines, and frames that begin with their length.
//!
//! ```text
//!   Lines    text ... \n                       or \r\n
//!   Frames   | length | header | payload |     the length counts the payload only
//! ```
//! For [`super::Service::on_input`]: pure functions of the input, which the engine keeps. They copy nothing, allocate
//! nothing and know no protocol; `?` turns [`TooLong`] into a [`Violation`].
//!
//! Invariants:
//! - the result is the same however the bytes are split: a message is refused for its length alone, whether or not its
//!   end is in the same read, and as soon as `bytes_max + 1` bytes or the announced length are there;
//! - a line that dribbles in costs O(n): the search goes on at [`Input::seen`]. A frame costs a look at its length a read.

use thiserror::Error;

use super::{Input, Violation};

/// A message is longer than the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TooLong(&'static str);

impl From<TooLong> for Violation {
    fn from(TooLong(what): TooLong) -> Violation {
        Violation::peer(what)
    }
}

/// What a `\r` before the `\n` of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cr {
    /// A byte of the text.
    Kept,
    /// Part of the line's end. Only the last one; others are bytes of the text.
    Stripped,
}

/// A protocol of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Longest line without its `\n`, a `\r` included. [`super::Limits::input_bytes_max`] must be larger.
    pub bytes_max: usize,
    pub cr: Cr,
}

/// A whole line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line<'a> {
    /// Without its end.
    pub text: &'a [u8],
    /// Bytes of the input that it takes up, its end included.
    pub used: usize,
}

impl Lines {
    /// The first line of the input; `None`: it is not complete.
    ///
    /// # Errors
    /// More than [`Lines::bytes_max`] bytes come before the first `\n`.
    pub fn first<'a>(&self, input: Input<'a>) -> Result<Option<Line<'a>>, TooLong> {
        let window_bytes = self.bytes_max.saturating_add(1).min(input.bytes.len());
        let window = &input.bytes[..window_bytes];
        let start = input.seen.min(window.len());
        let Some(at) = memchr::memchr(b'\n', &window[start..]) else {
            return match window.len() > self.bytes_max {
                true => Err(TooLong("line too long")),
                false => Ok(None),
            };
        };
        let text = &window[..start + at];
        let used = text.len() + 1;
        let text = match self.cr {
            Cr::Kept => text,
            Cr::Stripped => text.strip_suffix(b"\r").unwrap_or(text),
        };
        Ok(Some(Line { text, used }))
    }
}

/// How a frame's length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    U16Be,
    U16Le,
    U32Be,
    U32Le,
}

impl Prefix {
    pub const fn bytes(self) -> usize {
        match self {
            Prefix::U16Be | Prefix::U16Le => 2,
            Prefix::U32Be | Prefix::U32Le => 4,
        }
    }

    /// The length at the front of `bytes`, and what follows it.
    fn split(self, bytes: &[u8]) -> Option<(u32, &[u8])> {
        Some(match self {
            Prefix::U16Be | Prefix::U16Le => {
                let (&length, rest) = bytes.split_first_chunk::<2>()?;
                let little = self == Prefix::U16Le;
                let length = if little {
                    u16::from_le_bytes
                } else {
                    u16::from_be_bytes
                }(length);
                (length.into(), rest)
            }
            Prefix::U32Be | Prefix::U32Le => {
                let (&length, rest) = bytes.split_first_chunk::<4>()?;
                let little = self == Prefix::U32Le;
                let length = if little {
                    u32::from_le_bytes
                } else {
                    u32::from_be_bytes
                }(length);
                (length, rest)
            }
        })
    }

    /// Appends `length`; false, and nothing is appended, when the prefix is too short for it.
    fn put(self, length: usize, out: &mut Vec<u8>) -> bool {
        let narrow = || u16::try_from(length).ok();
        let wide = || u32::try_from(length).ok();
        match self {
            Prefix::U16Be => narrow().map(|n| out.extend(n.to_be_bytes())),
            Prefix::U16Le => narrow().map(|n| out.extend(n.to_le_bytes())),
            Prefix::U32Be => wide().map(|n| out.extend(n.to_be_bytes())),
            Prefix::U32Le => wide().map(|n| out.extend(n.to_le_bytes())),
        }
        .is_some()
    }
}

/// A protocol of frames that begin with their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    pub prefix: Prefix,
    /// Bytes between the length and the payload, which the length does not count: a type, say. Often 0.
    pub header_bytes: usize,
    /// Longest payload. A service that takes frames only whole needs a [`super::Limits::input_bytes_max`] of
    /// [`Frames::bytes_max`].
    pub payload_bytes_max: usize,
}

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame<'a> {
    pub header: &'a [u8],
    pub payload: &'a [u8],
    /// Bytes of the input that it takes up.
    pub used: usize,
}

impl Frames {
    /// Bytes of the longest frame.
    pub const fn bytes_max(&self) -> usize {
        let head_bytes = self.prefix.bytes().saturating_add(self.header_bytes);
        head_bytes.saturating_add(self.payload_bytes_max)
    }

    /// The first frame of `bytes`; `None`: it is not complete.
    ///
    /// # Errors
    /// The length that it announces is over [`Frames::payload_bytes_max`], wherever the rest of it is.
    pub fn first<'a>(&self, bytes: &'a [u8]) -> Result<Option<Frame<'a>>, TooLong> {
        let Some((length, rest)) = self.prefix.split(bytes) else {
            return Ok(None);
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.payload_bytes_max)
            .ok_or(TooLong("frame too long"))?;
        let split = rest.split_at_checked(self.header_bytes);
        let frame = split.and_then(|(header, rest)| {
            let payload = rest.get(..length)?;
            let used = self.prefix.bytes() + header.len() + payload.len();
            Some(Frame {
                header,
                payload,
                used,
            })
        });
        Ok(frame)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The payload is over [`Frames::payload_bytes_max`], or than the prefix can say; nothing is appended then.
    ///
    /// # Panics
    /// When `header` has not [`Frames::header_bytes`].
    pub fn put(&self, header: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        assert_eq!(
            header.len(),
            self.header_bytes,
            "every frame has its header"
        );
        if payload.len() > self.payload_bytes_max || !self.prefix.put(payload.len(), out) {
            return Err(TooLong("frame too long"));
        }
        out.extend_from_slice(header);
        out.extend_from_slice(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

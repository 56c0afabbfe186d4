//! What a service is given to read, and what it says of it.

/// The bytes of a connection that are not consumed yet, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub bytes: &'a [u8],
    /// How many of `bytes`, from the front, were there already when the service last answered
    /// [`Step::More`]. A search for the end of a message goes on here, so that one which dribbles in
    /// costs O(n) and not O(n²). `seen <= bytes.len()`.
    pub seen: usize,
}

/// What a service made of its input. `n` is the number of bytes consumed from the front; a connection on which it is more
/// than there were ends, as a fault of ours. `Took` and `Done` of 0 are the same as `More`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The message is not complete; call again when there are more bytes.
    More,
    /// Consumed `n` bytes in the middle of a message; call again.
    Took(usize),
    /// Consumed `n` bytes and with them the rest of a message; call again.
    Done(usize),
    /// As `Done`, but the answer is not there yet: no further call, and no deadline on the peer,
    /// until [`super::Hub::resume`]. With `n` of 0, all of the input is offered again then.
    Wait(usize),
}

impl Step {
    /// The rest of a message, of `used` bytes; `waits`: its answer is not there yet.
    pub fn message(used: usize, waits: bool) -> Step {
        let step = if waits { Step::Wait } else { Step::Done };
        step(used)
    }
}

/// Leftover input of one connection, while there is any.
///
/// ```text
///   bytes: [ consumed | seen | not seen ]
///          0        start   start+seen  len
/// ```
/// `start + seen <= bytes.len()`. The consumed part is cut off when bytes are appended, so that each
/// byte moves at most once per read.
#[derive(Debug, Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    start: usize,
    pub(super) seen: usize,
}

impl Stash {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn append(&mut self, more: &[u8]) {
        if more.is_empty() {
            return;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.bytes.len() - self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(more);
    }

    pub(super) fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "a service consumes what it was given");
        self.start += n;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.seen = 0;
    }
}

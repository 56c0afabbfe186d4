//! The values that a message is made of: plain data, whatever the encoding.
//!
//! A message is a [`Tree`]: its values stand in one table, in the order in which they were read, and a tuple knows its
//! first item and each item the next one. So nothing that a peer sends makes us recurse, neither when a tree is built nor
//! when it is dropped, and what it takes is counted before it is taken. Text stays in the input where it can.
//!
//! ```text
//! ('QUERY_RESULT', (0, 'blue'))
//! nodes   0 'QUERY_RESULT'   1 0   2 'blue'   3 tuple   4 tuple = root
//! first                                         1         0
//! next    3                  2     -            -         -
//! ```
//! A value that stands in two places has two nodes with the same items, so that shared values cost nothing. A list takes no
//! more items from then on, so nothing can contain itself.
//!
//! For: building and walking trees. Not for: encodings, or what a message means.
//!
//! Invariants: `heap_bytes <= HEAP_BYTES_MAX`, at every moment, for the tree and what builds it; nesting is at most
//! [`NESTING_MAX`].

use std::borrow::Cow;
use std::mem;

use super::encoding::Refusal;

/// Memory that reading one message may take, beside the input itself. It is reached at
/// 1,024 values, where the table would double once more.
pub const HEAP_BYTES_MAX: usize = 64 * 1024;

/// Tuples and lists within each other, the outermost included.
pub const NESTING_MAX: usize = 16;

/// One value of a [`Tree`].
#[derive(Debug, Clone)]
pub enum Value<'t> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: no field of ours is that large, but it is an integer.
    BigInt,
    Float(f64),
    /// A string or byte string. Python 2 does not tell them apart, so no reader of ours does: bytes
    /// are UTF-8, and where they are not, Latin-1.
    Text(&'t str),
    Tuple(Items<'t>),
    List(Items<'t>),
}

/// A complete message.
#[derive(Debug)]
pub struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: Link,
    heap_bytes: usize,
}

/// Where a node stands in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(u16);

impl Link {
    /// No node: the table ends long before.
    const END: Link = Link(u16::MAX);
}

#[derive(Debug)]
struct Node<'a> {
    kind: Kind<'a>,
    /// The item after this one in what both are in.
    next: Link,
    /// Levels of tuples and lists, this one included; 0 for all else.
    nesting: u8,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    None,
    Bool(bool),
    Int(i64),
    BigInt,
    Float(f64),
    Text(Cow<'a, str>),
    Tuple {
        first: Link,
    },
    List {
        first: Link,
        last: Link,
        /// It stands in two places, so it may not grow: see [`Builder::again`].
        shared: bool,
    },
}

impl<'a> Tree<'a> {
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    fn value(&self, at: Link) -> Value<'_> {
        match self.nodes[usize::from(at.0)].kind {
            Kind::None => Value::None,
            Kind::Bool(value) => Value::Bool(value),
            Kind::Int(value) => Value::Int(value),
            Kind::BigInt => Value::BigInt,
            Kind::Float(value) => Value::Float(value),
            Kind::Text(ref text) => Value::Text(text),
            Kind::Tuple { first } => Value::Tuple(self.items_from(first)),
            Kind::List { first, .. } => Value::List(self.items_from(first)),
        }
    }

    /// The first item of the root; `None` unless that is a tuple.
    pub(super) fn first(&self) -> Option<Link> {
        self.first_of(self.root)
    }

    /// The first item of the tuple at `at`; `None` unless it is one.
    pub(super) fn first_of(&self, at: Link) -> Option<Link> {
        match self.nodes[usize::from(at.0)].kind {
            Kind::Tuple { first } => Some(first),
            _ => None,
        }
    }

    pub(super) fn items_from(&self, next: Link) -> Items<'_> {
        Items { tree: self, next }
    }

    /// What is left of [`HEAP_BYTES_MAX`].
    pub(super) fn room_bytes(&self) -> usize {
        HEAP_BYTES_MAX.saturating_sub(self.heap_bytes)
    }

    /// The item at `at` and where the next one is; `None` at the end.
    pub(super) fn item(&self, at: Link) -> Option<(Value<'_>, Link)> {
        (at != Link::END).then(|| (self.value(at), self.nodes[usize::from(at.0)].next))
    }

    /// Takes a text out of the tree, where `None` is in its place from now on.
    pub(super) fn take_text(&mut self, at: Link) -> Option<Cow<'a, str>> {
        let kind = &mut self.nodes[usize::from(at.0)].kind;
        match mem::replace(kind, Kind::None) {
            Kind::Text(text) => Some(text),
            other => {
                *kind = other;
                None
            }
        }
    }
}

/// The items of a tuple or list, in order.
#[derive(Debug, Clone)]
pub struct Items<'t> {
    tree: &'t Tree<'t>,
    next: Link,
}

impl<'t> Iterator for Items<'t> {
    type Item = Value<'t>;

    fn next(&mut self) -> Option<Value<'t>> {
        if self.next == Link::END {
            return None;
        }
        let at = self.next;
        self.next = self.tree.nodes[usize::from(at.0)].next;
        Some(self.tree.value(at))
    }
}

/// Builds a tree, as a stack machine does: values are pushed, and a tuple or list takes up those above a mark.
#[derive(Debug, Default)]
pub(super) struct Builder<'a> {
    nodes: Vec<Node<'a>>,
    /// What is in no tuple or list yet.
    stack: Vec<Link>,
    /// Heights of the stack where tuples and lists begin that are not complete.
    marks: Marks,
    heap_bytes: usize,
}

#[derive(Debug, Default)]
struct Marks {
    heights: [u16; NESTING_MAX],
    len: usize,
}

/// Which of the two a run of items becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequence {
    Tuple,
    List,
}

impl<'a> Builder<'a> {
    /// Pushes a value that is neither a tuple nor a list.
    pub(super) fn push(&mut self, kind: Kind<'a>) -> Result<(), Refusal> {
        self.push_node(kind, 0)
    }

    /// Pushes text that stands in the input as it is.
    pub(super) fn push_bytes(&mut self, bytes: &'a [u8]) -> Result<(), Refusal> {
        match str::from_utf8(bytes) {
            Ok(text) => self.push(Kind::Text(Cow::Borrowed(text))),
            Err(_) => self.push_latin1(bytes),
        }
    }

    /// Pushes text that had to be decoded.
    pub(super) fn push_decoded(&mut self, bytes: Vec<u8>) -> Result<(), Refusal> {
        match String::from_utf8(bytes) {
            Ok(text) => self.push(Kind::Text(Cow::Owned(text))),
            Err(e) => self.push_latin1(e.as_bytes()),
        }
    }

    fn push_latin1(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let len = bytes.len() + bytes.iter().filter(|byte| !byte.is_ascii()).count();
        let mut text = String::new();
        self.charge(len)?;
        text.reserve_exact(len);
        text.extend(bytes.iter().map(|&byte| char::from(byte)));
        self.push(Kind::Text(Cow::Owned(text)))
    }

    /// An empty buffer of `len` bytes, for text that is to be decoded.
    pub(super) fn buffer(&mut self, len: usize) -> Result<Vec<u8>, Refusal> {
        self.charge(len)?;
        Ok(Vec::with_capacity(len))
    }

    /// A tuple or list begins here.
    pub(super) fn mark(&mut self) -> Result<(), Refusal> {
        let mark = self.marks.heights.get_mut(self.marks.len);
        *mark.ok_or(Refusal::TooDeep)? = self.stack.len() as u16;
        self.marks.len += 1;
        Ok(())
    }

    /// The tuple or list that began at the last mark is complete.
    pub(super) fn close(&mut self, sequence: Sequence) -> Result<(), Refusal> {
        let height = self.pop_mark()?;
        self.collect(height, sequence)
    }

    /// How many values there are above the last mark.
    pub(super) fn items(&self) -> usize {
        self.stack.len() - self.floor()
    }

    /// Takes the last mark back.
    pub(super) fn unmark(&mut self) -> Result<(), Refusal> {
        self.pop_mark().map(|_| ())
    }

    /// The last `n` values become a tuple.
    pub(super) fn tuple_of(&mut self, n: usize) -> Result<(), Refusal> {
        let height = self.stack.len().checked_sub(n);
        let height = height.filter(|&height| height >= self.floor());
        self.collect(height.ok_or(UNDERFLOW)?, Sequence::Tuple)
    }

    /// Pushes a list to append to.
    pub(super) fn empty_list(&mut self) -> Result<(), Refusal> {
        self.collect(self.stack.len(), Sequence::List)
    }

    /// The values above the last mark go to the end of the list below it.
    pub(super) fn append_marked(&mut self) -> Result<(), Refusal> {
        let height = self.pop_mark()?;
        self.append(height)
    }

    /// The last value goes to the end of the list below it.
    pub(super) fn append_one(&mut self) -> Result<(), Refusal> {
        let height = self.stack.len().checked_sub(1);
        self.append(height.ok_or(UNDERFLOW)?)
    }

    /// The last value, for [`Builder::again`].
    pub(super) fn top(&self) -> Result<Link, Refusal> {
        let top = self.stack[self.floor()..].last();
        top.copied().ok_or(UNDERFLOW)
    }

    /// Pushes once more a value that `top` told of. A tuple's items are not copied; nor are a list's, which may not
    /// grow from then on, as both places would have to.
    pub(super) fn again(&mut self, at: Link) -> Result<(), Refusal> {
        let Node {
            ref mut kind,
            nesting,
            ..
        } = self.nodes[usize::from(at.0)];
        let copy = match kind {
            Kind::None => Kind::None,
            Kind::Bool(value) => Kind::Bool(*value),
            Kind::Int(value) => Kind::Int(*value),
            Kind::BigInt => Kind::BigInt,
            Kind::Float(value) => Kind::Float(*value),
            Kind::Text(Cow::Borrowed(text)) => Kind::Text(Cow::Borrowed(text)),
            Kind::Text(Cow::Owned(text)) => {
                charge(&mut self.heap_bytes, text.len())?;
                Kind::Text(Cow::Owned(text.clone()))
            }
            &mut Kind::Tuple { first } => Kind::Tuple { first },
            Kind::List {
                first,
                last,
                shared,
            } => {
                *shared = true;
                Kind::List {
                    first: *first,
                    last: *last,
                    shared: true,
                }
            }
        };
        self.push_node(copy, nesting)
    }

    /// The tree, when exactly one value is there.
    pub(super) fn finish(self) -> Result<Tree<'a>, Refusal> {
        match self.stack[..] {
            [root] if self.marks.len == 0 => Ok(Tree {
                nodes: self.nodes,
                root,
                heap_bytes: self.heap_bytes,
            }),
            _ => Err(Refusal::Malformed("something else than one value")),
        }
    }

    /// Makes room for one more in a table beside the tree, see [`reserve`].
    pub(super) fn make_room<T>(&mut self, items: &mut Vec<T>) -> Result<(), Refusal> {
        reserve(items, &mut self.heap_bytes)
    }

    /// Counts `bytes` of heap before they are taken.
    fn charge(&mut self, bytes: usize) -> Result<(), Refusal> {
        charge(&mut self.heap_bytes, bytes)
    }

    /// Where the values of the tuple or list that is open begin.
    fn floor(&self) -> usize {
        let last = self.marks.len.checked_sub(1);
        last.map_or(0, |last| usize::from(self.marks.heights[last]))
    }

    fn pop_mark(&mut self) -> Result<usize, Refusal> {
        let height = self.floor();
        self.marks.len = self.marks.len.checked_sub(1).ok_or(UNDERFLOW)?;
        Ok(height)
    }

    fn push_node(&mut self, kind: Kind<'a>, nesting: u8) -> Result<(), Refusal> {
        let at = Link(self.nodes.len() as u16);
        reserve(&mut self.nodes, &mut self.heap_bytes)?;
        reserve(&mut self.stack, &mut self.heap_bytes)?;
        self.nodes.push(Node {
            kind,
            next: Link::END,
            nesting,
        });
        self.stack.push(at);
        Ok(())
    }

    fn collect(&mut self, height: usize, sequence: Sequence) -> Result<(), Refusal> {
        let Run {
            first,
            last,
            nesting,
        } = self.take_run(height)?;
        let kind = match sequence {
            Sequence::Tuple => Kind::Tuple { first },
            Sequence::List => Kind::List {
                first,
                last,
                shared: false,
            },
        };
        self.push_node(kind, nesting)
    }

    fn append(&mut self, height: usize) -> Result<(), Refusal> {
        if height <= self.floor() {
            return Err(UNDERFLOW);
        }
        let run = self.take_run(height)?;
        let list = usize::from(self.stack[height - 1].0);
        let Kind::List {
            first,
            last,
            shared: false,
        } = &mut self.nodes[list].kind
        else {
            return Err(Refusal::Malformed("an item for something that takes none"));
        };
        if run.first == Link::END {
            return Ok(());
        }
        let before = mem::replace(last, run.last);
        if *first == Link::END {
            *first = run.first;
        } else {
            self.nodes[usize::from(before.0)].next = run.first;
        }
        self.nodes[list].nesting = run.nesting.max(self.nodes[list].nesting);
        Ok(())
    }

    /// Takes the values from `height` on off the stack and makes them one another's next.
    fn take_run(&mut self, height: usize) -> Result<Run, Refusal> {
        let items = &self.stack[height..];
        let mut inner = 0;
        let mut next = Link::END;
        for &at in items.iter().rev() {
            let node = &mut self.nodes[usize::from(at.0)];
            node.next = mem::replace(&mut next, at);
            inner = node.nesting.max(inner);
        }
        if usize::from(inner) >= NESTING_MAX {
            return Err(Refusal::TooDeep);
        }
        let run = Run {
            first: next,
            last: items.last().copied().unwrap_or(Link::END),
            nesting: inner + 1,
        };
        self.stack.truncate(height);
        Ok(run)
    }
}

/// Values that stand one after the other in a tuple or list.
struct Run {
    first: Link,
    last: Link,
    /// Of the tuple or list that they are in.
    nesting: u8,
}

const UNDERFLOW: Refusal = Refusal::Malformed("an end without a beginning");

/// Makes room for one more, counted while the old room is still there, which moving to the new one needs.
fn reserve<T>(items: &mut Vec<T>, heap_bytes: &mut usize) -> Result<(), Refusal> {
    let old = items.capacity();
    if items.len() < old {
        return Ok(());
    }
    let new = (2 * old).max(ROOM_MIN);
    charge(heap_bytes, new * size_of::<T>())?;
    items.reserve_exact(new - items.len());
    *heap_bytes -= old * size_of::<T>();
    Ok(())
}

/// Nearly every message of the protocol has no more values.
const ROOM_MIN: usize = 8;

fn charge(heap_bytes: &mut usize, bytes: usize) -> Result<(), Refusal> {
    let sum = *heap_bytes + bytes;
    if sum > HEAP_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    *heap_bytes = sum;
    Ok(())
}

//! Postings lists: the files that have a word, best first.
//!
//! A list is stored in pieces: inserting or removing a file moves at most 8 KiB, however long the list is.
//!
//! Invariants: a list is in the order of [`rank`] and has at least two files; every piece has 1 to [`PIECE_MAX`] files,
//! and two neighbours together have more than half of that.

use std::cmp::Ordering;

use slab::Slab;

use super::entry::Entry;
use super::ranking::{Posting, rank};

/// Files of a piece, 8 KiB. Moving half of it is cheaper than the binary search for the place, which compares names.
pub(super) const PIECE_MAX: usize = 2048;

/// The files that have a word. Half of all words occur in one name only and need no list.
#[derive(Debug)]
pub(super) enum Postings {
    One(Posting),
    Many(Box<List>),
}

#[derive(Debug)]
pub(super) struct List {
    /// The first piece, the only one of most lists; stored without a second indirection.
    head: Vec<Posting>,
    rest: Vec<Vec<Posting>>,
}

impl Postings {
    pub(super) fn len(&self) -> usize {
        match self {
            Postings::One(_) => 1,
            Postings::Many(list) => list.head.len() + list.rest.iter().map(Vec::len).sum::<usize>(),
        }
    }

    /// Piece number `number`, counted from 0.
    pub(super) fn piece(&self, number: usize) -> Option<&[Posting]> {
        match self {
            Postings::One(only) => (number == 0).then_some(std::slice::from_ref(only)),
            Postings::Many(list) if number == 0 => Some(&list.head),
            Postings::Many(list) => list.rest.get(number - 1).map(Vec::as_slice),
        }
    }

    /// Names that a binary search for a place compares.
    pub(super) fn levels(&self) -> usize {
        match self {
            Postings::One(_) => 1,
            Postings::Many(list) => {
                let pieces = list.rest.len() + 1;
                1 + pieces.ilog2() as usize + list.head.len().ilog2() as usize
            }
        }
    }

    /// Adds a posting. It must not be in the list.
    pub(super) fn insert(&mut self, posting: Posting, files: &Slab<Entry>) {
        match self {
            Postings::One(first) => {
                let mut both = vec![*first, posting];
                both.sort_unstable_by(|a, b| rank(files, *a, *b));
                *self = Postings::of(both);
            }
            Postings::Many(list) => list.insert(posting, files),
        }
    }

    /// Removes a posting; false when nothing is left. Its file must still exist: its name finds the place.
    pub(super) fn remove(&mut self, posting: Posting, files: &Slab<Entry>) -> bool {
        match self {
            Postings::One(only) => *only != posting,
            Postings::Many(list) => {
                list.remove(posting, files);
                if let ([only], []) = (&list.head[..], &list.rest[..]) {
                    *self = Postings::One(*only);
                }
                true
            }
        }
    }

    /// Appends a file that comes last by name. [`Postings::settle`] must follow.
    pub(super) fn push(&mut self, posting: Posting) {
        match self {
            Postings::One(first) => *self = Postings::of(vec![*first, posting]),
            Postings::Many(list) => list.head.push(posting),
        }
    }

    /// Ranks what was pushed in the order of the names, and divides it into pieces.
    pub(super) fn settle(&mut self) {
        if let Postings::Many(list) = self {
            list.head
                .sort_by_key(|posting| std::cmp::Reverse(posting.occurrences()));
            let first = list.head.len().min(PIECE_MAX);
            let rest = list.head[first..].chunks(PIECE_MAX);
            list.rest = rest.map(<[Posting]>::to_vec).collect();
            list.head.truncate(first);
            list.head.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn validate(&self) {
        if let Postings::Many(list) = self {
            let pieces = || std::iter::once(&list.head).chain(&list.rest);
            assert!(pieces().all(|piece| (1..=PIECE_MAX).contains(&piece.len())));
            assert!(self.len() > 1);
            let mut pairs = pieces().zip(pieces().skip(1));
            assert!(pairs.all(|(one, next)| one.len() + next.len() > PIECE_MAX / 2));
        }
    }

    fn of(head: Vec<Posting>) -> Postings {
        let rest = Vec::new();
        Postings::Many(Box::new(List { head, rest }))
    }
}

impl List {
    /// The piece where a posting is or belongs, and its place in it.
    fn place(&self, posting: Posting, files: &Slab<Entry>) -> (usize, usize) {
        let begins_after =
            |piece: &Vec<Posting>| rank(files, piece[0], posting) == Ordering::Greater;
        let number = self.rest.partition_point(|piece| !begins_after(piece));
        let piece = match number {
            0 => &self.head,
            n => &self.rest[n - 1],
        };
        let at = piece.partition_point(|other| rank(files, *other, posting) == Ordering::Less);
        (number, at)
    }

    fn piece_mut(&mut self, number: usize) -> &mut Vec<Posting> {
        match number {
            0 => &mut self.head,
            n => &mut self.rest[n - 1],
        }
    }

    fn insert(&mut self, posting: Posting, files: &Slab<Entry>) {
        let (mut number, mut at) = self.place(posting, files);
        let piece = self.piece_mut(number);
        if piece.len() == PIECE_MAX {
            let upper = piece.split_off(PIECE_MAX / 2);
            self.rest.insert(number, upper);
            if at > PIECE_MAX / 2 {
                number += 1;
                at -= PIECE_MAX / 2;
            }
        }
        self.piece_mut(number).insert(at, posting);
    }

    fn remove(&mut self, posting: Posting, files: &Slab<Entry>) {
        let (number, at) = self.place(posting, files);
        let piece = self.piece_mut(number);
        if piece.get(at) != Some(&posting) {
            return;
        }
        piece.remove(at);
        if piece.len() * 4 <= piece.capacity() {
            piece.shrink_to(piece.len() * 2);
        }
        self.join(number);
        if let Some(before) = number.checked_sub(1) {
            self.join(before);
        }
    }

    /// Joins a piece and the next one when both are small or one is empty, which keeps the invariant on neighbours.
    fn join(&mut self, number: usize) {
        let Some(next) = self.rest.get(number).map(Vec::len) else {
            return;
        };
        let this = self.piece_mut(number).len();
        if this == 0 || next == 0 || this + next <= PIECE_MAX / 2 {
            let next = self.rest.remove(number);
            self.piece_mut(number).extend(next);
        }
    }
}

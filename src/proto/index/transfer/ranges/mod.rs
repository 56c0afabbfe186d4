//! The ranges of a download: which range is asked of which holder, and which holder sent wrong bytes. Pure.
//!
//! ```text
//!   missing ─ next ─▶ asked ─ received ─▶ storing ─ stored ─▶ vouched ─ all of them ─▶ SHA-1 ─▶ right, or is_wrong
//!      ▲                └─ give_back                                                                  │
//!      └───────────────────────────────── nobody else vouches ◀───────────────────────────────────────┘
//! ```
//! Only the whole file has a hash, so a wrong range shows at the end. A holder *vouches* for the bytes of a range that it
//! has sent, and for the same bytes of another holder. If the SHA-1 is wrong:
//!
//! - A holder that vouches for all ranges is a liar: it sent a wrong file as this file. It is dropped, and the ranges that
//!   no other holder vouches for are fetched again.
//! - If no holder does, one becomes the *reference* and is asked for all ranges that it does not vouch for yet. Where it
//!   sends the same bytes it vouches too. Where it sends others, they replace those on the disk, and the holders that
//!   vouched for those are remembered. Then the whole file is the reference's. If it is right, the holders remembered are
//!   liars; if it is wrong, the reference is.
//!
//! Each wrong file costs one holder, and no honest holder is ever taken for a liar; with one honest holder left, the file
//! is completed. A liar costs one more transfer of the file, or two if it was the reference.
//!
//! A holder that is much slower than the others loses its last ranges to them once they have nothing else to do.
//!
//! Invariants: a holder is asked for a range at most once at a time; `have` counts the ranges that a holder vouches for.
//!
//! Not here: connections, bytes, disks, time but the ticks it is given.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::engine::{Tick, Ticks};

/// Holders of one download: the bits of a range, without that of an earlier run.
pub const HOLDERS_MAX: usize = 63;

/// Ranges of one file: 4 TiB, for which the plan takes 96 MiB of memory. Larger files are refused.
pub const RANGES_MAX: u64 = 4 << 20;

/// The bit that vouches for bytes of an earlier run.
const EARLIER: u64 = 1 << HOLDERS_MAX;

/// A range is asked of a second holder when the first has owed it for this many times as long as the second takes for a
/// range; of a third after twice that, and so on, since the second may be as slow.
const SLOWER: u64 = 4;

/// And for at least this long, so that a short pause costs no holder its range.
const PATIENCE: Ticks = Ticks::from_millis(300);

/// The pace of a holder that has sent nothing yet.
const UNKNOWN_PACE: Ticks = Ticks::from_secs(1);

/// A range of a file.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// The holders that vouch for its bytes.
    vouched: u64,
    /// The holders that are asked for it.
    asked: u64,
    /// Its bytes are being written.
    storing: bool,
}

impl Piece {
    fn is_missing(self) -> bool {
        self.vouched == 0 && !self.storing
    }
}

/// The state of a holder.
#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    /// Connected and not dropped: it may be asked.
    ready: bool,
    /// It lied, or does not have the file.
    dropped: bool,
    /// Time that it takes for a range, averaged.
    pace: Option<Ticks>,
}

/// The result of storing a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes were there and are replaced.
    Differs,
}

/// What follows a wrong SHA-1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These are liars.
    Liars(Vec<usize>),
    /// Not known yet: a reference is asked for all ranges.
    Reference,
}

/// The holder that is asked for all ranges.
#[derive(Debug, Clone, Copy)]
struct Reference {
    holder: usize,
    /// Number of pieces that it vouches for.
    vouches: usize,
    /// It needs no piece before this one.
    cursor: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    pieces: Vec<Piece>,
    holders: Vec<Holder>,
    /// Number of pieces that are stored and that a holder vouches for.
    have: usize,
    /// Every piece before this one is there or asked.
    cursor: usize,
    /// The SHA-1 was wrong, and no holder vouched for all pieces.
    needs_reference: bool,
    reference: Option<Reference>,
    /// Number of pieces that are being written.
    storing: usize,
    /// The holders that vouched for bytes that were replaced by others, by range.
    replaced: HashMap<usize, u64>,
}

impl Plan {
    /// A plan for ranges, some of which an earlier run has left.
    pub fn new(have: &[bool], holders: usize) -> Plan {
        assert!(holders <= HOLDERS_MAX, "a holder is a bit");
        let piece = |have: &bool| Piece {
            vouched: if *have { EARLIER } else { 0 },
            ..Piece::default()
        };
        Plan {
            pieces: have.iter().map(piece).collect(),
            holders: vec![Holder::default(); holders],
            have: have.iter().filter(|have| **have).count(),
            cursor: 0,
            needs_reference: false,
            reference: None,
            storing: 0,
            replaced: HashMap::new(),
        }
    }

    /// Number of ranges that are there.
    pub fn have(&self) -> usize {
        self.have
    }

    /// Every range is there and, while a reference is asked, is from the reference.
    pub fn is_whole(&self) -> bool {
        let vouched = self.reference.map_or(0, |r| r.vouches);
        self.storing == 0
            && self.have == self.pieces.len()
            && (!self.needs_reference || vouched == self.pieces.len())
    }

    /// Only the reference is asked; other holders are of no use now.
    pub fn asks_one(&self) -> bool {
        self.needs_reference
    }

    pub fn set_ready(&mut self, holder: usize, ready: bool) {
        self.holders[holder].ready = ready;
    }

    /// Drops a holder: it is not asked any more.
    pub fn drop(&mut self, holder: usize) {
        self.holders[holder].dropped = true;
        self.holders[holder].ready = false;
    }

    /// Takes back a holder that was dropped.
    pub fn take_back(&mut self, holder: usize) {
        self.holders[holder].dropped = false;
    }

    /// Adds a holder, up to [`HOLDERS_MAX`].
    pub fn add(&mut self) {
        assert!(self.holders.len() < HOLDERS_MAX, "a holder is a bit");
        self.holders.push(Holder::default());
    }

    /// Replaces a holder, from which no range has come, by another one.
    pub fn renew(&mut self, holder: usize) {
        self.holders[holder] = Holder::default();
    }

    pub fn is_dropped(&self, holder: usize) -> bool {
        self.holders[holder].dropped
    }

    /// Time that this holder takes for a range.
    pub fn pace(&self, holder: usize) -> Option<Ticks> {
        self.holders[holder].pace
    }

    /// The next range for a holder; `None` if there is none now. `under_way` are the ranges that holders are asked for, and
    /// since when; it is read only when nothing is missing.
    pub fn next(
        &mut self,
        holder: usize,
        now: Tick,
        under_way: impl Iterator<Item = (usize, Tick)>,
    ) -> Option<usize> {
        if !self.holders[holder].ready {
            return None;
        }
        let range = if self.needs_reference {
            self.next_of_reference(holder)?
        } else {
            match self.next_missing() {
                Some(range) => range,
                None => self.next_overdue(holder, now, under_way)?,
            }
        };
        self.pieces[range].asked |= bit(holder);
        Some(range)
    }

    fn next_missing(&mut self) -> Option<usize> {
        let free = |piece: &Piece| piece.is_missing() && piece.asked == 0;
        let from = self.cursor;
        let found = self.pieces[from..].iter().position(free);
        self.cursor = found.map_or(self.pieces.len(), |at| from + at);
        found.map(|at| from + at)
    }

    /// The range that another holder has owed for the longest time, if that is far too long.
    fn next_overdue(
        &self,
        holder: usize,
        now: Tick,
        under_way: impl Iterator<Item = (usize, Tick)>,
    ) -> Option<usize> {
        let pace = self.holders[holder].pace.unwrap_or(UNKNOWN_PACE);
        let enough = PATIENCE.max(Ticks(pace.0.saturating_mul(SLOWER)));
        let is_overdue = |&(range, since): &(usize, Tick)| {
            let piece = self.pieces[range];
            let askers = u64::from(piece.asked.count_ones());
            let waits = Ticks(enough.0.saturating_mul(askers));
            piece.is_missing() && piece.asked & bit(holder) == 0 && now.since(since) >= waits
        };
        let oldest = under_way
            .filter(is_overdue)
            .min_by_key(|&(range, since)| (since, range));
        oldest.map(|(range, _)| range)
    }

    fn next_of_reference(&mut self, holder: usize) -> Option<usize> {
        let is_there = |r: Reference| self.holders[r.holder].ready;
        if !self.reference.is_some_and(is_there) {
            self.reference = self.choose_reference();
        }
        let reference = self.reference.as_mut().filter(|r| r.holder == holder)?;
        let wanted =
            |piece: &Piece| (piece.vouched | piece.asked) & bit(holder) == 0 && !piece.storing;
        let from = reference.cursor;
        let found = self.pieces[from..].iter().position(wanted);
        reference.cursor = found.map_or(self.pieces.len(), |at| from + at);
        found.map(|at| from + at)
    }

    /// The quickest holder; of several, the one that vouches for most pieces.
    fn choose_reference(&self) -> Option<Reference> {
        let vouches = |holder| {
            let vouched = |piece: &&Piece| piece.vouched & bit(holder) != 0;
            self.pieces.iter().filter(vouched).count()
        };
        let ready = (0..self.holders.len()).filter(|holder| self.holders[*holder].ready);
        let best = ready.map(|holder| {
            let pace = self.holders[holder].pace.unwrap_or(UNKNOWN_PACE);
            (pace, Reverse(vouches(holder)), holder)
        });
        best.min().map(|(_, Reverse(vouches), holder)| Reference {
            holder,
            vouches,
            cursor: 0,
        })
    }

    /// A holder will not send a range it was asked for: it is gone, or too slow.
    pub fn give_back(&mut self, holder: usize, range: usize) {
        self.pieces[range].asked &= !bit(holder);
        self.look_again(range);
    }

    /// A range may have to be asked for again.
    fn look_again(&mut self, range: usize) {
        self.cursor = self.cursor.min(range);
        if let Some(reference) = &mut self.reference {
            reference.cursor = reference.cursor.min(range);
        }
    }

    /// A holder has sent a range, `took` after it was asked. False if it is not needed: another holder was faster.
    pub fn received(&mut self, holder: usize, range: usize, took: Ticks) -> bool {
        let known = &mut self.holders[holder];
        let pace = known.pace.map_or(took, |pace| {
            Ticks((pace.0.saturating_mul(3).saturating_add(took.0)) / 4)
        });
        known.pace = Some(pace);
        let is_reference = self.reference.is_some_and(|r| r.holder == holder);
        let piece = &mut self.pieces[range];
        piece.asked &= !bit(holder);
        let is_new = piece.vouched == 0 || (is_reference && piece.vouched & bit(holder) == 0);
        let wanted = !piece.storing && is_new && !known.dropped;
        if wanted {
            piece.storing = true;
            self.storing += 1;
        } else {
            self.look_again(range);
        }
        wanted
    }

    /// The other holders that are asked for a range.
    pub fn others_asked(&self, range: usize) -> impl Iterator<Item = usize> + use<> {
        bits(self.pieces[range].asked)
    }

    /// The range that a holder sent is on the disk.
    pub fn stored(&mut self, holder: usize, range: usize, stored: Stored) {
        let piece = &mut self.pieces[range];
        piece.storing = false;
        self.storing -= 1;
        let before = piece.vouched;
        match stored {
            Stored::Same => piece.vouched |= bit(holder),
            Stored::New | Stored::Differs => {
                piece.vouched = bit(holder);
                self.replaced.insert(range, before);
            }
        }
        if before == 0 {
            self.have += 1;
        }
        if let Some(reference) = &mut self.reference {
            // It vouches for one more piece, or another holder's bytes have replaced its own.
            let (had, has) = (
                before & bit(reference.holder),
                piece.vouched & bit(reference.holder),
            );
            reference.vouches += usize::from(has > had);
            reference.vouches -= usize::from(has < had);
        }
    }

    /// `liars` no longer vouch for anything.
    fn disown(&mut self, liars: u64) {
        for piece in &mut self.pieces {
            let before = piece.vouched;
            piece.vouched &= !liars;
            if before != 0 && piece.vouched == 0 {
                self.have -= 1;
            }
        }
        self.cursor = 0;
        // Its count is outdated. A new reference is chosen when one is needed.
        self.reference = None;
    }

    /// The file is whole, and its SHA-1 is wrong.
    pub fn is_wrong(&mut self) -> Verdict {
        let all = self.pieces.iter().fold(u64::MAX, |all, p| all & p.vouched);
        if all == 0 {
            self.needs_reference = true;
            self.reference = self.choose_reference();
            return Verdict::Reference;
        }
        let liars: Vec<usize> = bits(all & !EARLIER)
            .filter(|holder| *holder < self.holders.len())
            .collect();
        liars.iter().for_each(|liar| self.drop(*liar));
        self.disown(all);
        self.needs_reference = false;
        Verdict::Liars(liars)
    }

    /// The file is whole, and its SHA-1 is right: the holders that vouched for other bytes.
    pub fn liars(&self) -> Vec<usize> {
        let liars = self.replaced.values().fold(0, |all, who| all | who);
        bits(liars & !EARLIER)
            .filter(|holder| !self.holders[*holder].dropped)
            .collect()
    }
}

fn bit(holder: usize) -> u64 {
    1 << holder
}

fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..HOLDERS_MAX).filter(move |holder| mask & bit(*holder) != 0)
}

#[cfg(test)]
mod tests;

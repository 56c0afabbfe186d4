//! Which range is asked of which holder, and which holder sent wrong bytes. Pure.
//!
//! Only the whole file has a hash, so a wrong range shows at the end. Every range remembers who *vouches* for the
//! bytes that are there: who sent them, and who sent the same. When the whole is wrong:
//!
//! - Whoever vouches for all of it is a liar, proved: it said that a wrong file is the file. It is dropped, and
//!   what nobody else vouches for is fetched anew.
//! - When nobody does, one holder becomes the *reference*: it is asked for all ranges that it does not vouch for yet.
//!   Where it sends the same bytes it vouches too; where it sends others they replace what was there, and who vouched for that is
//!   noted. After that the file is the reference's. It is right, and those noted are liars; or it is wrong, and the
//!   reference is.
//!
//! Each wrong file thus costs one holder, and no honest holder is ever taken for a liar; with one honest holder left, the
//! file gets right. A liar costs one more transfer of the file, and two when it was the reference.
//!
//! A holder that is much slower than the others loses its last ranges to them once they have nothing left to do.
//!
//! Invariants: a holder is asked for a range once at a time; `have` counts the ranges that somebody vouches for.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::engine::{Tick, Ticks};

/// Holders of one download: what the bits of a range have room for. One bit is an earlier run's.
pub const HOLDERS_MAX: usize = 63;

/// A file of more ranges is refused: 4 TiB, for which the plan takes 96 MiB of memory.
pub const RANGES_MAX: u64 = 4 << 20;

/// Vouches for what an earlier run left.
const EARLIER: u64 = 1 << HOLDERS_MAX;

/// A range is asked of a second holder when the first has had it for this many times as long as the second
/// took for one of its own; of a third after twice that, and so on, since the second may be as slow.
const SLOWER: u64 = 4;

/// But not before, so that a short pause costs nobody its place.
const PATIENCE: Ticks = Ticks::from_millis(300);

/// How long a holder that has sent nothing yet is taken to need for a range.
const UNKNOWN_PACE: Ticks = Ticks::from_secs(1);

/// A range of a file.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// Who vouches for the bytes that are there.
    vouched: u64,
    /// Who is asked for it.
    asked: u64,
    /// It is on its way to the disk.
    storing: bool,
}

impl Piece {
    fn is_missing(self) -> bool {
        self.vouched == 0 && !self.storing
    }
}

/// What a plan knows of a holder.
#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    /// It may be asked: connected, and not dropped.
    ready: bool,
    /// It lied, or does not have the file.
    dropped: bool,
    /// Time that a range of it takes, averaged.
    pace: Option<Ticks>,
}

/// What storing a range came to, as the disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes were there; they are replaced.
    Differs,
}

/// What came of a whole file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These are liars.
    Liars(Vec<usize>),
    /// Not known yet: a reference is asked for the whole.
    Reference,
}

/// The holder that is asked for the whole file.
#[derive(Debug, Clone, Copy)]
struct Reference {
    holder: usize,
    /// Pieces that it vouches for.
    vouches: usize,
    /// Before it, there is nothing to ask it for.
    cursor: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    pieces: Vec<Piece>,
    holders: Vec<Holder>,
    /// Pieces that somebody vouches for and that are stored.
    have: usize,
    /// Before it, nothing is missing that is not asked.
    cursor: usize,
    /// The file was wrong, and nobody vouched for all of it.
    needs_reference: bool,
    reference: Option<Reference>,
    /// Pieces on their way to the disk.
    storing: usize,
    /// Who vouched for bytes of a range that were replaced by other bytes.
    replaced: HashMap<usize, u64>,
}

impl Plan {
    /// A plan for ranges of which some are there already.
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

    /// Ranges that are there.
    pub fn have(&self) -> usize {
        self.have
    }

    /// Every range is there, and, while a reference is asked, is its.
    pub fn is_whole(&self) -> bool {
        let vouched = self.reference.map_or(0, |r| r.vouches);
        self.storing == 0
            && self.have == self.pieces.len()
            && (!self.needs_reference || vouched == self.pieces.len())
    }

    /// One holder is asked for everything; more are of no use now.
    pub fn asks_one(&self) -> bool {
        self.needs_reference
    }

    pub fn set_ready(&mut self, holder: usize, ready: bool) {
        self.holders[holder].ready = ready;
    }

    /// It is not asked any more.
    pub fn drop(&mut self, holder: usize) {
        self.holders[holder].dropped = true;
        self.holders[holder].ready = false;
    }

    /// It was dropped, and may be asked after all once it is ready.
    pub fn take_back(&mut self, holder: usize) {
        self.holders[holder].dropped = false;
    }

    /// One more holder, of at most [`HOLDERS_MAX`].
    pub fn add(&mut self) {
        assert!(self.holders.len() < HOLDERS_MAX, "a holder is a bit");
        self.holders.push(Holder::default());
    }

    /// The place of a holder, of which no range has come, is another's now.
    pub fn renew(&mut self, holder: usize) {
        self.holders[holder] = Holder::default();
    }

    pub fn is_dropped(&self, holder: usize) -> bool {
        self.holders[holder].dropped
    }

    /// How long a range of this holder takes.
    pub fn pace(&self, holder: usize) -> Option<Ticks> {
        self.holders[holder].pace
    }

    /// The next range for a holder; `None` when there is nothing for it now. `asked_at` says since when a
    /// range is asked of those who are asked.
    pub fn next(
        &mut self,
        holder: usize,
        now: Tick,
        asked_at: impl Fn(usize) -> Option<Tick>,
    ) -> Option<usize> {
        if !self.holders[holder].ready {
            return None;
        }
        let range = if self.needs_reference {
            self.next_of_reference(holder)?
        } else {
            match self.next_missing() {
                Some(range) => range,
                None => self.next_overdue(holder, now, asked_at)?,
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

    /// The range that somebody else has owed for the longest time, when that is far too long.
    fn next_overdue(
        &self,
        holder: usize,
        now: Tick,
        asked_at: impl Fn(usize) -> Option<Tick>,
    ) -> Option<usize> {
        let pace = self.holders[holder].pace.unwrap_or(UNKNOWN_PACE);
        let enough = PATIENCE.max(Ticks(pace.0.saturating_mul(SLOWER)));
        // Ranges under way are few and, as they are asked in order, mostly near each other; but this is only
        // looked for by who has nothing to do.
        let is_overdue = |range: usize| {
            let piece = self.pieces[range];
            let askers = u64::from(piece.asked.count_ones());
            let since = (askers > 0 && piece.is_missing() && piece.asked & bit(holder) == 0)
                .then(|| asked_at(range))??;
            let waits = Ticks(enough.0.saturating_mul(askers));
            (now.since(since) >= waits).then_some((since, range))
        };
        let oldest = (0..self.pieces.len()).filter_map(is_overdue).min();
        oldest.map(|(_, range)| range)
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

    /// Who is quickest, and of those who are as quick, who vouches for most.
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

    /// A holder that was asked for a range will not send it: it is gone, or too slow.
    pub fn give_back(&mut self, holder: usize, range: usize) {
        self.pieces[range].asked &= !bit(holder);
        self.look_again(range);
    }

    /// A range may have to be asked for once more.
    fn look_again(&mut self, range: usize) {
        self.cursor = self.cursor.min(range);
        if let Some(reference) = &mut self.reference {
            reference.cursor = reference.cursor.min(range);
        }
    }

    /// The bytes of a range came after so long. False when they are not wanted: another holder was faster.
    pub fn received(&mut self, holder: usize, range: usize, took: Ticks) -> bool {
        let known = &mut self.holders[holder];
        let pace = known
            .pace
            .map_or(took, |pace| Ticks((pace.0 * 3 + took.0) / 4));
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

    /// The others who are asked for a range that one has sent.
    pub fn others_asked(&self, range: usize) -> impl Iterator<Item = usize> + use<> {
        bits(self.pieces[range].asked)
    }

    /// The bytes that a holder sent are on the disk.
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
            // Its own piece, or another's bytes in the place of its own.
            let (had, has) = (
                before & bit(reference.holder),
                piece.vouched & bit(reference.holder),
            );
            reference.vouches += usize::from(has > had);
            reference.vouches -= usize::from(has < had);
        }
    }

    /// All ranges that are there no longer belong to `liars`.
    fn disown(&mut self, liars: u64) {
        for piece in &mut self.pieces {
            let before = piece.vouched;
            piece.vouched &= !liars;
            if before != 0 && piece.vouched == 0 {
                self.have -= 1;
            }
        }
        self.cursor = 0;
        // What it vouches for is counted anew when one is needed.
        self.reference = None;
    }

    /// The whole is there, and its SHA-1 is wrong.
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

    /// The whole is there, and its SHA-1 is right: who vouched for other bytes.
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

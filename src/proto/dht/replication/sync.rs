//! Synchronises a range with a peer: afterwards both have the newer one of each entry.
//!
//! ```text
//!        ┌──────────── parts that differ ◀───────────┐
//!        ▼                                           │
//!  next range ─▶ XDIGEST, and our own ─▶ a part with many entries of theirs
//!                                    ├─▶ with none ───────────────▶ walk
//!                                    └─▶ with few ─▶ XKEYS ─▶ walk ─▶ fetch
//!
//!  walk:   each of our entries that they lack, or have older: XPUT or XDEL
//!  fetch:  each of their keys that we lack, or have older: XFETCH
//! ```
//! The machine is pure: `Sync::step` is given the entries and says what to ask, `Sync::replied` is given the answers.
//! It does a quantum of work in a step. It goes on to the next range while puts and fetches are under way, and has a
//! bounded number of them and of their bytes.
//!
//! Entries change meanwhile, on both sides. That does no harm: whoever gets an entry keeps the newer one. What is written
//! while the synchronisation runs may be missed by it; the pushes of new writes are for that.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use bytes::Bytes;

use super::compare::{self, COMPARED_PER_TURN, Digesting};
use crate::proto::dht::id::Id;
use crate::proto::dht::storage::entries::{Entries, Entry};
use crate::proto::dht::wire::extension::{DIGEST_PARTS, Extension, Part, Reply};

/// Digests within digests. A range is a single key after this many.
const DEPTH_MAX: u32 = Id::BITS as u32 / 4;

/// Ranges compared by one synchronisation: a peer cannot have it go on for ever.
const RANGES_MAX: u32 = 1 << 20;

/// Entries of ours compared with keys of theirs in one turn: about 30 us.
const WALKED_PER_TURN: usize = 512;

/// Entries asked for and not there yet.
const FETCHES_MAX: usize = 64;

/// Entries sent and not acknowledged.
const PUTS_MAX: usize = 512;

/// Bytes of entries sent and not acknowledged; one more entry may be begun below it.
const PUT_BYTES_MAX: usize = 128 << 10;

/// What an entry costs on its way beside its value, roughly.
const PUT_OVERHEAD_BYTES: usize = 200;

/// In which directions entries move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What the peer has newer comes here.
    PullOnly,
    /// And what is newer here goes there.
    Both,
}

/// What moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Ranges compared by digest, and by keys.
    pub digests: u64,
    pub key_lists: u64,
    /// Entries that came here and were newer.
    pub pulled: u64,
    /// Entries that the peer took.
    pub pushed: u64,
}

/// Why a range is not synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncError {
    /// The peer knows nothing of the extension, or has no copies.
    Plain,
    /// It could not be reached, or its link ended, or it did not answer in time.
    Lost,
    /// It does not take our entries: we are fenced, or it has no room, or it owns the range.
    Refused,
    /// Its answers make no sense.
    Malformed,
    /// A limit of ours: of synchronisations, of links, of memory.
    Limit,
    /// Entries that came could not be committed.
    NotCommitted,
}

/// What a call of a synchronisation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Digest,
    Keys,
    Fetch(Id),
    /// An entry of so many bytes.
    Put {
        bytes: usize,
    },
}

/// What a step of a synchronisation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Step again soon; the turn had its share.
    Again,
    /// Step again when something is answered.
    Waits,
    Done,
}

/// An owner's address and epoch, which its entries are sent with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) addr: SocketAddrV4,
    pub(super) epoch: u64,
}

#[derive(Debug)]
pub(super) struct Sync {
    owner: Owner,
    mode: Mode,
    keys_per_part: u64,
    phase: Phase,
    /// Ranges that are still to be compared, and how deep they lie.
    ranges: Vec<Range>,
    compared: u32,
    fetches: usize,
    puts: usize,
    put_bytes: usize,
    pub(super) stats: SyncStats,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    start: Id,
    end: Id,
    depth: u32,
    /// The peer has this many entries in it, as far as is known.
    theirs: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    Next,
    /// Our digest is computed, while the peer computes its own.
    Digest {
        range: Range,
        ours: Box<Digesting>,
        theirs: Option<Box<[Part; DIGEST_PARTS]>>,
    },
    /// The peer's keys come.
    Keys(Range),
    /// Our entries from `at` on are compared with the peer's keys.
    Walk {
        at: Id,
        range: Range,
        theirs: BTreeMap<Id, u64>,
    },
    /// The rest of the peer's keys is compared with our entries.
    Fetch(BTreeMap<Id, u64>),
}

/// A request, the value behind it, and what it is.
pub(super) type Call = (Extension, Option<Bytes>, Asked);

impl Sync {
    pub(super) fn new(start: Id, end: Id, owner: Owner, mode: Mode, keys_per_part: u64) -> Sync {
        let range = Range {
            start,
            end,
            depth: 0,
            theirs: None,
        };
        Sync {
            owner,
            mode,
            keys_per_part,
            phase: Phase::Next,
            ranges: vec![range],
            compared: 0,
            fetches: 0,
            puts: 0,
            put_bytes: 0,
            stats: SyncStats::default(),
        }
    }

    /// Does a quantum of work and adds what is to be asked to `calls`. `room`: bytes that may be sent now.
    ///
    /// # Errors
    /// The peer has it compare more ranges than there can be.
    pub(super) fn step(
        &mut self,
        entries: &Entries,
        quantum: usize,
        room: usize,
        calls: &mut Vec<Call>,
    ) -> Result<Progress, SyncError> {
        match &mut self.phase {
            Phase::Next => return self.next(calls),
            Phase::Keys(_) => return Ok(Progress::Waits),
            Phase::Digest {
                range,
                ours,
                theirs,
            } => {
                let Some(parts) = ours.step(entries, COMPARED_PER_TURN) else {
                    return Ok(Progress::Again);
                };
                let Some(theirs) = theirs else {
                    return Ok(Progress::Waits);
                };
                let differing = differing(*range, parts, theirs, self.mode);
                // The first one comes next.
                self.ranges.extend(differing.into_iter().rev());
                self.phase = Phase::Next;
            }
            Phase::Walk { .. } => return Ok(self.walk(entries, quantum, room, calls)),
            Phase::Fetch(keys) => {
                for _ in 0..quantum {
                    if self.fetches == FETCHES_MAX {
                        return Ok(Progress::Waits);
                    }
                    let Some((key, version)) = keys.pop_first() else {
                        self.phase = Phase::Next;
                        break;
                    };
                    if is_older(entries.entry(key), version) {
                        calls.push((Extension::Fetch { key }, None, Asked::Fetch(key)));
                        self.fetches += 1;
                    }
                }
            }
        }
        Ok(Progress::Again)
    }

    fn next(&mut self, calls: &mut Vec<Call>) -> Result<Progress, SyncError> {
        let Some(range) = self.ranges.pop() else {
            let idle = self.puts == 0 && self.fetches == 0;
            return Ok(if idle {
                Progress::Done
            } else {
                Progress::Waits
            });
        };
        self.compared += 1;
        if range.depth > DEPTH_MAX || self.compared > RANGES_MAX {
            return Err(SyncError::Malformed);
        }
        let Range { start, end, .. } = range;
        self.phase = match range.theirs {
            Some(0) => Phase::walk(range, BTreeMap::new()),
            Some(few) if few <= self.keys_per_part => {
                self.stats.key_lists += 1;
                calls.push((Extension::Keys { start, end }, None, Asked::Keys));
                Phase::Keys(range)
            }
            _ => {
                self.stats.digests += 1;
                calls.push((Extension::Digest { start, end }, None, Asked::Digest));
                Phase::Digest {
                    range,
                    ours: Box::new(Digesting::new(start, end)),
                    theirs: None,
                }
            }
        };
        Ok(Progress::Again)
    }

    /// Sends what is newer here.
    fn walk(
        &mut self,
        entries: &Entries,
        quantum: usize,
        room: usize,
        calls: &mut Vec<Call>,
    ) -> Progress {
        let Phase::Walk { at, range, theirs } = &mut self.phase else {
            unreachable!("called in this phase only")
        };
        let mut sent_bytes = 0;
        if self.mode == Mode::Both {
            let ours = entries.arc_with_tombstones(*at, range.end);
            for (seen, (key, entry)) in ours.enumerate() {
                let is_full = self.puts == PUTS_MAX || self.put_bytes >= PUT_BYTES_MAX;
                if is_full || sent_bytes >= room {
                    *at = key;
                    return Progress::Waits;
                }
                if calls.len() >= quantum || seen == WALKED_PER_TURN {
                    *at = key;
                    return Progress::Again;
                }
                let version = entry.version.0;
                if theirs.get(&key).is_some_and(|theirs| *theirs >= version) {
                    continue;
                }
                let bytes = PUT_OVERHEAD_BYTES + entry.value.as_ref().map_or(0, Bytes::len);
                calls.push(self.owner.put(key, entry, bytes));
                self.puts += 1;
                self.put_bytes += bytes;
                sent_bytes += bytes;
            }
        }
        self.phase = Phase::Fetch(std::mem::take(theirs));
        Progress::Again
    }

    /// An answer came. `Some`: an entry that the peer had newer when it was asked for.
    ///
    /// # Errors
    /// The answer ends the synchronisation.
    pub(super) fn replied(
        &mut self,
        asked: Asked,
        reply: Reply,
    ) -> Result<Option<(Id, u64, Option<Bytes>)>, SyncError> {
        match (asked, reply, &mut self.phase) {
            (Asked::Digest, Reply::Digest(parts), Phase::Digest { theirs, .. }) => {
                *theirs = Some(parts);
            }
            (Asked::Keys, Reply::Keys(keys), Phase::Keys(range)) => {
                let range = *range;
                let keys = keys.into_iter();
                let keys = keys.filter(|(key, _)| key.in_arc(range.start, range.end));
                self.phase = Phase::walk(range, keys.collect());
            }
            // They became too many meanwhile.
            (Asked::Keys, Reply::No, Phase::Keys(range)) => {
                let (depth, theirs) = (range.depth + 1, None);
                let range = Range {
                    depth,
                    theirs,
                    ..*range
                };
                self.ranges.push(range);
                self.phase = Phase::Next;
            }
            (Asked::Fetch(key), reply, _) => {
                self.fetches -= 1;
                match reply {
                    Reply::Entry { version, value } => return Ok(Some((key, version, value))),
                    // It is gone by now.
                    Reply::No => {}
                    _ => return Err(SyncError::Malformed),
                }
            }
            (Asked::Put { bytes }, Reply::Ack(taken), _) => {
                self.puts -= 1;
                self.put_bytes -= bytes;
                if !taken {
                    return Err(SyncError::Refused);
                }
                self.stats.pushed += 1;
            }
            _ => return Err(SyncError::Malformed),
        }
        Ok(None)
    }
}

impl Phase {
    fn walk(range: Range, theirs: BTreeMap<Id, u64>) -> Phase {
        Phase::Walk {
            at: range.start,
            range,
            theirs,
        }
    }
}

impl Owner {
    fn put(self, key: Id, entry: &Entry, bytes: usize) -> Call {
        let (version, value) = (entry.version.0, entry.value.as_ref());
        let request = Extension::copy(self.addr, self.epoch, key, version, value);
        (request, entry.value.clone(), Asked::Put { bytes })
    }
}

/// The parts of `range` that are not the same on both sides.
fn differing(
    range: Range,
    ours: &[Part; DIGEST_PARTS],
    theirs: &[Part; DIGEST_PARTS],
    mode: Mode,
) -> Vec<Range> {
    compare::ranges(range.start, range.end)
        .filter(|(i, _)| ours[*i] != theirs[*i])
        .filter(|(i, _)| mode == Mode::Both || theirs[*i].count > 0)
        .map(|(i, (start, end))| Range {
            start,
            end,
            depth: range.depth + 1,
            theirs: Some(theirs[i].count),
        })
        .collect()
}

fn is_older(ours: Option<&Entry>, version: u64) -> bool {
    ours.is_none_or(|entry| entry.version.0 < version)
}

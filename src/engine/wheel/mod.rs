//! Timers: a hierarchical wheel that arms and cancels in O(1), whatever the number of timers.
//!
//! A node has a few timers for every connection (keep-alive, idle, request timeouts) and nearly all
//! are cancelled or moved before they fire, so arming and cancelling are what must be cheap; a heap
//! would pay O(log n) and a cache miss a level for each. The driver sleeps until
//! [`Wheel::next_deadline`], calls [`Wheel::advance`] with the tick it woke at, then takes what is
//! due with [`Wheel::pop_due`].
//!
//! The wheel reads no clock, does no I/O, calls nobody back and knows nothing of what a timer
//! means: it gives back the value it was armed with. It does not repeat timers and does not limit
//! how many there are (the engine's limits do).
//!
//! # Levels
//!
//! ```text
//!            63                     s         c        0       one slot is      all 64 are
//! level 3   [  |  | park |   ...   |  |  |  | ^ |  |  |  ]     43.7 min         46.6 h
//! level 2   [  |  |          ...   |##|  |  | ^ |--|--|--]     40.96 s          43.7 min
//! level 1   [  |  |          ...   |  |##|  | ^ |--|--|--]     640 ms           40.96 s
//! level 0   [  |##|          ...   |##|  |  | ^ |--|--|--]     10 ms            640 ms
//!                                             ^ elapsed's digit    -- passed, so empty
//! ```
//!
//! Read `elapsed` and a deadline as numbers in base 64. The highest digit in which they differ is
//! the timer's level, and the deadline's digit there is its slot. When `elapsed` enters or passes a
//! slot of an upper level, the slot's timers are due or move to a lower level, so a timer moves at
//! most three times on its way down. The top level is a ring; a deadline 64 or more of its slots
//! ahead waits in the farthest one and is placed again when that is reached, once in 46 h.
//!
//! Why these sizes: 64 slots are one `u64` of occupancy, so finding the next slot is one
//! instruction; four levels hold every timeout of the protocols (up to hours) without parking,
//! while the rare longer ones (30-day lifetimes) cost one move in 46 h; the fixed part is 4 KiB.
//!
//! # Sleeping
//!
//! An idle process must not wake merely to move timers between levels. Each slot therefore keeps a
//! lower bound of its earliest deadline, and the wake-up is for that deadline, not for the start of
//! the slot; slots passed while asleep are emptied in the next `advance`. Cancelling leaves the
//! bound alone (a true one would need a walk), which costs at most one needless wake-up: that one
//! enters the slot and thereby places its timers again, with true bounds.
//!
//! # Invariants (all checked by [`Wheel::validate`])
//!
//! ```text
//! waiting timer              elapsed < deadline
//! due timer                  deadline <= elapsed, and deadlines never fall along the due list
//! level L < 3                deadline >> 6(L+1) == elapsed >> 6(L+1)
//!                            digit L of elapsed < slot == digit L of deadline
//! level 3, d slots ahead     1 <= d <= 63,  (elapsed >> 18) + d <= deadline >> 18
//! slot with timers           elapsed < bound <= every deadline in it
//!                            bound == the least of them, if none was cancelled
//! occupancy bit              set <=> the slot has timers
//! entries                    waiting + due + free == table.len() == most ever armed at once
//! ```
//!
//! From the second and third group: every deadline of a level is less than every one of the level
//! above, and below the top level slots are in order of deadline, so the first occupied slot has
//! the earliest.
//!
//! # Memory
//!
//! 36 bytes a timer with a value of at most 8 bytes: 32 for the entry, 4 to note that it is free.
//! Entries are reused, last freed first, and never given back: the table stays as large as the most
//! timers ever armed at once, times at most two for the doubling of the vectors. Only arming
//! allocates, and only when more timers are armed than ever before.

use std::mem;
use std::ops::RangeInclusive;

use super::time::Tick;

/// A wheel of timers, each carrying a `T`.
pub struct Wheel<T> {
    entries: Entries<T>,
    /// Every list an armed timer can be in: the slots, level by level, then the due list.
    lists: [List; LISTS],
    /// For each slot with timers, a lower bound of their deadlines. Meaningless for an empty slot.
    bounds: [u64; SLOTS],
    /// For each level, which of its slots have timers.
    occupied: [u64; LEVELS],
    /// The tick up to which timers have been made due.
    elapsed: u64,
}

/// Names one armed timer. Once that timer was popped or cancelled, the id is stale and does
/// nothing.
///
/// An entry would have to be reused 2^32 times for a stale id to name another timer, and even then
/// it could do no more than cancel that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl<T: Copy> Wheel<T> {
    pub fn new(now: Tick) -> Wheel<T> {
        Wheel {
            entries: Entries {
                table: Vec::new(),
                free: Vec::new(),
            },
            lists: [List::EMPTY; LISTS],
            bounds: [u64::MAX; SLOTS],
            occupied: [0; LEVELS],
            elapsed: now.0.min(ELAPSED_MAX),
        }
    }

    /// Arms a timer for `at`, or for the tick after the current one if that is later: a timer armed
    /// while due ones are handled never fires in the same round, so a zero delay cannot starve I/O.
    ///
    /// `Tick(u64::MAX)` never fires.
    ///
    /// # Panics
    /// With 2^32 - 1 timers armed, 128 GiB of them; the engine's limits end far below.
    pub fn arm(&mut self, at: Tick, value: T) -> TimerId {
        let deadline = at.0.max(self.elapsed + 1);
        let id = self.entries.insert(deadline, value);
        self.place(id.index, deadline);
        id
    }

    /// Disarms a timer, waiting or due, and returns its value; `None` for a stale id.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let list = self.entries.get(id)?.list;
        Some(self.remove(list, id.index))
    }

    /// When the timer fires; `None` for a stale id.
    pub fn deadline(&self, id: TimerId) -> Option<Tick> {
        self.entries.get(id).map(|entry| Tick(entry.deadline))
    }

    /// When the driver must next call [`advance`](Wheel::advance); `None` if no timer is armed.
    ///
    /// The current tick while timers are due and not popped. Otherwise later than the current tick
    /// and not later than the earliest deadline: equal to it, unless a timer was cancelled in the
    /// same slot.
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.has_due() {
            return Some(Tick(self.elapsed));
        }
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let mut slots = Bits(self.occupied[level]);
        if level < TOP {
            return slots
                .next()
                .map(|slot| Tick(self.bounds[level * 64 + slot]));
        }
        // The top level is a ring, and a slot in which far deadlines are parked may come before one
        // with an earlier deadline: look at all of them.
        slots.map(|slot| Tick(self.bounds[TOP * 64 + slot])).min()
    }

    /// Makes every timer with a deadline of at most `now` due, in order of deadline. Earlier ticks
    /// than the current one change nothing.
    ///
    /// Timers with the same deadline become due in the order in which they were armed; only those
    /// armed so far ahead that they were parked (more than 63 top slots, about 45 h) may come after
    /// ones armed later. Either way the order depends on the calls alone, so runs replay exactly.
    ///
    /// O(timers in the slots passed + slots), however far `now` is.
    pub fn advance(&mut self, now: Tick) {
        let now = now.0.min(ELAPSED_MAX);
        if now <= self.elapsed {
            return;
        }
        let before = mem::replace(&mut self.elapsed, now);
        // Levels in order: all deadlines of one are before those of the next.
        for level in 0..LEVELS {
            let (from, to) = (before >> (level * 6), now >> (level * 6));
            if from == to {
                break;
            }
            // All slots leave the level before any timer is placed again: a parked one may go back
            // to a slot of this same level.
            let mut due = self.detach(level, slots_between(from, to));
            // Level 0 has one deadline a slot and all of it passed: sorted as it is.
            if level > 0 {
                let (unsorted, deadlines) = self.cascade(due);
                due = self.entries.sort(unsorted, deadlines);
            }
            self.make_due(due);
        }
    }

    /// Some timer is due and not popped.
    pub fn has_due(&self) -> bool {
        self.lists[DUE].head != NIL
    }

    /// Takes the next due timer. Its id is stale from here on.
    pub fn pop_due(&mut self) -> Option<(TimerId, T)> {
        let index = self.lists[DUE].head;
        if index == NIL {
            return None;
        }
        let generation = self.entries.at(index).generation;
        Some((
            TimerId { index, generation },
            self.remove(DUE as u16, index),
        ))
    }

    /// Timers armed: waiting, or due and not popped.
    pub fn len(&self) -> usize {
        self.entries.table.len() - self.entries.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory the wheel holds, its own size included.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.entries.table.capacity() * size_of::<Entry<T>>()
    }

    /// Asserts every invariant of the module documentation, in O(timers + slots).
    pub fn validate(&self) {
        assert!(self.elapsed <= ELAPSED_MAX);
        let mut armed = 0;
        for list in 0..SLOTS {
            let (level, slot) = (list / 64, list as u64 % 64);
            let occupied = self.occupied[level] >> slot & 1 == 1;
            assert_eq!(
                occupied,
                self.lists[list].head != NIL,
                "occupancy of level {level} slot {slot}"
            );
            assert!(
                !occupied || self.bounds[list] > self.elapsed,
                "bound of level {level} slot {slot} passed"
            );
            armed += self.validate_list(list, |entry| {
                assert!(entry.deadline > self.elapsed, "a waiting timer is overdue");
                assert!(
                    entry.deadline >= self.bounds[list],
                    "a deadline is below its bound"
                );
                if level < TOP {
                    assert_eq!(
                        list,
                        slot_of(self.elapsed, entry.deadline),
                        "a timer is in a wrong slot"
                    );
                } else {
                    let current = self.elapsed >> TOP_SHIFT;
                    let ahead = slot.wrapping_sub(current) % 64;
                    assert!(ahead >= 1 && current + ahead <= entry.deadline >> TOP_SHIFT);
                }
            });
        }
        let mut previous = 0;
        armed += self.validate_list(DUE, |entry| {
            assert!(
                previous <= entry.deadline && entry.deadline <= self.elapsed,
                "due list out of order"
            );
            previous = entry.deadline;
        });
        // With the number right and each free entry in no list, none is lost and none is in two
        // places.
        assert_eq!(armed, self.len(), "lost entries");
        let mut seen = vec![false; self.entries.table.len()];
        for &index in &self.entries.free {
            assert_eq!(self.entries.at(index).list, FREE, "an armed timer is free");
            assert!(!mem::replace(&mut seen[index as usize], true), "free twice");
        }
    }

    /// Checks the links of one list and what `check` asserts of each of its timers; returns their
    /// number.
    fn validate_list(&self, list: usize, mut check: impl FnMut(&Entry<T>)) -> usize {
        let (mut previous, mut index, mut count) = (NIL, self.lists[list].head, 0);
        while index != NIL {
            let entry = self.entries.at(index);
            assert_eq!(entry.prev, previous, "a broken link");
            assert_eq!(entry.list as usize, list, "a timer that names another list");
            check(entry);
            (previous, index, count) = (index, entry.next, count + 1);
            assert!(count <= self.entries.table.len(), "a list runs in a circle");
        }
        assert_eq!(self.lists[list].tail, previous, "a list ends elsewhere");
        count
    }

    /// Puts a timer that is in no list, with a deadline after `elapsed`, into its slot.
    fn place(&mut self, index: u32, deadline: u64) {
        let list = slot_of(self.elapsed, deadline);
        let (level, bit) = (list / 64, 1 << (list % 64));
        if self.occupied[level] & bit == 0 {
            self.occupied[level] |= bit;
            self.bounds[list] = deadline;
        } else {
            self.bounds[list] = self.bounds[list].min(deadline);
        }
        self.entries.at_mut(index).list = list as u16;
        self.entries.push_back(&mut self.lists[list], index);
    }

    /// Takes a timer out of its list and frees its entry.
    fn remove(&mut self, list: u16, index: u32) -> T {
        let list = list as usize;
        self.entries.unlink(&mut self.lists[list], index);
        if list != DUE && self.lists[list].head == NIL {
            self.occupied[list / 64] &= !(1 << (list % 64));
        }
        self.entries.release(index)
    }

    /// Empties the slots of a level that are in `mask`, and returns their timers slot by slot.
    fn detach(&mut self, level: usize, mask: u64) -> List {
        let passed = self.occupied[level] & mask;
        self.occupied[level] &= !mask;
        let mut all = List::EMPTY;
        for slot in Bits(passed) {
            let list = mem::replace(&mut self.lists[level * 64 + slot], List::EMPTY);
            self.entries.append(&mut all, list);
        }
        all
    }

    /// Places the timers of a list anew, except for the due ones: returns these, and the range of
    /// their deadlines.
    fn cascade(&mut self, list: List) -> (List, RangeInclusive<u64>) {
        let (mut due, mut first, mut last) = (List::EMPTY, u64::MAX, 0);
        let mut index = list.head;
        while index != NIL {
            let Entry { deadline, next, .. } = *self.entries.at(index);
            if deadline <= self.elapsed {
                (first, last) = (first.min(deadline), last.max(deadline));
                self.entries.push_back(&mut due, index);
            } else {
                self.place(index, deadline);
            }
            index = next;
        }
        (due, first..=last)
    }

    /// Appends a list, already in order of deadline, to the due list.
    fn make_due(&mut self, list: List) {
        let mut index = list.head;
        while index != NIL {
            let entry = self.entries.at_mut(index);
            entry.list = DUE as u16;
            index = entry.next;
        }
        self.entries.append(&mut self.lists[DUE], list);
    }
}

/// The slot a deadline belongs in, as an index of [`Wheel::lists`]; `elapsed < deadline`.
fn slot_of(elapsed: u64, deadline: u64) -> usize {
    let level = (elapsed ^ deadline).ilog2() as usize / 6;
    if level < TOP {
        return level * 64 + (deadline >> (level * 6)) as usize % 64;
    }
    // At most 63 slots ahead: the 64th is the one that `elapsed` is in, which must stay empty for
    // the distance to a slot to be unambiguous.
    let current = elapsed >> TOP_SHIFT;
    let ahead = ((deadline >> TOP_SHIFT) - current).min(63);
    TOP * 64 + (current + ahead) as usize % 64
}

/// The slots entered on the way from slot number `from` to `to` of a level, both counted without
/// wrapping around; `from < to`.
fn slots_between(from: u64, to: u64) -> u64 {
    let count = to - from;
    if count >= 64 {
        u64::MAX
    } else {
        ((1 << count) - 1u64).rotate_left((from + 1) as u32 % 64)
    }
}

/// The set bits of a word, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lowest = self.0.trailing_zeros();
        // Clears the lowest bit; with none set it stays at 0.
        self.0 &= self.0.wrapping_sub(1);
        (lowest < u64::BITS).then_some(lowest as usize)
    }
}

/// One timer, or a free entry, in the table.
#[derive(Clone, Copy)]
struct Entry<T> {
    deadline: u64,
    /// The neighbours in its list.
    prev: u32,
    next: u32,
    /// Raised when the entry is freed, so that the ids given out for it are stale from then on.
    generation: u32,
    /// The index in [`Wheel::lists`] of the list it is in, [`FREE`] if in none.
    list: u16,
    value: T,
}

/// The ends of a doubly linked list of entries; both are `NIL` or neither is.
#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: List = List {
        head: NIL,
        tail: NIL,
    };
}

/// The table of entries: which are free, and how lists are linked. Indices instead of pointers, so
/// that a link takes four bytes and growing the table moves nothing that anyone points to.
struct Entries<T> {
    table: Vec<Entry<T>>,
    /// Free entries, the last freed on top. A stack beside the table and not a list through it:
    /// with a list each arming waits for the cache miss of the one before, and a burst of them with
    /// a million timers took 55 to 105 ns each instead of 25.
    free: Vec<u32>,
}

impl<T: Copy> Entries<T> {
    fn at(&self, index: u32) -> &Entry<T> {
        &self.table[index as usize]
    }

    fn at_mut(&mut self, index: u32) -> &mut Entry<T> {
        &mut self.table[index as usize]
    }

    fn get(&self, id: TimerId) -> Option<&Entry<T>> {
        let entry = self.table.get(id.index as usize)?;
        // A free entry already has the generation of its next id. Nobody has that id yet, but after
        // 2^32 uses a stale one may look like it, and must not free the entry again.
        (entry.generation == id.generation && entry.list != FREE).then_some(entry)
    }

    fn insert(&mut self, deadline: u64, value: T) -> TimerId {
        let Some(index) = self.free.pop() else {
            assert!(self.table.len() < NIL as usize, "too many timers");
            let index = self.table.len() as u32;
            self.table.push(Entry {
                deadline,
                prev: NIL,
                next: NIL,
                generation: 0,
                list: FREE,
                value,
            });
            // Room for all to be free, so that only arming ever allocates.
            self.free.reserve(self.table.capacity());
            return TimerId {
                index,
                generation: 0,
            };
        };
        let entry = self.at_mut(index);
        (entry.deadline, entry.value) = (deadline, value);
        TimerId {
            index,
            generation: entry.generation,
        }
    }

    /// Frees an entry that is in no list any more.
    fn release(&mut self, index: u32) -> T {
        let entry = self.at_mut(index);
        debug_assert!(entry.list != FREE, "freed twice");
        entry.generation = entry.generation.wrapping_add(1);
        entry.list = FREE;
        let value = entry.value;
        self.free.push(index);
        value
    }

    fn push_back(&mut self, list: &mut List, index: u32) {
        let entry = self.at_mut(index);
        (entry.prev, entry.next) = (list.tail, NIL);
        self.append(
            list,
            List {
                head: index,
                tail: index,
            },
        );
    }

    /// Links `more` behind the last of `list`.
    fn append(&mut self, list: &mut List, more: List) {
        if list.head == NIL {
            *list = more;
        } else if more.head != NIL {
            self.at_mut(list.tail).next = more.head;
            self.at_mut(more.head).prev = list.tail;
            list.tail = more.tail;
        }
    }

    fn unlink(&mut self, list: &mut List, index: u32) {
        let Entry { prev, next, .. } = *self.at(index);
        if prev == NIL {
            list.head = next;
        } else {
            self.at_mut(prev).next = next;
        }
        if next == NIL {
            list.tail = prev;
        } else {
            self.at_mut(next).prev = prev;
        }
    }

    /// Sorts a list by deadline, all of them in the range given, keeping the order of equal ones.
    ///
    /// A radix sort in base 64, lowest digit first: what cascading through the levels one after the
    /// other would do, in place and in O(entries), with one pass for each digit of the range's
    /// length. Cascading itself would re-park a far deadline once for every 46 h jumped over.
    fn sort(&mut self, mut list: List, deadlines: RangeInclusive<u64>) -> List {
        let (first, last) = deadlines.into_inner();
        let mut shift = 0;
        // At most one entry: nothing to sort, and with none the range is empty.
        while list.head != list.tail && shift < u64::BITS && (last - first) >> shift != 0 {
            let mut digits = [List::EMPTY; 64];
            let mut index = list.head;
            while index != NIL {
                let Entry { deadline, next, .. } = *self.at(index);
                self.push_back(
                    &mut digits[((deadline - first) >> shift) as usize % 64],
                    index,
                );
                index = next;
            }
            list = List::EMPTY;
            for digit in digits {
                self.append(&mut list, digit);
            }
            shift += 6;
        }
        list
    }
}

/// Four levels of 64 slots: see the module documentation for why.
const LEVELS: usize = 4;
const SLOTS: usize = LEVELS * 64;
const TOP: usize = LEVELS - 1;
const TOP_SHIFT: usize = TOP * 6;
/// The due list's place behind the slots, and the number of lists with it.
const DUE: usize = SLOTS;
const LISTS: usize = SLOTS + 1;
/// An entry's `list` while it is free.
const FREE: u16 = u16::MAX;
/// No entry: the end of a list.
const NIL: u32 = u32::MAX;
/// There is always a tick after the current one to arm a timer for. 5.8 billion years in.
const ELAPSED_MAX: u64 = u64::MAX - 1;

const _: () = assert!(LISTS < FREE as usize);
// Two entries a cache line, with the eight bytes that a connection id takes as the value.
const _: () = assert!(size_of::<Entry<[u32; 2]>>() == 32 && size_of::<Entry<u64>>() == 32);

#[cfg(test)]
mod tests;

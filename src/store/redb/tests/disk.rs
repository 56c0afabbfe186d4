//! A disk in memory with a cache above it, which fails, fills up and loses power when told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use ::redb::{BackendError, StorageBackend};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::data_dir::DatabaseFile;
use std::io;
use std::ops::Bound;

const BLOCK: usize = 4096;

/// A disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

/// What a full disk still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Writes in place, as file systems that overwrite do.
    NoGrowth,
    /// Nothing, as file systems that write elsewhere do.
    NoWrites,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<Step>,
    /// Blocks that were ever written.
    allocated: BTreeSet<usize>,
    operations: u64,
    fault: Option<(u64, io::ErrorKind)>,
    full: Option<(u64, Room)>,
    cut: Option<u64>,
    fault_hit_growth: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Resize(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Grow,
    Sync,
}

impl Disk {
    /// Another disk with what reads of this one see, all of it synced, and no faults.
    pub fn fresh_copy(&self) -> Self {
        Self::holding(self.state().cached.clone())
    }

    fn holding(bytes: Vec<u8>) -> Self {
        let allocated = (0..bytes.len().div_ceil(BLOCK)).filter(|block| {
            let end = bytes.len().min((block + 1) * BLOCK);
            bytes[block * BLOCK..end] != [0; BLOCK][..end - block * BLOCK]
        });
        let allocated = allocated.collect();
        let durable = bytes.clone();
        let state = State {
            durable,
            cached: bytes,
            allocated,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn become_copy_of(&self, other: &Self) {
        let fresh = State {
            cached: other.state().cached.clone(),
            ..State::default()
        };
        *self.state() = fresh;
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets the `nth` operation from now fail, once.
    pub fn fail_at(&self, nth: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        state.fault = Some((state.operations + nth, kind));
    }

    /// Whether that fault hit a write or a resize.
    pub fn fault_hit_growth(&self) -> bool {
        self.state().fault_hit_growth
    }

    /// From the `nth` operation on there is no room.
    pub fn fill_up_at(&self, nth: u64, room: Room) {
        let mut state = self.state();
        state.full = Some((state.operations + nth, room));
    }

    pub fn free_room(&self) {
        self.state().full = None;
    }

    /// From the `nth` operation on nothing works.
    pub fn cut_power_at(&self, nth: u64) {
        let mut state = self.state();
        state.cut = Some(state.operations + nth);
    }

    /// What may be on the disk after a power cut now.
    pub fn images(&self) -> Vec<(String, Self)> {
        let state = self.state();
        let mut images = vec![
            (
                "nothing unsynced".to_owned(),
                Self::holding(state.durable.clone()),
            ),
            (
                "all unsynced".to_owned(),
                Self::holding(state.cached.clone()),
            ),
        ];
        if state.unsynced.is_empty() {
            return images;
        }
        for seed in 0..2 {
            let mut random = StdRng::seed_from_u64(seed ^ state.operations);
            let mut bytes = state.durable.clone();
            for step in &state.unsynced {
                match (step, random.random_range(0..3)) {
                    (_, 0) => {}
                    (Step::Write(offset, data), 1) => {
                        let torn = data.len() / 512 / 2 * 512;
                        Step::Write(*offset, data[..torn].to_vec()).apply(&mut bytes);
                    }
                    (step, _) => step.apply(&mut bytes),
                }
            }
            // A file has its length before it has its content.
            if bytes.len() < state.cached.len() {
                bytes.resize(state.cached.len(), 0);
            }
            images.push((format!("some unsynced, seed {seed}"), Self::holding(bytes)));
        }
        images
    }

    pub fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        change(&mut state.cached);
        state.durable = state.cached.clone();
    }

    /// Every offset in a block with content.
    pub fn used(&self) -> Vec<usize> {
        let blocks = Self::holding(self.state().cached.clone())
            .state()
            .allocated
            .clone();
        blocks
            .iter()
            .flat_map(|block| block * BLOCK..(block + 1) * BLOCK)
            .collect()
    }

    /// Offsets to damage: a third in the header, the others in used blocks.
    pub fn spots(&self, count: usize) -> impl Iterator<Item = usize> {
        let used = self.used();
        let mut random = StdRng::seed_from_u64(count as u64);
        (0..count).map(move |i| match i % 3 {
            0 => random.random_range(0..320),
            _ => used[random.random_range(0..used.len())],
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Step {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Resize(len) => bytes.resize(*len, 0),
        }
    }
}

impl State {
    /// Counts an operation and returns the error it is to end with.
    fn begin(&mut self, kind: Kind, blocks: std::ops::Range<usize>) -> io::Result<()> {
        self.operations += 1;
        if self.cut.is_some_and(|at| self.operations >= at) {
            return Err(io::ErrorKind::Other.into());
        }
        if let Some((at, error)) = self.fault
            && at == self.operations
        {
            self.fault_hit_growth = kind == Kind::Grow;
            return Err(error.into());
        }
        let new = || blocks.clone().any(|block| !self.allocated.contains(&block));
        if let Some((at, room)) = self.full
            && self.operations >= at
            && kind == Kind::Grow
            && (room == Room::NoWrites || new())
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        step.apply(&mut self.cached);
        self.unsynced.push(step);
    }
}

impl DatabaseFile for Disk {
    fn path(&self) -> &Path {
        Path::new("(disk)")
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn try_room(&self, _bytes: usize) -> io::Result<()> {
        let state = self.state();
        match state.full {
            Some((at, _)) if state.operations >= at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.begin(Kind::Read, 0..0)?;
        Ok(state.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Kind::Read, 0..0)?;
        let offset = offset as usize;
        let bytes = state.cached.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        // A longer file is a hole: it takes no room.
        state.begin(Kind::Grow, 0..0)?;
        state.step(Step::Resize(len as usize));
        Ok(())
    }

    /// A failed sync drops what it was to write: reads go on seeing it, the disk never will.
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        let result = state.begin(Kind::Sync, 0..0);
        if state.cut.is_some_and(|at| state.operations >= at) {
            return result;
        }
        let steps = std::mem::take(&mut state.unsynced);
        if result.is_ok() {
            for step in steps {
                step.apply(&mut state.durable);
            }
        }
        result
    }

    /// A failed write leaves half of it.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let offset = offset as usize;
        let blocks = offset / BLOCK..(offset + data.len()).div_ceil(BLOCK);
        let result = state.begin(Kind::Grow, blocks.clone());
        let written = match result {
            Ok(()) => data.len(),
            Err(_) if state.cut.is_some_and(|at| state.operations > at) => 0,
            Err(_) => data.len() / 2,
        };
        state.step(Step::Write(offset, data[..written].to_vec()));
        if result.is_ok() {
            state.allocated.extend(blocks);
        }
        result
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

//! A file that is being downloaded: kept beside its final name until it is whole and its SHA-1 is right.
//!
//! ```text
//!   DIR/.SHA1-SIZE.part     the bytes, each range at its place
//!   DIR/.SHA1-SIZE.ranges   which ranges are there: a header that names the download, then one byte a range
//!   DIR/NAME                only when all is there, checked and synced
//! ```
//! The size is a part of the names, so that whoever announces a file with a wrong size spoils nothing that is there.
//!
//! A range is marked after its bytes are written, so a process that is killed goes on where it was. A machine that lost
//! its power may have marks without bytes; since the whole is hashed before it takes its name, that only
//! costs the search for the wrong range ([`Stored::Differs`]), never a wrong file.
//!
//! The hash of the whole runs along behind the ranges, in order: a range that comes in its turn is hashed from memory,
//! the others are read again when it is theirs.
//!
//! Invariants: nothing is written outside the directory, and nothing there is overwritten unless that was asked for; a part is
//! held by one process at a time, by a lock on the file of ranges, which comes first and goes last; one without ranges
//! leaves nothing behind; `hashed` counts ranges from the first one, all of which are marked.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, fsync, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, pread};
use sha1::{Digest, Sha1};
use thiserror::Error;

/// First bytes of the file of ranges; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"PLRANGE1";

/// Magic, SHA-1, size of the file, size of a range.
const HEADER_BYTES: usize = 8 + 20 + 8 + 8;

/// Ranges that are read again in one step of the hash: a few milliseconds, so that nothing else waits for long.
const HASH_STEP_RANGES: usize = 8;

/// Written at once, and then hashed, which the cache still has. Writes of a whole range have the kernel take its largest
/// free blocks, which a virtual machine may have to get back from its host first: up to seven times the time.
const PIECE_BYTES: usize = 128 << 10;

/// Longest name that a file system takes.
const NAME_BYTES_MAX: usize = 255;

/// What cannot be done with a part.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PartError {
    #[error("another download of the same file into this directory is under way")]
    InUse,
    #[error("{0} is there already; --force overwrites it")]
    Exists(String),
    #[error("{0} is there already, and is a folder")]
    IsFolder(String),
    #[error("a file name that cannot be written safely: {0}")]
    BadName(String),
    #[error("the disk is full; what is there is kept, and the next download goes on with it")]
    Full,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for PartError {
    fn from(e: io::Error) -> PartError {
        match Errno::from_io_error(&e) {
            // A file of the largest size allowed is, for whoever downloads, a full disk.
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => PartError::Full,
            _ => PartError::Io(e),
        }
    }
}

impl From<Errno> for PartError {
    fn from(e: Errno) -> PartError {
        io::Error::from(e).into()
    }
}

/// What storing a range came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes were there; they are replaced.
    Differs,
}

/// The file of one download.
pub struct Part {
    dir: OwnedFd,
    file: File,
    ranges: File,
    sha1: [u8; 20],
    size_bytes: u64,
    range_bytes: u64,
    /// Its files are ours to remove when there is nothing in them: since they were read, until one has its name.
    tidies: bool,
    have: Vec<bool>,
    /// The hash of the first `hashed` ranges.
    hasher: Sha1,
    hashed: usize,
    scratch: Vec<u8>,
}

impl Part {
    /// Opens the part of a file in `dir`, which is made when it is not there, or begins one.
    ///
    /// # Errors
    /// When the directory cannot be written, or another process downloads the same file into it.
    pub fn open(
        dir: &Path,
        sha1: [u8; 20],
        size_bytes: u64,
        range_bytes: u64,
    ) -> Result<Part, PartError> {
        std::fs::create_dir_all(dir)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, flags, Mode::empty())?;
        let [part, marks] = names(&sha1, size_bytes);
        let ranges = open_own(&dir, &marks)?;
        match flock(&ranges, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PartError::InUse),
            Err(e) => return Err(e.into()),
        }
        // Whoever had the lock before may have come to an end, and its file with it.
        let named = statat(&dir, marks.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if named.map(|stat| stat.st_ino) != Ok(fstat(&ranges)?.st_ino) {
            return Err(PartError::InUse);
        }
        let file = open_own(&dir, &part).inspect_err(|_| {
            if ranges.metadata().is_ok_and(|ranges| ranges.len() == 0) {
                let _ = unlinkat(&dir, marks.as_str(), AtFlags::empty());
            }
        })?;
        let count = usize::try_from(size_bytes.div_ceil(range_bytes)).map_err(io::Error::other)?;
        let mut part = Part {
            dir,
            file,
            ranges,
            sha1,
            size_bytes,
            range_bytes,
            tidies: false,
            have: Vec::new(),
            hasher: Sha1::new(),
            hashed: 0,
            scratch: Vec::new(),
        };
        part.have = part.read_marks(count)?;
        part.tidies = true;
        Ok(part)
    }

    /// Which ranges are there.
    pub fn have(&self) -> &[bool] {
        &self.have
    }

    /// Takes the bytes of a whole range and hashes on where it is its turn.
    pub fn store(&mut self, range: usize, bytes: &[u8]) -> Result<Stored, PartError> {
        let at = range as u64 * self.range_bytes;
        let stored = if !self.have[range] {
            Stored::New
        } else if self.read_range(range)? && self.scratch == bytes {
            return Ok(Stored::Same);
        } else {
            Stored::Differs
        };
        if range < self.hashed {
            self.rewind();
        }
        let in_turn = range == self.hashed;
        for (n, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            self.file
                .write_all_at(piece, at + (n * PIECE_BYTES) as u64)
                .inspect_err(|_| self.rewind())?;
            if in_turn {
                self.hasher.update(piece);
            }
        }
        self.hashed += usize::from(in_turn);
        if stored == Stored::New {
            self.mark(range, true)?;
        }
        Ok(stored)
    }

    /// Hashes some of the ranges that are there and not yet hashed. `None` while there are more to come, else whether
    /// the SHA-1 of the whole is right.
    pub fn check(&mut self) -> Result<Option<bool>, PartError> {
        for _ in 0..HASH_STEP_RANGES {
            if !self.have.get(self.hashed).is_some_and(|have| *have) {
                break;
            }
            if !self.read_range(self.hashed)? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.hasher.update(&self.scratch);
            self.hashed += 1;
        }
        if self.hashed < self.have.len() {
            return Ok(None);
        }
        let digest: [u8; 20] = self.hasher.clone().finalize().into();
        Ok(Some(digest == self.sha1))
    }

    /// Gives the file, which [`Part::check`] found right, the last component of `name` as its name, once it is on
    /// the disk.
    pub fn finish(&mut self, name: &str, overwrite: bool) -> Result<(), PartError> {
        let name = safe_name(name).ok_or_else(|| bad_name(name))?;
        self.file.set_len(self.size_bytes)?;
        if let Err(e) = self.file.sync_all() {
            // What the disk has is not known, and asking once more would be answered with success: all anew.
            self.ranges.set_len(0)?;
            return Err(e.into());
        }
        let [part, marks] = names(&self.sha1, self.size_bytes);
        self.rename(&part, name, overwrite)?;
        self.tidies = false;
        fsync(&self.dir)?;
        // Left behind, it would only be found to belong to nothing.
        let _ = unlinkat(&self.dir, marks.as_str(), AtFlags::empty());
        Ok(())
    }

    fn rename(&self, part: &str, name: &str, overwrite: bool) -> Result<(), PartError> {
        let result = if overwrite {
            renameat(&self.dir, part, &self.dir, name)
        } else {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(&self.dir, part, &self.dir, name, flags) {
                // A file system that cannot: a second link, which is made only where no file is, does the same.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(&self.dir, part, &self.dir, name, AtFlags::empty())
                        .and_then(|()| unlinkat(&self.dir, part, AtFlags::empty()))
                }
                result => result,
            }
        };
        match result {
            Err(Errno::EXIST) => Err(PartError::Exists(name.to_owned())),
            Err(Errno::ISDIR) => Err(PartError::IsFolder(name.to_owned())),
            result => Ok(result?),
        }
    }

    fn len_of(&self, range: usize) -> usize {
        let at = range as u64 * self.range_bytes;
        self.range_bytes.min(self.size_bytes - at) as usize
    }

    /// Reads a range into `scratch`; false when the file ends before.
    fn read_range(&mut self, range: usize) -> Result<bool, PartError> {
        let len = self.len_of(range);
        self.scratch.clear();
        self.scratch.reserve_exact(len);
        while self.scratch.len() < len {
            let at = range as u64 * self.range_bytes + self.scratch.len() as u64;
            if pread(&self.file, spare_capacity(&mut self.scratch), at)? == 0 {
                return Ok(false);
            }
        }
        // What was reserved may be more than was asked for.
        self.scratch.truncate(len);
        Ok(true)
    }

    fn rewind(&mut self) {
        self.hasher = Sha1::new();
        self.hashed = 0;
    }

    fn mark(&mut self, range: usize, have: bool) -> Result<(), PartError> {
        let at = (HEADER_BYTES + range) as u64;
        self.ranges.write_all_at(&[u8::from(have)], at)?;
        self.have[range] = have;
        Ok(())
    }

    /// The marks of an earlier run, or a new file of them when there are none that fit.
    fn read_marks(&mut self, count: usize) -> Result<Vec<bool>, PartError> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.sha1);
        header.extend_from_slice(&self.size_bytes.to_le_bytes());
        header.extend_from_slice(&self.range_bytes.to_le_bytes());
        let mut found = vec![0; HEADER_BYTES + count];
        let is_whole = self.ranges.read_exact_at(&mut found, 0).is_ok();
        let part_bytes = self.file.metadata()?.len();
        if is_whole && found.starts_with(&header) {
            let marks = &mut found[HEADER_BYTES..];
            for (range, mark) in marks.iter_mut().enumerate() {
                let end = range as u64 * self.range_bytes + self.len_of(range) as u64;
                *mark = u8::from(*mark == 1 && end <= part_bytes);
            }
            // A mark beyond the end must not come true by a range behind it.
            self.ranges.write_all_at(&found, 0)?;
            return Ok(found[HEADER_BYTES..]
                .iter()
                .map(|mark| *mark == 1)
                .collect());
        }
        header.resize(HEADER_BYTES + count, 0);
        self.ranges.set_len(0)?;
        self.file.set_len(0)?;
        self.ranges.write_all_at(&header, 0)?;
        self.ranges.flush()?;
        Ok(vec![false; count])
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.tidies && !self.have.contains(&true) {
            // Nobody else has them open: the lock is ours. The one that is locked goes last.
            for name in names(&self.sha1, self.size_bytes) {
                let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
            }
        }
    }
}

/// The last component of a received name, when it can be written: no control characters, not hidden, not too long.
pub fn safe_name(name: &str) -> Option<&str> {
    let last = name.rsplit(['/', '\\']).next()?;
    let is_fine = !last.is_empty()
        && !last.starts_with('.')
        && last.len() <= NAME_BYTES_MAX
        && !last.chars().any(char::is_control);
    is_fine.then_some(last)
}

fn bad_name(name: &str) -> PartError {
    let shown: String = name.escape_debug().take(NAME_BYTES_MAX).collect();
    PartError::BadName(shown)
}

/// Says what would be in the way of [`Part::finish`], before anything is downloaded.
pub fn check_name(dir: &Path, name: &str, overwrite: bool) -> Result<(), PartError> {
    let name = safe_name(name).ok_or_else(|| bad_name(name))?;
    match statat(CWD, dir.join(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(PartError::IsFolder(name.to_owned()))
        }
        Ok(_) if !overwrite => Err(PartError::Exists(name.to_owned())),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn names(sha1: &[u8; 20], size_bytes: u64) -> [String; 2] {
    let hex: String = sha1.iter().map(|byte| format!("{byte:02x}")).collect();
    // Hidden, so that who shares the directory does not share them.
    ["part", "ranges"].map(|what| format!(".{hex}-{size_bytes}.{what}"))
}

/// Opens or makes a file of our own; what somebody else put in its place is refused.
fn open_own(dir: &OwnedFd, name: &str) -> Result<File, PartError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = File::from(openat(dir, name, flags | OFlags::CLOEXEC, mode)?);
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{name} is no file of ours")).into())
    }
}

#[cfg(test)]
mod tests;

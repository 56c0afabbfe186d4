//! A partial file: a download in progress. It gets its final name when it is complete and its SHA-1 is right.
//!
//! ```text
//!   DIR/.SHA1-SIZE.part     the bytes, each range at its offset
//!   DIR/.SHA1-SIZE.ranges   a header that names the download, then one byte for each range: 1 = the range is there
//!   DIR/NAME                the complete file, checked and synced, renamed from .part
//! ```
//! The size is part of the names: an announcement with a wrong size starts a file of its own and spoils nothing.
//!
//! A range is marked after its bytes are written, so a process that was killed continues where it was. Neither file is
//! synced before the end. After a loss of power there may be marks without bytes. The hash of the whole file finds
//! that: it costs the search for the wrong range ([`Stored::Differs`]), and never yields a wrong file.
//!
//! The hash of the whole file follows the ranges in their order. A range that arrives in its turn is hashed from memory;
//! a range that arrived early is read again when its turn comes.
//!
//! What it does not do: decide which ranges are fetched from whom (`proto::index::transfer`), or retry.
//!
//! Invariants:
//! - nothing is written outside of the directory, and no file there is overwritten unless `overwrite` was given;
//! - one process at a time holds a partial file, by a lock on the file of ranges, which is created first and removed last;
//! - a partial file without any range leaves no files behind;
//! - `hashed` is the number of leading ranges that `hasher` contains; all of them are marked;
//! - after a failed sync the partial file is void: its marks are removed and every operation fails.

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

/// Ranges that one call of [`PartialFile::check`] reads again: a few milliseconds, which other jobs wait.
const HASH_STEP_RANGES: usize = 8;

/// A range is written and hashed in pieces of this size, which the processor's cache holds in between. Writing 1 MiB at
/// once took up to seven times as long on a virtual machine: the kernel then uses its largest free blocks of memory,
/// which the host may have to provide first.
const PIECE_BYTES: usize = 128 << 10;

/// Most ranges of a file: 16 TiB in ranges of 1 MiB, the largest file of ext4. A peer announced the size, and both
/// memory and the file of ranges grow with the number of ranges.
const RANGES_MAX: usize = 1 << 24;

/// Longest name that a file system takes.
const NAME_BYTES_MAX: usize = 255;

/// Why an operation on a partial file failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PartialFileError {
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
    #[error("the file is announced with a size of more than {RANGES_MAX} ranges")]
    TooLarge,
    #[error("the disk failed, and what is there of the file may be lost; start the download again")]
    Void,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for PartialFileError {
    fn from(e: io::Error) -> PartialFileError {
        match Errno::from_io_error(&e) {
            // A file that reached the largest size allowed is, for the user, a full disk.
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => PartialFileError::Full,
            _ => PartialFileError::Io(e),
        }
    }
}

impl From<Errno> for PartialFileError {
    fn from(e: Errno) -> PartialFileError {
        io::Error::from(e).into()
    }
}

/// What was there before a range was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    New,
    /// The same bytes.
    Same,
    /// Other bytes, which are replaced now.
    Differs,
}

/// A download in progress. See the module.
pub struct PartialFile {
    dir: OwnedFd,
    file: File,
    ranges: File,
    sha1: [u8; 20],
    size_bytes: u64,
    range_bytes: u64,
    /// Whether drop removes the files if no range is there: from when the marks were read until the file has its name.
    tidies: bool,
    /// A sync failed. What the disk holds is unknown, and a second sync would succeed without writing.
    void: bool,
    have: Vec<bool>,
    /// Contains the first `hashed` ranges.
    hasher: Sha1,
    hashed: usize,
    /// The range that was read last.
    scratch: Vec<u8>,
}

impl PartialFile {
    /// Opens the partial file with this hash and size in `dir`, or creates both.
    ///
    /// # Errors
    /// The directory cannot be written, another process downloads the same file into it, or the size is beyond reason.
    pub fn open(
        dir: &Path,
        sha1: [u8; 20],
        size_bytes: u64,
        range_bytes: u64,
    ) -> Result<PartialFile, PartialFileError> {
        let count = usize::try_from(size_bytes.div_ceil(range_bytes)).ok();
        let count = count.filter(|count| *count <= RANGES_MAX);
        let count = count.ok_or(PartialFileError::TooLarge)?;
        std::fs::create_dir_all(dir)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, flags, Mode::empty())?;
        let [part, marks] = names(&sha1, size_bytes);
        let ranges = open_own(&dir, &marks)?;
        match flock(&ranges, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PartialFileError::InUse),
            Err(e) => return Err(e.into()),
        }
        // The process that held the lock before may have removed its file meanwhile; the lock is then one on no name.
        let named = statat(&dir, marks.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if named.map(|stat| stat.st_ino) != Ok(fstat(&ranges)?.st_ino) {
            return Err(PartialFileError::InUse);
        }
        let file = open_own(&dir, &part).inspect_err(|_| {
            if ranges.metadata().is_ok_and(|ranges| ranges.len() == 0) {
                let _ = unlinkat(&dir, marks.as_str(), AtFlags::empty());
            }
        })?;
        let mut part = PartialFile {
            dir,
            file,
            ranges,
            sha1,
            size_bytes,
            range_bytes,
            tidies: false,
            void: false,
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

    /// Writes the bytes of a whole range, and hashes them if it is the range's turn. After an error the range is missing.
    pub fn store(&mut self, range: usize, bytes: &[u8]) -> Result<Stored, PartialFileError> {
        self.check_void()?;
        assert_eq!(bytes.len(), self.len_of(range), "a whole range");
        let stored = if !self.have[range] {
            Stored::New
        } else if self.read_range(range)? && self.scratch == bytes {
            return Ok(Stored::Same);
        } else {
            // Half of its bytes may be the old ones after an error.
            self.mark(range, false)?;
            Stored::Differs
        };
        if range < self.hashed {
            self.rewind();
        }
        let in_turn = range == self.hashed;
        let written = self.write(range, bytes, in_turn);
        if written.is_err() && in_turn {
            self.rewind();
        }
        written?;
        self.hashed += usize::from(in_turn);
        Ok(stored)
    }

    fn write(&mut self, range: usize, bytes: &[u8], hash: bool) -> Result<(), PartialFileError> {
        let mut at = range as u64 * self.range_bytes;
        for piece in bytes.chunks(PIECE_BYTES) {
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
            if hash {
                self.hasher.update(piece);
            }
        }
        self.mark(range, true)
    }

    /// Hashes some of the ranges that are there and not hashed yet. `None` if the hash is not complete, otherwise
    /// whether the SHA-1 of the whole file is right.
    pub fn check(&mut self) -> Result<Option<bool>, PartialFileError> {
        self.check_void()?;
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

    /// Syncs the file, which [`PartialFile::check`] found right, and renames it to the last component of `name`.
    pub fn finish(&mut self, name: &str, overwrite: bool) -> Result<(), PartialFileError> {
        self.check_void()?;
        let name = safe_name(name).ok_or_else(|| bad_name(name))?;
        if let Err(e) = self.make_durable() {
            self.void = true;
            // The marks are believed by the next run; without them it fetches everything again.
            self.have.fill(false);
            self.ranges.set_len(0)?;
            return Err(e.into());
        }
        let [part, marks] = names(&self.sha1, self.size_bytes);
        self.rename(&part, name, overwrite)?;
        self.tidies = false;
        fsync(&self.dir)?;
        // A leftover belongs to no partial file, and the next download of the same file starts it over.
        let _ = unlinkat(&self.dir, marks.as_str(), AtFlags::empty());
        Ok(())
    }

    fn make_durable(&self) -> io::Result<()> {
        self.file.set_len(self.size_bytes)?;
        self.file.sync_all()
    }

    fn check_void(&self) -> Result<(), PartialFileError> {
        match self.void {
            true => Err(PartialFileError::Void),
            false => Ok(()),
        }
    }

    fn rename(&self, part: &str, name: &str, overwrite: bool) -> Result<(), PartialFileError> {
        let result = if overwrite {
            renameat(&self.dir, part, &self.dir, name)
        } else {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(&self.dir, part, &self.dir, name, flags) {
                // The file system does not know the flag. A hard link is refused as well where the name is taken.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(&self.dir, part, &self.dir, name, AtFlags::empty())
                        .and_then(|()| unlinkat(&self.dir, part, AtFlags::empty()))
                }
                result => result,
            }
        };
        match result {
            Err(Errno::EXIST) => Err(PartialFileError::Exists(name.to_owned())),
            Err(Errno::ISDIR) => Err(PartialFileError::IsFolder(name.to_owned())),
            result => Ok(result?),
        }
    }

    fn len_of(&self, range: usize) -> usize {
        let at = range as u64 * self.range_bytes;
        self.range_bytes.min(self.size_bytes - at) as usize
    }

    /// Reads a range into `scratch`; false if the file is shorter.
    fn read_range(&mut self, range: usize) -> Result<bool, PartialFileError> {
        let len = self.len_of(range);
        self.scratch.clear();
        self.scratch.reserve_exact(len);
        while self.scratch.len() < len {
            let at = range as u64 * self.range_bytes + self.scratch.len() as u64;
            if pread(&self.file, spare_capacity(&mut self.scratch), at)? == 0 {
                return Ok(false);
            }
        }
        // The capacity may be larger than what was reserved.
        self.scratch.truncate(len);
        Ok(true)
    }

    /// Starts the hash of the whole file over.
    fn rewind(&mut self) {
        self.hasher = Sha1::new();
        self.hashed = 0;
    }

    fn mark(&mut self, range: usize, have: bool) -> Result<(), PartialFileError> {
        let at = (HEADER_BYTES + range) as u64;
        self.ranges.write_all_at(&[u8::from(have)], at)?;
        self.have[range] = have;
        Ok(())
    }

    /// Reads the marks of an earlier run, or starts both files over if there are none of this download.
    fn read_marks(&mut self, count: usize) -> Result<Vec<bool>, PartialFileError> {
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
            // Written back: a mark beyond the end would become true when a later range extends the file.
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

impl Drop for PartialFile {
    fn drop(&mut self) {
        if self.tidies && !self.have.contains(&true) {
            // The lock is held, so no other process uses them. The locked one is removed last.
            for name in names(&self.sha1, self.size_bytes) {
                let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
            }
        }
    }
}

/// The last component of a received name, if a file can have it: no control characters, not hidden, not too long.
pub fn safe_name(name: &str) -> Option<&str> {
    let last = name.rsplit(['/', '\\']).next()?;
    let is_fine = !last.is_empty()
        && !last.starts_with('.')
        && last.len() <= NAME_BYTES_MAX
        && !last.chars().any(char::is_control);
    is_fine.then_some(last)
}

fn bad_name(name: &str) -> PartialFileError {
    let shown: String = name.escape_debug().take(NAME_BYTES_MAX).collect();
    PartialFileError::BadName(shown)
}

/// Fails, before anything is downloaded, if [`PartialFile::finish`] would fail because of the name.
pub fn check_name(dir: &Path, name: &str, overwrite: bool) -> Result<(), PartialFileError> {
    let name = safe_name(name).ok_or_else(|| bad_name(name))?;
    match statat(CWD, dir.join(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(PartialFileError::IsFolder(name.to_owned()))
        }
        Ok(_) if !overwrite => Err(PartialFileError::Exists(name.to_owned())),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn names(sha1: &[u8; 20], size_bytes: u64) -> [String; 2] {
    let hex: String = sha1.iter().map(|byte| format!("{byte:02x}")).collect();
    // Hidden files are not shared, should the directory be shared too.
    ["part", "ranges"].map(|what| format!(".{hex}-{size_bytes}.{what}"))
}

/// Opens or creates one of the two files. Links, pipes and devices that somebody put in its place are refused.
fn open_own(dir: &OwnedFd, name: &str) -> Result<File, PartialFileError> {
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

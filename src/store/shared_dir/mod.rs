//! The directory that files are shared from: which files are in it, what their SHA-1 is, how they are opened safely.
//!
//! A peer never serves a file from outside of its directory, nor one that was not meant to be shared. So paths come from
//! [`SharedDir::scan`] only, never from the wire. Every open is relative to the directory's descriptor, stays beneath it
//! and follows no symbolic link. What was opened is compared with what was hashed.
//!
//! Shared are regular files with one link and a name that others can write. Not shared: hidden files and folders, symbolic
//! links, devices, pipes, sockets, files with several hard links (one link may be another user's secret), names that are
//! not UTF-8 or contain control characters, `|` or `\`.
//!
//! Hashes are kept in the file [`HASHES`] of the directory, by size, times and inode, so a restart hashes only what
//! changed. If that file cannot be written, the next start hashes everything.
//!
//! What it does not do: watch the directory. Its user scans again from time to time; each scan opens the directory by
//! its path, so a directory that took the place of the former one is scanned.
//!
//! Invariants: a file is read only if its stamp is the one that was hashed, before and after the read; at most
//! [`FILES_MAX`] files, [`SKIPPED_MAX`] reasons and `DEPTH_MAX` levels; sums of sizes saturate.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::io::{BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2,
    renameat, statat, unlinkat,
};
use rustix::io::{Errno, pread};
use sha1::{Digest, Sha1};

/// Where the hashes are kept between runs. Hidden, so it is not shared.
pub const HASHES: &str = ".peerloop-hashes";

/// Most files that are shared, and most lines that are read from [`HASHES`]: what an index server accepts from one peer
/// by default.
pub const FILES_MAX: usize = 100_000;

/// Levels of folders that are followed: deeper than people keep files, and a bound where mounts form a loop.
const DEPTH_MAX: usize = 32;

/// Longest name of a file that file systems and the index allow.
const NAME_BYTES_MAX: usize = 255;

/// Longest path, and longest line of [`HASHES`]: the kernel's own limit of a path. Longer ones are left out.
const PATH_BYTES_MAX: usize = 4096;

/// Bytes hashed between two calls of `progress`: a fraction of a millisecond.
const HASH_STEP_BYTES: usize = 256 << 10;

/// A scan saves the hashes each time it has hashed so many bytes: an interrupt costs some seconds of work.
const SAVE_EVERY_BYTES: u64 = 4 << 30;

/// File systems take times from the last tick of the kernel's clock, so two changes within one tick have the same time.
/// The longest tick is 10 ms.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// A directory that files are shared from.
pub struct SharedDir {
    path: PathBuf,
    /// The directory that had the path at the last scan.
    dir: Mutex<Arc<OwnedFd>>,
    files_max: usize,
    save_every_bytes: u64,
}

/// Identifies the content of a file: if it is equal, the file is the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub size_bytes: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Relative to the shared directory.
    pub path: String,
    pub stamp: Stamp,
    pub sha1: [u8; 20],
}

impl SharedFile {
    /// The last component of the path, as it is announced.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// A file that was opened and is the one that was hashed.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    stamp: Stamp,
}

impl OpenFile {
    /// Reads `length` bytes into `bytes`, all of them or none.
    ///
    /// # Errors
    /// The file cannot be read, or has changed since it was hashed.
    pub fn read(&self, offset: u64, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        bytes.reserve_exact(length);
        while bytes.len() < length {
            // The system refuses offsets beyond 2^63.
            let at = offset.saturating_add(bytes.len() as u64);
            if pread(&self.file, spare_capacity(bytes), at)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // The capacity may be larger than what was reserved.
        bytes.truncate(length);
        // After the read: any write before it has changed the stamp.
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if is_same(&self.file, &self.stamp)? {
            Ok(())
        } else {
            Err(io::Error::other("the file has changed"))
        }
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// In the order of their paths.
    pub files: Vec<Arc<SharedFile>>,
    /// Files and folders that are not shared, and why; at most [`SKIPPED_MAX`].
    pub skipped: Vec<(String, &'static str)>,
    /// How many more there are beyond [`SKIPPED_MAX`].
    pub skipped_more: usize,
    /// There are more than [`FILES_MAX`] files.
    pub is_full: bool,
    /// How many files were hashed; the hashes of the others were known.
    pub hashed: usize,
}

/// Most files whose reason for not being shared is kept: a user does not read more.
pub const SKIPPED_MAX: usize = 100;

/// The progress of a scan's hashing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hashing {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        Stamp {
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            inode: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// Waits until a further change is sure to have another time than the last one.
    fn settle(&self) {
        let (secs, nanos) = self.changed;
        let since_epoch =
            Duration::new(secs.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        // Some file systems have times that `SystemTime` cannot represent.
        let Some(changed) = SystemTime::UNIX_EPOCH.checked_add(since_epoch) else {
            return;
        };
        // A time in the future, after the clock was set back, is not waited for.
        while let Ok(age) = SystemTime::now().duration_since(changed)
            && age < CLOCK_TICK
        {
            std::thread::park_timeout(CLOCK_TICK - age);
        }
    }
}

impl SharedDir {
    pub fn open(path: &Path) -> io::Result<SharedDir> {
        // Links in the given path are followed now, once; links that appear later are not.
        let path = path.canonicalize()?;
        Ok(SharedDir {
            dir: Mutex::new(open_dir(&path)?),
            path,
            files_max: FILES_MAX,
            save_every_bytes: SAVE_EVERY_BYTES,
        })
    }

    fn dir(&self) -> Arc<OwnedFd> {
        let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        dir.clone()
    }

    /// Opens a file of an earlier scan.
    ///
    /// # Errors
    /// It is gone, may not be shared any more, or has changed since it was hashed.
    pub fn open_file(&self, file: &SharedFile) -> io::Result<OpenFile> {
        let open = OpenFile {
            file: self.open_regular(&file.path)?,
            stamp: file.stamp,
        };
        open.check()?;
        Ok(open)
    }

    /// Walks the directory and hashes the files that are new or changed since `before`, which is in the order of paths.
    /// `progress` is called for every `HASH_STEP_BYTES`; if it returns false, the scan ends with
    /// [`io::ErrorKind::Interrupted`].
    ///
    /// # Errors
    /// The directory cannot be read; [`io::ErrorKind::NotFound`] or [`io::ErrorKind::NotADirectory`] if it is gone.
    pub fn scan(
        &self,
        before: &[Arc<SharedFile>],
        progress: &mut dyn FnMut(Hashing) -> bool,
    ) -> io::Result<Scan> {
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = open_dir(&self.path)?;
        let known: HashMap<&str, &Arc<SharedFile>> =
            before.iter().map(|f| (f.path.as_str(), f)).collect();
        let mut scan = Scan::default();
        let found = self.walk(&mut scan)?;
        let is_known =
            |path: &str, stamp: &Stamp| known.get(path).is_some_and(|file| file.stamp == *stamp);
        let mut hashing = Hashing {
            done_bytes: 0,
            total_bytes: found
                .iter()
                .filter(|(path, stamp)| !is_known(path, stamp))
                // Sparse files of the largest size may add up to more than 64 bits.
                .fold(0, |sum, (_, stamp)| stamp.size_bytes.saturating_add(sum)),
        };
        let mut unsaved_bytes = 0;
        for (path, stamp) in found {
            if let Some(file) = known.get(path.as_str()).filter(|f| f.stamp == stamp) {
                scan.files.push(Arc::clone(file));
                continue;
            }
            match self.hash(&path, &stamp, &mut hashing, progress) {
                Ok(sha1) => {
                    scan.hashed += 1;
                    unsaved_bytes = stamp.size_bytes.saturating_add(unsaved_bytes);
                    let file = SharedFile { path, stamp, sha1 };
                    scan.files.push(Arc::new(file));
                    if unsaved_bytes >= self.save_every_bytes {
                        unsaved_bytes = 0;
                        self.save_so_far(&scan.files, before);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                // It was removed or written to during the scan. The next scan looks again.
                Err(e) => {
                    log::debug!("{path:?}: {e}");
                    scan.skip(path, "it cannot be read, or changes");
                }
            }
        }
        Ok(scan)
    }

    /// The files that the last run saved. Their stamps tell which hashes are still valid.
    pub fn saved(&self) -> Vec<Arc<SharedFile>> {
        let mut files = Vec::new();
        let Ok(file) = self.open_regular(HASHES) else {
            return files;
        };
        let mut lines = io::BufReader::new(file);
        let mut line = Vec::new();
        while files.len() < FILES_MAX {
            line.clear();
            let read = (&mut lines)
                .take(PATH_BYTES_MAX as u64)
                .read_until(b'\n', &mut line);
            // A line without an end was not written by `save`, and the rest is not read.
            if read.is_err() || line.pop() != Some(b'\n') {
                break;
            }
            let Ok(line) = std::str::from_utf8(&line) else {
                break;
            };
            files.extend(parse_saved(line).map(Arc::new));
        }
        files
    }

    /// Saves the hashes for the next run.
    pub fn save(&self, files: &[Arc<SharedFile>]) -> io::Result<()> {
        let mut text = String::new();
        for file in files {
            let SharedFile { path, stamp, sha1 } = &**file;
            let Stamp {
                size_bytes,
                inode,
                modified,
                changed,
            } = stamp;
            for byte in sha1 {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(
                text,
                " {size_bytes} {inode} {} {} {} {} {path}",
                modified.0, modified.1, changed.0, changed.1
            );
        }
        let dir = self.dir();
        let part = format!("{HASHES}-{}", std::process::id());
        // A leftover of a killed process with our number, or a pipe or link that somebody put there. EXCL refuses
        // whatever appears after this.
        let _ = unlinkat(&dir, part.as_str(), AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut to = File::from(openat(&dir, part.as_str(), flags, mode)?);
        // Not synced: after a loss of power, lines that are torn do not parse, and their files are hashed again.
        io::Write::write_all(&mut to, text.as_bytes())
            .and_then(|()| Ok(renameat(&dir, part.as_str(), &dir, HASHES)?))
            .inspect_err(|_| {
                let _ = unlinkat(&dir, part.as_str(), AtFlags::empty());
            })
    }

    /// Saves the hashes so far, and those known from before of the files that this scan has not reached.
    fn save_so_far(&self, files: &[Arc<SharedFile>], before: &[Arc<SharedFile>]) {
        let last = files.last().map_or("", |file| &file.path);
        let rest = before.iter().filter(|file| file.path.as_str() > last);
        let all: Vec<Arc<SharedFile>> = files.iter().chain(rest).cloned().collect();
        if let Err(e) = self.save(&all) {
            log::debug!("hashes are not kept: {e}");
        }
    }

    /// The files that may be shared, in the order of their paths, without opening any.
    fn walk(&self, scan: &mut Scan) -> io::Result<Vec<(String, Stamp)>> {
        let root = self.dir();
        let mut found = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let opened = if folder.is_empty() {
                Dir::read_from(&root)
            } else {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                open_beneath(root.as_fd(), &folder, flags).and_then(Dir::new)
            };
            let dir = match opened {
                Ok(dir) => dir,
                Err(e) if folder.is_empty() => return Err(e.into()),
                Err(_) => {
                    scan.skip(folder, "the folder cannot be read");
                    continue;
                }
            };
            for entry in dir {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(e) if folder.is_empty() => return Err(e.into()),
                    // One bad folder is no reason to share nothing.
                    Err(_) => {
                        scan.skip(folder, "the folder cannot be read");
                        break;
                    }
                };
                let path = match path_of(&folder, entry.file_name()) {
                    Ok(path) => path,
                    Err(("", _)) => continue,
                    Err((why, path)) => {
                        scan.skip(path, why);
                        continue;
                    }
                };
                // By path: a link that takes the place of a folder now reveals a size, nothing more; the open refuses it.
                let Ok(stat) = statat(&root, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                match refusal(&stat) {
                    None if found.len() == self.files_max => {
                        scan.is_full = true;
                        folders.clear();
                        break;
                    }
                    None => found.push((path, Stamp::of(&stat))),
                    Some(_) if is_folder(&stat) && depth < DEPTH_MAX => {
                        folders.push((path, depth + 1));
                    }
                    Some(why) => scan.skip(path, why),
                }
            }
        }
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    fn hash(
        &self,
        path: &str,
        stamp: &Stamp,
        hashing: &mut Hashing,
        progress: &mut dyn FnMut(Hashing) -> bool,
    ) -> io::Result<[u8; 20]> {
        let file = self.open_regular(path)?;
        stamp.settle();
        if !is_same(&file, stamp)? {
            return Err(io::Error::other("the file has changed"));
        }
        let mut sha1 = Sha1::new();
        let mut buffer = Vec::with_capacity(HASH_STEP_BYTES);
        let mut at = 0;
        loop {
            if !progress(*hashing) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            buffer.clear();
            // A file that keeps growing is given up at the size it had.
            if at > stamp.size_bytes || pread(&file, spare_capacity(&mut buffer), at)? == 0 {
                break;
            }
            sha1.update(&buffer);
            at += buffer.len() as u64;
            hashing.done_bytes += buffer.len() as u64;
        }
        if at == stamp.size_bytes && is_same(&file, stamp)? {
            Ok(sha1.finalize().into())
        } else {
            Err(io::Error::other("the file changed while it was hashed"))
        }
    }

    fn open_regular(&self, path: &str) -> io::Result<File> {
        // Without NONBLOCK, opening a pipe that took the file's place would block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_beneath(self.dir().as_fd(), path, flags)?);
        match refusal(&fstat(&file)?) {
            None => Ok(file),
            Some(why) => Err(io::Error::other(why)),
        }
    }
}

impl Scan {
    fn skip(&mut self, path: String, why: &'static str) {
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push((path, why));
        } else {
            self.skipped_more += 1;
        }
    }
}

/// Opens a directory by a path without symbolic links. A link that appeared in the path is refused: it would have
/// another directory shared.
fn open_dir(path: &Path) -> io::Result<Arc<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOSYS | Errno::PERM) => openat(CWD, path, flags, Mode::empty()),
        result => result,
    };
    Ok(Arc::new(opened?))
}

/// Whether an open file has the stamp.
fn is_same(file: &File, stamp: &Stamp) -> io::Result<bool> {
    Ok(Stamp::of(&fstat(file)?) == *stamp)
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Why something is not shared.
fn refusal(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink > 1 => Some("it has several hard links"),
        FileType::RegularFile => None,
        FileType::Directory => Some("the folders are nested too deep"),
        FileType::Symlink => Some("it is a symbolic link"),
        _ => Some("it is no regular file"),
    }
}

/// The path of an entry of `folder`, or why it is left out. Hidden ones have no reason: they are not reported.
fn path_of(folder: &str, name: &CStr) -> Result<String, (&'static str, String)> {
    let shown = || format!("{folder}/{}", name.to_string_lossy().escape_debug());
    let Ok(name) = name.to_str() else {
        return Err(("its name is no UTF-8", shown()));
    };
    if name.starts_with('.') {
        return Err(("", String::new()));
    }
    if name.len() > NAME_BYTES_MAX || folder.len() + 1 + name.len() > PATH_BYTES_MAX {
        return Err(("its path is too long", shown()));
    }
    if name.contains(|c: char| c.is_control() || matches!(c, '|' | '\\' | '/')) {
        return Err(("its name has characters that the index refuses", shown()));
    }
    Ok(if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    })
}

/// Opens `path` below `dir`, through no symbolic link and never outside of `dir`, also while others rename things.
fn open_beneath(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(dir, path, flags, Mode::empty(), resolve) {
        // A kernel before 5.6, or a container that does not allow the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(dir, path, flags),
        // EAGAIN, a rename at the same moment, is an error like others: the next scan or request tries again.
        result => result,
    }
}

/// [`open_beneath`] without `openat2`: one component of the path at a time.
fn open_by_steps(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if matches!(part, "" | "." | "..") {
            return Err(Errno::XDEV);
        }
        let is_last = parts.peek().is_none();
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        at = Some(openat(
            from,
            part,
            if is_last { flags } else { step },
            Mode::empty(),
        )?);
    }
    at.ok_or(Errno::NOENT)
}

/// A line of [`HASHES`]. A line that is stale has another stamp than its file.
fn parse_saved(line: &str) -> Option<SharedFile> {
    let mut fields = line.splitn(8, ' ');
    let hex = fields.next().filter(|hex| hex.len() == 40)?;
    let mut sha1 = [0; 20];
    for (byte, pair) in sha1.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    let size_bytes = fields.next()?.parse().ok()?;
    let inode = fields.next()?.parse().ok()?;
    let mut time = || Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?));
    let (modified, changed) = (time()?, time()?);
    let stamp = Stamp {
        size_bytes,
        inode,
        modified,
        changed,
    };
    let path = fields.next()?.to_owned();
    Some(SharedFile { path, stamp, sha1 })
}

#[cfg(test)]
mod tests;

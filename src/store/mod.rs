//! Where entries outlive the process.
//!
//! A [`Store`] keeps tables of byte keys and byte values and changes them in groups. The worker
//! thread owns the one a node uses: it gathers what came in since its last commit, commits the
//! group, and only then does the loop acknowledge. Readers never come here; they read the
//! protocol's own memory, which is filled from [`Store::load`] at the start.
//!
//! [`memory::Memory`] serves the simulator, tests and nodes without `--data`;
//! `redb::Redb` (feature `storage`) is the durable one. Beside them, for files that peers share: `shared` is the directory
//! they come from, `part` a file that is being downloaded.
//!
//! What it does not do: it knows no protocol, gives no single reads, no ranges and no snapshots,
//! and does not retry. Whoever loads decodes the values and answers for their format.
//!
//! Invariants:
//! - a commit is whole or absent, also after a crash at any point of it;
//! - `Ok` is the only acknowledgement: what it covers is there after a restart;
//! - after an error with [`Outcome::Nothing`] no change of the group is there, now or later;
//! - after [`StoreError::Failed`] every commit fails the same way until the process restarts.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

pub mod memory;
#[cfg(feature = "storage")]
pub mod partial_file;
#[cfg(feature = "storage")]
pub mod redb;
#[cfg(feature = "storage")]
pub mod shared_dir;

/// Keeps tables of entries, changed in atomic groups.
pub trait Store: Send {
    /// Applies all changes in order, as one, and returns once they are as durable as this store
    /// promises. Later changes of a key win over earlier ones; removing what is not there is
    /// no error. What an `Err` leaves behind is told by [`StoreError::outcome`].
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Hands over every entry of a table in the order of the keys' bytes. A table that nothing
    /// was ever written to is empty. Entries handed over before an error are valid but not all.
    fn load(&mut self, table: Table, each: &mut dyn FnMut(&[u8], Bytes)) -> Result<(), StoreError>;
}

/// One change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the entry lives.
    pub table: Table,
    /// Its key.
    pub key: Key,
    /// Its new value; `None` removes it.
    pub value: Option<Bytes>,
}

impl Change {
    /// Sets the value of a key.
    pub fn put(table: Table, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// Removes a key.
    pub fn remove(table: Table, key: impl Into<Key>) -> Self {
        Self {
            table,
            key: key.into(),
            value: None,
        }
    }
}

/// The name of a table. Tables come into being with their first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(&'static str);

impl Table {
    /// Names a table. The name is part of the stored format: renaming one loses its entries.
    ///
    /// # Panics
    /// If the name is empty or contains `/`, which is kept for the stores' own tables. Tables
    /// are constants, so this is a compile error.
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "a table has a name");
        let bytes = name.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] != b'/', "`/` in table names is reserved");
            at += 1;
        }
        Self(name)
    }

    /// The name given.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// Keys up to this length live in the [`Key`] itself. It covers the digests in use (20 and 32
/// bytes) and costs nothing: the variant for longer ones is as large.
pub const KEY_INLINE_BYTES_MAX: usize = 32;

/// The largest value a store accepts. Far above any protocol's own limit and below the 3 GiB at
/// which redb refuses, so that all stores refuse the same values.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// A key: any bytes. Up to [`KEY_INLINE_BYTES_MAX`] they are held inline, so a change of a DHT
/// entry allocates nothing for its 20-byte key, where `Bytes` would cost an allocation and a
/// shared counter. Longer keys (names and paths) go to the heap instead of being refused.
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline {
        len: u8,
        bytes: [u8; KEY_INLINE_BYTES_MAX],
    },
    Heap(Bytes),
}

const _: () = assert!(KEY_INLINE_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(
    size_of::<Key>() <= 40,
    "the key is copied with every change"
);

impl Key {
    /// The bytes of the key.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    fn inline(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; KEY_INLINE_BYTES_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        // The length is at most KEY_INLINE_BYTES_MAX here, which fits by the assertion above.
        Some(Self(Repr::Inline {
            len: key.len() as u8,
            bytes,
        }))
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        Self::inline(key).unwrap_or_else(|| Self(Repr::Heap(Bytes::copy_from_slice(key))))
    }
}

impl<const N: usize> From<[u8; N]> for Key {
    fn from(key: [u8; N]) -> Self {
        Self::from(&key[..])
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self::from(key.as_bytes())
    }
}

impl From<Bytes> for Key {
    fn from(key: Bytes) -> Self {
        Self::inline(&key).unwrap_or(Self(Repr::Heap(key)))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.as_slice().escape_ascii())
    }
}

/// What a failed commit may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// None of the changes happened. The client may be told so.
    Nothing,
    /// All or none of them: only a restart tells. A client may be told neither yes nor no.
    Unknown,
}

/// Why a store refused to open, to load or to commit. Each message ends with the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another store, in this process or another one, has the directory open.
    #[error(
        "{} is in use by another node; stop that one or give this one its own --data directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },

    /// No room: the disk, the quota or the file size limit is used up. Nothing was committed,
    /// and commits work again by themselves once there is room.
    #[error("no room to write {}: {source}; free some space or raise the quota", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A value above [`VALUE_BYTES_MAX`]. Nothing was committed.
    #[error("a value of {bytes} bytes is more than the {bytes_max} a store takes; split it")]
    TooLarge {
        /// The size of the value.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// The system refused an operation while opening.
    #[error(
        "cannot {doing} {}: {source}; check that --data names a directory this user may write to",
        path.display()
    )]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The file is damaged. Nothing of it is used and nothing is repaired by guessing.
    #[error(
        "{} is damaged: {detail}; restore it from a copy, or move it away to start empty",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        detail: String,
    },

    /// The file is whole but was written by some other program.
    #[error(
        "{} is not a peerloop database; move it away or give another --data directory",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },

    /// The file was written by another version of peerloop, in a format this one cannot read.
    #[error(
        "{} has format {found} and this peerloop reads {known}; use the version that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The format this program reads and writes.
        known: u64,
    },

    /// A fault, this one or an earlier one, after which nothing is acknowledged any more. What
    /// the system holds in memory and what the disk holds may differ, and asking again would
    /// only hide it: the restart reads the truth.
    #[error(
        "{} failed: {cause}; nothing more is stored: check the disk, then restart the node",
        path.display()
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// The first fault.
        cause: String,
    },
}

impl StoreError {
    /// What a commit that ended with this error may have left behind.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Full { .. } | Self::TooLarge { .. } => Outcome::Nothing,
            // The other ones come from opening, where there is no change to speak of.
            _ => Outcome::Unknown,
        }
    }
}

/// Refuses a group with a value above the limit, before anything of it is applied.
fn check_sizes(changes: &[Change]) -> Result<(), StoreError> {
    let values = changes.iter().filter_map(|change| change.value.as_ref());
    match values
        .map(Bytes::len)
        .find(|&bytes| bytes > VALUE_BYTES_MAX)
    {
        Some(bytes) => Err(StoreError::TooLarge {
            bytes,
            bytes_max: VALUE_BYTES_MAX,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_as_bytes_whatever_holds_them() {
        let lengths = [
            0,
            1,
            20,
            KEY_INLINE_BYTES_MAX,
            KEY_INLINE_BYTES_MAX + 1,
            300,
        ];
        for len in lengths {
            let bytes = vec![7; len];
            let key = Key::from(&bytes[..]);
            assert_eq!(key.as_slice(), bytes);
            assert_eq!(key, Key::from(Bytes::from(bytes)));
        }
        let mut keys: Vec<Key> = lengths
            .iter()
            .map(|&len| Key::from(&vec![7; len][..]))
            .collect();
        keys.push(Key::from([6; 40]));
        keys.sort();
        let sorted: Vec<&[u8]> = keys.iter().map(Key::as_slice).collect();
        assert!(sorted.is_sorted());
        assert!(matches!(Key::from([1; 20]).0, Repr::Inline { .. }));
    }

    #[test]
    fn messages_name_the_path_and_the_cure() {
        let path = PathBuf::from("/data/x");
        let source = || io::Error::from(io::ErrorKind::StorageFull);
        let errors = [
            StoreError::InUse { path: path.clone() },
            StoreError::Full {
                path: path.clone(),
                source: source(),
            },
            StoreError::Io {
                doing: "create",
                path: path.clone(),
                source: source(),
            },
            StoreError::Corrupt {
                path: path.clone(),
                detail: "torn".into(),
            },
            StoreError::Foreign { path: path.clone() },
            StoreError::Version {
                path: path.clone(),
                found: 2,
                known: 1,
            },
            StoreError::Failed {
                path,
                cause: "fsync".into(),
            },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("/data/x") && !text.contains('\n'), "{text}");
            assert!(
                text.contains(';') || matches!(error, StoreError::InUse { .. }),
                "{text}"
            );
        }
    }
}

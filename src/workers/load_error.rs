//! Why the data of an earlier run cannot be taken up.

use thiserror::Error;

use crate::proto::index::server::BadRecord;
use crate::store::{StoreError, Table};

/// Nothing of the data is used after one of these: a node that starts with a part of it would write over the rest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),

    /// An index server's.
    #[error("{0}")]
    Record(#[from] BadRecord),

    /// Entries of a table with keys or values that this version does not write.
    #[error(
        "{count} entries of the table {} were not written by this version of peerloop; use the version that wrote them, \
         or give another --data directory",
        table.name()
    )]
    Foreign {
        /// The table.
        table: Table,
        /// How many of its entries.
        count: u64,
    },
}

impl LoadError {
    /// Fails if there are foreign entries.
    pub(super) fn check_foreign(table: Table, count: u64) -> Result<(), LoadError> {
        match count {
            0 => Ok(()),
            _ => Err(LoadError::Foreign { table, count }),
        }
    }
}

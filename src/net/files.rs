//! The limit of open files, which is the limit of connections.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept back from connections: listeners, the poll, logs, the database, a file being read.
const FILES_KEPT_BACK: u64 = 32;

/// Raises the soft limit of open files to the hard limit and returns it.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|soft| soft < hard) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            log::warn!("cannot raise the file limit to {hard}: {e}");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections the file limit allows.
pub(super) fn conns_max() -> io::Result<usize> {
    let files = raise_file_limit();
    match usize::try_from(files.saturating_sub(FILES_KEPT_BACK)) {
        Ok(0) => Err(io::Error::other(format!(
            "the limit of {files} open files is too low: {FILES_KEPT_BACK} are kept back, raise `ulimit -n`"
        ))),
        Ok(conns) => Ok(conns),
        Err(_) => Ok(usize::MAX),
    }
}

//! The limit of open files, which is the limit of connections, and that of their size.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;

/// Descriptors kept back from connections: listeners, the poll, logs, the database, a file being read.
const FILES_KEPT_BACK: u32 = 32;

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

/// From now on a write beyond the limit of a file's size (`ulimit -f`) is an error like that of a full disk, which its
/// writer reports. As the kernel has it by default, the write ends the process without a word.
pub fn survive_file_size_limit() -> io::Result<()> {
    // A handler that sets a flag without a reader: ignoring the signal itself takes `unsafe`.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// How many connections the file limit allows.
pub(super) fn conns_max() -> io::Result<usize> {
    let files = raise_file_limit();
    // Without a limit, more than there are descriptors in a process: the kernel's `nr_open` is at most 2^31.
    let conns = u32::try_from(files).unwrap_or(1 << 31);
    let conns = conns.saturating_sub(FILES_KEPT_BACK);
    if conns == 0 {
        return Err(io::Error::other(format!(
            "the limit of {files} open files is too low: {FILES_KEPT_BACK} are kept back, raise `ulimit -n`"
        )));
    }
    Ok(conns.min(1 << 31) as usize)
}

//! The signals that ask a process to leave, for a reactor, and their usual meaning for a process in which no reactor
//! listens.
//!
//! They are SIGINT, SIGTERM and SIGHUP: a terminal that closes, or a session that ends, asks what an operator asks. A
//! process that was started with SIGHUP ignored (`nohup`) is to outlive its terminal, so there it stays ignored.
//!
//! A handler stays once it is installed. Without the second part, a program whose reactor has ended (a shell between
//! two commands) could not be ended by Ctrl-C or kill any more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::low_level::emulate_default_handler;
use signal_hook_mio::v1_0::Signals;

/// Nobody listens: a signal ends the process.
static UNHEARD: AtomicBool = AtomicBool::new(false);

/// How many reactors of this process listen; `None` before the first.
static LISTENING: Mutex<Option<usize>> = Mutex::new(None);

fn listening() -> MutexGuard<'static, Option<usize>> {
    LISTENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that ask this process to leave.
pub fn leave_signals() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM];
    // Asked before a handler is there, and again with ours in place: the answer is the same.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !is_ignored(SIGHUP, &status) {
        signals.push(SIGHUP);
    }
    signals
}

/// Whether the process with this /proc/PID/status ignores `signal`; not, as far as the text does not say.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The signals of a reactor, until it is dropped.
pub(super) struct Caught(Signals);

impl Caught {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Caught> {
        let mut listening = listening();
        let leave = leave_signals();
        if listening.is_none() {
            for &signal in &leave {
                register_conditional_default(signal, &UNHEARD)?;
            }
        }
        let mut signals = Signals::new(leave)?;
        registry.register(&mut signals, token, Interest::READABLE)?;
        *listening = Some(listening.unwrap_or(0) + 1);
        UNHEARD.store(false, Ordering::SeqCst);
        Ok(Caught(signals))
    }

    /// Those that came since the last time.
    pub(super) fn take(&mut self) -> Vec<i32> {
        self.0.pending().collect()
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        let mut listening = listening();
        let left = listening.unwrap_or(1) - 1;
        *listening = Some(left);
        UNHEARD.store(left == 0, Ordering::SeqCst);
        // One that came since the last turn, and that no turn would take.
        if left == 0
            && let Some(signal) = self.0.pending().next()
        {
            // Ends the process; an error would mean that the signal has no such default.
            let _ = emulate_default_handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_mask() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\tff\nSigIgn:\t{mask}\nSigCgt:\tff\n");
        assert!(is_ignored(SIGHUP, &status("0000000000000001")));
        assert!(is_ignored(SIGTERM, &status("0000000000004000")));
        assert!(!is_ignored(SIGHUP, &status("fffffffffffffffe")));
        assert!(!is_ignored(SIGHUP, &status("nonsense")));
        assert!(!is_ignored(SIGHUP, ""));
    }
}

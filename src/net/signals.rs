//! SIGINT and SIGTERM for a reactor, and their usual meaning for a process in which no reactor listens.
//!
//! A handler stays once it is installed. Without the second part, a program whose reactor has ended (a shell between
//! two commands) could not be ended by Ctrl-C or kill any more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
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

/// The signals of a reactor, until it is dropped.
pub(super) struct Caught(Signals);

impl Caught {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Caught> {
        let mut listening = listening();
        if listening.is_none() {
            for signal in [SIGINT, SIGTERM] {
                register_conditional_default(signal, &UNHEARD)?;
            }
        }
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        registry.register(&mut signals, token, Interest::READABLE)?;
        *listening = Some(listening.unwrap_or(0) + 1);
        UNHEARD.store(false, Ordering::SeqCst);
        Ok(Caught(signals))
    }

    /// How many came since the last time.
    pub(super) fn take(&mut self) -> usize {
        self.0.pending().count()
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

//! Services on threads and servers in processes that a run starts, and waiting for conditions. A thread or a process
//! ends when its value is dropped.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use peerloop::engine::{Hub, Service};
use peerloop::net::{Caller, Handle, Reactor, leave_signals};

/// Any free port on loopback.
pub(super) const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// Between two looks at a condition.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Longest start of a server: it may have much data to load.
const START_MAX: Duration = Duration::from_secs(120);

/// One of [`leave_signals`] came. Set only once [`catch_interrupts`] was called.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on the [`leave_signals`] end every wait of this file with an error.
pub(super) fn catch_interrupts() -> Result<()> {
    for signal in leave_signals() {
        signal_hook::flag::register(signal, INTERRUPTED.clone())?;
    }
    Ok(())
}

pub(super) fn check_interrupts() -> Result<()> {
    let came = INTERRUPTED.load(Ordering::Relaxed);
    ensure!(!came, "interrupted; the nodes are stopped");
    Ok(())
}

/// Until the next look at a condition that is waited for.
pub(super) fn pause() -> Result<()> {
    std::thread::park_timeout(LOOK_EVERY);
    check_interrupts()
}

pub(super) fn wait_until(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    while !condition()? {
        pause()?;
    }
    Ok(())
}

/// A service on a thread of its own, which returns `R` when it has stopped.
pub(super) struct Background<S: Service, R> {
    handle: Handle,
    caller: Caller<S>,
    thread: Option<JoinHandle<Result<R>>>,
}

impl<S: Service + 'static, R: Send + 'static> Background<S, R> {
    /// `make` and `end` run on the thread, so the service need not be `Send`.
    pub(super) fn start(
        name: &str,
        make: impl FnOnce() -> Result<Reactor<S>> + Send + 'static,
        end: impl FnOnce(S) -> Result<R> + Send + 'static,
    ) -> Result<Background<S, R>> {
        let (tell, told) = channel();
        let run = move || {
            let mut reactor = make()?;
            // The receiver waits below, and fails only with this thread.
            let _ = tell.send((reactor.handle(), reactor.caller()));
            reactor.run()?;
            end(reactor.into_service())
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        match told.recv() {
            Ok((handle, caller)) => Ok(Background {
                handle,
                caller,
                thread: Some(thread),
            }),
            Err(_) => Err(joined(thread).err().context("a thread ended early")?),
        }
    }

    /// Asks the service to stop, as SIGTERM does.
    pub(super) fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Ends the service at once; nothing happens to one that has ended.
    pub(super) fn kill(&self) {
        let _ = self.caller.call(|_, hub| hub.stop());
    }

    /// Runs `act` on the service's loop.
    pub(super) fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut S, &mut Hub<S>) -> T + Send + 'static,
    ) -> Result<T> {
        Ok(self.caller.call(act)?)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has stopped.
    pub(super) fn join(mut self) -> Result<R> {
        joined(self.thread.take().context("joined twice")?)
    }

    /// Asks it to stop, and waits.
    pub(super) fn stop(self) -> Result<R> {
        self.shutdown();
        self.join()
    }
}

impl<S: Service, R> Drop for Background<S, R> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // An error elsewhere dropped this value, and is the one to report.
            let _ = self.caller.call(|_, hub| hub.stop());
            let _ = thread.join();
        }
    }
}

fn joined<R>(thread: JoinHandle<Result<R>>) -> Result<R> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// This program in a process of its own. It is killed when this value is dropped.
pub(super) struct Program {
    pub(super) child: Child,
    pub(super) addr: SocketAddrV4,
}

impl Program {
    /// This program, to be given arguments.
    pub(super) fn command() -> Result<Command> {
        let program = std::env::current_exe().context("where is this program?")?;
        Ok(Command::new(program))
    }

    /// Starts a server and waits until it says where it listens.
    pub(super) fn start(command: &mut Command) -> Result<Program> {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = piped.spawn().context("cannot start a process")?;
        let mut program = Program {
            child,
            addr: LOOPBACK,
        };
        let stdout = program.child.stdout.take().context("no pipe")?;
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(START_MAX).unwrap_or_default();
        let addr = line.trim_end().strip_prefix("listening ");
        program.addr = addr
            .and_then(|addr| addr.parse().ok())
            .with_context(|| format!("{line:?} in place of an address; see above"))?;
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process id is not reused before `wait`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

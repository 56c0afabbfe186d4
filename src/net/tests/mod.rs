//! The reactor and its worker threads: what fails there, and what comes all at once.

mod ipv6;
mod itself;
mod services;
mod starts;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::{Cx, Hub, Input, Limits, Service, Step, Ticks, Violation, Work};

use super::Reactor;

/// Long enough for a loaded machine; nothing waits for it in vain unless a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// A service without a protocol that counts what its worker has done.
#[derive(Default)]
pub(super) struct Quiet {
    done: Vec<u32>,
    /// Stops the node when so many results are there.
    stops_at: usize,
    /// Which timers fired, and when.
    fired: Vec<(usize, Instant)>,
}

impl Service for Quiet {
    type Conn = ();
    type Note = ();
    type Timer = usize;
    type Job = u32;
    type Done = u32;

    fn on_accept(&mut self, _: &mut Cx<'_, Self>, _: usize) -> Option<()> {
        Some(())
    }

    fn on_input(
        &mut self,
        _: &mut Cx<'_, Self>,
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        Ok(Step::Done(input.bytes.len()))
    }

    fn on_timer(&mut self, _: &mut Hub<Self>, timer: usize) {
        self.fired.push((timer, Instant::now()));
    }

    fn on_done(&mut self, hub: &mut Hub<Self>, done: u32) {
        self.done.push(done);
        if self.done.len() == self.stops_at {
            hub.stop();
        }
    }
}

/// Gives each job back, or panics at the one that is `panics_at`.
struct Copier {
    panics_at: Option<u32>,
}

impl Work for Copier {
    type Job = u32;
    type Done = u32;

    fn run(&mut self, jobs: &mut Vec<u32>, done: &mut Vec<u32>) {
        for job in jobs.drain(..) {
            assert_ne!(Some(job), self.panics_at, "a worker that panics, as told");
            done.push(job);
        }
    }
}

/// Tells that it has begun, then works until the other end of `held` is dropped.
struct Held {
    begun: Sender<()>,
    held: Receiver<()>,
}

impl Work for Held {
    type Job = u32;
    type Done = u32;

    fn run(&mut self, jobs: &mut Vec<u32>, done: &mut Vec<u32>) {
        self.begun.send(()).expect("somebody waits");
        let _ = self.held.recv();
        done.append(jobs);
    }
}

fn reactor(stops_at: usize, limits: Limits) -> Reactor<Quiet> {
    let quiet = Quiet {
        stops_at,
        ..Quiet::default()
    };
    Reactor::new(quiet, limits).unwrap()
}

fn submit(reactor: &mut Reactor<Quiet>, jobs: impl Iterator<Item = u32>) {
    reactor.node().with(|_, hub| {
        for job in jobs {
            hub.submit(job).unwrap();
        }
    });
}

/// Runs `act` on a thread of its own; panics when it takes longer than [`DEADLINE`].
fn in_time<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = channel();
    thread::spawn(move || tell.send(act()));
    told.recv_timeout(DEADLINE).expect("it hangs, or panicked")
}

#[test]
fn a_worker_that_panics_ends_the_run_with_an_error() {
    let (error, done) = in_time(|| {
        let mut reactor = reactor(usize::MAX, Limits::default());
        reactor.start_worker(Copier { panics_at: Some(1) }).unwrap();
        submit(&mut reactor, 1..2);
        let error = reactor.run().expect_err("nothing can go on");
        (error, reactor.into_service().done)
    });
    assert!(error.to_string().contains("worker thread"), "{error}");
    assert!(done.is_empty(), "and nothing counts as done");
}

/// The other workers of a reactor that ends with an error are not waited for.
#[test]
fn a_worker_that_panics_does_not_wait_for_the_others() {
    let (begun, begins) = channel();
    let (hold, held) = channel();
    in_time(move || {
        let mut reactor = reactor(usize::MAX, Limits::default());
        let panics = Copier { panics_at: Some(1) };
        reactor.start_worker_for(|job| *job == 1, panics).unwrap();
        let holds = Held { begun, held };
        reactor.start_worker_for(|job| *job == 2, holds).unwrap();
        submit(&mut reactor, 2..3);
        reactor.turn(Some(Duration::ZERO)).unwrap();
        begins.recv().expect("the other one works");
        submit(&mut reactor, 1..2);
        reactor.run().expect_err("nothing can go on");
        drop(reactor);
    });
    drop(hold);
}

#[test]
fn finished_jobs_are_taken_in_turns_and_in_order() {
    const JOBS: u32 = 1000;
    let turns = in_time(|| {
        let limits = Limits {
            jobs_done_per_turn: 7,
            ..Limits::default()
        };
        let mut reactor = reactor(JOBS as usize, limits);
        reactor.start_worker(Copier { panics_at: None }).unwrap();
        submit(&mut reactor, 0..JOBS);
        let (mut turns, mut before) = (0, 0);
        while !reactor.node().stopping() {
            reactor.turn(None).unwrap();
            let done = reactor.node().service().done.len();
            assert!(done <= before + 7, "{} in one turn", done - before);
            (turns, before) = (turns + 1, done);
        }
        assert_eq!(reactor.into_service().done, (0..JOBS).collect::<Vec<_>>());
        turns
    });
    assert!(turns >= JOBS / 7);
}

/// By the clock on the wall, wherever in a tick the timer is armed, and however long ago the last turn was.
#[test]
fn timers_are_never_early() {
    let mut reactor = reactor(usize::MAX, Limits::default());
    let mut armed = Vec::new();
    for number in 0..200 {
        let asked = Ticks(number as u64 % 5);
        armed.push((asked, Instant::now()));
        let timer = reactor.node().with(|_, hub| hub.arm(asked, number));
        assert!(timer.is_some());
        // Another place in the tick for the next one; not each time a turn.
        let until = Instant::now() + Duration::from_micros(1700);
        while Instant::now() < until {
            if number % 3 == 0 {
                let left = until.saturating_duration_since(Instant::now());
                reactor.turn(Some(left)).unwrap();
            }
        }
    }
    while reactor.node().service().fired.len() < armed.len() {
        reactor.turn(None).unwrap();
    }
    for (number, at) in reactor.into_service().fired {
        let (asked, since) = armed[number];
        let took = at - since;
        assert!(took >= asked.as_duration(), "{asked:?} took {took:?}");
    }
}

/// Says to another process of the same test that it is the node.
const IS_NODE: &str = "PEERLOOP_TEST_IS_NODE";

/// A node whose worker does not come to an end. Asked to leave, it waits for the worker for up to `linger`, and once more
/// when the reactor is dropped.
fn be_a_node_whose_worker_is_held(linger: Ticks) {
    let limits = Limits {
        linger,
        ..Limits::default()
    };
    let mut reactor = reactor(usize::MAX, limits);
    let (begun, begins) = channel();
    let (hold, held) = channel();
    reactor.start_worker(Held { begun, held }).unwrap();
    reactor.catch_signals().unwrap();
    submit(&mut reactor, 1..3);
    reactor.turn(Some(Duration::ZERO)).unwrap();
    begins.recv().unwrap();
    println!("at work");
    while !reactor.node().stopping() {
        reactor.turn(None).unwrap();
    }
    println!("leaving");
    let result = reactor.run();
    println!("{:?}", result.map_err(|e| e.kind()));
    reactor.into_service();
    println!("gone");
    drop(hold);
}

/// Another process of the test named `this`, and the lines that it prints.
fn node_process(this: &str) -> (Child, Receiver<String>) {
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(IS_NODE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| tell.send(l)));
    (node, told)
}

/// Sends the node a signal after each of these lines but the last. Returns those that came in time, and how the node
/// ended.
fn signal_after(
    (mut node, told): (Child, Receiver<String>),
    lines: &[&'static str],
) -> (Vec<&'static str>, ExitStatus) {
    let pid = Pid::from_child(&node);
    let until = Instant::now() + DEADLINE;
    let next = || told.recv_timeout(until.saturating_duration_since(Instant::now()));
    let mut came = Vec::new();
    for &line in lines {
        let mut printed = std::iter::from_fn(|| next().ok());
        if !printed.any(|text| text.ends_with(line)) {
            break;
        }
        came.push(line);
        if came.len() < lines.len() {
            kill_process(pid, Signal::TERM).unwrap();
        }
    }
    // What it prints ends with the process; it is killed only when it should have ended by then.
    while next().is_ok() {}
    let _ = node.kill();
    (came, node.wait().unwrap())
}

#[test]
fn a_second_signal_does_not_wait_for_the_worker() {
    if std::env::var_os(IS_NODE).is_some() {
        return be_a_node_whose_worker_is_held(Ticks::from_secs(3600));
    }
    let node = node_process("net::tests::a_second_signal_does_not_wait_for_the_worker");
    let lines = ["at work", "leaving", "gone"];
    let (came, ended) = signal_after(node, &lines);
    assert_eq!(came, lines);
    assert!(ended.success(), "{ended}");
}

/// Also when the loop has ended and only the worker is waited for: the signal then has its usual meaning.
#[test]
fn a_second_signal_ends_a_process_that_waits_for_its_worker() {
    if std::env::var_os(IS_NODE).is_some() {
        return be_a_node_whose_worker_is_held(Ticks(0));
    }
    let node = node_process("net::tests::a_second_signal_ends_a_process_that_waits_for_its_worker");
    let lines = ["at work", "Ok(())", "gone"];
    let (came, ended) = signal_after(node, &lines);
    assert_eq!(came, lines[..2]);
    assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()), "{ended}");
}

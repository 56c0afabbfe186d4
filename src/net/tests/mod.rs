//! The reactor and its worker threads: what fails there, and what comes all at once.

mod ipv6;
mod services;
mod starts;

use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Command, Stdio};
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

    fn on_accept(&mut self, _: &mut Cx<'_, Self>, _: usize) {}

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

/// Says to another process of the next test that it is the node.
const IS_NODE: &str = "PEERLOOP_TEST_IS_NODE";

/// A node whose worker does not come to an end, and which leaves only once it does.
fn be_a_node_whose_worker_is_held() {
    let limits = Limits {
        linger: Ticks::from_secs(3600),
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
    let error = reactor.run().expect_err("a second signal");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    drop(reactor);
    println!("gone");
    drop(hold);
}

#[test]
fn a_second_signal_does_not_wait_for_the_worker() {
    if std::env::var_os(IS_NODE).is_some() {
        return be_a_node_whose_worker_is_held();
    }
    let this = "net::tests::a_second_signal_does_not_wait_for_the_worker";
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(IS_NODE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| tell.send(l)));
    let pid = Pid::from_child(&node);
    let until = Instant::now() + DEADLINE;
    let wait_for = |what: &str| {
        while let Ok(line) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if line.ends_with(what) {
                return true;
            }
        }
        false
    };
    let mut steps = Vec::new();
    for (what, then) in [("at work", true), ("leaving", true), ("gone", false)] {
        steps.push(wait_for(what));
        if then {
            kill_process(pid, Signal::TERM).unwrap();
        }
    }
    // Also when it did not come that far.
    let _ = node.kill();
    node.wait().unwrap();
    assert_eq!(steps, [true; 3], "at work, leaving, gone");
}

//! A plan of faults, spread over time, with clients at work.
//!
//! Every fault has a moment, drawn evenly over the run. One that may not happen at its moment (see [`super::faults`])
//! happens as soon as it may; what never may is given up at the end, and counted. A member that crashes comes back after a
//! while at its address, with its disk or without; or a new one takes its place.

use std::collections::VecDeque;

use rand::RngExt;
use rand::seq::SliceRandom;

use crate::engine::{Tick, Ticks};
use crate::sim::{Faults, Span, Tally};

use super::{Ring, Setup, Stage};

/// Faults that wait are tried again this often; so is the look at what is repaired.
const LOOK: Ticks = Ticks::from_millis(100);

/// The first nodes join this far apart.
const GROWTH: Ticks = Ticks::from_millis(500);

/// A crashed member comes back, or is replaced, after at least this: what a client was told meanwhile can still be compared
/// with what the dead one had.
const BACK_AFTER_MS: u64 = 1_000;

/// And within this.
const BACK_WITHIN_MS: u64 = 60_000;

/// Longest stall.
const STALL_MS_MAX: u64 = 60_000;

/// What happens in a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    pub nodes: usize,
    pub minutes: u64,
    pub joins: usize,
    pub leaves: usize,
    pub crashes: usize,
    pub stalls: usize,
    pub resets: usize,
    pub slow_disks: usize,
    pub operations: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Join,
    Leave,
    Crash,
    Stall,
    Reset,
    SlowDisk,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Join => "joins",
            Fault::Leave => "leaves",
            Fault::Crash => "crashes",
            Fault::Stall => "stalls",
            Fault::Reset => "resets",
            Fault::SlowDisk => "slow disks",
        }
    }
}

/// The end of what a fault began.
#[derive(Debug, Clone, Copy)]
enum Later {
    ComeBack(usize),
    Resume(usize),
    QuickDisk(usize),
    Join,
}

/// A run of a plan.
pub struct Experiment {
    pub ring: Ring,
    plan: Plan,
    begun: Tick,
    /// In order of time.
    agenda: VecDeque<(Tick, Fault)>,
    /// Their moment is over.
    waiting: Vec<Fault>,
    later: Vec<(Tick, Later)>,
    asked: u64,
    given_up: usize,
    /// What the plan did.
    faults: Tally,
    /// Of the time before the plan's clock started.
    messages_before: u64,
}

impl Experiment {
    /// The nodes join; then the clock of the plan starts.
    pub fn new(setup: Setup, plan: Plan) -> Experiment {
        let mut ring = Ring::new(setup);
        for _ in 1..plan.nodes {
            ring.join();
            ring.run_for(GROWTH);
        }
        while ring.size() < plan.nodes && ring.world().now() < Tick(0) + Ticks::from_secs(600) {
            ring.run_for(GROWTH);
        }
        let begun = ring.world().now();
        let mut experiment = Experiment {
            ring,
            plan,
            begun,
            agenda: VecDeque::new(),
            waiting: Vec::new(),
            later: Vec::new(),
            asked: 0,
            given_up: 0,
            faults: Tally::default(),
            messages_before: 0,
        };
        experiment.messages_before = experiment.ring.messages();
        experiment.draw_up();
        experiment
    }

    fn length(&self) -> Ticks {
        Ticks::from_secs(self.plan.minutes * 60)
    }

    fn draw_up(&mut self) {
        let (plan, begun, length) = (self.plan, self.begun, self.length());
        let mut all: Vec<(Tick, Fault)> = Vec::new();
        for (times, fault) in [
            (plan.joins, Fault::Join),
            (plan.leaves, Fault::Leave),
            (plan.crashes, Fault::Crash),
            (plan.stalls, Fault::Stall),
            (plan.resets, Fault::Reset),
            (plan.slow_disks, Fault::SlowDisk),
        ] {
            let rng = self.ring.world().rng();
            let at = (0..times).map(|_| Tick(begun.0 + rng.random_range(0..=length.0)));
            all.extend(at.map(|at| (at, fault)));
        }
        all.shuffle(self.ring.world().rng());
        all.sort_by_key(|(at, _)| *at);
        self.agenda = all.into();
        // A network of a data centre, with some jitter.
        let faults = Faults {
            latency: Span::us(200, 2_000),
            turn_delay: Span::us(1, 50),
            ..Faults::none()
        };
        self.ring.world().set_faults(faults);
    }

    /// Virtual seconds since the clock of the plan started, and of how many.
    pub fn progress(&mut self) -> (u64, u64) {
        let now = self.ring.world().now().since(self.begun);
        (now.as_duration().as_secs(), self.plan.minutes * 60)
    }

    /// Messages that a member received in a minute, on average.
    pub fn messages_per_node_minute(&mut self) -> f64 {
        let minutes = self.progress().0 as f64 / 60.0 * self.ring.size().max(1) as f64;
        (self.ring.messages() - self.messages_before) as f64 / minutes.max(1.0)
    }

    /// Faults that never could happen.
    pub fn given_up(&self) -> usize {
        self.given_up
    }

    /// How often each fault of the plan happened, without what its end brought with it.
    pub fn faults(&self) -> &Tally {
        &self.faults
    }

    pub fn operations(&self) -> u64 {
        self.asked
    }

    /// Runs for at most this long; false when the time of the plan is over.
    pub fn step(&mut self, time: Ticks) -> bool {
        let over = self.begun + self.length();
        let end = (self.ring.world().now() + time).min(over);
        while self.ring.world().now() < end {
            let now = self.ring.world().now();
            self.act(now);
            let next = (now + LOOK).min(end).min(self.next_ask());
            let next = next.max(Tick(now.0 + 1));
            self.ring.run_for(next.since(now));
            self.ring.look_at_leases();
            self.ring.look_at_wounds();
        }
        self.ring.world().now() < over
    }

    fn act(&mut self, now: Tick) {
        while self.agenda.front().is_some_and(|(at, _)| *at <= now) {
            self.waiting
                .extend(self.agenda.pop_front().map(|(_, fault)| fault));
        }
        for (_, later) in self
            .later
            .extract_if(.., |(at, _)| *at <= now)
            .collect::<Vec<_>>()
        {
            self.end(later);
        }
        for fault in std::mem::take(&mut self.waiting) {
            if self.begin(fault) {
                self.faults.count(fault.name());
            } else {
                self.waiting.push(fault);
            }
        }
        while self.asked < self.plan.operations && self.next_ask() <= now {
            self.asked += 1;
            self.ring.ask();
        }
    }

    /// When the next operation is due.
    fn next_ask(&self) -> Tick {
        if self.asked >= self.plan.operations {
            return Tick(u64::MAX);
        }
        let share = self.asked as f64 / self.plan.operations as f64;
        Tick(self.begun.0 + (share * self.length().0 as f64) as u64)
    }

    fn begin(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Join => self.ring.join(),
            Fault::Leave => self.ring.leave(),
            Fault::Reset => self.ring.reset(),
            Fault::Crash if self.ring.setup.replicas == 1 => self.ring.restart(),
            Fault::Crash => {
                let silent = self.ring.world().rng().random_bool(0.3);
                let Some(at) = self.ring.crash(silent) else {
                    return false;
                };
                let comes_back = self.ring.world().rng().random_bool(0.6);
                let what = if comes_back {
                    Later::ComeBack(at)
                } else {
                    Later::Join
                };
                self.later_on(what);
                true
            }
            Fault::Stall => {
                let stall_ms = self.ring.world().rng().random_range(1_000..=STALL_MS_MAX);
                let is_long = Ring::is_long_stall(stall_ms * 1000);
                let Some(at) = self.ring.stall(is_long) else {
                    return false;
                };
                let end = self.ring.world().now() + Ticks::from_millis(stall_ms);
                self.later.push((end, Later::Resume(at)));
                true
            }
            Fault::SlowDisk => {
                let Some(at) = self.ring.slow_disk(Span::ms(50, 2_000)) else {
                    // Nobody has a disk.
                    return self.ring.size() > 0;
                };
                self.later_on(Later::QuickDisk(at));
                true
            }
        }
    }

    fn later_on(&mut self, what: Later) {
        let rng = self.ring.world().rng();
        let ms = rng.random_range(BACK_AFTER_MS..=BACK_WITHIN_MS);
        let at = self.ring.world().now() + Ticks::from_millis(ms);
        self.later.push((at, what));
    }

    fn end(&mut self, later: Later) {
        match later {
            Later::Join => _ = self.ring.join(),
            Later::Resume(at) => self.ring.resume(at),
            Later::QuickDisk(at) => self.ring.quick_disk(at),
            Later::ComeBack(at) => {
                let with_disk = self.ring.world().rng().random_bool(0.7);
                if self.ring.hosts[at].view.stage == Stage::Down && self.ring.size() > 0 {
                    self.ring.come_back(at, with_disk);
                }
            }
        }
    }

    /// No more faults: ends what goes on, and checks what must hold at the end.
    pub fn finish(&mut self) {
        self.given_up += self.agenda.len() + self.waiting.len();
        self.agenda.clear();
        self.waiting.clear();
        for (_, later) in std::mem::take(&mut self.later) {
            self.end(later);
        }
        self.ring.settle();
        self.ring.check_conserved(3, 3);
    }
}

//! One simulated process: a node, its worker, and when it runs. The counterpart of the reactor.

use std::collections::VecDeque;

use crate::engine::{Heard, Node, Readiness, Service, Tick, Ticks, Work};

use super::event::{TICK_US, What};
use super::faults::Span;
use super::link::Owner;
use super::net::Net;
use super::wire::Wire;

/// Events taken at once, as by the reactor.
const EVENTS_PER_TURN: usize = 256;

/// Pause after an accept that failed, as in the reactor.
const ACCEPT_PAUSE: Ticks = Ticks::from_millis(100);

/// Jobs in one group, as by the reactor's worker.
const GROUP_JOBS_MAX: usize = 4096;

/// Turns in a row in which a node had work and nothing came of it: then it spins.
const EMPTY_TURNS_MAX: u32 = 10_000;

type Worker<S> = Box<dyn Work<Job = <S as Service>::Job, Done = <S as Service>::Done>>;

pub(super) struct Host<S: Service> {
    pub(super) node: Node<S>,
    pub(super) listeners: usize,
    pub(super) paused: bool,
    worker: Option<Worker<S>>,
    pub(super) work_delay: Span,
    jobs: VecDeque<S::Job>,
    /// A group is under way.
    working: bool,
    /// Done and not reported.
    results: Vec<S::Done>,
    /// Reported, for the next turns.
    done: VecDeque<S::Done>,
    /// The earliest deadline event that is under way.
    deadline_us: Option<u64>,
    /// When the node wants its next turn if nothing happens.
    wake_us: Option<u64>,
    heard: Heard,
    accepts_from: Option<Tick>,
    /// The service stopped the node; by then it is gone.
    leaves_at: Option<Tick>,
    empty_turns: u32,
    progress: u64,
}

impl<S: Service> Host<S> {
    pub(super) fn new(node: Node<S>) -> Host<S> {
        Host {
            node,
            listeners: 1,
            paused: false,
            worker: None,
            work_delay: Span::us(0, 0),
            jobs: VecDeque::new(),
            working: false,
            results: Vec::new(),
            done: VecDeque::new(),
            deadline_us: None,
            wake_us: None,
            heard: Heard::default(),
            accepts_from: None,
            leaves_at: None,
            empty_turns: 0,
            progress: 0,
        }
    }

    pub(super) fn set_worker(&mut self, worker: Worker<S>, delay: Span) {
        self.worker = Some(worker);
        self.work_delay = delay;
    }

    /// All that was only in memory is lost.
    pub(super) fn crash(&mut self) {
        self.jobs.clear();
        self.results.clear();
        self.done.clear();
        self.working = false;
        (self.deadline_us, self.wake_us) = (None, None);
        (self.accepts_from, self.leaves_at) = (None, None);
        self.heard = Heard::default();
        self.paused = false;
        self.empty_turns = 0;
    }

    pub(super) fn restart(&mut self, node: Node<S>) -> Node<S> {
        self.crash();
        std::mem::replace(&mut self.node, node)
    }

    /// One turn, as the reactor takes it.
    pub(super) fn turn(&mut self, net: &mut Net, host: usize, seed: u64) {
        if self.paused {
            return;
        }
        let now = Tick(net.now_us / TICK_US);
        self.node.begin(now);
        let events = self.take_edges(net, host);
        let (more, sources) = (
            !net.doors[host].edges.is_empty(),
            net.doors[host].slots.len(),
        );
        let heard = self.heard.polled(now, events, more, sources);
        self.node.heard(heard);
        let share = self.node.limits().jobs_done_per_turn.min(self.done.len());
        for done in self.done.drain(..share) {
            self.node.job_done(done);
        }
        self.accept(net, host, now);
        self.node.turn(&mut Wire { net, host });
        self.hand_out_jobs(net, host);
        self.watch_for_spinning(seed);
        if self.node.stopping() && self.leaves(now) {
            net.leave(host);
            return;
        }
        self.plan(net, host);
    }

    /// Returns how many.
    fn take_edges(&mut self, net: &mut Net, host: usize) -> usize {
        if net.chance(net.faults.spurious) {
            self.make_up_an_edge(net, host);
        }
        for taken in 0..EVENTS_PER_TURN {
            let Some((id, end)) = net.doors[host].edges.pop_front() else {
                return taken;
            };
            let Some(end) = end else {
                let all = Readiness {
                    readable: true,
                    writable: true,
                    hung_up: true,
                };
                self.node.ready(id, all);
                continue;
            };
            let Some(link) = net.link(end) else { continue };
            if link.owners[end.side()] == Owner::Conn(host, id) {
                link.edge[end.side()] = false;
                self.node.ready(id, link.readiness(end.side()));
            }
        }
        EVENTS_PER_TURN
    }

    fn make_up_an_edge(&mut self, net: &mut Net, host: usize) {
        let slots = net.doors[host].slots.len();
        if slots == 0 {
            return;
        }
        let slot = rand::RngExt::random_range(&mut net.rng, 0..slots);
        if let Some((id, _)) = net.doors[host].slots[slot] {
            let both = Readiness {
                readable: true,
                writable: true,
                hung_up: false,
            };
            self.node.ready(id, both);
        }
    }

    fn accept(&mut self, net: &mut Net, host: usize, now: Tick) {
        if self.accepts_from.is_some_and(|from| from <= now) {
            self.accepts_from = None;
        }
        for _ in 0..self.node.limits().accepts_per_turn {
            if !self.can_accept(net, host) {
                return;
            }
            if net.chance(net.faults.accept_failure) {
                self.node.count_accept_pause();
                self.accepts_from = Some(now + ACCEPT_PAUSE);
                return;
            }
            let Some((number, end)) = net.doors[host].backlog.pop_front() else {
                return;
            };
            let aborted = net.chance(net.faults.accept_abort);
            let Some(link) = net.link(end) else { continue };
            if aborted {
                link.owners[end.side()] = Owner::Closed;
                net.send_reset(end);
                net.collect(end);
                continue;
            }
            let id = self.node.accepted(link.addrs[0], number);
            link.owners[end.side()] = Owner::Conn(host, id);
            Wire { net, host }.insert(id, end);
            // The poll reports a new registration if anything can be done with it.
            net.edge(end);
        }
    }

    fn can_accept(&self, net: &Net, host: usize) -> bool {
        let waits = !net.doors[host].backlog.is_empty();
        let open = self.accepts_from.is_none() && self.leaves_at.is_none();
        waits && open && self.node.has_room()
    }

    /// Whether a node that was stopped is gone now.
    fn leaves(&mut self, now: Tick) -> bool {
        let at = *self
            .leaves_at
            .get_or_insert(now + self.node.limits().linger);
        self.node.drained() || at <= now
    }

    /// Sees to the next turn.
    fn plan(&mut self, net: &mut Net, host: usize) {
        let done = !self.done.is_empty();
        let more = !net.doors[host].edges.is_empty() || self.can_accept(net, host);
        if more || done || self.node.has_work() {
            net.wake(host);
            return;
        }
        let resumes = self
            .accepts_from
            .filter(|_| !net.doors[host].backlog.is_empty());
        let at = [self.node.next_deadline(), resumes, self.leaves_at]
            .into_iter()
            .flatten()
            .min();
        self.wake_us = at.map(|at| at.0.saturating_mul(TICK_US));
        self.schedule_deadline(net, host);
    }

    /// One event under way is enough as long as it is early enough: deadlines mostly move later.
    fn schedule_deadline(&mut self, net: &mut Net, host: usize) {
        let Some(at) = self.wake_us else { return };
        if self.deadline_us.is_none_or(|under_way| at < under_way) {
            self.deadline_us = Some(at);
            net.schedule(at, What::Deadline(host, net.doors[host].epoch));
        }
    }

    pub(super) fn deadline(&mut self, net: &mut Net, host: usize, at_us: u64) {
        if self.deadline_us != Some(at_us) {
            return;
        }
        self.deadline_us = None;
        if self.wake_us.is_some_and(|at| at <= at_us) {
            net.wake(host);
        } else {
            self.schedule_deadline(net, host);
        }
    }

    fn hand_out_jobs(&mut self, net: &mut Net, host: usize) {
        self.jobs.extend(self.node.take_jobs());
        if !self.jobs.is_empty() {
            assert!(
                self.worker.is_some(),
                "the service has jobs and the node no worker"
            );
            self.start_group(net, host);
        }
    }

    fn start_group(&mut self, net: &mut Net, host: usize) {
        if !self.working && !self.jobs.is_empty() {
            self.working = true;
            let at = net.now_us + self.work_delay.draw(&mut net.rng);
            net.schedule(at, What::Work(host, net.doors[host].epoch));
        }
    }

    /// The worker does a group: everything that came in by now.
    pub(super) fn work(&mut self, net: &mut Net, host: usize) {
        let count = self.jobs.len().min(GROUP_JOBS_MAX);
        let mut group: Vec<S::Job> = self.jobs.drain(..count).collect();
        if let Some(worker) = &mut self.worker {
            worker.run(&mut group, &mut self.results);
        }
        assert!(
            group.is_empty() && self.results.len() == count,
            "one result for every job"
        );
        let at = net.now_us + self.work_delay.draw(&mut net.rng);
        net.schedule(at, What::Done(host, net.doors[host].epoch));
    }

    /// The node hears of a group; the next one begins.
    pub(super) fn report(&mut self, net: &mut Net, host: usize) {
        self.done.extend(self.results.drain(..));
        self.working = false;
        self.start_group(net, host);
        net.wake(host);
    }

    /// A node that always has work and never does any would run for ever at full load.
    fn watch_for_spinning(&mut self, seed: u64) {
        let s = self.node.stats();
        let ends = s.ended_eof + s.ended_closed + s.ended_broken + s.ended_unreachable;
        let progress = s.bytes_in + s.bytes_out + s.messages + s.timers_fired + s.accepted + ends;
        if !self.node.has_work() || progress != self.progress {
            (self.empty_turns, self.progress) = (0, progress);
            return;
        }
        self.empty_turns += 1;
        assert!(
            self.empty_turns < EMPTY_TURNS_MAX,
            "a node spins: work in every turn, and nothing done; replay with PEERLOOP_SEED={seed}"
        );
    }
}

//! What can happen to the nodes of a ring: they join, leave, die, come back, stall, and lose their connections.
//!
//! The observer says what may happen without breaking a promise: at most R - 1 members are dead, or stalled so long that
//! the others take them for dead, before the ring has repaired itself; and R + 1 members stay. What may not happen now
//! returns false, and nothing happened.

use rand::RngExt;

use crate::engine::Ticks;
use crate::proto::dht::node::DhtNode;
use crate::proto::dht::rpc::operation::Verb;
use crate::proto::dht::storage::entries::Entries;
use crate::sim::Span;

use super::checks;
use super::observe::{self, Stage, View};
use super::timeline::Mark;
use super::{Ring, SUSPECT_US, disk};

/// A restart waits for the ring to be at rest; it looks so often, 100 ms apart.
const REST_LOOKS_MAX: usize = 100;

/// A member that is dead, or was, and the ring has not repaired itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wound {
    pub(super) host: usize,
    since_us: u64,
    /// It was stalled, not killed.
    is_stall: bool,
}

impl Ring {
    /// A new node begins to join through some members.
    pub fn join(&mut self) -> bool {
        if self.members().is_empty() {
            return false;
        }
        let at = self.add();
        self.begin_join(at);
        self.tally.count("joins");
        true
    }

    fn begin_join(&mut self, at: usize) {
        let others = self.members();
        let others: Vec<usize> = others.into_iter().filter(|other| *other != at).collect();
        let contacts = [(); 3].map(|()| self.pick(&others));
        let contacts = contacts.map(|at| self.hosts[at].addr).to_vec();
        let id = self.hosts[at].id;
        self.world.with(id, |node, hub| node.join(hub, contacts));
        self.trace(format_args!("{} joins", self.hosts[at].addr));
        self.look(at);
    }

    /// A member is asked to leave.
    pub fn leave(&mut self) -> bool {
        let members = self.members();
        // A member that leaves serves no CONNECT, so a node that comes back would have to wait for it.
        let waits =
            |at: usize| self.hosts[at].is_back && self.hosts[at].view.stage != Stage::Member;
        let is_awaited = self.setup.replicas == 1 && self.up().any(waits);
        let at = match self.removable(&members) {
            Some(at) if !is_awaited => at,
            _ => return false,
        };
        self.shut_down(at);
        self.tally.count("leaves");
        true
    }

    /// A member without which there are enough.
    fn removable(&mut self, members: &[usize]) -> Option<usize> {
        if self.setup.replicas == 1 {
            // A leaver without an heir ends with its entries, so one member always stays.
            return (members.len() >= 2).then(|| self.pick(members));
        }
        // A leaver beside silent neighbours ends with its range after a while: one dead member more.
        if self.wounds.len() + 1 >= self.setup.replicas {
            return None;
        }
        let least = self.setup.replicas + 1;
        let principals = checks::principals(&self.views(), &self.views());
        let is_principal = |at: usize| principals.contains(&self.hosts[at].view.me);
        let may_go = |at: &usize| {
            let rest = principals.len() - usize::from(is_principal(*at));
            !self.hosts[*at].is_stalled && rest >= least && members.len() > least
        };
        let may_go: Vec<usize> = members.iter().copied().filter(may_go).collect();
        (!may_go.is_empty()).then(|| self.pick(&may_go))
    }

    fn shut_down(&mut self, at: usize) {
        let id = self.hosts[at].id;
        self.world.shutdown(id);
        self.timeline.mark(at, self.world.now_us(), Mark::Shutdown);
        self.trace(format_args!("{} is asked to leave", self.hosts[at].addr));
        self.look(at);
    }

    /// A joiner is asked to leave before it knows that it has joined.
    pub fn turn_joiner_away(&mut self) -> bool {
        let joins = |at: &usize| {
            let host = &self.hosts[*at];
            matches!(host.view.stage, Stage::Joining | Stage::Listed) && !host.is_back
        };
        let joiners: Vec<usize> = self.up().filter(joins).collect();
        // When it has, it leaves with all that goes with it; a member stays.
        if joiners.is_empty() || self.members().is_empty() {
            return false;
        }
        let at = self.pick(&joiners);
        self.shut_down(at);
        true
    }

    /// A joiner dies before it is a member.
    pub fn kill_joiner(&mut self) -> bool {
        let joins = |at: &usize| {
            let host = &self.hosts[*at];
            host.view.stage == Stage::Joining && !host.is_back
        };
        let joiners: Vec<usize> = self.up().filter(joins).collect();
        if joiners.is_empty() {
            return false;
        }
        let at = self.pick(&joiners);
        let (id, silent) = (self.hosts[at].id, self.draw_silence());
        self.world.kill_with(id, silent);
        self.died(at, silent);
        self.tally.count("kills");
        true
    }

    /// Whether a node that dies now falls silent.
    fn draw_silence(&mut self) -> bool {
        let silent = self.world.faults().silent_kill;
        self.world.rng().random_bool(silent)
    }

    fn died(&mut self, at: usize, silent: bool) {
        let now_us = self.world.now_us();
        self.hosts[at].died_us = now_us;
        let mark = if silent {
            Mark::SilentCrash
        } else {
            Mark::Crash
        };
        self.timeline.mark(at, now_us, mark);
        self.trace(format_args!("{} dies, {mark:?}", self.hosts[at].addr));
        self.look(at);
    }

    /// A durable member dies and comes back at once at its address, with what it had on its disk. One at a time, and one
    /// at rest whose members have the right prev: what was removed while a part of the ring moved may come back with it,
    /// and the node after the dead one is found by asking each for its prev. What a ring without copies can bear.
    pub fn restart(&mut self) -> bool {
        for _ in 0..REST_LOOKS_MAX {
            if self.is_at_rest() {
                break;
            }
            self.run_for(Ticks::from_millis(100));
        }
        if !self.is_at_rest() {
            return false;
        }
        let members = self.members();
        let at = self.pick(&members);
        let silent = self.draw_silence();
        self.kill(at, silent);
        self.come_back(at, true);
        self.tally.count("restarts");
        true
    }

    fn kill(&mut self, at: usize, silent: bool) {
        let id = self.hosts[at].id;
        self.world.kill_with(id, silent);
        self.wounds.push(Wound {
            host: at,
            since_us: self.world.now_us(),
            is_stall: false,
        });
        self.died(at, silent);
    }

    /// A dead node comes back at its address, with what is on its disk or without.
    pub fn come_back(&mut self, at: usize, with_disk: bool) {
        let (id, addr) = (self.hosts[at].id, self.hosts[at].addr);
        let disk = self.hosts[at].disk.clone();
        if let Some(disk) = disk.as_ref().filter(|_| !with_disk) {
            disk::lock(disk).clear();
        }
        let entries = disk.map_or_else(Entries::default, |disk| {
            disk::load(&disk, self.setup.replicas > 1)
        });
        let node = DhtNode::new(self.config(addr), entries);
        self.hosts[at].messages += self.world.node(id).stats().messages;
        self.world.restart(id, node);
        self.hosts[at].is_back = true;
        self.timeline.mark(at, self.world.now_us(), Mark::Return);
        self.trace(format_args!(
            "{addr} comes back, with its disk: {with_disk}"
        ));
        self.begin_join(at);
    }

    /// A member dies: the process, or (`silent`) the machine. Which one.
    pub fn crash(&mut self, silent: bool) -> Option<usize> {
        let at = self.victim()?;
        self.kill(at, silent);
        self.tally.count("crashes");
        Some(at)
    }

    /// A member that the ring can do without now.
    fn victim(&mut self) -> Option<usize> {
        if self.wounds.len() + 1 >= self.setup.replicas {
            return None;
        }
        let views = self.views();
        let is_last = |at: &usize| checks::is_last_successor(&views, self.hosts[*at].view.me);
        let members = self.members().into_iter();
        let members: Vec<usize> = members.filter(|at| !is_last(at)).collect();
        self.removable(&members)
    }

    /// A node does nothing for a while; its clock goes on. Which one.
    pub fn stall(&mut self, long: bool) -> Option<usize> {
        let at = if long && self.setup.replicas > 1 {
            self.victim()?
        } else {
            let members = self.members();
            if members.is_empty() {
                return None;
            }
            self.pick(&members)
        };
        if self.hosts[at].is_stalled {
            return None;
        }
        self.wounds
            .extend((long && self.setup.replicas > 1).then(|| Wound {
                host: at,
                since_us: self.world.now_us(),
                is_stall: true,
            }));
        let id = self.hosts[at].id;
        self.world.pause(id, true);
        self.timeline.mark(at, self.world.now_us(), Mark::Stall);
        self.trace(format_args!("{} stalls", self.hosts[at].addr));
        self.look(at);
        self.tally.count("stalls");
        Some(at)
    }

    pub fn resume(&mut self, at: usize) {
        let id = self.hosts[at].id;
        if self.world.is_paused(id) {
            self.world.pause(id, false);
            self.timeline.mark(at, self.world.now_us(), Mark::Resume);
            self.trace(format_args!("{} goes on", self.hosts[at].addr));
        }
    }

    /// Every connection of a node is reset.
    pub fn reset(&mut self) -> bool {
        let members = self.members();
        if members.is_empty() {
            return false;
        }
        let at = self.pick(&members);
        self.world.reset_connections(self.hosts[at].id);
        self.timeline.mark(at, self.world.now_us(), Mark::Reset);
        self.trace(format_args!(
            "{}: all connections are reset",
            self.hosts[at].addr
        ));
        self.tally.count("resets");
        true
    }

    /// A disk takes this long from now on. Which one.
    pub fn slow_disk(&mut self, delay: Span) -> Option<usize> {
        let members = self.members();
        let durable = |at: &usize| self.hosts[*at].disk.is_some();
        let members: Vec<usize> = members.into_iter().filter(durable).collect();
        if members.is_empty() {
            return None;
        }
        let at = self.pick(&members);
        self.world.set_work_delay(self.hosts[at].id, delay);
        self.timeline.mark(at, self.world.now_us(), Mark::SlowDisk);
        self.tally.count("slow disks");
        Some(at)
    }

    pub fn quick_disk(&mut self, at: usize) {
        let delay = self.setup.disk;
        self.world.set_work_delay(self.hosts[at].id, delay);
    }

    /// At least two nodes, all members, of which each has all its writes on the disk and the right prev.
    fn is_at_rest(&self) -> bool {
        let views = self.views();
        let at_rest = |at: usize| {
            let node = self.node(at);
            observe::is_at_rest(node)
                && node.routing().prev().is_some_and(|prev| {
                    let before = views.iter().find(|view| view.me == prev);
                    before.is_some_and(|before| before.next == node.me())
                })
        };
        views.len() >= 2 && self.up().all(at_rest)
    }

    /// The dead were replaced: the ring is closed, and everything has its copies.
    fn is_repaired(&self) -> bool {
        let members: Vec<&View> = self.views();
        let listed = |view: &&View| view.is_member();
        let members: Vec<&View> = members.into_iter().filter(listed).collect();
        let serving = self.serving();
        if checks::ideal(&members).is_err() || serving.len() < members.len() {
            return false;
        }
        let stalls = |wound: &Wound| wound.is_stall && self.hosts[wound.host].is_stalled;
        !self.wounds.iter().any(stalls) && self.are_copied(&serving)
    }

    /// Every value is at its owner and at the R - 1 members before it.
    fn are_copied(&self, serving: &[(usize, &View)]) -> bool {
        let copies = serving.len().min(self.setup.replicas);
        self.clients.keys.iter().all(|key| {
            let value = key.register.settled().filter(|value| value.is_some());
            let owner = serving.iter().position(|(_, view)| view.owns(key.id));
            let (Some(value), Some(owner)) = (value, owner) else {
                return true;
            };
            (0..copies).all(|back| {
                let (at, _) = serving[(owner + serving.len() - back) % serving.len()];
                observe::has(self.node(at), key.id, value.as_ref())
            })
        })
    }

    /// Looks whether the ring has repaired itself.
    pub(super) fn look_at_wounds(&mut self) {
        if self.wounds.is_empty() || !self.is_repaired() {
            return;
        }
        let now_us = self.world.now_us();
        for wound in std::mem::take(&mut self.wounds) {
            if !wound.is_stall {
                self.repairs_us.push(now_us - wound.since_us);
            }
        }
        self.trace(format_args!("repaired"));
    }

    /// Stalls that end later than this are long: others may take the node for dead.
    pub(super) fn is_long_stall(stall_us: u64) -> bool {
        stall_us > SUSPECT_US
    }

    /// Asks for a value without a free client: for the end of a run.
    pub(super) fn read(&mut self, key: usize) {
        self.ask_for(key, Verb::Get);
    }
}

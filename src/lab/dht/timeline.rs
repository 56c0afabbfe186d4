//! The ring over time: what each node was, and who answered for the range that begins at it.
//!
//! A *lane* is a node's position on the ring. Its range is its own while it serves; later it is part of the range of the
//! node before. A lane that nobody answers for is a *gap in service*.

use std::net::SocketAddrV4;

use crate::proto::dht::id::Id;

use super::observe::{Stage, View};

/// What a node was from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub since_us: u64,
    pub stage: Stage,
    pub serves: bool,
    pub stalled: bool,
}

/// Something that was done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Killed: its connections are reset.
    Crash,
    /// Its machine died: nothing answers.
    SilentCrash,
    Return,
    Stall,
    Resume,
    Reset,
    SlowDisk,
    Shutdown,
}

/// A position on the ring.
#[derive(Debug, Clone)]
pub struct Lane {
    pub addr: SocketAddrV4,
    pub id: Id,
    pub states: Vec<State>,
    pub marks: Vec<(u64, Mark)>,
    /// The lane of the node that answers for the range that begins here, from a moment on; `None`: nobody. Empty before the
    /// node served for the first time.
    pub owners: Vec<(u64, Option<usize>)>,
}

impl Lane {
    /// What the node is now.
    fn state(&self) -> Option<&State> {
        self.states.last()
    }
}

/// Lanes in the order in which their nodes were started.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    pub lanes: Vec<Lane>,
    pub end_us: u64,
    /// Lengths of the gaps that are over.
    gaps_us: Vec<u64>,
}

impl Timeline {
    pub(super) fn add(&mut self, addr: SocketAddrV4, id: Id) {
        self.lanes.push(Lane {
            addr,
            id,
            states: Vec::new(),
            marks: Vec::new(),
            owners: Vec::new(),
        });
    }

    pub(super) fn mark(&mut self, lane: usize, now_us: u64, mark: Mark) {
        self.lanes[lane].marks.push((now_us, mark));
    }

    /// What the node of a lane is now.
    pub(super) fn note(&mut self, lane: usize, now_us: u64, view: &View, stalled: bool) {
        let state = State {
            since_us: now_us,
            stage: view.stage,
            serves: view.serves,
            stalled,
        };
        let lane = &mut self.lanes[lane];
        let same = |before: &State| {
            State {
                since_us: before.since_us,
                ..state
            } == *before
        };
        if !lane.state().is_some_and(same) {
            lane.states.push(state);
        }
    }

    /// Who answers for each lane now. `serving` has lanes with their views, in the order of ids.
    pub(super) fn note_owners(&mut self, now_us: u64, serving: &[(usize, &View)]) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let before = serving.partition_point(|(_, view)| view.me.id <= lane.id);
            let before = before.checked_sub(1).or(serving.len().checked_sub(1));
            let owner = before.map(|i| serving[i]);
            let owner = owner
                .filter(|(_, view)| view.owns(lane.id))
                .map(|(lane, _)| lane);
            if lane.owners.is_empty() && owner != Some(at) {
                continue;
            }
            match lane.owners.last() {
                Some((_, same)) if *same == owner => {}
                Some((since_us, None)) => {
                    self.gaps_us.push(now_us - since_us);
                    lane.owners.push((now_us, owner));
                }
                _ => lane.owners.push((now_us, owner)),
            }
        }
    }

    /// Lanes that nobody has answered for since longer than this.
    pub(super) fn unserved(&self, now_us: u64, for_us: u64) -> impl Iterator<Item = usize> + '_ {
        let lanes = self.lanes.iter().enumerate();
        let is_long = move |lane: &Lane| match lane.owners.last() {
            Some((since_us, None)) => now_us - since_us > for_us,
            _ => false,
        };
        lanes
            .filter(move |(_, lane)| is_long(lane))
            .map(|(at, _)| at)
    }

    /// Lengths of the gaps in service of each position, and how many go on.
    pub fn gaps(&self) -> (&[u64], usize) {
        let open = self.lanes.iter();
        let open = open.filter(|lane| matches!(lane.owners.last(), Some((_, None))));
        (&self.gaps_us, open.count())
    }
}

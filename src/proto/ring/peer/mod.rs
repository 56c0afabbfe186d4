//! Peers: each registers, serves what it has, and asks its neighbour for what it misses until it has everything.
//!
//! A service holds any number of them, by the number of their listener; one is the usual case, thousands are a stress run.
//! The parts of a peer: what it serves is here, how it stands with the tracker in `standing.rs`, what it asks of its
//! neighbour in `asking.rs`, in which order in `search.rs`, what it has in `items.rs`.
//!
//! A QUERY for what is not there yet may be held: who comes back to an item on the same connection is told when it comes,
//! at the latest after 2 s, and who is being served goes on being told that way. So an item goes round a ring of
//! our peers as fast as the network does, where each would find it at its next try otherwise, and nobody is asked more
//! often than every 2 s for what does not come. The first question on a connection, and who looks around upwards from
//! an item that he was told is missing, are answered at once; so is everybody who has a connection for each question.
//!
//! Not here: files, terminals, the end of the process.

mod asking;
mod standing;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::engine::{ConnId, Cx, End, Hub, Input, Limits, Step, Tick, Ticks, TimerId, Violation};

use super::items::Items;
use super::node::{RingNode, Timer};
use super::search::Search;
use super::wire::{Encoding, Reader, Reply, Request};

use asking::Link;
use standing::Standing;

/// How long an answer may wait for its item. As long as the longest pause between two questions, so that who asks
/// again after it asks all the time; and well below the 5 s after which anybody gives up on anybody here.
pub(super) const HOLD: Ticks = Ticks::from_secs(2);

/// Questions that wait at one peer. One is the rule: its successor's.
const HELD_MAX: usize = 64;

/// Who a peer is.
#[derive(Debug, Clone)]
pub struct Config {
    pub handle: Arc<str>,
    /// Where it listens; the tracker is told the port.
    pub addr: SocketAddrV4,
    pub tracker: SocketAddrV4,
    /// The local address of its own connections, where it matters: the tracker takes it for the peer's.
    pub dial_from: Option<SocketAddrV4>,
}

/// The service.
#[derive(Default)]
pub struct Peers {
    peers: Vec<Peer>,
    /// Connections accepted so far.
    accepted: u64,
}

/// One peer.
pub struct Peer {
    config: Config,
    /// Its place among the peers of the service.
    index: u32,
    alive: bool,
    items: Items,
    held: VecDeque<Held>,
    held_timer: Option<TimerId>,
    // With the tracker: standing.rs.
    standing: Standing,
    tracker_timer: Option<TimerId>,
    /// Registrations in a row that failed.
    failures: u32,
    has_registered: bool,
    /// Since when the handle is somebody else's.
    refused_since: Option<Tick>,
    /// The last sign of life of the tracker, and the last PING.
    heard: Tick,
    pinged: Option<Tick>,
    /// About how long the tracker takes from one PING to the next.
    ping_gap: Ticks,
    // With the neighbour: asking.rs.
    neighbour: Option<Known>,
    /// How many connections were accepted before the one that told of it; when that was the answer to a REGISTER,
    /// before this was sent. The tracker sends one at a time, so an UPDATE_NBR on an older connection is an older one
    /// that was late.
    told_at: u64,
    /// The same of a REGISTER that is under way.
    registering_at: u64,
    link: Link,
    /// The neighbour closes after each answer.
    single: bool,
    /// The item that is asked for.
    asked: Option<u32>,
    ask_timer: Option<TimerId>,
    search: Search,
    queries: u64,
}

/// The neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub handle: Box<str>,
    pub addr: SocketAddrV4,
}

/// A QUERY that is answered when its item comes.
#[derive(Debug)]
struct Held {
    conn: ConnId,
    encoding: Encoding,
    seq: u32,
    until: Tick,
}

/// Somebody who came to a peer.
#[derive(Debug)]
pub struct Asker {
    reader: Reader,
    peer: u32,
    /// How many connections were accepted before it.
    order: u64,
    /// The last item that was asked for, and when.
    last: Option<(u32, Tick)>,
    /// It is told when an item comes.
    waits: bool,
}

/// A connection of a peer to somebody else.
#[derive(Debug)]
pub struct Out {
    reader: Reader,
    peer: u32,
    to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Tracker,
    Neighbour,
}

impl Peers {
    pub fn new() -> Peers {
        Peers::default()
    }

    /// What peers need of the engine.
    pub fn fit(limits: Limits) -> Limits {
        Limits {
            dials_max: limits.dials_max.max(limits.conns_max / 2),
            ..limits
        }
    }

    /// One more peer, which registers at once. Its listener has its number.
    pub fn add(&mut self, hub: &mut Hub<RingNode>, config: Config) -> usize {
        let index = self.peers.len();
        let mut peer = Peer::new(config, index as u32);
        peer.register(hub);
        self.peers.push(peer);
        index
    }

    pub fn all(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer dies, as far as others can tell: whoever comes is hung up on.
    pub fn kill(&mut self, hub: &mut Hub<RingNode>, index: usize) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.die(hub);
        }
    }

    fn peer(&mut self, index: u32) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(index as usize);
        peer.filter(|peer| peer.alive)
    }

    pub(super) fn accept(&mut self, cx: &mut Cx<'_, RingNode>, listener: usize) -> Asker {
        let peer = listener as u32;
        if self.peer(peer).is_none() {
            cx.close();
        }
        self.accepted += 1;
        Asker {
            reader: Reader::default(),
            peer,
            order: self.accepted,
            last: None,
            waits: false,
        }
    }

    pub(super) fn serve(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        asker: &mut Asker,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let peer = self.peer(asker.peer).ok_or(Violation::us("it is dead"))?;
        let Some(packet) = asker.reader.read(input)? else {
            return Ok(Step::More);
        };
        let (used, encoding) = (packet.used, packet.encoding);
        match packet.request()? {
            Request::Echo { .. } => {
                let handle = (&*peer.config.handle).into();
                Request::Echo { handle }.put(encoding, cx.out());
            }
            Request::Ping { .. } => {
                let handle = (&*peer.config.handle).into();
                Reply::Ping { handle }.put(encoding, cx.out());
                peer.heard_ping(cx);
            }
            Request::UpdateNbr(neighbour) => {
                if cx.peer_v4().ip() != peer.config.tracker.ip() {
                    log::warn!("{} is not the tracker: UPDATE_NBR refused", cx.peer());
                    return Err(Violation::peer("UPDATE_NBR from a stranger"));
                }
                peer.heard = cx.now();
                if asker.order > peer.told_at {
                    peer.told_at = asker.order;
                    peer.set_neighbour(cx, &neighbour);
                }
                // There is no answer: that we close tells the tracker that it was taken.
                cx.close();
            }
            Request::Query { seq } => return peer.query(cx, asker, seq, encoding, used),
            Request::Register { .. } | Request::Peers { .. } => {
                return Err(Violation::peer("a request that is for trackers"));
            }
        }
        Ok(Step::Done(used))
    }

    pub(super) fn left(&mut self, id: ConnId, asker: &Asker) {
        if let Some(peer) = self.peer(asker.peer) {
            peer.held.retain(|held| held.conn != id);
        }
    }

    pub(super) fn reached(&mut self, cx: &mut Cx<'_, RingNode>, out: &Out) {
        let accepted = self.accepted;
        match (self.peer(out.peer), out.to) {
            (None, _) => cx.close(),
            (Some(peer), To::Tracker) => peer.tracker_reached(cx, accepted),
            (Some(peer), To::Neighbour) => peer.neighbour_reached(cx),
        }
    }

    pub(super) fn answered(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        out: &mut Out,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let peer = self.peer(out.peer).ok_or(Violation::us("it is dead"))?;
        let Some(packet) = out.reader.read(input)? else {
            return Ok(Step::More);
        };
        let used = packet.used;
        let reply = packet.reply()?;
        match out.to {
            To::Tracker => peer.tracker_answered(cx, reply)?,
            To::Neighbour => peer.neighbour_answered(cx, reply)?,
        }
        Ok(Step::Done(used))
    }

    pub(super) fn ended(&mut self, hub: &mut Hub<RingNode>, id: ConnId, out: &Out, end: End) {
        match (self.peer(out.peer), out.to) {
            (None, _) => {}
            (Some(peer), To::Tracker) => peer.tracker_ended(hub, id, end),
            (Some(peer), To::Neighbour) => peer.neighbour_ended(hub, id),
        }
    }

    pub(super) fn fired(&mut self, hub: &mut Hub<RingNode>, timer: Timer) {
        let (Timer::Tracker(index) | Timer::Ask(index) | Timer::Held(index)) = timer else {
            return;
        };
        let Some(peer) = self.peer(index) else {
            return;
        };
        match timer {
            Timer::Tracker(_) => peer.tracker_fired(hub),
            Timer::Ask(_) => peer.ask_fired(hub),
            _ => peer.held_fired(hub),
        }
    }
}

impl Peer {
    fn new(config: Config, index: u32) -> Peer {
        Peer {
            config,
            index,
            alive: true,
            items: Items::default(),
            held: VecDeque::new(),
            held_timer: None,
            standing: Standing::Out,
            tracker_timer: None,
            failures: 0,
            has_registered: false,
            refused_since: None,
            heard: Tick(0),
            pinged: None,
            ping_gap: standing::PING_GAP,
            neighbour: None,
            told_at: 0,
            registering_at: 0,
            link: Link::None,
            single: false,
            asked: None,
            ask_timer: None,
            search: Search::default(),
            queries: 0,
        }
    }

    pub fn handle(&self) -> &str {
        &self.config.handle
    }

    pub fn addr(&self) -> SocketAddrV4 {
        self.config.addr
    }

    pub fn items(&self) -> &Items {
        &self.items
    }

    pub fn is_alive(&self) -> bool {
        self.alive
    }

    pub fn neighbour(&self) -> Option<&Known> {
        self.neighbour.as_ref()
    }

    /// It was registered when it last heard of the tracker.
    pub fn is_registered(&self) -> bool {
        matches!(self.standing, Standing::In)
    }

    /// The handle is somebody else's, and stayed so.
    pub fn is_declined(&self) -> bool {
        matches!(self.standing, Standing::Declined)
    }

    /// QUERYs sent.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    fn die(&mut self, hub: &mut Hub<RingNode>) {
        self.alive = false;
        let registering = match self.standing {
            Standing::Registering(conn) => Some(conn),
            _ => None,
        };
        let held = self.held.drain(..).map(|held| held.conn);
        for conn in held.chain(registering).chain(self.link.conn()) {
            hub.resume(conn);
            hub.close_conn(conn);
        }
    }

    fn query(
        &mut self,
        cx: &mut Cx<'_, RingNode>,
        asker: &mut Asker,
        seq: u32,
        encoding: Encoding,
        used: usize,
    ) -> Result<Step, Violation> {
        if self.items.is_beyond(seq) {
            return Err(Violation::peer("no item has this number"));
        }
        let now = cx.now();
        asker.turn(seq, now);
        if let Some(data) = self.items.get(seq) {
            found(seq, data).put(encoding, cx.out());
            return Ok(Step::Done(used));
        }
        asker.waits &= self.held.len() < HELD_MAX;
        if !asker.waits {
            Reply::QueryResult(None).put(encoding, cx.out());
            return Ok(Step::Done(used));
        }
        self.held.push_back(Held {
            conn: cx.id(),
            encoding,
            seq,
            until: now + HOLD,
        });
        self.arm_held(cx);
        Ok(Step::Wait(used))
    }

    /// An item came: whoever waits for it is told.
    fn tell_held(&mut self, hub: &mut Hub<RingNode>, seq: u32) {
        let Some(data) = self.items.get(seq) else {
            return;
        };
        self.held.retain(|held| {
            let waits = held.seq != seq;
            if !waits {
                tell(hub, held, &found(seq, data));
            }
            waits
        });
    }

    fn held_fired(&mut self, hub: &mut Hub<RingNode>) {
        self.held_timer = None;
        // All are held for the same time, so they are in the order of their ends.
        let ended = self.held.iter().take_while(|held| held.until <= hub.now());
        let ended = ended.count();
        for held in self.held.drain(..ended) {
            tell(hub, &held, &Reply::QueryResult(None));
        }
        self.arm_held(hub);
    }

    /// For the one that waits longest. Whoever is told earlier leaves a timer that finds nothing to do.
    fn arm_held(&mut self, hub: &mut Hub<RingNode>) {
        if let (None, Some(first)) = (self.held_timer, self.held.front()) {
            let after = first.until.since(hub.now());
            self.held_timer = hub.arm(after, Timer::Held(self.index));
        }
    }
}

impl Asker {
    /// Notes a question, and whether the asker waits for the item.
    fn turn(&mut self, seq: u32, now: Tick) {
        let (came_back, goes_on) = match self.last {
            // Who was told so after a whole HOLD that nothing came is looking around.
            Some((last, at)) => (seq <= last, self.waits && now.since(at) < HOLD),
            None => (false, false),
        };
        self.waits = came_back || goes_on;
        self.last = Some((seq, now));
    }
}

fn tell(hub: &mut Hub<RingNode>, held: &Held, reply: &Reply<'_>) {
    if let Some(out) = hub.output_of(held.conn) {
        reply.put(held.encoding, out);
    }
    hub.resume(held.conn);
}

fn found(seq: u32, data: &str) -> Reply<'_> {
    let data = data.into();
    Reply::QueryResult(Some(super::wire::Item { seq, data }))
}

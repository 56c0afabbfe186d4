//! The simulated network: links, the queue of what is under way, and the dice.
//!
//! Every event goes through one heap in order of time, then of scheduling, and every random decision through
//! one generator, so that a seed names a run. Nothing here knows a protocol or a [`crate::engine::Node`]: a
//! host is its slots, its events and its backlog.
//!
//! Rules kept from TCP and epoll: bytes in order; an event only when something changed, and then with all
//! that is true of the connection at that time; after a short read or write, another event; a connection closed
//! with input unread resets and loses what it had under way; two addresses have one connection with each other at a
//! time, but for dials that cross.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use slab::Slab;

use crate::engine::ConnId;

use super::event::{Event, What};
use super::faults::Faults;
use super::link::{Cut, EndRef, Fin, Link, Owner};
use super::script::{Peer, Script};

/// Connections that a host's kernel holds until they are accepted.
const BACKLOG_MAX: usize = 4096;

/// When a SYN that found the backlog full is sent again.
const SYN_RETRY_US: u64 = 1_000_000;

/// When a kernel gives up a dial without an answer: Linux with its default of six retries.
const SYN_TIMEOUT_US: u64 = 127_000_000;

/// What the network knows of a host.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) addr: SocketAddr,
    pub(super) up: bool,
    /// Down: no dial is answered.
    pub(super) silent: bool,
    pub(super) epoch: u32,
    pub(super) slots: Vec<Option<(ConnId, EndRef)>>,
    /// Connections with an event; without an end, a stale one.
    pub(super) edges: VecDeque<(ConnId, Option<EndRef>)>,
    pub(super) backlog: VecDeque<(usize, EndRef)>,
    /// The turn that is scheduled, if any.
    pub(super) soon_us: Option<u64>,
    /// Ends of connections that went silent with the host.
    gone: Vec<EndRef>,
    next_port: u16,
}

#[derive(Debug, Clone, Copy)]
enum Listening {
    Host(usize, usize),
    Script(usize),
}

pub(super) struct Net {
    pub(super) now_us: u64,
    pub(super) rng: StdRng,
    pub(super) faults: Faults,
    pub(super) fingerprint: u64,
    pub(super) doors: Vec<Door>,
    pub(super) peers: Vec<Peer>,
    pub(super) scripts: Vec<Script>,
    pub(super) links: Slab<Link>,
    /// Scripted peers with news (bytes, an end, window); the world lets them act before the next event.
    pub(super) stirred: VecDeque<usize>,
    heap: BinaryHeap<Reverse<Event>>,
    order: u64,
    serial: u64,
    listening: BTreeMap<SocketAddr, Listening>,
}

impl Net {
    pub(super) fn new(seed: u64, faults: Faults) -> Net {
        Net {
            now_us: 0,
            rng: StdRng::seed_from_u64(seed),
            faults,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            doors: Vec::new(),
            peers: Vec::new(),
            scripts: Vec::new(),
            links: Slab::new(),
            stirred: VecDeque::new(),
            heap: BinaryHeap::new(),
            order: 0,
            serial: 0,
            listening: BTreeMap::new(),
        }
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.rng.random_bool(p)
    }

    pub(super) fn schedule(&mut self, at_us: u64, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Event {
            at_us: at_us.max(self.now_us),
            order: self.order,
            what,
        }));
    }

    /// Takes the next event up to `until_us` and moves the clock to it.
    pub(super) fn next(&mut self, until_us: u64) -> Option<Event> {
        if self
            .heap
            .peek()
            .is_none_or(|Reverse(event)| event.at_us > until_us)
        {
            return None;
        }
        let Reverse(event) = self.heap.pop()?;
        self.now_us = event.at_us;
        Some(event)
    }

    pub(super) fn mix(&mut self, word: u64) {
        self.fingerprint =
            (self.fingerprint.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    pub(super) fn link(&mut self, end: EndRef) -> Option<&mut Link> {
        self.links
            .get_mut(end.link as usize)
            .filter(|link| link.serial == end.serial)
    }

    /// The address that a kernel would give `host`'s next dial, which goes to `to`.
    pub(super) fn ephemeral(&mut self, host: usize, to: SocketAddr) -> SocketAddr {
        let door = &mut self.doors[host];
        let port = door.next_port;
        door.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        let ip = match (door.addr.ip(), to) {
            (IpAddr::V4(ip), SocketAddr::V6(_)) => in_ipv6(ip).into(),
            (IpAddr::V6(_), SocketAddr::V4(_)) => Ipv4Addr::from_bits(OF_IPV6 | host as u32).into(),
            (ip, _) => ip,
        };
        SocketAddr::new(ip, port)
    }

    pub(super) fn add_door(&mut self, addr: SocketAddr) -> usize {
        self.doors.push(Door {
            addr,
            up: true,
            silent: false,
            epoch: 0,
            slots: Vec::new(),
            edges: VecDeque::new(),
            backlog: VecDeque::new(),
            soon_us: None,
            gone: Vec::new(),
            next_port: FIRST_EPHEMERAL_PORT,
        });
        self.doors.len() - 1
    }

    pub(super) fn listen_host(&mut self, addr: SocketAddr, host: usize, number: usize) {
        let before = self.listening.insert(addr, Listening::Host(host, number));
        assert!(before.is_none(), "{addr} is in use");
    }

    pub(super) fn listen_script(&mut self, addr: SocketAddr, script: usize) {
        let before = self.listening.insert(addr, Listening::Script(script));
        assert!(before.is_none(), "{addr} is in use");
    }

    /// Begins a connection.
    pub(super) fn connect(&mut self, owner: Owner, from: SocketAddr, to: SocketAddr) -> EndRef {
        self.serial += 1;
        let window = self.faults.window_bytes;
        let mut link = Link::new(self.serial, [owner, Owner::Gone], [from, to], window);
        for (p, cut) in [
            (self.faults.reset, Cut::Reset),
            (self.faults.half_close, Cut::HalfClose),
        ] {
            if self.chance(p) {
                let at = self.rng.random_range(0..=self.faults.cut_bytes_max);
                link.pipes[self.rng.random_range(0..2)].cut = Some((at, cut));
            }
        }
        let index = self.links.insert(link) as u32;
        let end = EndRef {
            link: index,
            side: 0,
            serial: self.serial,
        };
        let at = self.now_us + self.latency();
        self.schedule(at, What::Syn(end));
        end
    }

    /// The kernel at `from` has a connection with `to` on these ports, whoever dialled it; so not a second one.
    pub(super) fn is_taken(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.links.iter().any(|(_, link)| {
            let dialled = link.addrs == [from, to] && link.owners[0] != Owner::Gone;
            let accepted = link.addrs == [to, from] && link.owners[1] != Owner::Gone;
            dialled || accepted
        })
    }

    pub(super) fn latency(&mut self) -> u64 {
        self.faults.latency.draw(&mut self.rng)
    }

    /// A time for what is sent from `end` now: behind everything that it sent before.
    fn arrival(&mut self, end: EndRef) -> u64 {
        let soonest = self.now_us + self.latency();
        let Some(link) = self.link(end) else {
            return soonest;
        };
        let pipe = &mut link.pipes[end.side()];
        pipe.last_arrival_us = soonest.max(pipe.last_arrival_us).max(pipe.stalled_until_us);
        pipe.last_arrival_us
    }

    pub(super) fn deliver(&mut self, what: What) {
        match what {
            What::Syn(end) => self.syn(end),
            What::Up(end) => {
                if let Some(link) = self.link(end) {
                    link.up = true;
                    self.edge(end);
                }
            }
            What::Bytes(end, n) => self.bytes(end, n),
            What::Fin(end) => {
                let Some(link) = self.link(end) else { return };
                let pipe = &mut link.pipes[1 - end.side()];
                if link.owners[end.side()] != Owner::Gone && pipe.fin == Fin::Sent {
                    pipe.fin = Fin::Arrived;
                    self.edge(end);
                }
            }
            What::Reset(end, kind) => self.broken(end, kind),
            What::Again(end) => self.edge(end),
            What::Stale(host, epoch, id) => {
                let door = &mut self.doors[host];
                if door.up && door.epoch == epoch {
                    door.edges.push_back((id, None));
                    self.wake(host);
                }
            }
            What::Turn(..) | What::Deadline(..) | What::Work(..) | What::Done(..) => {
                unreachable!("hosts' events are the world's")
            }
        }
    }

    fn syn(&mut self, end: EndRef) {
        let Some(link) = self.link(end) else { return };
        let to = link.addrs[1];
        let listening = self.listening.get(&to).copied();
        let refused = self.chance(self.faults.refuse);
        if !refused && self.chance(self.faults.ignore) {
            return self.give_no_answer(end);
        }
        let queued = match listening {
            _ if refused => false,
            None => false,
            Some(Listening::Host(host, number)) => {
                let door = &mut self.doors[host];
                if !door.up && door.silent {
                    return self.give_no_answer(end);
                }
                if door.up && door.backlog.len() == BACKLOG_MAX {
                    self.schedule(self.now_us + SYN_RETRY_US, What::Syn(end));
                    return;
                }
                if door.up {
                    door.backlog.push_back((number, end.other()));
                    self.wake(host);
                }
                self.doors[host].up
            }
            Some(Listening::Script(script)) => match self.scripts[script].syn(end.other()) {
                Some(queued) => queued,
                None => return self.give_no_answer(end),
            },
        };
        let at = self.arrival(end.other());
        if queued {
            if let Some(link) = self.link(end) {
                link.owners[1] = Owner::Kernel;
            }
            self.schedule(at, What::Up(end));
        } else {
            self.schedule(at, What::Reset(end, ErrorKind::ConnectionRefused));
        }
    }

    fn give_no_answer(&mut self, end: EndRef) {
        self.schedule(
            self.now_us + SYN_TIMEOUT_US,
            What::Reset(end, ErrorKind::TimedOut),
        );
    }

    fn bytes(&mut self, end: EndRef, n: usize) {
        let Some(link) = self.link(end) else { return };
        let pipe = &mut link.pipes[1 - end.side()];
        // What was under way is lost when a connection breaks.
        if pipe.under_way() < n {
            return;
        }
        match link.owners[end.side()] {
            Owner::Gone => {}
            Owner::Closed => {
                pipe.clear();
                self.send_reset(end);
            }
            Owner::Conn(..) | Owner::Peer(_) | Owner::Kernel => {
                pipe.arrive(n);
                self.edge(end);
            }
        }
    }

    /// A reset arrives at `end`.
    fn broken(&mut self, end: EndRef, kind: ErrorKind) {
        let Some(link) = self.link(end) else { return };
        if link.owners[end.side()] == Owner::Gone {
            return;
        }
        link.broken[end.side()].get_or_insert(kind);
        link.pipes[end.side()].clear();
        link.pipes[1 - end.side()].lose_rest();
        self.edge(end);
    }

    /// Tells the other side of `end` that the connection is broken; what `end` had under way is lost.
    pub(super) fn send_reset(&mut self, end: EndRef) {
        let at = self.now_us + self.latency();
        if let Some(link) = self.link(end) {
            link.pipes[end.side()].lose_rest();
            self.schedule(at, What::Reset(end.other(), ErrorKind::ConnectionReset));
        }
    }

    /// As [`Net::send_reset`], but behind everything that is under way.
    pub(super) fn send_reset_last(&mut self, end: EndRef) {
        let at = self.arrival(end);
        self.schedule(at, What::Reset(end.other(), ErrorKind::ConnectionReset));
    }

    /// Something changed for `end`.
    pub(super) fn edge(&mut self, end: EndRef) {
        let Some(link) = self.link(end) else { return };
        match link.owners[end.side()] {
            Owner::Conn(host, id) => {
                if !std::mem::replace(&mut link.edge[end.side()], true) {
                    self.doors[host].edges.push_back((id, Some(end)));
                }
                self.wake(host);
            }
            Owner::Peer(peer) => self.stirred.push_back(peer),
            Owner::Kernel | Owner::Closed | Owner::Gone => {}
        }
    }

    /// Sees to it that `host` has a turn soon.
    pub(super) fn wake(&mut self, host: usize) {
        if self.doors[host].up && self.doors[host].soon_us.is_none() {
            let at = self.now_us + self.faults.turn_delay.draw(&mut self.rng);
            let door = &mut self.doors[host];
            door.soon_us = Some(at);
            let epoch = door.epoch;
            self.schedule(at, What::Turn(host, epoch));
        }
    }

    pub(super) fn read(&mut self, end: EndRef, into: &mut [u8]) -> io::Result<usize> {
        let cut = self.chance(self.faults.short_read);
        let max = if cut {
            self.rng.random_range(1..=into.len().clamp(1, 64))
        } else {
            usize::MAX
        };
        let link = self.link(end).ok_or(ErrorKind::NotConnected)?;
        let n = link.read(end.side(), into, max)?;
        let pipe = &mut link.pipes[1 - end.side()];
        let rest = pipe.readable() > 0 && n < into.len();
        let room = pipe.worth_telling();
        if room {
            pipe.writer_waits = false;
        }
        if rest {
            let at = self.now_us + self.latency();
            self.schedule(at, What::Again(end));
        }
        if room {
            let at = self.now_us + self.latency();
            self.schedule(at, What::Again(end.other()));
        }
        Ok(n)
    }

    pub(super) fn write(&mut self, end: EndRef, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = from.iter().map(|slice| slice.len()).sum();
        let cut = offered > 1 && self.chance(self.faults.short_write);
        let max = if cut {
            self.rng.random_range(1..offered)
        } else {
            usize::MAX
        };
        let link = self.link(end).ok_or(ErrorKind::NotConnected)?;
        let n = link.write(end.side(), from, max)?;
        let pipe = &mut link.pipes[end.side()];
        if pipe.swallows {
            return Ok(n);
        }
        if n < offered {
            let told = pipe.space() > 0;
            pipe.writer_waits = !told;
            if told {
                let at = self.now_us + self.latency();
                self.schedule(at, What::Again(end));
            }
        }
        let mut left = n;
        for slice in from {
            let part = slice.len().min(left);
            self.mix_bytes(&slice[..part]);
            left -= part;
        }
        self.transmit(end, n);
        Ok(n)
    }

    /// Sends the last `n` bytes written at `end` on their way.
    fn transmit(&mut self, end: EndRef, mut n: usize) {
        if self.chance(self.faults.stall) {
            let until = self.now_us + self.faults.stall_for.draw(&mut self.rng);
            if let Some(link) = self.link(end) {
                link.pipes[end.side()].stalled_until_us = until;
            }
        }
        let cut = self
            .link(end)
            .and_then(|link| link.pipes[end.side()].cut_off());
        if let Some((_, lost)) = cut {
            n -= lost.min(n);
        }
        let piece_max = match self.chance(self.faults.split) {
            false => n,
            true if self.chance(0.33) => n.div_ceil(256),
            true => n.div_ceil(self.rng.random_range(2..5)),
        };
        let mut left = n;
        while left > 0 {
            let piece = left.min(piece_max);
            left -= piece;
            let at = self.arrival(end);
            self.schedule(at, What::Bytes(end.other(), piece));
        }
        match cut {
            Some((Cut::HalfClose, _)) => self.finish(end),
            Some((Cut::Reset, _)) => {
                self.send_reset_last(end);
                self.send_reset_last(end.other());
            }
            None => {}
        }
    }

    /// Nothing more will be written at `end`.
    pub(super) fn finish(&mut self, end: EndRef) {
        let at = self.arrival(end);
        let Some(link) = self.link(end) else { return };
        let pipe = &mut link.pipes[end.side()];
        if pipe.fin == Fin::No {
            pipe.fin = Fin::Sent;
            self.schedule(at, What::Fin(end.other()));
        }
    }

    /// The owner of `end` gives it up, as close(2) does.
    pub(super) fn close(&mut self, end: EndRef) {
        let Some(link) = self.link(end) else { return };
        let side = end.side();
        link.owners[side] = Owner::Closed;
        let unread = link.pipes[1 - side].readable() > 0;
        if link.broken[side].is_none() {
            if unread || !link.connected(side) {
                self.send_reset(end);
            } else {
                self.finish(end);
            }
        }
        self.collect(end);
    }

    /// Takes the link away once no end has an owner.
    pub(super) fn collect(&mut self, end: EndRef) {
        let Some(link) = self.link(end) else { return };
        if link
            .owners
            .iter()
            .all(|owner| matches!(owner, Owner::Closed | Owner::Gone))
        {
            self.links.remove(end.link as usize);
        }
    }

    /// A host is no more: its connections reset, or fall silent.
    pub(super) fn cut_off(&mut self, host: usize, silent: bool) {
        let door = &mut self.doors[host];
        (door.up, door.silent, door.soon_us) = (false, silent, None);
        door.epoch += 1;
        door.edges.clear();
        let slots = std::mem::take(&mut door.slots)
            .into_iter()
            .flatten()
            .map(|(_, end)| end);
        let ends: Vec<EndRef> = slots
            .chain(door.backlog.drain(..).map(|(_, end)| end))
            .collect();
        for end in ends {
            if silent {
                self.doors[host].gone.push(end);
            } else {
                self.send_reset(end);
            }
            if let Some(link) = self.link(end) {
                link.owners[end.side()] = if silent { Owner::Gone } else { Owner::Closed };
            }
            self.collect(end);
        }
    }

    /// Both ends of every connection that a host has are told that it is broken.
    pub(super) fn reset_host(&mut self, host: usize) {
        let slots = self.doors[host].slots.iter().flatten();
        for end in slots.map(|(_, end)| *end).collect::<Vec<_>>() {
            self.send_reset(end);
            self.send_reset(end.other());
        }
    }

    /// A host is there again; it knows nothing of its former connections and says so.
    pub(super) fn restore(&mut self, host: usize) {
        self.doors[host].up = true;
        for end in std::mem::take(&mut self.doors[host].gone) {
            if let Some(link) = self.link(end) {
                link.owners[end.side()] = Owner::Closed;
                self.send_reset(end);
            }
        }
    }

    /// A host ends in order: the kernel closes its connections for it.
    pub(super) fn leave(&mut self, host: usize) {
        for (_, end) in std::mem::take(&mut self.doors[host].slots)
            .into_iter()
            .flatten()
        {
            self.close(end);
        }
        self.cut_off(host, false);
    }
}

/// The IPv6 address of the host or peer that has this one of IPv4.
pub(super) fn in_ipv6(ip: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(OF_IPV4 | u128::from(ip.to_bits()))
}

/// 2001:db8:4::/96: hosts and peers that have an address of IPv4 and dial one of IPv6.
const OF_IPV4: u128 = 0x2001_0db8_0004 << 80;

/// 172.16.0.0/12: hosts that have an address of IPv6 and dial one of IPv4.
const OF_IPV6: u32 = 0xac10_0000;

const FIRST_EPHEMERAL_PORT: u16 = 32_768;

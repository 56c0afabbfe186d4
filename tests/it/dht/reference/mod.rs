//! A plain peer of the DHT ring, from the specification alone: it shares no line with `src`.
//!
//! A thread a connection, one command per connection, only the previous and the next node, no fingers. It accepts
//! once its join is over, believes whoever says UPDATE_PREV, and answers `0` to what it does not understand. Its
//! conversations can be stopped at a [`Step`], where it waits until the other side is gone.

pub mod wire;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ruint::aliases::U160;

use crate::dht::reference::wire::{
    Conversation, Entries, Key, PATIENCE, bad, between, distance, id_of, locate, locate_at,
};

/// Where a conversation is stopped, before the peer says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// CONNECT: before the acknowledgement.
    ConnectAck,
    /// CONNECT: in the middle of the entries.
    ConnectEntries,
    /// CONNECT: before the address of the next node.
    ConnectNext,
    /// UPDATE_PREV: believed, not acknowledged.
    UpdatePrevAck,
}

/// What a joiner does last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// UPDATE_PREV, then its address: the order of the specification.
    Address,
    /// Its address, then UPDATE_PREV.
    UpdatePrev,
}

struct State {
    next: SocketAddrV4,
    prev: SocketAddrV4,
    entries: Entries,
    /// Entries move, in or out: writes and other hand-overs wait.
    moving: bool,
    leaving: bool,
    left: bool,
    stop: Option<(Step, Sender<()>)>,
}

struct Shared {
    addr: SocketAddrV4,
    id: Key,
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

/// A hand-over; there is one at a time.
struct Move<'a>(&'a Shared);

impl Drop for Move<'_> {
    fn drop(&mut self) {
        self.0.state().moving = false;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic with the lock held")
    }

    fn owns(&self, state: &State, key: Key) -> bool {
        !state.left && between(self.id, key, id_of(state.next))
    }

    /// Waits until nothing moves.
    fn still<'a>(&self, state: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.moving)
            .expect("no panic with the lock held");
        if waited.timed_out() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(state)
    }

    fn begin_move(&self) -> io::Result<Move<'_>> {
        self.still(self.state())?.moving = true;
        Ok(Move(self))
    }

    fn stop_at(&self, step: Step, peer: &mut Conversation) {
        let stop = self.state().stop.take_if(|(at, _)| *at == step);
        if let Some((_, reached)) = stop {
            let _ = reached.send(());
            peer.until_gone();
        }
    }

    fn serve(&self, mut peer: Conversation) -> io::Result<()> {
        match peer.line()?.as_str() {
            "LOCATE" => {
                let key = peer.key()?;
                let closest = self.closest(key);
                peer.say(closest)
            }
            "CONTAINS" => {
                let key = peer.key()?;
                let (owned, has) = {
                    let state = self.state();
                    (self.owns(&state, key), state.entries.contains_key(&key))
                };
                peer.say_ack(owned)?;
                if owned { peer.say_ack(has) } else { Ok(()) }
            }
            "GET" => {
                let key = peer.key()?;
                let (owned, value) = {
                    let state = self.state();
                    (self.owns(&state, key), state.entries.get(&key).cloned())
                };
                peer.say_ack(owned)?;
                if owned {
                    peer.say_value(&value.unwrap_or_default())
                } else {
                    Ok(())
                }
            }
            "INSERT" => {
                let key = peer.key()?;
                if self.offer(&mut peer, key)? {
                    let value = peer.value()?;
                    self.write(&mut peer, key, |entries| drop(entries.insert(key, value)))?;
                }
                Ok(())
            }
            "REMOVE" => {
                let key = peer.key()?;
                if self.offer(&mut peer, key)? {
                    self.write(&mut peer, key, |entries| drop(entries.remove(&key)))?;
                }
                Ok(())
            }
            "UPDATE_PREV" => {
                let addr = peer.addr()?;
                self.state().prev = addr;
                self.stop_at(Step::UpdatePrevAck, &mut peer);
                peer.say_ack(true)
            }
            "CONNECT" => self.on_connect(&mut peer),
            "DISCONNECT" => self.on_disconnect(&mut peer),
            _ => Ok(()),
        }
    }

    fn closest(&self, key: Key) -> SocketAddrV4 {
        let state = self.state();
        if self.owns(&state, key) {
            return self.addr;
        }
        let known = [state.next, state.prev].into_iter();
        let others = known.filter(|addr| *addr != self.addr);
        others
            .min_by_key(|addr| distance(id_of(*addr), key))
            .unwrap_or(self.addr)
    }

    /// Says whether the key is ours.
    fn offer(&self, peer: &mut Conversation, key: Key) -> io::Result<bool> {
        let owned = self.owns(&self.state(), key);
        peer.say_ack(owned)?;
        Ok(owned)
    }

    /// Changes an entry once nothing moves, if it is still ours.
    fn write(
        &self,
        peer: &mut Conversation,
        key: Key,
        change: impl FnOnce(&mut Entries),
    ) -> io::Result<()> {
        let mut state = self.still(self.state())?;
        let owned = self.owns(&state, key);
        if owned {
            change(&mut state.entries);
        }
        drop(state);
        peer.say_ack(owned)
    }

    fn on_connect(&self, peer: &mut Conversation) -> io::Result<()> {
        let joiner = peer.key()?;
        if self.state().leaving {
            return peer.say_ack(false);
        }
        let _move = self.begin_move()?;
        let (mine, entries, next) = {
            let state = self.state();
            let range = |key| between(joiner, key, id_of(state.next));
            let entries = state.entries.iter().filter(|(key, _)| range(**key));
            (
                self.owns(&state, joiner) && joiner != self.id,
                entries.map(|(k, v)| (*k, v.clone())).collect::<Entries>(),
                state.next,
            )
        };
        self.stop_at(Step::ConnectAck, peer);
        peer.say_ack(mine)?;
        if !mine {
            return Ok(());
        }
        match self.hand_over(peer, joiner, &entries, next) {
            Ok(addr) => {
                println!("{}: {addr} joined before {next}", self.addr);
                let mut state = self.state();
                state.next = addr;
                state.entries.retain(|key, _| !entries.contains_key(key));
                Ok(())
            }
            Err(e) => {
                self.tell_next();
                Err(e)
            }
        }
    }

    /// The joiner's address.
    fn hand_over(
        &self,
        peer: &mut Conversation,
        joiner: Key,
        entries: &Entries,
        next: SocketAddrV4,
    ) -> io::Result<SocketAddrV4> {
        peer.say(entries.len())?;
        let middle = entries.len() / 2;
        for (key, value) in entries.iter().take(middle) {
            peer.say_entry(key, value)?;
        }
        self.stop_at(Step::ConnectEntries, peer);
        for (key, value) in entries.iter().skip(middle) {
            peer.say_entry(key, value)?;
        }
        self.stop_at(Step::ConnectNext, peer);
        peer.say(next)?;
        let addr = peer.addr()?;
        if id_of(addr) == joiner {
            Ok(addr)
        } else {
            Err(bad("another address than announced"))
        }
    }

    fn on_disconnect(&self, peer: &mut Conversation) -> io::Result<()> {
        let next = peer.addr()?;
        let entries = peer.entries()?;
        if self.state().leaving {
            return peer.say_ack(false);
        }
        let _move = self.begin_move()?;
        let leaver = self.state().next;
        if leaver == next {
            println!("{}: somebody left before {next} once more", self.addr);
            return peer.say_ack(true);
        }
        // The one that leaves is the node before the one it names.
        let before = id_of(next).wrapping_sub(U160::from(1));
        if leaver == self.addr || locate_at(leaver, before)? != leaver {
            return peer.say_ack(false);
        }
        {
            let mut state = self.state();
            let range = |key: &Key| between(id_of(leaver), *key, id_of(next));
            let moved = entries.into_iter().filter(|(key, _)| range(key));
            state.entries.extend(moved);
            state.next = next;
        }
        println!("{}: {leaver} left before {next}", self.addr);
        self.tell_next();
        peer.say_ack(true)
    }

    /// UPDATE_PREV at the next node; one that does not answer finds out otherwise.
    fn tell_next(&self) {
        let next = self.state().next;
        if next == self.addr {
            self.state().prev = self.addr;
        } else {
            let _ = self.update_prev(next);
        }
    }

    fn update_prev(&self, next: SocketAddrV4) -> io::Result<bool> {
        let mut peer = Conversation::dial(next)?;
        peer.say(format_args!("UPDATE_PREV\n{}", self.addr))?;
        peer.ack()
    }

    /// One attempt; whether we are a member.
    fn try_join(&self, contact: SocketAddrV4, last: Last) -> io::Result<bool> {
        let owner = locate(contact, self.id)?;
        let mut peer = Conversation::dial(owner)?;
        peer.say(format_args!("CONNECT\n{}", self.id))?;
        if !peer.ack()? {
            return Ok(false);
        }
        let mut entries = peer.entries()?;
        let next = peer.addr()?;
        entries.retain(|key, _| between(self.id, *key, id_of(next)));
        {
            let mut state = self.state();
            (state.prev, state.next) = (owner, next);
            state.entries = entries;
        }
        if last == Last::UpdatePrev {
            peer.say(self.addr)?;
            // A member already, whatever the next node says.
            let _ = self.update_prev(next);
            return Ok(true);
        }
        let told = self.update_prev(next)?;
        if told {
            peer.say(self.addr)?;
        }
        Ok(told)
    }

    /// One attempt to leave through the previous node.
    fn try_leave(&self) -> io::Result<bool> {
        let _move = self.begin_move()?;
        let (prev, next, entries) = {
            let mut state = self.state();
            if state.next == self.addr {
                state.left = true;
                return Ok(true);
            }
            let mut entries = state.entries.clone();
            entries.retain(|key, _| self.owns(&state, *key));
            (state.prev, state.next, entries)
        };
        let mut peer = Conversation::dial(prev)?;
        peer.say(format_args!("DISCONNECT\n{next}"))?;
        peer.say_entries(&entries)?;
        let gone = peer.ack()?;
        self.state().left = gone;
        Ok(gone)
    }

    /// Tries until it works.
    fn insist(&self, what: &str, attempt: impl Fn() -> io::Result<bool>) {
        let until = Instant::now() + 2 * PATIENCE;
        loop {
            let result = attempt();
            if matches!(result, Ok(true)) {
                return;
            }
            assert!(Instant::now() < until, "cannot {what}: {result:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// A plain peer that runs in this process until it is dropped.
pub struct PlainPeer {
    shared: Arc<Shared>,
    listener: TcpListener,
    accept: Option<JoinHandle<()>>,
}

impl PlainPeer {
    /// A peer whose id is one of those that are wanted.
    fn bind(wanted: impl Fn(Key) -> bool) -> PlainPeer {
        let mut tried = Vec::new();
        let (listener, addr) = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
            let port = listener.local_addr().expect("address").port();
            let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            if wanted(id_of(addr)) {
                break (listener, addr);
            }
            // Kept open, so that another one comes next.
            tried.push(listener);
        };
        let state = State {
            next: addr,
            prev: addr,
            entries: Entries::new(),
            moving: false,
            leaving: false,
            left: false,
            stop: None,
        };
        let shared = Arc::new(Shared {
            addr,
            id: id_of(addr),
            state: Mutex::new(state),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
        });
        PlainPeer {
            shared,
            listener,
            accept: None,
        }
    }

    /// A ring of one.
    pub fn alone() -> PlainPeer {
        let mut peer = PlainPeer::bind(|_| true);
        peer.run();
        peer
    }

    /// Joins the ring of `contact`.
    pub fn join(contact: SocketAddrV4, last: Last) -> PlainPeer {
        PlainPeer::join_where(contact, last, |_| true)
    }

    pub fn join_where(
        contact: SocketAddrV4,
        last: Last,
        wanted: impl Fn(Key) -> bool,
    ) -> PlainPeer {
        let mut peer = PlainPeer::bind(wanted);
        let shared = &peer.shared;
        shared.insist("join", || shared.try_join(contact, last));
        peer.run();
        peer
    }

    /// Accepts from now on.
    fn run(&mut self) {
        let listener = self.listener.try_clone().expect("clone");
        let shared = self.shared.clone();
        let accept = move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::SeqCst) {
                    break;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // Whoever talks nonsense or hangs up is only closed.
                    let _ = Conversation::over(socket).and_then(|peer| shared.serve(peer));
                });
            }
        };
        self.accept = Some(std::thread::spawn(accept));
    }

    /// Hands its entries to the previous node and ends.
    pub fn leave(self) {
        let shared = &self.shared;
        shared.state().leaving = true;
        shared.insist("leave", || shared.try_leave());
    }

    pub fn addr(&self) -> SocketAddrV4 {
        self.shared.addr
    }

    pub fn next(&self) -> SocketAddrV4 {
        self.shared.state().next
    }

    pub fn prev(&self) -> SocketAddrV4 {
        self.shared.state().prev
    }

    pub fn entries(&self) -> Entries {
        self.shared.state().entries.clone()
    }

    /// Waits until the hand-over that goes on is over.
    pub fn settle(&self) {
        self.shared.begin_move().expect("it ends");
    }

    /// Stops the next conversation that comes to `step`; the receiver hears when it is there.
    pub fn stop_at(&self, step: Step) -> Receiver<()> {
        let (reached, hear) = channel();
        self.shared.state().stop = Some((step, reached));
        hear
    }
}

impl Drop for PlainPeer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes accept().
        let _ = TcpStream::connect(self.shared.addr);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

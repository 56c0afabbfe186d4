//! Scripted peers: raw ends of connections, for tests that say which bytes go in and expect which come out.
//!
//! A peer sends what it is told as fast as the window lets it, reads all that arrives unless it was told to
//! stop, and closes only when told to (or once both directions have ended). It knows no protocol.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

use super::link::{EndRef, Owner};
use super::net::Net;
use super::script::{Ending, Last, ListenerId, Peer, PeerId};

impl Net {
    pub(super) fn add_peer(&mut self, end: Option<EndRef>) -> PeerId {
        self.peers.push(Peer::new(end));
        PeerId(self.peers.len() - 1)
    }

    pub(super) fn connect_peer(&mut self, from: SocketAddr, to: SocketAddr) -> PeerId {
        let id = self.add_peer(None);
        let end = self.connect(Owner::Peer(id.0), from, to);
        self.peers[id.0].end = Some(end);
        id
    }

    pub(super) fn accept_script(&mut self, listener: ListenerId) -> Option<PeerId> {
        while let Some(end) = self.scripts[listener.0].backlog.pop_front() {
            if self.link(end).is_some() {
                let id = self.add_peer(Some(end));
                if let Some(link) = self.link(end) {
                    link.owners[end.side()] = Owner::Peer(id.0);
                }
                self.pump(id.0);
                return Some(id);
            }
        }
        None
    }

    /// Lets the peers with news act.
    pub(super) fn pump_stirred(&mut self) {
        while let Some(index) = self.stirred.pop_front() {
            self.pump(index);
        }
    }

    /// Receives and sends what can be.
    pub(super) fn pump(&mut self, index: usize) {
        self.receive(index);
        self.send(index);
        let peer = &self.peers[index];
        let over = match peer.ending {
            Some(Ending::Fin) => peer.finished,
            Some(_) => true,
            None => false,
        };
        if over {
            self.give_up(index);
        }
    }

    fn receive(&mut self, index: usize) {
        let mut buffer = [0; 16 * 1024];
        while let Some(end) = self.peers[index].end {
            let broken = self.link(end).and_then(|link| link.broken[end.side()]);
            if !self.peers[index].reading && broken.is_none() {
                return;
            }
            match self.read(end, &mut buffer) {
                Ok(0) => return self.peers[index].ending = Some(Ending::Fin),
                Ok(n) => self.peers[index].received.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => {
                    let ending = match e.kind() {
                        ErrorKind::ConnectionRefused => Ending::Refused,
                        ErrorKind::TimedOut => Ending::TimedOut,
                        _ => Ending::Reset,
                    };
                    return self.peers[index].ending = Some(ending);
                }
            }
        }
    }

    fn send(&mut self, index: usize) {
        let Some(end) = self.peers[index].end else {
            return;
        };
        if !self
            .link(end)
            .is_some_and(|link| link.connected(end.side()))
        {
            return;
        }
        while !self.peers[index].unsent.is_empty() {
            let unsent = std::mem::take(&mut self.peers[index].unsent);
            let (front, back) = unsent.as_slices();
            let result = self.write(end, &[IoSlice::new(front), IoSlice::new(back)]);
            let peer = &mut self.peers[index];
            peer.unsent = unsent;
            match result {
                Ok(n) => _ = peer.unsent.drain(..n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // Broken, or sent after a FIN: it leads nowhere.
                Err(_) => peer.unsent.clear(),
            }
        }
        match self.peers[index].last {
            Last::Nothing => {}
            Last::Finish => {
                self.peers[index].finished = true;
                self.finish(end);
            }
            Last::Reset => {
                self.send_reset_last(end);
                self.give_up(index);
            }
            Last::Close => self.give_up(index),
        }
    }

    fn give_up(&mut self, index: usize) {
        let Some(end) = self.peers[index].end.take() else {
            return;
        };
        if self.peers[index].last == Last::Reset {
            if let Some(link) = self.link(end) {
                link.owners[end.side()] = Owner::Closed;
            }
            self.collect(end);
        } else {
            self.close(end);
        }
    }
}

/// A scripted peer, lent by `World::peer`.
pub struct PeerEnd<'a> {
    pub(super) net: &'a mut Net,
    pub(super) id: PeerId,
}

impl PeerEnd<'_> {
    /// Sends `bytes` behind what it sent before; what does not fit the window waits.
    pub fn send(&mut self, bytes: &[u8]) {
        self.state().unsent.extend(bytes);
        self.net.pump(self.id.0);
    }

    /// All that was received and not taken.
    pub fn received(&self) -> &[u8] {
        &self.net.peers[self.id.0].received
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state().received)
    }

    /// Bytes that wait for room in the window.
    pub fn unsent(&self) -> usize {
        self.net.peers[self.id.0].unsent.len()
    }

    /// Sends FIN after the last byte; goes on reading.
    pub fn finish(&mut self) {
        self.end_with(Last::Finish);
    }

    /// Sends a reset after the last byte.
    pub fn reset(&mut self) {
        self.end_with(Last::Reset);
    }

    /// Closes as a program that ends: FIN after the last byte, or a reset when something is unread; what
    /// still arrives is answered with a reset.
    pub fn close(&mut self) {
        self.end_with(Last::Close);
    }

    /// Reads nothing more: the window fills.
    pub fn stop_reading(&mut self) {
        self.state().reading = false;
    }

    pub fn read_again(&mut self) {
        self.state().reading = true;
        self.net.pump(self.id.0);
    }

    /// Bounds what each direction holds, from now on.
    pub fn set_window(&mut self, bytes: usize) {
        if let Some(end) = self.net.peers[self.id.0].end
            && let Some(link) = self.net.link(end)
        {
            link.pipes.iter_mut().for_each(|pipe| pipe.window = bytes);
        }
    }

    pub fn is_connected(&self) -> bool {
        let link = self.net.peers[self.id.0].end.and_then(|end| {
            let link = self.net.links.get(end.link as usize)?;
            (link.serial == end.serial && link.connected(end.side())).then_some(())
        });
        link.is_some()
    }

    /// How the other side ended the connection, once it did.
    pub fn ending(&self) -> Option<Ending> {
        self.net.peers[self.id.0].ending
    }

    pub fn is_closed(&self) -> bool {
        self.ending().is_some()
    }

    fn end_with(&mut self, last: Last) {
        self.state().last = last;
        self.net.pump(self.id.0);
    }

    fn state(&mut self) -> &mut Peer {
        &mut self.net.peers[self.id.0]
    }
}

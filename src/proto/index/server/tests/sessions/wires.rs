//! Connections between the members' world and the server's.

use super::super::*;
use crate::sim::{Ending, PeerEnd};

/// A connection: the scripted peers at its member's and at its server's side.
pub(super) struct Wire {
    pub(super) member: usize,
    pub(super) near: Script,
    pub(super) far: Script,
    pub(super) near_ended: bool,
    pub(super) far_ended: bool,
    pub(super) asks: Frames,
    pub(super) replies: Frames,
}

/// Whole messages that went one way.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) count: usize,
    pub(super) last: u16,
    rest: Vec<u8>,
}

impl Frames {
    fn see(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(frame) = Frame::parse(&self.rest) {
            (self.count, self.last) = (self.count + 1, frame.kind);
            self.rest.drain(..frame.len());
        }
    }
}

/// Passes what arrived at one scripted peer on to the other.
pub(super) fn pass_on(
    mut from: PeerEnd<'_>,
    seen: &mut Frames,
    ended: &mut bool,
    world: &mut World<impl Service>,
    to: Script,
    to_ended: &mut bool,
) {
    let bytes = from.take();
    if !bytes.is_empty() {
        seen.see(&bytes);
        world.peer(to).send(&bytes);
    }
    match from.ending() {
        None => {}
        Some(_) if *ended => {}
        Some(Ending::Fin) => {
            *ended = true;
            world.peer(to).finish();
        }
        Some(_) => {
            (*ended, *to_ended) = (true, true);
            world.peer(to).reset();
        }
    }
}

//! An index server for the fetcher: it finds who it is told to, and its logins take as long as they are told to.

use super::*;
use crate::engine::Tick;

pub(super) struct Index {
    listener: ListenerId,
    lines: Vec<Line>,
    /// Holders, by number.
    pub(super) finds: Vec<usize>,
    /// Logins granted, and how long one takes.
    pub(super) logins: usize,
    pub(super) login: Ticks,
    /// Logins to be granted, and when.
    due: Vec<(Script, Tick)>,
}

impl Index {
    pub(super) fn new(listener: ListenerId) -> Index {
        Index {
            listener,
            lines: Vec::new(),
            finds: Vec::new(),
            logins: 0,
            login: Ticks(1),
            due: Vec::new(),
        }
    }

    fn answer(&self, frame: Frame<'_>, sha1: Sha1, size_bytes: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match Kind::from_code(frame.kind).unwrap() {
            Kind::Search if frame.text().unwrap().ends_with("\n0\n") => {
                let file = FileLine {
                    name: "file",
                    size_bytes,
                    sha1,
                };
                let mut frame = FrameOut::begin(&mut out, Kind::Search.ok());
                for n in &self.finds {
                    let at = addr(*n);
                    let id = PeerId::from_bits(100 + *n as u64);
                    write_hit(&mut frame, file, &hit_label("u", id, at.ip(), at.port()));
                }
                frame.finish();
            }
            Kind::Search => write_text(&mut out, Kind::Search.ok(), ""),
            Kind::Logout => write_text(&mut out, Kind::Logout.ok(), "LOGOUT SUCCESS"),
            Kind::Login => return None,
            other => panic!("{other:?}"),
        }
        Some(out)
    }
}

impl Lab {
    pub(super) fn serve_index(&mut self) {
        let now = self.world.now();
        let world = &mut self.world;
        while let Some(peer) = world.accept(self.index.listener) {
            self.index.lines.push(Line {
                peer,
                heard: Vec::new(),
                unsaid: Vec::new(),
            });
        }
        let sha1 = Sha1(self.disk.state.lock().unwrap().sha1);
        let mut lines = std::mem::take(&mut self.index.lines);
        for line in &mut lines {
            let mut peer = world.peer(line.peer);
            line.heard.extend(peer.take());
            while let Some(frame) = Frame::parse(&line.heard) {
                let len = frame.len();
                match self.index.answer(frame, sha1, self.content.len() as u64) {
                    Some(answer) => peer.send(&answer),
                    None => self.index.due.push((line.peer, now + self.index.login)),
                }
                line.heard.drain(..len);
            }
        }
        self.index.lines = lines;
        let logins = &mut self.index.logins;
        self.index.due.retain(|(peer, at)| {
            let is_due = *at <= now;
            if is_due {
                let mut out = Vec::new();
                write_text(&mut out, Kind::Login.ok(), "LOGIN SUCCESS");
                world.peer(*peer).send(&out);
                *logins += 1;
            }
            !is_due
        });
    }
}

//! Uploads: the connections of peers to a sharer. Requests are checked, wait for a slot, and are answered.

use crate::engine::{Cx, Hub, Input, Step, Violation};

use super::online_check::{self, BUSY};
use super::{Note, Serving, Sharer, Tag, Timer};
use crate::proto::index::call::Call;
use crate::proto::index::client;
use crate::proto::index::fields::{PeerId, Which};
use crate::proto::index::reply;
use crate::proto::index::transfer::serve::{self, After, ReadDone, Unreadable};
use crate::proto::index::wire::{Frame, HEADER_BYTES, Kind, Range, Request, unknown_ko, write_ko};

/// Longest payload of a request between peers: a SHA-1, three numbers, and space for extensions.
const REQUEST_BYTES_MAX: usize = 1024;

impl<F: Clone + Send + 'static> Sharer<F> {
    /// Handles a request of a peer.
    pub(super) fn peer_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(&[l0, l1, k0, k1]) = input.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Step::More);
        };
        let code = u16::from_le_bytes([k0, k1]);
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if length > REQUEST_BYTES_MAX {
            if let Some(ko) = unknown_ko(code) {
                write_ko(cx.out(), ko, "longer than any request between peers");
            }
            return Err(Violation::peer("a long request"));
        }
        let Some(frame) = Frame::of(input) else {
            return Ok(Step::More);
        };
        let refused = match Kind::from_code(code) {
            Some(kind @ Kind::Download) => match Request::parse(kind, frame) {
                Ok(Request::Download { range, requester }) => {
                    match self.request(cx, serving, range, requester) {
                        Ok(()) => return Ok(Step::Wait(frame.len())),
                        Err(why) => why.to_owned(),
                    }
                }
                Ok(_) => return Err(Violation::us("another request")),
                Err(fault) => fault.to_string(),
            },
            Some(_) => "this is a peer; ask the index server".to_owned(),
            None => "unknown type".to_owned(),
        };
        // Every KO is the type of the request + 200, but for LOGOUT, which shares KEEP_ALIVE's.
        let ko = Kind::from_code(code).map_or_else(|| unknown_ko(code), |kind| Some(kind.ko()));
        let Some(ko) = ko else {
            return Err(Violation::peer("a type that has no KO"));
        };
        write_ko(cx.out(), ko, refused);
        Ok(Step::Done(frame.len()))
    }

    /// Handles DOWNLOAD: starts it, or waits for the index. `Err`: the KO.
    fn request(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        range: Range,
        requester: PeerId,
    ) -> Result<(), &'static str> {
        if !self.files.by_sha1.contains_key(&range.sha1) {
            return Err("no file with this SHA-1 is shared here");
        }
        if self.config.open || self.online_check.is_online(requester, cx.now()) {
            return self.start(cx, serving, range);
        }
        let wait = self.online_check.wait(requester, cx.id())?;
        if wait.time {
            let Some(timer) = cx.arm(online_check::SILENCE, Timer::OnlineCheck(requester)) else {
                // Without a timer, only this connection waits.
                self.online_check.silent(requester);
                if wait.ask {
                    self.online_check.answered(requester, false, cx.now());
                }
                return Err(BUSY);
            };
            self.online_check.set_timer(requester, timer);
        }
        *serving = Serving::Checking(range);
        if wait.ask {
            let which = Which::One(requester);
            client::ask(self, cx, Tag::Online(requester), Call::Peers { which });
        }
        Ok(())
    }

    /// Starts a DOWNLOAD whose requester may have the file. `Err`: the KO.
    pub(super) fn start(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        range: Range,
    ) -> Result<(), &'static str> {
        // Looked up again: the files may have changed while the index was asked.
        let (total_bytes, file) = self
            .files
            .by_sha1
            .get(&range.sha1)
            .ok_or("the file is not shared any more")?;
        let sending = serve::Sending::new(file.clone(), *total_bytes, range)
            .ok_or("the offset is beyond the end of the file")?;
        *serving = Serving::Sending(sending);
        if self.slots.enter(cx.id(), cx.now()) {
            self.pump(cx, serving);
        } else {
            self.watch_slots(cx);
        }
        Ok(())
    }

    /// Submits the next read, if there is room for its bytes.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_, Self>, serving: &mut Serving<F>) {
        let id = cx.id();
        if let Serving::Sending(sending) = serving
            && cx.room() > 0
            && let Some(read) = sending.read(id)
            && cx.submit(read).is_err()
        {
            cx.close();
        }
    }

    /// A worker has read a chunk.
    pub(super) fn chunk(
        &mut self,
        cx: &mut Cx<'_, Self>,
        serving: &mut Serving<F>,
        done: ReadDone,
    ) {
        let Serving::Sending(sending) = serving else {
            return;
        };
        let id = cx.id();
        match done.bytes {
            Ok(bytes) => {
                if sending.is_first() {
                    let ok = reply::Sending {
                        total_bytes: sending.total_bytes,
                        offset: sending.offset,
                        length: sending.end - sending.offset,
                    };
                    ok.write(cx.out());
                }
                cx.send(&bytes);
                match sending.sent(bytes.len()) {
                    After::More if self.slots.sent(id, bytes.len(), cx.now()) => {
                        self.pump(cx, serving)
                    }
                    After::More => self.watch_slots(cx),
                    After::Whole => {
                        self.slots.sent(id, bytes.len(), cx.now());
                        self.answered(cx, serving);
                    }
                }
            }
            Err(Unreadable) if sending.begun() => cx.close(),
            Err(Unreadable) => {
                write_ko(
                    cx.out(),
                    Kind::Download.ko(),
                    "the file has changed and is not announced again yet",
                );
                self.answered(cx, serving);
            }
        }
    }

    /// The request is answered: the next one may come.
    pub(super) fn answered(&mut self, cx: &mut Cx<'_, Self>, serving: &mut Serving<F>) {
        *serving = Serving::Ready;
        let id = cx.id();
        self.slots.finish(id, cx.now());
        cx.resume(id);
        self.admit(cx);
    }

    /// Gives free slots to connections that wait.
    pub(super) fn admit(&mut self, hub: &mut Hub<Self>) {
        for conn in self.slots.admit(hub) {
            hub.notify(conn, Note::Go);
        }
        self.watch_slots(hub);
    }

    /// Arms the timer that frees slots, while connections wait. If there is none left, the next event of a slot does.
    fn watch_slots(&mut self, hub: &mut Hub<Self>) {
        if self.slots_timer.is_none() && self.slots.someone_waits() {
            self.slots_timer = hub.arm(serve::LOOK_EVERY, Timer::Slots);
        }
    }
}

//! A fetcher and its holders: dialling, asking, receiving, and letting go.

use std::collections::VecDeque;

use crate::engine::{ConnId, Cx, End, Hub, Input, Step, Tick, Ticks, Violation};
use crate::proto::index::client;
use crate::proto::index::reply::{Sending, Unanswered, granted};
use crate::proto::index::sharer::NOT_ONLINE;
use crate::proto::index::transfer::RANGE_BYTES;
use crate::proto::index::wire::{Frame, Kind, Range, Request};

use super::task::{Deeds, Job, Source, Why};
use super::{Conn, Fetcher, Phase, STORES_MAX};

/// Longest header of an answer between peers: three numbers, or a reason.
const ANSWER_BYTES_MAX: usize = 1024;

/// Ranges asked of a holder ahead of what it sends: a fast one is kept busy while a range is on its way.
const AHEAD_MAX: usize = 4;

/// A range in less than this is fast, in more than that slow.
const FAST: Ticks = Ticks::from_millis(50);
const SLOW: Ticks = Ticks::from_millis(500);

/// A holder whose connection was lost so often in a row, without a range in between, is gone.
pub(super) const LOSSES_MAX: u32 = 4;
/// Pause before it is dialled again, doubled with each loss.
const REDIAL: Ticks = Ticks::from_millis(250);

/// Pause before a holder is dialled again that closed while nothing was asked of it.
const REST: Ticks = Ticks::from_secs(1);

/// A holder that has only said that it is busy, for this long and without a range in between, is given up: whoever waits for
/// the file is told, and may try again later.
const BUSY_MAX: Ticks = Ticks::from_secs(300);

/// Pause before a holder that asked for a login is asked again: what one takes, and, when that was not enough, what a
/// busy index may take.
const LOGIN_SECS: u64 = 1;
const LONG_LOGIN_SECS: u64 = 3;

/// Where a holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Idle,
    Dialling(ConnId),
    Up(ConnId),
    Lost { until: Tick },
    Slow,
    Dropped,
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) link: Link,
    pub(super) losses: u32,
    /// Since when it has answered nothing but that it is busy.
    pub(super) busy_since: Option<Tick>,
    /// It said that we are not online, and we logged in once more; no range of it has come since.
    pub(super) logged_in_for: bool,
    /// What it owes, oldest first, and since when.
    pub(super) asked: VecDeque<(usize, Tick)>,
    /// When it sent the last range.
    pub(super) last: Tick,
    /// The range that it is sending; its length once the answer has announced it.
    pub(super) length: Option<usize>,
    pub(super) bytes: Vec<u8>,
    /// Its connection rests until the worker has caught up.
    pub(super) rests: bool,
    pub(super) deeds: Deeds,
}

impl Holder {
    pub(super) fn new(source: &Source) -> Holder {
        Holder {
            link: Link::Idle,
            losses: 0,
            busy_since: None,
            logged_in_for: false,
            asked: VecDeque::new(),
            last: Tick(0),
            length: None,
            bytes: Vec::new(),
            rests: false,
            deeds: Deeds {
                source: source.clone(),
                ranges: 0,
                bytes: 0,
                dropped: None,
            },
        }
    }
}

impl Fetcher {
    pub(super) fn dial(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let addr = self.holders[holder].deeds.source.addr;
        let conn = hub.dial(addr, None, Conn::Holder(holder));
        self.holders[holder].link = Link::Dialling(conn);
        // One that was too slow is asked after all.
        self.holders[holder].deeds.dropped = None;
    }

    /// Asks a holder for as much as it is quick.
    pub(super) fn feed(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let Link::Up(conn) = self.holders[holder].link else {
            return;
        };
        let ahead = match self.plan.pace(holder) {
            Some(pace) if pace <= FAST => AHEAD_MAX,
            Some(pace) if pace > SLOW => 1,
            _ => 2,
        };
        let now = hub.now();
        while self.phase == Phase::Fetch && self.holders[holder].asked.len() < ahead {
            let holders = &self.holders;
            let since = |range| {
                let asked = holders.iter().flat_map(|h| &h.asked);
                asked
                    .filter(|(of, _)| *of == range)
                    .map(|(_, at)| *at)
                    .min()
            };
            let Some(range) = self.plan.next(holder, now, since) else {
                return;
            };
            self.holders[holder].asked.push_back((range, now));
            let request = Request::Download {
                range: Range {
                    sha1: self.wanted.sha1,
                    offset: range as u64 * RANGE_BYTES,
                    length: self.length_of(range),
                },
                requester: self.wanted.requester,
            };
            if let Some(out) = hub.output_of(conn) {
                request.write(out);
            }
        }
    }

    pub(super) fn feed_all(&mut self, hub: &mut Hub<Fetcher>) {
        for holder in 0..self.holders.len() {
            self.feed(hub, holder);
        }
    }

    pub(super) fn length_of(&self, range: usize) -> u64 {
        (self.wanted.size_bytes - range as u64 * RANGE_BYTES).min(RANGE_BYTES)
    }

    /// Has nothing more to do with a holder's connection; what it owes goes back to the plan.
    pub(super) fn hang_up(&mut self, hub: &mut Hub<Fetcher>, holder: usize, link: Link) {
        self.plan.set_ready(holder, false);
        let it = &mut self.holders[holder];
        for (range, _) in it.asked.drain(..) {
            self.plan.give_back(holder, range);
        }
        (it.length, it.rests) = (None, false);
        it.bytes.clear();
        if let Link::Dialling(conn) | Link::Up(conn) = std::mem::replace(&mut it.link, link) {
            hub.close_conn(conn);
        }
    }

    pub(super) fn drop(&mut self, hub: &mut Hub<Fetcher>, holder: usize, why: Why) {
        let addr = self.holders[holder].deeds.source.addr;
        log::warn!("{addr} is not asked any more: {why}");
        self.plan.drop(holder);
        self.hang_up(hub, holder, Link::Dropped);
        self.holders[holder].deeds.dropped = Some(why);
    }

    /// The connection broke, or is silent for too long.
    pub(super) fn lose(&mut self, hub: &mut Hub<Fetcher>, holder: usize, end: End) {
        let owed = !self.holders[holder].asked.is_empty();
        let was_up = matches!(self.holders[holder].link, Link::Up(_));
        if was_up && !owed {
            // It was closed for want of anything to do. Not at once again: it may close whatever comes.
            let until = hub.now() + REST;
            return self.hang_up(hub, holder, Link::Lost { until });
        }
        let losses = self.holders[holder].losses + 1;
        self.holders[holder].losses = losses;
        if losses >= LOSSES_MAX {
            return self.drop(hub, holder, Why::Gone(how_it_ended(end)));
        }
        let pause = Ticks(REDIAL.0 << losses);
        let until = hub.now() + pause;
        self.hang_up(hub, holder, Link::Lost { until });
    }

    /// The answer to the oldest request of a holder.
    pub(super) fn answer(
        &mut self,
        hub: &mut Hub<Fetcher>,
        holder: usize,
        frame: Frame<'_>,
    ) -> Result<(), Violation> {
        let Some(&(range, _)) = self.holders[holder].asked.front() else {
            return Err(Violation::peer("an answer to nothing"));
        };
        let text = match granted(Kind::Download, frame) {
            Ok(text) => text,
            Err(Unanswered::Refused(refusal)) => {
                match refusal.retry_after_secs() {
                    Some(secs) => self.is_busy(hub, holder, secs, refusal.text),
                    None if refusal.text == NOT_ONLINE => {
                        self.not_online(hub, holder, refusal.text);
                    }
                    None => self.drop(hub, holder, Why::Refused(refusal.text)),
                }
                return Ok(());
            }
            Err(_) => return Err(Violation::peer("not an answer")),
        };
        let sending = Sending::parse(text).map_err(|_| Violation::peer("not an answer"))?;
        if sending.total_bytes != self.wanted.size_bytes {
            self.drop(hub, holder, Why::OtherSize(sending.total_bytes));
            return Ok(());
        }
        let asked = (range as u64 * RANGE_BYTES, self.length_of(range));
        if (sending.offset, sending.length) != asked {
            return Err(Violation::peer("another range than was asked for"));
        }
        let it = &mut self.holders[holder];
        // No more than a range, as was just compared.
        it.length = Some(asked.1 as usize);
        it.bytes = self.spare.pop().unwrap_or_default();
        it.bytes.reserve_exact(asked.1 as usize);
        Ok(())
    }

    /// It asks us to come back, which is done as long as there is hope.
    fn is_busy(&mut self, hub: &mut Hub<Fetcher>, holder: usize, retry_secs: u64, text: String) {
        let now = hub.now();
        let since = *self.holders[holder].busy_since.get_or_insert(now);
        if now.since(since) >= BUSY_MAX {
            return self.drop(hub, holder, Why::Busy(text));
        }
        let until = now + Ticks::from_secs(retry_secs.min(60));
        self.hang_up(hub, holder, Link::Lost { until });
    }

    /// It says that we are not online: another process of our user has logged out, or the index was restarted. We log
    /// in once more for each holder that says so, and ask it again when that is done.
    fn not_online(&mut self, hub: &mut Hub<Fetcher>, holder: usize, text: String) {
        let Some(stay) = self.stay.clone() else {
            return self.drop(hub, holder, Why::Refused(text));
        };
        if self.session.is_online() {
            if std::mem::replace(&mut self.holders[holder].logged_in_for, true) {
                return self.drop(hub, holder, Why::Refused(text));
            }
            client::stay_online(self, hub, stay);
            return self.is_busy(hub, holder, LOGIN_SECS, text);
        }
        self.is_busy(hub, holder, LONG_LOGIN_SECS, text);
    }

    /// Others are quicker; it is asked again when nobody else is left.
    pub(super) fn is_slow(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        log::info!("{}: {}", self.holders[holder].deeds.source.addr, Why::Slow);
        self.holders[holder].deeds.dropped = Some(Why::Slow);
        self.hang_up(hub, holder, Link::Slow);
    }

    /// A range is there.
    pub(super) fn range(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let now = hub.now();
        let it = &mut self.holders[holder];
        it.length = None;
        let bytes = std::mem::take(&mut it.bytes);
        let Some((range, asked_at)) = it.asked.pop_front() else {
            return;
        };
        // What it was asked ahead does not count before the range in front was there.
        let took = now.since(asked_at.max(it.last));
        (it.last, it.losses, it.busy_since) = (now, 0, None);
        it.logged_in_for = false;
        it.deeds.ranges += 1;
        it.deeds.bytes += bytes.len() as u64;
        if self.plan.received(holder, range, took) {
            for slow in self.plan.others_asked(range) {
                self.is_slow(hub, slow);
            }
            self.stores += 1;
            let job = Job::Store {
                holder,
                range,
                bytes,
            };
            self.submit(hub, job);
        } else {
            self.reuse(bytes);
        }
        self.feed(hub, holder);
    }

    pub(super) fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < STORES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    pub(super) fn holder_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        holder: usize,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        if self.holders[holder].link != Link::Up(cx.id()) {
            return Err(Violation::us("the holder is not asked any more"));
        }
        let Some(length) = self.holders[holder].length else {
            let Some(frame) = Frame::within(input.bytes, ANSWER_BYTES_MAX)? else {
                return Ok(Step::More);
            };
            self.answer(cx, holder, frame)?;
            return Ok(Step::Took(frame.len()));
        };
        let bytes = &mut self.holders[holder].bytes;
        let taken = (length - bytes.len()).min(input.bytes.len());
        bytes.extend_from_slice(&input.bytes[..taken]);
        self.received_bytes += taken as u64;
        if bytes.len() < length {
            return Ok(Step::Took(taken));
        }
        self.range(cx, holder);
        if self.stores >= STORES_MAX {
            self.holders[holder].rests = true;
            return Ok(Step::Wait(taken));
        }
        Ok(Step::Done(taken))
    }
}

fn how_it_ended(end: End) -> String {
    match end {
        End::Unreachable(kind) => format!("cannot be reached: {kind}"),
        End::Broken(kind) => format!("the connection broke: {kind}"),
        End::Timeout(_) => "it fell silent".into(),
        End::Limit(limit) => format!("limit {limit}"),
        End::Eof | End::Closed | End::Violation(_) => "it closes the connection".into(),
    }
}

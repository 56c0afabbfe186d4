//! A fetcher's connections to holders: dialling, asking for ranges, receiving them, hanging up.

use crate::engine::{Cx, End, Hub, Input, Step, Ticks, Violation};
use crate::proto::index::client;
use crate::proto::index::reply::{Sending, Unanswered, granted};
use crate::proto::index::sharer::NOT_ONLINE;
use crate::proto::index::transfer::RANGE_BYTES;
use crate::proto::index::wire::{Frame, Kind, Range, Request};

use super::holder::{LOSSES_MAX, Link};
use super::task::{Job, Why};
use super::{Conn, Fetcher, Phase, STORES_MAX};

/// Longest payload of an answer between peers: three numbers, or a reason.
const ANSWER_BYTES_MAX: usize = 1024;

/// Ranges that a fast holder is asked for at once, so that it is busy while a range is on its way.
const AHEAD_MAX: usize = 4;

/// A holder is fast if a range takes at most the first, and slow if it takes more than the second.
const FAST: Ticks = Ticks::from_millis(50);
const SLOW: Ticks = Ticks::from_millis(500);

/// Pause before a lost holder is dialled again; it doubles with each loss.
const REDIAL: Ticks = Ticks::from_millis(250);

/// Pause before a holder is dialled again that closed while it was asked for nothing.
const REST: Ticks = Ticks::from_secs(1);

/// A holder whose answers were only that it is busy, for this long, is dropped.
const BUSY_MAX: Ticks = Ticks::from_secs(300);

/// Pauses before a holder that asked for a login is asked again: the time of a login, and that of a busy index.
const LOGIN_SECS: u64 = 1;
const LONG_LOGIN_SECS: u64 = 3;

impl Fetcher {
    pub(super) fn dial(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let addr = self.holders[holder].deeds.source.addr;
        let conn = hub.dial(addr, None, Conn::Holder(holder));
        self.holders[holder].link = Link::Dialling(conn);
        // It may have been dropped as slow.
        self.holders[holder].deeds.dropped = None;
    }

    /// Asks a holder for as many ranges at once as its pace allows.
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
            let under_way = self.holders.iter().flat_map(|h| h.asked.iter().copied());
            let Some(range) = self.plan.next(holder, now, under_way) else {
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

    /// Closes a holder's connection and gives the ranges that it owes back to the plan.
    pub(super) fn hang_up(&mut self, hub: &mut Hub<Fetcher>, holder: usize, link: Link) {
        self.plan.set_ready(holder, false);
        let it = &mut self.holders[holder];
        for (range, _) in it.asked.drain(..) {
            self.plan.give_back(holder, range);
        }
        (it.length, it.rests) = (None, false);
        let bytes = std::mem::take(&mut it.bytes);
        if let Link::Dialling(conn) | Link::Up(conn) = std::mem::replace(&mut it.link, link) {
            hub.close_conn(conn);
        }
        self.reuse(bytes);
    }

    /// Drops a holder: it is not asked any more.
    pub(super) fn drop(&mut self, hub: &mut Hub<Fetcher>, holder: usize, why: Why) {
        let addr = self.holders[holder].deeds.source.addr;
        log::warn!("{addr} is not asked any more: {why}");
        self.plan.drop(holder);
        self.hang_up(hub, holder, Link::Dropped);
        self.holders[holder].deeds.dropped = Some(why);
    }

    /// A holder's connection has ended: dials again later, or drops the holder.
    pub(super) fn lose(&mut self, hub: &mut Hub<Fetcher>, holder: usize, end: End) {
        let owed = !self.holders[holder].asked.is_empty();
        let was_up = matches!(self.holders[holder].link, Link::Up(_));
        if was_up && !owed {
            // Closed while idle. Not dialled at once: it may close every connection.
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

    /// Handles the answer to the oldest request of a holder.
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
        // At most a range, as was just compared.
        it.length = Some(asked.1 as usize);
        it.bytes = self.spare.pop().unwrap_or_default();
        it.bytes.reserve_exact(asked.1 as usize);
        Ok(())
    }

    /// The holder is busy: asks again when it says, but not for ever.
    fn is_busy(&mut self, hub: &mut Hub<Fetcher>, holder: usize, retry_secs: u64, text: String) {
        let now = hub.now();
        let since = *self.holders[holder].busy_since.get_or_insert(now);
        if now.since(since) >= BUSY_MAX {
            return self.drop(hub, holder, Why::Busy(text));
        }
        let until = now + Ticks::from_secs(retry_secs.min(60));
        self.hang_up(hub, holder, Link::Lost { until });
    }

    /// The holder says that we are not online: another process of our user has logged out, or the index has restarted.
    /// Logs in once more for each holder that says so, and asks it again after that.
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

    /// Other holders are quicker: hangs up until no other holder is left.
    pub(super) fn is_slow(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        log::info!("{}: {}", self.holders[holder].deeds.source.addr, Why::Slow);
        self.holders[holder].deeds.dropped = Some(Why::Slow);
        self.hang_up(hub, holder, Link::Slow);
    }

    /// A holder has sent a whole range.
    pub(super) fn range(&mut self, hub: &mut Hub<Fetcher>, holder: usize) {
        let now = hub.now();
        let it = &mut self.holders[holder];
        it.length = None;
        let bytes = std::mem::take(&mut it.bytes);
        let Some((range, asked_at)) = it.asked.pop_front() else {
            return;
        };
        // A range that was asked ahead is timed from the end of the one before it.
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
        if bytes.capacity() > 0 && self.spare.len() < STORES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// For [`Service::on_input`](crate::engine::Service::on_input): answers, and the bytes of ranges.
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
        let rests = self.stores >= STORES_MAX;
        self.holders[holder].rests |= rests;
        Ok(Step::message(taken, rests))
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

//! Links: connections to members that are kept open, for the requests of [`wire::extension`].
//!
//! ```text
//! call ─▶ dial, when there is no link ─▶ requests, pipelined ─▶ replies, in their order ─▶ LinkHost::on_reply
//!                      │                          │
//!                      └── nobody, nothing, an end ──▶ LinkHost::on_reply with an error, a turn later
//! ```
//! A service that has links is a [`LinkHost`], generic as for [`super::client`].
//!
//! Invariants:
//! - each call ends exactly once by [`LinkHost::on_reply`], and never from inside of [`call`];
//! - there is at most one link for each address and [`Lane`];
//! - a link has a timer only while a call waits on it, so an idle one wakes nobody. The engine closes one that is not used
//!   for its `Limits::idle`; each reply begins that anew on both sides.
//!
//! A peer that closes upon the first request without a byte is *plain*: it knows nothing of the extension. It is not asked
//! again for [`PLAIN_FOR`]. One that resets the connection, or has answered before, may just have died: it is plain only
//! when it does so twice.
//!
//! [`wire::extension`]: crate::proto::dht::wire::extension

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};

use bytes::Bytes;

use crate::engine::{
    ConnId, Cx, Deadline, End, Hub, Input, Service, Step, Tick, Ticks, TimerId, Violation,
};
use crate::proto::dht::wire::extension::{Extension, Kind, Piece, Reply, ReplyReader};

/// Links at once. A node has one to each pred and successor that it knows, and one for each range that is compared.
pub const LINKS_MAX: usize = 64;

/// Calls of one link that wait for their replies.
pub const CALLS_MAX: usize = 16_384;

/// Addresses of which it is remembered whether they answer.
const PEERS_MAX: usize = 1024;

/// How long a plain peer is not asked again: it may have been replaced by one of ours.
pub const PLAIN_FOR: Ticks = Ticks::from_secs(600);

/// A link on which the oldest call waits, and nothing comes for this long, is closed.
pub const CALL_WITHIN: Ticks = Ticks::from_secs(3);

/// Calls that wait for each other share a lane: replies come in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// What is to be answered soon.
    Main,
    /// What may take its time: beats do not wait behind it.
    Bulk,
}

/// Names a link: the half of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkKey {
    addr: SocketAddrV4,
    lane: Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTimer {
    /// The oldest call of this link may have waited long enough.
    Oldest(LinkKey),
    /// Calls that failed are to be told.
    Failed,
}

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// Nobody listens at the address.
    Refused,
    /// The address could not be reached.
    Unreachable,
    /// The peer knows nothing of the extension.
    Plain,
    /// The link ended. The request may or may not have been served.
    Lost,
    /// No reply came in time; the link is closed.
    TimedOut,
    /// A limit of ours was reached: of calls, links, timers, or of what waits to be sent.
    Limit,
}

/// A service that has links.
pub trait LinkHost: Service<Conn: From<LinkKey>, Timer: From<LinkTimer>> {
    /// What the host remembers with a call.
    type CallTag;

    fn links(&mut self) -> &mut Links<Self::CallTag>;
    /// The local address to dial from.
    fn dial_from(&self) -> Option<SocketAddrV4>;
    /// The longest value that is taken in a reply.
    fn value_bytes_max(&self) -> u64;
    /// A call is over.
    fn on_reply(
        &mut self,
        hub: &mut Hub<Self>,
        from: SocketAddrV4,
        tag: Self::CallTag,
        result: Result<Reply, LinkError>,
    );
}

/// The links of a host.
#[derive(Debug)]
pub struct Links<T> {
    links: BTreeMap<LinkKey, Link<T>>,
    /// What is known of peers that have a link, or had one.
    peers: BTreeMap<SocketAddrV4, Manners>,
    /// Calls that are over and not told.
    failed: VecDeque<(SocketAddrV4, T, LinkError)>,
}

impl<T> Default for Links<T> {
    fn default() -> Links<T> {
        Links {
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            failed: VecDeque::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    Extended,
    /// It ended a connection without a byte, and may have died.
    Doubtful,
    PlainUntil(Tick),
}

#[derive(Debug)]
struct Link<T> {
    conn: ConnId,
    /// It is dialled, and requests can be sent.
    is_open: bool,
    /// Something came on it.
    answered: bool,
    /// When it was dialled, or something came.
    heard: Tick,
    /// Waiting for their replies, oldest first.
    calls: VecDeque<Call<T>>,
    /// The reply to the oldest call.
    reader: Option<ReplyReader>,
    /// Armed for the oldest call, or for one before it.
    timer: Option<TimerId>,
    /// Bytes that waited to be sent when the timer was armed.
    queued_bytes: usize,
    /// Bytes of values that wait for the connection.
    held_bytes: usize,
}

#[derive(Debug)]
struct Call<T> {
    tag: T,
    kind: Kind,
    since: Tick,
    /// Not sent yet.
    request: Option<(Extension, Option<Bytes>)>,
}

impl<T> Links<T> {
    /// The peer is known to be plain, and is not asked now.
    pub fn is_plain(&self, addr: SocketAddrV4, now: Tick) -> bool {
        matches!(self.peers.get(&addr), Some(Manners::PlainUntil(until)) if now < *until)
    }

    /// The peer sent us a request of the extension.
    pub fn heard_extension(&mut self, addr: SocketAddrV4) {
        self.learn(addr, Manners::Extended);
    }

    /// Calls that wait for replies, over all links.
    pub fn calls(&self) -> usize {
        let waiting: usize = self.links.values().map(|link| link.calls.len()).sum();
        waiting + self.failed.len()
    }

    /// Bytes that may be sent on a link before they pile up. A link that is being dialled has room for one call.
    pub fn room<S: Service>(&self, hub: &Hub<S>, to: SocketAddrV4, lane: Lane) -> usize {
        let full = hub.limits().output_bytes_high;
        match self.links.get(&LinkKey { addr: to, lane }) {
            Some(link) if link.is_open => hub.room_of(link.conn),
            Some(link) => full.saturating_sub(link.held_bytes),
            None => full,
        }
    }

    fn learn(&mut self, addr: SocketAddrV4, manners: Manners) {
        if self.peers.len() == PEERS_MAX && !self.peers.contains_key(&addr) {
            // Any of them: it is learnt again when it is asked.
            self.peers.pop_first();
        }
        self.peers.insert(addr, manners);
    }

    /// A call ends; the host is told in the next turn.
    fn fail<S>(&mut self, hub: &mut Hub<S>, addr: SocketAddrV4, tag: T, error: LinkError)
    where
        S: Service<Timer: From<LinkTimer>>,
    {
        self.failed.push_back((addr, tag, error));
        hub.soon(LinkTimer::Failed.into());
    }

    /// A link is over: all its calls end.
    fn end<S>(&mut self, hub: &mut Hub<S>, key: LinkKey, error: LinkError)
    where
        S: Service<Timer: From<LinkTimer>>,
    {
        let Some(link) = self.links.remove(&key) else {
            return;
        };
        hub.close_conn(link.conn);
        if let Some(timer) = link.timer {
            hub.cancel(timer);
        }
        for call in link.calls {
            self.fail(hub, key.addr, call.tag, error);
        }
    }

    /// The timer of a link runs while a call waits on it.
    fn watch<S>(&mut self, hub: &mut Hub<S>, key: LinkKey)
    where
        S: Service<Timer: From<LinkTimer>>,
    {
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        let due = link.due().filter(|_| link.is_open);
        match (due, link.timer) {
            (None, Some(timer)) => {
                hub.cancel(timer);
                link.timer = None;
            }
            (Some(due), None) => {
                link.queued_bytes = hub.queued_of(link.conn);
                let timer = LinkTimer::Oldest(key).into();
                link.timer = hub.arm(due.since(hub.now()), timer);
                if link.timer.is_none() {
                    self.end(hub, key, LinkError::Limit);
                }
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

impl<T> Link<T> {
    /// When the oldest call has waited long enough, if nothing more comes.
    fn due(&self) -> Option<Tick> {
        let oldest = self.calls.front()?;
        Some(oldest.since.max(self.heard) + CALL_WITHIN)
    }
}

/// Sends `request` to the member at `to`, and behind it `value` if it is an XPUT. [`LinkHost::on_reply`] tells what came of
/// it.
pub fn call<H: LinkHost>(
    host: &mut H,
    hub: &mut Hub<H>,
    to: SocketAddrV4,
    request: Extension,
    value: Option<Bytes>,
    tag: H::CallTag,
) {
    call_in(host, hub, to, Lane::Main, request, value, tag);
}

/// The same in another lane.
pub fn call_in<H: LinkHost>(
    host: &mut H,
    hub: &mut Hub<H>,
    to: SocketAddrV4,
    lane: Lane,
    request: Extension,
    value: Option<Bytes>,
    tag: H::CallTag,
) {
    let (now, key) = (hub.now(), LinkKey { addr: to, lane });
    let dial_from = host.dial_from().map(SocketAddr::V4);
    let links = host.links();
    if links.is_plain(to, now) {
        return links.fail(hub, to, tag, LinkError::Plain);
    }
    if !links.links.contains_key(&key) && links.links.len() == LINKS_MAX {
        return links.fail(hub, to, tag, LinkError::Limit);
    }
    let link = links.links.entry(key).or_insert_with(|| Link {
        conn: hub.dial(to, dial_from, key.into()),
        is_open: false,
        answered: false,
        heard: now,
        calls: VecDeque::new(),
        reader: None,
        timer: None,
        queued_bytes: 0,
        held_bytes: 0,
    });
    let value_bytes = value.as_ref().map_or(0, Bytes::len);
    let waiting_bytes = hub.queued_of(link.conn) + link.held_bytes + value_bytes;
    // Beyond that the engine closes the connection.
    if link.calls.len() == CALLS_MAX || waiting_bytes >= hub.limits().output_bytes_max {
        return links.fail(hub, to, tag, LinkError::Limit);
    }
    let kind = request.kind();
    let request = if link.is_open {
        send(hub, link.conn, &request, value.as_ref());
        None
    } else {
        link.held_bytes += value_bytes;
        Some((request, value))
    };
    link.calls.push_back(Call {
        tag,
        kind,
        since: now,
        request,
    });
    links.watch(hub, key);
}

fn send<S: Service>(hub: &mut Hub<S>, conn: ConnId, request: &Extension, value: Option<&Bytes>) {
    if let Some(out) = hub.output_of(conn) {
        request.put(out);
        if let Some(value) = value {
            hub.send_to(conn, value);
        }
    }
}

/// Closes the links to `addr`. Their calls end as lost.
pub fn close<H: LinkHost>(host: &mut H, hub: &mut Hub<H>, addr: SocketAddrV4) {
    for lane in [Lane::Main, Lane::Bulk] {
        host.links()
            .end(hub, LinkKey { addr, lane }, LinkError::Lost);
    }
}

/// For [`Service::on_dialled`] of a link's connection.
pub fn dialled<H: LinkHost>(host: &mut H, cx: &mut Cx<'_, H>, key: LinkKey) {
    let (conn, now) = (cx.id(), cx.now());
    let links = host.links();
    let Some(link) = links.links.get_mut(&key).filter(|link| link.conn == conn) else {
        return;
    };
    (link.is_open, link.heard, link.held_bytes) = (true, now, 0);
    for call in &mut link.calls {
        if let Some((request, value)) = call.request.take() {
            send(cx, conn, &request, value.as_ref());
        }
    }
    links.watch(cx, key);
}

/// For [`Service::on_input`] of a link's connection.
pub fn input<H: LinkHost>(
    host: &mut H,
    cx: &mut Cx<'_, H>,
    key: LinkKey,
    input: Input<'_>,
) -> Result<Step, Violation> {
    let (conn, now) = (cx.id(), cx.now());
    let value_bytes_max = host.value_bytes_max();
    let links = host.links();
    let Some(link) = links.links.get_mut(&key).filter(|link| link.conn == conn) else {
        return Err(Violation::us("the link is over"));
    };
    (link.heard, link.answered) = (now, true);
    let Some(oldest) = link.calls.front() else {
        return Err(Violation::peer("a reply without a request"));
    };
    let kind = oldest.kind;
    let reader = link.reader.get_or_insert_with(|| ReplyReader::new(kind));
    let Some((piece, used)) = reader.read(input.bytes, value_bytes_max)? else {
        return Ok(Step::More);
    };
    let Piece::Whole(reply) = piece else {
        return Ok(Step::Took(used));
    };
    link.reader = None;
    if let Some(call) = link.calls.pop_front() {
        links.learn(key.addr, Manners::Extended);
        links.watch(cx, key);
        host.on_reply(cx, key.addr, call.tag, Ok(reply));
    }
    Ok(Step::Done(used))
}

/// For [`Service::on_end`] of a link's connection.
pub fn ended<H: LinkHost>(host: &mut H, hub: &mut Hub<H>, id: ConnId, key: LinkKey, end: End) {
    let now = hub.now();
    let links = host.links();
    let Some(link) = links.links.get(&key).filter(|link| link.conn == id) else {
        return;
    };
    let is_mute = link.is_open && !link.answered && !link.calls.is_empty();
    let error = match end {
        End::Unreachable(ErrorKind::ConnectionRefused) => LinkError::Refused,
        End::Unreachable(_) | End::Timeout(Deadline::Dial) => LinkError::Unreachable,
        End::Limit(_) => LinkError::Limit,
        End::Timeout(_) => LinkError::TimedOut,
        End::Eof | End::Broken(_) if is_mute => {
            let may_have_died = match links.peers.get(&key.addr) {
                Some(Manners::Extended) => true,
                Some(Manners::Doubtful) => false,
                None | Some(Manners::PlainUntil(_)) => end != End::Eof,
            };
            let (manners, error) = if may_have_died {
                (Manners::Doubtful, LinkError::Lost)
            } else {
                (Manners::PlainUntil(now + PLAIN_FOR), LinkError::Plain)
            };
            links.learn(key.addr, manners);
            error
        }
        _ => LinkError::Lost,
    };
    links.end(hub, key, error);
}

/// For [`Service::on_timer`] of a timer of links.
pub fn timer<H: LinkHost>(host: &mut H, hub: &mut Hub<H>, timer: LinkTimer) {
    let LinkTimer::Oldest(key) = timer else {
        return tell_failed(host, hub);
    };
    let now = hub.now();
    let links = host.links();
    let Some(link) = links.links.get_mut(&key) else {
        return;
    };
    link.timer = None;
    // What is still on its way to the peer cannot be answered.
    let sent_bytes = link.queued_bytes.saturating_sub(hub.queued_of(link.conn));
    if sent_bytes > hub.limits().output_bytes_high {
        link.heard = now;
    }
    if link.due().is_some_and(|due| due <= now) {
        links.end(hub, key, LinkError::TimedOut);
    } else {
        links.watch(hub, key);
    }
}

fn tell_failed<H: LinkHost>(host: &mut H, hub: &mut Hub<H>) {
    // What fails because of these is told in the next turn.
    for _ in 0..host.links().failed.len() {
        if let Some((addr, tag, error)) = host.links().failed.pop_front() {
            host.on_reply(hub, addr, tag, Err(error));
        }
    }
}

#[cfg(test)]
mod tests;

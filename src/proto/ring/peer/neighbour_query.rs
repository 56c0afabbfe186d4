//! A peer's queries to its neighbour: one at a time, on one connection while the neighbour keeps it open.
//!
//! For: the connection to the neighbour, its deadlines, and a neighbour that closes after each answer. Not for: which item is
//! next (`query_order.rs`), or what is stored (`items.rs`).
//!
//! Invariant: while a query is open, it has a deadline; without one, there is a deadline if an item is missing and there is
//! a neighbour to ask.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, Tick, Ticks, Violation};
use crate::proto::ring::wire::{Encoding, Neighbour, Reply, Request};

use super::config::{Host, Own, Target};
use super::items::Items;
use super::query_order::{Next, QueryOrder};

/// A neighbour that has not answered within this, dialling included, is asked again later: more than twice the time for
/// which a peer of ours parks a query.
const ANSWER_TIMEOUT: Ticks = Ticks::from_secs(5);

/// The neighbour, as the tracker named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    pub handle: Box<str>,
    pub addr: SocketAddrV4,
}

/// The connection to the neighbour.
#[derive(Debug, Clone, Copy, Default)]
enum Link {
    #[default]
    None,
    Dialling(ConnId, Reuse),
    Open(ConnId, Reuse),
}

/// Whether a connection to this neighbour serves more than one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// One query: the neighbour closed an earlier connection after its answer.
    Single,
    Unknown,
    /// It has answered once and was not closed.
    Kept,
}

#[derive(Debug, Default)]
pub(super) struct NeighbourQueries {
    neighbour: Option<Predecessor>,
    link: Link,
    /// The neighbour closes after each answer.
    closes: bool,
    /// The item that is queried.
    open: Option<u32>,
    due: Option<Tick>,
    order: QueryOrder,
    sent: u64,
}

impl Link {
    fn conn(self) -> Option<ConnId> {
        match self {
            Link::None => None,
            Link::Dialling(conn, _) | Link::Open(conn, _) => Some(conn),
        }
    }
}

impl NeighbourQueries {
    pub(super) fn neighbour(&self) -> Option<&Predecessor> {
        self.neighbour.as_ref()
    }

    /// Queries sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The connection to the neighbour.
    pub(super) fn conn(&self) -> Option<ConnId> {
        self.link.conn()
    }

    /// When [`NeighbourQueries::fired`] is to be called.
    pub(super) fn due(&self) -> Option<Tick> {
        self.due
    }

    /// The tracker named a neighbour. Returns whether it is another one than before.
    pub(super) fn set_neighbour(
        &mut self,
        host: &mut dyn Host,
        own: &Own,
        items: &Items,
        neighbour: &Neighbour<'_>,
    ) -> bool {
        let neighbour = Predecessor {
            handle: (*neighbour.handle).into(),
            addr: neighbour.addr,
        };
        if self.neighbour.as_ref() == Some(&neighbour) {
            return false;
        }
        self.hang_up(host);
        *self = NeighbourQueries {
            neighbour: Some(neighbour),
            sent: self.sent,
            ..NeighbourQueries::default()
        };
        self.go_on(host, own, items);
        true
    }

    /// Sends the next query, if it is time for one and none is open.
    pub(super) fn go_on(&mut self, host: &mut dyn Host, own: &Own, items: &Items) {
        if self.open.is_some() {
            return;
        }
        // A peer that is alone in the ring is its own neighbour.
        let config = &own.config;
        let other = self
            .neighbour
            .as_ref()
            .filter(|n| *n.handle != *config.handle && n.addr != config.addr)
            .map(|n| n.addr);
        let now = host.now();
        match (self.order.next(now, items), other) {
            (Next::Query(seq), Some(addr)) => {
                self.open = Some(seq);
                self.due = Some(now + ANSWER_TIMEOUT);
                match self.link {
                    Link::Open(conn, _) => self.send(host, conn),
                    Link::Dialling(..) => {}
                    Link::None => self.dial(host, own, addr),
                }
            }
            (Next::Wait(at), Some(_)) => self.due = Some(at),
            _ => {
                self.due = None;
                self.hang_up(host);
            }
        }
    }

    fn dial(&mut self, host: &mut dyn Host, own: &Own, addr: SocketAddrV4) {
        let reuse = if self.closes {
            Reuse::Single
        } else {
            Reuse::Unknown
        };
        let conn = own.dial(host, Target::Neighbour, addr);
        self.link = Link::Dialling(conn, reuse);
    }

    fn send(&mut self, host: &mut dyn Host, conn: ConnId) {
        if let (Some(seq), Some(out)) = (self.open, host.output_of(conn)) {
            Request::Query { seq }.put(Encoding::OURS, out);
            self.sent += 1;
        }
    }

    fn hang_up(&mut self, host: &mut dyn Host) {
        if let Some(conn) = self.link.conn() {
            self.link = Link::None;
            host.close_conn(conn);
        }
    }

    pub(super) fn reached(&mut self, host: &mut dyn Host, id: ConnId) {
        match self.link {
            Link::Dialling(conn, reuse) if conn == id => {
                self.link = Link::Open(conn, reuse);
                self.send(host, id);
            }
            _ => host.close_conn(id),
        }
    }

    /// The neighbour's answer. Returns the number of the item that came with it.
    pub(super) fn answered(
        &mut self,
        host: &mut dyn Host,
        own: &Own,
        items: &mut Items,
        id: ConnId,
        reply: Reply<'_>,
    ) -> Result<Option<u32>, Violation> {
        let (Link::Open(conn, reuse), Reply::QueryResult(result)) = (self.link, reply) else {
            return Err(Violation::peer("no answer to a QUERY"));
        };
        if conn != id {
            // An earlier neighbour's.
            return Ok(None);
        }
        let seq = self.open;
        let seq = seq.ok_or(Violation::peer("an answer that nobody asked for"))?;
        let came = match result {
            // An item beyond the limit of memory stays missing: after a hit it would be queried again at once.
            Some(item) if item.seq == seq && items.insert(&item) => {
                self.order.hit(seq);
                Some(seq)
            }
            Some(item) if item.seq == seq => {
                self.order.missed(seq);
                None
            }
            Some(_) => return Err(Violation::peer("another item than was asked for")),
            None => {
                self.order.missed(seq);
                None
            }
        };
        self.open = None;
        if reuse == Reuse::Single {
            self.hang_up(host);
        } else {
            self.link = Link::Open(conn, Reuse::Kept);
        }
        self.go_on(host, own, items);
        Ok(came)
    }

    pub(super) fn ended(&mut self, host: &mut dyn Host, own: &Own, items: &Items, id: ConnId) {
        let was_kept = match self.link {
            Link::Open(conn, reuse) if conn == id => reuse == Reuse::Kept,
            Link::Dialling(conn, _) if conn == id => false,
            _ => return,
        };
        self.link = Link::None;
        if self.open.is_none() {
            return;
        }
        match &self.neighbour {
            // It closes after each answer, and the query crossed the close: no failure. The query keeps its deadline.
            Some(neighbour) if was_kept => {
                let addr = neighbour.addr;
                self.closes = true;
                self.dial(host, own, addr);
            }
            _ => self.failed(host, own, items),
        }
    }

    /// Does what is due by now.
    pub(super) fn fired(&mut self, host: &mut dyn Host, own: &Own, items: &Items) {
        if self.due.is_none_or(|due| due > host.now()) {
            return;
        }
        if self.open.is_some() {
            self.hang_up(host);
            self.failed(host, own, items);
        } else {
            self.go_on(host, own, items);
        }
    }

    fn failed(&mut self, host: &mut dyn Host, own: &Own, items: &Items) {
        self.open = None;
        self.order.failed(host.now());
        self.go_on(host, own, items);
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::host::fake::FakeHost;
    use crate::proto::ring::wire::Item;

    use super::super::config::{Config, Outbound, Timer};
    use super::super::items::ITEMS_BYTES_MAX;
    use super::*;

    fn addr(n: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, n].into(), 5000)
    }

    fn item(seq: u32, bytes: usize) -> Item<'static> {
        let data = "x".repeat(bytes).into();
        Item { seq, data }
    }

    struct Setup {
        host: FakeHost<Outbound, Timer>,
        own: Own,
        items: Items,
        queries: NeighbourQueries,
    }

    /// A peer that misses items from a neighbour which has accepted its connection.
    fn setup(total: u32) -> Setup {
        let config = Config {
            handle: "me".into(),
            addr: addr(1),
            tracker: addr(9),
            dial_from: None,
        };
        let mut it = Setup {
            host: FakeHost::new(),
            own: Own { config, index: 0 },
            items: Items::default(),
            queries: NeighbourQueries::default(),
        };
        it.items.begin(total, None);
        let neighbour = Neighbour {
            handle: "other".into(),
            addr: addr(2),
        };
        assert!(
            it.queries
                .set_neighbour(&mut it.host, &it.own, &it.items, &neighbour)
        );
        let conn = it.host.last();
        it.queries.reached(&mut it.host, conn);
        it
    }

    impl Setup {
        fn answer(&mut self, item: Option<Item<'_>>) -> Option<u32> {
            let (conn, reply) = (self.host.last(), Reply::QueryResult(item));
            let came =
                self.queries
                    .answered(&mut self.host, &self.own, &mut self.items, conn, reply);
            came.expect("an answer that was asked for")
        }

        fn ended(&mut self) {
            let conn = self.host.last();
            self.queries
                .ended(&mut self.host, &self.own, &self.items, conn);
        }
    }

    /// It used to count as a hit, and to be queried again at once, for ever.
    #[test]
    fn an_item_beyond_the_memory_limit_is_queried_again_after_a_pause() {
        let mut it = setup(u32::MAX);
        let bytes = 16 << 20;
        let fit = ITEMS_BYTES_MAX / bytes - 1;
        for seq in 0..fit as u32 {
            assert_eq!(it.answer(Some(item(seq, bytes))), Some(seq));
        }
        // The last one that fits leaves no room for another.
        let last = fit as u32;
        assert_eq!(
            it.answer(Some(item(last, bytes))),
            None,
            "with its overhead"
        );
        let mut sent = it.queries.sent();
        for _ in 0..100 {
            let Some(seq) = it.queries.open else { break };
            it.answer(Some(item(seq, bytes)));
        }
        sent = it.queries.sent() - sent;
        assert!(
            it.queries.open.is_none(),
            "{sent} more queries without a pause"
        );
        assert!(it.queries.due().is_some_and(|due| due > it.host.now));
    }

    #[test]
    fn a_neighbour_that_closes_after_each_answer_is_dialled_for_each_query() {
        let mut it = setup(3);
        assert_eq!(it.answer(Some(item(0, 1))), Some(0));
        // The second query crosses the close.
        let due = it.queries.due();
        it.host.now = Tick(5);
        it.ended();
        assert_eq!((it.host.dials.len(), it.queries.due()), (2, due));
        let conn = it.host.last();
        it.queries.reached(&mut it.host, conn);
        assert_eq!(it.answer(Some(item(1, 1))), Some(1));
        assert_eq!((it.host.closed.len(), it.host.dials.len()), (1, 3));
    }

    #[test]
    fn a_silent_neighbour_is_given_up_at_its_deadline_and_asked_again() {
        let mut it = setup(1);
        let due = it.queries.due().expect("a deadline");
        assert_eq!(due, Tick(0) + ANSWER_TIMEOUT);
        it.host.now = Tick(due.0 - 1);
        it.queries.fired(&mut it.host, &it.own, &it.items);
        assert!(it.host.closed.is_empty());
        it.host.now = due;
        it.queries.fired(&mut it.host, &it.own, &it.items);
        assert_eq!((it.host.closed.len(), it.host.dials.len()), (1, 1));
        it.host.now = it.queries.due().expect("a pause");
        it.queries.fired(&mut it.host, &it.own, &it.items);
        assert_eq!(it.host.dials.len(), 2);
    }
}

//! A service with one session, whose host writes down what it is told.

use std::cell::RefCell;

use super::super::*;
use crate::engine::NoJob;
use crate::proto::index::client::{self, Failure, Host, Patience, Presence, Session, SessionTimer};
use crate::proto::index::exchange::Answer;

pub(super) struct Member {
    pub(super) session: Session<usize>,
    /// Looked at between turns.
    pub(super) answers: RefCell<Vec<(usize, Result<Answer, Failure>)>>,
    pub(super) news: RefCell<Vec<Presence>>,
}

impl Host for Member {
    type Tag = usize;

    fn session(&mut self) -> &mut Session<usize> {
        &mut self.session
    }

    fn conn() {}

    fn timer(timer: SessionTimer) -> SessionTimer {
        timer
    }

    fn on_answer(&mut self, _: &mut Hub<Self>, call: usize, result: Result<Answer, Failure>) {
        self.answers.get_mut().push((call, result));
    }

    fn on_presence(&mut self, _: &mut Hub<Self>, news: Presence) {
        self.news.get_mut().push(news);
    }
}

impl Service for Member {
    type Conn = ();
    type Note = ();
    type Timer = SessionTimer;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, _: &mut Cx<'_, Self>, _: usize) {}

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, (): &mut ()) {
        client::dialled(self, cx);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (): &mut (),
        bytes: Input<'_>,
    ) -> Result<Step, Violation> {
        client::input(self, cx, bytes)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, (): (), end: End) {
        client::ended(self, hub, id, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: SessionTimer) {
        client::fire(self, hub, timer);
    }
}

pub(super) fn new_member(n: usize) -> Member {
    let server = SocketAddrV4::new(*SERVER.ip(), 9100 + n as u16);
    let patience = Patience {
        answer: Ticks::from_secs(5),
        call: Ticks::from_secs(20),
    };
    Member {
        session: Session::new(server.into(), patience),
        answers: RefCell::default(),
        news: RefCell::default(),
    }
}

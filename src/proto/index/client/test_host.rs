//! A service with one session, for tests: it records what its session says.

use std::cell::RefCell;
use std::net::SocketAddr;

use super::{
    Failure, Host, Patience, Presence, Session, SessionTimer, dialled, ended, fire, input,
};
use crate::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Violation};
use crate::proto::index::call::Answer;

pub(in crate::proto::index) struct TestHost {
    pub(in crate::proto::index) session: Session<usize>,
    /// Looked at between turns.
    pub(in crate::proto::index) answers: RefCell<Vec<(usize, Result<Answer, Failure>)>>,
    pub(in crate::proto::index) news: RefCell<Vec<Presence>>,
}

impl Host for TestHost {
    type Tag = usize;

    fn session(&mut self) -> &mut Session<usize> {
        &mut self.session
    }

    fn conn() {}

    fn on_answer(&mut self, _: &mut Hub<Self>, call: usize, result: Result<Answer, Failure>) {
        self.answers.get_mut().push((call, result));
    }

    fn on_presence(&mut self, _: &mut Hub<Self>, news: Presence) {
        self.news.get_mut().push(news);
    }
}

impl Service for TestHost {
    type Conn = ();
    type Note = ();
    type Timer = SessionTimer;
    type Job = NoJob;
    type Done = ();

    fn on_dialled(&mut self, cx: &mut Cx<'_, Self>, (): &mut ()) {
        dialled(self, cx);
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Self>,
        (): &mut (),
        bytes: Input<'_>,
    ) -> Result<Step, Violation> {
        input(self, cx, bytes)
    }

    fn on_end(&mut self, hub: &mut Hub<Self>, id: ConnId, (): (), end: End) {
        ended(self, hub, id, end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Self>, timer: SessionTimer) {
        fire(self, hub, timer);
    }
}

impl TestHost {
    pub(in crate::proto::index) fn new(server: SocketAddr, patience: Patience) -> TestHost {
        TestHost {
            session: Session::new(server, patience),
            answers: RefCell::default(),
            news: RefCell::default(),
        }
    }
}

//! A service that makes some calls to the index server and then stops its driver: one-shot commands run it.
//!
//! It never stays online.

use std::net::SocketAddr;

use crate::engine::{ConnId, Cx, End, Hub, Input, NoJob, Service, Step, Violation};

use super::call::{Answer, Call};
use super::client::{self, Failure, Host, Patience, Session, SessionTimer};

/// See the module.
#[derive(Debug)]
pub struct Batch {
    session: Session<usize>,
    calls: Vec<Call>,
    results: Vec<Option<Result<Answer, Failure>>>,
}

impl Batch {
    pub fn new(server: SocketAddr, patience: Patience, calls: Vec<Call>) -> Batch {
        Batch {
            session: Session::new(server, patience),
            results: vec![None; calls.len()],
            calls,
        }
    }

    /// The answers, in the order of the calls; `None` for calls under way when the driver was stopped.
    pub fn into_results(self) -> Vec<Option<Result<Answer, Failure>>> {
        self.results
    }

    fn stop_when_done(&mut self, hub: &mut Hub<Batch>) {
        if self.session.calls() == 0 {
            client::hang_up(self, hub);
            hub.stop();
        }
    }
}

impl Host for Batch {
    type Tag = usize;

    fn session(&mut self) -> &mut Session<usize> {
        &mut self.session
    }

    fn conn() {}

    fn on_answer(&mut self, hub: &mut Hub<Self>, number: usize, result: Result<Answer, Failure>) {
        self.results[number] = Some(result);
        self.stop_when_done(hub);
    }
}

impl Service for Batch {
    type Conn = ();
    type Note = ();
    type Timer = SessionTimer;
    type Job = NoJob;
    type Done = ();

    fn on_start(&mut self, hub: &mut Hub<Batch>) {
        for (number, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            client::ask(self, hub, number, call);
        }
        self.stop_when_done(hub);
    }

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

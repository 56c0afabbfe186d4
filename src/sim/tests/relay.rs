//! A toy service of the other kind: for each request it dials the next node, and relays the answer back.
//!
//! `ask HOPS TEXT` is answered with `TEXT` in capitals by the node HOPS further on (its worker does the
//! capitals), with `failed` when a node on the way could not be reached, and with `late` after
//! [`PATIENCE`]. Every request gets exactly one of these lines, in order, or its connection ends.

use std::net::SocketAddrV4;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Ticks, TimerId, Violation, Work};

const PATIENCE: Ticks = Ticks::from_secs(20);

/// In the place of a request's number: whichever is under way.
const LATE: u64 = 0;

/// The next nodes, taken in turn.
pub(super) struct Relay {
    pub(super) next: Vec<SocketAddrV4>,
    pub(super) requests: u64,
    pub(super) opened: u64,
    pub(super) ended: u64,
    pub(super) answered: u64,
}

impl Relay {
    pub(super) fn new(next: Vec<SocketAddrV4>) -> Relay {
        Relay {
            next,
            requests: 0,
            opened: 0,
            ended: 0,
            answered: 0,
        }
    }

    fn answer(&mut self, hub: &mut Hub<Relay>, to: ConnId, text: &str) {
        if let Some(out) = hub.output_of(to) {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
            self.answered += 1;
        }
        hub.resume(to);
    }
}

/// A request under way: its number, the connection that carries it on, its timer.
type Asked = (u64, Option<ConnId>, Option<TimerId>);

pub(super) enum Conn {
    Server {
        asked: Option<Asked>,
    },
    Client {
        origin: ConnId,
        number: u64,
        request: String,
        answered: bool,
    },
}

/// For the connection that asked: the answer to its request number so-and-so.
pub(super) struct Answer {
    number: u64,
    text: String,
}

/// Makes capitals.
pub(super) struct Capitals;

pub(super) struct Task {
    origin: ConnId,
    number: u64,
    text: String,
}

impl Work for Capitals {
    type Job = Task;
    type Done = Task;

    fn run(&mut self, jobs: &mut Vec<Task>, done: &mut Vec<Task>) {
        done.extend(jobs.drain(..).map(|task| Task {
            text: task.text.to_uppercase(),
            ..task
        }));
    }
}

impl Service for Relay {
    type Conn = Conn;
    type Note = Answer;
    type Timer = ConnId;
    type Job = Task;
    type Done = Task;

    fn on_accept(&mut self, _cx: &mut Cx<'_, Relay>, _listener: usize) -> Option<Conn> {
        self.opened += 1;
        Some(Conn::Server { asked: None })
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Relay>, conn: &mut Conn) {
        if let Conn::Client { request, .. } = conn {
            cx.out().extend_from_slice(request.as_bytes());
        }
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Relay>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        let Some(at) = input.bytes[input.seen..].iter().position(|&b| b == b'\n') else {
            return Ok(Step::More);
        };
        let used = input.seen + at + 1;
        let line = String::from_utf8_lossy(&input.bytes[..used - 1]).into_owned();
        match conn {
            Conn::Client {
                origin,
                number,
                answered,
                ..
            } => {
                *answered = true;
                cx.notify(
                    *origin,
                    Answer {
                        number: *number,
                        text: line,
                    },
                );
                cx.close();
                Ok(Step::Done(used))
            }
            Conn::Server { asked } => {
                assert!(asked.is_none(), "one request at a time");
                *asked = Some(self.ask(cx, &line)?);
                Ok(Step::Wait(used))
            }
        }
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Relay>, conn: &mut Conn, note: Answer) {
        let Conn::Server { asked } = conn else { return };
        // An answer that came after its time is not the answer to the next request.
        if let Some((number, onward, timer)) = *asked
            && (number == note.number || note.number == LATE)
        {
            *asked = None;
            timer.into_iter().for_each(|timer| cx.cancel(timer));
            if note.number == LATE {
                onward.into_iter().for_each(|conn| cx.close_conn(conn));
            }
            let id = cx.id();
            self.answer(cx, id, &note.text);
        }
    }

    fn on_end(&mut self, hub: &mut Hub<Relay>, _id: ConnId, conn: Conn, _end: End) {
        self.ended += 1;
        match conn {
            Conn::Client {
                origin,
                number,
                answered: false,
                ..
            } => {
                hub.notify(
                    origin,
                    Answer {
                        number,
                        text: "failed".into(),
                    },
                );
            }
            Conn::Client { .. } => {}
            Conn::Server { asked } => {
                if let Some((_, onward, timer)) = asked {
                    timer.into_iter().for_each(|timer| hub.cancel(timer));
                    onward.into_iter().for_each(|conn| hub.close_conn(conn));
                }
            }
        }
    }

    fn on_timer(&mut self, hub: &mut Hub<Relay>, origin: ConnId) {
        hub.notify(
            origin,
            Answer {
                number: LATE,
                text: "late".into(),
            },
        );
    }

    fn on_done(&mut self, hub: &mut Hub<Relay>, task: Task) {
        hub.notify(
            task.origin,
            Answer {
                number: task.number,
                text: task.text,
            },
        );
    }
}

impl Relay {
    fn ask(&mut self, cx: &mut Cx<'_, Relay>, line: &str) -> Result<Asked, Violation> {
        let mut words = line.splitn(3, ' ');
        let (Some("ask"), Some(hops), Some(text)) = (words.next(), words.next(), words.next())
        else {
            return Err(Violation::peer("no request"));
        };
        let hops: u64 = hops.parse().map_err(|_| Violation::peer("no number"))?;
        let (origin, text) = (cx.id(), text.to_owned());
        self.requests += 1;
        let number = self.requests;
        let timer = cx.arm(PATIENCE, origin);
        if hops == 0 {
            cx.submit(Task {
                origin,
                number,
                text,
            })
            .map_err(|_| Violation::us("busy"))?;
            return Ok((number, None, timer));
        }
        let to = self.next[(number as usize) % self.next.len()];
        let request = format!("ask {} {text}\n", hops - 1);
        self.opened += 1;
        let conn = Conn::Client {
            origin,
            number,
            request,
            answered: false,
        };
        let onward = cx.dial(to, None, conn);
        Ok((number, Some(onward), timer))
    }
}

//! A toy service: a server of lines, with a command for each thing that the engine offers.

use bytes::Bytes;

use crate::engine::{ConnId, Cx, End, Hub, Input, Service, Step, Ticks, Violation, Work};

/// How much of a long answer is produced at a time.
const PIECE: usize = 8 * 1024;

#[derive(Default)]
pub(super) struct Lines {
    pub(super) starts: usize,
    /// Halves handed to the engine, and the ends of those that came back.
    pub(super) opened: usize,
    pub(super) ends: Vec<End>,
    /// Peers are turned away.
    pub(super) refuses: bool,
    pub(super) dialled: Vec<ConnId>,
    pub(super) accepted: Vec<ConnId>,
    pub(super) produced: usize,
    pub(super) refused: usize,
    pub(super) stamped: usize,
    pub(super) last_wait: Option<ConnId>,
    /// The timers that fired.
    pub(super) fired: Vec<ConnId>,
}

pub(super) enum Conn {
    Line,
    /// So many bytes of a body are to come, of so many.
    Body(usize, usize),
    /// So many bytes of an answer are to be produced.
    Answer(usize),
    /// We dialled.
    Client,
    /// Says how many bytes it is given, and takes them.
    Count,
}

/// The worker of [`Lines`].
pub(super) struct Stamp;

impl Work for Stamp {
    type Job = ConnId;
    type Done = ConnId;

    fn run(&mut self, jobs: &mut Vec<ConnId>, done: &mut Vec<ConnId>) {
        done.append(jobs);
    }
}

impl Service for Lines {
    type Conn = Conn;
    type Note = u32;
    type Timer = ConnId;
    type Job = ConnId;
    type Done = ConnId;

    fn on_start(&mut self, _hub: &mut Hub<Lines>) {
        self.starts += 1;
    }

    fn on_accept(&mut self, cx: &mut Cx<'_, Lines>, _listener: usize) -> Option<Conn> {
        assert_eq!(self.starts, 1, "a service starts first, and once");
        if self.refuses {
            cx.out().extend_from_slice(b"no\n");
            return None;
        }
        self.opened += 1;
        self.accepted.push(cx.id());
        Some(Conn::Line)
    }

    fn on_dialled(&mut self, cx: &mut Cx<'_, Lines>, _conn: &mut Conn) {
        self.dialled.push(cx.id());
    }

    fn on_input(
        &mut self,
        cx: &mut Cx<'_, Lines>,
        conn: &mut Conn,
        input: Input<'_>,
    ) -> Result<Step, Violation> {
        if let Conn::Body(left, total) = conn {
            let n = (*left).min(input.bytes.len());
            *left -= n;
            if *left > 0 {
                return Ok(Step::Took(n));
            }
            cx.out()
                .extend_from_slice(format!("got {total}\n").as_bytes());
            *conn = Conn::Line;
            return Ok(Step::Done(n));
        }
        if let Conn::Count = conn {
            let n = input.bytes.len();
            cx.out()
                .extend_from_slice(format!("given {n}\n").as_bytes());
            *conn = Conn::Line;
            return Ok(Step::Done(n));
        }
        assert!(
            !matches!(conn, Conn::Answer(_)),
            "no input while an answer is produced"
        );
        let Some(at) = input.bytes[input.seen..].iter().position(|&b| b == b'\n') else {
            return Ok(Step::More);
        };
        let used = input.seen + at + 1;
        let line = std::str::from_utf8(&input.bytes[..used - 1])
            .map_err(|_| Violation::peer("not text"))?;
        self.command(cx, conn, line, used)
    }

    fn on_room(&mut self, cx: &mut Cx<'_, Lines>, conn: &mut Conn) {
        if let Conn::Answer(left) = conn {
            let id = cx.id();
            *left = self.produce(cx, *left);
            if *left == 0 {
                *conn = Conn::Line;
                cx.resume(id);
            }
        }
    }

    fn on_note(&mut self, cx: &mut Cx<'_, Lines>, _conn: &mut Conn, note: u32) {
        cx.out()
            .extend_from_slice(format!("note {note}\n").as_bytes());
    }

    fn on_end(&mut self, _hub: &mut Hub<Lines>, _id: ConnId, _conn: Conn, end: End) {
        self.ends.push(end);
    }

    fn on_timer(&mut self, hub: &mut Hub<Lines>, id: ConnId) {
        self.fired.push(id);
        if let Some(out) = hub.output_of(id) {
            out.extend_from_slice(b"waited\n");
        }
        hub.resume(id);
    }

    fn on_done(&mut self, hub: &mut Hub<Lines>, id: ConnId) {
        self.stamped += 1;
        if let Some(out) = hub.output_of(id) {
            out.extend_from_slice(b"stamped\n");
        }
    }
}

impl Lines {
    fn command(
        &mut self,
        cx: &mut Cx<'_, Lines>,
        conn: &mut Conn,
        line: &str,
        used: usize,
    ) -> Result<Step, Violation> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse().unwrap_or(0usize);
        let id = cx.id();
        match word {
            "echo" => {
                let answer = rest.to_uppercase() + "\n";
                cx.out().extend_from_slice(answer.as_bytes());
            }
            "put" if number > 0 => {
                *conn = Conn::Body(number, number);
                return Ok(Step::Took(used));
            }
            "blob" => cx.send(&Bytes::from(vec![b'b'; number])),
            "big" => {
                let left = self.produce(cx, number);
                if left > 0 {
                    *conn = Conn::Answer(left);
                    return Ok(Step::Wait(used));
                }
            }
            "wait" => {
                self.last_wait = Some(id);
                cx.arm(Ticks(number as u64), id)
                    .expect("below the limit of timers");
                return Ok(Step::Wait(used));
            }
            "ready" => {
                cx.resume(id);
                return Ok(Step::Wait(used));
            }
            "none" => {
                *conn = Conn::Count;
                return Ok(match rest {
                    "take" => Step::Took(0),
                    "wait" => {
                        let timer = cx.arm(Ticks(1), id);
                        timer.map_or(Step::More, |_| Step::Wait(0))
                    }
                    _ => Step::Done(0),
                });
            }
            "over" => return Ok(Step::Done(used + 1)),
            "notes" => (0..number).for_each(|n| cx.notify(id, n as u32)),
            "jobs" => {
                for _ in 0..number {
                    self.refused += usize::from(cx.submit(id).is_err());
                }
            }
            "bye" => {
                cx.out().extend_from_slice(b"bye\n");
                cx.close();
            }
            "close" => cx.close(),
            "refuse" => {
                cx.out().extend_from_slice(b"refused\n");
                return Err(Violation::peer("refused"));
            }
            _ => return Err(Violation::peer("unknown command")),
        }
        Ok(Step::Done(used))
    }

    /// Produces up to `left` bytes, as far as there is room; returns what is left.
    fn produce(&mut self, cx: &mut Cx<'_, Lines>, mut left: usize) -> usize {
        while left > 0 && cx.room() > 0 {
            let n = left.min(PIECE);
            let len = cx.out().len();
            cx.out().resize(len + n, b'x');
            self.produced += n;
            left -= n;
        }
        left
    }
}

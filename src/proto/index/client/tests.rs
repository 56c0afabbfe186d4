//! Sessions against a scripted server.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::*;
use crate::engine::{Limits, NoJob};
use crate::proto::index::reply::Listed;
use crate::proto::index::wire::{FRAME_BYTES_MAX, write_text};
use crate::sim::{self, ListenerId, NodeId, PeerId as Script, World};

const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 9000));
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 1));
const ID: PeerId = PeerId::from_bits(42);

/// A host that writes down what it is told.
struct Diary {
    session: Session<u32>,
    answers: Vec<(u32, Result<Answer, Failure>)>,
    news: Vec<Presence>,
}

impl Host for Diary {
    type Tag = u32;

    fn session(&mut self) -> &mut Session<u32> {
        &mut self.session
    }

    fn conn() {}

    fn timer(timer: SessionTimer) -> SessionTimer {
        timer
    }

    fn on_answer(&mut self, _: &mut Hub<Self>, tag: u32, result: Result<Answer, Failure>) {
        self.answers.push((tag, result));
    }

    fn on_presence(&mut self, _: &mut Hub<Self>, presence: Presence) {
        self.news.push(presence);
    }
}

impl Service for Diary {
    type Conn = ();
    type Note = ();
    type Timer = SessionTimer;
    type Job = NoJob;
    type Done = ();

    fn on_accept(&mut self, _: &mut Cx<'_, Self>, _: usize) {}

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

/// A world with one session and the server it talks to.
struct Lab {
    world: World<Diary>,
    node: NodeId,
    door: ListenerId,
    conn: Option<Script>,
}

impl Lab {
    fn new() -> Lab {
        Lab::with_timers(1000)
    }

    /// A node that has room for so many timers.
    fn with_timers(timers_max: usize) -> Lab {
        let mut world = World::new(1);
        let limits = Limits {
            input_bytes_max: 64 * 1024 + FRAME_BYTES_MAX,
            idle: Ticks::from_secs(3600),
            timers_max,
            ..Limits::default()
        };
        let diary = Diary {
            session: Session::new(SERVER, Patience::default()),
            answers: Vec::new(),
            news: Vec::new(),
        };
        let node = world.add(PEER, diary, limits);
        let door = world.listen(SERVER);
        Lab {
            world,
            node,
            door,
            conn: None,
        }
    }

    fn ask(&mut self, tag: u32, call: Call) {
        self.world
            .with(self.node, |diary, hub| ask(diary, hub, tag, call));
    }

    fn stay(&mut self) {
        let stay = Stay {
            who: who(),
            id: ID,
            ip: None,
            port: 7000,
            every: Ticks::from_secs(300),
        };
        self.world
            .with(self.node, |diary, hub| stay_online(diary, hub, stay));
    }

    /// The next request, which comes within `secs`, on the connection there is or a new one.
    #[track_caller]
    fn heard(&mut self, secs: u64) -> (u16, String) {
        for _ in 0..secs * 10 + 1 {
            if let Some(conn) = self.world.accept(self.door) {
                self.conn = Some(conn);
            }
            if let Some(conn) = self.conn
                && let Some(frame) = Frame::parse(self.world.peer(conn).received())
            {
                let heard = (frame.kind, frame.text().expect("text").to_owned());
                assert_eq!(
                    self.world.peer(conn).take().len(),
                    heard.1.len() + 4,
                    "one at a time"
                );
                return heard;
            }
            self.world.run_for(Ticks(10));
        }
        panic!("nothing was asked within {secs} s");
    }

    fn say(&mut self, kind: u16, payload: &str) {
        let mut out = Vec::new();
        write_text(&mut out, kind, payload);
        let conn = self.conn.expect("connected");
        self.world.peer(conn).send(&out);
        self.world.run_for(Ticks(5));
    }

    /// The server closes the connection.
    fn drop_conn(&mut self) {
        let conn = self.conn.take().expect("connected");
        self.world.peer(conn).close();
        self.world.run_for(Ticks(5));
    }

    fn answers(&mut self) -> Vec<(u32, Result<Answer, Failure>)> {
        self.world
            .with(self.node, |diary, _| std::mem::take(&mut diary.answers))
    }

    fn news(&mut self) -> Vec<Presence> {
        self.world
            .with(self.node, |diary, _| std::mem::take(&mut diary.news))
    }
}

fn who() -> Arc<Credentials> {
    Arc::new(Credentials {
        user: "alice".into(),
        password: "secret".into(),
    })
}

fn search(words: &str) -> Call {
    Call::Search {
        words: words.into(),
        hits_max: 10,
    }
}

fn list(count: usize) -> Arc<[Listed]> {
    let file = |n| Listed {
        name: format!("some file with a name of some length {n}"),
        size_bytes: n as u64,
        sha1: super::super::fields::Sha1([1; 20]),
    };
    (0..count).map(file).collect()
}

#[test]
fn calls_are_made_one_after_the_other() {
    let mut lab = Lab::new();
    lab.ask(1, search("a"));
    lab.ask(2, Call::KeepAlive { id: ID });
    assert_eq!(lab.heard(1), (7, "a\n0\n".into()));
    lab.say(107, "");
    assert_eq!(lab.heard(1), (3, "42\n".into()));
    lab.say(203, "no");
    let answers = lab.answers();
    assert_eq!(answers[0], (1, Ok(Answer::Hits(Vec::new()))));
    assert!(matches!(&answers[1], (2, Err(Failure::Refused(no))) if no.text == "no"));
}

#[test]
fn a_list_longer_than_a_frame_goes_on() {
    let mut lab = Lab::new();
    let (who, files) = (who(), list(1300));
    lab.ask(1, Call::Register { who, files });
    let (kind, first) = lab.heard(1);
    assert_eq!(
        (kind, first.lines().take(2).collect::<Vec<_>>()),
        (1, vec!["alice", "secret"])
    );
    lab.say(101, "REGISTER_OK\n42\nREGISTER SUCCES");
    let (kind, second) = lab.heard(1);
    assert_eq!((kind, second.lines().nth(2)), (10, Some("42")));
    // The connection goes while the second part is under way: the list begins again, under the id that there is.
    lab.drop_conn();
    let (kind, again) = lab.heard(2);
    assert_eq!((kind, again.lines().nth(2)), (9, Some("42")));
    lab.say(109, "REGISTER_UPDATE_OK\n42");
    let (kind, rest) = lab.heard(1);
    assert_eq!(kind, 10);
    assert_eq!(again.lines().count() + rest.lines().count(), 1300 + 6);
    lab.say(110, "1300");
    assert_eq!(lab.answers(), [(1, Ok(Answer::Registered(ID)))]);
}

#[test]
fn pages_are_asked_for_until_there_are_no_more() {
    let mut lab = Lab::new();
    let which = super::super::wire::Which::All;
    lab.ask(1, Call::Peers { which });
    assert_eq!(lab.heard(1), (5, "all\n0\n".into()));
    lab.say(
        105,
        "3\n1|a|online|127.0.0.1|1|2\n2|b|offline|0.0.0.0|0|0\n",
    );
    assert_eq!(lab.heard(1), (5, "all\n2\n".into()));
    lab.say(105, "3\n3|c|online|127.0.0.1|1|2\n");
    let answers = lab.answers();
    assert!(matches!(&answers[0].1, Ok(Answer::Peers(peers)) if peers.len() == 3));
}

#[test]
fn busy_is_obeyed() {
    let mut lab = Lab::new();
    lab.ask(1, search("a"));
    let _ = lab.heard(1);
    lab.say(207, "busy; retry in 20 s");
    lab.world.run_for(Ticks::from_secs(19));
    let conn = lab.conn.expect("connected");
    assert!(lab.world.peer(conn).received().is_empty(), "too early");
    assert_eq!(lab.heard(7).0, 7);
    lab.say(207, "busy; retry in 50 s");
    // That is beyond the host's patience of a minute.
    assert!(matches!(
        &lab.answers()[..],
        [(1, Err(Failure::Refused(_)))]
    ));
}

#[test]
fn a_silent_or_missing_server_is_given_up() {
    let mut lab = Lab::new();
    lab.ask(1, search("a"));
    let _ = lab.heard(1);
    lab.world.run_for(Ticks::from_secs(100));
    let server = SERVER;
    assert_eq!(lab.answers(), [(1, Err(Failure::TimedOut { server }))]);
    lab.world.answer(lab.door, sim::Answer::Refuse);
    lab.ask(2, search("a"));
    lab.world.run_for(Ticks::from_secs(100));
    let kind = ErrorKind::ConnectionRefused;
    assert_eq!(
        lab.answers(),
        [(2, Err(Failure::Unreachable { server, kind }))]
    );
}

#[test]
fn what_is_no_answer_is_said() {
    for (kind, payload) in [
        (102, "LOGIN SUCCESS"),
        (107, "half\nan\nentry"),
        (107, "\u{0}"),
    ] {
        let mut lab = Lab::new();
        lab.ask(1, search("a"));
        let _ = lab.heard(1);
        lab.say(kind, payload);
        assert!(
            matches!(&lab.answers()[..], [(1, Err(Failure::Malformed { .. }))]),
            "{payload:?}"
        );
        // The next call is made on a new connection.
        lab.ask(2, search("b"));
        assert_eq!(lab.heard(2).0, 7);
        lab.say(107, "");
        assert_eq!(lab.answers().len(), 1);
    }
}

#[test]
fn staying_online_keeps_alive() {
    let mut lab = Lab::new();
    lab.stay();
    assert_eq!(lab.heard(1), (2, "alice\nsecret\n42\n\n7000\n".into()));
    lab.say(202, "too many wait to be logged in; retry in 90 s");
    assert_eq!(lab.heard(120).0, 2, "as long as it takes");
    lab.say(102, "LOGIN SUCCESS");
    assert_eq!(lab.news(), [Presence::Online]);
    for _ in 0..3 {
        let before = lab.world.now();
        assert_eq!(lab.heard(301), (3, "42\n".into()));
        let waited = lab.world.now().since(before);
        assert!(waited.0 > Ticks::from_secs(298).0, "{waited:?}");
        lab.say(103, "KEEP ALIVE SUCCESS");
    }
    // Taken for gone: in again.
    assert_eq!(lab.heard(301).0, 3);
    lab.say(203, "log in");
    assert_eq!(lab.heard(1).0, 2);
    lab.say(102, "LOGIN SUCCESS");
    lab.world.with(lab.node, |diary, hub| leave(diary, hub, 9));
    assert_eq!(lab.heard(1), (4, "alice\nsecret\n42\n".into()));
    lab.say(103, "LOGOUT SUCCESS");
    assert_eq!(lab.answers(), [(9, Ok(Answer::LoggedOut))]);
    lab.world.run_for(Ticks::from_secs(1000));
    let conn = lab.conn.expect("connected");
    assert!(
        lab.world.peer(conn).received().is_empty(),
        "no keep-alive of who left"
    );
}

#[test]
fn back_after_the_server_was_away() {
    let mut lab = Lab::new();
    lab.stay();
    let _ = lab.heard(1);
    lab.say(102, "LOGIN SUCCESS");
    lab.world.answer(lab.door, sim::Answer::Refuse);
    lab.drop_conn();
    lab.world.run_for(Ticks::from_secs(60));
    let news = lab.news();
    assert!(
        matches!(news[..], [Presence::Online, Presence::Lost(_)]),
        "{news:?}"
    );
    lab.world.answer(lab.door, sim::Answer::Queue);
    assert_eq!(
        lab.heard(40).0,
        3,
        "the server may remember: a keep-alive costs it nothing"
    );
    lab.say(103, "KEEP ALIVE SUCCESS");
    assert_eq!(lab.news(), [Presence::Online]);
    lab.drop_conn();
    assert_eq!(lab.heard(10).0, 3);
    lab.say(203, "who are you?");
    assert_eq!(lab.heard(1).0, 2);
    lab.say(202, "wrong user, password or id");
    assert!(matches!(&lab.news()[..], [Presence::Refused(no)] if no.text.starts_with("wrong")));
    lab.world.run_for(Ticks::from_secs(1000));
    let conn = lab.conn.expect("connected");
    assert!(
        lab.world.peer(conn).received().is_empty(),
        "it does not go on guessing"
    );
}

/// Without a timer nothing would ever end the wait for an answer.
#[test]
fn a_call_that_cannot_be_timed_is_given_up() {
    let mut lab = Lab::with_timers(0);
    lab.ask(1, search("a"));
    lab.world.run_for(Ticks::from_secs(10));
    let limit = "timers_max";
    assert_eq!(lab.answers(), [(1, Err(Failure::Limit { limit }))]);
    lab.stay();
    lab.world.run_for(Ticks::from_secs(10));
    assert_eq!(lab.news(), [Presence::Lost(Failure::Limit { limit })]);
}

/// A server that answers in time, and never comes to an end.
#[test]
fn a_list_without_an_end_is_given_up() {
    let mut lab = Lab::new();
    let which = super::super::wire::Which::All;
    lab.ask(1, Call::Peers { which });
    let mut answers = Vec::new();
    for _ in 0..100 {
        let _ = lab.heard(1);
        lab.world.run_for(Ticks::from_secs(25));
        lab.say(105, "1000000\n1|a|online|127.0.0.1|1|2\n");
        answers.extend(lab.answers());
        if !answers.is_empty() {
            break;
        }
    }
    let server = SERVER;
    assert_eq!(answers, [(1, Err(Failure::TimedOut { server }))]);
    let minutes = lab.world.now().0 / Ticks::from_secs(60).0;
    assert!((10..12).contains(&minutes), "{minutes}");
}

/// A keep-alive that was under way says nothing of a login that was asked for after it.
#[test]
fn the_answer_to_a_former_stay_is_none_to_the_next() {
    let mut lab = Lab::new();
    lab.stay();
    let _ = lab.heard(1);
    lab.say(102, "LOGIN SUCCESS");
    assert_eq!(lab.heard(301).0, 3);
    lab.stay();
    lab.say(203, "this id is not logged in from here: log in");
    assert_eq!(lab.heard(1).0, 2);
    lab.say(102, "LOGIN SUCCESS");
    assert_eq!(lab.news(), [Presence::Online, Presence::Online]);
    assert_eq!(lab.heard(301).0, 3, "and keeps alive");
}

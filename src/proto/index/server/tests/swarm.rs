//! Random peers, faults and crashes: acknowledged changes are there, and searches find only online holders.

use std::collections::BTreeSet;

use rand::RngExt;

use super::*;
use crate::proto::index::fields::Which;
use crate::sim::{Tally, storms};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// The model of a user: what is certain, and what may have happened without an answer.
#[derive(Default)]
struct User {
    conn: Option<Script>,
    asked: Option<Asked>,
    id: Option<PeerId>,
    names: BTreeSet<String>,
    /// Lists and additions of requests that were never answered: they may be done, now or later.
    lists_lost: Vec<BTreeSet<String>>,
    adds_lost: BTreeSet<String>,
    register_lost: bool,
    /// Logged out for certain, and no login or keep-alive sent since.
    logged_out: bool,
}

enum Asked {
    Register(BTreeSet<String>),
    Update(BTreeSet<String>),
    Add(BTreeSet<String>),
    Logout,
    /// A login with a wrong password.
    Guess,
    Other,
}

struct Run {
    lab: Lab,
    users: [User; 4],
    fresh: u32,
    tally: Tally,
}

#[test]
fn acknowledged_registrations_survive_everything() {
    let happens = &[
        ("registered", 800),
        ("logged in", 400),
        ("kept alive or logged out", 450),
        ("searched", 450),
        ("updated", 400),
        ("added", 450),
        ("refused", 1000),
        ("kills", 450),
        ("full disks", 200),
    ];
    storms(200, happens, run);
}

fn run(seed: u64) -> Tally {
    let config = Config {
        keep_alive: Ticks::from_secs(20),
        grace: Ticks::from_secs(3),
        tries_max: 1000,
        registrations_per_hour_max: 1000,
        ..Config::default()
    };
    let mut run = Run {
        lab: Lab::in_world(World::swarm(seed), config, Span::ms(0, 30)),
        users: Default::default(),
        fresh: 0,
        tally: Tally::default(),
    };
    for _ in 0..80 {
        let user = run.lab.world.rng().random_range(0..USERS.len());
        run.hear(user);
        run.act(user);
        let pause = run.lab.world.rng().random_range(0..300);
        run.lab.world.run_for(Ticks(pause));
        if run.lab.world.rng().random_bool(0.05) {
            let full = run.lab.world.rng().random_bool(0.5);
            run.lab.machine.disk().full = full;
            run.tally.add("full disks", full.into());
        }
        if run.lab.world.rng().random_bool(0.06) {
            run.lab.world.kill(run.lab.server);
            run.lab.start();
            run.tally.count("kills");
        }
        run.check_online();
    }
    run.lab.machine.disk().full = false;
    run.lab.world.heal();
    run.lab.world.run_for(Ticks::from_secs(60));
    for user in 0..USERS.len() {
        run.hear(user);
        run.lose(user);
    }
    run.check_lists();
    assert_eq!(
        run.lab.service().registry.count(Which::Online),
        0,
        "nobody kept alive for a minute"
    );
    run.lab.crash();
    run.check_lists();
    run.lab.world.run_for(Ticks::from_secs(400));
    let server = run.lab.service();
    assert!(server.ops.is_empty() && server.busy.is_empty() && server.tasks.is_empty());
    assert_eq!(server.pending, Pending::default());
    run.tally
}

impl Run {
    /// Handles the answer to the last request, or that its connection has ended.
    fn hear(&mut self, n: usize) {
        let Some(conn) = self.users[n].conn else {
            return;
        };
        let frame = Frame::parse(self.lab.world.peer(conn).received())
            .map(|frame| (frame.kind, frame.text().expect("text").to_owned()));
        if let Some((kind, text)) = frame {
            let got = self.lab.world.peer(conn).take();
            assert_eq!(replies(&got).len(), 1, "one answer to one request");
            self.users[n].answered(kind, &text);
            self.tally.count(match kind {
                101 => "registered",
                102 => "logged in",
                103 => "kept alive or logged out",
                107 => "searched",
                109 => "updated",
                110 => "added",
                _ => "refused",
            });
        } else if self.lab.world.peer(conn).ending().is_some() {
            self.lose(n);
        }
    }

    /// Gives the connection up.
    fn lose(&mut self, n: usize) {
        if let Some(conn) = self.users[n].conn.take() {
            self.lab.world.peer(conn).close();
        }
        let user = &mut self.users[n];
        match user.asked.take() {
            Some(Asked::Register(names)) => {
                user.register_lost = true;
                user.lists_lost.push(names);
            }
            Some(Asked::Update(names)) => user.lists_lost.push(names),
            Some(Asked::Add(names)) => user.adds_lost.extend(names),
            Some(Asked::Logout | Asked::Guess | Asked::Other) | None => {}
        }
    }

    fn act(&mut self, n: usize) {
        let dice = self.lab.world.rng().random_range(0..100);
        if self.users[n].asked.is_some() {
            if dice < 20 {
                self.lose(n);
            }
            return;
        }
        let conn = match self.users[n].conn {
            Some(conn) if dice % 7 > 0 => conn,
            _ => {
                self.lose(n);
                self.lab.connect()
            }
        };
        let name = USERS[n];
        let names: BTreeSet<String> = (0..dice % 5).map(|_| self.fresh_name()).collect();
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        let user = &mut self.users[n];
        let (asked, kind, payload) = match (dice, user.id) {
            (0..15, _) | (_, None) => {
                let payload = format!("{name}\npw-{name}\n{}", files(&list));
                (Asked::Register(names), 1, payload)
            }
            (15..30, Some(id)) => {
                let payload = format!("{}\n{}", account(name, id), files(&list));
                (Asked::Update(names), 9, payload)
            }
            (30..45, Some(id)) => {
                let payload = format!("{}\n{}", account(name, id), files(&list));
                (Asked::Add(names), 10, payload)
            }
            (45..60, Some(id)) => (Asked::Other, 2, account(name, id)),
            (60..75, Some(id)) => (Asked::Other, 3, id.to_string()),
            (75..85, Some(id)) => (Asked::Logout, 4, account(name, id)),
            (85..90, Some(id)) => (Asked::Guess, 2, format!("{name}\nguess\n{id}")),
            _ => (Asked::Other, 7, "file".into()),
        };
        user.logged_out &= !matches!(kind, 2 | 3);
        user.asked = Some(asked);
        user.conn = Some(conn);
        self.lab.send(conn, kind, &payload);
    }

    fn fresh_name(&mut self) -> String {
        self.fresh += 1;
        format!("file {}", self.fresh)
    }

    /// A peer that is online has kept alive in time and has not logged out.
    fn check_online(&mut self) {
        let now = self.lab.world.now();
        let server = self.lab.service();
        for (n, name) in USERS.iter().enumerate() {
            let slot = server.registry.slot_of_user(name);
            let Some(found) = slot.and_then(|slot| server.registry.get(slot)) else {
                continue;
            };
            let Presence::Online { until, .. } = found.presence else {
                continue;
            };
            assert!(now <= until + Ticks(2), "{name} is online after its time");
            let user = &self.users[n];
            let may = !user.logged_out || user.register_lost;
            assert!(may, "{name} is online and logged out");
        }
    }

    /// Every user has the list that was acknowledged last, or one of a request that was never answered.
    fn check_lists(&self) {
        let server = self.lab.service();
        for (user, name) in self.users.iter().zip(USERS) {
            let slot = server.registry.slot_of_user(name);
            let found = slot.and_then(|slot| server.registry.get(slot));
            let Some(found) = found else {
                assert!(user.id.is_none(), "{name} was registered");
                continue;
            };
            assert!(
                user.id.is_some() || user.register_lost,
                "{name} is not registered"
            );
            assert!(
                Some(found.id) == user.id || user.register_lost,
                "{name} has another id"
            );
            let has: BTreeSet<String> = server
                .catalog
                .browse(found.holder, 0)
                .map(|file| file.name.to_owned())
                .collect();
            let fits = |list: &BTreeSet<String>| {
                list.is_subset(&has)
                    && has
                        .difference(list)
                        .all(|name| user.adds_lost.contains(name))
            };
            let acknowledged = user.id.is_some() && fits(&user.names);
            assert!(
                acknowledged || user.lists_lost.iter().any(fits),
                "{name} has {has:?}, and not {:?} or one of {:?}",
                user.names,
                user.lists_lost
            );
        }
    }
}

impl User {
    fn answered(&mut self, kind: u16, text: &str) {
        match (self.asked.take(), kind) {
            (Some(Asked::Register(names)), 101) => {
                self.id = text.lines().nth(1).map(|id| id.parse().expect("an id"));
                self.names = names;
                // A login after it would count.
                self.logged_out = false;
            }
            (Some(Asked::Update(names)), 109) => self.names = names,
            (Some(Asked::Add(names)), 110) => {
                // To the list that it knows of, or to one whose answer was lost.
                if !self.lists_lost.is_empty() {
                    self.adds_lost.extend(names.clone());
                }
                self.names.extend(names);
            }
            (Some(Asked::Logout), 103) => self.logged_out = true,
            (Some(Asked::Guess), kind) => assert_eq!(kind, 202, "a wrong password"),
            (Some(_), 201..=210 | 102 | 103 | 107) => {
                // An id that a lost registration replaced is no more use.
                if text == "wrong user, password or id" && self.register_lost {
                    self.id = None;
                    self.names.clear();
                }
            }
            (asked, _) => panic!("{kind} {text:?}, asked: {}", asked.is_some()),
        }
    }
}

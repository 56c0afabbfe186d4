//! Online and offline, restarts, the end of a registration.

use super::*;

const LATE: Ticks = Ticks::from_secs(331);

#[test]
fn online_until_a_keep_alive_is_missed() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &["song"]);
    let watcher = lab.connect();
    for _ in 0..3 {
        lab.world.run_for(Ticks::from_secs(325));
        assert_eq!(lab.search(watcher, "song"), ["song"]);
        lab.expect(peer, 3, &id.to_string(), (103, "KEEP ALIVE SUCCESS"));
    }
    lab.world.run_for(LATE);
    assert!(lab.search(watcher, "song").is_empty());
    let refused = (203, "this id is not logged in from here: log in");
    lab.expect(peer, 3, &id.to_string(), refused);
    lab.expect(watcher, 5, "online", (105, "0"));
    lab.expect(
        watcher,
        5,
        "all",
        (105, &format!("1\n{id}|alice|offline|0.0.0.0|0|1")),
    );
    lab.expect(peer, 2, &account("alice", id), (102, "LOGIN SUCCESS"));
    assert_eq!(lab.search(watcher, "song"), ["song"]);
}

#[test]
fn an_id_alone_keeps_nobody_alive() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect_from([192, 0, 2, 1], 1000);
    let id = lab.join(peer, "alice", &["song"]);
    let thief = lab.connect_from([192, 0, 2, 2], 1000);
    let refused = (203, "this id is not logged in from here: log in");
    lab.expect(thief, 3, &id.to_string(), refused);
    lab.expect(thief, 3, "77", refused);
    let again = lab.connect_from([192, 0, 2, 1], 1001);
    lab.expect(again, 3, &id.to_string(), (103, "KEEP ALIVE SUCCESS"));
    lab.expect(peer, 4, &account("alice", id), (103, "LOGOUT SUCCESS"));
    lab.expect(peer, 3, &id.to_string(), refused);
    assert!(lab.search(again, "song").is_empty());
    assert_eq!(lab.service().counts().keep_alives_refused, 3);
}

#[test]
fn a_peer_is_listed_where_it_comes_from() {
    let mut lab = Lab::new(Config::default());
    let cases = [
        ([192, 0, 2, 1], "\n203.0.113.9\n7000", "192.0.2.1|7000"),
        ([192, 0, 2, 1], "\n192.0.2.1", "192.0.2.1|9999"),
        ([192, 0, 2, 1], "", "192.0.2.1|9999"),
        ([127, 0, 0, 1], "\n203.0.113.9\n7000", "203.0.113.9|7000"),
        ([127, 0, 0, 1], "\n0.0.0.0\n7000", "127.0.0.1|7000"),
        ([127, 0, 0, 1], "\n\n7000\n", "127.0.0.1|7000"),
        // No place of anybody, whoever claims it.
        ([127, 0, 0, 1], "\n224.0.0.1\n7000", "127.0.0.1|7000"),
        ([127, 0, 0, 1], "\n255.255.255.255\n7000", "127.0.0.1|7000"),
    ];
    let first = lab.connect();
    let id = lab.register(first, "alice", &[]);
    for (n, (from, claim, listed)) in cases.into_iter().enumerate() {
        let peer = lab.connect_from(from, 4000 + n as u16);
        let login = format!("{}{claim}", account("alice", id));
        lab.expect(peer, 2, &login, (102, "LOGIN SUCCESS"));
        let line = format!("1\n{id}|alice|online|{listed}|0");
        lab.expect(peer, 5, &id.to_string(), (105, &line));
    }
    lab.expect(first, 5, "77", (105, "0"));
}

/// Where every claim is believed, nobody can still have others dial themselves.
#[test]
fn a_claim_of_loopback_is_believed_from_loopback_alone() {
    let mut lab = Lab::new(Config {
        trust_claimed_ip: true,
        ..Config::default()
    });
    let first = lab.connect();
    let id = lab.register(first, "alice", &[]);
    let cases = [
        ("203.0.113.9", "203.0.113.9|7000"),
        ("127.0.0.1", "192.0.2.1|7000"),
    ];
    for (n, (claim, listed)) in cases.into_iter().enumerate() {
        let peer = lab.connect_from([192, 0, 2, 1], 4000 + n as u16);
        let login = format!("{}\n{claim}\n7000", account("alice", id));
        lab.expect(peer, 2, &login, (102, "LOGIN SUCCESS"));
        let line = format!("1\n{id}|alice|online|{listed}|0");
        lab.expect(peer, 5, &id.to_string(), (105, &line));
    }
}

/// Lives are counted in the time that servers ran: one that is stopped every hour counts as well.
#[test]
fn a_server_that_leaves_keeps_its_clock() {
    let mut lab = Lab::new(Config::default());
    for _ in 0..3 {
        let before = lab.machine.disk().clock;
        lab.world.run_for(Ticks::from_secs(1800));
        lab.world.shutdown(lab.server);
        lab.world.run_for(Ticks::from_secs(5));
        assert!(!lab.world.is_up(lab.server));
        assert!(lab.machine.disk().clock >= before + Ticks::from_secs(1800).0);
        lab.start();
    }
}

#[test]
fn a_restart_remembers_who_was_logged_in() {
    let mut lab = Lab::new(Config::default());
    let (mut ids, users) = (Vec::new(), ["alice", "bob", "carol"]);
    for (n, user) in users.iter().enumerate() {
        let peer = lab.connect_from([192, 0, 2, n as u8], 1000);
        ids.push(lab.join(peer, user, &[&format!("song of {user}")]));
        if n == 2 {
            lab.expect(peer, 4, &account(user, ids[n]), (103, "LOGOUT SUCCESS"));
        }
    }
    lab.crash();
    let watcher = lab.connect();
    assert!(
        lab.search(watcher, "song").is_empty(),
        "nobody has kept alive"
    );
    let alive = (103, "KEEP ALIVE SUCCESS");
    let refused = (203, "this id is not logged in from here: log in");
    let peer = lab.connect_from([192, 0, 2, 0], 1001);
    lab.expect(peer, 3, &ids[1].to_string(), refused);
    lab.expect(peer, 3, &ids[0].to_string(), alive);
    assert_eq!(lab.search(watcher, "song"), ["song of alice"]);
    let carol = lab.connect_from([192, 0, 2, 2], 1001);
    lab.expect(carol, 3, &ids[2].to_string(), refused);
    lab.world.run_for(LATE);
    let bob = lab.connect_from([192, 0, 2, 1], 1001);
    lab.expect(bob, 3, &ids[1].to_string(), refused);
    lab.expect(bob, 2, &account("bob", ids[1]), (102, "LOGIN SUCCESS"));
    let watcher = lab.connect();
    assert_eq!(lab.search(watcher, "song"), ["song of bob"]);
}

#[test]
fn a_registration_lives_by_its_logins() {
    let day = Ticks::from_secs(24 * 3600);
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let [alice, bob] = ["alice", "bob"].map(|user| lab.join(peer, user, &[user]));
    for _ in 0..29 {
        lab.world.run_for(day);
    }
    lab.crash();
    let peer = lab.connect();
    lab.expect(peer, 2, &account("bob", bob), (102, "LOGIN SUCCESS"));
    lab.world.run_for(day);
    // The clock of the life before is as old as its last write.
    lab.world.run_for(Ticks::from_secs(3600));
    assert_eq!(
        lab.service().peers(),
        1,
        "thirty days with a restart in between"
    );
    let peer = lab.connect();
    lab.expect(
        peer,
        2,
        &account("alice", alice),
        (202, "wrong user, password or id"),
    );
    for _ in 0..30 {
        lab.world.run_for(day);
    }
    assert_eq!((lab.service().peers(), lab.service().files()), (0, 0));
    assert_eq!(lab.service().counts().expired, 2);
    let disk = lab.machine.disk();
    assert!(disk.peers.is_empty() && disk.files.is_empty());
}

/// A registration that ends while the disk is full is out of sight at once, and gone when there is room.
#[test]
fn an_end_that_cannot_be_stored_is_tried_again() {
    let config = Config {
        time_to_live: Ticks::from_secs(10),
        ..Config::default()
    };
    let mut lab = Lab::new(config);
    let peer = lab.connect();
    let _ = lab.join(peer, "alice", &["song"]);
    lab.machine.disk().full = true;
    lab.world.run_for(Ticks::from_secs(11));
    assert!(lab.search(peer, "song").is_empty());
    assert_eq!(lab.service().peers(), 1);
    lab.machine.disk().full = false;
    lab.world.run_for(Ticks::from_secs(2));
    assert_eq!(lab.service().peers(), 0);
}

/// A list that came in parts and is replaced by one in a single part has nothing of the former after a restart.
#[test]
fn an_update_replaces_every_part_of_the_list() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &["old 0"]);
    for n in 1..4 {
        let add = format!(
            "{}\n{}",
            account("alice", id),
            files(&[&format!("old {n}")])
        );
        lab.expect(peer, 10, &add, (110, &(n + 1).to_string()));
    }
    let update = format!("{}\n{}", account("alice", id), files(&["new"]));
    lab.expect(
        peer,
        9,
        &update,
        (109, &format!("REGISTER_UPDATE_OK\n{id}")),
    );
    let want = format!("1\n{}", files(&["new"]).trim_end());
    lab.expect(peer, 6, &id.to_string(), (106, &want));
    lab.crash();
    let peer = lab.connect();
    lab.expect(peer, 6, &id.to_string(), (106, &want));
    assert_eq!(lab.machine.disk().files.len(), 1);
}

//! Passwords: right, wrong, too many; one id a user.

use super::*;

const WRONG: &str = "wrong user, password or id";

#[test]
fn a_user_has_one_id_the_newest() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let old = lab.join(peer, "alice", &["old song"]);
    lab.expect(peer, 1, "alice\nguess\n", (201, WRONG));
    assert_eq!(lab.search(peer, "song"), ["old song"]);
    let new = lab.register(peer, "alice", &["new song"]);
    assert_ne!(old, new);
    lab.expect(peer, 2, &account("alice", old), (202, WRONG));
    lab.expect(
        peer,
        6,
        &old.to_string(),
        (206, "there is no peer of this id"),
    );
    assert!(lab.search(peer, "song").is_empty(), "not logged in");
    lab.expect(peer, 2, &account("alice", new), (102, "LOGIN SUCCESS"));
    assert_eq!(lab.search(peer, "song"), ["new song"]);
    lab.crash();
    let peer = lab.connect();
    lab.expect(peer, 2, &account("alice", old), (202, WRONG));
    lab.expect(peer, 2, &account("alice", new), (102, "LOGIN SUCCESS"));
    assert_eq!(lab.service().files(), 1);
}

#[test]
fn two_registrations_at_once_leave_one() {
    let mut lab = Lab::new(Config::default());
    let peers = [lab.connect(), lab.connect(), lab.connect()];
    for peer in peers {
        lab.send(peer, 1, &format!("alice\nsecret\n{}", files(&["song"])));
    }
    lab.world.run_for(SOON);
    let codes = peers.map(|peer| lab.reply(peer));
    assert_eq!(lab.service().peers(), 1);
    let busy = |reply: &(u16, String)| reply.1.contains("; retry in 1 s");
    let ok = codes.iter().filter(|reply| reply.0 == 101).count();
    assert_eq!(
        ok + codes.iter().filter(|reply| busy(reply)).count(),
        3,
        "{codes:?}"
    );
}

#[test]
fn nobody_changes_a_registration_of_somebody_else() {
    let mut lab = Lab::new(Config {
        tries_max: 100,
        ..Config::default()
    });
    let peer = lab.connect();
    let alice = lab.join(peer, "alice", &["song"]);
    let mallory = lab.connect();
    let _ = lab.join(mallory, "mallory", &["noise"]);
    for (kind, code) in [(2, 202), (4, 203), (9, 209), (10, 210)] {
        for payload in [
            account("mallory", alice),
            format!("alice\npw-mallory\n{alice}"),
        ] {
            lab.expect(mallory, kind, &payload, (code, WRONG));
        }
    }
    assert_eq!(lab.search(mallory, "song"), ["song"]);
    // A proof on a connection holds for that password only.
    lab.expect(peer, 4, &format!("alice\nguess\n{alice}"), (203, WRONG));
    assert_eq!(lab.search(mallory, "song"), ["song"]);
}

#[test]
fn an_unknown_id_is_answered_as_a_wrong_password_is() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.register(peer, "alice", &[]);
    let mut tell = Vec::new();
    for payload in [format!("alice\nguess\n{id}"), "nobody\nguess\n77".into()] {
        let fresh = lab.connect();
        let (hashes, before) = (lab.machine.disk().hashes, lab.world.now_us());
        let reply = lab.ask(fresh, 2, &payload);
        let took_ms = (lab.world.now_us() - before) / 50_000;
        tell.push((reply, lab.machine.disk().hashes - hashes, took_ms));
    }
    assert_eq!(tell[0], tell[1]);
    assert_eq!(tell[0].1, 1);
}

#[test]
fn five_wrong_passwords_lock_an_id_for_a_minute() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let [bob, alice] = ["bob", "alice"].map(|user| lab.register(peer, user, &[]));
    for id in [alice, PeerId::from_bits(77)] {
        let other = lab.connect();
        for _ in 0..5 {
            lab.expect(other, 2, &format!("alice\nguess\n{id}"), (202, WRONG));
        }
        let hashes = lab.machine.disk().hashes;
        let (code, text) = lab.ask(other, 2, &account("alice", id));
        assert_eq!(code, 202);
        assert!(
            text.starts_with("locked after too many wrong passwords; retry in "),
            "{text}"
        );
        assert_eq!(
            lab.machine.disk().hashes,
            hashes,
            "no hash for who is locked out"
        );
    }
    let other = lab.connect();
    lab.expect(other, 2, &account("bob", bob), (102, "LOGIN SUCCESS"));
    let (code, text) = lab.ask(other, 1, "alice\nguess");
    assert_eq!(
        (code, text.starts_with("locked")),
        (201, true),
        "nor by registering again"
    );
    lab.expect(peer, 10, &account("alice", alice), (110, "0"));
    lab.world.run_for(Ticks::from_secs(61));
    let other = lab.connect();
    lab.expect(other, 2, &account("alice", alice), (102, "LOGIN SUCCESS"));
}

/// Twenty connections that try at once get as many tries as one that tries twenty times.
#[test]
fn tries_at_once_are_counted() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.register(peer, "alice", &[]);
    let before = lab.machine.disk().hashes;
    let peers: Vec<Script> = (0..20).map(|_| lab.connect()).collect();
    for &peer in &peers {
        lab.send(peer, 2, &format!("alice\nguess\n{id}"));
    }
    lab.world.run_for(SOON);
    let texts: Vec<String> = peers.iter().map(|&peer| lab.reply(peer).1).collect();
    let wrong = texts.iter().filter(|text| *text == WRONG).count();
    let later = texts
        .iter()
        .filter(|text| text.contains("retry in"))
        .count();
    assert_eq!((wrong, later), (5, 15), "{texts:?}");
    assert_eq!(lab.machine.disk().hashes - before, 5);
}

#[test]
fn who_finds_the_line_full_is_told_when_to_come_back() {
    let mut lab = Lab::in_world(
        World::new(1),
        Config {
            registrations_per_hour_max: 100,
            hashes_waiting_max: 4,
            ..Config::default()
        },
        Span::ms(100, 100),
    );
    let peers: Vec<Script> = (0..20).map(|_| lab.connect()).collect();
    for (n, &peer) in peers.iter().enumerate() {
        lab.send(peer, 1, &format!("user{n}\npw"));
    }
    lab.world.run_for(Ticks::from_secs(5));
    let replies: Vec<(u16, String)> = peers.iter().map(|&peer| lab.reply(peer)).collect();
    let done = replies.iter().filter(|reply| reply.0 == 101).count();
    let busy = replies
        .iter()
        .filter(|reply| reply.1 == "too many wait to be logged in; retry in 1 s")
        .count();
    assert_eq!((done, busy), (5, 15), "one hashed, four in the line");
    for (n, &peer) in peers.iter().enumerate() {
        if replies[n].0 != 101 {
            lab.send(peer, 1, &format!("user{n}\npw"));
            lab.world.run_for(SOON);
            assert_eq!(lab.reply(peer).0, 101);
        }
    }
}

#[test]
fn a_long_list_is_proved_once() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.register(peer, "alice", &["0"]);
    for n in 1..5 {
        let payload = format!("{}\n{}", account("alice", id), files(&[&n.to_string()]));
        lab.expect(peer, 10, &payload, (110, &(n + 1).to_string()));
    }
    assert_eq!(lab.machine.disk().hashes, 1);
    let other = lab.connect();
    lab.expect(other, 10, &account("alice", id), (110, "5"));
    assert_eq!(
        lab.machine.disk().hashes,
        2,
        "another connection proves for itself"
    );
    assert_eq!(
        lab.machine.disk().files.len(),
        5,
        "nothing is stored of an empty part"
    );
}

#[test]
fn an_address_gets_three_ids_an_hour() {
    let mut lab = Lab::in_world(World::new(1), Config::default(), Span::ms(1, 5));
    let at_once: Vec<Script> = (0..9)
        .map(|n| lab.connect_from([192, 0, 2, 9], 100 + n))
        .collect();
    for (n, &peer) in at_once.iter().enumerate() {
        lab.send(peer, 1, &format!("many{n}\npw"));
    }
    lab.world.run_for(SOON);
    let got = at_once
        .iter()
        .filter(|&&peer| lab.reply(peer).0 == 101)
        .count();
    assert_eq!(got, 3, "also of many at once");
    for n in 0..3 {
        let peer = lab.connect_from([192, 0, 2, 1], 1000 + n);
        let _ = lab.register(peer, &format!("user{n}"), &[]);
    }
    let peer = lab.connect_from([192, 0, 2, 1], 2000);
    let (code, text) = lab.ask(peer, 1, "user3\npw");
    assert_eq!(code, 201);
    assert!(text.starts_with("too many registrations"), "{text}");
    let other = lab.connect_from([192, 0, 2, 2], 2000);
    let _ = lab.register(other, "user3", &[]);
    for n in 0..10 {
        let local = lab.connect_from([127, 0, 0, 1], 3000 + n);
        let _ = lab.register(local, &format!("local{n}"), &[]);
    }
}

#[test]
fn a_full_disk_refuses_and_keeps() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &["song"]);
    lab.machine.disk().full = true;
    let unstored = "it cannot be stored now; retry in 10 s";
    let update = format!("{}\n{}", account("alice", id), files(&["other song"]));
    lab.expect(peer, 9, &update, (209, unstored));
    lab.expect(peer, 10, &update, (210, unstored));
    lab.expect(peer, 1, "bob\npw", (201, unstored));
    assert_eq!(lab.search(peer, "song"), ["song"]);
    lab.machine.disk().full = false;
    lab.expect(
        peer,
        9,
        &update,
        (109, &format!("REGISTER_UPDATE_OK\n{id}")),
    );
    assert_eq!(lab.search(peer, "song"), ["other song"]);
    assert_eq!(lab.service().peers(), 1);
}

/// Changes of one user are made one after the other: store and memory see them in the same order.
#[test]
fn two_changes_of_a_user_at_once_are_one() {
    let mut lab = Lab::new(Config::default());
    let peers = [lab.connect(), lab.connect()];
    let id = lab.join(peers[0], "alice", &[]);
    lab.expect(peers[1], 2, &account("alice", id), (102, "LOGIN SUCCESS"));
    for (peer, name) in peers.into_iter().zip(["one", "two"]) {
        lab.send(
            peer,
            9,
            &format!("{}\n{}", account("alice", id), files(&[name])),
        );
    }
    lab.world.run_for(SOON);
    let mut replies = peers.map(|peer| lab.reply(peer));
    replies.sort();
    assert_eq!(replies[0].0, 109, "{replies:?}");
    let busy = "another change of this user is under way; retry in 1 s";
    assert_eq!(replies[1], (209, busy.into()));
    let before = lab.ask(peers[0], 6, &id.to_string());
    lab.crash();
    let peer = lab.connect();
    assert_eq!(lab.ask(peer, 6, &id.to_string()), before);
}

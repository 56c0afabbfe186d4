//! Limits under many requests at once, and the line before the hashing threads.

use super::*;

/// Hashes and commits take this long.
const SLOW: Span = Span::ms(100, 100);

fn slow(config: Config) -> Lab {
    Lab::in_world(World::new(1), config, SLOW)
}

/// The limit at its true size, reached in full frames.
#[test]
fn a_registration_has_a_hundred_thousand_files_and_not_one_more() {
    let mut lab = Lab::new(Config::default());
    lab.world.validate_turns(false);
    let peer = lab.connect();
    let id = lab.join(peer, "alice", &[]);
    let add = |lab: &mut Lab, from: usize, to: usize| {
        let names: Vec<String> = (from..to).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let payload = format!("{}\n{}", account("alice", id), files(&names));
        lab.ask(peer, 10, &payload)
    };
    for from in (0..100_000).step_by(1000) {
        let total = (from + 1000).to_string();
        assert_eq!(add(&mut lab, from, from + 1000), (110, total));
    }
    let too_many = (
        210,
        "more than the 100000 files that are allowed".to_owned(),
    );
    assert_eq!(add(&mut lab, 100_000, 100_001), too_many);
    assert_eq!(add(&mut lab, 0, 0), (110, "100000".to_owned()));
    assert_eq!(lab.search(peer, "99999"), ["99999"]);
    assert!(lab.search(peer, "100000").is_empty());
    lab.expect(
        peer,
        9,
        &format!("{}\n{}", account("alice", id), files(&["short"])),
        (109, &format!("REGISTER_UPDATE_OK\n{id}")),
    );
    lab.world.run_for(Ticks::from_secs(10));
    assert_eq!(
        (lab.service().files(), lab.machine.disk().files.len()),
        (1, 1)
    );
}

/// Parts of a list that wait for their hashes together are not longer, all in all, than a list may be.
#[test]
fn parts_of_a_list_at_once_keep_to_its_limit() {
    let mut lab = slow(Config {
        files_per_peer_max: 10,
        registrations_per_hour_max: 100,
        tries_max: 100,
        ..Config::default()
    });
    let first = lab.connect();
    let id = lab.join(first, "alice", &[]);
    let peers: Vec<Script> = (0..12).map(|_| lab.connect()).collect();
    for &peer in &peers {
        let four = files(&["a", "b", "c", "d"]);
        lab.send(peer, 10, &format!("{}\n{four}", account("alice", id)));
    }
    lab.world.run_for(Ticks::from_secs(10));
    let texts: Vec<String> = peers.iter().map(|&peer| lab.reply(peer).1).collect();
    let too_many = texts.iter().filter(|text| text.starts_with("more than"));
    assert!(too_many.count() > 2, "{texts:?}");
    assert_eq!(lab.service().files(), 8);
}

#[test]
fn registrations_at_once_do_not_overfill_the_server() {
    let mut lab = slow(Config {
        peers_max: 3,
        files_max: 8,
        registrations_per_hour_max: 100,
        ..Config::default()
    });
    let register = |lab: &mut Lab, names: &[&str]| {
        let peers: Vec<Script> = (0..9).map(|_| lab.connect()).collect();
        for (n, &peer) in peers.iter().enumerate() {
            let user = format!("user{}{n}", names.len());
            lab.send(peer, 1, &format!("{user}\npw\n{}", files(names)));
        }
        lab.world.run_for(Ticks::from_secs(5));
        let codes = peers.iter().map(|&peer| lab.reply(peer));
        codes.filter(|reply| reply.0 == 101).count()
    };
    assert_eq!(register(&mut lab, &["a", "b", "c", "d"]), 2);
    assert_eq!(lab.service().files(), 8);
    assert_eq!(register(&mut lab, &[]), 1);
    assert_eq!(lab.service().peers(), 3);
}

/// The quota of an address is for registrations that are made: by whoever goes away as well, and by nobody whose
/// registration could not be stored.
#[test]
fn a_quota_counts_what_was_registered() {
    let mut lab = slow(Config::default());
    for n in 0..9 {
        let peer = lab.connect_from([192, 0, 2, 1], 1000 + n);
        lab.send(peer, 1, &format!("user{n}\npw"));
        lab.world.run_for(Ticks(5));
        lab.world.peer(peer).reset();
        lab.world.run_for(SOON);
    }
    assert_eq!(lab.service().peers(), 3);
    lab.machine.disk().full = true;
    for n in 0..5 {
        let peer = lab.connect_from([192, 0, 2, 2], 1000 + n);
        let (_, text) = lab.ask(peer, 1, "bob\npw");
        assert_eq!(text, "it cannot be stored now; retry in 10 s");
        let (_, text) = lab.ask(peer, 1, "user0\nguess");
        assert!(
            text.starts_with("wrong") || text.starts_with("locked"),
            "{text}"
        );
    }
    lab.machine.disk().full = false;
    let peer = lab.connect_from([192, 0, 2, 2], 2000);
    let _ = lab.register(peer, "bob", &[]);
}

/// A list of peers that many share a turn with is one turn's work each; who comes when many wait is told so, and what is
/// registered meanwhile waits for no more than those.
#[test]
fn lists_of_many_peers_wait_for_each_other() {
    let mut lab = Lab::new(Config::default());
    lab.world.validate_turns(false);
    let first = lab.connect();
    for n in 0..4100 {
        lab.send(first, 1, &format!("user{n}\npw"));
    }
    lab.world.run_for(Ticks::from_secs(60));
    assert_eq!(lab.service().peers(), 4100);
    let _ = lab.world.peer(first).take();
    // A turn takes longer than the requests are under way.
    lab.world.set_faults(crate::sim::Faults {
        turn_delay: Span::ms(1, 1),
        ..crate::sim::Faults::none()
    });
    let peers: Vec<Script> = (0..300).map(|_| lab.connect()).collect();
    for &peer in &peers {
        lab.send(peer, 5, "online");
    }
    lab.send(first, 1, "late\npw");
    lab.world.run_for(SOON);
    assert_eq!(lab.reply(first).0, 101);
    let replies: Vec<(u16, String)> = peers.iter().map(|&peer| lab.reply(peer)).collect();
    let listed = replies
        .iter()
        .filter(|reply| **reply == (105, "0\n".into()));
    let listed = listed.count();
    let busy = "too many long queries wait; retry in 1 s";
    let sent_away = replies.iter().filter(|reply| **reply == (205, busy.into()));
    assert_eq!(listed + sent_away.count(), 300);
    // Some turns were over before the last of them was accepted.
    assert!((256..275).contains(&listed), "{listed}");
    assert_eq!(lab.service().queries, 0);
}

/// A timer that is refused would leave a peer online, or registered, for ever.
#[test]
fn there_are_timers_for_all_peers() {
    let config = Config {
        peers_max: 5_000_000,
        ..Config::default()
    };
    assert!(config.fit(Limits::default()).timers_max > 10_000_000);
}

/// The same at a limit that was set lower: a peer that no timer watches would never be taken for gone.
#[test]
fn nobody_is_online_without_a_timer() {
    let config = Config::default();
    let limits = Limits {
        timers_max: 2,
        ..config.fit(Limits::default())
    };
    let mut lab = Lab::with_limits(World::new(1), config, Span::ms(1, 5), limits);
    let peer = lab.connect();
    let id = lab.register(peer, "alice", &["song"]);
    let full = (202, "no timer is left for a login; retry in 10 s");
    lab.expect(peer, 2, &account("alice", id), full);
    assert!(lab.search(peer, "song").is_empty());
    let _ = lab.register(peer, "bob", &[]);
}

/// A registration whose timer was refused still ends.
#[test]
fn a_registration_ends_without_a_timer_of_its_own() {
    let config = Config {
        time_to_live: Ticks::from_secs(100),
        ..Config::default()
    };
    let limits = Limits {
        timers_max: 1,
        ..config.fit(Limits::default())
    };
    let mut lab = Lab::with_limits(World::new(1), config, Span::ms(1, 5), limits);
    let peer = lab.connect();
    let _ = lab.register(peer, "alice", &["song"]);
    lab.world.run_for(Ticks::from_secs(300));
    assert_eq!(
        (lab.service().peers(), lab.service().counts().expired),
        (0, 1)
    );
}

/// More files than can be numbered are never listed, whatever the configuration says.
#[test]
fn the_catalogue_is_not_told_to_hold_more_than_it_can() {
    let config = Config {
        files_max: usize::MAX,
        ..Config::default()
    };
    let server = IndexServer::new(config, Stored::default());
    assert_eq!(
        server.config.files_max,
        crate::proto::index::catalog::FILES_MAX
    );
}

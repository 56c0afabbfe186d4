//! Writes that are acknowledged once they are committed.

use super::*;

/// Before the commit of what was sent this long ago, and well after it.
const EARLY: Ticks = Ticks(1);
const LATE: Ticks = Ticks(20);

#[test]
fn acknowledged_and_read_only_after_the_commit() {
    let lab = &mut Lab::new(true);
    lab.preset("a", b"old");
    let writer = lab.sent(&insert("a", b"new"), EARLY);
    let reader = lab.sent(&line("GET", "a"), EARLY);
    lab.assert_received(writer, b"", "before the commit");
    lab.assert_received(reader, b"1\n3\nold", "before the commit");
    lab.world.run_for(LATE);
    lab.assert_received(writer, b"1\n1\n", "after the commit");
    lab.send(reader, &line("GET", "a"));
    lab.world.run_for(EARLY);
    lab.assert_received(reader, b"1\n3\nold1\n3\nnew", "after the commit");

    let remover = lab.sent(&line("REMOVE", "a"), EARLY);
    lab.assert_received(remover, b"", "before the commit");
    assert_eq!(lab.held("a"), Some(&b"new"[..]));
    lab.world.run_for(LATE);
    lab.assert_received(remover, b"1\n1\n", "after the commit");
    assert_eq!(lab.held("a"), None);
}

/// A plain peer sends the value once it is told whose key it is.
#[test]
fn whose_key_it_is_is_said_before_the_value_comes() {
    let lab = &mut Lab::new(true);
    let writer = lab.sent(&line("INSERT", "a"), EARLY);
    lab.assert_received(writer, b"1\n", "after the key");
    lab.send(writer, b"3\nnew");
    lab.world.run_for(EARLY);
    lab.assert_received(writer, b"1\n", "before the commit");
    lab.world.run_for(LATE);
    lab.assert_received(writer, b"1\n1\n", "after the commit");
}

#[test]
fn a_commit_that_fails_changes_nothing() {
    let lab = &mut Lab::new(true);
    lab.preset("a", b"old");
    let both = [insert("a", UNLUCKY), line("GET", "a")].concat();
    let peer = lab.sent(&both, LATE);
    lab.assert_received(peer, b"1\n0\n1\n3\nold", "a failed commit");
    lab.send(peer, &insert("a", b"new"));
    lab.world.run_for(LATE);
    lab.assert_received(peer, b"1\n0\n1\n3\nold1\n1\n", "and a good one");
    assert_eq!(lab.held("a"), Some(&b"new"[..]));
}

#[test]
fn a_lost_writer_has_written() {
    for name in ["finish", "close", "reset"] {
        let lab = &mut Lab::new(true);
        lab.preset("b", b"old");
        let ask = [insert("a", b"new"), line("REMOVE", "b")].concat();
        // The answer to a FIN is still delivered; the second command of a lost peer is not begun.
        let removed = name == "finish";
        let peer = lab.sent(&ask, EARLY);
        match name {
            "finish" => lab.world.peer(peer).finish(),
            "close" => lab.world.peer(peer).close(),
            _ => lab.world.peer(peer).reset(),
        }
        assert_eq!(lab.held("a"), None, "{name}");
        lab.world.run_for(LATE);
        assert_eq!(lab.held("a"), Some(&b"new"[..]), "{name}");
        if removed {
            lab.assert_received(peer, b"1\n1\n1\n1\n", name);
            assert_eq!(lab.held("b"), None, "{name}");
        }
        lab.assert_nothing_left(name);
        lab.assert_serves(name);
    }
}

#[test]
fn a_pipelined_read_waits_for_the_write() {
    let lab = &mut Lab::new(true);
    lab.preset("a", b"old");
    let ask = [
        insert("a", b"new"),
        line("GET", "a"),
        line("REMOVE", "a"),
        line("CONTAINS", "a"),
    ];
    let peer = lab.sent(&ask.concat(), EARLY);
    lab.assert_received(peer, b"", "nothing overtakes a write");
    lab.world.run_for(LATE);
    lab.assert_received(peer, b"1\n1\n1\n3\nnew1\n1\n1\n0\n", "in order");
}

#[test]
fn writes_beyond_jobs_max_are_refused() {
    let limits = Limits {
        jobs_max: 2,
        ..Limits::default()
    };
    let lab = &mut Lab::with(true, limits, |_| {});
    let peers: Vec<PeerId> = ["a", "b", "c", "d"]
        .map(|name| lab.sent(&insert(name, b"v"), Ticks(0)))
        .into();
    lab.world.run_for(EARLY);
    let now: Vec<Vec<u8>> = peers.iter().map(|&peer| lab.received(peer)).collect();
    let refused = now.iter().filter(|got| *got == b"1\n0\n").count();
    assert_eq!(refused, 2, "{now:?}");
    lab.world.run_for(LATE);
    let stored = peers
        .iter()
        .filter(|&&peer| lab.received(peer) == b"1\n1\n");
    assert_eq!((stored.count(), lab.service().entries.len()), (2, 2));
    for peer in peers {
        lab.world.peer(peer).take();
        lab.send(peer, &insert("e", b"v"));
        lab.world.run_for(LATE);
        lab.assert_received(peer, b"1\n1\n", "there is room again");
    }
}

#[test]
fn the_order_of_two_writers_is_that_of_the_commits() {
    // From both in one commit to each in its own.
    for pause in 0..8 {
        let lab = &mut Lab::new(true);
        let many = |tag: &str| -> Vec<u8> {
            (0..10)
                .flat_map(|n| insert("a", format!("{tag}{n}").as_bytes()))
                .collect()
        };
        let one = lab.sent(&many("one"), Ticks(pause));
        let two = lab.sent(&many("two"), Ticks(0));
        for _ in 0..200 {
            lab.world.run_for(Ticks(1));
            let commits = lab.commits.lock().unwrap();
            let held = lab.held("a");
            let is_of_commit = commits
                .iter()
                .flatten()
                .any(|value| Some(&value[..]) == held);
            assert!(held.is_none() || is_of_commit);
        }
        for peer in [one, two] {
            lab.assert_received(peer, &b"1\n1\n".repeat(10), "all are acknowledged");
        }
        let commits = lab.commits.lock().unwrap();
        assert_eq!(commits.len(), 20);
        assert_eq!(commits.last().unwrap().as_deref(), lab.held("a"));
    }
}

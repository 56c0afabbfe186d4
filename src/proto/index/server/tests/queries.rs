//! Searches and lists: whole entries, page after page, and other work meanwhile.

use super::*;
use crate::sim::Faults;

/// Reads a list page by page, by the number of lines of an entry and whether there is a total before them.
fn pages(
    lab: &mut Lab,
    peer: Script,
    kind: u16,
    what: &str,
    lines: usize,
    total: bool,
) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    loop {
        let (code, text) = lab.ask(peer, kind, &format!("{what}\n{}", entries.len()));
        assert_eq!(code, kind + 100, "{text}");
        assert!(text.len() <= 65_535);
        let mut rest: Vec<&str> = text.lines().collect();
        if total {
            rest.remove(0);
        }
        assert_eq!(rest.len() % lines, 0, "an entry is cut");
        if rest.is_empty() {
            return entries;
        }
        entries.extend(rest.chunks(lines).map(|entry| entry[0].to_owned()));
    }
}

#[test]
fn lists_come_in_pages_of_whole_entries() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let names: Vec<String> = (0..3000)
        .map(|n| format!("song number {n:04}.mp3"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = lab.join(peer, "alice", &names[..900]);
    for some in names[900..].chunks(700) {
        let (code, text) = lab.ask(
            peer,
            10,
            &format!("{}\n{}", account("alice", id), files(some)),
        );
        assert_eq!(code, 110, "{text}");
    }
    assert_eq!(pages(&mut lab, peer, 7, "song", 7, false), names);
    assert_eq!(pages(&mut lab, peer, 7, "SONG number", 7, false), names);
    let mut browsed = pages(&mut lab, peer, 6, &id.to_string(), 1, true);
    browsed.iter_mut().for_each(|line| line.truncate(20));
    assert_eq!(browsed, names);
    lab.crash();
    let peer = lab.connect();
    lab.expect(peer, 3, &id.to_string(), (103, "KEEP ALIVE SUCCESS"));
    assert_eq!(
        pages(&mut lab, peer, 7, "mp3", 7, false),
        names,
        "loaded as it was"
    );
    let wide = "u".repeat(60);
    for n in 0..1000 {
        lab.send(peer, 1, &format!("{wide}{n:04}\npw"));
    }
    lab.world.run_for(Ticks::from_secs(20));
    assert_eq!(replies(&lab.world.peer(peer).take()).len(), 1000);
    let listed = pages(&mut lab, peer, 5, "all", 1, true);
    assert_eq!((listed.len(), lab.service().peers()), (1001, 1001));
}

#[test]
fn an_update_is_found_at_once_and_whole() {
    let mut lab = Lab::new(Config::default());
    let (peer, watcher) = (lab.connect(), lab.connect());
    let names: Vec<String> = (0..900).map(|n| format!("old {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = lab.join(peer, "alice", &names);
    let new: Vec<String> = (0..900).map(|n| format!("new {n}")).collect();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    lab.send(
        peer,
        9,
        &format!("{}\n{}", account("alice", id), files(&new)),
    );
    let starting = |world: &World<IndexServer>, word: &str| {
        let server = world.service(lab.server);
        let slot = server.registry.slot_of(id).expect("registered");
        let holder = server.registry.get(slot).expect("registered").holder;
        let files = server.catalog.browse(holder, 0);
        files.filter(|file| file.name.starts_with(word)).count()
    };
    let mut changed = false;
    lab.world.until(SOON, |world| {
        let both = (starting(world, "old"), starting(world, "new"));
        assert!(both == (900, 0) || both == (0, 900), "{both:?}");
        changed |= both == (0, 900);
        changed
    });
    assert!(changed);
    lab.world.run_for(SOON);
    assert!(lab.search(watcher, "old").is_empty());
    assert_eq!(lab.service().files(), 900, "the former files are purged");
}

/// A search that reads many names lets others be served between its pieces.
#[test]
fn a_long_search_does_not_hold_up_short_ones() {
    let mut lab = Lab::new(Config {
        matching: Match::Any,
        ..Config::default()
    });
    let (peer, other) = (lab.connect(), lab.connect());
    let id = lab.join(peer, "alice", &["needle and straw"]);
    for part in 0..20 {
        let names: Vec<String> = (0..500)
            .map(|n| format!("{} {part} {n}", ["straw", "hay"][n % 2]))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (code, _) = lab.ask(
            peer,
            10,
            &format!("{}\n{}", account("alice", id), files(&names)),
        );
        assert_eq!(code, 110);
    }
    // A turn takes longer than a request is under way.
    lab.world.set_faults(Faults {
        turn_delay: Span::ms(1, 1),
        ..Faults::none()
    });
    // None has both, which is known only at the end.
    lab.send(peer, 7, "straw hay");
    lab.world
        .until(SOON, |world| !world.service(lab.server).tasks.is_empty());
    lab.send(other, 7, "needle");
    lab.world
        .until(SOON, |world| !world.peer(other).received().is_empty());
    assert!(
        lab.world.peer(peer).received().is_empty(),
        "the long one is still under way"
    );
    // A holder that logs out meanwhile is not in its answer.
    lab.world.with(lab.server, |server, hub| {
        let slot = server.registry.slot_of(id).expect("registered");
        server.go_offline(hub, slot);
    });
    lab.world
        .until(SOON, |world| !world.peer(peer).received().is_empty());
    assert_eq!(lab.reply(peer), (107, String::new()));
}

/// A long search waits for a share of each change before it, not for the whole change, and then reads the changed
/// catalogue from the start.
#[test]
fn a_long_change_does_not_hold_up_a_search() {
    let mut lab = Lab::new(Config {
        matching: Match::Any,
        ..Config::default()
    });
    let (peer, other) = (lab.connect(), lab.connect());
    let named = |of: char, numbers: &[usize]| {
        let name = |n: &usize| format!("straw hay mow {n:04} {of}");
        numbers.iter().map(name).collect::<Vec<_>>()
    };
    let kept = named('b', &(0..400).map(|n| n * 8).collect::<Vec<_>>());
    let _ = lab.join(
        other,
        "bob",
        &kept.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let id = lab.join(peer, "alice", &[]);
    // The last files are purged first, those at the front of the lists.
    let numbers: Vec<usize> = (0..3200).rev().collect();
    for some in numbers.chunks(800) {
        let names = named('a', some);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let list = format!("{}\n{}", account("alice", id), files(&names));
        assert_eq!(lab.ask(peer, 10, &list).0, 110);
    }
    lab.world.set_faults(Faults {
        turn_delay: Span::ms(1, 1),
        ..Faults::none()
    });
    lab.send(peer, 9, &format!("{}\n", account("alice", id)));
    lab.world
        .until(SOON, |world| !world.peer(peer).received().is_empty());
    let purging = lab.service().files();
    assert!(purging > 3000, "{purging} are still to be purged");
    lab.send(other, 7, "straw hay mow");
    lab.world
        .until(SOON, |world| !world.service(lab.server).tasks.is_empty());
    lab.world.until(SOON, |world| {
        Frame::parse(world.peer(other).received()).is_some()
    });
    let left = lab.service().files();
    assert!(left > 2000, "{left} of {purging} are left to be purged");
    let (_, text) = lab.reply(other);
    let found: Vec<&str> = text.lines().step_by(7).collect();
    assert!(found == kept, "{} of {}", found.len(), kept.len());
    lab.world.run_for(SOON);
    assert_eq!(lab.service().files(), kept.len());
}

#[test]
fn what_is_no_search_is_refused() {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    lab.expect(peer, 7, "-- ..", (207, "there is no word to search for"));
    let words: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    lab.expect(
        peer,
        7,
        &words.join(" "),
        (207, "there are more than 32 words"),
    );
    lab.expect(peer, 7, &words[..32].join(" "), (107, ""));
    let deep = (207, "the offset is over 10000: search for more words");
    lab.expect(peer, 7, "a b\n10001", deep);
    lab.expect(peer, 7, "a\n18446744073709551615", (107, ""));
}

#[test]
fn any_word_is_enough_when_told_so() {
    let mut lab = Lab::new(Config {
        matching: Match::Any,
        ..Config::default()
    });
    let peer = lab.connect();
    let _ = lab.join(peer, "alice", &["a b", "b", "a", "c", "A a a"]);
    assert_eq!(lab.search(peer, "a b"), ["A a a", "a b", "a", "b"]);
}

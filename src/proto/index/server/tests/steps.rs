//! The server is killed at every step of a session: acknowledged changes are there, others are whole or absent.

use super::*;

/// The state of a user after a restart: id, list, and whether a keep-alive brings it back.
type Kept = (Option<PeerId>, Vec<String>, bool);

/// One user's requests; the id is the one that the last REGISTER gave.
const SESSION: [(u16, &[&str]); 9] = [
    (1, &["a", "b"]),
    (10, &["c"]),
    (2, &[]),
    (9, &["d", "e"]),
    (10, &["f"]),
    (1, &["g"]),
    (2, &[]),
    (4, &[]),
    (9, &[]),
];

/// Runs the session for `events` events; returns the number of answers, and the state after a restart.
fn run(events: u64) -> (usize, Kept) {
    let mut lab = Lab::new(Config::default());
    let peer = lab.connect();
    let (mut answered, mut id) = (0, PeerId::from_bits(0));
    for (kind, names) in SESSION {
        let list = files(names);
        let payload = match kind {
            1 => format!("alice\npw-alice\n{list}"),
            2 | 4 => account("alice", id),
            _ => format!("{}\n{list}", account("alice", id)),
        };
        lab.send(peer, kind, &payload);
        lab.world.until(SOON, |world| {
            world.events() >= events || !world.peer(peer).received().is_empty()
        });
        if lab.world.peer(peer).received().is_empty() {
            break;
        }
        let (code, text) = lab.reply(peer);
        assert!(code < 200, "{text}");
        if kind == 1 {
            id = text.lines().nth(1).expect("an id").parse().expect("an id");
        }
        answered += 1;
    }
    lab.crash();
    let server = lab.service();
    let slot = server.registry.slot_of_user("alice");
    let Some(found) = slot.and_then(|slot| server.registry.get(slot)) else {
        assert_eq!(server.files(), 0);
        return (answered, (None, Vec::new(), false));
    };
    let listed = server.catalog.browse(found.holder, 0);
    let listed: Vec<String> = listed.map(|file| file.name.to_owned()).collect();
    assert_eq!(
        (server.peers(), server.files()),
        (1, listed.len()),
        "nothing of a former list or id"
    );
    (answered, (Some(found.id), listed, found.place.is_some()))
}

#[test]
fn a_kill_at_every_step_loses_nothing_that_was_acknowledged() {
    let mut runs = Vec::new();
    while runs
        .last()
        .is_none_or(|(answered, _)| *answered < SESSION.len())
    {
        runs.push(run(runs.len() as u64));
    }
    // By the number of answers: the state when the next request was just sent. All runs are the same up to the kill, ids
    // included.
    let mut after: Vec<Kept> = Vec::new();
    for (answered, kept) in &runs {
        if *answered == after.len() {
            after.push(kept.clone());
        }
    }
    assert_eq!(after.len(), SESSION.len() + 1);
    assert_eq!(after[5].1, ["d", "e", "f"]);
    assert!(after[5].2 && !after[8].2 && after[5].0 != after[6].0);
    for (events, (answered, kept)) in runs.iter().enumerate() {
        let next = after.get(answered + 1);
        assert!(
            *kept == after[*answered] || Some(kept) == next,
            "killed after {events} events, {answered} answers: {kept:?}"
        );
    }
    let early = runs
        .iter()
        .filter(|(answered, kept)| *kept != after[*answered]);
    assert!(early.count() > 5, "between the commits and their answers");
}

//! A client and a real node. They are services of different types, so each has a world of its own, and the
//! bytes of a connection are carried from one to the other.

use super::*;

/// Works off `tasks` at a node that holds nothing at first. Returns the results and how many ran at once.
fn at_a_node(tasks: Vec<Task>, at_once_max: usize) -> (Run, usize) {
    let mut ring = World::new(3);
    let config = Config::new(addr(1));
    let limits_of_node = config.fit(Limits::default());
    let node = ring.add(
        addr(1),
        DhtNode::new(config, Entries::default()),
        limits_of_node,
    );
    let mut lab = Lab::new(tasks, Bounds::default(), limits(), at_once_max);
    let listener = lab.world.listen(addr(1));
    let mut pairs: Vec<(PeerId, PeerId)> = Vec::new();
    let mut dials = 0;
    while lab.world.is_up(lab.id) {
        let running = lab
            .world
            .with(lab.id, |client, _| client.operations().len());
        lab.running_max = lab.running_max.max(running);
        lab.world.run_for(Ticks(1));
        while let Some(peer) = lab.world.accept(listener) {
            dials += 1;
            pairs.push((peer, ring.connect(addr(1))));
        }
        pairs.retain(|&(client, server)| {
            let asked = lab.world.peer(client).take();
            ring.peer(server).send(&asked);
            let answered = ring.peer(server).take();
            lab.world.peer(client).send(&answered);
            let over = lab.world.peer(client).is_closed();
            if over {
                ring.peer(server).finish();
                lab.world.peer(client).finish();
            }
            !over
        });
        ring.run_for(Ticks(1));
        assert!(
            lab.world.now() < crate::engine::Tick(0) + TOO_LONG,
            "it ends some day"
        );
    }
    for (_, server) in pairs {
        ring.peer(server).finish();
    }
    ring.run_for(Ticks::from_secs(3));
    assert_eq!(ring.node(node).conns(), 0);
    let took = lab.world.now() - crate::engine::Tick(0);
    let nobody = Client::new(addr(1), Vec::new(), Bounds::default(), 1);
    let results = lab.world.restart(lab.id, nobody).into_results();
    (
        Run {
            results,
            took,
            dials,
        },
        lab.running_max,
    )
}

#[test]
fn every_verb_at_a_real_node() {
    let long = Bytes::from((0..300_000u32).map(|n| n as u8).collect::<Vec<u8>>());
    let table = [
        (Verb::Locate, Outcome::Located(addr(1))),
        (Verb::Contains, Outcome::Contains(false)),
        (Verb::Get, Outcome::Got(None)),
        (Verb::Remove, Outcome::Removed),
        (Verb::Insert(Bytes::new()), Outcome::Inserted),
        (Verb::Contains, Outcome::Contains(true)),
        (Verb::Get, Outcome::Got(Some(Bytes::new()))),
        (Verb::Insert(long.clone()), Outcome::Inserted),
        (Verb::Get, Outcome::Got(Some(long))),
        (Verb::Remove, Outcome::Removed),
        (Verb::Get, Outcome::Got(None)),
    ];
    let tasks = table.iter().map(|(verb, _)| Task {
        verb: verb.clone(),
        key: key(),
    });
    let (run, at_once) = at_a_node(tasks.collect(), 1);
    for (result, (verb, outcome)) in run.results.iter().zip(&table) {
        assert!(result.as_ref() == Some(&Ok(outcome.clone())), "{verb:?}");
    }
    assert_eq!(
        (run.results.len(), run.dials, at_once),
        (table.len(), table.len(), 1)
    );
}

#[test]
fn many_tasks_a_few_at_a_time_in_order() {
    let name = |n: usize| Id::of(&n.to_be_bytes());
    let value = |n: usize| Bytes::from(vec![n as u8; n * 37]);
    let insert = |n| Task {
        verb: Verb::Insert(value(n)),
        key: name(n),
    };
    let get = |n| Task {
        verb: Verb::Get,
        key: name(n),
    };
    for at_once_max in [1, 3, 1000] {
        // So far apart that a GET begins only after its INSERT ended, where that is so at all.
        let gets = if at_once_max < 50 { 50 } else { 0 };
        let tasks = (0..50).map(insert).chain((0..gets).map(get)).collect();
        let (run, at_once) = at_a_node(tasks, at_once_max);
        assert!(
            at_once <= at_once_max && at_once == at_once_max.min(50),
            "{at_once}"
        );
        for (n, result) in run.results.iter().enumerate() {
            let outcome = match n {
                0..50 => Outcome::Inserted,
                _ => Outcome::Got(Some(value(n - 50))),
            };
            assert!(result.as_ref() == Some(&Ok(outcome)), "task {n}");
        }
    }
}

#[test]
fn results_are_in_the_order_of_the_tasks_whatever_ends_first() {
    // Every third is a try at a node that is not there.
    let tasks = |_| Task {
        verb: Verb::Get,
        key: key(),
    };
    let good = talk(&[("LOCATE\nK\n", A), ("GET\nK\n", "1\n1\nv")], Then::Stay);
    let away = talk(&[("LOCATE\nK\n", B)], Then::Stay);
    let bounds = Bounds {
        attempts_max: 1,
        ..Bounds::default()
    };
    let lab = Lab::new((0..30).map(tasks).collect(), bounds, limits(), 1);
    let around = talk(&[("LOCATE\n@\n", A)], Then::Stay);
    let talks = vec![good.clone(), good, away, around];
    let run = lab.server(addr(1), talks).run();
    for (n, result) in run.results.iter().enumerate() {
        let is_good = result.as_ref().is_some_and(Result::is_ok);
        assert_eq!(is_good, n % 3 != 2, "task {n}: {result:?}");
    }
}

#[test]
fn no_tasks_end_at_once() {
    let run = Lab::new(Vec::new(), Bounds::default(), limits(), 4).run();
    assert!(run.results.is_empty() && run.took <= Ticks(5));
}

//! What happens at a limit: of timers, of log lines, of the disk.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::client::{Client, Failure, Question};
use super::script::*;
use super::*;

/// A node may have one timer and hosts three peers, whose tracker is not there at first.
#[test]
fn peers_at_the_limit_of_timers_go_on_trying() {
    let mut world = World::new(1);
    let limits = Limits {
        timers_max: 1,
        ..limits()
    };
    let id = world.add(addr(1), RingNode::Peers(Peers::new()), limits);
    for n in 2..=3 {
        world.add_listener(id, addr(n));
    }
    world.with(id, |node, hub| {
        let RingNode::Peers(peers) = node else { return };
        for n in 1..=3 {
            peers.add(
                hub,
                PeerConfig {
                    handle: format!("peer{n}").as_str().into(),
                    addr: addr(n),
                    tracker: TRACKER,
                    dial_from: None,
                },
            );
        }
    });
    world.run_for(secs(5));
    let config = Config::default();
    let tracker_id = add_tracker(&mut world, config, 3);
    world.until(secs(200), |w| tracker(w, tracker_id).members() == 3);
}

/// A tracker may have two timers, and its five members are dead.
#[test]
fn a_tracker_at_the_limit_of_timers_removes_the_dead() {
    let mut world = World::new(1);
    let limits = Limits {
        timers_max: 2,
        ..limits()
    };
    let service = RingNode::Tracker(Tracker::new(Config::default(), items(5), Vec::new()));
    let id = world.add(TRACKER, service, limits);
    for n in 1..=5 {
        register(&mut world, addr(n), &format!("p{n}"));
    }
    assert_eq!(tracker(&world, id).members(), 5);
    world.until(secs(120), |w| tracker(w, id).members() == 0);
}

/// A full disk refuses no peer, and the answer does not tell of it.
#[test]
fn a_registration_that_is_not_persisted_is_valid() {
    struct Full;
    impl Work for Full {
        type Job = Write;
        type Done = Written;
        fn run(&mut self, jobs: &mut Vec<Write>, done: &mut Vec<Written>) {
            done.extend(jobs.drain(..).map(|write| write.written(false)));
        }
    }
    let mut world = World::new(1);
    let config = Config {
        durable: true,
        ..Config::default()
    };
    let id = add_tracker(&mut world, config, 1);
    world.set_worker(id, Full, Span::ms(1, 1));
    let answer = register(&mut world, addr(1), "p1");
    assert!(answer.contains("REG_INIT"), "{answer}");
    let counts = tracker(&world, id).counts();
    assert_eq!((counts.registered, counts.unpersisted), (1, 1));
    assert_eq!(tracker(&world, id).ring().len(), 1);
}

/// A store with a number that no ring gives out is no reason to stop, nor for a number to be given twice.
#[test]
fn a_recovered_number_out_of_range() {
    let member = |number, handle: &str| PersistedMember {
        number,
        handle: handle.into(),
        addr: addr(number as usize & 7),
        encoding: super::super::wire::Encoding::OURS,
    };
    let recovered = vec![member(3, "a"), member(u64::MAX, "b")];
    let tracker = Tracker::new(Config::default(), items(1), recovered);
    assert_eq!(tracker.members(), 1);
}

/// Lines that tell of a refused UPDATE_NBR.
static LINES: AtomicUsize = AtomicUsize::new(0);

struct Count;

impl log::Log for Count {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("10.77.77.77:") {
            LINES.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_flood_of_refused_updates_is_not_a_flood_of_log_lines() {
    log::set_logger(&Count).expect("no other test sets one");
    log::set_max_level(log::LevelFilter::Warn);
    let mut world = World::new(1);
    add_peer(&mut world, 1);
    world.run_for(Ticks(1));
    let stranger = Ipv4Addr::new(10, 77, 77, 77);
    for _ in 0..100 {
        let update = "('UPDATE_NBR', 'bob', '10.1.0.7', 5000)";
        say(&mut world, stranger, addr(1), update);
        world.run_for(Ticks(2));
    }
    let lines = LINES.load(Ordering::Relaxed);
    assert!((1..=4).contains(&lines), "{lines} lines in two seconds");
}

/// A list of peers that never ends: each page comes in time, with one peer of very many.
#[test]
fn a_list_that_never_ends_is_given_up() {
    let mut world = World::new(1);
    let client = Client::new(TRACKER, Question::Peers, secs(100));
    let id = world.add(addr(1), client, Limits::default());
    let listener = world.listen(TRACKER);
    let (mut peer, mut pages) = (None, 0);
    for _ in 0..1100 {
        world.run_for(Ticks(10));
        peer = peer.or_else(|| world.accept(listener));
        let Some(peer) = peer else { continue };
        if read(world.peer(peer).received()).is_some() {
            world.peer(peer).take();
            pages += 1;
            let page = format!("('PEERS', 1000000, (('p{pages}', '10.0.0.9', 1),))");
            world.peer(peer).send(page.as_bytes());
        }
    }
    assert!(pages > 500, "{pages}");
    let failure = Failure::Silent(TRACKER);
    assert_eq!(world.service(id).result(), &Err(failure));
}

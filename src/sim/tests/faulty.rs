//! The simulator's own faults: each does what it says, and crashes lose what a crash loses.

use crate::engine::{Limits, Ticks};
use crate::sim::{Ending, Faults, Span, World};

use super::lines::{Lines, Stamp};
use super::{addr, ask, assert_nothing_left, one_server, secs};

#[test]
fn a_rough_network_changes_no_reply() {
    for seed in crate::sim::seeds(30) {
        crate::sim::check(seed, || {
            let tight = seed.is_multiple_of(2);
            let limits = if tight {
                super::tight()
            } else {
                Limits::default()
            };
            let (mut world, id) = one_server(seed, limits);
            world.set_faults(Faults::rough());
            let (peer, got) = ask(
                &mut world,
                b"echo a\nbig 9000\nput 3\nabcwait 2\necho b\n",
                9017,
            );
            assert_eq!(got.len(), 9017);
            assert!(got.starts_with(b"A\nxx") && got.ends_with(b"xgot 3\nwaited\nB\n"));
            world.peer(peer).close();
            world.run_for(secs(1));
            assert_nothing_left(&world, id);
        });
    }
}

#[test]
fn a_stale_event_is_counted_and_does_nothing() {
    let (mut world, id) = one_server(4, Limits::default());
    world.set_faults(Faults {
        stale: 1.0,
        spurious: 1.0,
        ..Faults::none()
    });
    for _ in 0..20 {
        let (peer, got) = ask(&mut world, b"echo a\n", 2);
        assert_eq!(got, b"A\n");
        world.peer(peer).finish();
        // The next one takes the slot before the stale event comes.
        world.until(secs(1), |w| w.node(id).conns() == 0);
    }
    ask(&mut world, b"echo a\n", 2);
    world.run_for(Ticks(1));
    assert_eq!(world.node(id).stats().stale, 20);
    assert_eq!(world.node(id).conns(), 1);
}

#[test]
fn a_cut_connection_is_reset_or_half_closed_at_its_byte() {
    let faults = [
        Faults {
            reset: 1.0,
            cut_bytes_max: 8,
            ..Faults::none()
        },
        Faults {
            half_close: 1.0,
            cut_bytes_max: 8,
            ..Faults::none()
        },
    ];
    for (faults, ending) in faults.into_iter().zip([Ending::Reset, Ending::Fin]) {
        let (mut world, id) = one_server(4, Limits::default());
        world.set_faults(faults);
        let mut cut = 0;
        for _ in 0..50 {
            let peer = world.connect(addr(1));
            world.peer(peer).send(b"echo 0123456789\n");
            world.run_for(secs(1));
            let got = world.peer(peer).take();
            assert!(b"0123456789\n".starts_with(&got));
            cut += usize::from(world.peer(peer).ending() == Some(ending));
            world.peer(peer).close();
            world.run_for(secs(3));
        }
        assert!(cut >= 40, "{cut} of 50 saw {ending:?}");
        assert_nothing_left(&world, id);
    }
}

#[test]
fn accepting_pauses_and_resumes() {
    let (mut world, id) = one_server(4, Limits::default());
    world.set_faults(Faults {
        accept_failure: 1.0,
        ..Faults::none()
    });
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo a\n");
    world.run_for(secs(10));
    let stats = world.node(id).stats();
    assert!(
        (90..=101).contains(&stats.accept_pauses),
        "{}",
        stats.accept_pauses
    );
    assert!(
        stats.turns < 300,
        "no spinning meanwhile: {} turns",
        stats.turns
    );
    world.heal();
    world.run_for(Ticks(12));
    assert_eq!(world.peer(peer).received(), b"A\n");
}

#[test]
fn a_crash_resets_or_falls_silent() {
    for silent in [false, true] {
        let (mut world, id) = one_server(4, Limits::default());
        let (peer, _) = ask(&mut world, b"echo a\n", 2);
        world.kill_with(id, silent);
        world.run_for(secs(1));
        assert_eq!(
            world.peer(peer).ending(),
            (!silent).then_some(Ending::Reset)
        );
        let late = world.connect(addr(1));
        world.run_for(secs(1));
        assert_eq!(
            world.peer(late).ending(),
            (!silent).then_some(Ending::Refused)
        );
        world.restart(id, Lines::default());
        world.run_for(secs(1));
        assert_eq!(
            world.peer(peer).ending(),
            Some(Ending::Reset),
            "the new process knows nothing"
        );
        let (_, got) = ask(&mut world, b"echo b\n", 2);
        assert_eq!(got, b"B\n");
    }
}

#[test]
fn a_crash_loses_the_jobs_that_have_not_run_and_keeps_the_others() {
    use std::sync::{Arc, Mutex};
    struct Disk(Arc<Mutex<usize>>);
    impl crate::engine::Work for Disk {
        type Job = crate::engine::ConnId;
        type Done = crate::engine::ConnId;
        fn run(&mut self, jobs: &mut Vec<Self::Job>, done: &mut Vec<Self::Done>) {
            *self.0.lock().unwrap() += jobs.len();
            done.append(jobs);
        }
    }
    // A group is done 10 ms after it was asked for, and reported after 20 ms.
    for (kill_at, on_disk) in [(Ticks(0), 0), (Ticks(1), 3), (Ticks(4), 3)] {
        let written = Arc::new(Mutex::new(0));
        let (mut world, id) = one_server(4, Limits::default());
        world.set_worker(id, Disk(written.clone()), Span::ms(10, 10));
        let (peer, _) = ask(&mut world, b"echo a\n", 2);
        world.peer(peer).send(b"jobs 3\n");
        world.until(secs(1), |w| w.node(id).stats().messages == 2);
        world.run_for(kill_at);
        world.run_for(Ticks(u64::from(kill_at.0 > 0)));
        let stamped = world.service(id).stamped;
        world.kill(id);
        world.run_for(secs(1));
        assert_eq!(*written.lock().unwrap(), on_disk);
        assert_eq!(stamped, if kill_at.0 == 4 { 3 } else { 0 });
        let old = world.restart(id, Lines::default());
        assert_eq!(old.stamped, stamped, "what was not reported stays so");
        world.run_for(secs(1));
        assert_eq!(world.service(id).stamped, 0);
    }
}

#[test]
fn a_node_that_leaves_delivers_first() {
    let (mut world, id) = one_server(4, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"blob 500000\n");
    world.until(secs(1), |w| w.peer(peer).received().len() > 10_000);
    world.shutdown(id);
    world.until(secs(3), |w| !w.is_up(id));
    world.until(secs(1), |w| w.peer(peer).is_closed());
    assert_eq!(world.peer(peer).received().len(), 500_000);
    let late = world.connect(addr(1));
    world.run_for(secs(1));
    assert_eq!(world.peer(late).ending(), Some(Ending::Refused));
}

#[test]
fn a_paused_process_serves_later() {
    let (mut world, id) = one_server(4, Limits::default());
    let (peer, _) = ask(&mut world, b"echo a\n", 2);
    world.pause(id, true);
    world.peer(peer).send(b"echo b\n");
    world.run_for(secs(30));
    assert_eq!(world.peer(peer).received(), b"");
    world.pause(id, false);
    world.run_for(secs(1));
    assert_eq!(world.peer(peer).received(), b"B\n");
}

#[test]
fn an_idle_world_costs_nothing() {
    let (mut world, id) = one_server(4, Limits::default());
    let (peer, _) = ask(&mut world, b"echo a\n", 2);
    world.peer(peer).close();
    world.run_for(secs(1));
    let before = world.events();
    world.run_for(secs(1_000_000));
    assert!(world.events() - before <= 2);
    assert_nothing_left(&world, id);
}

#[test]
fn the_window_is_what_a_stopped_reader_holds() {
    let (mut world, _) = one_server(4, Limits::default());
    let peer = world.connect(addr(1));
    world.peer(peer).set_window(1000);
    world.peer(peer).send(b"big 5000\n");
    world.peer(peer).stop_reading();
    world.run_for(secs(1));
    assert_eq!(world.peer(peer).received(), b"");
    world.peer(peer).send(&[b'a'; 3000]);
    world.run_for(secs(1));
    assert_eq!(world.peer(peer).unsent(), 0, "the node reads on");
    world.peer(peer).read_again();
    world.run_for(secs(1));
    assert_eq!(world.peer(peer).received().len(), 5000);
}

#[test]
fn a_dial_that_nobody_answers_times_out_for_a_peer() {
    let (mut world, _) = one_server(4, Limits::default());
    world.set_faults(Faults {
        ignore: 1.0,
        ..Faults::none()
    });
    let peer = world.connect(addr(1));
    world.peer(peer).send(b"echo a\n");
    world.peer(peer).close();
    world.run_for(secs(200));
    assert_eq!(world.peer(peer).ending(), Some(Ending::TimedOut));
    assert_eq!(world.links(), 0);
}

#[test]
#[should_panic(expected = "PEERLOOP_SEED=77")]
fn a_condition_that_never_comes_names_the_seed() {
    World::<Lines>::new(77).until(secs(1), |_| false);
}

#[test]
#[should_panic(expected = "PEERLOOP_SEED=78")]
fn a_runaway_names_the_seed() {
    let (mut world, _) = one_server(78, Limits::default());
    world.set_events_max(3);
    ask(&mut world, b"echo a\n", 2);
}

#[test]
fn the_worker_type_is_the_services() {
    // A service may be given another worker between crashes: another disk.
    let (mut world, id) = one_server(4, Limits::default());
    world.kill(id);
    world.set_worker(id, Stamp, Span::us(0, 0));
    world.restart(id, Lines::default());
    let (_, got) = ask(&mut world, b"jobs 1\n", 8);
    assert_eq!(got, b"stamped\n");
}

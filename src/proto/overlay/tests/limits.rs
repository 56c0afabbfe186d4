//! What happens at a limit: of timers, of numbers that the user gives.

use super::super::walk::Walk;
use super::*;

/// A node may have one timer and hosts three peers, whose contacts accept and are silent.
#[test]
fn joins_end_at_the_limit_of_timers() {
    let mut world = Sim::new(1);
    let limits = Limits {
        timers_max: 1,
        ..super::super::fit(Limits::default())
    };
    let id = world.add(addr(1), Overlay::new(Log::default()), limits);
    let contacts: Vec<_> = (51..=53).map(|n| world.listen(addr(n))).collect();
    for n in 2..=3 {
        world.add_listener(id, addr(n));
    }
    world.with(id, |overlay, hub| {
        for n in 1..=3 {
            let peer = overlay.add(hub, config(n, 4));
            overlay.join(hub, peer, addr(50 + n));
        }
    });
    world.until(secs(60), |w| {
        for contact in &contacts {
            w.accept(*contact);
        }
        log(w, id).reports.len() == 3
    });
}

/// Without a timer a visit would wait for the silent for as long as the engine lets it.
#[test]
fn a_walk_without_a_timer_ends() {
    let walk = Walk::new(addr(50), addr(1), addr(1), secs(5));
    let mut world = World::new(1);
    let limits = Limits {
        timers_max: 0,
        ..Limits::default()
    };
    let id = world.add(addr(1), walk, limits);
    let contact = world.listen(addr(50));
    let mut visitor = None;
    world.until(secs(10), |w| {
        visitor = visitor.or_else(|| w.accept(contact));
        w.service(id).found.values().all(Option::is_some)
    });
    let visitor = visitor.expect("a visitor");
    world.run_for(secs(1));
    assert!(world.peer(visitor).is_closed());
}

/// The largest numbers that a user may give are no reason to wrap or to panic.
#[test]
fn the_largest_numbers() {
    let mut world = Sim::new(1);
    let extreme = Config {
        table_max: usize::MAX,
        links: usize::MAX,
        linkless_ttl: Ticks::NEVER,
        answer: Ticks::NEVER,
        join: Ticks::NEVER,
        ..config(1, 8)
    };
    let me = add(&mut world, extreme);
    let other = add(&mut world, config(2, 8));
    join(&mut world, me, addr(2));
    world.until(secs(5), |w| table(w, me) == [addr(2)]);
    world.kill(other);
    world.until(secs(200), |w| {
        !peer(w, me).table().iter().any(|(_, link)| is_linked(link))
    });
}

//! Walks for a map.

use super::super::walk::Walk;
use super::*;

#[test]
fn who_is_named_when_the_map_is_full_is_not_on_it() {
    let mut walk = Walk::new(addr(50), addr(1), addr(1), secs(5));
    walk.peers_max = 3;
    let mut world = World::new(1);
    let id = world.add(addr(1), walk, Limits::default());
    let contact = world.listen(addr(50));
    let named: Vec<_> = (60..90).map(addr).collect();
    world.until(secs(5), |w| {
        if let Some(peer) = w.accept(contact) {
            w.peer(peer).send(&packet(Kind::Welcome, "c", &named));
        }
        w.service(id).found.values().all(Option::is_some)
    });
    let found = &world.service(id).found;
    assert_eq!(found.len(), 3);
    let Some(Ok(visit)) = &found[&addr(50)] else {
        panic!("{found:?}");
    };
    assert_eq!(visit.peers, named[..2]);
}

//! What must hold of a ring at every moment, and when it is quiet.

use super::*;

/// What a node was seen doing, to count when it begins.
#[derive(Default, Clone, Copy, PartialEq)]
pub(super) struct Watched {
    joining: bool,
    fences: bool,
    parks: bool,
    lock_holder: Option<&'static str>,
}

impl Ring {
    /// Counts what began or ended with the last event.
    pub(super) fn watch(&mut self) {
        self.watched.resize(self.nodes.len(), Watched::default());
        for (id, before) in self.nodes.iter().zip(&mut self.watched) {
            let node = self.world.service(*id);
            let now = Watched {
                joining: matches!(node.role, Role::Joining(_)),
                fences: !node.fenced_writes.is_empty(),
                parks: !node.parked.is_empty(),
                lock_holder: match node.lock_holder {
                    LockHolder::Nobody => None,
                    LockHolder::HandOff(_) => Some("hand-overs"),
                    LockHolder::Disconnect(_) => Some("absorbed"),
                    LockHolder::Relay(_) => Some("relayed"),
                    LockHolder::Rejoin(_) => Some("revived"),
                    LockHolder::Recovery => Some("unpacked"),
                    LockHolder::Sweep(_) => Some("swept"),
                },
            };
            let joined = before.joining && matches!(node.role, Role::Member);
            for (began, what) in [
                (joined, "joined"),
                (now.fences && !before.fences, "held"),
                (now.parks && !before.parks, "parked"),
                (
                    now.lock_holder != before.lock_holder,
                    now.lock_holder.unwrap_or("ended"),
                ),
            ] {
                if began {
                    self.done.count(what);
                }
            }
            *before = now;
        }
    }

    /// No key has two owners: the start of no range lies in another one.
    pub(super) fn compare_ranges(&mut self) {
        let serving = |node: &DhtNode| {
            let next = node.routing().next().id;
            (node.owns(node.me().id)).then_some(next)
        };
        self.seen.resize(self.nodes.len(), None);
        let mut changed = Vec::new();
        for (id, seen) in self.nodes.iter().zip(&mut self.seen) {
            if !self.world.is_up(*id) {
                continue;
            }
            let now = serving(self.world.service(*id));
            if *seen != now {
                if self.trace {
                    let node = self.world.service(*id);
                    let (at, me, next) = (
                        self.world.now().0,
                        node.me().addr,
                        node.routing().next().addr,
                    );
                    eprintln!(
                        "{at}: {me} next {next} serves {} {:?} {:?}",
                        now.is_some(),
                        node.role,
                        node.lock_holder
                    );
                }
                *seen = now;
                changed.push(*id);
            }
        }
        for a in changed {
            let a = self.world.service(a);
            let start = a.me();
            for b in self.up() {
                let b = self.world.service(b);
                if start != b.me() {
                    let both = a.owns(start.id) && b.owns(start.id)
                        || b.owns(b.me().id) && a.owns(b.me().id);
                    assert!(
                        !both,
                        "{} and {} own the same keys",
                        start.addr,
                        b.me().addr
                    );
                }
            }
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.open == 0
            && self.up().all(|id| {
                let node = self.world.service(id);
                matches!(node.role, Role::Member) && matches!(node.lock_holder, LockHolder::Nobody)
            })
    }

    /// The members' nexts are one round through all of them, so their ranges tile the ring.
    pub(super) fn check_ring(&self) {
        let members = self.members();
        assert_eq!(members.len(), self.up().count(), "who is up is a member");
        let mut sorted: Vec<&DhtNode> = members.iter().map(|id| self.world.service(*id)).collect();
        sorted.sort_by_key(|node| node.me().id);
        for (i, node) in sorted.iter().enumerate() {
            let next = sorted[(i + 1) % sorted.len()];
            assert_eq!(
                node.routing().next(),
                next.me(),
                "next of {}",
                node.me().addr
            );
            if sorted.len() > 1 {
                let prev = next.routing().prev();
                assert_eq!(prev, Some(node.me()), "prev of {}", next.me().addr);
            }
            let stray = node.entries().arc(next.me().id, node.me().id).next();
            if sorted.len() > 1 {
                assert!(
                    stray.is_none(),
                    "{} holds {:?}, not its own",
                    node.me().addr,
                    stray
                );
            }
        }
        for (id, disk) in &self.disks {
            if self.world.is_up(*id) {
                let disk = disk.lock().expect("no panic in here");
                let entries = self.world.service(*id).entries();
                let memory: Vec<_> = entries
                    .arc_with_tombstones(Id::ZERO, Id::ZERO)
                    .map(|(k, v)| (k, v.clone()))
                    .collect();
                let disk: Vec<_> = disk.iter().map(|(k, v)| (*k, v.clone())).collect();
                assert_eq!(memory, disk, "memory and disk of {}", self.world.addr(*id));
            }
        }
    }

    /// Who was asked to leave is gone with its entries taken, or was the last.
    pub(super) fn check_leavers(&self) {
        for id in self.nodes.iter().filter(|id| !self.world.is_up(**id)) {
            let node = self.world.service(*id);
            // One that cannot learn any more whether it was taken goes as well; the end of the run reads every key.
            let taken = match node.role {
                Role::Gone(heir) if heir != node.routing().next() => true,
                Role::Leaving(_) | Role::Gone(_) => {
                    node.routing().is_alone() || node.entries().is_empty()
                }
                Role::Member | Role::Joining(_) => true,
            };
            assert!(
                taken,
                "{} took its range with it: {:?}",
                node.me().addr,
                node.role
            );
        }
    }

    pub(super) fn describe(&self) -> String {
        let nodes = self.up().map(|id| {
            let node = self.world.service(id);
            format!(
                "\n{} next {} {:?} {:?}",
                node.me().addr,
                node.routing().next().addr,
                node.role,
                node.lock_holder
            )
        });
        format!("{} operations open{}", self.open, nodes.collect::<String>())
    }
}

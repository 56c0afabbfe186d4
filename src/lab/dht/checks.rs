//! What must hold of a ring. Pure functions of what the observer sees; when each is asked is decided in [`super`].
//!
//! | check   | says                                                                  | asked                        |
//! |---------|-----------------------------------------------------------------------|------------------------------|
//! | I1      | every member has a live successor in its list                         | when the ring changes, R > 1 |
//! | I2      | one ring only, in order, that every member leads to; R + 1 principals | when the ring changes, R > 1 |
//! | D1      | at most one node answers `1` for a key                                | when the ring changes        |
//! | D2      | the ranges tile the ring                                              | when it is quiet             |
//! | D3      | an acknowledged write is on min(R, members) nodes                     | at each acknowledgement      |
//! | D4      | what was removed stays removed                                        | at each read                 |
//! | D5      | who serves a key has its last acknowledged value                      | when the ring changes        |
//! | D6      | joins and leaves keep the entries                                     | at the end, without clients  |
//! | D7      | after the faults the ring is ideal, and holders have the same entries | at the end                   |
//! | history | reads are those of a register, for each key                           | at each read                 |
//! | service | no range is without service for longer than 30 s                    | all the time, R > 1          |
//! | settles | what was begun ends, leaves nothing behind, and every key can be read | at the end                   |

use std::fmt;

use crate::engine::Tick;
use crate::proto::dht::id::Id;
use crate::proto::dht::routing::Member;

use super::observe::View;

/// See the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    I1,
    I2,
    D1,
    D2,
    D3,
    D4,
    D5,
    D6,
    D7,
    History,
    Service,
    Settles,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::History => f.write_str("history"),
            Check::Service => f.write_str("service"),
            Check::Settles => f.write_str("settles"),
            named => write!(f, "{named:?}"),
        }
    }
}

/// Something that must hold did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at: Tick,
    pub check: Check,
    pub what: String,
}

impl Violation {
    /// Virtual time since the start.
    pub fn seconds(&self) -> f64 {
        self.at.since(Tick(0)).as_duration().as_secs_f64()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { check, what, .. } = self;
        write!(f, "{:.2} s: {check}: {what}", self.seconds())
    }
}

/// D1: the ranges that are served do not overlap. `serving` in the order of ids.
pub(super) fn one_owner(serving: &[&View]) -> Result<(), String> {
    for (i, view) in serving.iter().enumerate() {
        let after = serving[(i + 1) % serving.len()];
        let ends = view.me.id.distance_to(view.next.id);
        let is_over = view.is_alone() || view.me.id.distance_to(after.me.id) < ends;
        if serving.len() > 1 && is_over {
            let (a, b) = (view.me.addr, after.me.addr);
            return Err(format!("{a} and {b} own the same keys"));
        }
    }
    Ok(())
}

/// I1. `up` has everybody who runs, in the order of ids.
pub(super) fn live_successors(up: &[&View]) -> Result<(), String> {
    let lost = up
        .iter()
        .find(|view| view.is_member() && first_live(up, view).is_none());
    match lost {
        Some(view) => Err(format!("{} has no live successor", view.me.addr)),
        None => Ok(()),
    }
}

/// I2: following the first live successors, every member of `from` comes to one and the same ring, which is in order.
pub(super) fn one_ring(up: &[&View], from: &[&View]) -> Result<(), String> {
    let members = from.iter().filter(|view| view.is_member());
    let mut ring: Option<Vec<Member>> = None;
    for view in members {
        let mut found = cycle(up, view);
        if let Some(least) = (0..found.len()).min_by_key(|i| found[*i].id) {
            found.rotate_left(least);
        }
        if !found.is_sorted_by_key(|member| member.id) {
            return Err(format!("the ring from {} is out of order", view.me.addr));
        }
        let known = ring.get_or_insert_with(|| found.clone());
        if *known != found {
            let sizes = (known.len(), found.len());
            return Err(format!("two rings, of {} and {} members", sizes.0, sizes.1));
        }
    }
    Ok(())
}

/// The members of the ring that the first live successors lead to. Empty when they lead nowhere.
fn cycle(up: &[&View], from: &View) -> Vec<Member> {
    let (mut at, mut path) = (Some(from), Vec::new());
    while let Some(view) = at {
        if let Some(begin) = path.iter().position(|member| *member == view.me) {
            return path.split_off(begin);
        }
        path.push(view.me);
        at = first_live(up, view);
    }
    Vec::new()
}

fn first_live<'a>(up: &[&'a View], view: &View) -> Option<&'a View> {
    view.successors.iter().find_map(|next| find(up, next.id))
}

fn find<'a>(up: &[&'a View], id: Id) -> Option<&'a View> {
    let found = up.binary_search_by_key(&id, |view| view.me.id).ok()?;
    Some(up[found])
}

/// Members that no list of a member of `from` jumps over.
pub(super) fn principals(up: &[&View], from: &[&View]) -> Vec<Member> {
    let is_skipped = |member: &View| {
        from.iter().filter(|view| view.is_member()).any(|view| {
            let Some(last) = view.successors.last() else {
                return false;
            };
            let reach = view.me.id.distance_to(last.id);
            let away = view.me.id.distance_to(member.me.id);
            away != Id::ZERO && away < reach && !view.successors.contains(&member.me)
        })
    };
    let members = up.iter().filter(|view| view.is_member());
    let principals = members.filter(|view| !is_skipped(view));
    principals.map(|view| view.me).collect()
}

/// Some member has no other live successor: its ring would be lost with this one.
pub(super) fn is_last_successor(up: &[&View], member: Member) -> bool {
    let members = up.iter().filter(|view| view.is_member());
    let mut others = members.filter(|view| view.me != member);
    others.any(|view| {
        let mut rest = view.successors.iter().filter(|next| **next != member);
        rest.all(|next| find(up, next.id).is_none())
    })
}

/// D2: everybody who runs is a member, and its next is the one that follows in the order of ids.
pub(super) fn ideal(up: &[&View]) -> Result<(), String> {
    if let Some(view) = up.iter().find(|view| !view.is_member()) {
        return Err(format!("{} is no member: {:?}", view.me.addr, view.stage));
    }
    for (i, view) in up.iter().enumerate() {
        let (next, follows) = (view.next.addr, up[(i + 1) % up.len()].me.addr);
        if next != follows {
            let me = view.me.addr;
            return Err(format!("the next of {me} is {next} and not {follows}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::lab::dht::observe::Stage;

    /// Five members in a ring, each with a list of two, in the order of ids.
    fn ring() -> Vec<View> {
        let member = |n| Member::at(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 1));
        let mut members: Vec<Member> = (1..=5).map(member).collect();
        members.sort_by_key(|member| member.id);
        let view = |i: usize| View {
            me: members[i],
            stage: Stage::Member,
            serves: true,
            lease_until: None,
            next: members[(i + 1) % 5],
            successors: vec![members[(i + 1) % 5], members[(i + 2) % 5]],
        };
        (0..5).map(view).collect()
    }

    /// What a check says of the ring after `break_it`.
    fn after<R>(break_it: impl FnOnce(&mut Vec<View>), check: fn(&[&View]) -> R) -> R {
        let mut views = ring();
        break_it(&mut views);
        let mut up: Vec<&View> = views.iter().filter(|v| v.stage != Stage::Down).collect();
        up.sort_by_key(|view| view.me.id);
        check(&up)
    }

    fn all_one_ring(up: &[&View]) -> Result<(), String> {
        one_ring(up, up)
    }

    fn all_principals(up: &[&View]) -> Vec<Member> {
        principals(up, up)
    }

    fn kill(views: &mut [View], n: usize) {
        views[n] = views[n].down();
    }

    #[test]
    fn a_good_ring_is_good() {
        for check in [one_owner, live_successors, all_one_ring, ideal] {
            assert_eq!(after(|_| {}, check), Ok(()));
        }
        assert_eq!(after(|_| {}, all_principals).len(), 5);
    }

    #[test]
    fn i1_a_member_whose_list_is_dead_is_found() {
        assert_eq!(after(|views| kill(views, 1), live_successors), Ok(()));
        let both = |views: &mut Vec<View>| (1..3).for_each(|n| kill(views, n));
        assert!(after(both, live_successors).is_err());
    }

    #[test]
    fn i2_two_rings_are_found_and_a_crooked_one_too() {
        let split = |views: &mut Vec<View>| {
            views[1].successors = vec![views[0].me];
            views[4].successors = vec![views[2].me];
        };
        assert!(
            after(split, all_one_ring)
                .expect_err("split")
                .contains("two")
        );
        // 0, 2, 1, 3, 4.
        let crooked = |views: &mut Vec<View>| {
            let order = [2, 3, 1, 4, 0];
            let next = order.map(|n| views[n].me);
            (0..5).for_each(|n| views[n].successors = vec![next[n]]);
        };
        assert!(
            after(crooked, all_one_ring)
                .expect_err("crooked")
                .contains("order")
        );
        // A member that nobody lists still leads to the ring.
        let aside = |views: &mut Vec<View>| {
            let (two, three) = (views[2].me, views[3].me);
            views[0].successors = vec![two, three];
        };
        assert_eq!(after(aside, all_one_ring), Ok(()));
        assert_eq!(after(aside, all_principals).len(), 4);
    }

    #[test]
    fn d1_ranges_that_overlap_are_found() {
        let long = |views: &mut Vec<View>| views[4].next = views[1].me;
        assert!(after(long, one_owner).is_err());
        let alone = |views: &mut Vec<View>| views[3].next = views[3].me;
        assert!(after(alone, one_owner).is_err());
    }

    #[test]
    fn d2_a_gap_is_found_and_who_is_no_member() {
        let long = |views: &mut Vec<View>| views[4].next = views[1].me;
        assert!(after(long, ideal).is_err());
        let joins = |views: &mut Vec<View>| views[4].stage = Stage::Listed;
        assert!(after(joins, ideal).is_err());
        assert!(after(|views| kill(views, 2), ideal).is_err());
    }
}

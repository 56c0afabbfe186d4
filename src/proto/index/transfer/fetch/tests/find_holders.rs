//! Holders that come later, that make room, and that ask for another login.

use super::*;

impl Lab {
    /// Knows only the first `count` holders; the index finds these.
    fn knows(mut self, count: usize, finds: impl IntoIterator<Item = usize>) -> Lab {
        let ranges = self.content.len().div_ceil(MIB);
        self.world.with(self.id, |fetcher, _| {
            fetcher.holders.truncate(count);
            fetcher.plan = Plan::new(&vec![false; ranges], count);
        });
        self.index.finds = finds.into_iter().collect();
        self
    }

    /// Logs in, which takes so long.
    fn stays(mut self, login: Ticks) -> Lab {
        self.index.login = login;
        self.world.with(self.id, |fetcher, _| {
            let who = Credentials {
                user: "u".into(),
                password: "p".into(),
            };
            fetcher.stay = Some(Stay {
                who: Arc::new(who),
                id: PeerId::from_bits(7),
                ip: None,
                port: 9,
                every: Ticks::from_secs(3000),
            });
        });
        self
    }
}

#[test]
fn when_nobody_is_left_the_index_is_asked_again() {
    let natures = [Nature::Dies(1), Nature::Honest];
    // It restarted, at another port.
    let report = Lab::new(1, 4 * MIB, &natures).knows(1, [1]).run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(report.holders.len(), 2);
    assert!(report.holders[1].ranges >= 1);
    // No new holder: the download ends.
    let dead = Nature::Dead(Dialled::Refuse);
    let report = Lab::new(1, 4 * MIB, &[dead]).knows(1, [0]).run();
    assert_eq!(report.result, Err(Failure::NoHolder));
    assert!(matches!(dropped(&report)[0], Some(Why::Gone(_))));
    // Holders that refused or lied are not asked again.
    for bad in [Nature::Refuses("no"), Nature::Liar] {
        let report = Lab::new(1, MIB, &[bad]).knows(1, [0]).run();
        assert_eq!(report.result, Err(Failure::NoHolder));
    }
}

#[test]
fn holders_that_come_online_later_take_part() {
    // Alone it would take longer than the test waits.
    let natures = [Nature::Slow(32), Nature::Honest];
    let report = Lab::new(2, 16 * MIB, &natures).knows(1, [0, 1]).run();
    assert_eq!(report.result, Ok(()));
    assert!(report.holders[1].ranges >= 3, "{report:?}");
}

#[test]
fn who_was_gone_is_asked_again_when_the_index_lists_it() {
    let natures = [Nature::Slow(32), Nature::Dead(Dialled::Refuse)];
    let mut lab = Lab::new(2, 16 * MIB, &natures).knows(2, [0, 1]);
    lab.back_after = Some((1, Ticks::from_secs(30)));
    let report = lab.run();
    assert_eq!(report.result, Ok(()));
    assert!(report.holders[1].ranges >= 3, "{report:?}");
    assert_eq!(report.holders[1].dropped, None);
}

#[test]
fn more_holders_than_a_plan_has_room_for() {
    let mut natures = vec![Nature::Dead(Dialled::Refuse); 70];
    natures.push(Nature::Honest);
    let all = natures.len();
    let mut lab = Lab::new(3, 2 * MIB, &natures);
    lab.index.finds = (0..all).collect();
    let report = lab.run();
    assert_eq!(report.result, Ok(()));
    // The honest one has a place of those that were tried, which are reported too.
    assert!(report.holders.len() > 63);
    assert!(
        report.holders.iter().any(|deeds| deeds.ranges == 2),
        "{report:?}"
    );
}

#[test]
fn who_dawdles_makes_room_for_who_was_not_tried() {
    // A range takes them longer than the test waits.
    let mut natures = vec![Nature::Slow(16); AT_ONCE_MAX];
    natures.push(Nature::Honest);
    let report = Lab::new(4, 10 * MIB, &natures).run();
    assert_eq!(report.result, Ok(()));
    let honest = &report.holders[AT_ONCE_MAX];
    assert_eq!((honest.ranges, &honest.dropped), (10, &None));
}

#[test]
fn a_login_may_take_its_time_and_more_than_one_may_be_needed() {
    let lab = Lab::new(5, 4 * MIB, &[Nature::Gates]).stays(Ticks::from_secs(15));
    let report = lab.run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(dropped(&report), [None]);
    // One that is never satisfied is left.
    let refuses = Nature::Refuses(NOT_ONLINE);
    let report = Lab::new(5, MIB, &[refuses]).stays(Ticks(10)).run();
    assert_eq!(report.result, Err(Failure::NoHolder));
}

#[test]
fn a_login_that_never_ends_is_given_up() {
    let lab = Lab::new(5, MIB, &[Nature::Honest]).stays(Ticks::from_secs(10_000));
    let Err(Failure::Index(why)) = lab.run().result else {
        panic!("it ended otherwise");
    };
    assert!(why.contains("did not answer in time"), "{why}");
}

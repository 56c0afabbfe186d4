//! What a sharer has to do with the index: announcing, staying online, asking who is online.

use super::*;

/// An index server that says yes to everything; `online` are the ids that it lists.
fn good(online: &[u64]) -> impl FnMut(Kind, &str, &mut Vec<u8>) + use<> {
    let online = online.to_vec();
    move |kind, text, out| match kind {
        Kind::Register => write_text(out, 101, "REGISTER_OK\n55\nREGISTER SUCCES"),
        Kind::RegisterUpdate => write_text(out, 109, "REGISTER_UPDATE_OK\n55"),
        Kind::ShowPeers => {
            let asked = text.lines().next().unwrap().to_owned();
            let of_one = |id: &&u64| asked == "online" || asked == id.to_string();
            let listed: Vec<u64> = online.iter().filter(of_one).copied().collect();
            write_peers(out, &listed);
        }
        Kind::Login => write_text(out, 102, "LOGIN SUCCESS"),
        Kind::Logout => write_text(out, 103, "LOGOUT SUCCESS"),
        Kind::KeepAlive => write_text(out, 103, "KEEP ALIVE SUCCESS"),
        other => panic!("{other:?}"),
    }
}

fn write_peers(out: &mut Vec<u8>, ids: &[u64]) {
    let mut frame = FrameOut::begin(out, Kind::ShowPeers.ok());
    frame.line(ids.len());
    for peer in ids {
        frame.line(PeerLine {
            id: id(*peer),
            user: "u".into(),
            online: true,
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 9,
            files: 0,
        });
    }
    frame.finish();
}

impl Lab {
    fn online(seed: u64, sizes: &[usize]) -> Lab {
        let mut lab = Lab::new(seed, false, 8, sizes);
        lab.serve_index(SECOND, &mut good(&[]));
        lab.asked.clear();
        lab
    }

    fn kinds(&self) -> Vec<u16> {
        self.asked.iter().map(|(kind, _)| *kind).collect()
    }

    /// Asks for the file as `requester` while the index answers.
    fn request_as(
        &mut self,
        requester: u64,
        answer: &mut dyn FnMut(Kind, &str, &mut Vec<u8>),
    ) -> Vec<u8> {
        let peer = self.world.connect(OURS);
        self.world.peer(peer).send(&request(0, 0, 0, requester));
        self.serve_index(SECOND, answer);
        let got = self.world.peer(peer).take();
        self.world.peer(peer).close();
        got
    }
}

#[test]
fn it_registers_logs_in_keeps_alive_and_logs_out() {
    let mut lab = Lab::new(1, false, 8, &[10, 2_000_000]);
    lab.serve_index(SECOND, &mut good(&[]));
    assert_eq!(lab.kinds(), [1, 2]);
    let files = format!(
        "us\nsecret\nfile 0|0.000010|{}\nfile 1|2.000000|{}\n",
        sha1(0),
        sha1(1)
    );
    assert_eq!(lab.asked[0].1, files);
    assert_eq!(lab.asked[1].1, "us\nsecret\n55\n\n4000\n");
    let news: Vec<News> = lab.news.try_iter().collect();
    assert_eq!(news, [News::Registered(id(55)), News::Online(id(55))]);
    lab.asked.clear();
    lab.serve_index(Ticks::from_secs(310), &mut good(&[]));
    assert_eq!(lab.asked, [(3, "55\n".into())]);
    lab.asked.clear();
    lab.world.shutdown(lab.id);
    lab.serve_index(SECOND, &mut good(&[]));
    assert_eq!(lab.asked, [(4, "us\nsecret\n55\n".into())]);
    assert!(!lab.world.is_up(lab.id));
}

#[test]
fn what_changes_is_announced() {
    let mut lab = Lab::online(1, &[10]);
    lab.world.with(lab.id, |sharer, hub| {
        sharer.share(hub, Files::new(vec![shared(3, 30)]))
    });
    // Twice while one announcement is under way: the last list goes.
    lab.world.with(lab.id, |sharer, hub| {
        sharer.share(hub, Files::new(vec![shared(4, 40)]))
    });
    lab.world
        .with(lab.id, |sharer, hub| sharer.share(hub, Files::new(vec![])));
    lab.serve_index(SECOND, &mut good(&[]));
    let first = format!("us\nsecret\n55\nfile 3|0.000030|{}\n", sha1(3));
    assert_eq!(lab.asked, [(9, first), (9, "us\nsecret\n55\n".into())]);
}

#[test]
fn an_id_that_the_server_forgot_is_replaced() {
    let mut lab = Lab::online(1, &[10]);
    lab.news.try_iter().for_each(drop);
    let mut all_good = good(&[]);
    lab.world
        .with(lab.id, |sharer, hub| sharer.share(hub, Files::new(vec![])));
    lab.serve_index(SECOND, &mut |kind, text, out| match kind {
        Kind::RegisterUpdate => write_ko(out, 209, "unknown id"),
        Kind::Login if text.contains("55") => write_ko(out, 202, "unknown id"),
        Kind::Register => write_text(out, 101, "REGISTER_OK\n66\nREGISTER SUCCES"),
        _ => all_good(kind, text, out),
    });
    assert_eq!(lab.kinds(), [9, 2, 1, 2]);
    let news: Vec<News> = lab.news.try_iter().collect();
    assert!(news.contains(&News::Registered(id(66))), "{news:?}");
    assert!(news.contains(&News::Online(id(66))));
}

#[test]
fn who_is_not_let_in_ends() {
    let mut lab = Lab::new(1, false, 8, &[10]);
    lab.serve_index(SECOND, &mut |_, _, out| {
        write_ko(out, 201, "wrong password")
    });
    assert!(!lab.world.is_up(lab.id));
    assert_eq!(lab.world.service(lab.id).refused(), Some("wrong password"));
    // Registered, and then not let in with the new id: once is enough.
    let mut lab = Lab::new(1, false, 8, &[10]);
    let mut all_good = good(&[]);
    lab.serve_index(SECOND, &mut |kind, text, out| match kind {
        Kind::Login => write_ko(out, 202, "no"),
        _ => all_good(kind, text, out),
    });
    assert!(!lab.world.is_up(lab.id));
    assert_eq!(lab.kinds(), [1, 2]);
}

#[test]
fn only_who_is_online_is_served_and_that_is_remembered_for_a_minute() {
    let mut lab = Lab::online(1, &[10]);
    let file = ok(10, 0, &noise(10));
    let not_online = ko(208, NOT_ONLINE);
    assert_eq!(lab.request_as(7, &mut good(&[7])), file);
    assert_eq!(lab.asked, [(5, "7\n0\n".into())]);
    // Believed for a minute, whatever became of it.
    assert_eq!(lab.request_as(7, &mut good(&[])), file);
    assert_eq!(lab.asked.len(), 1);
    assert_eq!(lab.request_as(8, &mut good(&[7])), not_online);
    // Not remembered: it may log in any moment.
    assert_eq!(lab.request_as(8, &mut good(&[8])), file);
    lab.serve_index(Ticks::from_secs(61), &mut good(&[]));
    assert_eq!(lab.request_as(7, &mut good(&[])), not_online);
}

#[test]
fn many_requests_of_one_requester_are_one_question() {
    let mut lab = Lab::online(1, &[10]);
    let peers: Vec<Script> = (0..5).map(|_| lab.world.connect(OURS)).collect();
    for peer in &peers {
        lab.world.peer(*peer).send(&request(0, 0, 0, 7));
        lab.world.peer(*peer).send(&request(0, 5, 0, 7));
    }
    lab.world.run_for(Ticks(5));
    lab.serve_index(SECOND, &mut good(&[7]));
    assert_eq!(lab.asked.len(), 1);
    let both = [ok(10, 0, &noise(10)), ok(10, 5, &noise(10)[5..])].concat();
    for peer in peers {
        assert_eq!(lab.world.peer(peer).take(), both);
    }
}

#[test]
fn a_foreign_server_is_asked_for_everybody() {
    let mut lab = Lab::online(1, &[10]);
    let mut all_good = good(&[3, 7]);
    let mut foreign = |kind, text: &str, out: &mut Vec<u8>| match kind {
        Kind::ShowPeers if !text.starts_with("online") => write_ko(out, 205, "what?"),
        _ => all_good(kind, text, out),
    };
    assert_eq!(lab.request_as(7, &mut foreign), ok(10, 0, &noise(10)));
    assert_eq!(lab.request_as(8, &mut foreign), ko(208, NOT_ONLINE));
    assert_eq!(lab.kinds(), [5, 5, 5, 5]);
}

#[test]
fn an_index_that_is_away_lets_nobody_in_and_serving_goes_on_after() {
    let mut lab = Lab::online(1, &[10]);
    let peer = lab.world.connect(OURS);
    lab.world.peer(peer).send(&request(0, 0, 0, 7));
    lab.serve_index(Ticks::from_secs(200), &mut |_, _, _| {});
    let got = lab.world.peer(peer).take();
    assert_eq!(got, ko(208, gate::SILENT));
    lab.serve_index(Ticks::from_secs(60), &mut good(&[7]));
    assert_eq!(lab.request_as(7, &mut good(&[7])), ok(10, 0, &noise(10)));
}

#[test]
fn a_requester_that_goes_while_the_index_is_asked_leaves_nothing() {
    let mut lab = Lab::online(1, &[10]);
    let conns = lab.world.node(lab.id).conns();
    let peer = lab.world.connect(OURS);
    lab.world.peer(peer).send(&request(0, 0, 0, 7));
    lab.world.run_for(Ticks(5));
    lab.world.peer(peer).reset();
    lab.serve_index(SECOND, &mut good(&[7]));
    assert_eq!(lab.world.node(lab.id).conns(), conns);
    assert_eq!(lab.request_as(7, &mut good(&[7])), ok(10, 0, &noise(10)));
}

#[test]
fn a_silent_index_is_no_reason_to_let_requesters_wait() {
    let mut lab = Lab::online(1, &[10]);
    let peers: Vec<Script> = (0..2).map(|_| lab.world.connect(OURS)).collect();
    for peer in &peers {
        lab.world.peer(*peer).send(&request(0, 0, 0, 7));
    }
    // Ours fall silent after 20 s themselves; they are told before, and when to come back.
    lab.serve_index(Ticks::from_secs(6), &mut |_, _, _| {});
    let silent = ko(208, gate::SILENT);
    assert_eq!(lab.world.peer(peers[0]).take(), silent);
    // Whoever comes back does not have the index asked once more while it is silent.
    let kinds = lab.kinds();
    lab.world.peer(peers[0]).send(&request(0, 0, 0, 7));
    lab.serve_index(Ticks::from_secs(6), &mut |_, _, _| {});
    assert_eq!(lab.world.peer(peers[0]).take(), silent);
    assert_eq!(lab.kinds(), kinds);
    lab.serve_index(Ticks::from_secs(60), &mut good(&[7]));
    assert_eq!(lab.request_as(7, &mut good(&[7])), ok(10, 0, &noise(10)));
}

/// Changes the files while the index answers so, and returns when it was asked what.
fn change(
    lab: &mut Lab,
    time: Ticks,
    answer: &mut dyn FnMut(Kind, &str, &mut Vec<u8>),
) -> Vec<(u16, u64)> {
    lab.news.try_iter().for_each(drop);
    lab.world.with(lab.id, |sharer, hub| {
        sharer.share(hub, Files::new(vec![shared(3, 30)]))
    });
    let began = lab.world.now();
    let mut asked = Vec::new();
    while lab.world.now() - began < time {
        let at = (lab.world.now() - began).0 / SECOND.0;
        lab.serve_index(SECOND, answer);
        asked.extend(lab.asked.drain(..).map(|(kind, _)| (kind, at)));
    }
    asked
}

#[test]
fn a_busy_server_costs_nobody_the_id() {
    let mut lab = Lab::online(1, &[10]);
    let mut all_good = good(&[]);
    let asked = change(
        &mut lab,
        Ticks::from_secs(200),
        &mut |kind, text, out| match kind {
            Kind::RegisterUpdate => write_ko(out, 209, "busy; retry in 40 s"),
            _ => all_good(kind, text, out),
        },
    );
    assert!(
        asked.len() >= 3 && asked.iter().all(|(kind, _)| *kind == 9),
        "{asked:?}"
    );
    for pair in asked.windows(2) {
        assert!(
            pair[1].1 - pair[0].1 >= 39,
            "it comes back when it is told to: {asked:?}"
        );
    }
    assert_eq!(lab.world.service(lab.id).refused(), None);
    lab.serve_index(Ticks::from_secs(60), &mut good(&[]));
    assert_eq!(lab.kinds(), [9]);
}

#[test]
fn a_list_that_is_not_taken_leaves_the_former_one() {
    let mut lab = Lab::online(1, &[10]);
    let mut all_good = good(&[]);
    let asked = change(
        &mut lab,
        Ticks::from_secs(20),
        &mut |kind, text, out| match kind {
            Kind::RegisterUpdate => write_ko(out, 209, "more than 5 files"),
            _ => all_good(kind, text, out),
        },
    );
    // The login shows that the id is known.
    assert_eq!(asked, [(9, 0), (2, 0)]);
    assert!(lab.world.is_up(lab.id));
    let news: Vec<News> = lab.news.try_iter().collect();
    assert!(
        matches!(&news[0], News::Trouble(why) if why.contains("more than 5 files")),
        "{news:?}"
    );
    // The next change is announced with the same id.
    let asked = change(&mut lab, SECOND, &mut good(&[]));
    assert_eq!(asked, [(9, 0)]);
}

#[test]
fn what_is_no_index_server_is_not_asked_again_and_again() {
    let mut lab = Lab::online(1, &[10]);
    let asked = change(&mut lab, Ticks::from_secs(120), &mut |_, _, out| {
        write_text(out, 999, "what?");
    });
    let updates = asked.iter().filter(|(kind, _)| *kind == 9).count();
    assert!((3..=10).contains(&updates), "{asked:?}");
}

#[test]
fn an_update_behind_a_login_that_is_refused_ends_nothing() {
    let mut lab = Lab::online(1, &[10]);
    let mut all_good = good(&[]);
    // The keep-alive is refused, and so is the login, but not at once.
    lab.serve_index(Ticks::from_secs(299), &mut |_, _, _| {});
    lab.asked.clear();
    let mut forgetful = |kind: Kind, text: &str, out: &mut Vec<u8>| match kind {
        Kind::Login if text.contains("55") => {}
        Kind::KeepAlive | Kind::RegisterUpdate => write_ko(out, kind.ko(), "unknown id"),
        Kind::Register => write_text(out, 101, "REGISTER_OK\n66\nREGISTER SUCCES"),
        _ => all_good(kind, text, out),
    };
    lab.serve_index(Ticks::from_secs(2), &mut forgetful);
    assert_eq!(lab.kinds(), [3, 2]);
    lab.world
        .with(lab.id, |sharer, hub| sharer.share(hub, Files::new(vec![])));
    let login = lab.lines.last().unwrap().0;
    let mut ko = Vec::new();
    write_ko(&mut ko, 202, "unknown id");
    lab.world.peer(login).send(&ko);
    lab.serve_index(Ticks::from_secs(2), &mut forgetful);
    assert_eq!(lab.kinds(), [3, 2, 9, 1, 2]);
    assert!(lab.world.is_up(lab.id));
}

fn without_timers(open: bool) -> Lab {
    let limits = Limits {
        timers_max: 0,
        ..serve::limits(Limits::default())
    };
    Lab::with_limits(1, open, 8, &[10], limits)
}

/// The announcement fails at once, and is not made again before something else happens.
#[test]
fn an_announcement_that_cannot_be_put_off_is_no_loop() {
    let mut lab = without_timers(true);
    lab.world.answer(lab.index, crate::sim::Answer::Refuse);
    lab.world.run_for(Ticks::from_secs(10));
    let troubles = lab.news.try_iter().count();
    assert!((1..3).contains(&troubles), "{troubles}");
}

/// Nobody waits for an index whose silence cannot be timed.
#[test]
fn a_requester_is_sent_away_when_the_index_cannot_be_timed() {
    let mut lab = without_timers(false);
    let busy = ko(208, "too many requesters at once; retry in 1 s");
    for _ in 0..2 {
        assert_eq!(lab.ask(&request(0, 0, 0, 7)), busy);
    }
}

/// A requester has no more connections that wait for one answer than a queue has room for.
#[test]
fn a_question_keeps_a_bounded_number_of_connections_waiting() {
    let mut lab = Lab::online(1, &[10]);
    let many = 1030;
    let peers: Vec<Script> = (0..many).map(|_| lab.world.connect(OURS)).collect();
    for peer in &peers {
        lab.world.peer(*peer).send(&request(0, 0, 0, 7));
    }
    lab.world.run_for(SECOND);
    let busy = ko(208, "too many requesters at once; retry in 1 s");
    let sent_away = |peer: &&Script| lab.world.peer(**peer).received() == busy;
    assert_eq!(peers.iter().filter(sent_away).count(), many - 1024);
}

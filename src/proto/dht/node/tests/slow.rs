//! Slow peers, and the limits on what all of them together may hold.

use super::*;

fn secs(n: u64) -> Ticks {
    Ticks::from_secs(n)
}

#[test]
fn a_byte_now_and_then_is_cut_off() {
    let ask = insert("a", &noise(100));
    // Slow from the first byte, within the key, before the length, within the value.
    for fast in [1, 20, ask.len() - 103, ask.len() - 50] {
        let lab = &mut Lab::new(false);
        let peer = lab.sent(&ask[..fast], secs(9));
        assert!(!lab.world.peer(peer).is_closed(), "{fast} at once");
        for byte in ask[fast..].chunks(1).take(2) {
            lab.send(peer, byte);
            lab.world.run_for(secs(9));
        }
        assert_eq!(
            lab.world.node(lab.id).stats().timed_out_message,
            1,
            "{fast} at once"
        );
        lab.world.peer(peer).close();
        lab.world.run_for(secs(3));
        lab.assert_nothing_left("cut off");
        assert!(lab.service().entries.is_empty());
    }
}

#[test]
fn who_reads_nothing_stops_production_and_is_closed() {
    let (value, count) = (noise(64 * 1024), 200);
    let lab = &mut Lab::new(false);
    lab.preset("a", &value);
    let peer = lab.connect();
    lab.world.peer(peer).stop_reading();
    lab.send(peer, &line("GET", "a").repeat(count));
    lab.world.run_for(secs(29));
    let limits = lab.world.node(lab.id).limits().clone();
    let stats = lab.world.node(lab.id).stats().clone();
    let queued = stats.messages * value.len() as u64 - stats.bytes_out;
    let bound = (limits.output_bytes_high + value.len() + 100) as u64;
    assert!(queued <= bound, "{queued} bytes queued");
    assert_eq!(lab.world.node(lab.id).conns(), 1);
    lab.assert_serves("beside one that does not read");
    lab.world.run_for(secs(2));
    assert_eq!(lab.world.node(lab.id).stats().timed_out_drain, 1);
    lab.world.peer(peer).reset();
    lab.world.run_for(secs(1));
    lab.assert_nothing_left("closed");
}

#[test]
fn who_reads_late_gets_everything() {
    let (value, count) = (noise(64 * 1024), 40);
    let lab = &mut Lab::new(false);
    lab.preset("a", &value);
    let peer = lab.connect();
    lab.world.peer(peer).stop_reading();
    lab.send(peer, &line("GET", "a").repeat(count));
    lab.world.run_for(secs(20));
    lab.world.peer(peer).read_again();
    lab.world.run_for(secs(2));
    let one = [&b"1\n65536\n"[..], &value].concat();
    lab.assert_received(peer, &one.repeat(count), "read late");
}

#[test]
fn a_hundred_slow_ones_delay_nobody() {
    let lab = &mut Lab::new(false);
    lab.preset("a", &noise(64 * 1024));
    for n in 0..100 {
        let peer = lab.connect();
        if n % 2 == 0 {
            lab.send(peer, &insert("b", &noise(5000))[..100 + n]);
        } else {
            lab.world.peer(peer).stop_reading();
            lab.send(peer, &line("GET", "a").repeat(100));
        }
    }
    lab.world.run_for(secs(1));
    for _ in 0..5 {
        let peer = lab.connect();
        lab.send(peer, &[insert("q", b"1"), line("GET", "q")].concat());
        let (asked_at, reply) = (lab.world.now(), b"1\n1\n1\n1\n1");
        lab.world
            .until(secs(1), |w| w.peer(peer).received().len() == reply.len());
        assert!(lab.world.now() - asked_at <= Ticks(1));
        lab.assert_received(peer, reply, "a quick one");
        lab.world.run_for(secs(1));
    }
    assert_eq!(lab.world.node(lab.id).conns(), 105);
}

#[test]
fn staged_bytes_have_a_limit() {
    for durable in [false, true] {
        let lab = &mut Lab::with(durable, Limits::default(), |c| c.staged_bytes_max = 10_000);
        let ask = |name| insert(name, &noise(8000));
        let one = lab.sent(&ask("one")[..6000], Ticks(2));
        let two = lab.sent(&ask("two")[..6000], Ticks(2));
        lab.assert_received(two, b"1\n0\n", "over the limit");
        assert_eq!(lab.world.peer(two).ending(), Some(Ending::Fin));
        lab.send(one, &ask("one")[6000..]);
        lab.world.run_for(Ticks(20));
        lab.assert_received(one, b"1\n1\n", "within it");
        assert_eq!(lab.service().staged_bytes, 0);
        // What comes whole in one piece is never staged.
        let three = lab.sent(&insert("three", &noise(20_000)), Ticks(20));
        lab.assert_received(three, b"1\n1\n", "in one piece");
        for peer in [one, two, three] {
            lab.world.peer(peer).close();
        }
        lab.world.run_for(Ticks(20));
        lab.assert_nothing_left("in the end");
    }
}

/// A value that was overwritten stays in memory as long as a slow reader of it does, and counts as long.
#[test]
fn values_that_slow_readers_keep_alive_count_as_memory() {
    const LEN: usize = 100_000;
    let lab = &mut Lab::with(false, Limits::default(), |c| c.memory_bytes_max = 1_000_000);
    let writer = lab.connect();
    let mut readers = Vec::new();
    let mut refused = 0;
    for _ in 0..50 {
        lab.send(writer, &insert("a", &noise(LEN)));
        lab.world.run_for(Ticks(1));
        refused += u32::from(lab.world.peer(writer).take() == b"1\n0\n");
        let reader = lab.connect();
        lab.world.peer(reader).set_window(1000);
        lab.world.peer(reader).stop_reading();
        lab.send(reader, &line("GET", "a"));
        lab.world.run_for(Ticks(1));
        readers.push(reader);
        assert!(lab.service().held_bytes() <= 1_000_000);
    }
    assert!(refused >= 40, "{refused} refused");
    assert_eq!(lab.service().memory_refusals(), u64::from(refused));
    for reader in readers {
        lab.world.peer(reader).reset();
    }
    lab.world.run_for(secs(1));
    lab.send(writer, &insert("a", &noise(LEN)));
    lab.world.run_for(Ticks(1));
    assert_eq!(lab.world.peer(writer).take(), b"1\n1\n");
    assert!(
        lab.service().held_bytes() < 2 * LEN as u64,
        "the readers are gone"
    );
}

#[test]
fn entries_have_a_limit() {
    for durable in [false, true] {
        let lab = &mut Lab::with(durable, Limits::default(), |c| c.memory_bytes_max = 1100);
        let peer = lab.connect();
        let mut expect = |ask: Vec<u8>, reply: &[u8], shown: &str| {
            lab.send(peer, &ask);
            lab.world.run_for(Ticks(20));
            assert_eq!(lab.world.peer(peer).take(), reply, "{shown}");
            assert!(lab.service().entries.memory_bytes() <= 1100, "{shown}");
        };
        expect(insert("a", &noise(500)), b"1\n1\n", "it fits");
        expect(insert("b", &noise(500)), b"1\n0\n", "it does not");
        expect(line("CONTAINS", "b"), b"1\n0\n", "and is not there");
        expect(
            insert("a", &noise(600)),
            b"1\n1\n",
            "in place of the old value it fits",
        );
        expect(
            insert("a", &noise(1000)),
            b"1\n0\n",
            "an overwrite that does not",
        );
        expect(
            [b"GET\n".to_vec(), format!("{}\n", of("a")).into()].concat(),
            &[&b"1\n600\n"[..], &noise(600)].concat(),
            "the old value stays",
        );
        for n in 0..20 {
            let reply = if n < 3 { b"1\n1\n" } else { b"1\n0\n" };
            expect(
                insert(&n.to_string(), b""),
                reply,
                "empty values are entries too",
            );
        }
        expect(
            line("REMOVE", "a"),
            b"1\n1\n",
            "removing is always possible",
        );
        expect(insert("b", &noise(500)), b"1\n1\n", "and makes room");
    }
}

#[test]
fn writes_under_way_count_as_entries() {
    let lab = &mut Lab::with(true, Limits::default(), |c| c.memory_bytes_max = 1100);
    let peers = ["a", "b", "c"].map(|name| lab.sent(&insert(name, &noise(400)), Ticks(0)));
    lab.world.run_for(Ticks(20));
    let mut replies = peers.map(|peer| lab.received(peer));
    replies.sort();
    assert_eq!(replies, [&b"1\n0\n"[..], b"1\n1\n", b"1\n1\n"]);
    assert!(lab.service().entries.memory_bytes() <= 1100);
}

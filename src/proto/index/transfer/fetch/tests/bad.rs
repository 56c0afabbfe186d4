//! Holders that do not keep to the protocol: dropped with the reason, and the others send the file.

use super::*;

/// Three ranges, so that each holder is asked for one; the last is short.
const SIZE: usize = 2 * MIB + 9;

/// Of two holders the first one is dropped for `why`, and the file comes from the second.
#[track_caller]
fn expect(nature: Nature, why: impl Fn(&Why) -> bool) {
    let shown = format!("{nature:?}");
    let report = Lab::new(1, SIZE, &[nature, Nature::Honest]).run();
    assert_eq!(report.result, Ok(()), "{shown}");
    let reason = report.holders[0].dropped.as_ref();
    assert!(reason.is_some_and(why), "{shown}: {reason:?}");
    assert_eq!(report.holders[1].dropped, None);
}

fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u16).to_le_bytes().to_vec();
    frame.extend(kind.to_le_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn another_size() {
    for size in [0, 1, SIZE as u64 - 1, i64::MAX as u64, u64::MAX] {
        expect(Nature::Size(size), |why| *why == Why::OtherSize(size));
    }
}

#[test]
fn another_range() {
    let malformed = |why: &Why| matches!(why, Why::Malformed(_));
    expect(Nature::Offset(1), malformed);
    expect(Nature::Offset(u64::MAX), malformed);
    let ok = Kind::Download.ok();
    // A range that was asked for, with another length.
    let long = format!("{SIZE}\n0\n{SIZE}\n");
    expect(Nature::Says(frame(ok, long.as_bytes())), malformed);
    let none = format!("{SIZE}\n0\n0\n");
    expect(Nature::Says(frame(ok, none.as_bytes())), malformed);
}

#[test]
fn nonsense() {
    let malformed = |why: &Why| matches!(why, Why::Malformed(_));
    let ok = Kind::Download.ok();
    for bad in [
        frame(ok, b""),
        frame(ok, b"1\n2"),
        frame(ok, b"2097161\n0\n-1\n"),
        frame(ok, b"2097161\n0\n99999999999999999999\n"),
        frame(ok, b"\xff\xfe\n0\n0\n"),
        frame(ok, &[b'1'; 2000]),
        frame(107, b"2097161\n0\n1048576\n"),
        frame(0xffff, b"x"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 4],
        vec![0xff; 4],
    ] {
        expect(Nature::Says(bad), malformed);
    }
}

#[test]
fn more_or_fewer_bytes_than_announced() {
    let mut ok = Vec::new();
    let sending = Sending {
        total_bytes: SIZE as u64,
        offset: 0,
        length: MIB as u64,
    };
    sending.write(&mut ok);
    ok.extend(&content(SIZE)[..MIB]);
    let malformed = |why: &Why| matches!(why, Why::Malformed(_));
    expect(
        Nature::Says([&ok[..], b"more than that"].concat()),
        malformed,
    );
    // The next answer counts as the end of this one, so that it is wrong besides: it is found out, whatever it is called.
    ok.pop();
    expect(Nature::Says(ok), |_| true);
}

#[test]
fn refusals() {
    expect(Nature::Refuses("no such file"), |why| {
        *why == Why::Refused("no such file".into())
    });
    // Busy: it is asked again, and no reason to drop it.
    let busy = Nature::Refuses("busy; retry in 1 s");
    let report = Lab::new(1, SIZE, &[busy, Nature::Honest]).run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(dropped(&report), [None, None]);
    let all = [Nature::Refuses("no"), Nature::Refuses("nor here")];
    assert_eq!(Lab::new(1, MIB, &all).run().result, Err(Failure::NoHolder));
}

#[test]
fn always_busy() {
    let busy = "busy; retry in 60 s";
    let report = Lab::new(1, SIZE, &[Nature::Refuses(busy)]).run();
    assert_eq!(report.result, Err(Failure::NoHolder));
    assert_eq!(dropped(&report), [Some(&Why::Busy(busy.into()))]);
}

#[test]
fn nobody_there() {
    for how in [Dialled::Refuse, Dialled::Ignore] {
        // The others do not wait for it; whether it is given up before they are done is no matter.
        let report = Lab::new(1, SIZE, &[Nature::Dead(how), Nature::Honest]).run();
        assert_eq!(report.result, Ok(()));
        let report = Lab::new(1, MIB, &[Nature::Dead(how)]).run();
        assert_eq!(report.result, Err(Failure::NoHolder));
        assert!(matches!(dropped(&report)[0], Some(Why::Gone(_))));
    }
    assert_eq!(Lab::new(1, MIB, &[]).run().result, Err(Failure::NoHolder));
}

#[test]
fn silence() {
    // Its ranges go to the other, and it is never waited for.
    expect(Nature::Silent, |why| {
        matches!(why, Why::Gone(_) | Why::Slow)
    });
    let report = Lab::new(1, MIB, &[Nature::Silent]).run();
    assert_eq!(report.result, Err(Failure::NoHolder));
}

#[test]
fn all_lie() {
    let report = Lab::new(1, SIZE, &[Nature::Liar, Nature::Liar]).run();
    assert_eq!(report.result, Err(Failure::NoHolder));
    let wrong = Some(&Why::WrongBytes);
    assert_eq!(dropped(&report), [wrong, wrong]);
}

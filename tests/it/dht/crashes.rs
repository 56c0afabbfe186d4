//! Members that crash: `stress dht --crashes`, with real processes and `kill -9`.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{DEADLINE, big_test, peerloop, wait};

/// Two of eight members are killed every three seconds, and others are started. As each entry is on three of them, no
/// acknowledged write is lost, what was removed stays removed, and every key is soon served again.
#[test]
fn two_members_at_once_crash_again_and_again() {
    let _alone = big_test();
    let words = [
        ["stress", "dht"],
        ["--json", "--processes"],
        ["--nodes", "8"],
        ["--clients", "8"],
        ["--replicas", "3"],
        ["--crashes", "2"],
        ["--crash-every", "3"],
        ["--seconds", "10"],
    ];
    let mut child = peerloop(words.as_flattened())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let status = wait(&mut child, 3 * DEADLINE).expect("it ends");
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    // One line, which fits the pipe.
    stdout.read_to_string(&mut text).expect("read");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    for none in ["lost", "resurrected", "wrong_reads", "died"] {
        assert_eq!(told[none], 0, "{none} of {told}");
    }
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(told["crashes"].as_u64() >= Some(4), "{told}");
    assert_eq!(told["gap"]["open"], 0, "{told}");
    assert!(told["gap"]["ms"]["p99"].as_f64() < Some(10_000.0), "{told}");
}

//! Real processes that are killed and come back, at their address or elsewhere, with what they had on their disk.

use std::net::SocketAddrV4;

use crate::dht::reference::PlainPeer;
use crate::dht::support::{check, first, join, leave, settled, some, store};
use crate::support::{DEADLINE, Server, node, wait_until};

fn durable(data: &str, contact: SocketAddrV4, listen: Option<SocketAddrV4>) -> Server {
    let contact = contact.to_string();
    let listen = listen.map(|addr| addr.to_string());
    let mut options = vec!["-v", "--data", data, "--join", &contact];
    if let Some(listen) = &listen {
        options.extend(["--listen", listen]);
    }
    node(&options)
}

#[track_caller]
fn says(node: &Server, text: &str) {
    let said = wait_until(DEADLINE, || node.log().contains(text));
    assert!(said, "{text:?} is not in the log:\n{}", node.log());
}

/// Killed with -9 and started again as before: it gets back in through any member, with its entries.
#[test]
fn a_durable_member_that_is_killed_comes_back_at_its_address() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let one = first();
    let two = join(one.addr);
    let mut member = durable(data, one.addr, None);
    let addr = member.addr;
    settled(&[one.addr, two.addr, addr]);
    let mut all = some(0..200, "written");
    store(one.addr, &all);
    for round in 0..4 {
        member.kill();
        let contact = if round % 2 == 0 { one.addr } else { two.addr };
        member = durable(data, contact, Some(addr));
        says(&member, "joined between");
        settled(&[one.addr, two.addr, addr]);
        check(&[one.addr, two.addr, addr], &all);
        let more = some(0..20, &format!("round {round}"));
        store(two.addr, &more);
        all.extend(more);
    }
    leave(member);
    settled(&[one.addr, two.addr]);
    check(&[one.addr, two.addr], &all);
    // A leave empties its disk, so that it can join again.
    let member = durable(data, one.addr, None);
    settled(&[one.addr, two.addr, member.addr]);
    check(&[member.addr], &all);
    assert!(
        !member.log().contains("to be recovered"),
        "{}",
        member.log()
    );
}

/// A node with a ring and a data directory of its own joins the ring of a plain peer and one of ours.
#[test]
fn the_entries_of_a_data_directory_go_to_their_owners() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let all = some(0..600, "old");
    let mut alone = node(&["-v", "--data", data]);
    store(alone.addr, &all);
    alone.kill();
    let plain = PlainPeer::alone();
    let ours = join(plain.addr());
    settled(&[plain.addr(), ours.addr]);
    let newer = some(0..10, "newer");
    let mut want = all.clone();
    for (key, value) in all.keys().zip(newer.values()) {
        want.insert(*key, value.clone());
    }
    let replaced = all.keys().take(10).map(|key| (*key, want[key].clone()));
    store(ours.addr, &replaced.collect());
    let member = durable(data, ours.addr, None);
    says(&member, "600 entries are to be recovered");
    says(&member, "all 600 entries are in the ring");
    let members = [plain.addr(), ours.addr, member.addr];
    settled(&members);
    check(&members, &want);
    leave(member);
    settled(&members[..2]);
    check(&members[..2], &want);
}

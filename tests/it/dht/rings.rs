//! `dht ring`: what it says of rings that are not right. Their members are scripts, which tell of themselves and of others what a
//! test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use serde_json::Value;

use crate::dht::reference::wire::{between, distance, id_of};
use crate::dht::reference::{Last, PlainPeer};
use crate::dht::support::{across, first, settled};
use crate::support::{DEADLINE, Ended, LOOPBACK, node, peerloop, run, wait_until};

/// What a member of a script says.
#[derive(Clone)]
struct Says {
    /// The members that its LOCATE knows, itself included.
    knows: Vec<SocketAddrV4>,
    /// Its answer to XSTAT; without one it closes, as a plain peer does.
    stat: Option<Stat>,
}

#[derive(Clone)]
struct Stat {
    next: SocketAddrV4,
    prev: Option<SocketAddrV4>,
    replicas: u32,
    lease: &'static str,
    successors: Vec<SocketAddrV4>,
    holders: Vec<(SocketAddrV4, bool)>,
}

impl Stat {
    fn text(&self) -> String {
        let Stat { next, prev, .. } = self;
        let prev = prev.map_or("0.0.0.0:0".into(), |prev| prev.to_string());
        let (replicas, lease) = (self.replicas, self.lease);
        let mut text = format!("1\n7\n700\n{next}\n{prev}\nmember\n{replicas}\n{lease}\n");
        text += &format!("{}\n", self.successors.len());
        self.successors
            .iter()
            .for_each(|addr| text += &format!("{addr}\n"));
        text += &format!("{}\n", self.holders.len());
        for (addr, complete) in &self.holders {
            text += &format!("{addr}\n{}\n", u8::from(*complete));
        }
        text
    }
}

impl Says {
    /// Answers until the program is over.
    fn serve(self, listener: TcpListener) {
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let says = self.clone();
                std::thread::spawn(move || says.answer(socket));
            }
        });
    }

    /// One connection. It ends with the first word that is not known.
    fn answer(&self, mut socket: TcpStream) {
        while let Some(word) = line(&mut socket) {
            let answer = match (word.as_str(), &self.stat) {
                ("LOCATE", _) => {
                    let key = line(&mut socket).and_then(|key| key.parse().ok());
                    let Some(key) = key else { return };
                    let nearest = |addr: &&SocketAddrV4| distance(id_of(**addr), key);
                    let closest = self.knows.iter().min_by_key(nearest);
                    format!("{}\n", closest.expect("it knows itself"))
                }
                ("XSTAT", Some(stat)) => stat.text(),
                _ => return,
            };
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn line(socket: &mut TcpStream) -> Option<String> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while socket.read_exact(&mut byte).is_ok() {
        if byte == *b"\n" {
            return String::from_utf8(text).ok();
        }
        text.push(byte[0]);
    }
    None
}

/// Members in the order of their ids, as a ring that is right; `change` makes it what the test wants.
fn ring_of<const N: usize>(
    change: impl FnOnce(&[SocketAddrV4; N], &mut [Says; N]),
) -> [SocketAddrV4; N] {
    let bind = |_| TcpListener::bind(LOOPBACK).expect("bind");
    let addr = |listener: &TcpListener| match listener.local_addr().expect("an address") {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(_) => unreachable!("bound to IPv4"),
    };
    let mut listeners: [TcpListener; N] = std::array::from_fn(bind);
    listeners.sort_by_key(|listener| id_of(addr(listener)));
    let addrs: [SocketAddrV4; N] = std::array::from_fn(|n| addr(&listeners[n]));
    let mut says: [Says; N] = std::array::from_fn(|n| {
        let next = addrs[(n + 1) % N];
        let stat = Stat {
            next,
            prev: Some(addrs[(n + N - 1) % N]),
            replicas: 1,
            lease: "-",
            successors: vec![next],
            holders: Vec::new(),
        };
        Says {
            knows: addrs.to_vec(),
            stat: Some(stat),
        }
    });
    change(&addrs, &mut says);
    for (listener, says) in listeners.into_iter().zip(says) {
        says.serve(listener);
    }
    addrs
}

/// What a member of ours says.
fn stat(says: &mut Says) -> &mut Stat {
    says.stat.as_mut().expect("one of ours")
}

fn look(at: SocketAddrV4, options: &[&str]) -> Ended {
    let at = at.to_string();
    let words = [&["dht", "ring", "--node", &at, "--timeout", "2"], options].concat();
    run(&mut peerloop(&words), "")
}

fn json(at: SocketAddrV4) -> Value {
    let ended = look(at, &["--json"]);
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr))
}

/// The ring is called wrong in every format, and each says why.
#[track_caller]
fn is_wrong(at: SocketAddrV4, why: &[String]) -> Value {
    let text = look(at, &[]);
    let shown = String::from_utf8(text.stdout).expect("text");
    assert_eq!(text.code, Some(1), "{shown}{}", text.stderr);
    assert!(shown.ends_with("INCONSISTENT\n"), "{shown}");
    for option in ["--json", "--dot", "--svg"] {
        let ended = look(at, &[option]);
        assert_eq!(ended.code, Some(1), "{option}: {}", ended.stderr);
        let told = String::from_utf8(ended.stdout).expect("text");
        for words in why {
            assert!(shown.contains(words), "no {words:?} in {shown}");
            assert!(told.contains(words), "no {words:?} in {told}");
        }
    }
    json(at)
}

#[track_caller]
fn is_right(at: SocketAddrV4) -> String {
    let ended = look(at, &[]);
    let shown = String::from_utf8(ended.stdout).expect("text");
    assert_eq!(ended.code, Some(0), "{shown}{}", ended.stderr);
    assert!(shown.ends_with(", consistent\n"), "{shown}");
    shown
}

fn addrs(found: &Value) -> Vec<&str> {
    let nodes = found.as_array().expect("a list").iter();
    nodes
        .map(|node| node["addr"].as_str().expect("text"))
        .collect()
}

#[test]
fn scripts_that_agree_are_consistent() {
    let ring = ring_of::<4>(|_, _| {});
    assert!(is_right(ring[2]).contains("4 members, 28 entries"));
    let found = json(ring[0]);
    assert_eq!(addrs(&found["members"]), ring.map(|addr| addr.to_string()));
    assert_eq!(found["others"], Value::Array(Vec::new()));
    let [alone] = ring_of::<1>(|_, _| {});
    is_right(alone);
}

#[test]
fn a_prev_that_is_not_the_one_before() {
    let [a, b, c] = ring_of(|[a, _, _], [_, _, says]| stat(says).prev = Some(*a));
    is_wrong(a, &[format!("says that {a} is before it, and not {b}")]);
    is_wrong(c, &[format!("says that {a} is before it, and not {b}")]);
}

#[test]
fn a_prev_that_is_not_known() {
    let [a, ..] = ring_of::<3>(|_, [_, says, _]| stat(says).prev = None);
    is_wrong(a, &["does not know who is before it".into()]);
}

#[test]
fn a_next_that_jumps_over_a_member() {
    let [a, b, c] = ring_of(|[a, _, _], [_, says, _]| stat(says).next = *a);
    let why = [
        format!("says that {a} comes next, and not {c}"),
        "forwards there are 2 members, backwards 3".into(),
    ];
    let found = is_wrong(b, &why);
    assert_eq!(found["forwards_closed"], false);
    assert_eq!(found["closed"], true);
}

/// B joined between A and C, and A went on without it. C still takes it for its prev.
#[test]
fn a_member_that_nobody_lists() {
    let ring = ring_of(|[a, b, c], [at_a, at_b, at_c]| {
        at_a.knows = vec![*a, *c];
        at_c.knows = vec![*a, *c];
        stat(at_a).next = *c;
        stat(at_a).successors = vec![*c];
        assert_eq!(stat(at_b).next, *c);
        assert_eq!(stat(at_c).prev, Some(*b));
    });
    let [a, b, c] = ring;
    let why = [
        format!("is listed as next by nobody: {a}, before it, names {a}"),
        "is a member, and not in the ring".into(),
    ];
    let found = is_wrong(a, &why);
    assert_eq!(addrs(&found["others"]), [b.to_string()]);
    assert_eq!(
        addrs(&found["members"]),
        [a, c].map(|addr| addr.to_string())
    );
    // Also when it is asked itself: it is sure of its place.
    let found = is_wrong(b, &why);
    assert_eq!(addrs(&found["others"]), [b.to_string()]);
    assert_eq!(found["closed"], false);
}

#[test]
fn two_rings() {
    let ring = ring_of(|[a, b, c, d], [at_a, at_b, at_c, at_d]| {
        // Every second one, so that both go round.
        for (says, me, other) in [
            (at_a, *a, *c),
            (at_c, *c, *a),
            (at_b, *b, *d),
            (at_d, *d, *b),
        ] {
            says.knows = vec![me, other];
            let stat = stat(says);
            (stat.next, stat.prev, stat.successors) = (other, Some(other), vec![other]);
            if me == *a {
                stat.successors.push(*b);
            }
        }
    });
    let [a, b, c, d] = ring;
    let found = is_wrong(a, &["there is another ring: ".into()]);
    assert_eq!(
        addrs(&found["members"]),
        [a, c].map(|addr| addr.to_string())
    );
    assert_eq!(addrs(&found["others"]).len(), 2);
    let further = found["further_rings"].as_array().expect("a list");
    assert_eq!(further.len(), 1, "{found}");
    let mut further: Vec<_> = further[0].as_array().expect("a list").clone();
    further.sort_by_key(ToString::to_string);
    let mut want: Vec<Value> = [b, d].map(|addr| addr.to_string().into()).to_vec();
    want.sort_by_key(ToString::to_string);
    assert_eq!(further, want);
}

#[test]
fn a_walk_that_goes_in_circles() {
    // Forwards: A, B, C, and B again.
    let [a, b, c] = ring_of(|[_, b, _], [_, _, says]| stat(says).next = *b);
    let again = |way: &str, from, to| {
        let step = if way == "forwards" { "after" } else { "before" };
        format!("{way} the walk does not close: {step} {from} comes {to} again")
    };
    is_wrong(a, &[again("forwards", c, b)]);
    // Backwards: A, D, C, and D again: C and D know nobody else.
    let [a, b, c, d] = ring_of(|[_, _, c, d], [_, _, at_c, at_d]| {
        (at_c.knows, at_d.knows) = (vec![*c, *d], vec![*c, *d]);
    });
    let found = is_wrong(a, &[again("backwards", c, d)]);
    assert_eq!(found["closed"], false);
    assert!(addrs(&found["others"]).contains(&&*b.to_string()));
}

#[test]
fn plain_members_are_not_called_wrong() {
    // All of them, one, and two beside each other.
    for plain in [&[0, 1, 2, 3][..], &[2], &[1, 2]] {
        let ring = ring_of::<4>(|_, says| plain.iter().for_each(|n| says[*n].stat = None));
        for at in ring {
            let shown = is_right(at);
            assert_eq!(
                shown.matches("is a plain peer").count(),
                plain.len(),
                "{shown}"
            );
        }
        let found = json(ring[0]);
        assert_eq!(found["members"][plain[0]]["kind"], "plain");
    }
    // What is seen of them is said: the one before it does not list this one.
    let [a, b, c] = ring_of(|[a, _, c], [at_a, at_b, at_c]| {
        (at_a.stat, at_b.stat, at_c.stat) = (None, None, None);
        at_a.knows = vec![*a, *c];
        at_c.knows = vec![*a, *c];
    });
    let nobody = |addr| format!("is listed as next by nobody: {addr}, before it, names {addr}");
    is_wrong(b, &[nobody(a)]);
    is_right(c);
}

#[test]
fn a_plain_peer_and_ours() {
    let ours = first();
    let plain = PlainPeer::join_where(ours.addr, Last::Address, across(ours.addr));
    settled(&[ours.addr, plain.addr()]);
    let right = || look(ours.addr, &[]).code == Some(0);
    assert!(
        wait_until(DEADLINE, right),
        "{:?}",
        look(ours.addr, &[]).stdout
    );
    for at in [ours.addr, plain.addr()] {
        let shown = is_right(at);
        assert!(
            shown.contains("2 members") && shown.contains("is a plain peer"),
            "{shown}"
        );
    }
}

#[test]
fn ranges_with_too_few_copies() {
    let nobody = TcpListener::bind(LOOPBACK).expect("bind");
    let gone = match nobody.local_addr().expect("an address") {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(_) => unreachable!("bound to IPv4"),
    };
    drop(nobody);
    let ring = ring_of(|&[a, b, c, d], says: &mut [Says; 4]| {
        let holders = [
            vec![(d, true), (c, true)],
            // One is not complete.
            vec![(a, true), (d, false)],
            // One is no more.
            vec![(b, true), (gone, true)],
            // None; but one copy is enough for it.
            vec![(c, true)],
        ];
        for (says, holders) in says.iter_mut().zip(holders) {
            (stat(says).holders, stat(says).replicas) = (holders, 3);
        }
        stat(&mut says[3]).replicas = 2;
    });
    let found = is_wrong(ring[0], &["has 1 of 2 copies of its range".into()]);
    assert_eq!(found["under_replicated"], 2);
    let wrong: Vec<bool> = found["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["problems"] != Value::Array(Vec::new()))
        .collect();
    assert_eq!(wrong, [false, true, true, false]);
    let shown = String::from_utf8(look(ring[0], &[]).stdout).expect("text");
    for words in ["2/2", "1/2", "1/1", "2 ranges with too few copies"] {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
    // A ring that is smaller than the number of replicas has as many copies as it can; plain peers hold none.
    let ring = ring_of(|&[a, b, _], says: &mut [Says; 3]| {
        (stat(&mut says[0]).replicas, stat(&mut says[1]).replicas) = (3, 3);
        stat(&mut says[0]).holders = vec![(b, true)];
        stat(&mut says[1]).holders = vec![(a, true)];
        says[2].stat = None;
    });
    is_right(ring[0]);
}

#[test]
fn a_lease_that_is_over() {
    let ring = ring_of::<2>(|_, [one, other]| {
        (stat(one).lease, stat(other).lease) = ("4", "0");
    });
    let found = is_wrong(ring[0], &["is at the end of its lease".into()]);
    assert_eq!(found["members"][0]["lease_secs"], 4);
}

#[test]
fn a_node_that_has_not_joined_says_so() {
    let closed = TcpListener::bind(LOOPBACK).expect("bind");
    let nobody = closed.local_addr().expect("an address").to_string();
    drop(closed);
    // Takes a connection, and is silent: the join does not end.
    let silent = TcpListener::bind(LOOPBACK).expect("bind");
    let silence = silent.local_addr().expect("an address").to_string();
    for contact in [nobody, silence] {
        let joiner = node(&["--join", &contact]);
        let ended = look(joiner.addr, &[]);
        let shown = String::from_utf8(ended.stdout).expect("text");
        let why = format!("{}, which was asked, is no member", joiner.addr);
        assert_eq!(ended.code, Some(1), "{shown}{}", ended.stderr);
        assert!(shown.contains(&why), "{shown}");
        assert!(shown.ends_with("INCONSISTENT\n"), "{shown}");
    }
}

/// A joiner that the ring lists already is shown as what it is.
#[test]
fn a_ring_with_a_node_that_is_no_member() {
    let ring = ring_of::<3>(|_, _| {});
    let [a, b, _] = ring;
    assert!(between(id_of(a), id_of(b), id_of(a)));
    let joiner = node(&["--join", &a.to_string()]);
    // It dials the script, which closes upon CONNECT; it is asked meanwhile.
    is_wrong(joiner.addr, &["is no member".into()]);
    is_right(a);
}

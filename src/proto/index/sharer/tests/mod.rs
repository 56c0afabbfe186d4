//! A sharer in the simulator, with scripted peers and a scripted index server.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;

use crate::engine::{Limits, Work};
use crate::proto::index::reply::{self, PeerLine};
use crate::proto::index::transfer::CHUNK_BYTES;
use crate::proto::index::transfer::serve::Unreadable;
use crate::proto::index::wire::{Frame, FrameOut, Request, write_text};
use crate::sim::{ListenerId, NodeId, PeerId as Script, Span, World};

use super::*;

mod index;

const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 9));
const OURS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SECOND: Ticks = Ticks::from_secs(1);

const fn id(n: u64) -> PeerId {
    PeerId::from_bits(n)
}

/// File number `n` has the SHA-1 of this byte, twenty times.
fn sha1(n: usize) -> Sha1 {
    Sha1([n as u8; 20])
}

/// Files by their numbers. One that is taken away is unreadable.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Vec<Option<Vec<u8>>>>>);

impl Work for Disk {
    type Job = Read<usize>;
    type Done = ReadDone;

    fn run(&mut self, jobs: &mut Vec<Read<usize>>, done: &mut Vec<ReadDone>) {
        let files = self.0.lock().unwrap();
        for read in jobs.drain(..) {
            assert!(read.length <= CHUNK_BYTES as usize);
            let file = files[read.file].as_ref();
            let from = read.offset as usize;
            let bytes = file.map(|file| Bytes::copy_from_slice(&file[from..from + read.length]));
            done.push(ReadDone {
                conn: read.conn,
                bytes: bytes.ok_or(Unreadable),
            });
        }
    }
}

struct Lab {
    world: World<Sharer<usize>>,
    id: NodeId,
    disk: Disk,
    news: Receiver<News>,
    index: ListenerId,
    lines: Vec<(Script, Vec<u8>)>,
    /// Every request that the index got: its kind and lines.
    asked: Vec<(u16, String)>,
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 256) as u8).collect()
}

impl Lab {
    /// Shares files of these sizes.
    fn new(seed: u64, open: bool, slots: usize, sizes: &[usize]) -> Lab {
        let limits = serve::limits(Limits::default());
        Lab::with_limits(seed, open, slots, sizes, limits)
    }

    fn with_limits(seed: u64, open: bool, slots: usize, sizes: &[usize], limits: Limits) -> Lab {
        let mut world = World::new(seed);
        let index = world.listen(SERVER);
        let (tell, news) = channel();
        let config = Config {
            server: SERVER,
            who: Arc::new(Credentials {
                user: "us".into(),
                password: "secret".into(),
            }),
            id: None,
            ip: None,
            port: 4000,
            keep_alive: Ticks::from_secs(300),
            open,
            slots,
        };
        let id = world.add(OURS, Sharer::new(config, tell), limits);
        let disk = Disk::default();
        *disk.0.lock().unwrap() = sizes.iter().map(|bytes| Some(noise(*bytes))).collect();
        world.set_worker(id, disk.clone(), Span::us(10, 300));
        let files = sizes.iter().enumerate().map(|(n, bytes)| shared(n, *bytes));
        let files = Files::new(files.collect());
        world.with(id, |sharer, hub| sharer.share(hub, files));
        Lab {
            id,
            disk,
            news,
            index,
            lines: Vec::new(),
            asked: Vec::new(),
            world,
        }
    }

    fn open(sizes: &[usize]) -> Lab {
        Lab::new(1, true, 8, sizes)
    }

    /// What the sharer sends for `bytes`, until it is quiet or closes.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        let peer = self.world.connect(OURS);
        self.world.peer(peer).send(bytes);
        self.world.run_for(SECOND);
        let got = self.world.peer(peer).take();
        self.world.peer(peer).close();
        self.world.run_for(SECOND);
        got
    }

    /// Passes the index's answers, which `answer` writes, until nothing more is asked for `time`.
    fn serve_index(&mut self, time: Ticks, answer: &mut dyn FnMut(Kind, &str, &mut Vec<u8>)) {
        let end = self.world.now() + time;
        while self.world.now() < end {
            self.world.run_for(Ticks(1));
            while let Some(peer) = self.world.accept(self.index) {
                self.lines.push((peer, Vec::new()));
            }
            for (peer, heard) in &mut self.lines {
                let mut peer = self.world.peer(*peer);
                heard.extend(peer.take());
                while let Some(frame) = Frame::parse(heard) {
                    let kind = Kind::from_code(frame.kind).unwrap();
                    let text = frame.text().unwrap().to_owned();
                    let len = frame.len();
                    heard.drain(..len);
                    let mut out = Vec::new();
                    answer(kind, &text, &mut out);
                    peer.send(&out);
                    self.asked.push((kind.code(), text));
                }
            }
        }
    }
}

fn shared(n: usize, bytes: usize) -> Shared<usize> {
    Shared {
        announced: Listed {
            name: format!("file {n}"),
            size_bytes: bytes as u64,
            sha1: sha1(n),
        },
        file: n,
    }
}

fn request(n: usize, offset: u64, length: u64, requester: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let range = Range {
        sha1: sha1(n),
        offset,
        length,
    };
    let requester = id(requester);
    Request::Download { range, requester }.write(&mut out);
    out
}

fn ok(total_bytes: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = bytes.len() as u64;
    let sending = reply::Sending {
        total_bytes,
        offset,
        length,
    };
    sending.write(&mut out);
    out.extend_from_slice(bytes);
    out
}

fn ko(kind: u16, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_ko(&mut out, kind, why);
    out
}

#[test]
fn ranges_of_a_file() {
    let big = 3 * CHUNK_BYTES as usize + 5;
    let mut lab = Lab::open(&[big, 10, 0]);
    let file = noise(big);
    let total = big as u64;
    assert!(lab.ask(&request(0, 0, 0, 7)) == ok(total, 0, &file));
    assert!(lab.ask(&request(0, 0, total, 7)) == ok(total, 0, &file));
    assert!(lab.ask(&request(0, 5, 300_000, 7)) == ok(total, 5, &file[5..300_005]));
    // What goes beyond the end is cut there.
    assert!(lab.ask(&request(0, total - 2, 100, 7)) == ok(total, total - 2, &file[big - 2..]));
    assert!(lab.ask(&request(1, 1, u64::MAX, 7)) == ok(10, 1, &noise(10)[1..]));
    assert_eq!(lab.ask(&request(1, 10, 0, 7)), ok(10, 10, b""));
    assert_eq!(lab.ask(&request(2, 0, 0, 7)), ok(0, 0, b""));
    let beyond = ko(208, "the offset is beyond the end of the file");
    assert_eq!(lab.ask(&request(1, 11, 0, 7)), beyond);
    assert_eq!(lab.ask(&request(1, u64::MAX, 1, 7)), beyond);
    let unknown = ko(208, "no file with this SHA-1 is shared here");
    assert_eq!(lab.ask(&request(3, 0, 0, 7)), unknown);
    assert_eq!(lab.world.node(lab.id).conns(), 1, "the index's");
}

#[test]
fn requests_at_every_split_and_together() {
    let big = 2 * CHUNK_BYTES as usize;
    let mut lab = Lab::open(&[big, 10]);
    let requests = [
        request(1, 0, 0, 7),
        request(0, 0, 0, 7),
        request(1, 3, 4, 7),
    ]
    .concat();
    let (small, file) = (noise(10), noise(big));
    let answers = [
        ok(10, 0, &small),
        ok(big as u64, 0, &file),
        ok(10, 3, &small[3..7]),
    ]
    .concat();
    assert!(lab.ask(&requests) == answers);
    for at in 0..requests.len() {
        let peer = lab.world.connect(OURS);
        lab.world.peer(peer).send(&requests[..at]);
        lab.world.run_for(Ticks(2));
        lab.world.peer(peer).send(&requests[at..]);
        lab.world.peer(peer).finish();
        lab.world.run_for(Ticks::from_millis(200));
        assert!(lab.world.peer(peer).take() == answers, "split at {at}");
        assert!(lab.world.peer(peer).is_closed());
    }
}

#[test]
fn a_request_at_every_cut() {
    let mut lab = Lab::open(&[10]);
    let whole = request(0, 0, 0, 7);
    for at in 0..whole.len() {
        for resets in [false, true] {
            let peer = lab.world.connect(OURS);
            lab.world.peer(peer).send(&whole[..at]);
            lab.world.run_for(Ticks(1));
            if resets {
                lab.world.peer(peer).reset();
            } else {
                lab.world.peer(peer).close();
            }
            lab.world.run_for(Ticks(3));
            assert!(lab.world.peer(peer).take().is_empty());
        }
    }
    assert_eq!(lab.world.node(lab.id).conns(), 1, "the index's");
}

#[test]
fn bad_requests() {
    let mut lab = Lab::open(&[10]);
    let text = |kind: u16, text: &str| {
        let mut out = Vec::new();
        write_text(&mut out, kind, text);
        out
    };
    let hex = sha1(0).to_string();
    let good = request(0, 0, 0, 7);
    let cases = [
        ("", "line 1"),
        ("xyz\n0\n0\n7", "line 1"),
        (&format!("{hex}\n"), "line 2"),
        (&format!("{hex}\n-1\n0\n7"), "line 2"),
        (&format!("{hex}\n0\n1e3\n7"), "line 3"),
        (&format!("{hex}\n0\n0\n"), "line 4"),
        (&format!("{hex}\n0\n0\n-7"), "line 4"),
        (&format!("{hex}\n0\n0\n7\nmore"), "line 5"),
        ("../../etc/passwd\n0\n0\n7", "line 1"),
    ];
    for (payload, names) in cases {
        let got = lab.ask(&[text(8, payload), good.clone()].concat());
        let ko = Frame::parse(&got).unwrap();
        assert_eq!(ko.kind, 208, "{payload:?}");
        assert!(ko.text().unwrap().starts_with(names), "{payload:?}: {ko:?}");
        assert_eq!(
            got[ko.len()..],
            ok(10, 0, &noise(10)),
            "the connection goes on"
        );
    }
    let not_utf8 = [&[4, 0, 8, 0][..], b"\xff\xfe\n0"].concat();
    assert_eq!(Frame::parse(&lab.ask(&not_utf8)).unwrap().kind, 208);
    // Other types: a KO of their number where there is one.
    for (kind, ko) in [
        (0, 200),
        (1, 201),
        (4, 203),
        (7, 207),
        (11, 211),
        (65_335, 65_535),
    ] {
        let got = lab.ask(&[text(kind, "x"), good.clone()].concat());
        let frame = Frame::parse(&got).unwrap();
        assert_eq!(frame.kind, ko);
        assert_eq!(got[frame.len()..], ok(10, 0, &noise(10)));
    }
    assert!(lab.ask(&text(65_336, "x")).is_empty());
    // What is longer than a request is not waited for.
    let long = lab.ask(&[0xff, 0xff, 8, 0]);
    assert_eq!(Frame::parse(&long).unwrap().kind, 208);
    assert!(lab.ask(b"GET / HTTP/1.1\r\n\r\n").len() < 300);
}

#[test]
fn a_file_that_changes() {
    let big = 20 * CHUNK_BYTES as usize;
    let mut lab = Lab::open(&[big]);
    let whole = lab.disk.0.lock().unwrap()[0].take();
    let changed = ko(208, "the file has changed and is not announced again yet");
    assert_eq!(lab.ask(&request(0, 0, 0, 7)), changed);
    lab.disk.0.lock().unwrap()[0] = whole;
    // In the middle: the receiver gets too few bytes, and no wrong ones.
    let peer = lab.world.connect(OURS);
    lab.world.peer(peer).send(&request(0, 0, 0, 7));
    lab.world
        .until(SECOND, |w| w.peer(peer).received().len() > 100_000);
    lab.disk.0.lock().unwrap()[0] = None;
    lab.world.until(SECOND, |w| w.peer(peer).is_closed());
    let got = lab.world.peer(peer).take();
    let expected = ok(big as u64, 0, &noise(big));
    assert!(got.len() < expected.len() && expected.starts_with(&got));
}

#[test]
fn a_file_that_is_not_shared_any_more() {
    let mut lab = Lab::open(&[10, 20]);
    lab.world.with(lab.id, |sharer, hub| {
        sharer.share(hub, Files::new(vec![shared(1, 20)]))
    });
    let unknown = ko(208, "no file with this SHA-1 is shared here");
    assert_eq!(lab.ask(&request(0, 0, 0, 7)), unknown);
    assert_eq!(lab.ask(&request(1, 0, 0, 7)), ok(20, 0, &noise(20)));
}

#[test]
fn a_reader_that_stops_holds_two_chunks_and_a_slot_not_for_ever() {
    let big = 40 * CHUNK_BYTES as usize;
    let mut lab = Lab::new(1, true, 2, &[big, 10]);
    let slow: Vec<Script> = (0..2)
        .map(|_| {
            let peer = lab.world.connect(OURS);
            lab.world.peer(peer).stop_reading();
            lab.world.peer(peer).send(&request(0, 0, 0, 7));
            peer
        })
        .collect();
    lab.world.run_for(SECOND);
    let sent = lab.world.node(lab.id).stats().bytes_out;
    assert!(sent < 4 * 65_536 * 2, "no more than the windows: {sent}");
    let waits = lab.world.connect(OURS);
    lab.world.peer(waits).send(&request(1, 0, 0, 7));
    lab.world.run_for(SECOND);
    assert!(
        lab.world.peer(waits).received().is_empty(),
        "no slot is free"
    );
    let answer = ok(10, 0, &noise(10));
    lab.world
        .until(Ticks::from_secs(40), |w| w.peer(waits).received() == answer);
    for peer in slow {
        lab.world.peer(peer).close();
    }
    lab.world.run_for(SECOND);
    assert!(lab.ask(&request(0, 0, 0, 7)) == ok(big as u64, 0, &noise(big)));
}

#[test]
fn long_requests_take_turns() {
    // One slot, and more than one turn's bytes each.
    let big = 80 * CHUNK_BYTES as usize;
    let mut lab = Lab::new(1, true, 1, &[big]);
    let peers: Vec<Script> = (0..3)
        .map(|_| {
            let peer = lab.world.connect(OURS);
            lab.world.peer(peer).send(&request(0, 0, 0, 7));
            peer
        })
        .collect();
    let expected = ok(big as u64, 0, &noise(big)).len();
    let mut first_done = None;
    lab.world.until(Ticks::from_secs(60), |w| {
        let got: Vec<usize> = peers.iter().map(|p| w.peer(*p).received().len()).collect();
        if first_done.is_none() && got.contains(&expected) {
            first_done = Some(got.clone());
        }
        got.iter().all(|got| *got == expected)
    });
    let at_first = first_done.unwrap();
    assert!(
        at_first.iter().all(|got| *got > expected / 2),
        "{at_first:?}"
    );
}

#[test]
fn whatever_the_network_does_the_bytes_are_right_and_nothing_is_left() {
    for seed in crate::sim::seeds(100) {
        crate::sim::check(seed, || {
            let sizes = [10, 3000, 2 * CHUNK_BYTES as usize + 9];
            let mut lab = Lab::new(seed, true, 1 + seed as usize % 3, &sizes);
            let faults = World::<Sharer<usize>>::swarm(seed).faults().clone();
            // Byte by byte, a big file is a million events; small ones are as good.
            let tiny = faults.split > 0.0 || faults.window_bytes < 4096 || faults.short_read > 0.0;
            lab.world.set_faults(faults);
            let mut peers = Vec::new();
            for n in 0..8 {
                let (mut requests, mut expected) = (Vec::new(), Vec::new());
                for m in 0..3 {
                    let file = (n + m) % if tiny { 2 } else { 3 };
                    let content = noise(sizes[file]);
                    let from = content.len() / 3 * m;
                    requests.extend(request(file, from as u64, 0, 7));
                    expected.extend(ok(content.len() as u64, from as u64, &content[from..]));
                }
                let peer = lab.world.connect(OURS);
                lab.world.peer(peer).send(&requests);
                peers.push((peer, expected));
            }
            lab.world.run_for(Ticks::from_secs(3));
            lab.world.heal();
            lab.world.run_for(Ticks::from_secs(100));
            for (peer, expected) in &peers {
                let mut end = lab.world.peer(*peer);
                let got = end.take();
                assert!(expected.starts_with(&got), "wrong bytes");
                end.close();
            }
            lab.world.run_for(Ticks::from_secs(5));
            let sharer = lab.world.service(lab.id);
            assert!(!sharer.slots.someone_waits());
            assert!(lab.world.node(lab.id).conns() <= 1, "only the index's");
            assert!(lab.ask(&request(0, 0, 0, 7)) == ok(10, 0, &noise(10)));
        });
    }
}

#[test]
fn who_takes_what_is_sent_keeps_the_connection_however_long() {
    // One slot, two peers that read 64 KiB every 300 ms and ask for range after range: the first has been
    // served for a while when the second comes, and then they take turns.
    let range = 4 * CHUNK_BYTES as usize;
    let mut lab = Lab::new(1, true, 1, &[range]);
    let expected = ok(range as u64, 0, &noise(range)).len();
    let peers: Vec<Script> = (0..2).map(|_| lab.world.connect(OURS)).collect();
    let mut got = [0, 0];
    for round in 0..500 {
        for (peer, at) in peers.iter().zip([0, 130]) {
            if round == at {
                lab.world.peer(*peer).stop_reading();
                lab.world.peer(*peer).send(&request(0, 0, 0, 7));
            }
        }
        lab.world.run_for(Ticks::from_millis(300));
        for (peer, got) in peers.iter().zip(&mut got) {
            let mut peer = lab.world.peer(*peer);
            assert!(!peer.is_closed(), "{got} bytes were taken");
            peer.read_again();
            peer.stop_reading();
            let before = *got / expected;
            *got += peer.take().len();
            if *got / expected > before {
                peer.send(&request(0, 0, 0, 7));
            }
        }
    }
    assert!(got.iter().all(|got| *got > 5 * expected), "{got:?}");
}

//! A fetcher in the simulator, with scripted holders that answer, lie, dawdle, break off and talk nonsense.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;

use sha1::Digest;

use crate::engine::Work;
use crate::proto::index::exchange::Credentials;
use crate::proto::index::fields::{FileLine, PeerId, Sha1};
use crate::proto::index::reply::{Sending, hit_label, write_hit};
use crate::proto::index::sharer::NOT_ONLINE;
use crate::proto::index::transfer::plan::Stored;
use crate::proto::index::wire::{Frame, FrameOut, Kind, Range, Request, write_ko, write_text};
use crate::sim::{Answer as Dialled, Faults, ListenerId, NodeId, PeerId as Script, Span, World};

use super::*;

mod bad;
mod index;
mod more;

use index::Index;

const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 9));
const OURS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 99), 1));
/// Nobody is dialled again and again.
const DIALS_MAX: usize = 30;

const TOO_LONG: Ticks = Ticks::from_secs(400);

fn addr(holder: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 1, holder as u8), 4000).into()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// What a holder does with a request.
#[derive(Debug, Clone, PartialEq)]
enum Nature {
    Honest,
    /// Flips a bit of what it sends.
    Liar,
    /// Closes after so many ranges.
    Dies(usize),
    /// Accepts, and answers nothing.
    Silent,
    /// Accepts, and closes.
    Closes,
    /// Sends so many bytes a tick.
    Slow(usize),
    /// Refuses every dial, or lets it hang.
    Dead(Dialled),
    Refuses(&'static str),
    /// Wants one login more before each range.
    Gates,
    /// Sends these bytes instead of an answer.
    Says(Vec<u8>),
    /// Sends the answer in two pieces, and closes between them if told so.
    Splits(usize, bool),
    /// Says that the file has so many bytes.
    Size(u64),
    /// Answers with a range that begins there.
    Offset(u64),
}

struct Holder {
    listener: ListenerId,
    nature: Nature,
    lines: Vec<Line>,
    sent: usize,
}

struct Line {
    peer: Script,
    heard: Vec<u8>,
    unsaid: Vec<u8>,
}

/// A disk that holds one file, or fails.
#[derive(Clone)]
struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ranges: Vec<Option<Vec<u8>>>,
    sha1: [u8; 20],
    finished: bool,
    /// Stores after which the disk is full.
    full_after: Option<usize>,
}

impl Work for Disk {
    type Job = Job;
    type Done = Done;

    fn run(&mut self, jobs: &mut Vec<Job>, done: &mut Vec<Done>) {
        let mut state = self.state.lock().unwrap();
        for job in jobs.drain(..) {
            done.push(match job {
                Job::Store {
                    holder,
                    range,
                    bytes,
                } => {
                    let result = match state.full_after.as_mut() {
                        Some(0) => Err(DiskFault("full".into())),
                        full => {
                            full.into_iter().for_each(|left| *left -= 1);
                            Ok(match &state.ranges[range] {
                                None => Stored::New,
                                Some(before) if *before == bytes => Stored::Same,
                                Some(_) => Stored::Differs,
                            })
                        }
                    };
                    state.ranges[range] = Some(bytes.clone());
                    Done::Stored {
                        holder,
                        range,
                        bytes,
                        result,
                    }
                }
                Job::Check => {
                    let mut whole = sha1::Sha1::new();
                    let all = state.ranges.iter().map(|range| range.as_ref().unwrap());
                    all.for_each(|range| whole.update(range));
                    let digest: [u8; 20] = whole.finalize().into();
                    Done::Checked(Ok(Some(digest == state.sha1)))
                }
                Job::Finish => {
                    state.finished = true;
                    Done::Finished(Ok(()))
                }
            });
        }
    }
}

struct Lab {
    world: World<Fetcher>,
    id: NodeId,
    disk: Disk,
    content: Vec<u8>,
    holders: Vec<Holder>,
    full_after: Option<usize>,
    /// A dead holder is there again, and honest, after so long.
    back_after: Option<(usize, Ticks)>,
    index: Index,
}

impl Lab {
    fn new(seed: u64, bytes: usize, natures: &[Nature]) -> Lab {
        Lab::resumed(seed, bytes, natures, &[])
    }

    /// With some ranges from an earlier run.
    fn resumed(seed: u64, bytes: usize, natures: &[Nature], have: &[usize]) -> Lab {
        let content = content(bytes);
        let sha1: [u8; 20] = sha1::Sha1::digest(&content).into();
        let chunks = content.chunks(RANGE_BYTES as usize).enumerate();
        let left = |(n, chunk): (usize, &[u8])| have.contains(&n).then(|| chunk.to_vec());
        let ranges: Vec<Option<Vec<u8>>> = chunks.map(left).collect();
        let have: Vec<bool> = ranges.iter().map(Option::is_some).collect();
        let sources = (0..natures.len()).map(|n| Source {
            addr: addr(n),
            id: PeerId::from_bits(100 + n as u64),
        });
        let wanted = Wanted {
            sha1: Sha1(sha1),
            size_bytes: bytes as u64,
            requester: PeerId::from_bits(7),
            sources: sources.collect(),
        };
        let mut world = World::new(seed);
        let fetcher = Fetcher::new(
            wanted,
            &have,
            (SERVER, Patience::default()),
            None,
            Arc::default(),
        );
        let index = Index::new(world.listen(SERVER));
        let id = world.add(OURS, fetcher, limits(Limits::default()));
        let state = State {
            ranges,
            sha1,
            ..State::default()
        };
        let disk = Disk {
            state: Arc::new(Mutex::new(state)),
        };
        world.set_worker(id, disk.clone(), Span::us(10, 300));
        let holders = natures.iter().enumerate().map(|(n, nature)| {
            let listener = world.listen(addr(n));
            if let Nature::Dead(how) = nature {
                world.answer(listener, *how);
            }
            Holder {
                listener,
                nature: nature.clone(),
                lines: Vec::new(),
                sent: 0,
            }
        });
        Lab {
            holders: holders.collect(),
            id,
            disk,
            content,
            full_after: None,
            back_after: None,
            index,
            world,
        }
    }

    /// Runs to the end of the fetcher.
    #[track_caller]
    fn run(mut self) -> Report {
        self.disk.state.lock().unwrap().full_after = self.full_after;
        let began = self.world.now();
        while self.world.is_up(self.id) {
            self.world.run_for(Ticks(1));
            self.serve();
            self.serve_index();
            if let Some((holder, after)) = self.back_after
                && self.world.now() - began >= after
            {
                let listener = self.holders[holder].listener;
                self.world.answer(listener, Dialled::Queue);
                (self.holders[holder].nature, self.back_after) = (Nature::Honest, None);
            }
            let seed = self.world.seed();
            assert!(
                self.world.now() - began < TOO_LONG,
                "seed {seed} ends some day"
            );
        }
        for holder in &self.holders {
            let dials = holder.lines.len();
            assert!(dials <= DIALS_MAX, "{dials} dials of {:?}", holder.nature);
        }
        let state = self.disk.state.lock().unwrap();
        let whole: Vec<u8> = state.ranges.iter().flatten().flatten().copied().collect();
        let nobody = Wanted {
            sha1: Sha1(state.sha1),
            size_bytes: 0,
            requester: PeerId::from_bits(7),
            sources: Vec::new(),
        };
        let none = Fetcher::new(
            nobody,
            &[],
            (SERVER, Patience::default()),
            None,
            Arc::default(),
        );
        let report = self.world.restart(self.id, none).into_report();
        assert_eq!(report.result.is_ok(), state.finished);
        assert!(!state.finished || whole == self.content, "the right bytes");
        report
    }

    fn serve(&mut self) {
        for holder in &mut self.holders {
            while let Some(peer) = self.world.accept(holder.listener) {
                if holder.nature == Nature::Closes {
                    self.world.peer(peer).close();
                }
                holder.lines.push(Line {
                    peer,
                    heard: Vec::new(),
                    unsaid: Vec::new(),
                });
            }
            for line in &mut holder.lines {
                let mut peer = self.world.peer(line.peer);
                line.heard.extend(peer.take());
                while let Some(frame) = Frame::parse(&line.heard) {
                    let request = Request::parse(Kind::Download, frame);
                    let len = frame.len();
                    let Ok(Request::Download { range, .. }) = request else {
                        panic!("no request: {request:?}");
                    };
                    line.heard.drain(..len);
                    let answer = answer(&holder.nature, &self.content, range);
                    match &holder.nature {
                        Nature::Gates if self.index.logins < holder.sent + 1 => {
                            let mut ko = Vec::new();
                            write_ko(&mut ko, Kind::Download.ko(), NOT_ONLINE);
                            peer.send(&ko);
                            continue;
                        }
                        Nature::Dies(after) if holder.sent >= *after => {
                            // In the middle of a range.
                            peer.send(&answer[..answer.len() / 2]);
                            peer.close();
                        }
                        Nature::Splits(at, closes) => {
                            let at = (*at).min(answer.len());
                            peer.send(&answer[..at]);
                            if *closes {
                                peer.close();
                            } else {
                                line.unsaid.extend(&answer[at..]);
                            }
                        }
                        Nature::Slow(_) => line.unsaid.extend(answer),
                        _ => peer.send(&answer),
                    }
                    holder.sent += 1;
                }
                let pace = match holder.nature {
                    Nature::Slow(pace) => pace,
                    _ => usize::MAX,
                };
                let now = pace.min(line.unsaid.len());
                peer.send(&line.unsaid.drain(..now).collect::<Vec<u8>>());
            }
        }
    }
}

fn answer(nature: &Nature, content: &[u8], range: Range) -> Vec<u8> {
    let mut out = Vec::new();
    let (from, len) = (range.offset as usize, range.length as usize);
    let mut sending = Sending {
        total_bytes: content.len() as u64,
        offset: range.offset,
        length: range.length,
    };
    match nature {
        Nature::Silent => return out,
        Nature::Refuses(why) => {
            write_ko(&mut out, Kind::Download.ko(), why);
            return out;
        }
        Nature::Says(bytes) => return bytes.clone(),
        Nature::Size(bytes) => sending.total_bytes = *bytes,
        Nature::Offset(offset) => sending.offset = *offset,
        _ => {}
    }
    sending.write(&mut out);
    let header = out.len();
    out.extend_from_slice(&content[from..from + len]);
    if *nature == Nature::Liar {
        out[header + len / 2] ^= 1;
    }
    out
}

const MIB: usize = RANGE_BYTES as usize;

fn dropped(report: &Report) -> Vec<Option<&Why>> {
    report.holders.iter().map(|h| h.dropped.as_ref()).collect()
}

#[test]
fn from_one_holder() {
    for bytes in [0, 1, 100, MIB - 1, MIB, MIB + 1, 5 * MIB + 77] {
        let report = Lab::new(1, bytes, &[Nature::Honest]).run();
        assert_eq!(report.result, Ok(()));
        assert_eq!(report.received_bytes, bytes as u64);
        assert_eq!(report.holders[0].ranges, bytes.div_ceil(MIB) as u64);
        assert_eq!(dropped(&report), [None]);
    }
}

#[test]
fn from_several_at_once() {
    let report = Lab::new(
        2,
        12 * MIB,
        &[Nature::Honest, Nature::Honest, Nature::Honest],
    )
    .run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(report.received_bytes, 12 * MIB as u64, "nothing twice");
    for holder in &report.holders {
        assert!(holder.ranges >= 2, "{report:?}");
    }
}

#[test]
fn the_answer_at_every_split() {
    let bytes = 60;
    for at in 0..=bytes + 20 {
        let report = Lab::new(3, bytes, &[Nature::Splits(at, false)]).run();
        assert_eq!(report.result, Ok(()), "split at {at}");
    }
}

#[test]
fn the_answer_at_every_cut() {
    let bytes = 60;
    let whole = answer(
        &Nature::Honest,
        &content(bytes),
        Range {
            sha1: Sha1([0; 20]),
            offset: 0,
            length: bytes as u64,
        },
    );
    for at in 0..whole.len() {
        let natures = [Nature::Splits(at, true), Nature::Honest];
        let report = Lab::new(4, bytes, &natures).run();
        assert_eq!(report.result, Ok(()), "cut at {at}");
        let alone = Lab::new(4, bytes, &natures[..1]).run();
        assert_eq!(alone.result, Err(Failure::NoHolder), "cut at {at}");
        assert!(matches!(dropped(&alone)[0], Some(Why::Gone(_))));
    }
}

#[test]
fn four_holders_of_which_one_lies_one_dies_and_one_is_slow() {
    for seed in crate::sim::seeds(4) {
        crate::sim::check(seed, || {
            let natures = [
                Nature::Honest,
                Nature::Liar,
                Nature::Dies(1),
                Nature::Slow(2000),
            ];
            let turn = seed as usize % 4;
            let at = |n: usize| (n + turn) % 4;
            let turned: Vec<Nature> = (0..4).map(|n| natures[at(n)].clone()).collect();
            let report = Lab::new(seed, 8 * MIB, &turned).run();
            assert_eq!(report.result, Ok(()), "{report:?}");
            for (n, deeds) in report.holders.iter().enumerate() {
                let why = deeds.dropped.as_ref();
                match at(n) {
                    0 => assert_eq!(why, None),
                    1 => assert_eq!(why, Some(&Why::WrongBytes)),
                    // It may be asked again and again, as long as it sends a range each time.
                    2 => assert!(matches!(why, None | Some(Why::Gone(_))), "{why:?}"),
                    _ => assert_eq!(why, Some(&Why::Slow)),
                }
            }
        });
    }
}

#[test]
fn who_is_slow_is_asked_when_nobody_else_is_left() {
    let report = Lab::new(6, 3 * MIB, &[Nature::Slow(30_000), Nature::Dies(1)]).run();
    assert_eq!(report.result, Ok(()));
    let report = Lab::new(6, 3 * MIB, &[Nature::Slow(30_000), Nature::Liar]).run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(dropped(&report)[1], Some(&Why::WrongBytes));
}

#[test]
fn who_closes_at_once_is_not_dialled_at_once_again() {
    let natures = [Nature::Slow(2000), Nature::Closes];
    for seed in 0..4 {
        let report = Lab::new(seed, MIB, &natures).run();
        assert_eq!(report.result, Ok(()));
    }
}

#[test]
fn what_an_earlier_run_left_is_not_fetched() {
    let report = Lab::resumed(7, 4 * MIB, &[Nature::Honest], &[0, 2]).run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(report.received_bytes, 2 * MIB as u64);
    assert_eq!(report.resumed_bytes, 2 * MIB as u64);
    let report = Lab::resumed(7, 2 * MIB, &[Nature::Honest], &[0, 1]).run();
    assert_eq!((report.result, report.received_bytes), (Ok(()), 0));
}

#[test]
fn what_an_earlier_run_left_wrong_is_fetched_anew() {
    let lab = Lab::resumed(7, 4 * MIB, &[Nature::Honest, Nature::Honest], &[0, 2]);
    lab.disk.state.lock().unwrap().ranges[2].as_mut().unwrap()[5] ^= 1;
    let report = lab.run();
    assert_eq!(report.result, Ok(()));
    assert_eq!(dropped(&report), [None, None], "nobody is to blame");
}

#[test]
fn a_full_disk_ends_it() {
    let mut lab = Lab::new(8, 6 * MIB, &[Nature::Honest]);
    lab.full_after = Some(2);
    let fault = DiskFault("full".into());
    assert_eq!(lab.run().result, Err(Failure::Disk(fault)));
}

/// What a holder leaves unfinished is given back with it, however many there are.
#[test]
fn holders_that_break_off_leave_no_memory_behind() {
    let holders = 24;
    let mut lab = Lab::new(8, holders * MIB, &vec![Nature::Dies(0); holders]);
    for _ in 0..2000 {
        lab.world.run_for(Ticks(1));
        lab.serve();
    }
    let fetcher = lab.world.service(lab.id);
    let tried = fetcher.holders.iter().filter(|h| h.losses > 0).count();
    assert!(tried > AT_ONCE_MAX + STORES_MAX, "{tried}");
    let receiving = fetcher.holders.iter().map(|h| &h.bytes);
    let held: usize = receiving.chain(&fetcher.spare).map(Vec::capacity).sum();
    assert!(held <= (AT_ONCE_MAX + STORES_MAX) * MIB, "{held}");
}

/// Without a timer nothing would ever dial a lost holder again.
#[test]
fn a_download_that_cannot_be_timed_ends() {
    let mut world = World::new(1);
    let _listener = world.listen(addr(0));
    let wanted = Wanted {
        sha1: Sha1([0; 20]),
        size_bytes: 1,
        requester: PeerId::from_bits(7),
        sources: vec![Source {
            addr: addr(0),
            id: PeerId::from_bits(100),
        }],
    };
    let server = (SERVER, Patience::default());
    let fetcher = Fetcher::new(wanted, &[false], server, None, Arc::default());
    let limits = Limits {
        timers_max: 0,
        ..limits(Limits::default())
    };
    let id = world.add(OURS, fetcher, limits);
    world.run_for(Ticks::from_secs(100));
    assert!(!world.is_up(id));
}

#[test]
fn an_interrupt_ends_it() {
    let mut lab = Lab::new(8, MIB, &[Nature::Silent]);
    lab.world.run_for(Ticks(50));
    lab.world.shutdown(lab.id);
    lab.world.run_for(Ticks::from_secs(4));
    assert!(!lab.world.is_up(lab.id));
}

#[test]
fn whatever_the_network_does_it_ends_and_the_bytes_are_right() {
    for seed in crate::sim::seeds(24) {
        crate::sim::check(seed, || {
            let kinds = [
                Nature::Honest,
                Nature::Liar,
                Nature::Dies(1),
                Nature::Silent,
                Nature::Dead(Dialled::Refuse),
                Nature::Refuses("no"),
            ];
            let pick = |n: u64| kinds[(seed / 7 + n * (1 + seed % 5)) as usize % 6].clone();
            let natures: Vec<Nature> = (0..1 + seed % 4).map(pick).collect();
            let honest = natures.contains(&Nature::Honest);
            let mut lab = Lab::new(seed, MIB + 500, &natures);
            // What breaks connections may drop everybody; what only slows and cuts up may not.
            let rough = seed.is_multiple_of(2);
            lab.world.set_faults(Faults {
                window_bytes: 65_536,
                split: 0.02,
                turn_delay: Span::us(1, 200),
                short_read: 0.1,
                short_write: 0.1,
                stale: 0.5,
                reset: if rough { 0.2 } else { 0.0 },
                cut_bytes_max: 300_000,
                refuse: if rough { 0.2 } else { 0.0 },
                ..Faults::none()
            });
            let report = lab.run();
            if honest && !rough {
                assert_eq!(report.result, Ok(()), "{natures:?}");
            }
        });
    }
}

//! `peerloop index download`: one file, from all online peers that have it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::Reactor;
use peerloop::proto::index::call::{Answer as Told, Call};
use peerloop::proto::index::client::Stay;
use peerloop::proto::index::fields::{PeerId, Sha1, Which};
use peerloop::proto::index::reply::Hit;
use peerloop::proto::index::transfer::fetch::{
    self, Failure, Fetcher, Progress, Report, Source, Wanted,
};
use peerloop::proto::index::transfer::{RANGE_BYTES, ranges};
use peerloop::store::partial_file::{self, PartialFile};
use peerloop::workers::files::Writer;

use super::ServerAt;
use super::account::register;
use super::credentials::{Identity, UserArgs};
use super::table::size;
use crate::cli::print::escaped;
use crate::cli::prompt::Interrupted;
use crate::cli::{Answer, print};

/// Between two updates of the progress bar.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Hits that are read: far more holders than can be asked.
const HITS_MAX: usize = 1000;

/// Hits that are read to find a name that many others contain: some seconds of a server's time.
const NAMESAKES_MAX: usize = 100_000;

/// SHA-1s that the error of an ambiguous name lists.
const LISTED_MAX: usize = 5;

/// The port of a LOGIN without a listener: "discard".
const NO_PORT: u16 = 9;

const KEEP_ALIVE: Ticks = Ticks::from_secs(300);

#[derive(Args)]
pub(in crate::cli) struct DownloadArgs {
    /// The file's name, or its SHA-1
    wanted: String,
    #[command(flatten)]
    server: ServerAt,
    #[command(flatten)]
    user: UserArgs,
    /// The directory to put it in
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Overwrite a file that has its name
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The `--json` output.
#[derive(Serialize)]
struct Summary {
    path: Option<String>,
    sha1: String,
    size_bytes: u64,
    seconds: f64,
    received_bytes: u64,
    resumed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    holders: Vec<HolderRow>,
}

#[derive(Serialize)]
struct HolderRow {
    at: String,
    id: String,
    ranges: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
}

/// A file and its holders.
struct Found {
    name: String,
    sha1: Sha1,
    /// Holders by the size that they announce, the size with most holders first.
    sources: Vec<(u64, Vec<Source>)>,
}

impl DownloadArgs {
    /// For the prompt: into the current directory.
    pub(super) fn of(wanted: String, server: ServerAt, user: UserArgs) -> DownloadArgs {
        DownloadArgs {
            wanted,
            server,
            user,
            out: PathBuf::from("."),
            force: false,
            json: false,
        }
    }

    pub(super) fn run(self) -> Result<Answer> {
        let Some(found) = self.find()? else {
            eprintln!(
                "peerloop: nobody who is online has {}",
                escaped(&self.wanted)
            );
            return Ok(Answer::No);
        };
        let into = || format!("cannot download into {}", self.out.display());
        partial_file::check_name(&self.out, &found.name, self.force).with_context(into)?;
        let (requester, stay) = self.come_online()?;
        let start = Instant::now();
        let mut last: Option<(Report, u64)> = None;
        // A peer may announce a wrong size. Then the next size is tried.
        for (size_bytes, mut sources) in found.sources {
            sources.retain(|source| source.id != requester);
            let wanted = Wanted {
                sha1: found.sha1,
                size_bytes,
                requester,
                sources,
            };
            let mut report = self.fetch(wanted, &found.name, stay.clone())?;
            if let Some((before, _)) = last.take() {
                report.received_bytes += before.received_bytes;
                report.holders.splice(0..0, before.holders);
            }
            let is_over = report.result != Err(Failure::NoHolder);
            last = Some((report, size_bytes));
            if is_over {
                break;
            }
        }
        let (report, size_bytes) = last.context("nobody announces a size that a file can have")?;
        self.tell(report, &found.name, found.sha1, size_bytes, start.elapsed())
    }

    /// Finds the file and its holders.
    fn find(&self) -> Result<Option<Found>> {
        ensure!(!self.wanted.contains('\n'), "a name has no line breaks");
        let by_sha1 = self.wanted.parse::<Sha1>().ok();
        let mut hits = self.server.search(&self.wanted, HITS_MAX)?;
        let is_meant = |hit: &&Hit| match by_sha1 {
            Some(sha1) => hit.file.sha1 == sha1,
            None => hit.file.name == self.wanted,
        };
        if hits.len() == HITS_MAX && !hits.iter().any(|hit| is_meant(&hit)) {
            hits = self.server.search(&self.wanted, NAMESAKES_MAX)?;
        }
        let meant: Vec<&Hit> = hits.iter().filter(is_meant).collect();
        let Some(first) = meant.first() else {
            return Ok(None);
        };
        let (name, sha1) = (first.file.name.clone(), first.file.sha1);
        let mut others: Vec<Sha1> = meant.iter().map(|hit| hit.file.sha1).collect();
        others.sort_unstable_by_key(|sha1| sha1.0);
        others.dedup();
        if others.len() > 1 {
            let list = others.iter().take(LISTED_MAX).map(Sha1::to_string);
            bail!(
                "{} different files have this name (search lists them); give the SHA-1 of one: {}{}",
                others.len(),
                list.collect::<Vec<_>>().join(" "),
                if others.len() > LISTED_MAX {
                    " ..."
                } else {
                    ""
                }
            );
        }
        // Peers may have it under another name.
        let more = self
            .server
            .search(&sha1.to_string(), HITS_MAX)
            .unwrap_or_default();
        // Announced sizes that are too large for a plan are ignored.
        let is_possible =
            |hit: &&Hit| hit.file.size_bytes.div_ceil(RANGE_BYTES) <= ranges::RANGES_MAX;
        let same = hits.iter().chain(&more).filter(|hit| hit.file.sha1 == sha1);
        let same = same.filter(is_possible);
        let mut by_size: BTreeMap<u64, Vec<Source>> = BTreeMap::new();
        for hit in same {
            let sources = by_size.entry(hit.file.size_bytes).or_default();
            if !sources.iter().any(|source| source.id == hit.id) {
                let addr = std::net::SocketAddr::new(hit.ip, hit.port);
                sources.push(Source { addr, id: hit.id });
            }
        }
        let mut sources: Vec<(u64, Vec<Source>)> = by_size.into_iter().collect();
        sources.sort_by_key(|(_, sources)| std::cmp::Reverse(sources.len()));
        Ok(Some(Found {
            name,
            sha1,
            sources,
        }))
    }

    /// The id that holders ask the index about; with a [`Stay`] if the download must keep it online.
    fn come_online(&self) -> Result<(PeerId, Option<Stay>)> {
        let is_guest = self.user.user.is_none();
        let mut identity = if is_guest {
            Identity::guest(self.server.addr, self.user.credentials.clone())?
        } else {
            self.user.identity(self.server.addr)?
        };
        let is_known = match identity.id {
            None => false,
            // The registration may have ended, or the server may have lost its data.
            Some(id) => match self.server.try_ask(Call::Peers {
                which: Which::One(id),
            })? {
                Ok(Told::Peers(peers)) => match peers.iter().find(|peer| peer.id == id) {
                    // The user shares at the moment: a login of ours would replace its port.
                    Some(peer) if peer.online && !is_guest => return Ok((id, None)),
                    peer => peer.is_some(),
                },
                // This server knows no SHOW_PEERS for a single peer; the login will tell.
                _ => true,
            },
        };
        if !is_known {
            register(&self.server, &mut identity)?;
        }
        let id = identity.id.ok_or_else(|| anyhow!("no id was given"))?;
        let stay = Stay {
            who: identity.who(),
            id,
            ip: None,
            port: NO_PORT,
            every: KEEP_ALIVE,
        };
        Ok((id, Some(stay)))
    }

    fn fetch(&self, wanted: Wanted, name: &str, stay: Option<Stay>) -> Result<Report> {
        let size_bytes = wanted.size_bytes;
        let into = || format!("cannot download into {}", self.out.display());
        let part = PartialFile::open(&self.out, wanted.sha1.0, size_bytes, RANGE_BYTES);
        let part = part.with_context(into)?;
        let progress = Arc::new(Progress::default());
        let fetcher = Fetcher::new(
            wanted,
            part.have(),
            (self.server.addr, self.server.patience()),
            stay,
            progress.clone(),
        );
        let limits = fetch::limits(Limits::default());
        let mut reactor = Reactor::new(fetcher, limits)?;
        reactor.start_worker(Writer::new(part, name.to_owned(), self.force))?;
        reactor.catch_signals()?;
        let bar = Bar::start(name, size_bytes, progress)?;
        let result = reactor.run();
        drop(bar);
        result?;
        Ok(reactor.into_service().into_report())
    }

    /// Prints the result.
    fn tell(
        &self,
        report: Report,
        name: &str,
        sha1: Sha1,
        size_bytes: u64,
        took: Duration,
    ) -> Result<Answer> {
        let path = partial_file::safe_name(name).map(|name| self.out.join(name));
        let path = path.map(|path| path.display().to_string());
        let path = path.filter(|_| report.result.is_ok());
        if self.json {
            print::json(&summary(&report, path, sha1, size_bytes, took))?;
        } else {
            print::stdout(told(&report, path, size_bytes, took).as_bytes())?;
        }
        match report.result {
            Ok(()) => Ok(Answer::Yes),
            Err(e @ Failure::NoHolder) => {
                eprintln!("peerloop: {e}");
                Ok(Answer::No)
            }
            Err(Failure::Interrupted) => {
                let kept = "; what is there is kept, and the next download goes on with it";
                Err(Interrupted(kept).into())
            }
            Err(e) => bail!("{}", escaped(&e.to_string())),
        }
    }
}

fn summary(
    report: &Report,
    path: Option<String>,
    sha1: Sha1,
    size_bytes: u64,
    took: Duration,
) -> Summary {
    let row = |deeds: &fetch::Deeds| HolderRow {
        at: deeds.source.addr.to_string(),
        id: deeds.source.id.to_string(),
        ranges: deeds.ranges,
        bytes: deeds.bytes,
        dropped: deeds.dropped.as_ref().map(ToString::to_string),
    };
    Summary {
        path,
        sha1: sha1.to_string(),
        size_bytes,
        seconds: took.as_secs_f64(),
        received_bytes: report.received_bytes,
        resumed_bytes: report.resumed_bytes,
        error: report.result.as_ref().err().map(ToString::to_string),
        holders: report.holders.iter().map(row).collect(),
    }
}

/// The result as text; the first line is the path of the file.
fn told(report: &Report, path: Option<String>, size_bytes: u64, took: Duration) -> String {
    let mut text = String::new();
    if let Some(path) = path {
        let rate = report.received_bytes as f64 / took.as_secs_f64();
        let (bytes, rate) = (size(size_bytes), size(rate as u64));
        let path = escaped(&path);
        text += &format!("{path}\n{bytes} in {:.2} s, {rate}/s", took.as_secs_f64());
        if report.resumed_bytes > 0 {
            let resumed = size(report.resumed_bytes);
            text += &format!(", {resumed} were there already");
        }
        text.push('\n');
    }
    for deeds in &report.holders {
        let (addr, bytes) = (deeds.source.addr, size(deeds.bytes));
        if deeds.bytes > 0 {
            text += &format!("{bytes} from {addr}\n");
        }
        if let Some(why) = &deeds.dropped {
            text += &format!("dropped {addr}: {}\n", escaped(&why.to_string()));
        }
    }
    text
}

/// A progress bar with rate and time left, on stderr if that is a terminal.
pub(super) fn byte_bar(what: &str, total_bytes: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    print::bar(template, total_bytes).with_message(escaped(what))
}

/// A progress bar on a thread of its own, until it is dropped.
struct Bar {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bar {
    fn start(what: &str, total_bytes: u64, progress: Arc<Progress>) -> Result<Bar> {
        let over = Arc::new(AtomicBool::new(false));
        let (bar, until) = (byte_bar(what, total_bytes), over.clone());
        // The rate does not count what an earlier run has left.
        bar.set_position(progress.have_bytes.load(Ordering::Relaxed));
        bar.reset_eta();
        let show = move || {
            while !until.load(Ordering::Relaxed) {
                bar.set_position(progress.have_bytes.load(Ordering::Relaxed));
                std::thread::park_timeout(LOOK_EVERY);
            }
            bar.finish_and_clear();
        };
        let thread = std::thread::Builder::new().name("bar".into()).spawn(show)?;
        Ok(Bar {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the bar is ignored.
            let _ = thread.join();
        }
    }
}

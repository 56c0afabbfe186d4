//! `peerloop index share`: announces and serves the files of a directory until it is stopped.
//!
//! The reactor runs the [`Sharer`] on the main thread. A second thread, the [`Keeper`], rescans the directory and prints
//! and saves the news.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Caller, Reactor};
use peerloop::proto::index::fields::{Sha1, check_name};
use peerloop::proto::index::reply::Listed;
use peerloop::proto::index::sharer::{Config, Files, NEWS_MAX, News, Shared, Sharer};
use peerloop::proto::index::transfer::serve;
use peerloop::store::shared_dir::{FILES_MAX, Hashing, Scan, SharedDir, SharedFile};
use peerloop::workers::files::Reader;

use super::ServerAt;
use super::credentials::{Identity, UserArgs};
use super::download::byte_bar;
use crate::cli::addr::{bind, serve};
use crate::cli::options::within;
use crate::cli::print::escaped;
use crate::cli::{Answer, print};

/// Hashing that takes longer than this shows a progress bar.
const BAR_AFTER: Duration = Duration::from_secs(1);

/// At the end, saving the last news (an id, perhaps) may take this long: a disk that hangs is not waited for.
const KEEPER_ENDS: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(in crate::cli) struct ShareArgs {
    /// The directory; its files and those in folders below, but nothing hidden, no links, and nothing with several hard links
    dir: PathBuf,
    #[command(flatten)]
    server: ServerAt,
    #[command(flatten)]
    user: UserArgs,
    /// Where to listen for peers; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The address to be listed under [default: the one that the server sees us come from]
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// Look for changes in the directory this often
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86400))]
    rescan: u64,
    /// Tell the server this often that we are there
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    keep_alive: u64,
    /// Serve everybody, not only peers that are online at the index
    #[arg(long)]
    open: bool,
    /// Peers that are sent to at once; the others wait for their turn
    #[arg(long, value_name = "N", default_value_t = serve::SLOTS_MAX, value_parser = within::<usize>(1..=65_536))]
    uploads: usize,
    /// Most connections at once; the file limit less 32 when that is lower
    #[arg(long, value_name = "N", default_value_t = 15_000, value_parser = within::<usize>(1..=1_000_000))]
    connections_max: usize,
    /// Print what happens, after the first line, as one JSON object a line
    #[arg(long)]
    json: bool,
}

/// The `--json` output.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Registered { id: String, files: usize },
    Online { id: String },
    Trouble { why: String },
}

type Sharing = Sharer<Arc<SharedFile>>;

impl ShareArgs {
    pub(super) fn run(self) -> Result<Answer> {
        let identity = self.user.identity(self.server.addr)?;
        let shown = self.dir.display().to_string();
        let context = || format!("cannot share {shown}");
        let dir = Arc::new(SharedDir::open(&self.dir).with_context(context)?);
        let bound = bind(self.listen)?;
        let scan = first_scan(&dir).with_context(context)?;
        let (tell, news) = sync_channel(NEWS_MAX);
        let config = Config {
            server: self.server.addr,
            who: identity.who(),
            id: identity.id,
            ip: self.ip,
            port: bound.addr().port(),
            keep_alive: Ticks::from_secs(self.keep_alive),
            open: self.open,
            slots: self.uploads,
        };
        let limits = serve::limits(Limits {
            conns_max: self.connections_max,
            ..Limits::default()
        });
        let mut reactor = Reactor::new(Sharer::new(config, tell), limits)?;
        reactor.start_worker(Reader::new(dir.clone()))?;
        serve(&mut reactor, bound)?;
        let files = shared(&scan.files);
        reactor.node().with(|sharer, hub| sharer.share(hub, files));
        let keeper = Keeper {
            dir,
            caller: reactor.caller(),
            count: scan.files.len(),
            files: scan.files,
            is_full: scan.is_full,
            is_gone: false,
            identity,
            json: self.json,
        };
        let rescan = Duration::from_secs(self.rescan);
        let (over, is_over) = channel::<()>();
        std::thread::Builder::new()
            .name("rescan".into())
            .spawn(move || {
                keeper.run(&news, rescan);
                drop(over);
            })?;
        reactor.run()?;
        let sharer = reactor.into_service();
        let refused = sharer.refused().map(str::to_owned);
        // Ends the news, and with them the keeper.
        drop(sharer);
        let _ = is_over.recv_timeout(KEEPER_ENDS);
        if let Some(why) = refused {
            bail!("the index server does not let us in: {why}");
        }
        Ok(Answer::Yes)
    }
}

/// Does what may block: scans, the file of credentials, printing.
struct Keeper {
    dir: Arc<SharedDir>,
    caller: Caller<Sharing>,
    files: Vec<Arc<SharedFile>>,
    /// Number of files, also while they are being scanned.
    count: usize,
    /// The last warnings: too many files; the directory is gone.
    is_full: bool,
    is_gone: bool,
    identity: Identity,
    json: bool,
}

impl Keeper {
    fn run(mut self, news: &Receiver<News>, rescan: Duration) {
        let mut next = Instant::now() + rescan;
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(news) => self.tell(news),
                Err(RecvTimeoutError::Timeout) => {
                    self.rescan(news);
                    next = Instant::now() + rescan;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Handles the news so far; false when there will be no more.
    fn catch_up(&mut self, news: &Receiver<News>) -> bool {
        loop {
            match news.try_recv() {
                Ok(news) => self.tell(news),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn tell(&mut self, news: News) {
        let event = match news {
            News::Registered(id) => {
                if self.identity.id.replace(id) != Some(id)
                    && let Err(e) = self.identity.save()
                {
                    log::warn!("{e:#}");
                }
                let files = self.count;
                log::info!("registered as {id} with {files} files");
                Event::Registered {
                    id: id.to_string(),
                    files,
                }
            }
            News::Online(id) => {
                log::info!("online as {id}");
                Event::Online { id: id.to_string() }
            }
            News::Trouble(why) => {
                log::warn!("{}", escaped(&why));
                Event::Trouble { why }
            }
            // The process ends with it as its error.
            News::Refused(_) => return,
        };
        // The reader of stdout may be gone.
        let _ = match (&event, self.json) {
            (event, true) => print::json(event),
            (Event::Online { id }, false) => print::stdout(format!("online {id}\n").as_bytes()),
            (_, false) => Ok(()),
        };
    }

    /// Scans the directory and shares what has changed.
    fn rescan(&mut self, news: &Receiver<News>) {
        let (dir, files) = (self.dir.clone(), std::mem::take(&mut self.files));
        // Hashing may take long. News are handled meanwhile, and the end of the process ends it.
        let result = dir.scan(&files, &mut |_| self.catch_up(news));
        self.files = files;
        let scan = match result {
            Ok(scan) => scan,
            Err(e) => return self.cannot_scan(&e),
        };
        if scan.is_full && !std::mem::replace(&mut self.is_full, scan.is_full) {
            warn_full();
        }
        let was_gone = std::mem::take(&mut self.is_gone);
        if scan.files == self.files && !was_gone {
            return;
        }
        log::info!("{} files, {} of them new", scan.files.len(), scan.hashed);
        (self.count, self.files) = (scan.files.len(), scan.files);
        save(&self.dir, &self.files);
        self.share(shared(&self.files));
    }

    /// Shares nothing while the directory is gone. Its hashes are kept until it is back.
    fn cannot_scan(&mut self, e: &std::io::Error) {
        match e.kind() {
            // The process ends.
            ErrorKind::Interrupted => {}
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                if !std::mem::replace(&mut self.is_gone, true) {
                    log::warn!("the shared directory is gone: nothing is shared until it is back");
                    self.share(Files::new(Vec::new()));
                }
            }
            _ => log::warn!("cannot read the shared directory: {e}"),
        }
    }

    fn share(&self, files: Files<Arc<SharedFile>>) {
        // If the sharer is gone, the news end as well.
        let _ = self
            .caller
            .call(move |sharer, hub| sharer.share(hub, files));
    }
}

fn warn_full() {
    log::warn!("there are more than {FILES_MAX} files: the rest of them is not shared");
}

/// The first scan, with a progress bar if it takes long.
fn first_scan(dir: &SharedDir) -> Result<Scan> {
    let start = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let scan = dir.scan(&dir.saved(), &mut |hashing: Hashing| {
        if bar.is_none() && start.elapsed() > BAR_AFTER {
            bar = Some(byte_bar("hashing", hashing.total_bytes));
        }
        if let Some(bar) = &bar {
            bar.set_position(hashing.done_bytes);
        }
        true
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let scan = scan?;
    for (path, why) in &scan.skipped {
        log::warn!("{} is not shared: {why}", escaped(path));
    }
    if scan.skipped_more > 0 {
        log::warn!("nor are {} others", scan.skipped_more);
    }
    if scan.is_full {
        warn_full();
    }
    if scan.hashed > 0 {
        save(dir, &scan.files);
    }
    Ok(scan)
}

fn save(dir: &SharedDir, files: &[Arc<SharedFile>]) {
    if let Err(e) = dir.save(files) {
        log::info!("hashes are not kept, the next start makes them anew: {e}");
    }
}

/// The files that are announced: those whose names the index takes.
pub(in crate::cli) fn shared(files: &[Arc<SharedFile>]) -> Files<Arc<SharedFile>> {
    let fit = files.iter().filter(|file| check_name(file.name()).is_ok());
    let fit = fit.map(|file| Shared {
        announced: Listed {
            name: file.name().to_owned(),
            size_bytes: file.stamp.size_bytes,
            sha1: Sha1(file.sha1),
        },
        file: file.clone(),
    });
    Files::new(fit.collect())
}

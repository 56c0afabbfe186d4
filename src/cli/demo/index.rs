//! The index server's part of the demo: two peers share the same files, a third one finds and downloads one from both.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use peerloop::engine::{Limits, Ticks};
use peerloop::net::{Bound, Reactor};
use peerloop::proto::index::call::Credentials;
use peerloop::proto::index::client::Stay;
use peerloop::proto::index::persisted::Job;
use peerloop::proto::index::reply::Hit;
use peerloop::proto::index::server::{Config as ServerConfig, IndexServer};
use peerloop::proto::index::sharer::{Config, NEWS_MAX, News, Sharer};
use peerloop::proto::index::transfer::fetch::{self, Fetcher, Source, Wanted};
use peerloop::proto::index::transfer::{RANGE_BYTES, serve};
use peerloop::store::memory::Memory;
use peerloop::store::partial_file::PartialFile;
use peerloop::store::redb::Redb;
use peerloop::store::shared_dir::{SharedDir, SharedFile};
use peerloop::workers::files::{Reader, Writer};
use peerloop::workers::index::{Jobs, argon2id, load};

use super::Table;
use crate::cli::background::{Background, LOOPBACK};
use crate::cli::index::{ServerAt, share};

/// Longest time of a step.
const DEADLINE: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Ticks = Ticks::from_secs(300);

const SHARERS: usize = 2;

/// All files in one: large enough for each holder to send a part of it.
const ALL: &str = "everything in one file.txt";
const ALL_BYTES_MIN: usize = 4 * RANGE_BYTES as usize;

/// A server, two sharers, a search and a download from both.
pub(super) fn run(table: &mut Table, files: &[(String, Bytes)]) -> Result<()> {
    table.protocol = "index";
    let root = tempfile::tempdir().context("cannot make a temporary folder")?;
    let content = lay_out(&root.path().join("shared"), files)?;
    let (addr, server) = start_server(&root.path().join("data"))?;
    let at = ServerAt {
        addr: addr.into(),
        timeout: DEADLINE.as_secs(),
    };
    let count = files.len() + 1;
    let sharers = table.time(
        "share",
        format!("{count} files, by {SHARERS} peers"),
        || {
            let mut sharers = Vec::new();
            for n in 0..SHARERS {
                sharers.push(start_sharer(&at, &root.path().join("shared"), n)?);
            }
            sharers
                .into_iter()
                .map(|(sharer, news)| wait_online(&news).map(|()| sharer))
                .collect::<Result<Vec<_>>>()
        },
    )?;
    let hits = table.time("search", format!("{ALL:?}"), || at.search(ALL, 100))?;
    ensure!(hits.len() == SHARERS, "{} of {SHARERS} found", hits.len());
    let mib = content.len() as f64 / f64::from(1 << 20);
    let into = root.path().join("downloaded");
    table.time(
        "download",
        format!("{mib:.1} MiB from both at once"),
        || download(&at, &hits, &into),
    )?;
    let got = std::fs::read(into.join(ALL)).context("the downloaded file")?;
    ensure!(got == content, "what came is not what was shared");
    for sharer in sharers {
        sharer.stop()?;
    }
    ensure!(at.search(ALL, 100)?.is_empty(), "a sharer did not log out");
    server.stop()
}

/// Puts the files into a folder, with their last names, and all of them in one more.
fn lay_out(folder: &Path, files: &[(String, Bytes)]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for (n, (path, bytes)) in files.iter().enumerate() {
        let name = Path::new(path).file_name().context("a file has a name")?;
        // Many have the same name (mod.rs), so each gets a folder of its own.
        let folder = folder.join(n.to_string());
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join(name), bytes))
            .with_context(|| format!("cannot write below {}", folder.display()))?;
        all.extend_from_slice(bytes);
    }
    ensure!(!all.is_empty(), "the files are empty");
    while all.len() < ALL_BYTES_MIN {
        all.extend_from_within(..);
    }
    std::fs::write(folder.join(ALL), &all)?;
    Ok(all)
}

/// A service on a thread of its own.
type Running<S> = Background<S, ()>;
type Sharing = Running<Sharer<Arc<SharedFile>>>;

fn start_server(data: &Path) -> Result<(SocketAddrV4, Running<IndexServer>)> {
    let bound = Bound::bind(LOOPBACK)?;
    let addr = bound.addr();
    let mut store = Redb::open(data)?;
    let stored = load(&mut store)?;
    let make = move || {
        let config = ServerConfig::default();
        let limits = config.fit(Limits::default());
        let mut reactor = Reactor::new(IndexServer::new(config, stored), limits)?;
        reactor.start_worker_for(Job::is_write, Jobs::new(Some(store), argon2id))?;
        let hashes = Jobs::<Memory, _>::new(None, argon2id);
        reactor.start_worker_for(Job::is_hash, hashes)?;
        reactor.accept_from(bound)?;
        Ok(reactor)
    };
    Ok((addr, Running::start("index server", make, |_| Ok(()))?))
}

fn credentials(user: &str) -> Arc<Credentials> {
    Arc::new(Credentials {
        user: user.into(),
        password: format!("{:032x}", rand::random::<u128>()),
    })
}

fn start_sharer(at: &ServerAt, folder: &Path, n: usize) -> Result<(Sharing, Receiver<News>)> {
    let dir = Arc::new(SharedDir::open(folder)?);
    let scan = dir.scan(&[], &mut |_| true)?;
    let bound = Bound::bind(LOOPBACK)?;
    let (tell, news) = sync_channel(NEWS_MAX);
    let config = Config {
        server: at.addr,
        who: credentials(&format!("demo-{n}")),
        id: None,
        ip: None,
        port: bound.addr().port(),
        keep_alive: KEEP_ALIVE,
        open: false,
        slots: serve::SLOTS_MAX,
    };
    let make = move || {
        let limits = serve::limits(Limits::default());
        let mut reactor = Reactor::new(Sharer::new(config, tell), limits)?;
        reactor.start_worker(Reader::new(dir))?;
        reactor.accept_from(bound)?;
        let files = share::shared(&scan.files);
        reactor.node().with(|sharer, hub| sharer.share(hub, files));
        Ok(reactor)
    };
    Ok((Running::start("sharer", make, |_| Ok(()))?, news))
}

fn wait_online(news: &Receiver<News>) -> Result<()> {
    loop {
        match news.recv_timeout(DEADLINE).context("not online in time")? {
            News::Online(_) => return Ok(()),
            News::Registered(_) => {}
            News::Trouble(why) | News::Refused(why) => bail!("a sharer: {why}"),
        }
    }
}

/// Registers, logs in, downloads what was found into a folder, and logs out.
fn download(at: &ServerAt, hits: &[Hit], into: &Path) -> Result<()> {
    let who = credentials("demo-downloads");
    let id = at.register(who.clone())?;
    let file = &hits.first().context("nothing was found")?.file;
    let source = |hit: &Hit| Source {
        addr: SocketAddr::new(hit.ip, hit.port),
        id: hit.id,
    };
    let wanted = Wanted {
        sha1: file.sha1,
        size_bytes: file.size_bytes,
        requester: id,
        sources: hits.iter().map(source).collect(),
    };
    let stay = Stay {
        who,
        id,
        ip: None,
        port: at.addr.port(),
        every: KEEP_ALIVE,
    };
    let part = PartialFile::open(into, file.sha1.0, file.size_bytes, RANGE_BYTES)?;
    let fetcher = Fetcher::new(
        wanted,
        part.have(),
        (at.addr, at.patience()),
        Some(stay),
        Arc::default(),
    );
    let mut reactor = Reactor::new(fetcher, fetch::limits(Limits::default()))?;
    reactor.start_worker(Writer::new(part, file.name.clone(), false))?;
    reactor.run()?;
    let report = reactor.into_service().into_report();
    report.result?;
    ensure!(
        report.holders.iter().all(|holder| holder.ranges > 0),
        "a holder sent nothing: {:?}",
        report.holders
    );
    Ok(())
}

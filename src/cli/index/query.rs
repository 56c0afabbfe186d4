//! `peerloop index search`, `peers`, `browse`.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use peerloop::proto::index::call::{Answer as Told, Call};
use peerloop::proto::index::fields::{PeerId, Which};
use peerloop::proto::index::reply::{Hit, Listed, PeerLine};

use super::ServerAt;
use super::table::{size, table};
use crate::cli::options::within;
use crate::cli::print::escaped;
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct SearchArgs {
    /// Words that a name has to have, all of them; case does not matter
    #[arg(required = true)]
    words: Vec<String>,
    /// No more than this many results
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = within::<usize>(1..=usize::MAX))]
    limit: usize,
    #[command(flatten)]
    query: Query,
}

#[derive(Args)]
pub(in crate::cli) struct PeersArgs {
    /// Which ones
    #[arg(default_value = "online")]
    which: Status,
    #[command(flatten)]
    query: Query,
}

#[derive(Args)]
pub(in crate::cli) struct BrowseArgs {
    /// The peer's id, as search and peers show it
    id: PeerId,
    #[command(flatten)]
    query: Query,
}

#[derive(Args, Clone, Copy)]
pub(super) struct Query {
    #[command(flatten)]
    pub(super) server: ServerAt,
    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Online,
    Offline,
    All,
}

impl SearchArgs {
    pub(super) fn run(self) -> Result<Answer> {
        self.query.search(&self.words.join(" "), self.limit)
    }
}

impl PeersArgs {
    pub(super) fn run(self) -> Result<Answer> {
        self.query.peers(self.which)
    }
}

impl BrowseArgs {
    pub(super) fn run(self) -> Result<Answer> {
        self.query.browse(self.id)
    }
}

impl Query {
    pub(super) fn search(&self, words: &str, limit: usize) -> Result<Answer> {
        ensure!(!words.contains('\n'), "words have no line breaks");
        let hits = self.server.search(words, limit)?;
        self.print(
            &hits,
            HitRow::of,
            ["name", "size", "user", "id", "at", "sha1"],
            |hit| {
                [
                    escaped(&hit.file.name),
                    size(hit.file.size_bytes),
                    escaped(&hit.user),
                    hit.id.to_string(),
                    SocketAddr::new(hit.ip, hit.port).to_string(),
                    hit.file.sha1.to_string(),
                ]
            },
        )?;
        Ok(Answer::yes_if(!hits.is_empty()))
    }

    pub(super) fn peers(&self, which: Status) -> Result<Answer> {
        let which = match which {
            Status::Online => Which::Online,
            Status::Offline => Which::Offline,
            Status::All => Which::All,
        };
        let Told::Peers(peers) = self.server.ask(Call::Peers { which })? else {
            bail!("SHOW_PEERS came to something else");
        };
        self.print(
            &peers,
            PeerRow::of,
            ["id", "user", "files", "status"],
            |peer| {
                let status = if peer.online {
                    format!("online at {}", SocketAddr::new(peer.ip, peer.port))
                } else {
                    "offline".into()
                };
                [
                    peer.id.to_string(),
                    escaped(&peer.user),
                    peer.files.to_string(),
                    status,
                ]
            },
        )?;
        Ok(Answer::Yes)
    }

    pub(super) fn browse(&self, id: PeerId) -> Result<Answer> {
        let Told::Files(files) = self.server.ask(Call::Browse { id })? else {
            bail!("BROWSE_PEER came to something else");
        };
        self.print(&files, FileRow::of, ["name", "size", "sha1"], |file| {
            [
                escaped(&file.name),
                size(file.size_bytes),
                file.sha1.to_string(),
            ]
        })?;
        Ok(Answer::Yes)
    }

    fn print<'a, T, R: Serialize, const N: usize>(
        &self,
        entries: &'a [T],
        json: impl Fn(&'a T) -> R,
        heading: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        if self.json {
            let mut lines = Vec::new();
            for entry in entries {
                serde_json::to_writer(&mut lines, &json(entry))?;
                lines.push(b'\n');
            }
            return print::stdout(&lines);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let rows: Vec<[String; N]> = entries.iter().map(row).collect();
        print::stdout(table(heading, &rows).as_bytes())
    }
}

/// The `--json` output of a hit. Ids are strings: JavaScript's numbers do not hold 63 bits.
#[derive(Serialize)]
struct HitRow<'a> {
    name: &'a str,
    size_bytes: u64,
    sha1: String,
    user: &'a str,
    id: String,
    ip: String,
    port: u16,
}

impl<'a> HitRow<'a> {
    fn of(hit: &'a Hit) -> HitRow<'a> {
        HitRow {
            name: &hit.file.name,
            size_bytes: hit.file.size_bytes,
            sha1: hit.file.sha1.to_string(),
            user: &hit.user,
            id: hit.id.to_string(),
            ip: hit.ip.to_string(),
            port: hit.port,
        }
    }
}

#[derive(Serialize)]
struct PeerRow<'a> {
    id: String,
    user: &'a str,
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    files: u64,
}

impl<'a> PeerRow<'a> {
    fn of(peer: &'a PeerLine) -> PeerRow<'a> {
        PeerRow {
            id: peer.id.to_string(),
            user: &peer.user,
            online: peer.online,
            at: peer
                .online
                .then(|| SocketAddr::new(peer.ip, peer.port).to_string()),
            files: peer.files,
        }
    }
}

#[derive(Serialize)]
struct FileRow<'a> {
    name: &'a str,
    size_bytes: u64,
    sha1: String,
}

impl<'a> FileRow<'a> {
    fn of(file: &'a Listed) -> FileRow<'a> {
        FileRow {
            name: &file.name,
            size_bytes: file.size_bytes,
            sha1: file.sha1.to_string(),
        }
    }
}

//! `peerloop demo`: everything there is, on loopback, in one process, with real sockets and real input.

mod dht;
mod index;
mod overlay;
mod ring;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;

use super::{Answer, print};

/// Bounds on the files that are stored: the demo may be started in a large folder.
const FILES_MAX: usize = 2_000;
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args)]
pub(super) struct Demo {
    /// The folder whose files are stored; the checkout, or else the current folder
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self) -> Result<Answer> {
        let folder = self.files.unwrap_or_else(|| {
            let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
            if checkout.is_dir() {
                checkout.into()
            } else {
                ".".into()
            }
        });
        let files = read_files(&folder)?;
        let mut table = Table::default();
        dht::run(&mut table, &files)?;
        overlay::run(&mut table)?;
        ring::run(&mut table)?;
        index::run(&mut table, &files)?;
        print::stdout(table.text.as_bytes())?;
        Ok(Answer::Yes)
    }
}

/// What was done and how long it took, a line each.
#[derive(Default)]
struct Table {
    protocol: &'static str,
    text: String,
}

impl Table {
    fn time<R>(
        &mut self,
        what: &str,
        detail: String,
        act: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let start = Instant::now();
        let result = act()?;
        self.push(what, detail, start.elapsed());
        Ok(result)
    }

    fn push(&mut self, what: &str, detail: String, took: Duration) {
        let (protocol, took_ms) = (self.protocol, took.as_secs_f64() * 1000.0);
        self.text += &format!("{protocol:<8} {what:<9} {detail:<40} {took_ms:>9.1} ms\n");
    }
}

/// The files below `folder`, without hidden ones, build output and links.
fn read_files(folder: &Path) -> Result<Vec<(String, Bytes)>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(dir) = folders.pop() {
        let context = || format!("cannot read {}", dir.display());
        for entry in std::fs::read_dir(&dir).with_context(context)? {
            let entry = entry.with_context(context)?;
            let (name, kind) = (entry.file_name(), entry.file_type().with_context(context)?);
            if name.as_encoded_bytes().starts_with(b".") || name == "target" {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && files.len() < FILES_MAX
                && entry.metadata()?.len() <= FILE_BYTES_MAX
            {
                let path = entry.path();
                let bytes = std::fs::read(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                files.push((path.display().to_string(), Bytes::from(bytes)));
            }
        }
    }
    ensure!(
        !files.is_empty(),
        "no files in {} (--files DIR)",
        folder.display()
    );
    Ok(files)
}

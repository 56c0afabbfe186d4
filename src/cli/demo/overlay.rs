//! The overlay's part of the demo.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cli::overlay::map;
use crate::cli::stress::overlay::crowd::Crowd;

use super::Table;

const PEERS: u32 = 10;
const TABLE_SIZE: u32 = 3;

/// One link each: with more, four peers would fill each other's tables, and no other peer would find room.
const LINKS: u32 = 1;

const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Ten peers join through one whose table has room for three; then a walk finds all of them.
pub(super) fn run(table: &mut Table) -> Result<()> {
    table.protocol = "overlay";
    let what = format!("{PEERS} peers with tables of {TABLE_SIZE}");
    let crowd = table.time("start", what, || Crowd::start(PEERS, TABLE_SIZE, LINKS))?;
    let start = Instant::now();
    crowd.join_all(PEERS)?;
    let (took, redirects) = (start.elapsed(), crowd.redirects()?);
    let joins = format!("all through one, {redirects} redirects");
    table.push("join", joins, took);
    let start = Instant::now();
    let map = map::walk(crowd.first, ANSWERS_WITHIN, |_| Ok(()))?;
    let (peers, links, parts) = map.shape();
    let shape = format!("{peers} peers, {links} links, {parts} part");
    table.push("map", shape, start.elapsed());
    let told = crowd.stop()?;
    ensure!(
        told.unplaced.is_empty() && (peers, parts) == (PEERS as usize, 1),
        "somebody is not in the overlay"
    );
    Ok(())
}

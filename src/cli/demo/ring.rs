//! The tracker ring's part of the demo: five peers assemble a sentence, and one of them dies.

use std::time::Duration;

use anyhow::{Result, ensure};

use peerloop::engine::Ticks;
use peerloop::proto::ring::tracker::Config;

use super::Table;
use crate::cli::stress::ring::swarm::Swarm;

const SENTENCE: &str = "the sky above is blue";

/// Longest time of a step.
const WITHIN: Duration = Duration::from_secs(20);

pub(super) fn run(table: &mut Table) -> Result<()> {
    table.protocol = "ring";
    let config = Config {
        // Short, since a person waits for the demo.
        ping_interval: Ticks::from_millis(500),
        ping_timeout: Ticks::from_millis(500),
        ..Config::default()
    };
    let words = SENTENCE.split(' ');
    let count = words.clone().count();
    let mut swarm = Swarm::start(config, words.map(Box::from).collect())?;
    table.time("gather", format!("{count} peers, a word each"), || {
        for _ in 0..count {
            swarm.add()?;
        }
        until(&mut swarm, |swarm| {
            let look = swarm.look()?;
            Ok(look.complete == count && swarm.is_one_ring()?)
        })
    })?;
    table.time("death", "the ring closes over a dead peer".into(), || {
        swarm.kill_one()?;
        until(&mut swarm, Swarm::is_one_ring)
    })?;
    table.time("newcomer", format!("assembles {SENTENCE:?}"), || {
        swarm.add()?;
        until(&mut swarm, |swarm| {
            let look = swarm.look()?;
            Ok(look.complete == look.alive && swarm.is_one_ring()?)
        })
    })?;
    let message = swarm.message()?;
    ensure!(message == SENTENCE, "the newcomer assembled {message:?}");
    swarm.stop()
}

fn until(swarm: &mut Swarm, done: impl FnMut(&mut Swarm) -> Result<bool>) -> Result<()> {
    let rests = swarm.turn_until(WITHIN, Duration::ZERO, done)?;
    ensure!(rests, "the ring does not come to rest");
    Ok(())
}
